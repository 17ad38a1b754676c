"""The linear head: softmax(W x + b) over any labels, one safetensors file a head.

Owns the file's form and the check that it is unchanged. Never trains (training does) and never imports torch.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from indexer.encoders import tensorfile
from indexer.errors import ModelError
from indexer.files.foreign import NAME_CHARS, is_name
from indexer.heads.head import BY_WORDS, softmax
from indexer.heads.novelty import Novelty

KIND = "linear"  # of the file, and of a head that learned
NOVELTY = "novelty."  # how the names of its arrays begin
FORMAT_VERSION = 1
MAX_LABELS = 1000  # each is a column of the view tracks, of which SQLite allows 2,000


@dataclass(frozen=True, slots=True, eq=False)
class LinearHead:
    """A trained head. Raises ModelError for weights, labels or a threshold that cannot be right."""

    name: str
    encoder_id: str
    labels: tuple[str, ...]
    threshold: float
    weight: np.ndarray  # (K, width) float32
    bias: np.ndarray  # (K,) float32
    unlike: Novelty | None = None  # what it never learned from; None: it trusts every vector
    acoustic: tuple[str, ...] = ()  # labels whose own tracks often do not sound electronic
    by_words: bool = False  # its weights are vectors of sentences: a first guess, which no label has calibrated
    training: Mapping[str, Any] = field(
        default_factory=dict
    )  # JSON: what it learned from, settings, metrics; not part of the id
    id: str = field(init=False)
    kind: str = field(init=False)
    _columns: np.ndarray = field(init=False, repr=False)  # the weights (width, K) in float64

    def __post_init__(self) -> None:
        """Check the numbers and derive the id."""
        if not is_name(self.name):
            raise ModelError(f"a head's name is 1 to {NAME_CHARS} printable characters")
        check_labels(self.labels)
        check_threshold(self.threshold)
        if self.weight.ndim != 2 or len(self.weight) != len(self.labels) or self.weight.shape[1] == 0:
            raise ModelError(
                f"head {self.name}: weight of shape {list(self.weight.shape)} for {len(self.labels)} labels"
            )
        if self.bias.shape != (len(self.labels),):
            raise ModelError(f"head {self.name}: bias of shape {list(self.bias.shape)} for {len(self.labels)} labels")
        if not (np.isfinite(self.weight).all() and np.isfinite(self.bias).all()):
            raise ModelError(f"head {self.name}: weights hold NaN or infinity")
        about = {"kind": KIND, "encoder_id": self.encoder_id, "labels": self.labels, "threshold": self.threshold}
        if self.unlike and len(self.unlike.mean) != self.weight.shape[1]:
            raise ModelError(
                f"head {self.name}: its check for unlike music takes {len(self.unlike.mean)} numbers,"
                f" not {self.weight.shape[1]}"
            )
        if self.by_words:
            about["by_words"] = True
        if self.acoustic:  # a head without such labels keeps the id that it had before there was this check
            about["acoustic"] = self.acoustic
        object.__setattr__(self, "_columns", self.weight.T.astype(np.float64))
        object.__setattr__(self, "kind", BY_WORDS if self.by_words else KIND)
        object.__setattr__(self, "id", tensorfile.digest(about, self._arrays()))

    @classmethod
    def load(cls, path: Path) -> "LinearHead":
        """Read a head; raises ModelError for a file that is missing, damaged, edited or of another kind."""
        header = tensorfile.read_header(path)
        about = header.about
        if about.get("kind") != KIND or about.get("format_version") != FORMAT_VERSION:
            raise ModelError(f"{path}: not a linear head this version can read")
        checks = [key for key in header.shapes if key.startswith(NOVELTY)]
        arrays = tensorfile.read_arrays(
            path, {key: header.shapes.get(key, (0,)) for key in ("weight", "bias", *checks)}
        )
        try:
            unlike = (
                Novelty.from_arrays({key.removeprefix(NOVELTY): np.array(arrays[key]) for key in checks})
                if checks
                else None
            )
            head = cls(
                _text(about["name"]), _text(about["encoder_id"]), tuple(_text(label) for label in about["labels"]),
                float(about["threshold"]), np.array(arrays["weight"]), np.array(arrays["bias"]), unlike,
                tuple(_text(label) for label in about.get("acoustic", ())), about.get("by_words") is True,
                dict(about.get("training", {})),
            )  # fmt: skip
        except ModelError as error:
            raise ModelError(f"{path}: {error}") from error
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ModelError(f"{path}: its description is damaged") from error
        if head.id != about.get("id") or about.get("training_sha256") != _training_digest(head.training):
            raise ModelError(f"{path}: changed after it was written: train or copy the head again")
        return head

    def save(self, path: Path) -> None:
        """Write the head whole or not at all; raises ModelError where that fails."""
        about = {
            "kind": KIND, "format_version": FORMAT_VERSION, "id": self.id, "name": self.name,
            "encoder_id": self.encoder_id, "labels": list(self.labels), "threshold": self.threshold,
        }  # fmt: skip
        if self.by_words:
            about["by_words"] = True
        if self.acoustic:
            about["acoustic"] = list(self.acoustic)
        if self.training:
            about |= {"training": dict(self.training), "training_sha256": _training_digest(self.training)}
        tensorfile.write(path, self._arrays(), about)

    def _arrays(self) -> dict[str, np.ndarray]:
        checks = self.unlike.arrays() if self.unlike else {}
        return {"weight": self.weight, "bias": self.bias, **{NOVELTY + key: array for key, array in checks.items()}}

    def logits(self, vectors: np.ndarray) -> np.ndarray:
        """Return (n, K) float64 for vectors (n, width); raises ModelError for another width."""
        check_vectors(vectors, self.weight.shape[1], self.name)
        return np.asarray(vectors.astype(np.float64, copy=False) @ self._columns + self.bias)

    def scores(self, vectors: np.ndarray) -> np.ndarray:
        """Return (n, K) float32 probabilities for vectors (n, width); raises ModelError for another width."""
        return softmax(self.logits(vectors))

    def novelty(self, vectors: np.ndarray) -> np.ndarray:
        """Return (n,): above 1 is unlike everything it learned from; zeros for a head that cannot tell."""
        return self.unlike.distance(vectors) if self.unlike else np.zeros(len(vectors), np.float32)


def check_vectors(vectors: np.ndarray, width: int, name: str) -> None:
    """Raise ModelError unless vectors are (n, width)."""
    if vectors.ndim != 2 or vectors.shape[1] != width:
        raise ModelError(f"head {name} takes vectors of {width} numbers, not an array of shape {list(vectors.shape)}")


def check_labels(labels: tuple[str, ...]) -> None:
    """Raise ModelError unless there are 2 to MAX_LABELS different labels that can be shown and written into files."""
    if not 2 <= len(labels) <= MAX_LABELS or len(set(labels)) != len(labels):
        raise ModelError(
            f"a head has 2 to {MAX_LABELS:,} different labels, not {len(set(labels)):,} of {len(labels):,}"
        )
    wrong = next((number for number, label in enumerate(labels, 1) if not is_name(label)), None)
    if wrong is not None:
        raise ModelError(f"a head's label is 1 to {NAME_CHARS} printable characters; its label {wrong:,} is not")


def check_threshold(threshold: float) -> None:
    """Raise ModelError unless the threshold lies from 0 to 1."""
    if not math.isfinite(threshold) or not 0 <= threshold <= 1:
        raise ModelError(f"a head's threshold lies from 0 to 1, {threshold} does not")


def _training_digest(training: Mapping[str, Any]) -> str | None:
    return tensorfile.digest(training, {}) if training else None


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not text")
    return value
