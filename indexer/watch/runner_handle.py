"""The daemon's handle of the working process: starts it, sends orders, reads its messages, ends it."""

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
from indexer.files.children.start import without_interrupts


class RunnerHandle:
    """A running working process (indexer.watch.runner)."""

    def __init__(self, settings: Settings) -> None:
        with without_interrupts():
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "indexer.watch.runner"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                bufsize=0,
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin = self._process.stdin
        self.stdout = self._process.stdout
        os.set_blocking(self.stdout.fileno(), False)
        self._buffer = b""
        self.orders = 0  # given and not answered yet
        self.ended = False
        self.heard_s = time.monotonic()  # time of its last message or of our last order
        self._write(config.to_json(settings))

    @property
    def busy(self) -> bool:
        """Whether it has an order to carry out."""
        return self.orders > 0

    def order(self, do: str, paths: Sequence[bytes] = (), *, at_most_s: float = 0.0) -> None:
        """Give an order: "scan", "named" with the paths to process (added to a run in progress), "refine" or "analyse".

        ``at_most_s``: how long to hear whole what was heard roughly, or to analyse.
        """
        self.orders += 1
        self.heard_s = time.monotonic()
        self._write({"do": do, "paths": [os.fsdecode(path) for path in paths], "at_most_s": at_most_s})

    def _write(self, message: dict[str, Any]) -> None:
        with suppress(BrokenPipeError):  # ``messages`` notices the end of the process
            self._stdin.write(json.dumps(message).encode("ascii") + b"\n")

    def messages(self) -> list[dict[str, Any]]:
        """The messages since the last call; does not wait."""
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
        """Let it finish the file it is at and end; kill it after ``timeout_s``."""
        with suppress(OSError):
            self._stdin.close()
        os.set_blocking(self.stdout.fileno(), True)
        reader = threading.Thread(target=self.stdout.read, daemon=True)  # a full pipe would block it
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
        """How it ended: the name of a signal, or the exit code."""
        code = self._process.wait()
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"
