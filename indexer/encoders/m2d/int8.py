"""Quantises M2D's matrix products to 8-bit integers after training, without labels or downloads.

A layer's activations share one range; its weights have one for every output. Before that, large input channels are
scaled down and their weights up, which leaves the product the same and reduces the rounding error (Xiao et al.:
SmoothQuant, ICML 2023, alpha 0.5). Numpy only; the ranges are measured on synthesised music, the same on every machine.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from indexer.encoders.encoder import Unit, UnitCutter
from indexer.encoders.synthesis import GENRES, SAMPLE_RATE_HZ, make_track

LEVELS = 256  # steps of an activation, unsigned
LARGEST = 127  # quantised weight, signed
ALPHA = 0.5
CALIBRATION_S = 7.0  # of each genre, loud and soft; a little more than a unit of the published models
QUIET = 0.03  # -30 dB, like fades and soft passages


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """The range of each input of one layer over all calibration units."""

    low: np.ndarray  # (inputs,)
    high: np.ndarray  # (inputs,)

    def joined(self, other: "Seen") -> "Seen":
        """The range that covers both."""
        return Seen(np.minimum(self.low, other.low), np.maximum(self.high, other.high))


def calibration_units(cutter: UnitCutter, sample_rate_hz: int) -> list[Unit]:
    """Full units, loud and soft, of every synthesised genre; uses up ``cutter``."""
    import soxr

    units: list[Unit] = []
    for genre in GENRES:
        track = soxr.resample(make_track(genre, 0, CALIBRATION_S), SAMPLE_RATE_HZ, sample_rate_hz)
        mono = (track if track.ndim == 1 else track.mean(axis=1)).astype(np.float32)
        units += cutter.push(mono) + cutter.push(QUIET * mono)
    return units


def smoothed_pairs(depth: int) -> Iterator[tuple[str, str]]:
    """Yield (layer norm, the only linear layer that reads its output) of every block."""
    for block in range(depth):
        yield f"blocks.{block}.norm1", f"blocks.{block}.attn.qkv"
        yield f"blocks.{block}.norm2", f"blocks.{block}.mlp.fc1"


def smoothing(seen: Seen, weight: np.ndarray) -> np.ndarray:
    """Positive factors (inputs,) that divide a layer's inputs and multiply its weight (outputs, inputs)."""
    inputs = np.maximum(np.maximum(-seen.low, seen.high), 1e-5)
    weights = np.maximum(np.abs(weight).max(axis=0), 1e-5)
    return np.asarray(inputs**ALPHA / weights ** (1 - ALPHA), np.float32)


def activation_range(seen: Seen, divisor: np.ndarray) -> tuple[np.float32, np.float32]:
    """Lowest and highest of LEVELS evenly spaced values that cover the whole range and include 0 exactly."""
    low, high = min(float((seen.low / divisor).min()), 0.0), max(float((seen.high / divisor).max()), 1e-5)
    step = (high - low) / (LEVELS - 1)
    low = round(low / step) * step
    return np.float32(low), np.float32(low + (LEVELS - 1) * step)


def quantised(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weight (outputs, inputs) float32 -> int8 of the same shape, and the scale (outputs, 1) of every row."""
    scale = np.maximum(np.abs(weight).max(axis=1, keepdims=True), np.finfo(np.float32).tiny) / LARGEST
    return np.rint(weight / scale).astype(np.int8), scale.astype(np.float32)


def join(batches: Sequence[Mapping[str, Seen]]) -> dict[str, Seen]:
    """The ranges over all batches, by layer."""
    seen = dict(batches[0])
    for batch in batches[1:]:
        seen = {name: own.joined(batch[name]) for name, own in seen.items()}
    return seen
