"""What a worker answers is checked before it is used: every part of a wrong one is found, and a right one passes."""

import math
from concurrent.futures import Future

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexer.cluster.answers import WrongAnswerError, checked_outcomes, checked_proof
from indexer.cluster.assignment import MAX_WINDOW, File
from indexer.cluster.outcome import to_plain
from indexer.encoders.trajectory import Trajectory
from indexer.errors import ReaderDiedError, ReadError, UnsupportedError
from indexer.files.audio.decode import TruncatedError
from indexer.files.audio.identity import Stat
from indexer.files.tags.read import IndexerGenre, Tags
from indexer.listen.executor import Embedded

pytest.importorskip("msgpack", reason="Dask is not installed: pip install 'edm-indexer[cluster]'")
from indexer.cluster.wire import pack, unpack

WIDTHS = {"id": (6, 0)}
BUSY = {"elapsed": 2.0, "reading": 1.0, "encoder": 0.5}
NAN, INFINITY = math.nan, math.inf


def file(op="inspect"):
    return File(op, b"/here/a", b"/there/a", Stat(1, 2, 300, 10**18 + 5), "id" if op == "embed" else None, Future())


def done(result):
    future = Future()
    (future.set_exception if isinstance(result, Exception) else future.set_result)(result)
    return future


def answer(result, path=b"/there/a"):
    return {"outcomes": [(path, *to_plain(done(result)))], "busy": BUSY}


def inspected():
    ours = IndexerGenre("House", "house", 0.9, "rhythm")
    tags = Tags("t", "a", "b", "c", "d", "8A", "x", 1999, 128.5, ("House", "Techno"), ours, ("Pop",), ("Serato",), None)
    return {
        "stat": {"dev": 9, "ino": 9, "size": 300, "mtime_ns": 10**18 + 5},
        "container": "flac",
        "audio_sha256": "ab" * 32,
        "damage": None,
        "tags": tags.to_json(),
        "audio": {"codec": "flac", "sample_rate_hz": 44_100, "channels": 2, "duration_s": 1.5},
    }


def embedded(**changes):
    vector = np.arange(6).astype("<f2").tobytes()
    parts = {"vector": vector, "units": 3, "trajectory": trajectory(), "duration_s": 12.0, "truncated": None}
    return Embedded(**parts | changes)


def trajectory(segments=4, rank=2, width=6, segment_s=1.0, value=1.0):
    return Trajectory(
        segment_s, np.full((segments, rank), value, np.float32), np.full((rank, width), 0.5, np.float32)
    ).to_bytes()


def check(found, op="inspect"):
    return checked_outcomes(pack(found), [file(op)], WIDTHS)


def test_what_a_worker_sends_passes_unchanged():
    busy, [(kind, value)] = check(answer(inspected()))
    assert (busy, kind) == (BUSY, "ok")
    assert Tags.from_json(value["tags"]) == Tags.from_json(inspected()["tags"])
    assert {**value, "tags": None} == {**inspected(), "tags": None}
    for result in (embedded(), embedded(truncated="it lost its end"), embedded(trajectory=trajectory(1, 0))):
        _, [(kind, value)] = check(answer(result), "embed")
        assert (kind, Embedded(*value)) == ("ok", result)
    words = (np.ones(4, "<f2").tobytes(), trajectory(width=4))
    found = pack(answer(embedded(words=words)))
    _, [(kind, value)] = checked_outcomes(found, [file("embed")], {"id": (6, 4)})
    assert Embedded(*value) == embedded(words=words)
    for widths, sent in (((6, 0), words), ((6, 4), None), ((6, 5), words), ((6, 4), words[:1]), ((6, 4), (b"", b""))):
        with pytest.raises(WrongAnswerError):
            checked_outcomes(pack(answer(embedded(words=sent))), [file("embed")], {"id": widths})
    assert check({"unknown": True}) is None


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ReadError(b"/there/a", "damaged"), ("ReadError", ("damaged", 0))),
        (UnsupportedError(b"/there/a", "odd"), ("UnsupportedError", ("odd", 0))),
        (ReaderDiedError(b"/there/a", "hung", 2), ("ReaderDiedError", ("hung", 2))),
        (TruncatedError(b"/there/a", "cut"), ("ReadError", ("cut", 0))),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "odd"), ("ValueError", None)),
        (ZeroDivisionError("zero"), ("ArithmeticError", ("zero", 0))),
        (KeyError("k" * 9_000), ("Exception", None)),
        (ReadError(b"/there/a", "x" * 9_000), ("ReadError", ("x" * 2_000, 0))),
    ],
)
def test_every_error_reaches_the_coordinator_as_the_nearest_class_it_knows(error, expected):
    _, [(kind, value)] = check(answer(error))
    assert kind == expected[0]
    assert expected[1] is None or value == expected[1]


