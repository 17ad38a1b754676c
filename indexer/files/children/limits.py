"""How much one operation on one file may take: seconds of computing, and seconds of sound.

Whoever starts a reader takes the limits from the settings; the reader counts. A file that is made so that a small thing
takes hours (57 days of silence in a megabyte, a table of millions of samples) costs no more than this.
"""

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from indexer.errors import LimitError

if TYPE_CHECKING:  # a reader starts faster without
    from indexer.config import Settings


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of one operation on one file."""

    audio_s: float
    cpu_s: float

    @classmethod
    def of(cls, settings: "Settings") -> "Limits":
        """What the settings say."""
        return cls(settings.max_audio_s, settings.max_read_cpu_s)


class Heartbeat(Protocol):
    """Called by work loops: tells that work goes on, and ends it with a LimitError when it takes too much."""

    def __call__(self, heard_s: float = 0.0, /) -> None:
        """``heard_s``: the seconds of sound that this pass over the file has decoded."""
        ...


def no_heartbeat(_heard_s: float = 0.0, /) -> None:
    """Whatever it takes."""


class Budget:
    """What is left of the limits for one operation, which begins now."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._ends_s = time.process_time() + limits.cpu_s

    def check(self, path: str, heard_s: float, beside_s: float = 0.0) -> None:
        """Raise LimitError where the operation has taken more than it may.

        ``beside_s``: seconds of computing that do not count, because something else limits them.
        """
        if heard_s > self._limits.audio_s:
            raise LimitError(path, _reason(f"it is longer than {_span(self._limits.audio_s)}", "max_audio_s"))
        if time.process_time() - beside_s > self._ends_s:
            took = f"reading it takes more than {_span(self._limits.cpu_s)} of computing"
            raise LimitError(path, _reason(took, "max_read_cpu_s"))


def _reason(what: str, setting: str) -> str:
    return f"{what}, the limit {setting} of the settings; left alone until it changes, or `scan --force` names it"


def _span(seconds: float) -> str:
    """Format as whole hours where it is some, else as seconds."""
    return f"{seconds / 3600:,.0f} h" if seconds >= 3600 and not math.fmod(seconds, 3600) else f"{seconds:,g} s"
