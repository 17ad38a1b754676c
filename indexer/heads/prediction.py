"""What a head says of one recording: genre, whether that is decided, the scores of every segment, a second genre.

Pure arithmetic on cached embeddings, the same for a scan, `relabel` and `classify`. Never reads or stores anything.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from indexer.encoders.trajectory import Course
from indexer.heads.head import Head, softmax

UNLIKE = "unlike everything the head learned from"
# A recording is of two genres when a quarter of it, and at least three units of sound, is decidedly of another genre than its own:
# less is a breakdown, an intro or a sample.
SECOND_SHARE = 0.25
SECOND_SEGMENTS = 3


@dataclass(frozen=True, slots=True, eq=False)
class Verdict:
    """Everything that is stored of a recording under a head."""

    scores: dict[str, float]
    genre: str
    confidence: float
    decided: bool
    reason: str | None = None  # why it is not decided although the confidence would do
    second_genre: str | None = None
    segment_s: float = 0.0
    timeline: np.ndarray | None = None  # (segments, labels) uint8, 255 = probability 1; None where no course is kept


def judge(head: Head, threshold: float, vectors: Sequence[np.ndarray], courses: Sequence[Course | None]) -> Verdict:
    """One recording's verdict from the vector (width,) and course of every encoder that the head's joins, in its order."""
    vector = np.concatenate(vectors).astype(np.float32)
    scores = dict(zip(head.labels, head.scores(vector[None])[0].tolist(), strict=True))
    genre = max(scores, key=lambda label: scores[label])
    unlike = bool(head.novelty(vector[None])[0] > 1)
    known = [course for course in courses if course is not None]
    if len(known) < len(courses):
        return Verdict(
            scores, genre, scores[genre], scores[genre] >= threshold and not unlike, UNLIKE if unlike else None
        )
    probabilities = _timeline(head, vector, known)
    return Verdict(
        scores,
        genre,
        scores[genre],
        scores[genre] >= threshold and not unlike,
        UNLIKE if unlike else None,
        None if unlike else _second_genre(probabilities, head.labels, genre, threshold),
        known[0].segment_s,
        np.rint(probabilities * 255).astype(np.uint8),
    )


def _timeline(head: Head, vector: np.ndarray, courses: Sequence[Course]) -> np.ndarray:
    """Probabilities (segments, labels), on the time grid of the first course.

    The head's logits are affine, so they are taken of the few directions and not of every segment.
    """
    rank = sum(len(course.basis) for course in courses)
    points = np.zeros((rank + 2, len(vector)), np.float32)  # the directions, the vector itself, zero
    points[rank] = vector
    row = column = 0
    first = courses[0]
    middles_s = (np.arange(len(first.coefficients)) + 0.5) * first.segment_s
    coefficients = []  # (segments, rank of the course)
    for course in courses:
        points[row : row + len(course.basis), column : column + course.basis.shape[1]] = course.basis
        row, column = row + len(course.basis), column + course.basis.shape[1]
        at = np.minimum((middles_s / course.segment_s).astype(np.int64), len(course.coefficients) - 1)
        coefficients.append(course.coefficients[at])
    logits = head.logits(points)  # (rank + 2, labels)
    return softmax(logits[rank] + np.concatenate(coefficients, axis=1) @ (logits[:rank] - logits[rank + 1]))


def _second_genre(probabilities: np.ndarray, labels: Sequence[str], genre: str, threshold: float) -> str | None:
    """The genre other than the recording's own that most segments are decidedly of, if they are enough."""
    winners = np.where(probabilities.max(axis=1) >= threshold, probabilities.argmax(axis=1), -1)
    counts = {label: int((winners == i).sum()) for i, label in enumerate(labels) if label != genre}
    label = max(counts, key=lambda name: counts[name])
    return label if counts[label] >= max(SECOND_SEGMENTS, SECOND_SHARE * len(winners)) else None
