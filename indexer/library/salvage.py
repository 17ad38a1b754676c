"""Copies the readable rows of a damaged database into a new one.

Owns which tables are saved, and how a table is read around its unreadable pages. Never changes the damaged database.
"""

import sqlite3
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from indexer.library.migrations import schema_files
from indexer.library.store import Store

# A table comes after those that it refers to. The next scan makes predictions, scores, timelines, places on the map and
# what sounds the same anew from the embeddings.
TABLES = (
    "encoders",
    "label_sets",  # before the settings' own are registered, with the heads
    "heads",
    "roots",
    "recordings",
    "runs",
    "files",
    "tags",
    "embeddings",
    "analysis",
    "fingerprints",  # what is measured is not measured again
    "corrections",
    "set_corrections",
    "tag_writes",
)
# Parts of every library's schema, on different pages.
_TRACES = (b"CREATE TABLE recordings", b"CREATE TABLE embeddings", b"CREATE TABLE tag_writes")
_PAGE_ROWS = 500
_MAX_UNREADABLE_ROWIDS = 100_000  # after so many unreadable ones in a row, reading the table ends
_MAX_VALUE_BYTES = 1 << 26  # a damaged length would ask for gigabytes

EmbeddingCheck = Callable[[bytes, bytes | None, int], bool]  # (vector, trajectory, width of its encoder)


@dataclass(frozen=True, slots=True)
class Copied:
    """How much of one table was copied."""

    expected: int | None  # rows of the damaged table; None when not known
    saved: int


def is_library(db: Path) -> bool:
    """Whether a file, or the log beside it, holds traces of a library; a rebuild must not move a music file aside."""
    for path in (db, Path(f"{db}-wal")):
        if not path.exists():
            continue
        with path.open("rb") as file:
            before = b""
            while block := file.read(1 << 20):
                if any(trace in before + block for trace in _TRACES):
                    return True
                before = block[-64:]
    return False


def open_damaged(db: Path) -> sqlite3.Connection:
    """A read-only connection that tolerates damage."""
    conn = sqlite3.connect(f"{db.absolute().as_uri()}?mode=ro", uri=True, timeout=10)
    conn.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _MAX_VALUE_BYTES)
    with suppress(sqlite3.DatabaseError):
        conn.execute("PRAGMA cell_size_check = ON")
        conn.execute("PRAGMA writable_schema = ON")  # SQLite then skips statements of the schema that make no sense
    return conn


def is_newer(old: sqlite3.Connection) -> bool:
    """Whether a newer indexer wrote a damaged database, as far as its list of migrations can be read."""
    newest = max(name for name, _ in schema_files())
    with suppress(sqlite3.DatabaseError):
        names = old.execute("SELECT name FROM _sqlite_migrations WHERE migration_set = 'indexer'")
        return any(name > newest for (name,) in names)
    return False


def begin(store: Store) -> None:
    """Make a new library ready to take rows: the caller syncs the whole file, ``finish`` restores the references."""
    store.connection.execute("PRAGMA synchronous = OFF")
    store.connection.execute("PRAGMA foreign_keys = OFF")


def copy_table(old: sqlite3.Connection, store: Store, table: str, is_sound: EmbeddingCheck) -> Copied:
    """Copy the rows of one table that can be read and make sense."""
    conn = store.connection
    try:
        here = {row[1] for row in old.execute(f"PRAGMA table_info({table})")}
        expected, end = _extent(old, table)
    except sqlite3.DatabaseError:
        return Copied(None, 0)
    columns = [row["name"] for row in conn.execute(f"PRAGMA table_info({table})") if row["name"] in here]
    if not columns:
        return Copied(None, 0)
    insert = f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"
    widths = {row["id"]: row["width"] for row in conn.execute("SELECT id, width FROM encoders")}
    found, saved = _rows(old, table, ", ".join(columns), end), 0
    while page := list(islice(found, _PAGE_ROWS)):
        with store.transaction():
            for row in page:
                if table == "embeddings" and not _fits(dict(zip(columns, row, strict=True)), widths, is_sound):
                    continue
                with suppress(sqlite3.IntegrityError):  # a value of a wrong type, a second row with the same key, ...
                    conn.execute(insert, row)
                    saved += 1
    return Copied(expected, saved)


def finish(store: Store) -> dict[str, int]:
    """Repair references to rows that were lost, and have every readable file read again by the next scan.

    Returns, by table, how many rows were removed because they cannot be without the lost row.
    """
    with store.transaction():
        removed = _repair_references(store.connection)
        store.connection.execute(
            "UPDATE files SET state = 'deferred', reason = 'to be read again' WHERE state = 'ready'"
        )
    return removed


def _extent(old: sqlite3.Connection, table: str) -> tuple[int | None, int]:
    """(rows, greatest rowid) of a table, counted in the table or in one of its indexes, which are on other pages."""
    indexes = [
        f'INDEXED BY "{name}"' for _, name, _, _, partial in old.execute(f"PRAGMA index_list({table})") if not partial
    ]
    for source in ("NOT INDEXED", *indexes):
        with suppress(sqlite3.DatabaseError):
            rows, end = old.execute(f"SELECT count(*), max(rowid) FROM {table} {source}").fetchone()
            return rows, end or 0
    return None, sys.maxsize


def _rows(old: sqlite3.Connection, table: str, columns: str, end: int) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of a table by rowid, a page at a time; where a page cannot be read, one rowid at a time."""
    last = unreadable = 0
    while last < end and unreadable < _MAX_UNREADABLE_ROWIDS:
        page: list[tuple[Any, ...]] = []
        with suppress(sqlite3.DatabaseError):
            page = old.execute(
                f"SELECT rowid, {columns} FROM {table} WHERE rowid > ? ORDER BY rowid LIMIT {_PAGE_ROWS}", (last,)
            ).fetchall()
            if not page:
                return
        reached = max((row[0] for row in page), default=0)
        if reached <= last:  # not read, or out of order
            page, reached = [], last + _PAGE_ROWS
            for rowid in range(last + 1, reached + 1):
                with suppress(sqlite3.DatabaseError):
                    page += old.execute(f"SELECT rowid, {columns} FROM {table} WHERE rowid = ?", (rowid,)).fetchall()
        unreadable = 0 if page else unreadable + _PAGE_ROWS
        last = reached
        for row in page:
            yield row[1:]


def _fits(embedding: Mapping[str, Any], widths: Mapping[str, int], is_sound: EmbeddingCheck) -> bool:
    vector, width = embedding["vector"], widths.get(embedding["encoder_id"])
    return width is not None and isinstance(vector, bytes) and is_sound(vector, embedding.get("course"), width)


def _repair_references(conn: sqlite3.Connection) -> dict[str, int]:
    """Remove references to lost rows, and rows that cannot be without one; returns the removed rows by table."""
    removed: dict[str, int] = {}
    while strays := conn.execute("PRAGMA foreign_key_check").fetchall():
        for table, rowid, _, key in strays:
            column = next(row["from"] for row in conn.execute(f"PRAGMA foreign_key_list({table})") if row["id"] == key)
            needed = next(
                row["notnull"] or row["pk"]
                for row in conn.execute(f"PRAGMA table_info({table})")
                if row["name"] == column
            )
            if needed:
                gone = conn.execute(f"DELETE FROM {table} WHERE rowid = ?", (rowid,)).rowcount
                removed[table] = removed.get(table, 0) + gone
            else:
                conn.execute(f"UPDATE {table} SET {column} = NULL WHERE rowid = ?", (rowid,))
    return removed
