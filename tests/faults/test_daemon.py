"""The real `indexer watch` under faults: full disks, drives that go, readers that die, dropped events.

What must hold: the daemon goes on, says what is wrong, loses no row, and makes good what it missed. Each place that is
full or mounted belongs to a process of its own; skips where the system refuses that.
"""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from indexer.files.audio.identity import fingerprint
from indexer.library.lock import library_lock
from indexer.library.readonly import open_readonly
from tests.helpers.daemons import Watching
from tests.helpers.deep import DEEP
from tests.helpers.synth import write_audio
from tests.helpers.tag_faults import REPOSITORY, leave_room, mount, private_mounts

if TYPE_CHECKING:  # it brings torch, which the processes with mounts of their own do without
    from tests.helpers.cli import Cli

# Imported by every Python process that has its folder in PYTHONPATH: readers that misbehave by the name of the file,
# events that are lost on demand, and shorter waits, so that a fault does not cost minutes.
SPOILED = """
import os, sys, threading, time
from pathlib import Path

gate = Path(__file__).parent

if "indexer.files.children.child" in sys.orig_argv:
    from indexer.files.audio import decode

    def spoil(name, real):
        def spoiled(path, **how):
            kind = os.path.basename(path).partition(".")[0]
            if not (gate / "mended").exists():
                if kind == "crash in " + name:
                    os.kill(os.getpid(), 11)
                if kind == "hang in " + name:
                    time.sleep(600)
            if kind == "gate" and name == "decode":
                (gate / "reached").touch()
                while not (gate / "open").exists():
                    time.sleep(0.02)
            return real(path, **how)

        setattr(decode, name, spoiled)

    spoil("probe", decode.probe)
    spoil("decode", decode.decode)
elif "indexer.watch.runner" in sys.orig_argv:
    import functools, sqlite3
    from indexer.files.children.worker import Worker

    exchange = Worker._exchange

    def hasty(self, op, path, arguments):
        self._stall_limit_s = 1.0 if b"hang" in os.path.basename(path) else 30.0
        return exchange(self, op, path, arguments)

    Worker._exchange = hasty

    class Impatient(sqlite3.Connection):
        def executescript(self, script):
            return super().executescript(script.replace("busy_timeout = 10000", "busy_timeout = 500"))

    sqlite3.connect = functools.partial(sqlite3.connect, factory=Impatient)
elif "watch" in sys.orig_argv:
    from indexer.watch import daemon, folders

    daemon.FIRST_RETRY_S = 0.5
    start = folders.FolderWatcher.start

    def hasty(self):
        start(self)
        for root in self._roots.values():
            root.pause_s = 0.0
        threading.Thread(target=drop, args=(self,), daemon=True).start()

    def drop(self):
        while not (gate / "drop").exists():
            time.sleep(0.02)
        for root in self._roots.values():
            root.tried_s, root.pause_s = time.monotonic(), 2.0
            self._lose(root, "events were dropped")

    folders.FolderWatcher.start = hasty
"""


@pytest.fixture
def spoiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of SPOILED, in force in every process of the test.

    ``reached`` appears there when a reader waits at the gate; the test creates ``open`` to let it go on.
    """
    folder = tmp_path / "spoiled"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(SPOILED)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    return folder


@pytest.fixture
def folder(cli: "Cli", tmp_path: Path) -> Path:
    """An empty music folder; ``cli`` uses the built-in encoder, which is fast."""
    cli.model = Path("rhythm")
    made = tmp_path / "music"
    made.mkdir()
    return made


def audio(path: Path, seed: int = 0, container: str = "flac", seconds: float = 1.0) -> Path:
    return write_audio(path.with_suffix(""), container, seconds, seed=seed)


@pytest.fixture
def head(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A head for the cheap encoder is told, so that genres are written."""
    import numpy as np

    from indexer.encoders.load import load_encoder
    from indexer.heads.linear import LinearHead

    encoder = load_encoder("rhythm")
    weight, bias = np.zeros((2, encoder.width), np.float32), np.array([9, -9], np.float32)
    LinearHead("sure", encoder.id, ("house", "techno"), 0.5, weight, bias).save(tmp_path / "head.safetensors")
    monkeypatch.setenv("INDEXER_HEAD", str(tmp_path / "head.safetensors"))


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return fingerprint(file, str(path)).audio_sha256


