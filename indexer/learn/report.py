"""The report of `indexer evaluate`: one self-contained HTML page, and the text for the terminal.

Pure functions of the command's JSON form, in which any value may be None. Opens no file and computes no figure; the
page loads nothing from other hosts. ``element`` escapes all text from the data (labels, encoders, notes).
"""

import math
from collections.abc import Sequence
from typing import Any

from indexer.learn.plots import (
    BOTTOM,
    HEIGHT,
    Bar,
    Interval,
    Markup,
    Plane,
    bars_of,
    clip,
    clip_middle,
    columns_of,
    dot,
    element,
    line,
    nothing,
    path,
    percent,
    plain,
    plot,
    share_range,
)
from indexer.wording import count

TITLE = "How well the genres of this library are recognised"
PAPER = (
    "For context only, not comparable: the published system reports 76.0% test accuracy for frozen M2D with a "
    "linear head and 61.5% for a CNN, on its own music of five genres."
)
THIS_LIBRARY = "The figures hold for this library, its labels and its genres only."
FIGURES = ("accuracy", "95% interval", "balanced", "calibration error", "decided", "of these right")

CSS = """
:root { color-scheme: light dark; font-size: 94%; --page: #f5f6f8; --card: #fff; --ink: #1d2530; --soft: #59636f;
  --line: #dde1e7; --blue: #2f62c9; --green: #13795b; --heat: 47 98 201 }
@media screen and (prefers-color-scheme: dark) { :root { --page: #101419; --card: #181e25; --ink: #e3e8ee;
  --soft: #9aa5b1; --line: #2c343e; --blue: #7da7f7; --green: #4fc09a; --heat: 106 152 240 } }
* { box-sizing: border-box }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 1rem/1.5 system-ui, "Segoe UI", Roboto, "Liberation Sans", sans-serif }
main { max-width: 72rem; margin: 0 auto; padding: clamp(1rem, 3vw, 2.5rem) clamp(.75rem, 3vw, 2rem) }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 } h2 { font-size: 1.05rem; margin: 0 }
h1, h2, p, dd, li { overflow-wrap: anywhere } p, ul { margin: .4rem 0 .8rem } ul { padding-left: 1.2rem }
p, dd, caption, thead th, small, summary, footer { color: var(--soft) }
section { background: var(--card); border: 1px solid var(--line); border-radius: .6rem; padding: 1.1rem 1.2rem;
  margin: 0 0 1rem }
section > :last-child { margin-bottom: 0 }
.columns { columns: 26rem; column-gap: 1rem; margin-bottom: 1rem } .columns section { break-inside: avoid }
.columns section:last-child { margin-bottom: 0 }
dl { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(10rem, 1fr)); margin: 1.2rem 0 }
dl div { border-top: 3px solid var(--blue); padding-top: .5rem } dt, dd { margin: 0 }
dd.figure { color: var(--ink); font-size: 1.7rem; font-weight: 600; line-height: 1.25 }
svg { display: block; width: 100%; max-width: 30rem; height: auto; margin: .4rem 0; font-size: 13px; fill: var(--ink) }
.soft { fill: var(--soft) } .rule { stroke: var(--line) } .track { fill: var(--line); opacity: .55 }
.blue { fill: var(--blue) } .green { fill: var(--green) } .whisker { stroke: var(--ink); stroke-width: 1.5 }
.path { fill: none; stroke: var(--blue); stroke-width: 2 }
.dot { fill: var(--blue); fill-opacity: .8; stroke: var(--card) }
.dashed { stroke: var(--soft); stroke-dasharray: 4 4 } .ring { fill: none; stroke: var(--ink); stroke-width: 2 }
.scroll { overflow-x: auto }
:is(.scroll, summary):focus-visible { outline: 2px solid var(--blue); outline-offset: 2px }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums }
th, td { border-bottom: 1px solid var(--line); padding: .3rem .6rem; text-align: right; font-weight: 400;
  white-space: nowrap }
thead th { vertical-align: bottom } caption { text-align: left; padding-bottom: .3rem }
th:first-child { text-align: left; padding-left: 0; white-space: normal; overflow-wrap: anywhere; min-width: 11rem;
  max-width: 22rem }
td small, th small { display: block; font-weight: 400 } .best :is(th, td) { font-weight: 600 }
.confusion td { background: rgb(var(--heat) / calc(var(--share) * .6)); border: 2px solid var(--card);
  padding: .2rem .3rem; min-width: clamp(2.5rem, 5vw, 3.6rem); text-align: center; line-height: 1.25 }
.confusion td small { color: inherit } .confusion th:first-child { min-width: 5.5rem }
.confusion thead th + th { writing-mode: vertical-rl; transform: rotate(180deg); text-align: left;
  vertical-align: middle; padding: .3rem .2rem }
.confusion .right { outline: 1px solid var(--soft); outline-offset: -1px }
details { margin-top: .6rem } summary { cursor: pointer } footer { font-size: .9rem }
@media print { :root { font-size: 10pt } body { background: none } main { max-width: none; padding: 0 }
  section { break-inside: avoid; border: 0; padding: .5rem 0 } svg { max-width: 24rem } .scroll { overflow: visible }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact }
  details::details-content { content-visibility: visible; block-size: auto } }
"""

