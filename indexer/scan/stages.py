"""The stages of one file of a scan, in order: read, embed, classify, write the genre.

``process`` calls them in order. A stage that has to wait is a generator: it yields a ``Wait`` for a heavy step and goes
on in the run's own thread when that step is done. All work with the library happens here, in that one thread. All work
with the file's bytes happens in the executor and the reader processes. Every failure of a file ends in
``FileFailedError``.
"""

import os
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from types import MappingProxyType
from typing import Any, TypeVar

from indexer.analysis.analyser import VERSION, Analysis
from indexer.analysis.tempo_choice import choose_tempo
from indexer.config import Settings
from indexer.encoders.encoder import Part
from indexer.errors import (
    READ_ONLY,
    DeferredError,
    FileError,
    ModelError,
    ReaderDiedError,
    ReadOnlyError,
    WriteRefusedError,
)
from indexer.files.audio.identity import Stat
from indexer.files.children.pool import Readers
from indexer.files.children.worker import Worker
from indexer.files.links import is_file, look
from indexer.files.tags.genre import GenreEdit
from indexer.files.tags.read import Tags
from indexer.files.tags.write import Prepared, discard, edit_to_json, read_only, remove_copies
from indexer.heads.decide import sure_from
from indexer.library.readonly import Row
from indexer.library.store import Store
from indexer.library.writing.files import FileRow
from indexer.listen.executor import Embedded, Executor
from indexer.models.choice import Model
from indexer.scan.classify import classify_recording
from indexer.scan.heard import hear
from indexer.scan.journal import commit_write, tag_columns
from indexer.scan.label_sets import Cached, SetModel, classify_in_set, is_classified
from indexer.scan.outcome import Counts, Listener
from indexer.scan.pace import Pace
from indexer.scan.policy import Label, edit_for, held_back, to_add
from indexer.wording import escaped

MAX_DEATHS = 2  # a file that killed this many readers, in any runs, is left alone; the first death may be chance
MAX_DEFERRED = 10_000  # deferred files that the result lists
MAX_COPIES = 50  # files of one recording that are checked when another file of it appears
NO_GENRE = "no genre is written into it"  # ends the reason of a file that can be heard and is left alone
_T = TypeVar("_T")


@dataclass(frozen=True)
class Changed:
    """A file to be read: new, changed, or read again with ``force``."""

    path: bytes
    root_id: int | None


@dataclass(frozen=True)
class Backlog:
    """A file that an earlier run read and that lacks a later stage."""

    file_id: int


@dataclass(frozen=True)
class Unanalysed:
    """A file of a known recording that was not measured yet."""

    file_id: int


@dataclass(frozen=True)
class Rough:
    """A file whose recording was heard roughly and is to be heard whole."""

    file_id: int


Item = Changed | Backlog | Unanalysed | Rough


@dataclass(frozen=True, slots=True)
class Wait:
    """A step that a stage waits for.

    ``outside``: start it outside any transaction, because starting may take long (an encoder loads its weights).
    ``alone``: resume the stage outside any shared transaction, because it commits by itself.
    """

    start: Callable[[], "Future[Any]"]
    outside: bool = False
    alone: bool = False

    @classmethod
    def on(cls, future: "Future[Any]") -> "Wait":
        """Wait for something that was started before."""
        return cls(lambda: future)


# A stage yields what it waits for, is sent the finished future, and returns its result.
Stage = Generator[Wait, Future[Any], _T]


@dataclass
class KnownFile:
    """A file that has its row: read just now, or by an earlier run."""

    row: FileRow
    recording_id: int
    tags: Tags | None = None  # None until this run has read them
    is_new: bool = False  # its recording was found for the first time just now
    outcome: str = "known"  # a few words for the listener
    reported: bool = False  # whether the listener was told that no genre is written


class FileFailedError(Exception):
    """A file failed at some stage; the message is the reason. ``state``: its row's state now, where that changed."""

    def __init__(self, reason: str, state: str | None = None) -> None:
        super().__init__(reason)
        self.state = state


class FileGoneError(Exception):
    """The file is not there any more. ``noted``: its row says so, and the listener is told."""

    def __init__(self, *, noted: bool) -> None:
        super().__init__()
        self.noted = noted


