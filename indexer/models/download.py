"""Downloads one large file over HTTP into a ``.part`` file that a later call can resume.

Owns the network: ranges, validators, redirects, retries, limits and error messages. Checks the size of the file only,
follows redirects to http(s) only, and writes only the ``.part`` file and its record ``.part.json``, which says which
version of the file the part belongs to.
"""

import contextlib
import http.client
import re
import shutil
import socket
import ssl
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, cast

from indexer import __version__
from indexer.errors import ModelError
from indexer.models.records import megabytes, read_json, write_json, write_problem

Progress = Callable[[int, int | None], None]  # (bytes so far, total bytes)

TRIES = 5
BACKOFF_S = 1.0  # doubled after each try: 1, 2, 4, 8 s
LONGEST_WAIT_S = 60.0  # a longer Retry-After is cut to this
BLOCK_BYTES = 1 << 18
SLOWEST_BYTES_PER_S = 512  # a slower transfer counts as stalled
LARGEST_BYTES = 4 << 30
SPACE_PER_BYTE = 3.2  # disk space for each byte of the zip: the zip, the unpacked weights and their safetensors
SPARE_BYTES = 64 << 20  # disk space to leave free
_RETRY_CODES = frozenset({408, 425, 429, 500, 502, 503, 504})
_CONTENT_RANGE = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19})", re.ASCII)


class MissingError(ModelError):
    """The server has no such file."""


class _RetryError(Exception):
    """An attempt failed, and another may succeed after ``wait_s`` (None: the usual backoff)."""

    def __init__(self, reason: str, wait_s: float | None = None) -> None:
        super().__init__(reason)
        self.wait_s = wait_s


class _Response(http.client.HTTPResponse):
    """An answer whose head (status, headers, what comes before) arrives within twice the timeout; raises _RetryError.

    The socket's own timeout is for each read, so a server that sends a byte now and then, or interim answers for ever,
    would never meet it.
    """

    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self._socket = sock
        self._late = False

    def begin(self) -> None:
        limit_s = 2 * (self._socket.gettimeout() or 0.0)
        timer = threading.Timer(limit_s, self._break_off)
        timer.start()
        try:
            super().begin()
        except (OSError, http.client.HTTPException):
            if not self._late:
                raise
        finally:
            timer.cancel()
        if self._late:  # http.client takes the end of the connection for the end of the headers
            raise _RetryError(f"took longer than {limit_s:g} s to answer")

    def _break_off(self) -> None:
        self._late = True
        with contextlib.suppress(OSError):
            # Not SSLSocket.shutdown: that takes the connection away from under the thread that reads.
            socket.socket.shutdown(self._socket, socket.SHUT_RDWR)


def _punctual(connection_class: Callable[..., http.client.HTTPConnection]) -> Callable[..., http.client.HTTPConnection]:
    def connect(*args: Any, **kwargs: Any) -> http.client.HTTPConnection:
        connection = connection_class(*args, **kwargs)
        connection.response_class = _Response
        return connection

    return connect


class _Http(urllib.request.HTTPHandler):
    def do_open(self, http_class: Any, req: urllib.request.Request, **arguments: Any) -> Any:
        return super().do_open(_punctual(http_class), req, **arguments)


class _Https(urllib.request.HTTPSHandler):
    def do_open(self, http_class: Any, req: urllib.request.Request, **arguments: Any) -> Any:
        return super().do_open(_punctual(http_class), req, **arguments)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows at most ten redirects, to http(s) only and never from https to http."""

    def http_error_302(self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any) -> Any:
        fp.close()  # urllib would read the body to its end, and it may have none
        return super().http_error_302(req, fp, code, msg, headers)

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        scheme = urllib.parse.urlsplit(newurl).scheme
        if scheme not in ("http", "https") or (req.type == "https" and scheme != "https"):
            raise ModelError(f"{req.full_url} redirects to a {scheme or 'strange'} address, which is not followed")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener() -> urllib.request.OpenerDirector:
    # The default opener also opens ftp:, file: and data:.
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler,
        _Http,
        _Https,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPErrorProcessor,
        urllib.request.UnknownHandler,
        _Redirects,
    ):
        opener.add_handler(handler())
    return opener


def part_record(part: Path) -> Path:
    """Return the path of a part file's record: its URL, ETag, Last-Modified and full size."""
    return part.with_name(part.name + ".json")


def discard(part: Path) -> None:
    """Remove a part file and its record, or a folder of them."""
    if part.is_dir():
        shutil.rmtree(part, ignore_errors=True)
        return
    part.unlink(missing_ok=True)
    part_record(part).unlink(missing_ok=True)


