"""Cross-validation: pooled predictions of recordings not learned from, figures.

Owns what is computed from the pooled predictions; the folds are evaluation's. A learner is a function; which ones there
are, and what they learn from, is the caller's business.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from indexer.heads import evaluation
from indexer.heads.head import softmax
from indexer.heads.recipes import train
from indexer.heads.training import Data, TrainingSettings

CURVE_SHARES = (0.125, 0.25, 0.5)  # of the recordings to learn from; all of them are the figures themselves


@dataclass(frozen=True, slots=True, eq=False)
class Fold:
    """What a learner says of the recordings of one fold."""

    logits: np.ndarray  # (rows, labels) float64 before calibration
    temperature: float
    threshold: float  # on the calibrated probabilities


# (row numbers to learn from, row numbers to judge) -> what it says of the latter
Learner = Callable[[np.ndarray, np.ndarray], Fold]


@dataclass(frozen=True, slots=True, eq=False)
class Pooled:
    """Every judged recording once, by a learner that never saw its artist."""

    rows: np.ndarray  # (n,) int64, ascending
    raw: np.ndarray  # (n, labels) float32 probabilities before calibration
    scores: np.ndarray  # (n, labels) float32 calibrated
    thresholds: np.ndarray  # (n,) of the fold's own
    temperature: float  # median over the folds
    elapsed_s: float


def cross_validate(learner: Learner, fold: np.ndarray, on_fold: Callable[[], None] = lambda: None) -> Pooled:
    """Judge every fold from 0 on by a learner that learned from all other rows."""
    started = time.monotonic()
    rows, said = [], []
    for number in range(int(fold.max()) + 1):
        judged = np.flatnonzero(fold == number)
        if len(judged):
            rows.append(judged)
            said.append(learner(np.flatnonzero(fold != number), judged))
        on_fold()
    order = np.argsort(np.concatenate(rows))

    def pooled(parts: Sequence[np.ndarray]) -> np.ndarray:
        return np.concatenate(parts)[order]

    return Pooled(
        pooled(rows),
        pooled([softmax(s.logits) for s in said]),
        pooled([softmax(s.logits / s.temperature) for s in said]),
        pooled([np.full(len(s.logits), s.threshold) for s in said]),
        float(np.median([s.temperature for s in said])),
        time.monotonic() - started,
    )


def linear(data: Data, settings: TrainingSettings, device: str = "auto") -> Learner:
    """The linear head, trained as `indexer train` does: all that decides it comes from the rows to learn from."""

    def learn(learned: np.ndarray, judged: np.ndarray) -> Fold:
        head = train(data.rows(learned), settings, name="fold", device=device).head
        temperature = float(head.training["settings"]["temperature"])
        return Fold(head.logits(data.vectors[judged]) * temperature, temperature, head.threshold)

    return learn


def learning_curve(
    learner: Learner,
    y: np.ndarray,
    groups: np.ndarray,
    fold: np.ndarray,
    seed: int,
    on_fold: Callable[[], None] = lambda: None,
) -> list[dict[str, Any]]:
    """Accuracy by the number of training recordings.

    Returns {recordings, accuracy, accuracy_95} for each share that holds every label.
    """
    points = []
    for share in CURVE_SHARES:
        learned: list[int] = []

        def with_less(
            rows: np.ndarray, judged: np.ndarray, share: float = share, learned: list[int] = learned
        ) -> Fold | None:
            part = rows[evaluation.grouped_parts(y[rows], groups[rows], [share, 1 - share], seed) == 0]
            learned.append(len(part))
            enough = np.bincount(y[part], minlength=int(y.max()) + 1).min() >= 2 and len(part) >= 8
            return learner(part, judged) if enough else None

        folds = [
            (judged, with_less(np.flatnonzero(fold != number), judged))
            for number in range(int(fold.max()) + 1)
            if len(judged := np.flatnonzero(fold == number))
        ]
        on_fold()
        if any(said is None for _, said in folds):
            continue
        rows = np.concatenate([judged for judged, _ in folds])
        right = np.concatenate([said.logits.argmax(axis=1) for _, said in folds if said]) == y[rows]
        points.append({"recordings": int(np.mean(learned)), **_accuracy(right, groups[rows], seed)})
    return points


def _accuracy(right: np.ndarray, groups: np.ndarray, seed: int) -> dict[str, Any]:
    interval = evaluation.bootstrap_interval(lambda rows: float(right[rows].mean()), groups, seed=seed)
    return {"accuracy": evaluation.number(float(right.mean())), "accuracy_95": [evaluation.number(v) for v in interval]}


def figures(pooled: Pooled, y: np.ndarray, groups: np.ndarray, labels: Sequence[str], seed: int) -> dict[str, Any]:
    """All figures of a learner, as values that JSON can hold. y and groups are of all rows, judged or not."""
    y, groups = y[pooled.rows], groups[pooled.rows]
    predicted, confidence = pooled.scores.argmax(axis=1), pooled.scores.max(axis=1).astype(np.float64)
    right = predicted == y
    confusion = evaluation.confusion_matrix(y, predicted, len(labels))
    precision, recall = evaluation.precision_recall(confusion)
    decided = confidence >= pooled.thresholds
    number = evaluation.number
    return {
        "recordings": len(y),
        "artists": len(np.unique(groups)),
        **_accuracy(right, groups, seed),
        "balanced_accuracy": number(evaluation.balanced_accuracy(y, predicted)),
        "calibration_error_before": number(
            evaluation.calibration_error(pooled.raw.max(axis=1).astype(np.float64), right)
        ),
        "calibration_error": number(evaluation.calibration_error(confidence, right)),
        "temperature": number(pooled.temperature),
        "threshold": number(float(np.median(pooled.thresholds))),
        "coverage": number(float(decided.mean())),
        "precision_decided": number(float(right[decided].mean()) if decided.any() else float("nan")),
        "labels": {
            label: {"recordings": int((y == i).sum()), "precision": number(precision[i]), "recall": number(recall[i])}
            for i, label in enumerate(labels)
        },
        "confusion": confusion.tolist(),
        "reliability": _reliability(confidence, right),
        "tradeoff": _tradeoff(confidence, right),
        "elapsed_s": round(pooled.elapsed_s, 3),
    }


def _reliability(confidence: np.ndarray, right: np.ndarray, bins: int = 10) -> list[dict[str, Any]]:
    """Mean confidence and accuracy of the recordings in bins of equal width; empty bins are left out."""
    place = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    return [
        {
            "confidence": evaluation.number(float(confidence[place == b].mean())),
            "accuracy": evaluation.number(float(right[place == b].mean())),
            "recordings": int((place == b).sum()),
        }
        for b in np.unique(place)
    ]


def _tradeoff(confidence: np.ndarray, right: np.ndarray, points: int = 40) -> list[dict[str, Any]]:
    """Coverage and precision at thresholds spread over the confidences that occur."""
    thresholds = np.unique(np.quantile(confidence, np.linspace(0, 1, points)))
    found = [(float(t), *evaluation.at_threshold(confidence, right, float(t))) for t in thresholds]
    return [
        {"threshold": evaluation.number(t), "coverage": evaluation.number(c), "precision": evaluation.number(p)}
        for t, c, p in found
    ]
