"""Tag writes under kills, full disks, read-only mounts, and other programs at the same file.

What must hold after each: the file is the old or the new one byte for byte, nothing temporary stays, the library agrees
with the file. Runs as root too, hence mounts instead of permissions; skips where the system refuses private mounts.
"""

import errno
import fcntl
import mmap
import os
import re
import shutil
import sqlite3
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import mutagen
import mutagen.apev2
import mutagen.id3
import pytest

from indexer.errors import DeferredError, WriteRefusedError
from indexer.files.audio.identity import Stat, fingerprint
from indexer.files.links import folder_of
from indexer.files.tags import write
from indexer.files.tags.copies import TEMP_SUFFIX, remove_copies, remove_leftovers
from indexer.files.tags.read import read_tags
from indexer.files.tags.write import prepare, settle
from indexer.library.store import Store
from indexer.scan.journal import commit_write, settle_open_writes
from tests.helpers import tag_faults
from tests.helpers.cli import FIXTURES, Cli
from tests.helpers.contents import genre_of
from tests.helpers.synth import CONTAINERS, write_audio
from tests.helpers.tag_faults import EDIT, Library, Nursery

MADE = [name for name in CONTAINERS if name not in ("aac", "alac")]
REAL = {
    "musepack": "beetbox+beets/test/rsrc/empty.mpc",
    "ape": "beetbox+beets/test/rsrc/empty.ape",
    "dsf": "beetbox+beets/test/rsrc/empty.dsf",
    "speex": "Serial-ATA+lofty-rs/lofty/tests/files/assets/minimal/full_test.spx",
}
ALL = [*MADE, "mp3 with tags", "flac with tags", *REAL]


def write_tags(path: Path) -> None:
    """A genre of the user's, a title, and every second tag that an MP3 can have."""
    file = mutagen.File(path, easy=True)
    if file.tags is None:
        file.add_tags()
    file["genre"], file["title"] = ["House"], ["Título ☃"]
    if path.suffix == ".mp3":
        file.save(v1=2)
        ape = mutagen.apev2.APEv2()
        ape["Genre"] = "House"
        ape.save(path)
    else:
        file.save()


def audio_file(folder: Path, name: str) -> Path:
    """A short file of a kind of ALL in a folder of its own."""
    folder.mkdir()
    if name in REAL:
        source = FIXTURES / REAL[name]
        if not source.exists():
            pytest.skip(f"the real {name} file is not beside this checkout")
        return Path(shutil.copyfile(source, folder / f"a{source.suffix}"))
    path = write_audio(folder / "a", name.removesuffix(" with tags"), 0.1)
    if name.endswith(" with tags"):
        write_tags(path)
    return path


@pytest.fixture
def library(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Library]:
    """A library with one file of the kind that the test asks for, or FLAC.

    It lies in memory where possible, for speed: a killed process loses no finished write there either.
    """
    kind = getattr(request, "param", "flac")
    place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else tmp_path
    with tempfile.TemporaryDirectory(dir=place) as folder:
        yield Library.of(audio_file(Path(folder) / "music", kind), Path(folder) / "library.db")


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    process = Nursery()
    yield process
    process.close()


# --- killed at every step ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("library", "undo", "exchanges"),
    [
        *((name, False, True) for name in ALL),
        *((name, True, True) for name in ("mp3 with tags", "flac", "m4a", "wav")),
        ("flac", False, False),
    ],
    indirect=["library"],
)
def test_killed_at_any_call_the_file_is_the_old_or_the_new_one(
    library: Library, nursery: Nursery, undo: bool, exchanges: bool
) -> None:
    """After a crash at any instant each file is wholly old or wholly new; the next start settles the rest."""
    if undo:
        library.write()
    kept = library.keep("before")
    old = library.path.read_bytes()
    library.write(None if undo else EDIT)
    new = library.path.read_bytes()
    assert new != old
    seen: set[str | None] = set()
    for kill_at in range(1, 200):
        library.put_back(kept)
        status, calls = nursery.write(library, kill_at=kill_at, undo=undo, exchanges=exchanges)
        data = library.path.read_bytes()
        assert data in (old, new), f"killed at call {kill_at}: neither old nor new"
        state = library.settle("undo" if undo else "write")
        assert (state == "done") == (data == new), f"killed at call {kill_at}: the journal says {state}"
        assert library.path.read_bytes() == data
        seen.add(state)
        if status == 0:
            break
        assert status == -9
    assert {None, "dropped", "done"} <= seen
    assert {"write", "half a write", "fsync", "INSERT", "unlink", "BEGIN", "UPDATE", "COMMIT"} <= set(calls)
    assert ("exchange" in calls, "replace" in calls) == (exchanges, not exchanges)


