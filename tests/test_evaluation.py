"""Every figure against a value worked out by hand; splits and duplicates against what they promise."""

import numpy as np
import pytest

from indexer.heads.evaluation import (
    accuracy,
    at_threshold,
    balanced_accuracy,
    bootstrap_interval,
    calibration_error,
    choose_threshold,
    confusion_matrix,
    fit_temperature,
    grouped_folds,
    grouped_parts,
    near_duplicates,
    precision_recall,
    summary,
)

Y = np.array([0, 0, 0, 1, 1, 2])
PREDICTED = np.array([0, 0, 1, 1, 0, 1])


def test_confusion_precision_recall_and_accuracies_by_hand():
    confusion = confusion_matrix(Y, PREDICTED, 3)
    assert confusion.tolist() == [[2, 1, 0], [1, 1, 0], [0, 1, 0]]
    precision, recall = precision_recall(confusion)
    np.testing.assert_allclose(precision[:2], [2 / 3, 1 / 3])
    assert np.isnan(precision[2])  # never predicted
    np.testing.assert_allclose(recall, [2 / 3, 1 / 2, 0])
    assert accuracy(Y, PREDICTED) == pytest.approx(3 / 6)
    assert balanced_accuracy(Y, PREDICTED) == pytest.approx((2 / 3 + 1 / 2 + 0) / 3)
    assert balanced_accuracy(Y[:5], PREDICTED[:5]) == pytest.approx(
        (2 / 3 + 1 / 2) / 2
    )  # a label that does not occur is no label
    empty = np.zeros(0, int)
    assert np.isnan(accuracy(empty, empty))
    assert np.isnan(balanced_accuracy(empty, empty))


def test_calibration_error_by_hand():
    # bins of 0.1: (0.5, 0.6] holds .55 right, .6 wrong: |1 - 1.15| = .15; (0.9, 1] holds .95 right, 1.0 right: |2 -
    # 1.95| = .05
    confidence, correct = np.array([0.55, 0.6, 0.95, 1.0]), np.array([True, False, True, True])
    assert calibration_error(confidence, correct, bins=10) == pytest.approx((0.15 + 0.05) / 4)
    assert calibration_error(np.array([0.8] * 5), np.array([1, 1, 1, 1, 0])) == pytest.approx(0)
    assert np.isnan(calibration_error(np.zeros(0), np.zeros(0)))


def test_accuracy_and_coverage_at_a_threshold():
    confidence, correct = np.array([0.9, 0.8, 0.7, 0.6]), np.array([True, False, True, True])
    assert at_threshold(confidence, correct, 0.8) == (0.5, 0.5)
    assert at_threshold(confidence, correct, 0.0) == (1.0, 0.75)
    coverage, accuracy = at_threshold(confidence, correct, 0.95)
    assert coverage == 0
    assert np.isnan(accuracy)


def test_threshold_decides_as_many_as_the_target_allows():
    # 20 right above, then 2 wrong, then right: Laplace after k rows (right + 1) / (k + 2)
    confidence = np.linspace(0.99, 0.5, 30)
    correct = np.ones(30, bool)
    correct[[20, 21]] = False
    threshold, reached = choose_threshold(confidence, correct, 0.9)
    assert reached
    decided = int((confidence >= threshold).sum())
    assert decided == 30  # 29 / 32 = 0.906
    correct[25] = (
        False  # 28 / 32 < 0.9, and 24 / 26, 23 / 25, 22 / 24 with fewer: 21 / 23 after 21, 21 / 24 < 0.9 after 22
    )
    threshold, reached = choose_threshold(confidence, correct, 0.9)
    assert reached
    assert int((confidence >= threshold).sum()) == 21
    assert confidence[21] < threshold < confidence[20]


def test_threshold_without_proof_falls_back_on_calibrated_confidence():
    few = choose_threshold(np.array([0.99, 0.98, 0.97]), np.array([True] * 3), 0.9)
    assert few == (0.9, False)  # 4 / 5 proves no 0.9
    wrong = choose_threshold(np.array([0.99, 0.95]), np.array([True, False]), 0.9)
    assert wrong[0] == pytest.approx(0.950001)
    assert choose_threshold(np.array([1.0]), np.array([False]), 0.9) == (1.0, False)
    assert choose_threshold(np.zeros(0), np.zeros(0, bool), 0.9) == (0.9, False)


def test_equal_confidences_are_decided_together():
    confidence, correct = np.array([0.9] * 30 + [0.5] * 30), np.array([True] * 30 + [False] * 30)
    threshold, reached = choose_threshold(confidence, correct, 0.9)
    assert reached
    assert (confidence >= threshold).sum() == 30


