"""Stores what is heard in a recording beside its genre, from its cached vector: no file is opened for it."""

from collections.abc import Callable, Sequence

from indexer.encoders.musicnn.tags import named
from indexer.heads.decide import NOT_ELECTRONIC
from indexer.heads.electronic import LIMIT, Ear, Heard
from indexer.library import registered
from indexer.library.facts import sound_vectors
from indexer.library.store import Store


def hear_cached(
    store: Store,
    ears: Sequence[Ear],
    stopped: Callable[[], bool] = lambda: False,
    on_step: Callable[[str, int, int], None] = lambda _step, _done, _total: None,
) -> None:
    """Store what the best ear hears in every recording that has a vector for it, where that is lacking.

    Ends early when ``stopped``; ``on_step`` is told the step's name, how many are done, of how many. Raises ModelError
    where the package's weights are missing or damaged.
    """
    for place, ear in enumerate(ears):
        for encoder in registered.encoders(store.connection):
            if encoder.id in ear.encoder_ids:
                as_good = [one.id for one in ears[: place + 1]]
                done, total = 0, store.unheard_count(as_good, encoder.id)
                for page in store.unheard(as_good, encoder.id):
                    if stopped():
                        return
                    on_step("hearing", done, total)
                    with store.transaction():
                        _hear(store, ear, page)
                    done += len(page)


def hear(store: Store, ears: Sequence[Ear], recording_id: int, encoder_id: str, vector: bytes) -> float | None:
    """Store what is heard in a recording that was embedded just now, unless a better ear has heard it.

    Returns how electronic it sounds; None where nothing was stored.
    """
    place = next((place for place, ear in enumerate(ears) if encoder_id in ear.encoder_ids), None)
    if place is None or (place > 0 and store.heard_by(recording_id) in [ear.id for ear in ears[:place]]):
        return None
    found = _hear(store, ears[place], [(recording_id, vector)])
    return found[0].electronic if found else None


def _hear(store: Store, ear: Ear, cached: Sequence[tuple[int, bytes]]) -> list[Heard]:
    """``cached``: (recording id, vector); a damaged vector tells nothing. Returns what was stored."""
    places, vectors = sound_vectors([vector for _, vector in cached], ear.width)
    found = ear.hear(vectors)
    for place, heard in zip(places, found, strict=True):
        recording_id = cached[place][0]
        store.put_heard(recording_id, ear.id, named(heard.tags), heard.tags, heard.electronic)
        store.forget_contradicted(recording_id, NOT_ELECTRONIC, holds=heard.electronic < LIMIT)
    return found
