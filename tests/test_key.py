"""The key of a track: on chords of a known key, under bad input; and how keys are spelled and which mix."""

import numpy as np
import pytest

from indexer.analysis import key as key_module
from indexer.analysis.camelot import Key, mixing_relation, parse_key
from indexer.analysis.key import KeyEstimate, KeyMeter

RATE_HZ = 44_100
A_MINOR = ((0, 3, 7), (-4, 0, 3), (3, 7, 10), (-2, 2, 5))  # i VI III VII, in semitones over the tonic
C_MAJOR = ((0, 4, 7), (5, 9, 12), (7, 11, 14), (0, 4, 7))  # I IV V I
A3_HZ = 220.0


def tone(hz: float, seconds: float, rate_hz: int = RATE_HZ) -> np.ndarray:
    """A decaying sawtooth of the harmonics below 3 kHz."""
    t = np.arange(round(seconds * rate_hz)) / rate_hz
    harmonics = np.arange(1, int(3000 / hz))
    return np.sum(np.sin(2 * np.pi * hz * np.outer(harmonics, t)) / harmonics[:, None], axis=0) * np.exp(-t)


def chords(degrees=A_MINOR, tonic: float = 0, seconds: float = 8, rate_hz: int = RATE_HZ) -> np.ndarray:
    """Chords of a second each with their bass, (n,) float32; ``tonic`` in semitones over A."""
    bars = []
    for chord in degrees:
        hz = [A3_HZ * 2 ** ((tonic + degree) / 12) for degree in chord] + [A3_HZ / 2 * 2 ** ((tonic + chord[0]) / 12)]
        bars.append(np.sum([tone(h, 1, rate_hz) for h in hz], axis=0))
    sound = np.tile(np.concatenate(bars), round(seconds / len(degrees)))
    return (0.5 * sound / np.abs(sound).max()).astype(np.float32)


