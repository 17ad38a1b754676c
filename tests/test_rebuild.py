"""A damaged library: reported in one line with its remedy, rebuilt from what can be read, never lost meanwhile."""

import os
import random
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from indexer.files.audio.identity import Stat
from indexer.library.lock import library_lock
from indexer.library.readonly import open_readonly
from indexer.library.store import Store
from tests.helpers.cli import Cli
from tests.helpers.once import once
from tests.helpers.synth import write_audio
from tests.helpers.tag_faults import REPOSITORY

PAGE_BYTES = 4096


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """(music folder, its library): 24 recordings in 27 files, a genre that a person said and therefore wrote."""

    def fill(folder):
        music = folder / "music"
        music.mkdir()
        for n in range(24):
            write_audio(music / f"{n:02}", "flac", 1.0, seed=n)
        for n in range(3):
            shutil.copyfile(music / f"{n:02}.flac", music / f"copy {n}.flac")
        cli = Cli(folder, Path("rhythm"))
        cli("scan", music)
        cli("correct", music / "05.flac", "house", "--new")
        cli("correct", "--set", "mood", music / "05.flac", "dark", "--new", env={"INDEXER_SETS": "{mood = {}}"})

    folder = once(tmp_path_factory, "sound", fill)
    return folder / "music", folder / "library.db"


@pytest.fixture
def library(sound, tmp_path):
    """The command line on a copy of that library; the music is the same."""
    shutil.copy(sound[1], tmp_path / "library.db")
    return Cli(tmp_path, Path("rhythm"))


def damage(db: Path, pages) -> bytes:
    """Overwrite pages (from 1); the damaged content."""
    content = bytearray(db.read_bytes())
    for page in pages:
        content[PAGE_BYTES * (page - 1) : PAGE_BYTES * page] = random.Random(page).randbytes(PAGE_BYTES)
    db.write_bytes(content)
    return bytes(content)


def pages_of(db: Path) -> int:
    return db.stat().st_size // PAGE_BYTES


def rows(db: Path, sql: str) -> list[tuple]:
    with closing(open_readonly(db)) as conn:
        return [tuple(row) for row in conn.execute(sql)]


def files(db: Path) -> list[tuple]:
    return rows(
        db,
        "SELECT path, audio_sha256, size, mtime_ns, state FROM files LEFT JOIN recordings r ON r.id = recording_id"
        " WHERE state <> 'missing' ORDER BY path",
    )


def vectors(db: Path) -> dict[str, bytes]:
    return dict(rows(db, "SELECT audio_sha256, vector FROM embeddings JOIN recordings r ON r.id = recording_id"))


def rebuilt_as_fresh(library, sound, damaged: bytes) -> dict:
    """Rebuild and scan; what every damage must end in. Returns what was saved and lost."""
    music, fresh = sound
    before = {path.name: path.read_bytes() for path in music.iterdir()}
    found = library.json("doctor", "--rebuild")
    assert Path(found["damaged"]).read_bytes() == damaged
    assert library.json("doctor")["problems"] == []
    saved = vectors(library.db)
    assert len(saved) == found["tables"]["embeddings"]["saved"]
    assert rows(library.db, "SELECT 1 FROM files WHERE state = 'ready'") == []  # each is to be verified
    scan = library.json("scan", music)
    assert (scan["embedded"], scan["failed"], scan["files"]) == (24 - len(saved), 0, 27)
    assert files(library.db) == files(fresh)
    assert sorted(rows(library.db, "SELECT audio_sha256 FROM recordings")) == sorted(
        rows(fresh, "SELECT audio_sha256 FROM recordings")
    )
    assert vectors(library.db) == vectors(fresh)
    assert rows(library.db, "SELECT count(*) FROM places") == rows(fresh, "SELECT count(*) FROM places")
    assert {path.name: path.read_bytes() for path in music.iterdir()} == before
    assert library.json("scan", music)["cached"] == 0
    assert sorted(p.name for p in library.folder.glob("library.db*")) == [
        "library.db",
        Path(found["damaged"]).name,
        "library.db.lock",
    ]
    return found["tables"]


