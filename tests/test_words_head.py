"""`train --words`: a head of no labels is a first guess that never decides, until labels begin with it."""

import os
from collections import Counter

import numpy as np
import pytest

from indexer.config import load_settings
from indexer.encoders.m2d.checkpoint import inspect
from indexer.encoders.trajectory import Collector
from indexer.files.audio.identity import Stat
from indexer.heads.decide import FIRST_GUESS
from indexer.heads.linear import LinearHead
from indexer.heads.load import load_head
from indexer.learn.dataset import LabelRequest
from indexer.learn.words import TEMPERATURE, TEMPLATES, sentences
from indexer.library.store import Store
from tests.helpers import checkpoints, words
from tests.helpers.cli import Cli

GENRES = ("house", "techno", "trance")


class Tower:
    """A text encoder that knows a direction for each genre."""

    def __init__(self, *_files):
        pass

    def encode(self, said):
        rows = []
        for text in said:
            row = np.full(64, 0.01, np.float32)
            for place, genre in enumerate(GENRES):
                row[place] += genre in text.casefold()
            rows.append(row / np.linalg.norm(row))
        return np.stack(rows)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    state = checkpoints.published_state(words.clap_2025())
    return checkpoints.write_folder(tmp_path_factory.mktemp("model"), state, name=checkpoints.NAME_CLAP_TI)


@pytest.fixture
def library(tmp_path, model, monkeypatch):
    """60 recordings by 12 artists, tagged, whose audio vectors lie near their genre's words, not always the nearest."""
    monkeypatch.setattr("indexer.models.words.BertTower", Tower)
    cli = Cli(tmp_path / "state", None)
    cli.folder.mkdir()
    cli("models", "add", model, "--name", "clap")
    cli("models", "add", words.write_vocabulary(tmp_path))
    cli("models", "use", "clap")
    config = tmp_path / "config.toml"
    config.write_text("[words]\n" + "".join(f'"{genre}" = []\n' for genre in GENRES))
    cli.config = config
    info = inspect(cli.folder / "models" / "clap" / "model.safetensors")
    rng = np.random.default_rng(1)
    with Store(cli.db) as store, store.transaction():
        root = store.add_root(os.fsencode(tmp_path / "music"))
        for n in range(60):
            recording = store.recording(f"{n:064x}", codec="mp3", sample_rate_hz=44_100, channels=2, duration_s=9.0)
            place = os.fsencode(tmp_path / "music" / f"{n}.mp3")
            stat = Stat(1, n, 1, 1)
            file = store.put_file(place, stat, root_id=root, state="ready", recording_id=recording)
            store.put_tags(file, {"genre": GENRES[n % 3].title(), "artist": f"artist {n % 12}"})
            own = rng.standard_normal(info.geometry.vector_width).astype("<f2")
            store.put_embedding(recording, info.encoder_id, own.tobytes(), 1)
            audio = rng.standard_normal(64) * 0.04
            audio[n % 3] += 0.25
            audio[0] += 0.3  # all of them sound like house
            collector = Collector(5.0)
            for _ in range(2):
                collector.add(audio.astype(np.float32), 1)
            course = collector.finish(audio.astype(np.float32)).to_bytes()
            store.put_embedding(recording, info.words_id, audio.astype("<f2").tobytes(), 2, course)
    return cli


def rows(cli, statement):
    with Store(cli.db) as store:
        return [tuple(row) for row in store._run(statement)]


def test_sentences_are_the_templates_and_the_users_own():
    assert sentences({"dub": ("echoes",)}) == {"dub": [*(one.format("dub") for one in TEMPLATES), "echoes"]}
    assert list(sentences({})) == ["ambient", "drum and bass", "house", "techno", "trance"]


