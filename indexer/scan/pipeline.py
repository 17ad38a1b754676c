"""One recording through all steps: inspect, embed, classify, write the genre. The only place that knows them all.

Owns the order of the steps and the work in flight. The calling thread does everything with the library (one writer);
the executor and the readers do everything with the files. Whatever a file does, the next one goes on.
"""

import os
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np

from indexer.config import Settings
from indexer.encoders.encoder import Part
from indexer.encoders.trajectory import Course
from indexer.errors import DeferredError, FileError, ModelError, ReaderDiedError
from indexer.files.audio.identity import Stat
from indexer.files.children.pool import Readers
from indexer.files.children.worker import Worker
from indexer.files.tags import read as tags
from indexer.files.tags import write as tagwriter
from indexer.files.tags.read import Tags
from indexer.files.tags.write import GenreEdit, Prepared
from indexer.heads.head import Head
from indexer.heads.prediction import Verdict, judge
from indexer.library.store import FileRow, Lacking, Store
from indexer.listen.executor import LOADING, Embedded, Executor, LocalExecutor
from indexer.models.choice import Model
from indexer.scan.journal import commit_write, tag_columns
from indexer.scan.outcome import Counts, Watcher
from indexer.scan.policy import Label, edit_for, held_back, tag_policy_digest

DAMAGED = "its embedding is damaged; `indexer scan --force` makes it again"
MAX_DEATHS = 2  # of the reader on one file, also in different runs; the first may have been bad luck
MAX_DEFERRED = 10_000  # files that are told of
NEWS_S = 0.2  # at most so often is the executor asked what it has to say
GROUP = 256  # events that share a transaction, at most
MAX_COPIES = 50  # of one recording that are looked for when another file of it appears
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class _Event:
    """Something is done, and what comes after it; ``alone``: in no transaction with others."""

    then: Callable[[Future[Any]], None]
    done: Future[Any]
    alone: bool


@dataclass(frozen=True)
class Changed:
    """A file to be read: new, changed, or forced."""

    path: bytes
    root_id: int | None


@dataclass(frozen=True)
class Backlog:
    """A file that was read before and lacks something later."""

    file_id: int


@dataclass
class _Job:
    """One file on its way through the steps."""

    path: bytes
    name: str
    file: FileRow | None = None
    tags: Tags | None = None
    outcome: str = "known"


