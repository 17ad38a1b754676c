"""Statements on recordings: encoders and their embeddings, what was heard beside a genre, and what was measured."""

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from indexer.library.writing.database import Database


class Recordings(Database):
    """A recording is what files with the same sound hold; everything that is computed belongs to it."""

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

    def electronic_and_tempo(self, recording_id: int) -> tuple[float | None, Any]:
        """How electronic a recording sounds, and its measured tempo as plain values; None for what nothing has told."""
        row = self._one(
            "SELECT h.electronic,"
            " CASE WHEN json_valid(a.measured) THEN json_extract(a.measured, '$.tempo') END AS tempo FROM recordings r"
            " LEFT JOIN heard h ON h.recording_id = r.id LEFT JOIN analysis a ON a.recording_id = r.id WHERE r.id = ?",
            (recording_id,),
        )
        return (row["electronic"], json.loads(row["tempo"]) if row["tempo"] else None) if row else (None, None)

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
