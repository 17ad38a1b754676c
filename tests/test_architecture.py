"""The rules of the code: which package may import which, libraries that one module owns, what starts fast."""

import ast
import functools
import graphlib
import os
import re
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
    "exchange",
    "library",
    "files",
    "analysis",
)
FLOOR = {package: len(TOWER) - n for n, package in enumerate(TOWER)}  # the ground, directly in indexer/: 0


def floor_of(module: str) -> int:
    """The floor of the package that a module lies in."""
    return FLOOR.get(module.partition(".")[2].partition(".")[0], 0)


@functools.cache
def imports(path: Path) -> set[str]:
    """All that a module imports, in functions too."""
    return imports_of(ast.parse(path.read_text()))


def imports_of(tree: ast.AST) -> set[str]:
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {
                f"{node.module}.{a.name}" for a in node.names if f"{node.module}.{a.name}" in MODULES
            }
        elif isinstance(node, ast.Import):
            found |= {a.name for a in node.names}
    return found


def top_level_imports(path: Path) -> set[str]:
    """What a module imports while it is imported itself."""
    body = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.ImportFrom | ast.Import)]
    return imports_of(ast.Module(body, []))


@pytest.mark.parametrize("module", sorted(m for m in MODULES if floor_of(m)))
def test_imports_point_downward(module):
    ours = [i for i in imports(MODULES[module]) if i.startswith("indexer.")]
    assert [i for i in ours if floor_of(i) > floor_of(module)] == []


def test_no_module_needs_itself_to_be_imported():
    """Imports at the top of modules form no circle; those inside functions are made when the function runs."""
    modules = {name: path for name, path in MODULES.items() if path.name != "__init__.py"}
    needs = {name: top_level_imports(path) & modules.keys() for name, path in modules.items()}
    order = graphlib.TopologicalSorter(needs)
    order.prepare()  # raises CycleError, which names the circle


def test_directly_in_the_package_lies_only_the_ground_and_the_public_face():
    assert {p.name for p in PACKAGE.iterdir() if p.suffix == ".py"} == {
        "__init__.py", "__main__.py", "config.py", "conversion.py", "errors.py", "wording.py", "export.py",
    }  # fmt: skip
    assert {p.name for p in PACKAGE.iterdir() if p.is_dir() and p.name != "__pycache__"} == {*TOWER, "schema"}


def test_packages_are_empty_so_that_nothing_is_imported_by_the_way():
    init_files = {name: path for name, path in MODULES.items() if path.name == "__init__.py" and name != "indexer"}
    assert [name for name, path in init_files.items() if path.read_text().strip()] == [
        "indexer.web"
    ]  # Datasette's hooks


def test_the_map_names_every_package_from_the_top_down_and_no_file_that_is_not_there():
    text = (PACKAGE.parent / "docs" / "architecture.md").read_text()
    assert tuple(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)) == TOWER
    named = set(re.findall(r"`((?:\w+/)+\w+\.py)`", text))
    assert named
    assert [name for name in sorted(named) if not (PACKAGE / name).exists()] == []


def users_of(library: str) -> set[str]:
    return {name for name, path in MODULES.items() if any(i.split(".")[0] == library for i in imports(path))}


NETWORKS = ("indexer.encoders.m2d", "indexer.encoders.musicnn", "indexer.encoders.clap")


def test_each_dangerous_library_has_one_owner():
    assert users_of("mutagen") == {  # reading fields and pictures
        "indexer.files.containers", "indexer.files.tags.fields", "indexer.files.tags.pictures",
    }  # fmt: skip
    assert users_of("av") == {  # sound; covers; loudness
        "indexer.files.audio.opened", "indexer.files.audio.decode", "indexer.files.thumbnail",
        "indexer.analysis.loudness",
    }  # fmt: skip
    assert users_of("soundfile") - {"indexer.upkeep.bench", "indexer.upkeep.demo"} == {  # these two only write
        "indexer.files.audio.libsndfile"
    }
    assert users_of("distributed") == {"indexer.cluster.settings", "indexer.cluster.worker"}
    assert users_of("openvino") == {  # both silence the library's telemetry first; the second only loads it
        "indexer.encoders.m2d.openvino", "indexer.library.vectors.approximate",
    }  # fmt: skip
    assert users_of("transformers") == {"indexer.encoders.huggingface"}  # an extra, kept off the network
    assert users_of("pyarrow") == {"indexer.upkeep.export"}  # an extra
    assert {m for m in users_of("sqlite3") if not m.startswith("indexer.library.")} == set()
    assert {m for m in users_of("torch") if not m.startswith(NETWORKS)} == {
        "indexer.encoders.text",
        "indexer.encoders.pickled",
        "indexer.encoders.device",  # only where there may be a GPU
        "indexer.heads.training",
        "indexer.heads.paper",
        "indexer.heads.pooled",
        "indexer.heads.logistic",
        "indexer.heads.cnn",
        "indexer.learn.spectrograms",
    }


