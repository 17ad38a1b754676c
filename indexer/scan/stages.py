"""The stages of one file of a scan, in order: read, embed, classify, write the genre.

``process`` calls them in order. Here stand those that are about the recording; scan/reading.py and scan/tagging.py have
those that are about the file.
"""

import os
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from types import MappingProxyType

from indexer.analysis.analyser import VERSION, Analysis
from indexer.analysis.tempo_choice import choose_tempo
from indexer.encoders.encoder import Part
from indexer.errors import DeferredError, FileError, ModelError
from indexer.files.audio.identity import Stat
from indexer.files.children.worker import Worker
from indexer.files.links import look
from indexer.heads.decide import sure_from
from indexer.library.sqlite import Row
from indexer.listen.executor import Embedded
from indexer.models.choice import Model
from indexer.scan.classify import JustFound, classify_recording
from indexer.scan.heard import hear
from indexer.scan.label_sets import Cached, classify_in_set, is_classified
from indexer.scan.policy import Label
from indexer.scan.reading import known_file, not_read, read, report_left_alone
from indexer.scan.tagging import write_genre
from indexer.scan.work import (
    NO_GENRE,
    Changed,
    FileFailedError,
    Item,
    KnownFile,
    Rough,
    Run,
    Stage,
    Unanalysed,
    Wait,
)


def process(run: Run, item: Item) -> Stage[str]:
    """Take one file through all stages and return its outcome. Raises FileFailedError or FileGoneError."""
    if isinstance(item, Unanalysed):
        file = known_file(run.store, item.file_id)
        yield from analyse(run, file)
        return file.outcome
    file = (yield from read(run, item)) if isinstance(item, Changed) else known_file(run.store, item.file_id)
    yield from embed(run, file, whole=isinstance(item, Rough))
    report_left_alone(run, file)
    label = classify(run, file)
    classify_sets(run, file)
    yield from write_genre(run, file, label)
    return file.outcome


# ---- embed: the recording's vector under every encoder of the model


def embed(run: Run, file: KnownFile, *, whole: bool = False) -> Stage[None]:
    """Make sure that the recording has its embeddings: cached, made by another file of this run, or made now.

    ``whole``: a rough embedding is replaced by one of all units.
    """
    if run.model is None:
        return
    while (other := run.embedding.get(file.recording_id)) is not None:
        done = yield Wait.on(other)
        if done.result():
            _note_truncation(run, file, run.store.truncation(file.recording_id))
            run.counts.cached += 1
            return
        # The other file could not be read; this one may be whole.
    again = run.force and file.tags is not None and file.recording_id not in run.embedded
    missing = [
        part
        for part in run.model.parts
        if again
        or file.is_new
        or not all(run.store.has_embedding(file.recording_id, own, fine=whole) for own in part.ids)
    ]
    if not missing:
        run.counts.cached += 1
        return
    result: Future[bool] = Future()
    run.embedding[file.recording_id] = result
    try:
        audio_s = yield from _embed_missing(run, run.model, file, missing, whole=whole)
        run.embedded.add(file.recording_id)
        run.counts.audio_s += audio_s
        run.pace.heard()
        if whole:
            run.counts.refined += 1
            file.outcome = "heard whole"
        else:
            run.counts.embedded += 1
            file.outcome = "embedded"
        result.set_result(True)
    except _RecordingFailedError as e:
        result.set_exception(FileFailedError(str(e)))
        raise FileFailedError(str(e)) from e
    finally:
        del run.embedding[file.recording_id]
        if not result.done():
            result.set_result(False)


class _RecordingFailedError(Exception):
    """No file of the recording can be embedded; the message is the reason."""