def fetch(
    url: str,
    part: Path,
    *,
    progress: Progress | None = None,
    timeout_s: float = 30.0,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Download ``url`` into ``part``, continuing where an earlier call stopped.

    ``progress`` gets the bytes so far and the total. ``timeout_s`` limits each wait for the server, TRIES the number of
    requests. Raises ModelError where the server is unreachable, refuses or breaks off, and where the file is missing,
    too large or does not fit on the disk; the bytes so far then stay in ``part``, and the message says so.
    """
    if not url.startswith(("http://", "https://")):
        raise ModelError(f"{url} is not an http(s) address")
    if (read_json(part_record(part)) or {}).get("url") != url:
        discard(part)  # the part is of another file, or of an unknown one
    transfer = _Transfer(url, part, progress, timeout_s)
    try:
        _try_often(transfer, sleep)
    except ModelError as error:
        kept = transfer.have_bytes()
        if not kept:
            discard(part)
            raise
        raise ModelError(f"{error} ({megabytes(kept)} are kept in {part} and need not come again)") from error


def _try_often(transfer: "_Transfer", sleep: Callable[[float], None]) -> None:
    for attempt in range(1, TRIES + 1):
        try:
            transfer.attempt()
            return
        except _RetryError as error:
            if attempt == TRIES:
                raise ModelError(f"{transfer.url} {error}, {TRIES} times: run the same command again later") from error
            sleep(min(BACKOFF_S * 2 ** (attempt - 1) if error.wait_s is None else error.wait_s, LONGEST_WAIT_S))


class _Transfer:
    """The download of one URL into one part file; ``attempt`` is one request."""

    def __init__(self, url: str, part: Path, progress: Progress | None, timeout_s: float) -> None:
        self.url = url
        self.part = part
        self.progress = progress
        self.timeout_s = timeout_s
        self.reached = False  # the server has answered before, so a lost connection is retried

    def have_bytes(self) -> int:
        """Return the size of the part file, 0 where there is none."""
        try:
            return self.part.stat().st_size
        except OSError:
            return 0

    def attempt(self) -> None:
        """Request the missing bytes and append them; raises _RetryError or ModelError."""
        record = read_json(part_record(self.part)) or {}
        have = self.have_bytes()
        try:
            response = self._open(have, record)
        except urllib.error.HTTPError as error:
            with contextlib.closing(error):  # entering a closed one raises
                if error.code == 416 and have and self._is_whole(error.headers, have, record):
                    return
                self._refused(error, have)
        with response:
            start, total = self._check_answer(response, have, record)
            self._check_room(total, start)
            self._receive(response, start, total)

    def _open(self, have: int, record: dict[str, Any]) -> http.client.HTTPResponse:
        headers = {"User-Agent": f"edm-indexer/{__version__}", "Accept-Encoding": "identity"}
        if have:
            headers["Range"] = f"bytes={have}-"
            etag, modified = record.get("etag"), record.get("last_modified")
            # RFC 9110, 13.1.5: If-Range takes no weak ETag. Without a validator, size and digest are compared.
            validator = etag if isinstance(etag, str) and not etag.startswith("W/") else modified
            if isinstance(validator, str):
                headers["If-Range"] = validator
        try:
            request = urllib.request.Request(self.url, headers=headers)  # noqa: S310 -- the scheme was checked
            response = cast("http.client.HTTPResponse", _opener().open(request, timeout=self.timeout_s))
        except urllib.error.HTTPError:
            self.reached = True
            raise
        except urllib.error.URLError as error:
            raise self._unreachable(error.reason) from error
        except (OSError, http.client.HTTPException) as error:  # connected, but no valid answer came
            if isinstance(error, http.client.InvalidURL):
                raise ModelError(f"{self.url} is, or redirects to, no proper address") from error
            waited = f"sent nothing for {self.timeout_s:g} s"
            raise _RetryError(waited if isinstance(error, TimeoutError) else "broke the connection off") from error
        except ValueError as error:
            raise ModelError(f"{self.url} is, or redirects to, no proper address") from error
        self.reached = True
        return response

    def _unreachable(self, reason: object) -> Exception:
        if isinstance(reason, TimeoutError):
            return _RetryError(f"did not answer within {self.timeout_s:g} s")
        if self.reached and not isinstance(reason, ssl.SSLError):
            return _RetryError("could not be reached any more")
        if isinstance(reason, socket.gaierror):
            why = "no such host is known here: offline?"
        elif isinstance(reason, OSError):
            why = reason.strerror or type(reason).__name__
        else:
            why = str(reason)
        return ModelError(f"cannot reach {self.url} ({why}): download it elsewhere and run `indexer models add FILE`")

    def _refused(self, error: urllib.error.HTTPError, have: int) -> None:
        code = error.code
        if code == 416 and have:
            discard(self.part)
            raise _RetryError("refuses to go on with the part that is there", wait_s=0.0)
        if code in (404, 410):
            name = self.part.name.removesuffix(".zip.part")
            raise MissingError(f"{name} is not at {self.url}: see `indexer models list`")
        if 300 <= code < 400:
            raise ModelError(f"{self.url} redirects too often, or to something that is not http(s)")
        if code in _RETRY_CODES:
            asked = error.headers.get("Retry-After", "") if error.headers else ""
            raise _RetryError(f"answers {code}", wait_s=float(asked) if re.fullmatch(r"[0-9]{1,9}", asked) else None)
        raise ModelError(f"{self.url} answers {code}: download it elsewhere and run `indexer models add FILE`")

    @staticmethod
    def _is_whole(headers: Any, have: int, record: dict[str, Any]) -> bool:
        stated = headers.get("Content-Range") == f"bytes */{have}"
        return stated and record.get("total") == have and not _changed(headers, record)

    def _check_answer(self, response: http.client.HTTPResponse, have: int, record: dict[str, Any]) -> tuple[int, int]:
        """Return (offset of the first byte that comes, full size); a transfer from 0 writes a new record.

        Raises _RetryError where the server has another version than the part, ModelError for any other answer.
        """
        headers = response.headers
        if headers.get_content_type() in ("text/html", "application/xhtml+xml"):
            raise ModelError(f"{self.url} is a web page, not a checkpoint (a sign-in page of this network?)")
        # Nothing is unpacked, and no chunks are put together: the line before one may come a byte at a time, for ever.
        plain = headers.get("Content-Encoding", "identity") == "identity" and "Transfer-Encoding" not in headers
        if response.status == 206:
            found = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", ""))
            first, last, total = (int(number) for number in found.groups()) if found else (-1, -1, 0)
            fits = first == have > 0 and last == total - 1 and record.get("total") == total
            if not fits or not plain or _changed(headers, record):
                discard(self.part)
                raise _RetryError("has another file now than the part that is there", wait_s=0.0)
        elif response.status == 200:
            length = headers.get("Content-Length", "")
            if not plain or not re.fullmatch(r"[0-9]{1,19}", length):
                raise ModelError(
                    f"{self.url} does not say how large the file is: download it elsewhere and "
                    "run `indexer models add FILE`"
                )
            first, total = 0, int(length)
        else:
            raise ModelError(f"{self.url} answers {response.status}, which is no file")
        if not 0 < total <= LARGEST_BYTES:
            raise ModelError(f"{self.url} claims {megabytes(total)}: no checkpoint has that size")
        if first == 0:
            seen = {"etag": headers.get("ETag"), "last_modified": headers.get("Last-Modified")}
            self._begin({"url": self.url, "total": total, **seen})
        return first, total

    def _begin(self, record: dict[str, Any]) -> None:
        try:
            self.part.parent.mkdir(parents=True, exist_ok=True)
            # Emptied before the record changes, so that no record ever describes bytes of another version.
            self.part.write_bytes(b"")
            write_json(part_record(self.part), record)
        except OSError as error:
            raise write_problem(self.part, error) from error

    def _check_room(self, total: int, have: int) -> None:
        wanted = int(total * SPACE_PER_BYTE) - have + SPARE_BYTES
        free = shutil.disk_usage(self.part.parent).free
        if free < wanted:
            raise ModelError(
                f"{self.part.parent} has {megabytes(free)} free, {megabytes(wanted)} are needed to download and "
                "convert it: free some space and run the same command again"
            )

    def _receive(self, response: http.client.HTTPResponse, start: int, total: int) -> None:
        done = start
        window_start_s, window_bytes = time.monotonic(), 0
        # Unbuffered, so that a killed process loses no bytes that were received.
        with contextlib.closing(_open_part(self.part)) as file:
            while done < total:
                block = self._read(response, min(BLOCK_BYTES, total - done), done, total)
                _write_all(file, block, self.part)
                done += len(block)
                window_bytes += len(block)
                if self.progress:
                    self.progress(done, total)
                window_s = time.monotonic() - window_start_s
                if window_s > self.timeout_s:
                    if window_bytes < SLOWEST_BYTES_PER_S * window_s and done < total:
                        raise _RetryError(f"sends less than {SLOWEST_BYTES_PER_S} bytes a second")
                    window_start_s, window_bytes = time.monotonic(), 0

    def _read(self, response: http.client.HTTPResponse, size: int, done: int, total: int) -> bytes:
        try:
            block = response.read1(size)
        except TimeoutError as error:
            raise _RetryError(f"sent nothing for {self.timeout_s:g} s") from error
        except (OSError, http.client.HTTPException) as error:
            raise _RetryError(f"broke off at {megabytes(done)} of {megabytes(total)}") from error
        if not block:
            raise _RetryError(f"broke off at {megabytes(done)} of {megabytes(total)}")
        return block


def _changed(headers: Any, record: dict[str, Any]) -> bool:
    """Return whether an answer is of another version of the file than the record; missing headers are not compared."""
    pairs = ((headers.get("ETag"), record.get("etag")), (headers.get("Last-Modified"), record.get("last_modified")))
    return any(now is not None and then is not None and now != then for now, then in pairs)


def _open_part(part: Path) -> IO[bytes]:
    try:
        return cast("IO[bytes]", part.open("ab", buffering=0))
    except OSError as error:
        raise write_problem(part, error) from error


def _write_all(file: IO[bytes], block: bytes, part: Path) -> None:
    left = memoryview(block)  # an unbuffered write may write only a part
    try:
        while left:
            left = left[file.write(left) :]
    except OSError as error:
        raise write_problem(part, error) from error
