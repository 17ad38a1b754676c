"""Receives the bodies of requests: none too large, none too slow.

Uploads stream through; every other body is small and is read whole before a page sees the request.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

Receive = Callable[[], Awaitable[dict[str, Any]]]

MAX_BYTES = 1 << 20  # a label, a list of tracks; indexer.web.classify limits uploads itself
FREE_S, MIN_BYTES_PER_S = 10.0, 32 * 1024  # a client may keep us waiting as long, and a second more for as many bytes
STREAMED = "/-/classify.json"


class BodyError(Exception):
    """A body that is refused: HTTP status and a line for a person."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


def paced(receive: Receive) -> Receive:
    """Receive as before, but raise BodyError once the body came too slowly; only waiting for the client counts."""
    received, waited_s, more = 0, 0.0, True

    async def receive_in_time() -> dict[str, Any]:
        nonlocal received, waited_s, more
        if not more:  # what comes now is the client's going away
            return await receive()
        began_s = time.monotonic()
        try:
            message = await asyncio.wait_for(receive(), max(0.0, FREE_S + received / MIN_BYTES_PER_S - waited_s))
        except TimeoutError:
            raise BodyError(408, f"it came more slowly than {MIN_BYTES_PER_S >> 10} kB a second") from None
        waited_s += time.monotonic() - began_s
        received += len(message.get("body", b""))
        more = bool(message.get("more_body"))
        return message

    return receive_in_time


async def received(path: str, headers: dict[str, str], receive: Receive) -> Receive:
    """What a page receives a body from. Raises BodyError for one that is too large or too slow."""
    receive = paced(receive)
    # Where a cookie comes without the token in a header, Datasette looks for the token in the body and keeps all of it.
    if path == STREAMED and ("cookie" not in headers or "x-csrftoken" in headers):
        return receive
    body, more = bytearray(), True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            raise BodyError(499, "the client went away")
        body += message.get("body", b"")
        more = bool(message.get("more_body"))
        if len(body) > MAX_BYTES:
            raise BodyError(413, f"larger than {MAX_BYTES >> 20} MB")
    whole: list[dict[str, Any]] = [{"type": "http.request", "body": bytes(body), "more_body": False}]

    async def receive_whole() -> dict[str, Any]:
        return whole.pop() if whole else await receive()

    return receive_whole
