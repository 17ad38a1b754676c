"""`indexer prune`: the only thing that forgets. Missing files of roots that are online or below named paths, and on demand what no model in use needs.

Owns what may be forgotten. Removes rows and never touches a file; what a person corrected stays in the files' own tags.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from indexer.config import Settings
from indexer.library.lock import library_lock
from indexer.library.readonly import Reader, open_readonly
from indexer.library.store import Store, subtree
from indexer.library.vectors.directions import remove_unused
from indexer.wording import printable

MAX_LISTED = 1000  # paths that are named; the counts are whole
_MISSING = "f.state = 'missing'"
_OFFLINE = "EXISTS (SELECT 1 FROM roots o WHERE o.id = f.root_id AND o.state = 'offline')"
_UNUSED_EMBEDDINGS = (
    "encoder_id NOT IN (SELECT id FROM encoders WHERE in_use UNION SELECT j.value FROM encoders e, json_each(e.parts) j WHERE e.in_use)"
    " AND EXISTS (SELECT 1 FROM encoders WHERE in_use)"
)
_UNUSED_HEADS = "head_id NOT IN (SELECT id FROM heads WHERE in_use) AND EXISTS (SELECT 1 FROM heads WHERE in_use)"


def _condition(paths: Sequence[Path]) -> tuple[str, list[bytes]]:
    """SQL over ``files f``: missing, and at or below the paths, or without paths of no offline root."""
    exact = [os.path.realpath(os.fsencode(path)) for path in paths]
    below = " OR ".join(["f.path = ? OR (f.path >= ? AND f.path < ?)"] * len(exact))
    values = [value for path in exact for value in (path, *subtree(path))]
    return f"{_MISSING} AND " + (f"({below})" if exact else f"NOT {_OFFLINE}"), values


def plan(settings: Settings, paths: Sequence[Path], *, embeddings: bool = False) -> dict[str, Any]:
    """{files, paths, recordings, embeddings, predictions, kept}: what ``forget`` would remove, and what offline roots keep."""
    conn = open_readonly(settings.db)
    try:
        condition, values = _condition(paths)

        def one(sql: str, given: Sequence[bytes] = ()) -> int:
            return int(conn.execute(sql, given).fetchone()[0])

        listed = conn.execute(
            f"SELECT f.path FROM files f WHERE {condition} ORDER BY f.path LIMIT {MAX_LISTED}", values
        ).fetchall()
        kept = conn.execute(
            f"SELECT o.path_text, count(*) AS n FROM files f JOIN roots o ON o.id = f.root_id WHERE {_MISSING} AND o.state = 'offline'"
            f" AND NOT ({condition}) GROUP BY o.id",
            values,
        ).fetchall()
        return {
            "files": one(f"SELECT count(*) FROM files f WHERE {condition}", values),
            "paths": [printable(row["path"]) for row in listed],
            "recordings": one(
                f"SELECT count(DISTINCT f.recording_id) FROM files f WHERE {condition} AND NOT EXISTS (SELECT 1 FROM files g"
                f" WHERE g.recording_id = f.recording_id AND g.id NOT IN (SELECT f.id FROM files f WHERE {condition}))",
                [*values, *values],
            ),
            "embeddings": one(f"SELECT count(*) FROM embeddings WHERE {_UNUSED_EMBEDDINGS}") if embeddings else 0,
            "predictions": one(f"SELECT count(*) FROM predictions WHERE {_UNUSED_HEADS}") if embeddings else 0,
            "kept": {row["path_text"]: row["n"] for row in kept},
        }
    finally:
        conn.close()


def forget(settings: Settings, paths: Sequence[Path], *, embeddings: bool = False) -> dict[str, Any]:
    """Remove the rows: {forgotten: files}. A file that is there again by now is kept."""
    with library_lock(settings.db), Store(settings.db) as store:
        condition, values = _condition(paths)
        gone = [
            row["id"]
            for row in _rows(store.connection, f"SELECT f.id, f.path FROM files f WHERE {condition}", values)
            if not os.path.lexists(row["path"])
        ]
        store.forget_files(gone)
        if embeddings:
            store.forget_unused(_UNUSED_EMBEDDINGS, _UNUSED_HEADS)
            remove_unused(
                settings.db,
                {row["id"] for row in store.connection.execute("SELECT DISTINCT encoder_id AS id FROM embeddings")},
            )
    return {"forgotten": len(gone)}


def _rows(reader: Reader, sql: str, values: Sequence[bytes]) -> Any:
    return reader.execute(sql, values).fetchall()
