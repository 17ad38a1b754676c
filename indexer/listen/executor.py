"""Runs the two expensive steps of a file: reading its identity and tags, and embedding its recording.

Owns the interface that the pipeline calls, and its local form: child processes that read files, and one thread for each
encoder. Knows neither database nor heads, and writes to no file.
"""

import os
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np

from indexer.analysis.analyser import Analysis
from indexer.encoders.encoder import Encoder, Part
from indexer.encoders.trajectory import Trajectory
from indexer.errors import DeferredError, FileError
from indexer.files.audio.identity import Stat
from indexer.files.children.pool import Readers
from indexer.files.children.worker import Worker
from indexer.listen.embedder import Embedder, TrackEmbedding

_Fed = tuple["Future[TrackEmbedding]", Analysis | None]  # the embedding to come, and what was measured
LOADING = "loading the model"  # a kind of load, see Executor.load


@dataclass(frozen=True, slots=True)
class Engine:
    """What an encoder computes with: device (cpu, cuda, mps), precision (fp32 ...) and library (torch ...)."""

    device: str
    precision: str
    engine: str


@dataclass(frozen=True, slots=True)
class Embedded:
    """The embedding of a recording in the form in which it is stored and sent over a network."""

    vector: bytes  # (width,) little-endian float16
    units: int  # that were embedded
    trajectory: bytes
    duration_s: float  # of the decoded audio
    truncated: str | None = None  # how the file shows that it lost its end
    analysis: Analysis | None = None  # what was measured in the same pass, where that was asked for
    words: tuple[bytes, bytes] | None = None  # vector and trajectory in the space of words

    @classmethod
    def of(cls, result: TrackEmbedding, analysis: Analysis | None) -> "Embedded":
        """Convert the result of an Embedder."""
        words = _stored(*result.words) if result.words else None
        vector, trajectory = _stored(result.vector, result.trajectory)
        return cls(vector, result.units, trajectory, result.duration_s, result.truncated, analysis, words)


def _stored(vector: np.ndarray, trajectory: Trajectory) -> tuple[bytes, bytes]:
    return vector.astype("<f2").tobytes(), trajectory.to_bytes()


class Executor(Protocol):
    """Inspects and embeds many files at once. One thread calls it; any thread may settle the futures."""

    @property
    def limit(self) -> int:
        """How many files in flight keep it busy."""
        ...

    def inspect(self, path: bytes, stat: Stat) -> "Future[dict[str, Any]]":
        """The result of ``child.inspect``, or a FileError when the file cannot be read.

        ``stat`` is the file's from a moment ago. The stat in the result is this machine's, wherever the file was read.
        """
        ...

    def embed(self, path: bytes, stat: Stat, part: Part, *, analyse: bool, rough: bool = False) -> "Future[Embedded]":
        """The embedding of the file's audio. Raises ModelError when the encoder cannot be loaded.

        ``analyse``: measure it in the same pass. ``rough``: only a few units of it, see ``Embedder.embed_roughly``; it
        is not measured then.

        The future's error is a FileError when the file cannot be read, a DeferredError when it is no longer the file
        that ``stat`` describes, a ValueError when the recording is too short, and otherwise the encoder's own.
        """
        ...

    def engine(self) -> Engine | None:
        """What the last recording was embedded with; None before the first."""
        ...

    def load(self) -> dict[str, float]:
        """The share of its lifetime, 0 to 1, that each kind of its workers was busy, by the kind's name."""
        ...

    def news(self) -> list[tuple[str, str]]:
        """(subject, a line for a person) for each message since the last call. Raises ClusterError on failure."""
        ...

    def workers(self) -> list[dict[str, Any]]:
        """A row for each worker of a cluster; empty when this machine does everything."""
        ...

    def close(self) -> None:
        """Stop; files in flight are dropped."""
        ...


class LocalExecutor:
    """Works on this machine: ``readers`` read and decode, one Embedder for each encoder computes."""

    def __init__(self, readers: Readers) -> None:
        """``readers`` belong to the caller, who closes them."""
        self._readers = readers
        self._embedders: dict[str, Embedder] = {}
        self._engine: Engine | None = None
        self._started_s = time.monotonic()
        self._loading_s = 0.0

    @property
    def limit(self) -> int:
        """See Executor."""
        return 3 * self._readers.count

    def inspect(self, path: bytes, stat: Stat) -> "Future[dict[str, Any]]":  # noqa: ARG002 - the child takes the stat itself
        """See Executor."""
        return self._readers.submit(lambda worker: worker.call("inspect", path))

    def embed(self, path: bytes, stat: Stat, part: Part, *, analyse: bool, rough: bool = False) -> "Future[Embedded]":
        """See Executor."""
        embedder = self._embedder(part)
        result: Future[Embedded] = Future()
        embed = partial(embedder.embed_roughly if rough else embedder.embed_file, waited=self._readers.waited)
        fed = self._readers.submit(partial(self._feed, path, stat, embed, analyse and not rough))
        fed.add_done_callback(partial(_chain, result))
        return result

    def encoder(self, part: Part) -> Encoder:
        """The loaded encoder. Raises ModelError."""
        return self._embedder(part).encoder

    def embed_samples(self, samples: np.ndarray, part: Part) -> "Future[TrackEmbedding]":
        """The embedding of (n,) float32 samples at the encoder's sample rate; waits while the encoder is behind."""
        return self._embedder(part).embed([samples])

    def engine(self) -> Engine | None:
        """See Executor."""
        return self._engine

    def load(self) -> dict[str, float]:
        """See Executor; the kinds are reading, the encoder, and loading its weights."""
        elapsed_s = time.monotonic() - self._started_s
        return {
            "reading": self._readers.busy_s / self._readers.count / elapsed_s,
            "encoder": sum(embedder.busy_s for embedder in self._embedders.values()) / elapsed_s,
            LOADING: self._loading_s / elapsed_s,
        }

    def news(self) -> list[tuple[str, str]]:
        """See Executor; empty, because every failure on this machine belongs to a file."""
        return []

    def workers(self) -> list[dict[str, Any]]:
        """See Executor."""
        return []

    def close(self) -> None:
        """See Executor."""
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

    def _feed(
        self, path: bytes, stat: Stat, embed: Callable[..., "Future[TrackEmbedding]"], analyse: bool, worker: Worker
    ) -> _Fed:
        """Decode the file into the encoder. Raises FileError; DeferredError when the file changed meanwhile."""
        failure: FileError | None = None
        found: list[Analysis] = []
        try:
            result = embed(worker, path, **({"analysed": found.append} if analyse else {}))
        except FileError as e:
            failure = e
        try:
            unchanged = Stat.of(path).same_state(stat)
        except OSError:
            unchanged = False
        if not unchanged:  # the failure may not be one of the file that is there now
            raise DeferredError(os.fsdecode(path), "it changed while it was read") from failure
        if failure is not None:
            raise failure
        return result, found[0] if found else None


def _chain(result: "Future[Embedded]", fed: "Future[_Fed]") -> None:
    """Settle ``result`` once the file is decoded and its embedding is done."""
    if fed.cancelled():
        result.cancel()
    elif (error := fed.exception()) is not None:
        result.set_exception(error)
    else:
        embedding, analysis = fed.result()
        embedding.add_done_callback(partial(_settle, result, analysis))


def _settle(result: "Future[Embedded]", analysis: Analysis | None, done: "Future[TrackEmbedding]") -> None:
    if (error := done.exception()) is not None:
        result.set_exception(error)
    else:
        result.set_result(Embedded.of(done.result(), analysis))
