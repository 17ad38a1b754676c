"""Statements on what heads and people say: predictions, corrections, label sets."""

import json
import sqlite3
from collections.abc import Mapping, Sequence

from indexer.library.label_sets import refuse_taken, shown_sets
from indexer.library.sqlite import now
from indexer.library.tracks_view import TRACK_COLUMNS
from indexer.library.writing.database import Database

# Whether recording ?1 is heard only roughly by an encoder of head ?2.
_ROUGH_UNDER_HEAD = (
    "EXISTS (SELECT 1 FROM embeddings e WHERE e.rough AND e.recording_id = ?1 AND e.encoder_id IN"
    " (SELECT p.value FROM heads h JOIN encoders n ON n.id = h.encoder_id,"
    " json_each(coalesce(n.parts, json_array(n.id))) p WHERE h.id = ?2))"
)


class Judgements(Database):
    """Heads, what they predict, and what a person says instead."""

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
        """Store a person's label in a set; the next scan writes it into the tags if the settings ask for that."""
        self._run(
            "INSERT INTO set_corrections (recording_id, label_set, label, corrected_at, corrected_by)"
            " VALUES (?, ?, ?, ?, ?)",
            (recording_id, name, label, self._after_writes(recording_id), by),
        )
        self.unsettle_tags(recording_id)

    def withdraw_in_set(self, recording_id: int, name: str) -> None:
        """Remove a person's newest label in a set; the one before it counts again."""
        self._run(
            "DELETE FROM set_corrections WHERE id = (SELECT max(id) FROM set_corrections WHERE recording_id = ?"
            " AND label_set = ?)",
            (recording_id, name),
        )
        self.unsettle_tags(recording_id)

    def unsettle_tags(self, recording_id: int) -> None:
        """Have the tags of a recording's files looked at again."""
        self._run(
            "UPDATE files SET tag_policy = NULL WHERE recording_id = ? AND tag_policy IS NOT NULL", (recording_id,)
        )

    def _after_writes(self, recording_id: int) -> str:
        """The time of a person's word: later than what was written or undone before, which it is compared with."""
        written = self._one(
            "SELECT max(w.written_at) AS at FROM tag_writes w JOIN files f ON f.id = w.file_id"
            " WHERE f.recording_id = ?",
            (recording_id,),
        )
        return now(written["at"] if written else None)

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
        rough: bool | None = None,
    ) -> None:
        """Store a prediction as heads/decide.py made it: all scores, the best of them, and whether it is decided.

        ``tempo``: (beats a minute, confidence) that these genres choose. ``rough``: whether the recording is heard only
        roughly by an encoder of the head; None: that is looked up. Call it inside a transaction.
        """
        genre = max(scores, key=lambda label: scores[label])
        self._run(
            "INSERT OR REPLACE INTO predictions (recording_id, head_id, genre, confidence, threshold, decided,"
            " reason, second_genre, tempo_bpm, tempo_confidence, rough)"
            f" VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, {'?11' if rough is not None else _ROUGH_UNDER_HEAD})",
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
                *((int(rough),) if rough is not None else ()),
            ),
        )
        # One statement: inside a savepoint, each that may replace rows copies the page that it changes.
        self._run(
            "INSERT OR REPLACE INTO scores (recording_id, head_id, genre, probability)"
            " SELECT ?, ?, key, value FROM json_each(?)",
            (recording_id, head_id, json.dumps(scores)),
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

    def correct(self, recording_id: int, genre: str, *, by: str | None = None) -> None:
        """Store a person's genre; the next scan writes it into the tags of all files of the recording."""
        with self.transaction():
            self._run(
                "INSERT INTO corrections (recording_id, genre, corrected_at, corrected_by) VALUES (?, ?, ?, ?)",
                (recording_id, genre, self._after_writes(recording_id), by),
            )
            self.unsettle_tags(recording_id)

    def withdraw_correction(self, recording_id: int) -> None:
        """Remove the newest correction; the one before it counts again, and the next scan updates the tags."""
        with self.transaction():
            self._run(
                "DELETE FROM corrections WHERE id = (SELECT max(id) FROM corrections WHERE recording_id = ?)",
                (recording_id,),
            )
            self.unsettle_tags(recording_id)

    def correction(self, recording_id: int) -> sqlite3.Row | None:
        """The newest correction: genre and corrected_at; None without one."""
        return self._one(
            "SELECT genre, corrected_at FROM corrections WHERE recording_id = ? ORDER BY id DESC LIMIT 1",
            (recording_id,),
        )
