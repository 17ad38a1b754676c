"""Datasette on a scanned library: what is shown, what is refused."""

import asyncio
import html
import json
import os
import re
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import closing
from pathlib import Path

import pytest

from indexer.config import load_settings
from indexer.errors import StoreError
from indexer.files.audio.identity import Stat
from indexer.library.store import Store
from indexer.web.guard import host_of, is_loopback
from indexer.web.serve import make_datasette, metadata, serve
from tests.helpers.pages import Pages

HOSTILE = (
    "<script>alert(1)</script>",
    "\"onerror='x'",
    "'; drop table files; --",
    "javascript:alert(1)",
    "=cmd|' /C calc'!A0",
)


@pytest.fixture
def db(tmp_path):
    """A library of 40 tracks, some with hostile titles."""
    path = tmp_path / "my music.db"
    with Store(path) as store:
        store.put_encoder("e", name="e", width=2, unit_s=6.0)
        store.put_head(
            "h", name="h", kind="linear", encoder_id="e", labels=["house", "drum and bass"], threshold=0.5, source="s"
        )
        store.use_head("h")
        for n in range(40):
            recording = store.recording(f"{n:064x}", codec="mp3", sample_rate_hz=44100, channels=2, duration_s=200.0)
            file_id = store.put_file(
                b"/m/%d.mp3" % n, Stat(1, n, 1, 1), root_id=None, state="ready", container="mp3", recording_id=recording
            )
            store.put_tags(
                file_id,
                {
                    "title": HOSTILE[n] if n < len(HOSTILE) else f"Track number {n}",
                    "artist": "Somebody",
                    "genre": "Rock",
                },
            )
            store.put_embedding(recording, "e", b"\0\0\0\0", 1)
            with store.transaction():
                store.put_prediction(
                    recording, "h", {"house": 0.4 + n / 100, "drum and bass": 0.6 - n / 100}, 0.5, decided=n >= 10
                )
    return path


@pytest.fixture
def unused_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def get(db, path, *, host="127.0.0.1", headers=None, **settings):
    async def ask():
        datasette = make_datasette(load_settings(None, {"db": db, "host": host, **settings}, {}))
        await datasette.invoke_startup()
        return await datasette.client.get(path, headers={"host": "127.0.0.1:8001", **(headers or {})})

    return asyncio.run(ask())


def post(db, path, **kwargs):
    return Pages(db).ask("POST", path, **kwargs)


def rows(db, path):
    response = get(db, path)
    assert response.status_code == 200, response.text
    return response.json()


def test_the_view_is_shown_under_the_files_own_name_with_facets(db):
    page = get(db, "/my~20music/tracks").text
    assert "One row a file" in page
    for facet in ("genre", "decided", "container", "state"):
        assert f'data-column="{facet}"' in page or f">{facet}" in page
    found = rows(db, "/my~20music/tracks.json?_facet=genre&_size=5")
    assert {f["value"] for f in found["facet_results"]["genre"]["results"]} == {"house", "drum and bass"}


def test_search_finds_words_of_the_tags(db):
    found = rows(db, "/my~20music/tracks.json?_search=number+17&_shape=array")
    assert [r["title"] for r in found] == ["Track number 17"]


@pytest.mark.parametrize("name", list(metadata(Path("x.db"))["databases"]["x"]["queries"]))
def test_every_canned_query_runs(db, name):
    found = rows(db, f"/my~20music/{name}.json?_shape=array&genre=house&min_confidence=0.6")
    if name == "by_genre":
        assert found == []  # all are Rock by their tags, whatever the model hears


def test_embeddings_are_hidden_and_closed(db):
    assert get(db, "/my~20music/embeddings").status_code == 403
    assert "embeddings" not in [t["name"] for t in rows(db, "/my~20music.json")["tables"] if not t["hidden"]]


