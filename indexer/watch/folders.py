"""Reports which paths below the music folders may have changed, once they have been unchanged for a while.

An event only names a path: the receiver compares the path with the library, and the periodic scan finds what events
missed. Lost events (a full watch table, dropped events, a dead thread, an unmounted drive) are noticed: the folder is
watched anew, a full scan is requested, and ``problems`` names the cause and the remedy. Never reads a music file.
"""

import errno
import os
import stat as stat_module
import sys
import threading
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeGuard

from watchdog.events import FileSystemEvent
from watchdog.observers.api import BaseObserver

from indexer.files.links import look
from indexer.files.mounts import mounts_below, read_mounts, why_silent
from indexer.files.open_files import being_written
from indexer.files.walk import SUFFIXES, Names
from indexer.watch.inotify import EVENTS, Handler, kind_of, new_observer, why_dead
from indexer.wording import printable

MAX_WAITING = 10_000  # paths of one root; beyond that, a full scan is cheaper
RETRY_S = 600  # until a root that is not watched completely is watched anew, and scanned
FIRST_PAUSE_S = 10  # between two new watches after lost events; doubled while losses go on, up to RETRY_S

_INOTIFY_LIMITS = {errno.ENOSPC: "watches", errno.EMFILE: "instances"}
_PROC = Path("/proc")

Signature = tuple[int, int, int, int, int]  # device, inode, size, mtime_ns, ctime_ns


@dataclass(slots=True)
class _Waiting:
    """A path that an event named; a further event replaces the entry, so the wait begins anew."""

    is_folder: bool
    signature: Signature | None = None  # at the last look
    due_s: float = float("-inf")  # time of the next look


@dataclass(eq=False)
class _Root:
    """One watched folder. Watchdog's threads change ``waiting`` and the fields after it, under the lock."""

    path: bytes
    observer: BaseObserver | None = None
    state: tuple[object, ...] | None = None  # the folder and its mounts when the watch began; None: no such folder
    watched_since_s: float | None = None  # None: the watch began after the last look
    pause_s: float = FIRST_PAUSE_S  # wait after lost events before watching anew
    lasting: list[str] = field(default_factory=list)  # problems that last until the root is watched anew
    lost_reported: str | None = None  # reason of the last loss; cleared once reported and the full scan has begun
    waiting: dict[bytes, _Waiting] = field(default_factory=dict)
    full_scan: bool = False  # requested and not begun
    lost: str | None = None  # why events were lost since the watch began
    unwatched: dict[int, set[bytes]] = field(default_factory=dict)  # errno -> refused folders, at most max_waiting

    @property
    def prefix(self) -> bytes:
        """The path with a slash at its end."""
        return self.path.rstrip(b"/") + b"/"


