"""One scan from start to end: locks the library, settles open writes, compares, works, sums up.

Knows neither click nor a terminal: it reports progress to its Listener.
"""

import math
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from functools import partial
from itertools import chain, islice, takewhile
from pathlib import Path
from typing import Any

from indexer.analysis.analyser import VERSION
from indexer.config import Settings
from indexer.errors import ConfigError, ModelError
from indexer.files.links import is_file, is_folder
from indexer.files.mounts import watch_mode
from indexer.files.walk import folders_to_scan
from indexer.heads.electronic import Ear
from indexer.library.lock import library_lock
from indexer.library.registered import heard_roughly
from indexer.library.store import Store
from indexer.library.vectors import approximate, projection, same_sound
from indexer.listen.executor import Executor
from indexer.models.choice import Chosen, choose_and_register, pipeline_model
from indexer.scan.difference import file_changed, look_at, spool_difference
from indexer.scan.genre_labels import update_genre_labels
from indexer.scan.heard import hear_cached
from indexer.scan.journal import settle_open_writes
from indexer.scan.label_sets import load_sets
from indexer.scan.live_run import LiveRun, recorded
from indexer.scan.outcome import Counts, Listener, ScanResult
from indexer.scan.pipeline import Pipeline
from indexer.scan.work import Backlog, Changed, Item, Rough, Unanalysed
from indexer.wording import printable

OnStart = Callable[[int, Chosen | None], None]
SLICE = 500  # files that are heard whole between two updates of the map


