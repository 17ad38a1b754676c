"""Decides the genre of one recording: scores, genre, whether it counts as decided, a timeline and a second genre.

Pure arithmetic on cached embeddings, the same for a scan, `relabel` and `classify`. Never reads or stores anything.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from indexer.encoders.trajectory import Trajectory
from indexer.heads.electronic import LIMIT
from indexer.heads.head import BY_WORDS, Head, softmax

UNLIKE = "unlike everything the head learned from"
FIRST_GUESS = "a first guess by words: labels and `indexer train` make it a decision"
NOT_ELECTRONIC = "does not sound electronic"
# A recording has a second genre when a quarter of its segments or more, and at least three, are decidedly of that
# genre. Fewer are a breakdown, an intro or a sample.
SECOND_SHARE = 0.25
SECOND_SEGMENTS = 3


def sure_from(threshold: float) -> float:
    """The confidence from which a genre by a rough vector is sure: half of what is left above the threshold."""
    return (1 + threshold) / 2


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """Everything that is stored about a recording under a head."""

    scores: dict[str, float]  # label -> probability
    genre: str  # the label with the highest probability
    confidence: float  # that probability
    decided: bool
    reason: str | None = None  # why the genre is not decided although its confidence reaches the threshold
    second_genre: str | None = None
    segment_s: float = 0.0
    timeline: np.ndarray | None = None  # (segments, labels) uint8, 255 = probability 1; None without trajectories


def is_decided(confidence: float, threshold: float, reason: str | None) -> bool:
    """Whether a genre counts as decided. Only this function says so; everything else stores or shows its answer."""
    return confidence >= threshold and reason is None


def decide(
    head: Head,
    threshold: float,
    vectors: Sequence[np.ndarray],
    trajectories: Sequence[Trajectory | None],
    electronic: float | None = None,
) -> Prediction:
    """Return the prediction for one recording.

    ``vectors``: its vector (width,) under every encoder of the head, in the head's order. ``trajectories``: likewise.
    Where one is missing there is no timeline and no second genre. ``electronic``: how electronic the recording sounds,
    see heads/electronic.py; None: nothing can tell.
    """
    vector = np.concatenate(vectors).astype(np.float32)
    scores = dict(zip(head.labels, head.scores(vector[None])[0].tolist(), strict=True))
    genre = max(scores, key=lambda label: scores[label])
    confidence = scores[genre]
    reason = None
    if head.kind == BY_WORDS:
        reason = FIRST_GUESS
    elif electronic is not None and electronic < LIMIT and genre not in head.acoustic:
        reason = NOT_ELECTRONIC
    elif head.novelty(vector[None])[0] > 1:
        reason = UNLIKE
    decided = is_decided(confidence, threshold, reason)
    known = [trajectory for trajectory in trajectories if trajectory is not None]
    if len(known) < len(trajectories):
        return Prediction(scores, genre, confidence, decided, reason)
    probabilities = _timeline(head, vector, known)
    return Prediction(
        scores,
        genre,
        confidence,
        decided,
        reason,
        second_genre=None if reason else _second_genre(probabilities, head.labels, genre, threshold),
        segment_s=known[0].segment_s,
        timeline=np.rint(probabilities * 255).astype(np.uint8),
    )


def _timeline(head: Head, vector: np.ndarray, trajectories: Sequence[Trajectory]) -> np.ndarray:
    """Return probabilities (segments, labels) on the time grid of the first trajectory.

    The head's logits are affine, so they are computed for the few directions instead of for every segment.
    """
    rank = sum(len(trajectory.basis) for trajectory in trajectories)
    points = np.zeros((rank + 2, len(vector)))  # the directions, the vector itself, zero
    points[rank] = vector
    row = column = 0
    first = trajectories[0]
    middles_s = (np.arange(len(first.coefficients)) + 0.5) * first.segment_s
    coefficients = []  # (segments, rank of the trajectory)
    for trajectory in trajectories:
        points[row : row + len(trajectory.basis), column : column + trajectory.basis.shape[1]] = trajectory.basis
        row, column = row + len(trajectory.basis), column + trajectory.basis.shape[1]
        at = np.minimum((middles_s / trajectory.segment_s).astype(np.int64), len(trajectory.coefficients) - 1)
        coefficients.append(trajectory.coefficients[at])
    logits = head.logits(points)  # (rank + 2, labels)
    return softmax(logits[rank] + np.concatenate(coefficients, axis=1) @ (logits[:rank] - logits[rank + 1]))


def _second_genre(probabilities: np.ndarray, labels: Sequence[str], genre: str, threshold: float) -> str | None:
    """Return the other genre that most segments are decidedly of, or None when they are too few."""
    winners = probabilities.argmax(axis=1)[probabilities.max(axis=1) >= threshold]
    counts = np.bincount(winners, minlength=len(labels))
    counts[labels.index(genre)] = 0
    second = int(counts.argmax())
    return labels[second] if counts[second] >= max(SECOND_SEGMENTS, SECOND_SHARE * len(probabilities)) else None