def test_json_of_others_is_parsed_in_one_place():
    """Elsewhere json.loads takes what this program itself wrote: columns of the library, lines of its own processes."""
    users = {name for name, path in MODULES.items() if re.search(r"\bjson\.loads?\(", path.read_text())}
    assert users == {
        "indexer.files.foreign",
        "indexer.config", "indexer.web.serve",  # its own settings; a file of the package
        "indexer.files.children.child", "indexer.files.children.worker",
        "indexer.listen.classify_process", "indexer.web.classify", "indexer.listen.words_process", "indexer.web.find",
        "indexer.watch.runner", "indexer.watch.runner_handle",
        "indexer.upkeep.train_process", "indexer.web.training",
        "indexer.library.apart", "indexer.library.facts", "indexer.library.label_sets", "indexer.library.registered",
        "indexer.library.summary",
        "indexer.library.writing.database", "indexer.library.writing.journal", "indexer.library.writing.recordings",
        "indexer.library.vectors.similar", "indexer.library.whose_word", "indexer.scan.journal",
        "indexer.scan.preview", "indexer.web.canned", "indexer.web.correct", "indexer.web.library_map",
        "indexer.web.overview",
        "indexer.web.review", "indexer.web.track",
    }  # fmt: skip


def test_the_command_line_prints_in_one_place():
    printing = re.compile(r"\bclick\.(echo|secho|echo_via_pager)\(|\bprint\(")
    assert [m for m in MODULES if m.startswith("indexer.cli") and printing.search(MODULES[m].read_text())] == [
        "indexer.cli.output"
    ]


SQL = re.compile(
    r"\b(SELECT |INSERT (OR \w+ )?INTO |UPDATE \w+ SET |DELETE FROM |PRAGMA \w|LEFT JOIN |ORDER BY "
    r"|(CREATE|DROP) (TEMP )?(TABLE|VIEW|INDEX|TRIGGER) |EXISTS \(|WHERE \w+[. ])"
)


def texts(path: Path) -> list[ast.Constant]:
    """The string constants of a module, docstrings excluded."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    docstrings = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    return [n for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str) and id(n) not in docstrings]


@pytest.mark.parametrize("module", sorted(m for m in MODULES if not m.startswith(("indexer.library", "indexer.web"))))
def test_sql_stands_in_library_and_web_only(module):
    assert [f"{MODULES[module]}:{text.lineno}" for text in texts(MODULES[module]) if SQL.search(text.value)] == []


def test_what_is_called_sql_is_found():
    for statement in ("SELECT 1", " FROM a WHERE b = ?", "UPDATE files SET state = ''", "PRAGMA user_version"):
        assert SQL.search(statement), statement


@pytest.mark.parametrize("command", [["--help"], ["status"], ["tags", "history", "x"], ["models", "list"]])
def test_commands_that_only_look_never_import_torch(command, bare_cli, music_folder):
    bare_cli("scan", music_folder / "mp3.mp3")
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
    environ = {**os.environ, **bare_cli.environ}
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environ)
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


@pytest.mark.parametrize("module", sorted(MODULES))
def test_no_process_is_started_that_imports_from_the_folder_it_is_started_in(module):
    """That may be a music folder, and a file called numpy.py lies there: -P leaves it out of what is imported from."""
    calls = re.findall(r'"(-P|)",?\s*"-m"|\[sys\.executable,\s*"-m"', MODULES[module].read_text())
    assert set(calls) <= {"-P"}


def test_every_module_opens_with_what_it_owns():
    for name, path in MODULES.items():
        if path.read_text().strip():
            assert ast.get_docstring(ast.parse(path.read_text())), f"{name} has no docstring"


TESTS = Path(__file__).parent


@pytest.mark.parametrize("test", sorted(TESTS.rglob("*.py")), ids=lambda p: str(p.relative_to(TESTS)))
def test_no_test_file_is_imported(test):
    """What several test files use lies in tests/helpers, and fixtures lie in a conftest.py."""
    named = re.findall(r"(?m)(?:from|import) (tests(?:\.\w+)*(?: import [\w, ]+)?)", test.read_text())
    assert [n for n in named if re.search(r"\b(test_|conftest\b)", n)] == []
