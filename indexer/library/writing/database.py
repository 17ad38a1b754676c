"""The library's database opened for writing: the connection, its pragmas, its transactions, and the view ``tracks``.

sqlite-utils is imported when a library is opened for writing, so that commands that only read start fast.
"""

import contextlib
import json
import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

from indexer.errors import StoreError
from indexer.library.label_sets import shown_sets
from indexer.library.sqlite import plain_errors, reason_of
from indexer.library.tracks_view import DEFAULT_LABELS, tracks_view


class Database:
    """The connection that the statements of this package share. Raises StoreError where SQLite fails."""

    def __init__(self, path: Path) -> None:
        """Open or create, and migrate. Raises StoreError when it cannot be used."""
        from sqlite_utils import Database

        from indexer.library.migrations import migrate

        self.path = path
        try:
            with plain_errors(path, "cannot be opened as a library"):
                path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                conn = sqlite3.connect(path, timeout=10, isolation_level=None)
                _provide_temporary_folder(conn, path.parent)
                conn.row_factory = sqlite3.Row
                self.db = Database(conn, execute_plugins=False)
                self.db.enable_wal()
                # FULL: a journal entry must be on the disk before the rename that it announces.
                conn.executescript("PRAGMA foreign_keys = ON; PRAGMA synchronous = FULL; PRAGMA busy_timeout = 10000;")
                migrate(self.db, path)
                self._refresh_view()
                self._opened = path.stat()
        except OSError as e:
            raise StoreError(f"{path}: cannot be opened as a library ({reason_of(path, e)})") from e

    def check_place(self) -> None:
        """Raise StoreError where another file, or none, has the library's name: nobody will find what is stored now."""
        try:
            stands = os.path.samestat(self.path.stat(), self._opened)
        except OSError:
            stands = False
        if not stands:
            raise StoreError(
                f"{self.path}: was moved, deleted or replaced while it was worked on, so what was found meanwhile is"
                " not in it; run the same command again"
            )

    def close(self) -> None:
        """Fold the write-ahead log back into the file and close; a reader that holds it may postpone the folding."""
        with contextlib.suppress(StoreError):
            self._run("PRAGMA wal_checkpoint(TRUNCATE)")
        self.db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        self.close()
        if isinstance(error, sqlite3.DatabaseError):  # raised by a read that streams
            with plain_errors(self.path):
                raise error

    @property
    def connection(self) -> sqlite3.Connection:
        """The one writing connection, for reads that stream."""
        conn: sqlite3.Connection = self.db.conn
        return conn

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Run the block in one transaction, which holds the write lock from its start.

        A transaction that begins with a read may fail at its first write. Inside another transaction it is a savepoint:
        rolled back by itself when it fails, and on the disk when the outer one is.
        """
        inner = self.connection.in_transaction
        self._run("SAVEPOINT part" if inner else "BEGIN IMMEDIATE")
        try:
            yield
            self._run("RELEASE part" if inner else "COMMIT")
        except BaseException:
            if self.connection.in_transaction:  # a full disk may have ended it by itself
                self._run("ROLLBACK TO part" if inner else "ROLLBACK")
                if inner:
                    self._run("RELEASE part")
            with plain_errors(self.path):
                raise

    def joined(self) -> contextlib.AbstractContextManager[None]:
        """Run the block in the open transaction, which takes it back with the rest where that fails; else in its own.

        A savepoint more would copy every page that the block changes once more.
        """
        return contextlib.nullcontext() if self.connection.in_transaction else self.transaction()

    def _run(self, sql: str, parameters: Sequence[Any] | dict[str, Any] = ()) -> sqlite3.Cursor:
        try:  # runs twenty times for each recording, so it uses neither a context manager nor sqlite-utils
            return self.connection.execute(sql, parameters)
        except sqlite3.DatabaseError:
            with plain_errors(self.path):
                raise

    def _many(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        with plain_errors(self.path):
            self.connection.executemany(sql, rows)

    def _one(self, sql: str, parameters: Sequence[Any] = ()) -> sqlite3.Row | None:
        row: sqlite3.Row | None = self._run(sql, parameters).fetchone()
        return row

    def _insert(self, sql: str, parameters: Sequence[Any]) -> int:
        row_id = self._run(sql, parameters).lastrowid
        assert row_id is not None
        return row_id

    def _refresh_view(self) -> None:
        """Make ``tracks`` anew if the labels of the head in use changed, or the label sets."""
        head = self._one("SELECT labels FROM heads WHERE in_use = 1")
        labels = json.loads(head["labels"]) if head else DEFAULT_LABELS
        sql = tracks_view(labels, shown_sets(self.connection))
        row = self._one("SELECT sql FROM sqlite_master WHERE type = 'view' AND name = 'tracks'")
        if row is None or row["sql"] != sql:
            with self.transaction():
                self._run("DROP VIEW IF EXISTS tracks")
                self._run(sql)


def _provide_temporary_folder(conn: sqlite3.Connection, folder: Path) -> None:
    """Have SQLite put its temporary files into ``folder`` where none of the folders that it tries can be written.

    https://www.sqlite.org/tempfiles.html, "Temporary File Storage Locations". It reads its variable once, when it is
    loaded, so a deprecated pragma is left; a build without that one keeps in memory what would be in files.
    """
    tried = (os.environ.get("SQLITE_TMPDIR"), os.environ.get("TMPDIR"), "/var/tmp", "/usr/tmp", "/tmp")  # noqa: S108
    if any(place and os.access(place, os.W_OK | os.X_OK) for place in tried):
        return
    quoted = str(folder).replace("'", "''")
    conn.execute(f"PRAGMA temp_store_directory = '{quoted}'")
    if conn.execute("PRAGMA temp_store_directory").fetchone() is None:
        conn.execute("PRAGMA temp_store = MEMORY")
