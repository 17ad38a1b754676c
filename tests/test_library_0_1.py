"""A library that version 0.1.0 made opens with everything that it held; fixtures/make_library_0_1.py made it."""

import json
import lzma
import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.fixtures.make_library_0_1 import HERE, MODEL, PLACE, SETTINGS, VARIANTS, facts, make_model, rows, tag_fields
from tests.helpers.cli import Cli

EXPECTED = json.loads((HERE / "expected.json").read_text(encoding="utf-8"))
HELD = ("encoders", "heads", "embeddings", "predictions", "corrections", "files", "journal", "runs")
NEAR = 1e-4  # a probability may differ by so much from one processor to the next


class OldLibrary(Cli):
    """The command line on a copy of the library, with the settings that it had."""

    @property
    def music(self) -> Path:
        return self.folder / "music"

    @property
    def environ(self) -> dict[str, str]:
        return {**super().environ, "INDEXER_DEVICE": "cpu", **SETTINGS}

    def facts(self) -> dict:
        return facts(self.db, str(self.folder))

    def sql(self, statement: str, *values: object) -> None:
        with closing(sqlite3.connect(self.db)) as conn, conn:
            conn.execute(statement, values)


@pytest.fixture
def away(tmp_path) -> OldLibrary:
    """The library, its music in another place than the database says: the drive was moved."""
    old = OldLibrary(tmp_path / "moved", None)
    shutil.copytree(HERE / "music", old.music)
    shutil.copytree(HERE / "heads", old.folder / "heads")
    old.db.write_bytes(lzma.decompress((HERE / "library.db.xz").read_bytes()))
    for path, mtime_ns in rows(old.db, "SELECT path, mtime_ns FROM files WHERE state = 'ready'"):
        os.utime(old.music / os.fsdecode(path).removeprefix(f"{PLACE}/music/"), ns=(mtime_ns, mtime_ns))
    old.sql("UPDATE heads SET source = replace(source, ?, ?)", PLACE, str(old.folder))
    install_model(old)
    return old


def install_model(cli: Cli) -> None:
    """Install the checkpoint that the library was made with; it is not kept, but made anew with the same weights."""
    cli("models", "add", make_model(cli.folder / "source"), "--name", MODEL)


@pytest.fixture
def old(away) -> OldLibrary:
    """The library, its music where the database says: on a drive that was mounted again."""
    for table in ("roots", "files", "tag_writes"):
        away.sql(
            f"UPDATE {table} SET path = CAST(replace(path_text, ?1, ?2) AS BLOB),"
            " path_text = replace(path_text, ?1, ?2)",
            PLACE,
            str(away.folder),
        )
    return away


def test_ids_of_encoders_are_what_they_were(bare_cli):
    """They are the keys of every cached embedding: a moved module, or a new name for one, must not change them."""
    install_model(bare_cli)
    found = {}
    for name, arguments in VARIANTS.items():
        bare_cli("models", "use", *arguments)
        ((found[name],),) = rows(bare_cli.db, "SELECT id FROM encoders WHERE in_use = 1")
    assert found == EXPECTED["encoder_ids"]


def test_a_scan_loses_nothing_and_has_nothing_to_do(old):
    assert {part: old.facts()[part] for part in HELD} == {part: EXPECTED[part] for part in HELD}  # the fixture is whole
    found = old.json("scan")
    assert {
        key: found[key] for key in ("files", "embedded", "cached", "tags_written", "tags_refused", "missing", "failed")
    } == {"files": 13, "embedded": 0, "cached": 0, "tags_written": 0, "tags_refused": 0, "missing": 1, "failed": 0}
    now = old.facts()
    assert now.pop("runs")[:-1] == EXPECTED["runs"]
    assert now == {part: EXPECTED[part] for part in HELD if part != "runs"}
    status = old.json("status")
    assert (status["encoder"]["name"], status["head"]["name"], status["embedded"], status["recordings"]) == (
        "small+rhythm",
        "second",
        12,  # of 13: one is held by no file that is there
        12,
    )
    assert status["tags_written"] == 12  # files that carry a genre of ours


