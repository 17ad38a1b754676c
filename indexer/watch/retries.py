"""When to look again at files that could not be read yet: soon, and then later and later. Pure bookkeeping; the daemon asks it."""

from collections.abc import Iterable

MOST = 10_000  # files at a time; what is beyond waits for the next scan


class Retries:
    """Paths with the time to name them again. All times are seconds of one monotonic clock, which the caller reads."""

    def __init__(self, first_s: float, last_s: float) -> None:
        """Wait ``first_s`` at first, doubled with every further failure of a path, at most ``last_s``."""
        self._first_s = first_s
        self._last_s = last_s
        self._waiting: dict[bytes, tuple[float, float]] = {}  # path -> (when, seconds waited)
        self._tried: dict[bytes, float] = {}  # named again, outcome not heard yet

    def failed(self, paths: Iterable[bytes], now_s: float) -> None:
        """A run is through: these of its files could not be read yet; whatever else was named again is done with."""
        for path in paths:
            wait_s = min(2 * self._tried[path], self._last_s) if path in self._tried else self._first_s
            if path in self._waiting or len(self._waiting) < MOST:
                self._waiting[path] = (now_s + wait_s, wait_s)
        self._tried.clear()

    def due(self, now_s: float) -> list[bytes]:
        """The paths to name again now; each once."""
        found = {path: wait_s for path, (when_s, wait_s) in self._waiting.items() if when_s <= now_s}
        for path in found:
            del self._waiting[path]
        self._tried |= found
        return sorted(found)

    @property
    def next_s(self) -> float:
        """When ``due`` will have something; infinity when nothing waits."""
        return min((when_s for when_s, _ in self._waiting.values()), default=float("inf"))
