"""CPU time of our decoding as a ratio to soundfile in blocks + soxr, per container, measured in the same run.

    python -m tests.benchmarks.bench_decode [--seconds 120] [--rounds 7] [FILE ...]

Without files it synthesises one track per container. A ratio of 1.0 is as fast as libsndfile; below is faster. The two
take turns, so that what else the machine does meets both. Where libsndfile cannot read a file there is no ratio.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import soundfile
import soxr

from indexer.files.audio.decode import decode, probe
from tests.helpers.synth import CONTAINERS, music, write_audio

RATE_HZ = 16_000
BLOCK_FRAMES = 1 << 16


def ours(path: Path) -> Iterator[np.ndarray]:
    return decode(path)


def soundfile_and_soxr(path: Path) -> Iterator[np.ndarray]:
    """The plain way: libsndfile in blocks, numpy's mean, soxr HQ as a stream."""
    with soundfile.SoundFile(path) as file:
        resampler = soxr.ResampleStream(file.samplerate, RATE_HZ, 1, dtype="float32", quality="HQ")
        for block in file.blocks(BLOCK_FRAMES, dtype="float32", always_2d=True):
            yield resampler.resample_chunk(block.mean(axis=1))
        yield resampler.resample_chunk(np.empty(0, np.float32), last=True)


def cpu_s(way: Callable[[Path], Iterator[np.ndarray]], path: Path) -> tuple[float, int]:
    """CPU seconds and frames of one decoding."""
    start = time.process_time()
    frames = sum(len(block) for block in way(path))
    return time.process_time() - start, frames


def compare(path: Path, name: str, rounds: int) -> None:
    try:
        cpu_s(soundfile_and_soxr, path)
        readable = True
    except soundfile.LibsndfileError:
        readable = False
    cpu_s(ours, path)
    mine, ratios, frames = [], [], 0
    for _ in range(rounds):
        seconds, frames = cpu_s(ours, path)
        mine.append(seconds)
        if readable:
            ratios.append(seconds / cpu_s(soundfile_and_soxr, path)[0])
    speed = frames / RATE_HZ / statistics.median(mine)
    ratio = (
        f"{statistics.median(ratios):5.2f}  ({min(ratios):.2f}-{max(ratios):.2f})"
        if ratios
        else "    -  (libsndfile cannot)"
    )
    print(
        f"{name:<24} {probe(path).codec:<12} {statistics.median(mine) * 1000:8.1f} ms"
        f"  {speed:7.0f} x real time  {ratio}"
    )


def write_vorbis(path: Path, seconds: float) -> None:
    """In blocks: libsndfile 1.2.2 overflows its stack on a long track written at once."""
    data = music(seconds)
    with soundfile.SoundFile(path, "w", 44_100, data.shape[1], format="OGG", subtype="VORBIS") as file:
        for start in range(0, len(data), BLOCK_FRAMES):
            file.write(data[start : start + BLOCK_FRAMES])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--seconds", type=float, default=120.0, help="length of each synthesised track")
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    print(
        f"{'file':<24} {'codec':<12} {'CPU':>8}      {'speed':>7}"
        "              ratio to soundfile + soxr, median (spread)"
    )
    if args.files:
        for path in args.files:
            compare(path, path.name[:24], args.rounds)
        return
    with tempfile.TemporaryDirectory() as folder:
        for container, (ending, _codec) in CONTAINERS.items():
            path = Path(folder) / f"{container}{ending}"
            if container == "vorbis":
                write_vorbis(path, args.seconds)
            else:
                write_audio(path, container, args.seconds)
            compare(path, container, args.rounds)


if __name__ == "__main__":
    main()
