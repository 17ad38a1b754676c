"""One writer a library: a lock file beside the database that the operating system frees when its holder dies."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from indexer.errors import LockedError, StoreError


@contextlib.contextmanager
def library_lock(db_path: Path) -> Iterator[None]:
    """Hold the library for writing; the operating system frees it if the process dies.

    Raises LockedError naming the owner's process id when another process holds it.
    """
    db_path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    lock_path = db_path.with_name(db_path.name + ".lock")
    try:
        handle = os.open(lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as e:
        raise StoreError(f"{lock_path}: cannot be opened ({e.strerror})") from e
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(handle, 32, 0).decode("ascii", "replace").strip() or "unknown"
            raise LockedError(f"{db_path}: another indexer (process {owner}) is working on this library") from None
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()}\n".encode("ascii"), 0)
        yield
    finally:
        os.close(handle)
