"""A real `indexer watch` process on a real folder: its lines, its status, and waiting until a condition holds."""

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

from indexer.library.readonly import open_readonly
from indexer.watch.status import read_status

LIMIT_S = 40.0  # for anything to come true; generous, because machines differ


class Watching:
    """`indexer watch` in a process of its own; a context manager that ends it."""

    def __init__(self, cli, *paths, verbose: bool = True, prefix=(), **environ: object) -> None:
        settings = {
            "INDEXER_SETTLE_S": "0.3",
            "INDEXER_UNLOAD_AFTER_S": "300",
            **{f"INDEXER_{k.upper()}": str(v) for k, v in environ.items()},
        }
        self.db = cli.db
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            [*prefix, sys.executable, "-m", "indexer", "watch", *(["-v"] if verbose else []), *map(str, paths)],
            env={**os.environ, **cli.environ, **settings},
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in self.process.stderr:
            self.lines.append(line.rstrip("\n"))

    def __enter__(self) -> "Watching":
        return self

    def __exit__(self, *exc: object) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(LIMIT_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)  # whatever it left
        self._reader.join(LIMIT_S)
        if not self._reader.is_alive():  # a process that left the group may hold the pipe open
            self.process.stderr.close()

    def until(self, condition, what: object = "", limit_s: float = LIMIT_S) -> None:
        """Wait for something to come true; fails with what the daemon said."""
        end = time.monotonic() + limit_s
        while time.monotonic() < end:
            if condition():
                return
            time.sleep(0.05)
        raise AssertionError(
            f"not within {limit_s:.0f} s: {(what() if callable(what) else what) or condition}\nstatus: {self.status}\n"
            + "\n".join(self.lines[-30:])
        )

    @property
    def status(self) -> dict:
        return read_status(self.db) or {}

    def idle(self) -> bool:
        return self.status.get("state") == "idle" and self.status.get("last_scan_at") is not None

    def until_idle(self) -> None:
        self.until(self.idle, "idle")

    def said(self, text: str) -> bool:
        return any(text in line for line in self.lines)

    def rows(self, statement: str, *values: object) -> list[tuple]:
        if not self.db.exists():
            return []
        try:
            conn = open_readonly(self.db)
        except Exception:  # not made yet
            return []
        found = [tuple(row) for row in conn.execute(statement, values)]
        conn.close()
        return found

    def states(self) -> dict[str, str]:
        """State by path."""
        return dict(self.rows("SELECT path_text, state FROM files"))

    def states_of(self, path: Path) -> str | None:
        """State of one file's row."""
        found = self.rows("SELECT state FROM files WHERE path = ?", os.fsencode(path))
        return found[0][0] if found else None

    def until_states(self, expected: dict[Path, str]) -> None:
        wanted = {str(path): state for path, state in expected.items()}
        self.until(lambda: self.states() == wanted, lambda: f"states {wanted}, they are {self.states()}")

    def embeddings(self) -> list[tuple[int, bytes]]:
        """(id, vector) of all: equal means that nothing was embedded again."""
        return self.rows("SELECT id, vector FROM embeddings ORDER BY id")

    def runner_pids(self) -> list[int]:
        """Processes that work for it."""
        found = []
        for folder in Path("/proc").iterdir():
            with suppress(OSError, ValueError):
                if int((folder / "stat").read_text().rpartition(")")[2].split()[1]) == self.process.pid:
                    found.append(int(folder.name))
        return found
