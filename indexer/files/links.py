"""Keeps symbolic links out of music folders: opens a path folder by folder, and resolves what a person names.

The library holds resolved paths. A link that stands in such a path later was put there meanwhile, perhaps by somebody
else, and may lead anywhere: nothing here follows it. A path is therefore opened name by name, each name relative to the
folder before it, so that a folder that is swapped for a link leads nowhere.
"""

import errno
import os
import stat as stat_module
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from indexer.errors import ConfigError
from indexer.wording import printable

MAX_LINKS = 40  # in one path, as on Linux
THROUGH_A_LINK = "a symbolic link stands in its path now, and links in music folders are not followed"
# O_PATH: to pass a folder, the right to search it is enough.
_PASS = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def open_folder(path: str | bytes) -> int:
    """Open a folder for use as ``dir_fd``, not to be listed. Raises OSError, with ELOOP where the path holds a link."""
    name = os.fsencode(path)
    folder = os.open(b"/" if name.startswith(b"/") else b".", _PASS)
    for part in name.split(b"/"):
        if part in (b"", b"."):
            continue
        try:
            inner = os.open(part, _PASS, dir_fd=folder)
        except OSError as error:
            if error.errno == errno.ENOTDIR and _is_link(part, folder):
                raise OSError(errno.ELOOP, THROUGH_A_LINK, path) from None
            raise
        finally:
            os.close(folder)
        folder = inner
    return folder


def _is_link(name: bytes, folder: int) -> bool:
    try:
        return stat_module.S_ISLNK(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False


@contextmanager
def folder_of(path: str | bytes) -> Iterator[tuple[int, bytes]]:
    """The open folder of a file, for use as ``dir_fd``, and the file's name in it. Raises as ``open_folder`` does."""
    above, name = os.path.split(os.fsencode(path))
    folder = open_folder(above)
    try:
        yield folder, name
    finally:
        os.close(folder)


@contextmanager
def listable(folder: int) -> Iterator[int]:
    """An open folder, opened once more so that it can be listed and synced. Raises OSError."""
    handle = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=folder)
    try:
        yield handle
    finally:
        os.close(handle)


def look(path: str | bytes) -> os.stat_result:
    """The stat of what stands at a path, which may itself be a link. Raises as ``open_folder`` does."""
    with folder_of(path) as (folder, name):
        return os.stat(name or b".", dir_fd=folder, follow_symlinks=False)


def is_folder(path: str | bytes) -> bool:
    """Whether a folder stands at this path, without a link on the way."""
    try:
        return stat_module.S_ISDIR(look(path).st_mode)
    except OSError:
        return False


def is_file(path: str | bytes) -> bool:
    """Whether a regular file stands at this path, without a link on the way."""
    try:
        return stat_module.S_ISREG(look(path).st_mode)
    except OSError:
        return False


def open_file(path: str | bytes) -> int:
    """Open a regular file for reading. Raises OSError, with ELOOP where the path holds a link or is one."""
    with folder_of(path) as (folder, name):
        handle = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    if not stat_module.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise FileNotFoundError(errno.ENOENT, "not a regular file", path)
    return handle


def resolved(path: str | bytes | os.PathLike[str], folders: Sequence[bytes] = ()) -> bytes:
    """The absolute path without symbolic links of what a person named; what does not exist is taken as it stands.

    Raises ConfigError for a link inside one of ``folders``, resolved music folders: others may have put it there.
    """
    real, rest = b"/", os.path.join(os.getcwdb(), os.fsencode(path)).split(b"/")[::-1]  # noqa: PTH109, PTH118 - bytes
    links = 0
    while rest:
        name = rest.pop()
        if name in (b"", b"."):
            continue
        if name == b"..":
            real = os.path.dirname(real)  # noqa: PTH120 - bytes
            continue
        inside = any(is_in(real, folder) for folder in folders)
        real = os.path.join(real, name)  # noqa: PTH118 - bytes
        try:
            target = os.readlink(real)  # noqa: PTH115 - bytes
        except OSError:  # no link, or not there
            continue
        links += 1
        if inside:
            raise ConfigError(
                f"{printable(real)}: links inside a music folder are not followed; "
                f"name what it leads to: {printable(os.path.realpath(real))}"
            )
        if links > MAX_LINKS:
            raise ConfigError(f"{printable(os.fsencode(path))}: its symbolic links lead round in a circle")
        rest += target.split(b"/")[::-1]
        real = b"/" if target.startswith(b"/") else os.path.dirname(real)  # noqa: PTH120 - bytes
    return real


def is_in(path: bytes, folder: bytes) -> bool:
    """Whether a path is a folder or lies below it, judged by the names."""
    return path == folder or path.startswith(folder.rstrip(b"/") + b"/")
