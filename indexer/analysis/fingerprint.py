"""A fingerprint of how the spectrum moves, by which two recordings are aligned: the same music, in whatever encoding?

Four times a second, 16 bits say between which neighbouring bands the energy moved up from one second to the next. A
volume, an encoding or a filter hardly changes them; other music agrees in half of them. Source of the method: Haitsma,
Kalker: A highly robust audio fingerprinting system, ISMIR 2002, made coarse. Error rates: docs/dj.md.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

WORDS_PER_S = 4
MOST_S = 600.0  # of a longer recording, so much of its beginning counts: 4.8 kB
_FRAMES_PER_S = 16  # each twice as long as its step: a drum hit counts the same wherever the frames begin
_CELL = _FRAMES_PER_S // WORDS_PER_S  # frames from one word to the next
_SPAN = WORDS_PER_S  # words in a second, over which energies are added up
_BITS = 16
_LOWEST_HZ, _HIGHEST_HZ = 200.0, 4_000.0
_LEAST_RATE_HZ = 10_000  # to which the sound is thinned: nothing above _HIGHEST_HZ counts
_COMPRESSION = 0.25  # of power: near loudness
_QUIET = 1e-6  # mean square (-60 dB) of the loudest part up to which a word says nothing
_STEADY = 1e-4  # of the level: movements as weak as this are rounding
_ONES = np.unpackbits(np.arange(1 << _BITS, dtype=np.uint16).view(np.uint8)).reshape(-1, _BITS).sum(axis=1)  # in a word

LEAST_WORDS = 32  # with fewer to compare, chance may agree
_SECTION_WORDS = 40  # ten seconds
# Chosen between what copies and what other music has at worst: docs/dj.md.
SAME_AGREEMENT = 0.75
SAME_IN_SECTION = 0.65


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """``words``: four a second, of 16 bits; 0 where there is nothing to hear."""

    words: tuple[int, ...]

    def to_bytes(self) -> bytes:
        """The words as little-endian uint16."""
        return np.array(self.words, "<u2").tobytes()


@dataclass(frozen=True, slots=True)
class Alignment:
    """How two fingerprints agree where they agree best."""

    shift_s: float  # how much later the first one's music begins
    agreement: float  # share of equal bits, 0 to 1; 0.5 is chance
    weakest: float  # the same in the ten seconds that agree least

    @property
    def is_same(self) -> bool:
        """Whether both are the same music from beginning to end: no other mix, and no other edit of one length."""
        return self.agreement >= SAME_AGREEMENT and self.weakest >= SAME_IN_SECTION


class FingerprintMeter:
    """Adds up the compressed energies of 17 bands in each quarter of a second."""

    def __init__(self, rate_hz: float) -> None:
        factor = 1 << max(0, int(math.log2(rate_hz / _LEAST_RATE_HZ)))
        self._thinner: Any = None if factor == 1 else _thinner(rate_hz, factor)
        rate_hz /= factor
        self._step = round(rate_hz / _FRAMES_PER_S)
        self._fft = 1 << (2 * self._step - 1).bit_length()
        self._window = np.hanning(2 * self._step).astype(np.float32)
        corners_hz = np.geomspace(_LOWEST_HZ, min(_HIGHEST_HZ, rate_hz / 2), _BITS + 2)
        self._corners = np.rint(corners_hz * self._fft / rate_hz).astype(int)
        self._rest = np.empty(0, np.float32)
        self._levels: list[np.ndarray] = []  # of each frame: 17 bands, and the mean square

    def push(self, samples: np.ndarray) -> None:
        """Take (n,) mono float32 samples."""
        if len(self._levels) >= MOST_S * _FRAMES_PER_S:
            return
        self._hear(samples if self._thinner is None else self._thinner.resample_chunk(samples))

    def _hear(self, samples: np.ndarray) -> None:
        """Take thinned samples."""
        joined = np.concatenate([self._rest, samples])
        steps = max(0, len(joined) // self._step - 1)
        self._rest = joined[steps * self._step :].copy()
        if not steps:
            return
        frames = np.lib.stride_tricks.sliding_window_view(joined, 2 * self._step)[: steps * self._step : self._step]
        spectra = np.fft.rfft(frames * self._window, self._fft)[:, : self._corners[-1]]
        power = np.square(spectra.real) + np.square(spectra.imag)
        bands = np.add.reduceat(power, self._corners[:-1], axis=1) ** _COMPRESSION
        mean_square = np.mean(np.square(frames), axis=1, keepdims=True)
        self._levels += list(np.concatenate([bands, mean_square], axis=1).astype(np.float32))

    def finish(self) -> Fingerprint | None:
        """None for silence, steady sound, and less than ten seconds."""
        if self._thinner is not None:
            self._hear(self._thinner.resample_chunk(np.empty(0, np.float32), last=True))
        levels = np.array(self._levels[: int(MOST_S * _FRAMES_PER_S)], np.float64)
        count = len(levels) // _CELL - 2 * _SPAN
        if count < LEAST_WORDS:
            return None
        cells = levels[: (count + 2 * _SPAN) * _CELL].reshape(-1, _CELL, _BITS + 2).mean(axis=1)
        bands, mean_square = cells[:, :-1], cells[:, -1]
        sums = np.lib.stride_tricks.sliding_window_view(bands, _SPAN, axis=0).sum(axis=2)
        movement = np.diff(sums[_SPAN : _SPAN + count] - sums[:count], axis=1)
        words = (movement > 0) @ (1 << np.arange(_BITS))
        loudest = np.lib.stride_tricks.sliding_window_view(mean_square, 2 * _SPAN)[:count].max(axis=1)
        says = (loudest > _QUIET) & (np.abs(movement).max(axis=1) > _STEADY * sums[:count].max(axis=1))
        if says.sum() < LEAST_WORDS:
            return None
        return Fingerprint(tuple(np.where(says, words, 0).tolist()))


def _thinner(rate_hz: float, factor: int) -> Any:
    """A stream of mono float32 at a whole fraction of the rate; soxr is imported here, in the reader process."""
    import soxr

    return soxr.ResampleStream(rate_hz, rate_hz / factor, 1, dtype="float32", quality="HQ")


def aligned(one: np.ndarray, other: np.ndarray, most_shift_s: float) -> Alignment | None:
    """The best alignment of the words (n,) and (m,), uint16, of two fingerprints; None where too few compare."""
    most = round(most_shift_s * WORDS_PER_S)
    best: tuple[float, int, np.ndarray] | None = None
    for shift in range(-most, most + 1):
        a, b = one[max(0, shift) :], other[max(0, -shift) :]
        a, b = a[: len(b)], b[: len(a)]
        says = (a != 0) & (b != 0)
        equal = _BITS - _ONES[(a ^ b)[says]]
        if len(equal) >= LEAST_WORDS and (best is None or equal.mean() > best[0]):
            best = float(equal.mean()), shift, equal
    if best is None:
        return None
    mean, shift, equal = best
    sections = np.array_split(equal, max(1, len(equal) // _SECTION_WORDS))
    weakest = min(float(section.mean()) for section in sections)
    return Alignment(shift / WORDS_PER_S, round(mean / _BITS, 4), round(weakest / _BITS, 4))
