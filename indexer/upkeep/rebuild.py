"""`indexer doctor` on the library itself: is it sound, and a new one from what can still be read of a damaged one.

Owns what is worth saving and the order in which files change their names. Never changes the damaged database, which is kept, nor
touches a music file: each that was known is read again by the next scan, and nothing that was saved is embedded again.
"""

import os
import shutil
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing, suppress
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from indexer.config import Settings
from indexer.encoders.trajectory import Course
from indexer.errors import LockedError, ModelError, StoreError
from indexer.library.lock import library_lock
from indexer.library.migrations import schema_files
from indexer.library.readonly import is_damage, plain_errors, reading
from indexer.library.store import Store
from indexer.models.choice import choose_and_register

# Predictions, scores, timelines and places on the map are not among them: the next scan makes them from the embeddings. Parents come first.
TABLES = (
    "encoders",
    "heads",
    "roots",
    "recordings",
    "runs",
    "files",
    "tags",
    "embeddings",
    "corrections",
    "tag_writes",
)
_TRACES = (
    b"CREATE TABLE recordings",
    b"CREATE TABLE embeddings",
    b"CREATE TABLE tag_writes",
)  # on different pages of every library
_PAGE_ROWS = 500
_ROWIDS_IN_VAIN = 100_000  # so many in a row hold nothing that can be read: the table ends here
_MAX_VALUE_BYTES = 1 << 26  # a damaged length would ask for gigabytes
_MAX_LISTED = 20
_REBUILD = "`indexer doctor --rebuild` makes the library anew from what can be read"


def check(db: Path) -> dict[str, Any]:
    """{db, problems: [{problem, remedy}]} of a library; reads all of it once, and changes nothing. Raises StoreError when there is none."""
    problems: list[dict[str, str]] = []

    def problem(what: str, remedy: str = _REBUILD) -> None:
        problems.append({"problem": what, "remedy": remedy})

    try:
        with reading(db) as conn:
            for (line,) in conn.execute(f"PRAGMA quick_check({_MAX_LISTED})"):
                if line != "ok":
                    problem(line)
            strays = sum(1 for _ in conn.execute("PRAGMA foreign_key_check"))
            if strays:
                problem(f"{strays:,} rows belong to rows that are not there")
            (wrong,) = conn.execute(
                "SELECT count(*) FROM embeddings e JOIN encoders c ON c.id = e.encoder_id WHERE length(e.vector) <> 2 * c.width"
            ).fetchone()
            if wrong:
                problem(f"{wrong:,} embeddings are of another size than their encoder makes")
            with suppress(LockedError), library_lock(db):  # while somebody works, the entry in work is open
                (left,) = conn.execute("SELECT count(*) FROM tag_writes WHERE state = 'intended'").fetchone()
                if left:
                    problem(
                        f"{left:,} tag writes were announced and never settled", "the next `indexer scan` settles them"
                    )
    except StoreError as e:
        if e.__cause__ is None or not is_damage(e.__cause__):
            raise
        problem(str(e.__cause__))
    return {"db": str(db), "problems": problems}


def rebuild(settings: Settings) -> dict[str, Any]:
    """Put a new library in the place of a damaged one: {db, damaged: its new path, tables: {name: {saved, lost}}}; lost None: not known.

    Raises StoreError, with the library as it was, when that cannot be done, and LockedError.
    """
    db = settings.db
    new = db.with_name(f"{db.name}.rebuilt")
    if not db.exists():
        raise StoreError(f"{db}: no library there yet; start with: indexer scan FOLDER")
    with library_lock(db):
        try:
            if not _is_library(db):
                raise StoreError(
                    f"{db}: nothing in it is of an indexer library; name another with --db, or move it away and start with: indexer scan FOLDER"
                )
            _remove(new)  # of a run that was killed
            with closing(_open_damaged(db)) as old:
                _refuse_newer(db, old)
                with plain_errors(new), Store(new) as store:
                    tables = _save_all(old, store, settings)
            return {"db": str(db), "damaged": str(_swap(db, new)), "tables": tables}
        except OSError as e:
            raise StoreError(f"{db}: cannot be rebuilt ({e}); it is as it was") from e
        finally:
            _remove(new)


def _remove(db: Path) -> None:
    for ending in ("", "-wal", "-shm"):
        Path(f"{db}{ending}").unlink(missing_ok=True)


def _is_library(db: Path) -> bool:
    """Whether a file, or the log beside it, still has the look of a library; somebody's music file must not be moved aside."""
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


def _open_damaged(db: Path) -> sqlite3.Connection:
    conn = sqlite3.connect(f"{db.absolute().as_uri()}?mode=ro", uri=True, timeout=10)
    conn.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _MAX_VALUE_BYTES)
    with suppress(sqlite3.DatabaseError):
        conn.execute("PRAGMA cell_size_check = ON")
        conn.execute("PRAGMA writable_schema = ON")  # statements of the schema that make no sense are passed over
    return conn


def _refuse_newer(db: Path, old: sqlite3.Connection) -> None:
    newest = max(name for name, _ in schema_files())
    with suppress(sqlite3.DatabaseError):
        if any(
            name > newest
            for (name,) in old.execute("SELECT name FROM _sqlite_migrations WHERE migration_set = 'indexer'")
        ):
            raise StoreError(f"{db}: was written by a newer indexer: update indexer; nothing was changed")


# ---- reading what can be read


