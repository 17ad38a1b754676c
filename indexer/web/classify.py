"""Classifies an upload while the client waits: genre, confidences and timeline. Nothing is stored.

Owns the reception of an upload (limits, temporary file, queue) and the answers. Another process
(indexer.listen.classify_process) does the work, and has a child process parse the file; this one never looks into it.
"""

import asyncio
import errno
import fcntl
import itertools
import json
import os
import tempfile
import time
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from datasette.utils.asgi import Response
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from indexer.config import Settings
from indexer.errors import IndexerError
from indexer.web import child
from indexer.web.bodies import BodyError
from indexer.web.context import page, settings_of
from indexer.web.guard import STRICT_POLICY
from indexer.wording import printable

MAX_UPLOAD_BYTES = 500 * 1024 * 1024
MAX_UPLOADS = 8  # received, waiting or being classified at once, in the whole server
RETRY_AFTER_S = 20
UPLOAD_PREFIX = ".indexer-upload-"
# The classifying process is killed after this silence with an order; it may load a large model from a slow disk.
SILENCE_LIMIT_S = 300.0
_STATUS = {"file": 422, "model": 409, "cancelled": 499, "died": 500}


class UploadError(BodyError):
    """An upload that is refused: HTTP status and a line for a person."""


class Classifier:
    """The server's side of the classifying process: starts it when needed, and replaces it when it died."""

    def __init__(self, settings: Settings) -> None:
        self.uploads = 0
        self._settings = settings
        self._process: Process | None = None
        self._reader: asyncio.Task[None] | None = None
        self._waiting: dict[int, tuple[dict[str, Any], asyncio.Queue[dict[str, Any]]]] = {}
        self._numbers = itertools.count(1)
        self._starting = asyncio.Lock()
        self._heard_s = 0.0  # time.monotonic of the last message from the process or order to it

    @contextmanager
    def place(self) -> Iterator[None]:
        """Hold one of the places for uploads. Raises UploadError when all are taken."""
        if self.uploads >= MAX_UPLOADS:
            raise UploadError(503, f"{MAX_UPLOADS} uploads are being worked on; try again in a moment")
        self.uploads += 1
        try:
            yield
        finally:
            self.uploads -= 1

    async def messages(self, path: str, name: str) -> AsyncIterator[dict[str, Any]]:
        """Order a file; yield {progress, heard_s} until {result} or {error, kind}. Closing early cancels the order."""
        number = next(self._numbers)
        inbox: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        order = {"id": number, "path": path, "name": name}
        self._waiting[number] = (order, inbox)
        finished = False
        try:
            await self._send(order)
            while not finished:
                try:
                    message = await asyncio.wait_for(inbox.get(), SILENCE_LIMIT_S)
                except TimeoutError:
                    self._end_if_silent()
                    continue
                finished = "progress" not in message
                yield message
        finally:
            del self._waiting[number]
            if not finished:
                with suppress(OSError):
                    await self._send({"cancel": number})

    async def _send(self, message: dict[str, Any]) -> None:
        async with self._starting:
            if self._process is None:
                if "cancel" in message:
                    return
                self._process = await child.start(
                    "indexer.listen.classify_process", self._settings, longest_answer=1 << 26
                )
                self._reader = asyncio.create_task(self._read(self._process))
            child.send(self._process, message)
            if "cancel" not in message:
                self._heard_s = time.monotonic()

    def _end_if_silent(self) -> None:
        """Kill a process that hangs, so that the page works again; one that works on another order sends messages."""
        if self._process is not None and time.monotonic() - self._heard_s >= SILENCE_LIMIT_S:
            child.kill(self._process)

    async def _read(self, process: Process) -> None:
        assert process.stdout is not None
        while line := await process.stdout.readline():
            message = json.loads(line)
            self._heard_s = time.monotonic()
            _, inbox = self._waiting.get(message.pop("id"), (None, None))
            if inbox is not None:
                inbox.put_nowait(message)
        ended_by_itself = await process.wait() == 0
        self._process = None
        orders = list(self._waiting.values())  # the process worked on the first, unless it ended by itself
        if orders and not ended_by_itself:
            _, inbox = orders.pop(0)
            inbox.put_nowait({"error": "the classifying process ended in the middle; try again", "kind": "died"})
        for order, _ in orders:
            await self._send(order)


