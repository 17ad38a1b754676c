"""MusiCNN's arithmetic in torch on a processor, from log-mel frames to the penultimate layer.

Pons, Serra: musicnn: pre-trained convolutional neural networks for music audio tagging (ISMIR 2019, late breaking).
Nearly all of the published 2.8 GFLOP a unit are convolutions with one input channel and large kernels, of which only
the maximum over frequency is kept. So here, for 1.2 GFLOP:

- The timbre kernels (7 x 38, 7 x 67) are multiplied in the Fourier domain over frequency: a product of 14 numbers for
  each frame and frequency, and two matrix products back, one for the even and one for the odd part around the middle
  place. The circle of 96 bands is as long as the input, and only places where the kernel lies within it are taken.
- The rhythm kernels (128, 64, 32 frames) become matrices that give BLOCK frames of a band at once.
- Bias, ReLU and batch norm are monotonic, so they follow the maximum; a norm that turns the order around turns the
  kernel's sign.
"""

from collections.abc import Mapping

import numpy as np
import torch

from indexer.encoders.musicnn.frontend import BANDS, FRAMES
from indexer.encoders.musicnn.weights import NORM_EPSILON, PENULTIMATE, numbered

FREQUENCIES = BANDS // 2 + 1  # of a spectrum over the bands
BLOCK = 17  # frames; divides FRAMES, and what lies between two products stays in the cache


class Network:
    """One network, for any number of threads. ``weights``: arrays by TensorFlow's names, not needed afterwards."""

    def __init__(self, weights: Mapping[str, np.ndarray]) -> None:
        given = _Given(weights)
        scale, offset = given.norm(0)
        self._scale, self._offset = float(scale[0]), float(offset[0])
        norms = [given.norm(number) for number in range(1, 6)]
        signs = [np.where(scale < 0, -1.0, 1.0) for scale, _ in norms]
        kernels = [given.kernel(number) * sign for number, sign in enumerate(signs)]
        self._timbre = [_Timbre(kernel) for kernel in kernels[:2]]
        self._rhythm = [_Rhythm(kernel) for kernel in kernels[2:]]
        self._front = _Activation(
            np.concatenate([given.bias(number) for number in range(5)]),
            np.concatenate([scale for scale, _ in norms]),
            np.concatenate([offset for _, offset in norms]),
            np.concatenate(signs),
        )
        self._middle = [(_Over7(given.kernel(n)), _Activation(given.bias(n), *given.norm(n + 1))) for n in (5, 6, 7)]
        # Batch norm 9 becomes part of the dense layer, in whose inputs maxima and means alternate.
        scale, offset = given.norm(9)
        dense = given.array("dense/kernel")
        self._dense = _tensor(
            (dense * scale[:, None]).reshape(-1, 2, PENULTIMATE).transpose(1, 0, 2).reshape(-1, PENULTIMATE)
        )
        self._penultimate = _Activation(given.array("dense/bias") + offset @ dense, *given.norm(10))

    def __call__(self, log_mel: torch.Tensor) -> torch.Tensor:
        """Take (B, 187, 96) frames of log-mel, return (B, 200): the penultimate layer after its batch norm."""
        x = log_mel * self._scale + self._offset
        spectra = _spectra(x)
        largest = [layer(spectra) for layer in self._timbre] + [layer(x) for layer in self._rhythm]
        maps = [self._front(torch.cat(largest, 2))]  # (B, 187, 561)
        for number, (convolution, activation) in enumerate(self._middle):
            y = activation(convolution(maps[-1]))  # (B, 187, 64)
            maps.append(maps[-1] + y if number else y)
        stacked = torch.cat(maps, 2)  # (B, 187, 753)
        return self._penultimate(torch.cat([stacked.amax(1), stacked.mean(1)], 1) @ self._dense)