Found = dict[str, Any]  # the JSON form of `evaluate --json`, or a part of it


def to_html(found: Found) -> str:
    """The whole HTML page; ``found`` as `evaluate --json` prints it."""
    best = best_learner(found)
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("link", rel="icon", href="data:,"),
        element("title", TITLE),
        element("style", Markup(CSS)),
    )
    judged = [_learners(found), _confusion(best), _genres(best), _reliability(best), _tradeoff(best)] if best else []
    body = element(
        "main",
        _header(found, best),
        _list("Notes", found["notes"]),
        *judged[:2],
        element("div", *judged[2:], _curve(found["learning_curve"] or []), class_="columns"),
        _list("How this was measured", _measured(found)),
        element("footer", f"Made by indexer {plain(found['version'])}. This page loads nothing from anywhere."),
    )
    return "<!doctype html>\n" + element("html", head, element("body", body), lang="en") + "\n"


def to_text(found: Found) -> str:
    """The text for the terminal: the data, a line for each learner, the best one genre by genre, the notes."""
    library, best = found["library"] or {}, best_learner(found)
    lines = [verdict(found), f"judged on {_size(library)}: {_counts(library.get('labels'))}", _measured(found)[0]]
    if best:
        rows = [
            [clip_middle(learner["name"], 44) + (" *" if learner is best else ""), *_figures(learner)]
            for learner in found["learners"]
        ]
        lines += [
            "",
            *_columns([["learner", *FIGURES], *rows]),
            "",
            f"* {plain(best['name'])}:",
            *(f"  {line}" for line in [*_columns(_genre_rows(best)), _calibration(best), _decided(best)]),
        ]
    if curve := found["learning_curve"]:
        points = [f"{percent(p['accuracy'], 1)} from {_number(p['recordings'])}" for p in curve]
        lines.append(f"learning curve: {', '.join(points)} recordings")
    return "\n".join([*lines, *(f"note: {plain(note)}" for note in found["notes"] or []), f"note: {THIS_LIBRARY}"])


def best_learner(found: Found) -> Found | None:
    """The learner that ``found["best"]`` names, else the first; None where there is none."""
    learners: list[Found] = found["learners"] or []
    named = [learner for learner in learners if learner["name"] == found["best"]]
    return next(iter([*named, *learners]), None)


# ---- sentences and numbers


def verdict(found: Found) -> str:
    """How the best learner does against calling every recording the commonest genre, in one sentence."""
    best = best_learner(found)
    labels = {label: n for label, n in ((found["library"] or {}).get("labels") or {}).items() if n}
    if not best or best["accuracy"] is None or not labels:
        return "verdict: there is nothing to judge"
    commonest = max(labels, key=labels.__getitem__)
    share = labels[commonest] / sum(labels.values())
    low = (best["accuracy_95"] or [None])[0]
    if low is not None and low > share:
        says = "better than guessing"
    elif best["accuracy"] > share:
        says = "perhaps better than guessing: more labels would tell"
    else:
        says = "no better than guessing: more labels, or fewer genres, may help"
    return (
        f"verdict: {says}. Right for {percent(best['accuracy'])} of the recordings; calling every one"
        f" {plain(commonest)}, the commonest, would be right for {percent(share)}"
    )


def _figures(learner: Found) -> list[str]:
    """The figures of a learner as text, in the order of FIGURES."""
    return [
        percent(learner["accuracy"], 1),
        _span(learner["accuracy_95"]),
        percent(learner["balanced_accuracy"], 1),
        percent(learner["calibration_error"], 1),
        percent(learner["coverage"]),
        percent(learner["precision_decided"]),
    ]