# --- files and their readers -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("deadly", [("crash in probe", "hang in probe"), ("crash in decode",)])
def test_a_file_that_kills_its_reader_twice_is_left_alone_until_it_changes(cli, folder, spoiled, deadly):
    good = [audio(folder / f"good {n}.flac", n) for n in range(3)]
    deadly = [audio(folder / f"{name}.flac", 7 + n) for n, name in enumerate(deadly)]
    (folder / "page.mp3").write_bytes(b"<!doctype html><title>404</title>" * 50)
    (folder / "empty.flac").touch()
    others = {
        **dict.fromkeys(map(str, good), "ready"),
        str(folder / "page.mp3"): "unreadable",
        str(folder / "empty.flac"): "unreadable",
    }
    before = {path: path.read_bytes() for path in folder.iterdir()}
    for state in ("deferred", "unreadable", "unreadable"):  # a start each
        with Watching(cli, folder, jobs=2) as watch:
            watch.until_idle()
            assert watch.states() == others | dict.fromkeys(map(str, deadly), state)
            assert len(watch.embeddings()) == len(good)
    assert not any(watch.said(f"{path.name}: ") for path in before), "after two deaths it was read again"
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    (spoiled / "mended").touch()
    with Watching(cli, folder) as watch:
        watch.until_idle()
        audio(deadly[0], 9)
        watch.until(lambda: watch.states()[str(deadly[0])] == "ready", "the changed file is read")
        watch.until(lambda: len(watch.embeddings()) == len(good) + 1, "and embedded")
        assert set(watch.states().values()) == {"ready", "unreadable"}


def test_a_file_that_is_replaced_while_it_is_decoded_is_read_again(cli, folder, spoiled, tmp_path):
    path = audio(folder / "gate.flac", 1)
    fresh = audio(tmp_path / "fresh.flac", 2)
    wanted = sha256(fresh)
    with Watching(cli, folder, jobs=1) as watch:
        watch.until((spoiled / "reached").exists, "it is being decoded")
        fresh.replace(path)
        (spoiled / "open").touch()
        watch.until(lambda: embedded(watch) == [wanted], "the new content is embedded, and nothing else")
        watch.until_idle()
        watch.until_states({path: "ready"})
        assert embedded(watch) == [wanted]


def test_a_file_that_changed_without_an_event_is_read_again_a_little_later(cli, folder, spoiled):
    path = audio(folder / "gate.flac", 1)
    with Watching(cli, folder, jobs=1) as watch:  # its next scan is an hour away
        watch.until((spoiled / "reached").exists, "it is being decoded")
        os.utime(path, ns=(1, 1))  # no event that is listened for
        (spoiled / "open").touch()
        watch.until(lambda: watch.said("it changed while it was read"), "it is deferred")
        watch.until(lambda: len(watch.embeddings()) == 1, "it is read again")
        watch.until_states({path: "ready"})


def test_a_file_that_is_away_while_it_is_decoded_is_read_when_it_is_back(cli, folder, spoiled, tmp_path, monkeypatch):
    path = audio(folder / "gate.flac", 1)
    with Watching(cli, folder, jobs=1) as watch:
        watch.until((spoiled / "reached").exists, "it is being decoded")
        path.rename(tmp_path / "away.flac")
        watch.until_states({path: "missing"})
        (spoiled / "open").touch()
        watch.until_idle()
        assert watch.states() == {str(path): "missing"}
        (tmp_path / "away.flac").rename(path)
        watch.until_states({path: "ready"})
        watch.until(lambda: len(watch.embeddings()) == 1, "it is embedded")


