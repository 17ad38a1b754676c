"""The executor whose heavy steps run on a Dask cluster: `scan --cluster tcp://SCHEDULER:8786`.

Owns the connection, the questions to every worker, and what is done when something goes. Who does which file is the
crew's business, what a worker must agree to the agreement's, what happens on one indexer.cluster.worker's. Knows
neither database nor heads.
"""

import asyncio
import concurrent.futures
import logging
import os
import pickle
import threading
import time
import uuid
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from indexer import errors
from indexer.cluster import settings as cluster_settings
from indexer.cluster import worker as cluster_worker
from indexer.cluster.admission import Agreement
from indexer.cluster.assignment import Batch, Crew, File, Member
from indexer.config import Settings
from indexer.encoders.encoder import Part
from indexer.errors import ClusterError, ClusterLostError, ConfigError, DeferredError, ModelError, ReaderDiedError
from indexer.files.audio.identity import Stat
from indexer.listen.executor import Embedded, Engine
from indexer.wording import printable

START_S = 15.0  # for the scheduler to answer the first time
FIRST_WORKER_S = 60.0  # for the first worker to be there
ANSWER_S = 30.0  # for the scheduler to say who its workers are, before it counts as gone
LOOK_S = 1.0  # between two such questions
GATHER_S = 0.004  # files that come within are handed out together
LINGER_S = 0.1  # so long a batch that is not full waits for more files
ASK_AGAIN_S = 60.0  # loading weights takes seconds; a second question waits for the same loading
DECIDE_S = 30.0  # from the first answer, for the others to say which precision they take
PUBLISH_S = 0.2  # at most so often is said what each worker did
END_S = 5.0  # for goodbyes
SHARE = 4  # tasks that share a worker's resources, so that one decodes while the other embeds
MAX_NEAR = 10_000  # files of which is known who read them

_FILE_ERRORS: dict[str, type[errors.FileError]] = {
    c.__name__: c for c in (errors.ReadError, errors.UnsupportedError, errors.DeferredError)
}
_OTHER_ERRORS: dict[str, type[Exception]] = {
    "ValueError": ValueError,
    "ArithmeticError": ArithmeticError,
    "ModelError": ModelError,
}


@dataclass(eq=False)
class _Known:
    """A worker that the scheduler has, from the first question to its end."""

    address: str
    name: str
    embeds: bool
    joined_s: float
    asked_s: float
    state: str = "asked"  # asked, waiting (for the others' precision), ready, refused, gone
    reason: str | None = None
    answer: dict[str, Any] = field(default_factory=dict)
    busy: dict[str, float] = field(default_factory=dict)  # as it last said
    member: Member | None = None
    proof: "asyncio.Task[None] | None" = None

    @property
    def title(self) -> str:
        """For people."""
        return self.address if self.name == self.address else f"{self.address} ({printable(os.fsencode(self.name))})"

    def row(self, moment_s: float) -> dict[str, Any]:
        """For people and programs."""
        answer, member = self.answer, self.member
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
            "inspected": member.inspected if member else 0,
            "embedded": member.embedded if member else 0,
            "failed": member.failed if member else 0,
            "per_s": round(member.rate(moment_s), 2) if member and self.state == "ready" else 0.0,
            "in_flight": member.in_flight if member else 0,
        }


