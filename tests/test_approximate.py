"""The index of a large library finds what comparing every recording finds, and is never the only copy."""

import errno
import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from indexer.library.readonly import reading
from indexer.library.store import Store
from indexer.library.vectors import approximate
from indexer.library.vectors.similar import encoder_of, nearest, similar
from tests.helpers.vectors import fill

pytestmark = pytest.mark.skipif(importlib.util.find_spec("usearch") is None, reason="usearch is not installed")
N, WIDTH = 600, 40


def made(n=N, seed=0):
    """(n, WIDTH) float16: clusters, spread along some directions more than along others."""
    rng = np.random.default_rng(seed)
    middles = np.random.default_rng(9).standard_normal((12, WIDTH))
    return ((middles[rng.integers(0, 12, n)] + rng.standard_normal((n, WIDTH)) * np.logspace(0, -2, WIDTH)) + 5).astype(
        np.float16
    )


@pytest.fixture
def db(tmp_path, monkeypatch):
    monkeypatch.setattr(approximate, "EXACT_UP_TO", 100)
    monkeypatch.setattr(approximate, "FIRST_CANDIDATES", 60)
    monkeypatch.setattr(approximate, "DIMENSIONS", 16)
    path = tmp_path / "library.db"
    fill(path, made())
    return path


def update(db):
    with Store(db) as store:
        encoder = encoder_of(store.connection)["id"]
        return approximate.update(store, encoder, [encoder])


def ten(db, recording, count=10):
    with reading(db) as conn:
        found = nearest(conn, db, encoder_of(conn), recording)
        return [next(found) for _ in range(count)]


def recall(db, recordings):
    by_index = {one: ten(db, one) for one in recordings}
    approximate.EXACT_UP_TO, before = 10**9, approximate.EXACT_UP_TO
    update(db)  # a small library has no index
    exact = {one: ten(db, one) for one in recordings}
    approximate.EXACT_UP_TO = before
    for one in recordings:
        for (_, found), (_, best) in zip(by_index[one], exact[one], strict=True):
            assert found <= best + 0.02
    shared = [len({r for r, _ in by_index[one]} & {r for r, _ in exact[one]}) for one in recordings]
    return sum(shared) / (10 * len(recordings))


def test_the_ten_nearest_are_those_of_comparing_all(db):
    assert update(db) == N
    with reading(db) as conn:
        assert approximate.opened(conn, db, encoder_of(conn)["id"]) is not None
    assert recall(db, range(1, 41)) >= 0.95
    with reading(db) as conn:
        assert approximate.opened(conn, db, encoder_of(conn)["id"]) is None


def test_all_are_found_where_the_first_candidates_are_not_enough(db):
    update(db)
    found = [recording for recording, _ in ten(db, 7, N - 1)]
    assert sorted(found) == [n for n in range(1, N + 1) if n != 7]


def test_a_scan_adds_what_is_new_and_takes_out_what_is_gone(db):
    update(db)
    assert update(db) == 0
    with Store(db) as store:
        encoder = encoder_of(store.connection)["id"]
        recording = store.recording("new", codec="mp3", sample_rate_hz=44_100, channels=2, duration_s=1.0)
        vector = store.embedding(5, encoder)["vector"]
        store.put_embedding(recording, encoder, vector, 1)
        store._run("DELETE FROM embeddings WHERE recording_id = 6")
    assert update(db) == 1
    assert ten(db, 5, 1)[0][0] == recording
    assert 6 not in {one for one, _ in ten(db, 5, N - 2)}
    with reading(db) as conn:
        index = approximate.opened(conn, db, encoder)
        assert recording in index.recordings
        assert 6 not in index.recordings


def test_another_librarys_or_a_cut_index_is_not_used_and_made_anew(db, tmp_path):
    update(db)
    (path,) = (tmp_path / "vectors").glob("*.neighbours")
    path.write_bytes(path.read_bytes()[:-100])
    approximate._mapped.cache_clear()
    with reading(db) as conn:
        assert approximate.opened(conn, db, encoder_of(conn)["id"]) is None
    assert len(ten(db, 3)) == 10
    assert update(db) == N


def test_without_the_extra_every_recording_is_compared(db, monkeypatch):
    monkeypatch.setattr(approximate, "graph_kind", lambda: None)
    approximate._mapped.cache_clear()
    assert update(db) == 0
    assert len(ten(db, 3)) == 10
    assert callable(similar)


def test_an_update_that_is_stopped_leaves_what_was_there(db, tmp_path):
    with Store(db) as store:
        encoder = encoder_of(store.connection)["id"]
        assert approximate.update(store, encoder, [encoder], lambda: True) == 0
    assert list((tmp_path / "vectors").glob("*")) == [] if (tmp_path / "vectors").exists() else True


OPENVINO_AFTER_THE_INDEX = """
import io
from indexer.library.vectors.approximate import graph_kind
assert graph_kind()
import numpy, openvino
from openvino import opset13
core, x = openvino.Core(), opset13.parameter([1, 2], numpy.float32)
model = core.compile_model(openvino.Model([opset13.relu(x)], [x], "tiny"), "CPU")
core.import_model(io.BytesIO(model.export_model().read()), "CPU")
"""


@pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="OpenVINO has no wheel for this machine")
def test_a_process_that_uses_the_index_can_still_read_a_compiled_model():
    subprocess.run([sys.executable, "-c", OPENVINO_AFTER_THE_INDEX], check=True, timeout=60)


def test_on_a_full_disk_nothing_half_written_is_left(tmp_path, monkeypatch):
    class Graph:
        def save(self, path):
            Path(path).write_bytes(b"half")

    def full(*_arguments, **_arrays):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(approximate.np, "savez", full)
    index = approximate.Neighbours(np.arange(2), (1,), np.zeros(1), np.zeros((1, 1)), Graph())
    with pytest.raises(OSError, match="No space"):
        approximate._save(tmp_path / "e.neighbours", {}, index, np.arange(2))
    assert list(tmp_path.iterdir()) == []