def classifier_of(datasette: Any) -> Classifier:
    """The classifier of this server, made at the first call."""
    found: Classifier | None = getattr(datasette, "indexer_classifier", None)
    if found is None:
        settings = settings_of(datasette)
        assert settings is not None
        found = datasette.indexer_classifier = Classifier(settings)
    return found


# ---- receiving


async def receive_upload(headers: Any, receive: Any, out: IO[bytes]) -> str:
    """Write an upload (part ``file`` of a form, or the whole body) to a file; return its name. Raises BodyError."""
    kind, options = parse_options_header(headers.get("content-type", ""))
    try:
        sink = (
            _Form(options[b"boundary"], out)
            if kind == b"multipart/form-data" and b"boundary" in options
            else _Body(out)
        )
    except FormParserError:
        raise UploadError(400, "the form cannot be read") from None
    received = 0
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise UploadError(499, "the client went away")
        received += len(message.get("body", b""))
        if received > MAX_UPLOAD_BYTES + (1 << 20):  # the form around the file counts too
            raise UploadError(413, f"larger than {MAX_UPLOAD_BYTES >> 20} MB")
        more = message.get("more_body", False)
        try:
            await asyncio.to_thread(sink.push, message.get("body", b""))
        except FormParserError:
            raise UploadError(400, "the form cannot be read") from None
        except OSError as e:
            raise UploadError(
                507, "the disk is full" if e.errno == errno.ENOSPC else f"the upload cannot be kept ({e.strerror})"
            ) from e
    if out.tell() == 0:
        raise UploadError(400, "no file came: send it as the field `file` of a form, or as the body")
    if out.tell() > MAX_UPLOAD_BYTES:
        raise UploadError(413, f"larger than {MAX_UPLOAD_BYTES >> 20} MB")
    out.flush()
    return sink.name


class _Body:
    """A request whose whole body is the file."""

    name = "upload"

    def __init__(self, out: IO[bytes]) -> None:
        self._out = out

    def push(self, piece: bytes) -> None:
        self._out.write(piece)


