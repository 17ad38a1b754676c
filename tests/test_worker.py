"""The reading child: whatever a file does to it, the parent gets one error and the next file works."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from indexer import errors
from indexer.errors import DeferredError, ReadError
from indexer.files.children.worker import FILE_ERRORS, Worker
from tests.helpers.limits import LIMITS
from tests.helpers.synth import write_audio


@pytest.fixture
def worker():
    worker = Worker(LIMITS)
    yield worker
    worker.close()


@pytest.fixture
def misbehaving(tmp_path, monkeypatch):
    """A worker whose child does what the file's name says."""
    script = tmp_path / "child.py"
    script.write_text("""
import os, sys, time, signal
from indexer.files.children import child
def act(path, channel):
    name = os.path.basename(path)
    if name == "hang": time.sleep(60)
    if name == "crash": os.kill(os.getpid(), signal.SIGSEGV)
    if name == "exit": os._exit(3)
    if name == "slow":
        for _ in range(8):
            time.sleep(0.25); channel.beat()
    if name == "eat":
        keep = bytearray(8 << 30)
    if name == "raise": raise KeyError("odd")
    if name == "print": print("noise from a library"); os.write(1, b"noise")
    return {"pid": os.getpid()}
child.OPERATIONS["act"] = act
child.main()
""")
    real = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda args, **k: real([sys.executable, str(script), *args[4:]], **k))
    worker = Worker(LIMITS, stall_limit_s=5.0)
    yield worker
    worker.close()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("hang", "hung for 5 s and was stopped"),
        ("crash", "SIGSEGV"),
        ("exit", "exit code 3"),
        ("eat", "needs more memory"),
        ("raise", "KeyError"),
    ],
)
def test_a_hang_a_crash_and_hunger_are_errors_of_that_file_only(misbehaving, name, said):
    with pytest.raises(ReadError, match=said) as e:
        misbehaving.call("act", f"/{name}".encode())
    assert e.value.path == f"/{name}"
    assert misbehaving.call("act", b"/fine")["pid"]


def test_slow_work_with_signs_of_life_is_not_a_hang(misbehaving):
    assert misbehaving.call("act", b"/slow")["pid"]


def test_what_a_library_prints_does_not_reach_the_messages(misbehaving):
    assert misbehaving.call("act", b"/print")["pid"]


def test_one_child_serves_many_files_and_ends_with_its_parent(misbehaving):
    pids = {misbehaving.call("act", b"/fine")["pid"] for _ in range(3)}
    assert len(pids) == 1
    misbehaving.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pids.pop(), 0)


@pytest.mark.skipif(sys.platform != "linux", reason="no_new_privs is Linux's")
def test_a_reader_gains_no_rights_by_running_a_program(worker, tmp_path):
    worker.call("inspect", os.fsencode(write_audio(tmp_path / "a", "wav", 0.5)))
    status = Path(f"/proc/{worker._child.pid}/status").read_text().splitlines()
    assert "NoNewPrivs:\t1" in status


def test_inspecting_a_file_tells_stat_identity_tags_and_audio(worker, tmp_path):
    path = write_audio(tmp_path / "a", "flac", 1.5, sample_rate_hz=44_100)
    found = worker.call("inspect", os.fsencode(path))
    assert found["container"] == "flac"
    assert found["stat"]["size"] == path.stat().st_size
    assert found["audio"] == {
        "codec": "flac",
        "sample_rate_hz": 44_100,
        "channels": 2,
        "duration_s": pytest.approx(1.5),
    }


def test_decoding_streams_blocks_and_can_be_left_in_the_middle(worker, tmp_path):
    path = write_audio(tmp_path / "a", "wav", 35.0, sample_rate_hz=16_000, channels=1)
    blocks = list(worker.decode(os.fsencode(path), sample_rate_hz=16_000))
    assert [len(b) for b in blocks] == [160_000, 160_000, 160_000, 80_000]
    assert all(b.dtype == np.float32 for b in blocks)
    iterator = worker.decode(os.fsencode(path), sample_rate_hz=16_000)
    next(iterator)
    iterator.close()
    assert len(list(worker.decode(os.fsencode(path), sample_rate_hz=32_000))) == 4


def test_a_file_that_is_gone_is_deferred(worker, tmp_path):
    with pytest.raises(DeferredError, match="vanished"):
        worker.call("inspect", os.fsencode(tmp_path / "none.mp3"))


@pytest.mark.parametrize("kind", ["folder", "pipe"])
def test_what_is_no_regular_file_does_not_hang(worker, tmp_path, kind):
    path = tmp_path / "x.mp3"
    path.mkdir() if kind == "folder" else os.mkfifo(path)
    with pytest.raises(ReadError):
        worker.call("inspect", os.fsencode(path))


def test_every_error_of_a_file_crosses_from_the_child():
    """One that is not known on this side would be an unforeseen error."""

    def below(kind):
        return {kind, *(found for sub in kind.__subclasses__() for found in below(sub))}

    made_here = {errors.FileError, errors.ReaderDiedError}
    assert (
        set(FILE_ERRORS.values())
        == {kind for kind in below(errors.FileError) if kind.__module__ == errors.__name__} - made_here
    )


def test_a_reader_imports_nothing_from_the_folder_it_is_started_in(tmp_path, monkeypatch):
    """Somebody puts a module that the reader needs beside the music, and `indexer scan .` is run there."""
    path = write_audio(tmp_path / "a", "flac", 0.1)
    for name in ("av", "mutagen", "numpy"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    monkeypatch.chdir(tmp_path)
    worker = Worker(LIMITS)
    try:
        assert worker.call("inspect", os.fsencode(path))["container"] == "flac"
    finally:
        worker.close()
    assert not (tmp_path / "ran").exists()
