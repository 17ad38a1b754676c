"""Estimates the musical key of a track from its samples, with a confidence and the runner-up.

Frames of half a second give spectral peaks; each peak counts by its share of the frame's loudness. The peaks' pitches,
with the track's own tuning taken out, make a chroma in three ranges of pitch, and every stretch of the track votes for
the 24 keys by how its chroma agrees with a published profile of electronic music. Noise, drums and a single note have
no key.
"""

import math
from dataclasses import dataclass

import numpy as np

from indexer.analysis.camelot import Key

_FRAME_S = 0.5
_MIN_SOUND_S = 4.0  # of frames that are not silent
_SILENCE_RMS = 1e-4  # -80 dB of full scale
_LOWEST_HZ, _HIGHEST_HZ = 38.0, 2800.0
_THINNED_HZ = 8_000.0  # least sample rate at which these are left; see _LowSpectrum
_STOP_DB = 100.0
_AT_ONCE = 20  # samples that one row of its product gives
_ENVELOPE_RATIO = 2**0.25  # a peak is measured against the mean magnitude a quarter of an octave to either side
_PEAK_OVER_ENVELOPE = 1.5
_REFERENCE_HZ = 55.0  # pitch 0; the pitch class of A
_PITCH_CLASS_OF_0 = 9
_LOWEST_SEMITONE = -7
_SEMITONES = 76
_STEPS = 10  # of the histogram of pitch in a semitone
_IN_TUNE_SEMITONES = 0.25  # standard deviation of the weight by which a pitch off the note still counts
_STRETCH_FRAMES = 40
_MAX_STRETCHES = 64  # a longer track has longer stretches

# Ranges of pitch, in semitones over 55 Hz: 82 to 165, 165 to 660, 660 to 2800 Hz. Below lie kick drums.
_RANGES = ((7, 19), (19, 43), (43, 68))

# The profiles "bgate": how strong each pitch class over the tonic is in a corpus of electronic music, small values
# gated to 0; from A. Faraldo, Tonality Estimation in Electronic Dance Music, PhD thesis, Universitat Pompeu Fabra 2018.
_MAJOR_PROFILE = (1.00, 0.00, 0.42, 0.00, 0.53, 0.37, 0.00, 0.77, 0.00, 0.38, 0.21, 0.30)
_MINOR_PROFILE = (1.00, 0.00, 0.36, 0.39, 0.00, 0.38, 0.00, 0.74, 0.27, 0.00, 0.42, 0.23)

# Fitted by maximum likelihood: tests/benchmarks/bench_key.py says on what, and how it does on the rest.
_RANGE_WEIGHTS = (1.19, 6.08, 5.14)
_THIRD_HARMONIC = 0.31  # of a note's chroma is found a fifth above it, and taken off
_MINOR_LOG_ODDS = 1.28  # electronic music is in minor more often than in major

_MIN_TONAL = 0.016  # amplitude of the peaks that are in tune with each other, as a share of the frame's
_MIN_CLARITY = 0.08  # mean of the stretches, see _clarity; that of noise stays under it at any length and sample rate
_OTHER_NOTES = 0.18  # the next two pitch classes beside the strongest, where its harmonics are left out
_HARMONICS = (12, 19, 24, 28, 31, 34, 36, 38, 40, 41, 42, 43, 44, 46, 47, 48)  # semitones of the 2nd to the 16th


@dataclass(frozen=True)
class KeyEstimate:
    """The key of a track in both notations (`8A`, `Am`); confidences are probabilities."""

    camelot: str
    name: str
    confidence: float
    runner_up: str  # in Camelot notation
    runner_up_confidence: float
    tuning_cents: float  # by which the track's notes lie above those of A = 440 Hz, -50 to 50


