"""`indexer watch` as a real process: the library follows the folders.

Whatever happens to the folders, to the process, or to its helper.
"""

import contextlib
import math
import os
import shutil
import signal
import socket
import sqlite3
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from indexer.config import Settings, load_settings
from indexer.learn import corrections
from indexer.library.lock import watching_process
from indexer.watch.daemon import Daemon
from indexer.watch.status import ask_for_scan
from tests.helpers.contents import genre_of, rows
from tests.helpers.daemons import Watching
from tests.helpers.synth import write_audio


@pytest.fixture
def folder(cli, tmp_path):
    """An empty music folder; ``cli`` uses the built-in encoder, which is fast."""
    cli.model = "rhythm"
    made = tmp_path / "music"
    made.mkdir()
    return made


def audio(path: Path, seed: int = 0, container: str = "flac") -> Path:
    return write_audio(path.with_suffix(""), container, 1.0, seed=seed)


def test_what_was_heard_roughly_is_heard_whole_while_nothing_else_is_due(cli, folder):
    for seed in range(3):
        audio(folder / f"{seed}.flac", seed)
    with Watching(cli, folder, rough_after_h=0) as watch:
        watch.until(lambda: any(", 3 heard whole (0 left)" in line for line in watch.lines), "all is heard whole")
        watch.until_idle()
    assert [line for line in watch.lines if "embedded" in line and "flac" in line] != []
    assert cli.json("status")["rough"] == 0


def test_between_two_parts_of_the_work_in_the_background_the_daemon_sleeps():
    daemon = Daemon(Settings(), (), lambda _line, _level: None, Settings)
    daemon._watcher = SimpleNamespace(due_s=math.inf, pending=False)
    daemon._retries = SimpleNamespace(next_s=math.inf)
    moment_s = time.monotonic()
    daemon._next_scan_s = moment_s + 3600
    daemon._rough_left, daemon._refine_from_s = 5, moment_s + 10  # some were heard whole just now
    daemon._analyse_s = moment_s - 1  # and others are to be measured behind them
    daemon._order([], moment_s)
    assert daemon._runner is None
    assert daemon._sleep_s(moment_s) == pytest.approx(10)


