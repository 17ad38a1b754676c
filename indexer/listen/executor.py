"""Where the heavy, pure steps of a file run: its identity and tags, and its recording's vector.

Owns the interface that the pipeline works against, and its local form: child processes that read, one thread an encoder. Knows
neither database nor heads, and writes to no file.
"""

import os
import time
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np

from indexer.encoders.encoder import Encoder, Part
from indexer.errors import DeferredError, FileError
from indexer.files.audio.identity import Stat
from indexer.files.children.pool import Readers
from indexer.files.children.worker import Worker
from indexer.listen.embedder import Embedder, TrackEmbedding

LOADING = "loading the model"


@dataclass(frozen=True, slots=True)
class Engine:
    """What embedded: device (cpu, cuda, mps), precision (fp32 ...) and the library that multiplied."""

    device: str
    precision: str
    engine: str


@dataclass(frozen=True, slots=True)
class Embedded:
    """A recording's result in the form in which it is stored, and crosses a network."""

    vector: bytes  # (width,) little-endian float16
    units: int
    course: bytes
    duration_s: float  # of the decoded audio

    @classmethod
    def of(cls, result: TrackEmbedding) -> "Embedded":
        """What the encoder gave."""
        return cls(result.vector.astype("<f2").tobytes(), result.units, result.course.to_bytes(), result.duration_s)


class Executor(Protocol):
    """Does the pure steps of many files at once. Called from one thread; the futures are settled from any."""

    @property
    def limit(self) -> int:
        """So many files in flight keep it busy."""
        ...

    def inspect(self, path: bytes, stat: Stat) -> "Future[dict[str, Any]]":
        """What ``child.inspect`` gives; a FileError where the file cannot be read. ``stat``: as it was a moment ago.

        The stat that it gives is this machine's, whoever read the file.
        """
        ...

    def embed(self, path: bytes, stat: Stat, part: Part) -> "Future[Embedded]":
        """The vector of the file's audio; FileError where it cannot be read, DeferredError where ``stat`` does not hold any more.

        Any other error is the encoder's; a ValueError says that the recording is too short. Raises ModelError where the encoder
        cannot be loaded.
        """
        ...

    def engine(self) -> Engine | None:
        """What embedded last; None before anything was."""
        ...

    def load(self) -> dict[str, float]:
        """Share of the time since its making, 0 to 1, that each kind of its workers was busy, by the kind's name."""
        ...

    def news(self) -> list[tuple[str, str]]:
        """(whom it is about, a line for a person) since the last time. Raises ClusterError when nothing can be done any more."""
        ...

    def workers(self) -> list[dict[str, Any]]:
        """What each machine did so far; nothing where this one does everything."""
        ...

    def close(self) -> None:
        """Stop; what is not finished is dropped."""
        ...


class LocalExecutor:
    """On this machine: ``readers`` read and decode, an Embedder for each encoder multiplies."""

    def __init__(self, readers: Readers) -> None:
        """``readers`` stay their owner's."""
        self._readers = readers
        self._embedders: dict[str, Embedder] = {}
        self._engine: Engine | None = None
        self._started_s = time.monotonic()
        self._loading_s = 0.0

    @property
    def limit(self) -> int:
        """So many files in flight keep it busy."""
        return 3 * self._readers.count

    def inspect(self, path: bytes, stat: Stat) -> "Future[dict[str, Any]]":  # noqa: ARG002 - what the child finds counts
        """As the protocol says."""
        return self._readers.submit(lambda worker: worker.call("inspect", path))

    def embed(self, path: bytes, stat: Stat, part: Part) -> "Future[Embedded]":
        """As the protocol says."""
        embedder = self._embedder(part)
        result: Future[Embedded] = Future()
        fed = self._readers.submit(partial(self._feed, path, stat, embedder))
        fed.add_done_callback(partial(_chain, result))
        return result

    def encoder(self, part: Part) -> Encoder:
        """The loaded encoder. Raises ModelError."""
        return self._embedder(part).encoder

    def embed_samples(self, samples: np.ndarray, part: Part) -> "Future[TrackEmbedding]":
        """The vector of (n,) float32 samples of the encoder's rate; waits while it is behind."""
        return self._embedder(part).embed([samples])

    def engine(self) -> Engine | None:
        """As the protocol says."""
        return self._engine

    def load(self) -> dict[str, float]:
        """As the protocol says: of reading, the encoder, and loading its weights."""
        elapsed_s = time.monotonic() - self._started_s
        return {
            "reading": self._readers.busy_s / self._readers.count / elapsed_s,
            "encoder": sum(embedder.busy_s for embedder in self._embedders.values()) / elapsed_s,
            LOADING: self._loading_s / elapsed_s,
        }

    def news(self) -> list[tuple[str, str]]:
        """Nothing: every failure here is a file's."""
        return []

    def workers(self) -> list[dict[str, Any]]:
        """None but this machine."""
        return []

    def close(self) -> None:
        """As the protocol says."""
        for embedder in self._embedders.values():
            embedder.close()

    def _embedder(self, part: Part) -> Embedder:
        embedder = self._embedders.get(part.encoder_id)
        if embedder is None:
            begun_s = time.monotonic()
            embedder = self._embedders[part.encoder_id] = Embedder(part.load(), part.units)
            self._loading_s += time.monotonic() - begun_s
            encoder = embedder.encoder
            self._engine = Engine(encoder.device, encoder.precision, encoder.engine)
        return embedder

    def _feed(self, path: bytes, stat: Stat, embedder: Embedder, worker: Worker) -> "Future[TrackEmbedding]":
        """Decode into the encoder; the future is settled when it has heard everything."""
        failure: FileError | None = None
        try:
            result = embedder.embed(
                worker.decode(path, sample_rate_hz=embedder.encoder.sample_rate_hz), waited=self._readers.waited
            )
        except FileError as e:
            failure = e
        try:
            unchanged = Stat.of(path) == stat
        except OSError:
            unchanged = False
        if not unchanged:  # then whatever went wrong says nothing about what is there now
            raise DeferredError(os.fsdecode(path), "it changed while it was read") from failure
        if failure is not None:
            raise failure
        return result


def _chain(result: "Future[Embedded]", fed: "Future[Future[TrackEmbedding]]") -> None:
    """Settle ``result`` as soon as what was fed is."""
    if fed.cancelled():
        result.cancel()
    elif (error := fed.exception()) is not None:
        result.set_exception(error)
    else:
        fed.result().add_done_callback(partial(_settle, result))


def _settle(result: "Future[Embedded]", done: "Future[TrackEmbedding]") -> None:
    if (error := done.exception()) is not None:
        result.set_exception(error)
    else:
        result.set_result(Embedded.of(done.result()))
