"""How good a head is, in plain numpy: splits that do not leak, near-duplicates, accuracy, calibration, intervals.

Pure functions over arrays: y and predicted are (n,) label numbers, confidence is (n,) the best probability, groups is
(n,) what must stay together. Never trains, never opens a file, and every random choice comes from the seed it is given.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

NEAR_DUPLICATE_COSINE = 0.99  # a choice: another encoding of one recording lies above, another recording seldom does
ECE_BINS = 15  # as in Guo et al., On Calibration of Modern Neural Networks (ICML 2017)
_BLOCK_ROWS = 1024


# ---- splits


def grouped_parts(y: np.ndarray, groups: np.ndarray, shares: Sequence[float], seed: int) -> np.ndarray:
    """The part (n,) of every row: groups never divided, each label spread over the parts by their shares.

    Greedy: groups in seeded order, largest first, each to the part where all labels come closest to the shares.
    """
    want = np.asarray(shares, np.float64)[:, None]  # (parts, 1)
    _, place = np.unique(groups, return_inverse=True)
    counts = np.zeros((place.max(initial=-1) + 1, y.max(initial=0) + 1))  # (groups, labels)
    np.add.at(counts, (place, y), 1)
    fractions = counts / np.maximum(counts.sum(axis=0), 1)
    order = np.random.default_rng(seed).permutation(len(counts))
    order = order[np.argsort(-fractions[order].sum(axis=1), kind="stable")]
    has = np.zeros((len(want), counts.shape[1]))  # (parts, labels)
    part_of = np.zeros(len(counts), np.int64)
    for group in order:
        # Only the part that gets the group changes: ((has + f) - want)^2 - (has - want)^2, summed over its labels.
        cost = (fractions[group] * (2 * (has - want) + fractions[group])).sum(axis=1)
        part_of[group] = len(want) - 1 - int(np.argmin(np.round(cost[::-1], 12)))  # a tie goes to the last part
        has[part_of[group]] += fractions[group]
    return part_of[place]


def grouped_folds(y: np.ndarray, groups: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """The fold (n,) of every row, for k-fold cross-validation with groups kept whole and labels spread evenly."""
    return grouped_parts(y, groups, [1 / folds] * folds, seed)


def make_folds(y: np.ndarray, groups: np.ndarray, folds: int, seed: int) -> tuple[np.ndarray, list[int]]:
    """(fold (n,) of every row, labels that could not be separated by artist).

    Every label is in two folds at least: the recordings of one that a single artist made are parted one by one.
    """
    return separated(y, groups, lambda g: grouped_folds(y, g, folds, seed))


def hold_out(y: np.ndarray, groups: np.ndarray, share: float, seed: int) -> tuple[np.ndarray, list[int]]:
    """As ``make_folds``: fold 0 is to be judged, -1 only learned from."""
    fold, loose = separated(y, groups, lambda g: grouped_parts(y, g, [1 - share, share], seed))
    return fold - 1, loose


def separated(
    y: np.ndarray, groups: np.ndarray, divide: Callable[[np.ndarray], np.ndarray]
) -> tuple[np.ndarray, list[int]]:
    """(part (n,) of every row by ``divide``, labels whose rows had to be parted one by one to lie in two parts)."""
    groups, loose = groups.copy(), set[int]()
    while True:
        fold = divide(groups)
        lacking = {int(label) for label in np.unique(y) if len(np.unique(fold[y == label])) < 2} - loose
        if not lacking:
            return fold, sorted(loose)
        rows = np.isin(y, list(lacking))
        groups[rows] = groups.max() + 1 + np.arange(rows.sum())
        loose |= lacking


def near_duplicates(vectors: np.ndarray, cosine: float = NEAR_DUPLICATE_COSINE) -> np.ndarray:
    """Return (n,): for every row of vectors (n, width) the first row that it nearly repeats, which may be itself.

    Compared by cosine after the mean of all rows is taken away. O(n^2 width) time, one float32 copy of the vectors.
    """
    unit = np.asarray(vectors, np.float32)
    unit = unit - unit.mean(axis=0, dtype=np.float64).astype(np.float32)
    unit /= np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    first = np.arange(len(unit))
    kept = np.zeros(0, np.int64)
    for start in range(0, len(unit), _BLOCK_ROWS):
        rows = np.arange(start, min(start + _BLOCK_ROWS, len(unit)))
        for past in range(0, len(kept), _BLOCK_ROWS):
            others = kept[past : past + _BLOCK_ROWS]
            near = unit[rows] @ unit[others].T >= cosine  # (rows, others)
            hit = near.any(axis=1)
            first[rows[hit]] = others[near[hit].argmax(axis=1)]
            rows = rows[~hit]
        near = unit[rows] @ unit[rows].T >= cosine
        fresh = np.ones(len(rows), bool)
        for i in range(1, len(rows)):
            earlier = near[i, :i] & fresh[:i]
            if earlier.any():
                fresh[i], first[rows[i]] = False, rows[int(earlier.argmax())]
        kept = np.concatenate([kept, rows[fresh]])
    return first


# ---- right and wrong


def confusion_matrix(y: np.ndarray, predicted: np.ndarray, labels: int) -> np.ndarray:
    """(labels, labels) counts: row the true label, column the predicted one."""
    matrix = np.zeros((labels, labels), np.int64)
    np.add.at(matrix, (y, predicted), 1)
    return matrix


def accuracy(y: np.ndarray, predicted: np.ndarray) -> float:
    """Share of rows that are right; NaN without rows."""
    return float((y == predicted).mean()) if len(y) else float("nan")


def balanced_accuracy(y: np.ndarray, predicted: np.ndarray) -> float:
    """Mean recall of the labels that occur in y; NaN without rows."""
    recalls = [float((predicted[y == label] == label).mean()) for label in np.unique(y)]
    return float(np.mean(recalls)) if recalls else float("nan")


def precision_recall(confusion: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Precision and recall (labels,) of a confusion matrix; NaN where a label was never predicted, or never occurs."""
    hits = np.diag(confusion).astype(np.float64)
    with np.errstate(invalid="ignore"):
        return hits / confusion.sum(axis=0), hits / confusion.sum(axis=1)


