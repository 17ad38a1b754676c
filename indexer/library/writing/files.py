"""Statements on files and their tags."""

import os
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass

from indexer.files.audio.identity import Stat
from indexer.library.below import subtree
from indexer.library.sqlite import now
from indexer.library.writing.database import Database
from indexer.wording import printable

_SAID_SO_FAR = (
    "(SELECT coalesce(group_concat(c.genre || c.corrected_at), '') FROM corrections c WHERE c.recording_id = f.id)"
    " || (SELECT coalesce(group_concat(c.label_set || c.label || c.corrected_at), '') FROM set_corrections c"
    " WHERE c.recording_id = f.id)"
)


@dataclass(frozen=True, slots=True)
class FileRow:
    """One row of ``files``, as far as the pipeline needs it."""

    id: int
    recording_id: int | None
    path: bytes
    container: str | None
    stat: Stat
    state: str
    reason: str | None  # of a readable file: why no genre is written into it
    tag_policy: str | None


_FILE_COLUMNS = "id, recording_id, path, container, dev, ino, size, mtime_ns, state, reason, tag_policy"


def _file_row(row: sqlite3.Row) -> FileRow:
    return FileRow(
        row["id"],
        row["recording_id"],
        row["path"],
        row["container"],
        Stat(row["dev"], row["ino"], row["size"], row["mtime_ns"]),
        row["state"],
        row["reason"],
        row["tag_policy"],
    )


