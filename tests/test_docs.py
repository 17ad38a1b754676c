"""The documents say what the program does: generated parts, commands, options, settings, promises and links."""

import ast
import dataclasses
import os
import re
from collections import Counter
from pathlib import Path

import pytest

from indexer.config import Settings
from tests import generate_docs
from tests.generate_docs import commands, options

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCUMENTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMANDS = commands()
MAX_README_LINES, MAX_WIDTH = 170, 120


def text_of(document: Path) -> str:
    return document.read_text(encoding="utf-8")


def name_of(document: Path) -> str:
    return os.fspath(document.relative_to(ROOT))


def without_fences(text: str) -> str:
    return re.sub(r"(?ms)^```.*?^```$", "", text)


def shown_commands(text: str) -> list[str]:
    """What a document shows to type: lines of its fenced blocks, and code between backticks."""
    fenced = "\n".join(re.findall(r"(?ms)^```[^\n]*\n(.*?)^```$", text))
    inline = re.findall(r"`([^`]+)`", without_fences(text))
    typed = re.findall(r"(?m)(?:^|&& |\$ )(indexer [a-z][^\n#]*)", fenced)
    return typed + [" ".join(code.split()) for code in inline if code.startswith("indexer ")]


def anchors(text: str) -> set[str]:
    """What GitHub makes of the headings; a heading that stands there again gets a number."""
    found: Counter[str] = Counter()
    slugs = set()
    for heading in re.findall(r"(?m)^#+ (.+)$", without_fences(text)):
        slug = re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")
        slugs.add(f"{slug}-{found[slug]}" if found[slug] else slug)
        found[slug] += 1
    return slugs


@pytest.mark.parametrize("document", generate_docs.PARTS, ids=name_of)
def test_generated_parts_are_up_to_date(document):
    text = text_of(document)
    marker, part = generate_docs.PARTS[document]
    is_current = generate_docs.with_part(text, marker, part()) == text
    assert is_current, f"{name_of(document)} is not what the program has; run: {generate_docs.COMMAND}"


@pytest.mark.parametrize(("name", "command"), COMMANDS, ids=[name for name, _ in COMMANDS])
def test_every_command_is_described_and_every_option_has_help(name, command):
    page = text_of(ROOT / "docs" / "commands.md")
    assert f"[`{name}" in page, "docs/commands.md lists every command at a glance"
    assert f"\n### {name}\n" in page
    assert command.help
    assert [option.name for option in options(command) if not option.help] == []
    assert [option.name for option in options(command) if f"| `{', '.join(option.opts)}" not in page] == []


def test_every_setting_is_described():
    page = text_of(ROOT / "docs" / "settings.md")
    assert [field.name for field in dataclasses.fields(Settings) if f"| `{field.name}` |" not in page] == []


def test_commands_and_options_that_the_documents_show_exist():
    known = dict(COMMANDS)
    groups = {name.rpartition(" ")[0] for name in known}
    for document in DOCUMENTS:
        for line in shown_commands(text_of(document)):
            if re.match(r"indexer ([a-z ]+:|[-A-Z])", line) or line in groups:  # the demo's output, no command, a group
                continue
            words = line.split()
            name = next((name for name in (" ".join(words[:3]), " ".join(words[:2])) if name in known), None)
            assert name, f"{name_of(document)}: {line}"
            flags = {flag for option in options(known[name]) for flag in (*option.opts, *option.secondary_opts)}
            flags |= {"--help"}
            assert set(re.findall(r"(?<=\s)--?[a-z][a-z0-9-]*", line)) <= flags, f"{name_of(document)}: {line}"


def test_every_promise_is_linked_to_a_test_with_the_same_words():
    promises = re.findall(r"^\| (.+?) \| \[(test_\w+)\]\(tests/test_promise.py\) \|$", README, re.MULTILINE)
    assert len(promises) == 6
    tests = ast.parse(text_of(ROOT / "tests" / "test_promise.py")).body
    said = {test.name: ast.get_docstring(test) for test in tests if isinstance(test, ast.FunctionDef)}
    for sentence, name in promises:
        first_paragraph = said[name].split("\n\n")[0]
        assert " ".join(first_paragraph.split()) == sentence.replace("`", "")


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_links_inside_the_project_lead_somewhere(document):
    for target in re.findall(r"\]\(([^)\s]+)\)", without_fences(text_of(document))):
        path, _, anchor = target.partition("#")
        if re.match(r"[a-z]+:", path):
            continue
        there = (document.parent / path).resolve() if path else document
        assert there.exists(), f"{name_of(document)}: {target}"
        assert there.is_relative_to(ROOT), f"{name_of(document)}: {target}"
        if anchor:
            assert anchor in anchors(text_of(there)), f"{name_of(document)}: {target}"


def test_every_document_is_linked_in_the_readme():
    assert [name_of(d) for d in DOCUMENTS[1:] if f"]({name_of(d)})" not in README] == []


def test_the_readme_is_short_and_lines_are_narrow():
    assert README.count("\n") <= MAX_README_LINES
    for document in DOCUMENTS:
        lines = [line for line in without_fences(text_of(document)).splitlines() if not line.startswith(("|", "!["))]
        assert [line for line in lines if len(line) > MAX_WIDTH] == [], name_of(document)
