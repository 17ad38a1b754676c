"""Every page and every command is in its list, menu and document: a new one takes one file and one line."""

import importlib
import pkgutil
import re
from pathlib import Path

import click
import pytest

import indexer.cli
import indexer.web
from indexer.cli.main import main
from indexer.web import MENU, PAGES

DOCS = Path(__file__).parents[1] / "docs"


def modules_of(package):
    return [importlib.import_module(f"{package.__name__}.{m.name}") for m in pkgutil.iter_modules(package.__path__)]


def registered(group):
    found = set()
    for command in group.commands.values():
        found |= {command} | (registered(command) if isinstance(command, click.Group) else set())
    return found


def test_every_command_is_in_the_list_of_commands():
    defined = {
        value
        for module in modules_of(indexer.cli)
        for value in vars(module).values()
        if isinstance(value, click.Command) and value is not main
    }
    assert {command.name for command in defined - registered(main)} == set()
    assert len(registered(main)) > 20


def test_every_module_with_routes_is_in_the_list_of_pages():
    assert {module for module in modules_of(indexer.web) if hasattr(module, "ROUTES")} == set(PAGES)


@pytest.mark.parametrize(("label", "path"), MENU)
def test_every_page_of_the_menu_has_a_route_and_is_described(label, path):
    assert any(re.match(pattern, path) for page in PAGES for pattern, _ in page.ROUTES)
    assert f"| {label}, `{path}` |" in (DOCS / "pages.md").read_text()
