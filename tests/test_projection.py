"""The map's places: two principal components, kept while the library grows, computed anew when they fit no more."""

import os
import sqlite3
from contextlib import closing

import numpy as np
import pytest

from indexer.encoders.encoder import joined_id
from indexer.files.audio.identity import Stat
from indexer.library.readonly import open_readonly
from indexer.library.store import Store
from indexer.library.vectors import projection
from indexer.library.vectors.projection import Projection, principal_axes, turned, update

WIDTH = 24


def made(n, seed=0, width=WIDTH, along=(0, 1)):
    """Nearly parallel vectors, as embeddings are, that differ along two axes above all."""
    rng = np.random.default_rng(seed)
    vectors = 30 + rng.standard_normal((n, width))
    vectors[:, list(along)] += rng.standard_normal((n, 2)) * (12, 6)
    return vectors.astype(np.float16)


def add(store, first, vectors, encoder="e"):
    with store.transaction():
        store.put_encoder(encoder, name=encoder, width=vectors.shape[1], unit_s=6.0)
        for n, vector in enumerate(vectors, first):
            recording = store.recording(f"{n:064x}", codec="mp3", sample_rate_hz=44_100, channels=2, duration_s=200.0)
            store.put_file(
                os.fsencode(f"/m/{n}.mp3"), Stat(1, n, 1, 1), root_id=None, state="ready", recording_id=recording
            )
            store.put_embedding(recording, encoder, vector.astype("<f2").tobytes(), 1)


@pytest.fixture
def store(tmp_path):
    with Store(tmp_path / "library.db") as store:
        yield store


def places(store, encoder="e"):
    return {
        row["recording_id"]: (row["x"], row["y"])
        for row in store.connection.execute("SELECT * FROM places WHERE encoder_id = ?", (encoder,))
    }


def about(store):
    return dict(
        store.connection.execute("SELECT explained, recordings, later, made_at, axes FROM projections").fetchone()
    )


def unit(vectors):
    x = vectors.astype(np.float64)
    x -= x.mean(axis=0)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def test_the_axes_are_the_principal_components():
    x = unit(made(300))
    _, _, components = np.linalg.svd(x, full_matrices=False)
    axes = principal_axes(x.astype(np.float32))
    assert np.abs(np.sum(axes * components[:2], axis=1)) == pytest.approx([1, 1], abs=1e-4)
    assert axes @ axes.T == pytest.approx(np.eye(2), abs=1e-5)
    assert all(axis[np.abs(axis).argmax()] > 0 for axis in axes)  # the sign does not depend on chance
    assert principal_axes(-x.astype(np.float32)) == pytest.approx(axes, abs=1e-5)


def test_all_are_placed_and_the_share_of_variance_is_known(store):
    vectors = made(200)
    add(store, 0, vectors)
    assert update(store, "e", ["e"]) == 200
    x = unit(vectors)
    values = np.linalg.svd(x, compute_uv=False) ** 2
    assert about(store)["explained"] == pytest.approx(values[:2].sum() / values.sum(), rel=1e-3)
    assert np.var([place[0] for place in places(store).values()]) > np.var(
        [place[1] for place in places(store).values()]
    )
    assert update(store, "e", ["e"]) == 0


def test_new_ones_are_placed_on_the_stored_axes_and_no_other_vector_is_read(store, monkeypatch):
    add(store, 0, made(200))
    update(store, "e", ["e"])
    before, axes = places(store), about(store)
    read = []
    real = projection.joined_vectors
    monkeypatch.setattr(
        projection,
        "joined_vectors",
        lambda reader, parts, recordings: read.extend(recordings) or real(reader, parts, recordings),
    )
    new = made(10, seed=5)
    add(store, 200, new)
    assert update(store, "e", ["e"]) == 10
    assert read == [*range(201, 211)]
    after = places(store)
    assert {recording: after[recording] for recording in before} == before
    assert about(store) == {**axes, "later": 10}
    stored = store.connection.execute("SELECT mean, axes FROM projections").fetchone()
    on_axes = Projection(
        (WIDTH,), np.frombuffer(stored["mean"], "<f4"), np.frombuffer(stored["axes"], "<f4").reshape(2, -1)
    ).places(new)
    assert np.array([after[recording] for recording in read]) == pytest.approx(on_axes, abs=1e-6)


def test_when_more_than_a_fifth_came_later_the_axes_are_computed_anew_and_the_map_does_not_flip(store):
    add(store, 0, made(200))
    update(store, "e", ["e"])
    before = places(store)
    add(store, 200, made(50, seed=3))
    assert update(store, "e", ["e"]) == 50
    assert about(store)["recordings"] == 200
    add(store, 250, made(1, seed=4))
    assert update(store, "e", ["e"]) == 251
    assert (about(store)["recordings"], about(store)["later"]) == (251, 0)
    after = places(store)
    for axis in range(2):
        assert np.corrcoef([before[r][axis] for r in before], [after[r][axis] for r in before])[0, 1] > 0.95


def test_turned_axes_span_the_same_plane_nearest_to_the_former():
    rng = np.random.default_rng(0)
    former = np.linalg.qr(rng.standard_normal((WIDTH, 2)))[0].T
    angle = 2.0
    axes = np.array([[np.cos(angle), np.sin(angle)], [np.sin(angle), -np.cos(angle)]]) @ former  # turned and mirrored
    assert turned(axes, former) == pytest.approx(former, abs=1e-6)