def test_sql_is_answered_on_loopback_and_refused_elsewhere(db):
    sql = "/my~20music.json?sql=select+count(*)+as+n+from+tracks&_shape=array"
    assert rows(db, sql) == [{"n": 40}]
    elsewhere = {
        "host": "192.0.2.7",
        "headers": {"host": "192.0.2.7", "authorization": "Bearer secret"},
        "password": "secret",
    }
    assert get(db, sql, **elsewhere).status_code == 403
    assert get(db, "/my~20music/tracks.json", **elsewhere).status_code == 200
    assert get(db, sql, **elsewhere, allow_sql="always").json() == [{"n": 40}]
    assert get(db, sql, allow_sql="never").status_code == 403


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8001", 200),
        ("localhost:8001", 200),
        ("localhost", 200),
        ("[::1]:8001", 200),
        ("evil.example", 421),
        ("evil.example:8001", 421),
        ("127.0.0.1.evil.example", 421),
        ("localhost.evil.example:80", 421),
        ("[::1]evil.example", 421),
        ("[::1", 421),
        ("::1", 421),
        ("localhost:80evil", 421),
        ("localhost:evil.example", 421),
        ("evil.example@localhost", 421),
        ("localhost.", 421),
        ("", 421),
    ],
)
def test_a_foreign_host_is_refused(db, host, status):
    assert get(db, "/", headers={"host": host}).status_code == status


@pytest.mark.parametrize(
    ("header", "name"), [("A.b:80", "a.b"), ("[::1]:80", "::1"), ("x", "x"), ("x:", ""), ("::1", ""), ("x y", "")]
)
def test_host_of(header, name):
    assert host_of(header) == name


def test_every_answer_carries_the_headers_that_keep_others_out(db):
    foreign = {"origin": "https://evil.example"}
    for path, asking in (
        *(
            (path, {})
            for path in ("/", "/my~20music/tracks/1", "/my~20music/tracks", "/my~20music/tracks.json", "/none")
        ),
        ("/", foreign),
    ):
        headers = get(db, path, headers=asking).headers
        assert headers["x-frame-options"] == "DENY"
        assert headers["x-content-type-options"] == "nosniff"
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert headers["cross-origin-opener-policy"] == "same-origin"
        assert "access-control-allow-origin" not in headers


@pytest.mark.parametrize("path", ["/my~20music.json?sql=select+1", "/my~20music/tracks.json", "/", "/-/overview.json"])
def test_another_site_cannot_ask_through_the_browser(db, path):
    asking = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors", "sec-fetch-dest": "script"}
    assert get(db, path, headers=asking).status_code == 403
    assert get(db, path, headers={"sec-fetch-site": "same-origin"}).status_code == 200


def test_hostile_titles_are_text_on_every_page(db):
    for path in (
        "/",
        "/-/review",
        *(f"/my~20music/tracks/{n}" for n in range(1, 6)),
        "/my~20music/tracks?_size=100",
        "/my~20music/tags",
        "/my~20music/undecided",
        "/my~20music/tags/1",
        "/my~20music/tracks?_search=script",
    ):
        page = get(db, path).text
        assert "<script>alert(1)" not in page
        assert "\"onerror='x'" not in page
        assert not re.search(r'href="javascript:', page)
    assert rows(db, "/my~20music/tags/3.json?_shape=array")[0]["title"] == HOSTILE[2]


NO_NUMBERS = ("%C2%B2", "x", "-1", "1_0", "+1", "1e3", "", "%D9%A3")  # a small two; an Arabic three
TOO_LARGE = (str(10**20), "9" * 5000)


@pytest.mark.parametrize("number", [*filter(None, NO_NUMBERS), *TOO_LARGE], ids=lambda number: number[:30])
def test_what_is_no_number_of_a_track_is_not_found(db, number):
    for path in (
        f"/my~20music/tracks/{number}",
        f"/my~20music/tracks/{number}.json",
        f"/-/sound/{number}",
        f"/-/similar/{number}.json",
        f"/-/map/track/{number}.json",
    ):
        answer = Pages(db).get(path, follow_redirects=True)  # Datasette writes ~ for % and asks again
        assert answer.status_code == 404, path


