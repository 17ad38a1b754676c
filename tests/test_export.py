"""`indexer export`: what other programs read is what the library holds.

An earlier export stays whole whatever ends the next one.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import duckdb
import numpy as np
import pyarrow.dataset
import pyarrow.parquet
import pytest

import indexer
from indexer.errors import ConfigError, LockedError
from indexer.files.audio.identity import Stat
from indexer.library.lock import export_lock
from indexer.library.readonly import open_readonly
from indexer.library.store import Store
from indexer.upkeep import export
from indexer.upkeep.export import read_embeddings
from tests.helpers.synth import write_audio
from tests.helpers.vectors import fill, made

DOCUMENT = (Path(__file__).parents[1] / "docs" / "parquet.md").read_text(encoding="utf-8")
ODD = os.fsdecode("Nicht \udcff UTF-8\nzwei Zeilen ☃.flac".encode("utf-8", "surrogateescape"))
ODD_PRINTED = "Nicht \\xff UTF-8\\nzwei Zeilen ☃.flac"


def rows(folder: Path, table: str) -> list[dict]:
    return pyarrow.dataset.dataset(folder / table, partitioning="hive").to_table().to_pylist()


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def query(db: Path, sql: str, *values):
    conn = open_readonly(db)
    try:
        return conn.execute(sql, values).fetchall()
    finally:
        conn.close()


def hidden(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


@pytest.fixture
def scanned(quick_cli, tmp_path):
    """Three recordings in five files, one of an odd name, one that is no sound, and a correction."""
    music = tmp_path / "music"
    music.mkdir()
    for seed, name in enumerate(("one.flac", "two.flac", "three.flac")):
        write_audio(music / name, "flac", 2.0, seed=seed)
    (music / "three.flac").rename(music / ODD)
    shutil.copy(music / "one.flac", music / "copy.flac")
    (music / "broken.flac").write_bytes(b"fLaC and no more")
    quick_cli("scan", music, code=1)
    quick_cli("correct", music / "two.flac", "techno")
    return quick_cli


@pytest.fixture
def made_library(quick_cli):
    """Sixty recordings by one encoder, forty of them also by another of a different width."""
    fill(quick_cli.db, made())
    fill(quick_cli.db, made(40, seed=1, width=7), encoder="f" * 64)
    return quick_cli


def test_what_comes_out_is_what_the_library_holds(scanned, tmp_path):
    folder = tmp_path / "out"
    found = scanned.json("export", "--parquet", folder)
    assert {
        key: found[key] for key in ("recordings", "files", "embeddings", "predictions", "corrections", "damaged")
    } == {"recordings": 3, "files": 5, "embeddings": 3, "predictions": 3, "corrections": 1, "damaged": 0}
    assert found["bytes"] == sum(map(len, content(folder).values()))

    held = query(
        scanned.db, "SELECT r.audio_sha256, e.vector FROM embeddings e JOIN recordings r ON r.id = e.recording_id"
    )
    digests, vectors = read_embeddings(folder, "rhythm")
    assert vectors.dtype == np.float32
    found = dict(zip(digests, vectors, strict=True))
    assert {digest: vector.astype("<f2").tobytes() for digest, vector in found.items()} == {
        row["audio_sha256"]: row["vector"] for row in held
    }
    assert all((found[row["audio_sha256"]] == np.frombuffer(row["vector"], "<f2")).all() for row in held)

    files = {row["path_bytes"]: row for row in rows(folder, "files")}
    assert len(files) == 5
    for row in query(
        scanned.db,
        "SELECT f.*, r.audio_sha256, t.title, t.genre, t.indexer_genre FROM files f"
        " LEFT JOIN recordings r ON r.id = f.recording_id LEFT JOIN tags t ON t.file_id = f.id",
    ):
        file = files[row["path"]]
        assert (file["path"], file["tag_genre"]) == (row["path_text"], row["genre"])
        for key in (
            "audio_sha256",
            "state",
            "reason",
            "container",
            "size",
            "mtime_ns",
            "title",
            "indexer_genre",
            "first_seen",
            "last_seen",
        ):
            assert file[key] == row[key]
    assert os.path.exists(next(path for path in files if path.endswith(os.fsencode(ODD))))
    assert [row["state"] for row in files.values()].count("unreadable") == 1

    predictions = {row["audio_sha256"]: row for row in rows(folder, "predictions")}
    for row in query(
        scanned.db, "SELECT p.*, r.audio_sha256 FROM predictions p JOIN recordings r ON r.id = p.recording_id"
    ):
        prediction = predictions.pop(row["audio_sha256"])
        for key in ("genre", "confidence", "threshold", "decided", "reason", "second_genre"):
            assert prediction[key] == row[key]
        assert dict(prediction["scores"]) == {
            s["genre"]: s["probability"]
            for s in query(
                scanned.db, "SELECT genre, probability FROM scores WHERE recording_id = ?", row["recording_id"]
            )
        }
        assert [label for label, _ in prediction["scores"]] == ["ambient", "drum and bass", "house", "techno", "trance"]
        assert prediction["head"].startswith("random-")
    assert predictions == {}

    (correction,) = rows(folder, "corrections")
    (two,) = [row for row in files.values() if row["path"].endswith("/two.flac")]
    assert (correction["audio_sha256"], correction["genre"], two["tag_genre"]) == (
        two["audio_sha256"],
        "techno",
        "Techno",
    )
    assert {row["audio_sha256"]: row["duration_s"] for row in rows(folder, "recordings")} == {
        r["audio_sha256"]: r["duration_s"] for r in query(scanned.db, "SELECT audio_sha256, duration_s FROM recordings")
    }


def test_an_export_says_what_it_is_of(scanned, tmp_path):
    folder = tmp_path / "out"
    scanned("export", "--parquet", folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    ((encoder,), (head,)) = manifest["encoders"], manifest["heads"]
    assert manifest["version"] == indexer.__version__
    assert manifest["exported_at"].endswith("Z")
    assert (encoder["name"], encoder["width"], encoder["rows"], encoder["parts"]) == ("rhythm", 1668, 3, None)
    assert (head["name"], head["encoder_id"], head["labels"][0]) == ("random", encoder["id"], "ambient")
    for path, about in (
        (f"embeddings/encoder={encoder['partition']}", encoder),
        (f"predictions/head={head['partition']}", head),
    ):
        said = json.loads(pyarrow.parquet.read_schema(folder / path / "part-00000.parquet").metadata[b"indexer"])
        assert said["exported_at"] == manifest["exported_at"]
        assert (said["id"], said["name"]) == (about["id"], about["name"])


def test_encoders_are_partitions_and_large_tables_several_files(made_library, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "FILE_ROWS", 20)
    monkeypatch.setattr(export, "GROUP_ROWS", 8)
    folder = tmp_path / "out"
    made_library("export", "--parquet", folder)
    partitions = {e["id"]: e["partition"] for e in json.loads((folder / "manifest.json").read_text())["encoders"]}
    assert partitions == {"e": "name-of-e-e", "f" * 64: f"name-of-{'f' * 52}-{'f' * 12}"}
    parts = sorted((folder / f"embeddings/encoder={partitions['e']}").iterdir())
    assert [part.name for part in parts] == [f"part-{n:05}.parquet" for n in range(4)]
    assert [pyarrow.parquet.ParquetFile(part).metadata.num_rows for part in parts] == [16, 16, 16, 12]
    assert pyarrow.parquet.ParquetFile(parts[0]).num_row_groups == 2

    dataset = pyarrow.dataset.dataset(folder / "embeddings", partitioning="hive")
    for encoder, vectors in (("e", made()), ("f" * 64, made(40, seed=1, width=7))):
        table = dataset.to_table(filter=pyarrow.dataset.field("encoder") == partitions[encoder])
        assert table["vector"].to_pylist() == vectors.astype(np.float32).tolist()
        digests, found = read_embeddings(folder, encoder)
        assert digests == table["audio_sha256"].to_pylist() == [f"{n:064x}" for n in range(len(vectors))]
        assert (found == vectors).all()
        assert (read_embeddings(folder, partitions[encoder])[1] == vectors).all()
        assert (read_embeddings(folder, f"name of {encoder}")[1] == vectors).all()
    with pytest.raises(ConfigError, match=r"'rhythm' is not one of the encoders in .*: name-of-e-e, name-of-f"):
        read_embeddings(folder, "rhythm")
    with pytest.raises(ConfigError, match="is not an export of indexer"):
        read_embeddings(tmp_path, "rhythm")


def test_two_encoders_of_one_name_are_told_apart(made_library, tmp_path):
    with Store(made_library.db) as store:
        store.put_encoder("e", name="twin", width=24, unit_s=6.0)
        store.put_encoder("f" * 64, name="twin", width=7, unit_s=6.0)
    made_library("export", "--parquet", tmp_path / "out")
    with pytest.raises(ConfigError, match=r"'twin' is more than one of the encoders in .*: twin-e, twin-ffffffffffff"):
        read_embeddings(tmp_path / "out", "twin")
    assert read_embeddings(tmp_path / "out", "twin-e")[1].shape == (60, 24)


def test_a_library_without_embeddings_has_tables_all_the_same(made_library, tmp_path):
    with Store(made_library.db) as store, store.transaction():
        store.connection.execute("DELETE FROM embeddings")
    found = made_library.json("export", "--parquet", tmp_path / "out")
    assert (found["embeddings"], found["predictions"], found["corrections"]) == (0, 0, 0)
    assert duckdb.sql(f"SELECT count(*) FROM '{tmp_path}/out/corrections/*.parquet'").fetchall() == [(0,)]


def test_damaged_embeddings_are_left_out_and_counted(made_library, tmp_path):
    with Store(made_library.db) as store:
        store.put_embedding(3, "e", b"\0" * 10, 1)
        store.put_embedding(5, "e", np.full(24, np.nan, "<f2").tobytes(), 1)
        store.put_embedding(6, "e", np.full(24, np.inf, "<f2").tobytes(), 1)
    result = made_library("export", "--parquet", tmp_path / "out", code=1)
    assert "3 embeddings left out (damaged); `indexer scan --force` makes them again" in result.stderr
    digests, vectors = read_embeddings(tmp_path / "out", "e")
    assert digests == [f"{n:064x}" for n in range(60) if n not in (2, 4, 5)]
    assert (vectors == np.delete(made(), (2, 4, 5), axis=0)).all()
    with Store(made_library.db) as store, store.transaction():
        store.connection.execute("UPDATE embeddings SET vector = x'00'")
    assert made_library.json("export", "--parquet", tmp_path / "out", code=1)["damaged"] == 100
    assert read_embeddings(tmp_path / "out", "e")[1].shape == (0, 24)


def test_the_examples_of_the_documentation_work(scanned, tmp_path, monkeypatch):
    scanned("export", "--parquet", tmp_path / "library-parquet")
    monkeypatch.chdir(tmp_path)
    (query,) = re.findall(r"(?s)```sql\n(.*?)```", DOCUMENT)
    nearest = duckdb.sql(query.replace("this.flac", "one.flac")).fetchall()
    assert sorted(path.rsplit("/", 1)[1] for path, _ in nearest) == sorted(
        ["copy.flac", "one.flac", "two.flac", ODD_PRINTED]
    )
    assert [similarity for _, similarity in nearest[:2]] == pytest.approx([1, 1])
    (code,) = re.findall(r"(?s)```python\n(.*?)```", DOCUMENT)
    names: dict = {}
    exec(code, names)
    assert names["vectors"].shape == (3, 1668)


def test_an_earlier_export_is_replaced_and_anything_else_refused(made_library, tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()  # an empty one is free to take
    made_library("export", "--parquet", folder)
    with Store(made_library.db) as store:
        store.forget_files([1])
    assert made_library.json("export", "--parquet", folder)["files"] == 59
    assert len(rows(folder, "files")) == 59

    (folder / "files" / "notes.txt").write_text("mine")
    before = content(folder)
    assert (
        "holds files/notes.txt, which is not part of an export"
        in made_library("export", "--parquet", folder, code=2).stderr
    )
    assert content(folder) == before
    (folder / "files" / "notes.txt").unlink()
    (folder / "other").mkdir()
    assert "holds other, which is not part of an export" in made_library("export", "--parquet", folder, code=2).stderr

    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "format_version": 2}))
    assert "is an export of another version" in made_library("export", "--parquet", folder, code=2).stderr
    (folder / "manifest.json").write_text("[" * 100_000)
    assert "is not an export of indexer" in made_library("export", "--parquet", folder, code=2).stderr
    file = tmp_path / "file"
    file.write_text("mine")
    music = tmp_path / "music"
    music.mkdir()
    (music / "track.mp3").write_text("mine")
    for taken in (file, music):
        assert "is not an export of indexer" in made_library("export", "--parquet", taken, code=2).stderr
    for impossible in ("/", tmp_path / "not" / "there"):
        assert (
            "name a new folder inside one that is there"
            in made_library("export", "--parquet", impossible, code=2).stderr
        )
    assert (file.read_text(), (music / "track.mp3").read_text()) == ("mine", "mine")
    assert hidden(tmp_path) == []


def test_through_a_link_the_folder_behind_it_is_replaced(made_library, tmp_path):
    (tmp_path / "drive").mkdir()
    made_library("export", "--parquet", tmp_path / "drive" / "real")
    (tmp_path / "link").symlink_to(tmp_path / "drive" / "real")
    made_library("export", "--parquet", tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert read_embeddings(tmp_path / "link", "e")[1].shape == (60, 24)


@pytest.mark.parametrize("moment", ["_embeddings", "_write", "_make_durable", "rename"])
@pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt, 130), (OSError(28, "No space left on device"), 2)])
def test_an_export_that_ends_early_leaves_the_earlier_one(made_library, tmp_path, monkeypatch, moment, error, code):
    folder = tmp_path / "out"
    made_library("export", "--parquet", folder)
    before = content(folder)

    def fail(*_args, **_options):
        raise error

    if moment == "rename":
        rename = Path.rename
        monkeypatch.setattr(Path, "rename", lambda path, to: fail() if path.name == "new" else rename(path, to))
    else:
        monkeypatch.setattr(export if moment == "_make_durable" else export._Export, moment, fail)
    result = made_library("export", "--parquet", folder, code=code)
    assert ("interrupted" if code == 130 else f"{folder}: cannot be written (No space left on device)") in result.stderr
    assert content(folder) == before
    assert hidden(tmp_path) == []


def test_what_a_killed_export_left_is_cleared_by_the_next(made_library, tmp_path):
    folder = tmp_path / "out"
    made_library("export", "--parquet", folder)
    left = tmp_path / ".out.exporting"
    (left / "new" / "files").mkdir(parents=True)
    (left / "new" / "files" / "part-00000.parquet").write_bytes(b"half")
    made_library("export", "--parquet", folder)
    assert hidden(tmp_path) == []

    before = content(folder)
    left.mkdir()
    folder.rename(left / "old")  # killed between the two renames
    made_library("export", "--parquet", folder, "--db", tmp_path / "none.db", code=2)
    assert content(folder) == before
    assert hidden(tmp_path) == []


@pytest.mark.parametrize(
    ("sent", "code", "said"), [(signal.SIGINT, 130, "indexer: interrupted\n"), (signal.SIGKILL, -signal.SIGKILL, "")]
)
def test_a_process_that_is_ended_leaves_the_earlier_export(made_library, tmp_path, sent, code, said):
    folder = tmp_path / "out"
    made_library("export", "--parquet", folder)
    before = content(folder)
    program = (
        "import os; from indexer.cli.main import main; from indexer.upkeep import export;"
        f" export._make_durable = lambda _: os.kill(os.getpid(), {sent:d}); main()"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program, "export", "--parquet", folder],
        env={**os.environ, **made_library.environ},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (code, said)
    assert content(folder) == before
    assert hidden(tmp_path) == ([] if sent == signal.SIGINT else [".out.exporting"])
    made_library("export", "--parquet", folder)
    assert hidden(tmp_path) == []


def test_two_at_once_do_not_meet(made_library, tmp_path):
    folder = tmp_path / "out"
    with export_lock(tmp_path / ".out.exporting"):
        result = made_library("export", "--parquet", folder, code=75)
    assert f"another indexer (process {os.getpid()}) is exporting there" in result.stderr
    made_library("export", "--parquet", folder)


def test_a_lock_on_a_folder_that_is_gone_locks_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "indexer.library.lock.fcntl.flock", lambda *_: shutil.rmtree(tmp_path / "workshop")
    )  # another export ends at this moment
    with pytest.raises(LockedError, match="gone just now"), export_lock(tmp_path / "workshop"):
        pass


def test_a_scan_may_write_meanwhile(made_library, tmp_path, monkeypatch):
    plain = export._Export._plain

    def and_meanwhile(self, table):
        if table == "recordings":
            with Store(made_library.db) as store:
                store.put_file(b"/m/new.mp3", Stat(1, 99, 1, 1), root_id=None, state="ready", recording_id=1)
                store.put_embedding(41, "f" * 64, np.zeros(7, "<f2").tobytes(), 1)
                store.connection.execute("PRAGMA busy_timeout = 0")  # closing need not wait for the export
        return plain(self, table)

    monkeypatch.setattr(export._Export, "_plain", and_meanwhile)
    found = made_library.json("export", "--parquet", tmp_path / "out")
    assert (found["files"], found["embeddings"]) == (60, 100)
    assert query(made_library.db, "SELECT count(*) FROM files")[0][0] == 61


def test_without_pyarrow_the_command_to_install_it_is_named(made_library, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    result = made_library("export", "--parquet", tmp_path / "out", code=2)
    assert result.stderr == "indexer: Parquet needs pyarrow: pip install 'edm-indexer[parquet]'\n"
    assert not (tmp_path / "out").exists()


def test_without_a_library_nothing_is_made(cli, tmp_path):
    assert "no library there yet" in cli("export", "--parquet", tmp_path / "out", code=2).stderr
    assert [path.name for path in tmp_path.iterdir()] == ["state"]


def test_the_moving_line_counts_rows(made_library, tmp_path):
    seen = []
    export.export(made_library.db, tmp_path / "out", lambda done, total: seen.append((done, total)))
    assert seen[-1] == (60 + 60 + 60 + 40, 220)
    assert seen == sorted(seen)
