"""Look only: genre, confidence and timeline of files, nothing stored and no tag touched."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np

from indexer.config import Settings
from indexer.errors import FileError, ModelError
from indexer.files.children.worker import Worker
from indexer.heads.decide import decide
from indexer.library.registered import in_use_by
from indexer.listen.embedder import Embedder, TrackEmbedding
from indexer.models import choice as models
from indexer.models.choice import Chosen
from indexer.wording import printable

Watch = Callable[[Iterable[np.ndarray], int], Iterable[np.ndarray]]


def chosen_model(settings: Settings) -> Chosen:
    """The encoder and head to look with. Raises ModelError when there is none that gives genres."""
    chosen = models.choose(settings, in_use_by(settings.db))
    if chosen is None or chosen.head is None:
        raise ModelError(str(models.without_genres(chosen)))
    return chosen


class Looker:
    """Encoders and head, loaded once, for any number of files; a context manager. Raises ModelError for a file of them that is damaged."""

    def __init__(self, settings: Settings, chosen: Chosen) -> None:
        """``chosen``: what ``chosen_model`` gave."""
        self.chosen = chosen
        self._settings = settings
        self.worker = Worker()
        self._embedders = [
            Embedder(part.load(), part.units) for part in models.pipeline_model(self.chosen, settings).parts
        ]

    @property
    def encoders(self) -> int:
        """How many hear each file."""
        return len(self._embedders)

    def __enter__(self) -> "Looker":
        return self

    def __exit__(self, *exc: object) -> None:
        for embedder in self._embedders:
            embedder.close()
        self.worker.close()

    def feed(
        self, path: bytes, watch: Watch = lambda blocks, _rate: blocks
    ) -> "list[Future[TrackEmbedding]] | FileError":
        """Decode a file into every encoder: one future each, or why it cannot be decoded.

        ``watch(blocks, sample_rate_hz)`` may look at the decoded blocks on their way; what it raises passes through.
        """
        try:
            return [
                e.embed(
                    watch(self.worker.decode(path, sample_rate_hz=e.encoder.sample_rate_hz), e.encoder.sample_rate_hz)
                )
                for e in self._embedders
            ]
        except FileError as e:
            return e

    def result(self, name: str, fed: "list[Future[TrackEmbedding]] | FileError") -> dict[str, Any]:
        """What the head says of a file that was fed, under a name for people; waits for the encoder."""
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
        prediction = decide(head, threshold, [e.vector for e in embeddings], [e.course for e in embeddings])
        rows = () if prediction.timeline is None else prediction.timeline
        return {
            "path": name,
            "genre": prediction.genre,
            "confidence": round(prediction.confidence, 4),
            "threshold": threshold,
            "decided": prediction.decided,
            "reason": prediction.reason,
            "second_genre": prediction.second_genre,
            "scores": {label: round(p, 4) for label, p in prediction.scores.items()},
            "timeline": [
                {
                    "start_s": round(i * prediction.segment_s, 2),
                    "scores": {label: round(int(p) / 255, 3) for label, p in zip(head.labels, row, strict=True)},
                }
                for i, row in enumerate(rows)
            ],
        }


def classify(settings: Settings, paths: Sequence[Path]) -> Iterator[dict[str, Any]]:
    """One result a file, in order: {path, genre, confidence, threshold, decided, reason, second_genre, scores, timeline}, or {path, error}.

    timeline: one entry a segment, {start_s, scores}.
    """
    with Looker(settings, chosen_model(settings)) as looker:
        waiting: list[tuple[str, list[Future[TrackEmbedding]] | FileError]] = []
        for path in paths:  # the next file is decoded while the encoder still works on this one
            waiting.append((printable(os.fsencode(path)), looker.feed(os.fsencode(path))))
            if len(waiting) > 1:
                yield looker.result(*waiting.pop(0))
        for name, fed in waiting:
            yield looker.result(name, fed)
