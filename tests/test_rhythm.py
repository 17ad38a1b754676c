"""The rhythm encoder against an independent float64 implementation, and what its numbers mean."""

import hashlib

import numpy as np
import pytest

from indexer.encoders import rhythm
from indexer.encoders.encoder import Unit, track_vector
from indexer.encoders.load import load_encoder
from indexer.encoders.rhythm import (
    BANDS,
    FLOOR_SONE,
    MODULATIONS,
    SAMPLE_RATE_HZ,
    SEGMENT,
    SHORTEST,
    WIDTH,
    RhythmEncoder,
    sonogram,
)
from indexer.files.audio.decode import decode
from tests.helpers import reference_rhythm
from tests.helpers.synth import music, write_audio

STATISTICS = slice(BANDS * MODULATIONS, WIDTH - MODULATIONS)
HISTOGRAM = slice(WIDTH - MODULATIONS, WIDTH)
BIN_HZ = SAMPLE_RATE_HZ / 512 / 512


def mono(seconds=6.0, seed=0):
    return music(seconds, channels=1, seed=seed)[:, 0]


def noise(n=SEGMENT, scale=0.1, seed=0):
    return (scale * np.random.default_rng(seed).standard_normal(n)).astype(np.float32)


def clicks(rate_hz, n=SEGMENT, decay_s=0.03):
    """Bursts of noise that die away: percussion, whose lower harmonics are the stronger ones."""
    since_s = np.arange(n) / SAMPLE_RATE_HZ % (1 / rate_hz)
    return noise(n) * np.exp(-since_s / decay_s).astype(np.float32)


def tone(hz, amplitude, n=SEGMENT):
    return (amplitude * np.sin(2 * np.pi * hz * np.arange(n) / SAMPLE_RATE_HZ)).astype(np.float32)


def vector(samples):
    return RhythmEncoder().encode([Unit(samples, 1)])[0]


def units_of(samples, sizes):
    """The units of a recording that is pushed in blocks of these sizes."""
    cutter, units, start = RhythmEncoder().cutter(), [], 0
    for size in sizes:
        units += cutter.push(samples[start : start + size])
        start += size
    return [*units, *cutter.push(samples[start:]), *cutter.finish()]


SOUNDS = {
    "noise": noise(),
    "quiet noise": noise(scale=1e-4),
    "music": mono()[:SEGMENT],
    "clicks": clicks(2.5),
    "tone": tone(440, 0.5),
    "silence": np.zeros(SEGMENT, np.float32),
    "too loud": noise(scale=1000.0),
    "short": mono(1.0, seed=3),
    "shortest": noise(SHORTEST),
}


@pytest.mark.parametrize("name", SOUNDS)
def test_every_number_agrees_with_the_reference(name):
    found, expected = vector(SOUNDS[name]), reference_rhythm.describe(SOUNDS[name])
    assert found.shape == (WIDTH,) == (1668,)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_the_sonogram_agrees_with_the_reference_in_sone():
    np.testing.assert_allclose(sonogram(SOUNDS["music"]), reference_rhythm.sonogram(SOUNDS["music"]), rtol=1e-6)


@pytest.mark.parametrize("beats_per_minute", [60, 90, 125, 140, 174])
def test_the_histogram_peaks_at_the_rate_of_clicks(beats_per_minute):
    histogram = vector(clicks(beats_per_minute / 60))[HISTOGRAM]
    assert abs((histogram.argmax() + 1) * BIN_HZ * 60 - beats_per_minute) <= BIN_HZ * 60 / 2


def test_a_tone_of_one_kilohertz_has_the_loudness_of_its_level():
    """At 1 kHz phon is dB by definition: full scale is 96 dB, 56 dB less is 40 phon, one sone."""
    levels = np.array([[60.0], [40.0], [20.0]])
    at_1khz = rhythm.phon(np.repeat(levels.T, BANDS, axis=0))[8]  # the band centred on 1 kHz
    np.testing.assert_allclose(at_1khz, levels[:, 0], atol=0.1)
    loudness = np.median(sonogram(tone(1000, 10 ** (-56 / 20))), axis=1)
    assert loudness.argmax() == 8
    assert loudness[8] == pytest.approx(1.0, rel=0.02)


