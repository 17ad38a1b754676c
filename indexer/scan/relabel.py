"""Applies the heads in use, of genres and of label sets, to every cached embedding. Decodes no audio."""

import time
from collections.abc import Callable
from itertools import islice
from typing import Any

from indexer.config import Settings
from indexer.errors import ModelError
from indexer.heads.decide import NOT_ELECTRONIC, UNLIKE
from indexer.heads.head import Head
from indexer.library.lock import library_lock
from indexer.library.set_fields import count_unwritten as unwritten_labels
from indexer.library.store import Store
from indexer.library.unwritten import count_unwritten
from indexer.models.choice import Chosen, choose_and_register, without_genres
from indexer.scan.classify import classify_recording
from indexer.scan.genre_labels import update_genre_labels
from indexer.scan.heard import hear_cached
from indexer.scan.label_sets import load_sets, relabel_sets

COMMIT_ROWS = 1000
_COUNTS = ("classified", "undecided", "unlike", "not_electronic", "surest", "damaged", "not_written")


def relabel(
    settings: Settings, on_step: Callable[[str, int, int], None] = lambda _step, _done, _total: None
) -> dict[str, Any]:
    """Classify all cached recordings anew. Raises ModelError without a head.

    ``on_step`` is called now and then with the step's name, how many recordings are done, and of how many.

    Returns {head, kind, threshold, classified, undecided, unlike, not_electronic, surest, damaged, not_written, sets,
    sets_not_written, problems, elapsed_s}. ``unlike``: recordings unlike everything the head learned from;
    ``not_electronic``: that do not sound electronic. ``surest``: the highest confidence of the others, 0 to 1.
    ``not_written``: files that a decided genre is still to go into. ``sets``: by label set {head, threshold,
    classified, undecided, damaged}; ``sets_not_written``: files whose field of a set is not up to date. Without a head
    for genres ``head``, ``kind`` and ``threshold`` are None; that is an error only where no label set has one.
    """
    started = time.monotonic()
    problems: list[str] = []
    with library_lock(settings.db), Store(settings.db) as store:
        chosen = choose_and_register(store, settings)
        models = load_sets(store, settings, lambda path, reason: problems.append(f"{path}: {reason}"))
        sets = relabel_sets(store, models, COMMIT_ROWS, on_step)
        if chosen and chosen.head:
            found = _relabel_genres(store, settings, chosen, chosen.head, on_step)
        elif sets:
            found = {"head": None, "kind": None, "threshold": None, **dict.fromkeys(_COUNTS, 0)}
        else:
            raise ModelError(str(without_genres(chosen)))
        labels = unwritten_labels(store.connection, settings)
        if settings.playlists:
            from indexer.exchange import living  # a tenth of all that a scan imports

            problems += living.refresh(store.connection, settings)
    return {
        **found,
        "sets": sets,
        "sets_not_written": labels,
        "problems": problems,
        "elapsed_s": round(time.monotonic() - started, 3),
    }


def _relabel_genres(
    store: Store, settings: Settings, chosen: Chosen, head: Head, on_step: Callable[[str, int, int], None]
) -> dict[str, Any]:
    threshold = settings.threshold(head.threshold)
    classified = undecided = unlike = not_electronic = damaged = 0
    surest = 0.0
    hear_cached(store, chosen.ears, on_step=on_step)
    total = store.embedded_count(chosen.inputs[0])
    cached_recordings = store.embeddings(chosen.inputs)
    while page := list(islice(cached_recordings, COMMIT_ROWS)):
        on_step("classifying", classified + damaged, total)
        with store.transaction():
            for recording_id, cached in page:
                try:
                    found = classify_recording(store, recording_id, head, threshold, cached, settings.tempo_ranges)
                    undecided += not found.decided
                    unlike += found.reason == UNLIKE
                    not_electronic += found.reason == NOT_ELECTRONIC
                    surest = max(surest, 0.0 if found.reason else found.confidence)
                    classified += 1
                except ModelError:
                    damaged += 1
    update_genre_labels(store, settings)
    counts = (classified, undecided, unlike, not_electronic, round(surest, 4), damaged)
    return {
        "head": head.name,
        "kind": head.kind,
        "threshold": threshold,
        **dict(zip(_COUNTS, (*counts, count_unwritten(store.connection, settings)), strict=True)),
    }
