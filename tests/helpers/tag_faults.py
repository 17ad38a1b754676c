"""One tag write on a library of its own: in processes that can be killed at any call, in places full or read-only.

Run as a program this is the nursery: it imports the writer once and no torch, and forks a child for every request, so
that a kill costs milliseconds. The tests check what the child left behind.
"""

import builtins
import contextlib
import fcntl
import functools
import io
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from indexer.errors import DeferredError, IndexerError
from indexer.files import open_files
from indexer.files.audio.identity import Stat, sniff
from indexer.files.tags import copies, write
from indexer.files.tags.genre import GenreEdit
from indexer.files.tags.read import read_tags
from indexer.library.store import Store
from indexer.library.writing.files import FileRow
from indexer.scan.difference import spool_difference
from indexer.scan.journal import commit_write, settle_open_writes, tag_columns

EDIT = GenreEdit(("Drum & Bass",), "drum and bass", 0.93, "linear@12345678")
REPOSITORY = Path(__file__).parents[2]


def container_of(path: Path) -> str:
    with path.open("rb") as file:
        return sniff(file)


@dataclass(frozen=True)
class Library:
    """A music folder with one file, and a library that knows it."""

    folder: Path
    path: Path
    db: Path

    @classmethod
    def of(cls, path: Path, db: Path) -> "Library":
        """A new library beside one file."""
        library = cls(path.parent, path, db)
        with Store(db) as store:
            root_id = store.add_root(os.fsencode(path.parent))
            file_id = store.put_file(
                os.fsencode(path),
                Stat.of(path),
                root_id=root_id,
                state="ready",
                container=container_of(path),
                recording_id=store.recording("00", codec="x", sample_rate_hz=1, channels=1, duration_s=None),
            )
            store.put_tags(file_id, tag_columns(read_tags(path, container_of(path))))
        return library

    def write(self, edit: GenreEdit | None = EDIT, *, preserve_mtime: bool = False) -> None:
        """The whole write as the program does it: settle, prepare, commit with the journal. ``edit`` None undoes."""
        with Store(self.db) as store:
            settle_open_writes(store)
            self.write_in(store, edit, preserve_mtime=preserve_mtime)

    def write_in(self, store: Store, edit: GenreEdit | None = EDIT, *, preserve_mtime: bool = False) -> None:
        """Prepare and commit in an open library."""
        row = self.row(store)
        add = {"INDEXER_MOOD": "dark"} if edit else None
        prepared = write.prepare(str(self.path), row.container or "", edit, add=add, preserve_mtime=preserve_mtime)
        ours = edit.describe() if edit else None
        commit_write(store, prepared, file_id=row.id, run_id=None, ours=ours, is_undo=edit is None)

    def row(self, store: Store) -> FileRow:
        """The file's row."""
        row = store.file_at(os.fsencode(self.path))
        assert row is not None
        return row

    def settle(self, action: str = "write") -> str | None:
        """What the next start does before anything else; the state of the last such entry in the journal.

        Asserts that nothing temporary stays, that nothing is open, and that the row agrees with the file.
        """
        with Store(self.db) as store:
            settle_open_writes(store)
            store.clear_spool()
            difference = spool_difference(store, os.fsencode(self.folder), root_id=1)
            assert os.listdir(self.folder) == [self.path.name]
            assert store.open_writes() == []
            assert difference.counts == {"unchanged": 1}, "the library has another stat than the file"
            row = self.row(store)
            assert row.stat == Stat.of(self.path)
            found = read_tags(self.path, row.container or "")
            known = store.db.execute("SELECT genre, indexer_genre FROM tags WHERE file_id = ?", (row.id,)).fetchone()
            assert tuple(known) == (found.genre, found.ours.to_text() if found.ours else None)
            last = store.db.execute(
                "SELECT state FROM tag_writes WHERE action = ? ORDER BY id DESC", (action,)
            ).fetchone()
            return last["state"] if last else None

    def keep(self, name: str) -> Path:
        """A copy of file and library as they are now, to be put back by ``put_back``."""
        kept = self.db.parent / name
        kept.mkdir()
        shutil.copy2(self.db, kept / "db")
        shutil.copy2(self.path, kept / "file")
        return kept

    def put_back(self, kept: Path) -> None:
        """File and library as they were kept; the row is told the new stat."""
        for leftover in self.db.parent.glob(f"{self.db.name}*"):
            leftover.unlink()
        shutil.copyfile(kept / "db", self.db)
        shutil.copyfile(kept / "file", self.path)
        connection = sqlite3.connect(self.db)
        stat = Stat.of(self.path)
        with connection:
            connection.execute(
                "UPDATE files SET dev = ?, ino = ?, size = ?, mtime_ns = ?",
                (stat.dev, stat.ino, stat.size, stat.mtime_ns),
            )
        connection.close()


