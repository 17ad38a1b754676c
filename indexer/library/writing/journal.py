"""Statements on the journal: every write into a music file, announced before it is made, and the runs."""

import json
import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any

from indexer.files.audio.identity import Stat
from indexer.library.set_fields import LAST_WRITE
from indexer.library.sqlite import now
from indexer.library.writing.database import Database
from indexer.wording import printable


class Journal(Database):
    """Tag writes and runs."""

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
            "SELECT max(c.corrected_at) AS at FROM (SELECT recording_id, corrected_at FROM corrections"
            " UNION ALL SELECT recording_id, corrected_at FROM set_corrections) c"
            " JOIN files f ON f.recording_id = c.recording_id WHERE f.id = ?",
            (file_id,),
        )
        return now(said["at"] if said else None)

    def open_writes(self) -> list[sqlite3.Row]:
        """Writes that were announced and not settled, because of a crash."""
        return self._run("SELECT * FROM tag_writes WHERE state = 'intended' ORDER BY id").fetchall()

    def last_write(self, file_id: int) -> sqlite3.Row | None:
        """The newest journal entry of a file that took effect or was refused; see library/set_fields.py."""
        return self._one(
            "SELECT w.*, w.state AS write_state, w.reason AS write_reason FROM files f"
            f" JOIN tag_writes w ON w.id = {LAST_WRITE} WHERE f.id = ?",
            (file_id,),
        )

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

    def drop_run(self, run_id: int) -> None:
        """Remove the row of a run that did nothing."""
        self._run("DELETE FROM runs WHERE id = ?", (run_id,))


def dump_stat(stat: Stat) -> str:
    """A Stat as text for the journal."""
    return json.dumps({"dev": stat.dev, "ino": stat.ino, "size": stat.size, "mtime_ns": stat.mtime_ns})


def parse_stat(text: str) -> Stat:
    """The Stat that dump_stat wrote."""
    return Stat(**json.loads(text))
