"""Where seeking lands, and what it saves: excerpts that were gone to, beside the same places of the decoded whole.

    python -m tests.benchmarks.bench_seek [FILE ...] [--count 8] [--seconds 7]      (default: a file in each container)

For each file: how far (ms) each excerpt lies from where it should, by the shift at which it fits the whole best; how
well it fits there (the share of its energy that differs, 0 is perfect); CPU seconds of both ways.
"""

import argparse
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from indexer.errors import FileError
from indexer.files.audio.decode import UnsafeToSeekError, decode, excerpts
from tests.helpers.synth import CONTAINERS, write_audio

RATE_HZ = 16_000
SHIFT_S = 2.0  # a shift is looked for within so much at both sides


def landed(whole: np.ndarray, piece: np.ndarray, start: int) -> tuple[float, float]:
    """(shift in ms, share of the energy that differs) of a piece that should begin at sample ``start`` of the whole."""
    margin = round(SHIFT_S * RATE_HZ)
    low = max(0, start - margin)
    around = whole[low : start + len(piece) + margin]
    size = 1 << (len(around) + len(piece)).bit_length()
    product = np.fft.irfft(np.fft.rfft(around, size) * np.conj(np.fft.rfft(piece, size)), size)
    at = int(np.argmax(product[: len(around) - len(piece) + 1]))
    difference = around[at : at + len(piece)] - piece
    return 1000 * (low + at - start) / RATE_HZ, float((difference**2).sum() / max(1e-12, (piece**2).sum()))


def vbr_mp3s(folder: Path) -> Iterator[Path]:
    """MP3s with and without the header that states their length, where ffmpeg is installed."""
    source = write_audio(folder / "source", "wav", 200.0)
    for name, options in {
        "vbr.mp3": ["-q:a", "4"],
        "vbr-no-header.mp3": ["-q:a", "4", "-write_xing", "0"],
        "cbr-no-header.mp3": ["-b:a", "192k", "-write_xing", "0"],
        "fragmented.m4a": ["-c:a", "aac", "-movflags", "frag_keyframe+empty_moov"],
    }.items():
        done = subprocess.run(["ffmpeg", "-v", "error", "-y", "-i", source, *options, folder / name], check=False)
        if done.returncode == 0:
            yield folder / name


def main() -> None:
    """Measure every file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--count", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=7.0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        made = [write_audio(Path(name, kind), kind, 200.0, seed=n) for n, kind in enumerate(CONTAINERS)]
        for path in given.files or [*made, *vbr_mp3s(Path(name))]:
            measure(path, given.count, given.seconds)


def measure(path: Path, count: int, seconds: float) -> None:
    """Print what one file gives."""
    at = time.process_time()
    try:
        whole = np.concatenate(list(decode(path, sample_rate_hz=RATE_HZ)))
    except FileError as e:
        print(f"{path.name:22} {e.reason}")
        return
    decoded = time.process_time()
    try:
        pieces = [piece for _, piece in excerpts(path, count=count, seconds=seconds, sample_rate_hz=RATE_HZ)]
    except UnsafeToSeekError:
        print(f"{path.name:22} is decoded from its beginning; {decoded - at:.2f} s")
        return
    sought = time.process_time()
    step = (len(whole) - seconds * RATE_HZ) / (count - 1)
    found = [landed(whole, piece, round(n * step)) for n, piece in enumerate(pieces)]
    print(
        f"{path.name:22} furthest {max((shift for shift, _ in found), key=abs):8.2f} ms, differs by at most"
        f" {max(share for _, share in found):.1e}; all {decoded - at:.2f} s, excerpts {sought - decoded:.2f} s",
        flush=True,
    )


if __name__ == "__main__":
    main()
