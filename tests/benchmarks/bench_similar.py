"""`similar` over a large library beside a plain numpy product of a resident array of the same size, in one run.

    python -m tests.benchmarks.bench_similar [TRACKS] [WIDTH] [--folder DIR]      (default: 100000 3840, in the temporary folder)

The vectors are random. The database takes 2 bytes a number, the derived file 4: 2.4 GB in all by default.
"""

import argparse
import resource
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from indexer.similar import encoder_of, nearest
from indexer.store import Store, open_readonly

ROUNDS = 9


def fill(db: Path, tracks: int, width: int) -> None:
    """Recordings with embeddings, no files."""
    rng = np.random.default_rng(0)
    with Store(db) as store, store.transaction():
        store.put_encoder("e" * 64, name="made", width=width, unit_s=6.0)
        for n in range(tracks):
            recording = store.recording(f"{n:064x}", codec="mp3", sample_rate_hz=44_100, channels=2, duration_s=300.0)
            store.put_embedding(recording, "e" * 64, rng.standard_normal(width, np.float32).astype("<f2").tobytes(), 50)


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

        print(f"{arguments.tracks:,} x {arguments.width}; the first question, which makes the derived file: {ask(1):.1f} s")
        resident = np.random.default_rng(1).standard_normal((arguments.tracks, arguments.width), np.float32)

        def plain(row: int) -> float:
            started = time.perf_counter()
            resident @ resident[row]
            return time.perf_counter() - started

        pairs = [(ask(n + 2), plain(n)) for n in range(ROUNDS)]
        ours_s, plain_s = (statistics.median(column) for column in zip(*pairs, strict=True))
        ratios = sorted(ours / other for ours, other in pairs)
        print(f"a question: {1000 * ours_s:.0f} ms, a plain product: {1000 * plain_s:.0f} ms; ratio {statistics.median(ratios):.2f}"
              f" ({ratios[0]:.2f} to {ratios[-1]:.2f}), peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.1f} GB with the resident array")
        conn.close()


if __name__ == "__main__":
    main()