class ClusterExecutor:
    """See ``executor.Executor``. Everything that happens on the network happens in a thread of its own."""

    def __init__(self, settings: Settings, encoders: Mapping[str, str], roots: Sequence[bytes]) -> None:
        """``encoders``: id to name of all that will be asked for; ``roots``: the folders that every worker must see.

        Connects when the first file comes, or at ``open``. Raises ConfigError for what cannot work.
        """
        cluster_settings.distributed()
        self._address = cluster_settings.scheduler_address(settings)
        self._security = cluster_settings.security(settings)
        self._map = cluster_settings.PathMap(settings.map)
        self._resources = cluster_settings.resources(settings)
        self._wait_s = settings.cluster_wait_s
        self._encoders = dict(encoders)
        self._agreement = Agreement(
            encoders, [self._map.there(root) for root in roots], precision=settings.precision, device=settings.device
        )
        self._crew = Crew()
        self._known: dict[str, _Known] = {}
        self._parted: list[_Known] = []  # workers that did something and are gone
        self._near: dict[bytes, str] = {}
        self._news: deque[tuple[str, str]] = deque()
        self._failure: ClusterError | None = None
        self._limit = 16
        self._rows: list[dict[str, Any]] = []
        self._published_s = 0.0
        self._engine: Engine | None = None
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop
        self._main_task: asyncio.Task[None] | None = None
        self._started = threading.Event()
        self._asked = threading.Event()  # everybody who was there has answered
        self._was_ready = False
        self._without_s: float | None = None  # since when nobody can work
        self._said_waiting = False
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._inbox: deque[File] = deque()
        self._due: asyncio.TimerHandle | None = None
        self._linger: asyncio.TimerHandle | None = None
        self._client: Any = None
        self._broken: asyncio.Event

    # ---- what the pipeline calls, from its own thread

    @property
    def limit(self) -> int:
        """So many files in flight keep all workers busy."""
        return self._limit

    def inspect(self, path: bytes, stat: Stat) -> "Future[dict[str, Any]]":
        """As the protocol says."""
        return self._submit(File("inspect", path, path, stat, None, Future()))

    def embed(self, path: bytes, stat: Stat, part: Part) -> "Future[Embedded]":
        """As the protocol says; where it can, by the worker that inspected the file."""
        return self._submit(File("embed", path, path, stat, part.encoder_id, Future(), near=self._near.pop(path, None)))

    def engine(self) -> Engine | None:
        """As the protocol says; of mixed workers that of the last answer."""
        return self._engine

    def load(self) -> dict[str, float]:
        """As the protocol says: the mean over the workers, each since it agreed."""
        spans = [(known.answer["busy"], known.busy) for known in [*self._known.values(), *self._parted] if known.busy]
        elapsed_s = sum(after["elapsed"] - before["elapsed"] for before, after in spans)
        if elapsed_s <= 0:
            return {"the workers": 0.0}
        return {
            f"{part} on the workers": sum(after.get(part, 0.0) - before.get(part, 0.0) for before, after in spans)
            / elapsed_s
            for part in ("reading", "encoder")
        }

    def news(self) -> list[tuple[str, str]]:
        """As the protocol says."""
        found = []
        while self._news:
            found.append(self._news.popleft())
        if self._failure and not found:
            raise self._failure
        return found

    def workers(self) -> list[dict[str, Any]]:
        """As the protocol says."""
        return self._rows

    def open(self) -> None:
        """Connect and ask all workers, in the background."""
        if self._thread is None:
            logging.getLogger("distributed").setLevel(logging.CRITICAL)  # what matters is said in our words
            self._thread = threading.Thread(target=lambda: asyncio.run(self._main()), name="cluster", daemon=True)
            self._thread.start()
            self._started.wait()

    def ask(self, timeout_s: float) -> list[dict[str, Any]]:
        """Connect, wait until every worker has answered, and return ``workers``. Raises ClusterError where there is no scheduler or none of them."""
        self.open()
        end_s = time.monotonic() + timeout_s
        while not self._asked.wait(0.1) and time.monotonic() < end_s and self._failure is None:
            pass
        if self._failure and not self._rows:
            raise self._failure
        return self._rows

    def close(self) -> None:
        """As the protocol says."""
        if self._thread is None:
            return
        with suppress(RuntimeError):  # it ended by itself
            self._loop.call_soon_threadsafe(self._stop)
        self._thread.join(3 * END_S)

    def _submit(self, file: File) -> "Future[Any]":
        try:
            file.seen_as = self._map.there(file.path)
        except ConfigError as e:
            file.future.set_exception(DeferredError(file.path, str(e)))
            return file.future
        self.open()
        self._inbox.append(file)
        with suppress(RuntimeError):  # it ended, and news says why
            self._loop.call_soon_threadsafe(self._hand_out_soon)
        return file.future

    # ---- the connection; from here on everything is in the cluster's thread

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._main_task = asyncio.current_task()
        self._broken = asyncio.Event()
        self._started.set()
        try:
            await self._stay_connected()
        except asyncio.CancelledError:
            pass
        except ClusterError as e:
            self._failure = e
        except Exception as e:  # whatever it is, the scan must not wait for ever
            self._failure = ClusterError(f"{self._address}: the connection cannot be used ({type(e).__name__}: {e})")
        finally:
            self._publish()
            self._asked.set()

    def _stop(self) -> None:
        if self._main_task:
            self._main_task.cancel()

    async def _stay_connected(self) -> None:
        since_s, before = time.monotonic(), False
        while True:
            try:
                client = await self._connect()
            except (OSError, TimeoutError) as e:
                if time.monotonic() - since_s > (self._wait_s if before else min(START_S, self._wait_s)):
                    if before:
                        raise ClusterLostError(
                            f"{self._address}: the scheduler did not come back within {self._wait_s:.0f} s; what is done is stored,"
                            " and the next scan goes on"
                        ) from e
                    raise ClusterError(f"{self._address}: no scheduler answers ({_one_line(e)})") from e
                await asyncio.sleep(0.5)
                continue
            if before:
                self._news.append((self._address, "the scheduler is back"))
            elif cluster_settings.is_open(self._address):
                self._news.append((self._address, cluster_settings.PLAIN))
            before = True
            try:
                await self._serve(client)
            except (OSError, TimeoutError):
                self._news.append((self._address, f"the scheduler is gone; waiting up to {self._wait_s:.0f} s for it"))
            finally:
                self._disconnected()
                with suppress(Exception):  # of a scheduler that is gone
                    await asyncio.wait_for(client.close(), END_S)
            since_s = time.monotonic()

    async def _connect(self) -> Any:
        dask = cluster_settings.distributed()
        client = dask.Client(
            self._address,
            asynchronous=True,
            security=self._security,
            timeout=min(ANSWER_S / 6, max(1.0, self._wait_s)),
            set_as_default=False,
            name="indexer",
        )
        try:
            return await asyncio.wait_for(_awaited(client), ANSWER_S)
        except BaseException:
            with suppress(Exception):
                await asyncio.wait_for(client.close(), END_S)
            raise

    async def _serve(self, client: Any) -> None:
        """Until the connection breaks (OSError, TimeoutError) or there is no sense in waiting any more (ClusterError)."""
        self._client = client
        self._broken.clear()
        self._without_s, self._said_waiting = time.monotonic(), False
        while True:
            if client.status != "running" or self._broken.is_set():
                raise OSError("the connection to the scheduler broke")
            found = await asyncio.wait_for(client.scheduler.identity(), ANSWER_S)
            self._look(found["workers"])
            self._hand_out()
            for batch in self._crew.copies(time.monotonic()):
                self._send(batch)
            self._publish()
            self._be_patient()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._broken.wait(), max(LOOK_S, len(self._known) / 100))

    def _disconnected(self) -> None:
        """Nobody is to blame: the files wait for the next connection."""
        self._client = None
        for known in list(self._known.values()):
            self._part(known, blame=False)

    def _look(self, seen: Mapping[str, Mapping[str, Any]]) -> None:
        """Compare with who is there: newcomers are asked, and the files of those who are gone go to others."""
        for known in list(self._known.values()):
            if known.address not in seen:
                self._part(known, blame=True)
            elif known.member:
                known.member.paused = seen[known.address].get("status", "running") != "running"
        for address, found in seen.items():
            if address not in self._known:
                offers = found.get("resources") or {}
                embeds = all(offers.get(name, 0) >= amount for name, amount in self._resources.items())
                known = self._known[address] = _Known(
                    address, str(found.get("name") or address), embeds, time.monotonic(), time.monotonic()
                )
                known.proof = self._loop.create_task(self._ask(known))
        for known in self._known.values():
            if known.state == "asked" and time.monotonic() - known.asked_s > ASK_AGAIN_S:
                self._news.append((known.title, f"has not answered for {ASK_AGAIN_S:.0f} s; it is asked again"))
                self._ask_soon(known)
        self._decide()

    def _ask_soon(self, known: _Known) -> None:
        if known.proof:
            known.proof.cancel()
        known.state, known.asked_s = "asked", time.monotonic()
        known.proof = self._loop.create_task(self._ask(known))

    def _part(self, known: _Known, *, blame: bool) -> None:
        """A worker is gone."""
        self._known.pop(known.address, None)
        if known.proof:
            known.proof.cancel()
        batches = self._crew.lost(known.address, blame=blame)
        for batch in batches:
            if task := self._tasks.pop(batch.number, None):
                task.cancel()
        if known.member and (batches or known.busy):
            known.state = "gone"
            self._parted.append(known)
        if blame and batches:
            files = sum(len(batch.files) for batch in batches)
            self._news.append(
                (
                    known.title,
                    f"is gone; the {files:,} file{'s' if files > 1 else ''} that it had go to others, one by one",
                )
            )

    def _be_patient(self) -> None:
        """Raise ClusterError when nobody can work, and nobody is to be expected."""
        ready = [
            known for known in self._known.values() if known.state == "ready" and (known.embeds or not self._encoders)
        ]
        if ready:
            self._was_ready, self._without_s, self._said_waiting = True, None, False
            return
        self._without_s = self._without_s or time.monotonic()
        waited_s = time.monotonic() - self._without_s
        refused = [known for known in self._known.values() if known.state == "refused"]
        if refused and not self._was_ready and len(refused) == len(self._known):
            raise ClusterError(
                f"{self._address}: no worker agrees: "
                + "; ".join(f"{known.title} {known.reason}" for known in refused[:5])
            )
        limit_s = self._wait_s if self._was_ready or self._known else min(FIRST_WORKER_S, self._wait_s)
        if waited_s > limit_s:
            if self._was_ready:
                raise ClusterLostError(
                    f"{self._address}: no worker for {limit_s:.0f} s; what is done is stored, and the next scan goes on"
                )
            raise ClusterError(
                f"{self._address}: "
                + ("no worker answered" if self._known else "no worker is connected")
                + f" within {limit_s:.0f} s"
                + (f" that offers {_resources_text(self._resources)}" if self._resources else "")
            )
        if waited_s > 2 * LOOK_S and not self._said_waiting and (self._was_ready or not self._known):
            self._said_waiting = True
            self._news.append((self._address, f"no worker is there; waiting up to {limit_s:.0f} s for one"))

    # ---- agreement

    async def _ask(self, known: _Known) -> None:
        """Have a worker prove itself, as a task of its own there."""
        client, reason = self._client, None
        future = None
        try:
            future = client.submit(
                cluster_worker.prove, self._agreement.wanted(embeds=known.embeds), **self._how("prove", known)
            )
            known.answer = await future
            reason = known.answer["refused"]
        except concurrent.futures.CancelledError:  # with the connection; not asyncio's, which is ours
            self._broken.set()
            return
        except Exception as e:
            reason = _why_not(e)
        finally:
            _release(future)
        if client is not self._client or self._known.get(known.address) is not known:
            return
        if reason is not None:
            self._refuse(known, reason)
        else:
            known.state = "waiting"
        self._decide()
        self._publish()

    def _decide(self) -> None:
        """Let those work who agree, as soon as the precision is known."""
        waiting = [known for known in self._known.values() if known.state == "waiting"]
        embedding = [known for known in waiting if known.embeds]
        if self._agreement.undecided and embedding:
            others = [known for known in self._known.values() if known.state == "asked" and known.embeds]
            if others and time.monotonic() - min(known.joined_s for known in embedding) < DECIDE_S:
                waiting = [known for known in waiting if not known.embeds]
            else:
                again = self._agreement.decide([(known.address, known.answer) for known in embedding])
                for known in embedding:
                    if known.address in again:
                        self._ask_soon(known)
        for known in waiting:
            if known.state == "waiting":
                self._admit(known)
        if self._known and not any(known.state in ("asked", "waiting") for known in self._known.values()):
            self._publish()
            self._asked.set()

    def _admit(self, known: _Known) -> None:
        ready = {other.address: other.answer for other in self._known.values() if other.state == "ready"}
        reason = self._agreement.objection(known.address, known.answer, ready)
        if reason is not None:
            self._refuse(known, reason)
            return
        known.state = "ready"
        known.member = Member(known.address, known.answer["limit"], known.embeds)
        self._crew.join(known.member)
        self._hand_out_soon()

    def _refuse(self, known: _Known, reason: str) -> None:
        known.state, known.reason = "refused", reason
        self._news.append((known.title, f"gets no work: it {reason}"))

    # ---- work

    def _hand_out_soon(self) -> None:
        if self._due is None:
            self._due = self._loop.call_later(GATHER_S, self._hand_out)

    def _hand_out(self, *, eager: bool = False) -> None:
        """Give the workers what they have room for."""
        if not eager and self._due:
            self._due.cancel()
            self._due = None
        while self._inbox:
            self._crew.add(self._inbox.popleft())
        if self._client is None:
            return
        for batch in self._crew.next_batches(time.monotonic(), eager=eager):
            self._send(batch)
        self._limit = self._crew.limit
        if self._crew.waiting and self._linger is None:
            self._linger = self._loop.call_later(LINGER_S, self._linger_over)

    def _linger_over(self) -> None:
        self._linger = None
        self._hand_out(eager=True)

    def _send(self, batch: Batch) -> None:
        self._tasks[batch.number] = self._loop.create_task(self._do(batch))

    async def _do(self, batch: Batch) -> None:
        """One task: at its worker, and back."""
        client, known = self._client, self._known[batch.member.address]
        # As one piece of bytes: Dask looks into lists, and that costs more than sending them.
        items = pickle.dumps(
            [(file.seen_as, file.stat.size, file.stat.mtime_ns, file.encoder_id) for file in batch.files]
        )
        future = None
        try:
            future = client.submit(
                cluster_worker.work, known.answer["token"], batch.op, items, **self._how(batch.op, known)
            )
            answer = pickle.loads(await future)  # noqa: S301 - of a worker that runs our code, over a connection that runs code anyway
        except concurrent.futures.CancelledError:
            self._broken.set()
        except Exception as e:
            if client.status != "running":  # the connection's failure, and nobody's here
                self._broken.set()
            elif type(e).__name__ == "KilledWorker":
                self._part(known, blame=True)
            elif batch.number in batch.member.batches and self._crew.broken(batch, _one_line(e)):
                self._refuse(known, f"fails: {_one_line(e)}")
                self._crew.lost(known.address, blame=False)
        else:
            self._answered(known, batch, answer)
        finally:
            self._tasks.pop(batch.number, None)
            _release(future)
            self._hand_out_soon()

    def _how(self, op: str, known: _Known) -> dict[str, Any]:
        """Where a task may run: there and nowhere else, once. Whoever goes on after a death is decided here, not by the scheduler."""
        shares = {name: amount / SHARE for name, amount in self._resources.items()} if known.embeds else {}
        return {
            "key": f"indexer-{op}-{uuid.uuid4().hex}",
            "workers": [known.address],
            "allow_other_workers": False,
            "pure": False,
            "retries": 0,
            "resources": shares or None,
        }

    def _answered(self, known: _Known, batch: Batch, answer: Mapping[str, Any]) -> None:
        if batch.number not in batch.member.batches:
            return
        if answer.get("unknown"):  # another process at the same address: it proved nothing yet
            self._part(known, blame=True)
            return
        known.busy = answer["busy"]
        moment_s = time.monotonic()
        self._crew.finished(batch, moment_s, sum(kind != "ok" for kind, _ in answer["outcomes"]))
        if self._crew.idle or moment_s - self._published_s > PUBLISH_S:
            self._publish()  # before the last file is settled and the scan ends
        for file, (kind, value) in zip(batch.files, answer["outcomes"], strict=True):
            if not file.done:
                self._settle(known, file, kind, value)

    def _settle(self, known: _Known, file: File, kind: str, value: Any) -> None:
        """Give the pipeline what became of a file."""
        if kind != "ok":
            file.future.set_exception(_error(known, file, kind, *value))
        elif file.op == "inspect":
            while len(self._near) >= MAX_NEAR:
                self._near.pop(next(iter(self._near)))
            self._near[file.path] = known.address
            file.future.set_result(
                {
                    **value,
                    "stat": {
                        "dev": file.stat.dev,
                        "ino": file.stat.ino,
                        "size": file.stat.size,
                        "mtime_ns": file.stat.mtime_ns,
                    },
                }
            )  # the worker's device and inode mean nothing here
        else:
            answer = known.answer
            self._engine = Engine(answer["device"], answer["precision"][file.encoder_id], answer["engine"])
            file.future.set_result(Embedded(*value))

    def _publish(self) -> None:
        moment_s = self._published_s = time.monotonic()
        everybody = [*self._parted, *self._known.values()]
        self._rows = [known.row(moment_s) for known in everybody]


