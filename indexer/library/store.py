"""The library opened for writing: the statements with which a scan and the commands read and change it.

Owns the connection and its pragmas; one process and one thread writes at a time (the caller holds
indexer.library.lock). Never touches a music file, and knows neither the formats of tags nor encoders: it
stores what it is given. sqlite-utils is imported when a library is opened for writing, so that commands that only read
start fast.
"""

import contextlib
import json
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from indexer.errors import StoreError
from indexer.files.audio.identity import Stat
from indexer.library.label_sets import refuse_taken, shown_sets
from indexer.library.readonly import now, plain_errors, reason_of
from indexer.library.states import LEFT_OUT, SHOWN_STATE, STATES, TRUNCATED
from indexer.library.tracks_view import TRACK_COLUMNS, tracks_view
from indexer.wording import printable

DEFAULT_LABELS = ("ambient", "drum and bass", "house", "techno", "trance")


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


_HAS_TEMPO_OR_KEY = (
    " OR EXISTS (SELECT 1 FROM analysis a WHERE a.recording_id = f.recording_id"
    " AND (a.tempo_bpm IS NOT NULL OR a.key IS NOT NULL))"
)


@dataclass(frozen=True, slots=True)
class Lacking:
    """What a readable file should have: embeddings, a prediction, a tag under a policy. Empty or None: not needed.

    ``adds``: the policy also writes what was measured.
    """

    encoder_ids: tuple[str, ...] = ()
    head_id: str | None = None
    threshold: float = 0.0
    tag_policy: str | None = None
    adds: bool = False
    rough_threshold: float = 0.0  # from which the genre of a rough vector is written into tags
    sets: tuple[tuple[tuple[str, ...], str, float], ...] = ()  # of label sets: encoder ids, head id, threshold

    def condition(self) -> tuple[str, list[Any]]:
        """SQL that is true for a row of ``files f`` that lacks something, and its values."""
        embedded = _embedded_by(self.encoder_ids)
        lacks: list[str] = []
        values: list[Any] = []
        if self.encoder_ids:
            lacks.append(
                f"(NOT ({embedded}) AND (SELECT r.reason FROM recordings r WHERE r.id = f.recording_id) IS NULL)"
            )
            values += self.encoder_ids
        own = [(self.encoder_ids, self.head_id, self.threshold)] if self.encoder_ids and self.head_id else []
        for encoder_ids, head_id, threshold in (*own, *self.sets):
            lacks.append(
                f"({_embedded_by(encoder_ids)} AND NOT EXISTS (SELECT 1 FROM predictions p WHERE"
                " p.recording_id = f.recording_id AND p.head_id = ? AND p.threshold = ?))"
            )
            values += [*encoder_ids, head_id, threshold]
        if self.tag_policy is not None:
            lacks.append(
                "(f.tag_policy IS NOT ? AND (EXISTS (SELECT 1 FROM corrections c WHERE c.recording_id = f.recording_id)"
                " OR EXISTS (SELECT 1 FROM predictions p WHERE p.recording_id = f.recording_id AND p.head_id = ?"
                " AND p.decided AND (NOT p.rough OR p.confidence >= ?))"
                f"{_HAS_TEMPO_OR_KEY if self.adds else ''}))"
            )
            values += [self.tag_policy, self.head_id, self.rough_threshold]
        spooled = "EXISTS (SELECT 1 FROM changed c WHERE c.path = f.path)"
        # The plus keeps SQLite from the index of states: by path it need not sort the whole library for every page.
        return f"+f.state = 'ready' AND ({' OR '.join(lacks) or '0'}) AND NOT {spooled}", values


# A file that is missing now was last seen by the last complete scan of its root, if not later.
_LAST_THERE = (
    "last_seen = max(last_seen, coalesce((SELECT scanned_at FROM roots WHERE roots.id = files.root_id), last_seen))"
)
# Why a file is missing. A readable file may have a reason already, why no genre is written into it: it keeps that one,
# so that it is known again when the file is back.
_NOT_FOUND, _NO_FOLDER, _GONE = "not found by the last scan", "its folder is not there", "moved or deleted"
# Whether recording ?1 is heard only roughly by an encoder of head ?2.
_ROUGH_UNDER_HEAD = (
    "EXISTS (SELECT 1 FROM embeddings e WHERE e.rough AND e.recording_id = ?1 AND e.encoder_id IN"
    " (SELECT p.value FROM heads h JOIN encoders n ON n.id = h.encoder_id,"
    " json_each(coalesce(n.parts, json_array(n.id))) p WHERE h.id = ?2))"
)
_FILE_COLUMNS = "id, recording_id, path, container, dev, ino, size, mtime_ns, state, reason, tag_policy"


def _embedded_by(encoder_ids: Sequence[str]) -> str:
    """SQL that is true for a row of ``files f`` whose recording all encoders embedded; its values are their ids."""
    one = "EXISTS (SELECT 1 FROM embeddings e WHERE e.recording_id = f.recording_id AND e.encoder_id = ?)"
    return " AND ".join([one] * len(encoder_ids))


def _missing(why: str) -> str:
    """SQL that marks rows missing, up to the condition which rows."""
    reason = f"CASE WHEN state = 'ready' THEN coalesce(reason, '{why}') ELSE '{why}' END"
    return f"UPDATE files SET state = 'missing', reason = {reason}, {_LAST_THERE} WHERE state <> 'missing' AND "