def test_axes_that_show_less_than_they_did_are_computed_anew(store, monkeypatch):
    monkeypatch.setattr(projection, "MAX_LATER", 1.0)
    add(store, 0, made(200))
    update(store, "e", ["e"])
    before = about(store)
    add(store, 200, made(150, seed=2, along=(10, 11)))  # music that differs in other ways
    assert update(store, "e", ["e"]) == 350
    after = about(store)
    assert (before["recordings"], after["recordings"]) == (200, 350)
    assert update(store, "e", ["e"]) == 0  # and not again and again


def test_when_a_good_part_went_the_axes_are_computed_anew(store):
    add(store, 0, made(200))
    update(store, "e", ["e"])
    store.forget_files([*range(1, 51)])
    assert len(places(store)) == 150
    assert update(store, "e", ["e"]) == 150
    store.forget_files([*range(51, 201)])
    assert update(store, "e", ["e"]) == 0
    assert places(store) == {}


def test_a_vector_that_changed_is_placed_again_under_joined_encoders_too(store):
    add(store, 0, made(30), "a")
    add(store, 0, made(20, seed=1, width=10), "b")
    joined = joined_id(["a", "b"])
    store.put_encoder(joined, name="a+b", width=34, unit_s=6.0, parts=["a", "b"])
    assert update(store, joined, ["a", "b"]) == 20
    assert update(store, "a", ["a"]) == 30
    assert np.abs([*places(store, joined).values()]).max() <= 1
    assert len(places(store, joined)) == 20
    store.put_embedding(3, "b", made(1, seed=9, width=10)[0].tobytes(), 1)
    assert sorted({*range(1, 21)} - {*places(store, joined)}) == [3]
    assert len(places(store, "a")) == 30
    assert update(store, joined, ["a", "b"]) == 1
    store.connection.execute("DELETE FROM embeddings WHERE encoder_id = 'a'")
    assert places(store, joined) == places(store, "a") == {}


def test_few_equal_and_damaged_ones_make_no_trouble(store):
    assert update(store, "e", ["e"]) == 0
    add(store, 0, made(1))
    assert update(store, "e", ["e"]) == 1
    assert places(store) == {1: (0, 0)}
    add(store, 1, made(1))  # the same vector again
    assert update(store, "e", ["e"]) == 2
    store._run("UPDATE embeddings SET vector = x'0011' WHERE recording_id = 1")
    assert update(store, "e", ["e"]) == 1
    assert set(places(store)) == {2}
    store._run("UPDATE embeddings SET vector = x'0011' WHERE recording_id = 2")
    assert update(store, "e", ["e"]) == 0


def test_a_large_library_is_sampled_and_the_sample_shows_nearly_as_much(store, monkeypatch):
    add(store, 0, made(600))
    monkeypatch.setattr(projection, "_PAGE", 100)
    update(store, "e", ["e"])
    whole = about(store)["explained"]
    store.connection.execute("DELETE FROM projections")
    store.connection.execute("DELETE FROM places")
    monkeypatch.setattr(projection, "SAMPLE", 250)
    assert update(store, "e", ["e"]) == 600
    assert whole * 0.98 < about(store)["explained"] < whole
    assert about(store)["recordings"] == 600


def test_a_stopped_update_changes_nothing(store, monkeypatch):
    add(store, 0, made(300))
    monkeypatch.setattr(projection, "_PAGE", 100)
    turns = iter([False, False, False, False, True])
    assert update(store, "e", ["e"], lambda: next(turns)) == 0
    assert places(store) == {}
    assert store.connection.execute("SELECT count(*) FROM projections").fetchone()[0] == 0
    assert update(store, "e", ["e"]) == 300


def test_a_scan_places_what_it_embedded(cli, music_folder):
    cli("scan", music_folder)
    with closing(open_readonly(cli.db)) as conn:
        found = conn.execute(
            "SELECT p.* FROM places p JOIN encoders e ON e.id = p.encoder_id AND e.in_use = 1"
        ).fetchall()
        assert len(found) == 6
        assert {round(row["x"], 3) for row in found} != {0}
        assert conn.execute("SELECT recordings FROM projections").fetchone()[0] == 6


def test_a_scan_makes_the_map_of_a_library_that_was_embedded_before_there_was_one(cli, music_folder):
    cli("scan", music_folder)
    with closing(sqlite3.connect(cli.db)) as conn:
        conn.execute("DELETE FROM places")
        conn.execute("DELETE FROM projections")
        conn.commit()
    cli("scan", music_folder)
    with closing(open_readonly(cli.db)) as conn:
        assert conn.execute("SELECT count(*) FROM places").fetchone()[0] == 6


def test_a_map_that_fails_fails_no_scan(cli, music_folder, monkeypatch):
    def fail(*_):
        raise MemoryError("too large")

    monkeypatch.setattr(projection, "principal_axes", fail)
    result = cli("scan", music_folder)
    assert "the map was not brought up to date (too large)" in result.stderr
    with closing(open_readonly(cli.db)) as conn:
        assert conn.execute("SELECT state FROM runs").fetchone()[0] == "done"
        assert conn.execute("SELECT count(*) FROM embeddings").fetchone()[0] == 6
