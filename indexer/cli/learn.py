"""Commands that learn from labels: train, evaluate, suggest."""

import sys
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from indexer.cli import text
from indexer.cli.options import PATH, common, json_option, labelled, set_option
from indexer.cli.output import note, say, show
from indexer.cli.scan import apply_head
from indexer.config import Settings
from indexer.wording import escaped

if TYPE_CHECKING:
    from indexer.learn.dataset import LabelRequest
    from indexer.learn.train import Request


@click.command()
@labelled
@set_option
@click.option("--name", help="Name of the new head.")
@click.option(
    "--seed",
    type=int,
    default=0,
    show_default=True,
    help="Decides how recordings are dealt; the same seed gives the same head.",
)
@click.option(
    "--recipe",
    type=click.Choice(["best", "paper"]),
    default="best",
    show_default=True,
    help="best: learns from every label; paper: SGD, a quarter held back, to compare with.",
)
@click.option(
    "--epochs",
    type=int,
    default=100,
    show_default=True,
    help="Passes over all recordings, at most, of the paper's recipe.",
)
@click.option(
    "--target-precision",
    type=float,
    default=0.9,
    show_default=True,
    help="Share of decided genres that should be right.",
)
@click.option("--resume", is_flag=True, help="Go on with an interrupted training.")
@click.option(
    "--words",
    is_flag=True,
    help="Make a head of no labels, from sentences about each genre (setting words): a first guess, never written.",
)
@click.option(
    "--apply",
    "apply_now",
    is_flag=True,
    help="Then classify everything with the head and write the genres, as `relabel` and `scan` do; else a terminal is"
    " asked.",
)
@json_option
@common
def train(
    settings: Settings,
    verbosity: int,
    label_request: "LabelRequest",
    label_set: str | None,
    apply_now: bool,
    as_json: bool,
    *,
    words: bool,
    **request: Any,
) -> None:
    """Learn a head from your own labels and cached embeddings, and put it in use; opens files only to write genres."""
    from indexer.learn.train import Request, report

    labels = replace(label_request, label_set=label_set)
    as_text: Callable[[dict[str, Any]], str] = report
    try:
        if words:
            found, as_text = guessed(settings, labels, request, verbosity=verbosity)
        else:
            found = learned(settings, Request(labels, **request), verbosity=verbosity)
    except KeyboardInterrupt:
        note("the former head stays in use; the same command with --resume goes on from here")
        raise
    if not as_json:
        show(found, as_text, as_json=False)
        asks = not apply_now and label_set is None and verbosity >= 0 and sys.stdin.isatty() and sys.stdout.isatty()
        apply_now = apply_now or (
            asks and click.confirm(text.apply_question("off" if words else settings.write_tags), err=True)
        )
    if not apply_now:
        if as_json:
            show(found, str, as_json=True)
        else:
            of_genres = text.NEXT_RELABEL_WORDS if words else text.NEXT_RELABEL
            say(of_genres if label_set is None else text.NEXT_RELABEL_SETS)
        return
    applied, exit_code = apply_head(settings, verbosity=verbosity, as_json=as_json, of_set=label_set is not None)
    if as_json:
        show({**found, "applied": applied}, str, as_json=True)
    sys.exit(exit_code)


def guessed(
    settings: Settings, label_request: "LabelRequest", request: dict[str, Any], *, verbosity: int
) -> tuple[dict[str, Any], Callable[[dict[str, Any]], str]]:
    """Make a head of words and put it in use: what `train --words --json` prints, and how it becomes text."""
    from indexer.learn.dataset import LabelRequest
    from indexer.learn.words import report, train_by_words

    if label_request != LabelRequest() or request["resume"]:
        raise click.UsageError("--words takes no labels: train without it to learn from some, beginning with its head")
    said = note if verbosity >= 0 else lambda _line: None
    return train_by_words(settings, request["name"], said), report


def learned(settings: Settings, request: "Request", *, verbosity: int) -> dict[str, Any]:
    """Train a head with progress and put it in use; returns what `train --json` prints."""
    from indexer.learn.train import train as learn

    bar: Any
    with click.progressbar(
        length=1000,
        label="training",
        width=0,
        file=sys.stderr,
        hidden=verbosity < 0 or not sys.stderr.isatty(),
        item_show_func=lambda step: f"{step.kind} {step.number}" if step else None,
    ) as bar:
        try:
            return learn(
                settings, request, lambda step: bar.update(round(1000 * step.number / step.total) - bar.pos, step)
            )
        except KeyboardInterrupt:
            note("")  # after the bar
            raise


@click.command()
@labelled
@set_option
@click.option(
    "--folds", type=int, default=5, show_default=True, help="Parts of the cross-validation; no artist is in two."
)
@click.option(
    "--held-out",
    type=float,
    metavar="SHARE",
    help="Judge by this share of the recordings instead, learn from the rest.",
)
@click.option(
    "--cnn", is_flag=True, help="Also train a convolutional network on spectrograms of the same tracks (decodes them)."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Decides the folds and the training.")
@click.option(
    "--epochs",
    type=int,
    default=100,
    show_default=True,
    help="Passes over all recordings, at most, of the paper's recipe.",
)
@click.option(
    "--target-precision",
    type=float,
    default=0.9,
    show_default=True,
    help="Share of decided genres that should be right.",
)
@click.option(
    "--report", type=PATH, help="Where to write the page (.html; a .json beside it) [default: beside the database]."
)
@json_option
@common
def evaluate(
    settings: Settings,
    verbosity: int,
    label_request: "LabelRequest",
    label_set: str | None,
    as_json: bool,
    **request: Any,
) -> None:
    """Measure how well heads know your own genres, on recordings by artists new to them. Writes a page of plots."""
    from indexer.learn.evaluate import Request
    from indexer.learn.evaluate import evaluate as judge
    from indexer.learn.report import to_text

    with click.progressbar(
        length=1000,
        width=0,
        file=sys.stderr,
        hidden=verbosity < 0 or not sys.stderr.isatty(),
        item_show_func=lambda what: what,
    ) as bar:
        found = judge(
            settings,
            Request(replace(label_request, label_set=label_set), **request),
            lambda what, share: bar.update(round(1000 * share) - bar.pos, escaped(what)),
        )
    show(found, lambda found: f"{to_text(found)}\nreport: {found['report']}", as_json=as_json)


@click.command()
@labelled
@click.option("-n", "--count", type=click.IntRange(1), default=20, show_default=True, help="How many of each to list.")
@json_option
@common
def suggest(settings: Settings, label_request: "LabelRequest", count: int, as_json: bool) -> None:
    """List tracks whose label would teach most, and labels that look wrong, each with its reason."""
    from indexer.learn.suggest import suggest as ask
    from indexer.learn.suggest import to_text

    found = ask(settings, label_request, count)
    show(found, to_text, as_json=as_json)
