"""The copy beside a music file that is edited in its place: its name, the making of it, its attributes, its removal.

files/tags/write.py edits and verifies the copy, and gives it the file's name. Nothing here changes the file itself.
"""

import errno
import fcntl
import os
import re
import secrets
import shutil
import stat as stat_module
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256

from indexer.errors import READ_ONLY, DeferredError, ReadOnlyError, WriteRefusedError
from indexer.files.audio.identity import Stat
from indexer.files.links import THROUGH_A_LINK, folder_of, listable, open_folder

TEMP_SUFFIX = ".indexer-tmp"
MAX_NAME = 143  # bytes of a file name that every common file system allows, even eCryptfs
_TOKEN = secrets.token_hex(4)  # of this process, in the names of its copies
COPY_BLOCK = 4 << 20
SYNC_EVERY = 64 << 20
MARGIN = 1 << 20  # free bytes required beyond one copy
FICLONE = 0x40049409  # linux/fs.h: ioctl that shares the blocks of another file
COPY_CHANGED = "its edited copy was changed by another program"
_FULL = (errno.ENOSPC, errno.EDQUOT)
_READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)
_NO_ATTRIBUTES = (errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.ENODATA, errno.EINVAL)


# --- names, and copies that were left


def temp_path_of(path: str | bytes) -> str:
    """The path of this process's copy of a file: beside it, hidden, with a name that no other process uses."""
    folder, start = _copies_begin(path)
    end = f"{os.getpid():x}{_TOKEN}{TEMP_SUFFIX}".encode()
    return os.fsdecode(os.path.join(folder, start + end))  # noqa: PTH118  # bytes


def _copies_begin(path: str | bytes) -> tuple[bytes, bytes]:
    """The folder of a file and the prefix of its copies' names, shortened at a character to what file systems allow."""
    folder, name = os.path.split(os.fsencode(path))
    room = MAX_NAME - len(f"..{'f' * 8}{_TOKEN}{TEMP_SUFFIX}")
    if len(name) > room:
        name = name[: room - 9].decode("utf-8", "ignore").encode() + b"-" + sha256(name).hexdigest()[:8].encode()
    return folder, b"." + name + b"."


def remove_copies(path: str | bytes) -> None:
    """Remove the copies of one file that killed processes left behind. Raises OSError."""
    with folder_of(path) as (folder, name):
        remove_copies_in(folder, name)


def remove_copies_in(folder: int, name: bytes) -> None:
    for copy in copies_in(folder, name):
        with suppress(FileNotFoundError):
            os.unlink(copy, dir_fd=folder)


def copies_in(folder: int, name: bytes) -> list[bytes]:
    copy = re.compile(re.escape(_copies_begin(name)[1]) + b"[0-9a-f]+" + re.escape(TEMP_SUFFIX.encode()))
    return [other for other in _names_in(folder) if copy.fullmatch(other)]


def _names_in(folder: int) -> list[bytes]:
    with listable(folder) as handle:
        return [os.fsencode(name) for name in os.listdir(handle)]  # noqa: PTH208


def remove_leftovers(folder: str | bytes | os.PathLike[str]) -> list[str]:
    """Remove all copies in one folder and return their paths; call it once every open intent is settled."""
    removed = []
    handle = open_folder(os.fsencode(folder))
    try:
        for name in _names_in(handle):
            if not (name.startswith(b".") and name.endswith(TEMP_SUFFIX.encode())):
                continue
            if stat_module.S_ISREG(os.stat(name, dir_fd=handle, follow_symlinks=False).st_mode):
                os.unlink(name, dir_fd=handle)
                removed.append(os.fsdecode(os.path.join(os.fsencode(folder), name)))  # noqa: PTH118 - bytes
    finally:
        os.close(handle)
    return removed


# --- before the copy ------------------------------------------------------------


def check_replaceable(name: str) -> tuple[Stat, int]:
    """Return Stat and ctime (ns) of the file. Raises WriteRefusedError where a rename must not replace it."""
    found = os.lstat(name)
    if stat_module.S_ISLNK(found.st_mode):
        raise WriteRefusedError(name, "it is a symbolic link: the rename would replace the link and not the file")
    if not stat_module.S_ISREG(found.st_mode):
        raise WriteRefusedError(name, "it is not a regular file")
    if found.st_nlink > 1:
        raise WriteRefusedError(name, f"it has {found.st_nlink} hard links: the others would keep the old tags")
    if reason := read_only(name):
        raise ReadOnlyError(name, reason)
    return stat_now(name)


