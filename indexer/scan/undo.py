"""`indexer tags undo`: chooses files and undoes our writes in them, with the library locked."""

import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from indexer.config import Settings
from indexer.errors import ConfigError
from indexer.files.children.limits import Limits
from indexer.files.tags.correction import CORRECTION
from indexer.files.walk import resolve_named
from indexer.library.lock import library_lock
from indexer.library.roots import known_roots
from indexer.library.store import Store
from indexer.library.writing.files import FileRow
from indexer.scan.journal import settle_open_writes, undo
from indexer.wording import printable


def undo_files(
    settings: Settings,
    files: Sequence[Path],
    *,
    run_id: int | None = None,
    since: str | None = None,
    force: bool = False,
    corrections: bool = True,
) -> dict[str, Any]:
    """Undo our writes in the named files, in those of one run, in those since a time, or (nothing given) in all files.

    corrections: with all files, also the genres that a person gave. Returns {restored, nothing, refused, kept}; kept:
    how many files keep such a genre. Named files need no library: the fields in the files are enough. Raises
    ConfigError for a time that cannot be read, and as ``resolve_named`` does.
    """
    named = resolve_named(files, settings.roots, known_roots(settings.db))
    if not settings.db.exists() and named:
        with tempfile.TemporaryDirectory() as folder, Store(Path(folder) / "library.db") as store:
            return _undone(settings, store, named, 0, force=force)
    with library_lock(settings.db), Store(settings.db) as store:
        settle_open_writes(store)
        targets, kept = (named, 0) if named else _written(store, run_id, since, corrections=corrections)
        return _undone(settings, store, targets, kept, force=force)


def _undone(
    settings: Settings, store: Store, targets: Sequence[FileRow | bytes], kept: int, *, force: bool
) -> dict[str, Any]:
    done = undo(store, targets, Limits.of(settings), force=force, preserve_mtime=settings.preserve_mtime)
    return {**asdict(done), "kept": kept}


def to_undo(
    settings: Settings, *, run_id: int | None = None, since: str | None = None, corrections: bool = True
) -> dict[str, Any]:
    """What ``undo_files`` would do, as far as the library knows: {files, kept}."""
    with library_lock(settings.db), Store(settings.db) as store:
        targets, kept = _written(store, run_id, since, corrections=corrections)
        return {"files": [printable(row.path) for row in targets], "kept": kept}


def _written(
    store: Store, run_id: int | None, since: str | None, *, corrections: bool
) -> tuple[Sequence[FileRow], int]:
    """The files with a genre of ours, and how many others keep the genre that a person gave."""
    since = _utc(since) if since else None
    found = store.written_files(run_id=run_id, since=since)
    if corrections:
        return found, 0
    targets = store.written_files(run_id=run_id, since=since, without_model=CORRECTION)
    return targets, len(found) - len(targets)


def _utc(text: str) -> str:
    """A time as the library writes it; without a zone it is local time."""
    try:
        return datetime.fromisoformat(text).astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    except ValueError:
        raise ConfigError(f"--since {text}: not a time such as 2026-11-22 or 2026-11-22T10:00") from None
