"""Label sets in the files' tags: written where asked for, following what a person and the head say, undone."""

import json
from itertools import product
from types import SimpleNamespace

import mutagen
import numpy as np
import pytest

from indexer.config import LabelSet, Settings, load_settings
from indexer.encoders.load import load_encoder
from indexer.errors import ConfigError
from indexer.files.audio.identity import Stat, sniff
from indexer.files.tags.added import parse_added
from indexer.files.tags.read import Tags, read_tags
from indexer.heads.linear import LinearHead
from indexer.library.set_fields import WrittenSet, count_unwritten
from indexer.library.store import Store
from indexer.scan.journal import tag_columns
from indexer.scan.set_fields import set_edits
from tests.helpers.contents import contents
from tests.helpers.labelled import sql
from tests.helpers.pages import Pages

MOOD = "INDEXER_MOOD"


def kind_of(path):
    """The container of a file of the folder of scanned music."""
    with path.open("rb") as file:
        return sniff(file)


@pytest.fixture
def moody(quick_cli, scanned_music, tmp_path):
    """A library of scanned files that writes no genre but the set mood, whose head says "dark" of everything."""
    encoder = load_encoder("rhythm")
    config = tmp_path / "config.toml"
    config.write_text('write_tags = "off"\n[sets.mood]\nlabels = ["dark", "sad"]\nwrite = true\n')

    def use(labels=("bright", "dark"), sure=3.0):
        """Put a head in use that is so sure of its second label."""
        path = tmp_path / f"{labels[1][:9]}{sure}.safetensors"
        weight = np.zeros((2, encoder.width), np.float32)
        head = LinearHead("mood", encoder.id, labels, 0.6, weight, np.array([0, sure], np.float32))
        head.save(path)
        with Store(quick_cli.db) as store:
            store.use_sets(["mood"])
            store.put_head(
                head.id, name="mood", kind="linear", encoder_id=encoder.id, labels=labels, threshold=0.6,
                source=str(path),
            )  # fmt: skip
            store.use_set_head("mood", head.id)

    use()
    env = {"INDEXER_CONFIG": str(config)}
    files = sorted(scanned_music.rglob("*.*"))

    def fields():
        return [read_tags(path, kind_of(path)).set_fields.get(MOOD) for path in files]

    def scan(**extra):
        return quick_cli.json("scan", scanned_music, env={**env, **extra})

    return SimpleNamespace(
        cli=quick_cli, folder=scanned_music, files=files, env=env, use=use, fields=fields, scan=scan, config=config
    )


def not_written(moody):
    return moody.cli.json("status", env=moody.env)["sets_not_written"]


# ---- settings


def test_the_field_is_called_as_the_set_is(tmp_path):
    config = tmp_path / "config.toml"
    config.write_text('[sets."Set  role"]\nwrite = true\n[sets.mood]\n')
    found = load_settings(config, {}, {})
    assert found.written_sets == {"set_role": "INDEXER_SET_ROLE"}
    assert found.writes_any_tag


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[sets.genre]\nwrite = true", "INDEXER_GENRE is one of indexer's own"),
        ("[sets.Added]\nwrite = true", "INDEXER_ADDED is one of indexer's own"),
        ('[sets."original genre"]\nwrite = true', "INDEXER_ORIGINAL_GENRE is one of indexer's own"),
        ('[sets."set role"]\nwrite = true\n[sets.set_role]\nwrite = true', "are one name"),
        ("[sets.mood]\nwrite = 'yes'", "sets.mood.write"),
        ('[sets."mood\\u0000"]\nwrite = true', "cannot name a label set"),
        ('[sets."<script>"]\nwrite = true', "cannot name a label set"),
        (f"[sets.{'m' * 200}]\nwrite = true", "cannot name a label set"),
    ],
)
def test_a_field_that_is_taken_is_refused_in_one_line(tmp_path, text, why):
    config = tmp_path / "config.toml"
    config.write_text(text)
    with pytest.raises(ConfigError, match=why) as error:
        load_settings(config, {}, {})
    assert "\n" not in str(error.value)