def read_only(path: str | bytes) -> str | None:
    """Why a file cannot be replaced now; None where it can. Raises OSError."""
    name = os.fsdecode(path)
    if not os.lstat(name).st_mode & 0o222 or not os.access(name, os.W_OK):
        return f"{READ_ONLY} file or file system"
    if not os.access(os.path.dirname(name) or ".", os.W_OK):  # noqa: PTH120
        return f"{READ_ONLY} folder"
    return None


def stat_now(name: str) -> tuple[Stat, int]:
    """Stat and ctime (ns) of the file; links are not followed. Both must stay the same while a copy is made."""
    found = os.lstat(name)
    return Stat.from_result(found), found.st_ctime_ns


def check_space(name: str, size: int) -> None:
    """Raise DeferredError where the disk has no room for a copy of ``size`` bytes."""
    free = shutil.disk_usage(os.path.dirname(name) or ".").free  # noqa: PTH120
    if free < size + MARGIN:
        raise DeferredError(name, f"disk full: writing the tag needs {(size + MARGIN) >> 20} MB free beside the file")


@contextmanager
def plain_errors(name: str, doubt: str = "the tag could not be written") -> Iterator[None]:
    """Turn an OSError into WriteRefusedError (read-only) or DeferredError (disk full, vanished, ``doubt``)."""
    try:
        yield
    except OSError as error:
        what = error.strerror or str(error)
        if error.errno in _FULL:
            raise DeferredError(name, f"disk full: {what}") from error
        if error.errno in _READ_ONLY:
            raise ReadOnlyError(name, f"{READ_ONLY}: {what}") from error
        if error.errno == errno.ELOOP:
            raise DeferredError(name, THROUGH_A_LINK) from error
        if error.errno in (errno.ENOENT, errno.ESTALE):
            raise DeferredError(name, "vanished while its tag was written") from error
        raise DeferredError(name, f"{doubt}: {what}") from error


# --- the copy ------------------------------------------------------------


def copy_file(name: str, temp: str, heartbeat: Callable[[], None]) -> os.stat_result:
    """Copy the file to a new one, sharing blocks where the file system can; return the new one's stat."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    source = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        target = os.open(temp, flags, 0o600)
        try:
            if not share_blocks(source, target):
                copy_blocks(source, target, heartbeat)
            return os.fstat(target)
        finally:
            os.close(target)
    finally:
        os.close(source)


def share_blocks(source: int, target: int) -> bool:
    """Make the empty file ``target`` share the blocks of ``source``; False where the file system cannot."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        fcntl.ioctl(target, FICLONE, source)
    except OSError:
        return False
    return True


def copy_blocks(source: int, target: int, heartbeat: Callable[[], None]) -> None:
    """Copy the bytes of one open file to another, block by block."""
    unsynced = 0
    while block := os.read(source, COPY_BLOCK):
        view = memoryview(block)
        while view:
            view = view[os.write(target, view) :]
        unsynced += len(block)
        if unsynced >= SYNC_EVERY:  # else the final fsync of a large file could look like a hang
            os.fsync(target)
            unsynced = 0
        heartbeat()


def finish(name: str, temp: str, made: os.stat_result, *, preserve_mtime: bool) -> Stat:
    """Give the copy the original's permissions, owner, extended attributes and times, and make it durable.

    ``made``: the stat of the copy when it was made. Raises DeferredError where something else has taken its place.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    source = os.open(name, flags)
    try:
        fd = os.open(temp, flags)
        try:
            original, copied = os.fstat(source), os.fstat(fd)
            if not os.path.samestat(made, copied) or copied.st_nlink != 1:
                raise DeferredError(name, COPY_CHANGED)
            _copy_attributes(source, fd)
            if (copied.st_uid, copied.st_gid) != (original.st_uid, original.st_gid):
                try:
                    os.fchown(fd, original.st_uid, original.st_gid)
                except PermissionError as error:
                    raise WriteRefusedError(name, "it belongs to another user, who would lose it") from error
            os.fchmod(fd, stat_module.S_IMODE(original.st_mode))  # last: a change of owner clears set-id bits
            mtime_ns = original.st_mtime_ns if preserve_mtime else copied.st_mtime_ns
            os.utime(fd, ns=(original.st_atime_ns, mtime_ns))
            os.fsync(fd)
            return Stat.of(fd)
        finally:
            os.close(fd)
    finally:
        os.close(source)


def _copy_attributes(source: int, target: int) -> None:
    """Copy the extended attributes that the file system and our rights allow, as shutil.copystat does."""
    if not hasattr(os, "listxattr"):
        return
    try:
        names = os.listxattr(source)
    except OSError as error:
        if error.errno not in _NO_ATTRIBUTES:
            raise
        return
    for name in names:
        try:
            os.setxattr(target, name, os.getxattr(source, name))
        except OSError as error:
            if error.errno not in _NO_ATTRIBUTES:
                raise
