"""Playlists: every filtered table, query, similar list or set of tracks as M3U8, with the files' exact paths."""

import os
import sqlite3
import time
from contextlib import closing
from urllib.parse import unquote
from xml.etree import ElementTree as ET

import pytest

from indexer.web import playlist, serve
from tests.helpers.pages import Pages, id_of, one
from tests.helpers.synth import write_audio


@pytest.fixture
def cli(quick_cli):
    """No torch is needed to look at pages."""
    return quick_cli


def paths(answer):
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("audio/x-mpegurl")
    lines = answer.content.split(b"\n")
    assert lines[0] == b"#EXTM3U"
    return [line for line in lines if line and not line.startswith(b"#")]


def test_chosen_tracks_in_their_order(pages, cli, music_folder):
    first, second = id_of(cli, "wav.wav"), id_of(cli, "mp3.mp3")
    answer = pages.get(f"/-/playlist.m3u8?ids={first},{second},{first},99999")
    assert paths(answer) == [os.fsencode(music_folder / "album" / "wav.wav"), os.fsencode(music_folder / "mp3.mp3")]
    assert answer.headers["content-disposition"] == 'attachment; filename="tracks.m3u8"'
    posted = pages.ask("POST", "/-/playlist.m3u8", data={"ids": f"{first},{second}"})
    assert posted.content == answer.content


@pytest.mark.parametrize("query", ["", "ids=", "ids=1,x", "ids=-1", "ids=" + ",".join(["1"] * 10_001), "similar=x"])
def test_nonsense_is_refused(pages, query):
    assert pages.get(f"/-/playlist.m3u8?{query}").status_code == 400


def test_a_filtered_table_is_a_playlist_with_all_its_pages(pages, cli, music_folder):
    assert len(paths(pages.get("/library/tracks.m3u8?_size=2"))) == 6
    assert paths(pages.get("/library/tracks.m3u8?container=flac&_size=2")) == [os.fsencode(music_folder / "flac.flac")]
    page = pages.get("/library/tracks?container=flac").text
    assert "/library/tracks.m3u8?container=flac" in page
    assert ".m3u8" not in pages.get("/library/tags").text  # no list of tracks


def test_a_query_is_a_playlist(pages, cli):
    genre, count = one(cli.db, "SELECT genre, count(*) FROM predictions GROUP BY genre ORDER BY 2 DESC")
    assert len(paths(pages.get(f"/library/by_genre.m3u8?genre={genre}&min_confidence=0"))) == count


def test_a_protected_table_is_a_playlist_for_those_who_know_the_password(pages, cli):
    closed = Pages(cli.db, password="secret")
    assert closed.get("/library/tracks.m3u8").status_code == 401
    assert len(paths(closed.get("/library/tracks.m3u8", headers={"authorization": "Bearer secret"}))) == 6


def test_what_sounds_alike_is_a_playlist(pages, cli, music_folder):
    track = id_of(cli, "mp3.mp3")
    end = time.monotonic() + 20
    while (answer := pages.get(f"/-/playlist.m3u8?similar={track}")).status_code == 503:
        assert "retry-after" in answer.headers
        assert time.monotonic() < end
        time.sleep(0.1)
    assert set(paths(answer)) == {os.fsencode(p) for p in music_folder.rglob("*.*") if p.name != "mp3.mp3"}
    assert pages.get("/-/playlist.m3u8?similar=99999").status_code == 404


def test_paths_are_exact_and_missing_files_left_out(cli, tmp_path):
    folder = tmp_path / "odd"
    folder.mkdir()
    made = write_audio(folder / "x", "wav", 1.0)
    odd = os.fsencode(folder) + b"/caf\xe9 \xf0\x9f\x8e\xb5.wav"
    os.rename(made, odd)
    broken = os.fsencode(folder) + b"/line\nbreak.wav"
    os.rename(write_audio(folder / "y", "wav", 1.0, seed=2), broken)
    write_audio(folder / "gone", "wav", 1.0, seed=3)
    cli("scan", folder, "--no-tags")
    with closing(sqlite3.connect(cli.db)) as conn:
        conn.execute("UPDATE files SET state = 'missing' WHERE path_text LIKE '%gone%'")
        conn.commit()
    answer = Pages(cli.db).get("/-/playlist.m3u8?ids=1,2,3")
    assert paths(answer) == [odd]
    assert b"left out, its path has a line break" in answer.content