@pytest.mark.parametrize(
    "arguments",
    [["rhythm"], [MODEL, "--precision", "fp32", "--units", "all"], [MODEL, "--precision", "fp32", "--units", "1"]],
    ids=["rhythm", "m2d", "m2d, 1 unit"],
)
def test_no_encoder_embeds_again_what_it_had_embedded(old, arguments):
    found = old.json("scan", "--no-tags", "--encoder", *arguments)
    assert (found["embedded"], found["failed"]) == (0, 0)
    assert old.facts()["embeddings"] == EXPECTED["embeddings"]


def test_files_that_are_read_again_elsewhere_are_known_by_their_sound(away):
    """The drive's old place is empty, then its new one is scanned: each file keeps its row, history and embeddings."""
    away("scan", PLACE + "/music", code=1)  # says that the drive is away
    found = away.json("scan", away.music)
    assert (found["embedded"], found["cached"], found["tags_written"], found["failed"]) == (0, 13, 0, 0)
    now = away.facts()
    for part in ("encoders", "heads", "embeddings", "predictions", "corrections"):
        assert now[part] == EXPECTED[part], part
    assert [row for row in now["files"] if row[2] == "ready"] == [row for row in EXPECTED["files"] if row[2] == "ready"]
    check_history(away)


def test_relabel_comes_to_the_same_predictions(old):
    (head,) = (row for row in EXPECTED["heads"] if row[-1])
    for table in ("predictions", "scores", "timeline"):
        old.sql(f"DELETE FROM {table} WHERE head_id = ?", head[1])
    found = old.json("relabel")
    assert (found["head"], found["classified"], found["damaged"]) == ("second", 13, 0)
    now = old.facts()
    assert now["heads"] == EXPECTED["heads"]
    assert [row[:-1] for row in now["predictions"]] == [row[:-1] for row in EXPECTED["predictions"]]
    assert [row[-1] for row in now["predictions"]] == pytest.approx(
        [row[-1] for row in EXPECTED["predictions"]], abs=NEAR
    )


def check_history(library: OldLibrary) -> None:
    """`tags history` of every file tells what the journal told."""
    for path in EXPECTED["original_tags"]:
        told = [
            [row[key] for key in ("action", "state", "reason", "before", "after", "written_at")]
            for row in library.json("tags", "history", library.music / path)
        ]
        journal = [row[1:] for row in EXPECTED["journal"] if row[0] == path]
        if (library.music / path).exists():
            assert told == [
                [action, state, reason, json.loads(before), json.loads(after), at]
                for action, state, reason, before, after, at in journal
            ], path


def test_the_journal_is_told_as_it_was(old):
    check_history(old)


def check_original_tags(music: Path) -> None:
    """Every file has the tags that it had before the program first saw it, and no others."""
    files = {str(path.relative_to(music)): path for path in music.rglob("*.*")}
    assert len(files) == 13
    assert {name: tag_fields(path) for name, path in files.items()} == {
        name: EXPECTED["original_tags"][name] for name in files
    }


def test_undo_gives_every_genre_back(old):
    carrying = [row[0] for row in EXPECTED["files"] if row[2] == "ready" and row[8]]
    found = old.json("tags", "undo", "--all", "--corrections")
    assert sorted(found["restored"]) == [str(old.music / path) for path in sorted(carrying)]
    assert found["refused"] == []
    check_original_tags(old.music)
    assert old.facts()["journal"][: len(EXPECTED["journal"])] == EXPECTED["journal"]


def test_undo_needs_no_library(old):
    old.db.unlink()
    files = sorted(path for path in old.music.rglob("*.*"))
    found = old.json("tags", "undo", *files)
    assert (len(found["restored"]) + len(found["nothing"]), found["refused"]) == (13, [])
    check_original_tags(old.music)
    assert not old.db.exists()
