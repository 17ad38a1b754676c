"""`indexer doctor` on the library itself: checks it, and makes a new library from the readable rows of a damaged one.

Owns the order in which the databases are renamed. Keeps the damaged database unchanged and touches no music file. The
next scan reads every known file again, and embeds only recordings whose embedding was lost.
"""

import os
import shutil
from contextlib import closing, nullcontext, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from indexer.config import Settings
from indexer.encoders.trajectory import Trajectory
from indexer.errors import LockedError, ModelError, StoreError
from indexer.library import integrity, salvage
from indexer.library.lock import library_lock
from indexer.library.readonly import reading
from indexer.library.sqlite import Connection, is_damage, plain_errors
from indexer.library.store import Store
from indexer.models.choice import choose_and_register

_MAX_LISTED = 20
_REBUILD = "`indexer doctor --rebuild` makes the library anew from what can be read"


def check(db: Path) -> dict[str, Any]:
    """Check a library: {db, problems: [{problem, remedy}]}. Reads all of it once, and changes nothing.

    Raises StoreError when there is no library.
    """
    problems: list[dict[str, str]] = []

    def problem(what: str, remedy: str = _REBUILD) -> None:
        problems.append({"problem": what, "remedy": remedy})

    try:
        with reading(db) as conn:
            for line in integrity.damage(conn, _MAX_LISTED):
                problem(line)
            if orphans := integrity.orphaned_rows(conn):
                problem(f"{orphans:,} rows refer to rows that are missing")
            if wrong := integrity.wrongly_sized_embeddings(conn):
                problem(f"{wrong:,} embeddings are of another size than their encoder makes")
            # While another indexer holds the lock, its tag write in progress would look unsettled.
            with suppress(LockedError), library_lock(db) if os.access(db.parent, os.W_OK) else nullcontext():
                if left := integrity.unsettled_tag_writes(conn):
                    problem(
                        f"{left:,} tag writes were announced and never settled", "the next `indexer scan` settles them"
                    )
    except StoreError as e:
        if e.__cause__ is None or not is_damage(e.__cause__):
            raise
        problem(str(e.__cause__))
    return {"db": str(db), "problems": problems}


def rebuild(settings: Settings) -> dict[str, Any]:
    """Put a new library in the place of a damaged one: {db, damaged, tables: {name: {saved, lost}}}.

    damaged: the new path of the damaged database. saved, lost: rows; lost is None where it is not known. Raises
    LockedError, and StoreError where the library cannot be rebuilt; it is unchanged then.
    """
    db = settings.db
    new = db.with_name(f"{db.name}.rebuilt")
    if not db.exists():
        raise StoreError(f"{db}: no library there yet; start with: indexer scan FOLDER")
    with library_lock(db):
        try:
            if not salvage.is_library(db):
                raise StoreError(
                    f"{db}: is not an indexer library; name another with --db, "
                    "or move it away and start with: indexer scan FOLDER"
                )
            _remove(new)  # left by a run that was killed
            with closing(salvage.open_damaged(db)) as old:
                if salvage.is_newer(old):
                    raise StoreError(f"{db}: was written by a newer indexer: update indexer; nothing was changed")
                with plain_errors(new), Store(new) as store:
                    tables = _copy(old, store, settings)
            return {"db": str(db), "damaged": str(_swap(db, new)), "tables": tables}
        except OSError as e:
            raise StoreError(f"{db}: cannot be rebuilt ({e}); it is as it was") from e
        finally:
            _remove(new)


def _remove(db: Path) -> None:
    for ending in ("", "-wal", "-shm"):
        Path(f"{db}{ending}").unlink(missing_ok=True)


def _copy(old: Connection, store: Store, settings: Settings) -> dict[str, dict[str, int | None]]:
    """Copy every table: {name: {saved, lost}}."""
    salvage.begin(store)
    copied: dict[str, salvage.Copied] = {}
    for table in salvage.TABLES:
        copied[table] = salvage.copy_table(old, store, table, _is_sound)
        if table == "heads":
            # Registered now, as the next scan would: an embedding is kept even if the row of its encoder was lost.
            with suppress(ModelError):
                choose_and_register(store, settings)
    removed = salvage.finish(store)
    tables: dict[str, dict[str, int | None]] = {}
    for table, found in copied.items():
        saved = found.saved - removed.get(table, 0)
        tables[table] = {"saved": saved, "lost": None if found.expected is None else max(0, found.expected - saved)}
    return tables


def _is_sound(vector: bytes, trajectory: bytes | None, width: int) -> bool:
    """Whether an embedding has its encoder's size and finite numbers only, and its trajectory can be read."""
    if len(vector) != 2 * width or not np.isfinite(np.frombuffer(vector, "<f2")).all():
        return False
    if trajectory is None:
        return True
    try:
        found = Trajectory.from_bytes(trajectory)
    except (ValueError, TypeError):
        return False
    return found.basis.shape[1] == width and bool(
        np.isfinite(found.basis).all() and np.isfinite(found.coefficients).all()
    )


# ---- renaming the databases


def _swap(db: Path, new: Path) -> Path:
    """Keep ``db`` under another name, put ``new`` in its place, and return that name.

    At every moment one of the two databases is at ``db``. The old write-ahead log is removed before the new database
    is put there, because SQLite would apply it to the new one; before that it is linked to another name, which keeps
    it.
    """
    aside = db.with_name(f"{db.name}.damaged-{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}")
    log, index = (Path(f"{db}{ending}") for ending in ("-wal", "-shm"))
    shutil.copymode(db, new)
    _sync(new)
    if log.exists() and log.stat().st_size:
        _link_or_copy(log, Path(f"{aside}-wal"))
    _link_or_copy(db, aside)
    _sync(db.parent)
    log.unlink(missing_ok=True)
    index.unlink(missing_ok=True)  # SQLite makes it from the log
    new.replace(db)
    _sync(db.parent)
    return aside


def _link_or_copy(path: Path, name: Path) -> None:
    try:
        os.link(path, name)
    except OSError:  # FAT and many network drives have no hard links
        shutil.copy2(path, name)
        _sync(name)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