def test_temperature_finds_the_one_that_the_logits_were_scaled_by():
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((20_000, 4)) * 2
    odds = np.exp(logits)
    y = (odds.cumsum(1) / odds.sum(1, keepdims=True) < rng.random((len(logits), 1))).sum(1)
    assert fit_temperature(logits, y) == pytest.approx(1, abs=0.03)
    assert fit_temperature(logits * 7, y) == pytest.approx(7, abs=0.2)
    assert fit_temperature(logits / 100, y) == pytest.approx(0.01, abs=0.0004)


def test_temperature_by_the_closed_form_of_two_labels():
    # all right with the same margin: the best odds are those of the smoothed target, (n + 1) to 1
    logits, y = np.array([[2.0, 0.0]] * 6), np.zeros(6, int)
    assert fit_temperature(logits, y) == pytest.approx(2 / np.log(7), rel=1e-6)


def test_folds_keep_groups_whole_and_spread_labels():
    rng = np.random.default_rng(3)
    groups = rng.integers(60, size=600)
    y = (groups % 3 + (rng.random(600) < 0.2)) % 3
    folds = grouped_folds(y, groups, 5, seed=1)
    assert set(folds) == set(range(5))
    for group in set(groups):
        assert len(set(folds[groups == group])) == 1
    share = confusion_matrix(folds, y, 5)[:, :3] / np.bincount(y)
    np.testing.assert_allclose(share, 0.2, atol=0.04)
    np.testing.assert_array_equal(folds, grouped_folds(y, groups, 5, seed=1))
    assert (folds != grouped_folds(y, groups, 5, seed=2)).any()


def test_parts_follow_their_shares():
    y, groups = np.repeat([0, 1], [40, 8]), np.arange(48)
    parts = grouped_parts(y, groups, [0.75, 0.25], seed=0)
    assert confusion_matrix(y, parts, 2).tolist() == [[30, 10], [6, 2]]


def test_near_duplicates_by_hand():
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((3000, 16)).astype(np.float32) + 100  # a large common part that centring takes away
    vectors[2500] = vectors[3] + 0.001
    vectors[2600] = 100 + 3 * (vectors[3] - 100)  # louder, same direction
    vectors[4] = vectors[3]
    first = near_duplicates(vectors)
    expected = np.arange(3000)
    expected[[4, 2500, 2600]] = 3
    np.testing.assert_array_equal(first, expected)


def test_near_duplicates_point_to_rows_that_stay():
    chain = np.array([[np.cos(a), np.sin(a)] for a in (0, 0.1, 0.2, 3.0, 3.1)])
    first = near_duplicates(np.concatenate([chain, -chain]), cosine=np.cos(0.11))
    assert (first[first] == first).all()
    assert (first[1], first[2]) == (0, 2)  # 2 is near 1 but not near the kept 0


def test_many_identical_vectors_are_one():
    vectors = np.repeat(np.eye(3, 8), 1000, axis=0)
    assert sorted(set(near_duplicates(vectors).tolist())) == [0, 1000, 2000]


def test_bootstrap_interval_of_a_mean():
    rng = np.random.default_rng(0)
    values = rng.standard_normal(400)
    low, high = bootstrap_interval(lambda rows: float(values[rows].mean()), np.arange(400), seed=0)
    error = values.std() / 20
    assert low == pytest.approx(values.mean() - 1.96 * error, abs=0.02)
    assert high == pytest.approx(values.mean() + 1.96 * error, abs=0.02)
    assert (low, high) == bootstrap_interval(lambda rows: float(values[rows].mean()), np.arange(400), seed=0)
    artists = np.arange(400) // 20
    per_artist = np.repeat(rng.standard_normal(20), 20)
    wide = bootstrap_interval(lambda rows: float(per_artist[rows].mean()), artists, seed=0)
    narrow = bootstrap_interval(lambda rows: float(per_artist[rows].mean()), np.arange(400), seed=0)
    assert wide[1] - wide[0] > 3 * (narrow[1] - narrow[0])
    assert np.isnan(bootstrap_interval(lambda rows: 0.0, np.zeros(0, int), seed=0)).all()


def test_summary_is_json_without_nan():
    import json

    probabilities = np.array(
        [[0.7, 0.2, 0.1], [0.6, 0.3, 0.1], [0.1, 0.8, 0.1], [0.2, 0.7, 0.1], [0.6, 0.3, 0.1], [0.2, 0.6, 0.2]]
    )
    found = summary(Y, probabilities, ["a", "b", "c"], groups=np.arange(6), threshold=0.7, seed=0)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["confusion"] == [[2, 1, 0], [1, 1, 0], [0, 1, 0]]
    assert found["labels"]["c"] == {"recordings": 1, "precision": None, "recall": 0.0}
    assert (found["coverage"], found["precision_decided"]) == (0.5, pytest.approx(2 / 3, abs=1e-6))
