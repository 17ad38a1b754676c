"""Runs SQL of others in a process that can be killed: the asking side, and the loop of that process.

SQLite's own time limit is looked at between two steps of a query, and one function may take minutes in one step. Owns
what such a query may use: time, memory, size of a value and of an answer. indexer.learn.sql_process is the program.
"""

import base64
import contextlib
import ctypes
import json
import os
import resource
import select
import signal
import sqlite3
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

from indexer.errors import StoreError
from indexer.files.children.start import without_interrupts
from indexer.library.sqlite import Connection, Row, connect_readonly, is_damage, plain_errors

PROGRAM = "indexer.learn.sql_process"
PROCESSES = 3  # queries at a time; others wait
GRACE_S = 1.0  # after its time limit a query that SQLite does not interrupt is killed with its process
START_LIMIT_S = 60.0  # for a process to come up, also on a machine that is busy
MEMORY_BYTES = 512 << 20
TEMPORARY_FILE_BYTES = 256 << 20  # what a query sorts on disk
ANSWER_BYTES = 16 << 20
LIMITS = {
    sqlite3.SQLITE_LIMIT_LENGTH: 16 << 20,  # bytes of one value; the longest of ours are timelines of long mixes
    sqlite3.SQLITE_LIMIT_EXPR_DEPTH: 100,
    sqlite3.SQLITE_LIMIT_COMPOUND_SELECT: 20,
    sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH: 1000,
    sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER: 10_000,
    sqlite3.SQLITE_LIMIT_ATTACHED: 0,
}
_STEPS = 1000  # of SQLite's machine between two looks at the clock
_FRAME = struct.Struct("<I")  # each message is its length in bytes and JSON


def set_limits(conn: Connection) -> None:
    """Set SQLite's own limits (https://www.sqlite.org/limits.html) to what a library needs."""
    for limit, value in LIMITS.items():
        conn.setlimit(limit, value)


# ---- the asking side

_here = threading.local()  # each thread has a process of its own
_threads = ThreadPoolExecutor(PROCESSES, thread_name_prefix="sql")


class Answer:
    """The rows of a query as sqlite3.Row, whether there were more, and the columns as a cursor describes them."""

    def __init__(self, columns: Sequence[str], rows: Sequence[Sequence[Any]], *, truncated: bool) -> None:
        quoted = ", ".join('NULL AS "{}"'.format(name.replace('"', '""')) for name in columns)
        with contextlib.closing(sqlite3.connect(":memory:")) as conn:
            cursor = conn.execute(f"SELECT {quoted}") if columns else conn.cursor()
            self.rows = [Row(cursor, tuple(row)) for row in rows]
            self.description = cursor.description or ()
        self.truncated = truncated


def threads() -> ThreadPoolExecutor:
    """The threads in which ``ask`` is to be called, one for each process."""
    return _threads


def ask(
    db: Path,
    aliases: Mapping[str, str],
    sql: str,
    values: Mapping[str, Any] | Sequence[Any],
    *,
    limit_s: float,
    at_most: int | None,
) -> Answer:
    """The first ``at_most`` rows of a query; waits for them.

    Raises sqlite3.OperationalError for every query that fails, with the text ``interrupted`` for one beyond its time;
    StoreError where the library cannot be opened.
    """
    order = {
        "db": os.fspath(db),
        "aliases": list(aliases.items()),
        "sql": sql,
        "names": [*values] if isinstance(values, Mapping) else None,
        "values": [values[name] for name in values] if isinstance(values, Mapping) else list(values),
        "limit_s": limit_s,
        "at_most": at_most,
    }
    process: _Process | None = getattr(_here, "process", None)
    if process is not None and not process.is_alive():
        process.end()
        process = None
    if process is None:
        process = _here.process = _Process()
    try:
        found = process.ask(order, limit_s + GRACE_S)
    except TimeoutError:
        process.end()
        raise sqlite3.OperationalError("interrupted") from None
    except (OSError, ValueError) as e:
        process.end()
        raise sqlite3.OperationalError("the query ended its process") from e
    if "last" in found:
        process.end()
    if "library" in found:
        raise StoreError(found["library"])
    if "error" in found:
        raise sqlite3.OperationalError(found["error"])
    return Answer(found["columns"], found["rows"], truncated=found["truncated"])


def end() -> None:
    """End this thread's process, where it has one; the next question starts another."""
    process: _Process | None = getattr(_here, "process", None)
    if process is not None:
        del _here.process
        process.end()