@dataclass
class Run:
    """What all stages of a run share."""

    store: Store
    settings: Settings
    model: Model | None
    executor: Executor
    readers: Readers
    listener: Listener
    run_id: int
    threshold: float  # from which the head's genre counts as decided
    tag_policy: str | None  # digest of what decides which genre is written; None: no tag is written
    force: bool
    explicit_tags: bool
    stopped: Callable[[], bool]
    pace: Pace
    sets: Sequence[SetModel] = ()  # label sets beside the genre
    counts: Counts = field(default_factory=Counts)
    embedding: dict[int, "Future[bool]"] = field(default_factory=dict)  # recording in work -> whether it was embedded
    embedded: set[int] = field(default_factory=set)  # recordings that this run embedded
    truncated: set[int] = field(default_factory=set)  # files of which decoding found that they lost their end


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


# ---- read: the file's identity and tags, and its row


def known_file(store: Store, file_id: int) -> KnownFile:
    """Return a file that was read before. Raises FileGoneError where it was found changed or gone since."""
    row = store.file(file_id)
    if row.recording_id is None or row.state != "ready":
        raise FileGoneError(noted=False)
    return KnownFile(row, row.recording_id)


def read(run: Run, item: Changed) -> Stage[KnownFile]:
    """Have the file inspected and store what was found."""
    try:
        before = Stat.from_result(look(item.path))
    except OSError as e:  # gone since the walk; the next scan notes it
        raise FileGoneError(noted=False) from e
    done = yield Wait(partial(run.executor.inspect, item.path, before))
    try:
        found = done.result()
    except FileError as e:
        raise _not_read(run, item.path, None, before, item.root_id, None, e) from e
    return _store_found(run.store, item, found)


def _no_genre(*reasons: str | None) -> str | None:
    """Why no genre is ever written into a file that can be heard, from each reason that there is; None without any."""
    why = "; ".join(filter(None, reasons))
    return f"{why}; {NO_GENRE}" if why else None


def report_left_alone(run: Run, file: KnownFile) -> None:
    """Tell once why no genre is ever written into this file, if it was read or heard in this run."""
    if file.row.reason is None or not (file.tags or file.row.id in run.truncated):
        return
    file.reported = True
    run.counts.left_alone += 1
    run.listener.problem(os.fsdecode(file.row.path), file.row.reason)


def _store_found(store: Store, item: Changed, found: dict[str, Any]) -> KnownFile:
    file_tags = Tags.from_json(found["tags"])
    audio = found["audio"]
    stat = Stat(**found["stat"])
    with store.transaction():
        known_id = store.known_recording(found["audio_sha256"])
        recording_id = store.add_recording(found["audio_sha256"], **audio) if known_id is None else known_id
        # What is asked of other files of the recording is not asked of one that is new: a large library has many.
        damage = found["damage"] or (store.truncation(recording_id) if known_id else None)
        reason = _no_genre(damage, file_tags.unread)
        is_new = store.file_at(item.path) is None
        if is_new and known_id:
            # The file may have been moved from a place that the walk has not reached yet. That row is marked missing,
            # so that this file takes it over.
            copies = store.files_of(recording_id, MAX_COPIES)
            store.mark_missing([file_id for file_id, path in copies if not is_file(path)])
        file_id = store.put_file(
            item.path,
            stat,
            root_id=item.root_id,
            state="ready",
            reason=reason,
            container=found["container"],
            recording_id=recording_id,
            deaths=0 if is_new else store.deaths(item.path, stat),
            is_new=is_new and not known_id,
        )
        store.put_tags(file_id, tag_columns(file_tags))
    row = FileRow(file_id, recording_id, item.path, found["container"], stat, "ready", reason, None)
    return KnownFile(row, recording_id, file_tags, is_new=not known_id)


def _not_read(
    run: Run,
    path: bytes,
    row: FileRow | None,
    stat: Stat,
    root_id: int | None,
    recording_id: int | None,
    error: FileError,
) -> FileFailedError | FileGoneError:
    """Store why a file was not read, and return the error to raise.

    A file that is gone is missing. A file that killed its reader is tried once more.
    """
    if not is_file(path):
        with run.store.transaction():
            run.store.mark_missing([row.id] if row else [])
        return FileGoneError(noted=True)
    state, reason, deaths = error.state, error.reason, 0
    if isinstance(error, DeferredError) and len(run.counts.deferred) < MAX_DEFERRED:
        run.counts.deferred.append(path)
    if isinstance(error, ReaderDiedError):
        deaths = run.store.deaths(path, stat) + error.deaths
        again = deaths < MAX_DEATHS
        state = "deferred" if again else "unreadable"
        reason += "; the next scan tries once more" if again else ", again; left alone until it changes"
    with run.store.transaction():
        run.store.put_file(
            path,
            stat,
            root_id=root_id,
            state=state,
            reason=reason,
            deaths=deaths,
            recording_id=None if state == "unreadable" else recording_id,
        )
    return FileFailedError(reason, state)


