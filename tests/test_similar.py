"""The nearest tracks: the same as by brute force, from a derived file that is made anew whenever it would be wrong."""

import asyncio
import json
import os
import threading
import time

import numpy as np
import pytest

from indexer.config import load_settings
from indexer.encoders.encoder import joined_id
from indexer.errors import StoreError
from indexer.exchange.m3u import to_m3u
from indexer.files.audio.identity import Stat
from indexer.library.readonly import open_readonly
from indexer.library.store import Store
from indexer.library.vectors import directions
from indexer.library.vectors.directions import open_directions
from indexer.library.vectors.similar import encoder_of, nearest, to_text
from indexer.web import neighbours
from indexer.web.serve import make_datasette
from tests.helpers.synth import write_audio
from tests.helpers.vectors import WIDTH, fill, made


def brute_force(parts, row):
    total = 0.0
    for vectors in parts:
        x = vectors.astype(np.float64)
        x -= x.mean(axis=0)
        x /= np.linalg.norm(x, axis=1, keepdims=True)
        total = total + x @ x[row]
    return total / len(parts)


def ask(db, recording, encoder=None):
    conn = open_readonly(db)
    try:
        return list(nearest(conn, db, encoder_of(conn), recording))
    finally:
        conn.close()


@pytest.fixture
def library(bare_cli):
    return bare_cli


def test_the_nearest_are_those_of_brute_force(library):
    vectors = made()
    vectors[7] = vectors[3] + np.float16(0.01)
    fill(library.db, vectors)
    expected = brute_force([vectors], 3)
    found = ask(library.db, 4)  # recording 4 is row 3
    assert [recording for recording, _ in found[:10]] == [
        int(i) + 1 for i in np.argsort(-expected, kind="stable") if i != 3
    ][:10]
    assert [cosine for _, cosine in found] == pytest.approx(sorted(np.delete(expected, 3), reverse=True), abs=1e-6)
    assert found[0][0] == 8
    assert 4 not in dict(found)
    assert len(found) == 59


def test_equal_ones_and_long_lists_come_in_one_order(library, monkeypatch):
    vectors = np.repeat(made(30), 3, axis=0)
    fill(library.db, vectors)
    whole = ask(library.db, 1)
    assert len(whole) == 89
    for n in (1, 5, 89, 90):
        monkeypatch.setattr("indexer.library.vectors.similar._SORTED_FIRST", n)
        assert ask(library.db, 1) == whole


def test_joined_encoders_say_the_mean_over_what_both_know(library):
    a, b = made(40), made(30, seed=1, width=10)
    fill(library.db, a, "a")
    fill(library.db, b, "b")
    with Store(library.db) as store:
        store.put_encoder(joined_id(["a", "b"]), name="a+b", width=34, unit_s=6.0, parts=["a", "b"])
        store.use_encoder(joined_id(["a", "b"]))
    found = ask(library.db, 1)
    assert len(found) == 29
    centred = [
        a.astype(np.float64) - a.astype(np.float64).mean(axis=0),
        b.astype(np.float64) - b.astype(np.float64).mean(axis=0),
    ]
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in centred]
    expected = (unit[0][:30] @ unit[0][0] + unit[1] @ unit[1][0]) / 2
    assert dict(found) == pytest.approx({i + 1: expected[i] for i in range(1, 30)}, abs=1e-6)


def test_the_file_is_made_anew_whenever_the_library_changed(library):
    vectors = made()
    fill(library.db, vectors)
    path = library.folder / "vectors" / "e.directions"
    ask(library.db, 1)
    first = path.stat().st_mtime_ns
    ask(library.db, 1)
    assert path.stat().st_mtime_ns == first
    for change in (
        "UPDATE embeddings SET vector = vector WHERE recording_id = 9",
        "DELETE FROM embeddings WHERE recording_id = 60",
        (
            "INSERT INTO embeddings (recording_id, encoder_id, vector, units)"
            " SELECT 60, 'e', vector, 1 FROM embeddings WHERE recording_id = 2"
        ),
    ):
        with Store(library.db) as store:
            store._run(change)
        expected = 58 if change.startswith("DELETE") else 59
        assert len(ask(library.db, 1)) == expected
    assert ask(library.db, 2)[0] == (60, pytest.approx(1, abs=1e-3))


@pytest.mark.parametrize(
    "damage",
    [
        lambda b: b[:-3],
        lambda b: b"",
        lambda b: b"x" * len(b),
        lambda b: b[:4096],
        lambda b: b[:4096].ljust(len(b), b"\0"),
        lambda b: b"[1]".ljust(len(b)),
    ],
)
def test_a_damaged_file_is_made_anew(library, damage):
    fill(library.db, made())
    before = ask(library.db, 1)
    path = library.folder / "vectors" / "e.directions"
    path.write_bytes(damage(path.read_bytes()))
    assert ask(library.db, 1) == before
    assert os.listdir(path.parent) == ["e.directions"]


