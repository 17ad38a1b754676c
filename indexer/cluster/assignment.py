"""Who of a cluster's workers does which file next, and whose fault it is when one dies.

Owns the files that wait and the batches in flight: few at each worker, several files a batch, a file that may have
killed its worker alone with the next one. Pure bookkeeping: no clock of its own, no network, no threads;
indexer.cluster.executor does those.
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
OPS: tuple[Op, ...] = ("embed", "inspect")  # what is nearer to its end goes first
AHEAD_S = 0.5  # so much work lies at a worker, by its own rate: answers travel meanwhile
MAX_WINDOW = 256  # files at one worker
MAX_BATCH = 64  # files in a task
RATE_S = 5.0  # a worker's rate is that of so many last seconds
COPY_AFTER_S = 20.0  # and three times the usual: a batch that takes so long is given to an idle worker too
MAX_DEATHS = 2  # of workers that had one file and no other
MAX_BREAKS = 3  # of batches of a file, or of a worker, by an error of neither's


@dataclass(eq=False, slots=True)
class File:
    """One file that is to be inspected or embedded."""

    op: Op
    path: bytes  # here
    seen_as: bytes  # by the workers
    stat: Stat
    encoder_id: str | None
    future: "Future[Any]"
    near: str | None = None  # the worker that read it last: its page cache may still hold it
    deaths: int = 0  # of workers that had no other file
    breaks: int = 0
    running: int = 0  # batches in flight that it is in

    @property
    def done(self) -> bool:
        """Whether somebody answered, or nobody waits any more."""
        return self.future.done()


@dataclass(eq=False, slots=True)
class Batch:
    """Files in one task at one worker."""

    number: int
    member: "Member"
    op: Op
    files: list[File]
    started_s: float
    alone: bool  # the worker has nothing else: if it dies, it was this
    copied: bool = False


@dataclass(eq=False, slots=True)
class Member:
    """A worker that agreed."""

    address: str
    limit: int  # files that keep it busy
    embeds: bool
    batches: dict[int, Batch] = field(default_factory=dict)
    waiting: dict[Op, deque[File]] = field(
        default_factory=lambda: {op: deque() for op in OPS}
    )  # files that it read before
    window: dict[Op, int] = field(
        default_factory=dict
    )  # files of a kind that it may have, if it has nothing of the other
    inspected: int = 0
    embedded: int = 0
    failed: int = 0  # files with an error of their own
    breaks: int = 0
    paused: bool = False  # short of memory, Dask says
    recent: dict[Op, deque[tuple[float, int]]] = field(
        default_factory=lambda: {op: deque() for op in OPS}
    )  # (when, files)

    def __post_init__(self) -> None:
        self.window = dict.fromkeys(OPS, self.limit)

    @property
    def in_flight(self) -> int:
        """Files at it."""
        return sum(len(batch.files) for batch in self.batches.values())

    def room(self, op: Op) -> int:
        """So many files of a kind it may get."""
        used = sum(len(batch.files) / self.window[batch.op] for batch in self.batches.values())
        return int((1 - used) * self.window[op] + 1e-9)

    def rate(self, moment_s: float, ops: Sequence[Op] = OPS) -> float:
        """Steps (a file inspected, or embedded) a second, lately."""
        return sum(self._rate(self.recent[op], moment_s) for op in ops)

    def _rate(self, recent: deque[tuple[float, int]], moment_s: float) -> float:
        while recent and moment_s - recent[0][0] > RATE_S:
            recent.popleft()
        if len(recent) < 2:
            return 0.0
        return sum(n for _, n in list(recent)[1:]) / max(
            0.05, moment_s - recent[0][0]
        )  # the first only says since when


class Crew:
    """The workers that agreed, and the work for them. Whoever calls it has a thread or a loop; see ``next_batches``."""

    def __init__(self) -> None:
        self.members: dict[str, Member] = {}
        self._waiting: dict[Op, deque[File]] = {op: deque() for op in OPS}
        self._suspects: deque[File] = deque()
        self._numbers = itertools.count()
        self._batch_s = 1.0  # that a batch usually takes

    @property
    def limit(self) -> int:
        """So many files of the scan keep all workers busy."""
        return 16 + sum(sum(member.window.values()) for member in self.members.values())

    @property
    def waiting(self) -> int:
        """Files that no worker has."""
        return sum(map(self._count, OPS)) + len(self._suspects)

    @property
    def idle(self) -> bool:
        """Whether nothing is in flight."""
        return not any(member.batches for member in self.members.values())

    def add(self, file: File) -> None:
        """A file to be done."""
        near = self.members.get(file.near or "")
        (near.waiting if near else self._waiting)[file.op].append(file)

    def join(self, member: Member) -> None:
        """A worker that agreed."""
        self.members[member.address] = member

    def lost(self, address: str, *, blame: bool) -> list[Batch]:
        """A worker is gone; its files wait again. ``blame``: it died, so one of its files may have killed it. Returns its batches."""
        member = self.members.pop(address, None)
        if member is None:
            return []
        for op in OPS:
            for file in member.waiting[op]:
                self._waiting[op].append(file)
        batches = list(member.batches.values())
        single = member.in_flight == 1
        for batch in batches:
            self._give_back(batch, blame=blame, certain=batch.alone or single)
        return batches

    def finished(self, batch: Batch, moment_s: float, failed: int) -> None:
        """A batch was answered; ``failed``: of its files."""
        member = batch.member
        member.batches.pop(batch.number, None)
        count = len(batch.files)
        for file in batch.files:
            file.running -= 1
        member.failed += failed
        if batch.op == "embed":
            member.embedded += count - failed
        else:
            member.inspected += count - failed
        member.recent[batch.op].append((moment_s, count))
        member.window[batch.op] = min(MAX_WINDOW, max(member.limit, round(member.rate(moment_s, [batch.op]) * AHEAD_S)))
        self._batch_s += 0.2 * (moment_s - batch.started_s - self._batch_s)

    def broken(self, batch: Batch, reason: str) -> bool:
        """A batch ended in an error that is no file's: its files wait again, for a while. True when the worker is not to go on."""
        batch.member.batches.pop(batch.number, None)
        batch.member.breaks += 1
        for file in batch.files:
            file.breaks += 1
            if file.breaks >= MAX_BREAKS and not file.done:
                file.future.set_exception(
                    RuntimeError(reason) if file.op == "embed" else DeferredError(file.path, reason)
                )
        self._give_back(batch, blame=True, certain=False)
        return batch.member.breaks >= MAX_BREAKS

    def next_batches(self, moment_s: float, *, eager: bool) -> Iterator[Batch]:
        """What is to be sent off now; every batch counts as in flight as soon as it is given.

        ``eager``: also batches that are not full, to workers that have something to do; to others they always go.
        """
        free = [member for member in self.members.values() if not member.paused]
        reserved = self._reserved(free)
        for member in reserved:
            if not member.batches and (file := self._suspect_for(member)):
                yield self._begin(member, file.op, [file], moment_s, alone=True)
        free = [
            member
            for member in free
            if member not in reserved and not any(batch.alone for batch in member.batches.values())
        ]
        progress = True
        while progress:
            progress = False
            open_to = [member for member in free if any(member.room(op) > 0 for op in OPS)]
            for member in open_to:
                if files := self._take(member, len(open_to), eager=eager or not member.batches):
                    progress = True
                    yield self._begin(member, files[0].op, files, moment_s)

    def copies(self, moment_s: float) -> Iterator[Batch]:
        """At the end of the work: what takes very long, once more at idle workers. The first answer counts."""
        if self.waiting:
            return
        idle = [member for member in self.members.values() if not member.batches and not member.paused]
        late_s = max(COPY_AFTER_S, 3 * self._batch_s)
        slow = [
            batch
            for member in self.members.values()
            for batch in member.batches.values()
            if not batch.copied and not batch.alone and moment_s - batch.started_s > late_s
        ]
        for batch in sorted(slow, key=lambda batch: batch.started_s):
            member = next((m for m in idle if m.embeds or batch.op == "inspect"), None)
            files = [file for file in batch.files if not file.done]
            batch.copied = True
            if member and files:
                idle.remove(member)
                copy = self._begin(member, batch.op, files, moment_s)
                copy.copied = True
                yield copy
            elif files:
                batch.copied = False

    # ---- who takes what

    def _count(self, op: Op) -> int:
        return len(self._waiting[op]) + sum(len(member.waiting[op]) for member in self.members.values())

    def _take(self, member: Member, sharing: int, *, eager: bool) -> list[File]:
        """Files of one kind for a worker: those that it read before, then those that nobody did, then somebody else's."""
        for op in OPS:
            if op == "embed" and not member.embeds:
                continue
            full = min(MAX_BATCH, max(2, member.window[op] // 3))
            size = min(member.room(op), full, math.ceil(self._count(op) / sharing))
            if size < full and not eager:
                continue
            files: list[File] = []
            while len(files) < size:
                queue = (
                    member.waiting[op]
                    or self._waiting[op]
                    or max((m.waiting[op] for m in self.members.values()), key=len)
                )
                if not queue:
                    break
                file = queue.popleft()
                if not file.done:
                    files.append(file)
            if files:
                return files
        return []

    def _reserved(self, free: list[Member]) -> list[Member]:
        """Workers that take nothing but suspects, one at a time, as long as there are any: at most a quarter of all."""
        while self._suspects and self._suspects[0].done:
            self._suspects.popleft()
        testing = sum(any(batch.alone for batch in member.batches.values()) for member in free)
        count = min(len(self._suspects), max(1, len(free) // 4) - testing)
        if count <= 0:
            return []
        wanted = {file.op for file in self._suspects}
        able = [
            m
            for m in free
            if (m.embeds or "inspect" in wanted) and not any(batch.alone for batch in m.batches.values())
        ]
        return sorted(able, key=lambda member: member.in_flight)[:count]

    def _suspect_for(self, member: Member) -> File | None:
        for file in self._suspects:
            if (member.embeds or file.op == "inspect") and not file.done:
                self._suspects.remove(file)
                return file
        return None

    def _begin(self, member: Member, op: Op, files: list[File], moment_s: float, *, alone: bool = False) -> Batch:
        batch = Batch(next(self._numbers), member, op, files, moment_s, alone)
        member.batches[batch.number] = batch
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
