"""The report of `indexer evaluate`: well-formed, complete, harmless with any text in it, without network requests."""

import copy
import html
import json
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import pytest

from indexer.learn import plots, report

FIVE = ("ambient", "drum and bass", "house", "techno", "trance")
TWELVE = (*(f"genre {i}" for i in range(11)), "a name of a genre that is longer than any plot is wide " * 3)
HOSTILE = (
    "</title><script>alert('x')</script><img src=//evil.example/a.png onerror=\"alert(1)\"> & ]]> "
    "\x1b[31m\u202e\udc80\n"
)


def learner(name, labels, *, kind="linear", accuracy=0.787):
    n = len(labels)
    return {
        "name": name,
        "kind": kind,
        "encoder": None if kind == "cnn" else "m2d_vit_base",
        "width": None if kind == "cnn" else 3840,
        "elapsed_s": 12.3,
        "recordings": 412,
        "artists": 87,
        "accuracy": accuracy,
        "accuracy_95": [0.731, 0.829],
        "balanced_accuracy": 0.764,
        "calibration_error_before": 0.093,
        "calibration_error": 0.031,
        "temperature": 1.7,
        "threshold": 0.62,
        "coverage": 0.713,
        "precision_decided": 0.914,
        "labels": {
            label: {"recordings": 101 + i, "precision": (50 + i) / 100, "recall": (70 + i) / 100}
            for i, label in enumerate(labels)
        },
        "confusion": [[801 + i if i == j else 3 for j in range(n)] for i in range(n)],
        "reliability": [
            {"confidence": 0.317, "accuracy": 0.284, "recordings": 14},
            {"confidence": 0.951, "accuracy": 0.942, "recordings": 99},
        ],
        "tradeoff": [
            {"threshold": 0.5, "coverage": 0.903, "precision": 0.826},
            {"threshold": 0.9, "coverage": 0.0, "precision": None},
        ],
    }


def sample(labels=FIVE, learners=3):
    rows = [
        learner("m2d + linear", labels),
        learner("rhythm + linear", labels, accuracy=0.664),
        learner("cnn", labels, kind="cnn", accuracy=0.585),
    ]
    return {
        "version": "0.1.0",
        "made": "2026-11-24T03:00:00Z",
        "library": {
            "recordings": 412,
            "artists": 87,
            "labels": {label: 101 + i for i, label in enumerate(labels)},
            "sources": {"corrections": 3, "tags": 400, "folders": 9},
            "near_duplicates_removed": 12,
            "not_embedded": 17,
            "damaged": 5,
            "too_few": {"dub": 3},
            "contradictions": {"tags against folders": 4},
        },
        "method": {"folds": 5, "held_out": None, "seed": 23, "target_precision": 0.9, "epochs": 100},
        "learners": rows[:learners],
        "best": "m2d + linear",
        "learning_curve": [
            {"recordings": 40, "accuracy": 0.553, "accuracy_95": [0.5, 0.6]},
            {"recordings": 330, "accuracy": 0.787, "accuracy_95": None},
        ],
        "notes": ["only 18 artists: the intervals are wide"],
        "elapsed_s": 43.2,
    }


