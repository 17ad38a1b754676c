"""Decides which workers of a cluster may take part in a scan.

A worker must have the scan's version, encoders, precision and folders, and must compute the same vector of a test
signal. Owns the comparison and the reasons for refusal; indexer.cluster.connection asks the workers.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from indexer import __version__

# Distance of two vectors of the test signal, relative to the norm of the reference. Another encoder is off by about 1,
# another library at the same precision by a few hundredths.
PROBE_TOLERANCE = 0.1
Answer = Mapping[str, Any]  # of indexer.cluster.worker.prove


class Admission:
    """The conditions of one scan, and the precision that its workers share."""

    def __init__(
        self,
        encoders: Mapping[str, str],
        roots: Sequence[bytes],
        *,
        precision: str,
        device: str,
        words: Mapping[str, str] | None = None,
    ) -> None:
        """``encoders``: id to name. ``roots``: paths on the workers. ``device``: "auto" leaves it to each worker.

        words: by encoder id the id of the audio vectors that come with it.
        """
        self._encoders = dict(encoders)
        self._words = dict(words or {})
        self._roots = list(roots)
        self._device = None if device == "auto" else device
        self.precision = precision
        self._reference: Answer | None = None
        self._reference_by = ""

    @property
    def undecided(self) -> bool:
        """Whether the precision is still to be chosen, from the answers of all workers."""
        return bool(self._encoders) and self.precision == "auto" and self._reference is None

    def wanted(self, *, embeds: bool) -> dict[str, Any]:
        """The argument of ``worker.prove``; ``embeds``: whether the worker is to embed, too."""
        return {
            "version": __version__,
            "encoders": self._encoders if embeds else {},
            "words": self._words if embeds else {},
            "roots": self._roots,
            "precision": self.precision,
            "device": self._device,
        }

    def decide(self, answers: Sequence[tuple[str, Answer]]) -> set[str]:
        """Choose the precision: the one that all workers chose by themselves, else fp32.

        ``answers``: (address, answer), at least one. Returns the addresses of the workers that must be asked again.
        """
        kinds = [answer["precision"] for _, answer in answers]
        if all(kind == kinds[0] for kind in kinds):
            taken = set(kinds[0].values()) - {"fp64"}  # the built-in encoder always computes in fp64
            self.precision = taken.pop() if len(taken) == 1 else "auto"
            self._reference_by, self._reference = answers[0]
            return set()
        self.precision = "fp32"
        return {address for address, answer in answers if set(answer["precision"].values()) - {"fp32", "fp64"}}

    def objection(self, address: str, answer: Answer, others: Mapping[str, Answer]) -> str | None:
        """Why a worker with this answer must not work beside the admitted ``others``; None: it may."""
        for other, theirs in others.items():
            if answer["gpu"] is not None and answer["gpu"] == theirs["gpu"] and other != address:
                return f"shares its GPU with {other}: start one worker a device, each with its own CUDA_VISIBLE_DEVICES"
        if not answer["precision"]:  # it only inspects files
            return None
        if self._reference is None:
            self._reference_by, self._reference = address, answer
        if answer["precision"] != self._reference["precision"]:
            own, reference = _text(answer["precision"]), _text(self._reference["precision"])
            return f"computes in {own} and {self._reference_by} in {reference}"
        for encoder_id, name in self._encoders.items():
            distance = _distance(answer["probe"][encoder_id], self._reference["probe"][encoder_id])
            if not distance <= PROBE_TOLERANCE:
                return (
                    f"makes another vector of the test signal with {name} than {self._reference_by} "
                    f"(off by {distance:.3f}, allowed {PROBE_TOLERANCE})"
                )
        return None


def _distance(one: bytes, other: bytes) -> float:
    """The norm of the difference of two vectors (float32 bytes), relative to the norm of ``other``."""
    a, b = np.frombuffer(one, "<f4").astype(np.float64), np.frombuffer(other, "<f4").astype(np.float64)
    if a.shape != b.shape:
        return float("inf")
    return float(np.linalg.norm(a - b) / max(float(np.linalg.norm(b)), 1e-12))


def _text(precision: Mapping[str, str]) -> str:
    return ", ".join(sorted(set(precision.values())))
