"""The command line in a real pseudo terminal, as a process: its questions are read, answers and Ctrl-C typed."""

import os
import pty
import select
import subprocess
import sys
import time
from pathlib import Path

DEADLINE_S = 60.0


class Session:
    """``indexer ARGS`` with a terminal as stdin, stdout and stderr; ``shown`` is everything that it printed so far."""

    def __init__(self, *args: object, env: dict[str, str] | None = None, cwd: Path | None = None) -> None:
        self._master, slave = pty.openpty()
        self.shown = ""
        self._read_to = 0
        self._process = subprocess.Popen(
            [sys.executable, "-m", "indexer", *map(str, args)],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env={**os.environ, "COLUMNS": "100", **(env or {})},
            cwd=cwd,
            start_new_session=True,
            # the terminal becomes the process's own, so that a typed Ctrl-C reaches it as SIGINT
            preexec_fn=lambda: os.close(os.open(os.ttyname(0), os.O_RDWR)),  # noqa: PLW1509 - no threads here
        )
        os.close(slave)

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._master)

    def until(self, text: str) -> str:
        """Wait for ``text`` after what was waited for before; returns what was printed up to its end."""
        deadline = time.monotonic() + DEADLINE_S
        while (found := self.shown.find(text, self._read_to)) < 0:
            assert self._read(deadline), f"ended without {text!r}: {self.shown}"
        start, self._read_to = self._read_to, found + len(text)
        return self.shown[start : self._read_to]

    def type(self, line: str) -> None:
        """Type a line and press Enter."""
        os.write(self._master, line.encode() + b"\n")

    def answer(self, question: str, line: str = "") -> None:
        """Wait for a question, then type the answer; Enter alone takes the default."""
        self.until(question)
        self.until(": ")
        self.type(line)

    def interrupt(self) -> None:
        """Press Ctrl-C once the process waits: between a question and its read, Python would only note the signal."""
        deadline = time.monotonic() + 5
        while self._runs() and time.monotonic() < deadline:
            time.sleep(0.01)
        os.write(self._master, b"\x03")

    def end(self) -> int:
        """Wait for the end; returns the exit code."""
        deadline = time.monotonic() + DEADLINE_S
        while self._read(deadline):
            pass
        return self._process.wait(DEADLINE_S)

    def _runs(self) -> bool:
        """Whether the process's main thread is on a processor or asks for one (Linux; elsewhere it is not known)."""
        try:
            stat = Path(f"/proc/{self._process.pid}/stat").read_text()
        except OSError:
            return False
        return stat.rpartition(")")[2].split()[0] == "R"

    def _read(self, deadline: float) -> bool:
        """Read what is printed next; False once nobody prints any more."""
        ready, _, _ = select.select([self._master], [], [], max(0, deadline - time.monotonic()))
        assert ready, f"nothing for {DEADLINE_S:.0f} s after: {self.shown}"
        try:
            block = os.read(self._master, 1 << 16)
        except OSError:  # the terminal was closed by the process's end
            return False
        self.shown += block.decode(errors="replace")
        return bool(block)
