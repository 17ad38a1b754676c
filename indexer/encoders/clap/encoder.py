"""LAION-CLAP as an encoder: its own front end and network, through ``transformers`` (the extra ``words``).

A unit is one input of the network, 10 s for the published models. Its vector is the network's pooled output, what the
projection to the space of words begins with; its audio vector is that projection's result, of length one.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np

from indexer.encoders import device as devices
from indexer.encoders.clap.checkpoint import load_audio
from indexer.encoders.clap.description import NEEDS_EXTRA, Description
from indexer.encoders.encoder import PRECISIONS, Unit
from indexer.encoders.huggingface import transformers
from indexer.errors import ModelError

CPU_BATCH_UNITS, GPU_BATCH_UNITS = 8, 32


class ClapEncoder:
    """Turns units of 48 kHz samples into one vector each (1024 numbers for the larger published models)."""

    engine = "torch"

    def __init__(self, path: Path, *, device: str = "auto", precision: str = "auto") -> None:
        """Load ``path`` (model.safetensors); raises ModelError like ``load_encoder``."""
        from indexer.encoders.clap import model

        self.device = devices.chosen(device)
        self.precision = _chosen(precision)
        self._info, weights = load_audio(path)
        transformers(NEEDS_EXTRA)
        self._network = model.audio_side(self._info.description, weights).to(self.device)
        self._front_end = model.front_end(self._info.description)
        self.batch_units = CPU_BATCH_UNITS if self.device == "cpu" else GPU_BATCH_UNITS

    @property
    def id(self) -> str:
        """Hex sha256 of weights and front end; the same on every device and at every precision."""
        return self._info.encoder_id

    @property
    def name(self) -> str:
        """The checkpoint's name."""
        return self._info.name

    @property
    def width(self) -> int:
        """Numbers in a vector."""
        return self._info.vector_width

    @property
    def words_width(self) -> int:
        """Numbers in a unit's audio vector."""
        return self._info.words_width

    @property
    def sample_rate_hz(self) -> int:
        """The sample rate that the cutter expects."""
        return self._info.sample_rate_hz

    @property
    def unit_s(self) -> float:
        """Duration of a full unit in seconds."""
        return self._info.unit_s

    def cutter(self) -> "ClapCutter":
        """Return a fresh cutter for one recording."""
        return ClapCutter(self._info.description)

    def encode(self, units: Sequence[Unit]) -> np.ndarray:
        """Return (n, width + words_width) float32: of each unit the pooled output, and its audio vector.

        Raises ModelError when memory runs out.
        """
        import torch

        rows = np.empty((len(units), self.width + self.words_width), np.float32)
        start = 0
        while start < len(units):
            batch = units[start : start + self.batch_units]
            try:
                rows[start : start + len(batch)] = self._encode_batch(batch)
            except torch.OutOfMemoryError as error:
                if len(batch) == 1:
                    raise ModelError(
                        f"{self.device} has not enough memory for {self.name}: use --device cpu"
                    ) from error
                self.batch_units = len(batch) // 2
            else:
                start += len(batch)
        return rows

    def _encode_batch(self, units: Sequence[Unit]) -> np.ndarray:
        import torch

        samples = [unit.samples for unit in units]
        with np.errstate(all="ignore"):  # samples that are not finite make vectors that are not, which are refused
            made = self._front_end(samples, sampling_rate=self.sample_rate_hz, return_tensors="pt")
        rounded: AbstractContextManager[object] = nullcontext()
        if self.precision == "bf16":
            rounded = torch.autocast(self.device, torch.bfloat16)
        with torch.inference_mode():
            with rounded:
                pooled = self._network.audio_model(input_features=made["input_features"].to(self.device)).pooler_output
            pooled = pooled.float()  # (B, width)
            words = torch.nn.functional.normalize(self._network.audio_projection(pooled), dim=-1)
            return np.asarray(torch.cat([pooled, words], dim=1).cpu().numpy())


class ClapCutter:
    """Cuts one recording into units that follow each other; holds one unit at most.

    What is left over at the end is a unit, too, which the front end fills up by repeating it, unless it is shorter than
    one of the front end's windows. Weights are frames of the spectrogram.
    """

    def __init__(self, description: Description) -> None:
        self._buffer = np.empty(description.unit_samples, np.float32)
        self._filled = 0
        self._hop = int(description.front_end["hop_length"])
        self._window = int(description.front_end["fft_window_size"])

    def push(self, samples: np.ndarray) -> list[Unit]:
        """Take (n,) mono samples; return the full units they complete. Raises ValueError for another shape."""
        if samples.ndim != 1:
            raise ValueError(f"the cutter takes mono samples of shape (n,), not {samples.shape}")
        units = []
        while len(samples):
            taken = min(len(samples), len(self._buffer) - self._filled)
            self._buffer[self._filled : self._filled + taken] = samples[:taken]
            self._filled += taken
            samples = samples[taken:]
            if self._filled == len(self._buffer):
                units.append(self._unit())
        return units

    def finish(self) -> list[Unit]:
        """Return what is left over, or nothing."""
        return [self._unit()] if self._filled >= self._window else []

    def _unit(self) -> Unit:
        unit = Unit(self._buffer[: self._filled].copy(), max(1, self._filled // self._hop))
        self._filled = 0
        return unit


def _chosen(precision: str) -> str:
    """fp32 or bf16; auto is fp32. Raises ModelError for another one."""
    if precision not in PRECISIONS:
        raise ModelError(f"unknown precision {precision!r}: use one of {', '.join(PRECISIONS)}")
    if precision == "int8":
        raise ModelError("LAION-CLAP cannot be computed in int8: use --precision fp32 or bf16")
    return "fp32" if precision == "auto" else precision
