"""The CNN baseline's training against the plain way: python -m tests.benchmarks.bench_cnn [TRACKS] [ROUNDS] (100 5).

The plain way is one clip at a time through layers in textbook order and torch's own memory layout. The same made clips,
forward and backward (ours makes its steps and draws its clips too), one thread each, in one process, alternating; the
ratio is the median over rounds.
"""

import statistics
import sys
import time

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from indexer.heads import cnn
from indexer.learn.spectrograms import CLIP_SHAPE, CLIPS

LABELS = 5


def plain_network() -> nn.Sequential:
    """The network with its layers in textbook order."""
    layers = []
    for before, after in zip((1, *cnn.CHANNELS), cnn.CHANNELS, strict=False):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU(), nn.MaxPool2d(2)]
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(cnn.DROPOUT), nn.Linear(cnn.CHANNELS[-1], LABELS)]
    return nn.Sequential(*layers)


def main(tracks: int, rounds: int) -> None:
    """Time both, compare."""
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    clips = [rng.standard_normal((CLIPS, *CLIP_SHAPE)).astype(np.float16) for _ in range(tracks)]
    y = np.arange(tracks) % LABELS
    validation = np.arange(0, tracks, 4)
    run = cnn._Run(clips, y, np.arange(tracks), validation, LABELS, cnn.CnnSettings(), torch.device("cpu"))
    plain = plain_network()
    halves = [torch.from_numpy(run._half(array)[None, None]).float() for array in clips]

    def one_at_a_time() -> None:
        for x, label in zip(halves, torch.from_numpy(y), strict=True):
            functional.cross_entropy(plain(x), label[None]).backward()
            plain.zero_grad()

    times: dict[str, list[float]] = {"learn": [], "validate": [], "plain": []}
    for _ in range(rounds + 1):  # the first warms up
        for name, work in (("learn", run._learn), ("validate", run._validate), ("plain", one_at_a_time)):
            started = time.perf_counter()
            work()
            times[name].append(time.perf_counter() - started)
    learn_s, validate_s = (statistics.median(times[name][1:]) for name in ("learn", "validate"))
    ratios = sorted(b / a for a, b in zip(times["learn"][1:], times["plain"][1:], strict=True))
    print(
        f"an epoch of {tracks} tracks: {learn_s:.2f} s ({tracks / learn_s:.0f} half clips/s forward and backward), "
        f"{validate_s:.2f} s to validate on {len(validation)}: {(learn_s + validate_s) * 100 / tracks:.2f} s for 100"
    )
    print(f"plain way / ours: {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}, {rounds} rounds)")


if __name__ == "__main__":
    main(*(int(a) for a in sys.argv[1:] or ("100", "5")))