# ---- the rule, and its count in SQL

STAT = Stat(1, 2, 3, 4)
ONE = WrittenSet("mood", MOOD, "h", 0.5)
STANDING = (None, "dark", "sad", "theirs")
RECORDED = (None, ("dark", False), ("dark", True), ("sad", True))
JOURNALS = (None, "write", "undo", "still undone", "refused", "read-only")


def journal(store, file_id, kind, added):
    path, evidence = b"/m/%d" % file_id, {"columns": {"indexer_added": added}}
    for action in {"still undone": ("undo", "write")}.get(kind, (kind,)):
        if action in ("write", "undo"):
            write = store.intend_write(
                file_id=file_id, run_id=None, path=path, action=action, before=(), after=(), stat_before=STAT,
                stat_after=STAT, evidence=evidence | ({"still_undone": True} if kind == "still undone" else {})
                if action == "write" else {},
            )  # fmt: skip
            store.settle_write(write, "done")
    if kind in ("refused", "read-only"):
        reason = "read-only folder" if kind == "read-only" else "hard links"
        store.refuse_write(file_id=file_id, run_id=None, path=path, action="write", stat=STAT, reason=reason)


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    """Every combination of what stands there, our record, what a person and the head say, and the journal."""
    with Store(tmp_path_factory.mktemp("library") / "library.db") as store, store.transaction():
        store.put_encoder("e", name="e", width=2, unit_s=6.0)
        store.put_head("h", name="m", kind="linear", encoder_id="e", labels=["dark"], threshold=0.5, source="s")
        store.use_sets(["mood"])
        store.use_set_head("mood", "h")
        found = []
        head = (None, True, False)
        for n, case in enumerate(product(STANDING, RECORDED, head, (None, "before", "after"), JOURNALS), 1):
            standing, recorded, decided, said, kind = case
            recording = store.recording(str(n), codec="mp3", sample_rate_hz=44100, channels=2, duration_s=1.0)
            file_id = store.put_file(b"/m/%d" % n, STAT, root_id=None, state="ready", recording_id=recording)
            added = None
            if recorded:
                added = json.dumps({"added": {MOOD: recorded[0]}, **({"said": [MOOD]} if recorded[1] else {})})
            tags = Tags(added=added, set_fields={MOOD: standing} if standing else {})
            store.put_tags(file_id, tag_columns(tags))
            if decided is not None:
                store.put_prediction(recording, "h", {"dark": 0.75}, 0.5, decided=decided)
            if said == "before":
                store.correct_in_set(recording, "mood", "sad")
            journal(store, file_id, kind, added)
            if said == "after":
                store.correct_in_set(recording, "mood", "sad")
            edits = set_edits(store.connection, file_id, [ONE], tags, store.last_write(file_id), STAT)
            found.append((case, edits))
        yield store, found


def test_the_count_is_what_a_scan_would_write(cases):
    store, found = cases
    settings = Settings(sets={"mood": LabelSet(write=True)})
    assert count_unwritten(store.connection, settings) == {"mood": sum(bool(edits.texts) for _, edits in found)}
    assert count_unwritten(store.connection, Settings(sets={"mood": LabelSet()})) == {}


def test_what_is_written_is_a_persons_word_or_what_is_decided_and_never_over_another_programs(cases):
    for (standing, recorded, decided, said, kind), edits in cases[1]:
        text = edits.texts.get(MOOD, "as it is")
        ours = standing is None or (recorded and recorded[0] == standing)
        may = {"as it is", "sad" if said else "dark" if decided else None}
        if recorded and recorded[1]:  # a person's word that was withdrawn
            may.add(None)
        assert text in (may if ours else {"as it is"})
        assert edits.said == ([MOOD] if said and MOOD in edits.texts else [])
        if said == "after" and ours:
            assert "sad" in (text, standing)
        if kind == "refused" and said != "after":
            assert text == "as it is"
        if kind in ("undo", "still undone") and said != "after":
            assert text in ("as it is", None)


