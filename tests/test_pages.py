"""Our pages on a library that a real scan made: what they show, what they change, and what they never disclose."""

import asyncio
import html
import json
import os
import re
import sqlite3
from contextlib import closing

import pytest

from indexer.files.tags.correction import CORRECTION
from indexer.web import overview, sound
from indexer.web.serve import DATASETTE_SETTINGS
from tests.helpers.pages import Pages, id_of, one
from tests.helpers.synth import write_audio


@pytest.fixture
def cli(quick_cli):
    """No torch is needed to look at pages."""
    return quick_cli


def test_the_home_page_tells_what_there_is(pages, cli, music_folder):
    (music_folder / "broken.mp3").write_bytes(b"no music at all" * 100)
    cli("scan", music_folder, "--no-tags", code=1)
    page = pages.get("/").text
    assert "<b>7</b> tracks" in page
    assert ">1 unreadable</a>" in page
    assert "without a genre" not in page  # every genre is decided here
    found = pages.json("/-/overview.json")
    assert found["states"] == {"ready": 6, "unreadable": 1}
    assert (found["recordings"], found["decided"], found["without"]) == (6, 6, 0)
    assert found["hours"] == pytest.approx(11 / 3600, abs=0.05)
    assert sum(row["decided"] + row["undecided"] for row in found["genres"]) == 6
    assert found["labels"] == ["ambient", "drum and bass", "house", "techno", "trance"]
    assert {row["genre"]: row["colour"] for row in found["genres"]} == {
        label: n for n, label in enumerate(found["labels"])
    }
    assert found["genres"] == sorted(found["genres"], key=lambda row: (-row["decided"], -row["undecided"]))
    assert found["latest"][0]["path"].endswith("broken.mp3")
    assert found["run"]["state"] == "done"
    assert found["watch"] is None


