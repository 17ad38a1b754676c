"""Walks music folders and compares them with the library: which files are new, changed, back or gone.

Owns the comparison and the health of roots. Opens no music file and deletes nothing: the rows of a missing drive become
``missing`` and no more. Walk and rows are both in bytewise path order and are merged like two sorted lists, so memory
does not grow with the library.
"""

import contextlib
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

from indexer.files.audio.identity import Stat, same_node, signed64
from indexer.files.links import THROUGH_A_LINK, is_file, is_folder, look
from indexer.files.mounts import LastingInodes
from indexer.files.open_files import being_written
from indexer.files.tags.copies import remove_leftovers
from indexer.files.walk import Names, Walked, walk
from indexer.library.below import known_files
from indexer.library.store import Store
from indexer.library.writing.files import FileRow
from indexer.wording import printable

_SPOOL_ROWS = 2000
_TO_READ = frozenset({"new", "changed", "replaced"})
KnownStat = tuple[int, bytes, int, int, int, int, str]  # id, path, dev, ino, size, mtime_ns, state of a row


@dataclass(slots=True)
class Difference:
    """What a walk found, compared with the rows."""

    counts: Counter[str] = field(default_factory=Counter)  # new, changed, unchanged, vanished, back -> files
    unlisted: list[str] = field(default_factory=list)  # folders that could not be read, printable
    left_out: Counter[str] = field(default_factory=Counter)  # why a name is left out -> audio files and folders
    offline: str | None = None  # why the root counts as offline; None when it is online
    dev: int | None = None  # device number of the folder

    @property
    def present(self) -> int:
        """Files that the walk found."""
        return self.counts.total() - self.counts["vanished"]


def compare(
    rows: Iterator[KnownStat], walked: Iterator[Walked], leaves_out: Callable[[bytes], bool] = lambda _path: False
) -> Iterator[tuple[str, bytes, int]]:
    """Merge rows (id, path, dev, ino, size, mtime_ns, state) with a walk, both in path order.

    Yields (kind, path, file id or 0): new, changed, unchanged, renumbered (unchanged under another inode number),
    replaced (the same size and time, but another file of a drive whose inode numbers last), back
    (was missing, same content), vanished, left out (not seen, and ``leaves_out`` says that the walk passes it over),
    unlisted.
    """
    lasting = LastingInodes()
    row = next(rows, None)
    for path, found in walked:
        floor = path if found else path + b"/"
        while row and row[1] < floor:
            yield "left out" if leaves_out(row[1]) else "vanished", row[1], row[0]
            row = next(rows, None)
        if found is None:
            yield "unlisted", path, 0
            while row and row[1].startswith(floor):  # whether these files are there is not known
                row = next(rows, None)
        elif row and row[1] == path:
            yield _kind(row, found, lasting), path, row[0]
            row = next(rows, None)
        else:
            yield "new", path, 0
    while row:
        yield "left out" if leaves_out(row[1]) else "vanished", row[1], row[0]
        row = next(rows, None)


def _kind(row: KnownStat, found: os.stat_result, lasting: LastingInodes) -> str:
    _, path, dev, ino, size, mtime_ns, state = row
    if state == "deferred" or size != found.st_size:
        return "changed"
    now_ino = ino
    if (dev, ino, mtime_ns) != (found.st_dev, found.st_ino, found.st_mtime_ns):  # of nearly every file they are equal
        now = Stat.from_result(found)
        now_ino = now.ino
        if mtime_ns != now.mtime_ns:
            return "changed"
        if not same_node(dev, ino, now.dev, now.ino) and lasting.at(path):
            return "changed" if state == "missing" else "replaced"
    if state == "missing":
        return "back"
    return "unchanged" if ino == now_ino else "renumbered"


def file_changed(row: FileRow | None, path: bytes) -> bool:
    """Whether a single file is new or differs from its row."""
    if row is None or row.state == "missing":
        return True
    stat = row.stat
    known = (row.id, path, stat.dev, stat.ino, stat.size, stat.mtime_ns, row.state)
    return _kind(known, look(path), LastingInodes()) in _TO_READ


def look_at(store: Store, path: bytes, ignore: Sequence[str] = ()) -> list[bytes]:
    """Return the new and changed files at or below a path, newest first, and mark rows of vanished files as missing.

    Files in a folder that somebody is writing are left out: another event comes when the writing ends. A link, and what
    is reached through one, counts as vanished.
    """
    changed: dict[bytes, os.stat_result] = {}
    gone: list[int] = []
    back: list[tuple[int, bytes]] = []
    renumbered: list[tuple[int, bytes]] = []
    left_out: list[int] = []
    if is_folder(path):
        leaves_out = partial(Names(ignore).leave_out, folder=path)
        for kind, found, file_id in compare(known_files(store.connection, path), walk(path, ignore), leaves_out):
            if kind in _TO_READ:
                with contextlib.suppress(OSError):
                    changed[found] = look(found)
            elif kind == "vanished":
                gone.append(file_id)
            elif kind == "left out":
                left_out.append(file_id)
            elif kind == "back":
                back.append((file_id, found))
            elif kind == "renumbered":
                renumbered.append((file_id, found))
    elif is_file(path):
        return [path] if file_changed(store.file_at(path), path) else []
    else:
        row = store.file_at(path)
        gone = [row[0] for row in known_files(store.connection, path)] + ([row.id] if row else [])
    with store.transaction():
        store.mark_missing(gone)
        store.mark_left_out(left_out)
        _mark_back(store, back, renumbered)
    busy = being_written(changed)
    return sorted(changed.keys() - busy, key=lambda path: changed[path].st_mtime_ns, reverse=True)


