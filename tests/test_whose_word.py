"""Which genre counts: said by a person > tag > head, the same in SQL, in the view and in what a scan writes."""

import json

import pytest

from indexer.config import Settings
from indexer.files.audio.identity import Stat
from indexer.files.tags.correction import CORRECTION
from indexer.library.store import Store
from indexer.library.whose_word import GENRE_COUNTS, is_ours
from indexer.scan.genre_labels import update_genre_labels

OURS = json.dumps({"genre": "Techno", "label": "techno", "confidence": 0.9, "model": "head@1"})
CORRECTED = json.dumps({"genre": "Techno", "label": "techno", "confidence": 1.0, "model": CORRECTION})


@pytest.fixture
def store(tmp_path):
    with Store(tmp_path / "library.db") as store:
        yield store


def label_of(store, *, said=None, tag=None, indexer_genre=None, head="house", decided=True):
    """(label, label_source) of the only file of a library."""
    store.put_encoder("e", name="e", width=2, unit_s=6.0)
    store.put_head("h", name="h", kind="linear", encoder_id="e", labels=["house", "techno"], threshold=0.5, source="s")
    store.use_head("h")
    recording = store.recording("a", codec="mp3", sample_rate_hz=44100, channels=2, duration_s=1.0)
    file_id = store.put_file(b"/m/a", Stat(1, 2, 3, 4), root_id=None, state="ready", recording_id=recording)
    store.put_tags(file_id, {"genre": tag, "indexer_genre": indexer_genre})
    if head:
        with store.transaction():
            store.put_prediction(recording, "h", {head: 0.75}, 0.5, decided=decided)
    for genre in said or ():
        store.correct(recording, genre)
    return tuple(store.connection.execute("SELECT label, label_source FROM tracks").fetchone())


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        ({"said": ["trance"], "tag": "Rock"}, ("trance", "said")),
        ({"said": ["trance", "ambient"], "tag": "Rock"}, ("ambient", "said")),
        ({"tag": "Progressive House"}, ("Progressive House", "tag")),
        ({"tag": "Rock", "decided": False}, ("Rock", "tag")),
        ({"tag": ""}, ("house", "head")),
        ({}, ("house", "head")),
        ({"decided": False}, (None, None)),
        ({"head": None}, (None, None)),
        ({"tag": "Techno", "indexer_genre": OURS}, ("house", "head")),  # we wrote it for an earlier head
        ({"tag": "Deep Techno", "indexer_genre": OURS}, ("Deep Techno", "tag")),  # changed since by the user
        ({"tag": None, "indexer_genre": OURS, "decided": False}, (None, None)),  # emptied since by the user
        ({"tag": "Techno", "indexer_genre": CORRECTED}, ("Techno", "tag")),  # a person said it, and the library forgot
    ],
)
def test_what_a_person_said_comes_before_the_tag_and_the_tag_before_the_head(store, known, expected):
    assert label_of(store, **known) == expected


@pytest.mark.parametrize(
    ("tag", "expected"),
    [
        ("DnB", ("drum and bass", "tag")),
        ("Deep House", ("house", "tag")),
        ("Deep House; Kitchen", ("house", "tag")),
        ("House; Techno", ("House; Techno", "tag")),  # it means two
        ("Kitchen", ("Kitchen", "tag")),  # it means none
        ("Other", ("house", "head")),  # the user's aliases ignore it
    ],
)
def test_a_tag_counts_as_the_label_that_it_means(store, tag, expected):
    label_of(store, tag=tag)
    update_genre_labels(store, Settings(aliases={"Deep House": "house", "Other": ""}))
    assert tuple(store.connection.execute("SELECT label, label_source FROM tracks").fetchone()) == expected


def test_genres_are_counted_by_whose_word_it_is(store):
    store.put_encoder("e", name="e", width=2, unit_s=6.0)
    store.put_head("h", name="h", kind="linear", encoder_id="e", labels=["house", "techno"], threshold=0.5, source="s")
    store.use_head("h")
    tracks = {  # (tag, guess, decided, said)
        "a": ("House", "techno", True, None),
        "b": (None, "house", True, None),
        "c": (None, "house", False, None),
        "d": (None, "techno", True, "house"),
        "e": ("Polka", None, False, None),
        "f": (None, None, False, None),
    }
    for n, (name, (tag, guess, decided, said)) in enumerate(tracks.items()):
        recording = store.recording(name, codec="mp3", sample_rate_hz=44100, channels=2, duration_s=1.0)
        for copy in range(2):  # two files of each recording count once
            file_id = store.put_file(
                b"/m/%d-%d" % (n, copy),
                Stat(1, 2 * n + copy, 3, 4),
                root_id=None,
                state="ready",
                recording_id=recording,
            )
            store.put_tags(file_id, {"genre": tag, "indexer_genre": None})
        if guess:
            with store.transaction():
                store.put_prediction(recording, "h", {guess: 0.6}, 0.5, decided=decided)
        if said:
            store.correct(recording, said)
    update_genre_labels(store, Settings())
    assert [tuple(row) for row in store.connection.execute(GENRE_COUNTS)] == [
        # genre, recordings, decided, said, tag, head
        ("house", 4, 3, 1, 1, 1),
        ("Polka", 1, 1, 0, 1, 0),
    ]


@pytest.mark.parametrize(
    ("genre", "indexer_genre", "expected"),
    [
        ("Techno", OURS, True),
        (" Techno ", OURS, True),
        ("Deep Techno", OURS, False),
        ("Techno", CORRECTED, False),
        ("Techno", None, False),
        (None, OURS, False),
    ],
)
def test_a_tag_is_ours_when_a_head_had_us_write_it_and_nobody_changed_it(genre, indexer_genre, expected):
    assert is_ours(genre, indexer_genre) is expected
