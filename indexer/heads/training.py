"""Training a linear head on cached embeddings: plain SGD, early stopping, calibration, exact resumption.

Owns the split, the loop and its checkpoint. Imports torch: import it where training begins.
Never reads the library and never decides which labels are right: it is handed numbers.
"""

import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from indexer.errors import ModelError
from indexer.heads import evaluation, novelty
from indexer.heads.head import softmax
from indexer.heads.linear import LinearHead

CHECKPOINT_FORMAT = 1
CHECKPOINT_S = 0.5  # a killed process loses at most so many seconds, and an epoch
# The paper's learning rate of 0.1 (plain SGD, no momentum) is kept; the scale of the inputs decides what it means.
# After standardisation their largest principal variance is 1 to width, far beyond what 0.1 can follow, so all inputs
# are divided by one number that makes it 20: the curvature of the softmax loss is then at most 20 / 2 = 1 / 0.1, where
# SGD still descends.
LEARNING_RATE = 0.1
LARGEST_VARIANCE = 20.0
SCALE_ROWS = 2000  # rows that the largest variance is estimated from


@dataclass(frozen=True, slots=True)
class TrainingSettings:
    """What decides the result besides the data."""

    seed: int = 0
    epochs: int = 100
    patience: int = 10  # epochs without a better validation loss
    batch: int = 32
    learning_rate: float = LEARNING_RATE
    validation_share: float = 0.25
    target_precision: float = 0.9


@dataclass(frozen=True, slots=True, eq=False)
class Data:
    """What is learned from, one row a recording; in an order that does not depend on the library's row numbers."""

    encoder_id: str
    labels: tuple[str, ...]
    keys: tuple[str, ...]  # audio_sha256, ascending
    vectors: np.ndarray  # (n, width) float16, finite
    y: np.ndarray  # (n,) int64, places in labels
    groups: np.ndarray  # (n,) int64: rows of one artist, or nearly the same recording, share a number

    def rows(self, keep: np.ndarray) -> "Data":
        """Only these rows (numbers)."""
        return replace(
            self,
            keys=tuple(self.keys[i] for i in keep),
            vectors=self.vectors[keep],
            y=self.y[keep],
            groups=self.groups[keep],
        )

    def digest(self) -> str:
        """Hex sha256 over all of it."""
        about = [
            self.encoder_id,
            self.labels,
            self.keys,
            self.y.tolist(),
            self.groups.tolist(),
            list(self.vectors.shape),
        ]
        sha = hashlib.sha256(json.dumps(about).encode())
        sha.update(np.ascontiguousarray(self.vectors, "<f2").view(np.uint8).data)
        return sha.hexdigest()


@dataclass(frozen=True, slots=True)
class Epoch:
    """How training stands after an epoch, counted from 1."""

    number: int
    validation_loss: float
    validation_balanced_accuracy: float
    best: bool  # the lowest validation loss so far


@dataclass(frozen=True, slots=True, eq=False)
class Trained:
    """A finished head, and the labels whose validation rows are not separated from training by artist."""

    head: LinearHead
    not_separated: tuple[str, ...]
    target_reached: bool


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
    groups = data.groups.copy()
    loose: set[int] = set()
    while True:
        part = evaluation.grouped_parts(
            data.y, groups, [1 - settings.validation_share, settings.validation_share], settings.seed
        )
        seen = [set(data.y[part == p].tolist()) for p in (0, 1)]
        lacking = set(range(len(data.labels))) - (seen[0] & seen[1]) - loose
        if not lacking:
            break
        rows = np.isin(data.y, list(lacking))
        groups[rows] = groups.max() + 1 + np.arange(rows.sum())
        loose |= lacking
    return Split(np.flatnonzero(part == 0), np.flatnonzero(part == 1), tuple(data.labels[i] for i in sorted(loose)))


def train(
    data: Data,
    settings: TrainingSettings,
    *,
    name: str,
    device: str = "auto",
    checkpoint: Path | None = None,
    resume: bool = False,
    about: dict[str, Any] | None = None,
    on_epoch: Callable[[Epoch], None] = lambda _epoch: None,
) -> Trained:
    """Train, calibrate, choose the threshold; the same bits for the same data, settings and device.

    checkpoint: where the full state is kept while it runs (removed at the end); resume: go on from there, if it exists,
    to the same bits as without the interruption. about: what else the head's file should say. device: auto is the CPU,
    which takes seconds. Raises ModelError for a device that is not there, or a checkpoint of other data or settings.
    """
    parts = split(data, settings)
    mean, scale = _standardisation(data.vectors[parts.train], settings.seed)
    run = _Run(data, parts, settings, mean, scale, torch_device(device))
    if checkpoint and resume and checkpoint.exists():
        run.load(checkpoint)
    with one_thread():
        run.work(checkpoint, on_epoch)
    trained = _finish(run, data, parts, settings, name, dict(about or {}), (mean, scale))
    if checkpoint:
        checkpoint.unlink(missing_ok=True)
    return trained