def _mark_back(store: Store, back: Sequence[tuple[int, bytes]], renumbered: Sequence[tuple[int, bytes]]) -> None:
    """Mark (file id, path) that were missing as ready, and store the inode numbers that all of them have now."""
    store.mark_present([file_id for file_id, _ in back])
    for file_id, path in (*back, *renumbered):
        with contextlib.suppress(OSError):
            store.set_node(file_id, Stat.from_result(look(path)))


@dataclass(frozen=True, slots=True)
class Before:
    """What the library knew of a folder before a walk."""

    present: int  # files that were not missing
    were_there: int  # present, or gone missing since the last healthy scan
    known: int  # all files
    dev: int | None = None  # device number at the last healthy scan, where the folder is a root
    offline: bool = False  # the folder is a root that was offline


class _Spool:
    """Stores what a walk found, some thousand files at a time."""

    def __init__(self, store: Store, root_id: int | None, *, leave_busy: bool) -> None:
        self._store, self._root_id, self._leave_busy = store, root_id, leave_busy
        self._found: dict[str, list[tuple[int, bytes]]] = defaultdict(list)  # kind -> (file id, path)
        self._count = 0

    def add(self, kind: str, file_id: int, path: bytes) -> None:
        """Take a file; one that is unchanged needs nothing."""
        if kind == "unchanged":
            return
        self._found[kind].append((file_id, path))
        self._count += 1
        if self._count >= _SPOOL_ROWS:
            self.flush()

    def flush(self) -> None:
        """Store what was taken."""
        changed = [path for _, path in self._found["changed"]]
        busy = _being_written(changed) if self._leave_busy else set()
        with self._store.transaction():
            self._store.spool_changed([(path, self._root_id) for path in changed if path not in busy])
            self._store.spool_vanished([(file_id,) for file_id, _ in self._found["vanished"]])
            self._store.mark_left_out([file_id for file_id, _ in self._found["left out"]])
            _mark_back(self._store, self._found["back"], self._found["renumbered"])
        self._found.clear()
        self._count = 0


def spool_difference(
    store: Store,
    folder: bytes,
    *,
    root_id: int | None,
    ignore: Sequence[str] = (),
    force: bool = False,
    leave_busy: bool = False,
) -> Difference:
    """Walk one folder, mark rows that are back, and spool what is new, changed or vanished in the store.

    With ``force`` unchanged files are spooled as changed; with ``leave_busy`` files that somebody is writing are not.
    """
    difference = Difference()
    root = store.root_for(folder)
    is_root = root is not None and root["path"] == folder
    before = Before(
        *store.count_known(folder), *((root["dev"], root["state"] == "offline") if root and is_root else ())
    )
    with contextlib.suppress(OSError):
        difference.dev = signed64(os.stat(folder).st_dev)  # noqa: PTH116 - bytes
    spool = _Spool(store, root_id, leave_busy=leave_busy)
    replaced: list[tuple[int, bytes]] = []
    leftovers: list[bytes] = []
    walked = walk(folder, ignore, leftovers, difference.left_out)
    leaves_out = partial(Names(ignore).leave_out, folder=folder)
    for kind, path, file_id in compare(known_files(store.connection, folder), walked, leaves_out):
        if kind == "unlisted":
            difference.unlisted.append(printable(path))
            continue
        difference.counts[kind] += 1
        if kind == "replaced":
            replaced.append((file_id, path))
        is_there = kind not in ("vanished", "left out")
        spool.add("changed" if kind in _TO_READ or (force and is_there) else kind, file_id, path)
    spool.flush()
    # Where no file kept its number and several have another, the drive was restored or numbers its files anew.
    if len(replaced) > 1 and not difference.counts["unchanged"] and not force:
        with store.transaction():
            store.unspool_changed([path for _, path in replaced])
            _mark_back(store, (), replaced)
    for parent in {os.path.dirname(path) for path in leftovers}:  # noqa: PTH120 - bytes
        with contextlib.suppress(OSError):  # we hold the library's lock, so nobody is about to rename one
            remove_leftovers(parent)
    difference.offline = why_offline(folder, difference, before)
    return difference


def _being_written(changed: list[bytes]) -> set[bytes]:
    found: dict[bytes, os.stat_result] = {}
    for path in changed:
        with contextlib.suppress(OSError):
            found[path] = look(path)
    return being_written(found)


def why_offline(folder: bytes, difference: Difference, before: Before) -> str | None:
    """Why a folder counts as offline after a walk, in one line; None when it is online.

    An offline root stays offline, and all its files missing, until enough of them are back or were forgotten. A new
    device number alone means nothing, because a drive may get another one at each mount; with a fifth of the files gone
    as well, it is another drive.
    """
    name = printable(folder)
    if name in difference.unlisted and not is_folder(folder) and os.path.exists(folder):  # noqa: PTH110 - bytes
        return f"{name}: {THROUGH_A_LINK}; scan the folder that it leads to: {printable(os.path.realpath(folder))}."
    if name in difference.unlisted:
        return f"{name} is not there or cannot be read: is the drive mounted?"
    if before.known and not difference.present and not difference.unlisted:
        return f"{name} is empty but held {before.known:,} files: is the drive mounted?"
    # Files in a folder that cannot be read do not count as gone.
    gone = min(difference.counts["vanished"], before.were_there - (difference.present - difference.counts["new"]))
    if before.dev not in (None, difference.dev) and gone > 0 and 5 * gone >= before.were_there:
        return f"{name} lacks {gone:,} of its {before.were_there:,} files: is another drive mounted there?"
    expected = before.were_there if before.offline else before.present
    if difference.counts["vanished"] and 2 * difference.present < expected:
        return f"{name} has lost {expected - difference.present:,} of its {expected:,} files: is the drive mounted?"
    return None