class FolderWatcher:
    """Watches music folders and returns the paths that may have changed.

    Call ``start``, then in a loop ``wait``, ``ready``, ``problems`` and ``needs_full_scan``.
    All methods may be called from any thread. Times are seconds of one monotonic clock, which the caller reads.
    """

    def __init__(
        self, roots: Iterable[bytes] = (), *, ignore: Sequence[str] = (), settle_s: float = 2.0,
        is_ours: Callable[[bytes, os.stat_result], bool] | None = None, max_waiting: int = MAX_WAITING,
    ) -> None:  # fmt: skip
        """Prepare to watch ``roots``, absolute folders without symbolic links.

        ``ignore``: name patterns, as in a scan. ``is_ours``: whether a file with this stat is known to the library, for
        instance because the program wrote it; such a file is not returned. Called in the thread that calls ``ready``.
        ``max_waiting``: paths of one root that may wait; beyond that, a full scan is requested.
        """
        self._names = Names(ignore)
        self._settle_s = settle_s
        self._is_ours = is_ours or (lambda _path, _stat: False)
        self._max_waiting = max_waiting
        self._roots = {path: _Root(path) for path in roots}
        self._running = False
        self._woken = threading.Event()
        self._lock = threading.Lock()  # never held while watchdog is called: its threads take it
        self._control = threading.RLock()  # one caller at a time

    def start(self) -> None:
        """Begin to watch. ``problems`` names what cannot be watched; every root needs a full scan."""
        with self._control:
            self._running = True
            for root in self._roots.values():
                self._watch(root)

    def stop(self) -> None:
        """End all watching and wake ``wait``. Paths that still wait are kept."""
        with self._control:
            self._running = False
            for root in self._roots.values():
                _close(root)
        self._woken.set()

    def wait(self, timeout_s: float) -> bool:
        """Sleep until an event, a problem or ``stop``; False when ``timeout_s`` passed before."""
        woken = self._woken.wait(timeout_s)
        self._woken.clear()
        return woken

    @property
    def pending(self) -> bool:
        """Whether paths wait: call ``ready`` again soon."""
        with self._lock:
            return any(root.waiting for root in self._roots.values())

    @property
    def due_s(self) -> float:
        """When ``ready`` has a root to watch anew, on the clock of its ``now_s``; infinity when none."""
        with self._control, self._lock:
            return min(
                (due for root in self._roots.values() if (due := _due_s(root)) is not None), default=float("inf")
            )

    def is_waiting(self, path: bytes) -> bool:
        """Whether an event named the path and it may still be written: a later ``ready`` returns it."""
        with self._control, self._lock:
            return any(path in root.waiting for root in self._roots.values())

    def problems(self) -> list[tuple[bytes, str]]:
        """The current problems as (root, one line with the cause and the remedy).

        A folder that is not watched completely is listed until it is. Lost events are listed at least once, and until
        ``needs_full_scan`` was called.
        """
        with self._control, self._lock:
            found = [(root.path, text) for root in self._roots.values() for text in _problems_of(root)]
            for root in self._roots.values():
                if not root.full_scan:
                    root.lost_reported = None
            return found

    def needs_full_scan(self, path: bytes) -> bool:
        """Whether events of this root may have been lost since the last call.

        Raises KeyError for a folder that is no root.
        """
        with self._control, self._lock:
            root = self._roots[path]
            needed, root.full_scan = root.full_scan, False
            return needed

    def ready(self, now_s: float) -> list[bytes]:
        """The paths to compare with the library now, sorted, none inside another; each is returned once.

        A file is returned when its stat has been the same for ``settle_s`` and no process has it open for writing; a
        folder, to be walked, when no event came from below it for ``settle_s``; a deleted file or folder at once.
        A returned folder may contain files that are still being written: see ``is_waiting``.
        """
        with self._control:
            if self._running:
                for root in self._roots.values():
                    self._look_after(root, now_s)
            with self._lock:
                due = [(r, path, e) for r in self._roots.values() for path, e in r.waiting.items() if e.due_s <= now_s]
            settled = self._settled(due, now_s)
            ours = {path for path, found in settled.items() if _is_file(found) and self._is_ours(path, found)}
            with self._lock:
                handed = {path for root, path, entry in due if path in settled and _take(root, path, entry)} - ours
        return sorted(path for path in handed if not any(folder in handed for folder in _folders_above(path)))

    # ---- which paths have settled

    def _settled(self, due: list[tuple[_Root, bytes, _Waiting]], now_s: float) -> dict[bytes, os.stat_result | None]:
        """The paths that no longer change, with their stat; None: deleted, or neither a file nor a folder."""
        still: dict[bytes, os.stat_result | None] = {}
        for _, path, entry in due:
            found = _look(path)
            signature = _signature(found) if found else None
            if signature and signature != entry.signature:
                entry.signature, entry.due_s = signature, now_s + self._settle_s
            else:
                still[path] = found
        written = being_written({path: found for path, found in still.items() if _is_file(found)})
        for _, path, entry in due:
            if path in written:
                entry.due_s = now_s + self._settle_s
        return {path: found for path, found in still.items() if path not in written}

    # ---- called in watchdog's threads

    def _named(self, root: _Root, event: FileSystemEvent) -> None:
        """Record the paths of an event. Catches every exception: one would end the thread that delivers the events."""
        try:
            if event.is_synthetic:  # the event of the folder itself covers it
                return
            old, new = os.fsencode(event.src_path), os.fsencode(event.dest_path)
            if _same_but_for_spelling(old, new) and os.path.lexists(old):
                # The file system ignores case or composition: only a listing of the folder shows the new spelling.
                self._note(root, os.path.dirname(old), is_folder=True)  # noqa: PTH120 - bytes
                return
            for name in (old, new):
                if name and name != root.path:  # ``_look_after`` notices when the root itself goes or comes
                    self._note(root, name, is_folder=event.is_directory)
        except Exception as error:
            self._lose(root, f"an event could not be handled ({kind_of(error)})")

    def _note(self, root: _Root, path: bytes, *, is_folder: bool) -> None:
        if not self._is_wanted(root, path, is_folder=is_folder):
            return
        with self._lock:
            covered = False
            for folder in _folders_above(path):
                above = root.waiting.get(folder)
                if above and above.is_folder:
                    root.waiting[folder] = _Waiting(is_folder=True)
                    covered = True
            if not (is_folder and covered):
                root.waiting[path] = _Waiting(is_folder)
            if len(root.waiting) > self._max_waiting:
                root.waiting.clear()
                root.full_scan = True
        self._woken.set()

    def _is_wanted(self, root: _Root, path: bytes, *, is_folder: bool) -> bool:
        """Whether a scan would visit this path, judged by the names below the root."""
        if path == root.path:
            return is_folder
        if not path.startswith(root.prefix):
            return False
        names = path[len(root.prefix) :].split(b"/")
        folders = names if is_folder else names[:-1]
        if not is_folder and os.path.splitext(path)[1].lower() not in SUFFIXES:  # noqa: PTH122 - bytes
            return False
        left_out = [self._names.why_left_out(name, is_folder=n < len(folders)) for n, name in enumerate(names)]
        return not any(left_out)

    def _refused(self, root: _Root, folder: bytes, error: int) -> None:
        with self._lock:
            if error not in root.unwatched:
                root.unwatched[error] = set()
                root.full_scan = True
            if len(root.unwatched[error]) < self._max_waiting:
                root.unwatched[error].add(folder)
        self._woken.set()

    def _lose(self, root: _Root, reason: str) -> None:
        with self._lock:
            root.lost = root.lost or reason
        self._woken.set()

    # ---- watches

    def _look_after(self, root: _Root, now_s: float) -> None:
        """Watch a root anew if it was replaced, if events were lost, or if a limit of the system may be lifted now."""
        if root.watched_since_s is None:
            root.watched_since_s = now_s
        if _state_of(root.path) != root.state:
            self._watch(root)
            return
        waited_s = now_s - root.watched_since_s
        dead = why_dead(root.observer) if root.observer else None
        if dead:
            self._lose(root, dead)
        if root.lost and waited_s >= root.pause_s:
            # Without a growing pause, events lost after every new watch would cause one scan after another.
            root.pause_s = min(2 * root.pause_s, RETRY_S) if waited_s < 2 * RETRY_S else FIRST_PAUSE_S
            root.lost_reported = root.lost
            self._watch(root)
        elif waited_s >= RETRY_S and _refused_by_limit(root):
            self._watch(root)

    def _watch(self, root: _Root) -> None:
        """Watch a root, or watch it anew, and request a full scan that finds what happened before."""
        _close(root)
        root.watched_since_s = None
        root.lasting = []
        with self._lock:
            root.lost, root.full_scan = None, True
            root.unwatched.clear()
        root.state = _state_of(root.path)
        if root.state is None:
            with self._lock:
                root.waiting.clear()  # the files went with their drive and must not be taken for deleted
            root.lasting.append(f"{printable(root.path)} is not there or is no folder: is the drive mounted? "
                                 "It is watched again when it is back")  # fmt: skip
            return
        # Of several mounts at one point the last one is visible.
        visible = {mount.point: mount for mount in mounts_below(root.path, read_mounts() or ())}
        for mount in visible.values():
            reason = why_silent(mount.fs_type)
            if reason:
                root.lasting.append(f"{printable(mount.point)}: {reason}; only scans find it")
        try:
            root.observer = self._observe(root)
        except OSError as error:
            reason, remedy = _reason_and_remedy(error.errno or 0)
            root.lasting.append(
                f"{printable(root.path)} is not watched: {reason}; only scans find what changes. {remedy}".rstrip()
            )

    def _observe(self, root: _Root) -> BaseObserver:
        """A running observer of one root; each root has its own, so that one can fail and be replaced."""
        observer = new_observer(
            wants=lambda folder: self._is_wanted(root, folder, is_folder=True),
            refused=lambda folder, error: self._refused(root, folder, error),
            overflowed=lambda: self._lose(root, _overflow_text()),
        )
        handler = Handler(lambda event: self._named(root, event))
        try:
            observer.start()
            observer.schedule(handler, os.fsdecode(root.path), recursive=True, event_filter=EVENTS)
        except BaseException:
            observer.stop()
            raise
        return observer


