"""Classifies files without a library: genre, confidence and timeline. Stores nothing and touches no tag."""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from indexer.config import Settings
from indexer.encoders.musicnn import tags
from indexer.errors import FileError, ModelError
from indexer.files.children.limits import Limits
from indexer.files.children.worker import Worker
from indexer.files.walk import walk
from indexer.heads.decide import decide
from indexer.library.registered import in_use_by
from indexer.listen.embedder import Embedder, TrackEmbedding, Watch
from indexer.models.choice import Chosen, choose, pipeline_model, without_genres
from indexer.wording import printable


def chosen_model(settings: Settings) -> Chosen:
    """The encoder and head to classify with. Raises ModelError when no head is in use."""
    chosen = choose(settings, in_use_by(settings.db))
    if chosen is None or chosen.head is None:
        raise ModelError(str(without_genres(chosen)))
    return chosen


class FileClassifier:
    """Classifies any number of files with encoders and a head that are loaded once; a context manager."""

    def __init__(self, settings: Settings, chosen: Chosen) -> None:
        """``chosen``: as ``chosen_model`` gives it. Raises ModelError when a file of the model is damaged."""
        self.chosen = chosen
        self._settings = settings
        self.worker = Worker(Limits.of(settings), follows_links=True)
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

    def feed(
        self, path: bytes, watch: Watch = lambda blocks, _rate_hz: blocks
    ) -> "list[Future[TrackEmbedding]] | FileError":
        """Decode a file for every encoder: returns a future for each, or the error of a file that cannot be decoded."""
        try:
            return [embedder.embed_file(self.worker, path, watch=watch) for embedder in self._embedders]
        except FileError as e:
            return e

    def result(self, name: str, fed: "list[Future[TrackEmbedding]] | FileError") -> dict[str, Any]:
        """Wait for a file that was fed; return its result as ``classify`` yields it, with ``name`` as its path."""
        if isinstance(fed, FileError):
            return {"path": name, "error": fed.reason}
        for error in (future.exception() for future in fed):
            if error is not None:
                return {
                    "path": name,
                    "error": error.reason if isinstance(error, FileError) else " ".join(str(error).split()),
                }
        head = self.chosen.head
        assert head is not None
        embeddings = [future.result() for future in fed]
        threshold = self._settings.threshold(head.threshold)
        prediction = decide(head, threshold, [e.vector for e in embeddings], [e.trajectory for e in embeddings])
        rows = () if prediction.timeline is None else prediction.timeline
        return {
            "path": name,
            "genre": prediction.genre,
            "confidence": round(prediction.confidence, 4),
            "threshold": threshold,
            "decided": prediction.decided,
            "reason": prediction.reason,
            "second_genre": prediction.second_genre,
            "truncated": embeddings[0].truncated,
            "heard": self._heard(embeddings),
            "scores": {label: round(p, 4) for label, p in prediction.scores.items()},
            "timeline": [
                {
                    "start_s": round(i * prediction.segment_s, 2),
                    "scores": {label: round(int(p) / 255, 3) for label, p in zip(head.labels, row, strict=True)},
                }
                for i, row in enumerate(rows)
            ],
        }

    def _heard(self, embeddings: Sequence[TrackEmbedding]) -> tags.Heard | None:
        for part, embedding in zip(self.chosen.info.parts, embeddings, strict=True):
            if part.encoder_id in tags.encoder_ids():
                return tags.likely(embedding.vector[None])[0]
        return None


def classify(settings: Settings, paths: Sequence[Path]) -> Iterator[dict[str, Any]]:
    """Yield one result for each file, and each audio file below a folder, in order.

    Raises ModelError when no head is in use.

    A result is {path, genre, confidence, threshold, decided, reason, second_genre, truncated, heard, scores, timeline},
    or {path, error}. ``truncated`` says how a file shows that it lost its end, of which what is there was heard.
    ``heard``: by vocabulary the probability of each tag, see encoders/musicnn/tags.py; None without that encoder.
    The timeline has one entry for each segment: {start_s, scores}.
    """
    with FileClassifier(settings, chosen_model(settings)) as classifier:
        waiting: list[tuple[str, list[Future[TrackEmbedding]] | FileError]] = []
        for path in _files(settings, paths):  # decodes the next file while the encoder still works on this one
            waiting.append((printable(path), classifier.feed(path)))
            if len(waiting) > 1:
                yield classifier.result(*waiting.pop(0))
        for name, fed in waiting:
            yield classifier.result(name, fed)


def _files(settings: Settings, paths: Sequence[Path]) -> Iterator[bytes]:
    """The files as they are named, and those that a scan would find in folders."""
    for path in map(os.fsencode, paths):
        if os.path.isdir(path):  # noqa: PTH112 - bytes
            yield from (found for found, _ in walk(path, settings.ignore))
        else:
            yield path