@pytest.mark.parametrize(
    ("label", "confidence", "decided", "expected"),
    [("bright", 0.7, True, {}), ("bright", 0.76, True, {MOOD: "bright"}), ("bright", 0.4, False, {})],
)
def test_what_was_heard_roughly_counts_only_where_the_head_is_sure(tmp_path, label, confidence, decided, expected):
    with Store(tmp_path / "library.db") as store, store.transaction():
        store.put_encoder("e", name="e", width=2, unit_s=6.0)
        store.put_head("h", name="m", kind="linear", encoder_id="e", labels=["dark"], threshold=0.5, source="s")
        recording = store.recording("a", codec="mp3", sample_rate_hz=44100, channels=2, duration_s=1.0)
        file_id = store.put_file(b"/m/a", STAT, root_id=None, state="ready", recording_id=recording)
        store.put_embedding(recording, "e", bytes(4), 1, rough=True)
        store.put_prediction(recording, "h", {label: confidence}, 0.5, decided=decided)
        tags = Tags(added=json.dumps({"added": {MOOD: "dark"}}), set_fields={MOOD: "dark"})
        assert set_edits(store.connection, file_id, [ONE], tags, None, STAT).texts == expected


# ---- what is written


def test_nothing_is_written_unless_asked_for(moody):
    before = contents(moody.folder)
    moody.config.write_text('write_tags = "off"\n[sets.mood]\nlabels = ["dark"]\n')
    assert moody.scan()["tags_written"] == 0
    assert contents(moody.folder) == before


def test_what_is_decided_is_written_shown_settled_and_undone(moody):
    before = contents(moody.folder)
    assert moody.cli.json("relabel", env=moody.env)["sets_not_written"] == {"mood": 6}
    assert "INDEXER_MOOD is not up to date in 6 files" in moody.cli("status", env=moody.env).stdout
    planned = moody.cli.json("scan", moody.folder, "--dry-run", env=moody.env)
    assert [write["adds"] for write in planned["writes"]] == [{MOOD: "dark"}] * 6
    assert contents(moody.folder) == before
    moody.files[0].chmod(0o444)
    done = moody.scan()
    assert (done["tags_written"], done["not_written"], moody.fields()) == (5, 1, [None, *["dark"] * 5])
    found = moody.cli.json("correct", "--set", "mood", moody.files[0], "dark", code=1, env=moody.env)
    assert found["files"] == [{"path": str(moody.files[0]), "reason": "read-only file or file system"}]
    moody.files[0].chmod(0o644)
    assert (moody.scan()["tags_written"], moody.fields()) == (1, ["dark"] * 6)
    assert not_written(moody) == {}
    moody.config.write_text('write_tags_key = true\nwrite_tags = "off"\n')  # the set is gone: left as it is
    assert (moody.scan()["cached"], moody.fields()) == (6, ["dark"] * 6)
    assert "write  done        (none) -> (none); INDEXER_MOOD dark" in (
        moody.cli("tags", "history", moody.files[0]).stdout
    )
    run = sql(moody.cli.db, "SELECT max(run_id) FROM tag_writes")[0][0]
    moody.cli("tags", "undo", "--run", run)
    assert moody.fields() == [None, *["dark"] * 5]
    moody.cli("tags", "undo", "--all")
    assert contents(moody.folder) == before


