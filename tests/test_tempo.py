"""The tempo meter: known tempi, sounds without a pulse, changing tempo, odd input, bounded memory."""

import tracemalloc

import numpy as np
import pytest

from indexer.analysis import tempo
from indexer.analysis.tempo import RELATIVES, TOLERANCE, Tempo, TempoMeter
from indexer.encoders.synthesis import SAMPLE_RATE_HZ, make_track, track_tempo_bpm

RATE_HZ = 22_050  # half the samples, the same numbers


def measured(samples: np.ndarray, rate_hz: int = RATE_HZ) -> Tempo | None:
    meter = TempoMeter(rate_hz)
    for start in range(0, len(samples), rate_hz):
        meter.push(samples[start : start + rate_hz])
    return meter.finish()


def clicks(times_s: np.ndarray, duration_s: float, rate_hz: int = RATE_HZ) -> np.ndarray:
    """A burst of noise at each of the times."""
    length = rate_hz // 15
    burst = np.random.default_rng(0).standard_normal(length) * np.exp(-np.arange(length) * 90 / rate_hz)
    out = np.zeros(round(duration_s * rate_hz), np.float32)
    for start in (np.asarray(times_s) * rate_hz).astype(int):
        rest = out[start : start + length]
        rest += burst[: len(rest)]
    return out


def beats(bpm: float, duration_s: float, rate_hz: int = RATE_HZ) -> np.ndarray:
    return clicks(np.arange(0, duration_s, 60 / bpm), duration_s, rate_hz)


def is_near(bpm: float, true_bpm: float, share: float = TOLERANCE) -> bool:
    return abs(bpm / true_bpm - 1) < share


@pytest.mark.parametrize("genre", ["drum and bass", "house", "techno", "trance"])
def test_a_tracks_tempo_is_its_first_candidate_to_a_tenth_of_a_percent(genre):
    found = measured(make_track(genre, 31, 30.0).mean(1), SAMPLE_RATE_HZ)
    assert found is not None
    assert is_near(found.candidates[0][0], track_tempo_bpm(genre, 31), 0.001)
    assert found.confidence > 0.9
    assert found.range_bpm is None


@pytest.mark.parametrize("bpm", [40, 60, 87, 128, 174, 220])
def test_a_steady_tempo_is_among_the_candidates(bpm):
    found = measured(beats(bpm, 40))
    assert found is not None
    assert any(is_near(candidate, bpm, 0.001) for candidate, _ in found.candidates)


def test_candidates_are_the_best_tempo_its_relatives_and_few_others():
    found = measured(beats(120, 40))
    assert found is not None
    best_bpm = found.candidates[0][0]
    bpms = [bpm for bpm, _ in found.candidates]
    within = [r * best_bpm for r in RELATIVES if tempo.SLOWEST_BPM <= r * best_bpm <= tempo.FASTEST_BPM]
    assert all(any(is_near(bpm, wanted, 0.001) for bpm in bpms) for wanted in within)
    assert len(bpms) <= len(within) + 2
    assert all(0 <= score <= 1 for _, score in found.candidates)


def test_a_swinging_beat_keeps_its_tempo():
    on = np.arange(0, 40, 0.5)
    found = measured(clicks(np.concatenate([on, on + 0.5 * 2 / 3]), 40))
    assert found is not None
    assert is_near(found.candidates[0][0], 120, 0.001)


def test_a_loose_drummer_has_a_tempo_and_less_confidence_than_a_machine():
    machine = measured(beats(120, 60))
    loose = measured(clicks(np.arange(0.5, 60, 0.5) + np.random.default_rng(0).normal(0, 0.02, 119), 60))
    assert machine is not None
    assert loose is not None
    assert is_near(loose.candidates[0][0], 120, 0.005)
    assert loose.confidence < machine.confidence


