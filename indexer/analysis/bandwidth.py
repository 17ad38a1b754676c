"""Measures where the spectrum of a recording ends, and how sharply: lossless files that were lossy once show it.

MP3, AAC, Opus and low qualities of Vorbis leave out everything above some frequency. Their edge is a cliff of 30 to 60
dB within half a kilohertz, whatever is made of the file later. Records, microphones, synthesisers and common filters
fade out over kilohertz. What else ends in a cliff there: FM radio (15 kHz) and the steepest converters (20 kHz).
Error rates: docs/accuracy.md.
"""

import math
from dataclasses import dataclass

import numpy as np

_BIN_HZ = 10.8  # 4,096 samples at 44.1 kHz
_BAND_BINS = 8  # bins of a band, whose powers are added
_GROUP_FRAMES = 16  # 1.5 s at most rates; of each, the loudest frame of every band counts
_LEAST_GROUPS = 2  # with less sound there is no answer
_QUIET = 1e-7  # mean square (-70 dB) up to which a frame holds no more than noise
_LOWEST = 1e-19  # power of a band that counts as none

# Levels are dB of full scale in a band. The noise of 16 bits lies at -129 (mean) to -126 (loudest).
_NOISE_DB = (-129.0, -115.0)  # where the quietest band lies is what noise there is, within these limits
_ABOVE_NOISE_DB = 9.0  # of the last band with content
_GAP_HZ, _SIDE_HZ = 250.0, 900.0  # an edge is seen from so far below and above it
_LOWEST_EDGE_HZ = 2_000.0
_CLIFF_DB = 15.0  # from here on the edge is where the content ends

# A lossy encoder's edge: LAME's lowpass lies at 16.5 kHz (128 kbit/s) to 20.6 (320), FFmpeg's AAC at 17.5, Opus' at 20.
LOSSY_EDGE_HZ = (14_500, 20_650)
LOSSY_EDGE_DB = 20.0


# FFmpeg's names, and libsndfile's of PCM, of codecs that keep every sample; WavPack may be lossy, and then says so by
# nothing here.
LOSSLESS_CODECS = frozenset({
    "flac", "alac", "wavpack", "ape", "tta", "tak", "shorten", "mlp", "truehd", "wmalossless",
    "pcm_s16le", "pcm_s16be", "pcm_s24le", "pcm_s24be", "pcm_s32le", "pcm_s32be", "pcm_f32le", "pcm_f32be",
    "pcm_f64le", "pcm_f64be", "pcm_16", "pcm_24", "pcm_32", "float", "double",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Bandwidth:
    """Where the content of the spectrum ends, and the fall of the level within half a kilohertz at its steepest."""

    bandwidth_hz: int
    edge_hz: int
    edge_db: float

    @property
    def is_lossy_edge(self) -> bool:
        """Whether the spectrum ends as a lossy encoder ends it."""
        return LOSSY_EDGE_HZ[0] <= self.edge_hz <= LOSSY_EDGE_HZ[1] and self.edge_db >= LOSSY_EDGE_DB


class BandwidthMeter:
    """Collects two long-term spectra of the mix: the mean level of each band, and the mean of its loudest moments."""

    def __init__(self, rate_hz: int) -> None:
        self._rate_hz = rate_hz
        self._frames = 1 << max(6, round(math.log2(rate_hz / _BIN_HZ)))
        self._window = np.hanning(self._frames).astype(np.float32)
        self._bands = self._frames // 2 // _BAND_BINS
        self._rest = np.empty(0, np.float32)
        self._heard, self._mean_sum = 0, np.zeros(self._bands)
        self._groups, self._loud_sum = 0, np.zeros(self._bands)
        self._in_group, self._loudest = 0, np.full(self._bands, -np.inf)

    def push(self, samples: np.ndarray) -> None:
        """Take samples in [-1, 1], (n,) float32."""
        joined = np.concatenate([self._rest, samples])
        whole = len(joined) - len(joined) % self._frames
        self._rest = joined[whole:].copy()
        frames = joined[:whole].reshape(-1, self._frames)
        frames = frames[np.mean(np.square(frames), axis=1) > _QUIET]
        if not len(frames):
            return
        spectra = np.fft.rfft(frames * self._window)[:, : self._bands * _BAND_BINS]
        power = np.square(spectra.real) + np.square(spectra.imag)
        power = power.reshape(len(frames), self._bands, _BAND_BINS).sum(axis=2) / np.sum(self._window) ** 2
        levels = 10 * np.log10(np.maximum(power, _LOWEST))
        self._mean_sum += levels.sum(axis=0, dtype=np.float64)
        self._heard += len(levels)
        while len(levels):
            some, levels = np.split(levels, [_GROUP_FRAMES - self._in_group])
            np.maximum(self._loudest, some.max(axis=0), out=self._loudest)
            self._in_group += len(some)
            if self._in_group == _GROUP_FRAMES:
                self._loud_sum += self._loudest
                self._groups, self._in_group = self._groups + 1, 0
                self._loudest[:] = -np.inf

    def finish(self) -> Bandwidth | None:
        """None for less than three seconds of sound above -70 dB."""
        if self._groups < _LEAST_GROUPS:
            return None
        mean, loud = self._mean_sum / self._heard, self._loud_sum / self._groups
        # Content that is rare shows in the loud moments; decoded MP3s that clip show their edge in the mean.
        edge_db, edge_hz = max(self._edge(mean), self._edge(loud))
        smooth = _median_of_five(loud)
        noise_db = float(np.clip(smooth.min(), *_NOISE_DB))
        content = np.flatnonzero(smooth > noise_db + _ABOVE_NOISE_DB)
        end_hz = (content[-1] + 1) * self._band_hz if len(content) else 0.0
        if edge_db >= _CLIFF_DB:
            end_hz = min(end_hz, edge_hz + _GAP_HZ)
        return Bandwidth(round(end_hz), round(edge_hz), round(edge_db, 1))

    @property
    def _band_hz(self) -> float:
        return float(self._rate_hz * _BAND_BINS / self._frames)

    def _edge(self, level: np.ndarray) -> tuple[float, float]:
        """(fall in dB, frequency in Hz) of the steepest fall: from the usual level below to the highest one above."""
        gap, side = round(_GAP_HZ / self._band_hz), round(_SIDE_HZ / self._band_hz)
        first = max(side, round(_LOWEST_EDGE_HZ / self._band_hz))
        below = np.median(_windows(level, side - gap), axis=1)[first - side :]
        above = _windows(level, side - gap - 1).max(axis=1)[first + gap + 1 :]
        count = self._bands - side - first
        falls = below[:count] - above[:count]
        if count <= 0:
            return 0.0, 0.0
        at = count - 1 - int(np.argmax(falls[::-1]))
        return float(falls[at]), float((first + at) * self._band_hz)


def _windows(values: np.ndarray, length: int) -> np.ndarray:
    return np.lib.stride_tricks.sliding_window_view(values, length)


def _median_of_five(values: np.ndarray) -> np.ndarray:
    """Of each value (n,) and the two on either side; at the ends, of those that there are."""
    ordered = np.sort(_windows(np.pad(values, 2, constant_values=np.inf), 5), axis=1)
    there = np.isfinite(ordered).sum(axis=1)
    rows = np.arange(len(values))
    return np.asarray((ordered[rows, (there - 1) // 2] + ordered[rows, there // 2]) / 2)
