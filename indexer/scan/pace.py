"""Decides whether the recordings of a run are heard roughly first, from how long the first ones took.

Hearing a large library takes days. A few units of each recording tell most of it in a fraction of the time, so pages,
similarity and genres are there early; what was heard roughly is heard whole afterwards.
"""

import time
from collections.abc import Callable

FIRST = 16  # recordings that are heard whole before their pace says anything


class Pace:
    """The pace of one run. One thread calls it."""

    def __init__(
        self, rough_after_s: float, files_left: Callable[[], int], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """``rough_after_s``: how long the files that are left may take without being heard roughly; 0: no time."""
        self._rough_after_s = rough_after_s
        self._files_left = files_left
        self._clock = clock
        self._rough = rough_after_s == 0
        self._began_s: float | None = None  # when the first recording was embedded: loading a model is not its pace
        self._heard = self._finished = 0

    def heard(self) -> None:
        """Count an embedded recording."""
        if self._began_s is None:
            self._began_s, self._finished = self._clock(), 0
        self._heard += 1

    def finished(self) -> None:
        """Count a file that is through all stages; most files of a later scan need no hearing."""
        self._finished += 1

    def is_rough(self) -> bool:
        """Whether the next recording is heard roughly; once it is so, it stays so."""
        if not self._rough and self._began_s is not None and self._heard > FIRST and self._finished:
            file_s = (self._clock() - self._began_s) / self._finished
            self._rough = file_s * self._files_left() > self._rough_after_s
        return self._rough
