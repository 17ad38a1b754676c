"""What the recipes of training share: settings, data, the state of an interrupted training, the finished head.

Owns the checkpoint's form and what a head's file says of its training. Imports torch: import it where training begins.
Never reads the library and never decides which labels are right: it is handed numbers.
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from indexer.errors import ModelError
from indexer.files.replace import replacing
from indexer.heads import evaluation
from indexer.heads.head import softmax
from indexer.heads.linear import LinearHead

CHECKPOINT_FORMAT = 3
# The paper's learning rate of 0.1 (plain SGD, no momentum); the scale of the inputs decides what it means (paper.py).
LEARNING_RATE = 0.1
MOMENT_ROWS = 2000  # that are in float64 at a time


@dataclass(frozen=True, slots=True)
class TrainingSettings:
    """What decides the result besides the data."""

    seed: int = 0
    target_precision: float = 0.9
    recipe: str = "best"  # of recipes.RECIPES; all that follows is for the paper's
    epochs: int = 100
    patience: int = 10  # epochs without a better validation loss
    batch: int = 32
    learning_rate: float = LEARNING_RATE
    validation_share: float = 0.25


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


@dataclass(frozen=True, slots=True)
class Step:
    """How far training is: ``number`` of at most ``total`` steps of a kind ("epoch", "fit") are done."""

    kind: str
    number: int
    total: int


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """Predictions of rows that their head did not learn from, which decide temperature, threshold and figures."""

    rows: np.ndarray  # (m,) row numbers
    logits: np.ndarray  # (m, labels) float64 before calibration
    unlike: int  # of these rows beyond the limit of novelty


@dataclass(frozen=True, slots=True, eq=False)
class Trained:
    """A finished head, and the labels whose judged rows are not separated from training by artist."""

    head: LinearHead
    not_separated: tuple[str, ...]
    target_reached: bool


@contextmanager
def one_thread() -> Iterator[None]:
    """A batch is too small to share between cores, and sums must not depend on how many there are."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def finished(
    data: Data,
    settings: TrainingSettings,
    judged: Judged,
    head: LinearHead,
    *,
    not_separated: tuple[str, ...],
    about: dict[str, Any],
    used: dict[str, Any],
    metrics: dict[str, Any],
) -> Trained:
    """Calibrate a head by rows that were judged, choose its threshold, and measure.

    head: its weights before calibration; used, metrics: what the recipe adds to the settings and metrics in the file.
    """
    y, groups, logits = data.y[judged.rows], data.groups[judged.rows], judged.logits
    temperature = evaluation.fit_temperature(logits, y)
    before, scores = softmax(logits), softmax(logits / temperature)
    threshold, reached = evaluation.choose_threshold(
        scores.max(axis=1), scores.argmax(axis=1) == y, settings.target_precision
    )
    found = evaluation.summary(y, scores, data.labels, groups=groups, threshold=threshold, seed=settings.seed)
    found |= {
        "calibration_error_before": evaluation.number(
            evaluation.calibration_error(before.max(axis=1), before.argmax(axis=1) == y)
        ),
        "unlike": judged.unlike,  # recordings that would be held for strange
        "log_loss": evaluation.number(float(-np.log(np.maximum(scores[np.arange(len(y)), y], 1e-12)).mean())),
        "target_reached": reached,
        "not_separated": list(not_separated),
        **metrics,
    }
    training = about | {
        "settings": used | {"temperature": temperature},
        "data_sha256": data.digest(),
        "metrics": found,
        "recordings": {label: int((data.y == i).sum()) for i, label in enumerate(data.labels)},
    }
    weight, bias = (np.asarray(array / temperature, np.float32) for array in (head.weight, head.bias))
    return Trained(
        replace(head, weight=weight, bias=bias, threshold=threshold, training=training), not_separated, reached
    )


def read_state(path: Path, identity: str, device: torch.device) -> dict[str, Any]:
    """What ``write_state`` kept. Raises ModelError for a file that is damaged or belongs to another training."""
    try:
        state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
        own = state["format"] == CHECKPOINT_FORMAT and state["identity"] == identity
    except Exception as error:  # torch raises a dozen kinds on a file that is cut off or something else
        raise ModelError(f"{path}: the interrupted training's state is damaged: train without --resume") from error
    if not own:
        raise ModelError(
            f"{path}: labels, embeddings, settings or device are not those of the interrupted training:"
            " train without --resume"
        )
    return state


def write_state(path: Path, identity: str, state: dict[str, Any]) -> None:
    """Keep the state in the place of the former one, whole or not at all. Raises ModelError where that fails."""
    try:
        with replacing(path) as file:
            torch.save({"format": CHECKPOINT_FORMAT, "identity": identity} | state, file)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
        raise ModelError(
            f"cannot keep the state of the training in {path}: {' '.join(str(error).split())[:200]}"
        ) from error


def moments(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean (width,) float64 of vectors (n, width), and 1 / standard deviation: 0 for a number that never varies."""
    blocks = np.array_split(vectors, max(1, len(vectors) // MOMENT_ROWS))
    mean = vectors.mean(axis=0, dtype=np.float64)
    deviation = np.sqrt(sum(((block - mean) ** 2).sum(axis=0) for block in blocks) / len(vectors))
    return mean, np.divide(1.0, deviation, out=np.zeros_like(deviation), where=deviation > 1e-6)


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