# ---- queries to the system


def _look(path: bytes) -> os.stat_result | None:
    """The stat of a file or folder; None for a link and all else that a scan would not visit either."""
    try:
        found = look(path)
    except OSError:
        return None
    return found if stat_module.S_ISREG(found.st_mode) or stat_module.S_ISDIR(found.st_mode) else None


def _is_file(found: os.stat_result | None) -> TypeGuard[os.stat_result]:
    return found is not None and stat_module.S_ISREG(found.st_mode)


def _signature(found: os.stat_result) -> Signature:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _state_of(root: bytes) -> tuple[object, ...] | None:
    """A value that changes when a folder is replaced, or a drive mounted or unmounted at or below it; None: no folder.

    inotify does not report this: a watch stays with the former folder, or ends silently.
    """
    found = _look(root)
    if found is None or not stat_module.S_ISDIR(found.st_mode):
        return None
    below = mounts_below(root, read_mounts() or ())
    automatic = {m.point for m in below if m.fs_type == "autofs"}  # our own scans mount and unmount them
    return found.st_dev, found.st_ino, *(m.id for m in below if m.point not in automatic and not why_silent(m.fs_type))


def _reason_and_remedy(error: int) -> tuple[str, str]:
    """Why inotify refused a watch with this errno, and what a person can do about it ("" where unknown)."""
    kind = _INOTIFY_LIMITS.get(error)
    if kind is None:
        return os.strerror(error), ""
    key, value = _smallest_limit(kind)
    raise_it = f"Raise it: sudo sysctl {key}={max(2 * value, 524_288 if kind == 'watches' else 512)} (now {value})"
    if kind == "instances":
        raise_it += ", or this program's limit of open files (ulimit -n)"
    return f"the system's limit of inotify {kind} is reached", raise_it


