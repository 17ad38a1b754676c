"""Rescan of an unchanged library against os.walk + stat of the same tree, in one run, alternating.

    python -m tests.benchmarks.bench_rescan [FILES ...]      (default: 1000 20000)

The tree holds small files and the library a row for each, as after a first scan; the rescan is the whole of it: lock,
open, difference, backlog, summary. Prints the ratio's median and spread, and the memory that the rescan adds.
"""

import os
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path

from indexer.cli.progress import Progress
from indexer.config import Settings
from indexer.encoders.load import built_in_info
from indexer.files.audio.identity import Stat
from indexer.library.store import Store
from indexer.scan.run import Scan

ROUNDS = 7


def build(folder: Path, files: int) -> None:
    """Albums of 12 files, 40 albums a label."""
    for n in range(files):
        album = folder / f"label {n // 480:04}" / f"album {n // 12:06}"
        if n % 12 == 0:
            album.mkdir(parents=True)
        (album / f"{n % 12:02} - track {n}.mp3").write_bytes(b"x")


def fill(store: Store, folder: Path) -> None:
    """Rows as a first scan leaves them."""
    root = store.add_root(os.fsencode(folder))
    encoder = built_in_info("rhythm")
    store.put_encoder(encoder.encoder_id, name=encoder.name, width=encoder.width, unit_s=encoder.unit_s)
    with store.transaction():
        for top, _, names in os.walk(os.fsencode(folder)):
            for name in names:
                path = os.path.join(top, name)
                recording = store.recording(
                    name.decode(), codec="mp3", sample_rate_hz=44_100, channels=2, duration_s=1.0
                )
                store.put_embedding(recording, encoder.encoder_id, bytes(2 * encoder.width), 1)
                store.put_file(
                    path, Stat.of(path), root_id=root, state="ready", container="mp3", recording_id=recording
                )


def plain_walk(folder: Path) -> int:
    """The baseline: every file's name and stat."""
    count = 0
    for top, _, names in os.walk(folder):
        for name in names:
            os.stat(os.path.join(top, name))
            count += 1
    return count


def measure(files: int) -> None:
    """One tree size."""
    with tempfile.TemporaryDirectory() as temp:
        folder = Path(temp, "music")
        folder.mkdir()
        build(folder, files)
        settings = Settings(db=Path(temp, "library.db"), models=Path(temp, "models"))
        with Store(settings.db) as store:
            fill(store, folder)
        ratios, walks, scans = [], [], []
        memory_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for _ in range(ROUNDS):
            started = time.perf_counter()
            assert plain_walk(folder) == files
            walked = time.perf_counter()
            result = Scan(settings, Progress(-1)).run([folder])
            scanned = time.perf_counter()
            assert (result.files, result.counts.failed, result.notes) == (files, 0, [])
            walks.append(walked - started)
            scans.append(scanned - walked)
            ratios.append(scans[-1] / walks[-1])
        grown_mb = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory_kb) / 1024
        print(
            f"{files:9,} files: walk {statistics.median(walks):.3f} s, rescan {statistics.median(scans):.3f} s, "
            f"ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}), memory +{grown_mb:.1f} MB"
        )


if __name__ == "__main__":
    for number in map(int, sys.argv[1:] or ["1000", "20000"]):
        measure(number)