def test_damaged_embeddings_are_left_out(library):
    fill(library.db, made(20))
    with Store(library.db) as store:
        store._run("UPDATE embeddings SET vector = x'0011' WHERE recording_id = 3")
        store._run(
            "UPDATE embeddings SET vector = ? WHERE recording_id = 4", (np.full(WIDTH, np.nan, "<f2").tobytes(),)
        )
    assert len(ask(library.db, 1)) == 17
    assert (
        "not embedded by name of e: run `indexer scan --force` on it" in library("similar", "/m/2.mp3", code=2).stderr
    )


def test_where_nothing_can_be_kept_the_answer_is_the_same(library):
    fill(library.db, made())
    (library.folder / "vectors").write_bytes(b"a file is in the way")
    assert len(ask(library.db, 1)) == 59


def test_a_library_deleted_and_scanned_again_in_another_order_is_another_library(library):
    vectors = made()
    fill(library.db, vectors)
    before = library.json("similar", "/m/0.mp3")["tracks"]
    for file in library.folder.glob("library.db*"):
        file.unlink()
    with Store(library.db) as store, store.transaction():
        for i in reversed(range(len(vectors))):
            store.recording(f"{i:064x}", codec="mp3", sample_rate_hz=44_100, channels=2, duration_s=200.4)
    fill(library.db, vectors)  # as many changes as before, under other recording ids
    assert library.json("similar", "/m/0.mp3")["tracks"] == before


def test_a_scan_that_embeds_meanwhile_neither_stops_nor_mixes_up_the_answer(library, monkeypatch):
    vectors = made()
    fill(library.db, vectors)
    pages = directions._pages

    def and_then_a_scan_writes(*arguments):
        yield from pages(*arguments)
        store._run("DELETE FROM embeddings WHERE recording_id = 60")
        store.put_embedding(1, "e", vectors[30].tobytes(), 1)

    expected = np.delete(brute_force([vectors], 0), 0)
    with Store(library.db) as store:
        monkeypatch.setattr(directions, "_pages", and_then_a_scan_writes)
        assert [cosine for _, cosine in ask(library.db, 1)] == pytest.approx(sorted(expected, reverse=True), abs=1e-6)
        monkeypatch.undo()
    assert ask(library.db, 1)[0] == (31, pytest.approx(1, abs=1e-6))


def test_what_a_killed_process_left_is_removed_and_what_another_makes_is_kept(library):
    fill(library.db, made())
    ask(library.db, 1)
    left, making = (library.folder / "vectors" / f".e.directions.{name}" for name in ("left", "making"))
    left.write_bytes(b"half")
    making.write_bytes(b"half")
    os.utime(left, (0, time.time() - 7200))
    with Store(library.db) as store:
        store._run("DELETE FROM embeddings WHERE recording_id = 60")
    ask(library.db, 1)
    assert (left.exists(), making.exists()) == (False, True)
    assert (library.folder / "vectors" / "e.directions").stat().st_mode & 0o777 == 0o600


def test_without_an_encoder_in_use_the_one_that_embedded_most_counts(library):
    fill(library.db, made(10), "changed most")
    fill(library.db, made(12), "embedded most")
    with Store(library.db) as store:
        store._run("UPDATE embeddings SET vector = vector WHERE encoder_id = 'changed most'")
        store._run("DELETE FROM embeddings WHERE encoder_id = 'changed most'")
    assert library.json("similar", "/m/0.mp3")["encoder"] == "name of embedded most"


def test_why_a_track_is_not_embedded_is_said_with_its_path(library):
    fill(library.db, made(5))
    with Store(library.db) as store:
        store._run("DELETE FROM embeddings WHERE recording_id < 3")
        store._run("UPDATE recordings SET reason = 'shorter than a unit' WHERE id = 1")
    assert "/m/0.mp3: shorter than a unit" in library("similar", "/m/0.mp3", code=2).stderr
    assert (
        "/m/1.mp3: not embedded by name of e: run `indexer scan --force` on it"
        in library("similar", "/m/1.mp3", code=2).stderr
    )