def test_the_home_page_calls_for_what_is_to_be_done(cli, music_folder, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    cli("scan", empty)
    assert "Nothing is in the library yet" in Pages(cli.db).get("/").text
    cli("scan", music_folder, "--no-tags", env={"INDEXER_MIN_CONFIDENCE": "1"})
    with closing(sqlite3.connect(cli.db)) as conn:
        conn.execute("UPDATE tags SET genre = 'Deep Space Music' WHERE file_id = 1")
        conn.execute("UPDATE predictions SET decided = 1 WHERE recording_id = 2")
        conn.commit()
    page = Pages(cli.db).get("/").text
    assert "4 tracks without a genre" in page
    assert 'href="/-/review">Review them</a>' in page
    assert "1 decided genre is not in the files yet" in page
    assert "Deep Space Music</a>" in page
    assert "unsure</span>" in page


def test_counts_that_take_longer_than_a_query_may_are_shown_all_the_same(pages, monkeypatch):
    counting = "WITH RECURSIVE c (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 3000000)"
    monkeypatch.setitem(overview._COUNTS, "truncated", f"{counting} SELECT count(*) - 2999993 AS n FROM c")
    monkeypatch.setitem(DATASETTE_SETTINGS, "sql_time_limit_ms", 100)
    assert ">7 truncated</a>" in pages.get("/").text


def test_a_running_scan_tells_how_far_it_is(cli, music_folder, monkeypatch):
    from indexer.scan.pipeline import Pipeline

    monkeypatch.setattr("indexer.scan.live_run.NOTE_S", 0.0)
    told = []
    real = Pipeline._resume_group

    def resume_group(pipeline, finished):
        real(pipeline, finished)
        told.append(Pages(cli.db).json("/-/now.json")["run"])

    monkeypatch.setattr(Pipeline, "_resume_group", resume_group)
    cli("scan", music_folder, "--no-tags")
    assert {run["state"] for run in told} == {"running"}
    done = [run["summary"]["done"] for run in told if run["summary"]]
    assert done == sorted(done)  # files that were ready together are counted together
    assert len(set(done)) > 1
    assert done[-1] == 6
    assert {run["summary"]["total"] for run in told if run["summary"]} == {6}
    assert Pages(cli.db).json("/-/now.json")["run"]["state"] == "done"


def test_where_tags_and_model_disagree_by_the_users_own_aliases(cli, tmp_path):
    folder = tmp_path / "tagged"
    folder.mkdir()
    write_audio(folder / "a", "flac", 2.0, seed=1)
    cli("scan", folder, "--no-tags")
    genre = one(cli.db, "SELECT genre FROM predictions")
    with closing(sqlite3.connect(cli.db)) as conn:
        conn.execute("UPDATE tags SET genre = 'Deep Space Music'")
        conn.commit()
    assert len(Pages(cli.db).json("/-/overview.json")["disagreements"]) == 1
    assert len(Pages(cli.db).json("/library/disagreements.json?_shape=array")) == 1
    agreed = Pages(cli.db, aliases={"Deep Space Music": genre})
    assert agreed.json("/-/overview.json")["disagreements"] == []
    assert agreed.json("/library/disagreements.json?_shape=array") == []


def test_the_track_page_tells_all_of_a_track(pages, cli, music_folder):
    cli("scan", music_folder)  # now with tags
    track = id_of(cli, "mp3.mp3")
    found = pages.json(f"/library/tracks/{track}.json")
    assert found["path"] == str(music_folder / "mp3.mp3")
    assert found["genre"] == max(found["scores"], key=found["scores"].get)
    assert len(found["scores"]) == 5
    assert sum(found["scores"].values()) == pytest.approx(1, abs=1e-3)
    assert found["timeline"][0]["start_s"] == 0
    assert set(found["timeline"][0]["scores"]) == set(found["labels"])
    assert [entry["state"] for entry in found["journal"]] == ["done"]
    assert found["tag_genre"] == found["journal"][0]["after"][0]
    page = pages.get(f"/library/tracks/{track}").text
    assert f'src="/-/sound/{track}"' in page
    assert "Undo: put back what stood there" in page
    chart = json.loads(re.search(r'(?s)id="chart">(.*?)</script>', page).group(1))
    assert chart["scores"] == found["scores"]
    assert chart["reason"] == found["undecided_reason"]  # with one, no threshold is drawn
    assert chart["timeline"] == found["timeline"]


@pytest.mark.parametrize("path", ["/library/tracks/999", "/library/tracks/999.json", "/other/tracks/1", "/-/sound/999"])
def test_what_is_not_there_is_404(pages, path):
    assert pages.get(path).status_code == 404


def test_a_tracks_number_leads_to_its_page_from_tables_and_queries(pages, cli):
    track = id_of(cli, "mp3.mp3")
    assert f'<a href="/library/tracks/{track}">{track}</a>' in pages.get("/library/tracks").text
    genre = one(cli.db, "SELECT genre FROM predictions p JOIN files f USING (recording_id) WHERE f.id = ?", track)
    page = pages.get(f"/library/by_genre?genre={genre}").text
    assert re.search(rf'<a href="/library/tracks/{track}"[^>]*><bdi>mp3.mp3</bdi></a>', page)


# ---- labelling


def test_a_word_of_a_person_goes_into_the_library_and_then_into_the_tags(pages, cli, music_folder):
    track = id_of(cli, "flac.flac")
    answer = pages.post("/-/correct", {"id": track, "genre": "trance"})
    assert answer.status_code == 200
    assert answer.json() == {"id": track, "genre": "trance", "tags": "with the next scan"}
    assert one(cli.db, "SELECT genre, corrected_by FROM corrections") == ("trance", "web page")
    assert "you said so" in pages.get(f"/library/tracks/{track}").text
    cli("scan", music_folder)
    assert pages.json(f"/library/tracks/{track}.json")["tag_genre"] == "Trance"


def test_a_word_is_taken_back_from_the_library_and_from_the_tags(pages, cli, music_folder):
    track, before = id_of(cli, "flac.flac"), (music_folder / "flac.flac").read_bytes()
    pages.post("/-/correct", {"id": track, "genre": "house"})
    pages.post("/-/correct", {"id": track, "genre": "trance"})
    assert pages.post("/-/correct", {"id": track, "genre": None}).json()["genre"] is None
    assert one(cli.db, "SELECT genre FROM corrections") == "house"  # what was said before counts again
    cli("scan", music_folder)
    assert pages.json(f"/library/tracks/{track}.json")["indexer_genre"]["model"] == CORRECTION
    answer = pages.post("/-/correct", {"id": track, "genre": None}).json()
    assert answer["undone"] == 1
    assert one(cli.db, "SELECT count(*) FROM corrections") == 0
    assert (music_folder / "flac.flac").stat().st_size == len(before)
    assert pages.json(f"/library/tracks/{track}.json")["tag_genre"] is None


def test_a_word_on_several_tracks_is_said_and_taken_back_at_once(pages, cli):
    ids = [id_of(cli, name) for name in ("flac.flac", "mp3.mp3", "wav.wav")]
    pages.post("/-/correct", {"id": ids[0], "genre": "house"})
    answer = pages.post("/-/correct", {"ids": [*ids, ids[1]], "genre": "trance"}).json()
    assert (answer["genre"], answer["recordings"]) == ("trance", 3)
    assert one(cli.db, "SELECT count(*) FROM corrections WHERE genre = 'trance'") == 3
    assert pages.post("/-/correct", {"ids": ids, "genre": None}).json()["genre"] is None
    assert one(cli.db, "SELECT genre FROM corrections") == "house"  # what was said before counts again
    for nonsense in ([], ["x"], [ids[0], None], "1,2", [1] * 1001):
        assert pages.post("/-/correct", {"ids": nonsense, "genre": "trance"}).status_code == 400
    assert one(cli.db, "SELECT count(*) FROM corrections") == 1


def test_a_form_goes_back_to_the_tracks_page(pages, cli):
    track = id_of(cli, "flac.flac")
    answer = pages.ask("POST", "/-/correct", data={"id": track, "genre": "techno"}, follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (302, f"/library/tracks/{track}")


@pytest.mark.parametrize(
    ("values", "status"),
    [
        ({"id": "x", "genre": "house"}, 400),
        ({}, 400),
        ({"id": 10**6, "genre": "house"}, 404),
        ({"id": 1, "genre": "<script>alert(1)</script>"}, 400),
        ([1], 400),
    ],
)
def test_nonsense_is_refused_in_a_word(pages, cli, values, status):
    answer = pages.post("/-/correct", values)
    assert answer.status_code == status
    assert answer.json()["error"]
    assert one(cli.db, "SELECT count(*) FROM corrections") == 0


def test_a_browsers_post_needs_the_token_of_a_page(pages, cli):
    track = id_of(cli, "flac.flac")
    here = {"origin": "http://127.0.0.1:8001"}
    assert (
        pages.post(
            "/-/correct", {"id": track, "genre": "house"}, headers={**here, "cookie": "ds_csrftoken=made-up"}
        ).status_code
        == 403
    )
    assert pages.post("/-/correct", {"id": track, "genre": "house"}, headers=here).status_code == 403
    assert (
        pages.post(
            "/-/correct", {"id": track, "genre": "house"}, headers={"origin": "https://evil.example"}
        ).status_code
        == 403
    )
    assert one(cli.db, "SELECT count(*) FROM corrections") == 0


def test_only_posts_change_anything(pages):
    for path in ("/-/correct?id=1&genre=house", "/-/undo?id=1"):
        assert pages.get(path).status_code == 405


def test_undo_puts_back_what_stood_there(pages, cli, music_folder):
    cli("scan", music_folder)
    track = id_of(cli, "mp3.mp3")
    assert pages.json(f"/library/tracks/{track}.json")["indexer_genre"]
    assert pages.post("/-/undo", {"id": track}).json() == {"undone": 1}
    found = pages.json(f"/library/tracks/{track}.json")
    assert found["tag_genre"] is None
    assert [entry["action"] for entry in found["journal"]] == ["undo", "write"]


def test_an_undo_beside_a_scan_says_that_it_must_wait(pages, cli, music_folder):
    from indexer.library.lock import library_lock

    cli("scan", music_folder)
    with library_lock(cli.db):
        answer = pages.post("/-/undo", {"id": id_of(cli, "mp3.mp3")})
    assert answer.status_code == 409
    assert "another indexer" in answer.json()["error"]


# ---- review


def test_review_tells_undecided_tracks_one_recording_each(cli, music_folder):
    (music_folder / "copy.mp3").write_bytes((music_folder / "mp3.mp3").read_bytes())
    cli("scan", music_folder, "--no-tags", env={"INDEXER_MIN_CONFIDENCE": "1"})
    pages = Pages(cli.db)
    tracks = pages.json("/-/review.json")["tracks"]
    assert len(tracks) == len({track["recording_id"] for track in tracks}) == 6
    assert set(tracks[0]["scores"]) == {"ambient", "drum and bass", "house", "techno", "trance"}
    skipped = [track["recording_id"] for track in tracks[:2]]
    rest = pages.json(f"/-/review.json?skip={skipped[0]},{skipped[1]}")
    assert {track["id"] for track in rest["tracks"]} == {track["id"] for track in tracks[2:]}
    assert (rest["total"], rest["exact"]) == (4, True)
    pages.post("/-/correct", {"id": tracks[0]["id"], "genre": "house"})
    rest = pages.json("/-/review.json")["tracks"]
    assert {track["id"] for track in rest} == {track["id"] for track in tracks[1:]}
    assert pages.json("/-/review.json?what=disagreements") == {"tracks": [], "total": 0, "exact": True}
    assert pages.get("/-/review.json?what=everything").status_code == 400
    assert pages.get("/-/review.json?skip=1,x").status_code == 400


# ---- sound


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, (0, 100)),
        ("bytes=0-", (0, 100)),
        ("bytes=10-19", (10, 20)),
        ("bytes=90-200", (90, 100)),
        ("bytes=-10", (90, 100)),
        ("bytes=-200", (0, 100)),
        ("bytes=100-", None),
        ("bytes=20-10", None),
        ("bytes=-0", None),
        ("bytes=0-1,5-6", (0, 100)),
        ("lines=1-2", (0, 100)),
        ("bytes=-", (0, 100)),
        ("", (0, 100)),
    ],
)
def test_ranges(header, expected):
    assert sound.parse_range(header, 100) == expected


