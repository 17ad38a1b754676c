"""The daemon's status file, and the signal that asks the daemon for a scan.

Imports the standard library only, so that `indexer status` starts fast.
"""

import json
import os
import signal
from pathlib import Path
from typing import Any

from indexer.library.lock import watching_process


def status_path(db: Path) -> Path:
    """The path of the status file, beside the database; the file exists while a daemon watches."""
    return db.with_name(f"{db.name}.watch.json")


def read_status(db: Path) -> dict[str, Any] | None:
    """The status that the daemon of a library wrote; None when no daemon runs."""
    pid = watching_process(db)
    if pid is None:
        return None
    try:
        found: dict[str, Any] = json.loads(status_path(db).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {"pid": pid, "state": "starting"}
    return found


def ask_for_scan(db: Path) -> bool:
    """Ask the daemon of a library to scan within seconds; False when none runs, or another user's."""
    pid = watching_process(db)
    if pid is None:
        return False
    try:
        os.kill(pid, signal.SIGUSR1)
    except OSError:
        return False
    return True
