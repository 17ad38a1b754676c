"""Encoder throughput against the plain way: python -m tests.benchmarks.bench_encoder [--device cuda] [--precision bf16].

The plain way is float32, one unit at a time, with torch's own layers and defaults. Same random ViT-Base weights and same
units, both in one process, alternating; the ratio is the median over rounds. Times include the front end.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torchaudio.functional import melscale_fbanks

from indexer.encoders import track_vector
from indexer.loading import load_encoder
from indexer.m2d.checkpoint import convert
from tests import checkpoints
from tests.synth import music

GFLOP_PER_UNIT = 33.86  # of one 6.08 s unit


class PlainBlock(nn.Module):
    """A transformer block as it is written in textbooks."""

    def __init__(self, width=768, heads=12):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attn = nn.ModuleDict({"qkv": nn.Linear(width, 3 * width), "proj": nn.Linear(width, width)})
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, 4 * width), "fc2": nn.Linear(4 * width, width)})

    def forward(self, x):
        B, N, C = x.shape
        q, k, v = self.attn["qkv"](self.norm1(x)).view(B, N, 3, self.heads, C // self.heads).permute(2, 0, 3, 1, 4)
        y = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(B, N, C)
        x = x + self.attn["proj"](y)
        return x + self.mlp["fc2"](nn.functional.gelu(self.mlp["fc1"](self.norm2(x))))


class Plain(nn.Module):
    """One unit at a time, float32, nothing tuned."""

    def __init__(self, depth=12, width=768):
        super().__init__()
        self.cls_token = nn.Parameter(torch.empty(1, 1, width))
        self.pos_embed = nn.Parameter(torch.empty(1, 191, width))
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(1, width, 16, stride=16)})
        self.blocks = nn.ModuleList(PlainBlock(width) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.register_buffer("window", torch.hann_window(400), persistent=False)
        self.register_buffer("bank", melscale_fbanks(201, 50.0, 8000.0, 80, 16_000, "slaney", "slaney"), persistent=False)

    @torch.no_grad()
    def forward(self, samples):
        power = torch.stft(samples[None], 400, 160, window=self.window, center=False, return_complex=True).abs() ** 2
        lms = (((self.bank.T @ power) + 1.1920929e-07).log() + 7.1) / 4.2  # (1, 80, frames)
        x = self.patch_embed["proj"](lms[:, None]).flatten(2).transpose(1, 2) + self.pos_embed[:, 1:]
        x = torch.cat([self.cls_token + self.pos_embed[:, :1], x], dim=1)
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)[:, 1:]
        return x.reshape(1, 5, 38, -1).mean(2).flatten()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--units", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    weights = checkpoints.weights(width=768, depth=12)
    with tempfile.TemporaryDirectory() as folder:
        source = checkpoints.write_pth(Path(folder) / "model.pth", checkpoints.published_state(weights))
        path = convert(source, Path(folder) / "out")
        encoder = load_encoder(path, device=options.device, precision=options.precision)
        plain = Plain().eval()
        plain.load_state_dict({key: torch.from_numpy(value) for key, value in weights.items()})
    plain.to(options.device)
    units = encoder.cutter().push(music(6.08 * options.units + 1, sample_rate_hz=16_000, channels=1)[:, 0])[: options.units]

    def ours():
        return encoder.encode(units)

    def theirs():
        return np.stack([plain(torch.from_numpy(unit.samples).to(options.device)).cpu().numpy() for unit in units])

    a, b = (track_vector(way(), np.ones(len(units))) for way in (ours, theirs))  # also warms both up
    ratios, mine = [], []
    for _ in range(options.rounds):
        times = []
        for way in (ours, theirs):
            start = time.perf_counter()
            way()
            times.append(time.perf_counter() - start)
        mine.append(times[0])
        ratios.append(times[1] / times[0])
    rate = len(units) / statistics.median(mine)
    print(f"encoder / plain way: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}, {options.rounds} rounds)")
    print(f"{rate:.1f} units/s, {rate * 6.08:.0f} x real time, {rate * GFLOP_PER_UNIT:.0f} GFLOP/s, {torch.get_num_threads()} threads")
    print(f"relative difference of the track vectors: {np.linalg.norm(a - b) / np.linalg.norm(b):.1e}")


if __name__ == "__main__":
    main()
