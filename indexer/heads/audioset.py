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
# Classes that speak for electronic music, and against it, by the same order.
ELECTRONIC = {
    "electronic music": 116, "house": 162, "techno": 252, "dubstep": 374, "drum and bass": 94, "electronica": 485,
    "electronic dance music": 392, "ambient": 440, "trance": 257, "synthesizer": 475, "drum machine": 419,
}  # fmt: skip
OTHER = {
    "speech": 405, "choir": 472, "a capella": 492, "guitar": 145, "piano": 207, "harpsichord": 165, "accordion": 487,
    "orchestra": 206, "brass": 54, "bowed strings": 469, "woodwind": 391, "classical": 448, "opera": 205, "rock": 224,
    "folk": 132, "jazz": 149, "country": 56, "blues": 14, "silence": 98, "noise": 397, "white noise": 421,
    "pink noise": 422, "environmental noise": 222, "crowd": 169, "vehicle": 387, "animal": 464,
}  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class AudioSetHead:
    """Batch norm without affine, one linear layer, softmax over the five genres only."""

    encoder_id: str
    vector_width: int  # of the encoder's vectors: rows x width
    mean: np.ndarray  # (width,) float32; width is vector_width, or that of one token
    var: np.ndarray  # (width,) float32
    weight: np.ndarray  # (6, width) float32: the five genres, and music
    bias: np.ndarray  # (6,) float32
    evidence: tuple[np.ndarray, np.ndarray]  # weight (n, width) and bias (n,) of ELECTRONIC, then of OTHER
    id: str = field(init=False)
    name: str = field(default=KIND, init=False)
    kind: str = field(default=KIND, init=False)
    labels: tuple[str, ...] = field(default=tuple(POSITIONS), init=False)
    threshold: float = field(default=THRESHOLD, init=False)
    acoustic: tuple[str, ...] = field(default=(), init=False)

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
        (weight, bias), evidence = (
            (arrays["head.weight"][rows], arrays["head.bias"][rows])
            for rows in ([*POSITIONS.values(), MUSIC], [*ELECTRONIC.values(), *OTHER.values()])
        )
        return cls(
            info.encoder_id, info.geometry.vector_width, np.array(arrays["head.mean"]), np.array(arrays["head.var"]),
            weight, bias, evidence,
        )  # fmt: skip

    @property
    def evidence_id(self) -> str:
        """Hex sha256 over everything that decides ``electronic``."""
        about = {"kind": KIND, "encoder_id": self.encoder_id, "electronic": ELECTRONIC, "other": OTHER}
        weight, bias = self.evidence
        return tensorfile.digest(about, {"mean": self.mean, "var": self.var, "weight": weight, "bias": bias})

    def logits(self, vectors: np.ndarray) -> np.ndarray:
        """Return (n, 5) float64 for vectors (n, vector_width); raises ModelError for another width."""
        return self._all_logits(vectors, self.weight, self.bias)[:, :-1]

    def scores(self, vectors: np.ndarray) -> np.ndarray:
        """Return (n, 5) float32 probabilities for vectors (n, vector_width); raises ModelError for another width."""
        return softmax(self.logits(vectors))

    def novelty(self, vectors: np.ndarray) -> np.ndarray:
        """Return (n,): twice the probability that it is no music, so above 1 it rather is none."""
        logits = self._all_logits(vectors, self.weight, self.bias)
        return np.asarray(2 * (1 - _probabilities(logits[:, -1])), np.float32)

    def electronic(self, vectors: np.ndarray) -> np.ndarray:
        """Return (n,) from 0 to 1: the most probable of ELECTRONIC beside the most probable of OTHER; alike: 0.5."""
        found = _probabilities(self._all_logits(vectors, *self.evidence))
        electronic, other = found[:, : len(ELECTRONIC)].max(axis=1), found[:, len(ELECTRONIC) :].max(axis=1)
        return np.asarray(electronic / (electronic + other))

    def _all_logits(self, vectors: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
        """(n, classes) for vectors (n, vector_width)."""
        check_vectors(vectors, self.vector_width, self.name)
        width = len(self.mean)
        # A head of one token's width was trained on the mean over all tokens: here the mean over the rows.
        x = (
            vectors.astype(np.float64).reshape(len(vectors), -1, width).mean(axis=1)
        )  # (n, rows or 1, width) -> (n, width)
        x = (x - self.mean) / np.sqrt(self.var.astype(np.float64) + BATCH_NORM_EPS)  # (n, width)
        return np.asarray(x @ weight.T.astype(np.float64) + bias)


def _probabilities(logits: np.ndarray) -> np.ndarray:
    """The sigmoid, which float64 keeps above 0."""
    return np.asarray(1 / (1 + np.exp(-np.maximum(logits, -700))))
