"""Label sets beside the genre: named in the settings, learned, classified, corrected and shown, each for itself."""

import json
from contextlib import closing

import numpy as np
import pyarrow.parquet
import pytest

from indexer.config import load_settings
from indexer.encoders.load import load_encoder
from indexer.errors import ConfigError
from indexer.heads.linear import LinearHead
from indexer.library import listed
from indexer.library.label_sets import set_heads, shown_sets
from indexer.library.readonly import open_readonly
from indexer.library.store import Store
from indexer.library.tracks_view import TRACK_COLUMNS
from tests.helpers.labelled import sql
from tests.helpers.pages import Pages

MOODS = ("bright", "dark")


def settings(tmp_path, text):
    path = tmp_path / "config.toml"
    path.write_text(text)
    return load_settings(path, {}, {})


def tracks(db, columns):
    with closing(open_readonly(db)) as conn:
        return [tuple(row) for row in conn.execute(f"SELECT {columns} FROM tracks ORDER BY id")]


# ---- names


def test_a_set_is_called_as_its_columns_are(tmp_path):
    found = settings(tmp_path, '[sets."Set Role"]\nlabels = ["opener", "peak"]\n')
    name, told = found.label_set("set  role")
    assert (name, told.labels, list(found.label_sets)) == ("set_role", ("opener", "peak"), ["set_role"])
    with pytest.raises(ConfigError, match="did you mean 'set_role'"):
        found.label_set("set_rol")


@pytest.mark.parametrize(
    "text",
    [
        "[sets.\"x' OR 1 --\"]", '[sets."mood; DROP TABLE files"]', '[sets."9"]', '[sets.""]', '[sets."stimmung-ü"]',
        '[sets."Mood"]\n[sets.mood]', "[sets.mood]\nlabel = ['a']", "[sets.mood]\ntag = 'title'\nlabels = ['a']",
        "[sets.mood]\ntag = 'comment'", "[sets.mood]\nmin_confidence = 2", "sets = 3",
        "".join(f"[sets.s{n}]\n" for n in range(17)),
    ],
)  # fmt: skip
def test_what_cannot_be_a_set_is_refused(tmp_path, text):
    with pytest.raises(ConfigError, match="set"):
        settings(tmp_path, text)


@pytest.mark.parametrize("names", [["label"], ["tempo"], ["title"], ["mood", "mood_decided"]])
def test_no_set_takes_the_name_of_another_column(tmp_path, names):
    with Store(tmp_path / "library.db") as store:
        with pytest.raises(ConfigError, match="already"):
            store.use_sets(names)
        assert shown_sets(store.connection) == []


def test_a_column_of_a_set_comes_before_a_label_of_that_name(tmp_path):
    with Store(tmp_path / "library.db") as store:
        store.use_sets(["mood", *(f"s{n}" for n in range(15))])
        store.put_encoder("e", name="e", width=1, unit_s=1.0)
        store.put_head("h", name="h", kind="linear", encoder_id="e", labels=["mood", "x"], threshold=0.5, source="")
        store.use_head("h")
        found = [column[0] for column in store.connection.execute("SELECT * FROM tracks").description]
    assert {"mood", "mood_confidence", "mood_decided", "mood score", "x", "s14_decided"} < {*found}
    assert len(found) == len({*found}) == len(TRACK_COLUMNS) + 2 + 3 * 16


def test_a_set_may_have_the_name_of_a_word_of_sql(tmp_path):
    names = ["case", "group", "order", "select"]
    with Store(tmp_path / "library.db") as store:
        store.use_sets(names)
        found = [column[0] for column in store.connection.execute("SELECT * FROM tracks").description]
        assert {*names} < {*found}
        assert list(listed.by_set(store.connection, "order")) == []


# ---- learning


@pytest.fixture
def moods(labelled_library, tmp_path):
    """The library of labelled recordings, and settings that name two sets; half of one is in a CSV."""
    cli = labelled_library
    rows = [f"music/{n}.mp3,{MOODS[n % 3 == 0]}" for n in range(45)]
    (tmp_path / "moods.csv").write_text("\n".join(["path,mood", *rows]))
    config = tmp_path / "config.toml"
    config.write_text(f'[sets.mood]\ncsv = "{tmp_path}/moods.csv"\n[sets.set_role]\nlabels = ["opener"]\n')
    return cli, ("--config", config)


