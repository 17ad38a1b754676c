"""`indexer prune`: the only command that deletes rows, and only of files missing from drives that are mounted."""

import sqlite3
from contextlib import closing

import pytest

from indexer.library.lock import library_lock
from indexer.library.readonly import open_readonly
from indexer.library.store import Store
from tests.helpers.synth import write_audio


@pytest.fixture
def library(cli, tmp_path):
    """Two roots of two files each, and two copies; scanned with the built-in encoder."""
    cli.model = "rhythm"
    for n, folder in enumerate(("one", "two")):
        (tmp_path / folder).mkdir()
        for k in range(2):
            write_audio(tmp_path / folder / f"{k}", "flac", 1.0, seed=2 * n + k)
    for name in ("copy 1", "copy 2"):
        (tmp_path / "one" / f"{name}.flac").write_bytes((tmp_path / "one" / "0.flac").read_bytes())
    cli("scan", tmp_path / "one", tmp_path / "two")
    return cli


def paths(cli):
    conn = open_readonly(cli.db)
    found = [row["path_text"].split("/")[-2:] for row in conn.execute("SELECT path_text FROM files ORDER BY path")]
    counts = [
        conn.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in ("recordings", "embeddings", "tags")
    ]
    conn.close()
    return ["/".join(path) for path in found], counts


def test_what_is_missing_is_listed_asked_for_and_forgotten(library, tmp_path):
    (tmp_path / "one" / "0.flac").unlink()  # its copy holds the recording
    (tmp_path / "one" / "1.flac").unlink()
    library("scan", tmp_path / "one")
    before = paths(library)
    found = library.json("prune", "--dry-run")
    assert (found["files"], found["recordings"]) == (2, 1)
    assert [path.rsplit("/", 1)[1] for path in found["paths"]] == ["0.flac", "1.flac"]
    asked = library("prune")  # no terminal to confirm on
    assert "--yes forgets without asking" in asked.stderr
    assert paths(library) == before
    assert library.json("prune", "--yes")["forgotten"] == 2
    assert paths(library) == (["one/copy 1.flac", "one/copy 2.flac", "two/0.flac", "two/1.flac"], [3, 3, 4])
    assert library.json("prune", "--yes")["files"] == 0


def test_an_offline_drive_keeps_everything(library, tmp_path):
    (tmp_path / "two").rename(tmp_path / "away")
    library("scan", code=1)
    found = library.json("prune", "--yes")
    assert (found["files"], list(found["kept"].values())) == (0, [2])
    assert "offline, its 2 missing files stay" in library("prune", "--dry-run").stdout
    named = library.json("prune", "--dry-run", tmp_path / "two")  # the user names the folder: it does not come back
    assert (named["files"], named["kept"]) == (2, {})
    (tmp_path / "away").rename(tmp_path / "two")
    assert library.json("scan")["embedded"] == 0
    assert paths(library)[1][0] == 4


def test_only_below_the_paths_and_only_what_is_still_gone(library, tmp_path):
    for name in ("one/1.flac", "two/1.flac"):
        (tmp_path / name).rename(tmp_path / name.replace("/", "-"))
    library("scan")
    assert library.json("prune", "--dry-run", tmp_path / "two")["files"] == 1
    (tmp_path / "two-1.flac").rename(tmp_path / "two" / "1.flac")  # back, and no scan has seen it yet
    assert library.json("prune", "--yes")["forgotten"] == 1
    assert "two/1.flac" in paths(library)[0]


def test_what_no_model_in_use_needs(library, tmp_path):
    library("similar", tmp_path / "one" / "0.flac")
    library("models", "use", "rhythm")
    with Store(library.db) as store:
        store.put_encoder("old", name="old", width=2, unit_s=6.0)
        store.put_embedding(1, "old", b"\0\0\0\0", 1)
        for name, in_use in (("h1", 0), ("h2", 1)):
            store.put_head(
                name, name=name, kind="linear", encoder_id="old", labels=["a", "b"], threshold=0.5, source="x"
            )
            store._run("UPDATE heads SET in_use = ? WHERE id = ?", (in_use, name))
            with store.transaction():
                store.put_prediction(1, name, {"a": 0.9, "b": 0.1}, 0.5, decided=True)
    (library.folder / "vectors" / "old.directions").write_bytes(b"1")
    found = library.json("prune", "--embeddings", "--yes")
    assert (found["embeddings"], found["predictions"], found["files"]) == (1, 1, 0)
    assert paths(library)[1][1] == 4
    assert [p.name for p in (library.folder / "vectors").iterdir()] != ["old.directions"]
    assert library.json("prune", "--embeddings", "--dry-run")["embeddings"] == 0


def test_a_command_that_only_reads_brings_a_library_of_an_earlier_version_up_to_date(library):
    forget_the_newest_migration(library.db)
    with library_lock(library.db):
        assert "was made by an earlier version" in library("status", code=2).stderr
    assert library.json("status")["files"]
    assert library.db.with_name("library.db.before-018_set_fields.bak").exists()


def forget_the_newest_migration(db):
    with closing(sqlite3.connect(db)) as conn, conn:
        conn.execute("ALTER TABLE tags DROP COLUMN set_fields")
        conn.execute("DELETE FROM _sqlite_migrations WHERE name LIKE '018%'")
