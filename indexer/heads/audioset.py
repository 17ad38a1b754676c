"""First labels without training: a fine-tuned checkpoint's AudioSet head, restricted to five genres and "music".

A first guess and never to be shown as the accuracy of a trained head: published quality per class is low (average
precision about 0.25 to 0.45). Reads the encoder's own file; never imports torch.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from indexer.encoders import tensorfile
from indexer.encoders.m2d import checkpoint
from indexer.errors import ModelError
from indexer.heads.head import softmax
from indexer.heads.linear import check_vectors

KIND = "audioset"
THRESHOLD = 0.8  # high, because a wrong tag is worse than none
BATCH_NORM_EPS = 1e-5
# Place of each genre in AudioSet's 527 classes sorted by MID (/m/0fd3y, /m/0283d, /m/03mb9, /m/07gxw, /m/07lnk).
POSITIONS = {"ambient": 440, "drum and bass": 94, "house": 162, "techno": 252, "trance": 257}
MUSIC = 191  # /m/04rlf: silence, noise and speech are no techno


@dataclass(frozen=True, slots=True, eq=False)
class AudioSetHead:
    """Batch norm without affine, one linear layer, softmax over the five genres only."""

    encoder_id: str
    vector_width: int  # of the encoder's vectors: rows x width
    mean: np.ndarray  # (width,) float32; width is vector_width, or that of one token
    var: np.ndarray  # (width,) float32
    weight: np.ndarray  # (6, width) float32: the five genres, and music
    bias: np.ndarray  # (6,) float32
    id: str = field(init=False)
    name: str = field(default=KIND, init=False)
    kind: str = field(default=KIND, init=False)
    labels: tuple[str, ...] = field(default=tuple(POSITIONS), init=False)
    threshold: float = field(default=THRESHOLD, init=False)

    def __post_init__(self) -> None:
        """Derive the id."""
        about = {"kind": KIND, "encoder_id": self.encoder_id, "labels": self.labels, "threshold": self.threshold}
        arrays = {"mean": self.mean, "var": self.var, "weight": self.weight, "bias": self.bias}
        object.__setattr__(self, "id", tensorfile.digest(about, arrays))

    @classmethod
    def load(cls, path: Path) -> "AudioSetHead":
        """Read the head from a converted checkpoint; raises ModelError for one that is damaged or carries no head."""
        info = checkpoint.inspect(path)
        if info.head_width is None:
            raise ModelError(f"{path}: {info.name} carries no AudioSet head: use a fine-tuned model or train a head")
        arrays = checkpoint.load_head(path)
        if not (arrays["head.var"] >= 0).all():
            raise ModelError(f"{path}: head.var holds a negative variance")
        rows = [*POSITIONS.values(), MUSIC]
        return cls(
            info.encoder_id, info.geometry.vector_width, np.array(arrays["head.mean"]), np.array(arrays["head.var"]),
            arrays["head.weight"][rows], arrays["head.bias"][rows],
        )  # fmt: skip

    def logits(self, vectors: np.ndarray) -> np.ndarray:
        """Return (n, 5) float64 for vectors (n, vector_width); raises ModelError for another width."""
        return self._all_logits(vectors)[:, :-1]

    def scores(self, vectors: np.ndarray) -> np.ndarray:
        """Return (n, 5) float32 probabilities for vectors (n, vector_width); raises ModelError for another width."""
        return softmax(self.logits(vectors))

    def novelty(self, vectors: np.ndarray) -> np.ndarray:
        """Return (n,): twice the probability that it is no music, so above 1 it rather is none."""
        return np.asarray(2 / (1 + np.exp(np.minimum(self._all_logits(vectors)[:, -1], 700))), np.float32)

    def _all_logits(self, vectors: np.ndarray) -> np.ndarray:
        """(n, 6) for vectors (n, vector_width)."""
        check_vectors(vectors, self.vector_width, self.name)
        width = len(self.mean)
        # A head of one token's width was trained on the mean over all tokens: here the mean over the rows.
        x = (
            vectors.astype(np.float64).reshape(len(vectors), -1, width).mean(axis=1)
        )  # (n, rows or 1, width) -> (n, width)
        x = (x - self.mean) / np.sqrt(self.var.astype(np.float64) + BATCH_NORM_EPS)  # (n, width)
        return np.asarray(x @ self.weight.T.astype(np.float64) + self.bias)  # (n, 6)
