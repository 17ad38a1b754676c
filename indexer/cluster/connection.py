"""The connection of a scan to a Dask cluster: workers come and go, files are sent, answers are taken.

All of it runs in one thread with an event loop, and reacts when a worker or the scheduler goes. Assignment of files:
indexer.cluster.assignment. Admission of workers: indexer.cluster.admission. Code on the worker: indexer.cluster.worker.
Knows neither database nor heads.
"""

import asyncio
import concurrent.futures
import logging
import threading
import time
import uuid
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from indexer.cluster import settings as cluster_settings
from indexer.cluster import worker as cluster_worker
from indexer.cluster.admission import Admission
from indexer.cluster.answers import Outcome, WrongAnswerError, checked_outcomes, checked_proof
from indexer.cluster.assignment import Assignment, Batch, File, Worker
from indexer.cluster.candidate import Candidate, amount_of, one_line, why_not
from indexer.cluster.outcome import to_error
from indexer.cluster.wire import pack
from indexer.config import Settings
from indexer.errors import ClusterError, ClusterLostError
from indexer.listen.executor import Embedded, Engine

START_S = 15.0  # wait for the scheduler's first answer
FIRST_WORKER_S = 60.0  # wait for the first worker
ANSWER_S = 30.0  # a scheduler that does not list its workers within this time counts as gone
LOOK_S = 1.0  # between two requests for that list
GATHER_S = 0.004  # files that come within this time are assigned together
LINGER_S = 0.1  # a batch that is not full waits this long for more files
ASK_AGAIN_S = 60.0  # loading weights takes seconds; a second ``prove`` waits for the same loading
DECIDE_S = 30.0  # from a worker's answer, wait for the precision of the others
PUBLISH_S = 0.2  # between two updates of the workers' rows
END_S = 5.0  # wait for the client to close
SHARE = 4  # tasks that share a worker's resources, so that one decodes while the other embeds
MAX_NEAR = 10_000  # files whose last worker is remembered


