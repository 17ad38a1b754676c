"""The encoder without weights: Rhythm Patterns, Statistical Spectrum Descriptors and the Rhythm Histogram of TU Wien.

Numpy only. Never decodes or resamples: it takes mono samples at 44,100 Hz, the published rate at which all 24 bands
exist, and the rate of most music files.

Sources, by the short names used below:
  RPM02  Rauber, Pampalk, Merkl: Using psycho-acoustic models and self-organizing maps ... (ISMIR 2002): Rhythm Patterns
  P01    Pampalk: Islands of Music (diploma thesis, TU Wien 2001): the same steps at length
  LR05   Lidy, Rauber: Evaluation of feature extractors and psycho-acoustic transformations ... (ISMIR 2005): SSD, RH
"""

import hashlib
import json
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np

from indexer.encoders.encoder import Unit

VERSION = 1  # raised when the arithmetic changes without a change of the constants below

SAMPLE_RATE_HZ = 44_100
SEGMENT = 2**18  # samples, 5.94 s: RPM02 and LR05 take about six seconds
N_FFT, HOP = 1024, 512  # 23 ms Hann windows, half overlapping: P01, LR05
# Our choice: 0.37 s, 31 windows. In less, the seven statistics mean little, and the fastest modulation has under four
# periods.
SHORTEST = 2**14

# Zwicker: Subdivision of the audible frequency range into critical bands (JASA 33, 1961), table 1: limits and centres.
BARK_EDGES_HZ = (0, 100, 200, 300, 400, 510, 630, 770, 920, 1080, 1270, 1480, 1720, 2000, 2320, 2700, 3150, 3700, 4400,
                 5300, 6400, 7700, 9500, 12000, 15500)  # fmt: skip
BARK_CENTRES_HZ = (50, 150, 250, 350, 450, 570, 700, 840, 1000, 1170, 1370, 1600, 1850, 2150, 2500, 2900, 3400, 4000,
                   4800, 5800, 7000, 8500, 10500, 13500)  # fmt: skip
BANDS = len(BARK_CENTRES_HZ)

# Level of a sine at full scale, dB SPL. The playback volume is unknown; the range of 16 bits is the usual assumption.
FULL_SCALE_DB = 96.0

# Schroeder, Atal, Hall: Optimizing digital speech coders by exploiting masking ... (JASA 66, 1979): the level that a
# band dz Bark above the masker receives is a + b (dz + c) - d sqrt(1 + (dz + c)^2) dB.
SPREAD_A, SPREAD_B, SPREAD_C, SPREAD_D = 15.81, 7.5, 0.474, 17.5

# ISO 226:2003, table 1: frequency Hz, exponent of loudness perception, transfer function dB, threshold of hearing dB.
# P01 interpolates between contours drawn at a few levels; the standard has a closed form. Constant above 12,500 Hz.
ISO_226 = (
    (20, 0.532, -31.6, 78.5), (25, 0.506, -27.2, 68.7), (31.5, 0.480, -23.0, 59.5), (40, 0.455, -19.1, 51.1),
    (50, 0.432, -15.9, 44.0), (63, 0.409, -13.0, 37.5), (80, 0.387, -10.3, 31.5), (100, 0.367, -8.1, 26.5),
    (125, 0.349, -6.2, 22.1), (160, 0.330, -4.5, 17.9), (200, 0.315, -3.1, 14.4), (250, 0.301, -2.0, 11.4),
    (315, 0.288, -1.1, 8.6), (400, 0.276, -0.4, 6.2), (500, 0.267, 0.0, 4.4), (630, 0.259, 0.3, 3.0),
    (800, 0.253, 0.5, 2.2), (1000, 0.250, 0.0, 2.4), (1250, 0.246, -2.7, 3.5), (1600, 0.244, -4.1, 1.7),
    (2000, 0.243, -1.0, -1.3), (2500, 0.243, 1.7, -4.2), (3150, 0.243, 2.5, -6.0), (4000, 0.242, 1.2, -5.4),
    (5000, 0.242, -2.1, -1.5), (6300, 0.245, -7.1, 6.0), (8000, 0.254, -11.2, 12.6), (10000, 0.271, -10.7, 13.9),
    (12500, 0.301, -3.1, 12.3),
)  # fmt: skip
# The numbers of its formula (1); section 4.2 rounds them differently, and its formula is no exact inverse.
ISO_SCALE, ISO_OFFSET, ISO_FACTOR, ISO_REFERENCE_DB = 4.47e-3, 1.15, 0.4, 94.0