# ---- confidence


def calibration_error(confidence: np.ndarray, correct: np.ndarray, bins: int = ECE_BINS) -> float:
    """Expected calibration error: |accuracy - mean confidence| over bins of equal width, weighted by their rows."""
    if not len(confidence):
        return float("nan")
    place = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    gaps = np.bincount(place, correct, bins) - np.bincount(place, confidence, bins)
    return float(np.abs(gaps).sum() / len(confidence))


def at_threshold(confidence: np.ndarray, correct: np.ndarray, threshold: float) -> tuple[float, float]:
    """(coverage, accuracy among the decided) when rows from the threshold on are decided; accuracy is NaN for none."""
    decided = confidence >= threshold
    return (float(decided.mean()) if len(decided) else float("nan")), (
        float(correct[decided].mean()) if decided.any() else float("nan")
    )


def fit_temperature(logits: np.ndarray, y: np.ndarray) -> float:
    """The T > 0 for which softmax(logits / T) (n, labels) fits y best (log loss), searched from 0.001 to 1,000.

    The targets are smoothed as in Platt (1999): (n + 1) / (n + 2) for the true label and the rest shared by the others,
    so that a few rows that are all right do not make the head certain.
    """
    n, labels = logits.shape
    logits = logits.astype(np.float64)
    target = np.full((n, labels), 1 / (n + 2) / (labels - 1))
    target[np.arange(n), y] = (n + 1) / (n + 2)

    def loss(log_t: float) -> float:
        scaled = logits / np.exp(log_t)
        top = scaled.max(axis=1)
        return float((top + np.log(np.exp(scaled - top[:, None]).sum(axis=1)) - (target * scaled).sum(axis=1)).mean())

    low, high = np.log(1e-3), np.log(1e3)
    shrink = (5**0.5 - 1) / 2  # golden section: the loss is convex in 1/T, so it has one valley in log T too
    for _ in range(60):
        a, b = high - shrink * (high - low), low + shrink * (high - low)
        low, high = (low, b) if loss(a) <= loss(b) else (a, high)
    return float(np.exp((low + high) / 2))