def test_a_head_of_a_set_leaves_the_genre_alone(moods):
    cli, config = moods
    genre = cli.json("train", *config)
    found = cli.json("train", "--set", "Mood", "--apply", *config)
    assert (genre["set"], found["set"], found["head"]) == (None, "mood", "mood")
    assert found["labels"] == {"bright": 30, "dark": 15}
    assert found["sources"] == {"corrections": 0, "csv": 45}
    assert found["applied"]["relabel"]["sets"]["mood"]["classified"] == 90
    assert sql(cli.db, "SELECT name FROM heads WHERE in_use") == [(genre["head"],)]
    assert {row[0] for row in tracks(cli.db, "mood")} == {*MOODS}
    assert set(tracks(cli.db, "set_role, set_role_confidence, set_role_decided")) == {(None, None, None)}
    assert sql(cli.db, "SELECT count(*) FROM corrections") == [(0,)]


def test_a_persons_word_counts_in_its_set_alone_and_is_learned_from(moods, tmp_path):
    cli, config = moods
    files = [tmp_path / "music" / f"{n}.mp3" for n in range(60, 66)]
    assert "is no label of the set 'mood'" in cli("correct", "--set", "mood", files[0], "sad", *config, code=2).stderr
    found = cli.json("correct", "--set", "mood", *files, "sad", "--new", *config)
    assert (found["set"], found["label"], len(found["files"])) == ("mood", "sad", 6)
    assert cli.json("correct", "--set", "mood", files[0], "SAD", *config)["label"] == "sad"
    assert cli.json("correct", "--set", "set role", files[0], "Opener", *config)["label"] == "opener"
    shown = tracks(cli.db, "mood, mood_confidence, mood_decided, set_role, corrected, label")
    assert shown[60] == ("sad", None, 1, "opener", None, "House")
    assert shown[0][:4] == (None, None, None, None)
    trained = cli.json("train", "--set", "mood", *config)
    assert (trained["labels"]["sad"], trained["sources"]) == (6, {"corrections": 6, "csv": 45})
    report = tmp_path / "state" / "evaluation-mood.html"
    judged = cli.json("evaluate", "--set", "mood", "--folds", 2, *config)
    assert (judged["set"], judged["library"]["labels"]["sad"]) == ("mood", 6)
    assert judged["report"].endswith(report.name)


def test_labels_come_from_a_field_of_the_tags(moods, tmp_path):
    cli, _ = moods
    sql(cli.db, "UPDATE tags SET comment = CASE WHEN file_id % 2 THEN '8A - Peak, 126' ELSE 'opener' END")
    config = tmp_path / "tags.toml"
    config.write_text('[sets.role]\ntag = "comment"\nlabels = ["opener", "8a - peak"]\n')
    found = cli.json("train", "--set", "role", "--config", config)
    assert found["labels"] == {"8a - peak": 45, "opener": 45}
    assert found["sources"] == {"corrections": 0, "tags": 90}
    without = cli("train", "--set", "mood", "--labels", "tags", *moods[1], code=2).stderr
    assert "tags name no label of the set 'mood'" in without


def test_a_set_that_the_settings_do_not_name_is_refused_and_hidden(moods):
    cli, config = moods
    assert "[sets.mod] in the settings file makes one" in cli("train", "--set", "mod", *config, code=2).stderr
    cli("train", "--set", "mood", *config)
    assert "there is no label set 'mood'" in cli("train", "--set", "mood", code=2).stderr
    without = cli("train", "--set", "empty", code=2, env={"INDEXER_SETS": "{empty = {}}"}).stderr
    assert "needs two labels with 5 labelled recordings each (`indexer correct --set empty" in without
    cli("train")  # with settings that name none
    with closing(open_readonly(cli.db)) as conn:
        assert shown_sets(conn) == []
        assert "mood" not in [column[0] for column in conn.execute("SELECT * FROM tracks").description]
    assert sql(cli.db, "SELECT count(*) FROM label_sets WHERE head_id IS NOT NULL") == [(1,)]  # kept


# ---- classifying


@pytest.fixture
def sure(quick_cli, scanned_music, tmp_path):
    """A library of scanned files, and settings with a set whose head says "dark" of everything."""
    encoder = load_encoder("rhythm")
    path = tmp_path / "mood.safetensors"
    weight = np.zeros((2, encoder.width), np.float32)
    head = LinearHead("mood", encoder.id, MOODS, 0.5, weight, np.array([0, 3], np.float32))
    head.save(path)
    config = tmp_path / "config.toml"
    config.write_text('[sets.mood]\nlabels = ["dark"]\n')
    with Store(quick_cli.db) as store:
        store.use_sets(["mood"])
        store.put_head(
            head.id, name="mood", kind="linear", encoder_id=encoder.id, labels=MOODS, threshold=0.5, source=str(path)
        )
        store.use_set_head("mood", head.id)
    return quick_cli, scanned_music, {"INDEXER_CONFIG": str(config)}