def test_sound_comes_whole_and_in_ranges(pages, cli, music_folder):
    track, content = id_of(cli, "mp3.mp3"), (music_folder / "mp3.mp3").read_bytes()
    whole = pages.get(f"/-/sound/{track}")
    assert (whole.status_code, whole.content, whole.headers["content-type"]) == (200, content, "audio/mpeg")
    assert whole.headers["accept-ranges"] == "bytes"
    part = pages.get(f"/-/sound/{track}", headers={"range": "bytes=1000-1999"})
    assert (part.status_code, part.content) == (206, content[1000:2000])
    assert part.headers["content-range"] == f"bytes 1000-1999/{len(content)}"
    beyond = pages.get(f"/-/sound/{track}", headers={"range": f"bytes={len(content)}-"})
    assert (beyond.status_code, beyond.headers["content-range"]) == (416, f"bytes */{len(content)}")
    stale = pages.get(f"/-/sound/{track}", headers={"range": "bytes=0-9", "if-range": '"other"'})
    assert (stale.status_code, len(stale.content)) == (200, len(content))
    head = pages.ask("HEAD", f"/-/sound/{track}")
    assert (head.content, head.headers["content-length"]) == (b"", str(len(content)))


def test_sound_never_leaves_the_music_folders(pages, cli, music_folder, tmp_path):
    secret = tmp_path / "secret.mp3"
    secret.write_bytes(b"not for you")
    track = id_of(cli, "mp3.mp3")
    for path in (
        f"{music_folder}/../secret.mp3",
        f"{music_folder}/album/../../secret.mp3",
        str(secret),
        f"{music_folder}-other/x.mp3",
        f"{music_folder}/",
    ):
        with closing(sqlite3.connect(cli.db)) as conn:
            conn.execute("UPDATE files SET path = ? WHERE id = ?", (os.fsencode(path), track))
            conn.commit()
        assert pages.get(f"/-/sound/{track}").status_code == 404, path
    for path in (
        "/-/sound/../../etc/passwd",
        "/-/sound/%2e%2e%2fsecret.mp3",
        "/-/sound/1%00",
        "/-/sound/-1",
        f"/-/sound/{10**30}",
    ):
        answer = pages.get(path, follow_redirects=False)  # Datasette redirects a spelling of its own
        assert answer.status_code in (302, 404), path
        assert b"not for you" not in answer.content


