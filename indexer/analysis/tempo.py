"""Measures the tempo of a recording while it is decoded: candidates with their scores, and how clear the pulse is.

Numpy only. Nearly every error of a tempo estimate is one of octave or of 2/3 and 3/4, and which reading is right
depends on the genre; so the meter keeps all of them, and ``tempo_choice`` chooses when the genre is known.

Source of the method: onset strength as the rise of compressed band energies (Klapuri: Sound onset detection by applying
psychoacoustic knowledge, ICASSP 1999), its generalised autocorrelation (Percival, Tzanetakis: Streamlined tempo
estimation based on autocorrelation and cross-correlation with pulses, IEEE/ACM TASLP 22, 2014), and the mean of that at
the multiples of a beat.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

SLOWEST_BPM, FASTEST_BPM = 38.0, 250.0
RELATIVES = (1.0, 2.0, 1 / 2, 2 / 3, 3 / 2, 3 / 4, 4 / 3)  # of the best candidate: where the errors of tempo lie
TOLERANCE = 0.04  # two tempi within this share are the same one, as in the field's Accuracy 1

_FRAMES_PER_S = 86  # 512 samples at 44.1 kHz, 1024 in a window: short enough to tell sixteenth notes at 220 BPM apart
_BANDS, _TOP_HZ = 24, 16_000.0
_COMPRESSION = 0.25  # of power: near loudness, and free of any level that would have to be chosen
_WINDOW = 2048  # frames of onset strength, 24 s: several bars of the slowest music
_STEP = _WINDOW // 2
_LAGS = _WINDOW * 3 // 4  # autocorrelation is kept up to 18 s
_SWELLS = 12  # frequencies of onset strength that are left out: up to 0.25 Hz, a bar at 60 BPM
_SEGMENTS = 64  # windows kept at most; beyond, neighbours are added up, so that a mix of any length needs 0.4 MB
_FURTHER = 2  # candidates at most that are no relatives of the best
_BEATS = 16  # multiples of a beat that are averaged: four bars
_SHORTEST_S = 6.0  # in less, even random clicks often look regular
_QUIET = 2e-3  # of the level: onsets as weak as this are rounding, in a steady tone for instance
_CLEAR, _STEEPNESS = 0.016, 4.0  # clarity of which one half is right, and how fast that changes with it
NO_PULSE = 0.3  # confidence below which there is no tempo
_STEADY = 0.6  # share of a recording's segments that must have a pulse, and the same tempo, for there to be one
_USUAL_BPM, _USUAL_SPREAD = 125.0, 0.6  # log-normal preference among readings, as people tap; width in nepers

_GRID_BPM = np.exp(np.arange(math.log(SLOWEST_BPM), math.log(FASTEST_BPM), 0.004))


@dataclass(frozen=True)
class Tempo:
    """What the meter found.

    candidates: (beats a minute, score 0 to 1), the likeliest first without knowledge of the genre; none where the tempo
        changes so much that no number would be true.
    confidence: 0 to 1, how likely one of the candidates is right.
    range_bpm: slowest and fastest tempo where it changes along the recording, else None.
    """

    candidates: tuple[tuple[float, float], ...]
    confidence: float
    range_bpm: tuple[float, float] | None = None


def usual(bpm: np.ndarray | float) -> Any:
    """How likely a tempo is in music of which nothing is known, 0 to 1."""
    return np.exp(-0.5 * (np.log(np.asarray(bpm) / _USUAL_BPM) / _USUAL_SPREAD) ** 2)


class TempoMeter:
    """Takes a recording at its own rate, one second or less at a time; memory does not grow with its length."""

    def __init__(self, rate_hz: int) -> None:
        self._hop = max(32, round(rate_hz / _FRAMES_PER_S / 32) * 32)  # of 32: lengths that an FFT is fast at
        self._frames_per_s = rate_hz / self._hop
        self._shape = np.hanning(2 * self._hop).astype(np.float32)
        self._bands = _band_weights(rate_hz, 2 * self._hop)
        self._rest = np.empty(0, np.float32)  # samples that fill no frame yet
        self._before: np.ndarray | None = None  # compressed bands (_BANDS,) of the frame before
        self._onset = np.empty(0, np.float32)  # onset strength that fills no window yet
        self._frames = 0
        self._level = 0.0  # sum of all compressed bands
        self._segments: list[np.ndarray] = []  # autocorrelation (_LAGS,) of each window, or of some neighbours' sum
        self._pending = np.zeros(_LAGS)  # of the segment that is being added up
        self._in_pending, self._per_segment = 0, 1

    def push(self, samples: np.ndarray) -> None:
        """Take (n,) mono float32 samples, finite, n at most one second."""
        samples = np.concatenate([self._rest, samples])
        size = 2 * self._hop
        count = max(0, (len(samples) - size) // self._hop + 1)
        self._rest = samples[count * self._hop :].copy()
        if not count:
            return
        frames = np.lib.stride_tricks.sliding_window_view(samples, size)[: count * self._hop : self._hop]
        spectra = np.fft.rfft(frames * self._shape)[:, : len(self._bands)]
        bands = ((np.square(spectra.real) + np.square(spectra.imag)) @ self._bands) ** _COMPRESSION
        before = bands[:1] if self._before is None else self._before[None]
        rise = np.maximum(0, np.diff(bands, axis=0, prepend=before)).sum(1)
        self._before = bands[-1]
        self._level += float(bands.sum(dtype=np.float64))
        self._frames += count
        self._onset = np.concatenate([self._onset, rise.astype(np.float32)])
        while len(self._onset) >= _WINDOW:
            self._add(_autocorrelation(self._onset[:_WINDOW]))
            self._onset = self._onset[_STEP:]

    def finish(self) -> Tempo | None:
        """The tempo; None where there is no pulse: silence, noise, sound without beats, or too little of it."""
        if self._frames < _SHORTEST_S * self._frames_per_s:
            return None
        if not self._segments and not self._in_pending:
            self._add(_autocorrelation(self._onset))
        segments = np.array([*self._segments, *([self._pending] if self._in_pending else [])])
        noise = _QUIET * self._level / self._frames * math.sqrt(_WINDOW) * self._per_segment
        segments[:, 0] += noise
        whole = min(1.0, math.sqrt(self._frames / _WINDOW))  # in a shorter recording, chance finds a pulse more often
        return _judged(segments, self._frames_per_s, min(_LAGS, self._frames * 3 // 4), whole)

    def _add(self, correlation: np.ndarray) -> None:
        self._pending = self._pending + correlation
        self._in_pending += 1
        if self._in_pending < self._per_segment:
            return
        self._segments.append(self._pending.astype(np.float32))
        self._pending, self._in_pending = np.zeros(_LAGS), 0
        if len(self._segments) >= _SEGMENTS:
            self._segments = [a + b for a, b in zip(self._segments[::2], self._segments[1::2], strict=True)]
            self._per_segment *= 2


def _band_weights(rate_hz: int, size: int) -> np.ndarray:
    """Triangular mel bands (bins, _BANDS) float32 up to _TOP_HZ; a band between two bins takes the nearest one.

    Bins above the last band are left out.
    """
    bin_hz = np.fft.rfftfreq(size, 1 / rate_hz)
    top_mel = 2595 * math.log10(1 + min(_TOP_HZ, rate_hz / 2) / 700)
    corners_hz = 700 * (10 ** (np.linspace(0, top_mel, _BANDS + 2) / 2595) - 1)
    low, centre, high = corners_hz[:-2], corners_hz[1:-1], corners_hz[2:]
    up, down = (bin_hz[:, None] - low) / (centre - low), (high - bin_hz[:, None]) / (high - centre)
    weights = np.maximum(0, np.minimum(up, down))
    nearest = np.abs(bin_hz[:, None] - centre).argmin(0)
    weights[nearest, np.arange(_BANDS)] = np.where(weights.sum(0) == 0, 1, weights[nearest, np.arange(_BANDS)])
    return weights[: np.flatnonzero(weights.any(1))[-1] + 1].astype(np.float32)


def _autocorrelation(onset: np.ndarray) -> np.ndarray:
    """Generalised autocorrelation (_LAGS,) of at most _WINDOW frames: of the magnitudes, where the usual one squares.

    A loud accent then counts less, and a window counts as much as its onsets are strong, not as their square. What
    swells and fades more slowly than any bar does not count.
    """
    magnitudes = np.abs(np.fft.rfft(onset - onset.mean(), 2 * _WINDOW))
    magnitudes[:_SWELLS] = 0
    return np.fft.irfft(magnitudes)[:_LAGS]


def _combed(
    correlation: np.ndarray, frames_per_s: float, bpm: np.ndarray, lags: int, beats: int = _BEATS
) -> np.ndarray:
    """Mean of autocorrelations (..., _LAGS) at the first multiples of each tempo's beat: (..., len(bpm)).

    Multiples from ``lags`` on are left out.
    """
    at = 60 * frames_per_s / bpm[:, None] * np.arange(1, beats + 1)
    there = at < lags - 1
    below = np.where(there, at, 0).astype(int)
    share = np.where(there, at - below, 0)
    values = correlation[..., below] * (1 - share) + correlation[..., below + 1] * share
    return np.asarray((values * there).sum(-1) / np.maximum(1, there.sum(-1)))


def _judged(segments: np.ndarray, frames_per_s: float, lags: int, whole: float) -> Tempo | None:
    """The tempo from the autocorrelations (segments, _LAGS) of a recording; ``whole``: factor of their clarity."""
    total = segments.sum(0)
    if not total[0] > 0:
        return None
    likely = usual(_GRID_BPM)
    scores = _combed(total / total[0], frames_per_s, _GRID_BPM, lags)
    each = _combed(segments / np.maximum(segments[:, :1], 1e-9 * total[0]), frames_per_s, _GRID_BPM, lags)
    own = np.argmax(each * likely, axis=1)
    own_confidence = _confidence(each[np.arange(len(each)), own] * whole)
    clear = own_confidence >= NO_PULSE
    if clear.mean() < _STEADY:
        return None
    # The tempo that most segments have: mostly that of the sum, which a drifting tempo blurs.
    own_bpm = _GRID_BPM[own[clear]]
    sum_bpm, mean_bpm = _GRID_BPM[np.argmax(scores * likely)], own_bpm.mean()
    best_bpm = max([sum_bpm, mean_bpm, *own_bpm], key=lambda bpm: _same(own_bpm, bpm)[0].mean())
    agree, read_bpm = _same(own_bpm, best_bpm)
    if agree.mean() < _STEADY:
        slowest, fastest = (float(bpm) for bpm in np.percentile(own_bpm, (5, 95)))
        return Tempo((), round(float(np.median(own_confidence[clear])), 3), (round(slowest, 1), round(fastest, 1)))
    slowest, fastest = (float(bpm) for bpm in np.percentile(read_bpm[agree], (5, 95)))
    here = np.abs(_GRID_BPM / best_bpm - 1) < TOLERANCE
    return Tempo(
        _candidates(total, scores, frames_per_s, lags, best_bpm),
        round(float(np.median(_confidence(each[clear][:, here].max(1) * whole))), 3),
        (round(slowest, 1), round(fastest, 1)) if fastest > slowest * (1 + TOLERANCE / 2) else None,
    )


def _same(bpm: np.ndarray, reference_bpm: float) -> tuple[np.ndarray, np.ndarray]:
    """Of each tempo (n,): whether it is the reference or one of its relatives, and the tempo without that ratio.

    Where several tempi occur, a third or a quarter is soon hit by chance: half the tolerance for them.
    """
    ratios = np.array(RELATIVES)
    readings = bpm[:, None] / ratios
    off = np.abs(readings / reference_bpm - 1) / np.where(np.isin(ratios, (0.5, 1, 2)), TOLERANCE, TOLERANCE / 2)
    return off.min(1) < 1, readings[np.arange(len(bpm)), off.argmin(1)]


def _confidence(clarity: np.ndarray) -> np.ndarray:
    """How likely a pulse is right, 0 to 1, by its clarity: its score as a share of the onsets' own."""
    return np.asarray(1 / (1 + (_CLEAR / np.maximum(clarity, 1e-6)) ** _STEEPNESS))


