"""The daemon `indexer watch`: watches the music folders and has changed files processed.

Decides when a scan is due, gives orders to the working process (indexer.watch.runner), prints its reports, writes the
status file and handles signals. Reads no music file, never imports torch and never writes to the library: the working
process does, and it ends when it has been idle for ``unload_after_s``. The library is locked only while that process
works, so other commands can use it in between.
"""

import faulthandler
import json
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from indexer import __version__
from indexer.config import Settings
from indexer.errors import ConfigError, IndexerError, LockedError
from indexer.files.audio.identity import Stat
from indexer.files.mounts import watch_mode
from indexer.files.walk import folders_to_scan
from indexer.library.lock import watch_lock
from indexer.library.readonly import reading
from indexer.library.roots import known_roots
from indexer.library.sqlite import now
from indexer.library.tracks import ready_stat
from indexer.watch import notify
from indexer.watch.folders import FolderWatcher
from indexer.watch.retries import Retries
from indexer.watch.runner_handle import RunnerHandle
from indexer.watch.status import status_path
from indexer.wording import escaped, printable

STOP_S = 90.0  # how long the working process may take to finish the file it is at
STALL_S = 1800.0  # a working process silent for this long is killed; walking a slow network drive takes long
FIRST_RETRY_S, LAST_RETRY_S = 5.0, 600.0  # wait after a failure, doubled each time
ASKED_S = 5.0  # from SIGUSR1 to the scan: labelling tracks on the pages sends many signals, one scan serves them
# Known recordings that were heard roughly are heard whole, and then measured by one reader, when nothing else is to be
# done: by order, the daemon's state meanwhile, and the seconds of one part.
BACKGROUND = {"refine": ("working", 300.0), "analyse": ("measuring", 60.0)}
BETWEEN_S = 10.0  # from one part to the next, in which the library is not locked
STATUS_S = 2.0  # seconds between two writes of the status file during a run

Say = Callable[[str, int], None]  # (line, level): level 0 is printed always, 1 only with -v


