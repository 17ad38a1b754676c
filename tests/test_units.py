"""Which units of a recording are embedded: silence never, or evenly spread ones."""

import numpy as np
import pytest

from indexer.encoders.encoder import Unit
from indexer.encoders.trajectory import Collector
from indexer.listen.embedder import Embedder
from indexer.listen.units import GAP, SILENCE_PEAK, is_silent, sounding, spread


def unit(value: float, weight: int = 1) -> Unit:
    return Unit(np.full(4, value, np.float32), weight)


def shape(units) -> str:
    return "".join("." if u is GAP else "0" if is_silent(u) else "x" for u in units)


@pytest.mark.parametrize(
    ("peaks", "expected"),
    [
        ("xxx", "xxx"),
        ("00xx", "..xx"),
        ("xx000", "xx..."),
        ("x00x0x", "x..x.x"),
        ("0", "0"),
        ("000", "0.."),
        ("", ""),
    ],
)
def test_silent_units_leave_gaps_and_a_silent_recording_keeps_one(peaks, expected):
    assert shape(sounding(unit(0.5 if c == "x" else 0.0) for c in peaks)) == expected


def test_silence_is_what_dither_reaches_and_music_does_not():
    assert is_silent(unit(2 / 32_768))
    assert not is_silent(unit(4 / 32_768))
    assert not is_silent(unit(-SILENCE_PEAK))
    assert is_silent(GAP)


@pytest.mark.parametrize("total", [1, 4, 5, 9, 10, 11, 50, 1000])
@pytest.mark.parametrize("count", [1, 5, 10])
def test_spread_units_cover_the_recording_evenly(total, count):
    chosen = [int(u.samples[0]) for u in spread((unit(n + 1) for n in range(total)), count)]
    assert len(chosen) == min(total, count)
    assert chosen == sorted(set(chosen))
    if (
        total > count
    ):  # each stands for its part of the recording: never further from its middle than half a part and a step
        middles = (np.arange(count) + 0.5) * total / count + 0.5
        assert np.abs(np.asarray(chosen) - middles).max() <= total / count


def test_spread_takes_no_silence_and_holds_twice_as_many_at_most():
    alive = 0
    most = 0

    class Counted(np.ndarray):
        def __del__(self):
            nonlocal alive
            alive -= 1

    def units():
        nonlocal alive, most
        for n in range(200):
            alive += 1
            most = max(most, alive)
            yield Unit(np.full(4, 0.0 if n % 2 else 1.0, np.float32).view(Counted), 1)

    assert len(spread(units(), 5)) == 5
    assert most <= 2 * 5 + 3  # and the one in hand, and the first silent one


class Counting:
    """An encoder whose vectors are the units' own first samples; every unit is four samples."""

    id, name, width, words_width, sample_rate_hz, unit_s, batch_units = "x", "x", 2, 0, 4, 1.0, 3
    device, precision, engine = "cpu", "fp32", "none"

    def __init__(self):
        self.encoded = []

    def cutter(self):
        class Cutter:
            def push(self, samples):
                return [Unit(samples[n : n + 4], 1) for n in range(0, len(samples), 4)]

            def finish(self):
                return []

        return Cutter()

    def encode(self, units):
        self.encoded += [float(u.samples[0]) for u in units]
        return np.stack([[u.samples[0], 1.0] for u in units]).astype(np.float32)


def embed(values, units=None):
    encoder = Counting()
    embedder = Embedder(encoder, units)
    try:
        found = embedder.embed([np.repeat(np.asarray(values, np.float32), 4)]).result(timeout=10)
    finally:
        embedder.close()
    return encoder, found


def test_silence_costs_no_encoder_call_and_does_not_dilute_the_vector():
    encoder, found = embed([0, 0, 0.2, 0.4, 0, 0.6, 0])
    assert encoder.encoded == pytest.approx([0.2, 0.4, 0.6])
    assert found.vector == pytest.approx([0.4, 1.0])
    assert (found.units, found.duration_s) == (3, 7.0)
    segments = (
        found.vector + found.trajectory.coefficients @ found.trajectory.basis
    )  # silence lies at the recording's own vector
    assert segments[:, 0] == pytest.approx([0.4, 0.4, 0.2, 0.4, 0.4, 0.6, 0.4], abs=1e-3)


def test_a_silent_recording_has_the_vector_of_silence():
    encoder, found = embed([0, 0, 0])
    assert (encoder.encoded, found.units) == ([0.0], 1)


def test_few_units_stretch_over_the_whole_timeline():
    encoder, found = embed(np.arange(1, 21) / 100, units=4)
    assert len(encoder.encoded) == found.units == 4
    assert (len(found.trajectory.coefficients), found.trajectory.segment_s, found.duration_s) == (4, 5.0, 20.0)


def test_segments_that_merge_keep_what_is_known_of_them():
    collector = Collector(1.0)
    for n in range(1000):
        collector.add(np.asarray([n], np.float32), n % 2)
    trajectory = collector.finish(np.asarray([500.0], np.float32))
    segments = 500 + trajectory.coefficients @ trajectory.basis
    assert segments[0, 0] == pytest.approx(2, abs=0.5)  # units 0 to 3, of which 1 and 3 are known