# Bladon, Lindblom: Modeling the judgment of vowel quality differences (JASA 69, 1981): sone from phon, as in P01.
SONE_KNEE_PHON, SONE_EXPONENT = 40.0, 2.642

MODULATION_FFT = 512  # frames: 0.168 Hz a bin
MODULATIONS = 60  # bins 1 to 60, 0.17 to 10.1 Hz, that is 10 to 606 beats a minute: RPM02
# Fastl: Fluctuation strength and temporal masking patterns ... (Hearing Research 8, 1982), as in P01: modulation at f
# Hz is felt in proportion to 1 / (f / 4 + 4 / f), most at 4 Hz.
FLUCTUATION_PEAK_HZ = 4.0
# RPM02 smooths with a Gaussian; the width is ours: one band and one bin (1 Bark, 0.17 Hz = 10 beats a minute). Its
# gradient filter is left out: a head can weight differences between neighbouring bins itself.
SMOOTHING_BANDS, SMOOTHING_BINS = 1.0, 1.0

# Our choice. Loudness and modulation span five decades, variance ten: unscaled, rare peaks would dominate a track's
# mean, a head could not standardise the numbers, and float16 would lose small ones. So all are stored as
# log(1 + x / floor), the skewness as asinh: between -4 and about 25, well within float16. The mean over a track is
# nearly a geometric one, as robust to single loud segments as RPM02's median. 0.01 sone is barely audible (7 phon).
FLOOR_SONE = 0.01

STATISTICS = ("mean", "median", "variance", "skewness", "kurtosis", "min", "max")  # LR05, in this order
WIDTH = BANDS * MODULATIONS + len(STATISTICS) * BANDS + MODULATIONS  # 1440 + 168 + 60


class RhythmCutter:
    """Cuts one recording into segments of SEGMENT samples; a shorter recording is a single shorter segment.

    The last segment ends with the recording and overlaps the one before; fewer new samples than half a segment are
    dropped. Holds two segments, whatever the length of the recording.
    """

    def __init__(self) -> None:
        self._buffer = np.empty(SEGMENT, np.float32)
        self._filled = 0
        self._last = np.empty(0, np.float32)  # the previous segment
        self._finished = False

    def push(self, samples: np.ndarray) -> list[Unit]:
        """Take (n,) mono samples; return the segments they complete. Raises ValueError for another shape."""
        if samples.ndim != 1:
            raise ValueError(f"the cutter takes mono samples of shape (n,), not {samples.shape}")
        if self._finished:
            raise ValueError("a cutter serves one recording; make a new one")
        units = []
        while len(samples):
            taken = min(len(samples), SEGMENT - self._filled)
            self._buffer[self._filled : self._filled + taken] = samples[:taken]
            self._filled += taken
            samples = samples[taken:]
            if self._filled == SEGMENT:
                self._last, self._filled = self._buffer.copy(), 0
                units.append(Unit(self._last, 1))
        return units

    def finish(self) -> list[Unit]:
        """Return the last segment, if any; a recording of fewer than SHORTEST samples has none."""
        self._finished = True
        rest = self._buffer[: self._filled]
        if len(self._last):
            return [Unit(np.concatenate([self._last[len(rest) :], rest]), 1)] if len(rest) >= SEGMENT // 2 else []
        return [Unit(rest.copy(), 1)] if len(rest) >= SHORTEST else []


