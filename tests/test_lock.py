"""Lock files that somebody else made: nothing is written through them, and nobody gets a signal for their sake."""

import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from indexer.errors import ModelError, StoreError
from indexer.library.lock import library_lock, signal_watching_process, watch_lock, watching_process
from indexer.models.records import locked, write_json, writing
from indexer.watch.status import ask_for_scan, read_status, status_path
from tests.helpers.daemons import Watching


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    path = tmp_path / "victim"
    path.write_bytes(b"not to be touched")
    return path


def make_link(at: Path, to: Path) -> None:
    at.symlink_to(to)


def make_second_name(at: Path, to: Path) -> None:
    at.hardlink_to(to)


def make_pipe(at: Path, _to: Path) -> None:
    os.mkfifo(at)


def make_folder(at: Path, _to: Path) -> None:
    at.mkdir()


@pytest.mark.parametrize("lock", [library_lock, watch_lock])
@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (make_link, "symbolic link"),
        (make_second_name, "no regular file with one name"),
        (make_pipe, "no regular file with one name"),
        (make_folder, "directory"),
    ],
)
def test_nothing_is_written_through_a_lock_that_is_no_file_of_ours(tmp_path, victim, lock, make, reason):
    db = tmp_path / "library.db"
    make(db.with_name("library.db.watch.lock" if lock is watch_lock else "library.db.lock"), victim)
    with pytest.raises(StoreError, match=f"cannot be opened .*{reason}"), lock(db):
        pass
    assert victim.read_bytes() == b"not to be touched"


def test_a_lock_of_another_user_is_not_believed(tmp_path, monkeypatch):
    db = tmp_path / "library.db"
    with watch_lock(db):
        assert watching_process(db) == os.getpid()
        monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 4321)
        assert watching_process(db) is None
        with pytest.raises(StoreError, match="belongs to another user"), watch_lock(db):
            pass


def test_a_process_whose_number_somebody_wrote_into_a_lock_gets_no_signal(tmp_path):
    db = tmp_path / "library.db"
    lock = db.with_name("library.db.watch.lock")
    innocent = "import sys; print('there', flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", innocent], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        lock.write_text(f"{process.pid}\n")
        with lock.open() as held:  # somebody holds it, and says that it is another process
            fcntl.flock(held, fcntl.LOCK_EX)
            assert watching_process(db) == process.pid
            assert not ask_for_scan(db)
        process.communicate()
    assert process.returncode == 0


HOLDER = """
import signal, sys
from pathlib import Path
from indexer.library.lock import watch_lock
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
with watch_lock(Path(sys.argv[1])):
    print("held", flush=True)
    print(signal.sigwait({signal.SIGUSR2}).name)
"""


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="processes are proven by Linux's /proc")
def test_the_process_that_holds_the_lock_gets_the_signal(tmp_path):
    db = tmp_path / "library.db"
    assert not signal_watching_process(db, signal.SIGUSR2)
    with subprocess.Popen([sys.executable, "-c", HOLDER, db], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout
        assert holder.stdout.readline() == "held\n"
        assert signal_watching_process(db, signal.SIGUSR2)
        assert holder.communicate()[0] == "SIGUSR2\n"
    assert not signal_watching_process(db, signal.SIGUSR2)


def test_the_status_file_is_written_and_read_through_no_link(quick_cli, tmp_path, victim):
    (tmp_path / "music").mkdir()
    place = status_path(quick_cli.db)
    place.with_name(f".{place.name}.tmp").symlink_to(victim)
    with Watching(quick_cli, tmp_path / "music") as watch:
        watch.until_idle()
        found = read_status(quick_cli.db)
        assert found
        assert found["state"] == "idle"
    assert victim.read_bytes() == b"not to be touched"
    victim.write_text('{"pid": 1, "state": "forged"}')
    place.symlink_to(victim)
    with watch_lock(quick_cli.db):
        assert read_status(quick_cli.db) == {"pid": os.getpid(), "state": "starting"}


def test_the_locks_and_records_of_models_are_written_through_no_link(tmp_path, victim):
    models = tmp_path / "models"
    with writing(models):
        pass
    assert models.stat().st_mode & 0o777 == 0o700
    (models / ".m.lock").symlink_to(victim)
    with pytest.raises(ModelError, match="symbolic link"), writing(models), locked(models, "m"):
        pass
    (models / f".record.json.{os.getpid()}.tmp").symlink_to(victim)
    write_json(models / "record.json", {"a": 1})
    assert victim.read_bytes() == b"not to be touched"


def test_a_place_where_no_library_can_be_made_is_one_line(tmp_path):
    (tmp_path / "home").write_bytes(b"no folder")
    with (
        pytest.raises(StoreError, match=r"cannot be made \(Not a directory\); name a place .* --db or INDEXER_DB"),
        library_lock(tmp_path / "home" / ".local" / "library.db"),
    ):
        pass
