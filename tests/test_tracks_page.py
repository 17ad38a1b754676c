"""The Tracks page: what a search and filters leave, in which order, what a row says, and what it must never do."""

import re
import sqlite3
import time
from contextlib import closing
from datetime import date, datetime
from urllib.parse import urlencode

import pytest

from indexer.config import Settings
from indexer.files.audio.identity import Stat
from indexer.library import browse
from indexer.library.browse import Wanted
from indexer.library.store import Store
from indexer.scan.genre_labels import update_genre_labels
from indexer.web import catalogue, filters, tracks
from tests.helpers.pages import Pages

# (path, tags, the model's guess with its confidence, said by a person); the head decides from 0.7.
TRACKS = (
    ("trance/one.mp3", {"title": "One", "artist": "Émile", "bpm": 138.2, "musical_key": "Am", "year": 1999,
                        "genre": "Progressive Trance"}, ("trance", 0.9), None),
    ("trance/two.flac", {"title": "two", "artist": "Beta", "bpm": 140.0, "musical_key": "C", "year": 2003},
     ("house", 0.95), "trance"),
    ("house/deep/three.flac", {"title": "Three", "artist": "alpha", "album": "100% Deep_ness", "bpm": 0.0},
     ("house", 0.8), None),
    ("house/four.mp3", {"title": "", "artist": None, "bpm": float("inf")}, ("house", 0.4), None),
    ("house/five.mp3", {"title": None}, None, None),
)  # fmt: skip


def fill(db, *, labels=("house", "trance")):
    with Store(db) as store:
        store.put_encoder("e", name="e", width=2, unit_s=6.0)
        store.put_head("h", name="h", kind="linear", encoder_id="e", labels=labels, threshold=0.7, source="s")
        store.use_head("h")
        root = store.add_root(b"/m")
        for n, (path, tags, guess, said) in enumerate(TRACKS):
            recording = store.recording(str(n), codec="x", sample_rate_hz=1, channels=2, duration_s=60.0 * (n + 1))
            file_id = store.put_file(
                b"/m/" + path.encode(),
                Stat(1, n, 3, 4),
                root_id=root,
                state="ready",
                container=path.rpartition(".")[2],
                recording_id=recording,
            )
            store.put_tags(file_id, tags)
            if guess:
                genre, p = guess
                with store.transaction():
                    store.put_prediction(recording, "h", {genre: p, "other": (1 - p) / 2}, 0.7, decided=p >= 0.7)
            if said:
                store.correct(recording, said)
        store.put_file(b"/m/broken.mp3", Stat(1, 90, 3, 4), root_id=root, state="unreadable", reason="cut short")
        store.put_file(b"/m/gone.mp3", Stat(1, 91, 3, 4), root_id=root, state="missing", reason="moved or deleted")
        update_genre_labels(store, Settings(aliases={"Progressive Trance": "trance"}))
    return db


@pytest.fixture(scope="module")
def db(tmp_path_factory):
    return fill(tmp_path_factory.mktemp("tracks") / "library.db")


@pytest.fixture(scope="module")
def pages(db):
    return Pages(db)