def changed(found, path, value):
    """The structure with one place replaced; the value DROP removes it."""
    inner = found
    for key in path[:-1]:
        inner = inner[key]
    if value is DROP:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return found


DROP = object()
RESULT = ("outcomes", 0, 2)
WRONG_INSPECTIONS = [
    (("outcomes",), []), (("outcomes",), None), (("outcomes",), {}), (("busy",), None), (("busy", "elapsed"), NAN),
    (("busy", "elapsed"), -1.0), (("busy", "reading"), "1"), (("busy",), {}), (("outcomes", 0), []),
    (("outcomes", 0), [b"/there/a", "ok"]), (("outcomes", 0, 0), b"/there/b"), (("outcomes", 0, 0), "/there/a"),
    (("outcomes", 0, 1), "SystemExit"), (("outcomes", 0, 1), 5), (("outcomes", 0, 1), []),
    (("outcomes", 0, 1), "ReadError"),
    (RESULT, 5), (RESULT, []), ((*RESULT, "stat"), None), ((*RESULT, "stat", "size"), 301),
    ((*RESULT, "stat", "size"), -1), ((*RESULT, "stat", "mtime_ns"), 0), ((*RESULT, "stat", "mtime_ns"), 1.5),
    ((*RESULT, "container"), "exe"), ((*RESULT, "container"), None), ((*RESULT, "container"), ["flac"]),
    ((*RESULT, "audio_sha256"), "AB" * 32), ((*RESULT, "audio_sha256"), "ab" * 31), ((*RESULT, "audio_sha256"), 5),
    ((*RESULT, "damage"), 5), ((*RESULT, "damage"), "x" * 3_000), ((*RESULT, "more"), 1), ((*RESULT, "tags"), DROP),
    ((*RESULT, "tags", "title"), 5), ((*RESULT, "tags", "title"), "x" * 9_000), ((*RESULT, "tags", "bpm"), NAN),
    ((*RESULT, "tags", "year"), 2**63), ((*RESULT, "tags", "year"), "1999"), ((*RESULT, "tags", "genres"), None),
    ((*RESULT, "tags", "genres"), [5]), ((*RESULT, "tags", "genres"), "House"), ((*RESULT, "tags", "odd"), 1),
    ((*RESULT, "tags", "ours", "confidence"), 2), ((*RESULT, "tags", "ours", "genre"), 5),
    ((*RESULT, "tags", "added"), "{}"), ((*RESULT, "tags", "added"), '{"added": {}, "x": NaN}'),
    ((*RESULT, "tags", "ours", "model"), DROP), ((*RESULT, "audio", "duration_s"), NAN),
    ((*RESULT, "audio", "duration_s"), INFINITY), ((*RESULT, "audio", "duration_s"), "1"),
    ((*RESULT, "audio", "channels"), -1), ((*RESULT, "audio", "sample_rate_hz"), 2**63),
    ((*RESULT, "audio", "channels"), True), ((*RESULT, "audio", "codec"), "x" * 201), ((*RESULT, "audio", "odd"), 1),
]  # fmt: skip


@pytest.mark.parametrize(("path", "value"), WRONG_INSPECTIONS)
def test_a_wrong_part_of_an_inspection_is_found(path, value):
    found = unpack(pack(answer(inspected())))
    with pytest.raises(WrongAnswerError):
        check(changed(found, path, value))


