"""The loop of a run: keeps files in flight and resumes each file's stages when the step they wait for is done.

What happens to a file, and in which order, is in scan/stages.py. The calling thread does all work with the library,
because there is one writer; the executor and the reader processes do all work with the files. A file that fails does
not stop the others.
"""

import os
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from indexer.config import Settings
from indexer.errors import FileError, IndexerError
from indexer.files.children.limits import Limits
from indexer.files.children.pool import Readers
from indexer.files.tags.write import Prepared, discard
from indexer.heads.decide import sure_from
from indexer.library.set_fields import written_sets
from indexer.library.store import Store
from indexer.library.writing.backlog import Lacking
from indexer.listen.executor import LOADING, Executor, LocalExecutor
from indexer.models.choice import Model
from indexer.scan.label_sets import SetModel
from indexer.scan.outcome import Counts, Listener
from indexer.scan.pace import Pace
from indexer.scan.policy import tag_policy_digest
from indexer.scan.reading import unforeseen
from indexer.scan.stages import process
from indexer.scan.work import Changed, FileFailedError, FileGoneError, Item, Run, Stage, Wait

POLL_S = 0.2  # poll the executor for messages, and look for a stop, at least this often
GROUP = 256  # finished steps that share a transaction, at most
MAX_FAILURES = 1000  # failed files that the result lists


@dataclass(frozen=True, slots=True)
class _InFlight:
    """A file whose stages have begun and wait for a step."""

    name: str
    item: Item
    stages: Stage[str]


@dataclass(frozen=True, slots=True)
class _Finished:
    """A finished step, and the file that waited for it."""

    file: _InFlight
    wait: Wait
    done: "Future[Any]"