# --- full, read-only --------------------------------------------------------------------------------------------------


def inside(function: Callable[..., Any], *arguments: Path, environ: dict[str, str] | None = None) -> Any:
    result = tag_faults.with_private_mounts(function, *arguments, environ=environ)
    if result is None:
        pytest.skip("private mounts (unshare -Urm) are refused here")
    return result


def test_a_disk_that_fills_up_at_any_point_of_the_copy_leaves_the_file_alone(tmp_path: Path) -> None:
    source, folder = tmp_path / "source", tmp_path / "small"
    source.mkdir()
    folder.mkdir()
    for name in MADE:
        write_audio(source / name, name, 0.1)
    outcomes = inside(tag_faults.fill_music_folder, source, folder)
    assert len(outcomes) == len(MADE)
    for name, found in outcomes.items():
        assert found[-1] == "prepared"
        assert len(found) > (source / name).stat().st_size / 4096
        assert {f for f in found[:-1] if not f.startswith("DeferredError: ") or "disk full" not in f} == set(), name


def test_a_full_disk_under_the_library_leaves_file_and_library_in_agreement(tmp_path: Path) -> None:
    audio_file(tmp_path / "music", "flac")
    (tmp_path / "small").mkdir()
    found = inside(tag_faults.fill_library_disk, tmp_path / "music", tmp_path / "small")
    assert len(found["errors"]) > 2
    assert {e for e in found["errors"] if not e.startswith("StoreError")} == set()
    assert any("disk is full" in e for e in found["errors"])
    assert found["states"][0] == "None"
    assert found["states"][-1] == "done"


def test_a_read_only_folder_is_refused_and_settled_when_it_can_be_written(tmp_path: Path) -> None:
    library = Library.of(audio_file(tmp_path / "music", "flac"), tmp_path / "library.db")
    found = inside(tag_faults.read_only_folder, library.path, library.db)
    assert "ReadOnlyError" in found["before"]
    assert "read-only" in found["before"]
    assert "ReadOnlyError" in found["between"]
    assert "read-only" in found["between"]
    assert (found["settled while read-only"], found["settled"]) == ("0", "dropped")


def test_a_scan_on_a_full_disk_says_so_and_the_next_one_goes_on(cli: Cli, tmp_path: Path) -> None:
    source, folder = tmp_path / "source", tmp_path / "small"
    source.mkdir()
    folder.mkdir()
    write_audio(source / "large", "wav", 4.0, seed=1)
    write_audio(source / "small", "opus", 1.0, seed=2)
    found = inside(tag_faults.scan_on_a_full_disk, source, folder, environ=cli.environ)
    full, rest = found["full"], found["with room"]
    assert (full["exit_code"], full["tags_written"], full["failed"]) == (1, 1, 1)
    assert [Path(f["path"]).name for f in full["failures"]] == ["large.wav"]
    assert "disk full" in full["failures"][0]["reason"]
    assert found["untouched"] == ["large.wav"]
    assert found["hidden"] == []
    assert (rest["exit_code"], rest["tags_written"], rest["embedded"], rest["failed"]) == (0, 1, 0, 0)
    assert sorted(found["files"]) == ["large.wav", "small.opus"]


def test_a_scan_whose_library_has_no_room_says_so_and_the_next_one_goes_on(cli: Cli, tmp_path: Path) -> None:
    source, folder = tmp_path / "music", tmp_path / "small"
    source.mkdir()
    folder.mkdir()
    names = sorted(write_audio(source / name, name, 0.5).name for name in ("flac", "mp3", "opus", "m4a"))
    found = inside(tag_faults.scan_with_a_full_library_disk, source, folder, environ=cli.environ)
    stopped = [run for run in found["full"] if run["exit_code"]]
    assert stopped
    assert [run for run in stopped if "crash" in run or "disk is full" not in run["stderr"]] == []
    assert found["with room"]["exit_code"] == 0
    assert found["with room"]["tags_written"] == len(found["untouched"])
    assert found["files"] == names
    for path in source.iterdir():
        assert genre_of(path)