def _genre_rows(best: Found) -> list[list[str]]:
    """Rows of the terminal's table: a genre's precision, recall and confusions.

    Column "as 2" counts the recordings of the row's genre that were predicted as genre 2.
    """
    confusion = best["confusion"] or []
    rows = [["genre", "recordings", "precision", "recall", "", *(f"as {i + 1}" for i in range(len(confusion)))]]
    for i, (label, m) in enumerate((best["labels"] or {}).items()):
        rows.append(
            [
                clip(label, 24),
                _number(m["recordings"]),
                percent(m["precision"]),
                percent(m["recall"]),
                f"{i + 1}:",
                *(_number(n) for row in confusion[i : i + 1] for n in row),
            ]
        )
    return rows


def _calibration(learner: Found) -> str:
    return (
        f"confidence is off by {percent(learner['calibration_error'], 1)} on average, by "
        f"{percent(learner['calibration_error_before'], 1)} before calibration "
        f"(temperature {_number(learner['temperature'])})"
    )


def _decided(learner: Found) -> str:
    return (
        f"decided from {percent(learner['threshold'])} confidence on: {percent(learner['coverage'])} of the "
        f"recordings, {percent(learner['precision_decided'])} of these right"
    )


def _measured(found: Found) -> list[str]:
    """Sentences on how it was measured; the first one says how training and test recordings were separated."""
    library, method = found["library"] or {}, found["method"] or {}
    how = (
        f"Dealt into {_number(method.get('folds'))} folds, each judged by what was learned from the others."
        if method.get("held_out") is None
        else f"{percent(method['held_out'])} held out and judged by what was learned from the others."
    )
    copies = _number(library.get("near_duplicates_removed"))
    missing = f"{_number(library.get('not_embedded'))} not embedded yet, {_number(library.get('damaged'))} damaged"
    facts = [
        f"{how} No artist is on both sides, unless a note says otherwise.",
        f"{_size(library)}. Genres, from your own labels: {_counts(library.get('labels'))}.",
        f"Where the labels come from: {_counts(library.get('sources'))}.",
        f"Near-duplicates removed, so that no recording is judged by its own copy: {copies}. Left out: {missing}.",
    ]
    if library.get("too_few"):
        facts.append(f"Genres left out, with too few recordings to judge: {_counts(library['too_few'])}.")
    if library.get("contradictions"):
        facts.append(f"Labels that contradict each other: {_counts(library['contradictions'])}.")
    target, epochs, seed = percent(method.get("target_precision")), method.get("epochs"), method.get("seed")
    return [
        *facts,
        f"The threshold aims at {target} of the decided recordings right; the rest stays undecided.",
        "Threshold and temperature were chosen without the judged recordings; shown are medians over the folds.",
        f"At most {_number(epochs)} epochs; seed {plain(seed)}: it divides the same library the same way again.",
        "Where the 95% intervals of two learners overlap much, this library cannot tell which one is better.",
        THIS_LIBRARY,
        PAPER,
    ]


def _size(about: Found) -> str:
    numbers = ((about.get(f"{noun}s"), noun) for noun in ("recording", "artist"))
    return " of ".join(f"n/a {noun}s" if n is None else count(n, noun) for n, noun in numbers)


def _counts(numbers: dict[str, int] | None) -> str:
    return ", ".join(f"{plain(name)} {_number(n)}" for name, n in (numbers or {}).items()) or "none"


def _number(value: float | None) -> str:
    return "n/a" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:,.1f}"


def _span(interval: Interval) -> str:
    return "n/a" if interval is None or None in interval else " to ".join(map(percent, interval))


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """A table as lines of text: the first column is aligned left, the others right."""
    widths = [max(map(columns_of, column)) for column in zip(*rows, strict=True)]
    gaps = [[" " * (width - columns_of(cell)) for cell, width in zip(row, widths, strict=True)] for row in rows]
    return [
        "  ".join([row[0] + gap[0], *(g + cell for cell, g in zip(row[1:], gap[1:], strict=True))])
        for row, gap in zip(rows, gaps, strict=True)
    ]


# ---- sections of the page


def _header(found: Found, best: Found | None) -> Markup:
    made = plain(found["made"]).replace("T", " ").replace("Z", " UTC")
    about = f"{_size(found['library'] or {})}; measured {made} in {_number(found['elapsed_s'])} s. "
    title = element("h1", TITLE)
    if not best:
        return element("header", title, element("p", about + "No learner was judged."))
    tiles = [
        ("Accuracy", percent(best["accuracy"], 1), f"95% interval: {_span(best['accuracy_95'])}"),
        ("Balanced accuracy", percent(best["balanced_accuracy"], 1), "every genre counts the same"),
        ("Decided", percent(best["coverage"]), f"from {percent(best['threshold'])} confidence on"),
        ("Right where decided", percent(best["precision_decided"]), "the rest is left to you"),
    ]
    return element(
        "header",
        title,
        element("p", about + f"Best learner: {plain(best['name'])}."),
        element("p", element("b", verdict(found)[:1].upper() + verdict(found)[1:] + ".")),
        element(
            "dl",
            *(
                element("div", element("dt", name), element("dd", figure, class_="figure"), element("dd", meaning))
                for name, figure, meaning in tiles
            ),
        ),
    )


