"""Several encoders, corrections, and tracks suggested for review: on a library of real short files."""

import functools
import os
import shutil
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from indexer.encoders.encoder import EncoderInfo
from indexer.library import sqlite
from indexer.library.lock import library_lock
from indexer.library.readonly import open_readonly
from indexer.library.store import Store
from indexer.upkeep.demo import Track, write_track
from tests.helpers.cli import Cli
from tests.helpers.deep import DEEP
from tests.helpers.labelled import ENCODER, WIDTH, sql
from tests.helpers.libraries import adopt
from tests.helpers.once import once
from tests.helpers.pages import Pages
from tests.helpers.synth import write_audio


@pytest.fixture
def library(labelled_library):
    return labelled_library


def rows(cli, statement, *values):
    conn = open_readonly(cli.db)
    found = [tuple(row) for row in conn.execute(statement, values)]
    conn.close()
    return found


@pytest.fixture
def joined(cli):
    """The command line with the small model joined with the built-in encoder."""
    cli.model = f"{cli.model}+rhythm"
    return cli


def test_joined_encoders_are_embedded_once_each(joined, music_folder):
    found = joined.json("scan", music_folder)
    assert (found["embedded"], found["failed"]) == (6, 0)
    names = rows(
        joined,
        "SELECT e.name, e.width, e.parts IS NULL, count(b.id)"
        " FROM encoders e LEFT JOIN embeddings b ON b.encoder_id = e.id GROUP BY e.id ORDER BY e.width",
    )
    assert [
        (name.rsplit("+")[-1] if n == 2 else "", width, plain, count)
        for n, (name, width, plain, count) in enumerate(names)
    ] == [("", 320, 1, 6), ("", 1668, 1, 6), ("rhythm", 1988, 0, 0)]
    again = joined.json("scan", music_folder)
    assert (again["embedded"], again["failed"]) == (0, 0)
    joined.model = "rhythm"  # cached already: nothing to do
    assert joined.json("scan", music_folder)["embedded"] == 0
    joined.model = None  # the one in use
    assert joined.json("status")["encoder"]["name"] == "rhythm"


def test_a_file_that_only_one_of_the_encoders_knows_is_embedded_by_the_other(joined, music_folder):
    both = joined.model
    joined.model = "rhythm"
    joined.json("scan", music_folder)
    joined.model = both
    assert joined.json("scan", music_folder)["embedded"] == 6
    assert rows(joined, "SELECT count(*) FROM embeddings") == [(12,)]


def test_an_encoder_is_not_joined_with_itself(cli, music_folder):
    cli.model = "rhythm+rhythm"
    assert "joins an encoder with itself" in cli("scan", music_folder, code=2).stderr


def make(path: Path, genre: str, seed: int, artist: str = "x", *, labelled: bool = True) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_track(Track(path, genre, seed, 3.0, f"Study {seed}", artist, labelled))


@pytest.fixture(scope="session")
def two_genres_template(tmp_path_factory, small_model, small_models):
    """12 short tracks of two genres by six artists, tagged and embedded by both encoders: to be copied."""

    def fill(folder):
        for n in range(12):
            artist = f"artist {n // 2}"
            make(folder / "music" / artist / f"{n}.flac", ("ambient", "drum and bass")[n % 2], n, artist)
        shutil.copytree(small_models, folder / "state" / "models")
        cli = Cli(folder / "state", Path(f"{small_model}+rhythm"))
        assert cli.json("scan", folder / "music")["embedded"] == 12

    folder = once(tmp_path_factory, "two genres", fill)
    return folder / "state", folder / "music"


@pytest.fixture
def two_genres(bare_cli, tmp_path, two_genres_template):
    """A library of one's own with these tracks."""
    state, scanned = two_genres_template
    folder = Path(shutil.copytree(scanned, tmp_path / "music"))
    adopt(bare_cli, folder, state=state, scanned=scanned)
    return bare_cli, folder


def test_train_compares_what_the_library_holds_and_takes_the_best(two_genres):
    cli, _ = two_genres
    sql(cli.db, "UPDATE encoders SET in_use = 0")
    found = cli.json("train", env={"INDEXER_ENCODER": ""})
    names = [one["encoder"] for one in found["compared"]]
    assert len(names) == 3
    assert found["encoder"] == min(found["compared"], key=lambda one: one["log_loss"])["encoder"]
    told = cli.json("train", "--encoder", "rhythm", "--name", "told")
    assert [one["encoder"] for one in told["compared"]] == ["rhythm"] == [told["encoder"]]


