"""A worker that a Dask scheduler lists: its row for progress, and in words why it gets no work."""

import asyncio
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from indexer.cluster import settings as cluster_settings
from indexer.cluster.assignment import Worker
from indexer.wording import printable


@dataclass(eq=False)
class Candidate:
    """A worker that the scheduler lists, admitted or not."""

    address: str
    name: str
    embeds: bool  # whether it offers the resources for embedding
    joined_s: float
    asked_s: float
    state: str = "asked"  # asked, waiting (for the others' precision), ready (admitted), refused, gone
    reason: str | None = None  # of the refusal
    answer: dict[str, Any] = field(default_factory=dict)  # of ``worker.prove``
    busy: dict[str, float] = field(default_factory=dict)  # of its last answer, see ``Session.busy``
    worker: Worker | None = None  # once admitted
    proof: "asyncio.Task[None] | None" = None  # the task that asks it

    @property
    def title(self) -> str:
        """Its address and name for messages."""
        return self.address if self.name == self.address else f"{self.address} ({printable(os.fsencode(self.name))})"

    def row(self, moment_s: float) -> dict[str, Any]:
        """Its row for progress and `cluster check`."""
        answer, worker = self.answer, self.worker
        return {
            "address": self.address,
            "name": self.name,
            "host": answer.get("host"),
            "version": answer.get("version"),
            "state": self.state,
            "reason": self.reason,
            "embeds": self.embeds,
            "device": answer.get("device"),
            "engine": answer.get("engine"),
            "gpu": answer.get("gpu"),
            "precision": answer.get("precision") or {},
            "jobs": answer.get("jobs"),
            "inspected": worker.inspected if worker else 0,
            "embedded": worker.embedded if worker else 0,
            "failed": worker.failed if worker else 0,
            "per_s": round(worker.rate(moment_s), 2) if worker and self.state == "ready" else 0.0,
            "in_flight": worker.in_flight if worker else 0,
        }


def amount_of(offers: object, resource: str) -> float:
    """How much of a resource a worker offers; what it says of itself may be anything."""
    amount = offers.get(resource) if isinstance(offers, Mapping) else None
    return amount if isinstance(amount, int | float) else 0.0


def why_not(error: BaseException) -> str:
    """Why ``worker.prove`` could not run on a worker."""
    text = one_line(error)
    if "deserializ" in text.lower() and "graph" in text.lower():
        return "could not be asked: the scheduler has not this program; " + cluster_settings.INSTALL
    if isinstance(error, (ImportError, AttributeError)):
        return f"has not this program, or another version of it ({text}); " + cluster_settings.INSTALL
    return f"could not be asked ({type(error).__name__}: {text})"


def one_line(error: BaseException) -> str:
    try:
        return " ".join(str(error)[:1000].split())[:300] or type(error).__name__
    except Exception:  # an error that a worker made up
        return type(error).__name__