# --- killed at a call -------------------------------------------------------------------------------------------------


class Fuse:
    """Counts the calls that change a disk, and kills the process at call ``limit``; 0: it only keeps their names."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.calls: list[str] = []
        self.armed = False
        sqlite3.connect = functools.partial(sqlite3.connect, factory=_connection(self))

    def tick(self, name: str) -> None:
        if not self.armed:
            return
        self.calls.append(name)
        if len(self.calls) == self.limit:
            os.kill(os.getpid(), signal.SIGKILL)

    def counted(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(real)
        def call(*args: Any, **kwargs: Any) -> Any:
            self.tick(name)
            return real(*args, **kwargs)

        return call

    def arm(self) -> None:
        """Count in this process from now on, for good."""
        self.armed = True
        for name in ("fsync", "fdatasync", "replace", "rename", "unlink", "remove", "truncate", "ftruncate", "utime",
                     "chmod", "fchmod", "chown", "fchown", "setxattr", "copy_file_range", "sendfile"):  # fmt: skip
            setattr(os, name, self.counted(name, getattr(os, name)))
        write.exchange = self.counted("exchange", write.exchange)
        fcntl.ioctl = self.counted("ioctl", fcntl.ioctl)
        os_open, os_write, io_open = os.open, os.write, io.open
        raw_file = _raw_file(self)

        def opened(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
            if flags & os.O_CREAT:
                self.tick("create")
            return os_open(path, flags, *args, **kwargs)

        def written(handle: int, data: Any) -> int:
            self.tick("write")
            half = os_write(handle, data[: len(data) // 2])
            self.tick("half a write")
            return half + os_write(handle, data[len(data) // 2 :])

        def opened_file(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
            if mode == "r+b":
                return io.BufferedRandom(raw_file(file, mode))
            assert not set("wax+") & set(mode), f"{file} is opened in a way that the fuse does not count: {mode}"
            return io_open(file, mode, *args, **kwargs)

        os.open, os.write = opened, written
        io.open = builtins.open = opened_file


def _raw_file(fuse: Fuse) -> type[io.FileIO]:
    class Counted(io.FileIO):
        def write(self, data: Any) -> int:
            fuse.tick("write")
            data = bytes(data)
            half = super().write(data[: len(data) // 2])
            fuse.tick("half a write")
            return half + super().write(data[len(data) // 2 :])

        def truncate(self, size: int | None = None) -> int:
            fuse.tick("truncate")
            return super().truncate(size)

    return Counted


def _connection(fuse: Fuse) -> type[sqlite3.Connection]:
    class Counted(sqlite3.Connection):
        def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:
            verb = sql.split(None, 1)[0].upper()
            if verb in ("INSERT", "UPDATE", "DELETE", "REPLACE", "BEGIN", "COMMIT", "PRAGMA"):
                fuse.tick(verb)
            return super().execute(sql, *args)

        def commit(self) -> None:
            fuse.tick("COMMIT")
            super().commit()

    return Counted


class Nursery:
    """A process without torch that forks the victims."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.helpers.tag_faults"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=REPOSITORY,
        )

    def write(
        self, library: Library, *, kill_at: int, undo: bool = False, exchanges: bool = True
    ) -> tuple[int, list[str]]:
        """One write in a child that dies at call ``kill_at``, as on a system that ``exchanges`` files or does not.

        Returns its exit status, negative for a signal, and, if it lived, the names of its calls.
        """
        assert self._process.stdin
        assert self._process.stdout
        request = {
            "path": str(library.path),
            "db": str(library.db),
            "kill_at": kill_at,
            "undo": undo,
            "exchanges": exchanges,
        }
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        return answer["status"], answer["calls"]

    def close(self) -> None:
        self._process.communicate(timeout=10)