def embedded(watch: Watching) -> list[str]:
    return [
        row[0] for row in watch.rows("SELECT audio_sha256 FROM embeddings e JOIN recordings r ON r.id = e.recording_id")
    ]


def test_each_real_file_once_whatever_its_name_and_whatever_the_clock(cli, folder):
    names = [
        b"\xff\xfe.wav",
        b"new\nline.wav",
        b"-rf.wav",
        b"<script>'; drop table files; --.wav",
        b"\xe2\x80\xaertl.wav",
        b"A.WAV",
        b"a.wav",
    ]
    names += [unicodedata.normalize(form, "é.wav").encode() for form in ("NFC", "NFD")]
    content, other = (audio(cli.folder / f"{n}.wav", n, "wav").read_bytes() for n in range(2))
    assert len(content) == len(other)
    top = os.fsencode(folder)

    with Watching(cli, folder, scan_interval_s=0.5) as watch:

        def paths() -> set[bytes]:
            return {row[0] for row in watch.rows("SELECT path FROM files WHERE state = 'ready'")}

        def recording(path: Path) -> list[tuple]:
            return watch.rows(
                "SELECT recording_id, mtime_ns - ? FROM files WHERE path = ?",
                path.stat().st_mtime_ns,
                os.fsencode(path),
            )

        watch.until_idle()
        os.symlink(top, top + b"/loop")
        for name in names:
            (folder / os.fsdecode(name)).write_bytes(content)
        os.symlink(top + b"/a.wav", top + b"/link.wav")
        os.link(top + b"/a.wav", top + b"/twin.wav")
        here = {top + b"/" + name for name in [*names, b"twin.wav"]}
        watch.until(lambda: paths() == here, "each is there")
        watch.until(lambda: len(watch.embeddings()) == 1, "they share one embedding")
        os.rename(top + b"/-rf.wav", top + b"/-RF.wav")
        here = here - {top + b"/-rf.wav"} | {top + b"/-RF.wav"}
        watch.until(lambda: paths() == here, "the row follows the name")
        # the clock went back a day: a mere touch, and new content of the same size
        touched, changed = folder / "new\nline.wav", folder / "A.WAV"
        ((first, _),) = recording(touched)
        changed.write_bytes(other)
        for path in (touched, changed):
            os.utime(path, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns - 86_400 * 10**9))
        watch.until(lambda: recording(touched) == [(first, 0)], "the touch is seen, the recording is the same")
        watch.until(lambda: len(watch.embeddings()) == 2, "the new content is embedded")
        ((second, _),) = recording(changed)
        assert second != first
        # changed back within the same moment of a coarse clock
        before = changed.stat()
        with changed.open("r+b") as file:
            file.write(content)
        os.utime(changed, ns=(before.st_atime_ns, before.st_mtime_ns + 1000))
        assert changed.stat().st_size == before.st_size
        watch.until(lambda: recording(changed) == [(first, 0)], "the edit is seen")
        assert (paths(), len(watch.embeddings())) == (here, 2)


# --- the watch -------------------------------------------------------------------------------------------------------


