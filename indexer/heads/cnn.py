"""The seed paper's baseline: a CNN of four convolutional layers that learns from mel spectrograms alone, without M2D.

Owns the network and how it is trained. Only evaluation may import it: its result is a figure to compare with, never a
head that labels files. Never opens a file: it is handed spectrograms and numbers.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from indexer.heads import evaluation
from indexer.heads.head import softmax
from indexer.heads.training import Epoch, class_weights, one_thread, torch_device

CHANNELS = (16, 32, 64, 128)
DROPOUT = 0.3
MIN_FRAMES = 32  # of a clip: half of it is learned from at a time, and four poolings halve that to one column
JUDGED_CLIPS = 4  # at a time: what lies between two layers stays in a processor's cache, twice as fast as 32
WATCHED_CLIPS = 2  # of a validation recording after each epoch; all of them decide the temperature


@dataclass(frozen=True, slots=True)
class CnnSettings:
    """What decides the result besides the data.

    Adam at its usual rate, because with batch normalisation it converges within tens of epochs on any library without a
    schedule; plain SGD would need a rate of its own for each.
    """

    seed: int = 0
    epochs: int = 60
    patience: int = 10  # epochs without a better validation loss
    batch: int = 16
    learning_rate: float = 1e-3


@dataclass(frozen=True, slots=True, eq=False)
class TrainedCnn:
    """A finished network, calibrated on the validation rows."""

    network: nn.Module
    temperature: float
    epochs: int  # that were run
    best_epoch: int  # whose weights these are
    parameters: int
    elapsed_s: float

    def logits(self, clips: Sequence[np.ndarray]) -> np.ndarray:
        """(n, labels) float64 before calibration: of each recording the logarithm of its clips' mean probabilities.

        clips: n arrays of (any number but 0, mels, frames).
        """
        return _logits(self.network, clips)

    def scores(self, clips: Sequence[np.ndarray]) -> np.ndarray:
        """(n, labels) float32 calibrated probabilities."""
        return softmax(self.logits(clips) / self.temperature)


# A second thread gains a third on an idle machine and costs a multiple on a busy one, and the bits would depend on it.
@one_thread()
def train_cnn(
    clips: Sequence[np.ndarray],
    y: np.ndarray,
    train_rows: np.ndarray,
    validation_rows: np.ndarray,
    labels: int,
    settings: CnnSettings,
    device: str = "auto",
    on_epoch: Callable[[Epoch], None] = lambda _epoch: None,
) -> TrainedCnn:
    """Learn from train_rows, stop by the loss on validation_rows; on the CPU the same bits every time.

    clips: a recording each, (its clips, mels, frames) with the same mels and frames throughout; y (n,) label numbers,
    every one of ``labels`` among train_rows. device: auto (cuda, else cpu), cpu or cuda. Raises ValueError for other
    clips or labels, ModelError for a device that is not there.
    """
    _check(clips, y, train_rows, validation_rows, labels)
    started = time.monotonic()
    where = torch_device("cuda" if device == "auto" and torch.cuda.is_available() else device)
    with torch.random.fork_rng(devices=[where] if where.type == "cuda" else []):
        torch.manual_seed(settings.seed)
        run = _Run(clips, y, train_rows, validation_rows, labels, settings, where)
        run.work(on_epoch)
    network = run.network.eval()
    logits = _logits(network, [clips[row] for row in validation_rows])
    temperature = evaluation.fit_temperature(logits, y[validation_rows])
    parameters = sum(p.numel() for p in network.parameters())
    return TrainedCnn(network, temperature, run.epoch, run.best_epoch, parameters, time.monotonic() - started)


def _check(
    clips: Sequence[np.ndarray], y: np.ndarray, train_rows: np.ndarray, validation_rows: np.ndarray, labels: int
) -> None:
    shapes = {array.shape[1:] for array in clips}
    if len(shapes) != 1 or not all(len(array) for array in clips):
        raise ValueError(f"need at least one clip a recording, all of the same (mels, frames), not {sorted(shapes)}")
    ((mels, frames),) = shapes
    if mels < 2 ** len(CHANNELS) or frames < MIN_FRAMES:
        raise ValueError(f"clips of {mels} mels and {frames} frames are too small for {len(CHANNELS)} poolings")
    if not len(validation_rows) or len(np.unique(y[train_rows])) != labels:
        raise ValueError(f"need validation rows, and all of {labels} labels among the rows to train on")


class _Normalise(nn.Module):
    """Every mel band to mean 0 and variance 1 over the clips that are learned from; every recording counts alike."""

    mean: torch.Tensor  # (mels, 1)
    scale: torch.Tensor  # (mels, 1)

    def __init__(self, clips: Sequence[np.ndarray]) -> None:
        super().__init__()
        means = np.mean([array.mean(axis=(0, 2), dtype=np.float64) for array in clips], axis=0)[:, None]  # (mels, 1)
        variance = np.mean([np.square(array - means).mean(axis=(0, 2)) for array in clips], axis=0)[:, None]
        self.register_buffer("mean", torch.from_numpy(means).float())
        self.register_buffer("scale", torch.from_numpy(1 / np.sqrt(np.maximum(variance, 1e-6))).float())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x.float() - self.mean) * self.scale  # (B, 1, mels, frames)


def _network(clips: Sequence[np.ndarray], labels: int) -> nn.Sequential:
    """Four times convolution, batch normalisation, ReLU, pooling; then the mean over what is left of mels and time."""
    layers: list[nn.Module] = [_Normalise(clips)]
    for before, after in zip((1, *CHANNELS), CHANNELS, strict=False):
        # The maximum before the ReLU is the maximum after it, at a quarter of the work.
        layers += [
            nn.Conv2d(before, after, 3, padding=1, bias=False),
            nn.BatchNorm2d(after),
            nn.MaxPool2d(2),
            nn.ReLU(inplace=True),
        ]
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(DROPOUT), nn.Linear(CHANNELS[-1], labels)]
    return nn.Sequential(*layers)


class _Run:
    """The loop and its state."""

    def __init__(
        self,
        clips: Sequence[np.ndarray],
        y: np.ndarray,
        train_rows: np.ndarray,
        validation_rows: np.ndarray,
        labels: int,
        settings: CnnSettings,
        device: torch.device,
    ) -> None:
        self._clips, self._y, self._rows = clips, torch.from_numpy(y), train_rows
        self._settings, self._device = settings, device
        self._random = np.random.default_rng(settings.seed)
        self._class_weights = class_weights(y[train_rows], labels).to(device)
        self._watched = [_middle(clips[row]) for row in validation_rows]
        self._watched_y = y[validation_rows]
        # Channels last: with 16 to 128 channels convolutions on a CPU are up to three times as fast.
        network = _network([clips[row] for row in train_rows], labels)
        self.network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._optimiser = torch.optim.Adam(self.network.parameters(), lr=settings.learning_rate)
        self.epoch = self.best_epoch = 0

    def work(self, on_epoch: Callable[[Epoch], None]) -> None:
        """Run epochs until the validation loss has not fallen for so long; leave the best one's weights."""
        least, best = float("inf"), self._weights()
        while self.epoch < self._settings.epochs and self.epoch - self.best_epoch < self._settings.patience:
            self._learn()
            self.epoch += 1
            loss, balanced = self._validate()
            better = loss < least
            if better:
                least, best, self.best_epoch = loss, self._weights(), self.epoch
            on_epoch(Epoch(self.epoch, loss, balanced, better))
        self.network.load_state_dict(best)

    def _learn(self) -> None:
        """Every recording once, by a random half of a random clip of it."""
        self.network.train()
        order = self._random.permutation(self._rows)
        for rows in np.split(order, range(self._settings.batch, len(order), self._settings.batch)):
            x = _batch([self._half(self._clips[row]) for row in rows], self._device)
            y = self._y[rows].to(self._device)
            losses = functional.cross_entropy(self.network(x), y, reduction="none") * self._class_weights[y]
            self._optimiser.zero_grad()
            losses.mean().backward()  # type: ignore[no-untyped-call]
            self._optimiser.step()

    def _half(self, clips: np.ndarray) -> np.ndarray:
        """(mels, frames / 2): beats and bars at every shift, and half the work."""
        length = clips.shape[2] // 2
        start = int(self._random.integers(clips.shape[2] - length + 1))
        return clips[int(self._random.integers(len(clips))), :, start : start + length]

    def _validate(self) -> tuple[float, float]:
        """Balanced loss (every label counts alike) and balanced accuracy."""
        self.network.eval()
        logits, y = _logits(self.network, self._watched), self._watched_y  # logarithms of probabilities
        losses = -logits[np.arange(len(y)), y]
        per_label = [losses[y == label].mean() for label in np.unique(y)]
        return float(np.mean(per_label)), evaluation.balanced_accuracy(y, logits.argmax(axis=1))

    def _weights(self) -> dict[str, Any]:
        return {name: value.clone() for name, value in self.network.state_dict().items()}


