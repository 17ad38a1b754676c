import hashlib
import multiprocessing
import shutil
import sqlite3
from pathlib import Path

import pytest

from indexer.errors import LockedError, StoreError
from indexer.files.audio.identity import Stat
from indexer.library import migrations
from indexer.library.below import known_files
from indexer.library.lock import library_lock
from indexer.library.readonly import open_readonly
from indexer.library.store import Store
from indexer.library.tracks_view import tracks_view
from indexer.library.writing.backlog import Lacking
from indexer.wording import printable

STAT = Stat(1, 2, 3, 4)
SNAPSHOT = Path(migrations.__file__).parents[1] / "schema" / "current.sql"


@pytest.fixture
def store(tmp_path):
    with Store(tmp_path / "library.db") as store:
        yield store


def schema_of(conn: sqlite3.Connection) -> str:
    rows = conn.execute(
        "SELECT sql FROM sqlite_master WHERE sql IS NOT NULL AND name NOT LIKE '%\\_fts\\_%' ESCAPE '\\'"
        " AND name NOT LIKE '\\_%' ESCAPE '\\' ORDER BY type, name"
    ).fetchall()
    return ";\n\n".join(r[0] for r in rows) + ";\n"


def recording(store, sha="a"):
    return store.recording(sha, codec="mp3", sample_rate_hz=44100, channels=2, duration_s=1.0)


def test_the_snapshot_is_the_schema_that_the_migrations_make(store):
    assert SNAPSHOT.read_text() == schema_of(store.connection), "regenerate schema/current.sql from a new library"


def test_every_table_is_strict_and_every_column_has_a_comment(store):
    tables = [
        r
        for r in store.connection.execute("PRAGMA table_list")
        if r["schema"] == "main" and r["type"] == "table" and not r["name"].startswith(("sqlite_", "_"))
    ]
    assert len(tables) >= 13
    assert [r["name"] for r in tables if not r["strict"]] == []
    for _, sql in migrations.schema_files():
        body = [
            line
            for line in sql.splitlines()
            if line.startswith("  ") and line.split()[0].islower() and " AS " not in line
        ]
        columns = [line for line in body if line.split()[1] in ("INTEGER", "TEXT", "REAL", "BLOB")]
        plain = {
            "id",
            "title",
            "artist",
            "album",
            "album_artist",
            "year",
            "bpm",
            "musical_key",
            "record_label",
            "comment",
            "genre",
            "recording_id",
            "encoder_id",
            "head_id",
            "file_id",
            "run_id",
            "name",
            "width",
            "codec",
            "channels",
            "state",
            "ino",
            "command",
            "started_at",
            "finished_at",
            "first_seen",
            "created",
            "probability",
            "corrected_at",
            "corrected_by",
            "path_text",
            "action",
            "written_at",
            "mtime_ns",
        }  # say what they are by their name
        assert [c for c in columns if "--" not in c and c.split()[0] not in plain] == []


def test_a_newer_schema_is_refused_and_left_as_it_is(tmp_path):
    path = tmp_path / "library.db"
    with Store(path) as store:
        store.db["_sqlite_migrations"].insert({"migration_set": "indexer", "name": "999_future", "applied_at": "2030"})
    before = hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(StoreError, match="newer indexer"):
        Store(path)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == before


def test_a_failing_migration_leaves_the_library_and_a_backup(tmp_path, monkeypatch):
    path = tmp_path / "library.db"
    Store(path).close()
    known = migrations.schema_files()
    monkeypatch.setattr(
        migrations, "schema_files", lambda: [*known, ("999_bad", "CREATE TABLE half (a) STRICT; SELECT nonsense();")]
    )
    with pytest.raises(StoreError, match="could not be brought up to date"):
        Store(path)
    conn = sqlite3.connect(path)
    assert conn.execute("SELECT count(*) FROM sqlite_master WHERE name = 'half'").fetchone() == (0,)
    assert sqlite3.connect(tmp_path / "library.db.before-999_bad.bak").execute(
        "SELECT count(*) FROM files"
    ).fetchone() == (0,)