@pytest.mark.parametrize("number", NO_NUMBERS)
@pytest.mark.parametrize(
    "path",
    [
        "/-/similar/1.json?n={}",
        "/-/review.json?skip={}",
        "/-/playlist.m3u8?ids=1,{}",
        "/-/playlist.m3u8?similar={}",
        "/my~20music/tracks?_next={}",
        "/my~20music/tracks.json?_timelimit={}",
        "/my~20music/tracks?id__in=[{}",
        "/my~20music/tracks.json?_sort={}",
    ],
)
def test_what_is_no_number_in_a_query_is_never_an_error_of_the_server(db, path, number, capsys):
    status = get(db, path.format(number)).status_code
    assert status == 400 if number in ("%C2%B2", "x", "1e3") else status < 500
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("number", TOO_LARGE, ids=["10^20", "5000 digits"])
@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/-/similar/1.json?n={}", 400),
        ("/-/review.json?skip={}", 200),  # no such recording
        ("/-/playlist.m3u8?ids=1,{}", 200),  # without the one that is not there
        ("/-/playlist.m3u8?similar={}", 404),
        ("/my~20music/tracks?_next={}", 400),
        ("/my~20music/tracks?id__gt={}", 400),
    ],
)
def test_a_number_too_large_is_never_an_error_of_the_server(db, path, status, number):
    assert get(db, path.format(number)).status_code == status


@pytest.mark.parametrize("path", ["/-/correct", "/-/undo"])
@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b'{"id": "\xc2\xb2"}', 400),
        (b'{"id": true}', 400),
        (b'{"id": 1.5}', 400),
        (b'{"id": %d}' % 10**20, 404),
        (b'{"id": "%s"}' % (b"9" * 5000), 404),
        (b'{"id": %s}' % (b"9" * 5000), 400),  # Python's JSON reads no such number
        (b"[" * 100_000, 400),
        (b"\xff", 400),
    ],
)
def test_a_body_without_the_number_of_a_track_is_refused(db, path, body, status):
    assert post(db, path, content=body, headers={"content-type": "application/json"}).status_code == status


def test_an_error_of_our_own_pages_stays_an_error_of_the_server(db, monkeypatch, capsys):
    monkeypatch.setattr("indexer.web.review.next_tracks", lambda *_: int("a fault of ours"))
    assert get(db, "/-/review.json?skip=1").status_code == 500
    assert "a fault of ours" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("headers", "content"),
    [
        ({"x-csrftoken": b"\xfc"}, b""),
        ({"content-type": "application/x-www-form-urlencoded"}, b"\xff"),
        ({"content-type": "multipart/form-data"}, b"x"),
    ],
)
def test_a_form_that_cannot_be_read_is_one_line(db, headers, content):
    answer = post(db, "/-/correct", headers={"cookie": "ds_csrftoken=x", **headers}, content=content)
    assert answer.status_code in (400, 403)


def test_nothing_can_be_written(db):
    before = db.read_bytes()
    response = get(db, "/my~20music.json?sql=delete+from+files")
    assert response.status_code == 400
    assert sqlite3.connect(db).execute("SELECT count(*) FROM files").fetchone() == (40,)
    assert db.read_bytes() == before


@pytest.mark.parametrize(
    ("host", "inside"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("192.0.2.1", False), ("nas", False)],
)
def test_loopback(host, inside):
    assert is_loopback(host) is inside


@pytest.mark.parametrize("name", ["100%41/library.db", "a?b#c/100%41 ~2F.db"])
def test_a_path_that_looks_like_an_address_shows_its_own_library(tmp_path, db, name):
    """Datasette alone would take %41 for an A, and the rest after ? or # for options."""
    path = tmp_path / name
    path.parent.mkdir()
    shutil.copy(db, path)
    other = tmp_path / name.replace("%41", "A")
    other.parent.mkdir(exist_ok=True)
    Store(other).close()
    pages = Pages(path)
    assert pages.json("/-/overview.json")["files"] == 40
    overview = pages.get("/").text
    links = [html.unescape(link) for link in re.findall(r'href="(/[^"]*/tracks[^"]*)"', overview)]
    assert len(links) > 12
    for link in {*links, *(f"{links[-1].split('/tracks')[0]}/tracks/{n}" for n in (1, 2))}:
        assert pages.get(link).status_code == 200, link