class Daemon:
    """Watches some folders until a signal stops it; see ``run``."""

    def __init__(self, settings: Settings, paths: Sequence[Path], say: Say, reload: Callable[[], Settings]) -> None:
        """``reload`` reads the settings again (SIGHUP); it may raise ConfigError."""
        self._settings = settings
        self._paths = paths
        self._say = say
        self._reload = reload
        self._watcher: FolderWatcher
        self._event_roots: list[bytes] = []  # folders whose events are heard; the others are only scanned
        self._mounts: list[int] = []  # file descriptor of /proc/self/mountinfo, where it exists
        self._runner: RunnerHandle | None = None
        self._stopping = 0  # stop signals received so far
        self._reloading = False  # SIGHUP came
        self._asked = False  # SIGUSR1 asked for a scan
        self._retries: Retries
        self._next_scan_s = time.monotonic()
        self._not_before_s = float("-inf")  # no order before this time, because the last one failed
        self._retry_s = FIRST_RETRY_S
        self._rough_left = 0  # recordings, about, that are heard only roughly so far
        self._refine_from_s = float("-inf")  # when to hear more of them whole
        self._analyse_s: float | None = None  # when to measure more of the known recordings; None: there are none
        self._left_over: list[bytes] = []  # changed paths that no order contained yet
        self._said: set[str] = set()  # current problems that were printed
        self._said_notes: set[str] = set()  # notes of the last scan
        self._said_failure: str | None = None  # the last failure printed, until a run succeeds
        self._status: dict[str, Any] = {
            "pid": os.getpid(),
            "version": __version__,
            "started_at": now(),
            "state": "starting",
            "reason": None,
            "done": 0,
            "total": None,
            "last_scan_at": None,
            "last_scan": None,
            "encoder": None,
            "device": None,
        }
        self._work_began_s = 0.0
        self._status_written_s = float("-inf")

    def run(self) -> int:
        """Watch until a stop signal comes; return the exit code.

        Raises LockedError, ConfigError or StoreError at the start.
        """
        # systemd's watchdog ends a hanging process with SIGABRT: print a traceback then.
        faulthandler.enable(sys.__stderr__ or sys.stderr)
        # Other processes send SIGUSR1 to the holder of the lock; unhandled, it would end this process.
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        with watch_lock(self._settings.db):
            self._settings = self._with_roots(self._settings)
            wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
            before = self._take_signals(wake_write)
            self._watch(wake_write)
            try:
                with suppress(OSError):
                    self._mounts = [os.open("/proc/self/mountinfo", os.O_RDONLY | os.O_CLOEXEC)]
                notify.notify("READY=1")
                self._say(f"watching {', '.join(printable(os.fsencode(root)) for root in self._settings.roots)}", 0)
                while not self._stopping:
                    if self._reloading:
                        self._take_up_settings(wake_write)
                    self._turn(wake_read)
                notify.notify("STOPPING=1")
                return self._end()
            finally:
                self._watcher.stop()
                for mounts in self._mounts:
                    os.close(mounts)
                signal.set_wakeup_fd(-1)
                for number, handler in before.items():
                    signal.signal(number, handler)
                status_path(self._settings.db).unlink(missing_ok=True)

    def _with_roots(self, settings: Settings) -> Settings:
        """The settings with the folders to watch, as absolute paths.

        Raises ConfigError for a folder that does not exist and is not in the library, or where there is none to watch.
        """
        known = known_roots(settings.db)
        roots = folders_to_scan(self._paths, settings.roots, known)
        for root in roots:
            if root not in known and not os.path.isdir(root):  # noqa: PTH112 - bytes
                raise ConfigError(f"{printable(root)}: no such folder")
        return replace(settings, roots=tuple(Path(os.fsdecode(root)) for root in roots))

    def _watch(self, wake: int) -> None:
        """Begin to watch the folders whose events the system reports; the others are only scanned."""
        roots = [os.fsencode(root) for root in self._settings.roots]
        self._event_roots = [root for root in roots if watch_mode(root)[0] == "events + scan"]
        watcher = FolderWatcher(
            self._event_roots, ignore=self._settings.ignore, settle_s=self._settings.settle_s, is_ours=self._is_known
        )
        watcher.start()
        self._watcher = watcher
        # The next scan finds the paths that waited in the former Retries.
        self._retries = Retries(self._settings.settle_s, self._settings.scan_interval_s)

        def bridge() -> None:  # a wait on the watcher becomes a byte in the pipe that the loop selects on
            while self._watcher is watcher:
                watcher.wait(3600)
                with suppress(BlockingIOError):
                    os.write(wake, b"w")

        threading.Thread(target=bridge, name="wake", daemon=True).start()

    def _take_signals(self, wake: int) -> dict[signal.Signals, Any]:
        """Install handlers that only set a flag; the signal wakes the loop. Returns the former handlers."""

        def stop(_number: int, _frame: Any) -> None:
            self._stopping += 1
            if self._stopping > 1 and self._runner:
                self._runner.kill()  # the next start repeats what is lost

        def hang_up(_number: int, _frame: Any) -> None:
            self._reloading = True

        def ask(_number: int, _frame: Any) -> None:
            self._asked = True

        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        handlers = {signal.SIGTERM: stop, signal.SIGINT: stop, signal.SIGHUP: hang_up, signal.SIGUSR1: ask}
        return {number: signal.signal(number, handler) for number, handler in handlers.items()}

    # ---- one turn of the loop

    def _turn(self, wake: int) -> None:
        """Collect changed paths, give the orders that are due, and sleep until the next event or due time."""
        moment_s = time.monotonic()
        named = [*self._watcher.ready(moment_s), *self._retries.due(moment_s)]
        if self._asked:
            self._asked = False
            self._next_scan_s = min(self._next_scan_s, moment_s + ASKED_S)
        for root in self._event_roots:
            if self._watcher.needs_full_scan(root):
                self._next_scan_s = min(self._next_scan_s, moment_s)
        self._say_problems()
        self._order(named, moment_s)
        self._write_status(moment_s)
        notify.notify("WATCHDOG=1")
        sources: list[Any] = [wake, *([self._runner.stdout] if self._runner else [])]
        # The kernel reports a change of mounts as an exceptional condition of mountinfo.
        readable, _, _ = select.select(sources, [], self._mounts, self._sleep_s(moment_s))
        if wake in readable:
            with suppress(BlockingIOError):
                os.read(wake, 4096)
        if self._runner:
            self._hear(self._runner)

    def _order(self, named: list[bytes], moment_s: float) -> None:
        """Give the working process what is due; changed paths are added to a run in progress."""
        runner = self._runner
        if runner and runner.busy:
            if named:
                runner.order("named", named)
            if moment_s - runner.heard_s > STALL_S:
                minutes = f"{STALL_S / 60:.0f} minutes"
                self._say(f"the working process gave no sign of life for {minutes} and is started anew", 0)
                runner.kill()
            return
        self._left_over += named
        if moment_s < self._not_before_s:
            return
        if moment_s >= self._next_scan_s:
            self._left_over = []  # the scan finds them too
            self._next_scan_s = moment_s + self._settings.scan_interval_s
            self._begin("scanning").order("scan")
        elif self._left_over:
            waiting, self._left_over = self._left_over, []
            self._begin("working").order("named", waiting)
        elif (background := self._background()) and moment_s >= background[1]:
            order, _ = background
            state, at_most_s = BACKGROUND[order]
            self._begin(state).order(order, at_most_s=at_most_s)
        elif runner and moment_s - runner.heard_s >= self._settings.unload_after_s:
            self._runner = None
            runner.stop(STOP_S)

    def _background(self) -> tuple[str, float] | None:
        """The order for when nothing else is due, and from when on; what is heard whole is measured in that pass."""
        if self._rough_left:
            return "refine", self._refine_from_s
        return None if self._analyse_s is None else ("analyse", self._analyse_s)

    def _begin(self, state: str) -> RunnerHandle:
        if self._runner is None:
            self._runner = RunnerHandle(self._settings)
        self._work_began_s = time.monotonic()
        self._set(state=state, reason=None, done=0, total=None)
        return self._runner

    def _sleep_s(self, moment_s: float) -> float:
        """Seconds until something is due without an event."""
        due = [max(self._next_scan_s, self._not_before_s)]
        if (background := self._background()) and not (self._runner and self._runner.busy):
            due.append(max(background[1], self._not_before_s))
        if self._runner:
            due.append(self._runner.heard_s + (STALL_S if self._runner.busy else self._settings.unload_after_s))
            if self._runner.busy:
                due.append(moment_s + STATUS_S)
        if self._left_over:
            due.append(self._not_before_s)
        due += [self._watcher.due_s, self._retries.next_s]
        if self._watcher.pending:
            due.append(moment_s + max(0.1, self._settings.settle_s / 4))
        if watchdog_s := notify.watchdog_interval_s():
            due.append(moment_s + watchdog_s / 2)
        return max(0.0, min(due) - moment_s)

    # ---- messages of the working process

    def _hear(self, runner: RunnerHandle) -> None:
        for message in runner.messages():
            kind = message.pop("kind")
            if kind == "file":
                self._status["done"] += 1
                self._say(f"{printable(os.fsencode(message['path']))}: {message['outcome']}", 1)
            elif kind == "problem":
                self._say(f"{printable(os.fsencode(message['path']))}: {message['reason']}", 0)
            elif kind == "begin":
                self._set(total=message["total"], encoder=message["encoder"])
            elif kind == "result":
                self._retries.failed(map(os.fsencode, message["deferred"]), time.monotonic())
                self._worked(message["order"], message["result"])
            elif kind == "failed":
                self._failed(message["message"], locked=message["exit_code"] == LockedError.exit_code)
        if not runner.busy and self._status["state"] in ("scanning", "working", "measuring"):
            self._set(state="idle")
        if runner.ended:
            self._runner = None
            if runner.busy and not self._stopping:
                self._failed(f"the working process ended unexpectedly ({runner.how()})", locked=False)

    def _worked(self, order: str, result: dict[str, Any]) -> None:
        self._retry_s, self._said_failure = FIRST_RETRY_S, None
        result.pop("failures", None)
        scan_again = result.pop("scan_again", False)
        self._set(device=result["device"] or self._status["device"])
        self._rough_left = max(result["rough_left"], self._rough_left if order == "named" else 0)
        if order == "refine" and not result["refined"]:
            self._rough_left = 0  # what cannot be heard now waits for the next scan
        self._refine_from_s = time.monotonic() + (BETWEEN_S if order == "refine" else 0.0)
        if order == "scan":
            for note in sorted(set(result["notes"]) - self._said_notes):
                self._say(note, 0)
            self._said_notes = set(result["notes"])
            self._set(last_scan_at=now(), last_scan=result)
        if order in ("scan", "analyse"):
            pause_s = BETWEEN_S if order == "analyse" else 0.0
            self._analyse_s = time.monotonic() + pause_s if result["unanalysed"] else None
        if scan_again:
            self._next_scan_s = min(self._next_scan_s, time.monotonic() + self._settings.settle_s)
        if result["embedded"] or result["refined"] or result["tags_written"] or result["failed"]:
            files = f"{result['files']:,} files, " if order == "scan" else ""
            whole = f", {result['refined']:,} heard whole ({self._rough_left:,} left)" if result["refined"] else ""
            self._say(
                f"{files}{result['embedded']:,} embedded{whole}, {result['tags_written']:,} tags written, "
                f"{result['failed']:,} failed in {result['elapsed_s']:.0f} s",
                0,
            )

    def _failed(self, message: str, *, locked: bool) -> None:
        """Schedule a scan in place of the failed order, after a wait that doubles with each failure."""
        if self._said_failure != message:
            self._say(f"{message}; tried again in {self._retry_s:.0f} s, and then later and later", 0)
        self._said_failure = message
        moment_s = time.monotonic()
        self._not_before_s = moment_s + self._retry_s
        self._retry_s = min(2 * self._retry_s, 30.0 if locked else LAST_RETRY_S)
        self._next_scan_s = self._not_before_s  # the scan finds the changed paths too
        self._set(state="waiting", reason=message)

    def _say_problems(self) -> None:
        """Print each current problem once, and why a folder is only scanned."""
        standing = {f"{printable(root)}: {text}" for root, text in self._watcher.problems()}
        for root in self._settings.roots:
            mode, reason = watch_mode(os.fsencode(root))
            if reason:
                standing.add(f"{printable(os.fsencode(root))}: {mode}, {reason}")
        for text in sorted(standing - self._said):
            self._say(text, 0)
        self._said = standing

    # ---- settings, status, end

    def _take_up_settings(self, wake: int) -> None:
        """Read the settings file again after SIGHUP; the settings stay as they were if it is invalid."""
        self._reloading = False
        notify.notify("RELOADING=1")
        try:
            self._settings = self._with_roots(replace(self._reload(), db=self._settings.db))
        except IndexerError as e:
            self._say(f"the settings stay as they were: {e}", 0)
        else:
            self._say("settings read again", 0)
            if self._runner:
                self._runner.stop(STOP_S)
                self._runner = None
            self._watcher.stop()
            self._watch(wake)
            self._next_scan_s = time.monotonic()
        notify.notify("READY=1")

    def _end(self) -> int:
        """Let the working process finish its file; return 0, or 1 if a second signal killed it."""
        self._say("stopping: finishing what is in work (again to stop at once)", 0)
        if self._runner:
            self._runner.stop(STOP_S)
        return 1 if self._stopping > 1 else 0

    def _is_known(self, path: bytes, found: os.stat_result) -> bool:
        """Whether the library has the file with this stat: the event came from our own write, or nothing changed."""
        try:
            with reading(self._settings.db) as conn:
                stat = ready_stat(conn, path)
        except IndexerError:
            return False
        return stat == Stat.from_result(found)

    def _set(self, **values: Any) -> None:
        if any(self._status[key] != value for key, value in values.items()):
            self._status |= values
            self._status_written_s = float("-inf")

    def _write_status(self, moment_s: float) -> None:
        if moment_s - self._status_written_s < (STATUS_S if self._runner and self._runner.busy else float("inf")):
            return
        self._status_written_s = moment_s
        problems = self._watcher.problems()
        done, total, elapsed_s = self._status["done"], self._status["total"], moment_s - self._work_began_s
        rate = done / elapsed_s if done and elapsed_s > 0 else None
        content = {
            **self._status,
            "updated_at": now(),
            "next_scan_at": (datetime.now(UTC) + timedelta(seconds=max(0.0, self._next_scan_s - moment_s))).isoformat(
                timespec="seconds"
            ),
            "files_per_minute": round(60 * rate, 1) if rate else None,
            "eta_s": round((total - done) / rate) if rate and total and total > done else None,
            "roots": [
                {
                    "path": printable(os.fsencode(root)),
                    "mode": watch_mode(os.fsencode(root))[0],
                    "reason": watch_mode(os.fsencode(root))[1],
                    "problems": [text for where, text in problems if where == os.fsencode(root)],
                }
                for root in self._settings.roots
            ],
        }
        notify.notify(f"STATUS={self._status['state']}" + (f", {done:,} of {total:,} files" if total else ""))
        path = status_path(self._settings.db)
        with suppress(OSError):  # a full disk must not end the watch
            temporary = path.with_name(f".{path.name}.tmp")
            temporary.unlink(missing_ok=True)
            with temporary.open("x", encoding="utf-8") as file:  # new: what stands there may be a link
                file.write(json.dumps(content))
            temporary.replace(path)


def speaker(verbosity: int) -> Say:
    """A function that prints lines on stderr, escaped, with the time unless the journal adds it.

    When the program that read them has ended, the lines go nowhere, and the watch goes on.
    """
    dated = not notify.under_journald()

    def say(line: str, level: int) -> None:
        if level <= verbosity:
            try:
                print(escaped(f"{now()} {line}" if dated else line), file=sys.stderr, flush=True)
            except BrokenPipeError:
                os.dup2(os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC), 2)

    return say