@pytest.mark.parametrize(
    "content", [b"not a database at all, but long enough to be taken for one" * 20, b"SQLite format 3\0" + b"\0" * 200]
)
def test_a_file_that_is_no_library_is_refused_in_one_line(tmp_path, content):
    path = tmp_path / "library.db"
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"the library is damaged .*indexer doctor --rebuild"):
        Store(path)
    assert path.read_bytes() == content


def test_a_library_that_is_not_there_is_not_made_by_looking(tmp_path):
    with pytest.raises(StoreError, match="no library there yet"):
        open_readonly(tmp_path / "none.db")
    assert list(tmp_path.iterdir()) == []


def hold(path, held, release):
    with library_lock(path):
        held.set()
        release.wait(20)


def test_the_lock_names_its_owner_and_a_killed_owner_frees_it(tmp_path):
    context = multiprocessing.get_context("spawn")
    held, release = context.Event(), context.Event()
    owner = context.Process(target=hold, args=(tmp_path / "library.db", held, release))
    owner.start()
    assert held.wait(20)
    with pytest.raises(LockedError, match=f"process {owner.pid}"), library_lock(tmp_path / "library.db"):
        pass
    owner.kill()
    owner.join()
    with library_lock(tmp_path / "library.db"):
        pass


def test_a_moved_file_takes_its_row_along(store):
    recording_id = recording(store)
    first = store.put_file(b"/m/a.mp3", STAT, root_id=None, state="ready", recording_id=recording_id)
    store.clear_spool()
    store.spool_vanished([(first,)])
    assert store.mark_vanished_missing() == 1
    assert store.put_file(b"/m/b.mp3", STAT, root_id=None, state="ready", recording_id=recording_id) == first
    assert store.file_at(b"/m/a.mp3") is None


def test_paths_of_any_bytes_are_kept_exactly_and_shown_safely(store):
    path = b"/m/\xff\x1b[31m\nnew\xe2\x80\xae.mp3"
    store.put_file(path, STAT, root_id=None, state="unreadable", reason="x")
    assert store.file_at(path).path == path
    shown = store.connection.execute("SELECT path_text FROM files").fetchone()[0]
    assert shown == printable(path) == "/m/\\xff\\x1b[31m\\nnew\\u202e.mp3"


def test_known_files_come_in_bytewise_order_of_one_folder_only(store):
    for path in (b"/m/a/2", b"/m/a.mp3", b"/m/a/1", b"/mm/x", b"/m/\xff", b"/m"):
        store.put_file(path, STAT, root_id=None, state="ready")
    assert [row[1] for row in known_files(store.connection, b"/m")] == [b"/m/a.mp3", b"/m/a/1", b"/m/a/2", b"/m/\xff"]


def test_full_text_search_follows_the_tags(store):
    file_id = store.put_file(b"/m/a", STAT, root_id=None, state="ready")
    found = "SELECT rowid FROM tags_fts WHERE tags_fts MATCH ?"
    store.put_tags(file_id, {"title": "Sandstorm", "artist": "Darude"})
    assert store.connection.execute(found, ("sandstorm",)).fetchone()[0] == file_id
    store.put_tags(file_id, {"title": "Feel the Beat"})
    assert store.connection.execute(found, ("sandstorm",)).fetchone() is None
    assert store.connection.execute(found, ("beat",)).fetchone()[0] == file_id


def fill(store, scores=None, threshold=0.5):
    store.put_encoder("e", name="e", width=2, unit_s=6.0)
    store.put_head(
        "h", name="h", kind="linear", encoder_id="e", labels=["house", 'it\'s "x"'], threshold=threshold, source="s"
    )
    recording_id = recording(store)
    file_id = store.put_file(b"/m/a", STAT, root_id=None, state="ready", recording_id=recording_id)
    store.put_embedding(recording_id, "e", b"\0\0\0\0", 1)
    store.use_head("h")
    with store.transaction():
        store.put_prediction(
            recording_id, "h", scores or {"house": 0.75, 'it\'s "x"': 0.25}, threshold, decided=threshold <= 0.75
        )
    return file_id


