"""The paper's recipe for a linear head: plain SGD on three quarters, the best epoch by the other quarter.

Owns the split and the loop. It is kept to be compared with: holding a quarter back costs accuracy (pooled does not).
"""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from indexer.heads import evaluation, novelty
from indexer.heads.linear import LinearHead
from indexer.heads.training import (
    Data,
    Epoch,
    Judged,
    Trained,
    TrainingSettings,
    class_weights,
    finished,
    moments,
    read_state,
    write_state,
)

CHECKPOINT_S = 0.5  # a killed process loses at most so many seconds, and an epoch

# The paper's learning rate of 0.1 (plain SGD, no momentum) is kept; the scale of the inputs decides what it means.
# After standardisation their largest principal variance is 1 to width, far beyond what 0.1 can follow, so all inputs
# are divided by one number that makes it 20: the curvature of the softmax loss is then at most 20 / 2 = 1 / 0.1, where
# SGD still descends.
LARGEST_VARIANCE = 20.0
SCALE_ROWS = 2000  # rows that the largest variance is estimated from


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """Row numbers of the two parts."""

    train: np.ndarray
    validation: np.ndarray
    not_separated: tuple[str, ...]


def split(data: Data, settings: TrainingSettings) -> Split:
    """Part the rows so that no group is divided and both parts hold every label, each by ``validation_share``.

    A label of which all recordings are one group cannot be parted so: its recordings are parted one by one, and it is
    named.
    """
    shares = [1 - settings.validation_share, settings.validation_share]
    part, loose = evaluation.separated(
        data.y, data.groups, lambda groups: evaluation.grouped_parts(data.y, groups, shares, settings.seed)
    )
    return Split(np.flatnonzero(part == 0), np.flatnonzero(part == 1), tuple(data.labels[i] for i in loose))


def train(
    data: Data,
    settings: TrainingSettings,
    *,
    name: str,
    device: torch.device,
    checkpoint: Path | None = None,
    resume: bool = False,
    about: dict[str, Any] | None = None,
    on_epoch: Callable[[Epoch], None] = lambda _epoch: None,
) -> Trained:
    """Train, calibrate, choose the threshold; see recipes.train for the arguments."""
    parts = split(data, settings)
    mean, scale = _standardisation(data.vectors[parts.train], settings.seed)
    run = _Run(data, parts, settings, mean, scale, device)
    if checkpoint and resume and checkpoint.exists():
        run.load(checkpoint)
    run.work(checkpoint, on_epoch)
    return _finish(run, data, parts, settings, name, dict(about or {}), (mean, scale))


