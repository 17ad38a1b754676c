"""M2D as an encoder: chooses device, precision and engine, and sorts units by their length.

Loads converted checkpoints only, and imports torch only where torch computes. Never decodes audio, and never averages
over units (``track_vector`` does).
"""

import logging
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from indexer.encoders import device as devices
from indexer.encoders.encoder import PRECISIONS, Unit
from indexer.encoders.m2d import openvino, prepare
from indexer.encoders.m2d.checkpoint import CheckpointInfo, inspect, load_weights
from indexer.encoders.m2d.frontend import M2DCutter
from indexer.errors import ModelError

logger = logging.getLogger(__name__)


class Model(Protocol):
    """The network on one engine: see CpuModel and TorchModel."""

    device: str
    precision: str
    engine: str
    batch_units: int

    def encode(self, units: Sequence[Unit], columns: int) -> np.ndarray:
        """Units of equal columns -> (n, width + words_width) float32: the mean of its columns, and its audio vector."""
        ...


class M2DEncoder:
    """Turns units of 16 or 32 kHz samples into one vector each (3840 numbers for the published models)."""

    def __init__(self, path: Path, *, device: str = "auto", precision: str = "auto") -> None:
        """Load ``path`` (model.safetensors); raises ModelError like ``load_encoder``."""
        device = devices.chosen(device)
        _check(precision, device)
        self._info = inspect(path)
        self._model = _load(self._info, device, precision)

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
    def words_width(self) -> int:
        """Numbers in a unit's audio vector; 0 for a checkpoint without words."""
        return self._info.words_width

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
        return self._model.device

    @property
    def precision(self) -> str:
        """Its arithmetic: fp32, bf16, int8."""
        return self._model.precision

    @property
    def engine(self) -> str:
        """The engine: OpenVINO on a CPU where it has wheels and the CPU supports the precision, else torch."""
        return self._model.engine

    @property
    def batch_units(self) -> int:
        """The number of units in a batch: the fastest, halved whenever the device runs out of memory."""
        return self._model.batch_units

    def cutter(self) -> M2DCutter:
        """Return a fresh cutter for one recording."""
        return M2DCutter(self._info.front_end, self._info.geometry)

    def encode(self, units: Sequence[Unit]) -> np.ndarray:
        """Return (n, width + words_width) float32: of each unit the mean of its patch columns, and its audio vector.

        Raises ModelError when memory runs out.
        """
        vectors = np.empty((len(units), self.width + self.words_width), np.float32)
        by_columns: dict[int, list[int]] = defaultdict(list)  # a batch holds units of one length
        for index, unit in enumerate(units):
            by_columns[unit.weight].append(index)
        for columns, indices in by_columns.items():
            vectors[indices] = self._model.encode([units[index] for index in indices], columns)
        return vectors


def _load(info: CheckpointInfo, device: str, precision: str) -> Model:
    """The network with the fastest engine that serves the precision; ``auto`` takes the fastest that is exact enough.

    That is fp32 for a checkpoint with words: bf16 shifts a track's similarity to a text by up to 0.001.
    """
    on_cpu = device == "cpu"
    if precision == "auto" and info.projection is not None:
        precision = "fp32"
    if on_cpu and precision == "auto" and openvino.serves("fp32"):
        precision = prepare.fastest(info)
    elif precision == "auto":
        precision = "bf16" if device == "cuda" or (on_cpu and openvino.multiplies_bf16()) else "fp32"
    if on_cpu and precision == "bf16" and not openvino.multiplies_bf16():
        logger.warning("this processor does not multiply bf16, which is slower here than --precision fp32 or auto")
    if on_cpu and openvino.serves(precision):
        return prepare.load(info, precision)
    from indexer.encoders.m2d.torch_model import TorchModel

    return TorchModel(*load_weights(info.path), device, precision)


def _check(precision: str, device: str) -> None:
    """Raise ModelError for a precision that is unknown, or of no use on the device."""
    if precision not in PRECISIONS:
        raise ModelError(f"unknown precision {precision!r}: use one of {', '.join(PRECISIONS)}")
    if precision != "int8":
        return
    if device != "cpu":
        raise ModelError(f"int8 is for processors, and the device is {device}: use --precision bf16, or --device cpu")
    if not openvino.is_installed():
        raise ModelError("int8 needs OpenVINO, which is not installed: pip install openvino, or use --precision fp32")
    if not openvino.multiplies_int8():
        raise ModelError(
            "int8 is of no use here, as this processor has no integer products of its own (VNNI, AMX): "
            "use --precision fp32"
        )
