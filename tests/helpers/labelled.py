"""A library of embedded recordings with genres, without files on disk."""

import os

import numpy as np

from indexer.files.audio.identity import Stat
from indexer.library.store import Store

ENCODER = "ab" * 32


WIDTH = 24


GENRES = ("House", "Techno", "Trance")


def vectors(y, seed=0, *, spread=1.0):
    """Overlapping clouds in 24 numbers of very different sizes, around a large common mean."""
    rng = np.random.default_rng(seed)
    size = np.logspace(-2, 1, WIDTH)
    means = np.random.default_rng(5).standard_normal((8, WIDTH)) * 0.6
    return ((rng.standard_normal((len(y), WIDTH)) * spread + means[y]) * size + 20 * size).astype(np.float16)


def fill(db, tmp_path, *, n=90, genres=GENRES, artists=18):
    y = np.arange(n) % len(genres)
    rows = vectors(y)
    with Store(db) as store, store.transaction():
        root = store.add_root(os.fsencode(tmp_path / "music"))
        store.put_encoder(ENCODER, name="made", width=WIDTH, unit_s=6.0)
        store._run("UPDATE encoders SET in_use = 1")
        for i in range(n):
            recording = store.recording(f"{i:064x}", codec="mp3", sample_rate_hz=44_100, channels=2, duration_s=1.0)
            file = store.put_file(
                os.fsencode(tmp_path / "music" / f"{i}.mp3"),
                Stat(1, i, 1, 1),
                root_id=root,
                state="ready",
                recording_id=recording,
            )
            store.put_tags(file, {"genre": genres[y[i]], "artist": f"artist {i % artists}" if artists else None})
            store.put_embedding(recording, ENCODER, rows[i].astype("<f2").tobytes(), 1)


def sql(db, statement, *values):
    with Store(db) as store:
        return [tuple(row) for row in store._run(statement, values)]