# --- the order, seen from outside -------------------------------------------------------------------------------------


def test_copy_and_intent_are_durable_before_the_rename_and_the_folder_before_done(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    looking = sqlite3.connect(library.db)

    def noted(module: Any, name: str) -> None:
        real = getattr(module, name)

        def call(*args: Any, **options: Any) -> Any:
            on_folder = name == "fsync" and stat.S_ISDIR(os.fstat(args[0]).st_mode)
            states = [state for (state,) in looking.execute("SELECT state FROM tag_writes")]
            order.append(f"{name}{' of the folder' if on_folder else ''}, journal {states}")
            return real(*args, **options)

        monkeypatch.setattr(module, name, call)

    noted(os, "fsync")
    noted(write, "exchange")
    library.write()
    assert order == ["fsync, journal []", "exchange, journal ['intended']", "fsync of the folder, journal ['intended']"]
    assert looking.execute("SELECT state FROM tag_writes").fetchall() == [("done",)]
    looking.close()
    with Store(library.db) as store:
        assert (
            store.db.execute("PRAGMA synchronous").fetchone()[0] == 2
        )  # FULL: a commit returns when it is on the disk


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_the_system_calls_come_in_the_order_that_a_power_cut_needs(tmp_path: Path) -> None:
    """fsync(copy) < sync(journal) < rename < fsync(folder) < write(journal), as the kernel sees them."""
    library = Library.of(audio_file(tmp_path / "music", "flac"), tmp_path / "library.db")
    log = tmp_path / "log"
    code = (
        "import sys; from pathlib import Path; from tests.helpers.tag_faults import Library;"
        " path, db = map(Path, sys.argv[1:]); Library(path.parent, path, db).write()"
    )
    traced = subprocess.run(
        [
            "strace",
            "-f",
            "-y",
            "-o",
            log,
            "-e",
            "trace=fsync,fdatasync,rename,renameat,renameat2,pwrite64",
            sys.executable,
            "-c",
            code,
            library.path,
            library.db,
        ],
        capture_output=True,
        check=False,
        cwd=tag_faults.REPOSITORY,
    )
    if traced.returncode != 0 and "ptrace" in traced.stderr.decode():
        pytest.skip("strace may not trace here")
    events = []
    for line in log.read_text().splitlines():
        kind = "rename" if "rename" in line else "write" if "pwrite64" in line else "sync"
        place = (
            "journal"
            if "library.db" in line
            else "copy"
            if TEMP_SUFFIX in line
            else "folder"
            if f"<{library.folder}>" in line
            else ""
        )
        if place and events[-1:] != [f"{kind} {place}"]:
            events.append(f"{kind} {place}")
    renamed = events.index("rename copy")
    before, after = events[:renamed], events[renamed:]
    announced = before[before.index("sync copy") + 1 :]
    assert set(announced) == {"write journal", "sync journal"}
    assert announced[-1] == "sync journal"
    assert after[:4] == ["rename copy", "sync folder", "write journal", "sync journal"]


# --- other programs at the same file ----------------------------------------------------------------------------------


def _replace(path: Path) -> None:
    """As most programs save: the same length and time, another content."""
    other = path.with_name("other")
    other.write_bytes(path.read_bytes()[:-1] + b"?")
    shutil.copystat(path, other)
    other.rename(path)


def _edit_and_set_the_time_back(path: Path) -> None:
    before = path.stat()
    with path.open("r+b") as file:
        file.write(b"fLaC?")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def _swap_for_a_link(path: Path) -> None:
    path.rename(path.parent.with_name("elsewhere"))
    path.symlink_to(path.parent.with_name("elsewhere"))


OTHERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "appends": (lambda path: path.write_bytes(path.read_bytes() + b"more"), "changed while"),
    "replaces": (_replace, "changed while"),
    "edits and sets the time back": (_edit_and_set_the_time_back, "changed while"),
    "swaps it for a link": (_swap_for_a_link, "changed while|Too many levels"),
    "changes permissions": (lambda path: path.chmod(0o600), "changed while"),
    "deletes": (lambda path: path.unlink(), "vanished"),
    "edits our copy": (lambda path: next(path.parent.glob(".*")).write_bytes(b"?"), "edited copy was changed"),
    "removes our copy": (lambda path: next(path.parent.glob(".*")).unlink(), "vanished"),
}