def test_a_joined_head_labels_timelines_and_new_files(two_genres, tmp_path):
    cli, folder = two_genres
    (name,) = [name for (name,) in rows(cli, "SELECT name FROM encoders WHERE parts IS NOT NULL")]
    found = cli.json("train")
    assert name in [one["encoder"] for one in found["compared"]]
    assert cli.json("relabel")["classified"] == 12
    heads = rows(cli, "SELECT h.id FROM heads h WHERE in_use")
    assert rows(cli, "SELECT count(*) FROM timeline WHERE head_id = ?", *heads[0]) == [(12,)]
    make(folder / "new.flac", "ambient", 99, labelled=False)
    assert cli.json("scan", folder)["embedded"] == 1
    looked = cli.json("classify", folder / "new.flac")[0]
    stored = dict(
        rows(
            cli,
            "SELECT s.genre, s.probability FROM scores s JOIN files f ON f.recording_id = s.recording_id"
            " WHERE f.path = ? AND s.head_id = ?",
            os.fsencode(folder / "new.flac"),
            *heads[0],
        )
    )
    assert looked["scores"] == {genre: pytest.approx(p, abs=2e-3) for genre, p in stored.items()}


# ---- what a person says


def test_a_correction_goes_into_library_and_tags_and_stays(two_genres):
    cli, folder = two_genres
    file = folder / "artist 0" / "0.flac"
    found = cli.json("correct", file, "DnB", env={"INDEXER_WRITE_TAGS": "fill"})
    assert (found["genre"], found["files"][0]["tag_genre"], found["files"][0]["reason"]) == (
        "drum and bass",
        "Drum and Bass",
        None,
    )
    assert rows(cli, "SELECT corrected, tag_genre FROM tracks WHERE path = ?", str(file)) == [
        ("drum and bass", "Drum and Bass")
    ]
    cli("scan", folder, env={"INDEXER_WRITE_TAGS": "replace"})  # the correction goes before the head
    cli("tags", "apply", folder, env={"INDEXER_WRITE_TAGS": "replace"})
    assert rows(cli, "SELECT tag_genre FROM tracks WHERE path = ?", str(file)) == [("Drum and Bass",)]
    cli.db.unlink()
    cli("scan", folder, env={"INDEXER_WRITE_TAGS": "replace"})  # a new library learns it from the file
    assert rows(
        cli,
        "SELECT tag_genre, json_extract(indexer_genre, '$.model')"
        " FROM tracks t JOIN tags ON file_id = t.id WHERE path = ?",
        str(file),
    ) == [("Drum and Bass", "correction")]
    cli("tags", "undo", file)
    assert rows(cli, "SELECT tag_genre FROM tracks WHERE path = ?", str(file)) == [("Ambient",)]


def test_a_correction_of_an_undone_file_is_written(two_genres):
    cli, folder = two_genres
    file = folder / "artist 0" / "0.flac"
    cli("correct", file, "trance")
    cli("tags", "undo", file)
    cli("scan", folder)
    assert rows(cli, "SELECT tag_genre FROM tracks WHERE path = ?", str(file)) == [("Ambient",)]  # undone stays undone
    cli("correct", file, "techno")
    assert rows(cli, "SELECT tag_genre FROM tracks WHERE path = ?", str(file)) == [("Techno",)]


