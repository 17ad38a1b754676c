"""The rhythm encoder once more, slowly: float64, formula by formula, no table shared with the program.

Discrete Fourier transforms are sums of sines and cosines, the equal loudness contours are inverted by bisection of
the standard's own direction, moments are loops. Constants are typed anew from the sources that rhythm.py names.
"""

import math

import numpy as np

RATE = 44_100.0
BARK = [(0, 100, 50), (100, 200, 150), (200, 300, 250), (300, 400, 350), (400, 510, 450), (510, 630, 570),
        (630, 770, 700), (770, 920, 840), (920, 1080, 1000), (1080, 1270, 1170), (1270, 1480, 1370), (1480, 1720, 1600),
        (1720, 2000, 1850), (2000, 2320, 2150), (2320, 2700, 2500), (2700, 3150, 2900), (3150, 3700, 3400),
        (3700, 4400, 4000), (4400, 5300, 4800), (5300, 6400, 5800), (6400, 7700, 7000), (7700, 9500, 8500),
        (9500, 12000, 10500), (12000, 15500, 13500)]  # fmt: skip
ISO_HZ = [20, 25, 31.5, 40, 50, 63, 80, 100, 125, 160, 200, 250, 315, 400, 500, 630, 800, 1000, 1250, 1600, 2000, 2500,
          3150, 4000, 5000, 6300, 8000, 10000, 12500]  # fmt: skip
ISO_ALPHA = [532, 506, 480, 455, 432, 409, 387, 367, 349, 330, 315, 301, 288, 276, 267, 259, 253, 250, 246, 244, 243,
             243, 243, 242, 242, 245, 254, 271, 301]  # fmt: skip
ISO_LU = [-316, -272, -230, -191, -159, -130, -103, -81, -62, -45, -31, -20, -11, -4, 0, 3, 5, 0, -27, -41, -10, 17, 25,
          12, -21, -71, -112, -107, -31]  # fmt: skip
ISO_TF = [785, 687, 595, 511, 440, 375, 315, 265, 221, 179, 144, 114, 86, 62, 44, 30, 22, 24, 35, 17, -13, -42, -60,
          -54, -15, 60, 126, 139, 123]  # fmt: skip


def interpolated(hz, tenths, divisor):
    """A column of the ISO table at a frequency between its rows, on a logarithmic axis."""
    if hz >= ISO_HZ[-1]:
        return tenths[-1] / divisor
    i = max(k for k, f in enumerate(ISO_HZ) if f <= hz)
    part = math.log(hz / ISO_HZ[i]) / math.log(ISO_HZ[i + 1] / ISO_HZ[i])
    return (tenths[i] + part * (tenths[i + 1] - tenths[i])) / divisor


def power_spectra(samples):
    """(frames, 513) by explicit sums over sines and cosines."""
    n = np.arange(1024)
    hann = np.sin(np.pi * n / 1024) ** 2
    angle = 2 * np.pi * (np.outer(n, np.arange(513)) % 1024) / 1024
    cosines, sines = np.cos(angle), np.sin(angle)
    out = []
    samples = samples.astype(np.float64) - math.fsum(samples) / len(samples)
    start = 0
    while start + 1024 <= len(samples):
        windowed = samples[start : start + 1024] * hann
        out.append((windowed @ cosines) ** 2 + (windowed @ sines) ** 2)
        start += 512
    return np.array(out)


def band_levels(power):
    """dB SPL of every band after masking, (24, frames); a full-scale sine within one band has 96 dB."""
    sine = sum(math.sin(math.pi * n / 1024) ** 4 for n in range(1024)) * 1024 / 4
    bands = []
    for low, high, _ in BARK:
        total = np.zeros(len(power))
        for k in range(1, 513):
            if low <= k * RATE / 1024 < high:
                total = total + power[:, k]
        bands.append(total / sine)
    levels = []
    for masked in range(24):
        total = np.zeros(len(power))
        for masker in range(24):
            dz = masked - masker
            gain_db = 15.81 + 7.5 * (dz + 0.474) - 17.5 * math.sqrt(1 + (dz + 0.474) ** 2)
            total = total + bands[masker] * 10 ** (gain_db / 10)
        levels.append(96 + 10 * np.log10(np.maximum(total, 1e-30)))
    return np.array(levels)


