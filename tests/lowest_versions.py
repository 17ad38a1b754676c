"""Prints the lowest version of every package that pyproject.toml allows, a requirement a line, for pip-audit.

Run it as ``python -m tests.lowest_versions``. tests/test_dependencies.py compares them with docs/dependencies.md.
"""

import re
import tomllib
from pathlib import Path

PROJECT = Path(__file__).parents[1] / "pyproject.toml"


def lowest_versions() -> dict[str, str]:
    """The lower bound of each package that the program or an extra needs: {"click": "8.3.3", ...}."""
    project = tomllib.loads(PROJECT.read_text())["project"]
    wanted = [*project["dependencies"], *(one for extra in project["optional-dependencies"].values() for one in extra)]
    found = {}
    for requirement in wanted:
        name, version = re.match(r"([\w.-]+)>=([\d.]+)", requirement).groups()
        found[name] = version
    return found


if __name__ == "__main__":
    print(*(f"{name}=={version}" for name, version in lowest_versions().items()), sep="\n")
