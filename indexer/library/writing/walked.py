"""Statements on roots, and on the difference between a tree of folders and the rows of its files."""

import sqlite3
from collections.abc import Iterable, Iterator, Sequence

from indexer.library.below import subtree
from indexer.library.sqlite import now
from indexer.library.states import LEFT_OUT
from indexer.library.writing.database import Database
from indexer.wording import printable

# A file that is missing now was last seen by the last complete scan of its root, if not later.
_LAST_THERE = (
    "last_seen = max(last_seen, coalesce((SELECT scanned_at FROM roots WHERE roots.id = files.root_id), last_seen))"
)


# Why a file is missing. A readable file may have a reason already, why no genre is written into it: it keeps that one,
# so that it is known again when the file is back.
_NOT_FOUND, _NO_FOLDER, _GONE = "not found by the last scan", "its folder is not there", "moved or deleted"


def _missing(why: str) -> str:
    """SQL that marks rows missing, up to the condition which rows."""
    reason = f"CASE WHEN state = 'ready' THEN coalesce(reason, '{why}') ELSE '{why}' END"
    return f"UPDATE files SET state = 'missing', reason = {reason}, {_LAST_THERE} WHERE state <> 'missing' AND "


class Walked(Database):
    """What a walk through the folders found: files are marked, none is deleted."""

    def root_for(self, path: bytes) -> sqlite3.Row | None:
        """The innermost known root that is ``path`` or holds it."""
        found = [
            r for r in self._run("SELECT * FROM roots") if path == r["path"] or path.startswith(subtree(r["path"])[0])
        ]
        return max(found, key=lambda r: len(r["path"]), default=None)

    def add_root(self, path: bytes) -> int:
        """Add a root and return its id; files below it that belong to an inner root stay with that one."""
        return self._insert("INSERT INTO roots (path, path_text) VALUES (?, ?)", (path, printable(path)))

    def root_paths(self) -> list[bytes]:
        """Every known root, by path."""
        return [r["path"] for r in self._run("SELECT path FROM roots ORDER BY path")]

    def set_root_health(self, root_id: int, reason: str | None) -> None:
        """Mark a root offline for ``reason``, or online when it is None."""
        self._run(
            "UPDATE roots SET state = ?, reason = ?, checked_at = ? WHERE id = ?",
            ("offline" if reason else "online", reason, now(), root_id),
        )

    def root_scanned(self, root_id: int, dev: int | None) -> None:
        """Mark a root as completely scanned now, on the drive with this device number."""
        self._run("UPDATE roots SET scanned_at = ?, dev = ? WHERE id = ?", (now(), dev, root_id))

    def count_known(self, folder: bytes) -> tuple[int, int, int]:
        """Count rows below a folder: (not missing now, not missing now or after its last healthy scan, all)."""
        row = self._one(
            "SELECT sum(state <> 'missing') AS present, count(*) AS n,"
            " sum(state <> 'missing' OR last_seen >= coalesce((SELECT scanned_at FROM roots WHERE path = ?),"
            " '')) AS were_there"
            " FROM files WHERE path >= ? AND path < ?",
            (folder, *subtree(folder)),
        )
        assert row is not None
        return int(row["present"] or 0), int(row["were_there"] or 0), int(row["n"])

    def clear_spool(self) -> None:
        """Empty the lists of changed and of vanished files that a difference fills (temporary tables on disk)."""
        self._run("CREATE TEMP TABLE IF NOT EXISTS changed (id INTEGER PRIMARY KEY, path BLOB UNIQUE, root_id INTEGER)")
        self._run("CREATE TEMP TABLE IF NOT EXISTS vanished (id INTEGER PRIMARY KEY)")
        self._run("DELETE FROM changed")
        self._run("DELETE FROM vanished")

    def spool_changed(self, rows: Iterable[tuple[bytes, int | None]]) -> None:
        """Add (path, root id) to the list of new and changed files."""
        self._many("INSERT OR IGNORE INTO changed (path, root_id) VALUES (?, ?)", rows)

    def unspool_changed(self, paths: Iterable[bytes]) -> None:
        """Take these files off the list of new and changed ones."""
        self._many("DELETE FROM changed WHERE path = ?", [(path,) for path in paths])

    def spool_vanished(self, rows: Iterable[tuple[int]]) -> None:
        """Add (file id,) to the list of files that the walk did not find."""
        self._many("INSERT OR IGNORE INTO vanished (id) VALUES (?)", rows)

    def changed_count(self) -> int:
        """How many files were spooled as new or changed."""
        row = self._one("SELECT count(*) AS n FROM changed")
        assert row is not None
        return int(row["n"])

    def changed(self) -> Iterator[tuple[bytes, int | None]]:
        """Yield (path, root id) of spooled files in the order of the walk; the caller may write in between."""
        last = 0
        while page := self._run(
            "SELECT id, path, root_id FROM changed WHERE id > ? ORDER BY id LIMIT 500", (last,)
        ).fetchall():
            for row in page:
                yield row["path"], row["root_id"]
            last = page[-1]["id"]

    def mark_vanished_missing(self) -> int:
        """Mark vanished files missing and return how many changed; nothing is deleted."""
        cursor = self._run(_missing(_NOT_FOUND) + "id IN (SELECT id FROM vanished)")
        return cursor.rowcount

    def mark_below_missing(self, folder: bytes) -> None:
        """Mark every file below an absent folder missing; nothing is deleted."""
        self._run(
            _missing(_NO_FOLDER) + "path >= ? AND path < ?",
            subtree(folder),
        )

    def mark_left_out(self, file_ids: Sequence[int]) -> None:
        """Mark these files as left out by their names; they are read again when the names count again."""
        self._many(
            f"UPDATE files SET state = 'missing', reason = '{LEFT_OUT}', {_LAST_THERE}"
            f" WHERE id = ? AND (state <> 'missing' OR reason IS NOT '{LEFT_OUT}')",
            [(i,) for i in file_ids],
        )

    def mark_missing(self, file_ids: Sequence[int]) -> None:
        """Mark these files missing; nothing is deleted."""
        self._many(
            _missing(_GONE) + "id = ?",
            [(i,) for i in file_ids],
        )

    def mark_present(self, file_ids: Sequence[int]) -> None:
        """Mark missing files as ready: they were read before and are back unchanged."""
        kept = f"CASE WHEN reason NOT IN ('{_NOT_FOUND}', '{_NO_FOLDER}', '{_GONE}') THEN reason END"
        self._many(
            f"UPDATE files SET state = 'ready', reason = {kept}, last_seen = ? WHERE id = ?",
            [(now(), i) for i in file_ids],
        )

    def forget_files(self, file_ids: Sequence[int]) -> None:
        """Remove these rows, and recordings that no file holds any more with all that belongs to them."""
        with self.transaction():
            self._many("DELETE FROM files WHERE id = ?", [(i,) for i in file_ids])
            self._run(
                "DELETE FROM recordings WHERE id NOT IN (SELECT recording_id FROM files WHERE recording_id IS NOT NULL)"
            )

    def forget_roots(self, paths: Sequence[bytes]) -> None:
        """Remove these roots; files that are left below them belong to no root."""
        self._many("DELETE FROM roots WHERE path = ?", [(path,) for path in paths])
