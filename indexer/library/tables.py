"""Reads whole tables for an export: a page of rows at a time, all from one state of the library. Reads only."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from indexer.library.label_sets import Shown, join, shown_sets
from indexer.library.measured import LOSSY_SUSPECT, TEMPO_BPM, TEMPO_CONFIDENCE
from indexer.library.readonly import reading
from indexer.library.sqlite import Reader
from indexer.library.whose_word import LABEL, LABEL_SOURCE


class Column(NamedTuple):
    """A column of an exported table."""

    name: str
    sql: str
    type: str  # as Arrow calls it


# name -> (SQL from FROM on, columns)
TABLES: dict[str, tuple[str, list[Column]]] = {
    "recordings": (
        (
            "recordings r LEFT JOIN heard w ON w.recording_id = r.id LEFT JOIN analysis a ON a.recording_id = r.id"
            " LEFT JOIN heads h ON h.in_use = 1"
            " LEFT JOIN predictions p ON p.recording_id = r.id AND p.head_id = h.id ORDER BY r.id"
        ),
        [
            Column("audio_sha256", "r.audio_sha256", "string"),
            Column("codec", "r.codec", "string"),
            Column("sample_rate_hz", "r.sample_rate_hz", "int64"),
            Column("channels", "r.channels", "int64"),
            Column("duration_s", "r.duration_s", "double"),
            Column("reason", "r.reason", "string"),
            Column("heard", "w.probabilities", "string"),
            Column("electronic", "w.electronic", "double"),
            Column("tempo_bpm", TEMPO_BPM, "double"),
            Column("tempo_confidence", TEMPO_CONFIDENCE, "double"),
            Column("key", "a.key", "string"),
            Column("key_name", "a.key_name", "string"),
            Column("key_confidence", "a.key_confidence", "double"),
            Column("loudness_lufs", "a.loudness_lufs", "double"),
            Column("bandwidth_hz", "a.bandwidth_hz", "int64"),
            Column("lossy_suspect", LOSSY_SUSPECT, "int64"),
            Column("measured", "a.measured", "string"),
        ],
    ),
    "files": (
        (
            "files f LEFT JOIN recordings r ON r.id = f.recording_id LEFT JOIN tags t ON t.file_id = f.id"
            " LEFT JOIN heads h ON h.in_use = 1"
            " LEFT JOIN predictions p ON p.recording_id = f.recording_id AND p.head_id = h.id ORDER BY f.id"
        ),
        [
            Column("path", "f.path_text", "string"),
            Column("path_bytes", "f.path", "binary"),
            Column("audio_sha256", "r.audio_sha256", "string"),
            Column("state", "f.state", "string"),
            Column("reason", "f.reason", "string"),
            Column("container", "f.container", "string"),
            Column("size", "f.size", "int64"),
            Column("mtime_ns", "f.mtime_ns", "int64"),
            Column("first_seen", "f.first_seen", "string"),
            Column("last_seen", "f.last_seen", "string"),
            Column("title", "t.title", "string"),
            Column("artist", "t.artist", "string"),
            Column("album", "t.album", "string"),
            Column("album_artist", "t.album_artist", "string"),
            Column("year", "t.year", "int64"),
            Column("tag_bpm", "t.bpm", "double"),
            Column("tag_key", "t.musical_key", "string"),
            Column("record_label", "t.record_label", "string"),
            Column("comment", "t.comment", "string"),
            Column("tag_genre", "t.genre", "string"),
            Column("indexer_genre", "t.indexer_genre", "string"),
            Column("label", LABEL, "string"),
            Column("label_source", LABEL_SOURCE, "string"),
            Column("dj_data", "t.dj_data", "string"),
        ],
    ),
    "corrections": (
        "corrections c JOIN recordings r ON r.id = c.recording_id ORDER BY c.id",
        [
            Column("audio_sha256", "r.audio_sha256", "string"),
            Column("genre", "c.genre", "string"),
            Column("corrected_at", "c.corrected_at", "string"),
            Column("corrected_by", "c.corrected_by", "string"),
        ],
    ),
}


class EmbeddingRow(NamedTuple):
    """One embedding."""

    audio_sha256: str
    units: int
    vector: bytes  # little-endian float16


class PredictionRow(NamedTuple):
    """One prediction."""

    recording_id: int
    audio_sha256: str
    genre: str
    confidence: float
    threshold: float
    decided: int
    reason: str | None
    second_genre: str | None


@contextmanager
def snapshot(db: Path) -> Iterator[sqlite3.Connection]:
    """A connection that sees one state of the library, whatever a scan writes meanwhile. Raises StoreError."""
    with reading(db) as conn:
        conn.execute("BEGIN")
        yield conn


def count_rows(reader: Reader, table: str) -> int:
    """The number of rows of one of ``TABLES``."""
    return int(reader.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


def embeddings_by_encoder(reader: Reader) -> dict[str, int]:
    """By encoder id: the number of its embeddings, where it has any."""
    return dict(reader.execute("SELECT encoder_id, count(*) FROM embeddings GROUP BY encoder_id").fetchall())


def predictions_by_head(reader: Reader) -> dict[str, int]:
    """By head id: the number of its predictions, where it has any."""
    return dict(reader.execute("SELECT head_id, count(*) FROM predictions GROUP BY head_id").fetchall())


def columns_of(reader: Reader, table: str) -> tuple[str, list[Column]]:
    """SQL from FROM on, and the columns, of one of ``TABLES``: in ``files`` also those of the label sets in use."""
    source, columns = TABLES[table]
    if table != "files":
        return source, columns
    shown = [Shown.of(name, place) for place, name in enumerate(shown_sets(reader))]
    joins = "".join(join(one) for one in shown)
    beside = [
        Column(name, sql, kind)
        for one in shown
        for (name, sql), kind in zip(one.columns.items(), ("string", "double", "int64"), strict=True)
    ]
    return source.replace(" ORDER BY", f"{joins} ORDER BY"), [*columns, *beside]


def table_pages(reader: Reader, table: str, page_rows: int) -> Iterator[list[tuple[Any, ...]]]:
    """Yield the rows of one of ``TABLES``, a page at a time: the values of its columns."""
    source, columns = columns_of(reader, table)
    cursor = reader.execute(f"SELECT {', '.join(column.sql for column in columns)} FROM {source}")
    while page := cursor.fetchmany(page_rows):
        yield page


def embedding_pages(reader: Reader, encoder_id: str, page_rows: int) -> Iterator[list[EmbeddingRow]]:
    """Yield the embeddings by an encoder, a page at a time, in the order in which they were made."""
    cursor = reader.execute(
        "SELECT r.audio_sha256, e.units, e.vector FROM embeddings e JOIN recordings r ON r.id = e.recording_id"
        " WHERE e.encoder_id = ? ORDER BY e.id",
        (encoder_id,),
    )
    while page := cursor.fetchmany(page_rows):
        yield [EmbeddingRow._make(row) for row in page]


def prediction_pages(reader: Reader, head_id: str, page_rows: int) -> Iterator[list[PredictionRow]]:
    """Yield the predictions by a head, a page at a time, in the order of recordings."""
    cursor = reader.execute(
        "SELECT p.recording_id, r.audio_sha256, p.genre, p.confidence, p.threshold, p.decided, p.reason, p.second_genre"
        " FROM predictions p JOIN recordings r ON r.id = p.recording_id WHERE p.head_id = ? ORDER BY p.recording_id",
        (head_id,),
    )
    while page := cursor.fetchmany(page_rows):
        yield [PredictionRow._make(row) for row in page]


def scores_between(reader: Reader, head_id: str, first: int, last: int) -> dict[int, dict[str, float]]:
    """By recording, from the id ``first`` to ``last``: the probability of each genre by a head."""
    scores: dict[int, dict[str, float]] = {}
    for recording_id, genre, probability in reader.execute(
        "SELECT recording_id, genre, probability FROM scores WHERE recording_id BETWEEN ? AND ? AND head_id = ?",
        (first, last, head_id),
    ):
        scores.setdefault(recording_id, {})[genre] = probability
    return scores
