"""Time and memory grow no faster than the library: rows are read in order by an index, and never all held at once."""

import asyncio
import io
import random
import tracemalloc
from types import SimpleNamespace

import pytest

from indexer.errors import DeferredError
from indexer.files.audio.identity import Stat
from indexer.files.audio.payload import source
from indexer.files.audio.payload.source import ByteSource, leading_tags
from indexer.learn.sql_process import add_functions
from indexer.library.store import Store
from indexer.library.writing.backlog import Lacking
from indexer.web import library_map, overview, review


@pytest.fixture
def store(tmp_path):
    with Store(tmp_path / "library.db") as store:
        store.clear_spool()
        yield store


def fill(store, paths):
    """Files that lack an embedding, in another order than that of their paths."""
    store.put_encoder("e", name="e", width=1, unit_s=1.0)
    with store.transaction():
        for n, path in enumerate(random.Random(0).sample(paths, len(paths))):
            recording = store.recording(str(n), codec="mp3", sample_rate_hz=44_100, channels=2, duration_s=1.0)
            store.put_file(path, Stat(1, n, 1, 1), root_id=None, state="ready", recording_id=recording)


def plan(conn, sql, values):
    return [row["detail"] for row in conn.execute(f"EXPLAIN QUERY PLAN {sql}", values)]


def test_the_backlog_is_walked_by_path_page_by_page(store):
    below = sorted(b"/m/%d/%d.mp3" % (n % 7, n) for n in range(1201))
    fill(store, [*below, b"/m", b"/m.mp3", b"/m/1", b"/m2/a.mp3", b"/l/z.mp3"])
    lacking = Lacking(("e",))

    def found(*targets):
        assert store.backlog_size(targets, lacking)[0] == sum(store.count_states(targets)[0].values())
        return [store.file(i).path for i in store.backlog(targets, lacking)]

    assert found(b"/m") == sorted([*below, b"/m", b"/m/1"])
    assert found(b"/m/3", b"/m.mp3") == [*(p for p in below if p.startswith(b"/m/3/")), b"/m.mp3"]
    assert found(b"/l/z.mp3") == [b"/l/z.mp3"]
    assert found(b"/") == sorted([*below, b"/m", b"/m.mp3", b"/m/1", b"/m2/a.mp3", b"/l/z.mp3"])
    assert found(b"/n") == []


def test_no_question_of_a_rescan_sorts_the_rows_or_keeps_a_list_of_them(store):
    """By the index of states each page of the backlog would be all of the library's rows, sorted: quadratic."""
    asked = []
    store.connection.set_trace_callback(asked.append)
    list(store.backlog([b"/m"], Lacking(("e",), "h", 0.5, "p")))
    store.backlog_size([b"/m"], Lacking(("e",), "h", 0.5, "p"))
    store.count_states([b"/m"])
    store.count_known(b"/m")
    store.connection.set_trace_callback(None)
    assert len(asked) == 7
    for sql in asked:
        steps = plan(store.connection, sql, ())
        assert "SEARCH f USING INDEX sqlite_autoindex_files_1" in steps[0].replace("SEARCH files", "SEARCH f"), sql
        assert not [step for step in steps if "TEMP B-TREE" in step or "MULTI-INDEX" in step or "SCAN" in step], sql


def test_pages_of_the_library_come_in_the_order_of_recordings(store, monkeypatch):
    """Twenty tracks to review must not cost a sort of all there are."""
    add_functions(store.connection, {})
    asked = []

    async def rows(_datasette, sql, values=()):
        if "max(recording_id)" in sql:
            return [{"id": last}]
        asked.append((sql, values))
        return [{"found": "[]", "others": "[]"}] if "json_group_array" in sql else []

    async def ask(_datasette, function):
        return function(store.connection)

    monkeypatch.setattr(review, "rows", rows)
    monkeypatch.setattr(review, "ask", ask)
    for what in review.KINDS:
        for last in (1, 1 + review.LOOKED_AT):  # noqa: B007 - read by rows: all recordings; some of them, then range after range
            asyncio.run(review.next_tracks(SimpleNamespace(), what, []))
    assert len(asked) == len(review.KINDS) * (2 + 4)
    for sql, values in [
        *asked,
        (overview._DISAGREEMENTS, {"n": 8, "newest": 9}),
        (library_map._POINTS, {"head": "h", "encoder": "e", "step": 1}),
    ]:
        assert not [
            step for step in plan(store.connection, sql, values) if "TEMP B-TREE" in step or "files_state" in step
        ], sql