def _candidates(
    total: np.ndarray, scores: np.ndarray, frames_per_s: float, lags: int, best_bpm: float
) -> tuple[tuple[float, float], ...]:
    """(beats a minute, score) of the best tempo, its relatives, and the strongest peaks beside them, likeliest first.

    scores: those of _GRID_BPM; that of a candidate is the highest nearby, as a share of the highest of all.
    """
    best_bpm = _refined(total, frames_per_s, lags, best_bpm)
    found = [best_bpm * ratio for ratio in RELATIVES]
    inner = scores[1:-1]
    peaks = np.flatnonzero((inner > scores[:-2]) & (inner >= scores[2:])) + 1
    for peak in sorted(peaks, key=lambda i: -scores[i] * usual(_GRID_BPM[i]))[: len(RELATIVES)]:
        bpm = float(_GRID_BPM[peak])
        if len(found) < len(RELATIVES) + _FURTHER and all(abs(bpm / other - 1) > TOLERANCE for other in found):
            found.append(_refined(total, frames_per_s, lags, bpm))
    rated = [
        (bpm, max(0.0, float(scores[np.abs(_GRID_BPM / bpm - 1) < TOLERANCE / 2].max() / scores.max())))
        for bpm in found
        if SLOWEST_BPM <= bpm <= FASTEST_BPM
    ]
    rated.sort(key=lambda c: -c[1] * usual(c[0]))
    return tuple((round(bpm, 2), round(score, 3)) for bpm, score in rated)


def _refined(total: np.ndarray, frames_per_s: float, lags: int, bpm: float) -> float:
    """A tempo to about 0.02 %: the best one nearby, over all beats within ``lags``."""
    grid = bpm * np.linspace(0.99, 1.01, 41)
    scores = _combed(total, frames_per_s, grid, lags, int(lags / frames_per_s * grid[-1] / 60))
    top = int(np.clip(np.argmax(scores), 1, len(grid) - 2))
    before, at, after = scores[top - 1 : top + 2]
    bend = before - 2 * at + after
    shift = 0.5 * (before - after) / bend if bend < 0 else 0.0
    return float(grid[top] + np.clip(shift, -1, 1) * (grid[1] - grid[0]))
