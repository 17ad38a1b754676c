"""The ground of everything that talks with SQLite: errors as sentences for a person, times, read-only connections."""

import contextlib
import os
import shutil
import sqlite3
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

from indexer.errors import StoreError

SCHEMA = Path(__file__).parents[1] / "schema"  # importlib.resources would take 3 ms of each command
# For signatures outside indexer.library and indexer.web, which alone import sqlite3.
Connection = sqlite3.Connection
Row = sqlite3.Row


class Reader(Protocol):
    """The part of an SQLite connection with named rows that reading functions use."""

    def execute(self, sql: str, parameters: Sequence[Any] = ..., /) -> Any:
        """Run a statement and return its cursor."""


def now(after: str | None = None) -> str:
    """The time as the database writes it: UTC, ISO 8601, to the millisecond; always later than ``after``.

    A clock may be set back, and what came later must still look later.
    """
    moment = datetime.now(UTC)
    with contextlib.suppress(ValueError, TypeError, OverflowError):  # of a damaged library: no time to be later than
        moment = max(moment, datetime.fromisoformat(after or "") + timedelta(milliseconds=1))
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


FULL_BELOW_BYTES = 1 << 20  # with less free space than this, the disk is called full
_DAMAGE = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


def is_damage(error: BaseException) -> bool:
    """Whether an error of SQLite means that the file is damaged."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the low byte of an extended code is the plain one
    return isinstance(error, sqlite3.DatabaseError) and (code in _DAMAGE or "decode to UTF-8" in str(error))


@contextlib.contextmanager
def plain_errors(path: Path, what: str = "the library cannot be used") -> Iterator[None]:
    """Turn errors of the system and of a damaged file into a StoreError of one line, with a remedy if there is one.

    Other errors of SQLite are faults of this program and pass through.
    """
    try:
        yield
    except sqlite3.DatabaseError as e:
        if is_damage(e):
            raise StoreError(
                f"{path}: the library is damaged ({e}); `indexer doctor --rebuild` saves what can be read"
            ) from e
        if not isinstance(e, sqlite3.OperationalError):
            raise
        raise StoreError(f"{path}: {what} ({reason_of(path, e)})") from e


def reason_of(path: Path, error: Exception) -> str:
    """The error as text, with a note when the disk is full.

    SQLite reports a full disk in several ways: at opening the log, growing the file, an index in memory.
    """
    with contextlib.suppress(OSError):
        if shutil.disk_usage(path.parent).free < FULL_BELOW_BYTES:
            return f"{error}; the disk is full"
    return str(error)


def connect_readonly(path: Path, *, check_same_thread: bool = True) -> sqlite3.Connection:
    """A connection to an existing database that cannot write, whatever characters the path has.

    SQLite reads a library in its write-ahead mode only where it can write beside it. On a read-only mount or in another
    user's folder the file alone is read, if its log holds nothing. Raises StoreError where it does.
    """

    def connect(how: str) -> sqlite3.Connection:
        uri = f"{path.absolute().as_uri()}?{how}"
        conn = sqlite3.connect(uri, uri=True, timeout=10, check_same_thread=check_same_thread)
        try:
            conn.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone()
        except sqlite3.DatabaseError:
            conn.close()
            raise
        return conn

    try:
        return connect("mode=ro")
    except sqlite3.OperationalError:
        if os.access(path.parent, os.W_OK):
            raise
    log = path.with_name(f"{path.name}-wal")
    if log.exists() and log.stat().st_size:
        raise StoreError(
            f"{path}: its folder cannot be written, and {log.name} holds changes that SQLite can only read in a folder"
            f" that can: copy {path.name} and {log.name} elsewhere and name the copy with --db"
        )
    return connect("immutable=1")
