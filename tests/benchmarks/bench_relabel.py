"""`relabel` of a whole library from cached embeddings and trajectories, beside reading the same rows alone.

    python -m tests.benchmarks.bench_relabel [RECORDINGS]      (default: 100000)

The vectors are random numbers of the built-in encoder's width, each with a trajectory of 50 units; the head is random
too.
"""

import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from indexer.config import Settings
from indexer.encoders.load import built_in_info
from indexer.encoders.trajectory import Collector
from indexer.heads.linear import LinearHead
from indexer.library.store import Store
from indexer.scan.relabel import relabel

LABELS = ("ambient", "drum and bass", "house", "techno", "trance")
UNITS = 50


def fill(db: Path, recordings: int) -> None:
    """Recordings with embeddings, no files."""
    rng = np.random.default_rng(0)
    encoder = built_in_info("rhythm")
    collector = Collector(encoder.unit_s)
    for unit in rng.standard_normal((UNITS, encoder.width)).astype(np.float32):
        collector.add(unit, 1)
    trajectory = collector.finish(np.zeros(encoder.width, np.float32)).to_bytes()
    with Store(db) as store, store.transaction():
        store.put_encoder(encoder.encoder_id, name=encoder.name, width=encoder.width, unit_s=encoder.unit_s)
        for n in range(recordings):
            recording = store.recording(f"{n:064x}", codec="mp3", sample_rate_hz=44_100, channels=2, duration_s=300.0)
            store.put_embedding(
                recording,
                encoder.encoder_id,
                rng.standard_normal(encoder.width, np.float32).astype("<f2").tobytes(),
                UNITS,
                trajectory,
            )


def main(recordings: int) -> None:
    """Fill, read, relabel twice (the first time writes new rows, the second replaces them)."""
    encoder = built_in_info("rhythm")
    rng = np.random.default_rng(1)
    head = LinearHead(
        "bench",
        encoder.encoder_id,
        LABELS,
        0.5,
        rng.standard_normal((len(LABELS), encoder.width)).astype(np.float32) / 20,
        np.zeros(len(LABELS), np.float32),
    )
    with tempfile.TemporaryDirectory() as folder:
        db = Path(folder, "library.db")
        fill(db, recordings)
        head.save(Path(folder, "head.safetensors"))
        settings = Settings(db=db, head=str(Path(folder, "head.safetensors")), encoder="rhythm")
        with Store(db) as store:
            started = time.perf_counter()
            count = sum(1 for _ in store.embeddings([encoder.encoder_id]))
            read_s = time.perf_counter() - started
        print(f"reading {count:,} rows: {read_s:.1f} s ({db.stat().st_size / 1e9:.2f} GB)")
        for what in ("first", "again"):
            found = relabel(settings)
            print(
                f"relabel, {what}: {found['elapsed_s']:.1f} s,"
                f" {found['classified'] / found['elapsed_s']:,.0f} recordings a second,"
                f" {found['elapsed_s'] / read_s:.1f} times reading alone"
            )
        print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)
