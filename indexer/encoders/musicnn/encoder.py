"""The trained encoder that ships with the program: both MusiCNN networks of the Music Technology Group, UPF Barcelona.

Its vector is what their penultimate layers say of a unit, one network after the other. Runs on the processor, and
imports torch when the first unit is encoded.
"""

import hashlib
import json
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from indexer.encoders import mel
from indexer.encoders.encoder import Unit
from indexer.encoders.musicnn import frontend, weights
from indexer.encoders.musicnn.frontend import UNIT, MusicnnCutter

if TYPE_CHECKING:
    from indexer.encoders.musicnn.engine import Engine

VERSION = 1  # raised when the arithmetic changes without a change of weights or constants


class MusicnnEncoder:
    """Turns units of 16 kHz samples into 400 numbers each."""

    name = "musicnn"
    width = len(weights.NETWORKS) * weights.PENULTIMATE
    words_width = 0
    sample_rate_hz = frontend.SAMPLE_RATE_HZ
    unit_s = frontend.STRIDE / frontend.SAMPLE_RATE_HZ
    device = "cpu"
    precision = "fp32"  # the only one
    engine = "torch"

    def __init__(self) -> None:
        """Raises ModelError where the package's weights are missing or damaged."""
        self._arrays = weights.load()

    @property
    def id(self) -> str:
        """Hex sha256 over weights, every constant and the version of the arithmetic."""
        return encoder_id()

    @property
    def batch_units(self) -> int:
        """The fastest number of units a batch: some for each thread."""
        return self._engine.batch_units

    def cutter(self) -> MusicnnCutter:
        """Return a fresh cutter for one recording."""
        return MusicnnCutter()

    def encode(self, units: Sequence[Unit]) -> np.ndarray:
        """Return (n, 400) float32; not finite where samples are not. Raises ValueError for a wrong length."""
        for unit in units:
            if unit.samples.shape != (UNIT,):
                raise ValueError(f"a unit holds {UNIT} samples, not {unit.samples.shape}")
        if not units:
            return np.empty((0, self.width), np.float32)
        return self._engine.encode(np.stack([unit.samples for unit in units]))

    @cached_property
    def _engine(self) -> "Engine":
        from indexer.encoders.musicnn.engine import Engine

        return Engine(self._arrays)


def encoder_id() -> str:
    """Return the id of this encoder's vectors: hex sha256 over weights, every constant and the version."""
    content = [
        VERSION, weights.WEIGHTS_SHA256, weights.NETWORKS, frontend.SAMPLE_RATE_HZ, frontend.N_FFT, frontend.HOP,
        frontend.BANDS, frontend.FRAMES, frontend.GAIN, frontend.SHORTEST, mel.MEL_HZ, mel.KNEE_MEL,
        mel.KNEE_HZ, mel.MELS_PER_FACTOR, mel.FACTOR, weights.NORM_EPSILON,
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(["musicnn", *content]).encode()).hexdigest()