def _learners(found: Found) -> Markup:
    learners, best = found["learners"], best_learner(found)
    bars: list[tuple[str, list[Bar]]] = [
        (
            plain(learner["name"]),
            [("blue", learner["accuracy"], learner["accuracy_95"], "{} ({})".format(*_figures(learner)))],
        )
        for learner in learners
    ]
    rows = [
        [element("span", learner["name"], element("small", _about(learner))), *_figures(learner)]
        for learner in learners
    ]
    return _section(
        "Learners side by side",
        "Each bar is the share of recordings that a learner named right, the thin line its 95% interval.",
        bars_of("Accuracy of every learner", bars),
        _table(["learner", *FIGURES], rows, best=next(i for i, row in enumerate(learners) if row is best)),
    )


def _about(learner: Found) -> str:
    encoder = "" if learner["encoder"] is None else f" on {_number(learner['width'])} numbers of {learner['encoder']}"
    return f"{plain(learner['kind'])}{encoder}; judged on {_size(learner)}; {_number(learner['elapsed_s'])} s"


def _confusion(best: Found) -> Markup:
    """The confusion matrix as a table whose cells are coloured by their share of the row."""
    labels, lines = list(best["labels"] or {}), []
    for i, (label, counts) in enumerate(zip(labels, best["confusion"] or [], strict=False)):
        total = sum(n or 0 for n in counts)
        shares = [n / total if n is not None and total else None for n in counts]
        cells = [
            element(
                "td",
                _number(n),
                element("small", percent(share)),
                class_="right" if i == j else None,
                style=f"--share: {share or 0:.3f}",
            )
            for j, (n, share) in enumerate(zip(counts, shares, strict=True))
        ]
        lines.append(element("tr", element("th", label, scope="row"), *cells))
    head = element(
        "tr",
        element("th", "is ↓, was called →", scope="col"),
        *(element("th", clip(name, 28), scope="col", title=name) for name in labels),
    )
    table = element(
        "table",
        element("caption", "Recordings, and their share of the row"),
        element("thead", head),
        element("tbody", *lines),
        class_="confusion",
    )
    return _section(
        "What is taken for what",
        "A row is a genre as labelled, a column what it was called: the framed "
        "diagonal is right, and colour beside it shows genres that are mixed up.",
        _scroll("Confusion matrix", table) if lines else nothing(),
    )


def _genres(best: Found) -> Markup:
    labels = best["labels"] or {}
    bars: list[tuple[str, list[Bar]]] = [
        (
            f"{clip(label, 36)} ({_number(m['recordings'])})",
            [
                ("blue", m["precision"], None, f"precision {percent(m['precision'])}"),
                ("green", m["recall"], None, f"recall {percent(m['recall'])}"),
            ],
        )
        for label, m in labels.items()
    ]
    rows = [
        [label, _number(m["recordings"]), percent(m["precision"], 1), percent(m["recall"], 1)]
        for label, m in labels.items()
    ]
    return _section(
        "Genre by genre",
        "Precision: how many of those called this genre are it. Recall: how many of this genre were found.",
        bars_of("Precision and recall of every genre", bars),
        _numbers(["genre", "recordings", "precision", "recall"], rows),
    )


def _reliability(best: Found) -> Markup:
    bins = best["reliability"] or []
    points = [
        (b["confidence"], b["accuracy"], b["recordings"] or 0)
        for b in bins
        if None not in (b["confidence"], b["accuracy"])
    ]
    plane, most = Plane((0, 1), (0, 1)), max([1, *(n for *_, n in points)])
    dots = [
        dot(
            plane.at(x, y),
            3 + 8 * math.sqrt(n / most),
            f"{percent(x)} sure, {percent(y)} right, {count(n, 'recording')}",
        )
        for x, y, n in points
    ]
    drawn = plot(
        "Reliability diagram",
        _sentence(_calibration(best)),
        plane.frame("confidence", "right"),
        line(plane.at(0, 0), plane.at(1, 1), "dashed"),
        *dots,
    )
    rows = [[percent(b["confidence"], 1), percent(b["accuracy"], 1), _number(b["recordings"])] for b in bins]
    return _section(
        "Is it as sure as it should be?",
        "On the dashed line, 80% sure means right 80% of the time; below "
        "it the learner is too sure of itself. A larger dot is more recordings.",
        drawn if points else nothing(),
        element("p", _sentence(_calibration(best))),
        _numbers(["confidence", "right", "recordings"], rows),
    )