@pytest.mark.parametrize(
    "changes",
    [
        {"vector": b""}, {"vector": np.zeros(7, "<f2").tobytes()}, {"vector": "text"}, {"units": 0}, {"units": 2.5},
        {"vector": np.array([NAN, 0, 0, 0, 0, 0], "<f2").tobytes()}, {"units": True}, {"units": 2**63},
        {"vector": np.array([INFINITY, 0, 0, 0, 0, 0], "<f2").tobytes()}, {"duration_s": -1.0}, {"duration_s": NAN},
        {"duration_s": INFINITY}, {"duration_s": None}, {"truncated": 5}, {"truncated": "x" * 3_000},
        {"trajectory": b""}, {"trajectory": None}, {"trajectory": trajectory()[:-1]}, {"trajectory": "text"},
        {"trajectory": trajectory(width=7)}, {"trajectory": trajectory(rank=9)}, {"trajectory": trajectory(257)},
        {"trajectory": trajectory(segment_s=0.0)}, {"trajectory": trajectory(segment_s=NAN)},
        {"trajectory": trajectory(segment_s=INFINITY)}, {"trajectory": trajectory(0, 0)},
        {"trajectory": trajectory()[:12] + b"\xff" * 16 + trajectory()[28:]},
    ],
)  # fmt: skip
def test_a_wrong_part_of_an_embedding_is_found(changes):
    with pytest.raises(WrongAnswerError):
        check(answer(embedded(**changes)), "embed")


@pytest.mark.parametrize("deaths", [-1, "2", None, 1.5])
def test_a_wrong_error_is_found(deaths):
    for value in (["it hung", deaths], ["it hung"], [5, 1], "it hung", None, ["x" * 3_000, 1]):
        with pytest.raises(WrongAnswerError):
            check({"outcomes": [(b"/there/a", "ReaderDiedError", value)], "busy": BUSY})


def proof(**changes):
    return {
        "version": "1", "host": "box", "pid": 1, "refused": None, "token": "t", "limit": 6, "jobs": 2, "load_s": 0.1,
        "busy": BUSY, "device": "cpu", "engine": "numpy", "gpu": None, "precision": {"id": "fp64"},
        "probe": {"id": np.zeros(6, "<f4").tobytes()},
    } | changes  # fmt: skip


def test_a_proof_passes_and_what_it_says_beyond_is_left_out():
    found = checked_proof(proof(), WIDTHS)
    assert found == {key: value for key, value in proof().items() if key not in ("pid", "load_s")}
    assert checked_proof(proof(limit=10**6), WIDTHS)["limit"] == MAX_WINDOW
    assert checked_proof({"version": "1", "host": "h", "refused": "no"}, WIDTHS)["refused"] == "no"
    assert checked_proof(proof(precision={}, probe={}), {})["probe"] == {}


@pytest.mark.parametrize(
    "changes",
    [
        {"version": 5}, {"host": None}, {"host": "x" * 201}, {"refused": 5}, {"refused": "x" * 9_000}, {"token": None},
        {"limit": 0}, {"limit": -5}, {"limit": "6"}, {"limit": NAN}, {"jobs": None}, {"busy": None}, {"device": 5},
        {"engine": b"x"}, {"gpu": ["x"]}, {"precision": None}, {"precision": {}}, {"precision": {"id": "odd"}},
        {"precision": {"id": []}}, {"precision": {"other": "fp32"}}, {"probe": {}}, {"probe": {"id": b"123"}},
        {"probe": {"id": np.zeros(7, "<f4").tobytes()}}, {"probe": {"id": np.full(6, NAN, "<f4").tobytes()}},
        {"probe": {"id": "text"}}, {"probe": {5: b""}},
    ],
)  # fmt: skip
def test_a_wrong_part_of_a_proof_is_found(changes):
    with pytest.raises(WrongAnswerError):
        checked_proof(proof(**changes), WIDTHS)


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["outcomes", "busy", "refused", "x"]), inner),
)


@given(PLAIN)
def test_nothing_but_a_wrong_answer_comes_of_anything_else(value):
    for found in (value, {"outcomes": value, "busy": BUSY}, {"outcomes": [[b"/there/a", "ok", value]], "busy": BUSY}):
        with pytest.raises(WrongAnswerError):
            check(found)
    with pytest.raises(WrongAnswerError):
        checked_proof(value, WIDTHS)


@given(st.binary())
def test_bytes_that_are_not_packed_are_a_wrong_answer(data):
    for found in (data, b"\x91" * 5_000 + data, 5, "text", None):
        with pytest.raises(WrongAnswerError):
            checked_outcomes(found, [file()], WIDTHS)