def test_the_view_has_a_column_for_every_label_of_the_head_in_use(store):
    fill(store)
    row = store.connection.execute("SELECT * FROM tracks").fetchone()
    assert (row["genre"], row["confidence"], row["decided"], row["house"], row['it\'s "x"']) == (
        "house",
        0.75,
        1,
        0.75,
        0.25,
    )


def test_labels_named_like_other_columns_do_not_break_the_view(store):
    store.connection.execute(tracks_view(["title", "path", "path score"]).replace("VIEW tracks", "VIEW odd"))
    columns = [c[0] for c in store.connection.execute("SELECT * FROM odd").description]
    assert len(columns) == len({c.lower() for c in columns})


def test_backlog_is_what_lacks_something_and_nothing_else(store):
    file_id = fill(store)
    store.clear_spool()
    ask = lambda **k: list(store.backlog([b"/m"], Lacking(**k)))  # noqa: E731
    done = {"encoder_ids": ("e",), "head_id": "h", "threshold": 0.5, "tag_policy": "p"}
    assert ask() == []
    assert ask(**done) == [file_id]  # the tag was never looked at
    store.settle_tags(file_id, "p")
    assert ask(**done) == []
    assert ask(**{**done, "threshold": 0.9}) == [file_id]
    assert ask(**{**done, "encoder_ids": ("other",), "head_id": None}) == [file_id]
    assert ask(**{**done, "tag_policy": "q"}) == [file_id]
    assert list(store.backlog([b"/elsewhere"], Lacking(**done))) == []
    assert store.backlog_size([b"/m"], Lacking(**{**done, "tag_policy": "q"}))[0] == 1
    store.spool_changed([(b"/m/a", None)])  # goes through all steps anyway
    assert ask(**{**done, "tag_policy": "q"}) == []


def test_a_write_that_was_announced_is_found_after_a_crash(tmp_path):
    path = tmp_path / "library.db"
    with Store(path) as store:
        write = store.intend_write(
            file_id=None,
            run_id=None,
            path=b"/m/a",
            action="write",
            before=[],
            after=["House"],
            stat_before=STAT,
            stat_after=STAT,
            evidence={},
        )
        shutil.copy(path, tmp_path / "crashed.db")  # as it lies on the disk at this moment
        shutil.copy(f"{path}-wal", tmp_path / "crashed.db-wal")
        store.settle_write(write, "done")
        assert store.open_writes() == []
    with Store(tmp_path / "crashed.db") as store:
        assert [row["id"] for row in store.open_writes()] == [write]


def failing(store, path):
    with store.transaction():
        store.add_root(path)
        raise RuntimeError


def test_a_transaction_inside_another_is_taken_back_by_itself(store):
    with store.transaction():
        store.add_root(b"/kept")
        with pytest.raises(RuntimeError):
            failing(store, b"/dropped")
        with store.transaction():
            store.add_root(b"/inner")
    assert store.root_paths() == [b"/inner", b"/kept"]


def outer_failing(store):
    with store.transaction():
        with store.transaction():
            store.add_root(b"/released and still dropped")
        raise RuntimeError


def test_what_an_inner_transaction_did_is_dropped_with_the_outer_one(store):
    with pytest.raises(RuntimeError):
        outer_failing(store)
    assert store.root_paths() == []


@pytest.mark.parametrize("replaced", [False, True], ids=["deleted", "replaced"])
def test_nothing_is_announced_or_called_done_in_a_library_that_lost_its_place(tmp_path, replaced):
    path = tmp_path / "library.db"
    with Store(path) as store:
        run = store.start_run("scan")
        path.unlink()
        if replaced:
            path.touch()
        stat = Stat(1, 1, 1, 1)
        with pytest.raises(StoreError, match="moved, deleted or replaced"):
            store.intend_write(
                file_id=None, run_id=run, path=b"/m/a.mp3", action="write", before=[], after=["House"],
                stat_before=stat, stat_after=stat, evidence={},
            )  # fmt: skip
        with pytest.raises(StoreError, match="moved, deleted or replaced"):
            store.finish_run(run, "done", {})
