"""How many connections the server holds, how long it waits for a request, and how much it writes into its log.

uvicorn's own limits count a connection once its request is there, and its timer ends with the first byte; a connection
that sends half a request would stay for ever. Owns uvicorn's protocol class and the process's limit of open files.
"""

import asyncio
import logging
import resource
import time
from typing import Any, ClassVar

from uvicorn.protocols.http.h11_impl import H11Protocol

MAX_CONNECTIONS = 1000
OPEN_FILES = 4096  # wanted; a connection needs one, and one more while a file is sent
REQUEST_LIMIT_S = 10.0  # from the opening of a connection, or the last answer on it, until the next request is whole
SAME_LINES, SAME_LINES_S = 5, 60.0  # as many of the same kind are logged in this time


def raise_file_limit() -> int:
    """Raise the soft limit of open files towards OPEN_FILES, as far as the hard one allows; return what it is."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        return wanted
    return OPEN_FILES if soft == resource.RLIM_INFINITY else soft


class BoundedProtocol(H11Protocol):
    """A connection that must bring its request in time, and that makes room where there are too many.

    Where all places are taken, the connection that has kept the server waiting for the longest time loses its place:
    one that sends no request, or does not read its answer. One whose request is being worked on keeps it.
    """

    at_most: ClassVar[int] = MAX_CONNECTIONS

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._deadline: asyncio.TimerHandle | None = None
        self.waits_since_s: float | None = None  # the loop's time; None: the client waits for the server

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        if len(self.connections) > self.at_most:
            waiting = [c for c in self.connections if isinstance(c, BoundedProtocol) and c.waits_since_s is not None]
            min(waiting, key=lambda c: c.waits_since_s or 0.0, default=self).drop()
        if self in self.connections:
            self._expect_request()

    def drop(self) -> None:
        """Close the connection without another word, and free its place at once."""
        self.connections.discard(self)
        self.transport.abort()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_waiting()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.cycle.response_complete and not self.transport.is_closing():  # else the next request was there already
            self._expect_request()

    def pause_writing(self) -> None:
        super().pause_writing()
        self.waits_since_s = self.loop.time()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._deadline is None:
            self.waits_since_s = None

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def _expect_request(self) -> None:
        self._stop_waiting()
        self.waits_since_s = self.loop.time()
        self._deadline = self.loop.call_later(REQUEST_LIMIT_S, self.drop)

    def _stop_waiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = self.waits_since_s = None


class SparingFilter(logging.Filter):
    """Lets a few lines of each kind pass in a while, and says with the next one how many it kept back."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: dict[object, tuple[float, int]] = {}  # kind -> since when (time.monotonic), lines since

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the line is written. Its kind is its text before values are put in."""
        now_s, kind = time.monotonic(), record.msg
        since_s, lines = self._seen.get(kind, (now_s, 0))
        if now_s - since_s >= SAME_LINES_S:
            if lines > SAME_LINES:
                record.msg = f"{record.msg} ({lines - SAME_LINES} more of this kind before)"
            since_s, lines = now_s, 0
        if len(self._seen) > 100:  # kinds are few, unless somebody puts values into the text
            self._seen.clear()
        self._seen[kind] = since_s, lines + 1
        return lines < SAME_LINES
