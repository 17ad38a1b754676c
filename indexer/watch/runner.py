"""The working process of the daemon: scans, embeds and writes tags on orders of its parent.

It is a process of its own so that torch leaves the memory when it ends, and so that a crash does not stop the watching.
Messages are JSON, one a line: orders on stdin, reports on stdout. At the end of stdin it finishes the file it is at and
ends.
"""

import json
import os
import queue
import signal
import sys
import threading
from typing import Any

from indexer.config import Settings, from_json
from indexer.errors import IndexerError
from indexer.models.choice import Chosen
from indexer.scan.outcome import ScanResult
from indexer.scan.run import Scan

ALIVE_S = 10.0  # seconds between two signs of life during a run


class _Teller:
    """The pipeline's Listener: reports to the parent how a run goes."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def tell(self, kind: str, **what: Any) -> None:
        """Send one message."""
        with self._lock:
            try:
                sys.stdout.write(json.dumps({"kind": kind, **what}) + "\n")
                sys.stdout.flush()
            except BrokenPipeError:  # the parent has ended; the end of stdin stops the run
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    def begin(self, step: str, files: int, size_bytes: int) -> None:
        """Ignore the beginning of the files; ``_run`` reports the beginning of a scan."""

    def advance(self, path: str, outcome: str) -> None:
        """Report that a file was processed."""
        self.tell("file", path=path, outcome=outcome)

    def step(self, step: str, done: int, total: int) -> None:
        """Ignore a step without files: the daemon reports files."""

    def problem(self, path: str, reason: str) -> None:
        """Report that a file was not processed, or only in part."""
        self.tell("problem", path=path, reason=reason)


class _Orders:
    """Reads orders from stdin in a thread; paths named during a run are added to it, other orders are queued."""

    def __init__(self, teller: _Teller) -> None:
        self.queue: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._teller = teller
        self._scan: Scan | None = None
        self._lock = threading.Lock()
        self._ended = False

    def read(self) -> None:
        """Read until the end of stdin, which stops the run in progress."""
        for line in sys.stdin:
            order = json.loads(line)
            with self._lock:
                if order["do"] == "named" and self._scan is not None:
                    self._scan.add(os.fsencode(path) for path in order["paths"])
                    self._teller.tell("merged")
                else:
                    self.queue.put(order)
        self.queue.put(None)
        with self._lock:
            self._ended = True
            if self._scan is not None:
                self._scan.stop()

    def begin(self, scan: Scan) -> None:
        """``scan`` has begun: paths named from now on are added to it."""
        with self._lock:
            self._scan = scan
            if self._ended:
                scan.stop()

    def end(self) -> list[bytes]:
        """The scan has ended: return the paths that were named too late for it."""
        with self._lock:
            scan, self._scan = self._scan, None
            return scan.left_over() if scan and not self._ended else []


def main() -> None:
    """Work until stdin ends."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # sent to the whole group, they reach the parent too, which closes stdin
    settings = from_json(json.loads(sys.stdin.readline()))
    teller = _Teller()
    orders = _Orders(teller)
    threading.Thread(target=orders.read, name="orders", daemon=True).start()
    while (order := orders.queue.get()) is not None:
        while order:
            order = _obey(settings, order, orders, teller)
        teller.tell("done")


def _obey(settings: Settings, order: dict[str, Any], orders: _Orders, teller: _Teller) -> dict[str, Any] | None:
    """Carry out one order; return another for the paths that were named too late for it, or None."""
    scan = Scan(settings, teller, watched=True)
    orders.begin(scan)
    finished = threading.Event()
    threading.Thread(target=_beat, args=(teller, scan, finished), name="heartbeat", daemon=True).start()
    late: list[bytes] = []
    try:
        result = _run(scan, order, teller)
        late = orders.end()
        teller.tell(
            "result",
            order=order["do"],
            result=result.to_json(),
            deferred=[os.fsdecode(path) for path in result.counts.deferred],
        )
    except IndexerError as e:  # the daemon orders a scan later, which also finds the paths that were named
        orders.end()
        teller.tell("failed", message=str(e), exit_code=e.exit_code)
    finally:
        finished.set()
    return {"do": "named", "paths": [os.fsdecode(path) for path in late]} if late else None


def _run(scan: Scan, order: dict[str, Any], teller: _Teller) -> ScanResult:
    if order["do"] == "analyse":
        return scan.analyse(order["at_most_s"])
    if order["do"] == "named":
        return scan.run_named([os.fsencode(path) for path in order["paths"]])
    if order["do"] == "refine":
        return scan.refine(order["at_most_s"])

    def begin(total: int, chosen: Chosen | None) -> None:
        teller.tell("begin", total=total, encoder=chosen.info.name if chosen else None)

    return scan.run([], on_start=begin)


def _beat(teller: _Teller, scan: Scan, done: threading.Event) -> None:
    """Report that the work loop is alive: only when it has turned since the last report."""
    before = -1
    while not done.wait(ALIVE_S):
        if scan.turns != before:
            before = scan.turns
            teller.tell("alive")


if __name__ == "__main__":
    main()
