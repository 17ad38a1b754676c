"""The recipe that wastes no label: every row is learned from and judged once, by what never saw its artist."""

import dataclasses

import numpy as np
import pytest
import torch

from indexer.heads import evaluation, pooled, recipes
from indexer.heads.logistic import Problems
from indexer.heads.training import Data, TrainingSettings
from tests.helpers.labelled import ENCODER, vectors

torch.set_num_threads(1)


def data(y, groups=None, seed=0, spread=1.0, **changes):
    numbers = {
        "encoder_id": ENCODER,
        "labels": tuple("abcdefgh"[: int(y.max()) + 1]),
        "keys": tuple(f"{i:064x}" for i in range(len(y))),
        "vectors": vectors(y, seed, spread=spread),
        "y": y,
        "groups": np.arange(len(y)) if groups is None else groups,
    }
    return Data(**numbers | changes)


def train(d, **options):
    return recipes.train(d, TrainingSettings(), name="x", **options)


def test_every_row_is_learned_from():
    d = data(np.arange(24) % 3)
    head = train(d).head
    for row in range(0, 24, 5):
        other = d.vectors.copy()
        other[row] = other[row] * np.float16(1.01)
        assert not np.array_equal(train(dataclasses.replace(d, vectors=other)).head.weight, head.weight)


@pytest.mark.parametrize(("each", "spread"), [(5, 1.0), (30, 1.5), (100, 2.5)])
def test_it_is_right_as_often_as_with_the_best_strength_in_hindsight(each, spread):
    y, test = np.arange(4 * each) % 4, np.arange(2000) % 4
    ours, best = [], []
    for seed in range(3):
        d, unseen = data(y, seed=seed, spread=spread), vectors(test, 100 + seed, spread=spread)
        ours.append((train(d).head.logits(unseen).argmax(axis=1) == test).mean())
        x = d.vectors.astype(np.float64)
        mean, scale = x.mean(axis=0), x.std(axis=0)
        problem = Problems(
            torch.from_numpy((x - mean) / scale).float(),
            torch.from_numpy(y),
            4,
            torch.ones(1, len(y), dtype=torch.bool),
        )
        z, first = torch.from_numpy((unseen - mean) / scale).float(), torch.zeros(len(test), dtype=torch.int64)
        best.append([(problem.fit(s).logits(z, first).argmax(axis=1) == test).mean() for s in 10.0 ** np.arange(-4, 2)])
    assert np.mean(ours) > np.mean(best, axis=0).max() - 0.02


def test_the_figures_are_those_of_every_row_and_its_confidences_are_honest():
    y = np.arange(300) % 3
    trained = train(data(y, np.arange(300) // 4, spread=2.0))
    metrics, test = trained.head.training["metrics"], np.arange(3000) % 3
    assert (metrics["recordings"], metrics["folds"], metrics["epochs"], metrics["best_epoch"]) == (300, 5, None, None)
    assert sum(map(sum, metrics["confusion"])) == 300
    scores = trained.head.scores(vectors(test, 1, spread=2.0))
    right, sure = scores.argmax(axis=1) == test, scores.max(axis=1)
    assert metrics["accuracy_95"][0] - 0.05 < right.mean() < metrics["accuracy_95"][1] + 0.05
    assert evaluation.calibration_error(sure, right) < 0.06
    decided = sure >= trained.head.threshold
    assert right[decided].mean() > 0.85


def test_artists_and_near_duplicates_are_in_one_fold():
    y = np.arange(60) % 3
    d = data(y, np.arange(60) // 6)
    for seed in range(5):
        fold, loose = pooled._deal(d, seed)
        assert loose == []
        assert set(fold.tolist()) == set(range(fold.max() + 1))
        assert all(len(set(fold[d.groups == group])) == 1 for group in range(10))


def test_the_copies_of_a_recording_do_not_flatter():
    """Noise of which every recording is there five times: what saw no copy cannot know it."""
    y = np.repeat(np.arange(40) % 2, 5)
    noise = np.repeat(np.random.default_rng(0).standard_normal((40, 24)), 5, axis=0).astype(np.float16)
    assert train(data(y, np.repeat(np.arange(40), 5), vectors=noise)).head.training["metrics"]["accuracy"] < 0.7
    assert train(data(y, vectors=noise)).head.training["metrics"]["accuracy"] > 0.9


@pytest.mark.parametrize("groups", [np.arange(10) % 2, np.zeros(10, np.int64), np.arange(10)])
def test_five_recordings_of_each_label_do_whoever_made_them(groups):
    trained = train(data(np.arange(10) % 2, groups))
    metrics = trained.head.training["metrics"]
    assert metrics["recordings"] == 10
    assert trained.not_separated == (() if len(set(groups)) == 10 else ("a", "b"))
    assert metrics["accuracy"] >= 0.5
    assert trained.head.unlike is not None


def test_a_label_with_one_row_is_no_reason_to_fail():
    y = np.append(np.arange(20) % 2, 2)
    assert np.isfinite(train(data(y)).head.logits(vectors(y))).all()


def test_many_rows_choose_by_some_and_are_all_learned_from(monkeypatch):
    y = np.arange(200) % 2
    d = data(y, np.arange(200) // 4, spread=2.0)
    whole = train(d).head.training["metrics"]
    monkeypatch.setattr(pooled, "CHOOSING_ROWS", 60)
    some = pooled._some(d, 0)
    assert 40 <= len(some) <= 80
    trained = train(d)
    assert trained.head.training["metrics"]["recordings"] == 200
    assert abs(trained.head.training["metrics"]["accuracy"] - whole["accuracy"]) < 0.05
    row = int(np.setdiff1d(np.arange(200), some)[0])
    other = d.vectors.copy()
    other[row] = other[row] * np.float16(1.01)
    assert not np.array_equal(train(dataclasses.replace(d, vectors=other)).head.weight, trained.head.weight)