def _embed_missing(run: Run, model: Model, file: KnownFile, missing: list[Part], *, whole: bool) -> Stage[float]:
    """Embed the recording from this file with each encoder that it lacks; return the seconds of audio."""
    audio_s = 0.0
    roughly = False
    made: dict[str, Cached] = {}
    electronic: float | None = None
    analysis: Analysis | None = None
    for part in missing:
        # What was heard whole before is never replaced by less.
        rough = not whole and run.pace.is_rough() and not run.store.has_embedding(file.recording_id, part.encoder_id)
        roughly |= rough
        how = {"analyse": part is missing[0], "rough": rough}
        done = yield Wait(partial(run.executor.embed, file.row.path, file.row.stat, part, **how), outside=True)
        error = done.exception()
        if isinstance(error, FileError):
            root = run.store.root_for(file.row.path)
            root_id = int(root["id"]) if root else None
            raise not_read(run, file.row.path, file.row, file.row.stat, root_id, file.recording_id, error)
        if error is not None:
            reason = f"no embedding: {error}"
            if isinstance(error, ValueError):  # too short: a stored reason keeps later scans from trying again
                run.store.set_recording_reason(file.recording_id, reason)
            raise _RecordingFailedError(reason)
        result: Embedded = done.result()
        audio_s = result.duration_s
        _note_truncation(run, file, result.truncated)
        run.counts.engine = run.executor.engine()
        try:
            with run.store.transaction():
                run.store.put_embedding(
                    file.recording_id, part.encoder_id, result.vector, result.units, result.trajectory, rough=rough
                )
                if result.analysis is not None:
                    analysis = result.analysis
                    _put_analysis(run, file.recording_id, analysis)
                    run.counts.analysed += 1
                if part.words_id and result.words:
                    vector, trajectory = result.words
                    run.store.put_embedding(
                        file.recording_id, part.words_id, vector, result.units, trajectory, rough=rough
                    )
                heard = hear(run.store, model.ears, file.recording_id, part.encoder_id, result.vector)
                electronic = electronic if heard is None else heard
                if not rough:
                    run.store.set_decoded_length(file.recording_id, result.duration_s)
                made[part.encoder_id] = (result.vector, result.trajectory)
                if part is missing[-1]:
                    # Of a recording that was found just now there is no more than this.
                    tempo = analysis.tempo if analysis else None
                    just_found = JustFound(electronic, tempo, roughly) if file.is_new else None
                    if whole:
                        _classify_again(run, file, made)
                    else:
                        _classify(run, file.recording_id, made, just_found)
        except ModelError as e:
            raise _RecordingFailedError(str(e)) from e
    run.counts.rough += roughly
    return audio_s


def _put_analysis(run: Run, recording_id: int, found: Analysis) -> None:
    fingerprint = found.fingerprint.to_bytes() if found.fingerprint else None
    run.store.put_analysis(recording_id, found.columns(), fingerprint)


def _note_truncation(run: Run, file: KnownFile, truncated: str | None) -> None:
    """Keep with the file that it lost its end, where decoding it found that."""
    known = file.row.reason
    if truncated is None or (known and known.startswith("truncated")):
        return
    run.store.set_file_reason(file.row.id, f"{truncated}; {known or NO_GENRE}")
    file.row = run.store.file(file.row.id)
    run.truncated.add(file.row.id)


# ---- analyse: what is measured in a recording that an earlier version embedded


def analyse(run: Run, file: KnownFile) -> Stage[None]:
    """Measure the recording from this file, and store that; its embeddings stay.

    What cannot be measured counts as measured, so that it is not tried with every scan. A file that is not there or not
    the same any more is left to the next scan.
    """
    if run.store.has_analysis(file.recording_id, VERSION):
        return
    file.outcome = "not measured"
    done = yield Wait(partial(run.readers.submit, partial(Worker.call, op="analyse", path=file.row.path)))
    found = Analysis(VERSION, 0.0)
    failure: FileError | None = None
    try:
        found = Analysis.from_json(done.result()["analysis"])
    except FileError as e:
        failure = e
    try:
        unchanged = Stat.from_result(look(file.row.path)).same_state(file.row.stat)
    except OSError:
        unchanged = False
    if not unchanged or isinstance(failure, DeferredError):
        return
    if failure is not None:
        run.listener.problem(os.fsdecode(file.row.path), f"not measured: {failure.reason}")
    with run.store.transaction():
        _put_analysis(run, file.recording_id, found)
        for head_id, scores in run.store.scores_by_head(file.recording_id).items():
            if (tempo := choose_tempo(found.tempo, scores, run.settings.tempo_ranges)) is not None:
                run.store.set_tempo(file.recording_id, head_id, tempo.bpm, tempo.confidence)
    run.counts.analysed += 1
    file.outcome = "measured"
    if run.settings.write_tags_bpm or run.settings.write_tags_key:
        file.row = replace(file.row, tag_policy=None)
        head = run.model.head if run.model else None
        prediction = run.store.prediction(file.recording_id, head.id) if head else None
        yield from write_genre(run, file, _decided(prediction, sure_from(run.threshold)))


