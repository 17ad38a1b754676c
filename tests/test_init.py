"""`indexer init`: a new user's questions in a real terminal, interrupted and gone on with; options as answers."""

import shutil
import tomllib
from pathlib import Path

import pytest

from indexer.config import config_file
from indexer.upkeep.demo import Track, write_track
from tests.helpers.cli import Cli
from tests.helpers.terminal import Session

MUSIC = [(genre, artist) for genre in ("ambient", "techno") for artist in range(6)]


@pytest.fixture(scope="session")
def _music_template(tmp_path_factory):
    """12 short tracks: ten of two genres with the genre in their tags, one of each without."""
    folder = tmp_path_factory.mktemp("init") / "music"
    folder.mkdir()
    for seed, (genre, artist) in enumerate(MUSIC):
        write_track(Track(folder / f"{seed}.flac", genre, seed, 3.0, f"Study {seed}", f"{artist}", labelled=artist > 0))
    return folder


@pytest.fixture
def music(tmp_path, _music_template):
    return Path(shutil.copytree(_music_template, tmp_path / "music"))


@pytest.fixture
def bare(tmp_path):
    """The command line of somebody who has nothing yet."""
    folder = tmp_path / "state"
    folder.mkdir()
    return Cli(folder, None)


def kept() -> dict[str, object]:
    return tomllib.loads(config_file().read_text())


def genres(cli: Cli) -> set[str]:
    return {genre["genre"] for genre in cli.json("status")["genres"] if genre["decided"]}


def test_questions_lead_to_a_labelled_library_and_ctrl_c_anywhere_is_gone_on_from(bare, music, tmp_path):
    def init(*args):
        return Session("init", *args, env={**bare.environ, "INDEXER_PORT": "0", "BROWSER": "true"})

    with init() as first:
        first.answer("Folder of your music", str(tmp_path / "no such folder"))
        first.until("there is no such folder")
        first.answer("Folder of your music", str(music))
        assert "paid work" in first.until("Encoder [musicnn]: ")  # the licences are told before the answer
        first.interrupt()
        assert first.end() == 130
        assert "`indexer init` goes on from here" in first.shown
    assert kept() == {"roots": [str(music)]}
    with init() as second:
        second.answer("Encoder [musicnn]", "no such encoder")
        second.until("no such encoder")
        second.answer("Encoder [musicnn]", "rhythm")
        second.answer("files that have none", "y")
        second.answer("Learn from the genres", "y")
        second.answer("Open the pages", "n")
        second.until("scanning")
        second.interrupt()
        assert second.end() == 130
        assert "`indexer init` goes on from here" in second.shown
    assert kept() == {"roots": [str(music)], "encoder": "rhythm", "write_tags": "fill"}
    with init("--learn") as third:
        third.answer("Open the pages", "n")
        assert third.end() == 0
        assert "learned 'trained' from 10 recordings" in third.shown
    assert genres(bare) == {"ambient", "techno"}
    assert bare.json("status")["tags_written"] == 2
    with init() as again:  # a head is in use: the question whether to learn is answered by that
        again.answer("Open the pages", "y")
        again.until("the library is at http://127.0.0.1:")
        again.interrupt()
        again.end()


@pytest.mark.parametrize(
    ("given", "missing"),
    [
        ([], "the folder of your music"),
        (["MUSIC"], "--encoder NAME"),
        (["MUSIC", "--encoder", "rhythm"], "--tags or --no-tags"),
        (["MUSIC", "--encoder", "rhythm", "--tags"], "--learn or --no-learn"),
        (["MUSIC", "--encoder", "rhythm", "--tags", "--no-learn", "--no-service"], "--open or --no-open"),
        (["MUSIC", "--encoder", "m2d", "--tags", "--no-learn", "--no-open"], "--accept-licence"),
    ],
)
def test_without_a_terminal_one_line_names_the_option_that_is_missing(bare, music, given, missing):
    said = bare("init", *(music if word == "MUSIC" else word for word in given), code=2).stderr
    assert said == f"indexer: init can ask on a terminal only: give {missing}\n"
    assert not bare.db.exists()


def test_options_answer_everything_and_too_few_labels_are_said(bare, music):
    for file in music.glob("[3-9].flac"):
        file.unlink()
    done = bare("init", music, "--encoder", "rhythm", "--no-tags", "--learn", "--no-service", "--no-open", code=1)
    assert "nothing is learned yet: too few labels" in done.stderr
    assert "5 recordings embedded" in done.stdout
    assert kept() == {"roots": [str(music)], "encoder": "rhythm", "write_tags": "off"}


def test_another_encoder_learns_anew(bare, music):
    answers = ("--tags", "--no-service", "--no-open")
    bare("init", music, "--encoder", "rhythm", "--learn", *answers)
    bare("init", *answers)  # nothing is left to be asked
    assert "--learn or --no-learn" in bare("init", "--encoder", "musicnn", *answers, code=2).stderr
    assert "embedded by musicnn" in bare("init", "--encoder", "musicnn", "--learn", *answers).stdout
    assert kept()["encoder"] == "musicnn"


def test_a_service_that_systemd_cannot_run_is_refused_before_the_work(bare, music, monkeypatch):
    monkeypatch.setenv("PATH", "")
    said = bare("init", music, "--encoder", "rhythm", "--tags", "--learn", "--service", "--no-open", code=2).stderr
    assert "services need systemd" in said
    assert not bare.db.exists()


def test_a_licence_that_is_refused_leaves_the_question_open(bare, music):
    with Session("init", music, "--tags", "--no-learn", "--no-open", env=bare.environ) as first:
        first.answer("Encoder [musicnn]", "m2d")
        first.answer("Do you accept this licence?", "n")
        assert first.end() == 2
        assert "not for any commercial purpose" in first.shown
        assert "nothing was downloaded" in first.shown
    assert "encoder" not in kept()
    assert not bare.db.exists()


def test_a_folder_without_music_is_said(bare, tmp_path):
    (tmp_path / "empty").mkdir()
    answers = ("--encoder", "rhythm", "--tags", "--learn", "--no-service", "--no-open")
    assert "no audio file was found" in bare("init", tmp_path / "empty", *answers, code=1).stderr


def test_a_folder_or_an_encoder_that_is_not_there_is_one_line(bare, music, tmp_path):
    assert "there is no such folder" in bare("init", tmp_path / "away", code=2).stderr
    assert "no model 'm3d' is installed" in bare("init", music, "--encoder", "m3d", code=2).stderr
