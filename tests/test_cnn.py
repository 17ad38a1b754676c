"""The CNN baseline: clips are spread, bounded and kept whole; the network learns, stops, repeats to the bit."""

import dataclasses
import os
import tracemalloc

import numpy as np
import pytest
import soundfile
import torch

from indexer.encoders.synthesis import SAMPLE_RATE_HZ, make_track
from indexer.errors import FileError, IndexerError, ReadError
from indexer.files.children.worker import Worker
from indexer.heads import cnn, evaluation
from indexer.heads.cnn import CnnSettings, train_cnn
from indexer.learn import spectrograms
from indexer.learn.spectrograms import CLIP_FRAMES, CLIPS, load, make, make_all
from tests.helpers.limits import LIMITS
from tests.helpers.synth import music, write_audio

KEY, OTHER, THIRD = "ab" * 32, "cd" * 32, "ef" * 32
UNIT = CLIP_FRAMES * 160  # samples
QUICK = CnnSettings(epochs=8, batch=8)
torch.set_num_threads(1)


@pytest.fixture(scope="module")
def worker():
    child = Worker(LIMITS)
    yield child
    child.close()


class Played:
    """Stands in for a Worker: plays blocks of samples, and counts how often it was asked."""

    def __init__(self, blocks):
        self.blocks, self.asked = blocks, 0

    def decode(self, path, *, sample_rate_hz):
        assert sample_rate_hz == 16_000
        self.asked += 1
        yield from self.blocks