def test_sound_follows_no_link_that_was_put_in_a_files_place(pages, cli, music_folder, tmp_path):
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "wav.wav").write_bytes(b"not for you")
    (music_folder / "mp3.mp3").unlink()
    (music_folder / "mp3.mp3").symlink_to(secret / "wav.wav")
    (music_folder / "album").rename(tmp_path / "gone")
    (music_folder / "album").symlink_to(secret)
    (music_folder / "flac.flac").unlink()
    os.mkfifo(music_folder / "flac.flac")
    for name in ("mp3.mp3", "wav.wav", "flac.flac"):
        assert pages.get(f"/-/sound/{id_of(cli, name)}").status_code == 404


def test_a_file_that_was_named_by_itself_has_no_folder_to_be_played_from(cli, music_folder):
    cli("scan", music_folder / "mp3.mp3", "--no-tags")
    pages = Pages(cli.db)
    assert pages.get("/-/sound/1").status_code == 404
    assert "Not playable here" in pages.get("/library/tracks/1").text


# ---- what must never happen

HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "javascript:alert(1)",
    "'; DROP TABLE files; --",
    "\u202egnp.exe",
    "=1+1",
    "x" * 10_000,
)


def test_hostile_texts_are_texts_on_every_page(pages, cli):
    with closing(sqlite3.connect(cli.db)) as conn:
        conn.create_function("tag_disagrees", 2, lambda *_: 1)
        for file_id, text in zip(range(1, 7), HOSTILE, strict=False):
            conn.execute(
                "UPDATE tags SET title = ?1, artist = ?1, album = ?1, genre = ?1, comment = ?1 WHERE file_id = ?2",
                (text, file_id),
            )
            conn.execute("UPDATE files SET path_text = ?1 || id WHERE id = ?2", (text, file_id))
        conn.execute("UPDATE heads SET name = ?", (HOSTILE[0],))
        conn.commit()
    for path in (
        "/",
        "/-/review",
        "/library/tracks",
        "/library/disagreements",
        "/library/duplicates",
        *(f"/library/tracks/{n}" for n in range(1, 7)),
    ):
        page = pages.get(path)
        assert page.status_code == 200, path
        assert "<script>alert" not in page.text, path
        assert "<img src=x" not in page.text, path
        assert not re.search(r"""(href|src)=["']?javascript:""", page.text), path
    cells = pages.get("/library/tracks.csv?_size=max").text
    assert "'=1+1" in cells
    assert not re.search(r"(?m)(^|,)=1", cells)