class Connection:
    """The thread of a cluster. What it offers to other threads: the fields without underscore, and ``put``."""

    def __init__(self, settings: Settings, admission: Admission, widths: Mapping[str, tuple[int, int]]) -> None:
        """``widths``: of each encoder's vectors and audio vectors, by encoder id. Raises ConfigError."""
        self.address = cluster_settings.scheduler_address(settings)
        self._security = cluster_settings.security(settings)
        self._resources = cluster_settings.resources(settings)
        self._wait_s = settings.cluster_wait_s
        self._admission = admission
        self._widths = widths
        self.news: deque[tuple[str, str]] = deque()
        self.failure: ClusterError | None = None
        self.limit = 16
        self.rows: list[dict[str, Any]] = []
        self.engine: Engine | None = None
        self.near: dict[bytes, str] = {}  # path -> address of the worker that inspected it
        self.asked = threading.Event()  # every worker has answered, or the connection has ended
        self._assignment = Assignment()
        self._candidates: dict[str, Candidate] = {}
        self._departed: list[Candidate] = []  # workers that had work and are gone
        self._published_s = 0.0
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop
        self._main_task: asyncio.Task[None] | None = None
        self._started = threading.Event()
        self._was_ready = False
        self._without_s: float | None = None  # since when no worker can work
        self._said_waiting = False
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._inbox: deque[File] = deque()
        self._due: asyncio.TimerHandle | None = None
        self._linger: asyncio.TimerHandle | None = None
        self._client: Any = None
        self._broken: asyncio.Event

    # ---- called by the pipeline, in its thread

    def open(self) -> None:
        """Begin to connect and to ask all workers."""
        if self._thread is None:
            logging.getLogger("distributed").setLevel(logging.CRITICAL)  # ``news`` reports what matters
            self._thread = threading.Thread(target=lambda: asyncio.run(self._main()), name="cluster", daemon=True)
            self._thread.start()
            self._started.wait()

    def close(self) -> None:
        """End the connection; what the workers still do is given up."""
        if self._thread is None:
            return
        with suppress(RuntimeError):  # the loop has ended by itself
            self._loop.call_soon_threadsafe(self._stop)
        self._thread.join(3 * END_S)

    def put(self, file: File) -> None:
        """Have a worker process a file; its future gets the outcome."""
        self.open()
        self._inbox.append(file)
        with suppress(RuntimeError):  # the loop has ended; ``failure`` is the reason
            self._loop.call_soon_threadsafe(self._assign_soon)

    def spans(self) -> list[tuple[dict[str, float], dict[str, float]]]:
        """Of each worker that worked: what it was busy with when it was admitted, and at its last answer."""
        return [
            (candidate.answer["busy"], candidate.busy)
            for candidate in [*self._candidates.values(), *self._departed]
            if candidate.busy
        ]

    # ---- from here on, everything runs in the cluster's thread

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
            self.failure = e
        except Exception as e:  # whatever it is, the scan must end and not wait
            self.failure = ClusterError(f"{self.address}: the connection cannot be used ({type(e).__name__}: {e})")
        finally:
            self._publish()
            self.asked.set()

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
                            f"{self.address}: the scheduler did not come back within {self._wait_s:.0f} s; "
                            "what is done is stored, and the next scan goes on"
                        ) from e
                    raise ClusterError(f"{self.address}: no scheduler answers ({one_line(e)})") from e
                await asyncio.sleep(0.5)
                continue
            if before:
                self.news.append((self.address, "the scheduler is back"))
            elif cluster_settings.is_open(self.address):
                self.news.append((self.address, cluster_settings.PLAIN))
            before = True
            try:
                await self._serve(client)
            except (OSError, TimeoutError):
                self.news.append((self.address, f"the scheduler is gone; waiting up to {self._wait_s:.0f} s for it"))
            finally:
                self._disconnected()
                with suppress(Exception):  # the scheduler may be gone
                    await asyncio.wait_for(client.close(), END_S)
            since_s = time.monotonic()

    async def _connect(self) -> Any:
        dask = cluster_settings.distributed()
        client = dask.Client(
            self.address,
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
        """Work until the connection breaks (OSError, TimeoutError) or no worker can be expected (ClusterError)."""
        self._client = client
        self._broken.clear()
        self._without_s, self._said_waiting = time.monotonic(), False
        while True:
            if client.status != "running" or self._broken.is_set():
                raise OSError("the connection to the scheduler broke")
            found = await asyncio.wait_for(client.scheduler.identity(), ANSWER_S)
            self._look(found["workers"])
            self._assign()
            for batch in self._assignment.copies(time.monotonic()):
                self._send(batch)
            self._publish()
            self._check_for_workers()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._broken.wait(), max(LOOK_S, len(self._candidates) / 100))

    def _disconnected(self) -> None:
        """The connection is gone: all files wait for the next one, and none is suspected."""
        self._client = None
        for candidate in list(self._candidates.values()):
            self._remove(candidate, blame=False)

    def _look(self, seen: Mapping[str, Mapping[str, Any]]) -> None:
        """Compare with the scheduler's list: ask new workers, and give the files of departed workers to others."""
        for candidate in list(self._candidates.values()):
            if candidate.address not in seen:
                self._remove(candidate, blame=True)
            elif candidate.worker:
                candidate.worker.paused = seen[candidate.address].get("status", "running") != "running"
        for address, found in seen.items():
            if address not in self._candidates:
                offers = found.get("resources") or {}
                embeds = all(amount_of(offers, name) >= amount for name, amount in self._resources.items())
                candidate = self._candidates[address] = Candidate(
                    address, str(found.get("name") or address), embeds, time.monotonic(), time.monotonic()
                )
                candidate.proof = self._loop.create_task(self._ask(candidate))
        for candidate in self._candidates.values():
            if candidate.state == "asked" and time.monotonic() - candidate.asked_s > ASK_AGAIN_S:
                self.news.append((candidate.title, f"has not answered for {ASK_AGAIN_S:.0f} s; it is asked again"))
                self._ask_soon(candidate)
        self._decide()

    def _ask_soon(self, candidate: Candidate) -> None:
        if candidate.proof:
            candidate.proof.cancel()
        candidate.state, candidate.asked_s = "asked", time.monotonic()
        candidate.proof = self._loop.create_task(self._ask(candidate))

    def _remove(self, candidate: Candidate, *, blame: bool) -> None:
        """A worker is gone; ``blame``: it died, and its files are suspects."""
        self._candidates.pop(candidate.address, None)
        if candidate.proof:
            candidate.proof.cancel()
        batches = self._take_back(candidate, blame=blame)
        if candidate.worker and (batches or candidate.busy):
            candidate.state = "gone"
            self._departed.append(candidate)
        if blame and batches:
            files = sum(len(batch.files) for batch in batches)
            had = f"the {files:,} file{'s' if files > 1 else ''} that it had go to others, one by one"
            self.news.append((candidate.title, f"is gone; {had}"))

    def _take_back(self, candidate: Candidate, *, blame: bool) -> list[Batch]:
        """Give the files of a worker to the others; returns the batches that it had."""
        batches = self._assignment.lost(candidate.address, blame=blame)
        for batch in batches:
            task = self._tasks.pop(batch.number, None)
            if task and task is not asyncio.current_task():
                task.cancel()
        return batches

    def _expel(self, candidate: Candidate, reason: str) -> None:
        """A worker that was admitted gets no more work, and its files go to the others."""
        self._refuse(candidate, reason)
        self._take_back(candidate, blame=False)

    def _check_for_workers(self) -> None:
        """Raise ClusterError when no worker can work and waiting longer makes no sense."""
        ready = [
            candidate
            for candidate in self._candidates.values()
            if candidate.state == "ready" and (candidate.embeds or not self._widths)
        ]
        if ready:
            self._was_ready, self._without_s, self._said_waiting = True, None, False
            return
        self._without_s = self._without_s or time.monotonic()
        waited_s = time.monotonic() - self._without_s
        refused = [candidate for candidate in self._candidates.values() if candidate.state == "refused"]
        if refused and not self._was_ready and len(refused) == len(self._candidates):
            raise ClusterError(
                f"{self.address}: no worker agrees: "
                + "; ".join(f"{candidate.title} {candidate.reason}" for candidate in refused[:5])
            )
        limit_s = self._wait_s if self._was_ready or self._candidates else min(FIRST_WORKER_S, self._wait_s)
        if waited_s > limit_s:
            if self._was_ready:
                raise ClusterLostError(
                    f"{self.address}: no worker for {limit_s:.0f} s; what is done is stored, and the next scan goes on"
                )
            raise ClusterError(
                f"{self.address}: "
                + ("no worker answered" if self._candidates else "no worker is connected")
                + f" within {limit_s:.0f} s"
                + (f" that offers {_resources_text(self._resources)}" if self._resources else "")
            )
        if waited_s > 2 * LOOK_S and not self._said_waiting and (self._was_ready or not self._candidates):
            self._said_waiting = True
            self.news.append((self.address, f"no worker is there; waiting up to {limit_s:.0f} s for one"))

    # ---- admission

    async def _ask(self, candidate: Candidate) -> None:
        """Run ``worker.prove`` on a worker."""
        client, reason = self._client, None
        future = None
        try:
            future = client.submit(
                cluster_worker.prove, self._admission.wanted(embeds=candidate.embeds), **self._how("prove", candidate)
            )
            candidate.answer = checked_proof(await future, self._widths if candidate.embeds else {})
            reason = candidate.answer["refused"]
        except concurrent.futures.CancelledError:  # the connection broke; our own cancelling raises asyncio's
            self._broken.set()
            return
        except asyncio.CancelledError:
            raise
        except WrongAnswerError as e:
            reason = f"answers what it should not: {e}"
        except BaseException as e:  # even SystemExit, which a worker can send: it ends its part, not the scan
            reason = why_not(e)
        finally:
            _release(future)
        if client is not self._client or self._candidates.get(candidate.address) is not candidate:
            return
        if reason is not None:
            self._refuse(candidate, reason)
        else:
            candidate.state = "waiting"
        self._decide()
        self._publish()

    def _decide(self) -> None:
        """Admit or refuse the workers that have answered, as soon as the precision is known."""
        waiting = [candidate for candidate in self._candidates.values() if candidate.state == "waiting"]
        embedding = [candidate for candidate in waiting if candidate.embeds]
        if self._admission.undecided and embedding:
            others = [
                candidate for candidate in self._candidates.values() if candidate.state == "asked" and candidate.embeds
            ]
            if others and time.monotonic() - min(candidate.joined_s for candidate in embedding) < DECIDE_S:
                waiting = [candidate for candidate in waiting if not candidate.embeds]
            else:
                again = self._admission.decide([(candidate.address, candidate.answer) for candidate in embedding])
                for candidate in embedding:
                    if candidate.address in again:
                        self._ask_soon(candidate)
        for candidate in waiting:
            if candidate.state == "waiting":
                self._admit(candidate)
        if self._candidates and not any(
            candidate.state in ("asked", "waiting") for candidate in self._candidates.values()
        ):
            self._publish()
            self.asked.set()

    def _admit(self, candidate: Candidate) -> None:
        ready = {other.address: other.answer for other in self._candidates.values() if other.state == "ready"}
        reason = self._admission.objection(candidate.address, candidate.answer, ready)
        if reason is not None:
            self._refuse(candidate, reason)
            return
        candidate.state = "ready"
        candidate.worker = Worker(candidate.address, candidate.answer["limit"], candidate.embeds)
        self._assignment.join(candidate.worker)
        self._assign_soon()

    def _refuse(self, candidate: Candidate, reason: str) -> None:
        candidate.state, candidate.reason = "refused", reason
        self.news.append((candidate.title, f"gets no work: it {reason}"))

    # ---- files

    def _assign_soon(self) -> None:
        if self._due is None:
            self._due = self._loop.call_later(GATHER_S, self._assign)

    def _assign(self, *, eager: bool = False) -> None:
        """Send the workers the files that they have room for; ``eager`` as in ``Assignment.next_batches``."""
        if not eager and self._due:
            self._due.cancel()
            self._due = None
        while self._inbox:
            self._assignment.add(self._inbox.popleft())
        if self._client is None:
            return
        for batch in self._assignment.next_batches(time.monotonic(), eager=eager):
            self._send(batch)
        self.limit = self._assignment.limit
        if self._assignment.waiting and self._linger is None:
            self._linger = self._loop.call_later(LINGER_S, self._assign_the_rest)

    def _assign_the_rest(self) -> None:
        self._linger = None
        self._assign(eager=True)

    def _send(self, batch: Batch) -> None:
        self._tasks[batch.number] = self._loop.create_task(self._do(batch))

    async def _do(self, batch: Batch) -> None:
        """Have a worker process a batch, and take its answer."""
        client, candidate = self._client, self._candidates[batch.worker.address]
        # Packed: Dask would inspect every element of a list, which costs more than sending it.
        items = pack(
            [
                (file.path_on_workers, file.stat.size, file.stat.mtime_ns, file.encoder_id, file.analyse, file.rough)
                for file in batch.files
            ]
        )
        future = None
        try:
            future = client.submit(
                cluster_worker.work, candidate.answer["token"], batch.op, items, **self._how(batch.op, candidate)
            )
            answer = checked_outcomes(await future, batch.files, self._widths)
        except concurrent.futures.CancelledError:
            self._broken.set()
        except asyncio.CancelledError:
            raise
        except WrongAnswerError as e:
            self._expel(candidate, f"answers what it should not: {e}")
        except BaseException as e:  # even SystemExit, which a worker can send: it ends its part, not the scan
            if not isinstance(e, Exception):
                self._expel(candidate, f"answers what it should not: {type(e).__name__}")
            elif client.status != "running":  # the connection failed, not the batch
                self._broken.set()
            elif type(e).__name__ == "KilledWorker":
                self._remove(candidate, blame=True)
            elif batch.number in batch.worker.batches and self._assignment.broken(batch, one_line(e)):
                self._expel(candidate, f"fails: {one_line(e)}")
        else:
            self._answered(candidate, batch, answer)
        finally:
            self._tasks.pop(batch.number, None)
            _release(future)
            self._assign_soon()

    def _how(self, op: str, candidate: Candidate) -> dict[str, Any]:
        """Arguments of ``submit``: one attempt, on this worker only; after its death ``Assignment`` chooses another."""
        shares = {name: amount / SHARE for name, amount in self._resources.items()} if candidate.embeds else {}
        return {
            "key": f"indexer-{op}-{uuid.uuid4().hex}",
            "workers": [candidate.address],
            "allow_other_workers": False,
            "pure": False,
            "retries": 0,
            "resources": shares or None,
        }

    def _answered(
        self, candidate: Candidate, batch: Batch, answer: tuple[dict[str, float], list[Outcome]] | None
    ) -> None:
        if batch.number not in batch.worker.batches:
            return
        if answer is None:  # a new process at the same address, which must answer ``prove`` first
            self._remove(candidate, blame=True)
            return
        candidate.busy, outcomes = answer
        moment_s = time.monotonic()
        self._assignment.finished(batch, moment_s, sum(kind != "ok" for kind, _ in outcomes))
        if self._assignment.idle or moment_s - self._published_s > PUBLISH_S:
            self._publish()  # before the last file has its result and the scan ends
        for file, (kind, value) in zip(batch.files, outcomes, strict=True):
            if not file.done:
                self._settle(candidate, file, kind, value)

    def _settle(self, candidate: Candidate, file: File, kind: str, value: Any) -> None:
        """Give the pipeline the outcome of a file."""
        if kind != "ok":
            file.future.set_exception(to_error(candidate.title, file, kind, *value))
        elif file.op == "inspect":
            while len(self.near) >= MAX_NEAR:
                self.near.pop(next(iter(self.near)))
            self.near[file.path] = candidate.address
            file.future.set_result({**value, "stat": asdict(file.stat)})  # the worker's device and inode differ
        else:
            answer = candidate.answer
            self.engine = Engine(answer["device"], answer["precision"][file.encoder_id], answer["engine"])
            file.future.set_result(Embedded(*value))

    def _publish(self) -> None:
        moment_s = self._published_s = time.monotonic()
        self.rows = [candidate.row(moment_s) for candidate in [*self._departed, *self._candidates.values()]]


def _resources_text(resources: Mapping[str, float]) -> str:
    return ", ".join(f"{name}={amount:g}" for name, amount in resources.items())


def _release(future: Any) -> None:
    if future is not None:
        with suppress(Exception):
            future.release()


async def _awaited(client: Any) -> Any:
    return await client
