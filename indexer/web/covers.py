"""The covers of tracks: a small JPEG of the picture in a file's tags, by the track's number.

Owns the reader process that finds and shrinks them, and the covers that are kept in memory. A picture is hostile input:
this process never looks into one, and what a browser gets is an image that the reader made, never the picture itself.
"""

import asyncio
import os
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from datasette.utils.asgi import Response

from indexer.errors import FileError
from indexer.files.children.limits import Limits
from indexer.files.children.worker import Worker
from indexer.web.sound import open_track

SIDES_PX = {"small": 112, "large": 640}  # twice what the pages show, for dense screens
KEPT_BYTES = 24 << 20
KEPT_COUNT = 20_000  # also counts tracks that have no cover
STALL_LIMIT_S = 10.0  # a picture that takes longer is none
IDLE_S = 60.0  # then the reader ends
FRESH_S = 3600  # a browser asks no earlier whether a cover changed

_Key = tuple[bytes, int, int, int]  # path, mtime_ns and size of the file, side in pixels
_NO_COVER = b""


class Covers:
    """Makes covers, one after the other, and keeps those asked for lately."""

    def __init__(self) -> None:
        self._worker = Worker(Limits(audio_s=0.0, cpu_s=STALL_LIMIT_S), stall_limit_s=STALL_LIMIT_S)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="covers")  # a Worker belongs to one thread
        self._kept: OrderedDict[_Key, bytes] = OrderedDict()
        self._kept_bytes = 0
        self._end: asyncio.TimerHandle | None = None

    async def of(self, key: _Key) -> bytes:
        """The JPEG; empty where the file has no picture that can be opened."""
        loop = asyncio.get_running_loop()
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        if self._end is not None:
            self._end.cancel()
        made = await loop.run_in_executor(self._thread, self._make, key)
        self._end = loop.call_later(IDLE_S, self._thread.submit, self._worker.close)
        self._keep(key, made)
        return made

    def _make(self, key: _Key) -> bytes:
        if key in self._kept:  # asked for twice at once
            return self._kept[key]
        path, _, _, side_px = key
        try:
            return self._worker.picture(path, side_px=side_px) or _NO_COVER
        except FileError:
            return _NO_COVER

    def _keep(self, key: _Key, made: bytes) -> None:
        if key not in self._kept:
            self._kept_bytes += len(made)
        self._kept[key] = made
        while self._kept_bytes > KEPT_BYTES or len(self._kept) > KEPT_COUNT:
            _, dropped = self._kept.popitem(last=False)
            self._kept_bytes -= len(dropped)


covers = Covers()


async def cover(request: Any, datasette: Any) -> Any:
    """GET `/-/cover/<id>?size=small|large`: a JPEG; 204 where the file has no picture that can be opened."""
    if request.method not in ("GET", "HEAD"):
        return Response.text("only to be read", status=405, headers={"allow": "GET, HEAD"})
    side_px = SIDES_PX.get(request.args.get("size") or "large")
    if side_px is None:
        return Response.text(f"size is one of {', '.join(SIDES_PX)}", status=400)
    try:
        handle, found = await open_track(datasette, request.url_vars["id"])
    except FileNotFoundError as e:
        return Response.text(str(e), status=404)
    try:
        stat = os.fstat(handle)
    finally:
        os.close(handle)
    tag = f'"{stat.st_mtime_ns:x}-{stat.st_size:x}-{side_px}"'
    headers = {
        "etag": tag,
        "cache-control": f"private, max-age={FRESH_S}",
        "content-security-policy": "sandbox; default-src 'none'",
    }
    if request.headers.get("if-none-match") == tag:
        return Response(b"", status=304, headers=headers)
    made = await covers.of((found["path"], stat.st_mtime_ns, stat.st_size, side_px))
    if not made:
        return Response(b"", status=204, headers=headers)
    return Response(made, headers=headers, content_type="image/jpeg")


ROUTES = [(r"/-/cover/(?P<id>[^/]+)$", cover)]
