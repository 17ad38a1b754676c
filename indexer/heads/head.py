"""What a head is: it turns track vectors into one score for each genre.

Owns the interface. Numpy only: never imports torch, never decides what is written.
"""

from typing import Protocol

import numpy as np

BY_WORDS = "words"  # the kind of a head that is made of sentences: a first guess, which never decides


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
        """Which sort of head: linear, audioset, words."""
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

    @property
    def acoustic(self) -> tuple[str, ...]:
        """Labels that music may have which does not sound electronic."""
        ...

    def logits(self, vectors: np.ndarray) -> np.ndarray:
        """Return (n, labels) float64, an affine map of vectors (n, width). Raises ModelError for another width."""
        ...

    def scores(self, vectors: np.ndarray) -> np.ndarray:
        """Return (n, labels) float32 that sum to one, the softmax of the logits."""
        ...

    def novelty(self, vectors: np.ndarray) -> np.ndarray:
        """Return (n,): how unlike the training music vectors (n, width) are. Above 1 the head should not decide."""
        ...


def softmax(logits: np.ndarray) -> np.ndarray:
    """(n, labels) logits -> (n, labels) float32 probabilities; safe for any finite size."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))  # (n, labels)
    return np.asarray(powers / powers.sum(axis=1, keepdims=True), np.float32)
