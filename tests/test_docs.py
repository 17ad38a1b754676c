"""The documents cannot rot: every command, option and setting is described, and every promise is linked to its test."""

import dataclasses
import re
from pathlib import Path

import click
import pytest

from indexer.cli.main import main
from indexer.config import Settings
from tests import test_promise

README = (Path(__file__).parents[1] / "README.md").read_text()


def commands(group: click.Group, prefix: str = "indexer") -> list[tuple[str, click.Command]]:
    found = []
    for name, command in group.commands.items():
        full = f"{prefix} {name}"
        found += commands(command, full) if isinstance(command, click.Group) else [(full, command)]
    return found


@pytest.mark.parametrize(("name", "command"), commands(main), ids=[name for name, _ in commands(main)])
def test_every_command_is_in_the_readme_and_every_option_has_help(name, command):
    assert f"`{name}" in README
    assert command.help
    assert [p.name for p in command.params if isinstance(p, click.Option) and not p.help] == []


def settings_table() -> str:
    """The table between the markers, made from config.py."""
    defaults = Settings(db=Path("x"), models=Path("x"))
    shown = {"db": "user data folder `/library.db`", "models": "user cache folder `/models`"}
    lines = ["| key | default | meaning |", "|---|---|---|"]
    for f in dataclasses.fields(Settings):
        value = shown.get(f.name) or f"`{getattr(defaults, f.name)!r}`".replace("()", "[]").replace("'", '"').replace("False", "false")
        lines.append(f"| `{f.name}` | {'' if value == '`None`' else value} | {f.metadata['help']} |")
    return "\n".join(lines)


def test_the_settings_table_is_the_one_that_the_program_has():
    found = re.search(r"(?s)<!-- settings -->\n(.*?)\n<!-- end -->", README)
    assert found
    assert found.group(1) == settings_table(), f"put this between the markers:\n{settings_table()}"


def test_every_promise_is_linked_to_a_test_with_the_same_words():
    promises = re.findall(r"^\| (.+?) \| \[(test_\w+)\]\(tests/test_promise.py\) \|$", README, re.MULTILINE)
    assert len(promises) == 6
    for sentence, name in promises:
        assert getattr(test_promise, name).__doc__.strip().split("\n")[0].strip() == sentence.replace("`", "")


def test_links_to_files_of_the_project_lead_somewhere():
    root = Path(__file__).parents[1]
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (root / target).exists(), target
