"""A reader: a killable child process that reads tags, hashes, decodes and edits copies of the user's files.

Starts the child, limits it, exchanges messages with it, and tells a hang, a crash and a lack of memory apart. Never
parses a file itself. A Worker belongs to one thread; it starts its child on first use, and again when the child died.
The child runs ``python -m indexer.files.children.child``; it knows neither database nor encoder.
"""

import contextlib
import json
import os
import select
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from indexer import errors
from indexer.analysis.analyser import Analysis
from indexer.errors import FileError, ReaderDiedError, TruncatedError
from indexer.files.children.limits import Limits
from indexer.files.children.start import without_interrupts
from indexer.files.playlists.foreign_lists import ForeignList, Left, from_messages

MEMORY_LIMIT_BYTES = 1536 * 1024 * 1024  # of address space; the child's libraries take about 600 MB
STALL_LIMIT_S = 30.0  # a child that sends nothing for so long hangs; one at work sends a beat every few MB
FOLLOWS_LINKS = "--follows-links"  # option of the child
HEADER = struct.Struct("<II")  # length of the JSON part, length of the raw part

FILE_ERRORS = {
    c.__name__: c
    for c in (
        errors.ReadError,
        errors.TruncatedError,
        errors.UnsupportedError,
        errors.LimitError,
        errors.DeferredError,
        errors.WriteRefusedError,
        errors.ReadOnlyError,
    )
}


def pack(message: dict[str, Any], raw_length: int = 0) -> bytes:
    """Pack one message for the pipe: lengths and JSON. ``raw_length`` raw bytes must follow it."""
    text = json.dumps(message).encode("ascii")  # lone surrogates of odd file names survive as \\uXXXX
    return HEADER.pack(len(text), raw_length) + text