def unforeseen(run: Run, item: Item, reason: str) -> FileFailedError:
    """Store the reason of an error that no stage handles, and return the error to raise. The next scan tries again."""
    reason = escaped(reason)
    if isinstance(item, Changed):
        with suppress(OSError):
            row = run.store.file_at(item.path)
            with run.store.transaction():
                run.store.put_file(
                    item.path,
                    Stat.from_result(look(item.path)),
                    root_id=item.root_id,
                    state="deferred",
                    reason=reason,
                    recording_id=row.recording_id if row else None,
                )
    return FileFailedError(reason)


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
            raise _not_read(run, file.row.path, file.row, file.row.stat, root_id, file.recording_id, error)
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
                    _put_analysis(run, file.recording_id, result.analysis)
                    run.counts.analysed += 1
                if part.words_id and result.words:
                    vector, trajectory = result.words
                    run.store.put_embedding(
                        file.recording_id, part.words_id, vector, result.units, trajectory, rough=rough
                    )
                hear(run.store, model.ears, file.recording_id, part.encoder_id, result.vector)
                if not rough:
                    run.store.set_decoded_length(file.recording_id, result.duration_s)
                made[part.encoder_id] = (result.vector, result.trajectory)
                if part is missing[-1]:
                    _classify_again(run, file, made) if whole else _classify(run, file.recording_id, made)
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
        yield from write_genre(run, file, _decided(run, prediction))


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
    return _decided(run, prediction)


def classify_sets(run: Run, file: KnownFile) -> None:
    """Classify the recording in each label set in which it is not yet."""
    if not run.sets:
        return
    try:
        with run.store.transaction():
            for one in run.sets:
                if not is_classified(run.store, file.recording_id, one):
                    classify_in_set(run.store, file.recording_id, one)
    except ModelError as e:
        raise FileFailedError(str(e)) from e


def _decided(run: Run, prediction: Row | None) -> Label | None:
    """What a stored prediction decides; by a rough vector only where the head is sure."""
    if not prediction or not prediction["decided"]:
        return None
    if prediction["rough"] and prediction["confidence"] < sure_from(run.threshold):
        return None
    return Label(prediction["genre"], prediction["confidence"])


def _classify_again(run: Run, file: KnownFile, made: Mapping[str, Cached]) -> None:
    """Classify a recording that was heard roughly before; its tags are looked at again where that tells otherwise."""
    head = run.model.head if run.model else None
    before = run.store.prediction(file.recording_id, head.id) if head else None
    _classify(run, file.recording_id, made)
    after = run.store.prediction(file.recording_id, head.id) if head else None
    if before and after and (before["genre"], before["decided"]) != (after["genre"], after["decided"]):
        run.store.unsettle_tags(file.recording_id)
        file.row = run.store.file(file.row.id)


def _classify(run: Run, recording_id: int, made: Mapping[str, Cached] = MappingProxyType({})) -> None:
    """Store the heads' predictions from the cached embeddings; call it inside a transaction.

    ``made``: by encoder those that were stored just now, 42 kB each, which are not read again.
    """
    for one in run.sets:
        classify_in_set(run.store, recording_id, one, made)
    if run.model is None or run.model.head is None:
        return
    rows = [made.get(one) or run.store.embedding(recording_id, one) for one in run.model.inputs]
    cached = [(row[0], row[1]) for row in rows if row is not None]
    classify_recording(run.store, recording_id, run.model.head, run.threshold, cached, run.settings.tempo_ranges)


# ---- write_genre: the genre in the file's own tag


