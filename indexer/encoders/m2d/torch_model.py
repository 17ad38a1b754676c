"""M2D through torch, from samples to vectors: on GPUs, and on processors that OpenVINO does not serve.

Finds the batch size of a GPU by measuring, and halves batches when memory runs out.
"""

import math
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the usual name

from indexer.encoders.encoder import Unit
from indexer.encoders.m2d import model
from indexer.encoders.m2d.checkpoint import CheckpointInfo
from indexer.encoders.m2d.frontend import LogMel
from indexer.errors import ModelError

CPU_BATCH_UNITS = 8  # measured: larger batches are no faster, as their float32 outputs exceed the cache
GPU_BATCH_UNITS = (16, 32, 64, 128, 256)  # sizes to try
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class TorchModel:
    """Turns units into vectors."""

    engine = "torch"

    def __init__(self, info: CheckpointInfo, weights: dict[str, np.ndarray], device: str, precision: str) -> None:
        """device: cpu, cuda or mps, which is there. precision: fp32 or bf16. Uses up ``weights``."""
        self._info = info
        self._device = torch.device(device)
        self.device = device
        self.precision = precision
        self.batch_units = CPU_BATCH_UNITS  # halved whenever the device runs out of memory
        with torch.inference_mode():
            tensors = {key: torch.from_numpy(weights.pop(key)) for key in list(weights)}
            self._model = model.build(
                info.geometry, info.projection, tensors, self._device, _DTYPES[precision], self.batch_units
            )
            self._log_mel = LogMel(info.front_end, self._device)
        if device != "cpu":
            self.batch_units = best_batch(self._seconds, GPU_BATCH_UNITS)
            self._empty_cache()

    @torch.inference_mode()
    def encode(self, units: Sequence[Unit], columns: int) -> np.ndarray:
        """Units of equal columns -> (n, width + words_width) float32: the mean of its columns, and its audio vector.

        Raises ModelError when memory runs out.
        """
        width = self._info.geometry.vector_width + self._info.words_width
        vectors = torch.empty(len(units), width, device=self._device)  # copied at the end
        start = 0
        while start < len(units):
            batch = units[start : start + self.batch_units]
            try:
                vectors[start : start + len(batch)] = self._encode_batch(batch, columns)
            except torch.OutOfMemoryError as error:
                self._shrink(len(batch), error)
            else:
                start += len(batch)
        return vectors.cpu().numpy()

    def _encode_batch(self, units: Sequence[Unit], columns: int) -> torch.Tensor:
        """Units of equal columns -> (B, width + words_width)."""
        fe, frames = self._info.front_end, columns * self._info.geometry.patch_frames
        samples, valid = self._stack(units, (frames - 1) * fe.hop + fe.n_fft)  # (B, n), (B,)
        lms = self._log_mel(samples)  # (B, mels, frames)
        if min(valid) < frames:  # the last patch is padded with zeros of the normalised spectrogram, not of samples
            ends = torch.tensor(valid, device=self._device)  # (B,)
            beyond = torch.arange(frames, device=self._device) >= ends[:, None]  # (B, frames)
            lms = lms.masked_fill(beyond[:, None, :], 0.0)
        features, words = self._model(lms)  # (B, columns, width), (B, words_width)
        return torch.cat([features.mean(dim=1), F.normalize(words, dim=1)], dim=1)

    def _stack(self, units: Sequence[Unit], length: int) -> tuple[torch.Tensor, list[int]]:
        """Return samples (B, length) on the device, cut or zero-padded, and how many frames of each are real."""
        pinned = self._device.type == "cuda"  # the copy overlaps with the previous batch's work
        stacked = torch.zeros(len(units), length, pin_memory=pinned)
        rows = stacked.numpy()
        for row, unit in zip(rows, units, strict=True):
            n = min(len(unit.samples), length)
            row[:n] = unit.samples[:n]
        valid = [self._info.front_end.frames_in(len(unit.samples)) for unit in units]
        return stacked.to(self._device, non_blocking=pinned), valid

    @torch.inference_mode()
    def _seconds(self, units: int) -> float:
        """The seconds that a batch of full units takes on a GPU, from samples to vectors."""
        geometry = self._info.geometry
        blank = Unit(
            np.zeros((geometry.unit_frames - 1) * self._info.front_end.hop + self._info.front_end.n_fft, np.float32),
            geometry.columns,
        )
        self._encode_batch([blank] * units, geometry.columns).cpu()  # warms up
        started_s = time.perf_counter()
        self._encode_batch([blank] * units, geometry.columns).cpu()
        return time.perf_counter() - started_s

    def _empty_cache(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _shrink(self, failed_units: int, error: Exception) -> None:
        if failed_units == 1:
            raise ModelError(f"{self._device} has not enough memory for {self._info.name}: use --device cpu") from error
        self.batch_units = failed_units // 2
        self._empty_cache()


def best_batch(seconds: Callable[[int], float], sizes: Sequence[int]) -> int:
    """The batch size before the first larger one that gains less than 5 % a unit or does not fit into memory.

    seconds: returns the duration of a batch of a given size; may raise torch.OutOfMemoryError.
    """
    best, best_s = sizes[0], math.inf
    for size in sizes:
        try:
            unit_s = seconds(size) / size
        except torch.OutOfMemoryError:
            break
        if unit_s > 0.95 * best_s:
            break
        best, best_s = size, unit_s
    return best
