"""MusiCNN's front end: cuts a stream of samples into units, and turns units into log-mel frames.

The cutter is numpy only; LogMel imports torch when it is made. Both take mono samples at 16 kHz.
"""

from typing import TYPE_CHECKING

import numpy as np

from indexer.encoders.encoder import Unit
from indexer.encoders.mel import slaney_bank

if TYPE_CHECKING:
    import torch

SAMPLE_RATE_HZ = 16_000
N_FFT, HOP = 512, 256
BANDS = 96  # from 0 to 8,000 Hz
FRAMES = 187  # of a unit, 2.99 s
GAIN = 10_000  # log10(GAIN x power + 1)
SHORTEST = N_FFT  # samples; our choice: a recording without one whole window has no sound to speak of

STRIDE = FRAMES * HOP  # samples from one unit's start to the next one's
UNIT = (FRAMES - 1) * HOP + N_FFT  # samples of a unit
MARGIN = N_FFT // 2  # zeros at both ends of a recording, so that frame f is centred on sample f x HOP


class MusicnnCutter:
    """Cuts one recording into units of FRAMES frames; zeros stand before its start and behind its end.

    As published, what is left over at the end, less than a unit, is not heard. A recording shorter than a unit is
    filled up with zeros.
    """

    def __init__(self) -> None:
        self._buffer = np.zeros(UNIT, np.float32)
        self._filled = MARGIN
        self._pushed = 0  # samples of the recording so far
        self._cut = False  # whether there was a unit
        self._finished = False

    def push(self, samples: np.ndarray) -> list[Unit]:
        """Take (n,) mono samples; return the units they complete. Raises ValueError for another shape."""
        if samples.ndim != 1:
            raise ValueError(f"the cutter takes mono samples of shape (n,), not {samples.shape}")
        if self._finished:
            raise ValueError("a cutter serves one recording; make a new one")
        self._pushed += len(samples)
        return self._fill(samples)

    def finish(self) -> list[Unit]:
        """Return the last unit, if the end completes one; a recording of fewer than SHORTEST samples has none."""
        self._finished = True
        units = self._fill(np.zeros(MARGIN, np.float32))
        if self._cut or self._pushed < SHORTEST:
            return units
        return self._fill(np.zeros(UNIT - self._filled, np.float32))

    def _fill(self, samples: np.ndarray) -> list[Unit]:
        units = []
        while len(samples):
            taken = min(len(samples), UNIT - self._filled)
            self._buffer[self._filled : self._filled + taken] = samples[:taken]
            self._filled += taken
            samples = samples[taken:]
            if self._filled == UNIT:
                units.append(Unit(self._buffer.copy(), 1))
                self._filled = UNIT - STRIDE  # the samples that the next unit shares with this one
                self._buffer[: self._filled] = self._buffer[STRIDE:]
                self._cut = True
        return units


class LogMel:
    """Turns batches of units into log-mel frames, in float32."""

    def __init__(self) -> None:
        import torch

        self._window = torch.hann_window(N_FFT, periodic=True)
        self._bank = torch.from_numpy(mel_bank().astype(np.float32))

    def __call__(self, samples: "torch.Tensor") -> "torch.Tensor":
        """Take samples (B, UNIT) float32, return (B, FRAMES, BANDS) float32."""
        import torch

        spectrum = torch.stft(
            samples, N_FFT, HOP, window=self._window, center=False, return_complex=True
        )  # (B, bins, frames) complex
        power = spectrum.real.square() + spectrum.imag.square()
        return torch.log10(GAIN * (power.mT @ self._bank) + 1)


def mel_bank() -> np.ndarray:
    """(bins, BANDS) float64, from 0 Hz to half the sample rate."""
    return slaney_bank(SAMPLE_RATE_HZ, N_FFT, BANDS, 0, SAMPLE_RATE_HZ / 2)
