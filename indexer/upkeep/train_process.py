"""The process that trains for the pages, so that the server never loads torch nor writes to the library.

It carries out one order and ends: "train" learns a head, classifies everything with it and lists what a scan would
write; "look" only lists; "write" is that scan. Each message is one line of JSON. On stdin: the settings, {do}, and
{cancel} at any time; the end of stdin, which is the end of the server, cancels too. On stdout: changes of the job's
state, the last of which has ``state``: "done", "cancelled" or "failed", with ``error``. Cancelling leaves nothing half
done: the former head stays in use, or what is classified or written stays so and the next scan goes on.
"""

import json
import os
import signal
import sys
import threading
import time
from _thread import interrupt_main
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from indexer.config import Settings, from_json
from indexer.errors import IndexerError, LockedError
from indexer.learn.train import Request, train
from indexer.library.sqlite import now, plain_errors
from indexer.scan.preview import preview
from indexer.scan.relabel import relabel
from indexer.scan.run import Scan

if TYPE_CHECKING:
    from indexer.heads.training import Step

PROGRESS_S = 0.2  # shortest time between two messages of progress
LOCKED_S = 1.0  # wait before another try while another process works on the library
END_S = 10.0  # how long a cancelled training may take to end by itself
SHOWN_WRITES = 100  # of the preview
_T = TypeVar("_T")


def tell(**what: Any) -> None:
    """Send one change of the job's state."""
    with suppress(BrokenPipeError):  # the server is gone; the end of stdin ends this process
        sys.stdout.write(json.dumps(what) + "\n")
        sys.stdout.flush()


class _Cancelling:
    """Reads stdin in a thread until it cancels; then calls ``stop``."""

    def __init__(self, stop: Callable[[], None]) -> None:
        self.asked = threading.Event()
        self._stop = stop
        threading.Thread(target=self._read, name="cancelling", daemon=True).start()

    def _read(self) -> None:
        sys.stdin.readline()  # {cancel}, or nothing at the end
        self.asked.set()
        self._stop()

    def once_free(self, work: Callable[[], _T]) -> _T:
        """Do what needs the library's lock, as soon as no other process has it."""
        while True:
            try:
                return work()
            except LockedError as e:
                tell(step="waiting", reason=str(e), done=0, total=None)
            if self.asked.wait(LOCKED_S):
                raise KeyboardInterrupt


class _Progress:
    """Tells how far a step is, but not more often than every PROGRESS_S; the Listener of a scan, too."""

    def __init__(self) -> None:
        self.name = ""
        self._done, self._total = 0, 0
        self._told_s = float("-inf")

    def begin(self, step: str, files: int, size_bytes: int = 0) -> None:  # noqa: ARG002 - as of any Listener
        """A step with so many things to do begins; 0: nobody knows how many."""
        self.name, self._done, self._total = step, 0, files
        tell(step=step, done=0, total=files or None, reason=None)

    def at(self, done: int, total: int) -> None:
        """So many are done."""
        self._done = done
        if time.monotonic() - self._told_s >= PROGRESS_S:
            self._told_s = time.monotonic()
            tell(step=self.name, done=done, total=total or None, reason=None)

    def advance(self, path: str, outcome: str) -> None:  # noqa: ARG002
        """Count a finished file."""
        self.at(self._done + 1, max(self._total, self._done + 1))

    def step(self, step: str, done: int, total: int) -> None:
        """So many recordings of a step are done."""
        if step != self.name:
            self.begin(step, total)
        self.at(done, total)

    def problem(self, path: str, reason: str) -> None:
        """Ignore it: the scan's result lists the failures."""


def _train(settings: Settings) -> None:
    def stop() -> None:
        interrupt_main(signal.SIGINT)
        time.sleep(END_S)
        os._exit(1)  # hangs in a call of torch; nothing is half written

    cancelling, progress = _Cancelling(stop), _Progress()

    def on_step(step: "Step") -> None:
        if progress.name != "learning":
            progress.begin("learning", step.total)
        progress.at(step.number, step.total)

    tell(step="collecting the labels", done=0, total=None)
    learned = cancelling.once_free(lambda: train(settings, Request(), on_step))
    tell(learned={key: learned[key] for key in ("head", "notes", "compared", "recordings", "artists")})
    tell(applied=cancelling.once_free(lambda: relabel(settings, progress.step)))
    _look(settings, progress)


def _look(settings: Settings, progress: _Progress) -> None:
    progress.begin("looking what would be written", 0)
    looked_at = now()
    found = preview(settings, ())
    shown = {key: found[key] for key in ("tag_writes", "new", "changed")}
    tell(preview={**shown, "writes": found["writes"][:SHOWN_WRITES], "looked_at": looked_at})


def _only_look(settings: Settings) -> None:
    _Cancelling(lambda: interrupt_main(signal.SIGINT))
    _look(settings, _Progress())


def _write(settings: Settings) -> None:
    progress = _Progress()
    scan = Scan(settings, progress)
    cancelling = _Cancelling(scan.stop)
    progress.begin("comparing the folders with the library", 0)
    result = cancelling.once_free(lambda: scan.run(()))
    tell(written=result.to_json())
    if result.interrupted:
        raise KeyboardInterrupt


def main() -> None:
    """Carry out the order on stdin, and end."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # sent to the whole group, they reach the server too, which closes stdin
    signal.signal(signal.SIGINT, signal.default_int_handler)  # for interrupt_main; a terminal's is blocked
    settings = from_json(json.loads(sys.stdin.readline()))
    order = json.loads(sys.stdin.readline())
    try:
        with plain_errors(settings.db):  # any read of the library may find it damaged
            {"train": _train, "look": _only_look, "write": _write}[order["do"]](settings)
        tell(state="done")
    except KeyboardInterrupt:
        tell(state="cancelled")
    except IndexerError as e:
        tell(state="failed", error=str(e))
    os._exit(0)  # the interpreter's own end would wait for the thread that reads stdin


if __name__ == "__main__":
    main()
