"""Other encodings of one recording: found by embedding and length, however they arrive, and listed among duplicates."""

import os
import shutil

import numpy as np
import pytest

from indexer.library.store import Store
from indexer.library.vectors import projection, same_sound
from indexer.upkeep.demo import Track, write_track
from tests.helpers.pages import Pages

WIDTH = 24


@pytest.fixture
def store(tmp_path):
    with Store(tmp_path / "library.db") as store:
        store.put_encoder("e", name="e", width=WIDTH, unit_s=6.0)
        yield store


def add(store, tracks, lengths_s, encoder="e"):
    """Embed recordings called by number, each with the vector of a track and a length."""
    rng, ids = np.random.default_rng(0), {}
    songs = 30 + 5 * rng.standard_normal((100, WIDTH))
    with store.transaction():
        for n, track in tracks.items():
            recording = store.recording(
                f"{n:064x}", codec="mp3", sample_rate_hz=44_100, channels=2, duration_s=lengths_s[n]
            )
            vector = songs[track] + 0.05 * np.random.default_rng(n).standard_normal(WIDTH)
            store.put_embedding(recording, encoder, vector.astype("<f2").tobytes(), 1)
            ids[n] = recording
    return ids


def update(store, encoder="e"):
    projection.update(store, encoder, [encoder])
    return same_sound.update(store, encoder, [encoder])


def groups(store):
    found = {}
    for row in store.connection.execute("SELECT recording_id, first_id FROM same_sound"):
        found.setdefault(row["first_id"], set()).add(row["recording_id"])
    assert all(first == min(group) for first, group in found.items())
    return {frozenset(group) for group in found.values() if len(group) > 1}


@pytest.mark.parametrize("at_once", [1, 7, 200])
def test_the_same_track_of_the_same_length_is_found_however_it_arrives(store, monkeypatch, at_once):
    monkeypatch.setattr(same_sound, "_PAGE", 16)
    rng = np.random.default_rng(1)
    tracks = {n: int(rng.integers(40)) for n in range(120)}
    lengths_s = {n: 200.0 + 10 * (track % 5) + 0.3 * rng.uniform(-1, 1) for n, track in tracks.items()}
    lengths_s[0] += 3  # an edit of its track, not another encoding
    ids = {}
    numbers = list(tracks)
    for start in range(0, len(numbers), at_once):
        some = {n: tracks[n] for n in numbers[start : start + at_once]}
        ids |= add(store, some, lengths_s)
        if start < 60 or at_once > 1:  # the last ones of single steps in one go
            update(store)
    update(store)
    expected: dict[int, set[int]] = {}
    for n in numbers[1:]:
        expected.setdefault(tracks[n], set()).add(ids[n])
    assert groups(store) == {frozenset(group) for group in expected.values() if len(group) > 1}
    assert update(store) == 0  # all are compared


def test_a_recording_that_goes_or_is_embedded_anew_leaves_no_wrong_group(store):
    lengths_s = dict.fromkeys(range(9), 100.0)
    ids = add(store, {0: 1, 1: 1, 2: 1, 3: 2, 4: 3}, lengths_s)
    update(store)
    assert groups(store) == {frozenset({ids[0], ids[1], ids[2]})}
    with store.transaction():
        store.connection.execute("DELETE FROM recordings WHERE id = ?", (ids[0],))
    update(store)
    assert groups(store) == {frozenset({ids[1], ids[2]})}
    add(store, {2: 2}, lengths_s)  # another vector for the same recording
    update(store)
    assert groups(store) == {frozenset({ids[2], ids[3]})}
    store.put_encoder("other", name="other", width=WIDTH, unit_s=6.0)
    ids |= add(store, {1: 1, 4: 1, 5: 2}, lengths_s, encoder="other")
    update(store, "other")
    assert groups(store) == {frozenset({ids[1], ids[4]})}


def test_a_stopped_comparison_changes_nothing(store):
    add(store, {0: 1, 1: 1}, {0: 9.0, 1: 9.0})
    projection.update(store, "e", ["e"])
    assert same_sound.update(store, "e", ["e"], lambda: True) == 0
    assert groups(store) == set()
    assert update(store) == 2


def test_more_of_one_length_than_fit_are_compared_with_their_neighbours(store, monkeypatch):
    monkeypatch.setattr(same_sound, "_PAGE", 2)
    monkeypatch.setattr(same_sound, "MOST_AT_ONCE", 4)
    ids = add(store, {n: n // 2 for n in range(40)}, dict.fromkeys(range(40), 50.0))
    projection.update(store, "e", ["e"])
    told = []
    same_sound.update(store, "e", ["e"], on_done=lambda *done: told.append(done))
    assert groups(store) == {frozenset({ids[n], ids[n + 1]}) for n in range(0, 40, 2)}
    assert told == [(done, 40) for done in range(2, 41, 2)]


def test_the_question_of_duplicates_lists_copies_and_other_encodings_with_links_and_as_a_playlist(quick_cli, tmp_path):
    folder = tmp_path / "music"
    folder.mkdir()
    for seed, genre in enumerate(("house", "ambient", "techno")):
        write_track(Track(folder / f"{seed}.flac", genre, seed, 8.0, "title", "artist", labelled=False))
    write_track(Track(folder / "0 again.mp3", "house", 0, 8.0, "title", "artist", labelled=False))
    shutil.copy(folder / "1.flac", folder / "1 copy.flac")
    quick_cli("scan", folder, "--no-tags")
    pages = Pages(quick_cli.db)
    rows = pages.json("/library/duplicates.json?_shape=array")
    assert {os.path.basename(row["path"]): row["sound"] for row in rows} in (
        {"0.flac": first, "0 again.mp3": second, "1.flac": "same audio", "1 copy.flac": "same audio"}
        for first, second in (("same audio", "other encoding"), ("other encoding", "same audio"))
    )
    assert len({row["group"] for row in rows}) == 2
    assert "/library/duplicates.m3u8" in (page := pages.get("/library/duplicates").text)
    assert all(f'/library/tracks/{row["id"]}"' in page for row in rows)
    playlist = pages.get("/library/duplicates.m3u8").text.splitlines()
    assert [line for line in playlist if not line.startswith("#")] == [row["path"] for row in rows]


def test_a_group_of_thousands_is_one_group(store):
    found = same_sound._Groups(store.connection, "e")
    for recording in range(3000, 0, -1):
        found.join(recording + 1, recording)
    assert dict(found.moved()) == dict.fromkeys(range(2, 3002), 1)
