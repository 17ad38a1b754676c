"""Playlists of the settings file stay true: a scan and the daemon write them anew, and only when they change."""

import os
from contextlib import closing
from xml.etree import ElementTree as ET

import pytest

from indexer.config import load_settings
from indexer.exchange import living
from indexer.library import questions
from indexer.library.readonly import open_readonly
from indexer.library.store import Store
from indexer.watch import status
from tests.helpers.daemons import Watching
from tests.helpers.pages import Pages, one
from tests.helpers.synth import write_audio


@pytest.fixture
def refresh(labelled_library):
    """Brings playlists up to date in a library of 90 tracks of house, techno and trance; returns what went wrong."""

    def refresh(**playlists):
        settings = load_settings(None, {"db": labelled_library.db, "playlists": playlists}, {})
        with closing(open_readonly(labelled_library.db)) as conn:
            return living.refresh(conn, settings)

    refresh.cli = labelled_library
    return refresh


def entries(file):
    lines = file.read_bytes().split(b"\n")
    assert lines[0] == b"#EXTM3U"
    return [os.fsdecode(line) for line in lines[1:] if line and not line.startswith(b"#")]


def numbers(file):
    return sorted(int(path.rpartition("/")[2].removesuffix(".mp3")) for path in entries(file))


def test_filters_choose_what_a_playlist_holds(refresh, tmp_path):
    file = tmp_path / "list.m3u8"
    with Store(refresh.cli.db) as store:
        store._run("UPDATE tags SET bpm = 120 + file_id % 10, musical_key = CASE file_id % 2 WHEN 0 THEN '8A' END")
    for filters, holds in (
        ({"genre": "House"}, lambda n: n % 3 == 0),
        ({"genre": ["HOUSE", "trance"]}, lambda n: n % 3 != 1),
        ({"tempo": [122, 123.5]}, lambda n: (n + 1) % 10 in (2, 3)),
        ({"key": "8A", "genre": ["techno"]}, lambda n: n % 2 == 1 and n % 3 == 1),
        ({"key": ["A minor", "Ebm"]}, lambda n: n % 2 == 1),
        ({"confidence": 0.5}, lambda n: False),  # no head has said anything
        ({"sql": "SELECT id FROM tracks WHERE id < 4 ORDER BY id DESC"}, lambda n: n < 3),
    ):
        assert refresh(x={"file": file, **filters}) == []
        assert numbers(file) == [n for n in range(90) if holds(n)], filters


def test_confidence_is_of_a_model_that_says_the_same_genre(refresh, tmp_path):
    file = tmp_path / "list.m3u8"
    with Store(refresh.cli.db) as store, store.transaction():
        (encoder,) = store.connection.execute("SELECT id FROM encoders LIMIT 1").fetchone()
        labels = ("house", "techno")
        store.put_head("h", name="h", kind="linear", encoder_id=encoder, labels=labels, threshold=0.5, source="")
        store.use_head("h")
        store.put_genre_labels({"House": "house", "Techno": "techno"})  # as a scan does
        store._run(
            "INSERT INTO predictions (recording_id, head_id, genre, confidence, threshold, decided)"
            " SELECT recording_id, 'h', 'house', id / 100.0, 0.5, 1 FROM files"
        )
    for filters, holds in (
        ({"confidence": 0.5}, lambda n: n % 3 == 0 and n + 1 >= 50),
        ({"confidence": 0.5, "genre": "techno"}, lambda n: False),
    ):
        assert refresh(x={"file": file, **filters}) == []
        assert numbers(file) == [n for n in range(90) if holds(n)], filters