def phons(levels):
    """The contour through each level, by bisection: ISO 226 gives the level of a contour, not its inverse."""
    out = []
    for (_, _, hz), level in zip(BARK, levels, strict=True):
        alpha, lu, tf = interpolated(hz, ISO_ALPHA, 1000), interpolated(hz, ISO_LU, 10), interpolated(hz, ISO_TF, 10)
        quiet = (0.4 * 10 ** ((tf + lu) / 10 - 9)) ** alpha
        silence = 40 * math.log10(1.15)  # where the standard's term for the contour vanishes
        low, high = np.full(len(level), silence), np.full(len(level), 300.0)
        for _ in range(60):
            middle = (low + high) / 2
            of_contour = 10 / alpha * np.log10(4.47e-3 * (10 ** (0.025 * middle) - 1.15) + quiet) - lu + 94
            above = of_contour > np.maximum(level, tf)
            low, high = np.where(above, low, middle), np.where(above, middle, high)
        out.append((low + high) / 2)
    return np.array(out)


def sones(phon):
    return np.array([[2 ** ((p - 40) / 10) if p >= 40 else (p / 40) ** 2.642 for p in row] for row in phon])


def sonogram(samples):
    """(24, frames) in sone."""
    return sones(phons(band_levels(power_spectra(samples))))


def modulation(loudness):
    """Amplitude in sone of the 60 modulations of each band: (24, 60), by explicit sums."""
    frames = loudness.shape[1]
    t = np.arange(frames)
    out = np.empty((24, 60))
    for band in range(24):
        around_zero = loudness[band] - sum(loudness[band]) / frames
        for k in range(1, 61):
            turn = 2 * math.pi * k * t / 512
            out[band, k - 1] = (
                2 / frames * math.hypot(np.sum(around_zero * np.cos(turn)), np.sum(around_zero * np.sin(turn)))
            )
    return out


def smoothed(pattern):
    """Gaussian of one band and one bin; at the edges the weights are those of the neighbours that exist."""

    def along(line):
        out = []
        for i in range(len(line)):
            weights = [math.exp(-((i - j) ** 2) / 2) for j in range(len(line))]
            out.append(sum(w * v for w, v in zip(weights, line, strict=True)) / sum(weights))
        return out

    columns = np.array([along(column) for column in pattern.T]).T
    return np.array([along(row) for row in columns])


def patterns(loudness):
    weighted = modulation(loudness)
    for k in range(1, 61):
        hz = k * RATE / 512 / 512
        weighted[:, k - 1] /= hz / 4 + 4 / hz
    return smoothed(weighted)


def statistics(loudness):
    """(7, 24) as stored: mean, median, variance, skewness, kurtosis, min, max."""
    out = np.empty((7, 24))
    for band, row in enumerate(loudness):
        n = len(row)
        mean = math.fsum(row) / n
        second, third, fourth = (math.fsum((v - mean) ** power for v in row) / n for power in (2, 3, 4))
        ranked = sorted(row)
        median = ranked[n // 2] if n % 2 else (ranked[n // 2 - 1] + ranked[n // 2]) / 2
        steady = second + 0.01**2
        out[:, band] = [
            math.log(1 + mean / 0.01), math.log(1 + median / 0.01), math.log(1 + second / 0.01**2),
            math.asinh(third / steady**1.5), math.log(1 + fourth / steady**2),
            math.log(1 + ranked[0] / 0.01), math.log(1 + ranked[-1] / 0.01),
        ]  # fmt: skip
    return out


def describe(samples):
    """One unit's vector, (1668,)."""
    loudness = sonogram(samples)
    histogram = [math.fsum(column) for column in modulation(loudness).T]
    return np.concatenate(
        [
            np.log(1 + patterns(loudness) / 0.01).ravel(),
            statistics(loudness).ravel(),
            np.log(1 + np.array(histogram) / 0.01),
        ]
    )
