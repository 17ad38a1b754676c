"""What a cluster's workers must agree to before their first task, and who does not.

Owns the terms (version, encoders, precision, folders), the comparison of what was proved, and the sentences of refusal.
Pure: asks nobody, knows no network.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from indexer import __version__

# Relative to the length of the reference. Another encoder is off by about 1, another library at the same precision by a
# few hundredths.
PROBE_TOLERANCE = 0.1
Answer = Mapping[str, Any]


class Agreement:
    """The terms of one scan."""

    def __init__(self, encoders: Mapping[str, str], roots: Sequence[bytes], *, precision: str, device: str) -> None:
        """``encoders``: id to name; ``roots``: as the workers see them; ``device`` auto: each worker's own choice."""
        self._encoders = dict(encoders)
        self._roots = list(roots)
        self._device = None if device == "auto" else device
        self.precision = precision
        self._reference: Answer | None = None
        self._reference_by = ""

    @property
    def undecided(self) -> bool:
        """Whether the precision depends on what all workers answer."""
        return bool(self._encoders) and self.precision == "auto" and self._reference is None

    def wanted(self, *, embeds: bool) -> dict[str, Any]:
        """What ``cluster_worker.prove`` is asked."""
        return {
            "version": __version__,
            "encoders": self._encoders if embeds else {},
            "roots": self._roots,
            "precision": self.precision,
            "device": self._device,
        }

    def decide(self, answers: Sequence[tuple[str, Answer]]) -> set[str]:
        """Fix the precision: the one that all take by themselves, else fp32. Returns the addresses that must be asked again."""
        kinds = [answer["precision"] for _, answer in answers]
        if all(kind == kinds[0] for kind in kinds):
            taken = {
                precision for precision in kinds[0].values() if precision != "fp64"
            }  # the built-in encoder has one only
            self.precision = taken.pop() if len(taken) == 1 else "auto"
            self._reference_by, self._reference = answers[0]
            return set()
        self.precision = "fp32"
        return {address for address, answer in answers if set(answer["precision"].values()) - {"fp32", "fp64"}}

    def objection(self, address: str, answer: Answer, others: Mapping[str, Answer]) -> str | None:
        """Why a worker whose answer is whole must not work beside the ``others`` all the same; None: it may."""
        for other, theirs in others.items():
            if answer["gpu"] is not None and answer["gpu"] == theirs["gpu"] and other != address:
                return f"shares its GPU with {other}: start one worker a device, each with its own CUDA_VISIBLE_DEVICES"
        if not answer["precision"]:  # it only reads
            return None
        if self._reference is None:
            self._reference_by, self._reference = address, answer
        if answer["precision"] != self._reference["precision"]:
            return f"computes in {_text(answer['precision'])} and {self._reference_by} in {_text(self._reference['precision'])}"
        for encoder_id, name in self._encoders.items():
            distance = _distance(answer["probe"][encoder_id], self._reference["probe"][encoder_id])
            if not distance <= PROBE_TOLERANCE:
                return f"makes another vector of the test signal with {name} than {self._reference_by} (off by {distance:.3f}, allowed {PROBE_TOLERANCE})"
        return None


def _distance(one: bytes, other: bytes) -> float:
    a, b = np.frombuffer(one, "<f4").astype(np.float64), np.frombuffer(other, "<f4").astype(np.float64)
    if a.shape != b.shape:
        return float("inf")
    return float(np.linalg.norm(a - b) / max(float(np.linalg.norm(b)), 1e-12))


def _text(precision: Mapping[str, str]) -> str:
    return ", ".join(sorted(set(precision.values())))
