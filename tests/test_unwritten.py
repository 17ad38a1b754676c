"""Decided genres that are not in the files yet: counted by SQL as scan/policy.py decides it, file by file."""

from itertools import product
from types import SimpleNamespace

import pytest

from indexer.config import Settings
from indexer.files.audio.identity import Stat
from indexer.files.tags.correction import CORRECTION
from indexer.files.tags.genre import IndexerGenre
from indexer.files.tags.read import Tags
from indexer.library.store import Store
from indexer.library.unwritten import count_unwritten
from indexer.scan.policy import Label, edit_for, held_back

STAT = Stat(1, 2, 3, 4)
HEAD = SimpleNamespace(name="h", id="h" * 8)
JOURNALS = (None, "done", "undone", "refused", "refused before it changed", "read-only")
STANDING = ((), ("House",), ("Techno",), ("Kitchen",), ("Kitchen", "House"))
OURS = (None, ("House", "h"), ("Techno", "h"), ("Kitchen; House", "h"), ("House", CORRECTION), ("Techno", CORRECTION))


def ours(genre, model):
    return IndexerGenre(genre, genre.rpartition(" ")[2].lower(), 0.9, model)


def journal(store, file_id, kind):
    path = b"/m/%d" % file_id
    if kind in ("done", "undone"):
        write = store.intend_write(
            file_id=file_id, run_id=None, path=path, action="write" if kind == "done" else "undo", before=(), after=(),
            stat_before=STAT, stat_after=STAT, evidence={},
        )  # fmt: skip
        store.settle_write(write, "done")
    elif kind:
        stat = Stat(1, 2, 99, 99) if "changed" in kind else STAT
        reason = "read-only folder" if kind == "read-only" else "hard links"
        store.refuse_write(file_id=file_id, run_id=None, path=path, action="write", stat=stat, reason=reason)


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """Every combination of standing genre, our field, prediction, correction (before or after) and journal."""
    with Store(tmp_path_factory.mktemp("library") / "library.db") as store, store.transaction():
        store.put_encoder("e", name="e", width=2, unit_s=6.0)
        store.put_head(
            "h", name="h", kind="linear", encoder_id="e", labels=["house", "techno"], threshold=0.5, source="s"
        )
        store.use_head("h")
        found = {}
        cases = product(STANDING, OURS, (None, True, False), (None, "before", "after"), JOURNALS)
        for n, (standing, own, decided, said, kind) in enumerate(cases):
            recording = store.recording(str(n), codec="mp3", sample_rate_hz=44100, channels=2, duration_s=1.0)
            file_id = store.put_file(b"/m/%d" % n, STAT, root_id=None, state="ready", recording_id=recording)
            field = ours(*own) if own else None
            tag = "; ".join(standing) or None
            store.put_tags(file_id, {"genre": tag, "indexer_genre": field.to_text() if field else None})
            if decided is not None:
                store.put_prediction(recording, "h", {"house": 0.75}, 0.5, decided=decided)
            if said == "before":
                store.correct(recording, "techno")
            journal(store, file_id, kind)
            if said == "after":
                store.correct(recording, "techno")
            original = tuple(genre for genre in standing if own and genre == "Kitchen")
            tags = Tags(genres=standing, ours=field, original_genres=original)
            found[recording] = tags, decided, file_id
        yield store, found


def is_to_be_written(store, settings, recording, tags, decided, file_id):
    """As a scan and `scan --dry-run` find out."""
    said = store.correction(recording)
    if said is None and not decided:
        return False
    label = Label.by_person(said["genre"], said["corrected_at"]) if said else Label("house", 0.75)
    last = store.last_write(file_id)
    held = last is not None and held_back(last, STAT, label)
    return not held and edit_for(settings, HEAD, tags, label) is not None


@pytest.mark.parametrize("policy", ["fill", "replace", "append", "off"])
def test_the_count_is_what_a_scan_would_write(library, policy):
    store, found = library
    settings = Settings(write_tags=policy)
    expected = sum(
        is_to_be_written(store, settings, recording, *case) for recording, case in found.items() if policy != "off"
    )
    assert count_unwritten(store.connection, settings) == expected
    assert (expected > 0) == (policy != "off")


def test_own_words_are_what_is_to_stand_there(library):
    store, _ = library
    usual = count_unwritten(store.connection, Settings(write_tags="replace"))
    renamed = Settings(write_tags="replace", labels={"House": "Kitchen"})
    assert count_unwritten(store.connection, renamed) != usual
    assert count_unwritten(store.connection, Settings(write_tags="replace", labels={"house": "", "techno": " "})) == 0


def test_damaged_and_missing_files_do_not_count(tmp_path):
    with Store(tmp_path / "library.db") as store:
        recording = store.recording("a", codec="mp3", sample_rate_hz=44100, channels=2, duration_s=1.0)
        file_id = store.put_file(b"/m/a", STAT, root_id=None, state="ready", recording_id=recording)
        store.correct(recording, "house")
        assert count_unwritten(store.connection, Settings()) == 1
        store.set_file_reason(file_id, "truncated: its end is missing")
        assert count_unwritten(store.connection, Settings()) == 0
        store.put_file(b"/m/a", STAT, root_id=None, state="missing", recording_id=recording)
        assert count_unwritten(store.connection, Settings()) == 0
