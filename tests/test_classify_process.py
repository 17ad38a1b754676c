"""The process that classifies uploads: it takes the library's present model and ends with its server.

The server survives when it dies or hangs.
"""

import asyncio
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from indexer import config
from indexer.config import load_settings
from indexer.encoders.load import load_encoder
from indexer.heads.linear import LinearHead
from indexer.listen.classify_process import _share
from indexer.web import classify
from tests.helpers.cli import LABELS, Cli
from tests.helpers.synth import write_audio
from tests.helpers.uploads import post, with_server

HERE = {"host": "localhost"}


def start(settings):
    process = subprocess.Popen(
        [sys.executable, "-m", "indexer.listen.classify_process"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    tell(process, config.to_json(settings))
    return process


def tell(process, message):
    process.stdin.write(json.dumps(message).encode() + b"\n")
    process.stdin.flush()


def heard(process):
    return json.loads(process.stdout.readline())


@pytest.fixture
def long_file(tmp_path):
    """Ten minutes that state no length: frames of raw AAC follow each other."""
    path = write_audio(tmp_path / "long", "aac", 30.0, seed=8)
    path.write_bytes(20 * path.read_bytes())
    return path


@pytest.fixture
def process(quick_cli):
    found = start(load_settings(None, {"unload_after_s": 60}, quick_cli.environ))
    yield found
    found.kill()
    found.wait()
    for pipe in (found.stdin, found.stdout, found.stderr):
        pipe.close()


def test_the_end_of_the_server_ends_the_work_without_a_word(process, long_file):
    tell(process, {"id": 1, "path": str(long_file), "name": "x"})
    assert heard(process)["id"] == 1
    process.stdin.close()
    assert b"result" not in process.stdout.read()
    assert (process.wait(10), process.stderr.read()) == (0, b"")


def test_nobody_who_listens_is_no_traceback(process, long_file):
    """The server was killed, and the end of stdin comes after a word of progress that nobody can read."""
    tell(process, {"id": 1, "path": str(long_file), "name": "x"})
    assert heard(process)["id"] == 1
    process.stdout.close()
    time.sleep(1)
    process.stdin.close()
    assert (process.wait(10), process.stderr.read()) == (0, b"")


def test_it_leaves_by_itself_without_a_word(quick_cli):
    process = start(load_settings(None, {"unload_after_s": 0.1}, quick_cli.environ))
    with process:
        assert (process.wait(30), process.stderr.read()) == (0, b"")


def test_what_is_cancelled_leaves_the_next_order_alone(process, long_file, track):
    tell(process, {"id": 1, "path": str(long_file), "name": "x"})
    tell(process, {"id": 2, "path": str(track), "name": "y"})
    assert heard(process)["progress"] is None
    tell(process, {"cancel": 1})
    told = []
    while not told or "progress" in told[-1]:
        told.append(heard(process))
    assert told[-1] == {"id": 1, "error": "cancelled", "kind": "cancelled"}
    while "result" not in (message := heard(process)):
        assert message["id"] == 2
    assert message["result"]["duration_s"] == pytest.approx(20, abs=0.1)


def test_a_length_that_no_file_states_is_told_as_heard(process, long_file):
    tell(process, {"id": 1, "path": str(long_file), "name": "x"})
    told = []
    while not told or "progress" in told[-1]:
        told.append(heard(process))
    assert {message["progress"] for message in told[:-1]} == {None}
    seconds = [message["heard_s"] for message in told[:-1]]
    assert seconds == sorted(seconds)
    assert told[-1]["result"]["duration_s"] == pytest.approx(600, abs=4)


@pytest.mark.parametrize(
    ("done", "share"),
    [
        ((0, 30.0, 60.0, 1), 0.5),
        ((0, 30.0, 60.0, 2), 0.25),
        ((1, 30.0, 60.0, 2), 0.75),
        ((0, 90.0, 60.0, 2), 0.5),
        ((1, 60.0, 60.0, 2), 0.99),
        ((0, 9.0, 0.0, 1), None),
    ],
)
def test_several_encoders_share_the_progress(done, share):
    assert _share(*done) == share


def test_a_head_that_was_trained_meanwhile_counts_at_once(tmp_path, music_folder, track):
    encoder = load_encoder("rhythm")
    heads = []
    for seed in (1, 2):
        path = tmp_path / f"head{seed}.safetensors"
        weights = np.random.default_rng(seed).standard_normal((5, encoder.width)).astype(np.float32) / 20
        LinearHead(f"head {seed}", encoder.id, LABELS, 0.5, weights, np.zeros(5, np.float32)).save(path)
        heads.append(path)
    (tmp_path / "state").mkdir()
    cli = Cli(tmp_path / "state", None)
    cli("scan", music_folder / "mp3.mp3", "--no-tags", "--encoder", "rhythm", "--head", heads[0])

    async def work(client, datasette):
        async def ask():
            answer = await client.post("/-/classify.json", files={"file": track.read_bytes()}, headers=HERE, timeout=60)
            return answer.json()["head"], answer.json()["scores"], datasette.indexer_classifier._process.pid

        first = await ask()
        cli("scan", music_folder / "mp3.mp3", "--no-tags", "--head", heads[1])
        return first, await ask()

    first, second = with_server(cli, work)
    assert (first[0], second[0]) == ("head 1", "head 2")
    assert first[1] != second[1]
    assert first[2] == second[2]


def test_only_the_upload_in_work_dies_with_the_process(scanned, long_file, track):
    async def work(client, datasette):
        def ask(path):
            return asyncio.create_task(
                client.post("/-/classify.json", files={"file": path.read_bytes()}, headers=HERE, timeout=60)
            )

        first = ask(long_file)
        while not (found := getattr(datasette, "indexer_classifier", None)) or not found._process:
            await asyncio.sleep(0.01)
        others = [ask(track), ask(track)]
        while len(found._waiting) < 3:
            await asyncio.sleep(0.01)
        found._process.kill()
        return [answer.status_code for answer in await asyncio.gather(first, *others)]

    assert with_server(scanned, work) == [500, 200, 200]


def test_a_process_that_hangs_is_replaced(scanned, long_file, track, monkeypatch):
    monkeypatch.setattr(classify, "SILENCE_LIMIT_S", 4.0)

    async def work(client, datasette):
        async def ask(path):
            return (
                await client.post("/-/classify.json", files={"file": path.read_bytes()}, headers=HERE, timeout=60)
            ).status_code

        first = asyncio.create_task(ask(long_file))
        while not (found := getattr(datasette, "indexer_classifier", None)) or not found._process:
            await asyncio.sleep(0.01)
        os.kill(found._process.pid, signal.SIGSTOP)
        return await asyncio.wait_for(first, 60), await ask(track)

    assert with_server(scanned, work) == (500, 200)


def test_what_the_device_raises_is_one_line_and_the_process_goes_on(quick_cli):
    """The working process itself, with a device that fails when the model is loaded."""
    code = (
        "from indexer.listen import classify_process\n"
        "def fail(*_):\n    raise RuntimeError('CUDA error:\\nout of memory')\n"
        "classify_process.FileClassifier = fail\nclassify_process.main()\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with process:
        tell(process, config.to_json(load_settings(None, {}, quick_cli.environ)))
        for number in (5, 6):
            tell(process, {"id": number, "path": "/nowhere", "name": "x"})
            assert heard(process) == {
                "id": number,
                "error": "classifying failed (RuntimeError: CUDA error: out of memory)",
                "kind": "died",
            }


def test_without_genres_nothing_is_read(bare_cli, music_folder):
    bare_cli("scan", music_folder / "mp3.mp3")
    pieces = []

    async def body():
        pieces.append(b"x")
        yield b"x" * 1000

    assert post(bare_cli, content=body()).status_code == 409
    assert pieces == []


def test_a_form_with_an_impossible_boundary_is_refused(scanned):
    answer = post(scanned, content=b"x", headers={"content-type": f"multipart/form-data; boundary={'x' * 300}"})
    assert (answer.status_code, answer.json()) == (400, {"error": "the form cannot be read"})


def test_named_files_of_a_killed_server_are_removed_by_the_next(tmp_path, monkeypatch):
    """Where an upload needs a name, which no system with /proc does."""
    monkeypatch.setattr(classify.Path, "exists", lambda self: False)
    settings = load_settings(None, {"db": tmp_path / "library.db"}, {})
    orphan, alive = (tmp_path / f"{classify.UPLOAD_PREFIX}{name}" for name in ("orphan", "alive"))
    orphan.write_bytes(b"x")
    with alive.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with classify.temporary_file(settings) as mine:
            mine.write(b"x")
            assert Path(classify.path_of(mine)).parent == tmp_path
            assert sorted(tmp_path.iterdir()) == sorted([alive, Path(classify.path_of(mine))])
        assert list(tmp_path.iterdir()) == [alive]
