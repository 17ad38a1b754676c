"""Uploads: classified at once, nothing stored, nothing left behind.

Whatever is sent, and also when the client or the process that classifies dies meanwhile.
"""

import asyncio
import http.client
import io
import itertools
import json
import os
import signal
import socket
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from indexer.errors import FileError
from indexer.listen import classify_process
from indexer.web import bodies, classify
from tests.helpers.synth import write_audio
from tests.helpers.uploads import post, post_all, with_server


def test_an_upload_is_classified_as_the_command_line_does(cli, music_folder, track):
    """With M2D: torch is in the process that classifies."""
    cli("scan", music_folder / "mp3.mp3", "--no-tags")
    scanned, before = cli, cli.db.read_bytes()
    answer = post(scanned, files={"file": ("my track.mp3", track.read_bytes())})
    assert answer.status_code == 200
    found = answer.json()
    (expected,) = scanned.json("classify", track)
    assert found["path"] == "my track.mp3"
    assert {key: value for key, value in found.items() if key in expected and key != "path"} == {
        key: value for key, value in expected.items() if key != "path"
    }
    assert found["duration_s"] == pytest.approx(20, abs=0.1)
    assert found["labels"] == ["ambient", "drum and bass", "house", "techno", "trance"]
    assert len(found["timeline"]) >= 2
    assert scanned.db.read_bytes() == before


def test_a_body_may_be_the_file(scanned, track):
    body, form = post_all(
        scanned,
        [
            {"content": track.read_bytes(), "headers": {"content-type": "audio/mpeg"}},
            {"files": {"file": track.read_bytes()}},
        ],
    )
    assert body.json()["scores"] == form.json()["scores"]


def test_progress_is_told_a_line_each(scanned, tmp_path, monkeypatch):
    long = write_audio(tmp_path / "long", "flac", 120.0, seed=4)
    answer = post(scanned, files={"file": long.read_bytes()}, headers={"accept": "application/x-ndjson"})
    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert answer.headers["content-type"].startswith("application/x-ndjson")
    assert "result" in lines[-1]
    shares = [line["progress"] for line in lines[:-1]]
    assert shares == sorted(shares)
    assert all(0 < share < 1 for share in shares)


def test_what_is_no_sound_is_one_line(scanned, tmp_path):
    half = write_audio(tmp_path / "whole", "wav", 5.0).read_bytes()[:20_000]
    contents = {
        b"no music" * 1000: "not audio",
        b"\0" * 5000: "",
        b"<html><body>hello</body></html>" * 50: "not audio",
        half: "truncated",
    }
    answers = post_all(scanned, [{"files": {"file": ("x.mp3", content)}} for content in contents])
    for answer, reason in zip(answers, contents.values(), strict=True):
        assert answer.status_code == 422
        assert list(answer.json()) == ["error"]
        assert reason in answer.json()["error"]
        assert "\n" not in answer.json()["error"]


def test_a_request_without_a_file_is_refused(scanned):
    answers = post_all(
        scanned,
        [
            {},
            {"content": b""},
            {"data": {"file": "text, no file"}},
            {"files": {"other": b""}},
            {"content": b"--x\r\nnonsense", "headers": {"content-type": "multipart/form-data; boundary=x"}},
        ],
    )
    for answer in answers:
        assert answer.status_code in (400, 422)
        assert answer.json()["error"]


def test_one_file_a_request(scanned, track):
    answer = post(scanned, files=[("file", ("a.mp3", track.read_bytes())), ("file", ("b.mp3", track.read_bytes()))])
    assert (answer.status_code, answer.json()["error"]) == (400, "one file a request, please")


def test_too_large_is_refused_while_it_comes(scanned, track, monkeypatch):
    monkeypatch.setattr(classify, "MAX_UPLOAD_BYTES", 1000)
    answer = post(scanned, files={"file": b"\0" * (2 << 20)})
    assert answer.status_code == 413
    assert post(scanned, files={"file": b"\0" * 1001}).status_code == 413


def test_too_long_is_refused_whatever_the_file_claims():
    def blocks():
        for _ in range(10):
            yield [0.0] * 3600

    watched = classify_process._watched(blocks(), 1, lambda: False, lambda _share: None)
    assert [decoded_s for decoded_s, _ in itertools.islice(watched, 2)] == [3600, 7200]
    with pytest.raises(FileError, match="longer than 2 hours"):
        next(watched)


def test_a_hostile_name_is_a_name(scanned, track):
    names = ("../../etc/passwd", "<script>alert(1)</script>.mp3", "a\x1b[31mb.mp3", "x" * 1000, "\u202egnp.mp3")
    for found in post_all(scanned, [{"files": {"file": (name, track.read_bytes())}} for name in names]):
        assert found.status_code == 200
        assert len(found.json()["path"]) <= 300
        assert "\x1b" not in found.json()["path"]


def test_only_so_many_at_a_time(scanned, track, monkeypatch):
    monkeypatch.setattr(classify, "MAX_UPLOADS", 2)

    async def work(client, _datasette):
        asked = [
            client.post(
                "/-/classify.json", files={"file": track.read_bytes()}, headers={"host": "localhost"}, timeout=60
            )
            for _ in range(4)
        ]
        return await asyncio.gather(*asked)

    answers = with_server(scanned, work)
    assert sorted(a.status_code for a in answers) == [200, 200, 503, 503]
    busy = next(a for a in answers if a.status_code == 503)
    assert int(busy.headers["retry-after"]) > 0
    assert post(scanned, files={"file": track.read_bytes()}).status_code == 200