def _nursery() -> None:
    import sqlite_utils  # noqa: F401 - Store imports these two when it is opened: once here, not in every victim

    import indexer.library.migrations  # noqa: F401

    assert "torch" not in sys.modules
    for line in sys.stdin:
        request = json.loads(line)
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reading)
            _victim(request, writing)
        os.close(writing)
        with os.fdopen(reading, "rb") as pipe:
            calls = pipe.read()
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(json.dumps({"status": status, "calls": calls.decode().split("\n")[:-1]}), flush=True)


def _victim(request: dict[str, Any], report: int) -> None:
    status = 99
    try:
        fuse, os_write = Fuse(request["kill_at"]), os.write
        path = Path(request["path"])
        library = Library(path.parent, path, Path(request["db"]))
        with Store(library.db) as store:
            fuse.arm()
            if not request["exchanges"]:
                write.exchange = lambda *_: False
            library.write_in(store, None if request["undo"] else EDIT)
        os_write(report, "".join(f"{name}\n" for name in fuse.calls).encode())
        status = 0
    finally:
        os._exit(status)


# --- full, read-only: these run in a process that has mounts of its own -----------------------------------------------


@functools.cache
def private_mounts() -> list[str] | None:
    """How to run a program with mounts of its own, or None where that is refused."""
    for command in (["unshare", "-Urm"], ["unshare", "-m"]):
        try_mount = [*command, "sh", "-c", "mount -t tmpfs -o size=64k none /mnt"]
        if shutil.which("unshare") and subprocess.run(try_mount, capture_output=True, check=False).returncode == 0:
            return command
    return None


def code_that_prints(function: Callable[..., Any]) -> str:
    """A program that calls a function of this module with its arguments as paths, and prints the result as JSON."""
    return (
        "import json, sys; from tests.helpers import tag_faults;"
        f" print(json.dumps(tag_faults.{function.__name__}(*map(tag_faults.Path, sys.argv[1:]))))"
    )


