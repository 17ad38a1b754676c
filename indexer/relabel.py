"""Apply the head in use to every cached embedding: no file is opened and no audio decoded."""

import time
from typing import Any

from indexer import models
from indexer.config import Settings
from indexer.errors import ModelError
from indexer.lock import library_lock
from indexer.pipeline import from_f16, scores_of
from indexer.scanner import choose_and_register
from indexer.store import Store

COMMIT_ROWS = 1000


def relabel(settings: Settings) -> dict[str, Any]:
    """Classify all cached recordings anew: {head, classified, undecided, elapsed_s}. Raises ModelError without a head."""
    started = time.monotonic()
    with library_lock(settings.db), Store(settings.db) as store:
        chosen = choose_and_register(store, settings)
        if chosen is None or chosen.head is None:
            raise ModelError(str(models.without_genres(chosen)))
        head = chosen.head
        threshold = head.threshold if settings.min_confidence is None else settings.min_confidence
        classified = undecided = 0
        page: list[tuple[int, dict[str, float]]] = []

        def flush() -> None:
            with store.transaction():
                for recording_id, scores in page:
                    store.put_prediction(recording_id, head.id, scores, threshold)
            page.clear()

        for recording_id, blob in store.vectors(chosen.info.encoder_id):
            scores = scores_of(head, from_f16(blob))
            page.append((recording_id, scores))
            classified += 1
            undecided += max(scores.values()) < threshold
            if len(page) >= COMMIT_ROWS:
                flush()
        flush()
    return {"head": head.name, "classified": classified, "undecided": undecided, "elapsed_s": round(time.monotonic() - started, 3)}