def write_genre(run: Run, file: KnownFile, label: Label | None) -> Stage[None]:
    """Write the genre into the file's tag: a person's correction, else what the head decided."""
    correction = run.store.correction(file.recording_id)
    if correction is not None:
        label = Label.by_person(correction["genre"], correction["corrected_at"])
    is_settled = file.row.tag_policy == run.tag_policy and not run.explicit_tags
    adds = run.settings.write_tags_bpm or run.settings.write_tags_key
    if (label is None and not adds) or run.tag_policy is None or is_settled:
        return
    if not run.explicit_tags and _still_read_only(run, file):
        run.counts.not_written += 1
        return
    if file.tags is None:
        done = yield Wait(partial(run.readers.submit, partial(Worker.call, op="read_tags", path=file.row.path)))
        try:
            file.tags = Tags.from_json(done.result()["tags"])
        except FileError as e:
            raise FileFailedError(e.reason) from e
    head = run.model.head if run.model else None
    edit = edit_for(run.settings, head, file.tags, label) if label else None
    add: dict[str, str] = {}
    if adds and (row := run.store.measured(file.recording_id, head.id if head else None)) is not None:
        add = to_add(run.settings, file.tags, row["tempo_bpm"], row["key_name"])
    if (edit is None and not add) or _is_held_back(run, file, label):
        run.store.settle_tags(file.row.id, run.tag_policy)
    else:
        yield from _write(run, file, edit, add, run.tag_policy)


def _is_held_back(run: Run, file: KnownFile, label: Label | None) -> bool:
    last = None if run.explicit_tags else run.store.last_write(file.row.id)
    return last is not None and held_back(
        last["action"], last["state"], last["reason"], last["stat_before"], last["written_at"], file.row.stat, label
    )


def _still_read_only(run: Run, file: KnownFile) -> bool:
    """Whether an earlier run said that the file cannot be written, and that has not changed."""
    last = run.store.last_write(file.row.id)
    if last is None or last["state"] != "refused" or not last["reason"].startswith(READ_ONLY):
        return False
    with suppress(OSError):
        return read_only(file.row.path) is not None
    return False


def _write(run: Run, file: KnownFile, edit: GenreEdit | None, add: Mapping[str, str], tag_policy: str) -> Stage[None]:
    """Have the edited copy prepared and put it in the file's place, unless the run is stopped before."""
    if file.row.reason is not None:
        why = WriteRefusedError(file.row.path, file.row.reason.removesuffix(f"; {NO_GENRE}"))
        _refuse(run, file, tag_policy, why, what=_what(edit))
        return
    prepare = partial(
        Worker.call,
        op="prepare_write",
        path=file.row.path,
        container=file.row.container,
        edit=edit_to_json(edit) if edit else None,
        add=add,
        preserve_mtime=run.settings.preserve_mtime,
    )
    done = yield Wait(partial(run.readers.submit, prepare), alone=True)
    try:
        prepared = Prepared.from_json(done.result(), os.fsdecode(file.row.path))
        if run.stopped():
            discard(prepared)
            return
        standing = prepared.after_tags.ours.to_text() if prepared.after_tags.ours else None
        ours = edit.describe() if edit else standing
        commit_write(run.store, prepared, file_id=file.row.id, run_id=run.run_id, ours=ours)
    except DeferredError as e:
        run.counts.not_written += 1
        raise FileFailedError(f"{_what(edit)} not written: {e.reason}") from e
    except FileError as e:
        _refuse(run, file, tag_policy, e, what=_what(edit))
        return
    run.store.settle_tags(file.row.id, tag_policy)
    run.counts.tags_written += 1
    run.counts.genres_written += edit is not None
    file.outcome += ", tag written"


def _what(edit: GenreEdit | None) -> str:
    return "genre" if edit else "tempo and key"


def _refuse(run: Run, file: KnownFile, tag_policy: str, error: FileError, *, what: str) -> None:
    """Store that the tag is not written until the file or the settings change, or `tags apply` asks for it.

    What cannot be written now (read-only) stays to be done: the next scan tries again, and does not say so again.
    """
    with suppress(OSError):
        remove_copies(file.row.path)  # left by a reader that was killed
    with run.store.transaction():
        run.store.refuse_write(
            file_id=file.row.id,
            run_id=run.run_id,
            path=file.row.path,
            action="write",
            stat=file.row.stat,
            reason=error.reason,
        )
        if not isinstance(error, ReadOnlyError):
            run.store.settle_tags(file.row.id, tag_policy)
    if isinstance(error, ReadOnlyError):
        run.counts.not_written += 1
    else:
        run.counts.tags_refused += 1
    if not file.reported:
        run.listener.problem(os.fsdecode(file.row.path), f"{what} not written: {error.reason}")