def test_a_file_to_be_read_again_is_told_where_no_other_is(library):
    fill(library.db, made(3))
    with Store(library.db) as store:
        store._run("UPDATE files SET state = 'deferred' WHERE recording_id = 2")
        store.put_file(b"/m/z copy.mp3", Stat(1, 99, 1, 1), root_id=None, state="ready", recording_id=3)
        store._run("UPDATE files SET state = 'deferred' WHERE path = ?", (b"/m/2.mp3",))
    assert {track["path"] for track in library.json("similar", "/m/0.mp3")["tracks"]} == {"/m/1.mp3", "/m/z copy.mp3"}


def test_the_command_tells_missing_files_and_copies_apart(library):
    vectors = made(30)
    fill(library.db, vectors)
    order = [r for r, _ in ask(library.db, 1)]
    with Store(library.db) as store:
        store._run("UPDATE files SET state = 'missing' WHERE recording_id = ?", (order[0],))
        store.put_file(b"/m/another copy.mp3", Stat(1, 99, 1, 1), root_id=None, state="ready", recording_id=order[1])
    found = library.json("similar", "/m/0.mp3", "-n", 5)
    names = [track["path"] for track in found["tracks"]]
    assert names == [
        f"/m/{r - 1}.mp3" if r != order[1] else "/m/" + min(f"{r - 1}.mp3", "another copy.mp3") for r in order[1:6]
    ]
    assert found["encoder"] == "name of e"
    assert found["tracks"][0]["duration_s"] == 200.4
    text = library("similar", "/m/0.mp3").stdout
    assert "10 tracks like /m/0.mp3" in text
    assert "title" in text


def test_a_playlist_keeps_paths_exact(library, tmp_path):
    fill(library.db, made(4), folder="/m")
    with Store(library.db) as store:
        store._run("UPDATE files SET path = ? WHERE recording_id = 2", (b"/m/bad \xff name.mp3",))
        store._run("UPDATE files SET path = ? WHERE recording_id = 3", (b"/m/two\nlines.mp3",))
    library("similar", "/m/0.mp3", "--m3u", tmp_path / "list.m3u8")
    lines = (tmp_path / "list.m3u8").read_bytes().split(b"\n")
    assert lines[0] == b"#EXTM3U"
    assert b"/m/bad \xff name.mp3" in lines
    assert b"/m/3.mp3" in lines
    assert b"#EXTINF:200,artist 3 - title 3" in lines
    assert b"# left out, its path has a line break: /m/two\\nlines.mp3" in lines
    assert not any(line.startswith((b"/m/two", b"lines")) for line in lines)
    library("similar", "/m/0.mp3", "--m3u", tmp_path / "list.m3u8", "-n", "1")  # ours is replaced
    assert b"left out" not in (tmp_path / "list.m3u8").read_bytes()
    (tmp_path / "mine.m3u8").write_bytes(b"#EXTM3U\n/m/1.mp3\n")
    refused = library("similar", "/m/0.mp3", "--m3u", tmp_path / "mine.m3u8", code=2)
    assert "is not a file that indexer wrote" in refused.stderr
    assert (tmp_path / "mine.m3u8").read_bytes() == b"#EXTM3U\n/m/1.mp3\n"
    assert library("similar", "/m/0.mp3", "--m3u", "-").stdout.startswith("#EXTM3U")
    assert to_m3u({"tracks": []}) == b"#EXTM3U\n"
    odd = {
        "path": "/m/a.mp3",
        "title": "two\nlines \ud800",
        "artist": "\x1b[31m",
        "genre": "\x07",
        "confidence": 0.5,
        "decided": False,
        "label": None,
        "duration_s": None,
        "similarity": 0.5,
    }
    found = {"path": "/m/0.mp3", "encoder": "e", "tracks": [odd], "elapsed_ms": 1.0}
    assert to_m3u(found) == b"#EXTM3U\n#EXTINF:-1,\\x1b[31m - two\\nlines \\ud800\n/m/a.mp3\n"
    assert all(line.isprintable() for line in to_text(found).split("\n"))
    assert "perhaps \\x07 (50%)" in to_text(found)
    odd |= {"label": "\x07", "decided": True}
    assert "perhaps" not in to_text(found)
    assert "\\x07 (50%)" in to_text(found)
    odd |= {"label": "house"}
    assert "  house  " in to_text(found)
    (tmp_path / "song.mp3").write_bytes(b"music")
    assert "must end in .m3u8" in library("similar", "/m/0.mp3", "--m3u", tmp_path / "song.mp3", code=2).stderr
    assert (tmp_path / "song.mp3").read_bytes() == b"music"


def test_what_cannot_be_answered_is_said(library):
    fill(library.db, made(1))
    assert library.json("similar", "/m/0.mp3")["tracks"] == []
    assert "the library does not hold it" in library("similar", "/m/none.mp3", code=2).stderr
    conn = open_readonly(library.db)
    assert open_directions(conn, library.db, "e").recordings.tolist() == [1]
    conn.close()
    json.loads(library("similar", "/m/0.mp3", "--json").stdout)


