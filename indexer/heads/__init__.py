"""Heads: from track vectors to one score per genre. Numpy only; never import torch, never decide what is written.

Owns the interface and which kind of head a file holds.
"""

from pathlib import Path
from typing import Protocol

import numpy as np

from indexer.encoders import tensorfile
from indexer.errors import ModelError


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


def load_head(path: str | Path) -> Head:
    """Load a head from its own file, or the AudioSet head from an encoder's ``model.safetensors``.

    Raises ModelError with one line for a file that is damaged, edited, of a wrong shape, or holds no head.
    """
    from indexer.heads.audioset import AudioSetHead
    from indexer.heads.linear import LinearHead

    path = Path(path)
    kind = tensorfile.read_header(path).about.get("kind")
    if kind == "linear":
        return LinearHead.load(path)
    if kind == "m2d":
        return AudioSetHead.load(path)
    raise ModelError(f"{path}: holds no head of a known kind but {kind!r}")


def audioset_head(path: str | Path) -> Head:
    """Return the AudioSet head that a fine-tuned encoder's ``model.safetensors`` carries; raises ModelError without one."""
    from indexer.heads.audioset import AudioSetHead

    return AudioSetHead.load(Path(path))