def test_an_upload_that_stalls_is_dropped(monkeypatch):
    monkeypatch.setattr(bodies, "FREE_S", 0.05)

    async def never():
        await asyncio.sleep(10)

    with pytest.raises(bodies.BodyError, match="slowly") as dropped:
        asyncio.run(classify.receive_upload({}, bodies.paced(never), io.BytesIO()))
    assert dropped.value.status == 408


def test_a_full_disk_is_one_line():
    class Full(io.BytesIO):
        def write(self, _piece):
            raise OSError(28, "No space left on device")

    async def receive():
        return {"type": "http.request", "body": b"x", "more_body": False}

    with pytest.raises(classify.UploadError, match="disk is full") as refused:
        asyncio.run(classify.receive_upload({}, receive, Full()))
    assert refused.value.status == 507


def test_the_process_dies_in_the_middle_and_the_next_upload_works(scanned, track):
    async def work(client, datasette):
        async def ask():
            return await client.post(
                "/-/classify.json", files={"file": track.read_bytes()}, headers={"host": "localhost"}, timeout=60
            )

        first = asyncio.create_task(ask())
        while not (process := getattr(datasette, "indexer_classifier", None) and datasette.indexer_classifier._process):
            await asyncio.sleep(0.01)
        process.kill()
        return await first, await ask()

    died, works = with_server(scanned, work)
    assert (died.status_code, died.json()) == (500, {"error": "the classifying process ended in the middle; try again"})
    assert works.status_code == 200


def test_the_process_leaves_when_it_idles_and_comes_back(scanned, track):
    async def work(client, datasette):
        async def ask():
            return (
                await client.post(
                    "/-/classify.json", files={"file": track.read_bytes()}, headers={"host": "localhost"}, timeout=60
                )
            ).status_code

        answers = [await ask()]
        end = time.monotonic() + 20
        while datasette.indexer_classifier._process is not None:
            assert time.monotonic() < end, "it did not leave"
            await asyncio.sleep(0.05)
        return [*answers, await ask()]

    assert with_server(scanned, work, unload_after_s=0.3) == [200, 200]


def test_without_genres_the_page_and_the_answer_say_what_is_missing(bare_cli, music_folder, track):
    bare_cli("scan", music_folder / "mp3.mp3")
    answer = post(bare_cli, files={"file": track.read_bytes()})
    assert answer.status_code == 409

    async def work(client, _datasette):
        return (await client.get("/-/classify", headers={"host": "localhost"})).text

    page = with_server(bare_cli, work)
    assert answer.json()["error"].split(":")[0] in page
    assert "<input" not in page


def test_no_upload_outlives_the_server(scanned, tmp_path):
    """The real process, killed in the middle of an upload."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = scanned.process("serve", "--port", port)
    try:
        end = time.monotonic() + 30
        while True:
            try:
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
                connection.connect()
                break
            except OSError:
                assert time.monotonic() < end
                time.sleep(0.1)
        connection.putrequest("POST", "/-/classify.json")
        connection.putheader("Content-Type", "audio/mpeg")
        connection.putheader("Content-Length", str(50 << 20))
        connection.endheaders()
        connection.send(b"\0" * (5 << 20))

        def uploaded():
            sizes = [
                os.stat(f"/proc/{server.pid}/fd/{n}").st_size
                for n in os.listdir(f"/proc/{server.pid}/fd")
                if str(scanned.folder) in os.readlink(f"/proc/{server.pid}/fd/{n}")
                and "deleted" in os.readlink(f"/proc/{server.pid}/fd/{n}")
            ]
            return max(sizes, default=0)

        while uploaded() < 4 << 20:
            assert time.monotonic() < end, "the upload did not arrive"
            time.sleep(0.05)
        server.send_signal(signal.SIGKILL)
        server.wait(10)
    finally:
        server.kill()
        server.communicate(timeout=10)
    left = {path.name for path in Path(scanned.folder).iterdir()}
    assert {name for name in left if not name.startswith("library.db")} <= {"models"}


@pytest.mark.slow_first
def test_a_client_that_goes_away_ends_its_order(scanned, tmp_path):
    noise = np.random.default_rng(5).uniform(-0.5, 0.5, 1200 * 8000)  # seconds x samples a second: minutes of work
    soundfile.write(tmp_path / "long.wav", noise, 8000, subtype="PCM_U8")
    long = (tmp_path / "long.wav").read_bytes()

    async def work(_client, datasette):
        datasette_app = datasette.app()
        sent, messages = [], [{"type": "http.request", "body": long, "more_body": False}]

        async def receive():
            if messages:
                return messages.pop(0)
            while not any(b"progress" in message.get("body", b"") for message in sent):
                await asyncio.sleep(0.01)
            return {"type": "http.disconnect"}

        async def send(message):
            sent.append(message)

        scope = {
            "type": "http",
            "method": "POST",
            "path": "/-/classify.json",
            "raw_path": b"/-/classify.json",
            "query_string": b"",
            "scheme": "http",
            "headers": [
                (b"host", b"localhost"),
                (b"accept", b"application/x-ndjson"),
                (b"content-type", b"audio/wav"),
            ],
        }
        await asyncio.wait_for(datasette_app(scope, receive, send), 30)
        return sent, datasette.indexer_classifier.uploads, dict(datasette.indexer_classifier._waiting)

    sent, uploads, waiting = with_server(scanned, work)
    assert not any(b"result" in message.get("body", b"") for message in sent)
    assert (uploads, waiting) == (0, {})
