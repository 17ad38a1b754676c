"""Similar tracks by the index of a large library: recall against comparing all, time with eight clients, to make it.

    python -m tests.benchmarks.bench_neighbours [TRACKS] [WIDTH] [--folder DIR]      (default: 1000000 384)

Made vectors: 200 clusters in 60 directions of falling strength, and noise in all, so that the ten nearest are among
many that are nearly as near. Eight processes ask at once, each for the ten nearest of 50 recordings, from the database
on.
"""

import argparse
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np

from indexer.library.readonly import reading
from indexer.library.store import Store
from indexer.library.vectors import approximate
from indexer.library.vectors.directions import directions_of
from indexer.library.vectors.similar import encoder_of, nearest

ENCODER, FACTORS, CLUSTERS, PAGE = "e" * 64, 60, 200, 10_000
CLIENTS, QUESTIONS, CHECKED = 8, 50, 100


def made(tracks: int, width: int) -> Iterator[np.ndarray]:
    """Pages (n, width) of float16."""
    rng = np.random.default_rng(0)
    basis = rng.standard_normal((FACTORS, width)) * (np.arange(1, FACTORS + 1) ** -0.7)[:, None]
    middles = rng.standard_normal((CLUSTERS, FACTORS)) * 0.8
    for first in range(0, tracks, PAGE):
        n = min(PAGE, tracks - first)
        factors = middles[rng.integers(0, CLUSTERS, n)] + rng.standard_normal((n, FACTORS))
        yield (factors @ basis + 0.05 * rng.standard_normal((n, width)) + 3.0).astype("<f2")


def fill(db: Path, tracks: int, width: int) -> None:
    """Recordings with embeddings, no files."""
    with Store(db) as store:
        store.put_encoder(ENCODER, name="made", width=width, unit_s=6.0)
        last = 0
        for page in made(tracks, width):
            ids = range(last + 1, last + 1 + len(page))
            last += len(page)
            with store.transaction():
                store._many("INSERT INTO recordings (id, audio_sha256) VALUES (?, ?)", ((i, f"{i:064x}") for i in ids))
                store._many(
                    "INSERT INTO embeddings (recording_id, encoder_id, vector, units) VALUES (?, ?, ?, 50)",
                    ((i, ENCODER, row.tobytes()) for i, row in zip(ids, page, strict=True)),
                )


def exact(tracks: int, width: int, asked: np.ndarray) -> list[set[int]]:
    """The ten nearest to each recording that is asked for, of all."""
    total = sum(page.sum(axis=0, dtype=np.float64) for page in made(tracks, width))
    mean = (total / tracks).astype(np.float32)
    wanted = {int(one) for one in asked}
    rows, first = {}, 1
    for page in made(tracks, width):
        rows |= {first + n: page[n] for n in range(len(page)) if first + n in wanted}
        first += len(page)
    questions = directions_of(np.stack([rows[int(one)] for one in asked]), mean)
    best = np.full((len(asked), 11), -2.0, np.float32)
    who = np.zeros((len(asked), 11), np.int64)
    first = 1
    for page in made(tracks, width):
        cosines = np.concatenate([best, questions @ directions_of(page, mean).T], axis=1)
        ids = np.concatenate(
            [who, np.broadcast_to(np.arange(first, first + len(page)), (len(asked), len(page)))], axis=1
        )
        order = np.argpartition(-cosines, 11, axis=1)[:, :11]
        best, who = np.take_along_axis(cosines, order, 1), np.take_along_axis(ids, order, 1)
        first += len(page)
    return [set(row.tolist()) - {int(one)} for row, one in zip(who, asked, strict=True)]


def client(db: Path, tracks: int, seed: int, times: "multiprocessing.Queue[list[float]]") -> None:
    """Ask, and report how long each question took (ms)."""
    took = []
    with reading(db) as conn:
        for one in np.random.default_rng(seed).integers(1, tracks + 1, QUESTIONS).tolist():
            started = time.perf_counter()
            list(islice(nearest(conn, db, encoder_of(conn), one), 10))
            took.append(1000 * (time.perf_counter() - started))
    times.put(took)


def main() -> None:
    """Fill, make, compare, ask."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tracks", type=int, nargs="?", default=1_000_000)
    parser.add_argument("width", type=int, nargs="?", default=384)
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()
    approximate.EXACT_UP_TO = min(approximate.EXACT_UP_TO, given.tracks // 2)
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        db = Path(folder, "library.db")
        fill(db, given.tracks, given.width)
        for what in ("made", "found to be up to date"):
            wall, cpu = time.perf_counter(), time.process_time()
            with Store(db) as store:
                approximate.update(store, ENCODER, [ENCODER])
            print(f"{what}: {time.perf_counter() - wall:.1f} s, {time.process_time() - cpu:.1f} s of CPU", flush=True)
        size = sum(path.stat().st_size for path in (db.parent / "vectors").glob("*"))
        print(f"{given.tracks:,} x {given.width}: {size / 1e6:,.0f} MB")
        asked = np.random.default_rng(3).integers(1, given.tracks + 1, CHECKED)
        with reading(db) as conn:
            found = [
                {one for one, _ in islice(nearest(conn, db, encoder_of(conn), int(recording)), 10)}
                for recording in asked
            ]
        shared = sum(
            len(one & other) for one, other in zip(found, exact(given.tracks, given.width, asked), strict=True)
        )
        print(f"recall of the ten nearest: {shared / 10 / CHECKED:.3f}", flush=True)
        for clients in (1, CLIENTS):
            times: multiprocessing.Queue[list[float]] = multiprocessing.Queue()
            asking = [multiprocessing.Process(target=client, args=(db, given.tracks, n, times)) for n in range(clients)]
            for one in asking:
                one.start()
            took = sorted(ms for _ in asking for ms in times.get())
            for one in asking:
                one.join()
            print(
                f"{clients} clients: median {statistics.median(took):.1f} ms, 95th percentile"
                f" {took[int(0.95 * len(took))]:.1f}, the longest {took[-1]:.1f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