def test_tempo_and_key_are_the_tags_or_else_measured(refresh, tmp_path):
    file = tmp_path / "list.m3u8"
    with Store(refresh.cli.db) as store:
        store._run("UPDATE tags SET bpm = 87, musical_key = 'Fm' WHERE file_id = 1")
        store._run("UPDATE tags SET bpm = 0, musical_key = 'none' WHERE file_id = 2")
        store._run(
            "INSERT INTO analysis (recording_id, version, tempo_bpm, key, key_name, measured)"
            " SELECT id, 1, 174, '8A', 'Am', '{}' FROM recordings WHERE id < 4"
        )
    for filters, holds in (
        ({"tempo": [173, 175]}, [1, 2]),
        ({"tempo": [80, 90]}, [0]),
        ({"key": "8A"}, [1, 2]),
        ({"key": "4A"}, [0]),
    ):
        assert refresh(x={"file": file, **filters}) == []
        assert numbers(file) == holds, filters
    assert refresh(x={"file": tmp_path / "list.xml", "sql": "SELECT id FROM tracks WHERE id < 4"}) == []
    tracks = ET.parse(tmp_path / "list.xml").find("COLLECTION")
    told = [(track.get("AverageBpm"), track.get("Tonality")) for track in tracks]
    assert told == [("87.00", "Fm"), ("174.00", "Am"), ("174.00", "Am")]


def test_sql_decides_the_order_and_each_track_comes_once(refresh, tmp_path):
    file = tmp_path / "list.m3u"
    sql = (
        "SELECT id FROM (SELECT id FROM tracks UNION ALL SELECT id FROM tracks) WHERE id IN (1, 2, 3) ORDER BY id DESC"
    )
    assert refresh(x={"file": file, "sql": sql, "relative": True}) == []
    assert entries(file) == ["music/2.mp3", "music/1.mp3", "music/0.mp3"]


