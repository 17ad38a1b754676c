"""When a new library of 40,000 tracks has its genres: heard roughly first and then whole, against whole at once.

    python -m tests.benchmarks.simulate_first_labels [--files 40000] [--rough-after-h 3]

A real scan (walk, stages, library, both rounds) of empty files, whose executor answers at once and moves a clock on by
what was measured for a track of five minutes: decoding on two cores (bench_decode), eight excerpts (bench_seek), units
of the encoder (bench_encoder); the slower of the two counts, because they run beside each other. The library's own work
is not on that clock: it is a few hundredths of the rest.
"""

import argparse
import tempfile
from concurrent.futures import Future
from pathlib import Path

from indexer.config import Settings
from indexer.library.vectors import projection, same_sound
from indexer.listen.embedder import ROUGH_UNITS
from indexer.listen.executor import Embedded
from indexer.scan import pipeline
from indexer.scan.pace import Pace
from indexer.scan.run import Scan
from tests.benchmarks.bench_cluster import Instant, Silent, make_files

# CPU seconds of a 5-minute track: all of it decoded and resampled, and eight excerpts (of 303 s, Ogg Vorbis).
DECODE_S, EXCERPTS_S, CORES = 0.44, 0.11, 2
INSPECT_S = 0.06  # hashing 10 MB and reading tags
UNITS = 50
# Units a second on two cores of an AMD EPYC with AVX-512 BF16 and VNNI (docs/performance.md).
ENCODERS = {"M2D fp32": 9.4, "M2D bf16": 21.0, "M2D int8": 36.5}


class Clocked(Instant):
    """Answers at once and moves the clock on."""

    limit = 64

    def __init__(self, units_s: float) -> None:
        self.now_s = 0.0
        self.units_s = units_s
        self.rough_at: list[float] = []  # when each recording was heard roughly, or at once whole
        self.whole_at: list[float] = []

    def inspect(self, path: bytes, stat: object) -> "Future[dict]":
        self.now_s += INSPECT_S / CORES
        return super().inspect(path, stat)

    def embed(
        self, path: bytes, stat: object, part: object, *, analyse: bool, rough: bool = False
    ) -> "Future[Embedded]":
        reading_s = (EXCERPTS_S if rough else DECODE_S) / CORES
        self.now_s += max(reading_s, (ROUGH_UNITS if rough else UNITS) / self.units_s)
        (self.rough_at if rough else self.whole_at).append(self.now_s)
        return super().embed(path, stat, part, analyse=analyse)


def simulated(music: Path, folder: Path, units_s: float, rough_after_h: float) -> Clocked:
    """One scan of a new library."""
    executor = Clocked(units_s)
    pipeline.Pace = lambda after_s, left: Pace(after_s, left, lambda: executor.now_s)  # type: ignore[attr-defined]
    settings = Settings(db=folder / "library.db", models=folder, encoder="rhythm", rough_after_h=rough_after_h)
    running = Scan(settings, Silent())
    running._executor = lambda *_: executor
    running.run([music])
    settings.db.unlink()
    return executor


def hours(moments: list[float], share: float, of: int) -> str:
    """When that share of all recordings was done."""
    count = max(1, round(share * of))
    return f"{moments[count - 1] / 3600:.1f}" if len(moments) >= count else "-"


def main() -> None:
    """A row for each encoder and way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=40_000)
    parser.add_argument("--rough-after-h", type=float, default=3.0)
    given = parser.parse_args()
    projection.update = same_sound.update = lambda *_: 0
    print(
        "| encoder | way | heard after an hour | all heard | half heard whole | all heard whole |",
        "|---" * 6 + "|",
        sep="\n",
    )
    with tempfile.TemporaryDirectory() as name:
        make_files(Path(name, "music"), given.files)
        for encoder, units_s in ENCODERS.items():
            for way, after_h in (("whole at once", 1e6), ("roughly first", given.rough_after_h)):
                found = simulated(Path(name, "music"), Path(name), units_s, after_h)
                n = given.files
                first = sorted(found.rough_at + found.whole_at)[:n]
                print(
                    f"| {encoder} | {way} | {sum(at <= 3600 for at in first):,} tracks | {hours(first, 1, n)} h"
                    f" | {hours(found.whole_at, 0.5, n)} h | {hours(found.whole_at, 1, n)} h |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