def _tradeoff(best: Found) -> Markup:
    steps, chosen = best["tradeoff"] or [], (best["coverage"], best["precision_decided"])
    points = sorted((s["coverage"], s["precision"]) for s in steps if None not in (s["coverage"], s["precision"]))
    plane, marked = Plane((0, 1), share_range(y for _, y in [*points, chosen])), []
    if None not in chosen:
        x, y = plane.at(*chosen)
        aside = {"x": x - 6, "text_anchor": "end"} if chosen[0] > 0.5 else {"x": x + 6}
        marked = [
            line((x, y), (x, HEIGHT - BOTTOM), "dashed"),
            element("circle", cx=x, cy=y, r=7, class_="ring"),
            element("text", f"threshold {percent(best['threshold'])}", y=HEIGHT - BOTTOM - 8, **aside),
        ]
    drawn = plot(
        "Coverage against precision",
        _sentence(_decided(best)),
        plane.frame("decided", "of these right"),
        *path(plane, points),
        *marked,
    )
    rows = [[percent(s["threshold"]), percent(s["coverage"], 1), percent(s["precision"], 1)] for s in steps]
    return _section(
        "How much to decide",
        "To the left fewer recordings are decided and more of these are right; the "
        "ring is the threshold that was chosen.",
        drawn if points else nothing(),
        element("p", _sentence(_decided(best))),
        _numbers(["threshold", "decided", "of these right"], rows),
    )


def _curve(curve: list[Found]) -> Markup:
    points = [(p["recordings"], p["accuracy"]) for p in curve if None not in (p["recordings"], p["accuracy"])]
    spans = [
        (p["recordings"], *p["accuracy_95"])
        for p in curve
        if None not in (p["recordings"], *(p["accuracy_95"] or [None]))
    ]
    plane = Plane(
        (0, max([1, *(x for x, _ in points)])), share_range([*(y for _, y in points), *(low for _, low, _ in spans)])
    )
    whiskers = [line(plane.at(x, low), plane.at(x, high), "whisker") for x, low, high in spans]
    listed = ", ".join(f"{percent(y, 1)} from {_number(x)} recordings" for x, y in points)
    drawn = plot(
        "Learning curve",
        f"Accuracy: {listed}.",
        plane.frame("recordings learned from", "accuracy", _number),
        *whiskers,
        *path(plane, points),
    )
    rows = [[_number(p["recordings"]), percent(p["accuracy"], 1), _span(p["accuracy_95"])] for p in curve]
    return _section(
        "Would more labels help?",
        "Where the line still rises at its right end, more labelled recordings "
        "should help; the upright lines are 95% intervals.",
        drawn if points else nothing(),
        _numbers(["recordings", "accuracy", "95% interval"], rows),
    )


def _list(title: str, lines: list[str] | None) -> Markup:
    return _section(title, "", element("ul", *(element("li", line) for line in lines))) if lines else Markup()


def _section(title: str, how_to_read: str, *content: Markup) -> Markup:
    return element("section", element("h2", title), element("p", how_to_read) if how_to_read else Markup(), *content)


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _numbers(header: list[str], rows: list[list[str]]) -> Markup:
    """The numbers of a plot in a table, folded on the screen and open in print."""
    return element("details", element("summary", "The numbers"), _table(header, rows)) if rows else Markup()


def _table(header: list[str], rows: Sequence[Sequence[str]], best: int | None = None) -> Markup:
    lines = [
        element(
            "tr",
            element("th", row[0], scope="row"),
            *(element("td", cell) for cell in row[1:]),
            class_="best" if i == best else None,
        )
        for i, row in enumerate(rows)
    ]
    head = element("tr", *(element("th", name, scope="col") for name in header))
    return _scroll("Table: " + ", ".join(header), element("table", element("thead", head), element("tbody", *lines)))


def _scroll(name: str, table: Markup) -> Markup:
    """A wide table in a region that scrolls, also by keyboard."""
    return element("div", table, class_="scroll", role="region", tabindex="0", aria_label=name)