class Pipeline:
    """Takes every file of a run through its stages; see ``run``."""

    def __init__(
        self,
        store: Store,
        settings: Settings,
        model: Model | None,
        *,
        run_id: int,
        listener: Listener,
        executor: Executor | None = None,
        sets: Sequence[SetModel] = (),
        write_tags: bool = True,
        force: bool = False,
        explicit_tags: bool = False,
        files_left: Callable[[], int] = lambda: 0,
        counts: Counts | None = None,
    ) -> None:
        """``explicit_tags``: the user asked for tags to be written, so a former undo does not hold them back.

        ``executor``: where the heavy steps run; this machine when None. ``close`` closes it. ``sets``: those that files
        are classified in. ``files_left``: how many files this run will still work on, about. ``counts``: of an earlier
        part of the run, to be continued.
        """
        head = model.head if model else None
        threshold = settings.threshold(head.threshold) if head else 1.0
        writes = write_tags and settings.writes_any_tag
        written = written_sets(store.connection, settings) if writes else ()
        self._stop = threading.Event()
        readers = Readers(settings.worker_count(), Limits.of(settings))
        self._run = Run(
            store,
            settings,
            model,
            executor or LocalExecutor(readers),
            readers,
            listener,
            run_id,
            threshold,
            tag_policy_digest(settings, head, threshold, written) if writes else None,
            force,
            explicit_tags,
            self._stop.is_set,
            Pace(settings.rough_after_h * 3600, files_left),
            sets,
            written,
            counts or Counts(),
        )
        self.counts = self._run.counts
        self._started_s = time.monotonic()
        self._idle_s = 0.0
        self.turns = 0  # rounds of the loop; the number stands still only when something hangs
        self._polled_s = float("-inf")
        self._in_flight = 0
        self._to_start: list[tuple[_InFlight, Wait]] = []  # steps that must start outside any transaction
        self._finished: queue.SimpleQueue[_Finished] = queue.SimpleQueue()
        self._next: _Finished | None = None  # taken from the queue; must not share a transaction

    def backlog_size(self, targets: Sequence[bytes]) -> tuple[int, int]:
        """How many known files still lack something under this run's encoder, head and settings, and their bytes."""
        return self._run.store.backlog_size(targets, self._lacking())

    def backlog(self, targets: Sequence[bytes]) -> Iterator[int]:
        """The ids of these files."""
        return self._run.store.backlog(targets, self._lacking())

    def _lacking(self) -> Lacking:
        run = self._run
        # The empty digest equals no stored one: when the user asked for tags, every labelled file is checked again.
        policy = "" if run.explicit_tags and run.tag_policy else run.tag_policy
        adds = run.settings.write_tags_bpm or run.settings.write_tags_key
        if run.model is None:
            return Lacking((), None, run.threshold, policy, adds, written_sets=run.written_sets)
        head_id = run.model.head.id if run.model.head else None
        sets = tuple((one.inputs, one.head.id, one.threshold) for one in run.sets)
        return Lacking(
            run.model.ids, head_id, run.threshold, policy, adds, sure_from(run.threshold), sets, run.written_sets
        )

    def stop(self) -> None:
        """Begin no new file, and finish a tag write that has begun. Safe to call from a signal handler."""
        self._stop.set()

    def run(self, work: Iterator[Item | None]) -> bool:
        """Work through all files of ``work``; returns False when stopped before the end. Stores every finished step.

        ``work`` is asked again as long as a file is in flight, also after it gave None or ended, because files may be
        added meanwhile. May be called again, until ``close``.
        """
        executor = self._run.executor
        while not self._stop.is_set():
            self.turns += 1
            self._poll_executor()
            item = None
            while self._in_flight < executor.limit and (item := next(work, None)) is not None:
                self._begin(item)
            self._start_waiting()
            if item is None and self._in_flight == 0:
                return True
            waits_s = time.monotonic()
            finished = self._take(POLL_S)
            self._idle_s += time.monotonic() - waits_s
            if finished:
                self._resume_group(finished)
        return False

    def close(self) -> None:
        """End the executor and the readers; files in flight are dropped. Completes the counts."""
        executor = self._run.executor
        elapsed_s = max(1e-9, time.monotonic() - self._started_s)
        load = executor.load()
        self.counts.workers = executor.workers()
        # This thread also loads weights: that time counts as loading, not as work with the library.
        library = max(0.0, 1 - self._idle_s / elapsed_s - load.get(LOADING, 0.0))
        self.counts.busy = {**load, "library": library}
        executor.close()
        self._run.readers.close()
        while finished := self._take(0):
            done = finished.done
            # A copy that was finished after the stop will not be used.
            if done.exception() is None and isinstance(done.result(), dict) and "temp_path" in done.result():
                discard(Prepared.from_json(done.result(), finished.file.name))

    def _poll_executor(self) -> None:
        """Pass the executor's messages to the listener, at most every POLL_S."""
        if time.monotonic() - self._polled_s < POLL_S:
            return
        self._polled_s = time.monotonic()
        for about, line in self._run.executor.news():
            self._run.listener.problem(about, line)
        self.counts.workers = self._run.executor.workers()

    # ---- one file

    def _begin(self, item: Item) -> None:
        path = item.path if isinstance(item, Changed) else self._run.store.file(item.file_id).path
        self._in_flight += 1
        self._go_on(_InFlight(os.fsdecode(path), item, process(self._run, item)))

    def _go_on(self, file: _InFlight, done: "Future[Any] | None" = None, *, shared: bool = False) -> None:
        """Run the file's stages until they wait again or end. ``shared``: inside a shared transaction."""
        outcome: str | None = None
        match self._advance(file, done, shared=shared):
            case Wait() as wait:
                if wait.outside:
                    self._to_start.append((file, wait))
                else:
                    self._start(file, wait)
                return
            case StopIteration(value=value):
                outcome = value
            case FileGoneError(noted=noted):
                outcome = "gone" if noted else None
            case error:
                self._note_failure(file.name, str(error))
                self.counts.failed_later += error.state not in ("unreadable", "unsupported")
                outcome = "failed"
        self._in_flight -= 1
        self._run.pace.finished()
        if outcome is not None:
            self._run.listener.advance(file.name, outcome)

    def _advance(
        self, file: _InFlight, done: "Future[Any] | None", *, shared: bool
    ) -> Wait | StopIteration | FileGoneError | FileFailedError:
        """What the file waits for next, or how its stages ended.

        An error that nobody foresaw takes back what this step stored, nothing of its neighbours, and is the file's
        reason. Raises the errors that concern the whole run: of the library, the model, the cluster.
        """
        try:
            with self._run.store.transaction() if shared else nullcontext():
                try:
                    return file.stages.send(done)  # type: ignore[arg-type]  # None begins a generator
                except (StopIteration, FileGoneError, FileFailedError) as end:
                    return end
        except FileError as e:
            return unforeseen(self._run, file.item, e.reason)
        except IndexerError:
            raise
        except Exception as e:
            return unforeseen(self._run, file.item, f"cannot be handled ({type(e).__name__}: {e}); please report this")

    def _start(self, file: _InFlight, wait: Wait) -> None:
        def note(done: "Future[Any]") -> None:
            if not done.cancelled():
                self._finished.put(_Finished(file, wait, done))

        wait.start().add_done_callback(note)

    def _start_waiting(self) -> None:
        """Start the steps that must not be started inside a transaction."""
        waiting, self._to_start = self._to_start, []
        for file, wait in waiting:
            self._start(file, wait)

    def _note_failure(self, name: str, reason: str) -> None:
        self.counts.failed += 1
        if len(self.counts.failures) < MAX_FAILURES:
            self.counts.failures.append((name, reason))
        self._run.listener.problem(name, reason)

    # ---- finished steps

    def _take(self, timeout_s: float) -> _Finished | None:
        """The next finished step; None when there is none within the time."""
        if self._next is not None:
            finished, self._next = self._next, None
            return finished
        try:
            return self._finished.get(timeout=timeout_s) if timeout_s else self._finished.get_nowait()
        except queue.Empty:
            return None

    def _resume_group(self, finished: _Finished) -> None:
        """Resume this file and others whose steps are done, in one transaction: every commit waits for the disk.

        A file whose tag was prepared is resumed by itself: the journal must be on the disk before the file is replaced.
        """
        if finished.wait.alone:
            self._go_on(finished.file, finished.done)
            return
        with self._run.store.transaction():
            self._go_on(finished.file, finished.done, shared=True)
            for _ in range(GROUP - 1):
                other = self._take(0)
                if other is None:
                    return
                if other.wait.alone:
                    self._next = other
                    return
                self._go_on(other.file, other.done, shared=True)