def with_private_mounts(function: Callable[..., Any], *arguments: Path, environ: dict[str, str] | None = None) -> Any:
    """The result of a function of this module, run in a process with mounts of its own; None where that is refused."""
    if (command := private_mounts()) is None:
        return None
    code = code_that_prints(function)
    done = subprocess.run(
        [*command, sys.executable, "-c", code, *map(str, arguments)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **(environ or {})},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def mount(*arguments: object) -> None:
    subprocess.run(["mount", *map(str, arguments)], check=True)


def leave_room(folder: Path, room: int) -> None:
    """Fill a small file system until ``room`` bytes are free (in blocks)."""
    (folder / ".filler").unlink(missing_ok=True)
    free = os.statvfs(folder)
    with (folder / ".filler").open("wb") as file:
        file.write(bytes(max(0, free.f_bavail * free.f_frsize - room)))


def fill_music_folder(source: Path, folder: Path) -> dict[str, list[str]]:
    """Every file of ``source`` prepared on a file system with 0, 1, 2, ... free blocks, unchecked: what came of it."""
    mount("-t", "tmpfs", "-o", "size=1m", "none", folder)
    write.check_space = lambda *_: None
    outcomes: dict[str, list[str]] = {}
    for original in sorted(source.iterdir()):
        path = folder / original.name
        (folder / ".filler").unlink(missing_ok=True)
        shutil.copyfile(original, path)
        before, found = path.read_bytes(), outcomes.setdefault(original.name, [])
        while found[-1:] != ["prepared"]:
            leave_room(folder, 4096 * len(found))
            try:
                write.discard(write.prepare(str(path), container_of(path), EDIT))
                found.append("prepared")
            except IndexerError as error:
                found.append(f"{type(error).__name__}: {error}")
            assert path.read_bytes() == before
            assert sorted(os.listdir(folder)) == [".filler", path.name]
        path.unlink()
    return outcomes


def fill_library_disk(music: Path, folder: Path) -> dict[str, list[str]]:
    """A write with its journal on a file system with 0, 1, 2, ... free blocks, until one passes.

    Returns the errors, and the states after the next start.
    """
    mount("-t", "tmpfs", "-o", "size=3m", "none", folder)
    path = next(music.iterdir())
    library = Library.of(path, folder / "library.db")
    kept, old = library.keep("kept"), path.read_bytes()
    library.write()
    new, errors, states = path.read_bytes(), list[str](), list[str]()
    for blocks in range(200):
        library.put_back(kept)
        leave_room(folder, 4096 * blocks)
        try:
            library.write()
        except IndexerError as error:
            errors.append(f"{type(error).__name__}: {error}")
        data = path.read_bytes()
        assert data in (old, new)
        (folder / ".filler").unlink()
        states.append(str(library.settle()))
        assert path.read_bytes() == data
        assert (states[-1] == "done") == (data == new)
        if len(errors) == blocks:
            break
    return {"errors": errors, "states": states}


def read_only_folder(path: Path, db: Path) -> dict[str, str]:
    """A folder that is read-only before, between and after the steps of a write."""
    library, found = Library(path.parent, path, db), dict[str, str]()

    def remount(how: str) -> None:
        mount("-o", f"remount,bind,{how}", path.parent)

    mount("--bind", path.parent, path.parent)
    old = path.read_bytes()
    with Store(db) as store:
        for when in ("before", "between"):
            remount("ro" if when == "before" else "rw")
            try:
                if when == "before":
                    library.write_in(store)
                else:
                    prepared = write.prepare(str(path), container_of(path), EDIT)
                    remount("ro")
                    commit_write(store, prepared, file_id=1, run_id=None, ours=EDIT.describe())
            except IndexerError as error:
                found[when] = f"{type(error).__name__}: {error}"
            assert path.read_bytes() == old
        remount("rw")
        prepared = write.prepare(str(path), container_of(path), EDIT)
        store.intend_write(
            file_id=1,
            run_id=None,
            path=os.fsencode(path),
            action="write",
            before=(),
            after=(),
            stat_before=prepared.before,
            stat_after=prepared.after,
            evidence={},
        )  # the power fails here
        remount("ro")
        found["settled while read-only"] = str(settle_open_writes(store))
        remount("rw")
    found["settled"] = str(library.settle())
    return found


def scan_on_a_full_disk(source: Path, folder: Path) -> dict[str, Any]:
    """Scans of a small file system: too full for one of its files, then with room."""
    mount("-t", "tmpfs", "-o", "size=2m", "none", folder)
    shutil.copytree(source, folder, dirs_exist_ok=True)
    full = _cli("scan", folder, "--json")
    untouched = [p.name for p in sorted(source.iterdir()) if (folder / p.name).read_bytes() == p.read_bytes()]
    hidden = [p.name for p in folder.glob(".*")]
    mount("-o", "remount,size=8m", folder)
    return {
        "full": full,
        "untouched": untouched,
        "hidden": hidden,
        "with room": _cli("scan", folder, "--json"),
        "files": os.listdir(folder),
    }


def scan_with_a_full_library_disk(source: Path, folder: Path) -> dict[str, Any]:
    """Scans with a library on a small file system that fills up at another moment each time, then with room."""
    mount("-t", "tmpfs", "-o", "size=2m", "none", folder)
    os.environ["INDEXER_DB"] = str(folder / "library.db")
    _cli("scan", source, "--no-tags", "--json")
    old = {p.name: p.read_bytes() for p in source.iterdir()}
    runs = []
    for blocks in (0, 12, 24):
        leave_room(folder, 4096 * blocks)
        runs.append(_cli("scan", source, "--json"))
    (folder / ".filler").unlink()
    untouched = [p.name for p in sorted(source.iterdir()) if old.get(p.name) == p.read_bytes()]
    return {
        "full": runs,
        "untouched": untouched,
        "with room": _cli("scan", source, "--json"),
        "files": sorted(os.listdir(source)),
    }


def open_during_the_check(path: str) -> None:
    """Another process opens a file for writing while its lease is held, which asks the lease back with a signal."""
    opener = (
        "import os, sys\ntry: os.open(sys.argv[1], os.O_WRONLY | os.O_NONBLOCK)\nexcept BlockingIOError: sys.exit(11)"
    )
    real = fcntl.fcntl

    def meanwhile(handle: int, what: int, *args: Any) -> Any:
        result = real(handle, what, *args)
        if what == fcntl.F_SETLEASE and args == (fcntl.F_RDLCK,):
            assert subprocess.run([sys.executable, "-c", opener, path], check=False).returncode == 11
        return result

    fcntl.fcntl = meanwhile
    open_files.lease_is_refused(os.fsencode(path))


def write_often(path: Path, db: Path, genre: str, rounds: int) -> None:
    """One of two programs at the same file; prints how many of its writes went through."""
    library, written = Library(path.parent, path, db), 0
    with Store(db) as store:
        for _ in range(rounds):
            with contextlib.suppress(DeferredError):
                library.write_in(store, GenreEdit((genre,), genre, 0.9, "m"))
                written += 1
    print(written)


def shares_blocks(folder: Path) -> bool:
    """Whether the file system of a folder can clone a file."""
    with (folder / "one").open("w+b") as one, (folder / "two").open("w+b") as two:
        one.write(bytes(65536))
        one.flush()
        return copies.share_blocks(one.fileno(), two.fileno())


def on_a_mounted_image(image: Path, folder: Path, source: Path) -> dict[str, Any] | None:
    """``write_by_reflink`` on a file system in an image; None where it cannot be mounted."""
    script = 'mount -o loop "$1" "$2" || exit 33; exec "$3" -c "$4" "$2" "$5"'
    code = code_that_prints(write_by_reflink)
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, "-", image, folder, sys.executable, code, source],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (0, 33), done.stderr
    return json.loads(done.stdout) if done.returncode == 0 else None


def write_by_reflink(folder: Path, source: Path) -> dict[str, Any]:
    """Write and undo on a file system that shares blocks, counting the blocks that were copied by hand."""
    path = Path(shutil.copyfile(source, folder / source.name))
    library, old, copied = Library.of(path, folder.parent / "reflink.db"), path.read_bytes(), list[int]()
    real = copies.copy_blocks
    copies.copy_blocks = lambda *args: (copied.append(1), real(*args))[1]
    library.write()
    genres = read_tags(path, container_of(path)).genres
    library.write(None)
    return {"blocks copied": len(copied), "genres": list(genres), "undone": path.read_bytes() == old}


def _cli(*arguments: object) -> dict[str, Any]:
    import click.testing

    from indexer.cli.main import main

    result = click.testing.CliRunner().invoke(main, [str(a) for a in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        return {"exit_code": result.exit_code, "crash": repr(result.exception)}
    return {
        "exit_code": result.exit_code,
        "stderr": result.stderr,
        **(json.loads(result.stdout) if result.stdout.startswith("{") else {}),
    }


if __name__ == "__main__":
    _nursery()
