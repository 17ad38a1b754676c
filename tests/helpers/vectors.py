"""A library of vectors without files on disk."""

import os

import numpy as np

from indexer.files.audio.identity import Stat
from indexer.library.store import Store

WIDTH = 24


def fill(db, vectors, encoder="e", folder="/m", **about):
    with Store(db) as store, store.transaction():
        store.put_encoder(encoder, name=f"name of {encoder}", width=vectors.shape[1], unit_s=6.0)
        for i, vector in enumerate(vectors):
            recording = store.recording(f"{i:064x}", codec="mp3", sample_rate_hz=44_100, channels=2, duration_s=200.4)
            if store.file_at(os.fsencode(f"{folder}/{i}.mp3")) is None:
                file = store.put_file(
                    os.fsencode(f"{folder}/{i}.mp3"),
                    Stat(1, i, 1, 1),
                    root_id=None,
                    state="ready",
                    recording_id=recording,
                )
                store.put_tags(file, {"title": f"title {i}", "artist": f"artist {i % 7}"})
            store.put_embedding(recording, encoder, vector.astype("<f2").tobytes(), 1)


def made(n=60, seed=0, width=WIDTH):
    rng = np.random.default_rng(seed)
    return (rng.standard_normal(width) * 30 + rng.standard_normal((n, width))).astype(
        np.float16
    )  # nearly parallel, as embeddings are
