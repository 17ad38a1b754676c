"""M2D's front end: cuts a stream of samples into units, and turns units into normalised log-mel spectrograms.

Cutter and NumpyLogMel need no torch; LogMel imports it when it is made. All take mono samples at the model's own rate.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from indexer.encoders.encoder import Unit
from indexer.encoders.m2d.geometry import FrontEnd, Geometry
from indexer.encoders.mel import slaney_bank

if TYPE_CHECKING:
    import torch

LOG_FLOOR = 1.19209290e-07  # float32 epsilon, added before the logarithm
ROWS = 8  # frames in one product: OpenBLAS computes so small a one in its caller's thread and disturbs no engine


class M2DCutter:
    """Cuts one recording into units, each with all samples that an STFT without padding needs.

    Frames are those of a centred STFT over the whole recording with reflect padding: frame f covers the padded samples
    [f x hop, f x hop + n_fft). Only the recording's real ends are reflected; neighbouring units share their overlap.
    Holds about one unit, whatever the length of the recording.
    """

    def __init__(self, front_end: FrontEnd, geometry: Geometry) -> None:
        self._fe = front_end
        self._geometry = geometry
        self._margin = front_end.n_fft // 2  # samples reflected at each end
        self._stride = geometry.unit_frames * front_end.hop  # samples from one unit's start to the next's
        self._buffer = np.empty(self._length(geometry.unit_frames), np.float32)
        self._filled = 0
        self._pushed = 0  # samples of the recording so far
        self._frames_cut = 0
        self._head = np.empty(0, np.float32)  # the first samples, kept until the left end can be reflected
        self._finished = False

    def push(self, samples: np.ndarray) -> list[Unit]:
        """Take (n,) mono samples; return the full units they complete. Raises ValueError for another shape."""
        if samples.ndim != 1:
            raise ValueError(f"the cutter takes mono samples of shape (n,), not {samples.shape}")
        if self._finished:
            raise ValueError("a cutter serves one recording; make a new one")
        samples = np.asarray(samples, np.float32)
        self._pushed += len(samples)
        if self._filled == 0 and self._frames_cut == 0:
            self._head = np.concatenate([self._head, samples])
            if len(self._head) <= self._margin:
                return []
            samples = np.concatenate([self._head[self._margin : 0 : -1], self._head])
            self._head = np.empty(0, np.float32)
        return self._fill(samples)

    def finish(self) -> list[Unit]:
        """Reflect the right end and return the last units; none if the audio is no longer than half a window."""
        self._finished = True
        if self._pushed <= self._margin:
            return []
        tail = self._buffer[: self._filled]
        units = self._fill(tail[-2 : -2 - self._margin : -1].copy())
        frames = 1 + self._pushed // self._fe.hop - self._frames_cut
        if frames > 0:
            units.append(self._unit(frames))
        return units

    def _length(self, frames: int) -> int:
        return (frames - 1) * self._fe.hop + self._fe.n_fft

    def _unit(self, frames: int) -> Unit:
        self._frames_cut += frames
        return Unit(self._buffer[: self._length(frames)].copy(), self._geometry.columns_of(frames))

    def _fill(self, samples: np.ndarray) -> list[Unit]:
        units = []
        while len(samples):
            taken = min(len(samples), len(self._buffer) - self._filled)
            self._buffer[self._filled : self._filled + taken] = samples[:taken]
            self._filled += taken
            samples = samples[taken:]
            if self._filled == len(self._buffer):
                units.append(self._unit(self._geometry.unit_frames))
                self._filled = len(self._buffer) - self._stride  # the samples that the next unit shares with this one
                self._buffer[: self._filled] = self._buffer[self._stride :].copy()
        return units


class NumpyLogMel:
    """Turns units into normalised log-mel on the processor, without torch."""

    def __init__(self, front_end: FrontEnd) -> None:
        self._fe = front_end
        turns = np.arange(front_end.n_fft) / front_end.n_fft
        self._window = (0.5 - 0.5 * np.cos(2 * np.pi * turns)).astype(np.float32)  # periodic Hann
        self._bank = slaney_bank(
            front_end.sample_rate_hz, front_end.n_fft, front_end.n_mels, front_end.f_min_hz, front_end.f_max_hz
        ).astype(np.float32)  # (bins, mels)

    def __call__(self, units: Sequence[Unit], frames: int) -> np.ndarray:
        """(B, mels, frames) float32 of units of at most, or cut to, ``frames``; behind a short unit's end are zeros."""
        lms = np.zeros((len(units), self._fe.n_mels, frames), np.float32)
        with np.errstate(all="ignore"):  # samples that are not finite make vectors that are not, which are refused
            for unit, out in zip(units, lms, strict=True):
                valid = min(frames, self._fe.frames_in(len(unit.samples)))
                out[:, :valid] = self._log_mel(unit.samples, valid).T
        return lms

    def _log_mel(self, samples: np.ndarray, frames: int) -> np.ndarray:
        """(frames, mels)."""
        fe = self._fe
        windows = sliding_window_view(samples, fe.n_fft)[:: fe.hop][:frames]  # (frames, n_fft), not copied
        spectrum = np.fft.rfft(windows * self._window).astype(np.complex64, copy=False)  # (frames, bins)
        power = np.zeros((-(-frames // ROWS), ROWS, spectrum.shape[1]), np.float32)
        power.reshape(-1, spectrum.shape[1])[:frames] = np.square(spectrum.real) + np.square(spectrum.imag)
        mel = (power @ self._bank).reshape(-1, fe.n_mels)[:frames]
        return np.asarray((np.log(mel + np.float32(LOG_FLOOR)) - np.float32(fe.mean)) / np.float32(fe.std))


class LogMel:
    """Turns batches of unit samples into normalised log-mel with torch, in float32 on the given device."""

    def __init__(self, front_end: FrontEnd, device: "torch.device | str" = "cpu") -> None:
        import torch
        from torchaudio.functional import melscale_fbanks

        self._fe = front_end
        self._window = torch.hann_window(front_end.n_fft, periodic=True, device=device)  # (n_fft,)
        bank = melscale_fbanks(
            front_end.n_fft // 2 + 1, front_end.f_min_hz, front_end.f_max_hz, front_end.n_mels,
            front_end.sample_rate_hz, norm="slaney", mel_scale="slaney",
        )  # (bins, mels)  # fmt: skip
        self._bank_t = bank.T.contiguous().to(device)  # (mels, bins)

    def __call__(self, samples: "torch.Tensor") -> "torch.Tensor":
        """Take samples (B, (frames-1) x hop + n_fft) float32, return (B, mels, frames) float32."""
        import torch

        fe = self._fe
        spectrum = torch.stft(
            samples, fe.n_fft, fe.hop, window=self._window, center=False, return_complex=True
        )  # (B, bins, frames) complex
        power = spectrum.real.square() + spectrum.imag.square()  # (B, bins, frames)
        mel = torch.matmul(self._bank_t, power)  # (mels, bins) @ (B, bins, frames) -> (B, mels, frames)
        return ((mel + LOG_FLOOR).log() - fe.mean) / fe.std
