"""Assigns files to cluster workers, and decides which file to suspect when a worker dies.

Keeps the files that wait and the batches in flight. Each worker gets a few batches of several files; a file that may
have killed a worker is a suspect and is given to the next worker alone. Has no clock, network or threads:
indexer.cluster.connection has them.
"""

import itertools
import math
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Literal

from indexer.errors import DeferredError, ReaderDiedError
from indexer.files.audio.identity import Stat

Op = Literal["inspect", "embed"]
OPS: tuple[Op, ...] = ("embed", "inspect")  # files that only need embedding go first
AHEAD_S = 0.5  # seconds of work in flight at a worker, by its rate, so that it need not wait for the network
MAX_WINDOW = 256  # files in flight at one worker
MAX_BATCH = 64  # files in a task
RATE_S = 5.0  # a worker's rate is measured over the last seconds
COPY_AFTER_S = 20.0  # a batch that takes longer, and three times as long as usual, is given to an idle worker too
MAX_DEATHS = 2  # workers that died with this file alone, before it fails
MAX_BREAKS = 3  # tasks that failed as a whole, before a file fails or a worker gets no more work


@dataclass(eq=False, slots=True)
class File:
    """One file to inspect or embed."""

    op: Op
    path: bytes  # on this machine
    path_on_workers: bytes
    stat: Stat
    encoder_id: str | None
    future: "Future[Any]"
    analyse: bool = False  # measure it in the same pass
    rough: bool = False  # embed a few units only
    near: str | None = None  # address of the worker that read it last: its page cache may still hold the file
    deaths: int = 0  # workers that died with this file alone
    breaks: int = 0  # batches with this file that failed as a whole
    running: int = 0  # batches in flight that contain this file

    @property
    def done(self) -> bool:
        """Whether it has a result or an error, or was cancelled."""
        return self.future.done()


@dataclass(eq=False, slots=True)
class Batch:
    """The files of one task at one worker."""

    number: int
    worker: "Worker"
    op: Op
    files: list[File]
    started_s: float
    alone: bool  # the worker gets nothing else meanwhile: if it dies, this file is to blame
    copied: bool = False  # also given to another worker


@dataclass(eq=False, slots=True)
class Worker:
    """An admitted worker."""

    address: str
    limit: int  # files in flight that keep it busy
    embeds: bool  # whether it may embed; every worker may inspect
    batches: dict[int, Batch] = field(default_factory=dict)  # in flight, by number
    waiting: dict[Op, deque[File]] = field(default_factory=lambda: {op: deque() for op in OPS})  # read by it before
    window: dict[Op, int] = field(default_factory=dict)  # files of one op in flight, while none of the other is
    inspected: int = 0
    embedded: int = 0
    failed: int = 0  # files with an error of their own
    breaks: int = 0  # batches that failed as a whole
    paused: bool = False  # by Dask, short of memory
    # (when, files) of the batches answered in the last RATE_S
    recent: dict[Op, deque[tuple[float, int]]] = field(default_factory=lambda: {op: deque() for op in OPS})

    def __post_init__(self) -> None:
        self.window = dict.fromkeys(OPS, self.limit)

    @property
    def in_flight(self) -> int:
        """Files in its batches."""
        return sum(len(batch.files) for batch in self.batches.values())

    def room(self, op: Op) -> int:
        """How many more files it may get for an op."""
        used = sum(len(batch.files) / self.window[batch.op] for batch in self.batches.values())
        return int((1 - used) * self.window[op] + 1e-9)

    def rate(self, moment_s: float, ops: Sequence[Op] = OPS) -> float:
        """Files inspected and embedded a second, over the last ``RATE_S``."""
        return sum(self._rate(self.recent[op], moment_s) for op in ops)

    def _rate(self, recent: deque[tuple[float, int]], moment_s: float) -> float:
        while recent and moment_s - recent[0][0] > RATE_S:
            recent.popleft()
        if len(recent) < 2:
            return 0.0
        files = sum(n for _, n in list(recent)[1:])  # the first entry marks the beginning of the time
        return files / max(0.05, moment_s - recent[0][0])


