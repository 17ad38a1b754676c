"""Heads: from track vectors to one score per genre. Numpy only; never import torch, never decide what is written.

Owns the interface and which kind of head a file holds.
"""

from typing import Protocol

import numpy as np


class Head(Protocol):
    """Scores vectors of one encoder; ``id`` is the sha256 over all that decides its results."""

    @property
    def id(self) -> str:
        """Hex sha256 over kind, encoder, labels, threshold and weights: the cache key of its predictions."""
        ...

    @property
    def name(self) -> str:
        """The name a person knows it by."""
        ...

    @property
    def kind(self) -> str:
        """Which sort of head: linear, audioset."""
        ...

    @property
    def encoder_id(self) -> str:
        """The encoder whose vectors it understands."""
        ...

    @property
    def labels(self) -> tuple[str, ...]:
        """One genre a score, in the order of the scores."""
        ...

    @property
    def threshold(self) -> float:
        """The best score from which on the head has decided."""
        ...

    def logits(self, vectors: np.ndarray) -> np.ndarray:
        """Return (n, labels) float64 for vectors (n, width): an affine map of the vector. Raises ModelError for another width."""
        ...

    def scores(self, vectors: np.ndarray) -> np.ndarray:
        """Return (n, labels) float32 that sum to one, the softmax of the logits."""
        ...

    def novelty(self, vectors: np.ndarray) -> np.ndarray:
        """Return (n,): how unlike vectors (n, width) are to all that the head learned from; above 1 it should not decide."""
        ...


def softmax(logits: np.ndarray) -> np.ndarray:
    """(n, labels) logits -> (n, labels) float32 probabilities; safe for any finite size."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))  # (n, labels)
    return np.asarray(powers / powers.sum(axis=1, keepdims=True), np.float32)