def test_a_new_head_is_followed_and_what_is_not_decided_taken_away(moody):
    before = contents(moody.folder)
    moody.scan()
    moody.use(labels=("bright", "très <b>'sad'\""), sure=4.0)
    assert (moody.scan()["tags_written"], moody.fields()) == (6, ["très <b>'sad'\""] * 6)
    moody.use(sure=0.1)
    moody.cli("relabel", env=moody.env)
    assert "INDEXER_MOOD is taken away" in moody.cli("scan", moody.folder, "--dry-run", env=moody.env).stdout
    assert moody.scan()["tags_written"] == 6
    assert contents(moody.folder) == before


def test_a_persons_word_is_written_changed_and_taken_away(moody):
    before = contents(moody.folder)
    moody.use(sure=0.1)
    first = moody.files[0]
    found = moody.cli.json("correct", "--set", "mood", first, "sad", env=moody.env)
    assert (found["tags"], found["files"]) == ("written", [{"path": str(first), "reason": None}])
    assert moody.fields() == ["sad", *[None] * 5]
    assert parse_added(read_tags(first, kind_of(first)).added)["said"] == [MOOD]
    pages = Pages(moody.cli.db, sets={"mood": {"labels": ["dark"], "write": True}})
    (number,) = sql(moody.cli.db, "SELECT id FROM tracks WHERE mood = 'sad'")[0]
    answer = pages.post("/-/correct", {"id": number, "set": "mood", "label": "dark"}).json()
    assert answer["tags"] == "with the next scan"
    assert not_written(moody) == {"mood": 1}
    assert "1 label of a set is not up to date in the files" in pages.get("/").text
    for left in ("dark", "sad", None):
        assert (moody.scan()["tags_written"], moody.fields()[0]) == (1, left)
        pages.post("/-/correct", {"id": number, "set": "mood", "label": None})
    assert contents(moody.folder) == before


@pytest.mark.parametrize("withdrawn", [False, True])
def test_what_a_person_says_while_a_file_is_written_is_not_lost(tmp_path, withdrawn):
    with Store(tmp_path / "library.db") as store:
        recording = store.recording("a", codec="mp3", sample_rate_hz=44100, channels=2, duration_s=1.0)
        file_id = store.put_file(b"/m/a", STAT, root_id=None, state="ready", recording_id=recording)
        store.correct_in_set(recording, "mood", "sad")
        said = store.said_so_far(recording)
        if withdrawn:
            store.withdraw_in_set(recording, "mood")
        store.correct_in_set(recording, "mood", "dark")
        store.settle_tags(file_id, "p", said)
        assert store.file(file_id).tag_policy is None
        store.settle_tags(file_id, "p", store.said_so_far(recording))
        assert store.file(file_id).tag_policy == "p"


def test_a_word_after_an_undo_is_written_and_lifts_the_undo_of_nothing_else(moody):
    moody.config.write_text('[sets.mood]\nlabels = ["dark", "sad"]\nwrite = true\n')
    assert moody.scan()["genres_written"] == 6
    moody.cli("tags", "undo", "--all")
    first = moody.files[0]
    moody.cli("correct", "--set", "mood", first, "sad", env=moody.env)
    assert moody.fields() == ["sad", *[None] * 5]
    sql(moody.cli.db, "DELETE FROM set_corrections")
    sql(moody.cli.db, "UPDATE files SET tag_policy = NULL")
    assert (moody.scan()["tags_written"], moody.fields()) == (1, [None] * 6)
    assert read_tags(first, kind_of(first)).genres == ()


def test_what_stands_there_already_is_left_alone(moody):
    first = moody.folder / "flac.flac"
    file = mutagen.File(first)
    file["indexer_mood"] = ["mine"]
    file.save()
    moody.scan()
    assert sorted(map(str, moody.fields())) == ["dark"] * 5 + ["mine"]
    found = moody.cli("correct", "--set", "mood", first, "sad", code=1, env=moody.env).stdout
    assert "its INDEXER_MOOD is 'mine', which another program wrote" in found
    assert "in the tags of 0;" in found
    assert read_tags(first, "flac").set_fields == {MOOD: "mine"}
    assert not_written(moody) == {}
