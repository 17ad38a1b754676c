"""The row of a run in the library: kept up to date while it works, so that the pages show it, and closed at its end."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from indexer.library.store import Store
from indexer.scan.outcome import Listener, ScanResult

NOTE_S = 2.0  # update the run's row at most this often while it works


class LiveRun:
    """Passes the listener's calls on and keeps the run's row up to date, so that the pages can show its progress."""

    def __init__(self, store: Store, run_id: int, listener: Listener, started_s: float) -> None:
        self.total = 0  # files to work on, as far as was known at the start
        self.result: ScanResult
        self._store = store
        self.run_id = run_id
        self._listener = listener
        self._started_s = self._noted_s = started_s
        self.done = 0

    def begin(self, step: str, files: int, size_bytes: int) -> None:
        """Pass on that the work, or another round of it, begins."""
        self.total, self.done = files, 0
        self._listener.begin(step, files, size_bytes)

    def advance(self, path: str, outcome: str) -> None:
        """Pass on and count a finished file; update the run's row every NOTE_S."""
        self._listener.advance(path, outcome)
        self.done += 1
        moment_s = time.monotonic()
        if moment_s - self._noted_s >= NOTE_S:
            self._noted_s = moment_s
            self.result.elapsed_s = moment_s - self._started_s
            self._store.note_run(
                self.run_id, {**self.result.to_json(), "done": self.done, "total": max(self.total, self.done)}
            )

    def step(self, step: str, done: int, total: int) -> None:
        """Pass on how far a step is that opens no file."""
        self._listener.step(step, done, total)

    def problem(self, path: str, reason: str) -> None:
        """Pass on why a file was not handled, or only in part."""
        self._listener.problem(path, reason)


@contextmanager
def recorded(store: Store, run_id: int, result: ScanResult, started: float) -> Iterator[None]:
    """Write the end of the run into ``runs``, however it ends."""
    state = "failed"
    try:
        yield
        state = "interrupted" if result.interrupted else "done"
    finally:
        result.elapsed_s = time.monotonic() - started
        if result.named and state == "done" and not result.counts.any():
            store.drop_run(run_id)  # an event that changed nothing
        else:
            store.finish_run(run_id, state, result.to_json())