def tone(units):
    """So many units and a half, louder from one to the next: the loudness tells which units were taken."""
    rng = np.random.default_rng(0)
    levels = np.exp(np.linspace(-12, 0, units, endpoint=False, dtype=np.float32))
    return [*(level * rng.standard_normal(UNIT, dtype=np.float32) for level in levels), np.zeros(UNIT // 2, np.float32)]


# ---- clips on disk


def test_clips_are_what_the_front_end_of_m2d_makes_of_those_seconds(tmp_path, worker):
    path = tmp_path / "a.wav"
    soundfile.write(path, music(20, sample_rate_hz=16_000, channels=1)[:, 0], 16_000, subtype="FLOAT")
    made = np.load(make(os.fsencode(path), KEY, tmp_path / "cache", worker))
    assert (made.shape, made.dtype) == ((3, 80, 608), np.float16)  # three whole units; the rest is left out
    samples = np.pad(soundfile.read(path, dtype="float32")[0], 200, mode="reflect")
    second = torch.from_numpy(samples[UNIT : UNIT + 607 * 160 + 400][None])
    np.testing.assert_allclose(made[1], spectrograms._log_mel()(second)[0], atol=2e-3)
    np.testing.assert_array_equal(load(tmp_path / "cache", [KEY])[0], made)


@pytest.mark.parametrize("units", [1, 2, 5, 6, 7, 12, 13, 25, 49, 200])
def test_clips_are_spread_evenly_over_the_whole_recording(units):
    taken = spectrograms._spread(tone(units))
    assert len(taken) == min(units, CLIPS)
    loudness = np.array([np.log(u.samples[:UNIT].std()) for u in taken])
    places = (loudness + 12) / 12 * units
    wanted = (np.arange(len(taken)) + 0.5) * units / len(taken) - 0.5
    assert np.abs(places - wanted).max() <= max(1, 0.1 * units)
    assert (np.diff(places) > 0.5).all()


def test_ten_hours_are_never_held(tmp_path):
    block = np.random.default_rng(0).standard_normal(160_000, dtype=np.float32)
    played = Played(block for _ in range(3600))
    tracemalloc.start()
    try:
        make(b"long.wav", KEY, tmp_path, played)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert load(tmp_path, [KEY])[0].shape == (CLIPS, 80, CLIP_FRAMES)
    assert peak_bytes < 40e6  # all of it: 2.3 GB


@pytest.mark.parametrize("samples", [201, 400, 16_000, UNIT - 161])
def test_a_short_recording_is_repeated(samples, tmp_path):
    make(b"short.wav", KEY, tmp_path, Played([music(7, sample_rate_hz=16_000, channels=1)[:samples, 0]]))
    (clip,) = load(tmp_path, [KEY])[0]
    frames = 1 + samples // 160
    np.testing.assert_array_equal(clip, np.tile(clip[:, :frames], 1 + CLIP_FRAMES // frames)[:, :CLIP_FRAMES])


def test_a_recording_of_no_length_is_refused_and_nothing_is_kept(tmp_path):
    with pytest.raises(ReadError, match=r"blip\.wav: too short"):
        make(b"blip.wav", KEY, tmp_path / "cache", Played([np.ones(200, np.float32)]))
    assert not (tmp_path / "cache").exists()


def test_what_is_there_is_not_made_again_and_what_is_damaged_is(tmp_path):
    played = Played(tone(3))
    path = make(b"a.wav", KEY, tmp_path, played)
    whole = path.read_bytes()
    make(b"a.wav", KEY, tmp_path, played)
    assert played.asked == 1
    rng = np.random.default_rng(0)
    damaged = [whole[:n] for n in (0, 1, 7, 60, 127, 128, 5000, len(whole) - 1)]
    damaged += [whole[:n] + rng.bytes(4) + whole[n + 4 :] for n in (0, 5, 8, 20, 40, 60)]
    damaged += [
        whole.replace(b"608", b"607", 1),
        whole.replace(b"608", b"609", 1),
        whole.replace(b"<f2", b"<i2", 1),
        b"PK\3\4" + whole,
        whole.replace(b"(3, ", b"(0, ", 1),
        whole[:-2] + b"\x00\x7c",
    ]  # last: an infinity
    for number, content in enumerate(damaged, 2):
        path.write_bytes(content)
        with pytest.raises(IndexerError, match=r"missing or damaged; run"):
            load(tmp_path, [KEY])
        make(b"a.wav", KEY, tmp_path, played)
        assert (played.asked, path.read_bytes()) == (number, whole)


def test_a_write_that_fails_leaves_nothing_and_is_told(tmp_path, monkeypatch):
    def full(file, clips):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(IndexerError, match=r"cannot be kept there \(No space left on device\); make room"):
        make_all({KEY: os.fsencode(write_audio(tmp_path / "a.wav"))}, tmp_path / "cache", 1, LIMITS)
    assert list((tmp_path / "cache").iterdir()) == []
    with pytest.raises(IndexerError, match="cannot be kept there"):
        make(b"a.wav", KEY, tmp_path / "a.wav", Played(tone(1)))  # a file where the folder should be


def test_clips_of_another_recipe_are_not_taken_for_these(tmp_path, monkeypatch):
    make(b"a.wav", KEY, tmp_path, Played(tone(1)))
    monkeypatch.setattr(spectrograms, "_RECIPE", "another")
    with pytest.raises(IndexerError, match="missing"):
        load(tmp_path, [KEY])


def test_many_files_some_broken(tmp_path):
    good = write_audio(tmp_path / "good.flac", "flac", 7)
    (tmp_path / "broken.mp3").write_bytes(b"\xff\xfb\x90\x00" + bytes(3000))
    paths = {KEY: os.fsencode(tmp_path / "broken.mp3"), OTHER: os.fsencode(good), THIRD: b"/nowhere.mp3"}
    done = []
    keys, failures = make_all(paths, tmp_path / "cache", 2, LIMITS, lambda: done.append(1))
    assert (keys, list(failures), len(done)) == ([OTHER], [KEY, THIRD], 3)
    assert all(isinstance(error, FileError) for error in failures.values())
    assert [error.path for error in failures.values()] == [os.fsdecode(paths[key]) for key in failures]
    assert [array.shape for array in load(tmp_path / "cache", keys)] == [(1, 80, 608)]
    assert make_all({}, tmp_path / "cache", 2, LIMITS) == ([], {})


# ---- the network


def recordings(y, seed=0, frames=64):
    """One to three clips each: noise with a pulse a label, fast or slow, high or low, and a level of its own each."""
    rng = np.random.default_rng(seed)
    clips = []
    for label in y:
        x = rng.standard_normal((rng.integers(1, 4), 48, frames)) + rng.normal(0, 2)
        x[:, (label % 2) * 24 : (label % 2) * 24 + 24, rng.integers(4) :: 4 + 4 * (label // 2)] += 2.5
        clips.append(x.astype(np.float16))
    return clips


def split(counts, seed=0):
    """(clips, y, train rows, validation rows, unseen rows) with half, a quarter and a quarter of each label."""
    y = np.repeat(np.arange(len(counts)), counts)
    part = evaluation.grouped_parts(y, np.arange(len(y)), [0.5, 0.25, 0.25], seed)
    return recordings(y, seed), y, *(np.flatnonzero(part == p) for p in range(3))


@pytest.fixture(scope="module")
def learned():
    clips, y, train, validation, unseen = split([24] * 4)
    epochs = []
    model = train_cnn(clips, y, train, validation, 4, QUICK, "cpu", epochs.append)
    return model, epochs, [clips[i] for i in unseen], y[unseen]


def test_it_learns(learned):
    model, epochs, clips, y = learned
    scores = model.scores(clips)
    assert evaluation.accuracy(y, scores.argmax(axis=1)) > 0.75  # chance: 0.25
    assert (scores.shape, scores.dtype) == ((len(clips), 4), np.float32)
    np.testing.assert_allclose(scores.sum(axis=1), 1, rtol=1e-5)
    assert [e.number for e in epochs] == list(range(1, model.epochs + 1))
    best = min(epochs, key=lambda e: e.validation_loss)
    assert best.best
    assert best.number == model.best_epoch
    assert model.parameters == sum(9 * a * b + 2 * b for a, b in ((1, 16), (16, 32), (32, 64), (64, 128))) + 4 * 129
    assert model.elapsed_s > 0


def test_logits_are_the_mean_of_the_probabilities_of_the_clips(learned):
    model, _, clips, _ = learned
    recording = next(c for c in clips if len(c) == 3)
    each = np.exp(model.logits([clip[None] for clip in recording]))
    np.testing.assert_allclose(each.sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(np.exp(model.logits([recording]))[0], each.mean(axis=0), rtol=1e-4)
    alone = model.logits(clips[5:6])[0]
    np.testing.assert_allclose(model.logits(clips)[5], alone, atol=1e-4)  # whatever it is judged beside


def test_temperature_only_makes_less_or_more_sure(learned):
    model, _, clips, _ = learned
    cold = dataclasses.replace(model, temperature=model.temperature * 1000)
    np.testing.assert_allclose(cold.scores(clips), 0.25, atol=0.02)
    assert (model.scores(clips).argmax(axis=1) == model.logits(clips).argmax(axis=1)).all()


def test_the_same_seed_gives_the_same_bits_whatever_happened_before():
    clips, y, train, validation, unseen = split([8] * 2)
    short = CnnSettings(epochs=2)

    def logits(seed, threads):
        torch.manual_seed(threads)
        torch.set_num_threads(threads)
        before = torch.get_rng_state()
        model = train_cnn(clips, y, train, validation, 2, dataclasses.replace(short, seed=seed), "cpu")
        found = model.logits([clips[i] for i in unseen])
        assert torch.equal(before, torch.get_rng_state())  # the caller's random numbers are left alone
        assert torch.get_num_threads() == threads
        return found

    try:
        first = logits(0, 1)
        np.testing.assert_array_equal(first, logits(0, 2))
        assert not np.array_equal(first, logits(1, 1))
    finally:
        torch.set_num_threads(1)


def test_it_stops_when_the_validation_loss_no_longer_falls_and_keeps_the_best(monkeypatch):
    clips, y, train, validation, _ = split([8] * 2)
    losses, states = iter([0.9, 0.5, 0.7, 0.6, 0.5, 0.4]), []

    def validate(run):
        states.append(run._weights())
        return next(losses), 0.5

    monkeypatch.setattr(cnn._Run, "_validate", validate)
    model = train_cnn(clips, y, train, validation, 2, CnnSettings(epochs=50, patience=3), "cpu")
    assert (model.epochs, model.best_epoch) == (5, 2)  # as low as before is no better
    for name, value in model.network.state_dict().items():
        assert torch.equal(value, states[1][name]), name


def test_a_rare_label_counts_as_much_as_a_frequent_one(monkeypatch):
    monkeypatch.setattr(cnn._Run, "_validate", lambda run: (-run.epoch, 0.5))  # the last epoch is the best
    y = np.repeat([0, 1], [72, 8])
    clips = recordings(np.zeros(80, int))  # no feature distinguishes the labels: only their frequencies are left
    model = train_cnn(clips, y, np.arange(80), np.arange(80), 2, CnnSettings(epochs=4, batch=8), "cpu")
    assert 0.3 < np.exp(model.logits(clips))[:, 1].mean() < 0.7


def test_a_band_that_never_varies_and_loud_recordings_do_no_harm():
    clips, y, train, validation, unseen = split([8] * 2)
    clips = [(array * 100 + 1000).astype(np.float16) for array in clips]
    for array in clips:
        array[:, 3] = -2
    model = train_cnn(clips, y, train, validation, 2, CnnSettings(epochs=1), "cpu")
    assert np.isfinite(model.logits([clips[i] for i in unseen])).all()


@pytest.mark.parametrize("n", range(1, 8))
def test_the_clips_watched_lie_in_the_middle(n):
    watched = cnn._middle(np.arange(n))
    assert len(watched) == min(n, 2)
    assert abs(watched.mean() - (n - 1) / 2) <= 0.5


@pytest.mark.parametrize("changes", [
    {"clips": lambda c: [*c[:-1], c[0][:, :, :50]]}, {"clips": lambda c: [*c[:-1], c[0][:0]]}, {"clips": lambda _: []},
    {"clips": lambda c: [a[:, :, :31] for a in c]}, {"clips": lambda c: [a[:, :15] for a in c]},
    {"validation_rows": lambda _: np.empty(0, np.int64)}, {"labels": lambda _: 3},
])  # fmt: skip
def test_what_cannot_be_learned_from_is_refused(changes):
    clips, y, train, validation, _ = split([8] * 2)
    arguments = {"clips": clips, "y": y, "train_rows": train, "validation_rows": validation, "labels": 2}
    arguments |= {name: change(arguments[name]) for name, change in changes.items()}
    with pytest.raises(ValueError, match=r"need|too small"):
        train_cnn(**arguments, settings=QUICK, device="cpu")


def test_synthetic_genres_are_told_apart_from_their_audio(tmp_path):
    paths = {}
    for genre in ("ambient", "drum and bass"):
        for seed in range(4):
            path = tmp_path / f"{genre}-{seed}.wav"
            soundfile.write(path, make_track(genre, seed, 6.2), SAMPLE_RATE_HZ)
            paths[f"{len(paths):064x}"] = os.fsencode(path)
    keys, _ = make_all(paths, tmp_path / "cache", 2, LIMITS)
    y = np.arange(8) // 4
    clips, judged = load(tmp_path / "cache", keys), np.arange(8) % 4 == 0
    train, validation = np.flatnonzero(~judged), np.flatnonzero(judged)
    model = train_cnn(clips, y, train, validation, 2, CnnSettings(epochs=12, patience=12, batch=2), "cpu")
    assert model.scores(clips)[np.arange(8), y].mean() > 0.6
