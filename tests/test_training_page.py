"""From Review to result: what is asked about without a model, and a training that the pages begin, follow and end."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest

from indexer import config
from indexer.config import load_settings
from indexer.library.lock import library_lock
from indexer.upkeep.demo import Track, write_track
from indexer.web.serve import make_datasette
from tests.helpers.contents import contents, genre_of
from tests.helpers.daemons import Watching
from tests.helpers.labelled import sql
from tests.helpers.pages import Pages, one

HERE = {"host": "127.0.0.1:8001"}
LIMIT_S = 60.0


def with_server(cli, work, **settings):
    """Run ``work(ask, datasette)`` against one server; ask(path, values=None) returns an answer."""

    async def run():
        datasette = make_datasette(load_settings(None, settings, cli.environ))
        await datasette.invoke_startup()

        async def ask(path, values=None, headers=HERE):
            if values is None:
                return await datasette.client.get(path, headers=headers)
            return await datasette.client.post(path, json=values, headers=headers)

        return await work(ask, datasette)

    return asyncio.run(run())


async def until(ask, wanted):
    """The state of the training page once ``wanted(job)`` holds."""
    end_s = time.monotonic() + LIMIT_S
    while True:
        found = (await ask("/-/train.json")).json()
        if wanted(found["job"]):
            return found
        assert time.monotonic() < end_s, found["job"]
        await asyncio.sleep(0.05)


def ended(job):
    return job["state"] != "running"


def kind_of(track):
    return track["title"].rpartition(" ")[0]


async def label(ask, each):
    """Label so many tracks of each kind that Review asks about; returns the others."""
    left = []
    said = Counter()
    for track in (await ask("/-/review.json")).json()["tracks"]:
        if said[kind_of(track)] == each:
            left.append(track)
            continue
        said[kind_of(track)] += 1
        answer = await ask("/-/correct", {"id": track["id"], "genre": kind_of(track)})
        assert answer.json()["genre"] == kind_of(track)
    return left


# ---- review without a model


def test_without_a_model_the_most_different_tracks_are_asked_about_first(unlabelled):
    cli, _ = unlabelled
    pages = Pages(cli.db)
    found = pages.json("/-/review.json")
    assert (found["total"], found["exact"], len(found["tracks"])) == (12, True, 12)
    first, second, *_ = found["tracks"]
    assert kind_of(first) != kind_of(second)
    assert (first["genre"], first["scores"], first["media_type"]) == (None, {}, "audio/flac")
    pages.post("/-/correct", {"id": first["id"], "genre": "house"})
    again = pages.json("/-/review.json")
    assert again["total"] == 11
    assert kind_of(again["tracks"][0]) == kind_of(second)  # unlike what is known


def test_tracks_that_are_not_embedded_come_last(unlabelled):
    cli, _ = unlabelled
    sql(cli.db, "DELETE FROM embeddings WHERE recording_id = 1")
    found = [track["recording_id"] for track in Pages(cli.db).json("/-/review.json")["tracks"]]
    assert (len(found), found[-1]) == (12, 1)
    sql(cli.db, "DELETE FROM embeddings")
    assert len(Pages(cli.db).json("/-/review.json")["tracks"]) == 12


# ---- training


def test_from_labels_to_genres_in_the_files(unlabelled):
    """Nothing is written before the second order."""
    cli, music = unlabelled
    before = contents(music)

    async def work(ask, _datasette):
        left = await label(ask, 5)
        asked = (await ask("/-/train.json")).json()
        assert (asked["job"], asked["head"]) == (None, None)
        assert asked["labels"] == {"ambient": 5, "drum and bass": 5}
        assert asked["needed"] == 5
        assert (await ask("/-/train", {"do": "train"})).status_code == 202
        trained = await until(ask, ended)
        job = trained["job"]
        assert (job["state"], job["error"]) == ("done", None)
        assert job["learned"]["recordings"] == 10
        assert job["applied"]["classified"] == 12
        assert trained["head"]["metrics"]["recordings"] == 10
        assert "learn from its artist" in trained["head"]["honest"]
        assert job["preview"]["tag_writes"] == len(job["preview"]["writes"]) == 12
        assert contents(music) == before
        assert (await ask("/-/review.json")).json()["tracks"] == []  # all is decided: min_confidence is 0
        await ask("/-/train", {"do": "write"})
        job = (await until(ask, ended))["job"]
        assert (job["do"], job["state"], job["written"]["tags_written"]) == ("write", "done", 12)
        assert job["preview"] is None  # the library has changed since
        await ask("/-/train", {"do": "look"})
        job = (await until(ask, ended))["job"]
        assert (job["state"], job["preview"]["tag_writes"]) == ("done", 0)
        for track in left:
            assert genre_of(music.parent / track["path"]) in ("Ambient", "Drum and Bass")

    with_server(cli, work)
    assert contents(music) != before


def test_the_labels_that_are_missing_are_named_in_one_line(unlabelled):
    cli, _ = unlabelled

    async def work(ask, _datasette):
        await label(ask, 2)
        await ask("/-/train", {"do": "train"})
        job = (await until(ask, ended))["job"]
        assert job["state"] == "failed"
        assert "too few labels: two genres need 5" in job["error"]
        assert "\n" not in job["error"]

    with_server(cli, work)


def test_while_another_works_on_the_library_a_training_waits_alone_and_is_cancelled(unlabelled):
    cli, _ = unlabelled

    async def work(ask, datasette):
        with library_lock(cli.db):
            assert (await ask("/-/train", {"do": "train"})).status_code == 202
            job = (await until(ask, lambda job: job["step"] == "waiting"))["job"]
            assert f"another indexer (process {os.getpid()}) is working on this library" in job["reason"]
            second = await ask("/-/train", {"do": "write"})
            assert (second.status_code, second.json()["error"]) == (409, "a training is going on already")
            await ask("/-/train", {"do": "cancel"})
            assert (await until(ask, ended))["job"]["state"] == "cancelled"
        assert datasette.indexer_trainer._process is None

    with_server(cli, work)
    assert one(cli.db, "SELECT count(*) FROM heads") == 0


def test_a_training_that_is_killed_is_one_line_and_the_next_one_works(unlabelled):
    cli, _ = unlabelled

    async def work(ask, datasette):
        with library_lock(cli.db):
            await ask("/-/train", {"do": "train"})
            await until(ask, lambda job: job["step"] == "waiting")
            datasette.indexer_trainer._process.kill()
            job = (await until(ask, ended))["job"]
        assert job["state"] == "failed"
        assert job["error"] == ("the process that did it ended unexpectedly (SIGKILL); nothing has changed; try again")
        await ask("/-/train", {"do": "train"})
        assert "no recording has a label" in (await until(ask, ended))["job"]["error"]

    with_server(cli, work)


@pytest.mark.slow_first
def test_a_running_daemon_takes_up_what_was_trained(unlabelled):
    """It works on the library now and then; the training waits for it, and afterwards it knows the new head."""
    cli, music = unlabelled

    async def work(ask, _datasette):
        with Watching(cli, music) as watch:
            watch.until_idle()
            await label(ask, 5)  # each asks the daemon for a scan
            assert (await ask("/-/train.json")).json()["watched"] is True
            await ask("/-/train", {"do": "train"})
            trained = await until(ask, ended)
            assert (trained["job"]["state"], trained["job"]["error"]) == ("done", None)
            new = music / "artist 0" / "new.flac"
            write_track(Track(new, "ambient", 77, 3.0, "new", "artist 0", labelled=False))
            watch.until(lambda: watch.states_of(new) == "ready" and genre_of(new))
            heads = watch.rows(
                "SELECT h.name FROM predictions p JOIN heads h ON h.id = p.head_id JOIN files f USING (recording_id)"
                " WHERE f.path_text LIKE '%new.flac'"
            )
            assert heads == [(trained["head"]["name"],)]
            await ask("/-/train", {"do": "write"})
            assert (await until(ask, ended))["job"]["state"] == "done"
            assert all(genre_of(path) for path in music.rglob("*.flac"))

    with_server(cli, work)


def test_nothing_but_the_orders_is_accepted_and_only_from_a_page_of_ours(unlabelled):
    cli, _ = unlabelled

    async def work(ask, datasette):
        assert (await ask("/-/train")).status_code == 405
        assert (await ask("/-/train", {"do": "rm"})).status_code == 400
        assert (await ask("/-/train", {})).status_code == 400
        assert (await ask("/-/train", {"do": "cancel"})).json() == {"job": None}
        for foreign in ({"origin": "https://evil.example"}, {"origin": "http://127.0.0.1:8001"}):  # ours, but no token
            assert (await ask("/-/train", {"do": "train"}, {**HERE, **foreign})).status_code == 403
        token = {"cookie": "ds_csrftoken=x", "origin": "http://127.0.0.1:8001", "x-csrftoken": "y"}
        assert (await ask("/-/train", {"do": "train"}, {**HERE, **token})).status_code in (400, 403)
        assert datasette.indexer_trainer.job is None

    with_server(cli, work)


@pytest.mark.parametrize(
    ("do", "how"), [("train", "end of stdin"), ("train", "SIGTERM to all"), ("write", "end of stdin")]
)
def test_the_process_ends_with_the_server(unlabelled, do, how):
    cli, _ = unlabelled
    process = subprocess.Popen(
        [sys.executable, "-m", "indexer.upkeep.train_process"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with library_lock(cli.db):
        settings = config.to_json(load_settings(None, {}, cli.environ))
        process.stdin.write(f"{json.dumps(settings)}\n{json.dumps({'do': do})}\n".encode())
        process.stdin.flush()
        while json.loads(process.stdout.readline()).get("step") != "waiting":
            pass
        if how == "SIGTERM to all":
            process.send_signal(signal.SIGTERM)
        process.stdin.close()
        out, err = process.stdout.read(), process.stderr.read()
    assert (process.wait(20), err) == (0, b"")
    assert json.loads(out.splitlines()[-1]) == {"state": "cancelled"}
    process.stdout.close()
    process.stderr.close()


def test_without_a_head_the_usual_genres_have_their_colours(unlabelled):
    cli, music = unlabelled
    cli("correct", music / "artist 0" / "ambient 0.flac", "ambient")

    async def work(ask, _datasette):
        return [(await ask(path)).text for path in ("/", "/-/tracks")] + [(await ask("/-/map.bin")).content]

    overview, tracks, points = with_server(cli, work)
    assert "ix-g0" in overview
    assert "ix-g0" in tracks
    assert json.loads(points.partition(b"\n")[0])["labels"][0] == "ambient"