def drums(seconds: float = 12) -> np.ndarray:
    """Kick and hats at 120 a minute, (n,) float32."""
    t = np.arange(RATE_HZ // 2) / RATE_HZ
    kick = np.sin(2 * np.pi * (50 * t + 5 * (1 - np.exp(-40 * t)))) * np.exp(-12 * t)
    hat = np.random.default_rng(2).standard_normal(len(t)) * np.exp(-60 * t)
    return np.tile(kick + 0.3 * np.roll(hat, len(t) // 2), round(2 * seconds)).astype(np.float32) * 0.5


def measure(sound: np.ndarray, rate_hz: int = RATE_HZ, block: int = RATE_HZ) -> KeyEstimate | None:
    meter = KeyMeter(rate_hz)
    for start in range(0, len(sound), block):
        meter.push(sound[start : start + block])
    return meter.finish()


@pytest.fixture(scope="module")
def a_minor() -> np.ndarray:
    return chords()


@pytest.mark.parametrize("rate_hz", [8_000, 11_025, 22_050, 37_123, 96_000])
def test_the_key_is_found_at_any_sample_rate(rate_hz):
    found = measure(chords(rate_hz=rate_hz), rate_hz)
    assert (found.camelot, found.name) == ("8A", "Am")


@pytest.mark.parametrize("tonic", [1, 4, 6, 9, 11])
def test_minor_keys_are_found(tonic):
    assert measure(chords(tonic=tonic)).name == Key((9 + tonic) % 12, True).name


@pytest.mark.parametrize("tonic", [0, 3, 5, 10])
def test_major_keys_are_found(tonic):
    assert measure(chords(C_MAJOR, tonic)).name == Key((9 + tonic) % 12, False).name


@pytest.mark.parametrize("cents", [-40, -30, 30, 45])
def test_a_detuned_record_has_its_key_and_says_its_tuning(cents):
    found = measure(chords(tonic=cents / 100))
    assert found.name == "Am"
    assert found.tuning_cents == pytest.approx(cents, abs=6)


def test_the_runner_up_is_the_next_probable_and_mixes_with_the_key(a_minor):
    found = measure(a_minor)
    assert 1 >= found.confidence > found.runner_up_confidence > 0
    assert found.confidence + found.runner_up_confidence <= 1
    assert mixing_relation(parse_key(found.camelot), parse_key(found.runner_up))


def test_a_track_under_ten_seconds_has_a_key_and_one_under_four_has_none(a_minor):
    assert measure(a_minor[: 6 * RATE_HZ]).name == "Am"
    assert measure(a_minor[: 3 * RATE_HZ]) is None


@pytest.mark.parametrize(
    "sound",
    [
        np.zeros(12 * RATE_HZ),
        np.full(12 * RATE_HZ, 0.5),
        np.random.default_rng(1).standard_normal(12 * RATE_HZ) * 0.1,
        np.cumsum(np.random.default_rng(1).standard_normal(12 * RATE_HZ)) * 1e-4,
        drums(),
        np.tile(tone(55, 0.5), 24),
        np.tile(tone(110, 0.25), 48),
        np.sin(2 * np.pi * 440 * np.arange(12 * RATE_HZ) / RATE_HZ),
    ],
    ids=["silence", "constant", "white noise", "brown noise", "drums", "one bass note", "a higher one", "sine"],
)
def test_what_has_no_tonality_has_no_key(sound):
    assert measure(sound.astype(np.float32)) is None


def test_drums_under_the_chords_and_loudness_change_no_key(a_minor):
    assert measure(a_minor + drums(8)).name == "Am"
    assert measure(a_minor * 1e6) == measure(a_minor) == measure(a_minor * 0.01)


def test_a_change_of_key_costs_confidence(a_minor):
    changed = np.concatenate([a_minor, a_minor, chords(tonic=6), chords(tonic=6)])
    assert measure(changed).confidence < 0.7 * measure(np.tile(a_minor, 4)).confidence


def test_silence_within_a_track_counts_for_nothing(a_minor):
    silence = np.zeros(20 * RATE_HZ, np.float32)
    assert measure(np.concatenate([silence, a_minor, silence])) == measure(a_minor)


def test_the_size_of_the_blocks_changes_nothing(a_minor):
    assert measure(a_minor, block=1000) == measure(a_minor)


def test_a_long_track_is_kept_in_as_many_stretches_as_a_short_one(a_minor, monkeypatch):
    monkeypatch.setattr(key_module, "_STRETCH_FRAMES", 4)
    monkeypatch.setattr(key_module, "_MAX_STRETCHES", 8)
    meter = KeyMeter(RATE_HZ)
    for _ in range(100):
        meter.push(a_minor[:RATE_HZ])
        meter.push(a_minor[RATE_HZ : 2 * RATE_HZ])
        assert len(meter._stretches) < 8
    assert meter.finish().confidence > 0


@pytest.mark.parametrize("rate_hz", [16_000, 32_000, 44_100, 48_000, 88_200, 192_000])
def test_the_short_transform_gives_what_the_whole_one_gives(rate_hz):
    """Up to what it leaves out, whatever lies above."""
    frame = np.random.default_rng(3).standard_normal(rate_hz // 2).astype(np.float32)
    whole = np.abs(np.fft.rfft(frame * np.hanning(len(frame))))
    short = key_module._LowSpectrum(len(frame), rate_hz)(frame)
    assert len(short) < len(whole) / 1.5
    heard = slice(20, 1_400)  # 40 to 2800 Hz
    np.testing.assert_allclose(short[heard], whole[heard], rtol=1e-3, atol=1e-4 * np.median(whole))


def test_numbers_that_are_none_cost_only_their_own_frame(a_minor):
    broken = a_minor.copy()
    broken[5 * RATE_HZ] = np.nan
    broken[6 * RATE_HZ] = np.inf
    assert measure(broken).name == "Am"


# Spelling


@pytest.mark.parametrize(
    ("text", "name"),
    [
        *((spelling, "Am") for spelling in ("Am", "am", "A min", "A minor", "Amin", "A-minor", "a-moll", "A_minor")),
        *((spelling, "Am") for spelling in ("8A", "8a", "08A", " 8 A ", "1m", "01m", "8A / Am", "Am - 128", "Am (8A)")),
        *((spelling, "C") for spelling in ("C", "C maj", "Cmaj", "C major", "C-Dur", "8B", "1d", "CM")),
        *((spelling, "G#m") for spelling in ("G#m", "G♯m", "Abm", "A♭m", "A flat minor", "gis-moll", "as moll", "1A")),
        *((spelling, "Bb") for spelling in ("Bb", "bb", "B♭ major", "A#", "B-Dur", "6B")),
        *((spelling, "Bm") for spelling in ("Bm", "h-moll", "Cbm", "10A", "3m")),
        *((spelling, "F#m") for spelling in ("F sharp minor", "Gbm", "fis-moll", "11A", "4m")),
    ],
)
def test_spellings_of_a_key(text, name):
    assert parse_key(text).name == name


@pytest.mark.parametrize("text", [None, "", "0", "o", "a", "13A", "0A", "8C", "H", "Am7", "minor", "all", "A" * 10_000])
def test_what_names_no_key(text):
    assert parse_key(text) is None


def test_both_notations_name_all_24_keys_once():
    keys = [Key(tonic, minor) for tonic in range(12) for minor in (True, False)]
    assert {key.camelot for key in keys} == {f"{n}{letter}" for n in range(1, 13) for letter in "AB"}
    for key in keys:
        assert parse_key(key.camelot) == parse_key(key.name) == key


@pytest.mark.parametrize(
    ("to", "relation"),
    [("8A", "same key"), ("8B", "relative major"), ("9A", "a fifth up"), ("7A", "a fifth down")]
    + [(other, None) for other in ("10A", "9B", "7B", "2A", "2B")],
)
def test_the_keys_that_mix_with_a_minor(to, relation):
    assert mixing_relation(parse_key("8A"), parse_key(to)) == relation


def test_the_wheel_is_round():
    assert mixing_relation(parse_key("12A"), parse_key("1A")) == "a fifth up"
    assert mixing_relation(parse_key("1B"), parse_key("12B")) == "a fifth down"