def test_only_files_are_tracks_whatever_else_has_an_id_and_a_path(pages, cli):
    assert "roots.m3u8" not in pages.get("/library/roots").text
    assert pages.get("/library/roots.m3u8").status_code == 400
    assert pages.get("/library/tag_writes.m3u8").status_code == 400
    for sql in (
        "select id, path from roots",
        "select id, 'elsewhere' as path from files",
        "select 'x' as id, path from tracks",
    ):
        assert paths(pages.get("/library.m3u8", params={"sql": sql})) == []
    assert len(paths(pages.get("/library.m3u8", params={"sql": "select id, path from files"}))) == 6
    assert (
        len(paths(pages.get("/library.m3u8", params={"sql": "select id, path from tracks where id < :n;", "n": 4})))
        == 3
    )


def test_a_query_longer_than_a_page_is_a_playlist_whole(pages, cli, monkeypatch):
    monkeypatch.setitem(serve.DATASETTE_SETTINGS, "max_returned_rows", 2)
    monkeypatch.setitem(serve.DATASETTE_SETTINGS, "default_page_size", 2)
    assert (
        len(
            paths(
                pages.get("/library.m3u8", params={"sql": "select id, path from tracks where id > :n -- all", "n": 1})
            )
        )
        == 5
    )
    assert len(paths(pages.get("/library/files.m3u8"))) == 6
    monkeypatch.setattr(playlist, "MAX_TRACKS", 3)
    for answer in (
        pages.get("/library.m3u8", params={"sql": "select id, path from tracks"}),
        pages.get("/library/files.m3u8"),
    ):
        assert len(paths(answer)) == 3
        assert answer.content.endswith(b"\n# only the first 3 tracks; there are more\n")


def locations(answer):
    """The paths of the tracks of an XML playlist, in its order."""
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("application/xml")
    document = ET.fromstring(answer.content)
    by_id = {track.get("TrackID"): track.get("Location") for track in document.find("COLLECTION")}
    (listed,) = document.findall(".//NODE[@Type='1']")
    assert int(document.find("COLLECTION").get("Entries")) == len(by_id) == int(listed.get("Entries"))
    return [unquote(by_id[one.get("Key")]).removeprefix("file://localhost") for one in listed]


def test_whatever_is_a_playlist_is_one_for_rekordbox_too(pages, cli, music_folder):
    wav, mp3 = music_folder / "album" / "wav.wav", music_folder / "mp3.mp3"
    ids = f"ids={id_of(cli, 'wav.wav')},{id_of(cli, 'mp3.mp3')},99999"
    assert locations(pages.get(f"/-/playlist.xml?{ids}")) == [str(wav), str(mp3)]
    assert len(locations(pages.get("/library/tracks.xml?_size=2"))) == 6
    assert locations(pages.get("/library/tracks.xml?container=flac")) == [str(music_folder / "flac.flac")]
    assert locations(pages.get("/-/tracks.xml?format=wav")) == [str(wav)]
    assert locations(pages.get("/library.xml", params={"sql": "select id, path from tracks where id = 1"}))
    mapped = Pages(cli.db, dj_map={str(music_folder): "D:/Music"})
    assert locations(mapped.get("/-/tracks.xml?format=wav")) == ["/D:/Music/album/wav.wav"]
    assert mapped.get("/-/tracks.m3u8?format=wav").text.endswith("\nD:/Music/album/wav.wav\n")
    genre = one(cli.db, "SELECT max(genre) FROM predictions")
    for page, link in (
        ("/-/tracks?format=wav", "/-/tracks.xml?format=wav"),
        ("/library/tracks?container=flac", "/library/tracks.xml?container=flac"),
        (f"/library/by_genre?genre={genre}", "/library/by_genre.xml?genre="),
        (f"/library/tracks/{id_of(cli, 'wav.wav')}", "/-/playlist.xml?similar="),
        ("/-/map", 'formaction="/-/playlist.xml"'),
    ):
        assert link in pages.get(page).text, page
