"""Loudness against the test signals of EBU Tech 3341 and 3342, and odd input."""

import numpy as np
import pytest

from indexer.analysis.loudness import Loudness, LoudnessMeter

RATE_HZ = 48_000


def tone(*steps: tuple[float, float], channels: int = 2, rate_hz: int = RATE_HZ) -> np.ndarray:
    """A sine of 1 kHz in every channel with (peak in dBFS, seconds) one after the other, (channels, n)."""
    level = np.concatenate([np.full(round(seconds * rate_hz), 10 ** (dbfs / 20)) for dbfs, seconds in steps])
    sine = level * np.sin(2 * np.pi * 1000 * np.arange(len(level)) / rate_hz)
    return np.tile(sine.astype(np.float32), (channels, 1))


def measured(samples: np.ndarray, rate_hz: int = RATE_HZ) -> Loudness | None:
    meter = LoudnessMeter(rate_hz)
    for start in range(0, samples.shape[1], rate_hz):
        meter.push(samples[:, start : start + rate_hz])
    return meter.finish()


# EBU Tech 3341, table 1, cases 1 to 5: all are to read their target within 0.1 LU.
@pytest.mark.parametrize(
    ("steps", "lufs"),
    [
        ([(-23, 20)], -23),
        ([(-33, 20)], -33),
        ([(-36, 10), (-23, 60), (-36, 10)], -23),
        ([(-72, 10), (-36, 10), (-23, 60), (-36, 10), (-72, 10)], -23),
        ([(-26, 20), (-20, 20.1), (-26, 20)], -23),
    ],
)
def test_integrated_loudness_is_that_of_the_ebus_signals(steps, lufs):
    assert measured(tone(*steps)).integrated_lufs == pytest.approx(lufs, abs=0.1)


# EBU Tech 3342, table 1, cases 1 to 4: within 1 LU.
@pytest.mark.parametrize(
    ("steps", "lu"),
    [
        ([(-20, 40), (-30, 40)], 10),
        ([(-20, 40), (-15, 40)], 5),
        ([(-40, 40), (-20, 40)], 20),
        ([(-50, 20), (-35, 20), (-20, 20), (-35, 20), (-50, 20)], 15),
    ],
)
def test_the_range_is_that_of_the_ebus_signals(steps, lu):
    assert measured(tone(*steps)).range_lu == pytest.approx(lu, abs=1)


def test_less_than_a_minute_has_no_range():
    assert measured(tone((-23, 20))).range_lu is None


def test_mono_is_as_loud_as_the_same_in_stereo():
    mono, stereo = (measured(tone((-23, 5), channels=channels)).integrated_lufs for channels in (1, 2))
    assert mono == pytest.approx(stereo, abs=0.02)


def test_the_course_follows_the_music():
    course = measured(tone((-40, 60), (-20, 60))).course_lufs
    assert 64 <= len(course) < 128
    half = len(course) // 2
    assert np.mean(course[: half - 2]) == pytest.approx(-40, abs=0.2)
    assert np.mean(course[half + 2 :]) == pytest.approx(-20, abs=0.2)


@pytest.mark.parametrize("rate_hz", [8_000, 11_025, 37_801, 96_000, 192_000])
def test_loudness_does_not_depend_on_the_sample_rate(rate_hz):
    assert measured(tone((-23, 3), rate_hz=rate_hz), rate_hz).integrated_lufs == pytest.approx(-23, abs=0.2)


@pytest.mark.parametrize("channels", range(1, 9))
def test_up_to_eight_channels_are_measured(channels):
    assert measured(tone((-23, 1), channels=channels)) is not None


@pytest.mark.parametrize(
    "samples",
    [
        np.zeros((2, 0), np.float32),
        np.zeros((2, 3 * RATE_HZ), np.float32),
        tone((-90, 3)),
        tone((-23, 0.3)),
        tone((-23, 3)) * np.float32(1e6),
        tone((-23, 1), channels=9),
    ],
    ids=["nothing", "silence", "too quiet", "too short", "impossibly loud", "nine channels"],
)
def test_what_cannot_be_measured_has_no_loudness(samples):
    assert measured(samples) is None
