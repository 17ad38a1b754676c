"""Audio of many recordings -> one vector each: batches units across recordings and keeps running means.

Owns the one thread that calls the encoder. Memory does not grow with a recording's length: of the units a running mean
and a bounded course are kept. Never reads a file, stores anything or knows a head; producers hand in units, results come
back as futures.
"""

import queue
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np

from indexer.course import Collector, Course
from indexer.encoders import Encoder, Unit

QUEUED_BATCHES = 3  # how far decoding may run ahead of the encoder


@dataclass(frozen=True, slots=True)
class TrackEmbedding:
    """One recording's result."""

    vector: np.ndarray  # (width,) float32: mean over time
    units: int
    course: Course
    duration_s: float  # of the decoded audio


class _Track:
    """The running weighted mean of one recording's units, and their course."""

    def __init__(self, unit_s: float) -> None:
        self.future: Future[TrackEmbedding] = Future()
        self._course = Collector(unit_s)
        self._sum: np.ndarray | None = None
        self._weight = 0
        self._units = 0
        self.duration_s = 0.0  # once everything is handed over

    def add(self, vector: np.ndarray, weight: int) -> None:
        """Take in the next unit's vector (width,)."""
        part = vector.astype(np.float64) * weight
        self._sum = part if self._sum is None else self._sum + part
        self._weight += weight
        self._units += 1
        self._course.add(vector, weight)

    def finish(self) -> None:
        """Settle the future. No units at all: the recording is shorter than the encoder can take."""
        if self._sum is None:
            self.future.set_exception(ValueError("too short for the encoder"))
            return
        vector = (self._sum / self._weight).astype(np.float32)
        if not np.isfinite(vector.astype(np.float16)).all():
            self.future.set_exception(ArithmeticError("the encoder gave numbers that are not finite"))
            return
        self.future.set_result(TrackEmbedding(vector, self._units, self._course.finish(vector), self.duration_s))


class Embedder:
    """Runs an encoder in a thread of its own, on batches filled from all recordings in work."""

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder
        self.busy_s = 0.0  # seconds that the encoder worked
        self._queue: queue.Queue[tuple[_Track, Unit | None] | None] = queue.Queue(QUEUED_BATCHES * encoder.batch_units)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="encoder", daemon=True)
        self._thread.start()

    def embed(self, blocks: Iterable[np.ndarray], *, waited: Callable[[float], None] = lambda _seconds: None) -> Future[TrackEmbedding]:
        """Feed one recording's audio; returns its future when all is handed over.

        Blocks while the encoder is behind, and tells ``waited`` for how long. An error of ``blocks`` passes through and drops
        the recording.
        """
        track = _Track(self.encoder.unit_s)
        cutter = self.encoder.cutter()
        frames = 0
        for block in blocks:
            frames += len(block)
            for unit in cutter.push(block):
                waited(self._put(track, unit))
        for unit in cutter.finish():
            waited(self._put(track, unit))
        track.duration_s = frames / self.encoder.sample_rate_hz
        waited(self._put(track, None))
        return track.future

    def close(self) -> None:
        """Stop after the batch in work; recordings that are not finished are dropped."""
        self._stopped.set()
        with self._queue.mutex:
            self._queue.queue.clear()
            self._queue.not_full.notify_all()
        self._queue.put(None)
        self._thread.join()

    def _put(self, track: _Track, unit: Unit | None) -> float:
        """Hand over a unit, or None for the end; returns the seconds until there was room."""
        if self._stopped.is_set():
            raise InterruptedError("the scan is stopping")
        started_s = time.monotonic()
        self._queue.put((track, unit))
        return time.monotonic() - started_s

    def _run(self) -> None:
        while not self._stopped.is_set():
            batch = self._next_batch()
            units = [unit for _, unit in batch if unit is not None]
            started_s = time.monotonic()
            try:
                vectors = self.encoder.encode(units) if units else np.empty((0, self.encoder.width))
            except Exception as e:  # any failure of the device belongs to the recordings in this batch
                for track in {id(t): t for t, _ in batch}.values():
                    if not track.future.done():
                        track.future.set_exception(e)
                continue
            finally:
                self.busy_s += time.monotonic() - started_s
            position = 0
            for track, unit in batch:
                if track.future.done():
                    position += unit is not None
                elif unit is None:
                    track.finish()
                else:
                    track.add(vectors[position], unit.weight)
                    position += 1

    def _next_batch(self) -> list[tuple[_Track, Unit | None]]:
        """At least one item, and as many more as wait, up to a full batch."""
        batch = []
        item = self._queue.get()
        while item is not None:
            batch.append(item)
            if sum(unit is not None for _, unit in batch) >= self.encoder.batch_units:
                break
            try:
                item = self._queue.get_nowait()
            except queue.Empty:
                break
        return batch
