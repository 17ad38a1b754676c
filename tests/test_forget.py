"""`indexer forget`: roots and folders leave the library; no file is touched."""

import shutil

import pytest

from tests.helpers.contents import contents, rows
from tests.helpers.synth import write_audio


@pytest.fixture
def library(quick_cli, tmp_path):
    """Two roots with two files each; one recording lies in both."""
    for root, seeds in (("a", (1, 2)), ("b", (3, 4))):
        (tmp_path / root / "album").mkdir(parents=True)
        for seed in seeds:
            write_audio(tmp_path / root / "album" / str(seed), "wav", 2.0, seed=seed)
    shutil.copy(tmp_path / "a/album/1.wav", tmp_path / "b/copy.wav")
    quick_cli("scan", tmp_path / "a", tmp_path / "b")
    return quick_cli


def held(library):
    found = library.json("status")
    return [root["path"] for root in found["roots"]], found["files"]["ready"], found["recordings"]


def test_a_root_goes_with_its_rows_and_what_other_files_hold_stays(library, tmp_path):
    library("correct", tmp_path / "a/album/2.wav", rows(library, "SELECT genre FROM scores LIMIT 1")[0]["genre"])
    before = contents(tmp_path / "a")
    plan = library.json("forget", tmp_path / "a", "--dry-run")
    assert (plan["roots"], plan["files"], plan["recordings"], plan["corrections"]) == ([str(tmp_path / "a")], 2, 1, 1)
    assert held(library) == ([str(tmp_path / "a"), str(tmp_path / "b")], 5, 4)
    text = library("forget", tmp_path / "a", "--yes").stdout
    assert f"- root {tmp_path / 'a'}" in text
    assert "1 of them with a genre that you gave" in text
    assert "2 files forgotten" in text
    assert held(library) == ([str(tmp_path / "b")], 3, 3)
    assert contents(tmp_path / "a") == before
    assert library.json("scan")["files"] == 3  # without paths: the roots that are left


def test_without_an_answer_nothing_is_forgotten(library, tmp_path):
    result = library("forget", tmp_path / "a")
    assert "--yes" in result.stderr
    assert held(library)[1] == 5


def test_a_folder_of_a_root_comes_back_unless_it_is_ignored(library, tmp_path):
    plan = library.json("forget", tmp_path / "b/album", "--yes")
    assert (plan["forgotten"], plan["roots"]) == (2, [])
    assert plan["comes_back"] == {str(tmp_path / "b/album"): str(tmp_path / "b")}
    assert held(library)[1:] == (3, 2)
    assert library.json("scan")["files"] == 5


def test_a_root_that_is_gone_or_holds_nothing_can_go(library, tmp_path):
    (tmp_path / "empty").mkdir()
    library("scan", tmp_path / "empty")
    shutil.rmtree(tmp_path / "a")
    found = library.json("forget", tmp_path / "empty", tmp_path / "a", "--yes")
    assert (found["forgotten"], len(found["roots"])) == (2, 2)
    assert held(library)[0] == [str(tmp_path / "b")]


def test_a_folder_above_takes_all_roots_below(library, tmp_path):
    assert library.json("forget", tmp_path, "--yes")["forgotten"] == 5
    found = library.json("status")
    assert (found["roots"], found["files"], found["recordings"]) == ([], {}, 0)


def test_an_unknown_path_is_said(library, tmp_path):
    result = library("forget", tmp_path / "c", code=2)
    assert f"{tmp_path / 'c'}: the library knows nothing there; its roots: {tmp_path / 'a'}, " in result.stderr


def test_what_is_ignored_from_now_on_is_not_missing(library, tmp_path):
    ignore = {"INDEXER_IGNORE": "album"}
    found = library.json("scan", env=ignore)
    assert (found["files"], found["missing"], found["notes"], found["left_out"]) == (1, 0, [], {"ignored": 2})
    assert library.json("status")["files"] == {"left out": 4, "ready": 1}
    assert library.json("scan", "--dry-run", env=ignore)["vanished"] == 0
    assert library.json("prune", "--dry-run")["files"] == 0
    found = library.json("scan")
    assert (found["files"], found["embedded"]) == (5, 0)  # what counts again costs no second embedding
    assert library.json("status")["files"] == {"ready": 5}
