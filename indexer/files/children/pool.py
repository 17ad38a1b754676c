"""A pool of threads, each with a reader process of its own.

Hands tasks to free threads and closes the readers at the end. Never parses a file (the readers do); knows no encoder.
"""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from indexer.files.children.limits import Limits
from indexer.files.children.worker import Worker

_T = TypeVar("_T")


class Readers:
    """A pool of readers (``Worker``), one for each of ``count`` threads."""

    def __init__(self, count: int, limits: Limits, *, follows_links: bool = False) -> None:
        """``limits``, ``follows_links``: see ``Worker``."""
        self.count = count
        self._limits = limits
        self._follows_links = follows_links
        self._busy_s = 0.0
        self._lock = threading.Lock()
        self._local = threading.local()
        self._workers: list[Worker] = []
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="reader")

    @property
    def busy_s(self) -> float:
        """Seconds that all readers together have worked, without the time they waited for an encoder."""
        return self._busy_s

    def submit(self, task: Callable[[Worker], _T]) -> "Future[_T]":
        """Run ``task`` with a reader that no other task uses meanwhile."""
        return self._pool.submit(self._run, task)

    def waited(self, seconds: float) -> None:
        """Called by a task that has waited: the seconds do not count as work."""
        self._add_busy(-seconds)

    def close(self) -> None:
        """Drop tasks that have not begun, kill readers at work, but let one that prepares a write finish."""
        for worker in self._workers:
            worker.interrupt()
        self._pool.shutdown(wait=True, cancel_futures=True)
        for worker in self._workers:
            worker.close()

    def _run(self, task: Callable[[Worker], _T]) -> _T:
        worker: Worker | None = getattr(self._local, "worker", None)
        if worker is None:
            worker = self._local.worker = Worker(self._limits, follows_links=self._follows_links)
            self._workers.append(worker)
        started_s = time.monotonic()
        try:
            return task(worker)
        finally:
            self._add_busy(time.monotonic() - started_s)

    def _add_busy(self, seconds: float) -> None:
        with self._lock:
            self._busy_s += seconds