def found(db, **wanted):
    """(numbers of the tracks in their order, what was found)."""
    with closing(sqlite3.connect(db)) as conn:
        conn.row_factory = sqlite3.Row
        answer = browse.read(conn).find(conn, Wanted(**wanted))
    return answer.ids.tolist(), answer


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({}, {1, 2, 3, 4, 5, 6}),  # without the missing one
        ({"genres": ("trance",)}, {1, 2}),  # by the tag, as the label that it means, and by a person
        ({"genres": ("house",)}, {3}),  # neither what a person said otherwise, nor a guess
        ({"undecided": True}, {4}),
        ({"genres": ("house",), "undecided": True}, {3, 4}),
        ({"words": ("you", "model")}, {2, 3}),
        ({"formats": ("flac",)}, {2, 3}),
        ({"formats": ("flac",), "genres": ("trance",)}, {2}),
        ({"keys": ("Am", "C")}, {1, 2}),
        ({"keys": ("8A",)}, {1}),
        ({"years": (1999,)}, {1}),
        ({"tempo_bpm": (138, 138)}, {1}),  # rounded, as it is shown
        ({"tempo_bpm": (None, 139)}, {1}),
        ({"tempo_bpm": (139, None)}, {2}),
        ({"folder": "/m/house"}, {3, 4, 5}),
        ({"folder": "/m/hou"}, set()),
        ({"states": ("missing", "unreadable")}, {6, 7}),
        ({"search": "EMILE"}, {1}),
        ({"search": "trance"}, {1, 2}),  # in a path, in a tag, as what was said
        ({"search": "bet tw"}, {2}),  # each word begins one
        ({"search": "house deep"}, {3}),
        ({"search": "100%"}, {3}),
        ({"search": "p_n"}, set()),
        ({"search": "deep_ness"}, {3}),
        ({"search": '" OR *'}, set()),
        ({"search": "AND"}, set()),
        ({"search": "bet\0tw\0"}, {2}),
        ({"search": "nothing like it"}, set()),
    ],
)
def test_which_tracks_are_left(db, wanted, expected):
    assert set(found(db, **wanted)[0]) == expected


@pytest.mark.parametrize(
    ("sort", "expected"),
    [
        ("added", [1, 2, 3, 4, 5, 6]),
        ("title", [6, 5, 4, 1, 3, 2]),  # broken.mp3, five.mp3, four.mp3 stand for titles
        ("artist", [3, 2, 1, 6, 5, 4]),
        ("genre", [3, 2, 1, 4, 6, 5]),  # what is guessed comes behind
        ("confidence", [4, 3, 1, 2, 6, 5]),
        ("length", [1, 2, 3, 4, 5, 6]),
        ("tempo", [1, 2, 6, 5, 4, 3]),
        ("key", [1, 2, 6, 5, 4, 3]),
        ("year", [1, 2, 6, 5, 4, 3]),
        ("format", [3, 2, 5, 4, 1, 6]),
    ],
)
def test_what_is_not_known_comes_last_in_every_order(db, sort, expected):
    assert found(db, sort=sort, descending=False)[0] == expected
    down = found(db, sort=sort, descending=True)[0]
    unknown = {"artist": 3, "genre": 2, "confidence": 2, "length": 1, "tempo": 4, "key": 4, "year": 4, "format": 1}
    rest = unknown.get(sort, 0)
    assert down[6 - rest :] == expected[6 - rest :]
    if sort not in ("genre", "format"):  # among equals the newest is first either way
        assert down[: 6 - rest] == expected[: 6 - rest][::-1]


@pytest.fixture(scope="module")
def with_sets(tmp_path_factory):
    """The library with two sets: of most tracks a person or a head says something in one, nobody in the other."""
    db = fill(tmp_path_factory.mktemp("sets") / "library.db")
    with Store(db) as store, store.transaction():
        store.put_head("m", name="m", kind="linear", encoder_id="e", labels=["a", "b"], threshold=0.7, source="s")
        store.use_sets(["mood", "order"])
        store.use_set_head("mood", "m")
        for recording, label, decided in (
            (1, "dark", True),
            (2, HOSTILE_LABEL, True),
            (3, "dark", False),
            (4, "dark", True),
        ):
            store.put_prediction(recording, "m", {label: 0.8}, 0.7, decided=decided)
        store.correct_in_set(4, "mood", "=1+1")
    return db


HOSTILE_LABEL = "<script>alert('x')</script> \" & 'très' #50%"


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({"labels": (("mood", "dark"),)}, {1}),  # neither a guess, nor what a person said otherwise
        ({"labels": (("mood", "=1+1"), ("mood", HOSTILE_LABEL))}, {2, 4}),
        ({"undecided_in": ("mood",)}, {3}),
        ({"undecided_in": ("mood",), "labels": (("mood", "dark"),)}, {1, 3}),
        ({"labels": (("mood", "dark"),), "genres": ("house",)}, set()),
        ({"labels": (("mood", "dark"), ("order", "dark"))}, set()),  # both sets must hold
        ({"search": "1+1"}, {4}),
    ],
)
def test_which_tracks_a_set_leaves(with_sets, wanted, expected):
    assert set(found(with_sets, **wanted)[0]) == expected


