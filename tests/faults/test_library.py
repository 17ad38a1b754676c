"""A library in surroundings that SQLite does not like: mounts that cannot be written, no room for temporary files."""

import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing

import pytest

from indexer.library.store import Store
from tests.helpers.synth import write_audio
from tests.helpers.tag_faults import private_mounts


@pytest.fixture
def library(quick_cli, tmp_path):
    """The command line on a scanned library of one file."""
    (tmp_path / "music").mkdir()
    write_audio(tmp_path / "music" / "a", "wav", 2.0, seed=1)
    quick_cli("scan", tmp_path / "music")
    return quick_cli


def run_with_mounts(mounts, *command):
    """Run a command after a shell script of mounts that nobody else sees."""
    if (private := private_mounts()) is None:
        pytest.skip("private mounts (unshare -m) are refused here")
    shell = ["sh", "-ec", f'{mounts}; exec "$@"', "-"]
    return subprocess.run(
        [*private, *shell, *map(str, command)], capture_output=True, text=True, timeout=120, check=False
    )


def test_a_library_on_a_read_only_mount_is_read(library, tmp_path):
    folder = tmp_path / "read only"
    folder.mkdir()
    shutil.copy(library.db, folder / "library.db")
    mounts = f"mount --bind '{folder}' '{folder}'; mount -o remount,bind,ro '{folder}'"
    for command, said in (("status", "1 ready"), ("doctor", "sound")):
        done = run_with_mounts(mounts, sys.executable, "-m", "indexer", command, "--db", folder / "library.db")
        assert (done.returncode, said in done.stdout) == (0, True), done
    done = run_with_mounts(mounts, sys.executable, "-m", "indexer", "scan", "--db", folder / "library.db")
    assert done.returncode == 2
    assert done.stderr == f"indexer: {folder}/library.db.lock: cannot be opened (Read-only file system)\n"


def test_a_log_that_cannot_be_read_on_a_read_only_mount_is_named(library, tmp_path):
    folder = tmp_path / "ro"
    folder.mkdir()
    with closing(sqlite3.connect(library.db)) as conn:
        conn.execute("UPDATE files SET state = 'missing'")
        conn.commit()
        for ending in ("", "-wal"):
            shutil.copy(f"{library.db}{ending}", f"{folder}/library.db{ending}")
    mounts = f"mount --bind '{folder}' '{folder}'; mount -o remount,bind,ro '{folder}'"
    done = run_with_mounts(mounts, sys.executable, "-m", "indexer", "status", "--db", folder / "library.db")
    assert done.returncode == 2
    assert "library.db-wal holds changes" in done.stderr
    assert done.stderr.count("\n") == 1


SPOOL = """
import sys
from pathlib import Path
from indexer.library.store import Store
with Store(Path(sys.argv[1])) as store:
    store.clear_spool()
    with store.transaction():
        store.spool_changed((b"/music/%0200d.mp3" % n, None) for n in range(20_000))
    print(store.changed_count())
"""


def test_without_a_folder_for_temporary_files_they_go_beside_the_library(tmp_path):
    """As in a container with a read-only root: SQLite would not even open them."""
    folder = tmp_path / "it's here"
    folder.mkdir()
    Store(folder / "library.db").close()
    # The test's own folder and the interpreter may lie in /tmp, too: only the library's stays writable, elsewhere.
    mounts = (
        f'mount -t tmpfs none /mnt; mkdir /mnt/kept; mount --bind "{folder}" /mnt/kept;'
        " for place in /var/tmp /usr/tmp /tmp; do if [ -d $place ]; then"
        " mount --bind $place $place; mount -o remount,bind,ro $place; fi; done;"
        " unset TMPDIR SQLITE_TMPDIR; cd /proc"
    )
    done = run_with_mounts(mounts, sys.executable, "-c", SPOOL, "/mnt/kept/library.db")
    assert (done.returncode, done.stdout) == (0, "20000\n"), done.stderr
    assert sorted(os.listdir(folder)) == ["library.db"]