def _middle(clips: np.ndarray) -> np.ndarray:
    """WATCHED_CLIPS of a recording's clips (n, mels, frames), or all where there are fewer."""
    return clips[len(clips) // (2 * WATCHED_CLIPS) :: -(-len(clips) // WATCHED_CLIPS)]


def _batch(clips: Sequence[np.ndarray], device: torch.device) -> torch.Tensor:
    """Clips of (mels, frames) -> (B, 1, mels, frames) on the device."""
    x = torch.from_numpy(np.stack(clips)[:, None]).to(device)
    return x.to(torch.float32, memory_format=torch.channels_last)


@one_thread()
def _logits(network: nn.Module, clips: Sequence[np.ndarray]) -> np.ndarray:
    """(n, labels) float64: of each of n recordings the logarithm of its clips' mean probabilities."""
    device = next(network.parameters()).device
    counts = [len(array) for array in clips]
    with torch.inference_mode():
        parts = [network(_batch(chunk, device)).cpu() for chunk in _chunks(clips)]
        each = functional.log_softmax(torch.cat(parts).double(), dim=1).numpy()  # (all clips, labels)
    starts = np.cumsum([0, *counts[:-1]])
    return np.asarray(np.logaddexp.reduceat(each, starts, axis=0) - np.log(counts)[:, None])


def _chunks(clips: Sequence[np.ndarray]) -> Iterator[list[np.ndarray]]:
    """All recordings' clips one after the other, JUDGED_CLIPS at a time."""
    every = [clip for array in clips for clip in array]
    for start in range(0, len(every), JUDGED_CLIPS):
        yield every[start : start + JUDGED_CLIPS]
