"""Shows the progress of long work on a terminal: one line that is rewritten, and lines that stay for problems.

Everything goes to stderr; the moving line appears on a terminal only. Paths are printed with control characters
escaped.
"""

import os
import sys
import time
from collections.abc import Callable
from typing import TextIO

from indexer.wording import duration, printable

REDRAW_S = 0.1


class Progress:
    """Counts files, draws the line, prints problems. ``verbosity``: -1 quiet, 0 normal, 1 a line a file."""

    def __init__(self, verbosity: int = 0, out: TextIO | None = None) -> None:
        self._out = out or sys.stderr
        self._verbosity = verbosity
        self._moving = verbosity >= 0 and self._out.isatty()
        self._total = 0
        self._done = 0
        self._started = time.monotonic()
        self._drawn = 0.0
        self.tail: Callable[[], str] = lambda: ""  # the end of the moving line

    def begin(self, total: int) -> None:
        """Set the number of files to work on, and start the clock."""
        self._total = total
        self._started = time.monotonic()

    def advance(self, path: str, outcome: str) -> None:
        """Count a finished file, and show it."""
        self._done += 1
        if self._verbosity > 0:
            self.line(f"{self._done}/{self._total} {_shown(path)}: {outcome}")
        elif self._moving and time.monotonic() - self._drawn > REDRAW_S:
            self._draw()

    def problem(self, path: str, reason: str) -> None:
        """Print why a file was not handled, or only in part."""
        if self._verbosity >= 0:
            self.line(f"{_shown(path)}: {reason}")

    def line(self, text: str) -> None:
        """Print a line that stays."""
        self.clear()
        print(text, file=self._out, flush=True)

    def clear(self) -> None:
        """Remove the moving line."""
        if self._moving:
            self._out.write("\r\x1b[K")
            self._out.flush()

    def _draw(self) -> None:
        self._drawn = time.monotonic()
        elapsed_s = self._drawn - self._started
        left = (
            f", {duration(elapsed_s / self._done * (self._total - self._done))} left"
            if 0 < self._done < self._total
            else ""
        )
        filled = 30 * self._done // max(1, self._total)
        self._out.write(
            f"\r\x1b[K[{'=' * filled}{' ' * (30 - filled)}] {self._done:,}/{self._total:,} files"
            f", {60 * self._done / max(elapsed_s, 1e-3):,.0f} a minute{left}{self.tail()}"
        )
        self._out.flush()


def _shown(path: str) -> str:
    return printable(os.fsencode(path))
