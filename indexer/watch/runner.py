"""The process that works for the daemon: it scans, embeds and writes on its parent's orders, and ends when nobody needs it.

So that torch leaves the memory when there is nothing to do, and that nothing which happens to it stops the watching.
Speaks JSON, a line a message: orders on stdin, news on stdout. The end of stdin is the end of the parent: the file in
work is finished.
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

ALIVE_S = 10.0  # at most so long between two messages while it works


class _Teller:
    """Tells the parent how a run goes; the pipeline's Listener."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def tell(self, kind: str, **what: Any) -> None:
        """One message."""
        with self._lock:
            try:
                sys.stdout.write(json.dumps({"kind": kind, **what}) + "\n")
                sys.stdout.flush()
            except BrokenPipeError:  # nobody listens any more, and the end of stdin will say so
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    def advance(self, path: str, outcome: str) -> None:
        """One file is through."""
        self.tell("file", path=path, outcome=outcome)

    def problem(self, path: str, reason: str) -> None:
        """One file was not handled, or not wholly."""
        self.tell("problem", path=path, reason=reason)


class _Orders:
    """Reads stdin in a thread: what is named during a run goes into that run, everything else waits its turn."""

    def __init__(self, teller: _Teller) -> None:
        self.queue: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._teller = teller
        self._scan: Scan | None = None
        self._lock = threading.Lock()
        self._ended = False

    def read(self) -> None:
        """Until the end of stdin, which stops what is in work."""
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
        """``scan`` is at work now."""
        with self._lock:
            self._scan = scan
            if self._ended:
                scan.stop()

    def end(self) -> list[bytes]:
        """It is not any more; what was named too late for it."""
        with self._lock:
            scan, self._scan = self._scan, None
            return scan.left_over() if scan and not self._ended else []


def main() -> None:
    """Work until stdin ends."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # a terminal's Ctrl-C reaches the parent too, which closes stdin
    settings = from_json(json.loads(sys.stdin.readline()))
    teller = _Teller()
    orders = _Orders(teller)
    threading.Thread(target=orders.read, name="orders", daemon=True).start()
    while (order := orders.queue.get()) is not None:
        while order:
            order = _obey(settings, order, orders, teller)
        teller.tell("done")


def _obey(settings: Settings, order: dict[str, Any], orders: _Orders, teller: _Teller) -> dict[str, Any] | None:
    """Carry out one order; returns one for what was named too late for it."""
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
    except IndexerError as e:  # the scan that makes this good sees what was named, too
        orders.end()
        teller.tell("failed", message=str(e), exit_code=e.exit_code)
    finally:
        finished.set()
    return {"do": "named", "paths": [os.fsdecode(path) for path in late]} if late else None


def _run(scan: Scan, order: dict[str, Any], teller: _Teller) -> ScanResult:
    if order["do"] == "named":
        return scan.run_named([os.fsencode(path) for path in order["paths"]])

    def begin(total: int, chosen: Chosen | None) -> None:
        teller.tell("begin", total=total, encoder=chosen.info.name if chosen else None)

    return scan.run([], on_start=begin)


def _beat(teller: _Teller, scan: Scan, done: threading.Event) -> None:
    """Sign of life of the work loop, not of this thread."""
    before = -1
    while not done.wait(ALIVE_S):
        if scan.turns != before:
            before = scan.turns
            teller.tell("alive")


if __name__ == "__main__":
    main()
