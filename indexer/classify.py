"""Look only: genre, confidence and timeline of files, nothing stored and no tag touched."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from indexer import models
from indexer.config import Settings
from indexer.embedding import Embedder, TrackEmbedding
from indexer.errors import FileError, ModelError
from indexer.models import Chosen
from indexer.pipeline import scores_of
from indexer.store import open_readonly, printable
from indexer.worker import Worker


def chosen_model(settings: Settings) -> Chosen:
    """The encoder and head to look with. Raises ModelError when there is none that gives genres."""
    encoder_in_use, head_in_use = None, None
    if settings.db.exists():
        conn = open_readonly(settings.db)
        encoder_in_use = conn.execute("SELECT id FROM encoders WHERE in_use = 1").fetchone()
        head_in_use = conn.execute("SELECT * FROM heads WHERE in_use = 1").fetchone()
        conn.close()
    chosen = models.choose(settings, encoder_in_use["id"] if encoder_in_use else None, head_in_use)
    if chosen is None or chosen.head is None:
        raise ModelError(str(models.without_genres(chosen)))
    return chosen


def classify(settings: Settings, paths: Sequence[Path], on_start: Callable[[Chosen], None] = lambda _: None) -> Iterator[dict[str, Any]]:
    """One result a file, in order: {path, genre, confidence, decided, scores, timeline}, or {path, error}.

    timeline: one entry a unit, {start_s, scores}.
    """
    chosen = chosen_model(settings)
    on_start(chosen)
    model = models.pipeline_model(chosen, settings)
    threshold = chosen.head.threshold if chosen.head and settings.min_confidence is None else settings.min_confidence
    worker = Worker()
    embedder = Embedder(model.load(), chosen.head)
    # The next file is decoded while the encoder still works on this one.
    waiting: list[tuple[Path, Future[TrackEmbedding] | FileError]] = []
    try:
        for path in paths:
            waiting.append((path, _feed(worker, embedder, path)))
            if len(waiting) > 1:
                yield _result(chosen, threshold or 0.0, *waiting.pop(0))
        for item in waiting:
            yield _result(chosen, threshold or 0.0, *item)
    finally:
        embedder.close()
        worker.close()


def _feed(worker: Worker, embedder: Embedder, path: Path) -> "Future[TrackEmbedding] | FileError":
    try:
        return embedder.embed(worker.decode(os.fsencode(path), sample_rate_hz=embedder.encoder.sample_rate_hz))[0]
    except FileError as e:
        return e


def _result(chosen: Chosen, threshold: float, path: Path, found: "Future[TrackEmbedding] | FileError") -> dict[str, Any]:
    name = printable(os.fsencode(path))
    error = found if isinstance(found, FileError) else found.exception()
    if error is not None or isinstance(found, FileError):
        return {"path": name, "error": error.reason if isinstance(error, FileError) else str(error)}
    assert chosen.head is not None
    embedding = found.result()
    scores = scores_of(chosen.head, embedding.vector)
    genre = max(scores, key=lambda label: scores[label])
    rows = [] if embedding.timeline is None else list(embedding.timeline)
    return {
        "path": name, "genre": genre, "confidence": round(scores[genre], 4), "decided": scores[genre] >= threshold,
        "scores": {label: round(p, 4) for label, p in scores.items()},
        "timeline": [{"start_s": round(i * chosen.info.unit_s, 2),
                      "scores": {label: round(int(p) / 255, 3) for label, p in zip(chosen.head.labels, row, strict=True)}}
                     for i, row in enumerate(rows)],
    }