class _Run:
    """The loop and its state: weights, random numbers, epoch, best. Softmax regression's gradient is written out."""

    def __init__(
        self,
        data: Data,
        parts: Split,
        settings: TrainingSettings,
        mean: np.ndarray,
        scale: np.ndarray,
        device: torch.device,
    ) -> None:
        def inputs(rows: np.ndarray) -> torch.Tensor:
            x = torch.from_numpy(data.vectors[rows]).to(device, torch.float32)  # (rows, width)
            return x.sub_(torch.from_numpy(mean).to(device, torch.float32)).mul_(
                torch.from_numpy(scale).to(device, torch.float32)
            )

        self._settings = settings
        self._device = device
        self._x, self._y = inputs(parts.train), torch.from_numpy(data.y[parts.train]).to(device)
        self._val_x, self._val_y = inputs(parts.validation), torch.from_numpy(data.y[parts.validation]).to(device)
        self._class_weights = class_weights(data.y[parts.train], len(data.labels)).to(device)
        self._rows = torch.empty(settings.batch, data.vectors.shape[1], device=device)  # of one batch
        self._weight = torch.zeros(
            len(data.labels), data.vectors.shape[1], device=device
        )  # zero: the loss has one valley
        self._bias = torch.zeros(len(data.labels), device=device)
        self._random = torch.Generator().manual_seed(
            settings.seed
        )  # on the CPU, so that the order is the same on every device
        self._identity = f"{data.digest()} {json.dumps(asdict(settings), sort_keys=True)} {device.type}"
        self.epoch = 0
        self.best: dict[str, Any] = {
            "epoch": 0,
            "loss": float("inf"),
            "weight": self._weight.clone(),
            "bias": self._bias.clone(),
        }

    def work(self, checkpoint: Path | None, on_epoch: Callable[[Epoch], None]) -> None:
        """Run the epochs that are left; when it is interrupted, the last whole epoch is on the disk."""
        state, saved_at = self._state(), time.monotonic()
        try:
            while self.epoch < self._settings.epochs and self.epoch - self.best["epoch"] < self._settings.patience:
                report = self._run_epoch()
                state = self._state()
                if checkpoint and time.monotonic() - saved_at >= CHECKPOINT_S:
                    write_state(checkpoint, self._identity, state)
                    saved_at = time.monotonic()
                on_epoch(report)
        except KeyboardInterrupt:
            if checkpoint:
                write_state(checkpoint, self._identity, state)
            raise

    def _run_epoch(self) -> Epoch:
        order = torch.randperm(len(self._x), generator=self._random).to(self._device)
        for rows in torch.split(order, self._settings.batch):
            x = torch.index_select(self._x, 0, rows, out=self._rows[: len(rows)])  # (batch, width)
            y = self._y[rows]
            error = torch.softmax(
                torch.addmm(self._bias, x, self._weight.T), dim=1
            )  # (batch, labels): the loss by the logits
            error[torch.arange(len(rows), device=self._device), y] -= 1
            error *= (self._class_weights[y] / len(rows))[:, None]
            self._weight.addmm_(error.T, x, alpha=-self._settings.learning_rate)
            self._bias.sub_(error.sum(dim=0), alpha=self._settings.learning_rate)
        self.epoch += 1
        validation_loss, balanced = self._validate()
        better = validation_loss < self.best["loss"]
        if better:
            self.best = {
                "epoch": self.epoch,
                "loss": validation_loss,
                "weight": self._weight.clone(),
                "bias": self._bias.clone(),
            }
        return Epoch(self.epoch, validation_loss, balanced, better)

    def _validate(self) -> tuple[float, float]:
        """Balanced loss (every label counts alike) and balanced accuracy."""
        logits = torch.addmm(self._bias, self._val_x, self._weight.T)  # (validation rows, labels)
        losses = functional.cross_entropy(logits, self._val_y, reduction="none").double()
        per_label = [losses[self._val_y == label].mean() for label in torch.unique(self._val_y)]
        predicted = logits.argmax(dim=1)
        return float(torch.stack(per_label).mean()), evaluation.balanced_accuracy(
            self._val_y.cpu().numpy(), predicted.cpu().numpy()
        )

    def _state(self) -> dict[str, Any]:
        return {
            "epoch": self.epoch, "best": self.best, "weight": self._weight.clone(), "bias": self._bias.clone(),
            "random": self._random.get_state(),  # plain SGD has no state of its own
        }  # fmt: skip

    def load(self, path: Path) -> None:
        """Take up a checkpoint's state; raises ModelError for one that is damaged or belongs to another training."""
        state = read_state(path, self._identity, self._device)
        self._weight.copy_(state["weight"])
        self._bias.copy_(state["bias"])
        self._random.set_state(state["random"].cpu())
        self.epoch, self.best = state["epoch"], state["best"]


def _finish(
    run: _Run,
    data: Data,
    parts: Split,
    settings: TrainingSettings,
    name: str,
    about: dict[str, Any],
    standardisation: tuple[np.ndarray, np.ndarray],
) -> Trained:
    """Fold the standardisation into the best weights, calibrate, measure."""
    mean, scale = standardisation
    weight = run.best["weight"].double().cpu().numpy() * scale  # (labels, width)
    bias = run.best["bias"].double().cpu().numpy() - weight @ mean
    validation = data.vectors[parts.validation]
    head = LinearHead(
        name,
        data.encoder_id,
        data.labels,
        1.0,
        weight.astype(np.float32),
        bias.astype(np.float32),
        novelty.fit(data.vectors[parts.train], validation, seed=settings.seed),
    )
    return finished(
        data,
        settings,
        Judged(parts.validation, head.logits(validation), int((head.novelty(validation) > 1).sum())),
        head,
        not_separated=parts.not_separated,
        about=about,
        used=asdict(settings),
        metrics={"epochs": run.epoch, "best_epoch": run.best["epoch"]},
    )


def _standardisation(vectors: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and factor (width,) float64, so that (x - mean) * factor has equal variances.

    The largest principal variance becomes LARGEST_VARIANCE.
    A number that never varies gets the factor 0. The principal variance comes from power iteration on up to 2,000 rows.
    """
    mean, scale = moments(vectors)
    rng = np.random.default_rng(seed)
    rows = np.sort(rng.permutation(len(vectors))[:SCALE_ROWS])
    z = (vectors[rows] - mean) * scale  # (rows, width)
    direction, variance = rng.standard_normal(z.shape[1]), 0.0
    for _ in range(30):
        direction = z.T @ (z @ (direction / np.linalg.norm(direction))) / len(z)
        variance = float(np.linalg.norm(direction))
        if not variance:
            break
    return mean, scale * np.sqrt(LARGEST_VARIANCE / variance) if variance else scale
