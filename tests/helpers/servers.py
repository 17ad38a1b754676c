"""A real HTTP server on this machine that serves files, resumes them, and misbehaves when told to."""

import contextlib
import hashlib
import http.server
import os
import threading
from collections.abc import Callable, Iterator


class Server(http.server.ThreadingHTTPServer):
    """Serves `files` with ranges and ETags; `script` holds what the next requests get instead."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.script: list[Callable[[Handler], None]] = []
        self.seen: list[dict[str, str]] = []
        self.body_bytes = 0
        self.etags = True
        self.closing = threading.Event()

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request, client_address) -> None:
        """No traceback for clients that hang up: these tests do that on purpose."""


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_args) -> None:
        pass

    def do_GET(self) -> None:
        self.server.seen.append({key.lower(): value for key, value in self.headers.items()})
        if self.server.script:
            self.server.script.pop(0)(self)
        elif self.path in self.server.files:
            serve(self)
        else:
            self.send_error(404)

    def reply(self, status: int, headers: dict[str, object], body: bytes = b"") -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, str(value))
        self.end_headers()
        self.push(body)

    def push(self, body: bytes) -> None:
        self.server.body_bytes += len(body)  # first: the client may be done before this thread goes on
        self.wfile.write(body)


def serve(handler: Handler, *, ranges: bool = True, upto: int | None = None, if_range: bool = True, **more) -> None:
    """Answer as a good server does, except for what the arguments ask."""
    whole = handler.server.files[handler.path]
    etag = '"' + hashlib.md5(whole).hexdigest() + '"'
    headers: dict[str, object] = {"Content-Type": "application/octet-stream"}
    if handler.server.etags:
        headers["ETag"] = etag
    wanted = handler.headers.get("Range")
    unchanged = not if_range or handler.headers.get("If-Range", etag) == etag
    if wanted and ranges and unchanged:
        start = int(wanted.removeprefix("bytes=").removesuffix("-"))
        if start >= len(whole):
            handler.reply(416, headers | {"Content-Range": f"bytes */{len(whole)}", "Content-Length": 0})
            return
        headers["Content-Range"] = f"bytes {start}-{len(whole) - 1}/{len(whole)}"
        headers["Content-Length"] = len(whole) - start
        handler.reply(206, headers | more, whole[start:upto])
    else:
        handler.reply(200, headers | {"Content-Length": len(whole)} | more, whole[:upto])


def answer(status: int, headers: dict[str, object] | None = None, body: bytes = b"") -> Callable[[Handler], None]:
    return lambda handler: handler.reply(status, {"Content-Length": len(body)} | (headers or {}), body)


def cut(upto: int, **more) -> Callable[[Handler], None]:
    return lambda handler: serve(handler, upto=upto, **more)


def stall(upto: int) -> Callable[[Handler], None]:
    def play(handler: Handler) -> None:
        serve(handler, upto=upto)
        handler.wfile.flush()
        handler.server.closing.wait(20)

    return play


def drip(handler: Handler) -> None:
    serve(handler, upto=10)
    while not handler.server.closing.wait(0.02):
        handler.push(b"x")


@contextlib.contextmanager
def running(monkeypatch) -> Iterator[Server]:
    """A server, asked without the proxies of the environment."""
    for variable in list(os.environ):
        if variable.lower() in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
            monkeypatch.delenv(variable)
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.closing.set()
        server.shutdown()
        thread.join()
