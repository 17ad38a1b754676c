"""Unfamiliar recordings: those like the training rows are seldom refused, others are, and no score is NaN."""

import numpy as np
import pytest

from indexer.encoders.rhythm import SAMPLE_RATE_HZ, RhythmEncoder
from indexer.errors import ModelError
from indexer.heads import novelty
from indexer.heads.novelty import Novelty, fit, fit_apart
from tests.helpers.synth import music

WIDTH, RANK = 300, 6


def manifold(rows, *, seed, noise=0.3, world=0):
    """Rows near a plane of RANK dimensions that ``world`` decides."""
    plane = np.random.default_rng([world, 9]).standard_normal((RANK, WIDTH)) / RANK**0.5
    rng = np.random.default_rng([world, seed])
    inside, around = rng.standard_normal((rows, RANK)) @ plane, noise * rng.standard_normal((rows, WIDTH))
    return (inside + around + 3).astype(np.float32)


def fitted(n=120, m=40, seed=0, **options):
    return fit(manifold(n, seed=1, **options), manifold(m, seed=2, **options), seed=seed)


@pytest.mark.parametrize(("n", "m"), [(8, 2), (25, 8), (120, 40), (200, 120)])
def test_false_alarms_are_rare_and_strangers_are_caught(n, m):
    alarms, caught = [], []
    for world in range(3):
        found = fitted(n, m, world=world)
        alarms.append((found.distance(manifold(200, seed=3, world=world)) > 1).mean())
        aside = 6 * np.random.default_rng(5).choice(np.float32([-1, 1]), WIDTH)
        caught.append((found.distance(manifold(50, seed=4, world=world) + aside) > 1).mean())
    assert np.mean(alarms) <= 0.02
    assert np.mean(caught) == 1


def test_a_stranger_inside_the_plane_and_one_outside_it_are_both_caught():
    found, usual = fitted(), manifold(50, seed=3)
    far = usual.mean(axis=0) + 8 * (usual - usual.mean(axis=0))  # where the rows vary most, eight times as far
    other = manifold(50, seed=3, world=1)  # as long as the usual ones, along another plane
    other = other - other.mean(axis=0) + usual.mean(axis=0)
    assert (found.distance(far) > 1).all()
    assert (found.distance(3 * (other - other.mean(axis=0)) + other.mean(axis=0)) > 1).all()
    assert np.median(found.distance(usual)) < 0.8


def test_training_rows_alone_would_underestimate_what_lies_outside_their_span():
    n = 40  # far fewer rows than dimensions: the limit must come from held-out rows
    train, held_out, rest = (manifold(rows, seed=s, noise=1.0) for rows, s in ((n, 1), (15, 2), (300, 3)))
    honest, flattered = (fit(train, rows, seed=0).distance(rest) for rows in (held_out, train[:15]))
    assert (honest > 1).mean() <= 0.02
    assert np.median(flattered) > 1.1 * np.median(honest)


def test_fewer_held_out_rows_make_a_wider_limit():
    strange = manifold(1, seed=4) + 2
    train = manifold(60, seed=1)

    def distance(m):
        return np.mean([fit(train, manifold(m, seed=s), seed=0).distance(strange) for s in range(10, 16)])

    assert distance(2) < distance(8) < distance(60)


def test_of_many_held_out_rows_one_in_a_hundred_at_most_is_refused():
    heavy = manifold(400, seed=2)
    heavy[:40] += 4  # a tenth of the music is of a kind that training rows lack: the logarithms are not normal any more
    found = fit(manifold(100, seed=1), heavy, seed=0)
    assert (found.distance(heavy) > 1).sum() <= 4


def test_arrays_bring_back_the_same_distances():
    found, rows = fitted(), manifold(30, seed=3)
    arrays = found.arrays()
    assert {key: a.shape for key, a in arrays.items()} == {
        "mean": (WIDTH,), "scale": (WIDTH,), "components": (30, WIDTH), "weights": (31,),
    }  # fmt: skip
    assert {a.dtype for a in arrays.values()} == {np.dtype(np.float32)}
    again = Novelty.from_arrays({key: a.copy() for key, a in arrays.items()} | {"another": np.zeros(1)})
    np.testing.assert_array_equal(again.distance(rows), found.distance(rows))