def test_a_list_is_written_only_when_it_changes(refresh, tmp_path):
    file = tmp_path / "house.xml"
    wish = {"file": file, "genre": "house"}
    assert refresh(house=wish) == []
    (listed,) = ET.parse(file).findall(".//NODE[@Type='1']")
    assert (listed.get("Name"), listed.get("Entries")) == ("house", "30")
    before = file.stat()
    assert refresh(house=wish) == []
    assert (file.stat().st_ino, file.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    with Store(refresh.cli.db) as store:
        store._run("UPDATE tags SET genre = 'House' WHERE file_id = 2")
    assert refresh(house=wish) == []
    assert ET.parse(file).find(".//NODE[@Type='1']").get("Entries") == "31"


def test_a_list_on_a_drive_that_is_away_waits_for_it(refresh, tmp_path):
    with Store(refresh.cli.db) as store:
        drive = {"path": os.fsencode(tmp_path / "usb")}
        store._run("INSERT INTO roots (path, path_text, state) VALUES (:path, 'usb', 'offline')", drive)
    (tmp_path / "usb").mkdir()  # the empty mount point
    assert refresh(away={"file": tmp_path / "usb" / "a.m3u8", "genre": "house"}) == []
    assert [*(tmp_path / "usb").iterdir()] == []


def test_what_goes_wrong_with_one_is_said_and_the_others_are_written(refresh, tmp_path, monkeypatch):
    monkeypatch.setattr(questions, "LIMIT_S", 0.3)
    mine = tmp_path / "mine.m3u8"
    mine.write_text("#EXTM3U\n/mine.mp3\n")
    endless = "WITH RECURSIVE n(id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM n) SELECT max(id) AS id FROM n"
    wishes = {
        "mine": {"file": mine, "genre": "house"},
        "nowhere": {"file": tmp_path / "none" / "x.m3u8", "genre": "house"},
        "keyless": {"file": tmp_path / "e.m3u8", "key": "H#"},
        "wrong": {"file": tmp_path / "a.m3u8", "sql": "SELECT id FRM tracks"},
        "other": {"file": tmp_path / "b.m3u8", "sql": "SELECT title FROM tracks"},
        "writes": {"file": tmp_path / "c.m3u8", "sql": "DELETE FROM files RETURNING id"},
        "endless": {"file": tmp_path / "d.m3u8", "sql": endless},
        "good": {"file": tmp_path / "good.m3u8", "genre": "house"},
    }
    problems = refresh(**wishes)
    said = dict(problem.removeprefix("playlist ").split(": ", 1) for problem in problems)
    assert said.keys() == wishes.keys() - {"good"}
    for name, part in (
        ("mine", "is not a file that indexer wrote"),
        ("nowhere", "No such file or directory"),
        ("keyless", "'H#' is no key"),
        ("wrong", "syntax error"),
        ("other", "must have a column id"),
        ("writes", "readonly database"),
        ("endless", "longer than 0 s"),
    ):
        assert part in said[name]
        assert "\n" not in said[name]
    assert mine.read_text() == "#EXTM3U\n/mine.mp3\n"
    assert sorted(path.name for path in tmp_path.glob("*.m3u8")) == ["good.m3u8", "mine.m3u8"]
    assert len(entries(tmp_path / "good.m3u8")) == 30


def test_a_scan_keeps_lists_true_and_fails_when_it_cannot(scanned, scanned_music, tmp_path):
    wav = {"INDEXER_PLAYLISTS": f"{{wav = {{file = '{tmp_path}/wav.m3u8', genre = 'dub'}}}}"}
    scanned("scan", scanned_music, "--no-tags", env=wav)
    assert entries(tmp_path / "wav.m3u8") == []
    scanned("correct", "--new", scanned_music / "album" / "wav.wav", "dub")
    scanned("scan", scanned_music, "--no-tags", env=wav)
    assert entries(tmp_path / "wav.m3u8") == [str(scanned_music / "album" / "wav.wav")]
    with (tmp_path / "wav.m3u8").open("ab") as out:
        out.write(b"/mine.mp3\n")
    result = scanned("scan", scanned_music, "--no-tags", env=wav, code=1)
    assert "playlist wav: " in result.stderr
    (tmp_path / "wav.m3u8").unlink()
    scanned("scan", scanned_music, "--no-tags", env=wav)
    exported = scanned.json("export", "--m3u", tmp_path / "lists", env=wav)
    assert exported["problems"] == []
    assert len(entries(tmp_path / "lists" / "wav.m3u8")) == 1


def test_what_changes_without_a_scan_is_followed_and_writes_no_tag(scanned, scanned_music, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(status, "ask_for_scan", lambda db: bool(asked.append(db)))
    file, wav = tmp_path / "dub.m3u8", scanned_music / "album" / "wav.wav"
    before = wav.read_bytes()
    monkeypatch.setenv("INDEXER_PLAYLISTS", f"{{dub = {{file = '{file}', genre = 'dub'}}}}")
    monkeypatch.setenv("INDEXER_WRITE_TAGS", "off")
    scanned("correct", wav, "dub", "--new")
    for command in (("relabel",), ("tags", "undo", wav)):
        assert entries(file) == [str(wav)]
        file.unlink()
        scanned(*command)
    assert entries(file) == [str(wav)]
    scanned("forget", wav, "--yes")
    assert entries(file) == []
    assert (wav.read_bytes(), asked) == (before, [])
    page = Pages(scanned.db, write_tags="off", playlists={"dub": {"file": str(file), "genre": "dub"}})
    mp3 = one(scanned.db, "SELECT id FROM files WHERE path_text LIKE '%mp3.mp3'")
    assert page.post("/-/correct", {"id": mp3, "genre": "house"}).json()["tags"] == "off"
    assert asked == [scanned.db]  # the server writes no file


def test_the_daemon_keeps_lists_true(quick_cli, scanned_music, tmp_path):
    file = tmp_path / "all.m3u8"
    sql = "SELECT id FROM tracks ORDER BY path"
    environ = {"playlists": f"{{all = {{file = '{file}', sql = '{sql}', relative = true}}}}"}
    with Watching(quick_cli, scanned_music, write_tags="off", **environ) as watch:
        watch.until(lambda: file.exists() and len(entries(file)) == 6, "the list is written")
        write_audio(scanned_music / "new", "wav", 1.0, seed=20)
        watch.until(lambda: "music/new.wav" in entries(file), "the new track is listed")
        (scanned_music / "new.wav").unlink()
        watch.until(lambda: len(entries(file)) == 6, "the deleted track is gone from it")
