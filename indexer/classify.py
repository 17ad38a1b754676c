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
from indexer.printing import printable
from indexer.store import open_readonly
from indexer.verdict import judge
from indexer.worker import Worker


def chosen_model(settings: Settings) -> Chosen:
    """The encoder and head to look with. Raises ModelError when there is none that gives genres."""
    rows: tuple[Any, Any] = None, None
    if settings.db.exists():
        conn = open_readonly(settings.db)
        rows = models.in_use(conn)
        conn.close()
    chosen = models.choose(settings, *rows)
    if chosen is None or chosen.head is None:
        raise ModelError(str(models.without_genres(chosen)))
    return chosen


def classify(settings: Settings, paths: Sequence[Path], on_start: Callable[[Chosen], None] = lambda _: None) -> Iterator[dict[str, Any]]:
    """One result a file, in order: {path, genre, confidence, decided, reason, second_genre, scores, timeline}, or {path, error}.

    timeline: one entry a segment, {start_s, scores}.
    """
    chosen = chosen_model(settings)
    on_start(chosen)
    worker = Worker()
    embedders = [Embedder(part.load()) for part in models.pipeline_model(chosen, settings).parts]
    # The next file is decoded while the encoder still works on this one.
    waiting: list[tuple[Path, list[Future[TrackEmbedding]] | FileError]] = []
    try:
        for path in paths:
            waiting.append((path, _feed(worker, embedders, path)))
            if len(waiting) > 1:
                yield _result(chosen, settings, *waiting.pop(0))
        for item in waiting:
            yield _result(chosen, settings, *item)
    finally:
        for embedder in embedders:
            embedder.close()
        worker.close()


def _feed(worker: Worker, embedders: Sequence[Embedder], path: Path) -> "list[Future[TrackEmbedding]] | FileError":
    """One future an encoder, or why the file cannot be decoded."""
    try:
        return [e.embed(worker.decode(os.fsencode(path), sample_rate_hz=e.encoder.sample_rate_hz))[0] for e in embedders]
    except FileError as e:
        return e


def _result(chosen: Chosen, settings: Settings, path: Path, found: "list[Future[TrackEmbedding]] | FileError") -> dict[str, Any]:
    name = printable(os.fsencode(path))
    if isinstance(found, FileError):
        return {"path": name, "error": found.reason}
    for error in (future.exception() for future in found):
        if error is not None:
            return {"path": name, "error": error.reason if isinstance(error, FileError) else str(error)}
    head = chosen.head
    assert head is not None
    embeddings = [future.result() for future in found]
    verdict = judge(head, settings.threshold(head.threshold), [e.vector for e in embeddings], [e.course for e in embeddings])
    rows = () if verdict.timeline is None else verdict.timeline
    return {
        "path": name, "genre": verdict.genre, "confidence": round(verdict.confidence, 4), "decided": verdict.decided, "reason": verdict.reason,
        "second_genre": verdict.second_genre, "scores": {label: round(p, 4) for label, p in verdict.scores.items()},
        "timeline": [{"start_s": round(i * verdict.segment_s, 2),
                      "scores": {label: round(int(p) / 255, 3) for label, p in zip(head.labels, row, strict=True)}}
                     for i, row in enumerate(rows)],
    }
