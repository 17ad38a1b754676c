"""The canned questions as pages: forms with choices, linked tracks, playlists, and no SQL in sight."""

import re
import shutil
import sqlite3
from contextlib import closing

import pytest

from indexer.web import canned, serve
from tests.helpers.pages import Pages


@pytest.fixture
def cli(quick_cli):
    """No torch is needed to look at pages."""
    return quick_cli


def change(cli, sql, *values):
    with closing(sqlite3.connect(cli.db)) as conn:
        conn.execute(sql, values)
        conn.commit()


def tracks_in(page):
    return [int(n) for n in re.findall(r'<td class="ix-what"><a href="/library/tracks/(\d+)"', page)]


@pytest.mark.parametrize("name", canned.QUESTIONS)
def test_every_question_is_a_page_without_sql(pages, name):
    answer = pages.get(f"/library/{name}")
    assert answer.status_code == 200
    assert canned.QUESTIONS[name]["title"] in answer.text
    assert "unsafe-inline" not in answer.headers["content-security-policy"]
    assert "SELECT" not in re.sub(r'href="[^"]*"', "", answer.text)
    assert pages.get(f"/other/{name}").status_code == 404


def test_the_commonest_genre_is_asked_for_until_another_is_chosen(pages, cli):
    change(cli, "UPDATE tags SET genre = 'Techno' WHERE file_id <= 4")
    change(cli, "UPDATE tags SET genre = ? WHERE file_id = 5", "Deep 'Space' & <Music>")
    change(cli, "INSERT OR REPLACE INTO genre_labels VALUES ('Techno', 'techno')")
    page = pages.get("/library/by_genre").text
    assert re.search(r'<option value="techno" selected>techno \(\d\)</option>', page)
    assert {*tracks_in(page)} >= {1, 2, 3, 4}
    own = re.search(r'<option value="(Deep [^"]*)">', page)[1]
    assert "<Music>" not in own
    page = pages.get("/library/by_genre", params={"genre": "Deep 'Space' & <Music>"}).text
    assert tracks_in(page) == [5]
    link = re.search(r'href="(/library/by_genre\.m3u8[^"]*)"', page)[1].replace("&amp;", "&")
    assert len([line for line in pages.get(link).content.splitlines() if not line.startswith(b"#")]) == 1
    assert pages.get("/library/by_genre?genre=polka").text.count("Nothing answers this") == 1


def test_the_model_must_be_as_sure_as_asked(pages, cli):
    change(cli, "UPDATE predictions SET genre = 'house', decided = 1, confidence = 0.6")
    change(cli, "UPDATE predictions SET confidence = 0.95 WHERE recording_id = (SELECT min(recording_id) FROM files)")
    assert len(tracks_in(pages.get("/library/by_genre?genre=house").text)) == 6
    page = pages.get("/library/by_genre?genre=house&min_confidence=0.9").text
    assert len(tracks_in(page)) == 1
    assert "95 %" in page


def test_a_long_answer_is_shown_in_part_and_given_whole(pages, cli, monkeypatch):
    monkeypatch.setattr(canned, "SHOWN_ROWS", 2)
    change(cli, "UPDATE tags SET bpm = 120")
    page = pages.get("/library/tempo").text
    assert "6 tracks, of which 2 are shown" in page
    assert len(tracks_in(page)) == 2
    assert len(pages.get("/library/tempo.json?_shape=array&genre=&from_bpm=60&to_bpm=200").json()) == 6


def test_a_tempo_has_a_span_from_the_start(pages, cli):
    change(cli, "UPDATE tags SET bpm = 100 + file_id")
    page = pages.get("/library/tempo").text
    assert 'name="from_bpm" value="60"' in page
    assert tracks_in(page) == sorted(tracks_in(page))
    assert len(tracks_in(page)) == 6
    assert tracks_in(pages.get("/library/tempo?from_bpm=102&to_bpm=103&genre=").text) == [2, 3]
    assert pages.get("/library/tempo?from_bpm=nonsense&to_bpm=").status_code == 200


def test_what_was_written_and_what_failed_read_as_sentences(pages, cli, music_folder):
    (music_folder / "broken.mp3").write_bytes(b"no music at all" * 100)
    shutil.copy(music_folder / "mp3.mp3", music_folder / "copy.mp3")
    cli("scan", music_folder, code=1)
    assert len(tracks_in(pages.get("/library/last_run").text)) == 7
    assert '["' not in pages.get("/library/last_run").text  # genres, not JSON
    assert "not audio" in pages.get("/library/failures").text
    assert len(tracks_in(pages.get("/library/duplicates").text)) == 2


def test_sql_is_offered_where_it_may_be_asked(pages, cli):
    change(cli, "UPDATE tags SET bpm = 120")
    assert ">as SQL</a>" in pages.get("/library/tempo").text
    assert ">as SQL</a>" not in Pages(cli.db, allow_sql="never").get("/library/tempo").text


def test_a_question_that_takes_too_long_says_so(pages, monkeypatch):
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) AS files FROM n"
    monkeypatch.setitem(canned.QUESTIONS["failures"], "sql", endless)
    monkeypatch.setitem(serve.DATASETTE_SETTINGS, "sql_time_limit_ms", 50)
    answer = pages.get("/library/failures")
    assert answer.status_code == 503
    assert "longer than" in answer.text


def measured(cli, found, tempo_bpm, confidence):
    """Give every recording the same measurements."""
    change(cli, "DELETE FROM analysis")
    change(
        cli,
        "INSERT INTO analysis (recording_id, version, measured, tempo_bpm, tempo_confidence)"
        " SELECT id, 1, ?, ?, ? FROM recordings",
        *(found, tempo_bpm, confidence),
    )
    change(cli, "UPDATE predictions SET tempo_bpm = NULL, tempo_confidence = NULL")


def test_a_tempo_that_disagrees_is_another_and_no_octave_of_it(pages, cli):
    measured(cli, '{"version": 1}', 128, 0.9)
    for file_id, tag_bpm in enumerate((128, 64, 256.2, 96, 140, None), 1):
        change(cli, "UPDATE tags SET bpm = ? WHERE file_id = ?", tag_bpm, file_id)
    page = pages.get("/library/tempo_disagrees").text
    assert sorted(tracks_in(page)) == [4, 5]
    said = ["the same", "the same beat counted at another speed", "the same beat counted at another speed"]
    for file_id, words in enumerate([*said, "another tempo", "another tempo"], 1):
        assert f", {words}<" in pages.get(f"/library/tracks/{file_id}").text
    assert "the tag says" not in pages.get("/library/tracks/6").text
    change(cli, "UPDATE analysis SET tempo_confidence = 0.4")
    assert tracks_in(pages.get("/library/tempo_disagrees").text) == []


def test_a_changing_tempo_is_a_range_on_the_tracks_page(pages, cli):
    found = '{"tempo": {"candidates": [], "confidence": 0.9, "range_bpm": [124.2, 131.9]}, "key": null}'
    measured(cli, found, None, None)
    assert "it changes from 124 to 132 BPM" in pages.get("/library/tracks/1").text
