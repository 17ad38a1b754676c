"""A scanned library copied to another folder, so that a test has one of its own without a scan."""

import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

from tests.helpers.cli import Cli


def adopt(cli: Cli, music: Path, *, state: Path, scanned: Path) -> None:
    """Give ``cli`` a copy of the library in ``state``, as if ``music`` had been scanned.

    ``scanned`` is the folder that the library knows; ``music`` is a copy of it.
    """
    shutil.copytree(state, cli.folder, dirs_exist_ok=True)
    with closing(sqlite3.connect(cli.db)) as conn, conn:
        for table in ("roots", "files"):
            for row, path in conn.execute(f"SELECT id, path FROM {table}").fetchall():
                moved = music / Path(os.fsdecode(path)).relative_to(scanned)
                stat = moved.stat()
                values = {"path": os.fsencode(moved), "path_text": str(moved), "dev": stat.st_dev}
                if table == "files":
                    values |= {"ino": stat.st_ino, "size": stat.st_size, "mtime_ns": stat.st_mtime_ns}
                names = ", ".join(f"{name} = ?" for name in values)
                conn.execute(f"UPDATE {table} SET {names} WHERE id = ?", (*values.values(), row))
