"""Classifies files without a library: genre, confidence and timeline. Stores nothing and touches no tag."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from indexer.analysis.analyser import Analysis
from indexer.config import Settings
from indexer.errors import FileError, ModelError
from indexer.files.children.limits import Limits
from indexer.files.children.worker import Worker
from indexer.files.tags.read import Tags
from indexer.files.walk import LINK, walk
from indexer.heads.decide import decide
from indexer.heads.electronic import Heard
from indexer.library.registered import in_use_by
from indexer.listen.embedder import Embedder, TrackEmbedding, Watch
from indexer.models.choice import Chosen, choose, pipeline_model, without_genres
from indexer.wording import count, printable


def chosen_model(settings: Settings) -> Chosen:
    """The encoder and head to classify with. Raises ModelError when no head is in use."""
    chosen = choose(settings, in_use_by(settings.db))
    if chosen is None or chosen.head is None:
        raise ModelError(str(without_genres(chosen)))
    return chosen


@dataclass(frozen=True, slots=True)
class Fed:
    """A file that was handed to the encoders."""

    embedded: list[Future[TrackEmbedding]]  # by each encoder
    damage: str | None  # what is wrong with it, as a scan tells it
    codec: str
    analysis: Analysis  # what was measured in the first pass
    tags: Tags


class FileClassifier:
    """Classifies any number of files with encoders and a head that are loaded once; a context manager."""

    def __init__(self, settings: Settings, chosen: Chosen) -> None:
        """``chosen``: as ``chosen_model`` gives it. Raises ModelError when a file of the model is damaged."""
        self.chosen = chosen
        self._settings = settings
        self.worker = Worker(Limits.of(settings), follows_links=True)
        self._ears = chosen.ears
        self._embedders = [Embedder(part.load(), part.units) for part in pipeline_model(self.chosen, settings).parts]

    @property
    def encoders(self) -> int:
        """How many encoders decode each file."""
        return len(self._embedders)

    def __enter__(self) -> "FileClassifier":
        return self

    def __exit__(self, *exc: object) -> None:
        for embedder in self._embedders:
            embedder.close()
        self.worker.close()

    def feed(self, path: bytes, watch: Watch = lambda blocks, _rate_hz: blocks) -> Fed | FileError:
        """Look at a file as a scan does, then decode it for every encoder; the error of a file that cannot be heard."""
        try:
            about = self.worker.call("inspect", path)
            first, *others = self._embedders
            found: list[Analysis] = []
            embedded = [first.embed_file(self.worker, path, watch=watch, analysed=found.append)]
            embedded += [embedder.embed_file(self.worker, path, watch=watch) for embedder in others]
            return Fed(embedded, about["damage"], about["audio"]["codec"], found[0], Tags.from_json(about["tags"]))
        except FileError as e:
            return e

    def result(self, name: str, fed: Fed | FileError) -> dict[str, Any]:
        """Wait for a file that was fed; return its result as ``classify`` yields it, with ``name`` as its path."""
        if isinstance(fed, FileError):
            return {"path": name, "error": fed.reason}
        for error in (future.exception() for future in fed.embedded):
            if error is not None:
                return {
                    "path": name,
                    "error": error.reason if isinstance(error, FileError) else " ".join(str(error).split()),
                }
        head = self.chosen.head
        assert head is not None
        embeddings = [future.result() for future in fed.embedded]
        threshold = self._settings.threshold(head.threshold)
        heard = self._heard(embeddings)
        electronic = heard.electronic if heard else None
        made = {}
        for part, embedding in zip(self.chosen.info.parts, embeddings, strict=True):
            made[part.encoder_id] = embedding.vector, embedding.trajectory
            if part.words_id and embedding.words:
                made[part.words_id] = embedding.words
        vectors, trajectories = zip(*(made[own] for own in self.chosen.inputs), strict=True)
        prediction = decide(head, threshold, vectors, trajectories, electronic)
        rows = () if prediction.timeline is None else prediction.timeline
        return {
            "path": name,
            "genre": prediction.genre,
            "confidence": round(prediction.confidence, 4),
            "threshold": threshold,
            "decided": prediction.decided,
            "reason": prediction.reason,
            "second_genre": prediction.second_genre,
            "damage": fed.damage or embeddings[0].truncated,
            "heard": (heard.tags if heard else None) or None,
            "electronic": None if electronic is None else round(electronic, 4),
            **fed.analysis.facts(prediction.scores, self._settings.tempo_ranges),
            "lossy_suspect": fed.analysis.lossy_suspect(fed.codec),
            "tag_bpm": fed.tags.bpm,
            "tag_key": fed.tags.musical_key,
            "scores": {label: round(p, 4) for label, p in prediction.scores.items()},
            "timeline": [
                {
                    "start_s": round(i * prediction.segment_s, 2),
                    "scores": {label: round(int(p) / 255, 3) for label, p in zip(head.labels, row, strict=True)},
                }
                for i, row in enumerate(rows)
            ],
        }

    def _heard(self, embeddings: Sequence[TrackEmbedding]) -> Heard | None:
        for ear in self._ears:
            for part, embedding in zip(self.chosen.info.parts, embeddings, strict=True):
                if part.encoder_id in ear.encoder_ids:
                    return ear.hear(embedding.vector[None])[0]
        return None


def classify(settings: Settings, paths: Sequence[Path]) -> Iterator[dict[str, Any]]:
    """Yield one result for each file, and each audio file below a folder, in order.

    Raises ModelError when no head is in use.

    A result is {path, genre, confidence, threshold, decided, reason, second_genre, damage, heard, electronic, scores,
    tempo_bpm, tempo_confidence, key, key_name, key_confidence, loudness_lufs, bandwidth_hz, lossy_suspect, tag_bpm,
    tag_key, timeline}, or {path, error}. ``damage`` says what is wrong with a file of which what is there was heard.
    ``heard``: by vocabulary the probability of each tag, see encoders/musicnn/tags.py; None without that encoder.
    ``electronic``: how electronic it sounds, see heads/electronic.py; None where nothing can tell. What was measured is
    None where it could not be; ``lossy_suspect``: whether a lossless file was lossy once, None for others.
    The timeline has one entry for each segment: {start_s, scores}.
    """
    with FileClassifier(settings, chosen_model(settings)) as classifier:
        waiting: list[tuple[str, Fed | FileError]] = []
        for path, why in _files(settings, paths):  # decodes the next file while the encoder still works on this one
            waiting.append((printable(path), FileError(path, why) if why else classifier.feed(path)))
            if len(waiting) > 1:
                yield classifier.result(*waiting.pop(0))
        for name, fed in waiting:
            yield classifier.result(name, fed)


def _files(settings: Settings, paths: Sequence[Path]) -> Iterator[tuple[bytes, str | None]]:
    """The files as they are named, and those that a scan would find in folders; or a folder and why there is none."""
    for path in map(os.fsencode, paths):
        if not os.path.isdir(path):  # noqa: PTH112 - bytes
            yield path, None
            continue
        left_out: Counter[str] = Counter()
        found = None
        for found, stat in walk(path, settings.ignore, None, left_out):
            yield found, None if stat else "this folder cannot be listed"
        if found is None:
            links = f"; {count(left_out[LINK], 'link')} in it, and none is followed" if left_out[LINK] else ""
            yield path, f"no audio file in this folder{links}"
