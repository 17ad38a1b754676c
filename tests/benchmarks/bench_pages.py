"""Every page of a library of 100,000 tracks, asked by eight clients while a scan writes.

    python -m tests.benchmarks.bench_pages [TRACKS] [REQUESTS]      (default: 100000 200)

Datasette's own table page in the same run is the baseline. The library is synthetic: tags, five scores and a timeline
for every track, vectors of the built-in encoder's width.
"""

import random
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from indexer.encoders.load import built_in_info
from indexer.files.audio.identity import Stat
from indexer.library.store import Store
from indexer.library.vectors import projection
from tests.helpers.cli import Cli

CLIENTS = 8
LABELS = ("ambient", "drum and bass", "house", "techno", "trance")
BASELINE = "/library/tracks?_size=50"


def fill(db: Path, tracks: int) -> None:
    """A scanned library whose files are not there."""
    rng = np.random.default_rng(0)
    encoder = built_in_info("rhythm")
    with Store(db) as store, store.transaction():
        store.put_encoder(encoder.encoder_id, name=encoder.name, width=encoder.width, unit_s=encoder.unit_s)
        store.put_head(
            "h", name="made", kind="linear", encoder_id=encoder.encoder_id, labels=LABELS, threshold=0.5, source=""
        )
        root = store.add_root(b"/music")
        for n in range(tracks):
            put_track(store, rng, n, root, encoder.encoder_id, encoder.width)
    with Store(db) as store:
        store.use_encoder(encoder.encoder_id)
        store.use_head("h")
        projection.update(store, encoder.encoder_id, [encoder.encoder_id])


def put_track(store: Store, rng: np.random.Generator, n: int, root: int, encoder_id: str, width: int) -> None:
    """One track, as a scan stores it."""
    recording = store.recording(f"{n:064x}", codec="mp3", sample_rate_hz=44_100, channels=2, duration_s=300.0)
    file_id = store.put_file(
        b"/music/%d/%d.mp3" % (n // 100, n),
        Stat(1, n, 1, 1),
        root_id=root,
        state="ready",
        container="mp3",
        recording_id=recording,
    )
    said = random.Random(n)
    store.put_tags(
        file_id,
        {
            "title": f"Track {n}",
            "artist": f"Artist {n // 20}",
            "album": f"Album {n // 10}",
            "bpm": float(said.randint(70, 180)),
            "genre": said.choice([None, None, None, "House", "Techno", "Deep Something"]),
        },
    )
    store.put_embedding(recording, encoder_id, rng.standard_normal(width, np.float32).astype("<f2").tobytes(), 50)
    scores = rng.dirichlet(np.full(5, 0.4))
    store.put_prediction(
        recording, "h", dict(zip(LABELS, scores.tolist(), strict=True)), 0.5, decided=scores.max() >= 0.5
    )
    store.put_timeline(recording, "h", 6.0, rng.integers(0, 255, 250, np.uint8).tobytes())


def writing(db: Path, first: int, stop: threading.Event) -> Iterator[None]:
    """Store new tracks one after the other, as a scan does, some forty a second."""
    rng = np.random.default_rng(1)
    encoder = built_in_info("rhythm")
    with Store(db) as store:
        n = first
        while not stop.is_set():
            with store.transaction():
                put_track(store, rng, n, 1, encoder.encoder_id, encoder.width)
            n += 1
            time.sleep(0.02)
            yield


def timed(url: str) -> float:
    """Seconds until an answer is there whole."""
    started = time.perf_counter()
    with urllib.request.urlopen(url, timeout=120) as answer:
        answer.read()
    return time.perf_counter() - started


def main(tracks: int, requests: int) -> None:
    """Fill, serve, ask."""
    with tempfile.TemporaryDirectory() as folder:
        cli = Cli(Path(folder), "rhythm")
        fill(cli.db, tracks)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        started = time.perf_counter()
        server = subprocess.Popen(
            [sys.executable, "-m", "indexer", "serve", "--db", str(cli.db), "--port", str(port)],
            stderr=subprocess.DEVNULL,
        )
        base = f"http://127.0.0.1:{port}"
        while True:
            try:
                timed(f"{base}/-/now.json")
                break
            except OSError:
                time.sleep(0.02)
        print(f"`indexer serve` answers {time.perf_counter() - started:.2f} s after its start")
        chosen = random.Random(0)
        some = [chosen.randint(1, tracks) for _ in range(requests)]
        pages = {
            "Datasette's own table page": [BASELINE] * requests,
            "overview": ["/"] * requests,
            "overview, live part": ["/-/now.json"] * requests,
            "track page": [f"/library/tracks/{n}" for n in some],
            "similar tracks": [f"/-/similar/{n}.json" for n in some],
            "review, next 20": [f"/-/review.json?skip={n}" for n in some],
            "a question": ["/library/by_genre?genre=house&min_confidence=0"] * requests,
            "classify page": ["/-/classify"] * requests,
            "map page": ["/-/map"] * requests,
            "map data": ["/-/map.bin"] * requests,
        }
        try:
            while urllib.request.urlopen(f"{base}/-/similar/1.json").status == 202:
                time.sleep(0.5)
            stop = threading.Event()
            writer = threading.Thread(target=lambda: [None for _ in writing(cli.db, tracks, stop)])
            writer.start()
            baseline = 0.0
            print(f"{requests} requests a page by {CLIENTS} clients, while a scan stores some forty tracks a second:")
            for name, paths in pages.items():
                timed(base + paths[0])
                with ThreadPoolExecutor(CLIENTS) as pool:
                    found = sorted(pool.map(lambda path: timed(base + path), paths))
                median, late = statistics.median(found), found[int(0.95 * len(found))]
                baseline = baseline or median
                print(
                    f"{name:28} median {1000 * median:7.0f} ms, 95th percentile {1000 * late:7.0f} ms,"
                    f" {median / baseline:5.2f} times the table page;"
                    f" alone {1000 * min(timed(base + path) for path in paths[:5]):6.0f} ms",
                    flush=True,
                )
            stop.set()
            writer.join()
        finally:
            server.terminate()
            server.wait()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000, int(sys.argv[2]) if len(sys.argv) > 2 else 200)