@pytest.mark.parametrize("when", ["prepared", "announced"])
@pytest.mark.parametrize("what", OTHERS)
def test_what_another_program_does_meanwhile_stands(
    library: Library, monkeypatch: pytest.MonkeyPatch, what: str, when: str
) -> None:
    act, reason = OTHERS[what]
    with Store(library.db) as store:
        prepared = prepare(str(library.path), "flac", EDIT)
        if when == "prepared":
            act(library.path)
        else:
            real = store.intend_write
            monkeypatch.setattr(store, "intend_write", lambda **values: (real(**values), act(library.path))[0])
        with pytest.raises(DeferredError, match=reason):
            commit_write(store, prepared, file_id=1, run_id=None, ours="x")
        others = library.path.read_bytes() if library.path.exists() else None
        row = store.db.execute("SELECT state, reason FROM tag_writes").fetchone()
        assert row["state"] == "dropped"
        assert re.search(reason, row["reason"])
        assert store.db.execute("SELECT genre FROM tags").fetchone()["genre"] is None
    assert others is None or b"INDEXER_GENRE" not in others
    assert list(library.folder.glob(".*")) == []


def _append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def _open_to_append(path: Path) -> Any:
    return path.open("ab")


BETWEEN: dict[str, Callable[[Path], object]] = {
    "appends": _append,
    "opens it to append": _open_to_append,
    "replaces": _replace,
    "swaps it for a link": _swap_for_a_link,
    "links it": lambda path: os.link(path, path.with_name("second.flac")),
}


