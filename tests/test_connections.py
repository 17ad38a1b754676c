"""A server between clients that do not do their part: half requests, slow bodies, too many of everything."""

import asyncio
import contextlib
import logging
import subprocess
import sys

import pytest
import uvicorn

from indexer.config import load_settings
from indexer.web import bodies, connections
from indexer.web.attempts import EVERY_S, FREE_ERRORS, Attempts
from indexer.web.connections import BoundedProtocol, SparingFilter
from indexer.web.guard import guarded

REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


async def page(scope, receive, send):
    """Answers at once, but for /slow; reads a body where one is sent."""
    if scope["path"] == "/slow":
        await asyncio.sleep(0.6)
    while scope["method"] == "POST" and (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


class Server:
    """The protocol on a port of its own, and clients that speak bytes."""

    async def __aenter__(self):
        app = guarded(load_settings(None, {}, {}))(page)
        config = uvicorn.Config(app, http=BoundedProtocol, ws="none", log_config=None)
        config.load()
        self.state = uvicorn.server.ServerState()
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: BoundedProtocol(config, self.state, {}, loop), "127.0.0.1", 0)
        self._port = self._server.sockets[0].getsockname()[1]
        self._writers = []
        return self

    async def __aexit__(self, *_):
        for writer in self._writers:
            writer.close()
        self._server.close()
        await asyncio.sleep(0)

    async def open(self, first=b""):
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        self._writers.append(writer)
        writer.write(first)
        await asyncio.sleep(0.01)  # the server sees the connections in their order
        return reader, writer


@contextlib.asynccontextmanager
async def trickle(writer, piece):
    """Send a piece every now and then."""

    async def send():
        while not writer.is_closing():
            writer.write(piece)
            await asyncio.sleep(0.05)

    task = asyncio.create_task(send())
    yield
    task.cancel()


async def rest(reader, within_s=5.0):
    """All that still comes until the server closes."""
    with contextlib.suppress(ConnectionResetError):
        return await asyncio.wait_for(reader.read(), within_s)
    return b""


def run(work):
    async def with_server():
        async with Server() as server:
            return await work(server)

    return asyncio.run(with_server())


@pytest.mark.parametrize("first", [b"", REQUEST[:20], REQUEST[:-2], REQUEST + REQUEST[:20]])
def test_a_connection_without_a_whole_request_is_closed_however_often_it_sends_a_byte(first, monkeypatch):
    monkeypatch.setattr(connections, "REQUEST_LIMIT_S", 0.2)

    async def work(server):
        reader, writer = await server.open(first)
        began = asyncio.get_running_loop().time()

        async with trickle(writer, b"x" if first else b""):
            answer = await rest(reader)
        assert not server.state.connections
        return answer, asyncio.get_running_loop().time() - began

    answer, seconds = run(work)
    assert answer.count(b"200 OK") == (len(first) > len(REQUEST))
    assert 0.1 < seconds < 3


def test_a_request_that_takes_long_to_answer_and_one_that_comes_later_keep_their_connection(monkeypatch):
    monkeypatch.setattr(connections, "REQUEST_LIMIT_S", 0.3)

    async def work(server):
        reader, writer = await server.open(REQUEST.replace(b"/", b"/slow", 1))
        await asyncio.wait_for(reader.readuntil(b"ok"), 5)
        writer.write(REQUEST)
        await asyncio.wait_for(reader.readuntil(b"ok"), 5)

    run(work)


def test_where_all_places_are_taken_half_open_connections_make_room(monkeypatch):
    monkeypatch.setattr(BoundedProtocol, "at_most", 10)

    async def work(server):
        half_open = [await server.open(b"GET /") for _ in range(30)]
        for _ in range(3):
            reader, _ = await server.open(REQUEST)
            assert await asyncio.wait_for(reader.readuntil(b"ok"), 5)
            assert len(server.state.connections) <= 10
        assert await rest(half_open[0][0]) == b""  # the oldest went first

    run(work)


def test_who_waits_for_an_answer_keeps_the_place(monkeypatch):
    monkeypatch.setattr(BoundedProtocol, "at_most", 3)

    async def work(server):
        waiting = [await server.open(REQUEST.replace(b"/", b"/slow", 1)) for _ in range(3)]
        late, _ = await server.open(REQUEST)
        assert await rest(late) == b""
        for reader, _ in waiting:
            assert await asyncio.wait_for(reader.readuntil(b"ok"), 5)

    run(work)


def post(path, size, cookie=b""):
    return b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n%s\r\n" % (path.encode(), size, cookie)


