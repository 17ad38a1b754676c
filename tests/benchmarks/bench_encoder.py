"""Encoder throughput against the plain way and the machine's own ceiling, alternating in one process.

    python -m tests.benchmarks.bench_encoder [--device cuda] [--precisions fp32 bf16 int8] [--rounds 7] [--cpu-time]

The plain way is float32, one unit at a time, with torch's own layers and defaults; same random ViT-Base weights, same
units. The ceiling is matrix products of the same sizes in the same arithmetic and nothing else, by the fastest engine
at hand: for int8 the processor's integer products (VNNI), with the rounding of their inputs. Ratios are medians over
rounds of neighbouring measurements; times include the front end. --cpu-time measures processor time, which a busy
machine distorts less.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

from indexer.encoders.load import load_encoder
from indexer.encoders.m2d import openvino
from indexer.encoders.m2d.checkpoint import convert
from indexer.encoders.m2d.int8 import Seen
from indexer.errors import ModelError
from tests.benchmarks.machine import machine
from tests.helpers import checkpoints
from tests.helpers.reference_m2d import filter_bank
from tests.helpers.synth import music

GFLOP_PER_UNIT = 33.86  # of one 6.08 s unit


class PlainBlock(nn.Module):
    """A transformer block in the textbook's order of operations."""

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
    """One unit at a time in float32, without any tuning."""

    def __init__(self, depth=12, width=768):
        super().__init__()
        self.cls_token = nn.Parameter(torch.empty(1, 1, width))
        self.pos_embed = nn.Parameter(torch.empty(1, 191, width))
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(1, width, 16, stride=16)})
        self.blocks = nn.ModuleList(PlainBlock(width) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.register_buffer("window", torch.hann_window(400), persistent=False)
        self.register_buffer("bank", torch.from_numpy(filter_bank(16_000, 400, 8_000).astype("f4")), persistent=False)

    @torch.no_grad()
    def forward(self, samples):
        power = torch.stft(samples[None], 400, 160, window=self.window, center=False, return_complex=True).abs() ** 2
        lms = (((self.bank @ power) + 1.1920929e-07).log() + 7.1) / 4.2  # (1, 80, frames)
        x = self.patch_embed["proj"](lms[:, None]).flatten(2).transpose(1, 2) + self.pos_embed[:, 1:]
        x = torch.cat([self.cls_token + self.pos_embed[:, :1], x], dim=1)
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)[:, 1:]
        return x.reshape(1, 5, 38, -1).mean(2).flatten()


SIZES = ((768, 2304), (2304, 768), (768, 3072), (3072, 768))  # of a block's products, chained


def products(precision, device, units):
    """A function that runs 12 blocks of products for a batch of units, and its GFLOP.

    None where nothing here has this arithmetic.
    """
    rng = np.random.default_rng(0)
    tokens = units * 191
    weights = {}
    for block in range(12):
        for n, (inputs, outputs) in enumerate(SIZES):
            weights[f"blocks.{block}.{n}.weight"] = rng.normal(0, inputs**-0.5, (outputs, inputs)).astype(np.float32)
            weights[f"blocks.{block}.{n}.bias"] = np.zeros(outputs, np.float32)
    names = [f"blocks.{block}.{n}" for block in range(12) for n in range(4)]
    gflop = 12 * sum(2e-9 * tokens * inputs * outputs for inputs, outputs in SIZES)
    x = rng.normal(0, 1, (1, tokens, 768)).astype(np.float32)
    if device == "cpu" and openvino.serves(precision):
        seen = (
            {name: Seen(np.full(1, -5, np.float32), np.full(1, 5, np.float32)) for name in names}
            if precision == "int8"
            else None
        )
        build = openvino._Builder(weights, 0, seen)
        start = y = build.op.parameter([1, tokens, 768], np.float32)
        for name in names:
            y = build.linear(y, name)
        model = openvino.compiled(openvino.engine().Model([y], [start], "products"), precision)
        request = model.create_infer_request()
        return (lambda: request.infer([x])), gflop
    if precision == "int8":
        return None
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    tensors = [torch.from_numpy(weights[f"{name}.weight"]).to(device, dtype) for name in names]
    first = torch.from_numpy(x).to(device, dtype)

    @torch.inference_mode()
    def run():
        y = first
        for tensor in tensors:
            y = nn.functional.linear(y, tensor)
        return y.sum().item()

    return run, gflop


def seconds(way, clock):
    start = clock()
    way()
    return clock() - start


def spread(values):
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precisions", nargs="*", default=["fp32", "bf16", "int8"])
    parser.add_argument("--units", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--cpu-time", action="store_true")
    options = parser.parse_args()
    print(machine() + (", by processor time" if options.cpu_time else ""))
    weights = checkpoints.weights(width=768, depth=12)
    plain = Plain().eval()
    plain.load_state_dict({key: torch.from_numpy(value) for key, value in weights.items()})
    plain.to(options.device)
    with tempfile.TemporaryDirectory() as folder:
        source = checkpoints.write_pth(Path(folder) / "model.pth", checkpoints.published_state(weights))
        path = convert(source, Path(folder) / "out")
        for precision in options.precisions:
            try:
                encoder = load_encoder(path, device=options.device, precision=precision)
            except ModelError as e:
                print(f"{precision}: {e}")
                continue
            compare(encoder, plain, options)


def compare(encoder, plain, options):
    count = max(options.units, encoder.batch_units)
    units = encoder.cutter().push(music(6.08 * count + 1, sample_rate_hz=16_000, channels=1)[:, 0])[:count]
    few = units[:2]  # the plain way encodes only these, one at a time: more would not change its rate

    def theirs():
        return np.stack([plain(torch.from_numpy(unit.samples).to(options.device)).cpu().numpy() for unit in few])

    bare, gflop = products(encoder.precision, options.device, encoder.batch_units) or (lambda: None, 0.0)
    a, b = encoder.encode(few), theirs()  # also warms up
    encoder.encode(units)
    bare()
    clock = time.process_time if options.cpu_time else time.perf_counter
    ratios, shares, rates, limits = [], [], [], []
    for _ in range(options.rounds):
        theirs_s, ours_s, bare_s = (
            seconds(theirs, clock) / len(few),
            seconds(lambda: encoder.encode(units), clock) / count,
            seconds(bare, clock),
        )
        rates.append(1 / ours_s)
        ratios.append(theirs_s / ours_s)
        if gflop:
            limits.append(gflop / bare_s)
            shares.append(GFLOP_PER_UNIT / ours_s / limits[-1])
    rate = statistics.median(rates)
    print(
        f"{encoder.precision} ({encoder.engine}, {encoder.device}, batches of {encoder.batch_units}):"
        f" {spread(ratios)} times the plain way; {rate:.1f} units/s,"
        f" {rate * encoder.unit_s:.0f} x real time, {rate * GFLOP_PER_UNIT:,.0f} GFLOP/s"
        + (f", {spread(shares)} of the bare products' {statistics.median(limits):,.0f}" if shares else "")
        + f"; {torch.get_num_threads()} threads;"
        f" vectors {np.linalg.norm(a - b) / np.linalg.norm(b):.1e} from the plain way's"
    )


if __name__ == "__main__":
    main()