def test_a_review_looks_on_until_it_has_found_enough(store, monkeypatch):
    """No single question goes through the whole library: Datasette would interrupt it."""
    monkeypatch.setattr(review, "LOOKED_AT", 10)
    monkeypatch.setattr(review, "PAGE_TRACKS", 3)
    fill(store, [b"/m/%d.mp3" % n for n in range(100)])
    store.put_head("h", name="h", kind="linear", encoder_id="e", labels=["a", "b"], threshold=0.5, source="")
    store.use_head("h")
    with store.transaction():
        for n in range(1, 101):
            sure = n not in (4, 37, 38, 91, 100)
            store.put_prediction(n, "h", {"a": 0.9, "b": 0.1}, 0.5 if sure else 0.95, decided=sure)

    async def rows(_datasette, sql, values=()):
        return [dict(row) for row in store.connection.execute(sql, values)]

    async def ask(_datasette, function):
        return function(store.connection)

    monkeypatch.setattr(review, "rows", rows)
    monkeypatch.setattr(review, "ask", ask)

    def found(*skip):
        tracks, total, exact = asyncio.run(review.next_tracks(SimpleNamespace(), "undecided", [*skip]))
        return [track["recording_id"] for track in tracks], total, exact

    assert found() == ([4, 37, 38], None, False)
    assert found(4, 37, 38) == ([91, 100], None, False)
    assert found(4, 37, 38, 91, 100) == ([], None, False)
    store.connection.execute("UPDATE predictions SET decided = 0")
    assert found()[1:] == (100, False)  # a tenth was looked at, and all of it is undecided


class Counting(io.BytesIO):
    read_bytes = 0

    def read(self, size=-1):
        found = super().read(size)
        self.read_bytes += len(found)
        return found


def test_bytes_are_the_files_whatever_was_looked_at_before(monkeypatch):
    monkeypatch.setattr(source, "WINDOW_BYTES", 64)
    data = random.Random(1).randbytes(1000)
    chance = random.Random(2)
    file = ByteSource(io.BytesIO(data), "x")
    for _ in range(3000):
        position, count = chance.randrange(1010), chance.randrange(65)
        assert file.at(position, count) == data[position : position + count]
        if position < 1000:
            buffer, start = file.window(position)
            assert start <= position < start + len(buffer)
            assert data[start : start + len(buffer)] == buffer
        end = chance.randrange(position, 1010)
        assert b"".join(file.blocks(min(position, 1000), min(end, 1000))) == data[position:end]


def test_looks_at_head_and_end_in_turns_read_each_once():
    file = Counting(bytes(3 << 20))
    looked = ByteSource(file, "x")
    for _ in range(5):
        looked.at(0, 10)
        looked.at((3 << 20) - 128, 128)
    assert file.read_bytes == (1 << 20) + 128
    assert sum(len(block) for block in looked.blocks(10, 3 << 20)) == (3 << 20) - 10
    assert file.read_bytes == (3 << 20) + 128


@pytest.mark.parametrize("zeros", [0, 1, 4095, 4096, 4097, 10_000, (1 << 20) - 1, 1 << 20])
def test_zeros_between_leading_tags_are_skipped_up_to_one_window(zeros):
    tag = b"ID3\x04\0\0\0\0\0\x05" + b"12345"
    assert leading_tags(ByteSource(io.BytesIO(tag + bytes(zeros) + tag + b"audio"), "x")) == [
        (0, 15),
        (15 + zeros, 30 + zeros),
    ]


def test_more_zeros_than_one_window_or_a_file_of_them_end_the_tags():
    tag = b"ID3\x04\0\0\0\0\0\x05" + b"12345"
    assert leading_tags(ByteSource(io.BytesIO(tag + bytes((1 << 20) + 1) + tag), "x")) == [(0, 15)]
    assert leading_tags(ByteSource(io.BytesIO(tag + bytes(100)), "x")) == [(0, 15)]


def test_a_file_that_becomes_shorter_is_noticed():
    file = io.BytesIO(bytes(3 << 20))
    looked = ByteSource(file, "x")
    looked.at(0, 10)
    file.truncate(2 << 20)
    with pytest.raises(DeferredError):
        list(looked.blocks(10, 3 << 20))
    with pytest.raises(DeferredError):
        looked.at((2 << 20) + 5, 10)


def test_the_map_holds_numbers_of_all_points_and_not_their_rows():
    """A row of five Python objects takes some 200 bytes; a million of them would fill the memory of a small machine."""
    count = 50_000
    tracemalloc.start()
    try:
        library_map.packed(["house"], ((n + 1, n / count, 0.5, "house", 1) for n in range(count)))
        assert tracemalloc.get_traced_memory()[1] < 160 * count
    finally:
        tracemalloc.stop()
