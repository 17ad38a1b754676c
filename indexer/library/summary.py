"""`indexer status` and `indexer tags history`: what the library holds, and the writes to one file.

Reads only. Imports the standard library only, so that it starts fast.
"""

import json
import os
import re
from collections import Counter
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from indexer.config import Settings
from indexer.library.lock import working_process
from indexer.library.readonly import open_readonly
from indexer.library.registered import heard_roughly, main_encoder, unclassified_by_head_in_use
from indexer.library.set_fields import count_unwritten as unwritten_labels
from indexer.library.states import SHOWN_STATE, TRUNCATED
from indexer.library.unwritten import count_unwritten
from indexer.library.whose_word import GENRE_COUNTS

MAX_KINDS = 20  # of reasons, listed
_REASONS = "SELECT reason, count(*) AS files, min(path_text) AS path FROM files"
# The recordings that some file holds: one that is there, or that is on a drive that is away. What remains of a file
# that was replaced or deleted is none of them.
_HELD = (
    "SELECT DISTINCT f.recording_id FROM files f LEFT JOIN roots o ON o.id = f.root_id"
    " WHERE f.recording_id IS NOT NULL AND (f.state <> 'missing' OR o.state = 'offline')"
)


def status(settings: Settings) -> dict[str, Any]:
    """Counts of files by state, recordings, embeddings, genres; encoder, head, roots, last run, failures by reason.

    ``tags_written``: files that carry a genre of ours; ``not_written``: that a decided genre is still to go into;
    ``unclassified``: recordings that the head in use has not classified yet.
    ``failures``: files that could not be read, and ``left_alone``:
    readable files into which no genre is written, by the kind of reason: {reason, files, example}.
    """
    db = settings.db
    conn = open_readonly(db)

    def rows(sql: str, *values: str) -> list[dict[str, Any]]:
        return [dict(r) for r in conn.execute(sql, values)]

    def one(sql: str, *values: str) -> dict[str, Any] | None:
        found = rows(sql, *values)
        return found[0] if found else None

    encoder = main_encoder(conn)
    parts = encoder.parts if encoder else ()
    last = one("SELECT state, started_at, finished_at, summary FROM runs ORDER BY id DESC LIMIT 1")
    if last:
        last = as_it_ended(last, db)
    found = {
        "db": str(db),
        "db_bytes": sum(path.stat().st_size for path in (db, Path(f"{db}-wal")) if path.exists()),
        "roots": rows("SELECT path_text AS path, state, reason, scanned_at FROM roots ORDER BY path"),
        "files": {
            r["shown"]: r["n"]
            for r in rows(f"SELECT {SHOWN_STATE} AS shown, count(*) AS n FROM files GROUP BY shown ORDER BY shown")
        },
        "truncated": _count(one(f"SELECT count(*) AS n FROM files f WHERE {TRUNCATED}")),
        "recordings": _count(one(f"SELECT count(*) AS n FROM ({_HELD})")),
        "embedded": min(
            (
                _count(
                    one(
                        f"SELECT count(*) AS n FROM ({_HELD}) h JOIN embeddings e ON e.recording_id = h.recording_id"
                        " AND e.encoder_id = ?",
                        part,
                    )
                )
                for part in parts
            ),
            default=0,
        ),
        "rough": heard_roughly(conn, parts),
        "encoder": {"name": encoder.name, "id": encoder.id} if encoder else None,
        "head": one(
            "SELECT name, id, kind, threshold, iif(kind = 'words', NULL, coalesce((SELECT p.threshold FROM predictions"
            " p WHERE p.head_id = heads.id LIMIT 1), threshold)) AS decided_from FROM heads WHERE in_use = 1"
        ),
        "genres": rows(GENRE_COUNTS),
        "tags_written": _count(one("SELECT count(*) AS n FROM tags WHERE indexer_genre IS NOT NULL")),
        "not_written": count_unwritten(conn, settings),
        "sets_not_written": unwritten_labels(conn, settings),
        "unclassified": unclassified_by_head_in_use(conn),
        "failures": _by_kind(
            rows(f"{_REASONS} WHERE state IN ('unreadable', 'unsupported', 'deferred') GROUP BY reason ORDER BY path")
        ),
        "left_alone": _by_kind(
            rows(f"{_REASONS} WHERE state = 'ready' AND reason IS NOT NULL GROUP BY reason ORDER BY path")
        ),
        "last_run": last,
    }
    conn.close()
    return found


def _by_kind(reasons: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Reasons that differ in numbers and names only, as one with its files and the path of one of them."""
    kinds: dict[str, dict[str, Any]] = {}
    distinct: Counter[str] = Counter()
    for row in reasons:
        kind = re.split(r": | \(", row["reason"] or "not known", maxsplit=1)[0]
        distinct[kind] += 1
        found = kinds.setdefault(kind, {"reason": row["reason"], "files": 0, "example": row["path"]})
        found["files"] += row["files"]
        if distinct[kind] > 1:
            found["reason"] = kind
    return sorted(kinds.values(), key=lambda found: -found["files"])[:MAX_KINDS]


def _count(row: dict[str, Any] | None) -> int:
    return int(row["n"]) if row else 0


def as_it_ended(run: dict[str, Any], db: Path) -> dict[str, Any]:
    """A row of ``runs`` with its summary read, and as interrupted where its process was killed.

    A killed process leaves the row "running"; that no process holds the library's lock tells. The end is then the last
    progress that it stored.
    """
    summary = json.loads(run["summary"]) if run["summary"] else None
    if run["state"] != "running" or working_process(db) is not None:
        return {**run, "summary": summary}
    started = datetime.fromisoformat(run["started_at"])
    ended = started + timedelta(seconds=(summary or {}).get("elapsed_s") or 0)
    finished_at = ended.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return {**run, "summary": summary, "state": "interrupted", "finished_at": finished_at}


def history(db: Path, path: Path) -> list[dict[str, Any]]:
    """The journal entries of a file, the oldest first; ``added``: the fields of ours beside the genre, after it."""
    conn = open_readonly(db)
    exact = os.path.realpath(os.fsencode(path))
    rows = conn.execute(
        "SELECT written_at, action, state, reason, before, after, run_id, json_extract(json_extract(evidence,"
        " '$.columns.indexer_added'), '$.added') AS added FROM tag_writes WHERE path = ? OR file_id ="
        " (SELECT id FROM files WHERE path = ?) ORDER BY id",
        (exact, exact),
    ).fetchall()
    conn.close()
    return [
        {
            **dict(r),
            "before": json.loads(r["before"] or "null"),
            "after": json.loads(r["after"] or "null"),
            "added": json.loads(r["added"] or "{}"),
        }
        for r in rows
    ]
