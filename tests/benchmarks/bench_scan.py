"""End to end, from files to embeddings: `indexer scan` against the plain way, loading included, by turns in one run.

    python -m tests.benchmarks.bench_scan [--precisions fp32 bf16 int8] [--rounds 3] [FILE ...]

Every turn is a process of its own, from the start of Python to its end, so that importing torch or OpenVINO and loading
the weights count. The plain way is the published usage: it reads one file at a time whole (soundfile, soxr), and
encodes one unit at a time in fp32 with torch's defaults. Same random ViT-Base weights, same files; the model was added
and prepared before, as `indexer models add` does. Without FILEs: three synthesised tracks of 60 s in mp3, flac and
opus.

Ratios are of wall time, and of processor time of all processes together. With OMP_NUM_THREADS=1 each way computes in
one thread: no thread waits for another, and processor time says what the work costs also while others compute.
*The ceiling* is matrix products of the same sizes in the same arithmetic, measured in each round; the share of it
counts the encoder's products against all that the scan does, loading and decoding included.
"""

import argparse
import os
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from indexer.encoders.m2d import openvino, prepare
from tests.benchmarks.machine import machine

UNIT = 608 * 160 + 240  # samples of a 6.08 s unit with the STFT's context
STRIDE_S = 6.08


def plain_way(files: list[Path], weights: Path) -> None:
    """The published usage; whole units only, as the last one changes the time by nothing."""
    import numpy as np
    import soundfile
    import soxr
    import torch

    from tests.benchmarks.bench_encoder import Plain

    model = Plain().eval()
    model.load_state_dict(torch.load(weights, weights_only=True))
    for file in files:
        samples, rate = soundfile.read(file, dtype="float32", always_2d=True)
        mono = soxr.resample(samples.mean(axis=1), rate, 16_000, "HQ")
        units = [model(torch.from_numpy(mono[i : i + UNIT])) for i in range(0, len(mono) - UNIT + 1, 608 * 160)]
        assert np.isfinite(torch.stack(units).mean(0).numpy()).all()


def our_way(folder: Path, model: Path, precision: str) -> None:
    """One scan into a new library."""
    from indexer.cli.progress import Progress
    from indexer.config import Settings
    from indexer.scan.run import Scan

    with tempfile.TemporaryDirectory() as temp:
        settings = Settings(
            db=Path(temp, "library.db"), models=Path(temp), encoder=str(model), precision=precision, device="cpu"
        )
        result = Scan(settings, Progress(-1)).run([folder], write_tags=False)
        assert result.counts.embedded == len(list(folder.iterdir())), result.to_json()


@dataclass(frozen=True)
class Turn:
    """What one process took."""

    wall_s: float
    cpu_s: float  # with its readers
    memory_mb: float  # of it at its peak, without its readers


def turn(*arguments: object) -> Turn:
    """Run this module in a process of its own, which may keep its bytecode, as an installed program does."""
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    started_s = time.perf_counter()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    out = subprocess.run(
        [sys.executable, "-m", __spec__.name, *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env=environ,
    ).stdout
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Turn(time.perf_counter() - started_s, cpu_s, int(out) / 1e3)


def ceiling(precision: str) -> tuple[float, float]:
    """GFLOP a second of bare products, by wall time and by processor time."""
    from tests.benchmarks.bench_encoder import products

    run, gflop = products(precision, "cpu", 8)
    run()
    started_s, started_cpu_s = time.perf_counter(), time.process_time()
    for _ in range(3):
        run()
    return 3 * gflop / (time.perf_counter() - started_s), 3 * gflop / (time.process_time() - started_cpu_s)


def spread(values: list[float]) -> str:
    """Median and extremes."""
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--precisions", nargs="*", default=["fp32", "bf16", "int8"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--turn", nargs=2, help=argparse.SUPPRESS)  # (plain or a precision, the weights) of one process
    options = parser.parse_args()
    if options.turn:
        way, weights = options.turn
        if way == "plain":
            plain_way(options.files, Path(weights))
        else:
            our_way(options.files[0], Path(weights), way)
        print(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])
        return
    with tempfile.TemporaryDirectory() as temp:
        compare(options, Path(temp))


def compare(options: argparse.Namespace, temp: Path) -> None:
    """Prepare files and model, and let the ways take turns."""
    import soundfile

    from indexer.encoders.m2d.checkpoint import convert
    from tests.benchmarks.bench_encoder import GFLOP_PER_UNIT
    from tests.helpers import checkpoints
    from tests.helpers.synth import write_audio

    folder = temp / "music"
    folder.mkdir()
    for n, container in enumerate(() if options.files else ("mp3", "flac", "opus")):
        write_audio(folder / container, container, 60.0, seed=n)
    for n, file in enumerate(options.files):
        shutil.copy(file, folder / f"{n}{file.suffix}")
    files = sorted(folder.iterdir())
    lengths_s = [soundfile.info(file).duration for file in files]
    audio_s, gflop = sum(lengths_s), sum(length / STRIDE_S for length in lengths_s) * GFLOP_PER_UNIT
    weights = checkpoints.write_pth(
        temp / "model.pth", checkpoints.published_state(checkpoints.weights(width=768, depth=12))
    )
    model = convert(weights, temp / "model")
    started_s = time.perf_counter()
    prepare.prepare(model, lambda *_: None)
    print(f"{machine()}; {len(files)} files, {audio_s:,.0f} s; prepared in {time.perf_counter() - started_s:.0f} s")
    ways = ["plain", *(precision for precision in options.precisions if openvino.serves(precision))]
    found: dict[str, list[Turn]] = {way: [] for way in ways}
    ceilings: dict[str, list[tuple[float, float]]] = {way: [] for way in ways[1:]}
    for _ in range(options.rounds):
        for way in ways:
            if way == "plain":
                found[way].append(turn(*files, "--turn", way, weights))
            else:
                found[way].append(turn(folder, "--turn", way, model))
                ceilings[way].append(ceiling(way))
    for way, turns in found.items():
        plain = zip(found["plain"], turns, strict=True)
        wall, cpu = zip(*((a.wall_s / b.wall_s, a.cpu_s / b.cpu_s) for a, b in plain), strict=True)
        rate = audio_s / statistics.median(one.wall_s for one in turns)
        memory_mb = max(one.memory_mb for one in turns)
        print(
            f"{way:5} {rate:6.1f} times real time, {spread(list(wall))} times the plain way;"
            f" by processor time {spread(list(cpu))}; {memory_mb:,.0f} MB"
            + (f"; of the ceiling {shares(gflop, turns, ceilings[way])}" if way != "plain" else "")
        )


def shares(gflop: float, turns: list[Turn], ceilings: list[tuple[float, float]]) -> str:
    """The share of the ceiling, by wall and by processor time."""
    pairs = list(zip(turns, ceilings, strict=True))
    wall = [gflop / one.wall_s / limit for one, (limit, _) in pairs]
    cpu = [gflop / one.cpu_s / limit for one, (_, limit) in pairs]
    return f"{spread(wall)}, by processor time {spread(cpu)}"


if __name__ == "__main__":
    main()
