"""The nearest tracks: the same as by brute force, from a derived file that is made anew whenever it would be wrong."""

import json
import os
import time

import numpy as np
import pytest

from indexer import vectorfile
from indexer.encoders import joined_id
from indexer.fingerprint import Stat
from indexer.similar import encoder_of, nearest, to_m3u, to_text
from indexer.store import Store, open_readonly
from indexer.vectorfile import open_directions

WIDTH = 24


def fill(db, vectors, encoder="e", folder="/m", **about):
    with Store(db) as store, store.transaction():
        store.put_encoder(encoder, name=f"name of {encoder}", width=vectors.shape[1], unit_s=6.0)
        for i, vector in enumerate(vectors):
            recording = store.recording(f"{i:064x}", codec="mp3", sample_rate_hz=44_100, channels=2, duration_s=200.4)
            if store.file_at(os.fsencode(f"{folder}/{i}.mp3")) is None:
                file = store.put_file(os.fsencode(f"{folder}/{i}.mp3"), Stat(1, i, 1, 1), root_id=None, state="ready", recording_id=recording)
                store.put_tags(file, {"title": f"title {i}", "artist": f"artist {i % 7}"})
            store.put_embedding(recording, encoder, vector.astype("<f2").tobytes(), 1)


def made(n=60, seed=0, width=WIDTH):
    rng = np.random.default_rng(seed)
    return (rng.standard_normal(width) * 30 + rng.standard_normal((n, width))).astype(np.float16)  # nearly parallel, as embeddings are


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
def library(cli):
    cli.model = None
    return cli


def test_the_nearest_are_those_of_brute_force(library):
    vectors = made()
    vectors[7] = vectors[3] + np.float16(0.01)
    fill(library.db, vectors)
    expected = brute_force([vectors], 3)
    found = ask(library.db, 4)  # recording 4 is row 3
    assert [recording for recording, _ in found[:10]] == [int(i) + 1 for i in np.argsort(-expected, kind="stable") if i != 3][:10]
    assert [cosine for _, cosine in found] == pytest.approx(sorted(np.delete(expected, 3), reverse=True), abs=1e-6)
    assert found[0][0] == 8
    assert 4 not in dict(found)
    assert len(found) == 59


def test_joined_encoders_say_the_mean_over_what_both_know(library):
    a, b = made(40), made(30, seed=1, width=10)
    fill(library.db, a, "a")
    fill(library.db, b, "b")
    with Store(library.db) as store:
        store.put_encoder(joined_id(["a", "b"]), name="a+b", width=34, unit_s=6.0, parts=["a", "b"])
        store.use_encoder(joined_id(["a", "b"]))
    found = ask(library.db, 1)
    assert len(found) == 29
    centred = [a.astype(np.float64) - a.astype(np.float64).mean(axis=0), b.astype(np.float64) - b.astype(np.float64).mean(axis=0)]
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
    for change in ("UPDATE embeddings SET vector = vector WHERE recording_id = 9", "DELETE FROM embeddings WHERE recording_id = 60",
                   "INSERT INTO embeddings (recording_id, encoder_id, vector, units) SELECT 60, 'e', vector, 1 FROM embeddings WHERE recording_id = 2"):
        with Store(library.db) as store:
            store._run(change)
        expected = 58 if change.startswith("DELETE") else 59
        assert len(ask(library.db, 1)) == expected
    assert ask(library.db, 2)[0] == (60, pytest.approx(1, abs=1e-3))


@pytest.mark.parametrize("damage", [lambda b: b[:-3], lambda b: b"", lambda b: b"x" * len(b), lambda b: b[:4096], lambda b: b[:4096].ljust(len(b), b"\0"), lambda b: b"[1]".ljust(len(b))])
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
        store._run("UPDATE embeddings SET vector = ? WHERE recording_id = 4", (np.full(WIDTH, np.nan, "<f2").tobytes(),))
    assert len(ask(library.db, 1)) == 17
    assert "not embedded by name of e: run `indexer scan --force` on it" in library("similar", "/m/2.mp3", code=2).stderr


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
    pages = vectorfile._pages

    def and_then_a_scan_writes(*arguments):
        yield from pages(*arguments)
        store._run("DELETE FROM embeddings WHERE recording_id = 60")
        store.put_embedding(1, "e", vectors[30].tobytes(), 1)

    expected = np.delete(brute_force([vectors], 0), 0)
    with Store(library.db) as store:
        monkeypatch.setattr(vectorfile, "_pages", and_then_a_scan_writes)
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
    assert "/m/1.mp3: not embedded by name of e: run `indexer scan --force` on it" in library("similar", "/m/1.mp3", code=2).stderr


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
    assert names == [f"/m/{r - 1}.mp3" if r != order[1] else "/m/" + min(f"{r - 1}.mp3", "another copy.mp3") for r in order[1:6]]
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
    assert library("similar", "/m/0.mp3", "--m3u", "-").stdout.startswith("#EXTM3U")
    assert to_m3u({"tracks": []}) == b"#EXTM3U\n"
    odd = {"path": "/m/a.mp3", "title": "two\nlines \ud800", "artist": "\x1b[31m", "genre": "\x07", "confidence": 0.5, "duration_s": None, "similarity": 0.5}
    found = {"path": "/m/0.mp3", "encoder": "e", "tracks": [odd], "elapsed_ms": 1.0}
    assert to_m3u(found) == b"#EXTM3U\n#EXTINF:-1,\\x1b[31m - two\\nlines \\ud800\n/m/a.mp3\n"
    assert all(line.isprintable() for line in to_text(found).split("\n"))
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
