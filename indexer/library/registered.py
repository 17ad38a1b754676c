"""The encoders and heads that the library has registered, and which of them it uses. Reads only."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from indexer.library.readonly import reading
from indexer.library.sqlite import Reader, Row


@dataclass(frozen=True, slots=True)
class RegisteredEncoder:
    """A row of ``encoders``."""

    id: str
    name: str
    width: int
    unit_s: float
    joins: tuple[str, ...]  # ids of the encoders that it joins; empty for a single encoder
    in_use: bool
    words_of: str | None  # id of the encoder whose audio vectors these are; None: its own vectors

    @property
    def parts(self) -> tuple[str, ...]:
        """Ids of the encoders that it joins; its own where it joins none."""
        return self.joins or (self.id,)


@dataclass(frozen=True, slots=True)
class RegisteredHead:
    """A row of ``heads``."""

    id: str
    name: str
    kind: str
    encoder_id: str
    labels: tuple[str, ...]
    threshold: float
    trained_on: str | None
    created: str | None
    source: str | None  # path of its file
    in_use: bool
    label_set: str | None  # the set beside the genre that it is in use for


@dataclass(frozen=True, slots=True)
class EncoderInUse:
    """The encoder that the library uses."""

    id: str
    joins: tuple[str, ...]
    embedded: bool  # whether it has embedded anything
    names: tuple[str, ...] = ()  # of the encoders that it joins, or its own: of several with one id, which was meant


@dataclass(frozen=True, slots=True)
class HeadInUse:
    """The head that the library uses."""

    kind: str
    encoder_id: str
    source: str  # path of its file


@dataclass(frozen=True, slots=True)
class InUse:
    """The encoder and the head that a library uses; None: none yet."""

    encoder: EncoderInUse | None = None
    head: HeadInUse | None = None
    embedded_by: tuple[str, ...] = ()  # ids of encoders that have embedded, where none is in use


NOTHING_IN_USE = InUse()


_ENCODERS = "SELECT id, name, width, unit_s, parts, in_use, words_of FROM encoders e"


def encoders(reader: Reader) -> list[RegisteredEncoder]:
    """Every encoder, by id."""
    return [_encoder(row) for row in reader.execute(f"{_ENCODERS} ORDER BY id")]


def main_encoder(reader: Reader) -> RegisteredEncoder | None:
    """The encoder in use; where none is, scans have used the built-in one: the one that has embeddings."""
    row = reader.execute(
        f"{_ENCODERS} WHERE words_of IS NULL ORDER BY in_use DESC, EXISTS (SELECT 1 FROM embeddings b"
        " WHERE b.encoder_id = e.id) DESC, id LIMIT 1"
    ).fetchone()
    return _encoder(row) if row else None


def _encoder(row: Row) -> RegisteredEncoder:
    return RegisteredEncoder(
        row["id"],
        row["name"],
        row["width"],
        row["unit_s"],
        _ids(row["parts"]),
        bool(row["in_use"]),
        row["words_of"],
    )


def heads(reader: Reader) -> list[RegisteredHead]:
    """Every head, by id."""
    rows = reader.execute(
        "SELECT id, name, kind, encoder_id, labels, threshold, trained_on, created, source, in_use,"
        " (SELECT min(s.name) FROM label_sets s WHERE s.head_id = heads.id) AS label_set FROM heads ORDER BY id"
    )
    return [
        RegisteredHead(
            id=row["id"],
            name=row["name"],
            kind=row["kind"],
            encoder_id=row["encoder_id"],
            labels=tuple(json.loads(row["labels"])),
            threshold=row["threshold"],
            trained_on=row["trained_on"],
            created=row["created"],
            source=row["source"],
            in_use=bool(row["in_use"]),
            label_set=row["label_set"],
        )
        for row in rows
    ]


def in_use(reader: Reader) -> InUse:
    """The encoder and the head that the library uses.

    ``embedded``: an encoder that could not be loaded has embedded nothing, and need not stay in use.
    """
    encoder = reader.execute(
        "SELECT e.id, e.parts, max(o.changes) > 0 AS embedded, json_group_array(o.name) AS names FROM encoders e"
        " JOIN json_each(coalesce(e.parts, json_array(e.id))) p JOIN encoders o ON o.id = p.value"
        " WHERE e.in_use = 1 GROUP BY e.id"
    ).fetchone()
    head = reader.execute("SELECT kind, encoder_id, source FROM heads WHERE in_use = 1").fetchone()
    embedded_by = reader.execute("SELECT id FROM encoders WHERE parts IS NULL AND changes > 0 ORDER BY id").fetchall()
    return InUse(
        EncoderInUse(encoder["id"], _ids(encoder["parts"]), bool(encoder["embedded"]), _ids(encoder["names"]))
        if encoder
        else None,
        HeadInUse(head["kind"], head["encoder_id"], head["source"]) if head else None,
        () if encoder else tuple(row["id"] for row in embedded_by),
    )


def in_use_by(db: Path) -> InUse:
    """The encoder and the head in use in a library file; none where there is no file yet. Raises StoreError."""
    if not db.exists():
        return NOTHING_IN_USE
    with reading(db) as conn:
        return in_use(conn)


def labels_in_use(reader: Reader) -> list[str] | None:
    """Labels of the head in use, in its order; None without one."""
    row = reader.execute("SELECT labels FROM heads WHERE in_use = 1").fetchone()
    labels: list[str] | None = json.loads(row["labels"]) if row else None
    return labels


def _ids(parts: str | None) -> tuple[str, ...]:
    return tuple(json.loads(parts)) if parts else ()


def unclassified(reader: Reader, head_id: str, encoder_id: str) -> int:
    """How many embedded recordings of readable files a head has not classified."""
    (row,) = reader.execute(
        "SELECT count(*) AS n FROM embeddings e WHERE e.encoder_id = ? AND NOT EXISTS"
        " (SELECT 1 FROM predictions p WHERE p.head_id = ? AND p.recording_id = e.recording_id) AND EXISTS"
        " (SELECT 1 FROM files f WHERE f.recording_id = e.recording_id AND f.state = 'ready')",
        (encoder_id, head_id),
    )
    return int(row["n"])


def heard_roughly(reader: Reader, encoder_ids: Sequence[str]) -> int:
    """How many recordings of readable files one of these encoders has heard only roughly."""
    (row,) = reader.execute(
        "SELECT count(DISTINCT e.recording_id) AS n FROM embeddings e WHERE e.rough AND e.encoder_id IN"
        " (SELECT value FROM json_each(?)) AND EXISTS (SELECT 1 FROM files f WHERE f.recording_id = e.recording_id"
        " AND f.state = 'ready')",
        (json.dumps(encoder_ids),),
    )
    return int(row["n"])


def unclassified_by_head_in_use(reader: Reader) -> int:
    """How many such recordings there are for the head in use; 0 without one."""
    row = reader.execute(
        "SELECT h.id, coalesce(json_extract(e.parts, '$[0]'), e.id) AS first FROM heads h"
        " JOIN encoders e ON e.id = h.encoder_id WHERE h.in_use = 1"
    ).fetchone()
    return unclassified(reader, row["id"], row["first"]) if row else 0