class Pipeline:
    """Takes work items and sees each file through; see ``run``."""

    def __init__(
        self,
        store: Store,
        settings: Settings,
        model: Model | None,
        *,
        run_id: int,
        watcher: Watcher,
        executor: Executor | None = None,
        write_tags: bool = True,
        force: bool = False,
        explicit_tags: bool = False,
    ) -> None:
        """``explicit_tags``: the user asked for tags to be written, so former undos do not hold them back.

        ``executor``: where the heavy steps run; this machine when None. It is closed at the end of ``run``.
        """
        self.counts = Counts()
        self.turns = 0  # of the loop; it stands still only when something hangs
        self._store = store
        self._settings = settings
        self._model = model
        self._run_id = run_id
        self._watcher = watcher
        self._force = force
        self._explicit_tags = explicit_tags
        self._threshold = 1.0
        self._tag_policy: str | None = None
        self._head = model.head if model else None
        if self._head:
            self._threshold = settings.threshold(self._head.threshold)
        if write_tags and settings.write_tags != "off":
            self._tag_policy = tag_policy_digest(settings, self._head, self._threshold)
        self._heard_s = float("-inf")
        self._events: queue.Queue[_Event] = queue.Queue()
        self._in_flight = 0
        self._to_embed: list[
            tuple[_Job, list[Part]]
        ] = []  # not begun yet: loading the weights must hold up nobody who wants to write
        self._embedding: dict[int, list[_Job]] = {}  # recording -> files that wait for its vector
        self._embedded_now: set[int] = set()
        self._stop = threading.Event()
        self._readers = Readers(settings.worker_count())
        self._executor: Executor = executor or LocalExecutor(self._readers)

    def backlog_count(self, targets: Sequence[bytes]) -> int:
        """How many known files still lack something under this run's encoder, head and settings."""
        return self._store.backlog_count(targets, self._lacking())

    def backlog(self, targets: Sequence[bytes]) -> Iterator[int]:
        """The ids of these files."""
        return self._store.backlog(targets, self._lacking())

    def _lacking(self) -> Lacking:
        # No stored digest is empty: asked for in so many words, every labelled file is looked at again.
        policy = "" if self._explicit_tags and self._tag_policy else self._tag_policy
        return Lacking(
            self._model.encoder_ids if self._model else (),
            self._head.id if self._head else None,
            self._threshold,
            policy,
        )

    def stop(self) -> None:
        """Begin no new file; a tag write in work is finished. Safe to call from a signal handler."""
        self._stop.set()

    def run(self, work: Iterator[Changed | Backlog | None]) -> bool:
        """Work through everything; False when it was stopped before the end. What was finished is stored either way.

        ``work`` is asked again while anything is in flight, also after it gave None or ended: more may have come up.
        """
        started_s = time.monotonic()
        idle_s = 0.0
        try:
            while not self._stop.is_set():
                self.turns += 1
                self._hear()
                item = None
                while self._in_flight < self._executor.limit and (item := next(work, None)) is not None:
                    self._begin(item)
                self._begin_embedding()
                if item is None and self._in_flight == 0:
                    return True
                waits_s = time.monotonic()
                try:
                    event = self._events.get(timeout=0.2)
                except queue.Empty:
                    continue
                finally:
                    idle_s += time.monotonic() - waits_s
                self._settle(event)
            return False
        finally:
            elapsed_s = time.monotonic() - started_s
            load = self._executor.load()
            self.counts.workers = self._executor.workers()
            self.counts.busy = {
                **load,
                "library": max(0.0, 1 - idle_s / elapsed_s - load.get(LOADING, 0.0)),
            }  # it loads in this thread
            self._close()

    def _hear(self) -> None:
        """What the executor has to say, at most a few times a second."""
        if time.monotonic() - self._heard_s < NEWS_S:
            return
        self._heard_s = time.monotonic()
        for about, line in self._executor.news():
            self._watcher.problem(about, line)
        self.counts.workers = self._executor.workers()

    def _settle(self, event: _Event) -> None:
        """Do what is to be done after this event, and after what else waits: as one transaction, for a commit waits for the disk.

        What is next after a prepared tag commits by itself: the journal must be on the disk before the file is replaced.
        """
        if event.alone:
            event.then(event.done)
            return
        with self._store.transaction():
            event.then(event.done)
            for _ in range(GROUP - 1):
                with self._events.mutex:
                    waits = self._events.queue[0] if self._events.queue else None
                if waits is None or waits.alone:
                    return
                event = self._events.get()
                event.then(event.done)

    def _close(self) -> None:
        self._executor.close()
        self._readers.close()
        while not self._events.empty():  # a copy that was prepared too late to be announced
            done = self._events.get_nowait().done
            if done.exception() is None and isinstance(done.result(), dict) and "temp_path" in done.result():
                tagwriter.discard(Prepared.from_json(done.result()))

    # ---- steps; each runs in the calling thread and hands the heavy part to the executor or a reader

    def _begin(self, item: Changed | Backlog) -> None:
        if isinstance(item, Backlog):
            file = self._store.file(item.file_id)
            self._in_flight += 1
            self._embed(_Job(file.path, os.fsdecode(file.path), file))
            return
        job = _Job(item.path, os.fsdecode(item.path))
        self._in_flight += 1
        try:
            before = Stat.of(item.path)
        except OSError:
            self._in_flight -= 1  # gone since the walk: the next scan sees it so
            return
        self._then(self._executor.inspect(job.path, before), partial(self._inspected, job, item.root_id, before))

    def _inspected(self, job: _Job, root_id: int | None, before: Stat, done: Future[dict[str, Any]]) -> None:
        try:
            found = done.result()
        except FileError as e:
            self._not_read(job, before, root_id, None, e)
            return
        job.tags = tags.from_json(found["tags"])
        audio = found["audio"]
        with self._store.transaction():
            recording_id = self._store.recording(
                found["audio_sha256"],
                codec=audio["codec"],
                sample_rate_hz=audio["sample_rate_hz"],
                channels=audio["channels"],
                duration_s=audio["duration_s"],
            )
            # Moved, and the old place was not looked at yet: missing, so that this file takes over its row.
            new = self._store.file_at(job.path) is None
            if new:
                known = self._store.files_of(recording_id, MAX_COPIES)
                self._store.mark_missing([file_id for file_id, path in known if not os.path.lexists(path)])
            file_id = self._store.put_file(
                job.path,
                Stat(**found["stat"]),
                root_id=root_id,
                state="ready",
                container=found["container"],
                recording_id=recording_id,
                deaths=0 if new else self._store.deaths(job.path, Stat(**found["stat"])),
            )
            self._store.put_tags(file_id, tag_columns(job.tags))
        job.file = self._store.file(file_id)
        self._embed(job)

    def _embed(self, job: _Job) -> None:
        recording_id = _known(_known(job.file).recording_id)
        if self._model is None:
            self._label(job)
            return
        if recording_id in self._embedding:
            self._embedding[recording_id].append(job)
            return
        again = self._force and job.tags is not None and recording_id not in self._embedded_now
        missing = [p for p in self._model.parts if again or not self._store.has_embedding(recording_id, p.encoder_id)]
        if missing:
            self._embedding[recording_id] = [job]
            self._to_embed.append((job, missing))
        else:
            self.counts.cached += 1
            self._classify(job)

    def _begin_embedding(self) -> None:
        """Have the first of its missing encoders embed each file that waits; outside of any transaction."""
        waiting, self._to_embed = self._to_embed, []
        for job, missing in waiting:
            self._then(
                self._executor.embed(job.path, _known(job.file).stat, missing[0]), partial(self._embedded, job, missing)
            )

    def _not_read(self, job: _Job, stat: Stat, root_id: int | None, recording_id: int | None, error: FileError) -> None:
        """Store why a file was not read. One that is gone is missing, and one that killed the reader is tried once more."""
        state, reason, deaths = error.state, error.reason, 0
        if not os.path.lexists(job.path):
            with self._store.transaction():
                self._store.mark_missing([job.file.id] if job.file else [])
            job.outcome = "gone"
            self._finish(job)
            return
        if isinstance(error, DeferredError) and len(self.counts.deferred) < MAX_DEFERRED:
            self.counts.deferred.append(job.path)
        if isinstance(error, ReaderDiedError):
            deaths = self._store.deaths(job.path, stat) + error.deaths
            state = "deferred" if deaths < MAX_DEATHS else "unreadable"
            reason += (
                "; the next scan tries once more" if deaths < MAX_DEATHS else ", again; left alone until it changes"
            )
        with self._store.transaction():
            self._store.put_file(
                job.path,
                stat,
                root_id=root_id,
                state=state,
                reason=reason,
                deaths=deaths,
                recording_id=None if state == "unreadable" else recording_id,
            )
        self._fail(job, reason)

    def _root_of(self, file: FileRow) -> int | None:
        root = self._store.root_for(file.path)
        return int(root["id"]) if root else None

    def _embedded(self, job: _Job, missing: list[Part], done: Future[Embedded]) -> None:
        file = _known(job.file)
        recording_id = _known(file.recording_id)
        error = done.exception()
        if isinstance(error, FileError):
            waiting = self._embedding.pop(recording_id)[1:]
            self._not_read(job, file.stat, self._root_of(file), recording_id, error)
            for other in waiting:  # other files of the recording may be whole
                self._embed(other)
            return
        if error is not None:
            reason = f"no embedding: {error}"
            if isinstance(
                error, ValueError
            ):  # too short stays too short; anything else is tried again by the next scan
                self._store.set_recording_reason(recording_id, reason)
            for other in self._embedding.pop(recording_id):
                self._fail(other, reason)
            return
        result = done.result()
        self.counts.engine = self._executor.engine()
        with self._store.transaction():
            self._store.put_embedding(recording_id, missing[0].encoder_id, result.vector, result.units, result.course)
            self._store.set_decoded_length(recording_id, result.duration_s)
            if len(missing) == 1:
                self._judge(recording_id)
        if len(missing) > 1:
            self._to_embed.append((job, missing[1:]))
            return
        waiting = self._embedding.pop(recording_id)
        self._embedded_now.add(recording_id)
        self.counts.embedded += 1
        self.counts.audio_s += result.duration_s
        self.counts.cached += len(waiting) - 1
        for other in waiting:
            other.outcome = "embedded" if other is job else "known"
            self._classify(other)

    def _judge(self, recording_id: int) -> None:
        """Store the head's verdict from the cached embeddings; call inside a transaction."""
        if self._head:
            cached = [
                _known(self._store.embedding(recording_id, encoder_id))
                for encoder_id in _known(self._model).encoder_ids
            ]
            put_verdict(
                self._store,
                recording_id,
                self._head,
                self._threshold,
                [(row["vector"], row["course"]) for row in cached],
            )

    def _classify(self, job: _Job) -> None:
        if self._head is None:
            self._label(job)
            return
        recording_id = _known(_known(job.file).recording_id)
        prediction = self._store.prediction(recording_id, self._head.id)
        if prediction is None or prediction["threshold"] != self._threshold:
            try:
                with self._store.transaction():
                    self._judge(recording_id)
            except ModelError as e:
                self._fail(job, str(e))
                return
            prediction = _known(self._store.prediction(recording_id, self._head.id))
        self.counts.classified += 1
        self.counts.undecided += not prediction["decided"]
        sure = "" if prediction["decided"] else "?"
        job.outcome = f"{job.outcome}, {prediction['genre']}{sure} {prediction['confidence']:.0%}"
        self._label(job, Label(prediction["genre"], prediction["confidence"]) if prediction["decided"] else None)

    def _label(self, job: _Job, label: Label | None = None) -> None:
        """Write the genre: what a person said, else the head's, if it decided."""
        file = _known(job.file)
        said = self._store.correction(_known(file.recording_id))
        if said is not None:
            label = Label(said["genre"], 1.0, said["corrected_at"])
        settled = file.tag_policy == self._tag_policy and not self._explicit_tags
        if label is None or self._tag_policy is None or settled:
            self._finish(job)
        elif job.tags is not None:
            self._plan_tag(job, label)
        else:
            self._then(
                self._readers.submit(lambda worker: worker.call("read_tags", job.path)),
                partial(self._tags_read, job, label),
            )

    def _tags_read(self, job: _Job, label: Label, done: Future[dict[str, Any]]) -> None:
        try:
            job.tags = tags.from_json(done.result()["tags"])
        except FileError as e:
            self._fail(job, e.reason)
            return
        self._plan_tag(job, label)

    def _plan_tag(self, job: _Job, label: Label) -> None:
        file = _known(job.file)
        edit = edit_for(self._settings, self._head, _known(job.tags), label)
        last = self._store.last_write(file.id)
        held = (
            last is not None
            and not self._explicit_tags
            and held_back(last["action"], last["state"], last["stat_before"], last["written_at"], file.stat, label)
        )
        if edit is None or held:
            self._store.settle_tags(file.id, _known(self._tag_policy))
            self._finish(job)
            return
        prepare = partial(
            Worker.call,
            op="prepare_write",
            path=job.path,
            container=file.container,
            edit=tagwriter.edit_to_json(edit),
            preserve_mtime=self._settings.preserve_mtime,
        )
        self._then(self._readers.submit(prepare), partial(self._prepared, job, edit), alone=True)

    def _prepared(self, job: _Job, edit: GenreEdit, done: Future[dict[str, Any]]) -> None:
        file = _known(job.file)
        try:
            prepared = Prepared.from_json(done.result())
            if self._stop.is_set():
                tagwriter.discard(prepared)
                return
            commit_write(self._store, prepared, file_id=file.id, run_id=self._run_id, ours=edit.describe())
        except DeferredError as e:
            self._fail(job, f"genre not written: {e.reason}")
            return
        except FileError as e:  # left alone until the file or the settings change, or `tags apply` asks for it
            with suppress(OSError):
                tagwriter.remove_copies(job.path)  # of a reader that was killed
            with self._store.transaction():
                self._store.refuse_write(
                    file_id=file.id, run_id=self._run_id, path=job.path, action="write", stat=file.stat, reason=e.reason
                )
                self._store.settle_tags(file.id, _known(self._tag_policy))
            self.counts.tags_refused += 1
            self._watcher.problem(job.name, f"genre not written: {e.reason}")
            self._finish(job)
            return
        self._store.settle_tags(file.id, _known(self._tag_policy))
        self.counts.tags_written += 1
        job.outcome += ", tag written"
        self._finish(job)

    # ---- bookkeeping

    def _finish(self, job: _Job) -> None:
        self._in_flight -= 1
        self._watcher.advance(job.name, job.outcome)

    def _fail(self, job: _Job, reason: str) -> None:
        self.counts.failed += 1
        if len(self.counts.failures) < 1000:
            self.counts.failures.append((job.name, reason))
        self._watcher.problem(job.name, reason)
        job.outcome = "failed"
        self._finish(job)

    def _then(self, task: "Future[Any]", then: Callable[[Future[Any]], None], *, alone: bool = False) -> None:
        """Have ``then`` called by the run's own thread when ``task`` is done."""
        task.add_done_callback(lambda f: None if f.cancelled() else self._events.put(_Event(then, f, alone)))


def put_verdict(
    store: Store, recording_id: int, head: Head, threshold: float, cached: Sequence[tuple[bytes, bytes | None]]
) -> Verdict:
    """Judge a recording by its cached (vector, course) of every encoder and store that; call inside a transaction.

    Raises ModelError for an embedding that is damaged.
    """
    try:
        vectors = [np.frombuffer(vector, "<f2") for vector, _ in cached]
        verdict = judge(
            head, threshold, vectors, [Course.from_bytes(course) if course else None for _, course in cached]
        )
    except (ValueError, ModelError) as e:
        raise ModelError(DAMAGED) from e
    if not np.isfinite(verdict.confidence):
        raise ModelError(DAMAGED)
    store.put_prediction(
        recording_id, head.id, verdict.scores, threshold, reason=verdict.reason, second_genre=verdict.second_genre
    )
    if verdict.timeline is not None:
        store.put_timeline(recording_id, head.id, verdict.segment_s, verdict.timeline.tobytes())
    return verdict


def _known(value: _T | None) -> _T:
    assert value is not None
    return value