def test_small_enough_for_a_head_file():
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((150, 3840), np.float32)
    assert sum(a.nbytes for a in fit(rows[:130], rows[130:], seed=0).arrays().values()) <= 2**19


@pytest.fixture(scope="module")
def good():
    return fitted().arrays()


@pytest.mark.parametrize("change", [
    {"mean": np.zeros(WIDTH - 1)}, {"mean": np.full(WIDTH, np.nan)}, {"mean": np.array(["x"] * WIDTH)},
    {"scale": np.ones((1, WIDTH))}, {"scale": np.zeros(WIDTH)}, {"scale": np.full(WIDTH, np.inf)},
    {"components": np.zeros(WIDTH)}, {"components": np.zeros((0, WIDTH)), "weights": np.ones(1)},
    {"weights": np.ones(30)}, {"weights": np.float32(1)}, {"weights": np.full(31, -1.0)},
    {"mean": np.zeros(0), "scale": np.ones(0), "components": np.zeros((30, 0))},
])  # fmt: skip
def test_arrays_that_cannot_be_right_are_refused(good, change):
    with pytest.raises(ModelError):
        Novelty.from_arrays(good | change)


@pytest.mark.parametrize("key", novelty.KEYS)
def test_a_missing_array_is_named(good, key):
    with pytest.raises(ModelError, match=key):
        Novelty.from_arrays({name: array for name, array in good.items() if name != key})


@pytest.mark.parametrize("shape", [(3, WIDTH + 1), (WIDTH,), (1, 2, WIDTH)])
def test_vectors_of_another_width_are_refused(good, shape):
    with pytest.raises(ModelError, match=str(WIDTH)):
        Novelty.from_arrays(good).distance(np.zeros(shape, np.float32))


def test_no_vectors_have_no_distances(good):
    assert Novelty.from_arrays(good).distance(np.zeros((0, WIDTH), np.float32)).shape == (0,)


@pytest.mark.parametrize(("train", "held_out"), [
    ((10, 5), (3, 4)), ((0, 5), (3, 5)), ((10, 5), (0, 5)), ((10,), (3, 5)), ((10, 0), (3, 0)),
])  # fmt: skip
def test_rows_that_do_not_fit_together_are_an_error(train, held_out):
    with pytest.raises(ValueError, match="do not fit"):
        fit(np.zeros(train, np.float32), np.zeros(held_out, np.float32), seed=0)


def odd_rows(kind):
    rows = manifold(20, seed=1)
    if kind == "constant dimensions":
        rows[:, ::2] = 0.5
    elif kind == "mostly constant":
        rows[:, 10:] = 0
    elif kind == "identical rows":
        rows[:] = rows[0]
    elif kind == "zeros":
        rows[:] = 0
    elif kind == "two different rows":
        rows[:] = rows[np.arange(20) % 2]
    elif kind == "huge":
        rows *= 2000
    elif kind == "tiny":
        rows *= 1e-6
    elif kind == "one dimension":
        rows = rows[:, :1]
    return rows.astype(np.float16 if kind != "tiny" else np.float32)


@pytest.mark.parametrize("kind", [
    "constant dimensions", "mostly constant", "identical rows", "zeros", "two different rows", "huge", "tiny",
    "one dimension",
])  # fmt: skip
@pytest.mark.parametrize("n", [1, 8, 18])
def test_odd_rows_give_numbers(kind, n):
    rows = odd_rows(kind)
    found = fit(rows[:n], rows[18:], seed=0)
    strangers = np.array([np.full(rows.shape[1], v) for v in (-65504, -1, 0, 100, 65504)], np.float16)
    distances = found.distance(np.concatenate([rows, strangers]))
    assert np.isfinite(distances).all()
    assert (distances[18:20] <= 1).all()  # the held-out ones
    assert distances[-1] > 1


def test_the_same_rows_in_any_order_give_the_same_bits():
    train, held_out, rng = manifold(90, seed=1), manifold(30, seed=2), np.random.default_rng(0)
    one = fit(train, held_out, seed=3).arrays()
    other = fit(train[rng.permutation(90)], held_out[rng.permutation(30)], seed=3).arrays()
    for key, array in one.items():
        np.testing.assert_array_equal(other[key], array)


