"""Shows the progress of long work on a terminal: one line that is rewritten, and lines that stay for problems.

Everything goes to stderr; the moving line appears on a terminal only. Everything is printed with
control characters escaped.
"""

import contextlib
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from indexer.cli.output import note
from indexer.wording import duration, escaped, printable

REDRAW_S = 0.1
BAR_COLUMNS, SMALLEST_BAR_COLUMNS = 30, 5


class Progress:
    """Counts files, draws the line, prints problems. ``verbosity``: -1 quiet, 0 normal, 1 a line a file."""

    def __init__(self, verbosity: int = 0, out: TextIO | None = None) -> None:
        self._out = out or sys.stderr
        self._verbosity = verbosity
        self._moving = verbosity >= 0 and self._out.isatty()
        self.tail: Callable[[], str] = lambda: ""  # the end of the moving line
        self.begin("", 0)

    def begin(self, step: str, files: int, size_bytes: int = 0) -> None:
        """Start the clock of a step on so many files. With their size, the time left goes by bytes and not by files."""
        self._step, self._things = step, "files"
        self._files, self._done = files, 0
        self._bytes, self._done_bytes = size_bytes, 0
        self._started_s = time.monotonic()
        self._drawn_s = 0.0

    def advance(self, path: str, outcome: str) -> None:
        """Count a finished file, and show it."""
        self._done += 1
        if self._bytes:
            with contextlib.suppress(OSError):
                self._done_bytes += os.stat(path).st_size  # noqa: PTH116 - any bytes
        if self._verbosity > 0:
            self.line(f"{self._done}/{self._files} {_shown(path)}: {outcome}")
        else:
            self._draw_soon()

    def step(self, step: str, done: int, total: int) -> None:
        """Show that of a step that opens no file so many recordings are done."""
        if (step, total) != (self._step, self._files):
            self.begin(step, total)
        self._done, self._things = done, "recordings"
        self._draw_soon()

    def at(self, path: Path | None) -> None:
        """Show at which file or folder a step is whose length nobody knows; None: it is done."""
        if path is None:
            self.clear()
        elif self._moving and time.monotonic() - self._drawn_s > REDRAW_S:
            self._drawn_s = time.monotonic()
            self._out.write(f"\r\x1b[K{f'{self._step} {_shown(str(path))}'[: _columns(self._out) - 1]}")
            self._out.flush()

    def problem(self, path: str, reason: str) -> None:
        """Print why a file was not handled, or only in part."""
        if self._verbosity >= 0:
            self.line(f"{_shown(path)}: {reason}")

    def line(self, text: str) -> None:
        """Print a line that stays."""
        self.clear()
        note(text, self._out)

    def clear(self) -> None:
        """Remove the moving line."""
        if self._moving:
            self._out.write("\r\x1b[K")
            self._out.flush()

    def _draw_soon(self) -> None:
        if self._moving and time.monotonic() - self._drawn_s > REDRAW_S:
            self._draw()

    def _draw(self) -> None:
        self._drawn_s = time.monotonic()
        elapsed_s = self._drawn_s - self._started_s
        columns = _columns(self._out) - 1  # a terminal that is filled to its last column begins a new line
        share = min(1.0, self._done_bytes / self._bytes if self._bytes else self._done / max(1, self._files))
        left = f", {duration(elapsed_s * (1 - share) / share)} left" if 0 < share < 1 else ""
        text = (
            f"{self._done:,}/{self._files:,} {self._things}, {60 * self._done / max(elapsed_s, 1e-3):,.0f} a minute"
            f"{left}{escaped(self.tail())}"
        )
        width = min(BAR_COLUMNS, columns - len(f"{self._step} [] {text}"))
        filled = round(share * max(0, width))
        bar = f"[{'=' * filled}{' ' * (width - filled)}] " if width >= SMALLEST_BAR_COLUMNS else ""
        self._out.write(f"\r\x1b[K{f'{self._step} {bar}{text}'[:columns]}")
        self._out.flush()


def _columns(out: TextIO) -> int:
    """The width of the terminal now; it may be resized at any time."""
    try:
        return os.get_terminal_size(out.fileno()).columns or 80
    except OSError:
        return 80


def _shown(path: str) -> str:
    return printable(os.fsencode(path))