@pytest.mark.parametrize("path", ["/nothing", "/library/nothing", "/library/tracks/999", "/library/tracks/x"])
def test_what_is_not_there_leads_on(pages, path):
    answer = pages.get(path)
    assert answer.status_code == 404
    assert "There is nothing here" in answer.text
    assert 'action="/-/tracks"' in answer.text
    assert '<a class="ix-button" href="/-/review">' in answer.text
    assert "unsafe-inline" not in answer.headers["content-security-policy"]
    assert pages.get(f"{path}.json").status_code == 404


@pytest.mark.parametrize("sql", ["select fro tracks", "update files set id = 1", "select 1 where '</textarea><b>'"])
def test_a_wrong_query_keeps_its_text(pages, sql):
    page = pages.get("/library", params={"sql": sql})
    assert page.status_code in (200, 400)
    text = re.search(r"(?s)<textarea[^>]*>(.*?)</textarea>", page.text)[1].strip()
    assert html.unescape(text) == sql
    assert '<nav class="ix-nav"' in page.text


def test_a_fault_of_ours_is_a_page_without_a_traceback(pages, monkeypatch, capsys):
    async def broken(*_):
        raise RuntimeError("a secret of the program")

    monkeypatch.setattr("indexer.web.overview.figures", broken)
    answer = pages.get("/")
    assert answer.status_code == 500
    assert "Something went wrong here" in answer.text
    assert "secret" not in answer.text
    assert "a secret of the program" in capsys.readouterr().err


def test_our_pages_run_no_inline_script(pages):
    for path in ("/", "/-/review", "/library/tracks/1"):
        answer = pages.get(path)
        assert "unsafe-inline" not in answer.headers["content-security-policy"]
        assert not re.search(r"<script(?![^>]*(src=|application/json))", answer.text), path
        assert not re.search(r"<style|\sstyle=|\son[a-z]+=", answer.text), path
        assert not re.search(r"""(src|href)=["'](https?:)?//(?!datasette\.io)""", answer.text), path


def test_the_password_is_told_nowhere(cli, music_folder):
    cli("scan", music_folder / "mp3.mp3", "--no-tags")
    pages = Pages(cli.db, password="correct horse")
    for path in ("/", "/-/metadata.json", "/-/settings.json", "/-/plugins.json", "/-/config.json", "/library.json"):
        assert pages.get(path).status_code == 401
        assert "correct horse" not in pages.get(path, headers={"authorization": "Bearer correct horse"}).text


def test_another_datasette_gets_no_pages_of_ours(tmp_path):
    from datasette.app import Datasette

    async def home():
        datasette = Datasette(memory=True)
        await datasette.invoke_startup()
        return [(await datasette.client.get(path)).status_code for path in ("/", "/-/review", "/-/sound/1")]

    assert asyncio.run(home()) == [200, 404, 404]