def test_a_drifting_tempo_has_a_number_and_a_range():
    found = measured(clicks(np.cumsum(0.5 * (1 + 0.03 * np.sin(np.arange(300) / 12))), 120))
    assert found is not None
    assert found.range_bpm is not None
    assert is_near(found.candidates[0][0], 120)
    slowest, fastest = found.range_bpm
    assert 115 < slowest < 119 < 121 < fastest < 125


def test_two_tempi_have_a_range_and_no_number():
    spans_s = np.concatenate([np.full(250, 60 / 100), np.full(350, 60 / 140)])
    found = measured(clicks(np.cumsum(spans_s), 300))
    assert found is not None
    assert found.range_bpm is not None
    assert found.candidates == ()
    assert is_near(found.range_bpm[0], 100)
    assert is_near(found.range_bpm[1], 140)


def random_noise(duration_s: float = 30.0) -> np.ndarray:
    return np.random.default_rng(1).standard_normal(round(duration_s * RATE_HZ)).astype(np.float32)


WITHOUT_PULSE = {
    "silence": np.zeros(30 * RATE_HZ, np.float32),
    "constant": np.ones(30 * RATE_HZ, np.float32),
    "noise": random_noise(),
    "tone": np.sin(2 * np.pi * 220 * np.arange(30 * RATE_HZ) / RATE_HZ).astype(np.float32),
    "random clicks": clicks(np.cumsum(np.random.default_rng(2).exponential(0.4, 75)), 30),
    "swelling noise": random_noise() * np.interp(np.arange(30 * RATE_HZ), [0, 15 * RATE_HZ, 30 * RATE_HZ], [0, 1, 0]),
    "extreme": np.sign(random_noise()) * np.float32(1e6),
    "vanishing": random_noise() * np.float32(1e-30),
    "one second": beats(120, 1),
    "nothing": np.zeros(0, np.float32),
}


@pytest.mark.parametrize("name", WITHOUT_PULSE)
@pytest.mark.filterwarnings("error")
def test_without_a_pulse_there_is_no_tempo(name):
    assert measured(WITHOUT_PULSE[name]) is None


def test_ambient_music_without_beats_has_no_tempo():
    assert measured(make_track("ambient", 0, 30.0).mean(1), SAMPLE_RATE_HZ) is None


@pytest.mark.parametrize("duration_s", [6.5, 9.9, 15])
def test_a_short_recording_has_a_tempo(duration_s):
    found = measured(beats(128, duration_s))
    assert found is not None
    assert is_near(found.candidates[0][0], 128, 0.005)


@pytest.mark.parametrize("rate_hz", [1_000, 8_000, 11_025, 37_801, 48_000, 192_000])
@pytest.mark.filterwarnings("error")
def test_the_tempo_does_not_depend_on_the_sample_rate(rate_hz):
    found = measured(beats(128, 12, rate_hz), rate_hz)
    assert found is not None
    assert is_near(found.candidates[0][0], 128, 0.002)


def test_the_tempo_does_not_depend_on_the_level():
    sound = beats(128, 12)
    assert measured(sound * np.float32(1e6)) == measured(sound) == measured(sound * np.float32(1e-4))


def test_the_tempo_does_not_depend_on_how_the_samples_arrive():
    sound = beats(128, 12)
    meter = TempoMeter(RATE_HZ)
    for part in np.split(sound, np.cumsum(np.random.default_rng(3).integers(0, 3000, 60))):
        meter.push(part)
    assert meter.finish() == measured(sound)


def test_a_long_mix_takes_no_more_memory_than_a_short_one(monkeypatch):
    monkeypatch.setattr(tempo, "_SEGMENTS", 4)
    meter = TempoMeter(8_000)
    second = beats(120, 1, 8_000)
    held = []
    tracemalloc.start()
    try:
        for _ in range(3):
            for _ in range(150):
                meter.push(second)
            held.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert (
        held[2] < held[0] + 50_000
    )  # a window's onsets and autocorrelation; 150 s more would be 75,000 without a bound
    found = meter.finish()
    assert found is not None
    assert is_near(found.candidates[0][0], 120, 0.001)
