"""The table of lower bounds in docs/dependencies.md is that of pyproject.toml, and what is installed keeps to it."""

import re
import tomllib
from importlib.metadata import PackageNotFoundError, version

import pytest

from tests.lowest_versions import PROJECT, lowest_versions

DOCUMENT = PROJECT.parent / "docs" / "dependencies.md"


def numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text.split("+", maxsplit=1)[0]))


def test_every_lower_bound_has_its_line_in_the_table():
    rows = re.findall(r"^\| ([\w-]+) \| ([\d.]+) \| [^|]+ \| [^|]+ \|$", DOCUMENT.read_text(), re.MULTILINE)
    assert dict(rows) == lowest_versions()


def test_the_tests_need_the_extras_in_the_same_versions():
    project = tomllib.loads(PROJECT.read_text())
    extras = [one for extra in project["project"]["optional-dependencies"].values() for one in extra]
    assert set(extras) <= set(project["dependency-groups"]["dev"])


# Holes that a stranger's request or a worker could use: the bound must leave them out.
@pytest.mark.parametrize(
    ("name", "fixed"),
    [("python-multipart", "0.0.31"), ("distributed", "2026.1.1"), ("tornado", "6.5.5"), ("h11", "0.16"),
     ("datasette", "0.65.3"), ("torch", "2.10.1"), ("click", "8.3.3"), ("pyarrow", "23.0.1")],
)  # fmt: skip
def test_known_holes_are_below_the_bound(name, fixed):
    assert numbers(lowest_versions()[name]) >= numbers(fixed)
    try:
        installed = version(name)
    except PackageNotFoundError:  # an extra
        return
    assert numbers(installed) >= numbers(fixed)
