"""What label sets have to say of a file, and in how many files that does not stand yet. Reads only.

The rule itself is in scan/set_fields.py; ``count_unwritten`` has it as SQL. A field in a file is ours where its
INDEXER_ADDED records it, and a person's word where that says so, also one of another library: a lost library costs no
such word.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from indexer.config import Settings
from indexer.errors import READ_ONLY
from indexer.library.sqlite import Reader, Row

# The journal entry that tells whether a file's tags may be written: the newest that took effect or was refused. A
# person's word in a set is written after an undo, too, and lifts it for nothing else.
LAST_WRITE = (
    "(SELECT max(x.id) FROM tag_writes x WHERE x.file_id = f.id AND x.state IN ('done', 'refused')"
    " AND json_extract(x.evidence, '$.still_undone') IS NULL)"
)


@dataclass(frozen=True, slots=True)
class WrittenSet:
    """A label set that is written into files: its field and, where it has one, its head's id and threshold."""

    name: str
    field: str
    head_id: str | None
    threshold: float

    @property
    def known_here(self) -> str:
        """SQL: whether this library wrote the field into ``files f``, so that it knows what became of a word."""
        return (
            "EXISTS (SELECT 1 FROM tag_writes k WHERE k.file_id = f.id AND k.state = 'done' AND k.action = 'write'"
            " AND json_extract(json_extract(k.evidence, '$.columns.indexer_added'),"
            f" '$.added.{self.field}') IS NOT NULL)"
        )


def written_sets(reader: Reader, settings: Settings) -> tuple[WrittenSet, ...]:
    """The label sets in use that the settings have written into files, by name."""
    fields, sets = settings.written_sets, settings.label_sets
    rows = reader.execute(
        "SELECT s.name, h.id AS head_id, coalesce(h.threshold, 1.0) AS threshold FROM label_sets s"
        " LEFT JOIN heads h ON h.id = s.head_id AND NOT h.in_use WHERE s.in_use ORDER BY s.name"
    )
    return tuple(
        WrittenSet(row["name"], fields[row["name"]], row["head_id"], sets[row["name"]].threshold(row["threshold"]))
        for row in rows
        if row["name"] in fields
    )


def said_and_predicted(reader: Reader, file_id: int, one: WrittenSet) -> Row:
    """What a set has of a file: ``said``, ``said_at``, ``predicted``, ``confidence``, ``decided``, ``rough``.

    ``known_here``: whether this library wrote its field.
    """
    row = reader.execute(
        "SELECT c.label AS said, c.corrected_at AS said_at, p.genre AS predicted, p.confidence, p.decided, p.rough,"
        f" {one.known_here} AS known_here FROM files f"
        f" {_SAID} {_PREDICTED} WHERE f.id = ?",
        (one.name, one.head_id, file_id),
    ).fetchone()
    assert isinstance(row, Row)
    return row


_SAID = (
    "LEFT JOIN set_corrections c ON c.id = (SELECT max(x.id) FROM set_corrections x"
    " WHERE x.recording_id = f.recording_id AND x.label_set = ?)"
)
_PREDICTED = "LEFT JOIN predictions p ON p.recording_id = f.recording_id AND p.head_id = ?"


def has_something(sets: Sequence[WrittenSet]) -> tuple[str, list[Any]]:
    """SQL that is true for a row of ``files f`` with which these sets have to do, and its values."""
    if not sets:
        return "0", []
    return (
        "EXISTS (SELECT 1 FROM tags t WHERE t.file_id = f.id AND t.set_fields IS NOT NULL)"
        " OR EXISTS (SELECT 1 FROM set_corrections c WHERE c.recording_id = f.recording_id"
        f" AND c.label_set IN ({', '.join('?' * len(sets))}))"
        " OR EXISTS (SELECT 1 FROM predictions p WHERE p.recording_id = f.recording_id AND p.decided"
        f" AND p.head_id IN ({', '.join('?' * len(sets))}))"
    ), [*(one.name for one in sets), *(one.head_id for one in sets)]


def concerns(reader: Reader, file_id: int, sets: Sequence[WrittenSet]) -> bool:
    """Whether these sets have to do with a file."""
    condition, values = has_something(sets)
    return bool(
        reader.execute(f"SELECT 1 FROM files f WHERE f.id = ? AND ({condition})", (file_id, *values)).fetchone()
    )


def count_unwritten(reader: Reader, settings: Settings) -> dict[str, int]:
    """By label set that is written into files: in how many that is still to be done; without sets that lack nothing."""
    found = {one.name: _count(reader, one) for one in written_sets(reader, settings)}
    return {name: n for name, n in found.items() if n}


def _count(reader: Reader, one: WrittenSet) -> int:
    """In how many readable files a set's field is still to be written, changed or taken away.

    What was undone, what is heard only roughly so far, and what a file refuses, does not count; a read-only one does.
    """
    row = reader.execute(
        f"""
WITH facts AS MATERIALIZED (
  SELECT f.id, f.size, f.mtime_ns, trim(c.label) AS said, c.corrected_at AS said_at,
    CASE WHEN p.decided AND NOT p.rough THEN trim(p.genre) END AS decided,
    p.decided = 0 AND NOT p.rough AS undecided,
    json_extract(t.set_fields, '$.{one.field}') AS standing,
    trim(json_extract(t.indexer_added, '$.added.{one.field}')) AS recorded,
    EXISTS (SELECT 1 FROM json_each(t.indexer_added, '$.said') WHERE value = '{one.field}') AS marked,
    w.action, w.state AS write_state, w.reason AS why, w.written_at, w.stat_before
  FROM files f LEFT JOIN tags t ON t.file_id = f.id {_SAID} {_PREDICTED} LEFT JOIN tag_writes w ON w.id = {LAST_WRITE}
  WHERE f.state = 'ready' AND f.reason IS NULL
),
wanted AS (
  SELECT *, coalesce(said, decided) AS text FROM facts f
  WHERE (standing IS NULL OR standing IS recorded)
    AND (said IS NOT NULL OR ((decided IS NOT NULL OR marked OR undecided) AND (NOT marked OR {one.known_here})))
)
SELECT count(*) AS n FROM wanted
WHERE CASE WHEN text IS NULL THEN standing IS NOT NULL ELSE text IS NOT standing OR marked IS NOT (said IS NOT NULL) END
AND NOT CASE
  WHEN write_state IS NULL OR coalesce(said_at > written_at, 0) THEN 0
  WHEN write_state = 'refused' THEN coalesce(why, '') NOT LIKE '{READ_ONLY}%'
    AND json_extract(stat_before, '$.size') = size AND json_extract(stat_before, '$.mtime_ns') = mtime_ns
  ELSE action = 'undo' AND text IS NOT NULL AND NOT (marked AND said IS NULL AND standing IS NOT NULL) END
""",
        (one.name, one.head_id),
    ).fetchone()
    return int(row["n"])