def test_serving_without_a_library_says_how_to_start(tmp_path):
    with pytest.raises(StoreError, match="indexer scan"):
        serve(load_settings(None, {"db": tmp_path / "none.db"}, {}))


def test_the_server_shows_what_a_scan_writes_meanwhile(cli, music_folder, unused_port):
    """The real process: a live database, read through its write-ahead log."""
    cli("scan", music_folder / "mp3.mp3")
    server = cli.process("serve", "--port", unused_port)
    try:
        url = f"http://127.0.0.1:{unused_port}/library/tracks.json?_shape=array"
        deadline = time.monotonic() + 30
        while True:
            try:
                found = json.load(urllib.request.urlopen(url, timeout=5))
                break
            except urllib.error.URLError:
                assert time.monotonic() < deadline, "the server did not start"
                assert server.poll() is None, server.stderr.read()
                time.sleep(0.1)
        assert len(found) == 1
        cli("scan", music_folder)
        assert len(json.load(urllib.request.urlopen(url, timeout=5))) == 6
    finally:
        server.terminate()
        server.communicate(timeout=10)


def test_a_taken_port_is_one_line(cli, music_folder, unused_port):
    cli("scan", music_folder / "mp3.mp3")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", unused_port))
        taken.listen()
        server = cli.process("serve", "--port", unused_port)
        _, err = server.communicate(timeout=30)
    assert server.returncode == 2
    assert str(unused_port) in err
    assert "Traceback" not in err


def test_the_plugin_imports_neither_torch_nor_the_pipeline():
    code = "import sys, indexer.web; print([m for m in sys.modules if m == 'torch' or m == 'indexer.scan.pipeline'])"
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ.copy()
    )
    assert out.stdout.strip() == "[]"


def test_a_library_that_is_replaced_while_it_is_shown_is_the_new_one(db, tmp_path, capsys):
    """Each page shows the file that has the library's name; a missing or damaged one is a line, until it is back."""
    fewer = tmp_path / "fewer.db"
    shutil.copy(db, fewer)
    with closing(sqlite3.connect(fewer)) as conn, conn:
        conn.execute("DELETE FROM files WHERE id > 5")
    whole = db.read_bytes()
    paths = ("/", "/my~20music/tracks", "/-/review.json", "/my~20music.json?sql=select+count(*)+as+n+from+files")

    async def ask():
        datasette = make_datasette(load_settings(None, {"db": db}, {}))
        await datasette.invoke_startup()

        async def answers():
            return [await datasette.client.get(path, headers={"host": "127.0.0.1"}) for path in paths]

        before = await answers()
        db.unlink()
        gone = await answers()
        db.write_bytes(os.urandom(len(whole)))
        junk = await answers()
        db.unlink()
        shutil.copy(fewer, db)
        return before, gone, junk, await answers()

    before, gone, junk, after = asyncio.run(ask())
    assert [answer.status_code for answer in [*before, *after]] == 8 * [200]
    assert [answer.status_code for answer in [*gone, *junk]] == 8 * [503]
    assert all("my music.db" in answer.text for answer in [*gone, *junk])
    assert all("Tables and SQL" in answer.text for answer in [*gone[:2], *junk[:2]])  # pages have ways on
    assert all(len(answer.text.splitlines()) == 1 for answer in [*gone[2:], *junk[2:]])
    assert (before[-1].json()["rows"], after[-1].json()["rows"]) == ([[40]], [[5]])
    shown = [re.search(r"([0-9]+) +tracks", re.sub(r"<[^>]+>", " ", page[0].text))[1] for page in (before, after)]
    assert shown == ["40", "5"]  # our own page
    assert "Traceback" not in capsys.readouterr().err
