"""The daemon's side of the working process: starts it, sends it work, reads its answers, ends it."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from indexer import config
from indexer.config import Settings


class _Runner:
    """The working process, seen from here."""

    def __init__(self, settings: Settings) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "indexer.watch.runner"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin = self._process.stdin
        self.stdout = self._process.stdout
        os.set_blocking(self.stdout.fileno(), False)
        self._buffer = b""
        self.orders = 0  # given and not answered
        self.ended = False
        self.heard_s = time.monotonic()
        self._write(config.to_json(settings))

    @property
    def busy(self) -> bool:
        """Whether an order is in work."""
        return self.orders > 0

    def order(self, do: str, paths: Sequence[bytes] = ()) -> None:
        """Give an order; what is named while a run is on goes into that run."""
        self.orders += 1
        self.heard_s = time.monotonic()
        self._write({"do": do, "paths": [os.fsdecode(path) for path in paths]})

    def _write(self, message: dict[str, Any]) -> None:
        with suppress(BrokenPipeError):  # its end is heard on stdout
            self._stdin.write(json.dumps(message).encode("ascii") + b"\n")

    def messages(self) -> list[dict[str, Any]]:
        """What it said since the last time."""
        while not self.ended:
            try:
                data = self.stdout.read(1 << 16)
            except OSError:
                data = b""
            if data is None:
                break
            self.ended = not data
            self._buffer += data
        *lines, self._buffer = self._buffer.split(b"\n")
        messages: list[dict[str, Any]] = [json.loads(line) for line in lines]
        if messages:
            self.heard_s = time.monotonic()
        self.orders -= sum(message["kind"] in ("done", "merged") for message in messages)
        return messages

    def stop(self, timeout_s: float) -> None:
        """Let it finish what is in work and end; killed when that takes too long."""
        with suppress(OSError):
            self._stdin.close()
        os.set_blocking(self.stdout.fileno(), True)
        reader = threading.Thread(target=self.stdout.read, daemon=True)  # so that it never waits for us
        reader.start()
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
        reader.join(1)
        self.stdout.close()

    def kill(self) -> None:
        """End it now."""
        with suppress(ProcessLookupError):
            self._process.kill()

    def how(self) -> str:
        """How it ended."""
        code = self._process.wait()
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"
