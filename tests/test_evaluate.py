"""`indexer evaluate`: no artist is divided between folds, and the report is of what the heads say.

Each recording is judged once, by a head that did not learn from it.
"""

import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexer.heads.crossvalidation import Fold, cross_validate, figures
from indexer.heads.evaluation import hold_out, make_folds
from tests.helpers.labelled import WIDTH, sql


@pytest.fixture
def library(labelled_library):
    return labelled_library


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 12)), min_size=8, max_size=80),
    st.integers(2, 6),
    st.integers(0, 5),
)
def test_folds_keep_artists_whole_and_every_label_can_be_learned(rows, folds, seed):
    y, groups = np.array(rows).T
    y = np.unique(y, return_inverse=True)[1]
    fold, loose = make_folds(y, groups, folds, seed)
    assert fold.min() >= 0
    assert fold.max() < folds
    for label, n in Counter(y.tolist()).items():
        assert n < 2 or len(np.unique(fold[y == label])) > 1
    kept = ~np.isin(y, loose)
    for group in np.unique(groups[kept]):
        assert len(np.unique(fold[kept & (groups == group)])) == 1
    for label in loose:  # only what cannot be split otherwise
        shared = groups[y == label]
        assert len(np.unique(shared)) == 1 or np.isin(groups, shared).any()


def test_held_out_rows_are_judged_once_and_the_rest_never():
    y, groups = np.arange(60) % 3, np.arange(60) // 5
    fold, loose = hold_out(y, groups, 0.25, 0)
    assert (set(fold.tolist()), loose) == ({-1, 0}, [])
    assert 0.15 < (fold == 0).mean() < 0.35
    assert not set(groups[fold == 0].tolist()) & set(groups[fold == -1].tolist())


def test_every_row_is_judged_once_by_what_never_saw_it():
    y = np.arange(40) % 2
    fold = np.arange(40) % 4
    seen = []

    def learner(learned, judged):
        assert not set(learned.tolist()) & set(judged.tolist())
        assert len(learned) + len(judged) == 40
        seen.extend(judged.tolist())
        return Fold(np.eye(2)[y[judged]] * 8 + judged[:, None] * 0, 2.0, 0.5 + fold[judged[0]] / 100)

    pooled = cross_validate(learner, fold)
    assert sorted(seen) == pooled.rows.tolist() == list(range(40))
    assert pooled.thresholds.tolist() == [0.5 + f / 100 for f in fold]
    found = figures(pooled, y, np.arange(40), ("a", "b"), 0)
    assert (found["accuracy"], found["coverage"], found["precision_decided"], found["temperature"]) == (1, 1, 1, 2)
    assert (
        found["calibration_error_before"] < found["calibration_error"]
    )  # all are right, and temperature 2 makes them less sure
    assert found["confusion"] == [[20, 0], [0, 20]]


def test_coverage_and_precision_are_those_at_each_folds_own_threshold():
    y = np.zeros(10, np.int64)
    logits = np.log(np.array([[0.9, 0.1]] * 4 + [[0.3, 0.7]] * 2 + [[0.6, 0.4]] * 4))
    fold = np.array([0, 0, 0, 0, 1, 1, 1, 1, 1, 1])
    pooled = cross_validate(lambda _, judged: Fold(logits[judged], 1.0, 0.95 if judged[0] == 0 else 0.5), fold)
    found = figures(pooled, y, np.arange(10), ("a", "b"), 0)
    assert (found["coverage"], found["precision_decided"], found["accuracy"]) == (
        0.6,
        pytest.approx(4 / 6, abs=1e-6),
        0.8,
    )
    assert sum(b["recordings"] for b in found["reliability"]) == 10
    assert found["tradeoff"][0] == {"threshold": pytest.approx(0.6, abs=1e-6), "coverage": 1.0, "precision": 0.8}


