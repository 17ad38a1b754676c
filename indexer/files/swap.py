"""Swaps two files of a folder in one instant, where the system can: renameat2(2) of Linux with RENAME_EXCHANGE.

Python's os module has no such call.
"""

import ctypes
import errno
import os
from collections.abc import Callable
from functools import cache

_RENAME_EXCHANGE = 2  # linux/fs.h
_CANNOT = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP)  # an old kernel, or a file system without it: FAT, NFS, SMB


@cache
def _renameat2() -> Callable[..., int] | None:
    """The C library's function; None where it has none: not Linux, or a glibc before 2.28."""
    found: Callable[..., int] | None = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    return found


def exchange(one: bytes, other: bytes, folder: int) -> bool:
    """Give two names in an open folder each other's file. False, with nothing changed, where the system cannot.

    Raises OSError, FileNotFoundError where one of them is gone.
    """
    rename = _renameat2()
    if rename is None:
        return False
    if rename(folder, one, folder, other, _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in _CANNOT:
        return False
    raise OSError(number, os.strerror(number), one)
