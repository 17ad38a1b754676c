"""Chooses from vectors those most unlike what is known and unlike each other: what teaches most per label.

Pure: opens nothing and knows no labels. The greedy choice of the farthest point: Gonzalez, Clustering to minimize the
maximum intercluster distance (Theoretical Computer Science 1985).
"""

from collections.abc import Iterator

import numpy as np

# Multiplications; below, on a busy machine, the cores wait for each other much longer than they compute: eight requests
# at once took 3 s instead of 0.4.
BLAS_FROM = 1e8


def directions(vectors: np.ndarray) -> np.ndarray:
    """Vectors (n, width) without their mean, of length 1, float32."""
    centred = vectors.astype(np.float32)
    centred -= centred.mean(axis=0)
    return np.asarray(centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), np.finfo(np.float32).tiny))


def most_different(
    candidates: np.ndarray, known: np.ndarray, weights: np.ndarray | None = None
) -> Iterator[tuple[int, float]]:
    """Yield (place, distance) of all candidates (n, width), each the farthest from the known ones and those before it.

    Directions of length 1; the distance is one minus their cosine, and 1, as of unrelated ones, while nothing is known.
    weights (n,): the importance of each, by which its distance is multiplied in the choice.
    """
    distance = 1 - _cosines(candidates, known).max(axis=1, initial=-1 if len(known) else 0)
    left = np.ones(len(candidates)) if weights is None else weights.astype(np.float64)
    for _ in range(len(candidates)):
        best = int(np.argmax(np.where(left < 0, -1, left * distance)))
        yield best, float(distance[best])
        distance = np.minimum(distance, 1 - _cosines(candidates, candidates[best : best + 1])[:, 0])
        left[best] = -1


def _cosines(some: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Cosines (n, m); by BLAS, which computes on all cores, only where they have enough to do."""
    return np.asarray(np.einsum("ij,kj->ik", some, others, optimize=some.size * len(others) > BLAS_FROM))
