"""Makes float32 of the samples in FFmpeg's frames, whatever their format: of each channel, and of the mean of all.

A frame holds few samples and each step of Python costs as much for few as for many, so frames are joined before.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

# (the mean of all channels (n,), the channels (channels, n), their rate in Hz), float32: is given the sound at its own
# rate, at most one second at a time. The arrays are reused: the next samples overwrite them.
Tap = Callable[[np.ndarray, np.ndarray, int], None]

_MOST_JOINED = 1 << 16  # samples of each channel; also at most one second
_LOUDEST = 1e6  # times full scale; float files with unscaled 16-bit numbers stay below

# Full scale of FFmpeg's sample formats, without the p of the planar ones; u8 is centred on 128. 24 bits come in s32.
_FULL_SCALE = {"u8": 128.0, "s16": 32768.0, "s32": 2147483648.0, "s64": 2.0**63, "flt": 1.0, "dbl": 1.0}
_DTYPES = {"u8": "u1", "s16": "i2", "s32": "i4", "s64": "i8", "flt": "f4", "dbl": "f8"}


class Held:
    """Samples of frames that have one rate, format and number of channels, at most a second of them."""

    def __init__(self, rate_hz: int, kind: str, channels: int) -> None:
        """``kind``: FFmpeg's name of the sample format. Raises ValueError for one that is not known."""
        self.samples = 0  # of each channel
        self._rate_hz, self._kind, self._count = rate_hz, kind, channels
        self._limit = min(_MOST_JOINED, rate_hz)
        name, planes = _parts(kind, channels)
        self._bytes = np.dtype(_DTYPES[name]).itemsize * channels // planes
        self._planes = [np.empty(self._limit * self._bytes, np.uint8).data for _ in range(planes)]
        self._mono = np.empty(self._limit, np.float32)
        self._apart = np.empty((0, 0), np.float32)  # the channels by themselves, for the tap

    @property
    def is_full(self) -> bool:
        """Whether there is room for no more samples."""
        return self.samples == self._limit

    def take(self, frame: Any, start: int) -> int:
        """Take samples of the frame from ``start`` on, as many as there is room for; returns how many."""
        n: int = min(self._limit - self.samples, frame.samples - start)
        to, of, size = self.samples * self._bytes, start * self._bytes, n * self._bytes
        for held, plane in zip(self._planes, frame.planes[: len(self._planes)], strict=True):
            held[to : to + size] = memoryview(plane)[of : of + size]
        self.samples += n
        return n

    def mixed(self, tap: Tap | None) -> tuple[np.ndarray, int]:
        """(the mean of all channels (n,), the rate in Hz) of what was taken since the last call.

        The array is reused: the next call overwrites it.
        """
        n, self.samples = self.samples, 0
        channels, offset, scale = _channels(self._planes, self._kind, self._count, n)
        mono = self._mono[:n]
        _mix(channels, offset, scale, mono)
        if tap is not None:
            if not len(self._apart):
                self._apart = np.empty((len(channels), self._limit), np.float32)
            apart = self._apart[:, :n]
            for row, channel in zip(apart, channels, strict=True):
                _mix([channel], offset / len(channels), scale * len(channels), row)
            tap(mono, apart, self._rate_hz)
        return mono, self._rate_hz


def mean(frame: Any) -> np.ndarray:
    """The mean of a frame's channels, (n,)."""
    mono = np.empty(frame.samples, np.float32)
    _mix(*_channels(frame.planes, frame.format.name, frame.layout.nb_channels, frame.samples), mono)
    return mono


def finite(samples: np.ndarray) -> np.ndarray:
    """Set NaN, infinity and absurdly large samples to 0 in place: one would spoil a whole unit of the encoder."""
    if samples.size and not (samples.max() < _LOUDEST and samples.min() > -_LOUDEST):  # false for NaN
        samples[~(np.abs(samples) < _LOUDEST)] = 0
    return samples


def _mix(channels: Sequence[np.ndarray], offset: float, scale: float, out: np.ndarray) -> None:
    """Write (the sum of channels - offset) * scale."""
    with np.errstate(all="ignore"):  # NaN and infinity are set to 0
        np.copyto(out, channels[0], casting="unsafe")
        for channel in channels[1:]:
            np.add(out, channel, out=out, casting="unsafe")
        out -= offset
        out *= scale
        finite(out)


def _parts(kind: str, channels: int) -> tuple[str, int]:
    """(name of the sample format without the p of the planar ones, planes). Raises ValueError for an unknown one."""
    name = kind.removesuffix("p")
    if name not in _DTYPES or not channels:
        raise ValueError(f"samples of kind {kind}")
    return name, channels if name != kind else 1


def _channels(planes: Sequence[Any], kind: str, count: int, samples: int) -> tuple[list[np.ndarray], float, float]:
    """(a view of each channel's samples, the number to subtract from their sum, the factor for the sum)."""
    name, parts = _parts(kind, count)
    each = count // parts
    found = [np.frombuffer(plane, _DTYPES[name], samples * each).reshape(-1, each) for plane in planes[:parts]]
    channels = [channel for plane in found for channel in plane.T]
    return channels, 128.0 * count if name == "u8" else 0.0, 1 / (_FULL_SCALE[name] * count)
