"""The Tracks page of a library of 100,000 files, by filter and order, beside Datasette's own table of the same rows.

    python -m tests.benchmarks.bench_tracks [FILES] [REQUESTS]      (default: 100000 100)

Four clients ask while another process stores a word of a person twice a second, so that the page reads the library anew
again and again. The library is synthetic: tags, a prediction and scores for every file, no embeddings.
"""

import itertools
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from indexer.config import Settings
from indexer.files.audio.identity import Stat
from indexer.library.store import Store
from indexer.scan.genre_labels import update_genre_labels

CLIENTS = 4
LABELS = ("ambient", "drum and bass", "house", "techno", "trance")
WORDS = (
    "amber",
    "blue",
    "cloud",
    "deep",
    "echo",
    "fading",
    "glass",
    "hollow",
    "jade",
    "lunar",
    "metal",
    "night",
    "open",
)
BASELINE = "Datasette's own table page"
PAGES = {
    BASELINE: "/library/tracks?_size=100",
    "newest first": "/-/tracks",
    "page 500": "/-/tracks?page=500",
    "by title": "/-/tracks?sort=title",
    "a genre": "/-/tracks?genre=techno",
    "undecided, least sure first": "/-/tracks?undecided=1&sort=confidence",
    "genre, tempo, year, longest first": "/-/tracks?genre=house&from_bpm=120&to_bpm=129&year=2014&sort=-length",
    "a folder": "/-/tracks?folder=/music/7",
    "a search": "/-/tracks?q=deep+night",
}


def fill(db: Path, files: int) -> None:
    """A scanned library whose files are not there."""
    chosen, scores = random.Random(0), np.random.default_rng(0).dirichlet(np.full(5, 0.4), files)
    with Store(db) as store, store.transaction():
        store.put_encoder("e", name="made", width=2, unit_s=6.0)
        store.put_head("h", name="made", kind="linear", encoder_id="e", labels=LABELS, threshold=0.7, source="")
        root = store.add_root(b"/music")
        for n in range(files):
            recording = store.recording(
                f"{n:064x}", codec="mp3", sample_rate_hz=44_100, channels=2, duration_s=chosen.uniform(120, 600)
            )
            file_id = store.put_file(
                b"/music/%d/%d/%d.mp3" % (n // 5000, n // 20, n),
                Stat(1, n, 1, 1),
                root_id=root,
                state="ready",
                container=chosen.choice(["mp3", "mp3", "flac", "aiff"]),
                recording_id=recording,
            )
            store.put_tags(
                file_id,
                {
                    "title": " ".join(chosen.sample(WORDS, 3)),
                    "artist": f"Artist {n // 20}",
                    "album": f"Album {n // 10}",
                    "bpm": chosen.choice([None, float(chosen.randint(70, 180))]),
                    "musical_key": chosen.choice([None, "Am", "C", "F#m", "8A"]),
                    "year": chosen.randint(1990, 2025),
                    "genre": chosen.choice([None, None, None, "House", "Techno", "Deep Something"]),
                },
            )
            store.put_prediction(
                recording,
                "h",
                dict(zip(LABELS, scores[n].tolist(), strict=True)),
                0.7,
                decided=scores[n].max() >= 0.7,
            )
    with Store(db) as store:
        store.use_head("h")
        update_genre_labels(store, Settings())


def saying(db: Path, files: int, stop: threading.Event) -> None:
    """A word of a person, twice a second."""
    with Store(db) as store:
        for n in itertools.count():
            if stop.wait(0.5):
                return
            store.correct(1 + n % files, "techno")


def timed(url: str) -> float:
    """Seconds until an answer is there whole."""
    started = time.perf_counter()
    with urllib.request.urlopen(url, timeout=120) as answer:
        answer.read()
    return time.perf_counter() - started


def main(files: int, requests: int) -> None:
    """Fill, serve, ask."""
    with tempfile.TemporaryDirectory() as folder:
        db = Path(folder) / "library.db"
        fill(db, files)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        server = subprocess.Popen(
            [sys.executable, "-m", "indexer", "serve", "--db", str(db), "--port", str(port)], stderr=subprocess.DEVNULL
        )
        base = f"http://127.0.0.1:{port}"
        stop = threading.Event()
        writer = threading.Thread(target=saying, args=(db, files, stop))
        try:
            while True:
                try:
                    timed(f"{base}/-/now.json")
                    break
                except OSError:
                    time.sleep(0.02)
            print(f"{files:,} files; the first visit takes {timed(base + '/-/tracks'):.2f} s")
            writer.start()
            baseline = 0.0
            for name, path in PAGES.items():
                with ThreadPoolExecutor(CLIENTS) as pool:
                    found = sorted(pool.map(timed, [base + path] * requests))
                median, late = statistics.median(found), found[int(0.95 * len(found))]
                baseline = baseline or median
                print(
                    f"{name:34} median {1000 * median:6.0f} ms, 95th percentile {1000 * late:6.0f} ms,"
                    f" {median / baseline:5.3f} times the table page",
                    flush=True,
                )
        finally:
            stop.set()
            writer.join()
            server.terminate()
            server.wait()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000, int(sys.argv[2]) if len(sys.argv) > 2 else 100)