@pytest.mark.parametrize("seed", range(5))
def test_damaged_pages_cost_only_what_stood_in_them(library, sound, seed):
    count = pages_of(library.db)
    bad = random.Random(seed).sample(range(2, count + 1), (1, 3, count // 20, count // 8, count // 4)[seed])
    tables = rebuilt_as_fresh(library, sound, damage(library.db, bad))
    assert tables["embeddings"]["saved"] > 0 or len(bad) > 3


def test_of_a_library_cut_short_the_front_is_saved(library, sound):
    content = library.db.read_bytes()
    library.db.write_bytes(content[: 2 * len(content) // 3 + 100])
    tables = rebuilt_as_fresh(library, sound, library.db.read_bytes())
    assert 0 < tables["embeddings"]["saved"] < 24


@pytest.mark.parametrize("size", [16, 100, PAGE_BYTES])
def test_without_its_header_nothing_is_saved_and_a_scan_makes_all_anew(library, sound, size):
    content = b"\xff" * size + library.db.read_bytes()[size:]
    library.db.write_bytes(content)
    tables = rebuilt_as_fresh(library, sound, content)
    assert tables["embeddings"] == {"saved": 0, "lost": None}


def test_from_a_sound_library_everything_is_saved(library, sound):
    with closing(sqlite3.connect(library.db)) as conn, conn:
        conn.execute("INSERT INTO fingerprints VALUES (1, x'0100')")
    tables = rebuilt_as_fresh(library, sound, library.db.read_bytes())
    assert {name: n["saved"] for name, n in tables.items()} == {
        "encoders": 1,
        "heads": 0,
        "roots": 1,
        "recordings": 24,
        "runs": 2,
        "files": 27,
        "tags": 27,
        "embeddings": 24,
        "analysis": 24,
        "fingerprints": 1,
        "corrections": 1,
        "label_sets": 1,
        "set_corrections": 1,
        "tag_writes": 1,
    }
    assert {n["lost"] for n in tables.values()} == {0}
    assert rows(library.db, "SELECT genre FROM corrections") == [("house",)]
    assert rows(
        library.db, "SELECT f.path_text LIKE '%05.flac', w.state FROM tag_writes w JOIN files f ON f.id = w.file_id"
    ) == [(1, "done")]


def root_page(db: Path, table: str) -> int:
    with closing(sqlite3.connect(db)) as conn:
        return conn.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (table,)).fetchone()[0]


def test_embeddings_outlive_the_loss_of_their_encoders_row(library, sound):
    tables = rebuilt_as_fresh(library, sound, damage(library.db, [root_page(library.db, "encoders")]))
    assert (tables["encoders"], tables["embeddings"]) == ({"saved": 0, "lost": 1}, {"saved": 24, "lost": 0})


def test_a_lost_table_is_counted_and_what_belonged_to_it_is_parted_from_it(library, sound):
    tables = rebuilt_as_fresh(
        library, sound, damage(library.db, [root_page(library.db, "files"), root_page(library.db, "runs")])
    )
    assert tables["files"] == {"saved": 0, "lost": 27}  # counted by an index
    assert tables["runs"] == {"saved": 0, "lost": None}
    assert tables["tags"]["saved"] == 0  # a file's tags are nothing without it
    assert tables["tag_writes"]["saved"] == 1
    assert tables["embeddings"]["saved"] == 24


def test_rows_that_make_no_sense_are_left_behind(library, sound):
    with closing(sqlite3.connect(library.db)) as conn, conn:
        ids = [row[0] for row in conn.execute("SELECT id FROM embeddings ORDER BY id")]
        conn.execute("UPDATE embeddings SET vector = zeroblob(7) WHERE id = ?", ids[:1])
        conn.execute(
            "UPDATE embeddings SET vector = CAST(x'007c' || substr(vector, 3) AS BLOB) WHERE id = ?", ids[1:2]
        )  # infinity
        conn.execute("UPDATE embeddings SET course = substr(course, 9) WHERE id = ?", ids[2:3])
    found = library.json("doctor", code=1)["problems"]
    assert [p["problem"] for p in found] == ["1 embeddings are of another size than their encoder makes"]
    tables = rebuilt_as_fresh(library, sound, library.db.read_bytes())
    assert tables["embeddings"] == {"saved": 21, "lost": 3}


def test_what_stands_in_the_log_alone_is_saved_and_the_log_is_kept(sound, tmp_path):
    shutil.copy(sound[1], tmp_path / "open.db")
    library = Cli(tmp_path, Path("rhythm"))
    with Store(tmp_path / "open.db") as store:
        store.correct(1, "techno")
        for ending in ("", "-wal"):  # as a crash leaves it
            shutil.copy(f"{tmp_path}/open.db{ending}", f"{library.db}{ending}")
    damage(library.db, [root_page(sound[1], "tags")])
    log = Path(f"{library.db}-wal").read_bytes()
    found = library.json("doctor", "--rebuild")
    assert found["tables"]["corrections"] == {"saved": 2, "lost": 0}
    assert Path(f"{found['damaged']}-wal").read_bytes() == log
    assert rows(library.db, "SELECT genre FROM corrections ORDER BY id") == [("house",), ("techno",)]
    assert library.json("doctor")["problems"] == []


def test_a_library_of_an_earlier_version_is_rebuilt_as_one_of_this(library, sound):
    with closing(sqlite3.connect(library.db)) as conn, conn:
        conn.execute("ALTER TABLE files DROP COLUMN deaths")
    rebuilt_as_fresh(library, sound, library.db.read_bytes())


# --- what is refused --------------------------------------------------------------------------------------------------


def test_a_file_that_is_no_library_is_never_moved(tmp_path):
    song = write_audio(tmp_path / "song", "flac", 1.0)
    with closing(sqlite3.connect(tmp_path / "other.db")) as conn, conn:
        conn.execute("CREATE TABLE bookmarks (x)")
    for path in (song, tmp_path / "other.db"):
        before = path.read_bytes()
        asked = Cli(tmp_path, None)("doctor", "--rebuild", "--db", path, code=2)
        assert "is not an indexer library" in asked.stderr
        assert path.read_bytes() == before
    assert "no library there yet" in Cli(tmp_path, None)("doctor", "--rebuild", code=2).stderr
    assert "takes no PATHS" in Cli(tmp_path, None)("doctor", "--rebuild", song, code=2).stderr


def test_a_library_of_a_newer_version_or_at_work_is_left_alone(library):
    with library_lock(library.db):
        before = library.db.read_bytes()
        assert "another indexer" in library("doctor", "--rebuild", code=75).stderr
        assert library.db.read_bytes() == before
    with closing(sqlite3.connect(library.db)) as conn, conn:
        conn.execute(
            "INSERT INTO _sqlite_migrations SELECT max(id) + 1, 'indexer', '999_future', 'x' FROM _sqlite_migrations"
        )
    before = library.db.read_bytes()
    assert "newer indexer" in library("doctor", "--rebuild", code=2).stderr
    assert library.db.read_bytes() == before
    assert [p.name for p in library.folder.glob("library.db.*")] == ["library.db.lock"]


# --- saying it --------------------------------------------------------------------------------------------------------


def test_doctor_says_what_is_wrong_and_what_to_do(library):
    assert library("doctor").stdout == f"{library.db}: sound\n"
    with Store(library.db) as store:
        stat = Stat(1, 2, 3, 4)
        store.intend_write(
            file_id=1,
            run_id=None,
            path=b"/m/a",
            action="write",
            before=[],
            after=["House"],
            stat_before=stat,
            stat_after=stat,
            evidence={},
        )
        store._run("PRAGMA foreign_keys = OFF")
        store._run("DELETE FROM recordings WHERE id = 1")
    said = library("doctor", code=1).stdout
    assert "1 tag writes were announced and never settled\n  the next `indexer scan` settles them" in said
    assert "rows refer to rows that are missing\n  `indexer doctor --rebuild`" in said
    with library_lock(library.db):  # another process is at work: the open entry is its own
        assert "never settled" not in library("doctor", code=1).stdout
    damage(library.db, [root_page(library.db, "files")])
    [*_, last] = library.json("doctor", code=1)["problems"]
    assert last["remedy"].startswith("`indexer doctor --rebuild`")
    assert library("doctor", code=1).stdout.count("indexer doctor --rebuild")


@pytest.mark.parametrize(
    "command",
    [
        ["status"],
        ["scan"],
        ["prune", "--yes"],
        ["relabel"],
        ["similar", "05.flac"],
        ["tags", "history", "05.flac"],
        ["tags", "undo", "--all"],
        ["scan", "--dry-run"],
        ["suggest"],
        ["doctor", "--json"],
    ],
)
@pytest.mark.parametrize("what", ["header", "pages"])
def test_every_command_says_damage_and_remedy_in_one_line(library, sound, what, command):
    damage(library.db, [1] if what == "header" else range(3, pages_of(library.db) + 1))
    arguments = [str(sound[0] / a) if a.endswith(".flac") else a for a in command]
    done = library.process(*arguments)
    out, said = done.communicate(timeout=60)
    if command[0] == "doctor":
        assert (done.returncode, "--rebuild" in out) == (1, True)
        return
    assert done.returncode == 2, said
    assert said.count("\n") == 1
    assert "the library is damaged (" in said
    assert "`indexer doctor --rebuild`" in said


# --- cut off ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow_first
def test_killed_at_any_step_the_old_or_the_new_one_is_there_and_the_old_is_kept(library):
    damage(library.db, [root_page(library.db, "tags")])
    Path(f"{library.db}-wal").write_bytes(b"a log that nobody can read")
    code = (
        "import pathlib, sys; from tests.helpers.rebuilds import kill_everywhere;"
        " kill_everywhere(pathlib.Path(sys.argv[1]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(library.db)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **library.environ},
    )
    assert done.returncode == 0, done.stderr
    assert "old" in done.stdout
    assert "new" in done.stdout


def test_a_failing_swap_leaves_the_library_as_it_was(library, monkeypatch):
    before = library.db.read_bytes()

    def refuse(*_args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(shutil, "copy2", refuse)
    assert "cannot be rebuilt" in library("doctor", "--rebuild", code=2).stderr
    assert library.db.read_bytes() == before
    assert [p.name for p in library.folder.glob("library.db.*")] == ["library.db.lock"]


def test_where_a_file_cannot_have_two_names_it_is_copied(library, sound, monkeypatch):
    def refuse(*_args):
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    rebuilt_as_fresh(library, sound, damage(library.db, [30]))
