"""Lock files: at most one process writes a library, one watches folders for it, and one exports to a folder.

The operating system frees a lock when its holder dies. A lock file is only believed where it is a file of our own, and
a process gets a signal only when the system says that it holds the lock.
"""

import contextlib
import errno
import fcntl
import os
import signal
import stat as stat_module
import time
from collections.abc import Iterator
from pathlib import Path

from indexer.errors import LockedError, StoreError

ATTEMPTS, ATTEMPT_S = 5, 0.01


def library_lock(db_path: Path) -> contextlib.AbstractContextManager[None]:
    """Hold the library for writing. Raises LockedError with the holder's process id when another has it."""
    return _held(
        _lock_path(db_path, "lock"), f"{db_path}: another indexer (process {{owner}}) is working on this library"
    )


def watch_lock(db_path: Path) -> contextlib.AbstractContextManager[None]:
    """Hold the right to watch for this library. Raises LockedError as ``library_lock`` does."""
    return _held(
        _lock_path(db_path, "watch.lock"),
        f"{db_path}: `indexer watch` (process {{owner}}) already watches for this library",
    )


def export_lock(staging: Path) -> contextlib.AbstractContextManager[None]:
    """Hold the folder ``staging`` for one export; makes it when absent, and the holder may remove it.

    Raises LockedError as ``library_lock`` does.
    """
    return _held(staging / "lock", f"{staging}: another indexer (process {{owner}}) is exporting there")


def watching_process(db_path: Path) -> int | None:
    """The process that watches for a library; None when nobody does."""
    return _holder(_lock_path(db_path, "watch.lock"))


def working_process(db_path: Path) -> int | None:
    """The process that works on a library; None when nobody does, whatever a killed one left in the library."""
    return _holder(_lock_path(db_path, "lock"))


def signal_watching_process(db_path: Path, number: signal.Signals) -> bool:
    """Send a signal to the process that watches for a library; False when none does, or it cannot be proven.

    The proof: it has the lock file open, and locked, at a moment after which its number can mean no other process.
    """
    lock_path = _lock_path(db_path, "watch.lock")
    pid = _holder(lock_path)
    if pid is None or not hasattr(os, "pidfd_open"):
        return False
    try:
        process = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        if not _has_locked(pid, lock_path):
            return False
        signal.pidfd_send_signal(process, number)
    except OSError:
        return False
    finally:
        os.close(process)
    return True


def _has_locked(pid: int, lock_path: Path) -> bool:
    """Whether a process has this very file open and holds a lock on it, as /proc tells. Raises OSError."""
    lock = lock_path.lstat()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            if os.path.samestat(descriptor.stat(), lock):
                told = Path(f"/proc/{pid}/fdinfo/{descriptor.name}").read_text()
                return any(line.startswith("lock:") and "FLOCK" in line for line in told.splitlines())
    return False


def open_own(path: Path, flags: int) -> int:
    """Open a file that only we write, and create it for us alone where ``flags`` say so.

    Raises OSError for a link, for anything but a regular file with one name, and for a file of another user (except
    where we are root): somebody else put it there.
    """
    try:
        handle = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    except OSError as e:
        if e.errno == errno.ELOOP:
            raise OSError(errno.ELOOP, "it is a symbolic link, which we did not make; remove it", str(path)) from e
        raise
    found = os.fstat(handle)
    if not stat_module.S_ISREG(found.st_mode) or found.st_nlink > 1:
        reason = "it is no regular file with one name"
    elif os.geteuid() not in (0, found.st_uid):
        reason = "it belongs to another user"
    else:
        return handle
    os.close(handle)
    raise OSError(errno.EPERM, f"{reason}, so we did not make it; remove it", str(path))


def _holder(lock_path: Path) -> int | None:
    try:
        handle = open_own(lock_path, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.pread(handle, 32, 0).decode("ascii", "replace").strip()
        return int(owner) if owner.isdigit() else None
    finally:
        os.close(handle)
    return None


def _lock_path(db_path: Path, ending: str) -> Path:
    return db_path.with_name(f"{db_path.name}.{ending}")


@contextlib.contextmanager
def _held(lock_path: Path, taken: str) -> Iterator[None]:
    try:
        lock_path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as e:
        raise StoreError(
            f"{lock_path.parent}: cannot be made ({e.strerror}); name a place for the library with --db or INDEXER_DB"
        ) from e
    try:
        handle = open_own(lock_path, os.O_RDWR | os.O_CREAT)
    except OSError as e:
        raise StoreError(f"{lock_path}: cannot be opened ({e.strerror})") from e
    try:
        try:
            _take(handle)
        except BlockingIOError:
            owner = os.pread(handle, 32, 0).decode("ascii", "replace").strip() or "unknown"
            raise LockedError(taken.format(owner=owner)) from None
        # The former holder may have removed the lock file with its folder, and another process may have made a new one.
        if not _names(lock_path, handle):
            raise LockedError(taken.format(owner="gone just now"))
        try:
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"{os.getpid()}\n".encode("ascii"), 0)
        except OSError as e:
            raise StoreError(f"{lock_path}: cannot be written ({e.strerror})") from e
        yield
    finally:
        os.close(handle)


def _take(handle: int) -> None:
    """Lock an open file for this process. Raises BlockingIOError where another one holds it.

    Who asks for the holder holds it for a moment too, so it is tried for a little while.
    """
    for _ in range(ATTEMPTS - 1):
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        time.sleep(ATTEMPT_S)
    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _names(path: Path, handle: int) -> bool:
    try:
        return os.path.samestat(path.lstat(), os.fstat(handle))
    except FileNotFoundError:
        return False