def test_a_limit_from_every_row_serves_as_one_from_rows_held_back():
    rows, fold = manifold(100, seed=1), np.arange(100) % 5
    found, distances = fit_apart(rows, fold, seed=0)
    assert distances.shape == (100,)
    assert (distances > 1).sum() <= 1
    assert (found.distance(manifold(400, seed=2)) > 1).mean() < 0.03
    strangers = manifold(100, seed=3, world=1)
    assert (found.distance(strangers) > 1).mean() >= (fit(rows[:75], rows[75:], seed=0).distance(strangers) > 1).mean()


def test_every_row_of_few_counts_and_of_many_a_fold_is_held_back(monkeypatch):
    rows, fold = manifold(60, seed=1), np.arange(60) % 5
    assert len(fit_apart(rows, fold, seed=0)[1]) == 60
    monkeypatch.setattr(novelty, "ROWS", 48)
    found, distances = fit_apart(rows, fold, seed=0)
    np.testing.assert_array_equal(distances, fit(rows[fold != 0], rows[fold == 0], seed=0).distance(rows[fold == 0]))
    np.testing.assert_array_equal(found.distance(rows[fold == 0]), distances)


def test_of_many_rows_a_sample_is_looked_at_whatever_their_order(monkeypatch):
    monkeypatch.setattr(novelty, "ROWS", 60)
    train, held_out, rows = manifold(200, seed=1), manifold(30, seed=2), manifold(40, seed=3)
    one, other = fit(train, held_out, seed=0), fit(train[::-1], held_out[::-1], seed=0)
    np.testing.assert_array_equal(one.distance(rows), other.distance(rows))
    assert not np.array_equal(one.mean, fit(train, held_out, seed=1).mean)  # another sample
    np.testing.assert_allclose(one.distance(rows), fit(train, held_out, seed=1).distance(rows), rtol=0.3)


def test_float16_and_float32_rows_agree():
    train, held_out, rows = (manifold(n, seed=s).astype(np.float16) for n, s in ((90, 1), (30, 2), (20, 3)))
    wide = fit(train.astype(np.float32), held_out.astype(np.float32), seed=0).distance(rows.astype(np.float32))
    np.testing.assert_allclose(wide, fit(train, held_out, seed=0).distance(rows), rtol=1e-3)


def test_the_principal_directions_are_those_of_an_exact_decomposition():
    z = manifold(200, seed=1).astype(np.float64)
    z -= z.mean(axis=0)
    components, variances = novelty._principal(z, RANK, 0)
    _, values, exact = np.linalg.svd(z, full_matrices=False)
    np.testing.assert_allclose(variances, values[:RANK] ** 2 / len(z), rtol=1e-3)
    np.testing.assert_allclose(np.linalg.svd(components @ exact[:RANK].T)[1], 1, atol=1e-3)
    np.testing.assert_allclose(components @ components.T, np.eye(RANK), atol=1e-9)


@pytest.mark.parametrize(("freedom", "quantile"), [(4, 4.604), (5, 4.032), (10, 3.169), (30, 2.750), (1000, 2.581)])
def test_students_quantile_against_the_table(freedom, quantile):
    assert novelty._student(freedom) == pytest.approx(quantile, rel=0.015)


def embedded(samples):
    encoder = RhythmEncoder()
    cutter = encoder.cutter()
    return encoder.encode(cutter.push(samples.astype(np.float32)) + cutter.finish()).mean(axis=0)


def test_silence_noise_and_tones_are_unlike_synthesised_music():
    tracks = np.array([embedded(music(3.0, seed=seed, channels=1)[:, 0]) for seed in range(60)])
    found = fit(tracks[:30], tracks[30:40], seed=0)
    assert (found.distance(tracks[40:]) <= 1).mean() >= 0.9
    rng, n = np.random.default_rng(0), 3 * SAMPLE_RATE_HZ
    clicks = np.zeros(n)
    clicks[:: SAMPLE_RATE_HZ // 2] = 0.9
    strangers = {
        "silence": np.zeros(n), "faint hiss": 1e-4 * rng.standard_normal(n), "noise": 0.2 * rng.standard_normal(n),
        "sine": 0.5 * np.sin(2 * np.pi * 440 / SAMPLE_RATE_HZ * np.arange(n)), "clicks": clicks,
    }  # fmt: skip
    distances = dict(zip(strangers, found.distance(np.array([embedded(x) for x in strangers.values()])), strict=True))
    assert min(distances.values()) > 1, distances