class RhythmEncoder:
    """Turns segments of 44,100 Hz into 1668 numbers each: 24 x 60 Rhythm Patterns, 7 x 24 statistics, 60 RH bins."""

    name = "rhythm"
    width = WIDTH
    words_width = 0
    sample_rate_hz = SAMPLE_RATE_HZ
    unit_s = SEGMENT / SAMPLE_RATE_HZ
    device = "cpu"
    precision = "fp64"  # the only one
    engine = "numpy"
    batch_units = 4  # single units are as fast, but a few let decoding run ahead

    @property
    def id(self) -> str:
        """Hex sha256 over every constant and the version of the arithmetic."""
        return encoder_id()

    def cutter(self) -> RhythmCutter:
        """Return a fresh cutter for one recording."""
        return RhythmCutter()

    def encode(self, units: Sequence[Unit]) -> np.ndarray:
        """Return (n, 1668) float32; not finite where samples are not. Raises ValueError for a wrong length."""
        vectors = np.empty((len(units), WIDTH), np.float32)
        for row, unit in zip(vectors, units, strict=True):
            if not SHORTEST <= len(unit.samples) <= SEGMENT:
                raise ValueError(f"a unit holds {SHORTEST} to {SEGMENT} samples, not {len(unit.samples)}")
            with np.errstate(over="ignore", invalid="ignore"):
                row[:] = _describe(sonogram(unit.samples))
        return vectors


@cache
def encoder_id() -> str:
    """Return the id of this encoder's vectors: hex sha256 over every constant and the version."""
    content = [
        VERSION, SAMPLE_RATE_HZ, SEGMENT, N_FFT, HOP, SHORTEST, BARK_EDGES_HZ, BARK_CENTRES_HZ, FULL_SCALE_DB,
        SPREAD_A, SPREAD_B, SPREAD_C, SPREAD_D, ISO_226, ISO_SCALE, ISO_OFFSET, ISO_FACTOR, ISO_REFERENCE_DB,
        SONE_KNEE_PHON, SONE_EXPONENT, MODULATION_FFT, MODULATIONS, FLUCTUATION_PEAK_HZ, SMOOTHING_BANDS,
        SMOOTHING_BINS, FLOOR_SONE, STATISTICS,
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(["rhythm", *content]).encode()).hexdigest()


WINDOWS_AT_ONCE = 16


class _Tables(NamedTuple):
    """Arrays computed from the constants."""

    window: np.ndarray  # (N_FFT,)
    bank: np.ndarray  # (bins, bands): power spectrum -> intensity in each band, masking included, 1 = 0 dB SPL
    exponent: np.ndarray  # (bands,)
    transfer_db: np.ndarray  # (bands,)
    threshold_db: np.ndarray  # (bands,)
    fluctuation: np.ndarray  # (modulations,)
    smooth_bands: np.ndarray  # (bands, bands)
    smooth_bins: np.ndarray  # (modulations, modulations)