def test_a_head_of_words_is_the_softmax_of_cosines_and_decides_nothing(library):
    found = library.json("train", "--words", "--config", library.config)
    assert (found["first_guess"], list(found["sentences"])) == (True, list(GENRES))
    head = load_head(found["file"])
    assert (head.kind, head.by_words, head.id) == ("words", True, found["id"])
    vector = np.eye(64, dtype=np.float32)[0][None]
    direction = Tower().encode(["house"])[0]
    assert head.logits(vector)[0, 0] == pytest.approx(direction[0] / TEMPERATURE, rel=0.02)
    done = library.json("relabel", env={"INDEXER_MIN_CONFIDENCE": "0"})
    assert (done["classified"], done["undecided"]) == (60, 60)
    assert rows(library, "SELECT DISTINCT decided, reason FROM predictions") == [(0, FIRST_GUESS)]
    assert rows(library, "SELECT count(*), length(scores) FROM timeline") == [(60, 6)]  # two units, three genres
    said = "a first guess by words: labels and `indexer train` make it a decision"
    assert f"nothing is decided: {said}" in library("relabel").stdout
    assert f"(numbers to a genre; {said})" in library("status").stdout
    status = library.json("status")["head"]
    assert (status["kind"], status["decided_from"]) == ("words", None)
    assert library.json("train", "--words", "--config", library.config)["file"] == found["file"]  # the same head
    told = library("train", "--words", "--config", library.config).stdout
    assert told.count("The sound of house music.") == 1
    assert "nothing is written until labels and `indexer train` make it a decision" in told
    assert "writes the tags" not in told


def test_labels_begin_with_the_words_and_calibrate_them(library):
    library("train", "--words", "--config", library.config)
    found = library.json("train", "--config", library.config)
    begun = [one for one in found["compared"] if one["encoder"].endswith("begun by words")]
    assert len(begun) == 1
    assert begun[0]["accuracy"] > 0.9
    assert found["encoder"].startswith("clap, words")
    head = load_head(found["file"])
    assert isinstance(head, LinearHead)
    assert (head.kind, head.weight.shape) == ("linear", (3, 64))
    done = library.json("relabel")
    assert done["undecided"] < 60
    assert rows(library, "SELECT name FROM encoders WHERE in_use") == [("clap",)]
    report = library.json("evaluate", "--folds", "3", "--config", library.config)
    guess = [one for one in report["learners"] if one["kind"] == "words"]
    assert [one["name"] for one in guess] == ["clap, words, begun by words, no label"]
    assert guess[0]["balanced_accuracy"] < begun[0]["balanced_accuracy"]  # all sound like house to words alone


def test_a_library_without_such_a_model_is_told_the_way(unlabelled):
    cli, _ = unlabelled
    assert "knows no words" in cli("train", "--words", code=2).stderr


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ('[words]\n"a" = []\n', "a head has 2 to"),
        ("[words]\na = 3\n", "words"),
        ('[words]\n"a" = [""]\nb = []\n', "no words"),
    ],
)
def test_settings_that_cannot_be_used(library, tmp_path, settings, said):
    config = tmp_path / "bad.toml"
    config.write_text(settings)
    result = library("train", "--words", "-q", "--config", config, code=2)
    assert said in result.stderr
    assert result.stderr.count("\n") == 1


def test_one_sentence_needs_no_list(library, tmp_path):
    config = tmp_path / "one.toml"
    config.write_text('[words]\nhouse = "a warm groove"\ntechno = []\n')
    found = library.json("train", "--words", "--config", config)
    assert found["sentences"]["house"][-1] == "a warm groove"
    assert len(found["sentences"]["techno"]) == len(TEMPLATES)


def test_tags_may_name_the_genres_of_the_setting(library, tmp_path):
    config = tmp_path / "own.toml"
    config.write_text('[words]\n"dub techno" = []\nhouse = []\n')
    with Store(library.db) as store, store.transaction():
        store._run("UPDATE tags SET genre = 'Dub Techno' WHERE genre = 'Techno'")
        told = LabelRequest(("tags",)).gather(store.connection, load_settings(config))
    assert Counter(told.label_of.values()) == {"house": 20, "dub techno": 20, "trance": 20}


def test_words_take_no_labels(library, tmp_path):
    assert "--words takes no labels" in library("train", "--words", "--csv", tmp_path / "x.csv", code=2).stderr
