"""Stores what a trained network heard in a recording, from its cached vector: no file is opened for it."""

from collections.abc import Callable, Sequence

from indexer.encoders.musicnn import tags
from indexer.encoders.musicnn.encoder import MusicnnEncoder
from indexer.library import registered
from indexer.library.facts import sound_vectors
from indexer.library.store import Store


def hear_cached(store: Store, stopped: Callable[[], bool] = lambda: False) -> None:
    """Store the tags of every recording that has a vector for them and lacks them, until ``stopped``.

    Raises ModelError where the package's weights are missing or damaged.
    """
    for encoder in registered.encoders(store.connection):
        if encoder.id in tags.encoder_ids():
            for page in store.unheard(tags.ear(), encoder.id):
                if stopped():
                    return
                with store.transaction():
                    hear(store, page)


def hear(store: Store, cached: Sequence[tuple[int, bytes]]) -> None:
    """Store the tags of recordings: (id, vector by an encoder of ``tags.encoder_ids``). Damaged vectors have none."""
    places, vectors = sound_vectors([vector for _, vector in cached], MusicnnEncoder.width)
    for place, heard in zip(places, tags.likely(vectors), strict=True):
        store.put_heard(cached[place][0], tags.ear(), tags.named(heard), heard)