# ---- the pages' way: at once, from the file that is there


def ask_pages(db, file_id, n=1000):
    async def once():
        datasette = make_datasette(load_settings(None, {"db": db}, {}))
        await datasette.invoke_startup()
        return await datasette.client.get(f"/-/similar/{file_id}.json?n={n}", headers={"host": "127.0.0.1:8001"})

    return asyncio.run(once())


@pytest.fixture
def maker(monkeypatch):
    """One that has made nothing yet, and the time of its last making at will."""
    fresh = neighbours.Maker()
    monkeypatch.setattr(neighbours, "maker", fresh)
    yield fresh
    fresh.wait()


def add(db, n, vector):
    with Store(db) as store:
        recording = store.recording(f"{n:064x}", codec="mp3", sample_rate_hz=44_100, channels=2, duration_s=200.4)
        store.put_file(
            os.fsencode(f"/m/{n}.mp3"), Stat(1, n, 1, 1), root_id=None, state="ready", recording_id=recording
        )
        store.put_embedding(recording, "e", vector.astype("<f2").tobytes(), 1)
        return recording


def test_a_file_that_is_forgotten_while_the_answer_is_made_is_left_out(library, maker, monkeypatch):
    fill(library.db, made(n=20))
    ask_pages(library.db, 1)
    maker.wait()
    first = ask_pages(library.db, 1).json()["tracks"][0]["id"]
    real = neighbours.rows

    async def without_the_first(*asked):
        return [row for row in await real(*asked) if row["id"] != first]

    monkeypatch.setattr(neighbours, "rows", without_the_first)
    left = [track["id"] for track in ask_pages(library.db, 1).json()["tracks"]]
    assert left
    assert first not in left


def test_the_first_question_is_answered_at_once_and_prepares_the_file(library, maker):
    fill(library.db, made())
    answer = ask_pages(library.db, 1)
    assert (answer.status_code, answer.json()) == (202, {"state": "preparing"})
    maker.wait()
    answer = ask_pages(library.db, 1)
    assert answer.status_code == 200
    assert [(t["id"], t["similarity"]) for t in answer.json()["tracks"]] == [
        (r, round(c, 4)) for r, c in ask(library.db, 1)
    ]
    assert {*answer.json()["tracks"][0]} == {
        "id",
        "path",
        "title",
        "artist",
        "genre",
        "label",
        "tempo_bpm",
        "key",
        "key_name",
        "tag_bpm",
        "tag_key",
        "confidence",
        "decided",
        "duration_s",
        "similarity",
    }


def test_a_file_from_before_a_scan_answers_also_about_what_came_since(library, maker):
    vectors = made()
    fill(library.db, vectors)
    ask(library.db, 1)
    path = library.folder / "vectors" / "e.directions"
    before = path.read_bytes()
    maker.make(library.db, ["e"], urgent=False)  # a moment ago
    maker.wait()
    new = add(library.db, 60, vectors[20] + np.float16(0.25))
    with Store(library.db) as store:
        store.forget_files([5])
    told = ask_pages(library.db, new).json()["tracks"]
    assert path.read_bytes() == before
    mean = vectors.astype(np.float64).mean(axis=0)  # of those that the file holds
    unit = vectors - mean
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    own = (vectors[20] + np.float16(0.25)) - mean
    expected = unit @ (own / np.linalg.norm(own))
    assert [t["id"] for t in told] == [int(i) + 1 for i in np.argsort(-expected, kind="stable") if i != 4]
    assert [t["similarity"] for t in told] == pytest.approx(sorted(np.delete(expected, 4), reverse=True), abs=1e-4)
    assert [r for r, _ in ask(library.db, 1)].count(
        new
    ) == 1  # the command line makes the file anew and knows the newest


def test_a_stale_file_is_made_anew_in_the_background_but_not_again_at_once(library, maker, monkeypatch):
    vectors = made()
    fill(library.db, vectors)
    ask(library.db, 1)
    new = add(library.db, 60, vectors[20])
    assert new not in [t["id"] for t in ask_pages(library.db, 21).json()["tracks"]]
    maker.wait()
    assert ask_pages(library.db, 21).json()["tracks"][0]["id"] == new
    newer = add(library.db, 61, vectors[20])
    for _ in range(2):
        assert newer not in [t["id"] for t in ask_pages(library.db, 21).json()["tracks"]]
        maker.wait()
    monkeypatch.setattr(neighbours, "MADE_ANEW_AFTER_S", 0.0)
    ask_pages(library.db, 21)
    maker.wait()
    assert newer in [t["id"] for t in ask_pages(library.db, 21).json()["tracks"]]


