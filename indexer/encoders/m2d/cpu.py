"""M2D on a processor through OpenVINO, from samples to vectors, without torch.

The front end of the next units is computed while the engine works on the ones before.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from indexer.encoders.encoder import Unit
from indexer.encoders.m2d import openvino
from indexer.encoders.m2d.checkpoint import CheckpointInfo
from indexer.encoders.m2d.frontend import NumpyLogMel

FULL_UNITS = 32  # at least so many at once: the engine has nothing to do while the first ones are made ready


@dataclass(frozen=True, slots=True)
class Pace:
    """How the engine is given its work."""

    streams: int = 1  # requests that are computed at the same time, by equal shares of the threads
    request_units: int = 8  # larger ones are no faster (measured), as their float32 outputs exceed the cache

    @property
    def batch_units(self) -> int:
        """Units that keep the engine busy."""
        once = self.streams * self.request_units
        return once * -(-FULL_UNITS // once)


class CpuModel:
    """Turns units into vectors. For one thread at a time."""

    device = "cpu"

    def __init__(self, info: CheckpointInfo, model: Any, precision: str, pace: Pace) -> None:
        """model: compiled by ``openvino``, for as many streams as ``pace`` has."""
        self._geometry = info.geometry
        self._words_width = info.words_width
        self._log_mel = NumpyLogMel(info.front_end)
        self._pace = pace
        self._requests = [model.create_infer_request() for _ in range(pace.streams + 1)]  # one waits for its turn
        self.precision = precision
        self.engine = openvino.version()
        self.batch_units = pace.batch_units

    def encode(self, units: Sequence[Unit], columns: int) -> np.ndarray:
        """Units of equal columns -> (n, width + words_width) float32: the mean of its columns, and its audio vector."""
        width = self._geometry.vector_width
        vectors = np.empty((len(units), width + self._words_width), np.float32)
        free, running = deque(self._requests), deque[tuple[int, Any]]()

        def finish() -> None:
            start, request = running.popleft()
            request.wait()
            features = request.get_output_tensor(0).data  # (B, columns, width)
            rows = vectors[start : start + len(features)]
            rows[:, :width] = features.mean(axis=1)
            if self._words_width:
                words = request.get_output_tensor(1).data  # (B, words)
                lengths = np.linalg.norm(words, axis=1, keepdims=True)
                rows[:, width:] = words / np.maximum(lengths, np.finfo(np.float32).tiny)
            free.append(request)

        try:
            for start in range(0, len(units), self._pace.request_units):
                part = units[start : start + self._pace.request_units]
                lms = self._log_mel(part, columns * self._geometry.patch_frames)  # (B, mels, frames)
                if not free:
                    finish()
                request = free.popleft()
                request.start_async([lms])
                running.append((start, request))
            while running:
                finish()
        finally:
            for _, request in running:  # after an error: none may be at work when the next call comes
                request.wait()
        return vectors