@pytest.mark.parametrize("ahead_first", [True, False])
def test_a_clock_that_is_set_back_does_not_change_what_came_last(two_genres, monkeypatch, ahead_first):
    cli, folder = two_genres
    file = folder / "artist 0" / "0.flac"
    cli("correct", file, "trance")

    class Ahead(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.now(tz) + timedelta(days=900)

    def undo() -> None:
        cli("tags", "undo", file)

    def correct() -> None:  # as the pages do
        [(recording,)] = rows(cli, "SELECT recording_id FROM tracks WHERE path = ?", str(file))
        with Store(cli.db) as store:
            store.correct(recording, "techno")

    first, then, genre = (undo, correct, "Techno") if ahead_first else (correct, undo, "Ambient")
    with monkeypatch.context() as clock:
        clock.setattr(sqlite, "datetime", Ahead)
        first()
    then()
    cli("scan", folder, env={"INDEXER_MIN_CONFIDENCE": "0.1"})  # another policy: each file is decided anew
    assert rows(cli, "SELECT tag_genre FROM tracks WHERE path = ?", str(file)) == [(genre,)]


def test_a_folder_is_corrected_at_once_and_undoing_all_keeps_what_a_person_said(two_genres):
    cli, folder = two_genres
    found = cli.json("correct", folder / "artist 0", "DnB", env={"INDEXER_WRITE_TAGS": "replace"})
    said = {entry["path"] for entry in found["files"]}
    assert len(said) > 1
    assert said == {str(path) for path in (folder / "artist 0").iterdir()}
    assert {entry["tag_genre"] for entry in found["files"]} == {"Drum and Bass"}
    assert said <= set(cli.json("tags", "undo", "--all", "--corrections", "--dry-run")["files"])
    assert said.isdisjoint(cli.json("tags", "undo", "--all", "--dry-run")["files"])
    keep = f"{len(said)} files keep the genre that you gave; `--corrections` undoes them, too"
    assert keep in cli("tags", "undo", "--all", "--dry-run").stdout
    assert said.isdisjoint(cli.json("tags", "undo", "--all", "--yes")["restored"])
    assert cli.json("tags", "undo", "--all", "--yes")["kept"] == len(said)
    assert keep in cli("tags", "undo", "--all", "--yes").stdout
    assert said <= set(cli.json("tags", "undo", "--all", "--corrections")["restored"])
    (folder / "empty").mkdir()
    assert "the library does not hold it" in cli("correct", folder / "empty", "DnB", code=2).stderr


def test_copies_share_a_correction_and_off_keeps_it_out_of_the_tags(cli, tmp_path):
    cli.model = "rhythm"
    folder = tmp_path / "music"
    folder.mkdir()
    write_audio(folder / "a", "mp3", 2.0, seed=1)
    (folder / "b.mp3").write_bytes((folder / "a.mp3").read_bytes())
    cli("scan", folder)
    before = (folder / "a.mp3").read_bytes()
    found = cli.json("correct", folder / "a.mp3", "techno", env={"INDEXER_WRITE_TAGS": "off"})
    assert (found["tags"], (folder / "a.mp3").read_bytes() == before) == ("off", True)
    with library_lock(cli.db):  # a daemon at work: what is said is kept, the tags follow
        assert cli.json("correct", folder / "b.mp3", "techno")["tags"] == "later"
        assert "the next scan writes the tags" in cli("correct", folder / "b.mp3", "techno").stdout
    assert cli("scan", folder).exit_code == 0  # writes it now, in both files, without any head
    assert rows(cli, "SELECT DISTINCT tag_genre, corrected FROM tracks") == [("Techno", "techno")]


def test_what_cannot_be_corrected_is_said(cli, music_folder):
    cli.model = "rhythm"
    cli("scan", music_folder)
    file = music_folder / "mp3.mp3"
    assert "'tecno' is no genre here; did you mean 'techno'? " in cli("correct", file, "tecno", code=2).stderr
    for odd in ("te\x1b[2Jcno", "x" * 101):
        assert "is no genre: it is 1 to 100" in cli("correct", file, odd, "--new", code=2).stderr
    assert "run `indexer scan` on it first" in cli("correct", file, music_folder / "none.mp3", "techno", code=2).stderr
    assert rows(cli, "SELECT count(*) FROM corrections") == [(0,)]
    assert cli.json("correct", file, "Tecno", "--new")["genre"] == "Tecno"


# ---- what is suggested


@pytest.fixture
def labelled(library, monkeypatch):
    """The library of 90 recordings, its encoder taken for the built-in one."""
    info = EncoderInfo(ENCODER, "made", WIDTH, 44_100, 6.0, "rhythm", built_in=True)
    monkeypatch.setattr("indexer.models.choice.built_in_info", lambda name="rhythm": info)
    return library


def test_a_label_that_the_others_contradict_is_listed_first(labelled):
    sql(labelled.db, "UPDATE tags SET genre = 'Trance' WHERE file_id = 1")  # was house
    labelled("train")
    labelled("relabel")
    found = labelled.json("suggest")
    assert found["label"] == []  # all have one
    first = found["check"][0]
    assert (Path(first["path"]).name, first["label"], first["genre"], first["source"]) == (
        "0.mp3",
        "trance",
        "house",
        "tags",
    )
    assert "heads that learned from other artists say house" in first["reason"]


def test_uncertain_tracks_unlike_the_labelled_ones_come_first(labelled):
    labelled("train")
    labelled("relabel")
    sql(labelled.db, "UPDATE tags SET genre = NULL WHERE file_id > 60")
    all_vectors = [np.frombuffer(vector, "<f2") for (vector,) in sql(labelled.db, "SELECT vector FROM embeddings")]
    odd = np.mean(all_vectors, axis=0).astype("<f2").tobytes()  # between all labels: the head is unsure
    sql(labelled.db, "UPDATE embeddings SET vector = ? WHERE recording_id = 70", odd)
    labelled("relabel")
    found = labelled.json("suggest", "-n", 5)
    assert len(found["label"]) == 5
    assert all(int(Path(entry["path"]).stem) >= 60 for entry in found["label"])
    assert Path(found["label"][0]["path"]).stem == "69"
    assert " or " in found["label"][0]["reason"]
    text = labelled("suggest", "-n", 5).stdout
    assert text.startswith("most worth a label")


def test_suggest_without_a_head_says_what_is_missing(cli, music_folder):
    cli.model = "rhythm"
    cli("scan", music_folder)
    assert "indexer train" in cli("suggest", code=2).stderr


@pytest.mark.slow_first
def test_evaluate_shows_every_encoder_and_the_cnn_side_by_side(two_genres, monkeypatch):
    """How well the CNN learns is told in test_cnn.py: here it trains for four epochs. DEEP: as many as it wants."""
    from indexer.heads import cnn

    if not DEEP:
        monkeypatch.setattr(cnn, "CnnSettings", functools.partial(cnn.CnnSettings, epochs=4))
    cli, _ = two_genres
    found = cli.json("evaluate", "--cnn", "--folds", 2)
    assert sorted(row["kind"] for row in found["learners"]) == ["cnn", *["linear"] * 4]
    assert [row["recordings"] for row in found["learners"]] == [12] * 5
    assert found["learners"][-1]["name"] == "CNN"
    assert len(list((cli.folder / "spectrograms").iterdir())) == 12
    (two_genres[1] / "artist 0" / "0.flac").unlink()  # its spectrogram is kept, but no readable file holds it any more
    cli("scan", two_genres[1], "--encoder", "rhythm")
    found = cli.json("evaluate", "--cnn", "--folds", 2, "--encoder", "rhythm")
    assert [row["recordings"] for row in found["learners"]] == [11, 11, 11]
    assert any("1 recordings have no file" in note for note in found["notes"])


# ---- from learning to the files


def test_before_relabel_suggest_does_not_claim_that_all_is_labelled(labelled):
    labelled("train")
    found = labelled.json("suggest")
    assert (found["label"], found["unclassified"]) == ([], 90)
    assert labelled.json("status")["unclassified"] == 90
    assert "90 recordings not classified by it yet: `indexer relabel`" in labelled("status").stdout
    assert "The model has not classified 90 tracks yet" in Pages(labelled.db).get("/").text
    printed = labelled("suggest").stdout
    assert "has not classified 90 recordings yet: `indexer relabel` first" in printed
    assert "every recording has a label" not in printed
    labelled("relabel")
    assert labelled.json("suggest")["unclassified"] == 0 == labelled.json("status")["unclassified"]
    assert "every recording has a label" in labelled("suggest").stdout


def test_train_applied_classifies_everything_and_writes_the_genres(two_genres):
    cli, folder = two_genres
    make(folder / "new.flac", "ambient", 99, labelled=False)
    applied = cli.json("train", "--labels", "tags", "--apply")["applied"]
    assert applied["relabel"]["classified"] == 12
    assert (applied["scan"]["embedded"], applied["scan"]["tags_written"]) == (1, 1)
    assert rows(cli, "SELECT count(*) FROM tags WHERE indexer_genre IS NOT NULL") == [(1,)]
    printed = cli("train", "--labels", "tags", "--apply", env={"INDEXER_WRITE_TAGS": "off"}).stdout
    assert printed.splitlines()[-1].startswith("13 recordings classified with ")  # and no scan


def test_what_an_interrupted_application_left_undone_is_counted_until_it_is_written(two_genres, monkeypatch):
    cli, folder = two_genres
    make(folder / "new.flac", "ambient", 99, labelled=False)
    cli("scan", folder, "--no-tags")

    def interrupted(*_args, **_how):
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr("indexer.cli.scan.scanned", interrupted)
        ended = cli("train", "--labels", "tags", "--apply", code=130)
    assert "the new head is in use; `indexer scan` goes on from here" in ended.stderr
    assert cli.json("status")["not_written"] == 1
    assert "1 decided genre is not in the files yet: `indexer scan` or `indexer tags apply`" in cli("status").stdout
    assert cli.json("relabel")["not_written"] == 1
    assert "next: `indexer scan --dry-run` lists the 1 genre to be written into files" in cli("relabel").stdout
    assert cli.json("scan", "--dry-run")["tag_writes"] == 1
    assert cli.json("scan")["tags_written"] == 1
    assert cli.json("status")["not_written"] == 0
    assert "next: `indexer serve --open` shows the result" in cli("relabel").stdout


def test_train_and_relabel_say_what_comes_next_and_why_nothing_is_decided(labelled):
    assert "next: `indexer relabel`" in labelled("train").stdout
    assert "next: `indexer serve --open`" in labelled("relabel").stdout  # each file has a genre of its user's
    printed = labelled("relabel", env={"INDEXER_MIN_CONFIDENCE": "1"}).stdout
    assert "nothing is decided: the surest is" in printed
    assert "next:" not in printed
