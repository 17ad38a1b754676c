"""The map of a large library: what it costs a scan and what a browser is sent, each beside a plain way of doing it.

    python -m tests.benchmarks.bench_map [TRACKS] [WIDTH] [--folder DIR]      (default: 100000 3840, in the temporary
    folder)

The vectors are random around five centres. Baselines: reading all vectors in one statement, and the same points as
compressed JSON.
"""

import argparse
import asyncio
import gzip
import json
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from indexer.config import load_settings
from indexer.files.audio.identity import Stat
from indexer.library.readonly import open_readonly
from indexer.library.store import Store
from indexer.library.vectors.projection import update
from indexer.web.serve import make_datasette

ROUNDS = 5
ENCODER = "e" * 64
LABELS = ("ambient", "drum and bass", "house", "techno", "trance")


def fill(store: Store, first: int, tracks: int, width: int) -> None:
    """Recordings with files, embeddings and genres."""
    rng = np.random.default_rng(first)
    centres = np.random.default_rng(0).standard_normal((len(LABELS), width), np.float32)
    store.put_encoder(ENCODER, name="made", width=width, unit_s=6.0)
    store.use_encoder(ENCODER)
    store.put_head("h", name="made", kind="linear", encoder_id=ENCODER, labels=LABELS, threshold=0.5, source="made")
    store.use_head("h")
    with store.transaction():
        for n in range(first, first + tracks):
            genre, confidence = n % len(LABELS), float(rng.uniform(0.3, 1))
            recording = store.recording(f"{n:064x}", codec="mp3", sample_rate_hz=44_100, channels=2, duration_s=300.0)
            file = store.put_file(
                b"/music/%d.mp3" % n, Stat(1, n, 1, 1), root_id=None, state="ready", recording_id=recording
            )
            store.connection.execute(
                "INSERT INTO tags (file_id, title, artist) VALUES (?, ?, ?)", (file, f"Title {n}", f"Artist {n % 977}")
            )
            vector = 30 + centres[genre] * 0.3 + rng.standard_normal(width, np.float32)
            store.put_embedding(recording, ENCODER, vector.astype("<f2").tobytes(), 50)
            rest = (1 - confidence) / (len(LABELS) - 1)
            store.put_prediction(
                recording,
                "h",
                {label: confidence if place == genre else rest for place, label in enumerate(LABELS)},
                0.5,
                decided=confidence >= 0.5,
            )


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """(seconds, result)."""
    started = time.perf_counter()
    found = work()
    return time.perf_counter() - started, found


def main() -> None:
    """Fill, project, serve, compare."""
    parser = argparse.ArgumentParser()
    parser.add_argument("tracks", type=int, nargs="?", default=100_000)
    parser.add_argument("width", type=int, nargs="?", default=3840)
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        measure(Path(folder, "library.db"), arguments.tracks, arguments.width)


def measure(db: Path, tracks: int, width: int) -> None:
    """The scan's part, then the browser's."""
    with Store(db) as store:
        fill(store, 0, tracks, width)
        update_s, placed = timed(lambda: update(store, ENCODER, [ENCODER]))
        read_s, _ = timed(
            lambda: sum(
                len(row[0])
                for row in store.connection.execute("SELECT vector FROM embeddings WHERE encoder_id = ?", (ENCODER,))
            )
        )
        print(
            f"{tracks:,} x {width}; all placed on new axes: {update_s:.1f} s ({placed:,}),"
            f" reading all vectors: {read_s:.1f} s, ratio {update_s / read_s:.1f};"
            f" peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB"
        )
        nothing_s = statistics.median(timed(lambda: update(store, ENCODER, [ENCODER]))[0] for _ in range(ROUNDS))
        fill(store, tracks, 1, width)
        one_s, placed = timed(lambda: update(store, ENCODER, [ENCODER]))
        print(
            f"after a scan that embedded {placed}: {1000 * one_s:.0f} ms, nothing: {1000 * nothing_s:.0f} ms;"
            f" {one_s / update_s:.3f} of all"
        )

    async def ask(path: str, **headers: str) -> Any:
        return await datasette.client.get(path, headers={"host": "127.0.0.1", **headers})

    async def page() -> None:
        await datasette.invoke_startup()
        times = []
        for _ in range(ROUNDS):
            started = time.perf_counter()
            db.touch()  # as if it had changed: the points are packed again
            answer = await ask("/-/map.bin", **{"accept-encoding": "gzip"})
            times.append(time.perf_counter() - started)
        again_s = time.perf_counter()
        unchanged = await ask("/-/map.bin", **{"if-none-match": answer.headers["etag"]})
        again_s = time.perf_counter() - again_s
        sent = answer.num_bytes_downloaded
        json_s, plain = timed(lambda: as_json(db))
        print(
            f"the map's data: {sent / 1e6:.2f} MB compressed, {len(answer.content) / 1e6:.2f} MB unpacked,"
            f" in {1000 * statistics.median(times):.0f} ms;"
            f" JSON: {len(plain) / 1e6:.2f} MB compressed in {1000 * json_s:.0f} ms;"
            f" ratios {sent / len(plain):.2f} and {statistics.median(times) / json_s:.2f};"
            f" unchanged ({unchanged.status_code}): {1000 * again_s:.0f} ms"
        )

    datasette = make_datasette(load_settings(None, {"db": db}, {}))
    asyncio.run(page())


def as_json(db: Path) -> bytes:
    """The plain way: rows as Datasette would send them."""
    with closing(open_readonly(db)) as conn:
        rows = conn.execute(
            "SELECT f.id, p.x, p.y, d.genre FROM places p JOIN files f ON f.recording_id = p.recording_id"
            " JOIN predictions d ON d.recording_id = p.recording_id"
        ).fetchall()
        return gzip.compress(json.dumps([dict(row) for row in rows]).encode(), 6)


if __name__ == "__main__":
    main()