def _unheard(ears: Sequence[str]) -> str:
    """FROM and WHERE of the recordings above an id that an encoder embedded and none of these ears heard."""
    return (
        "FROM recordings r JOIN embeddings e ON e.recording_id = r.id AND e.encoder_id = ?"
        " LEFT JOIN heard h ON h.recording_id = r.id WHERE r.id > ? AND coalesce(h.ear, '') NOT IN"
        f" ({', '.join('?' * len(ears))})"
    )


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


def subtree(prefix: bytes) -> tuple[bytes, bytes]:
    """The half-open range of paths below a folder: from ``prefix/`` to the first path after it."""
    folder = prefix.rstrip(b"/")
    return folder + b"/", folder + b"0"  # '0' follows '/' in ASCII


def _ranges(targets: Sequence[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """The half-open ranges of paths of targets: for each its own path, then the paths below it.

    Two queries instead of an OR, for which SQLite would keep a list of all rows.
    """
    for target in targets:
        yield target, target + b"\0"
        yield subtree(target)


def _unanalysed(targets: Sequence[bytes], version: int) -> tuple[str, list[Any]]:
    """SQL that is true for a readable file of ``files f`` whose recording is not measured, and its values.

    The plus keeps SQLite from indexes, so that it goes by id.
    """
    among = " OR ".join(["(+f.path >= ? AND +f.path < ?)"] * (2 * len(targets))) or "0"
    return (
        f"+f.state = 'ready' AND +f.recording_id IS NOT NULL AND ({among}) AND NOT EXISTS"
        " (SELECT 1 FROM analysis a WHERE a.recording_id = f.recording_id AND a.version = ?)"
    ), [*chain.from_iterable(_ranges(targets)), version]


def known_files(conn: sqlite3.Connection, folder: bytes) -> Iterator[tuple[int, bytes, int, int, int, int, str]]:
    """(id, path, dev, ino, size, mtime_ns, state) of every row below a folder, by path (bytewise).

    A missing file that was never read, or left out, counts as deferred: when it is back, it is to be read.
    """
    low, high = subtree(folder)
    cursor = conn.cursor()
    cursor.row_factory = None  # plain tuples: this runs once for every file of the library
    yield from cursor.execute(
        "SELECT id, path, dev, ino, size, mtime_ns, CASE WHEN state = 'missing' AND (recording_id IS"
        f" NULL OR reason = '{LEFT_OUT}') THEN 'deferred' ELSE state END"
        " FROM files WHERE path >= ? AND path < ? ORDER BY path",
        (low, high),
    )


def labelled_files(
    conn: sqlite3.Connection, target: bytes, head_id: str | None, *, measured: bool = False
) -> Iterator[sqlite3.Row]:
    """Readable files of a target that a head classified or a person labelled, by path.

    A row also holds ``predicted``, ``confidence`` and ``undecided_reason`` by the head, ``corrected`` and
    ``corrected_at`` by the person, the genre, tempo and key in the tags, the measured ``tempo_bpm`` and ``key_name``,
    and the newest journal entry. ``measured``: also files with a measured tempo or key.
    """
    low, high = subtree(target)
    yield from conn.execute(
        "SELECT f.*, p.genre AS predicted, p.confidence, p.reason AS undecided_reason, c.genre AS corrected,"
        " c.corrected_at,"
        " t.genre AS tag_genre, t.indexer_genre, t.bpm AS tag_bpm, t.musical_key AS tag_key,"
        " coalesce(p.tempo_bpm, a.tempo_bpm) AS tempo_bpm, a.key_name, w.action, w.state AS write_state,"
        " w.reason AS write_reason,"
        " w.stat_before, w.written_at "
        "FROM files f LEFT JOIN predictions p ON p.recording_id = f.recording_id AND p.head_id = ? "
        "LEFT JOIN corrections c ON c.id = (SELECT max(x.id) FROM corrections x WHERE x.recording_id = f.recording_id) "
        "LEFT JOIN analysis a ON a.recording_id = f.recording_id "
        "LEFT JOIN tags t ON t.file_id = f.id LEFT JOIN tag_writes w ON w.id = "
        "(SELECT max(x.id) FROM tag_writes x WHERE x.file_id = f.id AND x.state IN ('done', 'refused')) "
        "WHERE f.state = 'ready' AND (p.genre IS NOT NULL OR c.genre IS NOT NULL"
        " OR (? AND (a.tempo_bpm IS NOT NULL OR a.key IS NOT NULL))) AND (f.path = ? OR (f.path > ?"
        " AND f.path < ?)) ORDER BY f.path",
        (head_id, measured, target, low, high),
    )


class Store:
    """The library opened for writing. Every method commits by itself unless called inside ``transaction()``."""

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

    def __enter__(self) -> "Store":
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

    # ---- roots

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

    # ---- the difference between a tree and the rows

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

    def encoders_with_embeddings(self) -> set[str]:
        """The ids of the encoders that have embeddings."""
        return {row["id"] for row in self._run("SELECT DISTINCT encoder_id AS id FROM embeddings")}

    def forget_unused(self, embeddings: str, heads: str) -> None:
        """Remove embeddings, predictions, scores and timelines that match these SQL conditions, and shrink the file."""
        with self.transaction():
            self._run(f"DELETE FROM embeddings WHERE {embeddings}")
            for table in ("predictions", "scores", "timeline"):
                self._run(f"DELETE FROM {table} WHERE {heads}")
        self._run("VACUUM")

    # ---- files, recordings, tags

    def file_at(self, path: bytes) -> FileRow | None:
        """The row of a path; None when there is none."""
        row = self._one(f"SELECT {_FILE_COLUMNS} FROM files WHERE path = ?", (path,))
        return _file_row(row) if row else None

    def file(self, file_id: int) -> FileRow:
        """The row with this id, which must exist."""
        row = self._one(f"SELECT {_FILE_COLUMNS} FROM files WHERE id = ?", (file_id,))
        assert row is not None
        return _file_row(row)

    def recording(
        self, audio_sha256: str, *, codec: str, sample_rate_hz: int, channels: int, duration_s: float | None
    ) -> int:
        """The id of the recording with this identity; adds it when it is new."""
        found = self.known_recording(audio_sha256)
        return (
            found
            if found is not None
            else self.add_recording(
                audio_sha256, codec=codec, sample_rate_hz=sample_rate_hz, channels=channels, duration_s=duration_s
            )
        )

    def known_recording(self, audio_sha256: str) -> int | None:
        """The id of the recording with this identity; None where there is none."""
        row = self._one("SELECT id FROM recordings WHERE audio_sha256 = ?", (audio_sha256,))
        return int(row["id"]) if row else None

    def add_recording(
        self, audio_sha256: str, *, codec: str, sample_rate_hz: int, channels: int, duration_s: float | None
    ) -> int:
        """Add the recording with this identity, which must be new, and return its id."""
        return self._insert(
            "INSERT INTO recordings (audio_sha256, codec, sample_rate_hz, channels, duration_s) VALUES (?, ?, ?, ?, ?)",
            (audio_sha256, codec, sample_rate_hz, channels, duration_s),
        )

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
        at = now()
        if row is None:
            return self._insert(
                "INSERT INTO files (recording_id, root_id, path, path_text, container, dev, ino, size, mtime_ns,"
                " state, reason,"
                " deaths, first_seen, last_seen) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    recording_id,
                    root_id,
                    path,
                    printable(path),
                    container,
                    stat.dev,
                    stat.ino,
                    stat.size,
                    stat.mtime_ns,
                    state,
                    reason,
                    deaths,
                    at,
                    at,
                ),
            )
        self._run(
            "UPDATE files SET recording_id = ?, root_id = ?, path = ?, path_text = ?, container = coalesce(?,"
            " container), dev = ?,"
            " ino = ?, size = ?, mtime_ns = ?, state = ?, reason = ?, deaths = ?, tag_policy = NULL, last_seen ="
            " ? WHERE id = ?",
            (
                recording_id,
                root_id,
                path,
                printable(path),
                container,
                stat.dev,
                stat.ino,
                stat.size,
                stat.mtime_ns,
                state,
                reason,
                deaths,
                at,
                row["id"],
            ),
        )
        return int(row["id"])

    def deaths(self, path: bytes, stat: Stat) -> int:
        """How often reading this content of a path killed or hung the reader."""
        row = self._one(
            "SELECT deaths FROM files WHERE path = ? AND size = ? AND mtime_ns = ?", (path, stat.size, stat.mtime_ns)
        )
        return int(row["deaths"]) if row else 0

    def drop_run(self, run_id: int) -> None:
        """Remove the row of a run that did nothing."""
        self._run("DELETE FROM runs WHERE id = ?", (run_id,))

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

    def unsettle_tags(self, recording_id: int) -> None:
        """Have the genre tags of a recording's files looked at again."""
        self._run(
            "UPDATE files SET tag_policy = NULL WHERE recording_id = ? AND tag_policy IS NOT NULL", (recording_id,)
        )

    def settle_tags(self, file_id: int, tag_policy: str) -> None:
        """Mark the genre tag of a file as up to date under this policy."""
        self._run("UPDATE files SET tag_policy = ? WHERE id = ?", (tag_policy, file_id))

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

    def truncation(self, recording_id: int) -> str | None:
        """What a file of this recording says of its lost end; its other files are the same bytes of sound."""
        row = self._one(
            "SELECT reason FROM files WHERE recording_id = ? AND state IN ('ready', 'missing') AND reason LIKE"
            " 'truncated:%' LIMIT 1",
            (recording_id,),
        )
        return row["reason"].partition("; ")[0] if row else None

    def set_decoded_length(self, recording_id: int, duration_s: float) -> None:
        """Store the length that decoding to the end found, and reset the count of reader deaths."""
        self._run("UPDATE recordings SET duration_s = ?, reason = NULL WHERE id = ?", (duration_s, recording_id))
        self._run("UPDATE files SET deaths = 0 WHERE recording_id = ? AND deaths > 0", (recording_id,))

    def set_recording_reason(self, recording_id: int, reason: str) -> None:
        """Store why a readable recording has no embedding."""
        self._run("UPDATE recordings SET reason = ? WHERE id = ?", (reason, recording_id))

    # ---- encoders and embeddings

    def put_encoder(
        self,
        encoder_id: str,
        *,
        name: str,
        width: int,
        unit_s: float,
        parts: Sequence[str] = (),
        words_of: str | None = None,
    ) -> None:
        """Register an encoder; a known one gets the new name.

        parts: ids of the encoders that it joins. words_of: id of the encoder whose pass makes these audio vectors.
        """
        self._run(
            "INSERT INTO encoders (id, name, width, unit_s, parts, words_of) VALUES (?, ?, ?, ?, ?, ?) "
            "ON CONFLICT (id) DO UPDATE SET name = excluded.name",
            (encoder_id, name, width, unit_s, json.dumps(list(parts)) if parts else None, words_of),
        )

    def use_encoder(self, encoder_id: str) -> None:
        """Make this the library's encoder; of audio vectors, the one whose pass makes them."""
        with self.transaction():
            self._run("UPDATE encoders SET in_use = 0 WHERE in_use = 1")
            self._run(
                "UPDATE encoders SET in_use = 1"
                " WHERE id = coalesce((SELECT words_of FROM encoders WHERE id = :id), :id)",
                {"id": encoder_id},
            )

    def encoder_unit_s(self, encoder_id: str) -> float:
        """The length of an encoder's full unit, in seconds."""
        row = self._one("SELECT unit_s FROM encoders WHERE id = ?", (encoder_id,))
        assert row is not None
        return float(row["unit_s"])

    def has_embedding(self, recording_id: int, encoder_id: str, *, fine: bool = False) -> bool:
        """Whether the recording is embedded already; ``fine``: and not only roughly."""
        row = self._one(
            "SELECT rough FROM embeddings WHERE recording_id = ? AND encoder_id = ?", (recording_id, encoder_id)
        )
        return row is not None and not (fine and row["rough"])

    def put_embedding(
        self,
        recording_id: int,
        encoder_id: str,
        vector_f16: bytes,
        units: int,
        trajectory: bytes | None = None,
        *,
        rough: bool = False,
    ) -> None:
        """Cache a track vector (little-endian float16) and the trajectory of its units; an existing one is replaced.

        ``rough``: it is of a few units only, and stands in for the one of all until that is there.
        """
        self._run(
            "INSERT INTO embeddings (recording_id, encoder_id, vector, units, course, rough) VALUES (?, ?, ?, ?, ?, ?) "
            "ON CONFLICT DO UPDATE SET vector = excluded.vector, units = excluded.units, course = excluded.course,"
            " rough = excluded.rough",
            (recording_id, encoder_id, vector_f16, units, trajectory, int(rough)),
        )

    def spool_rough(self, targets: Sequence[bytes], encoder_ids: Sequence[str]) -> tuple[int, int]:
        """List readable files among the targets whose recording is heard roughly; returns how many, and their bytes.

        The newest come first, by their time before we wrote into them. Without targets: all of the library.
        """
        self._run("CREATE TEMP TABLE IF NOT EXISTS rough (id INTEGER PRIMARY KEY, file_id INTEGER, size INTEGER)")
        self._run("DELETE FROM rough")
        for low, high in _ranges(targets) if targets else [(b"", b"\xff")]:
            self._run(
                "INSERT INTO rough (file_id, size) SELECT f.id, f.size FROM files f WHERE f.state = 'ready'"
                " AND f.path >= ? AND f.path < ? AND f.recording_id IN (SELECT recording_id FROM embeddings WHERE rough"
                f" AND encoder_id IN ({', '.join('?' * len(encoder_ids))}))"
                " ORDER BY coalesce((SELECT json_extract(w.stat_before, '$.mtime_ns') FROM tag_writes w WHERE"
                " w.file_id = f.id AND w.state = 'done' ORDER BY w.id LIMIT 1), f.mtime_ns) DESC, f.id",
                (low, high, *encoder_ids),
            )
        row = self._one("SELECT count(*) AS n, coalesce(sum(size), 0) AS size FROM rough")
        assert row is not None
        return row["n"], row["size"]

    def rough_files(self) -> Iterator[int]:
        """Yield the ids of the files that ``spool_rough`` listed; the caller may write in between."""
        last = 0
        while page := self._run("SELECT id, file_id FROM rough WHERE id > ? ORDER BY id LIMIT 500", (last,)).fetchall():
            for row in page:
                yield row["file_id"]
            last = page[-1]["id"]

    def rough_count(self, encoder_ids: Sequence[str]) -> int:
        """How many recordings of readable files one of these encoders has heard only roughly."""
        row = self._one(
            "SELECT count(DISTINCT e.recording_id) AS n FROM embeddings e WHERE e.rough AND e.encoder_id IN"
            f" ({', '.join('?' * len(encoder_ids))}) AND EXISTS (SELECT 1 FROM files f WHERE"
            " f.recording_id = e.recording_id AND f.state = 'ready')",
            encoder_ids,
        )
        assert row is not None
        return int(row["n"])

    def embedding(self, recording_id: int, encoder_id: str) -> sqlite3.Row | None:
        """The cached ``vector`` (little-endian float16) and ``course``."""
        return self._one(
            "SELECT vector, course FROM embeddings WHERE recording_id = ? AND encoder_id = ?",
            (recording_id, encoder_id),
        )

    def embedded_count(self, encoder_id: str) -> int:
        """How many recordings an encoder embedded."""
        row = self._one("SELECT count(*) AS n FROM embeddings WHERE encoder_id = ?", (encoder_id,))
        return row["n"] if row else 0

    def embedded_recordings(self, encoder_id: str, page_rows: int) -> Iterator[list[int]]:
        """Yield the recordings that an encoder embedded, a page at a time; the caller may write in between."""
        last = 0
        while page := self._run(
            "SELECT recording_id FROM embeddings WHERE encoder_id = ? AND recording_id > ? ORDER BY recording_id"
            " LIMIT ?",
            (encoder_id, last, page_rows),
        ).fetchall():
            yield [row["recording_id"] for row in page]
            last = page[-1]["recording_id"]

    def embeddings(self, encoder_ids: Sequence[str]) -> Iterator[tuple[int, list[tuple[bytes, bytes | None]]]]:
        """(recording id, [(vector, trajectory) of each encoder]) of recordings that all encoders embedded."""
        first, *others = encoder_ids
        columns = "".join(f", e{n}.vector AS vector{n}, e{n}.course AS course{n}" for n in range(len(encoder_ids)))
        joins = "".join(
            f" JOIN embeddings e{n} ON e{n}.recording_id = e0.recording_id AND e{n}.encoder_id = ?"
            for n in range(1, len(encoder_ids))
        )
        last = 0
        while page := self._run(
            f"SELECT e0.id, e0.recording_id{columns} FROM embeddings e0{joins} WHERE e0.encoder_id = ? AND e0.id > ? "
            "ORDER BY e0.id LIMIT 500",
            (*others, first, last),
        ).fetchall():
            for row in page:
                yield row["recording_id"], [(row[f"vector{n}"], row[f"course{n}"]) for n in range(len(encoder_ids))]
            last = page[-1]["id"]

    # ---- what was heard beside a genre

    def put_heard(
        self,
        recording_id: int,
        ear: str,
        names: Sequence[str],
        probabilities: Mapping[str, Mapping[str, float]],
        electronic: float,
    ) -> None:
        """Store the tags that were heard, and how electronic it sounds; what an earlier ear heard is replaced."""
        self._run(
            "INSERT OR REPLACE INTO heard (recording_id, ear, names, probabilities, electronic) VALUES (?, ?, ?, ?, ?)",
            (recording_id, ear, json.dumps(list(names)), json.dumps(probabilities), electronic),
        )

    def heard_by(self, recording_id: int) -> str | None:
        """The ear that heard a recording; None: none has."""
        row = self._one("SELECT ear FROM heard WHERE recording_id = ?", (recording_id,))
        return row["ear"] if row else None

    def unheard_count(self, ears: Sequence[str], encoder_id: str) -> int:
        """How many recordings ``unheard`` yields."""
        row = self._one(f"SELECT count(*) AS n {_unheard(ears)}", (encoder_id, 0, *ears))
        return row["n"] if row else 0

    def electronic_and_tempo(self, recording_id: int) -> tuple[float | None, Any]:
        """How electronic a recording sounds, and its measured tempo as plain values; None for what nothing has told."""
        row = self._one(
            "SELECT h.electronic,"
            " CASE WHEN json_valid(a.measured) THEN json_extract(a.measured, '$.tempo') END AS tempo FROM recordings r"
            " LEFT JOIN heard h ON h.recording_id = r.id LEFT JOIN analysis a ON a.recording_id = r.id WHERE r.id = ?",
            (recording_id,),
        )
        return (row["electronic"], json.loads(row["tempo"]) if row["tempo"] else None) if row else (None, None)

    def unheard(self, ears: Sequence[str], encoder_id: str, page_rows: int = 500) -> Iterator[list[tuple[int, bytes]]]:
        """Yield (recording id, vector) of what an encoder embedded and none of these ears heard, a page at a time."""
        last = 0
        while page := self._run(
            f"SELECT r.id, e.vector {_unheard(ears)} ORDER BY r.id LIMIT ?",
            (encoder_id, last, *ears, page_rows),
        ).fetchall():
            yield [(row["id"], row["vector"]) for row in page]
            last = page[-1]["id"]

    # ---- what was measured beside a genre

    def measured(self, recording_id: int, head_id: str | None) -> sqlite3.Row | None:
        """``tempo_bpm`` (the one that suits the head's genres best), ``key_name``, ``measured``; None: not measured."""
        return self._one(
            "SELECT coalesce(p.tempo_bpm, a.tempo_bpm) AS tempo_bpm, a.key_name, a.measured FROM analysis a LEFT JOIN"
            " predictions p ON p.recording_id = a.recording_id AND p.head_id = ? WHERE a.recording_id = ?",
            (head_id, recording_id),
        )

    def put_analysis(
        self, recording_id: int, columns: Mapping[str, float | int | str | None], fingerprint: bytes | None = None
    ) -> None:
        """Store what was measured in a recording, by column; what an earlier version measured is replaced."""
        self._run(
            f"INSERT OR REPLACE INTO analysis (recording_id, {', '.join(columns)}) VALUES (?{', ?' * len(columns)})",
            (recording_id, *columns.values()),
        )
        if fingerprint is not None:
            self._run("INSERT OR REPLACE INTO fingerprints VALUES (?, ?)", (recording_id, fingerprint))

    def has_analysis(self, recording_id: int, version: int) -> bool:
        """Whether the recording was measured by this version."""
        row = self._one("SELECT version FROM analysis WHERE recording_id = ?", (recording_id,))
        return row is not None and row["version"] == version

    def unanalysed_size(self, targets: Sequence[bytes], version: int) -> tuple[int, int]:
        """How many recordings ``unanalysed`` yields a file of, and the bytes of these files."""
        condition, values = _unanalysed(targets, version)
        row = self._one(
            f"SELECT count(DISTINCT f.recording_id) AS n, sum(f.size) AS size FROM files f WHERE {condition}", values
        )
        assert row is not None
        return row["n"], row["size"] or 0

    def unanalysed(self, targets: Sequence[bytes], version: int) -> Iterator[int]:
        """Yield ids of readable files among the targets whose recording this version has not measured, newest first."""
        condition, values = _unanalysed(targets, version)
        before = 1 << 62
        while page := self._run(
            f"SELECT f.id FROM files f WHERE f.id < ? AND {condition} ORDER BY f.id DESC LIMIT 500", (before, *values)
        ).fetchall():
            for row in page:
                yield row["id"]
            before = page[-1]["id"]

    # ---- heads and predictions

    def put_head(
        self,
        head_id: str,
        *,
        name: str,
        kind: str,
        encoder_id: str,
        labels: Sequence[str],
        threshold: float,
        source: str,
    ) -> None:
        """Register a head; a known one gets the new name, file, threshold and variant of its encoder."""
        self._run(
            "INSERT INTO heads (id, name, kind, encoder_id, labels, threshold, source, created) VALUES (?, ?, ?,"
            " ?, ?, ?, ?, ?) "
            "ON CONFLICT (id) DO UPDATE SET name = excluded.name, source = excluded.source, threshold ="
            " excluded.threshold, "
            "encoder_id = excluded.encoder_id",
            (head_id, name, kind, encoder_id, json.dumps(list(labels)), threshold, source, now()),
        )

    def describe_head(self, head_id: str, *, trained_on: str, metrics: str) -> None:
        """Store what a head was trained on, and its metrics (JSON)."""
        self._run("UPDATE heads SET trained_on = ?, metrics = ? WHERE id = ?", (trained_on, metrics, head_id))

    def head(self, head_id: str) -> sqlite3.Row | None:
        """The row of a head; None when it is not registered."""
        return self._one("SELECT * FROM heads WHERE id = ?", (head_id,))

    def use_head(self, head_id: str | None) -> None:
        """Make this the library's head: the one that the view ``tracks`` shows."""
        with self.transaction():
            self._run("UPDATE heads SET in_use = 0 WHERE in_use = 1")
            self._run("UPDATE heads SET in_use = 1 WHERE id = ?", (head_id,))
        self._refresh_view()

    def use_sets(self, names: Sequence[str]) -> None:
        """Make these the label sets that the view ``tracks`` shows; what is stored of others is kept.

        Raises ConfigError for a name that cannot be a column.
        """
        refuse_taken(list(names), TRACK_COLUMNS)
        if shown_sets(self.connection) == sorted(names):
            return
        with self.transaction():
            self._run("UPDATE label_sets SET in_use = 0")
            self._many(
                "INSERT INTO label_sets (name) VALUES (?) ON CONFLICT (name) DO UPDATE SET in_use = 1",
                [(name,) for name in names],
            )
        self._refresh_view()

    def use_set_head(self, name: str, head_id: str) -> None:
        """Make this the head that classifies for a label set."""
        self._run("UPDATE label_sets SET head_id = ? WHERE name = ?", (head_id, name))

    def correct_in_set(self, recording_id: int, name: str, label: str, *, by: str | None = None) -> None:
        """Store a person's label in a set; no tag has to do with it."""
        self._run(
            "INSERT INTO set_corrections (recording_id, label_set, label, corrected_at, corrected_by)"
            " VALUES (?, ?, ?, ?, ?)",
            (recording_id, name, label, now(), by),
        )

    def withdraw_in_set(self, recording_id: int, name: str) -> None:
        """Remove a person's newest label in a set; the one before it counts again."""
        self._run(
            "DELETE FROM set_corrections WHERE id = (SELECT max(id) FROM set_corrections WHERE recording_id = ?"
            " AND label_set = ?)",
            (recording_id, name),
        )

    def prediction(self, recording_id: int, head_id: str) -> sqlite3.Row | None:
        """The row of a head's prediction for a recording (genre, confidence, threshold, decided, ...)."""
        return self._one("SELECT * FROM predictions WHERE recording_id = ? AND head_id = ?", (recording_id, head_id))

    def put_prediction(
        self,
        recording_id: int,
        head_id: str,
        scores: Mapping[str, float],
        threshold: float,
        *,
        decided: bool,
        reason: str | None = None,
        second_genre: str | None = None,
        tempo: tuple[float, float] | None = None,
    ) -> None:
        """Store a prediction as heads/decide.py made it: all scores, the best of them, and whether it is decided.

        ``tempo``: (beats a minute, confidence) that these genres choose. Call it inside a transaction.
        """
        genre = max(scores, key=lambda label: scores[label])
        self._run(
            "INSERT OR REPLACE INTO predictions (recording_id, head_id, genre, confidence, threshold, decided,"
            " reason, second_genre, tempo_bpm, tempo_confidence, rough)"
            f" VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, {_ROUGH_UNDER_HEAD})",
            (
                recording_id,
                head_id,
                genre,
                scores[genre],
                threshold,
                int(decided),
                reason,
                second_genre,
                *(tempo or (None, None)),
            ),
        )
        self._many(
            "INSERT OR REPLACE INTO scores (recording_id, head_id, genre, probability) VALUES (?, ?, ?, ?)",
            [(recording_id, head_id, label, p) for label, p in scores.items()],
        )

    def scores_by_head(self, recording_id: int) -> dict[str, dict[str, float]]:
        """By head: the probability that it gives each genre of a recording."""
        found: dict[str, dict[str, float]] = {}
        for row in self._run("SELECT head_id, genre, probability FROM scores WHERE recording_id = ?", (recording_id,)):
            found.setdefault(row["head_id"], {})[row["genre"]] = row["probability"]
        return found

    def set_tempo(self, recording_id: int, head_id: str, bpm: float, confidence: float) -> None:
        """Store the tempo that a head's genres choose."""
        self._run(
            "UPDATE predictions SET tempo_bpm = ?, tempo_confidence = ? WHERE recording_id = ? AND head_id = ?",
            (bpm, confidence, recording_id, head_id),
        )

    def forget_contradicted(self, recording_id: int, reason: str, *, holds: bool) -> None:
        """Remove predictions that decided although ``reason`` holds, or did not for it although it does not.

        The next scan makes them anew. Label sets beside the genre do not depend on it.
        """
        rows = self._run(
            f"SELECT head_id FROM predictions WHERE recording_id = ? AND {'decided' if holds else 'reason = ?'}"
            " AND head_id NOT IN (SELECT s.head_id FROM label_sets s JOIN heads h ON h.id = s.head_id"
            " WHERE NOT h.in_use)",
            (recording_id,) if holds else (recording_id, reason),
        ).fetchall()
        for table in ("predictions", "scores", "timeline") if rows else ():
            self._many(
                f"DELETE FROM {table} WHERE recording_id = ? AND head_id = ?",
                [(recording_id, row["head_id"]) for row in rows],
            )

    def put_timeline(self, recording_id: int, head_id: str, unit_s: float, scores: bytes) -> None:
        """Store the scores of every unit: one byte for each probability, units x labels."""
        self._run(
            "INSERT OR REPLACE INTO timeline (recording_id, head_id, unit_s, scores) VALUES (?, ?, ?, ?)",
            (recording_id, head_id, unit_s, scores),
        )

    # ---- corrections

    def correct(self, recording_id: int, genre: str, *, by: str | None = None) -> None:
        """Store a person's genre; the next scan writes it into the tags of all files of the recording."""
        with self.transaction():
            written = self._one(
                "SELECT max(w.written_at) AS at FROM tag_writes w JOIN files f ON f.id = w.file_id"
                " WHERE f.recording_id = ?",
                (recording_id,),
            )
            self._run(
                "INSERT INTO corrections (recording_id, genre, corrected_at, corrected_by) VALUES (?, ?, ?, ?)",
                (recording_id, genre, now(written["at"] if written else None), by),
            )
            self._run("UPDATE files SET tag_policy = NULL WHERE recording_id = ?", (recording_id,))

    def withdraw_correction(self, recording_id: int) -> None:
        """Remove the newest correction; the one before it counts again, and the next scan updates the tags."""
        with self.transaction():
            self._run(
                "DELETE FROM corrections WHERE id = (SELECT max(id) FROM corrections WHERE recording_id = ?)",
                (recording_id,),
            )
            self._run("UPDATE files SET tag_policy = NULL WHERE recording_id = ?", (recording_id,))

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

    def correction(self, recording_id: int) -> sqlite3.Row | None:
        """The newest correction: genre and corrected_at; None without one."""
        return self._one(
            "SELECT genre, corrected_at FROM corrections WHERE recording_id = ? ORDER BY id DESC LIMIT 1",
            (recording_id,),
        )

    # ---- files among targets: folders with all below them, or single files

    def count_states(self, targets: Sequence[bytes]) -> tuple[dict[str, int], int]:
        """How many files of each state there are among the targets, and how many of the ready ones lost their end.

        Targets are folders with all below them, or single files.
        """
        found: dict[str, int] = {}
        truncated = 0
        # One pass over the rows: GROUP BY would sort all of them.
        columns = ", ".join(f"sum({SHOWN_STATE} = '{state}')" for state in STATES) + f", sum({TRUNCATED})"
        for low, high in _ranges(targets):
            row = self._one(f"SELECT {columns} FROM files f WHERE f.path >= ? AND f.path < ?", (low, high))
            for state, n in zip(STATES, row or (), strict=False):
                if n:
                    found[state] = found.get(state, 0) + n
            truncated += (row[-1] if row else None) or 0
        return found, truncated

    def backlog_size(self, targets: Sequence[bytes], lacking: "Lacking") -> tuple[int, int]:
        """How many files ``backlog`` yields, and their bytes."""
        sql, values = lacking.condition()
        files = size_bytes = 0
        for places in _ranges(targets):
            row = self._one(
                f"SELECT count(*) AS n, sum(f.size) AS size FROM files f WHERE f.path >= ? AND f.path < ? AND {sql}",
                (*places, *values),
            )
            assert row is not None
            files, size_bytes = files + row["n"], size_bytes + (row["size"] or 0)
        return files, size_bytes

    def backlog(self, targets: Sequence[bytes], lacking: "Lacking") -> Iterator[int]:
        """Yield ids of readable files among the targets that lack something, by path, a page at a time.

        Files that are spooled as changed are not among them: they go through all steps anyway.
        """
        sql, values = lacking.condition()
        for low, high in _ranges(targets):
            after = low
            while page := self._run(
                f"SELECT f.id, f.path FROM files f WHERE f.path >= ? AND f.path < ? AND {sql} ORDER BY f.path"
                " LIMIT 500",
                (after, high, *values),
            ).fetchall():
                for row in page:
                    yield row["id"]
                after = page[-1]["path"] + b"\0"

    # ---- the journal of tag writes

    def intend_write(
        self,
        *,
        file_id: int | None,
        run_id: int | None,
        path: bytes,
        action: str,
        before: Sequence[str],
        after: Sequence[str],
        stat_before: Stat,
        stat_after: Stat,
        evidence: Mapping[str, Any],
    ) -> int:
        """Announce a write before its rename and return its id; the entry is on the disk when this returns.

        Raises StoreError as ``check_place`` does.
        """
        self.check_place()
        return self._insert(
            "INSERT INTO tag_writes (file_id, run_id, path, path_text, action, state, before, after,"
            " stat_before, stat_after, evidence,"
            " written_at) VALUES (?, ?, ?, ?, ?, 'intended', ?, ?, ?, ?, ?, ?)",
            (
                file_id,
                run_id,
                path,
                printable(path),
                action,
                json.dumps(list(before)),
                json.dumps(list(after)),
                dump_stat(stat_before),
                dump_stat(stat_after),
                json.dumps(evidence),
                self._after_corrections(file_id),
            ),
        )

    def settle_write(self, write_id: int, state: str, reason: str | None = None) -> None:
        """Mark an announced write as done, dropped or superseded."""
        self._run("UPDATE tag_writes SET state = ?, reason = ? WHERE id = ?", (state, reason, write_id))

    def refuse_write(
        self, *, file_id: int | None, run_id: int | None, path: bytes, action: str, stat: Stat, reason: str
    ) -> None:
        """Record that a file's tag is not written, so that it is not tried again until the file changes."""
        self._insert(
            "INSERT INTO tag_writes (file_id, run_id, path, path_text, action, state, reason, stat_before, written_at) "
            "VALUES (?, ?, ?, ?, ?, 'refused', ?, ?, ?)",
            (file_id, run_id, path, printable(path), action, reason, dump_stat(stat), self._after_corrections(file_id)),
        )

    def _after_corrections(self, file_id: int | None) -> str:
        """The time of a journal entry: later than what a person said before, which it is compared with."""
        said = self._one(
            "SELECT max(c.corrected_at) AS at FROM corrections c JOIN files f ON f.recording_id = c.recording_id"
            " WHERE f.id = ?",
            (file_id,),
        )
        return now(said["at"] if said else None)

    def open_writes(self) -> list[sqlite3.Row]:
        """Writes that were announced and not settled, because of a crash."""
        return self._run("SELECT * FROM tag_writes WHERE state = 'intended' ORDER BY id").fetchall()

    def last_write(self, file_id: int) -> sqlite3.Row | None:
        """The newest journal entry of a file that took effect or was refused."""
        return self._one(
            "SELECT * FROM tag_writes WHERE file_id = ? AND state IN ('done', 'refused') ORDER BY id DESC LIMIT 1",
            (file_id,),
        )

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

    # ---- runs

    def start_run(self, command: str) -> int:
        """Start a run and return its id; earlier runs that never finished are marked failed."""
        self._run("UPDATE runs SET state = 'failed', finished_at = ? WHERE state = 'running'", (now(),))
        return self._insert("INSERT INTO runs (command, state, started_at) VALUES (?, 'running', ?)", (command, now()))

    def note_run(self, run_id: int, summary: Mapping[str, Any]) -> None:
        """Store the progress of a run."""
        self._run("UPDATE runs SET summary = ? WHERE id = ?", (json.dumps(summary), run_id))

    def finish_run(self, run_id: int, state: str, summary: Mapping[str, Any]) -> None:
        """Store the final state and summary of a run. Raises StoreError as ``check_place`` does."""
        self.check_place()
        self._run(
            "UPDATE runs SET state = ?, finished_at = ?, summary = ? WHERE id = ?",
            (state, now(), json.dumps(summary), run_id),
        )

    # ---- the view ``tracks``

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


def dump_stat(stat: Stat) -> str:
    """A Stat as text for the journal."""
    return json.dumps({"dev": stat.dev, "ino": stat.ino, "size": stat.size, "mtime_ns": stat.mtime_ns})


def parse_stat(text: str) -> Stat:
    """The Stat that dump_stat wrote."""
    return Stat(**json.loads(text))