def leaves(value, path=()):
    """Every place in the JSON form, inner nodes too."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*path, key)
        yield from leaves(inner, (*path, key))


def without(found, path):
    found = copy.deepcopy(found)
    inner = found
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = None
    return found


class Balanced(HTMLParser):
    """Raises where an element is closed that is not the innermost open one; keeps tags, attributes and text."""

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.texts = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "link"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        assert tag in ("meta", "link"), "HTML knows no other empty elements here"

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.texts.append(data)


def parsed(page):
    """(Tags with attributes, text) of the page, which must be well-formed, as XML too, and without active content."""
    page.encode("utf-8")
    parser = Balanced()
    parser.feed(page)
    parser.close()
    assert not parser.open
    tree = ET.fromstring(page.removeprefix("<!doctype html>\n"))
    ids = [e.get("id") for e in tree.iter() if e.get("id")]
    assert len(ids) == len(set(ids))
    for tag, attributes in parser.tags:
        assert tag not in {"script", "img", "iframe", "object", "embed", "base", "form", "a", "use", "image"}
        assert not [name for name in attributes if name.startswith("on") or name in ("src", "srcset", "xlink:href")]
        assert attributes.get("href", "data:,") == "data:,"
    return parser.tags, " ".join(" ".join(parser.texts).split())


@pytest.mark.parametrize("labels", [("a", "b"), FIVE, TWELVE])
@pytest.mark.parametrize("learners", [1, 3])
def test_page_is_well_formed_and_loads_nothing(labels, learners):
    page = report.to_html(sample(labels, learners))
    parsed(page)
    assert not re.search(r"https?:|url\(|@import|(?<!<)//", page, re.IGNORECASE)
    assert "default-src 'none'" in html.unescape(page)


def test_every_plot_is_described_and_stays_inside_its_frame():
    tree = ET.fromstring(report.to_html(sample(TWELVE)).removeprefix("<!doctype html>\n"))
    plots = list(tree.iter("svg"))
    assert len(plots) == 5  # and the confusion matrix, which is a table
    for plot in plots:
        named = [tree.find(f".//*[@id='{name}']").text for name in plot.get("aria-labelledby").split()]
        assert all(named)
        *_, width, height = map(float, plot.get("viewBox").split())
        for element in plot.iter():
            across = [float(element.get(name)) for name in ("x", "cx", "x1", "x2") if element.get(name)]
            down = [float(element.get(name)) for name in ("y", "cy", "y1", "y2") if element.get(name)]
            assert all(0 <= x <= width for x in across)
            assert all(0 <= y <= height for y in down)
            if element.tag == "rect":
                assert 0 <= float(element.get("width")) <= width - float(element.get("x"))


def test_page_says_every_number():
    _, text = parsed(report.to_html(sample()))
    for said in (
        "78.7%",
        "73% to 83%",
        "76.4%",
        "66.4%",
        "58.5%",
        "3.1%",
        "9.3%",
        "temperature 1.7",
        "71%",
        "91%",
        "from 62% confidence",
        "805",
        "54.0%",
        "74.0%",
        "31.7%",
        "28.4%",
        "82.6%",
        "90.3%",
        "55.3%",
        "tags 400",
        "dub 3",
        "tags against folders 4",
        "12",
        "17 not embedded",
        "5 damaged",
        "seed 23",
        "5 folds",
        "only 18 artists",
        "2026-11-24 03:00:00 UTC",
    ):
        assert said in text, said


def test_paper_is_named_as_not_comparable():
    _, text = parsed(report.to_html(sample()))
    assert re.search(r"not comparable: [^.]*76\.0% [^.]*M2D[^.]* 61\.5% for a CNN", text)


def test_held_out_share_is_told_instead_of_folds():
    found = sample()
    found["method"] |= {"folds": None, "held_out": 0.25}
    for text in (report.to_html(found), report.to_text(found)):
        assert "25% held out" in text
        assert "Dealt into" not in text


def test_heat_map_counts_rows_as_true_and_columns_as_called():
    found = sample(("a", "b"))
    found["learners"][0]["confusion"] = [[30, 10], [0, 7]]
    tree = ET.fromstring(report.to_html(found).removeprefix("<!doctype html>\n"))
    rows = list(tree.find(".//table[@class='confusion']/tbody"))
    texts = [["".join(cell.itertext()) for cell in row] for row in rows]
    assert texts == [["a", "3075%", "1025%"], ["b", "00%", "7100%"]]
    assert [cell.get("style") for cell in rows[0][1:]] == ["--share: 0.750", "--share: 0.250"]


def test_hostile_texts_are_shown_and_do_nothing():
    found = json.loads(json.dumps(sample((HOSTILE, "house"))))
    for row in found["learners"]:
        row |= {"name": row["name"] + HOSTILE, "encoder": HOSTILE, "kind": HOSTILE}
    found |= {"notes": [HOSTILE], "best": found["learners"][0]["name"], "version": HOSTILE, "made": HOSTILE}
    found["library"] |= {"sources": {HOSTILE: 1}, "too_few": {HOSTILE: 1}, "contradictions": {HOSTILE: 1}}
    page = report.to_html(found)
    tags, text = parsed(page)
    assert {tag for tag, _ in tags} == {tag for tag, _ in parsed(report.to_html(sample()))[0]}
    assert "<script>alert('x')</script>" in text
    for shown in (page, report.to_text(found)):
        assert all(c.isprintable() or c == "\n" for c in shown)
        assert r"\x1b[31m\u202e\x80\n" in shown


def unknown_values():
    """A whole row of a table is there or not; everything else may be unknown."""
    found = sample(("a", "b"), 1)
    rows = ("learners", "learning_curve", "reliability", "tradeoff", "notes", "confusion")
    for path in leaves(found):
        of_a_genre = len(path) == 4 and path[2] == "labels"
        if not of_a_genre and (len(path) == 1 or path[-2] not in rows):
            yield path


@pytest.mark.parametrize("path", list(unknown_values()), ids=str)
def test_any_value_may_be_unknown(path):
    found = without(sample(("a", "b"), 1), path)
    _, page = parsed(report.to_html(found))
    for text in (page, report.to_text(found)):
        assert "None" not in text
        assert "nan" not in text


def test_nothing_known_at_all():
    found = dict.fromkeys(sample())
    _, text = parsed(report.to_html(found))
    assert "No learner was judged" in text
    assert "n/a recordings of n/a artists" in report.to_text(found)


def test_unknown_best_means_the_first():
    found = sample()
    found["best"] = "gone"
    assert report.best_learner(found) is found["learners"][0]
    found["best"] = "cnn"
    assert report.best_learner(found) is found["learners"][2]
    assert "Best learner: cnn" in parsed(report.to_html(found))[1]


def test_terminal_shows_learners_side_by_side_and_the_best_in_full():
    lines = report.to_text(sample()).splitlines()
    assert lines[0] == (
        "verdict: better than guessing. Right for 79% of the recordings; calling every one trance, the commonest, would"
        " be right for 20%"
    )
    assert lines[1] == (
        "judged on 412 recordings of 87 artists: ambient 101, drum and bass 102, house 103, techno 104, trance 105"
    )
    start = next(i for i, line in enumerate(lines) if line.startswith("learner "))
    assert [line.split("  ")[0] for line in lines[start + 1 : start + 4]] == [
        "m2d + linear *",
        "rhythm + linear",
        "cnn",
    ]
    assert lines[start + 1].endswith("78.7%    73% to 83%     76.4%               3.1%      71%             91%")
    assert "  techno                104        53%     73%  4:     3     3     3   804     3" in lines
    text = "\n".join(lines)
    for said in (
        "off by 3.1% on average, by 9.3% before calibration (temperature 1.7)",
        "decided from 62% confidence on: 71% of the recordings, 91% of these right",
        "learning curve: 55.3% from 40, 78.7% from 330 recordings",
        "note: only 18 artists",
        f"note: {report.THIS_LIBRARY}",
    ):
        assert said in text, said


def test_terminal_columns_align_with_wide_long_and_combining_names():
    found = sample(("電子音楽" * 9, "e\u0301lectro", "house"), 1)
    lines = report.to_text(found).splitlines()
    table = [line for line in lines if re.search(r" \d:  ", line)]
    ends = {plots.columns_of(line[: line.index(f" {i + 1}: ")]) for i, line in enumerate(table)}
    assert len(table) == 3
    assert len(ends) == 1
    assert "…" in table[0]


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (0.5, 1, [0.5, 0.6, 0.7, 0.8, 0.9, 1]),
        (0, 330, [0, 100, 200, 300]),
        (0, 50_000, [0, 10_000, 20_000, 30_000, 40_000, 50_000]),
    ],
)
def test_ticks_are_round_numbers(low, high, ticks):
    assert plots.ticks_of(low, high) == pytest.approx(ticks)


@pytest.mark.parametrize("most", [1, 2, 3, 7, 99, 1000, 123_456])
def test_ticks_never_leave_the_axis_and_are_few(most):
    ticks = plots.ticks_of(0, most)
    assert 2 <= len(ticks) <= 6
    assert ticks[0] == 0
    assert ticks[-1] <= most


@pytest.mark.parametrize(
    ("accuracy", "low", "said"),
    [
        (0.5, 0.3, "better than guessing. Right for 50%"),
        (0.5, 0.1, "perhaps better than guessing: more labels would tell"),
        (0.2, 0.1, "no better than guessing"),
        (0.5, None, "perhaps better"),
        (None, None, "nothing to judge"),
    ],
)
def test_the_verdict_is_against_always_guessing_the_commonest(accuracy, low, said):
    found = sample()
    best = report.best_learner(found)
    best["accuracy"], best["accuracy_95"] = accuracy, None if low is None else [low, 0.9]
    assert said in report.verdict(found)
    assert said in " ".join(parsed(report.to_html(found))[1].split()) or accuracy is None


def test_a_long_name_keeps_the_end_that_tells_learners_apart():
    name = "m2d_clap_vit_base-80x1001p16x16p16kpBpTI-2025 (2 units), words, begun by words, no label"
    assert plots.clip_middle(name, 44) == "m2d_clap_v…, words, begun by words, no label"
    assert plots.clip_middle("short", 44) == "short"
    assert plots.columns_of(plots.clip_middle("音" * 40, 20)) <= 20
