"""Writes the generated parts of the documentation: the commands from click, the settings from config.py, the encoders.

Run it as ``python -m tests.generate_docs``. It replaces what stands between the markers of docs/commands.md,
docs/settings.md, docs/analysis.md and README.md and nothing else. tests/test_docs.py fails while a part is not up to
date.
"""

import dataclasses
import inspect
import re
import textwrap
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import click

from indexer.analysis.tempo_choice import RANGES_BPM
from indexer.cli.main import main as cli
from indexer.config import Settings
from indexer.models.guide import KINDS

DOCS = Path(__file__).parents[1] / "docs"
COMMAND = "python -m tests.generate_docs"
WIDTH = 116
COMMON = ("db", "config", "encoder", "head", "device", "precision", "units", "verbose", "quiet")
# The default of these two depends on the user's folders.
SHOWN_DEFAULTS = {"db": "user data folder `/library.db`", "models": "user cache folder `/models`"}
TYPES = {
    bool: "true or false",  # before int, of which it is a kind
    int: "whole number",
    float: "number",
    str: "text",
    Path: "path",
    tuple: "list",
    Mapping: "table",
}


def commands(group: click.Group = cli, prefix: str = "indexer") -> list[tuple[str, click.Command]]:
    """Every command that can be called, with its full name: ("indexer tags undo", ...)."""
    found: list[tuple[str, click.Command]] = []
    for name, command in group.commands.items():
        full = f"{prefix} {name}"
        found += commands(command, full) if isinstance(command, click.Group) else [(full, command)]
    return found


def options(command: click.Command) -> list[click.Option]:
    """The options of a command, without --help."""
    return [parameter for parameter in command.params if isinstance(parameter, click.Option)]


def has_common(command: click.Command) -> bool:
    """Whether a command takes all the common options."""
    return set(COMMON) <= {option.name for option in options(command)}


def commands_part() -> str:
    """A section for each command, and one for the options that most of them share."""
    found = commands()
    shared = next(command for _, command in found if has_common(command))
    parts = [_section(name, command) for name, command in found]
    parts.append("### Common options\n")
    parts.append(_options_table(shared, [option for option in options(shared) if option.name in COMMON]))
    return "\n".join(parts).rstrip("\n")


def _section(name: str, command: click.Command) -> str:
    context = click.Context(command, info_name=name)
    lines = [f"### {name}", "", "```", " ".join([name, *command.collect_usage_pieces(context)]), "```", ""]
    for paragraph in inspect.cleandoc(command.help or "").split("\n\n"):
        text = " ".join(paragraph.split())
        lines += [textwrap.fill(text, WIDTH, break_long_words=False, break_on_hyphens=False), ""]
    common = has_common(command)
    own = [option for option in options(command) if not (common and option.name in COMMON)]
    if own:
        lines.append(_options_table(command, own))
    if common:
        lines += ["Also the [common options](#common-options).", ""]
    return "\n".join(lines)


def _options_table(command: click.Command, shown: list[click.Option]) -> str:
    context = click.Context(command)
    lines = ["| option | default | meaning |", "|---|---|---|"]
    for option in shown:
        names = ", ".join([*option.opts, *option.secondary_opts])
        value = "" if option.is_flag else f" {option.make_metavar(context).removesuffix(' RANGE')}"
        default = f"`{option.default}`" if option.show_default else ""
        notes = " (required)" if option.required else f" (environment: `{option.envvar}`)" if option.envvar else ""
        lines.append(f"| `{_cell(names + value)}` | {default} | {_cell(option.help or '')}{notes} |")
    return "\n".join([*lines, ""])


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def settings_part() -> str:
    """A row for each setting: key, values, default, meaning."""
    defaults = Settings(db=Path("x"), models=Path("x"))
    hints = typing.get_type_hints(Settings)
    lines = ["| key | values | default | meaning |", "|---|---|---|---|"]
    for field in dataclasses.fields(Settings):
        default = SHOWN_DEFAULTS.get(field.name) or _toml(getattr(defaults, field.name))
        lines.append(f"| `{field.name}` | {_values(hints[field.name])} | {default} | {_cell(field.metadata['help'])} |")
    return "\n".join(lines)


def _toml(value: Any) -> str:
    """A default as one writes it in the settings file; nothing for a setting that is unset."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, tuple):
        value = list(value)
    return f"`{value!r}`".replace("'", '"')


def _values(hint: Any) -> str:
    """What a setting takes, in words."""
    return ", ".join(_kinds(hint))


def _kinds(hint: Any) -> Iterator[str]:
    origin = typing.get_origin(hint)
    if origin in (types.UnionType, typing.Union):
        for option in typing.get_args(hint):
            yield from _kinds(option)
    elif origin is Literal:
        yield from (f'`"{word}"`' for word in typing.get_args(hint))
    elif hint is not type(None):
        yield next(name for kind, name in TYPES.items() if issubclass(origin or hint, kind) or kind is origin)


def encoders_part() -> str:
    """A row for each kind of encoder: which for whom."""
    lines = [
        "| encoder | for paid work | licence | download | speed | knows without labels |",
        "|---|---|---|---|---|---|",
    ]
    for kind in KINDS:
        name = f"**{kind.name}** (recommended)" if kind.recommended else kind.name
        download = f"from {kind.download_mb} MB" if kind.download_mb else "none"
        cells = [name, "yes" if kind.paid_work else "no", kind.licence, download, f"{kind.times_real_time:,} x"]
        lines.append(f"| {' | '.join([*cells, kind.without_labels])} |")
    return "\n".join(lines)


def tempo_ranges_part() -> str:
    """Labels by their range of tempo, the slowest first."""
    labels: dict[tuple[float, float], list[str]] = {}
    for label, span in RANGES_BPM.items():
        labels.setdefault(span, []).append(label)
    rows = [f"| {low} to {high} | {', '.join(names)} |" for (low, high), names in sorted(labels.items())]
    return "\n".join(["| beats a minute | labels |", "|---|---|", *rows])


# file -> (name of the marker, what stands between <!-- name --> and <!-- end -->)
PARTS = {
    DOCS / "commands.md": ("commands", commands_part),
    DOCS / "settings.md": ("settings", settings_part),
    DOCS / "analysis.md": ("tempo ranges", tempo_ranges_part),
    DOCS.parent / "README.md": ("encoders", encoders_part),
}


def with_part(text: str, marker: str, part: str) -> str:
    """A document with the part between its markers replaced."""
    pattern = re.compile(rf"(<!-- {marker} -->\n).*?(\n<!-- end -->)", re.DOTALL)
    replaced, times = pattern.subn(lambda found: found[1] + part + found[2], text)
    if times != 1:
        raise ValueError(f"needs <!-- {marker} --> and <!-- end --> once, has them {times} times")
    return replaced


def main() -> None:
    """Write every generated part."""
    for path, (marker, part) in PARTS.items():
        path.write_text(with_part(path.read_text(encoding="utf-8"), marker, part()), encoding="utf-8")


if __name__ == "__main__":
    main()