@cache
def _tables() -> _Tables:
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(N_FFT) / N_FFT)
    bins_hz = np.arange(N_FFT // 2 + 1) * SAMPLE_RATE_HZ / N_FFT
    edges = np.array(BARK_EDGES_HZ, float)
    member = (bins_hz[:, None] >= edges[:-1]) & (bins_hz[:, None] < edges[1:])  # (bins, bands)
    member[0] = False  # 0 Hz is inaudible
    full_scale = N_FFT * np.square(window).sum() / 4  # a sine of amplitude 1, summed over the bins of one side
    dz = np.arange(BANDS)[None, :] - np.arange(BANDS)[:, None] + SPREAD_C  # (masker, masked)
    spread_db = SPREAD_A + SPREAD_B * dz - SPREAD_D * np.sqrt(1 + np.square(dz))
    bank = member @ np.power(10, spread_db / 10) * 10 ** (FULL_SCALE_DB / 10) / full_scale
    hz, exponent, transfer_db, threshold_db = np.array(ISO_226).T
    at = np.log(BARK_CENTRES_HZ)
    exponent, transfer_db, threshold_db = (np.interp(at, np.log(hz), y) for y in (exponent, transfer_db, threshold_db))
    modulation_hz = np.arange(1, MODULATIONS + 1) * SAMPLE_RATE_HZ / HOP / MODULATION_FFT
    fluctuation = 1 / (modulation_hz / FLUCTUATION_PEAK_HZ + FLUCTUATION_PEAK_HZ / modulation_hz)
    return _Tables(window, bank, exponent, transfer_db, threshold_db, fluctuation,
                   _gaussian(BANDS, SMOOTHING_BANDS), _gaussian(MODULATIONS, SMOOTHING_BINS))  # fmt: skip


def _gaussian(n: int, sigma: float) -> np.ndarray:
    """Return (n, n) weights whose rows sum to one, at the edges too."""
    weights = np.exp(-0.5 * np.square((np.arange(n)[:, None] - np.arange(n)) / sigma))
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


def sonogram(samples: np.ndarray) -> np.ndarray:
    """Specific loudness of samples (n,): (bands, frames) float64 in sone, at least that of the hearing threshold."""
    tables = _tables()
    samples = samples.astype(np.float64)
    samples -= samples.mean()  # a constant offset would leak into the lowest bands
    windows = np.lib.stride_tricks.sliding_window_view(samples, N_FFT)[::HOP]  # (frames, N_FFT)
    intensity = np.empty((len(windows), BANDS))
    # Measured: a few windows at a time fit the cache, and numpy transforms float64 in a third of the time of float32.
    for start in range(0, len(windows), WINDOWS_AT_ONCE):
        rows = slice(start, start + WINDOWS_AT_ONCE)
        spectrum = np.fft.rfft(windows[rows] * tables.window)  # (rows, bins) complex
        power = np.square(spectrum.real) + np.square(spectrum.imag)  # (rows, bins)
        intensity[rows] = power @ tables.bank  # (rows, bins) @ (bins, bands)
    return sone(phon(10 * np.log10(np.maximum(intensity.T, 1e-10))))  # the floor is below every threshold


def phon(level_db: np.ndarray) -> np.ndarray:
    """Loudness level in phon of band levels (bands, frames) in dB SPL: the inverse of formula (1) of ISO 226:2003."""
    tables = _tables()
    exponent, transfer_db, threshold_db = (
        t[:, None] for t in (tables.exponent, tables.transfer_db, tables.threshold_db)
    )
    at_threshold = (ISO_FACTOR * 10 ** ((threshold_db + transfer_db) / 10 - 9)) ** exponent
    excess = 10 ** (exponent * (level_db + transfer_db - ISO_REFERENCE_DB) / 10) - at_threshold
    # The threshold of hearing, where the excess is zero, is the lowest level.
    return np.asarray(40 * np.log10(np.maximum(excess, 0) / ISO_SCALE + ISO_OFFSET))


def sone(loudness_level: np.ndarray) -> np.ndarray:
    """Loudness in sone of a loudness level in phon (Bladon and Lindblom)."""
    loud = np.exp2((loudness_level - SONE_KNEE_PHON) / 10)
    return np.asarray(
        np.where(loudness_level >= SONE_KNEE_PHON, loud, (loudness_level / SONE_KNEE_PHON) ** SONE_EXPONENT)
    )


def _describe(loudness: np.ndarray) -> np.ndarray:
    """Loudness (bands, frames) in sone -> (WIDTH,): Rhythm Patterns by band, statistics by kind, Rhythm Histogram."""
    tables = _tables()
    frames = loudness.shape[1]
    mean = loudness.mean(axis=1)  # (bands,)
    centred = loudness - mean[:, None]
    # The mean is removed: zero-padded, a segment shorter than the transform would look like one long beat.
    spectrum = np.fft.rfft(centred, MODULATION_FFT)[:, 1 : MODULATIONS + 1]
    amplitude = np.abs(spectrum) * (2 / frames)  # (bands, modulations) in sone
    patterns = tables.smooth_bands @ (amplitude * tables.fluctuation) @ tables.smooth_bins.T
    # Unweighted, so that the strongest bin is the beat and not its multiple near 4 Hz.
    histogram = amplitude.sum(axis=0)  # (modulations,)
    squared = np.square(centred)
    variance = squared.mean(axis=1)
    audible = variance + FLOOR_SONE**2  # keeps rounding errors of a steady band from counting as skewness and kurtosis
    statistics = [
        _compressed(mean),
        _compressed(np.median(loudness, axis=1)),
        np.log1p(variance / FLOOR_SONE**2),
        np.arcsinh((squared * centred).mean(axis=1) / audible**1.5),
        np.log1p(np.square(squared).mean(axis=1) / np.square(audible)),
        _compressed(loudness.min(axis=1)),
        _compressed(loudness.max(axis=1)),
    ]
    return np.concatenate([_compressed(patterns).ravel(), *statistics, _compressed(histogram)])


def _compressed(value: np.ndarray) -> np.ndarray:
    return np.asarray(np.log1p(value / FLOOR_SONE))