def test_a_set_is_counted_and_sorted_as_the_genre_is(with_sets):
    counted = found(with_sets, labels=(("mood", "dark"),))[1]
    assert counted.counts["set.mood"] == {"dark": 1, HOSTILE_LABEL: 1, "=1+1": 1}
    assert counted.counts["set.order"] == {}
    assert counted.counts["genre"] == {"trance": 1}
    assert counted.undecided_in == {"mood": 1, "order": 0}
    assert found(with_sets, sort="set.mood", descending=False)[0] == [2, 4, 1, 3, 6, 5]
    assert found(with_sets, sort="set.mood", descending=True)[0][-2:] == [6, 5]


def test_the_page_filters_by_a_set_in_its_address_and_its_exports(with_sets):
    pages = Pages(with_sets)
    shown = pages.get("/-/tracks?" + urlencode({"set.mood": HOSTILE_LABEL, "sort": "-set.mood"})).text
    assert "<script>alert" not in shown
    assert "&lt;script&gt;alert" in shown
    assert "sort by mood ↓" in shown
    assert "set.mood=dark&amp;" in shown.replace("set.mood%3Ddark", "set.mood=dark")  # one more label, in a link
    assert "set.order" not in shown  # no label in it yet
    query = urlencode({"set.mood": "dark", "undecided": "mood", "sort": "set.mood"})
    answer = pages.json(f"/-/tracks.json?{query}")
    assert [track["id"] for track in answer["tracks"]] == [1, 3]
    assert answer["tracks"][1]["sets"] == {"mood": {"label": "dark", "decided": False, "said": False}}
    assert answer["undecided_in"] == {"mood": 1, "order": 0}
    listed = [line for line in pages.get(f"/-/tracks.m3u8?{query}").text.splitlines() if not line.startswith("#")]
    assert listed == ["/m/trance/one.mp3", "/m/house/deep/three.flac"]
    assert 'Entries="2"' in pages.get(f"/-/tracks.xml?{query}").text
    nothing = pages.json("/-/tracks.json?set.gone=dark&sort=set.gone&undecided=gone&set.mood.x=1")
    assert nothing["count"] == 6  # what names no set is passed over
    assert pages.json("/-/tracks.json?set.mood=%00")["count"] == 0
    table = pages.get("/library/tracks.csv?mood=%3D1%2B1&mood_decided=1").text
    assert "'=1+1" in table  # no formula for a spreadsheet


def test_counts_say_what_one_more_filter_would_leave(db):
    counts = found(db, formats=("flac",))[1].counts
    assert counts["format"] == {"mp3": 3, "flac": 2}  # without the filter of their own kind
    assert counts["genre"] == {"trance": 1, "house": 1}
    counts = found(db)[1].counts
    assert counts["tempo"] == {130: 1, 140: 1}
    assert counts["year"] == {1999: 1, 2003: 1}
    assert counts["folder"] == {"/m/trance": 2, "/m/house": 3}
    assert counts["state"] == {"ready": 5, "unreadable": 1, "missing": 1}
    assert found(db, folder="/m/house")[1].counts["folder"] == {"/m/house/deep": 1}
    assert found(db)[1].undecided == 1
    assert found(db, genres=("trance",))[1].undecided == 1
    assert found(db, undecided=True)[1].duration_s == 240


def test_a_row_says_whose_word_the_genre_is(pages):
    rows = {track["id"]: track for track in pages.json("/-/tracks.json")["tracks"]}
    said = {n: (row["genre"], row["word"], row["label"]) for n, row in rows.items()}
    assert said == {
        1: ("Progressive Trance", "tag", "trance"),  # as it is written, in the colour of what it means
        2: ("trance", "you", "trance"),
        3: ("house", "model", "house"),
        4: ("house", "guess", None),
        5: ("", None, None),
        6: ("", None, None),
    }
    assert (rows[2]["guess"], rows[2]["percent"]) == ("house", 95)
    assert (rows[1]["bpm"], rows[1]["length"], rows[1]["key"]) == (138, "1:00", "Am")
    assert (rows[3]["bpm"], rows[4]["bpm"], rows[4]["title"]) == (None, None, "four.mp3")
    assert (rows[6]["state"], rows[6]["reason"], rows[6]["is_playable"]) == ("unreadable", "cut short", False)


