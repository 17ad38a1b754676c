"""Classification while you wait: an upload becomes genre, confidences and timeline, and nothing is stored.

Owns the reception of an upload (limits, temporary file, queue) and the answers. The work is done by a process of its
own (indexer.listen.classify_process), which parses in a child process; this one never looks into a file.
"""

import asyncio
import errno
import fcntl
import itertools
import json
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from datasette.utils.asgi import Response
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from indexer import config
from indexer.config import Settings
from indexer.errors import IndexerError
from indexer.web.context import page, settings_of
from indexer.web.guard import STRICT_POLICY
from indexer.wording import printable

MAX_UPLOAD_BYTES = 500 * 1024 * 1024
MAX_UPLOADS = 8  # being received, waiting or in work, in the whole server
RETRY_AFTER_S = 20
UPLOAD_PREFIX = ".indexer-upload-"
STALL_LIMIT_S, STALL_BYTES = (
    60.0,
    64 * 1024,
)  # an upload that brings less in this time is dropped: a byte now and then holds no place
SILENCE_LIMIT_S = (
    300.0  # of the classifying process while somebody waits for it; loading a large model from a slow disk takes long
)
_STATUS = {"file": 422, "model": 409, "cancelled": 499, "died": 500}


class UploadError(Exception):
    """An upload that is refused: HTTP status and a line for a person."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


class Classifier:
    """The classifying process, seen from here: started when needed, replaced when it died."""

    def __init__(self, settings: Settings) -> None:
        self.uploads = 0
        self._settings = settings
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None
        self._waiting: dict[int, tuple[dict[str, Any], asyncio.Queue[dict[str, Any]]]] = {}
        self._numbers = itertools.count(1)
        self._starting = asyncio.Lock()
        self._heard_s = 0.0  # when the process last said or was told anything, by time.monotonic

    @contextmanager
    def place(self) -> Iterator[None]:
        """One of the places for uploads. Raises UploadError when all are taken."""
        if self.uploads >= MAX_UPLOADS:
            raise UploadError(503, f"{MAX_UPLOADS} uploads are being worked on; try again in a moment")
        self.uploads += 1
        try:
            yield
        finally:
            self.uploads -= 1

    async def news(self, path: str, name: str) -> AsyncIterator[dict[str, Any]]:
        """{progress, heard_s} until {result} or {error, kind}. Closing it early cancels the order."""
        number = next(self._numbers)
        told: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        order = {"id": number, "path": path, "name": name}
        self._waiting[number] = (order, told)
        finished = False
        try:
            await self._send(order)
            while not finished:
                try:
                    message = await asyncio.wait_for(told.get(), SILENCE_LIMIT_S)
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
                self._process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    "-m",
                    "indexer.listen.classify_process",
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE,
                    limit=1 << 26,
                )
                self._reader = asyncio.create_task(self._read(self._process))
                self._write(config.to_json(self._settings))
            self._write(message)
            if "cancel" not in message:
                self._heard_s = time.monotonic()

    def _end_if_silent(self) -> None:
        """A device that hangs must not close the page for ever; behind somebody else's long recording one waits."""
        if self._process is not None and time.monotonic() - self._heard_s >= SILENCE_LIMIT_S:
            with suppress(ProcessLookupError):
                self._process.kill()

    def _write(self, message: dict[str, Any]) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(message).encode("ascii") + b"\n")

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        while line := await process.stdout.readline():
            message = json.loads(line)
            self._heard_s = time.monotonic()
            _, told = self._waiting.get(message.pop("id"), (None, None))
            if told is not None:
                told.put_nowait(message)
        left_by_itself = await process.wait() == 0
        self._process = None
        orders = list(self._waiting.values())  # the first was in work, unless the process left for want of any
        if orders and not left_by_itself:
            _, told = orders.pop(0)
            told.put_nowait({"error": "the classifying process ended in the middle; try again", "kind": "died"})
        for order, _ in orders:
            await self._send(order)