class Scan:
    """One scan. While it works, another thread may call ``stop`` and ``add``, a signal handler ``stop``."""

    def __init__(self, settings: Settings, listener: Listener, *, watched: bool = False) -> None:
        """``watched``: the folders are watched, so a file that is being written now is named again later."""
        self._settings = settings
        self._watched = watched
        self._listener = listener
        self._pipeline: Pipeline | None = None
        self._stopped = False
        self._named: deque[bytes] = deque()
        self._refine_until_s = None if watched else math.inf  # None: the daemon orders it, see ``refine``

    def stop(self) -> None:
        """Finish the files in flight, then end."""
        self._stopped = True
        if self._pipeline:
            self._pipeline.stop()

    @property
    def turns(self) -> int:
        """Rounds of the work loop; the number stands still only when something hangs."""
        return self._pipeline.turns if self._pipeline else 0

    @property
    def workers(self) -> list[dict[str, Any]]:
        """What each worker of the cluster did so far; empty without a cluster."""
        return self._pipeline.counts.workers if self._pipeline else []

    def add(self, paths: Iterable[bytes]) -> None:
        """Have these files and folders looked at before everything else.

        Vanished paths come first, so that a moved file finds its former row; then the path that was added last.
        """
        self._named.extend(sorted(paths, key=lambda path: not os.path.lexists(path)))

    def left_over(self) -> list[bytes]:
        """Return the paths that were added too late for this run."""
        left, self._named = list(self._named), deque()
        return left

    def run(
        self,
        paths: Sequence[Path],
        *,
        write_tags: bool = True,
        force: bool = False,
        explicit_tags: bool = False,
        analyse: bool = False,
        on_start: OnStart = lambda _total, _chosen: None,
    ) -> ScanResult:
        """Scan folders and files. ``on_start(total, chosen)`` is called with the number of files to work on.

        ``analyse``: when all is done, measure known recordings that an earlier version did not measure.

        Raises LockedError, ConfigError, ModelError or StoreError before any work.
        """
        with library_lock(self._settings.db), Store(self._settings.db) as store:
            settle_open_writes(store)
            targets = folders_to_scan(paths, self._settings.roots, store.root_paths())
            for target in targets:
                if store.root_for(target) is None and not os.path.exists(target):  # noqa: PTH110 - bytes
                    raise ConfigError(f"{printable(target)}: no such folder or file")
            return self._run(
                store,
                "scan",
                targets,
                on_start,
                write_tags=write_tags,
                force=force,
                explicit_tags=explicit_tags,
                analyse_s=math.inf if analyse else 0.0,
            )

    def run_named(self, paths: Iterable[bytes]) -> ScanResult:
        """Look at files and folders of known roots that may have changed, appeared or gone. Raises as ``run`` does."""
        self.add(paths)
        with library_lock(self._settings.db), Store(self._settings.db) as store:
            settle_open_writes(store)
            return self._run(
                store, "watch", (), lambda _total, _chosen: None, write_tags=True, force=False, explicit_tags=False
            )

    def analyse(self, at_most_s: float) -> ScanResult:
        """Measure known recordings that an earlier version did not measure, newest first.

        Ends after so many seconds, and when paths are added. Raises as ``run`` does.
        """
        with library_lock(self._settings.db), Store(self._settings.db) as store:
            settle_open_writes(store)
            targets = folders_to_scan((), self._settings.roots, store.root_paths())
            started = time.monotonic()
            chosen = choose_and_register(store, self._settings)
            run_id = store.start_run("analyse")
            live = LiveRun(store, run_id, self._listener, started)
            result = live.result = ScanResult(Counts(), named=True)
            with recorded(store, run_id, result, started):
                self._analyse(store, chosen, targets, live, at_most_s)
                if chosen and result.counts.analysed and not (result.interrupted or result.unanalysed):
                    self._place(store, chosen)
                if result.counts.analysed:
                    self._keep_playlists(store, result)
            return result

    def refine(self, limit_s: float) -> ScanResult:
        """Hear whole what was heard roughly, for about so many seconds; files that are added meanwhile come first.

        Raises as ``run`` does.
        """
        self._refine_until_s = time.monotonic() + limit_s
        return self.run_named(())

    def _run(
        self,
        store: Store,
        command: str,
        targets: Sequence[bytes],
        on_start: OnStart,
        *,
        force: bool,
        analyse_s: float = 0.0,
        **how: Any,
    ) -> ScanResult:
        started = time.monotonic()
        chosen = choose_and_register(store, self._settings)
        run_id = store.start_run(command)
        changes = store.connection.total_changes
        live = LiveRun(store, run_id, self._listener, started)
        pipeline = self._pipeline = Pipeline(
            store,
            self._settings,
            pipeline_model(chosen, self._settings) if chosen else None,
            run_id=run_id,
            listener=live,
            executor=self._executor(chosen, targets),
            sets=load_sets(store, self._settings, live.problem),
            force=force,
            files_left=lambda: max(0, live.total - live.done) + len(self._named),
            **how,
        )
        result = live.result = ScanResult(pipeline.counts, named=command == "watch")
        with recorded(store, run_id, result, started):
            with closing(pipeline):
                if chosen and not result.named:
                    self._hear_cached(store, chosen.ears)
                self._look(store, targets, result, force=force)
                backlog_files, size_bytes = pipeline.backlog_size(targets)
                files = store.changed_count() + backlog_files
                on_start(files, chosen)
                live.begin("scanning", files, size_bytes + _bytes_of_changed(store))
                if self._stopped:
                    pipeline.stop()
                rest = self._rest(store, pipeline, targets) if files else iter(())
                result.interrupted = not pipeline.run(self._work(store, rest, result))
                if pipeline.counts.any() or not result.named:
                    update_genre_labels(store, self._settings)
                if chosen and not result.interrupted and (pipeline.counts.embedded or not result.named):
                    self._place(store, chosen)
                if not result.interrupted and (not result.named or store.connection.total_changes != changes):
                    self._keep_playlists(store, result)
                changes = store.connection.total_changes
                if chosen:
                    self._refine(store, pipeline, chosen, targets, live)
            if not (result.interrupted or result.named):
                analysed = result.counts.analysed
                self._analyse(store, chosen, targets, live, analyse_s)
                if chosen and result.counts.analysed > analysed and not result.interrupted:
                    self._place(store, chosen)
            if store.connection.total_changes != changes:
                self._keep_playlists(store, result)
            _count_states(store, targets, result)
        return result

    def _keep_playlists(self, store: Store, result: ScanResult) -> None:
        """Bring the user's playlists up to date; what cannot be written is told with the result."""
        if not self._settings.playlists:
            return
        from indexer.exchange import living  # a tenth of all that a scan imports

        problems = living.refresh(store.connection, self._settings)
        result.notes += [problem for problem in problems if problem not in result.notes]

    def _refine(
        self, store: Store, pipeline: Pipeline, chosen: Chosen, targets: Sequence[bytes], live: LiveRun
    ) -> None:
        """Hear whole what is heard roughly, the newest files first; the map follows now and then."""
        result, encoders = live.result, [part.encoder_id for part in chosen.info.parts]
        until_s = self._refine_until_s
        if until_s is None:  # not counted: perhaps a single file of a large library is worked on
            result.rough_left = result.counts.rough if result.named else heard_roughly(store.connection, encoders)
            return
        if not result.interrupted:
            files, size_bytes = store.spool_rough(targets, encoders)
            if files:
                live.begin("hearing whole", files, size_bytes)
            rough = map(Rough, takewhile(lambda _: time.monotonic() < until_s, store.rough_files()))
            while not result.interrupted and (first := next(rough, None)) is not None:
                some: Iterator[Item] = chain([first], islice(rough, SLICE - 1))
                result.interrupted = not pipeline.run(self._work(store, some, result))
                self._place(store, chosen)
        result.rough_left = heard_roughly(store.connection, encoders)

    def _executor(self, chosen: Chosen | None, targets: Sequence[bytes]) -> Executor | None:
        """Where the heavy steps run; None: here."""
        if self._settings.cluster is None:
            return None
        from indexer.cluster.executor import ClusterExecutor

        roots = targets or [os.fsencode(root) for root in self._settings.roots]
        encoders = chosen.info.parts if chosen else ()
        return ClusterExecutor(self._settings, encoders, [root for root in roots if os.path.exists(root)])  # noqa: PTH110 - bytes

    def _hear_cached(self, store: Store, ears: Sequence[Ear]) -> None:
        """Store what cached vectors tell and an earlier version did not store."""
        try:
            hear_cached(store, ears, lambda: self._stopped, self._listener.step)
        except ModelError as e:  # the package is damaged; what needs no tags goes on
            self._listener.problem(str(self._settings.db), f"no tags were heard ({e})")

    def _place(self, store: Store, chosen: Chosen) -> None:
        """Update the map, what sounds the same and the index of what is similar.

        An error is reported and fails no scan; the next one tries again.
        """
        parts = [part.encoder_id for part in chosen.info.parts]
        try:
            for update, step in (
                (projection.update, "placing on the map"),
                (same_sound.update, "comparing"),
                (approximate.update, "indexing what is similar"),
            ):
                update(store, chosen.info.encoder_id, parts, lambda: self._stopped, partial(self._listener.step, step))
        except Exception as e:  # all files are done; nothing but the map and the duplicates is lost
            self._listener.problem(str(self._settings.db), f"the map was not brought up to date ({e})")

    def _analyse(
        self, store: Store, chosen: Chosen | None, targets: Sequence[bytes], live: LiveRun, at_most_s: float
    ) -> None:
        """Measure known recordings among the targets, for at most so many seconds and until paths are added."""
        result, counts = live.result, live.result.counts
        result.unanalysed, size_bytes = store.unanalysed_size(targets, VERSION)
        if not result.unanalysed or not at_most_s:
            return
        live.begin("measuring tempo and key", result.unanalysed, size_bytes)
        ends_s, before = time.monotonic() + at_most_s, counts.analysed

        def files() -> Iterator[Unanalysed]:
            for file_id in store.unanalysed(targets, VERSION):
                if time.monotonic() > ends_s or self._named:
                    return
                yield Unanalysed(file_id)
            result.unanalysed = 0  # what could not be measured now is left to the next scan

        pipeline = self._pipeline = Pipeline(
            store,
            replace(self._settings, jobs=1) if self._watched else self._settings,
            pipeline_model(chosen, self._settings) if chosen else None,
            run_id=live.run_id,
            listener=live,
            counts=counts,
        )
        if self._stopped:
            pipeline.stop()
        of_the_scan = counts.busy, counts.workers
        with closing(pipeline):
            result.interrupted = not pipeline.run(files())
        counts.busy, counts.workers = of_the_scan
        if result.unanalysed:
            result.unanalysed -= counts.analysed - before

    def _rest(self, store: Store, pipeline: Pipeline, targets: Sequence[bytes]) -> Iterator[Item]:
        """The difference, then the backlog."""
        found = (Changed(path, root_id) for path, root_id in store.changed())
        return chain(found, map(Backlog, pipeline.backlog(targets)))

    def _work(self, store: Store, rest: Iterator[Item], result: ScanResult) -> Iterator[Item | None]:
        """Yield files added meanwhile, then the rest; None when there is nothing to do now."""
        while True:
            while self._named:
                path = self._named.pop()
                root = store.root_for(path)
                result.scan_again |= root is not None and root["state"] == "offline" and os.path.lexists(path)
                for changed in look_at(store, path, self._settings.ignore):
                    yield Changed(changed, root["id"] if root else None)
            yield next(rest, None)

    def _look(self, store: Store, targets: Sequence[bytes], result: ScanResult, *, force: bool) -> None:
        store.clear_spool()
        healthy: list[tuple[int, int | None]] = []
        for target in targets:
            root = store.root_for(target)
            if is_file(target):
                if force or file_changed(store.file_at(target), target):
                    store.spool_changed([(target, root["id"] if root else None)])
                continue
            root_id = int(root["id"]) if root else store.add_root(target)
            # A busy file is left for later only where an event will name it again. (On NFS every file looks busy.)
            leave_busy = self._watched and watch_mode(target)[0] == "events + scan"
            difference = spool_difference(
                store, target, root_id=root_id, ignore=self._settings.ignore, force=force, leave_busy=leave_busy
            )
            result.left_out += difference.left_out
            result.notes += [
                f"{folder}: this folder cannot be read; its files are kept as they were"
                for folder in difference.unlisted
                if not (difference.offline and folder == printable(target))
            ]
            if not is_folder(target):
                store.mark_below_missing(target)
            if difference.offline:
                result.notes.append(f"{difference.offline} Nothing was forgotten.")
            if root is None or root["path"] == target:
                store.set_root_health(root_id, difference.offline)
                if not difference.offline:
                    healthy.append((root_id, difference.dev))
        # Before root_scanned, so that a vanished file was last seen at the scan before this one.
        store.mark_vanished_missing()
        for root_id, dev in healthy:
            store.root_scanned(root_id, dev)


def _bytes_of_changed(store: Store) -> int:
    """The size of the files that were spooled as changed."""
    size = 0
    for path, _ in store.changed():
        with suppress(OSError):
            size += os.stat(path).st_size  # noqa: PTH116 - bytes
    return size


def _count_states(store: Store, targets: Sequence[bytes], result: ScanResult) -> None:
    states, result.truncated = store.count_states(targets)
    result.files = sum(n for state, n in states.items() if state != "missing")
    result.unreadable = states.get("unreadable", 0)
    result.unsupported = states.get("unsupported", 0)
    result.missing = states.get("missing", 0)