class Files(Database):
    """Rows of ``files`` and ``tags``, and which recording a file holds."""

    def file_at(self, path: bytes) -> FileRow | None:
        """The row of a path; None when there is none."""
        row = self._one(f"SELECT {_FILE_COLUMNS} FROM files WHERE path = ?", (path,))
        return _file_row(row) if row else None

    def file(self, file_id: int) -> FileRow:
        """The row with this id, which must exist."""
        row = self._one(f"SELECT {_FILE_COLUMNS} FROM files WHERE id = ?", (file_id,))
        assert row is not None
        return _file_row(row)

    def put_file(
        self,
        path: bytes,
        stat: Stat,
        *,
        root_id: int | None,
        state: str,
        reason: str | None = None,
        container: str | None = None,
        recording_id: int | None = None,
        deaths: int = 0,
        is_new: bool = False,
    ) -> int:
        """Insert or update the row of a path, and return its id.

        A missing row of the same recording is taken over: the file was moved. ``deaths``: how often a reader died
        on this content. ``is_new``: neither the path nor the recording has a row, so none is looked for.
        """
        row = None if is_new else self._one("SELECT id FROM files WHERE path = ?", (path,))
        if row is None and recording_id is not None and not is_new:
            row = self._one(
                "SELECT id FROM files WHERE recording_id = ? AND state = 'missing' ORDER BY size = ? DESC, id LIMIT 1",
                (recording_id, stat.size),
            )
        place = (recording_id, root_id, path, printable(path), container)
        values = (*place, stat.dev, stat.ino, stat.size, stat.mtime_ns, state, reason, deaths, now())
        if row is None:
            return self._insert(
                "INSERT INTO files (recording_id, root_id, path, path_text, container, dev, ino, size, mtime_ns,"
                " state, reason, deaths, first_seen, last_seen)"
                " VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?13)",
                values,
            )
        self._run(
            "UPDATE files SET recording_id = ?1, root_id = ?2, path = ?3, path_text = ?4,"
            " container = coalesce(?5, container), dev = ?6, ino = ?7, size = ?8, mtime_ns = ?9, state = ?10,"
            " reason = ?11, deaths = ?12, last_seen = ?13, tag_policy = NULL WHERE id = ?14",
            (*values, row["id"]),
        )
        return int(row["id"])

    def deaths(self, path: bytes, stat: Stat) -> int:
        """How often reading this content of a path killed or hung the reader."""
        row = self._one(
            "SELECT deaths FROM files WHERE path = ? AND size = ? AND mtime_ns = ?", (path, stat.size, stat.mtime_ns)
        )
        return int(row["deaths"]) if row else 0

    def put_tags(self, file_id: int, values: Mapping[str, str | int | float | None]) -> None:
        """Store the tags of a file: a value for each column of ``tags``."""
        names = ", ".join(values)
        settings = ", ".join(f"{name} = excluded.{name}" for name in values)
        self._run(
            f"INSERT INTO tags (file_id, {names}) VALUES (?{', ?' * len(values)}) ON CONFLICT (file_id) DO UPDATE"
            f" SET {settings}",
            (file_id, *values.values()),
        )

    def reread(self, file_id: int) -> None:
        """Have the next scan read this file again."""
        self._run("UPDATE files SET state = 'deferred', reason = 'to be read again' WHERE id = ?", (file_id,))

    def tag_genres(self) -> list[str]:
        """Every genre that stands in some file's tags, as it is written there."""
        return [row["genre"] for row in self._run("SELECT DISTINCT genre FROM tags WHERE genre IS NOT NULL")]

    def put_genre_labels(self, labels: Mapping[str, str]) -> None:
        """Store which label each genre of ``tag_genres`` means, in place of what was stored before."""
        stored = {row["genre"]: row["label"] for row in self._run("SELECT genre, label FROM genre_labels")}
        if stored == labels:
            return
        with self.transaction():
            self._run("DELETE FROM genre_labels")
            self._many("INSERT INTO genre_labels (genre, label) VALUES (?, ?)", labels.items())

    def said_so_far(self, recording_id: int) -> str:
        """A text that changes with every word that a person says of a recording, or takes back."""
        row = self._one(f"SELECT {_SAID_SO_FAR} AS said FROM recordings f WHERE f.id = ?", (recording_id,))
        assert row is not None
        return str(row["said"])

    def settle_tags(self, file_id: int, tag_policy: str, said: str | None = None) -> None:
        """Mark the tags of a file as up to date under this policy.

        ``said``: what ``said_so_far`` told when that was looked at; nothing is marked where it tells otherwise now.
        """
        self._run(
            "UPDATE files AS f SET tag_policy = ?1 WHERE id = ?2"
            f" AND (?3 IS NULL OR {_SAID_SO_FAR.replace('f.id', 'f.recording_id')} = ?3)",
            (tag_policy, file_id, said),
        )

    def set_node(self, file_id: int, stat: Stat) -> None:
        """Store the device and inode number that an unchanged file has now."""
        self._run("UPDATE files SET dev = ?, ino = ? WHERE id = ?", (stat.dev, stat.ino, file_id))

    def set_file_stat(self, file_id: int, stat: Stat) -> None:
        """Store the device, inode, size and time of a file that indexer rewrote."""
        self._run(
            "UPDATE files SET dev = ?, ino = ?, size = ?, mtime_ns = ? WHERE id = ?",
            (stat.dev, stat.ino, stat.size, stat.mtime_ns, file_id),
        )

    def set_file_reason(self, file_id: int, reason: str) -> None:
        """Store why no genre is written into a readable file."""
        self._run("UPDATE files SET reason = ? WHERE id = ?", (reason, file_id))

    def files_with_tag_of(self, recording_id: int, model: str) -> list[str]:
        """Paths of readable files of a recording in which our own field names this model."""
        rows = self._run(
            "SELECT f.path FROM files f JOIN tags t ON t.file_id = f.id WHERE f.recording_id = ? AND f.state = 'ready'"
            " AND json_extract(t.indexer_genre, '$.model') = ? ORDER BY f.path",
            (recording_id, model),
        )
        return [os.fsdecode(row["path"]) for row in rows]

    def files_of(self, recording_id: int, at_most: int = -1) -> list[tuple[int, bytes]]:
        """(id, path) of the readable files that hold a recording."""
        rows = self._run(
            "SELECT id, path FROM files WHERE recording_id = ? AND state = 'ready' ORDER BY path LIMIT ?",
            (recording_id, at_most),
        )
        return [(row["id"], row["path"]) for row in rows]

    def recordings_below(self, folder: bytes) -> list[int]:
        """The recordings that readable files below a folder hold, in the order of their paths."""
        rows = self._run(
            "SELECT recording_id FROM files WHERE path >= ? AND path < ? AND state = 'ready'"
            " AND recording_id IS NOT NULL ORDER BY path",
            subtree(folder),
        )
        return list(dict.fromkeys(row["recording_id"] for row in rows))

    def written_files(
        self, *, run_id: int | None = None, since: str | None = None, without_model: str | None = None
    ) -> list[FileRow]:
        """Files with a genre that indexer wrote: in one run, since a time, or ever when neither is given.

        Without both, copies that other programs made count too, and what ``without_model`` chose does not.
        """
        if run_id is None and since is None:
            condition = (
                "id IN (SELECT file_id FROM tags WHERE (indexer_genre IS NOT NULL OR indexer_added IS NOT NULL)"
                " AND (:without IS NULL OR json_extract(indexer_genre, '$.model') IS NOT :without))"
            )
        else:
            condition = (
                "id IN (SELECT file_id FROM tag_writes w WHERE w.state = 'done' AND w.action = 'write' AND (:run"
                " IS NULL OR w.run_id = :run)"
                " AND (:since IS NULL OR w.written_at >= :since)"
                " AND w.id = (SELECT max(x.id) FROM tag_writes x WHERE x.file_id = w.file_id AND x.state = 'done'))"
            )
        rows = self._run(
            f"SELECT {_FILE_COLUMNS} FROM files WHERE state <> 'missing' AND {condition} ORDER BY path",
            {"run": run_id, "since": since, "without": without_model},
        )
        return [_file_row(r) for r in rows]
