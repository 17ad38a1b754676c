"""MusiCNN once more, slowly: numpy in float64, layer after layer as published, no table shared with the program.

Every convolution is a product at each place, the mel filters are triangles drawn from Slaney's formula one by
one, and the Fourier transform is a sum of sines and cosines. The weights come by TensorFlow's names.
"""

import functools
import math

import numpy as np

FRAMES, BANDS = 187, 96
RATE, WINDOW, HOP = 16_000, 512, 256


def mel_hz(mel):
    """Slaney's scale (Auditory Toolbox): linear below 1 kHz, 27 steps for each factor of 6.4 above."""
    return 200 / 3 * mel if mel < 15 else 1000 * math.exp(math.log(6.4) / 27 * (mel - 15))


@functools.cache
def mel_filters():
    """(257, 96): triangles of area one over Hz."""
    top = 15 + math.log(8) / (math.log(6.4) / 27)  # of 8 kHz
    corners = [mel_hz(top * n / 97) for n in range(98)]
    filters = np.zeros((257, 96))
    for band in range(96):
        low, middle, high = corners[band : band + 3]
        for k in range(257):
            hz = k * RATE / WINDOW
            height = min((hz - low) / (middle - low), (high - hz) / (high - middle))
            filters[k, band] = max(0.0, height) * 2 / (high - low)
    return filters


def log_mel(samples):
    """All frames of a recording, (1 + n // 256, 96)."""
    n = np.arange(WINDOW)
    hann = np.sin(np.pi * n / WINDOW) ** 2
    angle = 2 * np.pi * (np.outer(n, np.arange(257)) % WINDOW) / WINDOW
    cosines, sines = np.cos(angle), np.sin(angle)
    silence = np.zeros(WINDOW // 2)
    padded = np.concatenate([silence, samples.astype(np.float64), silence])
    frames = []
    for frame in range(1 + len(samples) // HOP):
        windowed = padded[HOP * frame : HOP * frame + WINDOW] * hann
        frames.append((windowed @ cosines) ** 2 + (windowed @ sines) ** 2)
    return np.log10(10_000 * (np.array(frames) @ mel_filters()) + 1)


def units(samples):
    """The units of a recording, (n, 187, 96); what is left over is dropped, and a shorter one is padded."""
    silence = np.zeros(max(0, (FRAMES - 1) * HOP - len(samples)))
    frames = log_mel(np.concatenate([samples, silence]))
    return [frames[start : start + FRAMES] for start in range(0, len(frames) - FRAMES + 1, FRAMES)]


class Network:
    """One network; ``weights``: arrays by TensorFlow's names, kernels as height, width, in, out."""

    def __init__(self, weights):
        self.weights = {name: array.astype(np.float64) for name, array in weights.items()}

    def norm(self, x, number):
        name = "batch_normalization" + (f"_{number}" if number else "")
        gamma, beta, mean, variance = (
            self.weights[f"{name}/{part}"] for part in ("gamma", "beta", "moving_mean", "moving_variance")
        )
        return gamma * (x - mean) / np.sqrt(variance + 1e-3) + beta

    def conv(self, x, number, before, behind):
        """(time, frequency) -> (time, frequency, out), after ReLU and batch norm; zeros are put around time."""
        name = "conv2d" + (f"_{number}" if number else "")
        kernel = self.weights[f"{name}/kernel"][:, :, 0]
        height, width, out = kernel.shape
        x = np.pad(x, ((before, behind), (0, 0)))
        times, bands = x.shape[0] - height + 1, x.shape[1] - width + 1
        rows = kernel.transpose(1, 0, 2).reshape(width * height, out)
        total = np.empty((times, bands, out))
        for band in range(bands):
            pieces = np.lib.stride_tricks.sliding_window_view(x[:, band : band + width], height, axis=0)
            total[:, band] = pieces.reshape(times, width * height) @ rows
        total += self.weights[f"{name}/bias"]
        return self.norm(np.maximum(total, 0), number + 1)

    def __call__(self, frames):
        """Log-mel (187, 96) -> maxima (753,), means (753,), penultimate (200,), tags (50,)."""
        x = self.norm(frames[:, :, None], 0)[:, :, 0]
        front = [self.conv(x, number, 3, 3).max(axis=1) for number in (0, 1)]
        for number, length in ((2, 128), (3, 64), (4, 32)):
            front.append(self.conv(x, number, (length - 1) // 2, length // 2).max(axis=1))
        front = np.concatenate(front, axis=1)  # (187, 561)
        first = self.conv(front, 5, 3, 3)[:, 0]
        second = first + self.conv(first, 6, 3, 3)[:, 0]
        third = second + self.conv(second, 7, 3, 3)[:, 0]
        stacked = np.concatenate([front, first, second, third], axis=1)  # (187, 753)
        maxima, means = stacked.max(axis=0), stacked.mean(axis=0)
        pooled = self.norm(np.stack([maxima, means], axis=1).ravel(), 9)
        hidden = np.maximum(pooled @ self.weights["dense/kernel"] + self.weights["dense/bias"], 0)
        penultimate = self.norm(hidden, 10)
        logits = penultimate @ self.weights["dense_1/kernel"] + self.weights["dense_1/bias"]
        return maxima, means, penultimate, 1 / (1 + np.exp(-logits))