class KeyMeter:
    """Measures the key of one track: ``push`` its samples, then ``finish``. Its memory does not grow with the track."""

    def __init__(self, rate_hz: int) -> None:
        self._frame = np.zeros(max(2, round(_FRAME_S * rate_hz)), np.float32)
        self._filled = 0
        size = len(self._frame)
        self._hz_per_bin = rate_hz / size
        self._transform = _LowSpectrum(size, rate_hz)
        first = max(2, math.floor(_LOWEST_HZ / self._hz_per_bin))
        last = max(first, min(math.ceil(_HIGHEST_HZ / self._hz_per_bin), size // 2))
        self._bins = np.arange(first, last)
        self._envelope_from = np.maximum((self._bins / _ENVELOPE_RATIO).astype(int), first) - first
        self._envelope_to = np.minimum((self._bins * _ENVELOPE_RATIO).astype(int) + 1, last) - first
        self._stretches: list[np.ndarray] = []  # histograms of pitch, each of equally many frames
        self._frames_a_stretch = _STRETCH_FRAMES
        self._histogram = np.zeros(_SEMITONES * _STEPS)  # of the stretch that is being heard
        self._frames_in_stretch = 0
        self._frames = 0  # that were not silent
        self._in_tune = 0j  # sum of all peaks as phases: one turn is a semitone

    def push(self, samples: np.ndarray) -> None:
        """Hear the next samples (n,), float32, mono, at the meter's rate."""
        while len(samples):
            taken = samples[: len(self._frame) - self._filled]
            self._frame[self._filled : self._filled + len(taken)] = taken
            self._filled += len(taken)
            samples = samples[len(taken) :]
            if self._filled == len(self._frame):
                self._filled = 0
                self._hear_frame()

    def finish(self) -> KeyEstimate | None:
        """The key; None for a track without tonality, or with under four seconds of sound."""
        if self._frames * _FRAME_S < _MIN_SOUND_S:
            return None
        tuning = float(np.angle(self._in_tune)) / (2 * math.pi)
        total = np.sum([*self._stretches, self._histogram], axis=0)
        if _tonal_amplitude(total) < _MIN_TONAL * self._frames or _is_one_note(_notes(total, tuning)):
            return None
        odds = np.zeros(24)
        for histogram in (*self._stretches, self._histogram):
            chroma = _chroma(_notes(histogram, tuning))
            odds += _clarity(chroma) * histogram.sum() * _probabilities(chroma)
        if odds.sum() < _MIN_CLARITY * total.sum():
            return None
        probabilities = odds / odds.sum()
        second, best = np.argsort(probabilities)[-2:]
        key, runner_up = (Key(int(n) % 12, bool(n >= 12)) for n in (best, second))
        return KeyEstimate(
            key.camelot,
            key.name,
            round(float(probabilities[best]), 4),
            runner_up.camelot,
            round(float(probabilities[second]), 4),
            round(100 * tuning, 1),
        )

    def _hear_frame(self) -> None:
        """Add the peaks of the full frame to the histogram."""
        size = len(self._frame)
        rms = math.sqrt(float(np.dot(self._frame, self._frame)) / size)
        if not _SILENCE_RMS <= rms < math.inf:
            return
        magnitude = self._transform(self._frame)[self._bins[0] : self._bins[-1] + 1] / (rms * size)
        sums = np.concatenate(([0.0], np.cumsum(magnitude, dtype=np.float64)))
        envelope = (sums[self._envelope_to] - sums[self._envelope_from]) / (self._envelope_to - self._envelope_from)
        over = magnitude / np.maximum(envelope, 1e-12)
        inner = magnitude[1:-1]
        peaks = 1 + np.flatnonzero(
            (over[1:-1] > _PEAK_OVER_ENVELOPE) & (inner > magnitude[:-2]) & (inner >= magnitude[2:])
        )
        before, at, after = (np.log(np.maximum(magnitude[peaks + d], 1e-12)) for d in (-1, 0, 1))
        offset = 0.5 * (before - after) / np.minimum(before - 2 * at + after, -1e-12)  # vertex of a parabola
        pitch = 12 * np.log2((self._bins[peaks] + np.clip(offset, -0.5, 0.5)) * self._hz_per_bin / _REFERENCE_HZ)
        self._in_tune += np.sum((over[peaks] - _PEAK_OVER_ENVELOPE) * np.exp(2j * math.pi * pitch))
        place = np.rint((pitch - _LOWEST_SEMITONE) * _STEPS).astype(int)
        self._histogram += np.bincount(place, magnitude[peaks], len(self._histogram))[: len(self._histogram)]
        self._frames += 1
        self._frames_in_stretch += 1
        if self._frames_in_stretch == self._frames_a_stretch:
            self._end_stretch()

    def _end_stretch(self) -> None:
        self._stretches.append(self._histogram)
        self._histogram = np.zeros_like(self._histogram)
        self._frames_in_stretch = 0
        if len(self._stretches) == _MAX_STRETCHES:
            self._stretches = [a + b for a, b in zip(self._stretches[::2], self._stretches[1::2], strict=True)]
            self._frames_a_stretch *= 2


class _LowSpectrum:
    """The magnitudes of a frame's spectrum up to _HIGHEST_HZ, by a transform that is no longer than that needs.

    The windowed frame is filtered (sinc in Kaiser's window) and every so-manieth sample kept, as one matrix product.
    What that did to the magnitudes that remain is taken back; what lay above them comes back 100 dB weaker.
    """

    def __init__(self, size: int, rate_hz: int) -> None:
        self._window = np.hanning(size).astype(np.float32)
        step = self._step = max(n for n in range(1, max(1, int(rate_hz / _THINNED_HZ)) + 1) if size % n == 0)
        if step == 1:
            return
        # Kaiser's formulas for a filter that falls between _HIGHEST_HZ and what would come back there.
        fall = 2 * math.pi * (1 / step - 2 * _HIGHEST_HZ / rate_hz)
        half = math.ceil((_STOP_DB - 7.95) / (2.285 * fall) / 2)
        taps = np.sinc(np.arange(-half, half + 1) / step) * np.kaiser(2 * half + 1, 0.1102 * (_STOP_DB - 8.7))
        self._gain = step / np.abs(np.fft.rfft(taps, size))
        length = step * (_AT_ONCE - 1) + len(taps)
        self._filter = np.zeros((length, _AT_ONCE), np.float32)
        for n in range(_AT_ONCE):
            self._filter[n * step : n * step + len(taps), n] = taps
        rows = math.ceil(size / (step * _AT_ONCE))
        padded = np.zeros(rows * step * _AT_ONCE + len(taps), np.float32)
        self._middle = padded[half : half + size]
        self._rows = np.lib.stride_tricks.sliding_window_view(padded, length)[:: step * _AT_ONCE][:rows]

    def __call__(self, frame: np.ndarray) -> np.ndarray:
        """Magnitudes (bins,) of a frame (size,)."""
        if self._step == 1:
            return np.abs(np.fft.rfft(frame * self._window))
        np.multiply(frame, self._window, out=self._middle)
        thinned = (np.ascontiguousarray(self._rows) @ self._filter).ravel()[: len(frame) // self._step]
        magnitudes = np.abs(np.fft.rfft(thinned))
        return magnitudes * self._gain[: len(magnitudes)]


def _pitches() -> np.ndarray:
    """The pitch of each place of a histogram, in semitones over 55 Hz."""
    return np.arange(_SEMITONES * _STEPS) / _STEPS + _LOWEST_SEMITONE


def _tonal_amplitude(histogram: np.ndarray) -> float:
    """Sum of the peaks above 82 Hz that lie on one grid of semitones; those of noise cancel each other."""
    pitches = _pitches()
    heard = np.where(pitches >= _RANGES[0][0], histogram, 0)
    return float(np.abs(np.sum(heard * np.exp(2j * math.pi * pitches))))


def _notes(histogram: np.ndarray, tuning: float) -> np.ndarray:
    """Strength of each semitone (_SEMITONES,) of a histogram whose notes lie ``tuning`` semitones too high."""
    pitches = _pitches() - tuning
    note = np.rint(pitches).astype(int)
    weight = np.exp(-0.5 * ((pitches - note) / _IN_TUNE_SEMITONES) ** 2)
    place = note - _LOWEST_SEMITONE
    return np.bincount(place.clip(0), histogram * weight, _SEMITONES)[:_SEMITONES]


def _fold(notes: np.ndarray, low: int, high: int) -> np.ndarray:
    """The chroma (12,), C first, of the semitones from ``low`` up to ``high``."""
    semitones = np.arange(low, high)
    return np.bincount((semitones + _PITCH_CLASS_OF_0) % 12, notes[semitones - _LOWEST_SEMITONE], 12)


def _chroma(notes: np.ndarray) -> np.ndarray:
    """The chroma (3, 12) of the three ranges, C first."""
    return np.stack([_fold(notes, low, high) for low, high in _RANGES])


def _clarity(chroma: np.ndarray) -> float:
    """How unequal the pitch classes are: 0 where all are equally strong, towards 1 for a single one."""
    summed = chroma.sum(axis=0)
    total = float(summed.sum())
    return float(np.linalg.norm(summed - summed.mean())) / total if total else 0.0


def _is_one_note(notes: np.ndarray) -> bool:
    """Whether nearly all there is are one pitch class and the harmonics of its notes."""
    whole = _LOWEST_SEMITONE, _LOWEST_SEMITONE + _SEMITONES
    strength = _fold(notes, *whole)
    root = int(np.argmax(strength))
    roots = np.where((np.arange(*whole) + _PITCH_CLASS_OF_0) % 12 == root, notes, 0)
    roots = np.where(roots > 0.1 * roots.max(), roots.max(), 0)  # a deep fundamental may be weaker than its harmonics
    harmonics = np.zeros_like(notes)
    for semitones in (0, *_HARMONICS):
        harmonics[semitones:] = np.maximum(harmonics[semitones:], roots[: len(roots) - semitones])
    low = harmonics[: _RANGES[0][1] - _LOWEST_SEMITONE]  # where half a second hardly tells neighbours apart
    low[:] = np.max([low, np.append(low[1:], 0), np.append(0, low[:-1])], axis=0)
    others = _fold(np.where(notes > harmonics, notes, 0), *whole)
    return bool(np.sort(others)[-2:].sum() < _OTHER_NOTES * strength[root])


def _unit(rows: np.ndarray) -> np.ndarray:
    """Each row less its mean, and of length 1; rows without differences stay 0."""
    centred = rows - rows.mean(axis=-1, keepdims=True)
    length = np.linalg.norm(centred, axis=-1, keepdims=True)
    return np.asarray(np.divide(centred, length, out=np.zeros_like(centred), where=length > 0))


def _templates() -> np.ndarray:
    """What the unit chroma of each of the 24 keys is compared with (24, 12): C major to B major, C minor to B minor."""
    profiles = _unit(np.array([_MAJOR_PROFILE, _MINOR_PROFILE]))
    profiles = profiles - _THIRD_HARMONIC * np.roll(profiles, -7, axis=1)
    return np.stack([np.roll(profile, tonic) for profile in profiles for tonic in range(12)])


def _probabilities(chroma: np.ndarray) -> np.ndarray:
    """How probable each of the 24 keys is (24,), majors first, for a chroma (3, 12)."""
    evidence = np.array(_RANGE_WEIGHTS) @ (_unit(np.sqrt(chroma)) @ _templates().T)
    evidence[12:] += _MINOR_LOG_ODDS
    odds = np.exp(evidence - evidence.max())
    return np.asarray(odds / odds.sum())
