"""The process that classifies uploads for the web server, so that the server itself never loads torch or a model.

It loads encoder and head once and classifies one file after the other. It ends when no order has come for a while, and
when stdin ends, which is when the server ends. Each message is one line of JSON. On stdin: first the settings, then
orders {id, path, name} and cancellations {cancel: id}. On stdout: {id, progress, heard_s}, {id, result} or
{id, error, kind}. It stores nothing and writes no file, so it may end at any moment.
"""

import json
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any

import numpy as np

from indexer.config import Settings, from_json
from indexer.errors import FileError, IndexerError
from indexer.listen.classify import FileClassifier, chosen_model
from indexer.models.choice import Chosen

MAX_AUDIO_S = 2 * 3600.0  # longest upload; a longer mix needs a scan
PROGRESS_S = 0.2  # shortest time between two messages of progress


class CancelledError(Exception):
    """The order was cancelled."""


class _Orders:
    """Reads stdin in a thread, so that a cancellation arrives during the work."""

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
        # The reader child ends with this process. The upload has no name, so it is gone once nobody has it open.
        os._exit(0)


def main() -> None:
    """Classify until stdin ends, or until no order has come for ``unload_after_s``."""
    settings = from_json(json.loads(sys.stdin.readline()))
    orders = _Orders()
    classifier: FileClassifier | None = None
    with suppress(queue.Empty):
        while True:
            order = orders.queue.get(timeout=settings.unload_after_s)
            try:
                classifier = _current(classifier, settings)
                _classify(classifier, order, orders.cancelled)
            except IndexerError as e:
                _send(order["id"], error=str(e), kind="model")
            except Exception as e:  # torch and the device may raise anything; the next order must still work
                _send(order["id"], error=" ".join(f"classifying failed ({type(e).__name__}: {e})".split()), kind="died")
            orders.cancelled.discard(order["id"])
    os._exit(0)  # the interpreter's own end would wait for the thread that reads stdin


def _current(classifier: FileClassifier | None, settings: Settings) -> FileClassifier:
    """The classifier of the model in use, which `indexer train` or `models use` may change between two orders."""
    chosen = chosen_model(settings)
    if classifier and _ids(classifier.chosen) == _ids(chosen):
        return classifier
    following = FileClassifier(settings, chosen)
    if classifier:
        classifier.__exit__()
    return following


def _ids(chosen: Chosen) -> tuple[str, str]:
    assert chosen.head is not None
    return chosen.info.encoder_id, chosen.head.id


def _send(order_id: int, **what: Any) -> None:
    with suppress(BrokenPipeError):  # the server is gone; the end of stdin ends this process
        sys.stdout.write(json.dumps({"id": order_id, **what}) + "\n")
        sys.stdout.flush()


def _classify(classifier: FileClassifier, order: dict[str, Any], cancelled: set[int]) -> None:
    order_id, path = order["id"], order["path"].encode()
    try:
        if order_id in cancelled:
            raise CancelledError
        stated_s = classifier.worker.call("inspect", path)["audio"]["duration_s"] or 0.0
        if stated_s > MAX_AUDIO_S:
            raise FileError(path, _too_long())
        duration_s = 0.0
        passes = 0  # encoders that have the whole recording

        def report(heard_s: float) -> None:
            _send(order_id, progress=_share(passes, heard_s, stated_s, classifier.encoders), heard_s=round(heard_s, 1))

        def watch(blocks: Iterable[np.ndarray], sample_rate_hz: int) -> Iterator[np.ndarray]:
            nonlocal duration_s, passes, stated_s
            for decoded_s, block in _watched(blocks, sample_rate_hz, lambda: order_id in cancelled, report):
                duration_s = decoded_s
                yield block
            passes, stated_s = passes + 1, duration_s

        found = classifier.result(order["name"], classifier.feed(path, watch))
    except CancelledError:
        _send(order_id, error="cancelled", kind="cancelled")
    except FileError as e:
        _send(order_id, error=e.reason, kind="file")
    else:
        if "error" in found:
            _send(order_id, error=found["error"], kind="file")
            return
        head = classifier.chosen.head
        assert head is not None
        _send(
            order_id,
            result={
                **found,
                "labels": list(head.labels),
                "duration_s": round(duration_s, 2),
                "encoder": classifier.chosen.info.name,
                "head": head.name,
            },
        )


def _watched(
    blocks: Iterable[np.ndarray], sample_rate_hz: int, is_cancelled: Callable[[], bool], report: Callable[[float], None]
) -> Iterator[tuple[float, np.ndarray]]:
    """Yield (seconds so far, block) for every block. Raises CancelledError, and FileError for too much audio."""
    frames, reported_s = 0, time.monotonic()
    for block in blocks:
        if is_cancelled():
            raise CancelledError
        frames += len(block)
        if frames > MAX_AUDIO_S * sample_rate_hz:
            raise FileError("", _too_long())
        if time.monotonic() - reported_s >= PROGRESS_S:
            reported_s = time.monotonic()
            report(frames / sample_rate_hz)
        yield frames / sample_rate_hz, block


def _share(passes: int, heard_s: float, stated_s: float, encoders: int) -> float | None:
    """The share of the work that is done, from the length that the file states; None when it states none."""
    return round(min(0.99, (passes + min(1.0, heard_s / stated_s)) / encoders), 3) if stated_s else None


def _too_long() -> str:
    return f"longer than {MAX_AUDIO_S / 3600:.0f} hours: put it into a music folder and scan that"


if __name__ == "__main__":
    main()
