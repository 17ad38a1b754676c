"""Sends the sound of a track to a player in the browser: by its id, in ranges, and only from music folders.

Owns the opening of a music file for the web (read-only, no symbolic link on the way, a regular file) and HTTP ranges.
"""

import asyncio
import os
import re
from typing import Any

from datasette.utils.asgi import Response

from indexer.files.containers import media_type
from indexer.files.links import is_in, open_file
from indexer.web.context import number, rows

PIECE_BYTES = 1 << 18
_RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})$")


async def sound(request: Any, datasette: Any, send: Any) -> Any:
    """GET `/-/sound/<id>`: the file's bytes, whole or one range of them."""
    if request.method not in ("GET", "HEAD"):
        return Response.text("only to be read", status=405, headers={"allow": "GET, HEAD"})
    try:
        handle, found = await open_track(datasette, request.url_vars["id"])
    except FileNotFoundError as e:
        return Response.text(str(e), status=404)
    try:
        stat = os.fstat(handle)
        tag = f'"{stat.st_mtime_ns:x}-{stat.st_size:x}"'
        asked = request.headers.get("range") if request.headers.get("if-range", tag) == tag else None
        wanted = parse_range(asked, stat.st_size)
        headers = {
            "content-type": media_type(found["container"]),
            "accept-ranges": "bytes",
            "etag": tag,
            "cache-control": "private, no-cache",
            "content-security-policy": "sandbox; default-src 'none'",
        }
        if wanted is None:
            return Response.text(
                "that range is not in the file", status=416, headers={"content-range": f"bytes */{stat.st_size}"}
            )
        start, end = wanted
        if asked and (start, end) != (0, stat.st_size):
            headers["content-range"] = f"bytes {start}-{end - 1}/{stat.st_size}"
        status = 206 if "content-range" in headers else 200
        headers["content-length"] = str(end - start)
        await send(
            {
                "type": "http.response.start",
                "status": status,
                "headers": [(k.encode(), v.encode()) for k, v in headers.items()],
            }
        )
        await _send_bytes(send, handle, start, start if request.method == "HEAD" else end)
    finally:
        os.close(handle)
    return None


async def _send_bytes(send: Any, handle: int, start: int, end: int) -> None:
    while start < end:
        piece = await asyncio.to_thread(os.pread, handle, min(PIECE_BYTES, end - start), start)
        if not piece:  # the file became shorter: the answer ends before its stated length, which a player reports
            return
        start += len(piece)
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def open_track(datasette: Any, file_id: str) -> tuple[int, dict[str, Any]]:
    """Open the file of a track for reading; returns its handle, and {root, path, container} of it.

    Raises FileNotFoundError with a line for a person: for a number that no track has, and for a file that is not there,
    lies in no music folder or is reached through a link.
    """
    found = await rows(
        datasette,
        "SELECT f.path, f.container, o.path AS root FROM files f JOIN roots o ON o.id = f.root_id WHERE f.id = ?",
        [number(file_id)],
    )
    if not found:
        raise FileNotFoundError("no track with this number lies inside a music folder")
    try:
        return await asyncio.to_thread(open_inside, found[0]["root"], found[0]["path"]), found[0]
    except OSError:
        raise FileNotFoundError("the file is not there just now") from None


def open_inside(root: bytes, path: bytes) -> int:
    """Open a file below a root, without following any link. Raises OSError otherwise."""
    if not is_in(path, root) or b".." in path.split(b"/"):
        raise FileNotFoundError(path)
    return open_file(path)


def parse_range(header: str | None, size: int) -> tuple[int, int] | None:
    """The half-open range of bytes that a Range header (RFC 9110, 14.1) asks of ``size`` bytes; None: it lies outside.

    Without a header, or with one that asks for several ranges or cannot be parsed, it is the whole file.
    """
    match = _RANGE.match(header.strip()) if header else None
    if match is None or not any(match.groups()):
        return 0, size
    first, last = match.groups()
    if not first:  # the last so many bytes
        return (max(0, size - int(last)), size) if int(last) and size else None
    start, end = int(first), min(size, int(last) + 1 if last else size)
    return (start, end) if start < end else None


ROUTES = [(r"/-/sound/(?P<id>[^/]+)$", sound)]