def classifier_of(datasette: Any) -> Classifier:
    """The one of this server."""
    found: Classifier | None = getattr(datasette, "indexer_classifier", None)
    if found is None:
        settings = settings_of(datasette)
        assert settings is not None
        found = datasette.indexer_classifier = Classifier(settings)
    return found


# ---- receiving


async def receive_upload(headers: Any, receive: Any, out: IO[bytes]) -> str:
    """Write an upload (part ``file`` of a form, or the whole body) to a file; return its name. Raises UploadError."""
    kind, options = parse_options_header(headers.get("content-type", ""))
    try:
        sink = (
            _Form(options[b"boundary"], out)
            if kind == b"multipart/form-data" and b"boundary" in options
            else _Body(out)
        )
    except FormParserError:
        raise UploadError(400, "the form cannot be read") from None
    received = counted = 0
    until_s = time.monotonic() + STALL_LIMIT_S
    more = True
    while more:
        try:
            message = await asyncio.wait_for(receive(), until_s - time.monotonic())
        except TimeoutError:
            raise UploadError(
                408, f"nothing came for {STALL_LIMIT_S:.0f} s, or next to nothing; the upload was dropped"
            ) from None
        if message["type"] == "http.disconnect":
            raise UploadError(499, "the client went away")
        received += len(message.get("body", b""))
        if received - counted >= STALL_BYTES:
            counted, until_s = received, time.monotonic() + STALL_LIMIT_S
        if received > MAX_UPLOAD_BYTES + (1 << 20):  # with the form around it
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
    """The whole body is the file."""

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
    """A file that vanishes with this process, whatever happens to it: where the system allows it has no name.

    Beside the library, for a folder of temporary files is often memory.
    """
    if Path("/proc/self/fd").exists():
        return tempfile.TemporaryFile(dir=settings.db.parent)
    for left in settings.db.parent.glob(f"{UPLOAD_PREFIX}*"):
        with (
            suppress(OSError),
            left.open("rb") as file,
        ):  # elsewhere a server that was killed leaves its own, which nobody locks any more
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            left.unlink()
    made = tempfile.NamedTemporaryFile(dir=settings.db.parent, prefix=UPLOAD_PREFIX)  # noqa: SIM115 - the caller closes it
    fcntl.flock(made, fcntl.LOCK_EX)
    return made


def path_of(file: IO[bytes]) -> str:
    """How another process of ours opens a temporary file."""
    return str(file.name) if isinstance(file.name, str) else f"/proc/{os.getpid()}/fd/{file.fileno()}"


# ---- answers


async def classify_json(request: Any, datasette: Any, receive: Any, send: Any) -> Any:
    """POST `/-/classify.json` with a file: {genre, confidence, decided, scores, timeline, ...}, or {error} with status.

    For `application/x-ndjson` it sends {progress, heard_s} lines first; progress is null where the file states no
    length.
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
            news = _until_gone(classifier.news(path_of(file), name), receive)
            if "application/x-ndjson" in request.headers.get("accept", ""):
                await _stream(news, send)
                return None
            told = [message async for message in news]
            return _answer(told[-1] if told else {"error": "the client went away", "kind": "cancelled"})
    except UploadError as e:
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


async def _stream(news: AsyncIterator[dict[str, Any]], send: Any) -> None:
    headers = [(b"content-type", b"application/x-ndjson; charset=utf-8"), (b"cache-control", b"no-store")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    async for message in news:
        await send({"type": "http.response.body", "body": json.dumps(message).encode() + b"\n", "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def _until_gone(news: Any, receive: Any) -> AsyncIterator[dict[str, Any]]:
    """The news, until the client goes away: then its order is cancelled."""
    gone = asyncio.create_task(receive())
    try:
        while True:
            following = asyncio.ensure_future(anext(news, None))
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
        await news.aclose()


def lacking(settings: Settings) -> str | None:
    """One line that says what is missing for genres; None where nothing is."""
    from indexer.listen.classify import chosen_model  # knows the pipeline, so not at import time

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