def choose_threshold(confidence: np.ndarray, correct: np.ndarray, target: float) -> tuple[float, bool]:
    """(threshold, whether the rows show that it reaches the target precision); it decides as many rows as possible.

    Precision is counted as (right + 1) / (decided + 2), Laplace's rule, because a handful of rows proves little. Where
    no threshold reaches the target: the target itself, as a calibrated confidence, or above every wrong row if that is
    higher.
    """
    order = np.argsort(-confidence, kind="stable")
    sure, right = confidence[order].astype(np.float64), np.cumsum(correct[order])
    decided = np.arange(1, len(sure) + 1)
    last_of_tie = np.append(sure[1:] < sure[:-1], True)[: len(sure)]
    enough = last_of_tie & ((right + 1) / (decided + 2) >= target)
    if enough.any():
        last = int(np.flatnonzero(enough)[-1])
        below = sure[last + 1] if last + 1 < len(sure) else sure[last]
        return float((sure[last] + below) / 2), True
    wrong = sure[~correct[order].astype(bool)]
    return min(1.0, max(target, float(wrong.max(initial=0.0)) + 1e-6)), False


# ---- how sure the figures are


def bootstrap_interval(
    statistic: Callable[[np.ndarray], float], groups: np.ndarray, *, seed: int, rounds: int = 1000, level: float = 0.95
) -> tuple[float, float]:
    """Percentile interval of ``statistic(rows)`` when whole groups are drawn with replacement.

    groups (n,): rows of one artist are not independent; give ``arange(n)`` to draw single rows. Rounds that give NaN
    are left out.
    """
    _, place = np.unique(groups, return_inverse=True)
    rows_of = np.split(np.argsort(place, kind="stable"), np.cumsum(np.bincount(place))[:-1]) if len(place) else []
    rng = np.random.default_rng(seed)
    values = [
        statistic(np.concatenate([rows_of[g] for g in rng.integers(len(rows_of), size=len(rows_of))]))
        for _ in range(rounds if rows_of else 0)
    ]
    values = [v for v in values if not np.isnan(v)]
    if not values:
        return float("nan"), float("nan")
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def summary(
    y: np.ndarray, probabilities: np.ndarray, labels: Sequence[str], *, groups: np.ndarray, threshold: float, seed: int
) -> dict[str, Any]:
    """All of the above for probabilities (n, labels), as values that JSON can hold (NaN becomes None)."""
    predicted, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1).astype(np.float64)
    correct = predicted == y
    confusion = confusion_matrix(y, predicted, len(labels))
    precision, recall = precision_recall(confusion)
    coverage, decided_accuracy = at_threshold(confidence, correct, threshold)
    interval = bootstrap_interval(lambda rows: float(correct[rows].mean()), groups, seed=seed)
    return {
        "recordings": len(y),
        "artists": len(np.unique(groups)),
        "accuracy": number(accuracy(y, predicted)),
        "accuracy_95": [number(v) for v in interval],
        "balanced_accuracy": number(balanced_accuracy(y, predicted)),
        "calibration_error": number(calibration_error(confidence, correct)),
        "threshold": threshold,
        "coverage": number(coverage),
        "precision_decided": number(decided_accuracy),
        "labels": {
            label: {"recordings": int((y == i).sum()), "precision": number(precision[i]), "recall": number(recall[i])}
            for i, label in enumerate(labels)
        },
        "confusion": confusion.tolist(),
    }


def number(value: float) -> float | None:
    """A figure as JSON can hold it: None for NaN."""
    return None if np.isnan(value) else round(float(value), 6)