def test_when_a_track_was_added_is_said_as_a_day(monkeypatch):
    def said(text):
        return tracks._day(datetime.fromisoformat(text).astimezone(), date(2026, 3, 1))

    monkeypatch.setenv("TZ", "Pacific/Auckland")
    time.tzset()
    try:
        assert said("2026-02-28T21:44:00Z") == "today 10:44"
        assert said("2026-02-28T10:59:00Z") == "yesterday"
        assert said("2026-01-02T12:00:00Z") == "3 Jan"
        assert said("2025-12-31T00:00:00Z") == "Dec 2025"
    finally:
        monkeypatch.delenv("TZ")
        time.tzset()


def test_every_filter_of_the_page_leads_to_as_many_tracks_as_it_says(pages):
    page = pages.get("/-/tracks?sort=-title").text
    chips = re.findall(
        r'<a class="ix-filter[^"]*" href="([^"]+)"[^>]*><bdi>([^<]*)</bdi> <span class="ix-many">(\d+)</span>', page
    )
    assert len(chips) > 15
    for href, text, count in chips:
        there = pages.get("/-/tracks" + href.replace("&amp;", "&")).text
        assert f"<b>{count}</b> track" in there, text
        assert "sort=-title" in href
        assert 'aria-current="true"' in there


def test_a_wish_is_the_same_after_its_way_through_an_address(pages):
    from datasette.utils.asgi import Request

    wanted = Wanted(
        search="a&b=c #?",
        genres=("drum & bass", "ü"),
        undecided=True,
        words=("you",),
        formats=("mp3",),
        keys=("F#m",),
        years=(1999, 2000),
        tempo_bpm=(None, 128),
        folder="/m/a b",
        states=("missing",),
        sort="title",
        descending=False,
    )
    asked = urlencode(filters.query_of(wanted))
    assert filters.wanted_of(Request.fake(f"/?{asked}").args) == wanted
    assert filters.query_of(filters.wanted_of(Request.fake("/").args)) == []


@pytest.mark.parametrize(
    "query",
    ["sort=nonsense", "page=x", "page=999999999999999999999", "page=0", "year=x", "from_bpm=-3", "to_bpm=1e3",
     "genre=" + "&genre=".join("abc"), "folder=/etc", "state=nonsense", "q=" + "x" * 5000, "q=%00", "q=%F0%9F%98%80",
     "undecided=2", "year=" + "9" * 400],
)  # fmt: skip
def test_nonsense_in_an_address_is_passed_over(pages, query):
    assert pages.get(f"/-/tracks?{query}").status_code == 200


def test_pages_of_a_hundred_and_the_whole_as_a_playlist(tmp_path, monkeypatch):
    db = fill(tmp_path / "library.db")
    monkeypatch.setattr(tracks, "PAGE_TRACKS", 2)
    pages = Pages(db)
    first, last = pages.json("/-/tracks.json?sort=added"), pages.json("/-/tracks.json?sort=added&page=99")
    assert (first["count"], first["pages"], [row["id"] for row in first["tracks"]]) == (6, 3, [1, 2])
    assert (last["page"], [row["id"] for row in last["tracks"]]) == (3, [5, 6])
    page = pages.get("/-/tracks?sort=added&page=2&genre=trance&genre=house").text
    assert 'rel="prev"' in page
    assert 'rel="next"' not in page
    lines = pages.get("/-/tracks.m3u8?genre=trance&sort=added").text.splitlines()
    assert [line for line in lines if not line.startswith("#")] == ["/m/trance/one.mp3", "/m/trance/two.flac"]


