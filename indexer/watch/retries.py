"""Schedules when to try again files that could not be read yet, with waits that double for each file."""

from collections.abc import Iterable

MOST = 10_000  # files that wait; the others are found by the next scan


class Retries:
    """Paths, and when to try each again. Times are seconds of one monotonic clock, which the caller reads."""

    def __init__(self, first_s: float, last_s: float) -> None:
        """Wait ``first_s`` after a path fails first, then twice as long each time, up to ``last_s``."""
        self._first_s = first_s
        self._last_s = last_s
        self._waiting: dict[bytes, tuple[float, float]] = {}  # path -> (when to try, seconds waited)
        self._tried: dict[bytes, float] = {}  # path -> seconds waited; the run that tries it has not ended yet

    def failed(self, paths: Iterable[bytes], now_s: float) -> None:
        """A run has ended and could not read ``paths`` yet; all other paths that were tried again are forgotten."""
        for path in paths:
            wait_s = min(2 * self._tried[path], self._last_s) if path in self._tried else self._first_s
            if path in self._waiting or len(self._waiting) < MOST:
                self._waiting[path] = (now_s + wait_s, wait_s)
        self._tried.clear()

    def due(self, now_s: float) -> list[bytes]:
        """The paths to try again now, sorted; each is returned once."""
        found = {path: wait_s for path, (when_s, wait_s) in self._waiting.items() if when_s <= now_s}
        for path in found:
            del self._waiting[path]
        self._tried |= found
        return sorted(found)

    @property
    def next_s(self) -> float:
        """When the next path is due; infinity when none waits."""
        return min((when_s for when_s, _ in self._waiting.values()), default=float("inf"))
