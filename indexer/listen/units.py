"""Chooses the units of a recording that are embedded: all with sound, or a few of them, evenly spread.

Pure functions over streams of units. Memory does not grow with the recording's length.
"""

from collections.abc import Iterable, Iterator

import numpy as np

from indexer.encoders.encoder import Unit

# Peak below which a unit is silence: -80 dB of full scale. The dither of a silent 16-bit recording reaches -84 dB.
SILENCE_PEAK = 1e-4
GAP = Unit(np.empty(0, np.float32), 0)  # stands in the timeline for a unit that is not embedded


def is_silent(unit: Unit) -> bool:
    """Whether the unit's peak lies below SILENCE_PEAK."""
    return bool(np.abs(unit.samples).max(initial=0.0) < SILENCE_PEAK)


def sounding(units: Iterable[Unit]) -> Iterator[Unit]:
    """The units, with GAP in place of each silent one.

    A recording that is all silence keeps its first unit, because every recording must have a vector.
    """
    first: Unit | None = None
    gaps = 0  # silent units before the first sound
    heard = False
    for unit in units:
        if is_silent(unit):
            first = first or unit
            if heard:
                yield GAP
            else:
                gaps += 1
            continue
        if not heard:
            heard = True
            yield from (GAP for _ in range(gaps))
        yield unit
    if first is not None and not heard:
        yield first
        yield from (GAP for _ in range(gaps - 1))


def spread(units: Iterable[Unit], count: int) -> list[Unit]:
    """At most ``count`` of the units with sound, evenly spread. Holds at most 2 * ``count`` of them at a time."""
    kept: list[Unit] = []
    step = 1  # every step-th unit is kept; doubled whenever 2 * count are held
    for number, unit in enumerate(unit for unit in sounding(units) if unit is not GAP):
        if number % step == 0:
            kept.append(unit)
        if len(kept) == 2 * count:
            kept, step = kept[::2], 2 * step
    if len(kept) <= count:
        return kept
    return [kept[int((n + 0.5) * len(kept) / count)] for n in range(count)]