def test_ten_phon_more_are_twice_as_loud_and_loudness_has_no_step():
    np.testing.assert_allclose(rhythm.sone(np.array([40.0, 50.0, 80.0])), [1, 2, 16])
    fine = rhythm.sone(np.linspace(2, 120, 10_000))
    assert np.all(np.diff(fine) > 0)
    assert np.max(np.diff(fine) / fine[1:]) < 0.02


def test_louder_is_louder_in_every_band():
    steps = [sonogram(noise(scale=10 ** (db / 20))).mean(axis=1) for db in range(-90, 1, 10)]
    assert np.all(np.diff(steps, axis=0) >= 0)
    assert np.all(np.diff(steps, axis=0)[5:] > 0)  # from -40 dB on, no band lies under its threshold of hearing


def test_a_band_hears_its_own_frequencies():
    for band in range(3, 22):  # below, a window's lobe is wider than a band; above, the ear prefers the highest
        heard = sonogram(tone(rhythm.BARK_CENTRES_HZ[band], 0.5, SEGMENT // 4)).mean(axis=1)
        assert heard.argmax() == band


def test_masking_reaches_further_up_than_down():
    heard = sonogram(tone(1000, 0.5, SEGMENT // 4)).mean(axis=1)
    assert heard[10] > heard[6] > sonogram(noise(SEGMENT // 4, scale=1e-7)).mean(axis=1)[6]


def test_silence_is_the_threshold_of_hearing_without_rhythm():
    found = vector(SOUNDS["silence"])
    mean, median, variance, skewness, kurtosis, low, high = found[STATISTICS].reshape(7, BANDS)
    moving = [found[: BANDS * MODULATIONS], found[HISTOGRAM], variance, skewness, kurtosis]
    np.testing.assert_allclose(np.concatenate(moving), 0, atol=1e-12)
    quietest = np.log1p((40 * np.log10(1.15) / 40) ** 2.642 / FLOOR_SONE)
    np.testing.assert_allclose(np.stack([mean, median, low, high]), quietest, rtol=1e-5)


def test_a_constant_offset_is_not_heard():
    np.testing.assert_allclose(vector(np.full(SEGMENT, 0.5, np.float32)), vector(SOUNDS["silence"]), atol=1e-6)


@pytest.mark.parametrize("seconds", [0.5, 5.0, 14.0, 24.5])
def test_blocks_of_any_size_give_what_one_push_gives(seconds):
    samples = mono(seconds)
    rng = np.random.default_rng(1)
    whole = units_of(samples, [])
    for sizes in (rng.integers(0, 90_000, 40), [1, 511, 513, SEGMENT, SEGMENT - 1], [SEGMENT] * 3):
        units = units_of(samples, sizes)
        assert [u.weight for u in units] == [1] * len(whole)
        for one, other in zip(whole, units, strict=True):
            np.testing.assert_array_equal(one.samples, other.samples)
    together = RhythmEncoder().encode(whole)
    for row, unit in zip(together, whole, strict=True):
        np.testing.assert_array_equal(row, vector(unit.samples))


@pytest.mark.parametrize(
    ("samples", "units"),
    [
        (0, 0),
        (SHORTEST - 1, 0),
        (SHORTEST, 1),
        (SEGMENT - 1, 1),
        (SEGMENT, 1),
        (SEGMENT + SEGMENT // 2 - 1, 1),
        (SEGMENT + SEGMENT // 2, 2),
        (2 * SEGMENT, 2),
        (3 * SEGMENT - 1, 3),
    ],
)
def test_a_recording_is_cut_into_whole_segments(samples, units):
    recording = noise(samples)
    found = units_of(recording, [])
    assert len(found) == units
    if samples >= SEGMENT:
        assert {len(u.samples) for u in found} == {SEGMENT}
    for n, unit in enumerate(found):
        end = min(SEGMENT * (n + 1), samples)
        np.testing.assert_array_equal(unit.samples, recording[max(0, end - SEGMENT) : end])


def test_a_unit_stays_as_it_is_while_the_cutter_goes_on():
    cutter = RhythmEncoder().cutter()
    (unit,) = cutter.push(noise(SEGMENT, seed=1))
    before = unit.samples.copy()
    cutter.push(noise(SEGMENT, seed=2))
    np.testing.assert_array_equal(unit.samples, before)


def test_a_cutter_takes_mono_and_one_recording():
    cutter = RhythmEncoder().cutter()
    with pytest.raises(ValueError, match="mono"):
        cutter.push(np.zeros((2, 100), np.float32))
    cutter.finish()
    with pytest.raises(ValueError, match="one recording"):
        cutter.push(np.zeros(100, np.float32))


def test_float16_keeps_what_matters():
    """The store keeps float16: no number overflows, almost none is denormal, and none moves by more than its step."""
    for name, samples in SOUNDS.items():
        exact = vector(samples)
        kept = exact.astype("<f2").astype(np.float32)
        assert np.isfinite(kept).all(), name
        assert np.abs(kept).max() < 100, name
        np.testing.assert_allclose(kept, exact, rtol=2**-11, atol=6e-5, err_msg=name)
    tracks = np.stack([vector(mono(seed=s)[:SEGMENT]) for s in range(6)])
    assert np.mean(np.abs(tracks) < 6.2e-5) < 0.001
    assert np.median(tracks.std(axis=0) / np.abs(tracks.astype("<f2") - tracks).max(axis=0).clip(1e-9)) > 100


def test_hostile_samples_never_give_a_plausible_vector():
    for bad in (np.nan, np.inf, -np.inf):
        samples = noise()
        samples[1000] = bad
        assert not np.isfinite(vector(samples)).all()


def test_the_mean_over_a_track_is_its_segments_mean():
    units = units_of(mono(18.0), [])
    vectors = RhythmEncoder().encode(units)
    np.testing.assert_allclose(track_vector(vectors, np.ones(3)), vectors.mean(axis=0), rtol=1e-5, atol=1e-6)


def test_the_encoder_asks_for_its_own_rate_and_another_files_rate_makes_little_difference(tmp_path):
    """Samples carry no rate, so the encoder has one and takes no other: whoever decodes must ask it."""
    encoder = load_encoder("rhythm", device="cpu", precision="fp32")
    assert (encoder.name, encoder.sample_rate_hz, encoder.width) == ("rhythm", 44_100, 1668)
    assert encoder.unit_s == pytest.approx(5.944, abs=0.001)
    with pytest.raises(TypeError):
        RhythmEncoder(22_050)
    with pytest.raises(ValueError, match="samples"):
        encoder.encode([Unit(np.zeros(SEGMENT + 1, np.float32), 1)])
    found = []
    for rate in (44_100, 48_000):
        path = write_audio(tmp_path / f"{rate}.wav", "wav", 6.0, sample_rate_hz=rate, channels=1, seed=2)
        (unit,) = units_of(np.concatenate(list(decode(path, sample_rate_hz=encoder.sample_rate_hz))), [])
        found.append(encoder.encode([unit])[0])
    assert np.corrcoef(*found)[0, 1] > 0.97  # the hats are another noise


def test_the_id_names_every_constant(monkeypatch):
    before = RhythmEncoder().id
    assert len(before) == len(hashlib.sha256().hexdigest())
    assert RhythmEncoder().id == before
    constants = {
        name for name, value in vars(rhythm).items() if name.isupper() and isinstance(value, (int, float, str, tuple))
    }
    for name in constants - {"WIDTH", "BANDS", "WINDOWS_AT_ONCE"}:  # two follow from others, one is for speed
        value = getattr(rhythm, name)
        monkeypatch.setattr(rhythm, name, value[:-1] if isinstance(value, tuple) else value + 1)
        rhythm.encoder_id.cache_clear()
        assert RhythmEncoder().id != before, name
        monkeypatch.setattr(rhythm, name, value)
    rhythm.encoder_id.cache_clear()
