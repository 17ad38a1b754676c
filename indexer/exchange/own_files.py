"""Files of ours among the user's: a seal in the file tells ours, unchanged since; nothing else is ever replaced.

The seal is a comment in the second line, the SHA-256 of all that follows it. A file is written beside its place and
renamed, so that a reader sees the old or the new one, and only where its content differs.
"""

import fcntl
import filecmp
import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol

from indexer.errors import ConfigError
from indexer.files.replace import sync_folder

_BLOCK = 1 << 20


class Output(Protocol):
    """What the writers of the formats write to."""

    def write(self, data: bytes, /) -> object:
        """Write all of it."""


class Form(NamedTuple):
    """How the files of a format begin."""

    first_line: bytes
    comment: bytes  # %s stands for the seal


XML = Form(
    b'<?xml version="1.0" encoding="UTF-8"?>\n', b"<!-- made by indexer, which leaves a changed file alone: %s -->\n"
)
M3U8 = Form(b"#EXTM3U\n", b"# made by indexer, which leaves a changed file alone: %s\n")
_NO_SEAL = b"0" * 64


class Hashing:
    """Passes what is written on, and hashes it."""

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self.sha256 = hashlib.sha256()

    def write(self, data: bytes, /) -> None:
        self.sha256.update(data)
        self._out.write(data)


def write_sealed(path: Path, form: Form, write: Callable[[Output], object]) -> bool:
    """Write a sealed file, whose content ``write`` writes; returns whether it is new or differs from what was there.

    Raises ConfigError where another file stands there, or nothing can be written.
    """

    def sealed(out: BinaryIO) -> None:
        out.write(form.first_line + form.comment % _NO_SEAL)
        hashing = Hashing(out)
        write(hashing)
        out.seek(len(form.first_line) + form.comment.index(b"%s"))
        out.write(hashing.sha256.hexdigest().encode())

    return replace(path, sealed, is_sealed)


def is_sealed(path: Path) -> bool:
    """Whether we wrote a file, and nobody changed it since."""
    with path.open("rb") as file:
        first, second = file.readline(200), file.readline(200)
        for form in (XML, M3U8):
            before, after = form.comment.split(b"%s")
            if first == form.first_line and second.startswith(before) and second.endswith(after):
                sha256 = hashlib.sha256()
                while block := file.read(_BLOCK):
                    sha256.update(block)
                return second == form.comment % sha256.hexdigest().encode()
    return False


def refuse_others(path: Path, is_ours: Callable[[Path], bool] = is_sealed) -> None:
    """Raise ConfigError where something stands at a path that is not a file of ours, unchanged."""
    with plain_errors(path):
        try:
            found = path.lstat()
        except FileNotFoundError:
            return
        if not stat.S_ISREG(found.st_mode) or not is_ours(path):
            raise ConfigError(
                f"{path}: is not a file that indexer wrote, or was changed since; move it away or name another"
            )


def replace(path: Path, write: Callable[[BinaryIO], object], is_ours: Callable[[Path], bool]) -> bool:
    """Write a file beside its place and rename it; returns whether it is new or differs from what was there.

    Raises ConfigError where anything but a file of ours stands there, or nothing can be written.
    """
    refuse_others(path, is_ours)
    with plain_errors(path), _temporary(path) as (temporary, out):
        write(out)
        out.flush()
        os.fsync(out.fileno())
        if path.exists():
            if filecmp.cmp(path, temporary, shallow=False):
                return False
            temporary.chmod(stat.S_IMODE(path.stat().st_mode))
        refuse_others(path, is_ours)  # another program may have written meanwhile
        temporary.replace(path)
        sync_folder(path.parent)
    return True


@contextmanager
def _temporary(path: Path) -> Iterator[tuple[Path, BinaryIO]]:
    """An empty file beside a path, for this process alone; one that a killed process left is used again."""
    digest = hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]  # the name itself may be as long as names can be
    temporary = path.with_name(f".{digest}.indexer")
    flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK  # whatever another put there
    with os.fdopen(os.open(temporary, flags, 0o666), "wb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as e:
            raise ConfigError(f"{path}: another indexer writes it just now; try again when it is done") from e
        found = os.fstat(file.fileno())
        if found.st_nlink != 1 or not os.path.samestat(found, temporary.lstat()):  # it has another name by now
            raise ConfigError(f"{path}: another program works on {temporary.name} beside it; try again")
        file.truncate(0)
        try:
            yield temporary, file
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def plain_errors(path: Path) -> Iterator[None]:
    """Turn what the system refuses into a ConfigError that names the file."""
    try:
        yield
    except OSError as e:
        raise ConfigError(f"{path}: cannot be written ({e.strerror or e})") from e
