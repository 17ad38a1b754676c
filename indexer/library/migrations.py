"""Brings a database to the schema in schema/*.sql: numbered files, each applied once in its own transaction.

The files are append-only: a released one never changes. Owns the order, the backup before a change, and the refusal of
a database that a newer program wrote. The caller holds the library's lock, because two processes that migrate at once
fail half the time.
"""

import sqlite3
from pathlib import Path
from typing import Any

from indexer.errors import StoreError
from indexer.library.sqlite import SCHEMA, is_damage


def schema_files() -> list[tuple[str, str]]:
    """(name, SQL) of every migration in order; ``001_initial`` is the first."""
    return [(path.stem, path.read_text(encoding="utf-8")) for path in sorted(SCHEMA.glob("[0-9]*.sql"))]


def migrate(db: Any, path: Path) -> None:
    """Apply the pending migrations to ``db`` (a sqlite_utils Database); backs up a database that already has some.

    Raises StoreError for a database from a newer version, and when a migration fails: then the database is as it was.
    """
    from sqlite_utils import Migrations

    migrations = Migrations("indexer")
    for name, sql in schema_files():
        migrations(name=name)(lambda db, sql=sql: _run(db, sql))
    known = {name for name, _ in schema_files()}
    unknown = sorted(m.name for m in migrations.applied(db) if m.name not in known)
    if unknown:
        raise StoreError(
            f"{path}: was written by a newer indexer (schema {unknown[-1]}, this one knows {max(known)}): update"
            " indexer; nothing was changed"
        )
    pending = migrations.pending(db)
    if not pending:
        return
    backup = _back_up(db, path, pending[0].name) if migrations.applied(db) else None
    try:
        migrations.apply(db)
    except sqlite3.Error as e:
        if is_damage(e):
            raise
        kept = f"; a copy from before is {backup}" if backup else ""
        raise StoreError(f"{path}: the schema could not be brought up to date ({e}); it is unchanged{kept}") from e


def _run(db: Any, script: str) -> None:
    """Run a script within the transaction of its migration, a statement at a time.

    sqlite-utils' own ``executescript`` looks at every character for the end of a statement: most of the time that a
    new library takes.
    """
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            db.execute(statement)
            statement = ""
    db.execute(statement)  # what no semicolon ends


def _back_up(db: Any, path: Path, migration: str) -> Path:
    target = path.with_name(f"{path.name}.before-{migration}.bak")
    copy = sqlite3.connect(target)
    try:
        db.conn.backup(copy)
    finally:
        copy.close()
    return target
