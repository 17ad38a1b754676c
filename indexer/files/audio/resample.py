"""Brings mono samples to one rate, as a stream: soxr HQ."""

from typing import Any

import numpy as np
import soxr


class Resampler:
    """For one recording; a change of rate within it starts anew. Samples that have the rate are given back as they are.

    What it returns is the caller's to keep, however the samples' array is used again.
    """

    def __init__(self, rate_hz: int) -> None:
        """``rate_hz``: of the result."""
        self._to_hz = rate_hz
        self._from_hz = 0
        self._stream: Any = None

    def push(self, samples: np.ndarray, rate_hz: int) -> list[np.ndarray]:
        """Take (n,) float32 samples of this rate; what can be said of them and of those before, (m,) float32 each."""
        rest = []
        if rate_hz != self._from_hz:
            rest = self.finish()
            self._from_hz = rate_hz
            # One channel and one thread: soxr's streams are single-threaded.
            if rate_hz != self._to_hz:
                self._stream = soxr.ResampleStream(rate_hz, self._to_hz, 1, dtype="float32", quality="HQ")
        return [*rest, samples.copy() if self._stream is None else self._stream.resample_chunk(samples)]

    def finish(self) -> list[np.ndarray]:
        """The rest of what was taken."""
        stream, self._stream = self._stream, None
        return [] if stream is None else [stream.resample_chunk(np.empty(0, np.float32), last=True)]