def test_only_one_is_made_at_a_time(library, maker, monkeypatch):
    fill(library.db, made())
    begun, go_on = [], threading.Event()

    def slow(*arguments):
        begun.append(arguments)
        go_on.wait(20)
        return open_directions(*arguments)

    monkeypatch.setattr(neighbours, "open_directions", slow)
    assert [ask_pages(library.db, 1).status_code for _ in range(3)] == [202] * 3
    go_on.set()
    maker.wait()
    assert len(begun) == 1
    assert ask_pages(library.db, 1).status_code == 200


def test_where_it_cannot_be_prepared_that_is_said_and_not_tried_all_the_time(library, maker, monkeypatch):
    fill(library.db, made())
    tried = []

    def full(*_):
        tried.append(1)
        raise StoreError("no room for the vectors")

    monkeypatch.setattr(neighbours, "open_directions", full)
    ask_pages(library.db, 1)
    maker.wait()
    answers = [ask_pages(library.db, 1) for _ in range(3)]
    assert [(a.status_code, a.json()) for a in answers] == [(503, {"error": "no room for the vectors"})] * 3
    assert len(tried) == 1
    monkeypatch.setattr(neighbours, "TRIED_AGAIN_AFTER_S", 0.0)
    assert ask_pages(library.db, 1).status_code == 202


def test_where_nothing_can_be_kept_the_pages_answer_all_the_same(library, maker):
    fill(library.db, made())
    (library.folder / "vectors").write_bytes(b"a file is in the way")
    assert ask_pages(library.db, 1).status_code == 202
    maker.wait()
    assert len(ask_pages(library.db, 1).json()["tracks"]) == 59


def test_joined_encoders_answer_the_pages_as_they_do_the_command(library, maker):
    fill(library.db, made(40), "a")
    fill(library.db, made(30, seed=1, width=10), "b")
    with Store(library.db) as store:
        store.put_encoder(joined_id(["a", "b"]), name="a+b", width=34, unit_s=6.0, parts=["a", "b"])
        store.use_encoder(joined_id(["a", "b"]))
    assert ask_pages(library.db, 1).status_code == 202
    maker.wait()
    assert [(t["id"], t["similarity"]) for t in ask_pages(library.db, 1).json()["tracks"]] == [
        (r, round(c, 4)) for r, c in ask(library.db, 1)
    ]
    assert "not embedded by a+b" in ask_pages(library.db, 35).json()["error"]


def test_what_the_pages_cannot_answer_is_said(library, maker):
    fill(library.db, made(3))
    with Store(library.db) as store:
        store._run("DELETE FROM embeddings WHERE recording_id = 1")
        store._run("UPDATE recordings SET reason = 'shorter than a unit' WHERE id = 1")
    assert [
        (a.status_code, a.json()["error"])
        for a in (ask_pages(library.db, 1), ask_pages(library.db, 99), ask_pages(library.db, 2, "0"))
    ] == [
        (404, "shorter than a unit"),
        (404, "the library holds no such track, or could not read it"),
        (400, "n is a number from 1 to 1000"),
    ]


@pytest.mark.parametrize("joined", [False, True])
def test_a_file_outside_the_library_has_neighbours_too(cli, tmp_path, joined):
    if joined:
        cli.model = f"{cli.model}+rhythm"
    folder = tmp_path / "music"
    folder.mkdir()
    for n in range(4):
        write_audio(folder / str(n), "wav", 13.0, seed=n)
    cli("scan", folder, "--no-tags")
    outside = write_audio(tmp_path / "outside", "flac", 13.0, seed=2)  # the sound of 2.wav in another container
    before = cli.json("status")
    found = cli.json("similar", outside, "-n", "3")
    inside = cli.json("similar", folder / "2.wav", "-n", "3")
    assert found["path"] == str(outside)
    assert found["tracks"][0]["path"] == str(folder / "2.wav")
    assert found["tracks"][0]["similarity"] > 0.999
    assert [track["path"] for track in found["tracks"][1:]] == [track["path"] for track in inside["tracks"][:2]]
    assert cli.json("similar", outside, "--mix")["mix"].keys() == {"tempo_bpm", "key", "key_name", "missing", "unknown"}
    assert cli.json("status") == before
    (tmp_path / "none.mp3").write_bytes(b"nothing")
    assert "none.mp3: not audio: it looks like text" in cli("similar", tmp_path / "none.mp3", code=1).stderr
