"""`export` of a small and a large library: its rows a second beside reading the same rows alone, and its memory.

    python -m tests.benchmarks.bench_export [RECORDINGS ...] [--width WIDTH]      (default: 20000 100000, width 64)

Every recording has a file with tags, an embedding of random numbers and a prediction with five scores. Each export runs
in a process of its own; its memory is told from when pyarrow is loaded. Memory that does not grow with the library
shows as two like figures.
"""

import argparse
import multiprocessing
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet

from indexer.library.readonly import reading
from indexer.library.store import Store
from indexer.library.tables import TABLES
from indexer.upkeep.export import export

LABELS = ("ambient", "drum and bass", "house", "techno", "trance")
ENCODER, HEAD = "e" * 64, "a" * 64


def fill(db: Path, recordings: int, width: int) -> None:
    rng = np.random.default_rng(0)
    ids = range(1, recordings + 1)
    with Store(db) as store, store.transaction():
        store.put_encoder(ENCODER, name="made", width=width, unit_s=6.0)
        store.put_head(HEAD, name="made", kind="linear", encoder_id=ENCODER, labels=LABELS, threshold=0.5, source="")
        for sql, values in (
            ("recordings VALUES (?, ?, 'mp3', 44100, 2, 300.0, NULL)", ((i, f"{i:064x}") for i in ids)),
            (
                (
                    "files (id, recording_id, path, path_text, container, dev, ino, size, mtime_ns, state,"
                    " first_seen, last_seen) VALUES (?, ?, ?, ?, 'mp3', 1, ?, 9000000, 1700000000000000000, 'ready',"
                    " '2026-01-01', '2026-01-01')"
                ),
                ((i, i, f"/music/{i}.mp3".encode(), f"/music/{i}.mp3", i) for i in ids),
            ),
            (
                "tags (file_id, title, artist, album, year, genre) VALUES (?, ?, ?, ?, 2020, 'Techno')",
                ((i, f"Study {i}", f"Artist {i % 5000}", f"Album {i % 20000}") for i in ids),
            ),
            (
                "embeddings (recording_id, encoder_id, vector, units) VALUES (?, ?, ?, 50)",
                ((i, ENCODER, rng.standard_normal(width, np.float32).astype("<f2").tobytes()) for i in ids),
            ),
            ("predictions VALUES (?, ?, 'techno', 0.6, 0.5, 1, NULL, NULL)", ((i, HEAD) for i in ids)),
            (
                "scores VALUES (?, ?, ?, ?)",
                (
                    (i, HEAD, label, p)
                    for i in ids
                    for label, p in zip(LABELS, rng.dirichlet(np.ones(5)).tolist(), strict=True)
                ),
            ),
        ):
            store.connection.executemany(f"INSERT INTO {sql}", values)


def read_all(db: Path) -> float:
    """Seconds to read what an export reads."""
    started = time.perf_counter()
    with reading(db) as conn:
        for sql in (
            *(
                f"SELECT {', '.join(column for _, column, _ in columns)} FROM {source}"
                for source, columns in TABLES.values()
            ),
            "SELECT * FROM embeddings",
            "SELECT * FROM predictions",
            "SELECT * FROM scores",
        ):
            for _ in conn.execute(sql):
                pass
    return time.perf_counter() - started


def measure(db: Path, folder: Path, results: Any) -> None:
    """Export once; how far the peak of memory rose."""
    assert pyarrow.parquet  # loaded before the first look
    read_s = read_all(db)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = export(db, folder)
    results.put((found, read_s, before / 1024, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("recordings", type=int, nargs="*", default=[20_000, 100_000])
    parser.add_argument("--width", type=int, default=64)
    arguments = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    for recordings in arguments.recordings:
        with tempfile.TemporaryDirectory() as folder:
            db = Path(folder, "library.db")
            fill(db, recordings, arguments.width)
            results = context.Queue()
            process = context.Process(target=measure, args=(db, Path(folder, "out"), results))
            process.start()
            found, read_s, before_mb, peak_mb = results.get()
            process.join()
            rows = sum(found[table] for table in (*TABLES, "embeddings", "predictions"))
            print(
                f"{recordings:,} recordings x {arguments.width}: {rows:,} rows in {found['elapsed_s']:.1f} s,"
                f" {rows / found['elapsed_s']:,.0f} a second, {found['elapsed_s'] / read_s:.1f} times reading alone;"
                f" {found['bytes'] / 1e6:.0f} MB of {db.stat().st_size / 1e6:.0f};"
                f" memory {before_mb:.0f} MB before, at most {peak_mb:.0f} MB: {peak_mb - before_mb:.0f} more"
            )


if __name__ == "__main__":
    main()
