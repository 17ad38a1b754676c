"""Opens the library for reading. Never writes, but for the migration of a library of an earlier version."""

import contextlib
import functools
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from indexer.errors import LockedError, StoreError
from indexer.library.sqlite import SCHEMA, connect_readonly, plain_errors


@contextlib.contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection that cannot write, for a block. Raises StoreError, also for errors of reads in the block."""
    with plain_errors(path), contextlib.closing(open_readonly(path)) as conn:
        yield conn


def open_readonly(path: Path) -> sqlite3.Connection:
    """A connection that cannot write, rows as sqlite3.Row. Raises StoreError when there is no library yet.

    A library of an earlier version is brought up to date first, if no other process works on it.
    """
    if not path.exists():
        raise StoreError(f"{path}: no library there yet; start with: indexer scan FOLDER")
    if not path.is_file():  # opening a named pipe would wait for ever
        raise StoreError(f"{path}: is no file; name the library with --db or INDEXER_DB")
    with plain_errors(path, "not an indexer library"):
        conn = _connect(path)
        conn.execute("SELECT 1 FROM files LIMIT 1").fetchone()
        if conn.execute("SELECT 1 FROM _sqlite_migrations WHERE name = ?", (_newest_migration(),)).fetchone() is None:
            conn.close()
            _bring_up_to_date(path)
            conn = _connect(path)
    return conn


@functools.cache
def _newest_migration() -> str:
    return max(path.stem for path in SCHEMA.glob("[0-9]*.sql"))


def _connect(path: Path) -> sqlite3.Connection:
    conn = connect_readonly(path)
    conn.row_factory = sqlite3.Row
    return conn


def _bring_up_to_date(path: Path) -> None:
    from indexer.library.lock import library_lock
    from indexer.library.store import Store

    try:
        with library_lock(path), Store(path):
            pass
    except (LockedError, StoreError) as e:
        raise StoreError(
            f"{path}: was made by an earlier version of indexer, and could not be brought up to date ({e})"
        ) from e
