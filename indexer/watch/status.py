"""The daemon's status file, and the signal that asks the daemon for a scan.

Imports the standard library only, so that `indexer status` starts fast.
"""

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from indexer.files.foreign import parse_json
from indexer.library.lock import open_own, signal_watching_process, watching_process

if TYPE_CHECKING:
    from indexer.config import Settings


def status_path(db: Path) -> Path:
    """The path of the status file, beside the database; the file exists while a daemon watches."""
    return db.with_name(f"{db.name}.watch.json")


def read_status(db: Path) -> dict[str, Any] | None:
    """The status that the daemon of a library wrote; None when no daemon runs."""
    pid = watching_process(db)
    if pid is None:
        return None
    try:
        found = parse_json(_read_own(status_path(db)))
    except (OSError, ValueError):
        found = None
    return found if _is_status(found) else {"pid": pid, "state": "starting"}


def _read_own(path: Path) -> bytes:
    with os.fdopen(open_own(path, os.O_RDONLY), "rb") as file:
        return file.read()


def _is_status(found: Any) -> bool:
    """Whether this has what `indexer status` prints; another program may have written the file."""
    return (
        isinstance(found, dict)
        and found.keys() >= {"pid", "state"}
        and all(isinstance(found.get(key, 0) or 0, int | float) for key in ("done", "total", "eta_s"))
        and isinstance(roots := found.get("roots", []), list)
        and all(
            isinstance(root, dict)
            and root.keys() >= {"path", "mode", "reason", "problems"}
            and isinstance(root["problems"], list)
            for root in roots
        )
    )


def ask_for_scan(db: Path) -> bool:
    """Ask the daemon of a library to scan within seconds; False when none runs, or another user's."""
    return signal_watching_process(db, signal.SIGUSR1)


def keep_playlists_true(settings: "Settings") -> None:
    """Ask the daemon for a scan where playlists follow what a person says."""
    if settings.playlists:
        ask_for_scan(settings.db)