def test_after_dropped_events_everything_is_found(cli, folder, spoiled):
    first = audio(folder / "first.flac", 1)
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    with Watching(cli, folder) as watch:
        watch.until_states({first: "ready"})
        watch.until_idle()
        os.kill(watch.process.pid, signal.SIGSTOP)
        for _ in range(limit // 2):  # of four events each
            first.rename(folder / "second.flac")
            (folder / "second.flac").rename(first)
        late = [folder / f"late {n}.flac" for n in range(100)]
        for path in late:  # no event reports these: the queue is full
            os.link(first, path)
        os.kill(watch.process.pid, signal.SIGCONT)
        watch.until(lambda: watch.said("dropped events"))
        watch.until_states(dict.fromkeys([first, *late], "ready"))
        assert len(watch.embeddings()) == 1
        watch.until(lambda: not watch.status["roots"][0]["problems"], "all is well")
        after = audio(folder / "after.flac", 2)
        watch.until_states(dict.fromkeys([first, *late, after], "ready"))


@pytest.mark.slow_first
def test_many_files_that_came_while_it_was_stopped_are_all_found(cli, folder, tmp_path):
    """More events than the kernel queues, of more folders than are watched. DEEP: seven thousand files."""
    files = 7000 if DEEP else 700
    one = audio(tmp_path / "one.flac", 1)
    with Watching(cli, folder, verbose=False) as watch:
        watch.until_idle()
        os.kill(watch.process.pid, signal.SIGSTOP)
        for n in range(files):
            if n % 100 == 0:
                (folder / str(n)).mkdir()
            shutil.copyfile(one, folder / str(n - n % 100) / f"{n}.flac")
        there, back = folder / "note.txt", folder / "moved.txt"  # in the root: nobody watches the new folders yet
        there.touch()
        queued = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
        for _ in range(queued // 4 + 1):  # two events each way: the kernel's queue is full now, whatever its size
            there.rename(back)
            back.rename(there)
        os.kill(watch.process.pid, signal.SIGCONT)
        watch.until(
            lambda: watch.rows("SELECT count(*) FROM files WHERE state = 'ready'") == [(files,)],
            "all are rows",
            limit_s=400,
        )
        watch.until(lambda: watch.said("dropped events"), "the loss is said")
        watch.until_idle()
        assert len(watch.embeddings()) == 1


def test_events_that_were_lost_soon_after_others_are_answered_by_a_scan(cli, folder, spoiled, monkeypatch):
    with Watching(cli, folder) as watch:
        watch.until_idle()
        before = watch.status["last_scan_at"]
        (spoiled / "drop").touch()
        watch.until(lambda: watch.said("events were dropped"))
        watch.until(lambda: watch.status["last_scan_at"] != before, "a scan when the pause is over")
        watch.until(lambda: not watch.status["roots"][0]["problems"], "all is well")


def test_beyond_the_watch_limit_the_remedy_is_said_and_scans_find_the_rest(cli, folder):
    limited = ["unshare", "-Ur", "sh", "-c", 'echo 5 > /proc/sys/user/max_inotify_watches && exec "$@"', "-"]
    if subprocess.run([*limited, "true"], capture_output=True, check=False).returncode:
        pytest.skip("a limit of one's own (unshare -Ur) is refused here")
    folders = [folder / f"{n:02}" for n in range(20)]
    for made in folders:
        made.mkdir()
    with Watching(cli, folder, prefix=limited, scan_interval_s=0.5) as watch:
        watch.until_idle()
        watch.until(lambda: watch.said("limit of inotify watches is reached"))
        assert watch.said("sudo sysctl user.max_inotify_watches=")
        watch.until(lambda: "sysctl" in str(watch.status["roots"][0]["problems"]), "and its status, too")
        content = audio(cli.folder / "one.flac", 1).read_bytes()
        files = [made / "a.flac" for made in folders]
        for path in files:
            path.write_bytes(content)
        watch.until_states(dict.fromkeys(files, "ready"))
        assert sum("limit of inotify watches" in line for line in watch.lines) == 1


# --- the library -----------------------------------------------------------------------------------------------------


def test_a_library_that_others_read_and_write_is_waited_for(cli, folder, spoiled):
    audio(folder / "1.flac", 1)
    log = cli.db.with_name(f"{cli.db.name}-wal")
    with Watching(cli, folder) as watch:
        watch.until(lambda: len(watch.embeddings()) == 1, "it is at work")
        watch.until_idle()
        reader = open_readonly(cli.db)
        reader.execute("BEGIN")
        assert reader.execute("SELECT count(*) FROM files").fetchone()[0] == 1
        audio(folder / "2.flac", 2)
        watch.until(lambda: len(watch.embeddings()) == 2, "a reader keeps nobody waiting")
        assert reader.execute("SELECT count(*) FROM files").fetchone()[0] == 1
        reader.close()
        writer = sqlite3.connect(cli.db)
        writer.execute("BEGIN IMMEDIATE")
        audio(folder / "3.flac", 3)
        watch.until(lambda: watch.said("database is locked"), "it says what it waits for")
        watch.until(
            lambda: watch.status["state"] == "waiting" and "database is locked" in watch.status["reason"],
            "and its status, too",
        )
        writer.rollback()
        watch.until(lambda: len(watch.embeddings()) == 3, "it goes on")
        watch.until_idle()
        watch.until(lambda: not log.exists() or not log.stat().st_size, "the log is folded back")


def test_a_standing_failure_is_said_once(cli, folder, spoiled):
    tries = set()
    with library_lock(cli.db), Watching(cli, folder) as watch:
        watch.until(lambda: watch.status.get("state") == "waiting")
        watch.until(lambda: tries.add(watch.status["next_scan_at"]) or len(tries) > 2, "several attempts")
        assert sum("another indexer" in line for line in watch.lines) == 1


@pytest.mark.parametrize("damage", ["newer", "no library"])
def test_a_library_that_cannot_be_used_is_left_as_it_is(cli, folder, spoiled, damage):
    audio(folder / "1.flac", 1)
    if damage == "newer":
        cli("scan", folder)
        conn = sqlite3.connect(cli.db)
        conn.execute(
            "UPDATE _sqlite_migrations SET name = '999_future' WHERE id = (SELECT max(id) FROM _sqlite_migrations)"
        )
        conn.commit()
        conn.close()
    else:
        cli.db.write_bytes(b"not a database at all, but long enough to be taken for one" * 20)
    before = cli.db.read_bytes()
    with Watching(cli, folder) as watch:
        watch.until(lambda: watch.said("update indexer" if damage == "newer" else "indexer doctor --rebuild"))
        watch.until(
            lambda: watch.process.poll() is not None or watch.status.get("state") == "waiting", "it ends or waits"
        )
        assert not watch.said("Traceback")
    assert cli.db.read_bytes() == before


def test_a_library_that_breaks_is_said_and_rebuilding_it_lets_the_watch_go_on(cli, folder, spoiled):
    files = [audio(folder / f"{n}.flac", n) for n in range(3)]
    with Watching(cli, folder, unload_after_s=0.1) as watch:
        watch.until_states(dict.fromkeys(files, "ready"))
        watch.until(lambda: watch.idle() and not watch.runner_pids(), "idle")
        content = cli.db.read_bytes()
        cli.db.write_bytes(content[:4096] + b"\xff" * (len(content) - 4096))
        after = audio(folder / "after.flac", 9)
        watch.until(lambda: watch.said("the library is damaged"))
        watch.until(lambda: watch.status["state"] == "waiting" and "doctor --rebuild" in watch.status["reason"])
        cli("doctor", "--rebuild", code=2)  # nothing of it is left, so it is moved by hand
        cli.db.write_bytes(content[: len(content) // 2])
        cli("doctor", "--rebuild")
        watch.until_states(dict.fromkeys([*files, after], "ready"))
        watch.until(lambda: len(watch.embeddings()) == 4, "all are embedded")
        assert not watch.said("Traceback")


# --- places that are full, read-only, or gone; these bodies run in a process with mounts of its own ------------------


@dataclass(frozen=True)
class Library:
    """What the daemon is told of a library; the rest comes from the environment."""

    folder: Path
    environ: dict[str, str] = field(default_factory=dict)

    @property
    def db(self) -> Path:
        return self.folder / "library.db"


def inside(body: Callable[..., None], cli: "Cli", folder: Path) -> None:
    """Run one of the functions below, which take the folder that holds ``music`` and ``state``."""
    if (command := private_mounts()) is None:
        pytest.skip("private mounts (unshare -Urm) are refused here")
    code = "import sys, pathlib, tests.faults.test_daemon as t; getattr(t, sys.argv[1])(pathlib.Path(sys.argv[2]))"
    done = subprocess.run(
        [*command, sys.executable, "-c", code, body.__name__, str(folder)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **cli.environ},
    )
    assert done.returncode == 0, done.stderr


def writes(watch: Watching, state: str) -> int:
    return len(watch.rows("SELECT 1 FROM tag_writes WHERE state = ?", state))


def scans(watch: Watching, count: int) -> None:
    """Wait for so many whole scans from now on."""
    for _ in range(count):
        before = watch.status.get("last_scan_at")
        watch.until(lambda before=before: watch.status.get("last_scan_at") not in (None, before), "a scan")


def test_on_a_full_drive_files_stay_as_they_are_until_there_is_room(cli, folder, head, tmp_path):
    inside(full_drive, cli, tmp_path)


def full_drive(folder: Path) -> None:
    music = folder / "music"
    mount("-t", "tmpfs", "-o", "size=2m", "none", music)
    large, small = audio(music / "large.wav", 1, "wav", 4.0), audio(music / "small.opus", 2, "opus")
    before = large.read_bytes()
    with Watching(Library(folder / "state"), music, scan_interval_s=0.5) as watch:
        watch.until(lambda: writes(watch, "done") == 1, "the small one is written")
        watch.until(lambda: watch.said("large.wav: genre not written") and watch.said("disk full"))
        scans(watch, 2)
        assert large.read_bytes() == before
        assert sorted(os.listdir(music)) == [large.name, small.name]
        mount("-o", "remount,size=8m", music)
        watch.until(lambda: writes(watch, "done") == 2, "the large one is written")
        assert large.read_bytes() != before
        watch.until_states({large: "ready", small: "ready"})
        assert len(watch.embeddings()) == 2


def test_a_full_disk_under_the_library_is_said_and_waited_for(cli, folder, spoiled, tmp_path):
    inside(full_library_disk, cli, tmp_path)


def full_library_disk(folder: Path) -> None:
    music, cli = folder / "music", Library(folder / "state")
    mount("-t", "tmpfs", "-o", "size=2m", "none", cli.folder)
    first = audio(music / "first.flac", 1)
    with Watching(cli, music) as watch:
        watch.until(lambda: len(watch.embeddings()) == 1, "the first is embedded")
        watch.until_idle()
        leave_room(cli.folder, 0)
        second = audio(music / "second.flac", 2)
        watch.until(lambda: watch.said("the disk is full"))
        assert watch.process.poll() is None
        (cli.folder / ".filler").unlink()
        watch.until_states({first: "ready", second: "ready"})
        watch.until(lambda: len(watch.embeddings()) == 2, "the second is embedded")
        assert not watch.said("Traceback"), watch.lines


def test_a_start_on_a_full_disk_is_refused_in_one_line_or_waits(cli, folder, spoiled, tmp_path):
    inside(start_on_a_full_disk, cli, tmp_path)


def start_on_a_full_disk(folder: Path) -> None:
    cli = Library(folder / "state")
    mount("-t", "tmpfs", "-o", "size=64k", "none", cli.folder)
    leave_room(cli.folder, 0)
    with Watching(cli, folder / "music") as watch:
        watch.until(
            lambda: watch.process.poll() is not None or watch.said("full") or watch.said("No space left"),
            "it ends or says why it waits",
        )
        assert not watch.said("Traceback"), watch.lines
        assert watch.said("full") or watch.said("No space left")


def test_a_read_only_drive_is_indexed_and_its_tags_are_refused_once(cli, folder, head, tmp_path):
    inside(read_only_drive, cli, tmp_path)


def read_only_drive(folder: Path) -> None:
    music = folder / "music"
    first = audio(music / "first.flac", 1)
    second = audio(folder / "second.flac", 2)
    before = first.read_bytes()
    mount("--bind", music, music)
    mount("-o", "remount,bind,ro", music)
    with Watching(Library(folder / "state"), music, scan_interval_s=0.5) as watch:
        watch.until_states({first: "ready"})
        watch.until(lambda: writes(watch, "refused") == 1, "the write is refused")
        watch.until(lambda: watch.said("first.flac: genre not written") and watch.said("read-only"))
        scans(watch, 2)
        assert writes(watch, "refused") == 1
        assert sum("genre not written" in line for line in watch.lines) == 1
        assert watch.rows("SELECT count(*) FROM predictions") == [(1,)]
        assert first.read_bytes() == before
        mount("-o", "remount,bind,rw", music)
        shutil.move(second, music / "second.flac")
        watch.until(lambda: writes(watch, "done") == 2, "both are written when they can be")


def test_a_drive_that_is_unmounted_loses_nothing(cli, folder, tmp_path):
    inside(drive_that_goes, cli, tmp_path)


def drive_that_goes(folder: Path) -> None:
    music, source = folder / "music", folder / "source"
    source.mkdir()
    files = [music / audio(source / f"{n}.flac", n).name for n in range(3)]

    def plug_in() -> None:
        mount("-t", "tmpfs", "none", music)
        subprocess.run(["cp", "-a", f"{source}/.", music], check=True)

    plug_in()
    with Watching(
        Library(folder / "state"), music
    ) as watch:  # a change of the mounts wakes it: it does not wait for a scan
        watch.until_states(dict.fromkeys(files, "ready"))
        watch.until(lambda: len(watch.embeddings()) == 3, "three are embedded")
        watch.until_idle()
        kept = watch.embeddings()
        subprocess.run(["umount", "-l", str(music)], check=True)
        watch.until(lambda: watch.rows("SELECT state FROM roots") == [("offline",)], "the drive is offline")
        watch.until_states(dict.fromkeys(files, "missing"))
        watch.until(lambda: watch.said("is the drive mounted?"))
        assert os.listdir(music) == []
        plug_in()  # with another device number
        watch.until_states(dict.fromkeys(files, "ready"))
        watch.until(lambda: watch.rows("SELECT state FROM roots") == [("online",)], "the drive is online")
        assert watch.embeddings() == kept
        after = audio(music / "after.flac", 9)
        watch.until_states(dict.fromkeys([*files, after], "ready"))
        watch.until(lambda: len(watch.embeddings()) == 4, "and it is watched again")
        assert watch.embeddings()[:3] == kept


def test_another_drive_in_the_place_of_one_loses_nothing(cli, folder, tmp_path):
    inside(another_drive, cli, tmp_path)


def another_drive(folder: Path) -> None:
    music, source = folder / "music", folder / "source"
    source.mkdir()
    files = [music / audio(source / f"{n}.flac", n).name for n in range(4)]
    mount("-t", "tmpfs", "none", music)
    for path in files:
        shutil.copy2(source / path.name, path)
    with Watching(Library(folder / "state"), music) as watch:
        watch.until_states(dict.fromkeys(files, "ready"))
        watch.until(lambda: len(watch.embeddings()) == 4, "four are embedded")
        watch.until_idle()
        kept = watch.embeddings()
        mount("-t", "tmpfs", "none", music)  # over it, with three of the four
        for path in files[:3]:
            shutil.copy2(source / path.name, path)
        scans(watch, 1)
        watch.until(lambda: watch.said("lacks 1 of its 4 files: is another drive mounted there?"))
        watch.until(lambda: watch.rows("SELECT state FROM roots") == [("offline",)], "the drive is offline")
        subprocess.run(["umount", str(music)], check=True)
        watch.until(lambda: watch.rows("SELECT state FROM roots") == [("online",)], "the drive is online")
        watch.until_states(dict.fromkeys(files, "ready"))
        assert watch.embeddings() == kept