# ---- classify: the genre that the head decides


def classify(run: Run, file: KnownFile) -> Label | None:
    """Return the genre that the head decided, if any.

    The recording is classified first where it has no prediction under this head and threshold.
    """
    head = run.model.head if run.model else None
    if head is None:
        return None
    prediction = run.store.prediction(file.recording_id, head.id)
    if prediction is None or prediction["threshold"] != run.threshold:
        try:
            with run.store.transaction():
                _classify(run, file.recording_id)
        except ModelError as e:
            raise FileFailedError(str(e)) from e
        prediction = run.store.prediction(file.recording_id, head.id)
        assert prediction is not None
    run.counts.classified += 1
    run.counts.undecided += not prediction["decided"]
    perhaps = "" if prediction["decided"] else "perhaps "
    file.outcome = f"{file.outcome}, {perhaps}{prediction['genre']} ({prediction['confidence']:.0%})"
    return _decided(prediction, sure_from(run.threshold))


def classify_sets(run: Run, file: KnownFile) -> None:
    """Classify the recording in each label set in which it is not yet."""
    missing = [one for one in run.sets if not is_classified(run.store, file.recording_id, one)]
    if not missing:
        return
    try:
        with run.store.transaction():
            for one in missing:
                classify_in_set(run.store, file.recording_id, one)
            _look_at_tags_again(run, file)
    except ModelError as e:
        raise FileFailedError(str(e)) from e


def _decided(prediction: Row | None, sure: float) -> Label | None:
    """What a stored prediction decides; by a rough vector only where its confidence is a ``sure`` one."""
    if not prediction or not prediction["decided"]:
        return None
    if prediction["rough"] and prediction["confidence"] < sure:
        return None
    return Label(prediction["genre"], prediction["confidence"])


def _classify_again(run: Run, file: KnownFile, made: Mapping[str, Cached]) -> None:
    """Classify a recording that was heard roughly before; its tags are looked at again where that tells otherwise."""
    before = _words(run, file.recording_id)
    _classify(run, file.recording_id, made)
    if _words(run, file.recording_id) != before:
        _look_at_tags_again(run, file)


def _words(run: Run, recording_id: int) -> list[str | None]:
    """What the head in use, and those of the sets that are written, have to write of a recording."""
    head = run.model.head if run.model else None
    sure_by_head = {head.id: sure_from(run.threshold)} if head else {}
    sure_by_head |= {one.head_id: sure_from(one.threshold) for one in run.written_sets if one.head_id}
    found = [_decided(run.store.prediction(recording_id, head_id), sure) for head_id, sure in sure_by_head.items()]
    return [label.genre if label else None for label in found]


def _look_at_tags_again(run: Run, file: KnownFile) -> None:
    run.store.unsettle_tags(file.recording_id)
    file.row = run.store.file(file.row.id)


def _classify(
    run: Run,
    recording_id: int,
    made: Mapping[str, Cached] = MappingProxyType({}),
    just_found: JustFound | None = None,
) -> None:
    """Store the heads' predictions from the cached embeddings; call it inside a transaction.

    ``made``: by encoder those that were stored just now, 42 kB each, which are not read again. ``just_found``: likewise
    what else the prediction depends on.
    """
    for one in run.sets:
        classify_in_set(run.store, recording_id, one, made)
    if run.model is None or run.model.head is None:
        return
    rows = [made.get(one) or run.store.embedding(recording_id, one) for one in run.model.inputs]
    cached = [(row[0], row[1]) for row in rows if row is not None]
    head, ranges = run.model.head, run.settings.tempo_ranges
    classify_recording(run.store, recording_id, head, run.threshold, cached, ranges, just_found)
