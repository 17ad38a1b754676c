"""M2D as an encoder: chooses device, precision, engine and batch size, and halves batches when memory runs out.

Loads converted checkpoints only. Never decodes audio, and never averages over units (``track_vector`` does).
"""

import math
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from indexer.encoders import tensorfile
from indexer.encoders.encoder import DEVICES, PRECISIONS, Unit
from indexer.encoders.m2d import int8, model, openvino
from indexer.encoders.m2d.checkpoint import load_weights
from indexer.encoders.m2d.frontend import LogMel, M2DCutter
from indexer.errors import ModelError

CPU_BATCH_UNITS = 8  # measured: larger batches are no faster, as their float32 outputs exceed the cache
GPU_BATCH_UNITS = (16, 32, 64, 128, 256)  # sizes to try
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class M2DEncoder:
    """Turns units of 16 or 32 kHz samples into one vector each (3840 numbers for the published models)."""

    def __init__(self, path: Path, *, device: str = "auto", precision: str = "auto") -> None:
        """Load ``path`` (model.safetensors); raises ModelError like ``load_encoder``."""
        self._device = _device(device)
        self._precision = _precision(precision, self._device)
        info, weights = load_weights(path)
        self._info = info
        self._batch_units = CPU_BATCH_UNITS
        self._engine, self._model = self._build(weights)
        with torch.inference_mode():
            self._log_mel = LogMel(info.front_end, self._device)
        if self._device.type != "cpu":
            self._batch_units = best_batch(self._seconds, GPU_BATCH_UNITS)
            self._empty_cache()

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
        return self._info.geometry.vector_width

    @property
    def sample_rate_hz(self) -> int:
        """The sample rate that the cutter expects."""
        return self._info.front_end.sample_rate_hz

    @property
    def unit_s(self) -> float:
        """Duration of a full unit in seconds."""
        return self._info.unit_s

    @property
    def device(self) -> str:
        """The device it runs on: cpu, cuda, mps."""
        return self._device.type

    @property
    def precision(self) -> str:
        """Its arithmetic: fp32, bf16, int8."""
        return self._precision

    @property
    def engine(self) -> str:
        """The engine: torch, or OpenVINO on a CPU where the extra is installed and the CPU supports the precision."""
        return self._engine

    @property
    def batch_units(self) -> int:
        """The number of units in a batch: the fastest, halved whenever the device runs out of memory."""
        return self._batch_units

    def cutter(self) -> M2DCutter:
        """Return a fresh cutter for one recording."""
        return M2DCutter(self._info.front_end, self._info.geometry)

    @torch.inference_mode()
    def encode(self, units: Sequence[Unit]) -> np.ndarray:
        """Return (n, width) float32: per unit the mean of its patch columns. Raises ModelError when memory runs out."""
        vectors = torch.empty(len(units), self.width, device=self._device)  # (n, width), copied to the host at the end
        by_columns: dict[int, list[int]] = defaultdict(list)  # a batch holds units of one length
        for index, unit in enumerate(units):
            by_columns[unit.weight].append(index)
        for columns, indices in by_columns.items():
            start = 0
            while start < len(indices):
                batch = indices[start : start + self._batch_units]
                try:
                    vectors[batch] = self._encode_batch([units[i] for i in batch], columns)
                except torch.OutOfMemoryError as error:
                    self._shrink(len(batch), error)
                else:
                    start += len(batch)
        return vectors.cpu().numpy()

    def _build(self, weights: dict[str, np.ndarray]) -> tuple[str, Callable[[torch.Tensor], torch.Tensor]]:
        """The engine's name, and its model: (B, mels, frames) -> (B, columns, width). Uses up ``weights``."""
        if self._device.type == "cpu" and openvino.serves(self._precision):
            seen = self._calibrated(weights) if self._precision == "int8" else None
            fast = openvino.OpenVinoM2D(self._info.geometry, weights, self._precision, torch.get_num_threads(), seen)
            tensorfile.release(weights)
            return openvino.version(), lambda lms: torch.from_numpy(fast(lms.numpy()))
        with torch.inference_mode():
            tensors = {key: torch.from_numpy(weights.pop(key)) for key in list(weights)}
            return "torch", model.build(
                self._info.geometry, tensors, self._device, _DTYPES[self._precision], self._batch_units
            )

    @torch.inference_mode()
    def _calibrated(self, weights: dict[str, np.ndarray]) -> dict[str, int8.Seen]:
        """The ranges of the layers' inputs on the calibration music."""
        info = self._info
        observer = openvino.Observer(info.geometry, weights, torch.get_num_threads())
        tensorfile.release(weights)
        units = np.stack(int8.calibration_units(self.cutter(), info.front_end.sample_rate_hz))  # (B, n)
        lms = LogMel(info.front_end, "cpu")(torch.from_numpy(units))[
            :, :, : info.geometry.columns * info.geometry.patch_frames
        ]
        return observer(lms.contiguous().numpy())

    def _encode_batch(self, units: list[Unit], columns: int) -> torch.Tensor:
        """Units of equal columns -> (B, width)."""
        fe, frames = self._info.front_end, columns * self._info.geometry.patch_frames
        samples, valid = self._stack(units, (frames - 1) * fe.hop + fe.n_fft)  # (B, n), (B,)
        lms = self._log_mel(samples)  # (B, mels, frames)
        if min(valid) < frames:  # the last patch is padded with zeros of the normalised spectrogram, not of samples
            ends = torch.tensor(valid, device=self._device)  # (B,)
            beyond = torch.arange(frames, device=self._device) >= ends[:, None]  # (B, frames)
            lms = lms.masked_fill(beyond[:, None, :], 0.0)
        features = self._model(lms)  # (B, columns, width)
        return features.mean(dim=1)  # (B, width)

    def _stack(self, units: list[Unit], length: int) -> tuple[torch.Tensor, list[int]]:
        """Return samples (B, length) on the device, cut or zero-padded, and how many frames of each are real."""
        fe = self._info.front_end
        pinned = self._device.type == "cuda"  # the copy overlaps with the previous batch's work
        stacked = torch.zeros(len(units), length, pin_memory=pinned)
        rows = stacked.numpy()
        for row, unit in zip(rows, units, strict=True):
            n = min(len(unit.samples), length)
            row[:n] = unit.samples[:n]
        valid = [1 + (len(unit.samples) - fe.n_fft) // fe.hop for unit in units]
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
            raise ModelError(f"{self._device} has not enough memory for {self.name}: use --device cpu") from error
        self._batch_units = failed_units // 2
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


def _device(wanted: str) -> torch.device:
    if wanted not in DEVICES:
        raise ModelError(f"unknown device {wanted!r}: use one of {', '.join(DEVICES)}")
    present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if wanted == "auto":
        wanted = next(name for name in ("cuda", "mps", "cpu") if present[name])
    if not present[wanted]:
        raise ModelError(f"device {wanted} is not available on this machine: use --device auto or cpu")
    return torch.device(wanted)


def _precision(wanted: str, device: torch.device) -> str:
    if wanted not in PRECISIONS:
        raise ModelError(f"unknown precision {wanted!r}: use one of {', '.join(PRECISIONS)}")
    if wanted == "int8" and device.type != "cpu":
        raise ModelError(
            f"int8 is for processors, and the device is {device.type}: use --precision bf16, or --device cpu"
        )
    if wanted == "int8" and not openvino.is_installed():
        raise ModelError("int8 needs the extra: pip install 'edm-indexer[fast]', or use --precision fp32")
    if wanted == "int8" and not openvino.multiplies_int8():
        raise ModelError(
            "int8 is of no use here, as this processor has no integer products of its own (VNNI, AMX): "
            "use --precision fp32"
        )
    if wanted == "auto":
        has_bf16 = device.type == "cuda" or (device.type == "cpu" and openvino.multiplies_bf16())
        return "bf16" if has_bf16 else "fp32"
    return wanted
