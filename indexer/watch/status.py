"""The file in which the daemon says what it is doing, and the signal that asks it for a scan; standard library only, so that `status` starts fast."""

import json
import os
import signal
from pathlib import Path
from typing import Any

from indexer.library.lock import watching_process


def status_path(db: Path) -> Path:
    """Beside the database; it exists while a daemon watches."""
    return db.with_name(f"{db.name}.watch.json")


def read_status(db: Path) -> dict[str, Any] | None:
    """What the daemon that watches for a library says of itself; None when there is none."""
    pid = watching_process(db)
    if pid is None:
        return None
    try:
        found: dict[str, Any] = json.loads(status_path(db).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {"pid": pid, "state": "starting"}
    return found


def ask_for_scan(db: Path) -> bool:
    """Have the daemon that watches for a library scan within seconds; False when there is none, or it is somebody else's."""
    pid = watching_process(db)
    if pid is None:
        return False
    try:
        os.kill(pid, signal.SIGUSR1)
    except OSError:
        return False
    return True