@pytest.mark.parametrize("what", BETWEEN)
def test_what_another_program_does_between_the_check_and_the_rename_stands(
    library: Library, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    real, held, expected = write.exchange, [], []

    def too_late(one: bytes, other: bytes, folder: int) -> bool:
        if not held:
            held.append(BETWEEN[what](library.path))
            expected.append(library.path.read_bytes())
        return real(one, other, folder)

    monkeypatch.setattr(write, "exchange", too_late)
    with pytest.raises(DeferredError, match="changed while its tag was written"):
        library.write()
    if what == "opens it to append":
        with held[0] as file:  # it has the file itself, not one that is gone
            file.write(b"more")
        expected[0] += b"more"
    assert library.path.read_bytes() == expected[0]
    assert list(library.folder.glob(".*")) == []


def test_a_file_that_is_deleted_between_the_check_and_the_rename_stays_deleted(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = write.exchange
    monkeypatch.setattr(write, "exchange", lambda *names: (library.path.unlink(), real(*names))[1])
    with pytest.raises(DeferredError, match="vanished"):
        library.write()
    assert os.listdir(library.folder) == []


def test_a_file_that_was_replaced_since_the_exchange_is_not_taken_back(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two other programs: one appended before the exchange, one saved anew after it. What came last stands."""
    real = write.exchange

    def between_two(*names: Any) -> bool:
        _append(library.path)
        done = real(*names)
        (library.folder / "new").write_bytes(b"saved anew")
        (library.folder / "new").replace(library.path)
        return done

    monkeypatch.setattr(write, "exchange", between_two)
    with pytest.raises(DeferredError, match="changed while"):
        library.write()
    assert library.path.read_bytes() == b"saved anew"
    assert os.listdir(library.folder) == [library.path.name]


def test_where_files_cannot_be_exchanged_the_copy_is_renamed(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    """FAT, NFS and SMB, and systems other than Linux: there the window between check and rename is left."""
    monkeypatch.setattr(write, "exchange", lambda *_: False)
    for edit in (EDIT, None):
        library.write(edit)
        assert library.settle("write" if edit else "undo") == "done"


@pytest.mark.parametrize("changed", [False, True])
def test_a_crash_after_the_exchange_loses_nothing_of_the_file_that_came_out(library: Library, changed: bool) -> None:
    prepared = prepare(str(library.path), "flac", EDIT)
    before = library.path.read_bytes()
    if changed:
        _append(library.path)
    with folder_of(str(library.path)) as (folder, name):
        assert write.exchange(os.fsencode(Path(prepared.temp_path).name), name, folder)
    write.discard(prepared)  # as a signal would have it: what has the copy's name now is the file itself
    assert len(os.listdir(library.folder)) == 2
    assert settle(str(library.path), prepared.before, prepared.after) == ("superseded" if changed else "done")
    assert os.listdir(library.folder) == [library.path.name]
    assert (library.path.read_bytes() == before + b"more") == changed


@pytest.mark.parametrize("put", [os.symlink, os.link])
@pytest.mark.parametrize("step", ["copy_file", "changed_fields"])
def test_what_is_put_in_the_place_of_our_copy_is_neither_edited_nor_given_rights(
    library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, put: Callable[..., None]
) -> None:
    """Before the edit, and before the copy gets the file's rights and times."""
    victim = tmp_path / "victim.flac" if put is os.symlink else library.folder.with_name("victim.flac")
    shutil.copyfile(library.path, victim)
    victim.chmod(0o600)
    before, old = victim.read_bytes(), library.path.read_bytes()
    real = getattr(write, step)

    def swap_after(*args: Any) -> Any:
        result = real(*args)
        copy = next(library.folder.glob(".*"))
        copy.unlink()
        put(victim, copy)
        return result

    monkeypatch.setattr(write, step, swap_after)
    with pytest.raises((DeferredError, WriteRefusedError)):
        prepare(str(library.path), "flac", EDIT)
    assert (victim.read_bytes(), stat.S_IMODE(victim.stat().st_mode)) == (before, 0o600)
    assert library.path.read_bytes() == old
    assert list(library.folder.glob(".*")) == []
    victim.unlink()


def test_a_hard_link_made_meanwhile_is_not_parted(library: Library, tmp_path: Path) -> None:
    prepared = prepare(str(library.path), "flac", EDIT)
    os.link(library.path, library.folder / "second.flac")
    with Store(library.db) as store, pytest.raises(DeferredError, match="changed while"):
        commit_write(store, prepared, file_id=1, run_id=None, ours="x")
    assert library.path.samefile(library.folder / "second.flac")


HOLDER = "import sys, time; f = open(sys.argv[1], sys.argv[2]); print('open', flush=True); sys.stdin.read()"


@pytest.mark.skipif(not hasattr(fcntl, "F_SETLEASE"), reason="leases are a Linux thing")
def test_a_file_that_another_process_holds_open_for_writing_waits(library: Library) -> None:
    before = library.path.read_bytes()
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, library.path, "r+b"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout
        assert holder.stdout.readline()
        with pytest.raises(DeferredError, match="another program has it open for writing"):
            library.write()
        holder.communicate()
    assert library.path.read_bytes() == before
    assert library.settle() == "dropped"
    library.write()
    assert library.settle() == "done"


@pytest.mark.skipif(not hasattr(fcntl, "F_SETLEASE"), reason="leases are a Linux thing")
def test_a_program_that_opens_the_file_during_the_check_does_not_end_us(library: Library) -> None:
    code = "import sys; from tests.helpers import tag_faults; tag_faults.open_during_the_check(sys.argv[1])"
    done = subprocess.run([sys.executable, "-c", code, library.path], cwd=tag_faults.REPOSITORY, check=False)
    assert done.returncode == 0  # SIGIO, which a broken lease brings, ends a process that does not expect it


def test_a_player_that_has_the_file_mapped_keeps_its_bytes(library: Library) -> None:
    before = library.path.read_bytes()
    with library.path.open("rb") as player, mmap.mmap(player.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        library.write()
        library.write(None)
        library.write()
        assert mapped[:] == before
    assert library.path.read_bytes() != before


def test_of_two_programs_at_one_file_one_writes_and_the_other_waits(library: Library, tmp_path: Path) -> None:
    second = Library.of(library.path, tmp_path / "second.db")
    prepared = prepare(str(library.path), "flac", EDIT)
    code = (
        "import sys; from tests.helpers.tag_faults import Path, write_often;"
        " write_often(Path(sys.argv[1]), Path(sys.argv[2]), 'House', 1)"
    )
    other = subprocess.run(
        [sys.executable, "-c", code, library.path, second.db],
        cwd=tag_faults.REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    assert other.stdout == "1\n"
    assert (
        Stat.of(prepared.temp_path) == prepared.after
    )  # each has a copy of its own: nobody renames what the other is still writing
    whole = library.path.read_bytes()
    with Store(library.db) as store, pytest.raises(DeferredError, match="changed while"):
        commit_write(store, prepared, file_id=1, run_id=None, ours="x")
    assert library.path.read_bytes() == whole
    assert second.settle() == "done"


def test_two_programs_that_write_all_the_time_never_leave_a_broken_file(library: Library, tmp_path: Path) -> None:
    rounds = 15
    sound = fingerprint_of(library.path)
    programs = []
    for number, genre in enumerate(("House", "Techno")):
        db = tmp_path / f"{number}.db"
        Library.of(library.path, db)
        code = (
            "import sys; from tests.helpers.tag_faults import Path, write_often;"
            f" write_often(Path(sys.argv[1]), Path(sys.argv[2]), {genre!r}, {rounds})"
        )
        programs.append(
            subprocess.Popen(
                [sys.executable, "-c", code, library.path, db],
                cwd=tag_faults.REPOSITORY,
                stdout=subprocess.PIPE,
                text=True,
            )
        )
    looks = 0
    while any(program.poll() is None for program in programs):
        assert fingerprint_of(library.path) == sound
        looks += 1
    written = [int(program.communicate()[0]) for program in programs]
    assert [program.returncode for program in programs] == [0, 0]
    assert sum(written) >= rounds
    assert looks > rounds
    assert read_tags(library.path, "flac").genres in (("House",), ("Techno",))
    remove_leftovers(library.folder)
    assert os.listdir(library.folder) == [library.path.name]


def fingerprint_of(path: Path) -> str:
    with path.open("rb") as file:
        return fingerprint(file, path).audio_sha256


# --- what belongs to the file but is not in it ------------------------------------------------------------------------


@pytest.mark.parametrize("preserve_mtime", [False, True])
def test_permissions_owner_and_wanted_times_survive_write_and_undo(library: Library, preserve_mtime: bool) -> None:
    owner = (1234, 4321) if os.geteuid() == 0 else (os.geteuid(), os.getegid())
    os.chown(library.path, *owner)
    library.path.chmod(0o640)
    os.utime(library.path, ns=(10**18, 10**18 + 123_456_789))
    for edit in (EDIT, None):
        library.write(edit, preserve_mtime=preserve_mtime)
        found = library.path.stat()
        assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid) == (0o640, *owner)
        assert (found.st_mtime_ns == 10**18 + 123_456_789) == preserve_mtime
        assert library.settle("write" if edit else "undo") == "done"


def test_extended_attributes_survive_write_and_undo(tmp_path: Path) -> None:
    library = Library.of(audio_file(tmp_path / "music", "mp3"), tmp_path / "library.db")
    try:
        os.setxattr(library.path, "user.rating", b"\0five")
    except (OSError, AttributeError):
        pytest.skip("no extended attributes here")
    for edit in (EDIT, None):
        library.write(edit)
        assert os.getxattr(library.path, "user.rating") == b"\0five"


def test_linked_files_are_left_alone_with_the_reason(library: Library) -> None:
    before = library.path.read_bytes()
    link, second = library.folder.with_name("link.flac"), library.folder.with_name("second.flac")
    link.symlink_to(library.path)
    with pytest.raises(WriteRefusedError, match="symbolic link"):
        prepare(str(link), "flac", EDIT)
    os.link(library.path, second)
    for path in (library.path, second):
        with pytest.raises(WriteRefusedError, match="2 hard links"):
            prepare(str(path), "flac", EDIT)
    assert link.is_symlink()
    assert library.path.samefile(second)
    assert library.path.read_bytes() == before
    second.unlink()
    library.write()
    assert link.read_bytes() == library.path.read_bytes()  # the link still leads to the file


@pytest.mark.parametrize(
    "name", ["x" * 250 + ".flac", "ä" * 125 + ".flac", "🎵" * 62 + "a.flac", "-rf \n\x1b[31m.flac"]
)
def test_the_longest_names_are_written_and_cleaned_up_after(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "music"
    folder.mkdir()
    made = write_audio(tmp_path / "a", "flac", 0.1)
    paths = [folder / name, folder / f"b{name[1:]}"]
    for path in paths:
        shutil.copyfile(made, path)
    copies = [Path(prepare(str(path), "flac", EDIT).temp_path) for path in paths]
    for copy in copies:
        assert len(os.fsencode(copy.name)) <= 143  # what eCryptfs takes
        copy.name.encode("utf-8")  # raises where a character was cut in two, which some file systems refuse
    remove_copies(str(paths[0]))
    assert [copy.exists() for copy in copies] == [False, True]
    remove_leftovers(folder)
    paths[1].unlink()
    library = Library.of(paths[0], tmp_path / "library.db")
    library.write()
    assert library.settle() == "done"


# --- settling ---------------------------------------------------------------------------------------------------------


def test_a_drive_with_another_number_after_a_restart_is_still_recognised(library: Library) -> None:
    prepared = prepare(str(library.path), "flac", EDIT)
    before, after = (replace(s, dev=s.dev + 1) for s in (prepared.before, prepared.after))
    shutil.copy2(prepared.temp_path, library.folder / "kept")
    assert settle(str(library.path), before, after) == "dropped"
    assert list(library.folder.glob(".*")) == []
    prepared = prepare(str(library.path), "flac", EDIT)
    Path(prepared.temp_path).replace(library.path)
    assert settle(str(library.path), before, replace(prepared.after, dev=prepared.after.dev + 1)) == "done"


def test_a_write_on_a_drive_that_is_away_stays_open_until_it_is_back(library: Library) -> None:
    with Store(library.db) as store:
        prepared = prepare(str(library.path), "flac", EDIT)
        elsewhere = replace(prepared.before, dev=prepared.before.dev + 1)  # as on a drive of its own
        store.intend_write(
            file_id=1,
            run_id=None,
            path=os.fsencode(library.path),
            action="write",
            before=(),
            after=EDIT.genres,
            stat_before=elsewhere,
            stat_after=prepared.after,
            evidence={"indexer_genre": EDIT.describe()},
        )
        Path(prepared.temp_path).replace(library.path)
        away = library.folder.rename(library.folder.with_name("away"))
        assert settle_open_writes(store) == 0  # the mount point is gone
        library.folder.mkdir()
        assert settle_open_writes(store) == 0  # it is empty
        library.folder.rmdir()
        away.rename(library.folder)
        assert settle_open_writes(store) == 1
    assert library.settle() == "done"


def test_a_folder_that_cannot_be_synced_leaves_the_intent_open(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.fsync

    def failing(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(handle)

    with Store(library.db) as store, monkeypatch.context() as patch:
        patch.setattr(os, "fsync", failing)
        with pytest.raises(DeferredError, match="may not be on the disk yet"):
            library.write_in(store)
        assert settle_open_writes(store) == 0
        assert len(store.open_writes()) == 1
    assert library.settle() == "done"


# --- reflink ----------------------------------------------------------------------------------------------------------


def test_where_the_file_system_can_share_blocks_nothing_is_copied(tmp_path: Path) -> None:
    image, folder = tmp_path / "image", tmp_path / "mounted"
    folder.mkdir()
    source = audio_file(tmp_path / "music", "flac")
    if not tag_faults.shares_blocks(tmp_path):
        make = next((m for m in (["mkfs.btrfs", "-q"], ["mkfs.xfs", "-q"]) if shutil.which(m[0])), None)
        if make is None or os.geteuid() != 0:
            pytest.skip("no file system here shares blocks, and none can be made")
        with image.open("wb") as file:
            file.truncate(400 << 20)
        subprocess.run([*make, image], check=True, capture_output=True)
        found = tag_faults.on_a_mounted_image(image, folder, source)
        if found is None:
            pytest.skip("an image of a file system cannot be mounted here")
    else:
        found = tag_faults.write_by_reflink(folder, source)
    assert found == {"blocks copied": 0, "genres": ["Drum & Bass"], "undone": True}
