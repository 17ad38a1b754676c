"""`indexer correct`: stores the genre that a person gives recordings, in the library and in the files' own tags.

The tags are written by the scan's own pipeline, like every other genre.
"""

import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from indexer.config import Settings, set_field
from indexer.errors import ConfigError, LockedError
from indexer.files.tags.read import clean
from indexer.files.walk import resolve_named
from indexer.learn.corrections import label_for, open_for_corrections, say_in_set
from indexer.library.lock import library_lock
from indexer.library.readonly import open_readonly, reading
from indexer.library.sqlite import Reader
from indexer.library.store import Store
from indexer.library.tracks import label_in_tags, tag_genre
from indexer.scan.run import Scan
from indexer.wording import printable


class _Problems:
    """A scan's listener that keeps the reason of every problem, by path."""

    def __init__(self) -> None:
        self.reasons: dict[str, str] = {}

    def begin(self, step: str, files: int, size_bytes: int) -> None:
        """Ignore the beginning."""

    def advance(self, path: str, outcome: str) -> None:
        """Ignore a finished file."""

    def step(self, step: str, done: int, total: int) -> None:
        """Ignore a step without files."""

    def problem(self, path: str, reason: str) -> None:
        """Keep why a file was not handled, or only in part."""
        self.reasons[path] = reason


def correct(settings: Settings, paths: Sequence[Path], genre: str, *, new: bool = False) -> dict[str, Any]:
    """Store a genre for the recordings in files and folders, and write it into all their files: {genre, tags, files}.

    files: one entry for each file that holds one of the recordings, {path, tag_genre, reason}. tags: "written", "off"
    (the setting), or "later": another indexer works on the library, and the next scan writes them. new: accept a genre
    that the library does not know. Raises ConfigError for an unknown genre, or a file that the library does not hold.
    """
    busy = False
    open_readonly(settings.db).close()  # brings a library of an earlier version up to date, which takes the lock
    with ExitStack() as stack:
        try:
            stack.enter_context(library_lock(settings.db))
        except LockedError:
            busy = True  # SQLite's own lock is enough for the correction, one small transaction; the tags can wait
        store = stack.enter_context(open_for_corrections(settings.db))
        label = label_for(store.connection, settings, genre, new=new)
        named = resolve_named(paths, settings.roots, store.root_paths())
        recordings = {recording_id for path in named for recording_id in _recordings(store, path)}
        for recording_id in sorted(recordings):
            store.correct(recording_id, label, by="command line")
        files = sorted(path for recording_id in recordings for _, path in store.files_of(recording_id))
    problems = _Problems()
    tags = "off" if settings.write_tags == "off" else "later" if busy else "written"
    if tags == "written" and files:
        Scan(settings, problems).run([Path(os.fsdecode(path)) for path in files], explicit_tags=True)
    return {"genre": label, "tags": tags, "files": [_entry(settings.db, path, problems) for path in files]}


def correct_in_set(
    settings: Settings, paths: Sequence[Path], label_set: str, label: str, *, new: bool = False
) -> dict[str, Any]:
    """Store a label of a set for the recordings in files and folders: {set, label, tags, files}.

    files: one entry for each file that holds one of the recordings, {path, reason}; the reason why it is not in the
    file's tags. tags: as ``correct`` has it; "off" where the settings do not have the set written into files: then none
    is opened. Raises ConfigError as ``correct`` does, and for a set that the settings do not name.
    """
    name, told = settings.label_set(label_set)
    with open_for_corrections(settings.db) as store:
        named = resolve_named(paths, settings.roots, store.root_paths())
        recordings = sorted({recording_id for path in named for recording_id in _recordings(store, path)})
        files = sorted(path for recording_id in recordings for _, path in store.files_of(recording_id))
    meant = say_in_set(settings, recordings, name, label, by="command line", new=new)
    problems = _Problems()
    tags = "written" if told.write else "off"
    if told.write and files:
        try:
            Scan(settings, problems).run([Path(os.fsdecode(path)) for path in files])
        except LockedError:
            tags = "later"
    with reading(settings.db) as conn:
        why = {path: _why_not_in_tags(conn, path, set_field(name), meant) for path in files if tags == "written"}
    entries = [
        {"path": printable(path), "reason": problems.reasons.get(os.fsdecode(path)) or why.get(path)} for path in files
    ]
    return {"set": name, "label": meant, "tags": tags, "files": entries}


def _why_not_in_tags(conn: Reader, path: bytes, field: str, label: str) -> str | None:
    """Why a file's tags do not say this label after they were to be written; None where they do."""
    standing, refused = label_in_tags(conn, path, field)
    if standing == clean(label):
        return None
    theirs = f"its {field} is '{standing}', which another program wrote" if standing else None
    return refused or theirs or f"its {field} is not written yet"


def _recordings(store: Store, path: bytes) -> list[int]:
    """The recording in a file, or those in all readable files below a folder."""
    row = store.file_at(path)
    found = [row.recording_id] if row and row.recording_id is not None else store.recordings_below(path)
    if not found:
        raise ConfigError(
            f"{printable(path)}: the library does not hold it (or could not read it): run `indexer scan` on it first"
        )
    return found


def _entry(db: Path, path: bytes, problems: _Problems) -> dict[str, Any]:
    """The genre that a file's tags hold now, and why the new one was not written."""
    with reading(db) as conn:
        genre = tag_genre(conn, path)
    return {
        "path": printable(path),
        "tag_genre": genre,
        "reason": problems.reasons.get(os.fsdecode(path)),
    }
