"""`find` over a large library: the ranking for a text's vector, with and without filters, on a warm derived file.

    python -m tests.benchmarks.bench_find [TRACKS] [WIDTH] [--folder DIR]      (default: 100000 768, in the
    temporary folder)

The vectors are random: nothing is said about taste. Not in the figures: the text's own vector, which the text encoder
makes (seconds to load, then some 20 ms), and the start of the program. The library has a file, a genre and an audio
vector for each track; the database takes 2 bytes a number, the derived file 4.
"""

import argparse
import resource
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from indexer.files.audio.identity import Stat
from indexer.library.readonly import open_readonly
from indexer.library.store import Store
from indexer.library.vectors.directions import open_directions
from indexer.library.vectors.words import like_text

ROUNDS = 9
WORDS = "w" * 64
GENRES = ("Ambient", "Drum and Bass", "House", "Techno", "Trance")
RARE_EVERY = 10_000  # tracks, one of which is Polka
PAGE = 5_000
ASKED = {
    "any track": {},
    "of a common genre": {"genre": "techno"},
    "of a rare genre": {"genre": "polka"},
    "below a folder of 100": {"below": b"/music/7"},
}


def fill(db: Path, tracks: int, width: int) -> None:
    """Recordings with a file, a genre and an audio vector each; the files are not there."""
    rng = np.random.default_rng(0)
    with Store(db) as store:
        store.put_encoder("e" * 64, name="made", width=8, unit_s=6.0)
        store.put_encoder(WORDS, name="made, words", width=width, unit_s=6.0, words_of="e" * 64)
        root = store.add_root(b"/music")
        common = rng.standard_normal(width)  # audio vectors of different music are alike
        for first in range(0, tracks, PAGE):
            vectors = rng.standard_normal((PAGE, width)) + common
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
            with store.transaction():
                for n, vector in enumerate(vectors.astype("<f2")[: tracks - first], first):
                    recording = store.recording(
                        f"{n:064x}", codec="mp3", sample_rate_hz=44_100, channels=2, duration_s=300.0
                    )
                    place = b"/music/%d/%d.mp3" % (n // 100, n)
                    file = store.put_file(place, Stat(1, n, 1, 1), root_id=root, state="ready", recording_id=recording)
                    genre = "Polka" if n % RARE_EVERY == 0 else GENRES[n % len(GENRES)]
                    store.put_tags(file, {"title": f"{n}", "artist": f"artist {n % 500}", "genre": genre})
                    store.put_embedding(recording, WORDS, vector.tobytes(), 50)


def main() -> None:
    """Fill, ask, say how long and how much memory."""
    parser = argparse.ArgumentParser()
    parser.add_argument("tracks", type=int, nargs="?", default=100_000)
    parser.add_argument("width", type=int, nargs="?", default=768)
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        db = Path(folder, "library.db")
        fill(db, arguments.tracks, arguments.width)
        conn = open_readonly(db)
        before_mb, started, cpu = _own_mb(), time.perf_counter(), time.process_time()
        open_directions(conn, db, WORDS)
        print(
            f"{arguments.tracks:,} x {arguments.width}; making the derived file, once:"
            f" {time.perf_counter() - started:.1f} s, {time.process_time() - cpu:.1f} s of CPU"
        )
        rng = np.random.default_rng(1)
        for what, options in ASKED.items():
            seconds, cpu_s, found = [], [], []
            for _ in range(ROUNDS):
                vector = rng.standard_normal(arguments.width).astype(np.float32)
                started, cpu = time.perf_counter(), time.process_time()
                found = like_text(conn, open_directions(conn, db, WORDS), vector, 50, **options)
                seconds.append(time.perf_counter() - started)
                cpu_s.append(time.process_time() - cpu)
            print(
                f"{what}: {len(found)} tracks, {1000 * statistics.median(seconds):.0f} ms"
                f" ({1000 * statistics.median(cpu_s):.0f} ms of CPU)"
            )
        print(
            f"memory: {_own_mb() - before_mb:.0f} MB of the process's own, and the file's pages, which are the system's"
            f" to drop; peak with them {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3:.0f} MB"
        )
        conn.close()


def _own_mb() -> float:
    """Memory that is not the content of a mapped file."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) / 1e3


if __name__ == "__main__":
    main()
