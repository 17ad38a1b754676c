"""Files below folders: ranges of paths, and rows for the walk and for previews. Reads only."""

import sqlite3
from collections.abc import Iterator, Sequence

from indexer.library.set_fields import LAST_WRITE, WrittenSet, has_something
from indexer.library.states import LEFT_OUT


def subtree(prefix: bytes) -> tuple[bytes, bytes]:
    """The half-open range of paths below a folder: from ``prefix/`` to the first path after it."""
    folder = prefix.rstrip(b"/")
    return folder + b"/", folder + b"0"  # '0' follows '/' in ASCII


def subtree_or_all(prefix: bytes | None) -> tuple[bytes, bytes]:
    """The range of paths below a folder, or of all paths."""
    return (b"", b"\xff") if prefix is None else subtree(prefix)


def ranges(targets: Sequence[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """The half-open ranges of paths of targets: for each its own path, then the paths below it.

    Two queries instead of an OR, for which SQLite would keep a list of all rows.
    """
    for target in targets:
        yield target, target + b"\0"
        yield subtree(target)


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
    conn: sqlite3.Connection,
    target: bytes,
    head_id: str | None,
    *,
    measured: bool = False,
    sets: Sequence[WrittenSet] = (),
) -> Iterator[sqlite3.Row]:
    """Readable files of a target that a head classified or a person labelled, by path.

    A row also holds ``predicted``, ``confidence`` and ``undecided_reason`` by the head, ``corrected`` and
    ``corrected_at`` by the person, the genre, tempo and key in the tags, the measured ``tempo_bpm`` and ``key_name``,
    and the newest journal entry. ``measured``: also files with a measured tempo or key; ``sets``: also those with
    which these have to do.
    """
    concerns_sets, values = has_something(sets)
    low, high = subtree(target)
    yield from conn.execute(
        "SELECT f.*, p.genre AS predicted, p.confidence, p.reason AS undecided_reason, c.genre AS corrected,"
        " c.corrected_at,"
        " t.genre AS tag_genre, t.indexer_genre, t.bpm AS tag_bpm, t.musical_key AS tag_key,"
        " t.indexer_added, t.set_fields,"
        " coalesce(p.tempo_bpm, a.tempo_bpm) AS tempo_bpm, a.key_name, w.action, w.state AS write_state,"
        " w.reason AS write_reason,"
        " w.stat_before, w.written_at "
        "FROM files f LEFT JOIN predictions p ON p.recording_id = f.recording_id AND p.head_id = ? "
        "LEFT JOIN corrections c ON c.id = (SELECT max(x.id) FROM corrections x WHERE x.recording_id = f.recording_id) "
        "LEFT JOIN analysis a ON a.recording_id = f.recording_id "
        "LEFT JOIN tags t ON t.file_id = f.id LEFT JOIN tag_writes w ON w.id = "
        f"{LAST_WRITE} "
        "WHERE f.state = 'ready' AND (p.genre IS NOT NULL OR c.genre IS NOT NULL"
        f" OR (? AND (a.tempo_bpm IS NOT NULL OR a.key IS NOT NULL)) OR {concerns_sets})"
        " AND (f.path = ? OR (f.path > ? AND f.path < ?)) ORDER BY f.path",
        (head_id, measured, *values, target, low, high),
    )
