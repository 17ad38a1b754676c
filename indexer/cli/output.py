"""Prints what a command found on stdout, and notes and problems on stderr; no other module of the command line prints.

Genres, paths, reasons and names come from files, heads and other machines. So every text is escaped here, and none can
move the cursor, name the window or begin a line of its own.
"""

import json
from collections.abc import Callable
from typing import Any, TextIO

import click

from indexer.config import Settings
from indexer.wording import escaped


def show(found: Any, to_text: Callable[[Any], str], *, as_json: bool) -> None:
    """Print a result: as one JSON object, or the text that is made of it once every text in it is escaped."""
    click.echo(json.dumps(found) if as_json else to_text(_escaped_within(found)))


def say(line: str) -> None:
    """Print one line of the result."""
    click.echo(escaped(line))


def note(line: str, out: TextIO | None = None) -> None:
    """Print one line on stderr, or on another stream."""
    click.echo(escaped(line), file=out, err=out is None)


def keep_playlists_true(settings: Settings) -> None:
    """Bring the user's playlists up to date after a change that no scan made, and say what cannot be written."""
    if settings.playlists and settings.db.exists():
        from indexer.exchange.living import keep_true

        for problem in keep_true(settings):
            note(f"indexer: {problem}")


def _escaped_within(value: Any) -> Any:
    """The same value with every text in it escaped, the keys of dicts too."""
    if isinstance(value, str):
        return escaped(value)
    if isinstance(value, dict):
        return {_escaped_within(key): _escaped_within(inner) for key, inner in value.items()}
    return [_escaped_within(inner) for inner in value] if isinstance(value, list | tuple) else value