class _Form:
    """A form whose part ``file`` is the file; other parts are ignored, a second file is refused."""

    def __init__(self, boundary: bytes, out: IO[bytes]) -> None:
        self.name = "upload"
        self._out = out
        self._field = self._value = b""
        self._headers: dict[bytes, bytes] = {}
        self._is_file = False
        self._files = 0
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_header_field": self._on_field,
                "on_header_value": self._on_value,
                "on_header_end": self._header,
                "on_headers_finished": self._body,
                "on_part_data": self._data,
            },
        )

    def push(self, piece: bytes) -> None:
        self._parser.write(piece)

    def _begin(self) -> None:
        self._headers = {}

    def _on_field(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def _on_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header(self) -> None:
        self._headers[self._field.lower()] = self._value
        self._field = self._value = b""

    def _body(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        self._is_file = b"filename" in options
        if self._is_file:
            self._files += 1
            if self._files > 1:
                raise UploadError(400, "one file a request, please")
            self.name = printable(options[b"filename"])[:300] or "upload"

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._is_file:
            self._out.write(data[start:end])


def temporary_file(settings: Settings) -> IO[bytes]:
    """A file that vanishes when this process ends in any way: where the system allows, it has no name.

    It lies beside the library, because the system's folder for temporary files is often in memory.
    """
    if Path("/proc/self/fd").exists():
        return tempfile.TemporaryFile(dir=settings.db.parent)
    # Elsewhere the file has a name, and a killed server leaves it behind, no longer locked.
    for left in settings.db.parent.glob(f"{UPLOAD_PREFIX}*"):
        with suppress(OSError), left.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            left.unlink()
    made = tempfile.NamedTemporaryFile(dir=settings.db.parent, prefix=UPLOAD_PREFIX)  # noqa: SIM115 - the caller closes it
    fcntl.flock(made, fcntl.LOCK_EX)
    return made


def path_of(file: IO[bytes]) -> str:
    """The path by which another of our processes opens a temporary file."""
    return str(file.name) if isinstance(file.name, str) else f"/proc/{os.getpid()}/fd/{file.fileno()}"


# ---- answers


async def classify_json(request: Any, datasette: Any, receive: Any, send: Any) -> Any:
    """POST `/-/classify.json` with a file: {genre, confidence, decided, scores, timeline, ...}, or {error} with status.

    A client that accepts `application/x-ndjson` gets lines of {progress, heard_s} first; progress is null where the
    file states no length.
    """
    if request.method != "POST":
        return Response.json({"error": "POST a file"}, status=405, headers={"allow": "POST"})
    classifier = classifier_of(datasette)
    settings = settings_of(datasette)
    assert settings is not None
    try:
        if reason := await asyncio.to_thread(lacking, settings):
            raise UploadError(409, reason)  # before anything is uploaded
        with classifier.place(), temporary_file(settings) as file:
            name = await receive_upload(request.headers, receive, file)
            messages = _until_disconnect(classifier.messages(path_of(file), name), receive)
            if "application/x-ndjson" in request.headers.get("accept", ""):
                await _stream(messages, send)
                return None
            received = [message async for message in messages]
            return _answer(received[-1] if received else {"error": "the client went away", "kind": "cancelled"})
    except BodyError as e:
        return Response.json(
            {"error": e.reason},
            status=e.status,
            headers={"retry-after": str(RETRY_AFTER_S)} if e.status == 503 else None,
        )
    except OSError as e:
        return Response.json({"error": f"the upload cannot be kept ({e.strerror})"}, status=507)


def _answer(message: dict[str, Any]) -> Any:
    if "result" in message:
        return Response.json(message["result"])
    return Response.json({"error": message.get("error", "cancelled")}, status=_STATUS[message.get("kind", "cancelled")])


async def _stream(messages: AsyncIterator[dict[str, Any]], send: Any) -> None:
    headers = [(b"content-type", b"application/x-ndjson; charset=utf-8"), (b"cache-control", b"no-store")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    async for message in messages:
        await send({"type": "http.response.body", "body": json.dumps(message).encode() + b"\n", "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def _until_disconnect(messages: Any, receive: Any) -> AsyncIterator[dict[str, Any]]:
    """Yield the messages until the client goes away, which cancels its order."""
    gone = asyncio.create_task(receive())
    try:
        while True:
            following = asyncio.ensure_future(anext(messages, None))
            await asyncio.wait({following, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not following.done():
                following.cancel()
                with suppress(asyncio.CancelledError):
                    await following
                return
            message = following.result()
            if message is None:
                return
            yield message
    finally:
        gone.cancel()
        await messages.aclose()


def lacking(settings: Settings) -> str | None:
    """One line that says why no genres can be given; None when they can."""
    from indexer.listen.classify import chosen_model  # imports the pipeline, so not at the top

    try:
        chosen_model(settings)
    except IndexerError as e:
        return str(e)
    return None


async def classify_page(request: Any, datasette: Any) -> Any:
    """`/-/classify`: choose or drop files."""
    settings = settings_of(datasette)
    assert settings is not None
    shown = await page(
        datasette,
        request,
        "classify.html",
        {"lacking": await asyncio.to_thread(lacking, settings), "max_mb": MAX_UPLOAD_BYTES >> 20},
    )
    shown.headers["content-security-policy"] = STRICT_POLICY
    return shown


MENU = ("Classify", "/-/classify")
ROUTES = [(r"/-/classify$", classify_page), (r"/-/classify\.json$", classify_json)]
