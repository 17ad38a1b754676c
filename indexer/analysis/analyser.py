"""Joins the meters: hears a recording once, as it is decoded, and gives what each of them measured.

A meter is made for a sample rate, takes samples, and gives a small dataclass of plain values, or None where it has
nothing honest to say. Whatever a meter raises costs its own measurement and never the decoding. All together are given
so much computing; where it is spent, what was heard until then counts.
"""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np

from indexer.analysis.bandwidth import LOSSLESS_CODECS, Bandwidth, BandwidthMeter
from indexer.analysis.fingerprint import Fingerprint, FingerprintMeter
from indexer.analysis.key import KeyEstimate, KeyMeter
from indexer.analysis.loudness import Loudness, LoudnessMeter
from indexer.analysis.plain import MOST_CHARS, from_plain, to_plain
from indexer.analysis.tempo import Tempo, TempoMeter
from indexer.analysis.tempo_choice import choose_tempo

_NOTHING: Mapping[str, Any] = MappingProxyType({})
VERSION = 2  # of all measurements; recordings with those of another version are measured anew
MOST_CPU_S = 180.0  # for one recording: some ten hours of sound
MOST_PARTS = 4  # how often sample rate or channels may change in a file; of its parts the longest counts


class Meter(Protocol):
    """What measures one thing. With ``HEARS_CHANNELS = True`` in its class it takes all channels, else their mean."""

    def __init__(self, rate_hz: int) -> None: ...

    def push(self, samples: np.ndarray, /) -> None:
        """Take the next samples: float32, (n,) or (channels, n), at most one second, no meter may keep the array."""

    def finish(self) -> Any:
        """What was measured, as a frozen dataclass of plain values; None where nothing can be said."""


# By the field of Analysis that they fill.
METERS: dict[str, type[Meter]] = {
    "tempo": TempoMeter, "key": KeyMeter, "loudness": LoudnessMeter, "bandwidth": BandwidthMeter,
    "fingerprint": FingerprintMeter,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Analysis:
    """What was measured in a recording; None for what could not be."""

    version: int
    heard_s: float  # of the part of the recording that was measured
    tempo: Tempo | None = None
    key: KeyEstimate | None = None
    loudness: Loudness | None = None
    bandwidth: Bandwidth | None = None
    fingerprint: Fingerprint | None = None  # kept in a table of its own
    failed: tuple[str, ...] = ()  # meters that raised, and what

    def facts(
        self, genres: Mapping[str, float] = _NOTHING, own_ranges: Mapping[str, Sequence[float]] = _NOTHING
    ) -> dict[str, float | int | str | None]:
        """What was measured under the names by which a person finds it, None for what could not be.

        ``genres``, ``own_ranges``: what chooses among the tempos, see ``choose_tempo``.
        """
        tempo = choose_tempo(self.tempo, genres, own_ranges)
        return {
            "tempo_bpm": round(tempo.bpm, 2) if tempo else None,
            "tempo_confidence": round(tempo.confidence, 4) if tempo else None,
            "key": self.key.camelot if self.key else None,
            "key_name": self.key.name if self.key else None,
            "key_confidence": round(self.key.confidence, 4) if self.key else None,
            "loudness_lufs": round(self.loudness.integrated_lufs, 1) if self.loudness else None,
            "bandwidth_hz": self.bandwidth.bandwidth_hz if self.bandwidth else None,
        }

    def lossy_suspect(self, codec: str | None) -> bool | None:
        """Whether a recording in this codec was lossy once, as far as its spectrum tells; None: cannot be said."""
        return self.bandwidth.is_lossy_edge if self.bandwidth and codec in LOSSLESS_CODECS else None

    def columns(self) -> dict[str, float | int | str | None]:
        """The values of the columns of the table ``analysis``."""
        return {
            "version": self.version,
            **self.facts(),
            "lossy_edge": int(self.bandwidth.is_lossy_edge) if self.bandwidth else None,
            "measured": json.dumps(to_plain(replace(self, fingerprint=None))),
        }

    def to_json(self) -> dict[str, Any]:
        """Plain values for another process or machine."""
        return to_plain(self)

    @classmethod
    def from_json(cls, found: object) -> "Analysis":
        """The inverse of ``to_json``. Raises ValueError for anything else."""
        return from_plain(cls, found)


class Analyser:
    """The meters for one recording."""

    def __init__(self) -> None:
        self.cpu_s_of = dict.fromkeys(METERS, 0.0)  # that each meter took so far
        self._part: _Part | None = None
        self._parts = 0
        self._longest = Analysis(VERSION, 0.0)

    @property
    def cpu_s(self) -> float:
        """Seconds of computing so far."""
        return sum(self.cpu_s_of.values())

    def hear(self, mono: np.ndarray, channels: np.ndarray, rate_hz: int) -> None:
        """Take the next samples: their mean (n,) and all channels (channels, n), float32. Never raises."""
        if self.cpu_s > MOST_CPU_S:
            return
        if self._part is None or self._part.form != (rate_hz, len(channels)):
            self._end_part()
            if self._parts < MOST_PARTS:
                self._parts += 1
                self._part = _Part(rate_hz, len(channels), self.cpu_s_of)
        if self._part is not None:
            self._part.hear(mono, channels)

    def finish(self) -> Analysis:
        """What was measured in what was heard."""
        self._end_part()
        return self._longest

    def _end_part(self) -> None:
        if self._part is not None and self._part.heard_s > self._longest.heard_s:
            self._longest = self._part.finish()
        self._part = None


class _Part:
    """A part of a recording with one sample rate and one number of channels, and its meters."""

    def __init__(self, rate_hz: int, channels: int, cpu_s_of: dict[str, float]) -> None:
        self._cpu_s_of = cpu_s_of
        self.form = rate_hz, channels
        self.heard_s = 0.0
        self._failed: dict[str, str] = {}
        self._meters: dict[str, Meter] = {}
        for name, kind in METERS.items():
            with self._apart(name):
                self._meters[name] = kind(rate_hz)

    def hear(self, mono: np.ndarray, channels: np.ndarray) -> None:
        self.heard_s += len(mono) / self.form[0]
        for name, meter in list(self._meters.items()):
            with self._apart(name):
                meter.push(channels if getattr(meter, "HEARS_CHANNELS", False) else mono)

    def finish(self) -> Analysis:
        found: dict[str, Any] = {}
        for name, meter in list(self._meters.items()):
            with self._apart(name):
                result = meter.finish()
                found[name] = None if result is None else from_plain(type(result), to_plain(result))
        return Analysis(VERSION, round(self.heard_s, 3), **found, failed=tuple(self._failed.values()))

    @contextmanager
    def _apart(self, name: str) -> Iterator[None]:
        """Keep what a meter raises to itself, and count its time; after an error it hears no more."""
        began_s = time.process_time()
        try:
            with np.errstate(all="ignore"):
                yield
        except Exception as error:
            self._meters.pop(name, None)
            self._failed[name] = f"{name}: {type(error).__name__}: {error}"[:MOST_CHARS]
        finally:
            self._cpu_s_of[name] += time.process_time() - began_s