def test_the_library_follows_what_happens_to_files(cli, folder, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    first = audio(folder / "first.flac", 1)
    with Watching(cli, folder) as watch:
        watch.until_states({first: "ready"})
        watch.until_idle()
        # moved in, hard-linked, and written slowly: not read before it is whole
        moved = audio(elsewhere / "moved.flac", 2)
        content = audio(elsewhere / "slow.flac", 3).read_bytes()
        moved.rename(folder / "moved.flac")
        with (folder / "slow.flac").open("wb") as slow:
            for start in range(0, len(content), len(content) // 6):
                slow.write(content[start : start + len(content) // 6])
                slow.flush()
                time.sleep(0.2)
                assert str(folder / "slow.flac") not in watch.states()
        os.link(first, folder / "linked.flac")
        here = {folder / name: "ready" for name in ("first.flac", "moved.flac", "slow.flac", "linked.flac")}
        watch.until_states(here)
        # renamed, also only in case, and replaced from outside: rows follow, nothing is embedded that was
        watch.until(lambda: len(watch.embeddings()) == 3, "three recordings are embedded")
        watch.until(lambda: any("slow.flac: embedded" in line for line in watch.lines), "its line is printed")
        assert sum("slow.flac: embedded" in line for line in watch.lines) == 1
        embedded = watch.embeddings()
        (folder / "moved.flac").rename(folder / "Moved.flac")
        (folder / "slow.flac").rename(folder / "quick.flac")
        here = {folder / name: "ready" for name in ("first.flac", "Moved.flac", "quick.flac", "linked.flac")}
        watch.until_states(here)
        assert watch.embeddings() == embedded
        fresh = audio(elsewhere / "fresh.flac", 4)
        fresh.replace(folder / "quick.flac")
        watch.until(lambda: len(watch.embeddings()) == 4, "the new content is embedded")
        # deleted: missing, nothing is forgotten
        (folder / "Moved.flac").unlink()
        watch.until_states(here | {folder / "Moved.flac": "missing"})
        assert len(watch.embeddings()) == 4


def test_an_idle_daemon_measures_what_an_earlier_version_knew(cli, folder):
    for seed in range(3):
        audio(folder / f"{seed}.flac", seed)
    cli("scan", folder)
    measured = rows(cli, "SELECT * FROM analysis ORDER BY recording_id")
    with contextlib.closing(sqlite3.connect(cli.db)) as conn, conn:
        conn.execute("DELETE FROM analysis")
    with Watching(cli, folder) as watch:
        watch.until(lambda: rows(cli, "SELECT * FROM analysis ORDER BY recording_id") == measured, "all are measured")
        watch.until_idle()
        fresh = audio(folder / "fresh.flac", 9)
        watch.until_states({folder / f"{seed}.flac": "ready" for seed in range(3)} | {fresh: "ready"})
    assert sum("measured" in line for line in watch.lines) == 3


def test_a_file_that_is_being_written_when_the_watch_begins_waits_for_its_end(cli, folder):
    content = audio(folder / "whole.wav", 1, "wav").read_bytes()
    with (folder / "half.wav").open("wb") as half:
        half.write(content[: len(content) // 2])
        half.flush()
        with Watching(cli, folder) as watch:
            watch.until_idle()
            assert watch.states() == {str(folder / "whole.wav"): "ready"}
            half.write(content[len(content) // 2 :])
            half.close()
            watch.until_states({folder / name: "ready" for name in ("whole.wav", "half.wav")})
            assert not watch.said("truncated")


def test_folders_move_in_about_and_out_without_new_embeddings(cli, folder, tmp_path):
    album = tmp_path / "album"
    album.mkdir()
    names = [audio(album / f"{n}.flac", n).name for n in range(5)]
    with Watching(cli, folder) as watch:
        watch.until(lambda: watch.said("watching"))
        watch.until_idle()
        shutil.move(album, folder / "one")
        watch.until_states({folder / "one" / name: "ready" for name in names})
        watch.until(lambda: len(watch.embeddings()) == 5, "five recordings are embedded")
        embedded = watch.embeddings()
        (folder / "label").mkdir()
        (folder / "one").rename(folder / "label" / "two")
        watch.until_states({folder / "label" / "two" / name: "ready" for name in names})
        (folder / "label").rename(tmp_path / "out")
        watch.until_states({folder / "label" / "two" / name: "missing" for name in names})
        shutil.move(tmp_path / "out", folder / "back")
        watch.until_states({folder / "back" / "two" / name: "ready" for name in names})
        assert watch.embeddings() == embedded


@pytest.mark.slow_first
def test_our_own_writes_wake_nothing(cli, music_folder):
    with Watching(cli, music_folder) as watch:
        watch.until(
            lambda: watch.rows("SELECT count(*) FROM tag_writes WHERE state = 'done'") == [(6,)],
            "six genres are written",
        )
        watch.until_idle()
        time.sleep(1.5)  # the events of the writes have settled
        assert watch.rows("SELECT count(*) FROM runs") == [(1,)]
        assert watch.status["state"] == "idle"
        audio(music_folder / "new.flac", 77)
        watch.until(
            lambda: watch.rows("SELECT count(*) FROM tag_writes WHERE state = 'done'") == [(7,)],
            "the new one is written",
        )
        watch.until_idle()
        time.sleep(1.5)
        assert watch.rows("SELECT count(*) FROM runs") == [(2,)]


@pytest.mark.slow_first
def test_it_idles_without_torch_and_without_waking(cli, music_folder):
    with Watching(cli, music_folder, unload_after_s=0.5) as watch:  # the small M2D: its working process needs torch
        watch.until_idle()
        watch.until(lambda: not watch.runner_pids(), "the working process has left")
        assert "libtorch" not in Path(f"/proc/{watch.process.pid}/maps").read_text()
        watch.until(lambda: _wakes_in(watch.process.pid, 1.5) <= 2, "it sleeps")
        assert not (cli.db.with_name("library.db-wal").exists() and cli.db.with_name("library.db-wal").stat().st_size)
        audio(music_folder / "later.flac", 50)
        watch.until(lambda: len(watch.embeddings()) == 7, "it works again when there is something to do")


def _wakes_in(pid: int, seconds: float) -> int:
    """How often a process woke while this slept."""
    before = _turns(pid)
    time.sleep(seconds)
    return _turns(pid) - before


def _turns(pid: int) -> int:
    """How often a process gave up the processor by itself."""
    line = next(
        line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("voluntary_ctxt")
    )
    return int(line.split()[1])


def test_only_one_watches_and_other_commands_get_their_turn(cli, folder):
    audio(folder / "a.flac", 1)
    with Watching(cli, folder) as watch:
        watch.until_idle()
        second = cli("watch", folder, code=75)
        assert f"process {watch.process.pid}" in second.stderr
        assert cli.json("scan", folder)["files"] == 1  # it idles: the library is free
        status = cli.json("status")["watch"]
        assert (status["pid"], status["state"], status["roots"][0]["mode"]) == (
            watch.process.pid,
            "idle",
            "events + scan",
        )
        assert "watch      idle" in cli("status").stdout
        watch.process.send_signal(signal.SIGTERM)
        assert watch.process.wait(20) == 0
    assert watching_process(cli.db) is None
    assert cli.json("status")["watch"] is None


def test_after_a_kill_the_next_start_goes_on_and_nobody_is_left_behind(cli, folder):
    for n in range(12):
        audio(folder / f"{n}.flac", n)
    with Watching(cli, folder, jobs=1) as watch:
        watch.until(lambda: len(watch.embeddings()) >= 2, "it is at work")
        pids = watch.runner_pids()
        watch.process.kill()
        watch.process.wait()
        watch.until(
            lambda: not any(Path(f"/proc/{pid}").exists() and _state(pid) != "Z" for pid in pids),
            "the working process is gone",
        )
    before = watch.embeddings()
    with Watching(cli, folder) as watch:
        watch.until(lambda: len(watch.embeddings()) == 12, "the rest is embedded")
        assert watch.embeddings()[: len(before)] == before


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"


def test_a_working_process_that_dies_is_replaced(cli, folder):
    for n in range(10):
        audio(folder / f"{n}.flac", n)
    with Watching(cli, folder, jobs=1) as watch:
        watch.until(watch.runner_pids, "it is at work")
        os.kill(watch.runner_pids()[0], signal.SIGKILL)
        watch.until(lambda: watch.said("the working process ended unexpectedly (SIGKILL)"))
        assert watch.status["state"] == "waiting"
        watch.until(lambda: len(watch.embeddings()) == 10, "the rest is embedded")


def test_a_root_that_goes_is_offline_and_comes_back_without_work(cli, folder, tmp_path):
    files = [audio(folder / f"{n}.flac", n) for n in range(3)]
    with Watching(cli, folder, scan_interval_s=2) as watch:
        watch.until_states(dict.fromkeys(files, "ready"))
        watch.until_idle()
        embedded = watch.embeddings()
        folder.rename(tmp_path / "away")
        watch.until_states(dict.fromkeys(files, "missing"))
        watch.until(lambda: watch.rows("SELECT state FROM roots") == [("offline",)], "the root is offline")
        assert watch.said("is the drive mounted?")
        (tmp_path / "away").rename(folder)
        watch.until_states(dict.fromkeys(files, "ready"))
        watch.until(lambda: watch.rows("SELECT state FROM roots") == [("online",)], "the root is online")
        audio(folder / "after.flac", 9)
        watch.until(lambda: len(watch.embeddings()) == 4, "and it is watched again")
        assert watch.embeddings()[:3] == embedded


def test_files_that_come_back_to_an_offline_root_bring_it_online(cli, folder, tmp_path):
    """Their events name single files, but only a scan finds whether the whole root is back.

    That scan must not wait for the hourly one.
    """
    files = [audio(folder / f"{n}.flac", n) for n in range(3)]
    cli("scan", folder, "--no-tags")
    away = tmp_path / "away"
    away.mkdir()
    for path in files:
        path.rename(away / path.name)
    with Watching(cli, folder) as watch:
        watch.until(lambda: watch.rows("SELECT state FROM roots") == [("offline",)], "the root is offline")
        watch.until_idle()
        for path in files:
            (away / path.name).rename(path)
        watch.until_states(dict.fromkeys(files, "ready"))
        watch.until(lambda: watch.rows("SELECT state FROM roots") == [("online",)], "the root is online")


def test_a_locked_library_is_waited_for(cli, folder):
    from indexer.library.lock import library_lock

    audio(folder / "a.flac", 1)
    with library_lock(cli.db), Watching(cli, folder) as watch:
        watch.until(lambda: watch.status.get("state") == "waiting", "it waits")
        assert f"process {os.getpid()}" in watch.status["reason"]
        watch.until(lambda: watch.said("tried again in"), "it is said")
    with Watching(cli, folder) as watch:
        watch.until(lambda: len(watch.embeddings()) == 1, "and goes on")


def test_it_goes_on_when_nobody_reads_its_lines_any_more(quick_cli, tmp_path):
    """As in `indexer watch 2>&1 | head -1`: its own lines, and those of all its processes, go nowhere."""
    folder = tmp_path / "music"
    folder.mkdir()
    process = quick_cli.process("watch", "-v", folder, env_extra={"INDEXER_SETTLE_S": "0.3"}, start_new_session=True)
    try:
        process.stderr.readline()
        process.stderr.close()
        paths = []
        for number in range(2):  # the first one's line breaks the pipe, the second one comes after
            paths.append(audio(folder / f"{number}.flac", number))
            deadline = time.monotonic() + 40
            while genre_of(paths[-1]) is None:
                assert process.poll() is None, "the watch has ended"
                assert time.monotonic() < deadline
                time.sleep(0.1)
        process.send_signal(signal.SIGPIPE)
        process.send_signal(signal.SIGTERM)
        assert process.wait(40) == 0
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()


def test_settings_are_read_again_and_wrong_ones_change_nothing(cli, folder, tmp_path):
    config = cli.folder / "config.toml"
    other = tmp_path / "other"
    other.mkdir()
    audio(other / "x.flac", 5)
    config.write_text(f'roots = ["{folder}"]\n')
    with Watching(cli, config=config) as watch:
        watch.until_idle()
        config.write_text("roots = 7\n")
        watch.process.send_signal(signal.SIGHUP)
        watch.until(lambda: watch.said("the settings stay as they were"))
        config.write_text(f'roots = ["{folder}", "{other}"]\n')
        watch.process.send_signal(signal.SIGHUP)
        watch.until(lambda: watch.said("settings read again"))
        watch.until_states({other / "x.flac": "ready"})


def test_a_scan_that_was_asked_for_comes_within_seconds(cli, folder):
    path = audio(folder / "a.flac", 1)
    assert not ask_for_scan(cli.db)
    with Watching(cli, folder) as watch:
        watch.until_idle()
        settings = load_settings(None, {"db": cli.db}, {})
        corrections.say(settings, watch.rows("SELECT recording_id FROM files")[0], "techno", by="test")
        started = time.monotonic()
        for _ in range(5):  # whoever labels many tracks asks often
            assert ask_for_scan(cli.db)
            time.sleep(0.2)
        watch.until(lambda: watch.rows("SELECT genre FROM tags WHERE genre = 'Techno'"), "the tag is written")
        assert time.monotonic() - started < 30
        watch.until_idle()
    assert path.exists()
    assert not ask_for_scan(cli.db)


def test_systemd_hears_of_start_life_and_end(cli, folder, tmp_path):
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(path)
        listener.settimeout(20)
        os.environ |= {"NOTIFY_SOCKET": path, "WATCHDOG_USEC": "1000000"}
        try:
            watch = Watching(cli, folder)
        finally:
            del os.environ["NOTIFY_SOCKET"], os.environ["WATCHDOG_USEC"]
        with watch:
            heard = [listener.recv(4096) for _ in range(6)]
            watch.process.send_signal(signal.SIGTERM)
            watch.process.wait(20)
            while b"STOPPING=1" not in heard:
                heard.append(listener.recv(4096))
    assert heard[0].startswith(b"READY=1")
    assert b"WATCHDOG=1" in heard
    assert any(message.startswith(b"STATUS=") for message in heard)


@pytest.mark.parametrize(("arguments", "message"), [([], "nothing to scan"), (["/nowhere/at/all"], "no such folder")])
def test_what_cannot_be_watched_is_said(cli, arguments, message):
    (line,) = cli("watch", *arguments, code=2).stderr.splitlines()
    assert message in line
