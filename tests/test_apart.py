"""SQL of others in a process apart: what it may use, that it is killed, and that our own pages answer meanwhile."""

import asyncio
import sqlite3
import time
from contextlib import closing

import pytest

from indexer.config import load_settings
from indexer.files.audio.identity import Stat
from indexer.learn.sql_process import MAX_CHARS, add_functions
from indexer.library import apart
from indexer.library.store import Store
from indexer.web.serve import DATASETTE_SETTINGS, make_datasette

# One call of a function of SQLite's that takes minutes, during which SQLite looks at no clock.
ENDLESS = "SELECT instr(zeroblob(16000000), zeroblob(8000000) || x'01')"
COUNTING = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT {} FROM n"


@pytest.fixture
def db(tmp_path):
    path = tmp_path / "library.db"
    Store(path).close()
    return path


def ask(db, sql, values=(), *, aliases=(), limit_s=5.0, at_most=None):
    return apart.ask(db, dict(aliases), sql, values, limit_s=limit_s, at_most=at_most)


def test_rows_come_as_sqlite_gives_them(db):
    values = [None, 1, -(2**63), 1.5, float("inf"), 'ä\0"', b"\0\xff", ""]
    sql = 'SELECT ? AS a, ? AS A, ? AS "a""b", ? AS a, ?, ?, ?, ? UNION ALL SELECT 1, 2, 3, 4, 5, 6, 7, 8'
    found = ask(db, sql, values)
    with closing(sqlite3.connect(db)) as conn:
        conn.row_factory = sqlite3.Row
        cursor = conn.execute(sql, values)
        assert [tuple(row) for row in found.rows] == [tuple(row) for row in cursor]
        assert found.description == cursor.description
    assert found.rows[1]["a"] == 1
    assert isinstance(found.rows[0], sqlite3.Row)
    assert not found.truncated


def test_values_have_names_or_places(db):
    assert tuple(ask(db, "SELECT :bytes, :b", {"bytes": "x", "b": b"y", "more": 1}).rows[0]) == ("x", b"y")
    with pytest.raises(sqlite3.OperationalError, match="binding"):
        ask(db, "SELECT :a", {"b": 1})


def test_no_more_rows_come_than_were_asked_for(db):
    found = ask(db, COUNTING.format("i"), at_most=3)
    assert ([row[0] for row in found.rows], found.truncated) == ([1, 2, 3], True)
    assert not ask(db, f"{COUNTING.format('i')} LIMIT 3", at_most=3).truncated


def test_a_library_in_another_place_or_anew_is_that_library(db, tmp_path):
    sql = "SELECT name FROM sqlite_master WHERE name LIKE 'mark%'"
    for n, path in enumerate((db, tmp_path / "other.db", db)):
        path.unlink(missing_ok=True)
        with closing(sqlite3.connect(path)) as conn:
            conn.execute(f"CREATE TABLE mark{n} (x)")
        assert [row[0] for row in ask(path, sql).rows] == [f"mark{n}"]


@pytest.mark.parametrize(
    ("sql", "reason"),
    [
        (COUNTING.format("i"), "interrupted"),
        (ENDLESS, "interrupted"),
        ("SELECT hex(zeroblob(1000000000))", "too big"),
        (f"{COUNTING.format('zeroblob(15000000)')} LIMIT 2", "larger than 16 MB"),
        ("SELECT 1" + "+1" * 200, "depth"),
        (" UNION ALL ".join(["SELECT 1"] * 30), "too many terms"),
        ("SELECT 'a' LIKE printf('%2000d', 1)", "too complex"),
        ("DELETE FROM files", "readonly"),
        ("ATTACH '/etc/passwd' AS p", "too many attached"),
        ("SELECT absent", "no such column"),
        ("SELECT 1\0", "null character"),
        ("SELECT " + ", ".join(f"zeroblob(15000000) AS z{n}" for n in range(60)), "memory"),
    ],
    ids=lambda text: text[:30],
)
def test_a_query_that_asks_too_much_is_one_line_and_the_next_one_is_answered(db, sql, reason):
    with pytest.raises(sqlite3.OperationalError, match=reason):
        ask(db, sql, limit_s=0.2 if reason == "interrupted" else 20.0)
    assert ask(db, "SELECT 1").rows[0][0] == 1


def test_a_process_that_died_meanwhile_is_replaced(db):
    ask(db, "SELECT 1")
    apart._here.process._process.kill()
    apart._here.process._process.wait()
    assert ask(db, "SELECT 1").rows[0][0] == 1


def test_our_functions_take_short_texts_only(db):
    assert ask(db, "SELECT tag_disagrees('Deep', 'house')", aliases={"Deep": "house"}).rows[0][0] == 0
    assert ask(db, "SELECT tag_disagrees('Deep', 'house')").rows[0][0] == 1
    assert ask(db, "SELECT escape_fts('a \"b c\" d*')").rows[0][0] == '"a" "b c" "d*"'
    for call in ("tag_disagrees(?, 'house')", "escape_fts(?)"):
        assert ask(db, f"SELECT {call}", ["x" * (MAX_CHARS + 1)]).rows[0][0] is None
    for value in (1, b"x", None, 1.5, b"\xff" * 3):
        ask(db, "SELECT tag_disagrees(?1, ?1), escape_fts(?1)", [value])


def test_a_search_is_escaped_as_datasette_does_it():
    from datasette.utils import escape_fts

    with closing(sqlite3.connect(":memory:")) as conn:
        add_functions(conn, {})
        for search in ("one", "one two", '"one two"', 'a"b c"d', 'open "end', '""', "", "x-y  *", 'a""b'):
            assert conn.execute("SELECT escape_fts(?)", (search,)).fetchone()[0] == escape_fts(search), search


@pytest.mark.parametrize("path", ["/library.json?sql={}", "/library/tracks.json?_where=1=({})"])
def test_our_pages_answer_while_free_sql_is_killed(db, path, monkeypatch):
    """As many endless queries as there are processes, by both ways in which a request brings SQL."""
    monkeypatch.setitem(DATASETTE_SETTINGS, "sql_time_limit_ms", 300)
    monkeypatch.setattr(apart, "GRACE_S", 0.3)
    headers = {"host": "127.0.0.1:8001"}
    with Store(db) as store:  # _where is looked at for each row
        store.put_file(b"/m/1.mp3", Stat(1, 1, 1, 1), root_id=None, state="ready")

    async def both():
        datasette = make_datasette(load_settings(None, {"db": db}, {}))
        await datasette.invoke_startup()
        await datasette.client.get("/library.json?sql=select+1", headers=headers)
        endless = [
            asyncio.create_task(datasette.client.get(path.format(ENDLESS), headers=headers))
            for _ in range(apart.PROCESSES)
        ]
        ours = []
        while not all(task.done() for task in endless):
            began = time.monotonic()
            page = await datasette.client.get("/-/overview.json", headers=headers)
            ours.append((page.status_code, time.monotonic() - began))
            await asyncio.sleep(0.02)
        return ours, [(await task).status_code for task in endless]

    ours, endless = asyncio.run(both())
    assert {status for status, _ in ours} == {200}
    assert sorted(seconds for _, seconds in ours)[len(ours) // 2] < 0.3
    assert set(endless) == {400}