def test_what_changes_is_there_at_once_in_a_library_that_is_read_fast(tmp_path):
    pages = Pages(fill(tmp_path / "library.db"))
    assert pages.json("/-/tracks.json?undecided=1")["count"] == 1
    pages.post("/-/correct", {"ids": [4, 5], "genre": "house"})
    catalogue._kept[tmp_path / "library.db"].cost_s = 0.0  # however busy this machine is
    assert pages.json("/-/tracks.json?undecided=1")["count"] == 0
    assert pages.json("/-/tracks.json?genre=house&word=you")["count"] == 2


def test_a_library_that_takes_long_to_read_is_not_read_for_every_visit(tmp_path):
    db = fill(tmp_path / "library.db")
    pages = Pages(db)
    assert pages.json("/-/tracks.json?undecided=1")["count"] == 1
    catalogue._kept[db].cost_s = 1e6
    pages.post("/-/correct", {"ids": [4], "genre": "house"})
    found = pages.json("/-/tracks.json?undecided=1")
    assert (found["count"], found["tracks"][0]["word"]) == (1, "you")  # what a row says is read anew


def test_a_server_reads_the_library_before_anybody_asks(tmp_path, monkeypatch):
    catalogue.read_ahead(tmp_path / "none.db")  # says nothing
    db = fill(tmp_path / "library.db")
    catalogue.read_ahead(db)
    monkeypatch.setattr(catalogue.browse, "read", None)
    assert Pages(db).json("/-/tracks.json")["count"] == 6


def test_an_empty_library_says_how_to_begin(tmp_path):
    Store(tmp_path / "library.db").close()
    pages = Pages(tmp_path / "library.db")
    assert "indexer scan FOLDER" in pages.get("/-/tracks").text
    assert "Show everything" in pages.get("/-/tracks?q=x").text
    assert pages.json("/-/tracks.json") == {
        "count": 0, "duration_s": 0.0, "page": 1, "pages": 1, "undecided": 0, "lossy_suspects": 0, "tracks": [],
        "counts": {kind: {} for kind in ("genre", "word", "format", "key", "state", "year", "tempo", "folder")},
    }  # fmt: skip


@pytest.mark.parametrize("table", ["tags", "files", "predictions", "tags_fts_data"])
def test_a_damaged_library_is_one_line_that_says_what_to_do(tmp_path, table):
    db = fill(tmp_path / "library.db")
    with closing(sqlite3.connect(db)) as conn:
        conn.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        (page,) = conn.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (table,)).fetchone()
        (page_bytes,) = conn.execute("PRAGMA page_size").fetchone()
    with db.open("r+b") as file:
        file.seek((page - 1) * page_bytes)
        file.write(b"\xff" * page_bytes)
    for path in ("/-/tracks?q=one", "/-/tracks.json?q=one"):
        answer = Pages(db).get(path)
        assert answer.status_code == 503
        assert "`indexer doctor --rebuild`" in answer.text


HOSTILE = ("<script>alert(1)</script>", "\"><img src=x onerror='x'>", "\u202egnp.exe", "x" * 10_000)


def test_hostile_texts_are_texts(tmp_path):
    db = fill(tmp_path / "library.db", labels=(HOSTILE[0], "trance"))
    with closing(sqlite3.connect(db)) as conn:
        for n, text in enumerate(HOSTILE, 1):
            conn.execute(
                "UPDATE tags SET title = ?1, artist = ?1, album = ?1, musical_key = ?1, genre = ?1 WHERE file_id = ?2",
                (text, n),
            )
            conn.execute(
                "UPDATE files SET path_text = '/m/' || ?1 || '/' || ?1, container = ?1 WHERE id = ?2", (text, n)
            )
        conn.execute("UPDATE tags SET year = 9e15, bpm = 1e300")
        conn.execute("UPDATE files SET first_seen = 'whenever'")
        conn.commit()
    pages = Pages(db)
    for query in ("", "?q=script", "?folder=/m/<script>alert(1)<", f"?genre={HOSTILE[0]}&key={HOSTILE[0]}"):
        page = pages.get("/-/tracks" + query).text
        assert "<script>alert" not in page
        assert "<img src=x" not in page
        assert len(page) < 200_000
    answer = pages.get("/-/tracks")
    assert not re.search(r"<script(?![^>]*src=)", answer.text)
    assert "'unsafe-inline'" not in answer.headers["content-security-policy"]
