"""`similar` over a large library, also from a stale file, beside a plain numpy product of an array of the same size.

    python -m tests.benchmarks.bench_similar [TRACKS] [WIDTH] [--folder DIR]      (default: 100000 3840, in the
    temporary folder)

The vectors are random. The database takes 2 bytes a number, the derived file 4: 2.4 GB in all by default. The stale
case is what the pages do while a scan goes on: another process writes embeddings as fast as it can, each question is
about a recording newer than the file.
"""

import argparse
import multiprocessing
import resource
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from indexer.library.readonly import open_readonly
from indexer.library.store import Store
from indexer.library.vectors.directions import stored_directions
from indexer.library.vectors.similar import encoder_of, nearest, ranked, vector_of

ROUNDS = 9
ENCODER = "e" * 64


def fill(db: Path, tracks: int, width: int) -> None:
    """Recordings with embeddings, no files."""
    rng = np.random.default_rng(0)
    with Store(db) as store, store.transaction():
        store.put_encoder(ENCODER, name="made", width=width, unit_s=6.0)
        for n in range(tracks):
            recording = store.recording(f"{n:064x}", codec="mp3", sample_rate_hz=44_100, channels=2, duration_s=300.0)
            store.put_embedding(recording, ENCODER, rng.standard_normal(width, np.float32).astype("<f2").tobytes(), 50)


def scan(db: Path, width: int, written: Any, stop: Any) -> None:
    """Embed new recordings without end."""
    rng = np.random.default_rng(2)
    with Store(db) as store:
        while not stop.is_set():
            with store.transaction():
                recording = store.recording(
                    f"new {written.value}", codec="mp3", sample_rate_hz=44_100, channels=2, duration_s=300.0
                )
                store.put_embedding(
                    recording, ENCODER, rng.standard_normal(width, np.float32).astype("<f2").tobytes(), 50
                )
            written.value = recording


def main() -> None:
    """Fill, ask, compare."""
    parser = argparse.ArgumentParser()
    parser.add_argument("tracks", type=int, nargs="?", default=100_000)
    parser.add_argument("width", type=int, nargs="?", default=3840)
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        db = Path(folder, "library.db")
        fill(db, arguments.tracks, arguments.width)
        conn = open_readonly(db)

        def ask(recording: int) -> float:
            started = time.perf_counter()
            found = nearest(conn, db, encoder_of(conn), recording)
            for _ in range(10):
                next(found)
            return time.perf_counter() - started

        def ask_stale(recording: int) -> float:
            started = time.perf_counter()
            encoder = encoder_of(conn)
            vector = vector_of(conn, encoder, recording)
            directions = stored_directions(conn, db, ENCODER)
            assert directions is not None
            assert not directions.current
            found = ranked([directions], vector, recording)
            for _ in range(10):
                next(found)
            return time.perf_counter() - started

        print(
            f"{arguments.tracks:,} x {arguments.width}; the first question,"
            f" which makes the derived file: {ask(1):.1f} s"
        )
        resident = np.random.default_rng(1).standard_normal((arguments.tracks, arguments.width), np.float32)

        def plain(row: int) -> float:
            started = time.perf_counter()
            resident @ resident[row]
            return time.perf_counter() - started

        compare("a question", [(ask(n + 2), plain(n)) for n in range(ROUNDS)])
        written, stop = multiprocessing.Value("q", 0), multiprocessing.Event()
        scanning = multiprocessing.Process(target=scan, args=(db, arguments.width, written, stop))
        scanning.start()
        while not written.value:
            time.sleep(0.01)
        first = written.value
        started = time.perf_counter()
        pairs = [(ask_stale(written.value), plain(n)) for n in range(ROUNDS)]
        rate = (written.value - first) / (time.perf_counter() - started)
        stop.set()
        scanning.join()
        compare(
            f"while another process embeds {rate:.0f} recordings a second, of the newest one, from a stale file", pairs
        )
        print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.1f} GB with the resident array")
        conn.close()


def compare(what: str, pairs: list[tuple[float, float]]) -> None:
    """Print the medians and the ratio of pairs that were measured in turn."""
    ours_s, plain_s = (statistics.median(column) for column in zip(*pairs, strict=True))
    ratios = sorted(ours / other for ours, other in pairs)
    print(
        f"{what}: {1000 * ours_s:.0f} ms (at most {1000 * max(ours for ours, _ in pairs):.0f}),"
        f" a plain product: {1000 * plain_s:.0f} ms;"
        f" ratio {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
    )


if __name__ == "__main__":
    main()
