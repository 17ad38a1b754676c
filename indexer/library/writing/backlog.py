"""Statements on what is still to be done: files that lack something, recordings heard roughly or measured by nobody.

Targets are folders with all below them, or single files.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from indexer.library.below import ranges
from indexer.library.set_fields import WrittenSet, has_something
from indexer.library.states import SHOWN_STATE, STATES, TRUNCATED
from indexer.library.writing.database import Database

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
    written_sets: tuple[WrittenSet, ...] = ()  # label sets that the policy also writes

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
            concerns_sets, of_sets = has_something(self.written_sets)
            lacks.append(
                "(f.tag_policy IS NOT ? AND (EXISTS (SELECT 1 FROM corrections c WHERE c.recording_id = f.recording_id)"
                " OR EXISTS (SELECT 1 FROM predictions p WHERE p.recording_id = f.recording_id AND p.head_id = ?"
                " AND p.decided AND (NOT p.rough OR p.confidence >= ?))"
                f"{_HAS_TEMPO_OR_KEY if self.adds else ''} OR {concerns_sets}))"
            )
            values += [self.tag_policy, self.head_id, self.rough_threshold, *of_sets]
        spooled = "EXISTS (SELECT 1 FROM changed c WHERE c.path = f.path)"
        # The plus keeps SQLite from the index of states: by path it need not sort the whole library for every page.
        return f"+f.state = 'ready' AND ({' OR '.join(lacks) or '0'}) AND NOT {spooled}", values


def _embedded_by(encoder_ids: Sequence[str]) -> str:
    """SQL that is true for a row of ``files f`` whose recording all encoders embedded; its values are their ids."""
    one = "EXISTS (SELECT 1 FROM embeddings e WHERE e.recording_id = f.recording_id AND e.encoder_id = ?)"
    return " AND ".join([one] * len(encoder_ids))


def _unheard(ears: Sequence[str]) -> str:
    """FROM and WHERE of the recordings above an id that an encoder embedded and none of these ears heard."""
    return (
        "FROM recordings r JOIN embeddings e ON e.recording_id = r.id AND e.encoder_id = ?"
        " LEFT JOIN heard h ON h.recording_id = r.id WHERE r.id > ? AND coalesce(h.ear, '') NOT IN"
        f" ({', '.join('?' * len(ears))})"
    )


def _unanalysed(targets: Sequence[bytes], version: int) -> tuple[str, list[Any]]:
    """SQL that is true for a readable file of ``files f`` whose recording is not measured, and its values.

    The plus keeps SQLite from indexes, so that it goes by id.
    """
    among = " OR ".join(["(+f.path >= ? AND +f.path < ?)"] * (2 * len(targets))) or "0"
    return (
        f"+f.state = 'ready' AND +f.recording_id IS NOT NULL AND ({among}) AND NOT EXISTS"
        " (SELECT 1 FROM analysis a WHERE a.recording_id = f.recording_id AND a.version = ?)"
    ), [*chain.from_iterable(ranges(targets)), version]


class Backlog(Database):
    """Pages of files that lack something; the caller may write in between."""

    def count_states(self, targets: Sequence[bytes]) -> tuple[dict[str, int], int]:
        """How many files of each state there are among the targets, and how many of the ready ones lost their end.

        Targets are folders with all below them, or single files.
        """
        found: dict[str, int] = {}
        truncated = 0
        # One pass over the rows: GROUP BY would sort all of them.
        columns = ", ".join(f"sum({SHOWN_STATE} = '{state}')" for state in STATES) + f", sum({TRUNCATED})"
        for low, high in ranges(targets):
            row = self._one(f"SELECT {columns} FROM files f WHERE f.path >= ? AND f.path < ?", (low, high))
            for state, n in zip(STATES, row or (), strict=False):
                if n:
                    found[state] = found.get(state, 0) + n
            truncated += (row[-1] if row else None) or 0
        return found, truncated

    def backlog_size(self, targets: Sequence[bytes], lacking: Lacking) -> tuple[int, int]:
        """How many files ``backlog`` yields, and their bytes."""
        sql, values = lacking.condition()
        files = size_bytes = 0
        for places in ranges(targets):
            row = self._one(
                f"SELECT count(*) AS n, sum(f.size) AS size FROM files f WHERE f.path >= ? AND f.path < ? AND {sql}",
                (*places, *values),
            )
            assert row is not None
            files, size_bytes = files + row["n"], size_bytes + (row["size"] or 0)
        return files, size_bytes

    def backlog(self, targets: Sequence[bytes], lacking: Lacking) -> Iterator[int]:
        """Yield ids of readable files among the targets that lack something, by path, a page at a time.

        Files that are spooled as changed are not among them: they go through all steps anyway.
        """
        sql, values = lacking.condition()
        for low, high in ranges(targets):
            after = low
            while page := self._run(
                f"SELECT f.id, f.path FROM files f WHERE f.path >= ? AND f.path < ? AND {sql} ORDER BY f.path"
                " LIMIT 500",
                (after, high, *values),
            ).fetchall():
                for row in page:
                    yield row["id"]
                after = page[-1]["path"] + b"\0"

    def spool_rough(self, targets: Sequence[bytes], encoder_ids: Sequence[str]) -> tuple[int, int]:
        """List readable files among the targets whose recording is heard roughly; returns how many, and their bytes.

        The newest come first, by their time before we wrote into them. Without targets: all of the library.
        """
        self._run("CREATE TEMP TABLE IF NOT EXISTS rough (id INTEGER PRIMARY KEY, file_id INTEGER, size INTEGER)")
        self._run("DELETE FROM rough")
        for low, high in ranges(targets) if targets else [(b"", b"\xff")]:
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

    def unheard_count(self, ears: Sequence[str], encoder_id: str) -> int:
        """How many recordings ``unheard`` yields."""
        row = self._one(f"SELECT count(*) AS n {_unheard(ears)}", (encoder_id, 0, *ears))
        return row["n"] if row else 0

    def unheard(self, ears: Sequence[str], encoder_id: str, page_rows: int = 500) -> Iterator[list[tuple[int, bytes]]]:
        """Yield (recording id, vector) of what an encoder embedded and none of these ears heard, a page at a time."""
        last = 0
        while page := self._run(
            f"SELECT r.id, e.vector {_unheard(ears)} ORDER BY r.id LIMIT ?",
            (encoder_id, last, *ears, page_rows),
        ).fetchall():
            yield [(row["id"], row["vector"]) for row in page]
            last = page[-1]["id"]

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
