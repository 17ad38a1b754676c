"""The child processes that read the user's files, and the threads that wait for them: one child a thread.

Owns their number, the handing out of work, and their end. Never parses a file (the children do), and knows no encoder.
"""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from indexer.files.children.worker import Worker

_T = TypeVar("_T")


class Readers:
    """A pool of Workers."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._busy_s = 0.0
        self._lock = threading.Lock()
        self._local = threading.local()
        self._workers: list[Worker] = []
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="reader")

    @property
    def busy_s(self) -> float:
        """Seconds of work of all readers together, without those of waiting for an encoder."""
        return self._busy_s

    def submit(self, task: Callable[[Worker], _T]) -> "Future[_T]":
        """Have a reader do ``task``; the worker it is given is its own for the time."""
        return self._pool.submit(self._run, task)

    def waited(self, seconds: float) -> None:
        """From within a task: so long it waited for somebody else."""
        with self._lock:
            self._busy_s -= seconds

    def close(self) -> None:
        """Drop what has not begun, end what only reads, and let a write that is being prepared come to its end."""
        for worker in self._workers:
            worker.interrupt()
        self._pool.shutdown(wait=True, cancel_futures=True)
        for worker in self._workers:
            worker.close()

    def _run(self, task: Callable[[Worker], _T]) -> _T:
        worker: Worker | None = getattr(self._local, "worker", None)
        if worker is None:
            worker = self._local.worker = Worker()
            self._workers.append(worker)
        started_s = time.monotonic()
        try:
            return task(worker)
        finally:
            self.waited(started_s - time.monotonic())