def _smallest_limit(kind: str) -> tuple[str, int]:
    """(sysctl key, value) of the lower limit: the system's, or that of the user namespace (in a container)."""
    keys = (f"fs.inotify.max_user_{kind}", f"user.max_inotify_{kind}")
    return min(((key, _sysctl(key)) for key in keys), key=lambda limit: limit[1] or sys.maxsize)


def _overflow_text() -> str:
    value = _sysctl("fs.inotify.max_queued_events")
    return (f"so much changed at once that the system dropped events (if often: sudo sysctl "
            f"fs.inotify.max_queued_events={max(2 * value, 65_536)}, now {value})")  # fmt: skip


def _sysctl(key: str) -> int:
    try:
        return int((_PROC / "sys" / key.replace(".", "/")).read_text())
    except (OSError, ValueError):
        return 0


# ---- roots


def _due_s(root: _Root) -> float | None:
    """When to watch a root anew after lost events or a limit that was reached; None: not to be watched anew."""
    begun_s = float("-inf") if root.watched_since_s is None else root.watched_since_s
    if root.lost:
        return begun_s + root.pause_s
    return begun_s + RETRY_S if root.state and _refused_by_limit(root) else None


def _refused_by_limit(root: _Root) -> bool:
    return root.observer is None or not _INOTIFY_LIMITS.keys().isdisjoint(root.unwatched)


def _close(root: _Root) -> None:
    if root.observer:
        root.observer.stop()
        root.observer.join()
        root.observer = None


def _problems_of(root: _Root) -> list[str]:
    texts = list(root.lasting)
    for error, folders in root.unwatched.items():
        reason, remedy = _reason_and_remedy(error)
        others = f" and {len(folders) - 1:,} more" if len(folders) > 1 else ""
        texts.append(f"not watched, {printable(min(folders))}{others}: {reason}; "
                     f"only scans find what changes there. {remedy}".rstrip())  # fmt: skip
    lost = root.lost or root.lost_reported
    return [*texts, f"{printable(root.path)}: {lost}; it is watched anew and needs a full scan"] if lost else texts


def _take(root: _Root, path: bytes, entry: _Waiting) -> bool:
    """Stop waiting for a path, unless an event came since it was looked at; whether it was taken."""
    if root.waiting.get(path) is not entry:
        return False
    del root.waiting[path]
    return True


def _folders_above(path: bytes) -> Iterator[bytes]:
    while len(path) > 1:
        path = os.path.dirname(path)  # noqa: PTH120 - bytes
        yield path


def _same_but_for_spelling(a: bytes, b: bytes) -> bool:
    """Whether two names are the same on a file system that ignores case and Unicode composition."""
    first, second = (unicodedata.normalize("NFC", os.fsdecode(name)).casefold() for name in (a, b))
    return first == second
