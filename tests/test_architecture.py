"""The rules of the house: who may import whom, which library has one owner, what starts fast."""

import ast
import functools
import os
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "indexer"
MODULES = {
    ".".join(p.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): p
    for p in PACKAGE.rglob("*.py")
    if "schema" not in p.parts
}

# The tower of docs/architecture.md, from the top down: a package imports from packages below it, never from one above.
TOWER = (
    "cli",
    "web",
    "watch",
    "upkeep",
    "scan",
    "cluster",
    "learn",
    "listen",
    "models",
    "heads",
    "encoders",
    "library",
    "files",
)
FLOOR = {package: len(TOWER) - n for n, package in enumerate(TOWER)}  # config, errors and wording are the ground: 0


def floor_of(module: str) -> int:
    """The floor of the package that a module lies in."""
    return FLOOR.get(module.partition(".")[2].partition(".")[0], 0)


@functools.cache
def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {
                f"{node.module}.{a.name}" for a in node.names if f"{node.module}.{a.name}" in MODULES
            }
        elif isinstance(node, ast.Import):
            found |= {a.name for a in node.names}
    return found


@pytest.mark.parametrize("module", sorted(m for m in MODULES if floor_of(m)))
def test_imports_point_downward(module):
    ours = [i for i in imports(MODULES[module]) if i.startswith("indexer.")]
    assert [i for i in ours if floor_of(i) > floor_of(module)] == []


def users_of(library: str) -> set[str]:
    return {name for name, path in MODULES.items() if any(i.split(".")[0] == library for i in imports(path))}


def test_each_dangerous_library_has_one_owner():
    assert users_of("mutagen") == {
        "indexer.files.tags.read",
        "indexer.files.tags.blocks.vorbis",
    }  # reading fields; paging Ogg
    assert users_of("av") == {"indexer.files.audio.decode"}
    assert users_of("distributed") == {"indexer.cluster.settings", "indexer.cluster.worker"}
    assert users_of("openvino") == {"indexer.encoders.m2d.openvino"}  # it silences the library's telemetry first
    assert users_of("pyarrow") == {"indexer.upkeep.export"}  # an extra
    assert users_of("sqlite3") <= {
        "indexer.library.store",
        "indexer.library.readonly",
        "indexer.library.migrations",
        "indexer.library.facts",
        "indexer.scan.preview",
        "indexer.upkeep.rebuild",
    }
    assert {m for m in users_of("torch") if not m.startswith("indexer.encoders.m2d")} == {
        "indexer.heads.training",
        "indexer.heads.cnn",
        "indexer.learn.spectrograms",
    }


@pytest.mark.parametrize("command", [["--help"], ["status"], ["tags", "history", "x"], ["models", "list"]])
def test_commands_that_only_look_never_import_torch(command, cli, music_folder):
    cli.model = None
    cli("scan", music_folder / "mp3.mp3")
    code = f"""
import sys
sys.argv = ["indexer", *{command!r}]
from indexer.cli.main import main
try:
    main()
except SystemExit as e:
    assert not e.code, e.code
print([m for m in ("torch", "sqlite_utils", "datasette", "av") if m in sys.modules])
"""
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env={**os.environ, **cli.environ}
    )
    assert out.returncode == 0, out.stderr
    assert out.stdout.splitlines()[-1] == "[]"


def test_the_child_process_never_imports_torch():
    out = subprocess.run(
        [sys.executable, "-c", "import sys, indexer.files.children.child; print('torch' in sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert out.stdout.strip() == "False"


def test_every_module_opens_with_what_it_owns():
    for name, path in MODULES.items():
        if path.read_text().strip():
            assert ast.get_docstring(ast.parse(path.read_text())), f"{name} has no docstring"