class Worker:
    """One child process, used by one thread at a time."""

    def __init__(
        self,
        limits: Limits,
        *,
        follows_links: bool = False,
        stall_limit_s: float = STALL_LIMIT_S,
        memory_limit_bytes: int = MEMORY_LIMIT_BYTES,
    ) -> None:
        """``follows_links``: a person or another machine names the files. Otherwise the paths are resolved, as the
        library holds them, and a link that stands in one is not followed. ``limits``: of each operation.
        """
        self._options = [str(limits.audio_s), str(limits.cpu_s), *([FOLLOWS_LINKS] if follows_links else [])]
        self._stall_limit_s = stall_limit_s
        self._memory_limit_bytes = memory_limit_bytes
        self._child: subprocess.Popen[bytes] | None = None
        self._writing = False

    def call(self, op: str, path: bytes, **arguments: Any) -> dict[str, Any]:
        """Run one operation on one file and return its result.

        Raises the FileError that the child reports, or ReaderDiedError when it hangs, crashes or runs out of memory.
        """
        result: dict[str, Any] = {}
        for message, _ in self._exchange(op, path, arguments):
            result = message
        return result

    def decode(
        self, path: bytes, *, sample_rate_hz: int, analysed: Callable[[Analysis], None] | None = None
    ) -> Iterator[np.ndarray]:
        """Yield blocks (frames,) of mono float32 as the child decodes; closing the iterator early kills the child.

        ``analysed`` is called after the last block with what was measured in the same pass; None: nothing is measured.

        Raises TruncatedError after the last block of a file that lost its end, and any other FileError at any time.
        """
        finished = False
        try:
            arguments = {"sample_rate_hz": sample_rate_hz, "analyse": analysed is not None}
            for message, raw in self._exchange("decode", path, arguments):
                end = message  # the last one is the result
                if raw:
                    yield np.frombuffer(raw, dtype="<f4")
            finished = True
            if analysed is not None:
                analysed(Analysis.from_json(end["analysis"]))
            if end["truncated"] is not None:
                raise TruncatedError(os.fsdecode(path), end["truncated"])
        except FileError:
            finished = True
            raise
        finally:
            if not finished:
                self.kill()

    def excerpts(
        self, path: bytes, *, sample_rate_hz: int, count: int, seconds: float
    ) -> list[tuple[float, np.ndarray]] | None:
        """Evenly spread pieces of a file: (start in seconds, (frames,) mono float32); None: decode it all instead.

        Raises as ``call`` does.
        """
        pieces: list[tuple[float, np.ndarray]] = []
        safe = False
        arguments = {"sample_rate_hz": sample_rate_hz, "count": count, "seconds": seconds}
        for message, raw in self._exchange("excerpts", path, arguments):
            if raw:
                pieces.append((message["start_s"], np.frombuffer(raw, "<f4")))
            else:
                safe = message["safe"]
        return pieces if safe else None

    def picture(self, path: bytes, *, side_px: int) -> bytes | None:
        """A JPEG of the cover in a file's tags, its longer side at most ``side_px``; None without one.

        Raises as ``call`` does.
        """
        pictures = [bytes(raw) for _, raw in self._exchange("picture", path, {"side_px": side_px}) if raw]
        return pictures[0] if pictures else None

    def playlists(self, path: bytes, left: Left) -> tuple[list[ForeignList], Left]:
        """The lists in a file of a format of playlists, and what is left of what all such files may hold.

        Raises as ``call`` does.
        """
        end: dict[str, Any] = {}

        def told() -> Iterator[dict[str, Any]]:
            for message, _ in self._exchange("playlists", path, {"left": left}):
                if "left" in message:
                    end.update(message)
                else:
                    yield message

        return from_messages(told()), Left(*end["left"])

    def close(self) -> None:
        """End the child: ask it to exit, kill it if it is busy."""
        if self._child and self._child.stdin:
            with contextlib.suppress(OSError):
                self._child.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._child.wait(timeout=1)
        self.kill()

    def interrupt(self) -> None:
        """Kill the child unless it is preparing a write; may be called from another thread."""
        child = self._child
        if child is not None and not self._writing:
            with contextlib.suppress(ProcessLookupError):
                child.kill()

    def kill(self) -> None:
        """Kill the child now; only the thread that uses the worker may call this."""
        child, self._child = self._child, None
        if child is None:
            return
        with contextlib.suppress(ProcessLookupError):
            child.kill()
        child.wait()
        for pipe in (child.stdin, child.stdout):
            if pipe:
                with contextlib.suppress(OSError):
                    pipe.close()

    def _exchange(self, op: str, path: bytes, arguments: dict[str, Any]) -> Iterator[tuple[dict[str, Any], bytearray]]:
        child = self._start()
        assert child.stdin is not None
        name = os.fsdecode(path)
        request = pack({"op": op, "path": name, **arguments})
        self._writing = op == "prepare_write"
        try:
            child.stdin.write(request)
            child.stdin.flush()
        except OSError:
            raise self._death(name) from None
        while True:
            message, raw = self._receive(child, name)
            kind = message.pop("kind")
            if kind == "result":
                yield message, raw
                return
            if kind == "error":
                raise FILE_ERRORS[message["class"]](name, message["reason"])
            if kind == "block":
                yield message, raw

    def _start(self) -> "subprocess.Popen[bytes]":
        if self._child is None or self._child.poll() is not None:
            self.kill()
            program = [sys.executable, "-P", "-m", "indexer.files.children.child"]
            with without_interrupts():
                self._child = subprocess.Popen(
                    [*program, str(self._memory_limit_bytes), *self._options],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    bufsize=0,
                    # One thread each: several children already run in parallel, and a thread pool costs address space.
                    env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
                )
        return self._child

    def _receive(self, child: "subprocess.Popen[bytes]", name: str) -> tuple[dict[str, Any], bytearray]:
        text_length, raw_length = HEADER.unpack(self._read(child, HEADER.size, name))
        message: dict[str, Any] = json.loads(self._read(child, text_length, name))
        return message, self._read(child, raw_length, name)

    def _read(self, child: "subprocess.Popen[bytes]", count: int, name: str) -> bytearray:
        assert child.stdout is not None
        handle = child.stdout.fileno()
        buffer = bytearray(count)
        view = memoryview(buffer)
        deadline = time.monotonic() + self._stall_limit_s
        while view:
            if not select.select([handle], [], [], max(0.0, deadline - time.monotonic()))[0]:
                self.kill()
                raise ReaderDiedError(name, f"reading it hung for {self._stall_limit_s:.0f} s and was stopped")
            got = os.readv(handle, [view])
            if got == 0:
                raise self._death(name)
            view = view[got:]
            deadline = time.monotonic() + self._stall_limit_s
        return buffer

    def _death(self, name: str) -> ReaderDiedError:
        """The error for the file during which the child died; clears the child away."""
        child = self._child
        code = child.wait() if child else None
        self.kill()
        if code is not None and code < 0:
            return ReaderDiedError(name, f"reading it crashed the reader ({signal.Signals(-code).name})")
        return ReaderDiedError(name, f"the reader ended unexpectedly (exit code {code})")