def _save_all(old: sqlite3.Connection, store: Store, settings: Settings) -> dict[str, dict[str, int | None]]:
    conn = store.connection
    conn.execute("PRAGMA synchronous = OFF")  # made durable as a whole before it is put in place
    conn.execute("PRAGMA foreign_keys = OFF")  # what lost its parent is looked at in the end
    saved: dict[str, int] = {}
    expected: dict[str, int | None] = {}
    for table in TABLES:
        expected[table], saved[table] = _save(old, store, table)
        if table == "heads":
            with suppress(
                ModelError
            ):  # what the next scan registers: embeddings outlive the loss of their encoder's row
                choose_and_register(store, settings)
    with store.transaction():
        _part_from_the_lost(conn, saved)
        conn.execute("UPDATE files SET state = 'deferred', reason = 'to be read again' WHERE state = 'ready'")
    return {
        table: {"saved": saved[table], "lost": None if (n := expected[table]) is None else max(0, n - saved[table])}
        for table in TABLES
    }


def _save(old: sqlite3.Connection, store: Store, table: str) -> tuple[int | None, int]:
    """Copy the rows of one table that can be read and make sense; (rows that there should be, None: not known; rows copied)."""
    conn = store.connection
    try:
        here = {row[1] for row in old.execute(f"PRAGMA table_info({table})")}
        rows, end = _extent(old, table)
    except sqlite3.DatabaseError:
        return None, 0
    columns = [row["name"] for row in conn.execute(f"PRAGMA table_info({table})") if row["name"] in here]
    if not columns:
        return None, 0
    insert = f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"
    widths = {row["id"]: row["width"] for row in conn.execute("SELECT id, width FROM encoders")}
    found, copied = _rows(old, table, ", ".join(columns), end), 0
    while page := list(islice(found, _PAGE_ROWS)):
        with store.transaction():
            for row in page:
                if table == "embeddings" and not _is_sound(dict(zip(columns, row, strict=True)), widths):
                    continue
                with suppress(sqlite3.IntegrityError):  # of a wrong type, a twin, ...
                    conn.execute(insert, row)
                    copied += 1
    return rows, copied


def _extent(old: sqlite3.Connection, table: str) -> tuple[int | None, int]:
    """(rows, greatest rowid) of a table by itself, else by one of its indexes, which lie on other pages."""
    indexes = [
        f'INDEXED BY "{name}"' for _, name, _, _, partial in old.execute(f"PRAGMA index_list({table})") if not partial
    ]
    for source in ("NOT INDEXED", *indexes):
        with suppress(sqlite3.DatabaseError):
            rows, end = old.execute(f"SELECT count(*), max(rowid) FROM {table} {source}").fetchone()
            return rows, end or 0
    return None, sys.maxsize


def _rows(old: sqlite3.Connection, table: str, columns: str, end: int) -> Iterator[tuple[Any, ...]]:
    """The rows of a table by rowid, a page at a time; where a page cannot be read, each rowid of its range by itself."""
    last = vain = 0
    while last < end and vain < _ROWIDS_IN_VAIN:
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
        vain = 0 if page else vain + _PAGE_ROWS
        last = reached
        for row in page:
            yield row[1:]


def _is_sound(embedding: dict[str, Any], widths: dict[str, int]) -> bool:
    """Whether an embedding is of its encoder's size, all numbers finite, and its course readable."""
    vector, course, width = embedding["vector"], embedding.get("course"), widths.get(embedding["encoder_id"])
    if (
        width is None
        or not isinstance(vector, bytes)
        or len(vector) != 2 * width
        or not np.isfinite(np.frombuffer(vector, "<f2")).all()
    ):
        return False
    if course is None:
        return True
    try:
        found = Course.from_bytes(course)
    except (ValueError, TypeError):
        return False
    return found.basis.shape[1] == width and bool(
        np.isfinite(found.basis).all() and np.isfinite(found.coefficients).all()
    )


def _part_from_the_lost(conn: sqlite3.Connection, saved: dict[str, int]) -> None:
    """Rows that belong to a row that was lost: parted from it where they can be without, else removed."""
    while strays := conn.execute("PRAGMA foreign_key_check").fetchall():
        for table, rowid, _, key in strays:
            column = next(row["from"] for row in conn.execute(f"PRAGMA foreign_key_list({table})") if row["id"] == key)
            needed = next(
                row["notnull"] or row["pk"]
                for row in conn.execute(f"PRAGMA table_info({table})")
                if row["name"] == column
            )
            if needed:
                saved[table] -= conn.execute(f"DELETE FROM {table} WHERE rowid = ?", (rowid,)).rowcount
            else:
                conn.execute(f"UPDATE {table} SET {column} = NULL WHERE rowid = ?", (rowid,))


# ---- the new one in the place of the old one


def _swap(db: Path, new: Path) -> Path:
    """Keep ``db`` under another name and put ``new`` in its place; returns that name. Whenever it is cut off, one of them is there.

    The old log goes before the new database comes, which would take it for its own; until then it has a second name, too.
    """
    aside = db.with_name(f"{db.name}.damaged-{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}")
    log, index = (Path(f"{db}{ending}") for ending in ("-wal", "-shm"))
    shutil.copymode(db, new)
    _sync(new)
    if log.exists() and log.stat().st_size:
        _second_name(log, Path(f"{aside}-wal"))
    _second_name(db, aside)
    _sync(db.parent)
    log.unlink(missing_ok=True)
    index.unlink(missing_ok=True)  # SQLite makes it from the log
    new.replace(db)
    _sync(db.parent)
    return aside


def _second_name(path: Path, name: Path) -> None:
    try:
        os.link(path, name)
    except OSError:  # FAT and many network drives know no second names
        shutil.copy2(path, name)
        _sync(name)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
