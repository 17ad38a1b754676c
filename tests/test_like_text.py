"""Which tracks sound like a text's vector: exact cosines of made-up audio vectors, filters before the ranking."""

from contextlib import closing

import numpy as np
import pytest

from indexer.files.audio.identity import Stat
from indexer.library.readonly import open_readonly
from indexer.library.store import Store
from indexer.library.vectors import directions, similar
from indexer.library.vectors.words import has_sounds, like_text

WORDS, WIDTH, TRACKS = "w", 32, 600


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """Tracks in folders of ten, every 100th of them Polka; their float16 vectors have a large common part."""
    db = tmp_path_factory.mktemp("like") / "library.db"
    rng = np.random.default_rng(3)
    vectors = (rng.standard_normal((TRACKS, WIDTH)) * 0.05 + rng.standard_normal(WIDTH)).astype("<f2")
    vectors[7] = np.nan
    with Store(db) as store, store.transaction():
        store.put_encoder("e", name="made", width=4, unit_s=6.0)
        store.put_encoder(WORDS, name="made, words", width=WIDTH, unit_s=6.0, words_of="e")
        for n, vector in enumerate(vectors):
            recording = store.recording(f"{n:064x}", codec="mp3", sample_rate_hz=44_100, channels=2, duration_s=9.0)
            put(store, b"/m/%d/%d.mp3" % (n // 10, n), n, recording, "Ambient" if n % 100 else "Польская POLKA")
            store.put_embedding(recording, WORDS, vector.tobytes(), 2)
    return db, vectors.astype(np.float64)


def put(store, path, n, recording, genre):
    file = store.put_file(path, Stat(1, n, 1, 1), root_id=None, state="ready", recording_id=recording)
    store.put_tags(file, {"genre": genre})


def ask(db, vector, count, **options):
    with closing(open_readonly(db)) as conn:
        return like_text(conn, directions.open_directions(conn, db, WORDS), vector, count, **options)


def numbers(tracks):
    return [int(track["path"].rsplit("/", 1)[1].removesuffix(".mp3")) for track in tracks]


def test_similarities_are_the_plain_cosines(filled):
    db, vectors = filled
    text = np.random.default_rng(4).standard_normal(WIDTH).astype(np.float32)
    exact = vectors @ text / np.linalg.norm(vectors, axis=1) / np.linalg.norm(text.astype(np.float64))
    found = ask(db, text, TRACKS)
    assert len(found) == TRACKS - 1  # one vector is damaged
    assert numbers(found)[:20] == np.argsort(-exact)[:20].tolist()
    assert [t["similarity"] for t in found] == pytest.approx([exact[n] for n in numbers(found)], abs=2e-6)


def test_a_narrow_filter_still_gives_all_that_there_are(filled, monkeypatch):
    """Without looking at the tracks that the filter leaves out."""
    db, vectors = filled
    looked_at = []
    track = similar._track
    monkeypatch.setattr(similar, "_track", lambda *asked: looked_at.append(asked[1]) or track(*asked))
    monkeypatch.setattr(similar, "_SORTED_FIRST", 5)
    far = -vectors[0].astype(np.float32)
    polka = numbers(ask(db, far, 99, genre="польская polka"))
    assert sorted(polka) == list(range(0, TRACKS, 100))
    assert len(looked_at) == 6
    assert numbers(ask(db, far, 4, genre="ПОЛЬСКАЯ Polka")) == polka[:4]
    assert set(numbers(ask(db, far, 99, below=b"/m/3"))) == set(range(30, 40))
    assert numbers(ask(db, far, 99, below=b"/m/10", genre="Польская POLKA")) == [100]
    assert ask(db, far, 99, genre="house") == []
    assert len(looked_at) == 6 + 4 + 10 + 1


def test_the_file_that_has_the_genre_is_named(filled, tmp_path):
    """A recording in two files of different genres: the one asked for, not the one whose path is first."""
    db, _ = filled
    with Store(db) as store:
        recording = store.recording(f"{500:064x}", codec="mp3", sample_rate_hz=44_100, channels=2, duration_s=9.0)
        put(store, b"/other/500.mp3", 9_999, recording, "Schlager")
    (track,) = ask(db, np.ones(WIDTH, np.float32), 9, genre="schlager")
    assert (track["path"], track["label"]) == ("/other/500.mp3", "Schlager")
    assert ask(db, np.ones(WIDTH, np.float32), 9, genre="schlager", below=b"/m") == []


def test_missing_files_are_left_out(filled):
    db, _ = filled
    before = numbers(ask(db, np.ones(WIDTH, np.float32), 3))
    with Store(db) as store:
        store._run("UPDATE files SET state = 'missing' WHERE path_text LIKE ?", (f"%/{before[0]}.mp3",))
    assert numbers(ask(db, np.ones(WIDTH, np.float32), 2)) == before[1:]


def test_a_library_without_audio_vectors(tmp_path):
    with Store(tmp_path / "l.db") as store:
        store.put_encoder(WORDS, name="made, words", width=WIDTH, unit_s=6.0, words_of=None)
    with closing(open_readonly(tmp_path / "l.db")) as conn:
        assert not has_sounds(conn, WORDS)
        assert not has_sounds(conn, "unknown")
