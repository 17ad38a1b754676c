"""The map's points as a browser gets them."""

import gzip
import json
import shutil
import sqlite3
from contextlib import closing

import numpy as np
import pytest

from indexer.web.library_map import NO_GENRE, UNDECIDED, packed
from tests.helpers.pages import Pages, one


def unpacked(content):
    """What the page's script reads."""
    header, _, rest = content.partition(b"\n")
    about = json.loads(header)
    n = about["points"]
    assert (len(header) + 1) % 4 == 0
    ids = np.cumsum(np.frombuffer(rest, "<u4", n))
    xs, ys = np.frombuffer(rest, "<u2", 2 * n, 4 * n).reshape(2, n)
    genres = np.frombuffer(rest, np.uint8, n, 8 * n)
    assert len(rest) == 9 * n
    return about["labels"], ids.tolist(), xs, ys, genres.tolist()


def test_points_are_packed_in_one_square_with_one_scale():
    found = [
        (3, -1.0, 0.0, "house", 1),
        (70_000, 1.0, 0.5, "techno", 0),
        (70_001, 0.0, 0.25, None, None),
        (70_002, 0.0, 0.0, "of an older head", 1),
    ]
    labels, ids, xs, ys, genres = unpacked(packed(["house", "techno"], found))
    assert (labels, ids) == (["house", "techno"], [3, 70_000, 70_001, 70_002])
    assert (xs[0], xs[1]) == (0, 65_535)
    assert int(ys[1]) - int(ys[0]) == pytest.approx(65_535 / 4, abs=1)  # a quarter of the width
    assert genres == [0, 1 + UNDECIDED, NO_GENRE, NO_GENRE]


def test_a_hundred_thousand_points_are_small():
    rng = np.random.default_rng(0)
    places = rng.standard_normal((100_000, 2))
    found = [(n, x, y, "house", 1) for n, (x, y) in enumerate(places.tolist(), 1)]
    assert len(gzip.compress(packed(["house"], found), 6)) < 3_000_000


def test_nothing_and_one_point_are_maps_too():
    assert unpacked(packed([], []))[1] == []
    assert unpacked(packed([], [(1, 0.5, 0.5, None, None)]))[1] == [1]


@pytest.fixture
def cli(quick_cli):
    """No torch is needed to look at pages."""
    return quick_cli


def test_every_recording_is_a_point_unless_it_is_missing(pages, cli, music_folder):
    shutil.copy(music_folder / "mp3.mp3", music_folder / "copy.mp3")
    cli("scan", music_folder, "--no-tags")
    assert one(cli.db, "SELECT count(*) FROM files") == 7
    labels, ids, _, _, genres = unpacked(pages.get("/-/map.bin").content)
    assert labels == ["ambient", "drum and bass", "house", "techno", "trance"]
    assert len(ids) == one(cli.db, "SELECT count(*) FROM recordings") == 6
    assert all(genre < len(labels) for genre in genres)
    (music_folder / "flac.flac").unlink()
    cli("scan", music_folder, "--no-tags")
    assert len(unpacked(pages.get("/-/map.bin").content)[1]) == 5


def test_a_point_has_the_genre_of_the_word_that_counts(pages, cli):
    with closing(sqlite3.connect(cli.db)) as conn:
        conn.execute("UPDATE predictions SET genre = 'house', decided = 0")
        conn.execute("UPDATE tags SET genre = 'techno' WHERE file_id = 2")
        conn.execute("UPDATE tags SET genre = 'Polka' WHERE file_id = 3")
        conn.commit()
    pages.post("/-/correct", {"id": 1, "genre": "trance"})
    labels, ids, _, _, genres = unpacked(pages.get("/-/map.bin").content)
    found = dict(zip(ids, genres, strict=True))
    assert [found[n] for n in (1, 2, 3)] == [labels.index("trance"), labels.index("techno"), NO_GENRE]
    assert found[4] == labels.index("house") + UNDECIDED
    assert pages.json("/-/map/track/1.json")["label"] == "trance"


def test_the_small_map_holds_some_of_the_points(pages, monkeypatch):
    whole = unpacked(pages.get("/-/map.bin").content)[1]
    assert unpacked(pages.get("/-/map.bin?few=1").content)[1] == whole  # few already
    monkeypatch.setattr("indexer.web.library_map.FEW", 3)
    some = unpacked(pages.get("/-/map.bin?few=1").content)[1]
    assert len(some) == 3
    assert {*some} < {*whole}


def test_the_points_are_compressed_and_not_sent_twice(pages):
    first = pages.get("/-/map.bin", headers={"accept-encoding": "gzip"})
    assert first.headers["content-encoding"] == "gzip"
    plain = pages.get("/-/map.bin", headers={"accept-encoding": "identity"})
    assert "content-encoding" not in plain.headers
    assert plain.content == first.content  # httpx unpacked it
    again = pages.get("/-/map.bin", headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_a_point_is_told_in_a_few_words(pages, cli):
    found = pages.json(f"/-/map/track/{one(cli.db, 'SELECT min(id) FROM files')}.json")
    assert set(found) == {"id", "name", "title", "artist", "genre", "confidence", "playable", "label"}
    assert pages.get("/-/map/track/999.json").status_code == 404


def test_without_places_the_page_says_how_to_get_them(cli, music_folder):
    cli("scan", music_folder / "mp3.mp3", "--no-tags")
    with closing(sqlite3.connect(cli.db)) as conn:
        conn.execute("DELETE FROM projections")
        conn.commit()
    page = Pages(cli.db).get("/-/map").text
    assert "There is no map yet" in page
    assert "<canvas" not in page


def test_the_points_follow_the_library(pages, cli):
    first = pages.get("/-/map.bin")
    with closing(sqlite3.connect(cli.db)) as conn:
        conn.execute("UPDATE predictions SET genre = 'house', decided = 0")
        conn.commit()
    again = pages.get("/-/map.bin", headers={"if-none-match": first.headers["etag"]})
    assert again.status_code == 200
    labels, _, _, _, genres = unpacked(again.content)
    assert set(genres) == {labels.index("house") + UNDECIDED}


def test_labels_beyond_the_compact_forms_range_have_no_colour():
    labels = [f"style {n}" for n in range(200)]
    genres = unpacked(
        packed(labels, [(1, 0.0, 0.0, labels[126], 0), (2, 0.0, 0.0, labels[127], 1), (3, 0.0, 0.0, labels[199], 0)])
    )[4]
    assert genres == [126 + UNDECIDED, NO_GENRE, NO_GENRE]
