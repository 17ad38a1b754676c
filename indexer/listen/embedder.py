"""Turns the audio of many recordings into one vector each: batches units across recordings and keeps running means.

Owns the one thread that calls the encoder. Memory does not grow with a recording's length: of its units only a running
mean and a bounded trajectory are kept. Files are decoded by a child process. Stores nothing and knows no head; results
come back as futures.
"""

import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np

from indexer.analysis.analyser import Analysis
from indexer.encoders.encoder import Encoder, Unit
from indexer.encoders.trajectory import Collector, Trajectory
from indexer.errors import TruncatedError
from indexer.files.children.worker import Worker
from indexer.listen.units import GAP, is_silent, sounding, spread

ROUGH_UNITS = 8  # that are embedded of a recording which is heard roughly
EXCERPT_LEEWAY_S = 1.0  # of an excerpt beyond a unit's length, for the context that an encoder takes
QUEUED_BATCHES = 3  # how far decoding may run ahead of the encoder

# (blocks of audio, their sample rate in Hz) -> the same blocks. Sees a file's audio before the encoder does; an error
# that it raises reaches the caller of embed_file.
Watch = Callable[[Iterable[np.ndarray], int], Iterable[np.ndarray]]


@dataclass(frozen=True, slots=True)
class TrackEmbedding:
    """What the encoder made of one recording."""

    vector: np.ndarray  # (width,) float32: mean over time
    units: int  # that were embedded
    trajectory: Trajectory
    duration_s: float  # of the decoded audio
    truncated: str | None = None  # how the file shows that it lost its end
    words: tuple[np.ndarray, Trajectory] | None = None  # mean of its units' audio vectors, and their trajectory


class _Mean:
    """The running weighted mean of one recording's unit vectors, and their trajectory."""

    def __init__(self, width: int, unit_s: float) -> None:
        self._sum = np.zeros(width)
        self._weight = 0
        self._trajectory = Collector(unit_s)

    def add(self, vector: np.ndarray, weight: int) -> None:
        """Add the next unit's vector, (width,); weight 0 marks a unit that is not embedded."""
        self._sum += vector.astype(np.float64) * weight
        self._weight += weight
        self._trajectory.add(vector, weight)

    def finish(self) -> tuple[np.ndarray, Trajectory]:
        """The mean (width,) float32 and the trajectory around it. Raises ArithmeticError where it is not finite."""
        vector = (self._sum / self._weight).astype(np.float32)
        if not np.isfinite(vector.astype(np.float16)).all():
            raise ArithmeticError("the encoder gave numbers that are not finite")
        return vector, self._trajectory.finish(vector)


class _Track:
    """What the encoder made of one recording so far."""

    def __init__(self, encoder: Encoder, unit_s: float) -> None:
        self.future: Future[TrackEmbedding] = Future()
        self._mean = _Mean(encoder.width, unit_s)
        self._words = _Mean(encoder.words_width, unit_s) if encoder.words_width else None
        self._width, self._row_width = encoder.width, encoder.width + encoder.words_width
        self._units = 0
        self.duration_s = 0.0  # known once all audio is handed over, like the next
        self.truncated: str | None = None

    def skip(self) -> None:
        """Count a unit that is not embedded."""
        self._add(np.zeros(self._row_width, np.float32), 0, 0)

    def add(self, row: np.ndarray, weight: int) -> None:
        """Add the next unit: its vector, and its audio vector behind it."""
        self._units += 1
        self._add(row, weight, 1)

    def finish(self) -> None:
        """Settle the future: with the embedding, or with a ValueError or ArithmeticError."""
        if self._units == 0:
            self.future.set_exception(ValueError("too short for the encoder"))
            return
        try:
            vector, trajectory = self._mean.finish()
            words = self._words.finish() if self._words else None
        except ArithmeticError as e:
            self.future.set_exception(e)
            return
        self.future.set_result(TrackEmbedding(vector, self._units, trajectory, self.duration_s, self.truncated, words))

    def _add(self, row: np.ndarray, weight: int, words_weight: int) -> None:
        self._mean.add(row[: self._width], weight)
        if self._words:  # a unit counts once there, however long it is
            self._words.add(row[self._width :], words_weight)


class _Recording:
    """Cuts one recording into units as its audio arrives, and counts its length.

    Of a file that lost its end, what is there is the recording; ``truncated`` is set then.
    """

    def __init__(self, encoder: Encoder, blocks: Iterable[np.ndarray]) -> None:
        self._frames = 0
        self._encoder = encoder
        self._blocks = blocks
        self.truncated: str | None = None

    @property
    def duration_s(self) -> float:
        """Seconds of audio so far."""
        return self._frames / self._encoder.sample_rate_hz

    def __iter__(self) -> Iterator[Unit]:
        cutter = self._encoder.cutter()
        try:
            for block in self._blocks:
                self._frames += len(block)
                yield from cutter.push(block)
        except TruncatedError as error:
            self.truncated = error.reason
        yield from cutter.finish()