def test_the_report_tells_how_well_heads_know_the_library(library):
    before = sql(library.db, "SELECT name, in_use FROM heads")
    found = library.json("evaluate")
    row, paper = found["learners"]
    assert (found["best"], row["encoder"], row["width"], row["kind"]) == ("made + linear", "made", WIDTH, "linear")
    assert (paper["name"], row["recipe"], paper["recipe"]) == ("made + paper's recipe", "best", "paper")
    assert row["recordings"] == 90
    assert 0.6 < row["accuracy"] < 1
    low, high = row["accuracy_95"]
    assert low < row["accuracy"] < high
    assert sum(map(sum, row["confusion"])) == 90
    curve = [point["recordings"] for point in found["learning_curve"]]
    assert curve == sorted(curve)
    assert found["learning_curve"][-1]["accuracy"] == row["accuracy"]
    assert found["library"]["sources"] == {"corrections": 0, "tags": 90, "folders": 0}
    page = (library.folder / "evaluation.html").read_text()
    assert "<svg" in page
    assert json.loads((library.folder / "evaluation.json").read_text()) == found
    assert sql(library.db, "SELECT name, in_use FROM heads") == before  # nothing was changed
    again = library.json("evaluate")
    for volatile in ("made", "elapsed_s"):
        again.pop(volatile), found.pop(volatile)
    for learner in (*again["learners"], *found["learners"]):
        learner.pop("elapsed_s")
    assert again == found
    assert (
        library.json("evaluate", "--held-out", 0.3, "--report", library.folder / "x.html")["learners"][0]["recordings"]
        < 45
    )
    assert "learning curve" in library("evaluate", "--folds", 3).stdout


def test_labels_that_say_nothing_are_judged_by_chance(library):
    rng = np.random.default_rng(0)
    for i, genre in enumerate(rng.permutation([g for g in ("House", "Techno", "Trance") for _ in range(30)])):
        sql(library.db, "UPDATE tags SET genre = ? WHERE file_id = ?", str(genre), i + 1)
    row = library.json("evaluate")["learners"][0]
    assert row["accuracy"] < 0.5
    assert row["coverage"] < 0.5  # the head is rightly unsure


def test_near_duplicates_are_removed_and_damaged_ones_left_out(library):
    (vector,) = sql(library.db, "SELECT vector FROM embeddings WHERE recording_id = 1")[0]
    sql(library.db, "UPDATE embeddings SET vector = ? WHERE recording_id IN (4, 7)", vector)
    sql(library.db, "UPDATE embeddings SET vector = ? WHERE recording_id = 10", np.full(WIDTH, np.nan, "<f2").tobytes())
    found = library.json("evaluate")["library"]
    assert (found["recordings"], found["near_duplicates_removed"], found["damaged"]) == (87, 2, 1)


def test_a_library_of_one_artist_is_judged_and_said_to_flatter(library):
    sql(library.db, "UPDATE tags SET artist = 'only one'")
    found = library.json("evaluate", "--folds", 3)
    assert any("the figures flatter" in note for note in found["notes"])
    assert found["learners"][0]["recordings"] == 90


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--folds", "1"], "--folds is 1"),
        (["--held-out", "1"], "--held-out is 1.0"),
        (["--report", "song.mp3"], "must end in .html"),
        (["--report", "/nowhere/at/all.html"], "the report cannot be written"),
        (["--labels", "magic"], "'magic' is not one of"),
        (["--epochs", "0"], "--epochs is 0"),
        (["--encoder", "rhythm"], "no embeddings by rhythm"),
    ],
)
def test_what_cannot_be_evaluated_is_said_in_one_line(library, arguments, message):
    (line,) = library("evaluate", *arguments, code=2).stderr.splitlines()
    assert message in line


def test_one_genre_is_not_enough(library):
    sql(library.db, "UPDATE tags SET genre = 'House'")
    assert "a head needs a second genre" in library("evaluate", code=2).stderr
