"""End to end, from files to embeddings: `indexer scan` against the plain way, in one run, alternating.

    python -m tests.benchmarks.bench_scan [--precision fp32] [--rounds 3] [FILE ...]

The plain way reads one file at a time whole (soundfile, soxr), and encodes one unit at a time in fp32 with torch's
defaults; same random ViT-Base weights, same files. Without FILEs: four synthesised tracks of 60 s in mp3, flac, ogg and
opus. Both start in a running process, with torch imported and the weights loaded from disk within the measured time.
"""

import argparse
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile
import soxr
import torch

from indexer.cli.progress import Progress
from indexer.config import Settings
from indexer.encoders.m2d.checkpoint import convert
from indexer.scan.run import Scan
from tests.benchmarks.bench_encoder import Plain
from tests.helpers import checkpoints
from tests.helpers.synth import write_audio

UNIT = 608 * 160 + 240  # samples of a 6.08 s unit with the STFT's context


def plain_way(files: list[Path], weights: dict[str, np.ndarray]) -> tuple[float, list[np.ndarray]]:
    """Seconds of audio, and a vector a file; whole units only, as the last one changes the time by nothing."""
    model = Plain()
    model.load_state_dict({k: torch.from_numpy(v) for k, v in weights.items()})
    audio_s, vectors = 0.0, []
    for file in files:
        samples, rate = soundfile.read(file, dtype="float32", always_2d=True)
        mono = soxr.resample(samples.mean(axis=1), rate, 16_000, "HQ")
        audio_s += len(mono) / 16_000
        units = [model(torch.from_numpy(mono[i : i + UNIT])) for i in range(0, len(mono) - UNIT + 1, 608 * 160)]
        vectors.append(torch.stack(units).mean(0).numpy())
    return audio_s, vectors


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    weights = checkpoints.weights(width=768, depth=12)
    with tempfile.TemporaryDirectory() as temp:
        folder = Path(temp, "music")
        folder.mkdir()
        for n, container in enumerate(() if options.files else ("mp3", "flac", "opus", "m4a")):
            write_audio(folder / container, container, 60.0, seed=n)
        files = [Path(shutil.copy(f, folder)) for f in options.files] or sorted(folder.iterdir())
        readable = [f for f in files if f.suffix != ".m4a"]  # what soundfile reads: the plain way gets only these
        model = convert(
            checkpoints.write_pth(Path(temp) / "model.pth", checkpoints.published_state(weights)), Path(temp) / "out"
        )
        plain_rates, our_rates = [], []
        for n in range(options.rounds):
            settings = Settings(
                db=Path(temp, f"{n}.db"),
                models=Path(temp, "models"),
                encoder=str(model),
                precision=options.precision,
                device=options.device,
            )
            started = time.perf_counter()
            result = Scan(settings, Progress(-1)).run([folder], write_tags=False)
            ours = time.perf_counter()
            audio_s, _ = plain_way(readable, weights)
            plain = time.perf_counter()
            assert result.counts.embedded == len(files), result.to_json()
            our_rates.append(result.counts.audio_s / (ours - started))
            plain_rates.append(audio_s / (plain - ours))
        ratios = [a / b for a, b in zip(our_rates, plain_rates, strict=True)]
        print(
            f"plain way {statistics.median(plain_rates):.1f} s of audio per second;"
            f" indexer scan ({options.precision}, {options.device}) {statistics.median(our_rates):.1f};"
            f" ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        )


if __name__ == "__main__":
    main()
