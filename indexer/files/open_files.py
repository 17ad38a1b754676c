"""Finds files that a process has open for writing, as far as the system reports it. Never reads a file's content."""

import errno
import fcntl
import os
import signal
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path


def being_written(files: Mapping[bytes, os.stat_result]) -> set[bytes]:
    """Those of the files (path -> stat) that some process has open for writing, as far as the system reports it."""
    refused = {path: lease_is_refused(path) for path in files}
    doubtful = {path: (found.st_dev, found.st_ino) for path, found in files.items() if refused[path] is None}
    open_now = open_for_writing(set(doubtful.values())) if doubtful else set()
    return {path for path in files if refused[path] or doubtful.get(path) in open_now}


def lease_is_refused(path: bytes, folder: int | None = None) -> bool | None:
    """Whether some process has the file open for writing: the kernel then refuses a read lease (fcntl(2), F_SETLEASE).

    ``folder``: an open folder that the path begins at. None where leases say nothing: not Linux, a file of another
    user, or a file system without leases.
    """
    if not hasattr(fcntl, "F_SETLEASE"):
        return None
    fd = -1
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
        # The kernel signals us when a process opens the file; the default, SIGIO, would kill us.
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError as error:
        return True if error.errno == errno.EAGAIN else None
    finally:
        if fd >= 0:
            os.close(fd)
    return False


def open_for_writing(files: set[tuple[int, int]]) -> set[tuple[int, int]]:
    """Those of the files (device, inode) that a process of this user has open for writing, according to /proc.

    Only root sees other users' processes. Empty where there is no /proc.
    """
    found = set()
    for descriptors in Path("/proc").glob("[0-9]*/fd"):
        with suppress(OSError):  # the process has ended, or belongs to another user
            for fd in descriptors.iterdir():
                with suppress(OSError):
                    status = fd.stat()
                    key = status.st_dev, status.st_ino
                    if key in files and key not in found and _writes(descriptors.parent / "fdinfo" / fd.name):
                        found.add(key)
    return found


def _writes(fdinfo: Path) -> bool:
    flags = next(line for line in fdinfo.read_text().splitlines() if line.startswith("flags:"))
    return int(flags.split()[1], 8) & os.O_ACCMODE != os.O_RDONLY
