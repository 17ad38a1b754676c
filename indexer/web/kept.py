"""Keeps what is costly to count, such as a row of every file: for a while, and made for one request at a time."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

KEPT_TIMES = 20  # what took a second is shown for 20 s: at most a twentieth of the time goes into it
_T = TypeVar("_T")


class Kept(Generic[_T]):
    """One such value."""

    def __init__(self, make: Callable[[], Awaitable[_T]]) -> None:
        self._make = make
        self._lock = asyncio.Lock()
        self._until_s = float("-inf")
        self._found: _T

    async def value(self) -> _T:
        """The value, made anew where the last one is too old."""
        async with self._lock:
            asked_s = time.monotonic()
            if asked_s > self._until_s:
                self._found = await self._make()
                answered_s = time.monotonic()
                self._until_s = answered_s + KEPT_TIMES * (answered_s - asked_s)
            return self._found