class _Given:
    """The published weights in float64."""

    def __init__(self, weights: Mapping[str, np.ndarray]) -> None:
        self._weights = weights

    def array(self, name: str) -> np.ndarray:
        return self._weights[name].astype(np.float64)

    def kernel(self, number: int) -> np.ndarray:
        """(height, width, out) of a convolution."""
        return self.array(f"{numbered('conv2d', number)}/kernel")[:, :, 0]

    def bias(self, number: int) -> np.ndarray:
        return self.array(f"{numbered('conv2d', number)}/bias")

    def norm(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Scale and offset of a batch norm."""
        name = numbered("batch_normalization", number)
        gamma, beta, mean, variance = (
            self.array(f"{name}/{part}") for part in ("gamma", "beta", "moving_mean", "moving_variance")
        )
        scale = gamma / np.sqrt(variance + NORM_EPSILON)
        return scale, beta - mean * scale


class _Activation:
    """Bias, ReLU and batch norm; ``sign`` is that by which the kernel was multiplied."""

    def __init__(self, bias: np.ndarray, scale: np.ndarray, offset: np.ndarray, sign: np.ndarray | float = 1.0) -> None:
        self._bias, self._scale, self._offset = _tensor(bias), _tensor(scale), _tensor(offset)
        self._sign = _tensor(np.broadcast_to(sign, bias.shape))

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return torch.addcmul(self._offset, torch.addcmul(self._bias, x, self._sign).relu_(), self._scale)


class _Timbre:
    """The largest response over frequency of a kernel of 7 frames and several bands."""

    def __init__(self, kernel: np.ndarray) -> None:
        """``kernel``: (7, width, out)."""
        places = BANDS - kernel.shape[1] + 1
        centre = (places - 1) / 2  # places are counted from the one in the middle
        k = np.arange(FREQUENCIES)
        turn = 2 * np.pi * k / BANDS
        # Correlation is the product with the conjugate spectrum.
        spectrum = np.fft.rfft(kernel, BANDS, axis=1).conj() * np.exp(1j * turn * centre)[:, None]  # (7, 49, out)
        spectrum = spectrum.transpose(1, 0, 2)  # (49, 7, out)
        self._real = _tensor(np.concatenate([spectrum.real, -spectrum.imag], 1))  # (49, 14, out)
        self._imag = _tensor(np.concatenate([spectrum.imag, spectrum.real], 1))  # (49, 14, out)
        angle = np.arange(centre, -0.5, -1)[:, None] * turn  # (half the places, 49)
        weight = np.where(k % (BANDS // 2) == 0, 1, 2) / BANDS  # all frequencies but the two ends occur twice
        self._cosines, self._sines = _tensor(np.cos(angle) * weight), _tensor(np.sin(angle) * weight)

    def __call__(self, pieces: torch.Tensor) -> torch.Tensor:
        """Take (B, blocks, 49, BLOCK, 14), see ``_spectra``; return (B, 187, out)."""
        out = self._real.shape[-1]
        part = torch.empty(FREQUENCIES, BLOCK, out)
        even, odd = torch.empty(2, len(self._cosines), BLOCK * out)
        largest = torch.empty(len(pieces), FRAMES // BLOCK, BLOCK * out)
        for piece, row in zip(pieces.flatten(0, 1), largest.flatten(0, 1), strict=True):
            torch.bmm(piece, self._real, out=part)
            torch.mm(self._cosines, part.view(FREQUENCIES, -1), out=even)
            torch.bmm(piece, self._imag, out=part)
            torch.mm(self._sines, part.view(FREQUENCIES, -1), out=odd)
            # Places as far above the middle as below it have the responses even - odd and even + odd.
            torch.amax(even.add_(odd.abs_()), 0, out=row)
        return largest.view(-1, FRAMES, out)


class _Rhythm:
    """The largest response over frequency of a kernel of many frames and one band."""

    def __init__(self, kernel: np.ndarray) -> None:
        """``kernel``: (height, 1, out)."""
        height, _, out = kernel.shape
        self._before, self._behind = (height - 1) // 2, height // 2
        matrix = np.zeros((height + BLOCK - 1, BLOCK, out))
        for frame in range(BLOCK):
            matrix[frame : frame + height, frame] = kernel[:, 0]
        self._matrix = _tensor(matrix.reshape(len(matrix), -1))  # (height + BLOCK - 1, BLOCK x out)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Take (B, 187, 96), return (B, 187, out)."""
        padded = torch.nn.functional.pad(x.mT, (self._before, self._behind)).contiguous()  # (B, 96, 187 + height - 1)
        responses = torch.empty(BANDS, self._matrix.shape[1])
        largest = torch.empty(len(x), FRAMES // BLOCK, self._matrix.shape[1])
        for unit, rows in zip(padded, largest, strict=True):
            for block, row in enumerate(rows):
                start = BLOCK * block
                torch.mm(unit[:, start : start + len(self._matrix)], self._matrix, out=responses)
                torch.amax(responses, 0, out=row)
        return largest.view(len(x), FRAMES, -1)


class _Over7:
    """A convolution over 7 frames."""

    def __init__(self, kernel: np.ndarray) -> None:
        """``kernel``: (7, inputs, out)."""
        self._kernel = _tensor(kernel.transpose(1, 0, 2).reshape(kernel.shape[1], -1))  # (inputs, 7 x out)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Take (B, 187, inputs), return (B, 187, out)."""
        products = (_around(x) @ self._kernel).view(len(x), FRAMES + 6, 7, -1)
        return torch.stack([products[:, n : n + FRAMES, n] for n in range(7)]).sum(0)


def _spectra(x: torch.Tensor) -> torch.Tensor:
    """Spectra over frequency of (B, 187, 96): (B, blocks, 49, BLOCK, 14), real and imaginary parts of 7 frames each."""
    spectrum = torch.view_as_real(torch.fft.rfft(_around(x)))  # (B, 193, 49, 2)
    pieces = spectrum.unfold(1, 7, 1)  # (B, 187, 49, 2, 7)
    return pieces.reshape(len(x), -1, BLOCK, FREQUENCIES, 14).transpose(2, 3).contiguous()


def _around(x: torch.Tensor) -> torch.Tensor:
    """(B, frames, n) -> (B, 3 + frames + 3, n), zeros around."""
    return torch.nn.functional.pad(x, (0, 0, 3, 3))


def _tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.array(array, np.float32))
