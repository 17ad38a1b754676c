"""Measures how loud a recording is, by ITU-R BS.1770 and EBU R 128: integrated loudness, its range, its course.

The arithmetic is FFmpeg's (the filter ebur128, through PyAV), which passes the EBU's test signals. Loudness is how loud
a recording was mastered; it says nothing about how energetic the music is, so it is not called energy.
"""

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

_LAYOUTS = {1: "mono", 2: "stereo", 3: "3.0", 4: "quad", 5: "5.0", 6: "5.1", 7: "6.1", 8: "7.1"}  # by channels
# Mono is heard from both speakers: as loud as the same in stereo.
_OPTIONS = "metadata=1:framelog=quiet:dualmono=true"
_KEY = "lavfi.r128."
_SILENT_LUFS, _LOUDEST_LUFS = -70.0, 10.0  # the gate of BS.1770, and what the filter counts up to
_RANGE_S = 60.0  # EBU Tech 3342: in less, a loudness range says little
_POINTS = 64  # of the course at least, in a recording long enough


@dataclass(frozen=True, slots=True)
class Loudness:
    """The loudness of a recording.

    integrated_lufs: of the whole. range_lu: between its quiet and its loud passages, None for less than a minute.
    course_lufs: 64 to 127 means over equal spans in order, fewer in less than 6.4 s; -70 where it is silent.
    """

    integrated_lufs: float
    range_lu: float | None
    course_lufs: tuple[float, ...]


class LoudnessMeter:
    """Takes all channels of a recording at its own rate; memory does not grow with its length."""

    HEARS_CHANNELS = True

    def __init__(self, rate_hz: int) -> None:
        self._rate_hz = rate_hz
        self._graph: Any = None  # FFmpeg's filter, made when the channels are known
        self._samples = 0
        self._last: dict[str, str] = {}  # what the filter said last
        self._powers: list[float] = []  # of equal spans, each of so many momentary values
        self._per_power = 1
        self._pending: list[float] = []

    def push(self, samples: np.ndarray) -> None:
        """Take (channels, n) float32 samples, n at most one second; nothing is measured above 8 channels."""
        import av

        layout = _LAYOUTS.get(len(samples))
        if layout is None or not samples.shape[1]:
            return
        kind = "flt" if len(samples) == 8 else "fltp"  # PyAV cannot fill 8 planes
        if self._graph is None:
            self._graph = _filter(self._rate_hz, kind, layout)
        planes = np.ascontiguousarray(samples if kind == "fltp" else samples.T.reshape(1, -1), np.float32)
        frame = av.AudioFrame.from_ndarray(planes, format=kind, layout=layout)
        frame.sample_rate, frame.time_base = self._rate_hz, Fraction(1, self._rate_hz)
        frame.pts = self._samples
        self._samples += samples.shape[1]
        self._graph.push(frame)
        while True:
            try:
                heard = self._graph.pull()
            except (BlockingIOError, EOFError):
                return
            self._last = dict(heard.metadata)
            self._add(10 ** (_number(self._last, "M") / 10))

    def finish(self) -> Loudness | None:
        """The loudness; None for silence and less than 0.4 s of sound."""
        integrated_lufs = _number(self._last, "I")
        if not _SILENT_LUFS < integrated_lufs < _LOUDEST_LUFS:
            return None
        is_long = self._samples >= _RANGE_S * self._rate_hz
        return Loudness(
            round(integrated_lufs, 2),
            round(_number(self._last, "LRA"), 2) if is_long else None,
            tuple(round(max(_SILENT_LUFS, 10 * math.log10(power)), 1) for power in self._powers),
        )

    def _add(self, power: float) -> None:
        self._pending.append(power)
        if len(self._pending) < self._per_power:
            return
        self._powers.append(sum(self._pending) / self._per_power)
        self._pending = []
        if len(self._powers) == 2 * _POINTS:
            self._powers = [(a + b) / 2 for a, b in zip(self._powers[::2], self._powers[1::2], strict=True)]
            self._per_power *= 2


def _filter(rate_hz: int, kind: str, layout: str) -> Any:
    """FFmpeg's filter between an entrance and an exit; PyAV is imported here, in the reader process."""
    from av.filter import Graph

    graph = Graph()
    graph.threads = 1
    source = graph.add_abuffer(sample_rate=rate_hz, format=kind, layout=layout, time_base=Fraction(1, rate_hz))
    meter, sink = graph.add("ebur128", _OPTIONS), graph.add("abuffersink")
    source.link_to(meter)
    meter.link_to(sink)
    graph.configure()
    return graph


def _number(said: dict[str, Any], name: str) -> float:
    """A value that the filter said; that of silence where it said none."""
    value = float(said.get(_KEY + name, _SILENT_LUFS))
    return value if math.isfinite(value) else _SILENT_LUFS