def refuse_wrong_settings(settings: Settings, paths: Sequence[Path]) -> None:
    """Raise ConfigError for what can be told without connecting."""
    ClusterExecutor(settings, {}, [os.fsencode(path.absolute()) for path in paths or settings.roots])


def _error(known: _Known, file: File, kind: str, reason: str, deaths: int) -> Exception:
    """A worker's word on a file, as the local executor would have said it."""
    if kind == "DeferredError" and reason.startswith(cluster_worker.CANNOT_OPEN):
        if not os.access(file.path, os.R_OK):  # nobody may read it: that is the file's
            return errors.ReadError(file.path, reason.replace(cluster_worker.CANNOT_OPEN, "cannot be read"))
        return DeferredError(file.path, f"{reason}: {known.title}")
    if kind == "ReaderDiedError":
        return ReaderDiedError(file.path, reason, deaths)
    if kind in _FILE_ERRORS:
        return _FILE_ERRORS[kind](file.path, reason)
    return _OTHER_ERRORS.get(kind, RuntimeError)(reason) if file.op == "embed" else DeferredError(file.path, reason)


def _why_not(error: Exception) -> str:
    """Why a worker could not even be asked."""
    text = _one_line(error)
    if "deserializ" in text.lower() and "graph" in text.lower():
        return "could not be asked: the scheduler has not this program; " + cluster_settings.INSTALL
    if isinstance(error, (ImportError, AttributeError)):
        return f"has not this program, or another version of it ({text}); " + cluster_settings.INSTALL
    return f"could not be asked ({type(error).__name__}: {text})"


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def _resources_text(resources: Mapping[str, float]) -> str:
    return ", ".join(f"{name}={amount:g}" for name, amount in resources.items())


def _release(future: Any) -> None:
    if future is not None:
        with suppress(Exception):
            future.release()


async def _awaited(client: Any) -> Any:
    return await client