@contextmanager
def one_thread() -> Iterator[None]:
    """A batch is too small to share between cores, and sums must not depend on how many there are."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


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
                    _write(checkpoint, state)
                    saved_at = time.monotonic()
                on_epoch(report)
        except KeyboardInterrupt:
            if checkpoint:
                _write(checkpoint, state)
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
            "format": CHECKPOINT_FORMAT, "identity": self._identity, "epoch": self.epoch, "best": self.best,
            "weight": self._weight.clone(), "bias": self._bias.clone(),
            "random": self._random.get_state(),  # plain SGD has no state of its own
        }  # fmt: skip

    def load(self, path: Path) -> None:
        """Take up a checkpoint's state; raises ModelError for one that is damaged or belongs to another training."""
        try:
            state = torch.load(path, map_location=self._device, weights_only=True)
            if state["format"] != CHECKPOINT_FORMAT or state["identity"] != self._identity:
                raise ModelError(
                    f"{path}: labels, embeddings, settings or device are not those of the interrupted training:"
                    " train without --resume"
                )
            self._weight.copy_(state["weight"])
            self._bias.copy_(state["bias"])
            self._random.set_state(state["random"].cpu())
            self.epoch, self.best = state["epoch"], state["best"]
        except ModelError:
            raise
        except Exception as error:  # torch raises a dozen kinds on a file that is cut off or something else
            raise ModelError(f"{path}: the interrupted training's state is damaged: train without --resume") from error


def _finish(
    run: _Run,
    data: Data,
    parts: Split,
    settings: TrainingSettings,
    name: str,
    about: dict[str, Any],
    standardisation: tuple[np.ndarray, np.ndarray],
) -> Trained:
    """Fold standardisation and temperature into the best weights, choose the threshold, measure."""
    mean, scale = standardisation
    weight = run.best["weight"].double().cpu().numpy() * scale  # (labels, width)
    bias = run.best["bias"].double().cpu().numpy() - weight @ mean
    y, groups = data.y[parts.validation], data.groups[parts.validation]
    logits = data.vectors[parts.validation].astype(np.float64) @ weight.T + bias  # (validation rows, labels)
    temperature = evaluation.fit_temperature(logits, y)
    before = softmax(logits)
    head = LinearHead(
        name,
        data.encoder_id,
        data.labels,
        1.0,
        (weight / temperature).astype(np.float32),
        (bias / temperature).astype(np.float32),
        novelty.fit(data.vectors[parts.train], data.vectors[parts.validation], seed=settings.seed),
    )
    scores = head.scores(data.vectors[parts.validation])
    threshold, reached = evaluation.choose_threshold(
        scores.max(axis=1), scores.argmax(axis=1) == y, settings.target_precision
    )
    metrics = evaluation.summary(y, scores, data.labels, groups=groups, threshold=threshold, seed=settings.seed)
    metrics["calibration_error_before"] = evaluation.number(
        evaluation.calibration_error(before.max(axis=1), before.argmax(axis=1) == y)
    )
    metrics["unlike"] = int(
        (head.novelty(data.vectors[parts.validation]) > 1).sum()
    )  # validation recordings that would be held for strange
    metrics["log_loss"] = evaluation.number(float(-np.log(np.maximum(scores[np.arange(len(y)), y], 1e-12)).mean()))
    metrics |= {
        "epochs": run.epoch,
        "best_epoch": run.best["epoch"],
        "target_reached": reached,
        "not_separated": list(parts.not_separated),
    }
    about |= {
        "settings": asdict(settings) | {"temperature": temperature},
        "data_sha256": data.digest(),
        "metrics": metrics,
        "recordings": {label: int((data.y == i).sum()) for i, label in enumerate(data.labels)},
    }
    return Trained(replace(head, threshold=threshold, training=about), parts.not_separated, reached)


def _write(path: Path, state: dict[str, Any]) -> None:
    """The state in the place of the former one, whole or not at all."""
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                torch.save(state, file)
            Path(temporary).replace(path)
        finally:
            Path(temporary).unlink(missing_ok=True)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
        raise ModelError(
            f"cannot keep the state of the training in {path}: {' '.join(str(error).split())[:200]}"
        ) from error


def _standardisation(vectors: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and factor (width,) float64, so that (x - mean) * factor has equal variances.

    The largest principal variance becomes LARGEST_VARIANCE.
    A number that never varies gets the factor 0. The principal variance comes from power iteration on up to 2,000 rows.
    """
    blocks = np.array_split(vectors, max(1, len(vectors) // SCALE_ROWS))  # so that only one is in float64 at a time
    mean = vectors.mean(axis=0, dtype=np.float64)
    deviation = np.sqrt(sum(((block - mean) ** 2).sum(axis=0) for block in blocks) / len(vectors))
    scale = np.divide(1.0, deviation, out=np.zeros_like(deviation), where=deviation > 1e-6)
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


def class_weights(y: np.ndarray, labels: int) -> torch.Tensor:
    """Weights (labels,) with which every label counts alike and a mean row 1."""
    return torch.from_numpy(len(y) / (labels * np.bincount(y, minlength=labels))).float()


def torch_device(name: str) -> torch.device:
    device = torch.device("cpu" if name == "auto" else name)
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:  # a torch built without the device asserts
        raise ModelError(f"this machine cannot train on '{name}'; leave --device away to train on the CPU") from error
    return device