class Embedder:
    """Runs an encoder in a thread of its own, on batches filled with units of several recordings."""

    def __init__(self, encoder: Encoder, units: int | None = None) -> None:
        """``units``: how many of a recording to embed at most, evenly spread over it; None: all."""
        self.encoder = encoder
        self._units = units
        self.busy_s = 0.0  # seconds that the encoder worked
        self._queue: queue.Queue[tuple[_Track, Unit | None] | None] = queue.Queue(QUEUED_BATCHES * encoder.batch_units)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="encoder", daemon=True)
        self._thread.start()

    def embed(
        self, blocks: Iterable[np.ndarray], *, waited: Callable[[float], None] = lambda _seconds: None
    ) -> Future[TrackEmbedding]:
        """Hand over one recording's audio, blocks of (n,) float32; returns its future once all is handed over.

        Waits while the encoder is behind, and calls ``waited`` with the seconds. An error of ``blocks`` passes through
        and drops the recording.
        """
        return self._embed(blocks, self._units, waited)

    def _embed(
        self, blocks: Iterable[np.ndarray], units: int | None, waited: Callable[[float], None]
    ) -> Future[TrackEmbedding]:
        """``units``: how many to embed at most; None: all."""
        recording = _Recording(self.encoder, blocks)
        if units is None:
            chosen, segment_s = sounding(recording), self.encoder.unit_s
        else:
            few = spread(recording, units)
            chosen, segment_s = iter(few), recording.duration_s / max(1, len(few))
        track = _Track(self.encoder, segment_s)
        for unit in chosen:
            waited(self._put(track, unit))
        track.duration_s, track.truncated = recording.duration_s, recording.truncated
        waited(self._put(track, None))
        return track.future

    def embed_roughly(
        self, worker: Worker, path: bytes, *, waited: Callable[[float], None] = lambda _seconds: None
    ) -> Future[TrackEmbedding]:
        """Like ``embed_file``, of ROUGH_UNITS units at most; only these are decoded where that is safe.

        The result's ``duration_s`` is then that of what was decoded, and nothing is known of a lost end.
        """
        count, rate_hz = min(ROUGH_UNITS, self._units or ROUGH_UNITS), self.encoder.sample_rate_hz
        found = worker.excerpts(
            path, sample_rate_hz=rate_hz, count=count, seconds=self.encoder.unit_s + EXCERPT_LEEWAY_S
        )
        pieces = [(piece, unit) for _, piece in found or () if (unit := self._first_unit(piece)) is not None]
        if found is None or not pieces:  # unsafe, or silent everywhere
            return self._embed(worker.decode(path, sample_rate_hz=rate_hz), count, waited)
        start_s, last = found[-1]
        track = _Track(self.encoder, (start_s + len(last) / rate_hz) / len(pieces))
        for _, unit in pieces:
            waited(self._put(track, unit))
        track.duration_s = sum(len(piece) for piece, _ in pieces) / rate_hz
        waited(self._put(track, None))
        return track.future

    def _first_unit(self, samples: np.ndarray) -> Unit | None:
        """The first unit of these samples, unless it is silent."""
        cutter = self.encoder.cutter()
        unit = next(iter(cutter.push(samples) or cutter.finish()), None)
        return None if unit is None or is_silent(unit) else unit

    def embed_file(
        self,
        worker: Worker,
        path: bytes,
        *,
        watch: Watch = lambda blocks, _rate_hz: blocks,
        waited: Callable[[float], None] = lambda _seconds: None,
        analysed: Callable[[Analysis], None] | None = None,
    ) -> Future[TrackEmbedding]:
        """Like ``embed``, for a file that the worker's child process decodes. Raises FileError.

        ``analysed``: see ``Worker.decode``; it is called before this returns.
        """
        rate_hz = self.encoder.sample_rate_hz
        blocks = worker.decode(path, sample_rate_hz=rate_hz, analysed=analysed)
        return self.embed(watch(blocks, rate_hz), waited=waited)

    def close(self) -> None:
        """Stop after the current batch; recordings that are not finished are dropped."""
        self._stopped.set()
        with self._queue.mutex:
            self._queue.queue.clear()
            self._queue.not_full.notify_all()
        self._queue.put(None)
        self._thread.join()

    def _put(self, track: _Track, unit: Unit | None) -> float:
        """Queue a unit, or None for the end of the track; returns the seconds that it waited for room."""
        if self._stopped.is_set():
            raise InterruptedError("the scan is stopping")
        started_s = time.monotonic()
        self._queue.put((track, unit))
        return time.monotonic() - started_s

    def _run(self) -> None:
        while not self._stopped.is_set():
            batch = self._next_batch()
            units = [unit for _, unit in batch if unit and unit is not GAP]
            started_s = time.monotonic()
            try:
                vectors = self.encoder.encode(units) if units else ()
            except Exception as e:  # any failure of the device belongs to the recordings in this batch
                for track in {id(t): t for t, _ in batch}.values():
                    if not track.future.done():
                        track.future.set_exception(e)
                continue
            finally:
                self.busy_s += time.monotonic() - started_s
            rows = iter(vectors)
            for track, unit in batch:
                vector = next(rows) if unit and unit is not GAP else None
                if track.future.done():  # the recording failed in an earlier batch
                    continue
                if unit is None:
                    track.finish()
                elif vector is None:
                    track.skip()
                else:
                    track.add(vector, unit.weight)

    def _next_batch(self) -> list[tuple[_Track, Unit | None]]:
        """At least one item, and as many more as are queued, up to a full batch."""
        batch = []
        units = 0
        item = self._queue.get()
        while item is not None:
            batch.append(item)
            units += item[1] is not None and item[1] is not GAP
            if units >= self.encoder.batch_units:
                break
            try:
                item = self._queue.get_nowait()
            except queue.Empty:
                break
        return batch