class Assignment:
    """The admitted workers and the files for them. Not thread-safe: one thread calls it."""

    def __init__(self) -> None:
        self.workers: dict[str, Worker] = {}
        self._waiting: dict[Op, deque[File]] = {op: deque() for op in OPS}
        self._suspects: deque[File] = deque()
        self._numbers = itertools.count()
        self._batch_s = 1.0  # moving average of the seconds that a batch takes

    @property
    def limit(self) -> int:
        """How many files in flight keep all workers busy."""
        return 16 + sum(sum(worker.window.values()) for worker in self.workers.values())

    @property
    def waiting(self) -> int:
        """Files that are not in flight."""
        return sum(map(self._count, OPS)) + len(self._suspects)

    @property
    def idle(self) -> bool:
        """Whether nothing is in flight."""
        return not any(worker.batches for worker in self.workers.values())

    def add(self, file: File) -> None:
        """Add a file to be processed."""
        near = self.workers.get(file.near or "")
        (near.waiting if near else self._waiting)[file.op].append(file)

    def join(self, worker: Worker) -> None:
        """Add an admitted worker."""
        self.workers[worker.address] = worker

    def lost(self, address: str, *, blame: bool) -> list[Batch]:
        """A worker is gone; its files wait again. Returns the batches it had in flight.

        ``blame``: the worker died, and one of its files may have killed it.
        """
        worker = self.workers.pop(address, None)
        if worker is None:
            return []
        for op in OPS:
            for file in worker.waiting[op]:
                self._waiting[op].append(file)
        batches = list(worker.batches.values())
        single = worker.in_flight == 1
        for batch in batches:
            self._give_back(batch, blame=blame, certain=batch.alone or single)
        return batches

    def finished(self, batch: Batch, moment_s: float, failed: int) -> None:
        """A worker answered a batch; ``failed``: how many of its files have an error."""
        worker = batch.worker
        worker.batches.pop(batch.number, None)
        count = len(batch.files)
        for file in batch.files:
            file.running -= 1
        worker.failed += failed
        if batch.op == "embed":
            worker.embedded += count - failed
        else:
            worker.inspected += count - failed
        worker.recent[batch.op].append((moment_s, count))
        worker.window[batch.op] = min(MAX_WINDOW, max(worker.limit, round(worker.rate(moment_s, [batch.op]) * AHEAD_S)))
        self._batch_s += 0.2 * (moment_s - batch.started_s - self._batch_s)

    def broken(self, batch: Batch, reason: str) -> bool:
        """A batch failed as a whole: its files wait again, until they have failed ``MAX_BREAKS`` times.

        Returns whether the worker has failed so often that it must get no more work.
        """
        batch.worker.batches.pop(batch.number, None)
        batch.worker.breaks += 1
        for file in batch.files:
            file.breaks += 1
            if file.breaks >= MAX_BREAKS and not file.done:
                file.future.set_exception(
                    RuntimeError(reason) if file.op == "embed" else DeferredError(file.path, reason)
                )
        self._give_back(batch, blame=True, certain=False)
        return batch.worker.breaks >= MAX_BREAKS

    def next_batches(self, moment_s: float, *, eager: bool) -> Iterator[Batch]:
        """The batches to send now; each counts as in flight once it is yielded.

        ``eager``: also give batches that are not full to workers that are busy; idle workers always get them.
        """
        free = [worker for worker in self.workers.values() if not worker.paused]
        reserved = self._reserved(free)
        for worker in reserved:
            if not worker.batches and (file := self._suspect_for(worker)):
                yield self._begin(worker, file.op, [file], moment_s, alone=True)
        free = [
            worker
            for worker in free
            if worker not in reserved and not any(batch.alone for batch in worker.batches.values())
        ]
        progress = True
        while progress:
            progress = False
            open_to = [worker for worker in free if any(worker.room(op) > 0 for op in OPS)]
            for worker in open_to:
                if files := self._take(worker, len(open_to), eager=eager or not worker.batches):
                    progress = True
                    yield self._begin(worker, files[0].op, files, moment_s)

    def copies(self, moment_s: float) -> Iterator[Batch]:
        """When no files wait: copies of batches that take very long, for idle workers. The first answer counts."""
        if self.waiting:
            return
        idle = [worker for worker in self.workers.values() if not worker.batches and not worker.paused]
        late_s = max(COPY_AFTER_S, 3 * self._batch_s)
        slow = [
            batch
            for worker in self.workers.values()
            for batch in worker.batches.values()
            if not batch.copied and not batch.alone and moment_s - batch.started_s > late_s
        ]
        for batch in sorted(slow, key=lambda batch: batch.started_s):
            worker = next((worker for worker in idle if worker.embeds or batch.op == "inspect"), None)
            files = [file for file in batch.files if not file.done]
            batch.copied = True
            if worker and files:
                idle.remove(worker)
                copy = self._begin(worker, batch.op, files, moment_s)
                copy.copied = True
                yield copy
            elif files:
                batch.copied = False

    # ---- choice of files

    def _count(self, op: Op) -> int:
        return len(self._waiting[op]) + sum(len(worker.waiting[op]) for worker in self.workers.values())

    def _take(self, worker: Worker, sharing: int, *, eager: bool) -> list[File]:
        """Files of one op for a worker: those it read before, then those nobody read, then those of another worker."""
        for op in OPS:
            if op == "embed" and not worker.embeds:
                continue
            full = min(MAX_BATCH, max(2, worker.window[op] // 3))
            size = min(worker.room(op), full, math.ceil(self._count(op) / sharing))
            if size < full and not eager:
                continue
            files: list[File] = []
            while len(files) < size:
                queue = (
                    worker.waiting[op]
                    or self._waiting[op]
                    or max((worker.waiting[op] for worker in self.workers.values()), key=len)
                )
                if not queue:
                    break
                file = queue.popleft()
                if not file.done:
                    files.append(file)
            if files:
                return files
        return []

    def _reserved(self, free: list[Worker]) -> list[Worker]:
        """Free workers that get only suspects now, one at a time: at most a quarter of the workers, or one."""
        while self._suspects and self._suspects[0].done:
            self._suspects.popleft()
        testing = sum(any(batch.alone for batch in worker.batches.values()) for worker in free)
        count = min(len(self._suspects), max(1, len(free) // 4) - testing)
        if count <= 0:
            return []
        wanted = {file.op for file in self._suspects}
        able = [
            worker
            for worker in free
            if (worker.embeds or "inspect" in wanted) and not any(batch.alone for batch in worker.batches.values())
        ]
        return sorted(able, key=lambda worker: worker.in_flight)[:count]

    def _suspect_for(self, worker: Worker) -> File | None:
        for file in self._suspects:
            if (worker.embeds or file.op == "inspect") and not file.done:
                self._suspects.remove(file)
                return file
        return None

    def _begin(self, worker: Worker, op: Op, files: list[File], moment_s: float, *, alone: bool = False) -> Batch:
        batch = Batch(next(self._numbers), worker, op, files, moment_s, alone)
        worker.batches[batch.number] = batch
        for file in files:
            file.running += 1
        return batch

    def _give_back(self, batch: Batch, *, blame: bool, certain: bool) -> None:
        for file in batch.files:
            file.running -= 1
            file.near = None
            if file.done:
                continue
            file.deaths += blame and certain
            if file.deaths >= MAX_DEATHS:
                file.future.set_exception(ReaderDiedError(file.path, "reading it killed the worker", file.deaths))
            elif file.running:
                continue
            elif blame:
                self._suspects.append(file)
            else:
                self._waiting[file.op].appendleft(file)
