"""The mel scale of Slaney's Auditory Toolbox (1998), and banks of triangular filters on it. Numpy only."""

import numpy as np

# Linear below the knee, logarithmic above.
MEL_HZ = 200 / 3  # of a mel below the knee
KNEE_MEL, KNEE_HZ = 15, 1000
MELS_PER_FACTOR, FACTOR = 27, 6.4


def slaney_bank(sample_rate_hz: int, n_fft: int, bands: int, low_hz: float, high_hz: float) -> np.ndarray:
    """(bins, bands) float64: a power spectrum's bins -> triangles of area one over Hz, evenly spaced in mel."""
    mels = np.linspace(_mel(low_hz), _mel(high_hz), bands + 2)
    edges = np.where(mels < KNEE_MEL, mels * MEL_HZ, KNEE_HZ * FACTOR ** ((mels - KNEE_MEL) / MELS_PER_FACTOR))
    low, middle, high = edges[:-2], edges[1:-1], edges[2:]
    hz = np.arange(n_fft // 2 + 1)[:, None] * sample_rate_hz / n_fft  # (bins, 1)
    triangles = np.minimum((hz - low) / (middle - low), (high - hz) / (high - middle))
    return np.asarray(np.maximum(triangles, 0) * 2 / (high - low))


def _mel(hz: float) -> float:
    if hz < KNEE_HZ:
        return hz / MEL_HZ
    return float(KNEE_MEL + np.log(hz / KNEE_HZ) / np.log(FACTOR) * MELS_PER_FACTOR)