class _Process:
    def __init__(self) -> None:
        with without_interrupts():
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._to, self._from = self._process.stdin.fileno(), self._process.stdout.fileno()
        self._poll = select.poll()
        self._poll.register(self._from, select.POLLIN)
        self._is_ready = False

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def end(self) -> None:
        self._process.kill()
        self._process.communicate()  # waits, and closes the pipes

    def ask(self, order: dict[str, Any], within_s: float) -> Any:
        """Send an order and wait for its answer. Raises TimeoutError, OSError, ValueError."""
        if not self._is_ready:
            self._receive(START_LIMIT_S)
            self._is_ready = True
        message = _packed(order)
        while message:
            message = message[os.write(self._to, message) :]
        return self._receive(within_s)

    def _receive(self, within_s: float) -> Any:
        until_s = time.monotonic() + within_s
        (size,) = _FRAME.unpack(self._read(_FRAME.size, until_s))
        if size > 2 * ANSWER_BYTES:  # JSON is longer than what it says
            raise ValueError("too long an answer")
        return json.loads(self._read(size, until_s), object_hook=_unpacked_bytes)

    def _read(self, size: int, until_s: float) -> bytes:
        found = bytearray()
        while len(found) < size:
            left_s = until_s - time.monotonic()
            if left_s <= 0 or not self._poll.poll(1000 * left_s):
                raise TimeoutError
            piece = os.read(self._from, min(size - len(found), 1 << 20))
            if not piece:
                raise ConnectionError("it ended")
            found += piece
        return bytes(found)


def _packed(message: Any) -> bytes:
    """A message in its frame. Its one dictionary aside, all dictionaries in it stand for bytes."""

    def of_bytes(value: Any) -> Any:
        return {"bytes": base64.b64encode(value).decode("ascii")}

    text = json.dumps(message, default=of_bytes).encode("ascii")
    return _FRAME.pack(len(text)) + text


def _unpacked_bytes(value: dict[str, Any]) -> Any:
    return base64.b64decode(value["bytes"]) if value.keys() == {"bytes"} else value


# ---- the process


def answer_orders(add_functions: Callable[[Connection, Mapping[str, str]], None]) -> None:
    """Answer the queries that come on stdin, until it closes. ``add_functions`` is called with every new connection."""
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print
    _limit_resources()
    _send(out, _packed({}))  # ready
    conn: Connection | None = None
    opened: Any = None
    while order := _received(sys.stdin.buffer):
        try:
            path = Path(order["db"])
            with plain_errors(path):
                stat = path.stat()
                wanted = path, stat.st_dev, stat.st_ino, order["aliases"]
                if conn is None or opened != wanted:
                    conn, opened = _connect(path), wanted
                    add_functions(conn, dict(order["aliases"]))
            message = _packed(_run(conn, order))
        except MemoryError:
            _send(out, _packed({"error": "the query needs too much memory", "last": True}))
            return  # what is left of the process may be of no use
        except Exception as e:  # whatever a query is, the next one must be answered
            of_library = isinstance(e, StoreError | OSError) or is_damage(e)
            message = _packed({"library" if of_library else "error": str(e)})
        _send(out, message)


def _limit_resources() -> None:
    """Limit memory and files, write no core dumps, and die with the parent."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_FSIZE, (TEMPORARY_FILE_BYTES, TEMPORARY_FILE_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        pr_set_pdeathsig = 1  # linux/prctl.h
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def _connect(path: Path) -> Connection:
    conn = connect_readonly(path)
    conn.text_factory = lambda text: str(text, "utf-8", "replace")
    set_limits(conn)
    return conn


def _run(conn: Connection, order: dict[str, Any]) -> dict[str, Any]:
    until_s = time.monotonic() + order["limit_s"]
    conn.set_progress_handler(lambda: time.monotonic() >= until_s, _STEPS)
    values = order["values"] if order["names"] is None else dict(zip(order["names"], order["values"], strict=True))
    with contextlib.closing(conn.execute(order["sql"], values)) as cursor:
        rows: list[Any] = []
        size = 0
        for row in cursor:
            if len(rows) == order["at_most"]:
                return {"columns": _names(cursor), "rows": rows, "truncated": True}
            size += sum(len(value) if isinstance(value, str | bytes) else 8 for value in row)
            if size > ANSWER_BYTES:
                raise ValueError(f"the answer is larger than {ANSWER_BYTES >> 20} MB")
            rows.append(row)
        return {"columns": _names(cursor), "rows": rows, "truncated": False}


def _names(cursor: Any) -> list[str]:
    return [column[0] for column in cursor.description or ()]


def _received(stream: BinaryIO) -> dict[str, Any] | None:
    header = stream.read(_FRAME.size)
    if len(header) < _FRAME.size:
        return None
    found: dict[str, Any] = json.loads(stream.read(*_FRAME.unpack(header)), object_hook=_unpacked_bytes)
    return found


def _send(out: BinaryIO, message: bytes) -> None:
    out.write(message)
    out.flush()
