"""What a head says of a recording: timelines for any head, second genres, recordings that are unlike all genres.

Also the compact trajectory of a recording's units.
"""

import numpy as np
import pytest

from indexer.encoders.trajectory import MAX_SEGMENTS, RANK, Collector, Trajectory
from indexer.heads.decide import UNLIKE, decide, is_decided
from indexer.heads.linear import LinearHead


def trajectory_of(units, weights=None, unit_s=6.0):
    collector = Collector(unit_s)
    weights = weights if weights is not None else [1] * len(units)
    for unit, weight in zip(units, weights, strict=True):
        collector.add(unit, weight)
    return collector.finish(np.average(units, axis=0, weights=weights).astype(np.float32))


def units_of(rank, n=40, width=300, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.standard_normal(width) + rng.standard_normal((n, rank)) @ rng.standard_normal((rank, width))).astype(
        np.float32
    )


def head_for(width, labels=("house", "techno"), seed=0, scale=0.2):
    rng = np.random.default_rng(seed)
    return LinearHead(
        "h",
        "e",
        labels,
        0.5,
        (scale * rng.standard_normal((len(labels), width))).astype(np.float32),
        np.zeros(len(labels), np.float32),
    )


@pytest.mark.parametrize("rank", [1, 5, RANK])
def test_units_of_low_rank_come_back(rank):
    units = units_of(rank)
    again = Trajectory.from_bytes(trajectory_of(units).to_bytes())
    rebuilt = units.mean(axis=0) + again.coefficients @ again.basis
    assert np.abs(rebuilt - units).max() < 0.03 * np.abs(units - units.mean(axis=0)).max()
    assert again.segment_s == 6.0


def test_the_kept_directions_are_the_best_ones():
    units = np.random.default_rng(1).standard_normal((30, 200)).astype(np.float32)
    trajectory = trajectory_of(units)
    error = np.square(units - units.mean(axis=0) - trajectory.coefficients @ trajectory.basis).sum()
    singular = np.linalg.svd(units - units.mean(axis=0), compute_uv=False)
    assert error == pytest.approx(np.square(singular[RANK:]).sum(), rel=1e-3)


def test_one_unit_and_units_all_alike():
    vector = np.ones(20, np.float32)
    for units in ([vector], [vector] * 5):
        trajectory = Trajectory.from_bytes(trajectory_of(units).to_bytes())
        assert trajectory.coefficients.shape[0] == len(units)
        assert np.abs(trajectory.coefficients @ trajectory.basis).max(initial=0) < 1e-5


@pytest.mark.parametrize("n", [MAX_SEGMENTS, MAX_SEGMENTS + 1, 3 * MAX_SEGMENTS + 7])
def test_long_recordings_get_longer_segments_and_keep_their_mean(n):
    units = units_of(3, n, width=20)
    weights = [1] * (n - 1) + [2]
    trajectory = trajectory_of(units, weights)
    assert len(trajectory.coefficients) <= MAX_SEGMENTS
    assert len(trajectory.coefficients) * trajectory.segment_s >= n * 6.0
    k = round(trajectory.segment_s / 6)
    np.testing.assert_allclose(
        np.average(units, axis=0, weights=weights) + trajectory.coefficients[0] @ trajectory.basis,
        units[:k].mean(axis=0),
        atol=1e-3,
    )


@pytest.mark.parametrize(
    "damage", [lambda b: b[:5], lambda b: b[:-1], lambda b: b + b"x", lambda b: b"\x09" + b[1:], lambda b: b""]
)
def test_a_damaged_trajectory_is_refused(damage):
    with pytest.raises(ValueError, match="trajectory"):
        Trajectory.from_bytes(damage(trajectory_of(units_of(2)).to_bytes()))


def test_the_timeline_is_what_the_head_says_of_every_unit():
    units, head = units_of(4, width=300), head_for(300)
    prediction = decide(head, 0.5, [units.mean(axis=0)], [trajectory_of(units)])
    assert np.abs(prediction.timeline / 255 - head.scores(units)).max() < 0.01
    assert sum(prediction.scores.values()) == pytest.approx(1, abs=1e-6)
    assert decide(head, 0.5, [units.mean(axis=0)], [None]).timeline is None


def test_joined_trajectories_meet_on_the_first_ones_time():
    a, b = units_of(3, 40, 30), units_of(2, 20, 50, seed=1)  # 6 s and 12 s units
    head = head_for(80)
    prediction = decide(head, 0.5, [a.mean(axis=0), b.mean(axis=0)], [trajectory_of(a), trajectory_of(b, unit_s=12.0)])
    expected = head.scores(np.concatenate([a, np.repeat(b, 2, axis=0)], axis=1))
    assert np.abs(prediction.timeline / 255 - expected).max() < 0.01


@pytest.mark.parametrize(("other", "expected"), [(10, "techno"), (4, None), (0, None)])
def test_a_recording_of_two_genres_is_flagged(other, expected):
    head = LinearHead(
        "h", "e", ("house", "techno"), 0.5, np.array([[5.0, 0], [0, 5.0]], np.float32), np.zeros(2, np.float32)
    )
    units = np.array([[1, 0]] * (30 - other) + [[0, 1]] * other, np.float32)
    prediction = decide(head, 0.8, [units.mean(axis=0)], [trajectory_of(units)])
    assert (prediction.genre, prediction.second_genre) == ("house", expected)


def test_what_is_unlike_everything_is_never_decided():
    class Sceptic(LinearHead):
        __slots__ = ()

        def novelty(self, vectors):
            return np.full(len(vectors), 1.5)

    head = head_for(8, scale=9)
    vector = np.ones(8, np.float32)
    assert decide(head, 0.5, [vector], [None]).decided
    prediction = decide(Sceptic("h", "e", head.labels, 0.5, head.weight, head.bias), 0.0, [vector], [None])
    assert (prediction.decided, prediction.reason) == (False, UNLIKE)


@pytest.mark.parametrize(
    ("confidence", "reason", "expected"), [(0.8, None, True), (0.79, None, False), (1.0, UNLIKE, False)]
)
def test_a_genre_is_decided_from_the_threshold_on_unless_a_reason_speaks_against_it(confidence, reason, expected):
    assert is_decided(confidence, 0.8, reason) is expected