def test_a_scan_classifies_in_every_set_known_files_and_new_ones(sure, tmp_path):
    cli, folder, env = sure
    genres = tracks(cli.db, "genre, confidence, decided")
    cli("scan", folder, env=env)
    assert set(tracks(cli.db, "mood, mood_decided")) == {("dark", 1)}
    assert tracks(cli.db, "genre, confidence, decided") == genres
    with closing(open_readonly(cli.db)) as conn:
        assert [one.name for one in set_heads(conn)] == ["mood"]
    assert "0 recordings embedded" in cli("scan", folder, env=env).stdout
    sql(cli.db, "DELETE FROM predictions WHERE recording_id = 1")
    strict = tmp_path / "strict.toml"
    strict.write_text("[sets.mood]\nmin_confidence = 1.0\n")
    cli("scan", folder, "--force", env={"INDEXER_CONFIG": str(strict)})
    assert set(tracks(cli.db, "mood, mood_decided")) == {("dark", 0)}


def test_a_head_that_cannot_be_read_costs_only_its_set(sure):
    cli, folder, env = sure
    (source,) = sql(cli.db, "SELECT source FROM heads WHERE name = 'mood'")
    with open(source[0], "wb") as file:
        file.write(b"no head")
    sql(cli.db, "DELETE FROM analysis WHERE recording_id = 1")  # a scan that also measures says it once, too
    done = cli("scan", folder, env=env)
    assert done.stderr.count("the label set 'mood' is not classified") == 1
    found = cli.json("relabel", env=env)
    assert (found["classified"] > 0, found["sets"], len(found["problems"])) == (True, {}, 1)


def test_pruning_keeps_what_a_set_needs(sure):
    cli, _folder, env = sure
    cli("relabel", env=env)
    before = sql(cli.db, "SELECT count(*) FROM predictions")
    cli("prune", "--embeddings", "--yes", env=env)
    assert sql(cli.db, "SELECT count(*) FROM predictions") == before


# ---- showing


def test_the_pages_and_exports_show_the_sets(sure, tmp_path):
    cli, _, env = sure
    cli("relabel", env=env)
    pages = Pages(cli.db, sets={"mood": {"labels": ["dark"]}})
    track = pages.json("/library/tracks/1.json")
    assert track["sets"][0]["label"] == "dark"
    assert track["sets"][0]["decided"]
    assert not track["sets"][0]["said"]
    assert pages.post("/-/correct", {"id": 1, "set": "mood", "label": "bright"}).json()["label"] == "bright"
    assert pages.post("/-/correct", {"id": 1, "set": "mood", "label": "loud"}).status_code == 400
    assert pages.post("/-/correct", {"id": 1, "set": "x'y", "label": "dark"}).status_code == 400
    assert "Take back “bright”" in pages.get("/library/tracks/1").text
    assert pages.json("/library/tracks/1.json")["corrections"] == []
    rows = pages.json("/library/tracks.json?mood=bright&_shape=array")
    assert [(row["id"], row["mood_decided"]) for row in rows] == [(1, 1)]
    cli("export", "--parquet", tmp_path / "out", env=env)
    files = pyarrow.parquet.read_table(tmp_path / "out" / "files")
    assert files.column("mood").to_pylist()[:2] == ["bright", "dark"]
    assert files.column("mood_confidence").to_pylist()[0] is None
    cli("export", "--rekordbox", tmp_path / "out.xml", "--m3u", tmp_path / "lists", env=env)
    assert (tmp_path / "lists" / "Mood - bright.m3u8").read_text().count("#EXTINF") == 1
    assert (tmp_path / "lists" / "Mood - dark.m3u8").read_text().count("#EXTINF") == 5
    assert 'Name="Mood - dark"' in (tmp_path / "out.xml").read_text()
    heads = json.loads((tmp_path / "out" / "manifest.json").read_text())["heads"]
    assert [head["label_set"] for head in heads if head["name"] == "mood"] == ["mood"]
    assert pages.post("/-/correct", {"id": 1, "set": "mood", "label": None}).status_code == 200
    assert not pages.json("/library/tracks/1.json")["sets"][0]["said"]