@pytest.mark.parametrize("path", ["/-/correct", "/-/classify.json"])
def test_a_slow_body_is_dropped_and_a_fast_one_is_not(path, monkeypatch):
    monkeypatch.setattr(bodies, "FREE_S", 0.3)

    async def work(server):
        fast, _ = await server.open(post(path, 200_000) + b"x" * 200_000)
        assert b"200 OK" in await asyncio.wait_for(fast.readuntil(b"ok"), 5)
        slow, writer = await server.open(post(path, 200_000))
        async with trickle(writer, b"x"):
            assert b"408" in await asyncio.wait_for(slow.readline(), 5)
            assert b"32 kB a second" in await asyncio.wait_for(slow.readuntil(b"second."), 5)

    run(work)


@pytest.mark.parametrize(
    ("path", "cookie", "status"),
    [
        ("/-/correct", b"", b"413"),
        ("/-/classify.json", b"", b"200"),
        ("/-/classify.json", b"Cookie: a=b\r\nX-CSRFToken: t\r\n", b"200"),
        ("/-/classify.json", b"Cookie: a=b\r\n", b"413"),  # Datasette would keep all of it to look for the token
    ],
)
def test_only_an_upload_may_be_large(path, cookie, status):
    async def work(server):
        reader, _ = await server.open(post(path, 2 << 20, cookie) + bytes(2 << 20))
        return await asyncio.wait_for(reader.readline(), 10)

    assert status in run(work)


def test_a_body_that_nobody_reads_does_not_hold_the_connection(monkeypatch):
    monkeypatch.setattr(connections, "REQUEST_LIMIT_S", 1.0)  # the answer is read before

    async def work(server):
        reader, writer = await server.open(post("/", 100_000).replace(b"POST", b"GET"))
        assert b"200 OK" in await asyncio.wait_for(reader.readuntil(b"ok"), 5)
        writer.write(b"x")
        return await rest(reader)

    assert run(work) == b""


def test_wrong_passwords_are_slowed_down(monkeypatch):
    now_s = [1000.0]
    monkeypatch.setattr("indexer.web.attempts.time.monotonic", lambda: now_s[0])
    told = []

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def send(message):
        if message["type"] == "http.response.start":
            told.append(message["status"])

    checked = guarded(load_settings(None, {"password": "right", "host": "192.0.2.7"}, {}))(app)

    def ask(password, client="198.51.100.1"):
        headers = [(b"host", b"192.0.2.7")] + ([(b"authorization", b"Bearer " + password)] if password else [])
        scope = {"type": "http", "method": "GET", "path": "/", "query_string": b"", "client": (client, 1)}
        scope["headers"] = headers
        asyncio.run(checked(scope, None, send))
        return told[-1]

    assert {ask(b"") for _ in range(2 * FREE_ERRORS)} == {401}  # no password is no wrong one
    assert [ask(b"wrong") for _ in range(FREE_ERRORS + 2)] == [401] * FREE_ERRORS + [429] * 2
    assert ask(b"right") == 429  # else the answer would tell which one is right
    assert ask(b"right", "198.51.100.2") == 200
    now_s[0] += EVERY_S
    assert [ask(b"wrong"), ask(b"wrong")] == [401, 429]
    now_s[0] += EVERY_S
    assert [ask(b"right") for _ in range(3)] == [200] * 3


def test_an_ipv6_network_is_one_client():
    attempts = Attempts()
    for n in range(FREE_ERRORS):
        attempts.was_wrong(f"2001:db8::{n:x}")
    assert not attempts.may_try("2001:db8::ffff:1")
    assert attempts.may_try("2001:db8:0:1::1")


def test_addresses_are_forgotten(monkeypatch):
    monkeypatch.setattr("indexer.web.attempts.REMEMBERED", 3)
    attempts = Attempts()
    for n in range(10):
        attempts.was_wrong(f"192.0.2.{n}")
    assert len(attempts._left) == 3


def test_lines_of_one_kind_are_written_a_few_times(monkeypatch, caplog):
    now_s = [0.0]
    monkeypatch.setattr("indexer.web.connections.time.monotonic", lambda: now_s[0])
    logger = logging.getLogger("tests.sparing")
    sparing = SparingFilter()
    logger.addFilter(sparing)
    for n in range(50):
        logger.warning("from %s", n)
    logger.warning("another")
    now_s[0] += connections.SAME_LINES_S
    logger.warning("from %s", 50)
    logger.removeFilter(sparing)
    assert caplog.messages == [*(f"from {n}" for n in range(5)), "another", "from 50 (45 more of this kind before)"]


def test_the_limit_of_open_files_is_raised():
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (256, 1000));"
        "from indexer.web.connections import raise_file_limit;"
        "print(raise_file_limit(), *resource.getrlimit(resource.RLIMIT_NOFILE))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.split() == ["1000", "1000", "1000"]
