"""The process that classifies what is uploaded to the pages: it loads encoder and head once, works through orders, and ends when nobody needs it.

So that the web server never holds torch or a model. Speaks JSON, a line a message: the settings and then orders {id, path, name} and
{cancel: id} on stdin; {id, progress, heard_s}, {id, result} or {id, error, kind} on stdout. Stores nothing and writes no file, so it may
end at any moment: it does when stdin ends, which is the end of the server.
"""

import json
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any

import numpy as np

from indexer.config import Settings, from_json
from indexer.errors import FileError, IndexerError
from indexer.listen.classify import Looker, chosen_model

MAX_AUDIO_S = 2 * 3600.0  # of an upload; longer mixes are for a scan
NEWS_S = 0.2  # at most so often is progress told


class CancelledError(Exception):
    """Nobody waits for the result any more."""


class _Orders:
    """Reads stdin in a thread, so that a cancellation is heard during the work."""

    def __init__(self) -> None:
        self.queue: queue.Queue[dict[str, Any]] = queue.Queue()
        self.cancelled: set[int] = set()
        threading.Thread(target=self._read, name="orders", daemon=True).start()

    def _read(self) -> None:
        for line in sys.stdin:
            order = json.loads(line)
            if "cancel" in order:
                self.cancelled.add(order["cancel"])
            else:
                self.queue.put(order)
        os._exit(
            0
        )  # the reading child ends with this process; the upload has no name and is gone with the last that holds it


def main() -> None:
    """Work until stdin ends, or nothing came for ``unload_after_s``."""
    signal.signal(
        signal.SIGINT, signal.SIG_DFL
    )  # a terminal's Ctrl-C is for the server too, which then need not wait: end without a traceback
    settings = from_json(json.loads(sys.stdin.readline()))
    orders = _Orders()
    looker: Looker | None = None
    with suppress(queue.Empty):
        while True:
            order = orders.queue.get(timeout=settings.unload_after_s)
            try:
                looker = _current(looker, settings)
                _look(looker, order, orders.cancelled)
            except IndexerError as e:
                _tell(order["id"], error=str(e), kind="model")
            except Exception as e:  # torch and the device raise anything at all; the next order must go on
                _tell(order["id"], error=" ".join(f"classifying failed ({type(e).__name__}: {e})".split()), kind="died")
            orders.cancelled.discard(order["id"])
    os._exit(0)  # not by the interpreter's end, which cannot take stdin from the thread that reads it


def _current(looker: Looker | None, settings: Settings) -> Looker:
    """With the model that the library uses now: `indexer train` or `models use` may have named another since the last order."""
    chosen = chosen_model(settings)
    assert chosen.head is not None
    before = looker.chosen if looker else None
    if (
        looker
        and before
        and before.head
        and (before.info.encoder_id, before.head.id) == (chosen.info.encoder_id, chosen.head.id)
    ):
        return looker
    following = Looker(settings, chosen)
    if looker:
        looker.__exit__()
    return following


def _tell(order_id: int, **what: Any) -> None:
    with suppress(BrokenPipeError):  # the server is gone, and the end of stdin says so
        sys.stdout.write(json.dumps({"id": order_id, **what}) + "\n")
        sys.stdout.flush()


def _look(looker: Looker, order: dict[str, Any], cancelled: set[int]) -> None:
    order_id, path = order["id"], order["path"].encode()
    try:
        if order_id in cancelled:
            raise CancelledError
        claimed_s = looker.worker.call("inspect", path)["audio"]["duration_s"] or 0.0
        if claimed_s > MAX_AUDIO_S:
            raise FileError(path, _too_long())
        duration_s = 0.0
        passes = 0  # every encoder hears the whole recording

        def tell(heard_s: float) -> None:
            _tell(order_id, progress=_share(passes, heard_s, claimed_s, looker.encoders), heard_s=round(heard_s, 1))

        def watch(blocks: Iterable[np.ndarray], sample_rate_hz: int) -> Iterator[np.ndarray]:
            nonlocal duration_s, passes, claimed_s
            for decoded_s, block in _watched(blocks, sample_rate_hz, lambda: order_id in cancelled, tell):
                duration_s = decoded_s
                yield block
            passes, claimed_s = passes + 1, duration_s

        found = looker.result(order["name"], looker.feed(path, watch))
    except CancelledError:
        _tell(order_id, error="cancelled", kind="cancelled")
    except FileError as e:
        _tell(order_id, error=e.reason, kind="file")
    else:
        if "error" in found:
            _tell(order_id, error=found["error"], kind="file")
            return
        head = looker.chosen.head
        assert head is not None
        _tell(
            order_id,
            result={
                **found,
                "labels": list(head.labels),
                "duration_s": round(duration_s, 2),
                "encoder": looker.chosen.info.name,
                "head": head.name,
            },
        )


def _watched(
    blocks: Iterable[np.ndarray], sample_rate_hz: int, is_cancelled: Callable[[], bool], tell: Callable[[float], None]
) -> Iterator[tuple[float, np.ndarray]]:
    """(seconds so far, block) of every block; stops at what is too long or not wanted any more."""
    frames, told_s = 0, time.monotonic()
    for block in blocks:
        if is_cancelled():
            raise CancelledError
        frames += len(block)
        if frames > MAX_AUDIO_S * sample_rate_hz:
            raise FileError("", _too_long())
        if time.monotonic() - told_s >= NEWS_S:
            told_s = time.monotonic()
            tell(frames / sample_rate_hz)
        yield frames / sample_rate_hz, block


def _share(passes: int, heard_s: float, claimed_s: float, encoders: int) -> float | None:
    """Of the work that is done; None where the file does not say how long it is. What it says may be wrong."""
    return round(min(0.99, (passes + min(1.0, heard_s / claimed_s)) / encoders), 3) if claimed_s else None


def _too_long() -> str:
    return f"longer than {MAX_AUDIO_S / 3600:.0f} hours: put it into a music folder and scan that"


if __name__ == "__main__":
    main()
