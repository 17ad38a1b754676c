"""musicnn's throughput against the published order of operations in plain torch, alternating in one process.

    python -m tests.benchmarks.bench_musicnn [--units 16] [--rounds 7]

Both hear the same units with the same weights and all cores, front end included. The ratio is the median over rounds
of neighbouring measurements. The line names processor and load: on a busy machine, real time is not what it would be.
"""

import argparse
import os
import platform
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from indexer.encoders.load import load_encoder
from indexer.encoders.musicnn import weights
from indexer.encoders.musicnn.frontend import LogMel
from tests.helpers.synth import music


class Plain:
    """One network, layer after layer as published."""

    def __init__(self, arrays):
        self.weights = {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}

    def norm(self, x, number):
        name = weights.numbered("batch_normalization", number)
        gamma, beta, mean, variance = (
            self.weights[f"{name}/{part}"] for part in ("gamma", "beta", "moving_mean", "moving_variance")
        )
        return F.batch_norm(x, mean, variance, gamma, beta, eps=weights.NORM_EPSILON)

    def conv(self, x, number, before, behind):
        """(B, 1, time, frequency) -> (B, out, time): the largest over frequency."""
        name = weights.numbered("conv2d", number)
        kernel = self.weights[f"{name}/kernel"].permute(3, 2, 0, 1).contiguous()
        x = F.conv2d(F.pad(x, (0, 0, before, behind)), kernel, self.weights[f"{name}/bias"])
        return self.norm(F.relu(x), number + 1).amax(3)

    def __call__(self, log_mel):
        x = self.norm(log_mel[:, None], 0)
        front = [self.conv(x, number, 3, 3) for number in (0, 1)]
        front += [self.conv(x, n, (length - 1) // 2, length // 2) for n, length in ((2, 128), (3, 64), (4, 32))]
        maps = [torch.cat(front, 1)]
        for number in (5, 6, 7):
            y = self.conv(maps[-1].mT[:, None], number, 3, 3)
            maps.append(y if number == 5 else maps[-1] + y)
        stacked = torch.cat(maps, 1)
        pooled = self.norm(torch.stack([stacked.amax(2), stacked.mean(2)], 2).flatten(1), 9)
        hidden = F.relu(pooled @ self.weights["dense/kernel"] + self.weights["dense/bias"])
        return self.norm(hidden, 10)


def processor():
    """The processor's name, its cores that may be used, and the load of the last minute."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    name = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.processor())
    return f"{name}, {torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}"


def seconds(way):
    start_s = time.perf_counter()
    way()
    return time.perf_counter() - start_s


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--units", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    encoder = load_encoder("musicnn")
    units = encoder.cutter().push(
        music(encoder.unit_s * (options.units + 1), sample_rate_hz=encoder.sample_rate_hz, channels=1)[:, 0]
    )[: options.units]
    arrays, log_mel = weights.load(), LogMel()
    plain = [Plain(weights.of_network(arrays, network)) for network in weights.NETWORKS]

    @torch.inference_mode()
    def theirs():
        frames = log_mel(torch.from_numpy(np.stack([unit.samples for unit in units])))
        return torch.cat([network(frames) for network in plain], 1).numpy()

    difference = np.abs(encoder.encode(units) - theirs()).max()  # also warms up
    ratios, ours = [], []
    for _ in range(options.rounds):
        theirs_s = seconds(theirs)
        ours.append(seconds(lambda: encoder.encode(units)))
        ratios.append(theirs_s / ours[-1])
    audio_s = encoder.unit_s * len(units)
    print(
        f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) times the plain way; "
        f"{audio_s / statistics.median(ours):.0f} x real time, at best {audio_s / min(ours):.0f}; "
        f"vectors differ by {difference:.1e}; {processor()}"
    )


if __name__ == "__main__":
    main()
