"""What is added to the tags (tempo, key, label sets): only where asked for and empty, undone with the genre."""

import contextlib
import sqlite3
from pathlib import Path

import mutagen
import mutagen.apev2
import mutagen.id3
import pytest

from indexer.analysis.analyser import Analysis
from indexer.errors import WriteRefusedError
from indexer.files.audio.identity import sniff
from indexer.files.tags.added import parse_added
from indexer.files.tags.read import read_tags
from indexer.files.tags.write import GenreEdit, commit, prepare
from tests.helpers.contents import contents, rows
from tests.helpers.synth import CONTAINERS, write_audio

EDIT = GenreEdit(("House",), "house", 0.9, "head@12345678")
MOOD = "INDEXER_MOOD"
ADD = {"BPM": "127.94", "INITIALKEY": "Am", MOOD: "dark 'n' deep=<b>"}
ON = {"INDEXER_WRITE_TAGS_BPM": "true", "INDEXER_WRITE_TAGS_KEY": "true"}
WRITABLE = [name for name in CONTAINERS if name != "aac"]  # raw ADTS has no place for a tag
WHOLE = ("mp3", "wav", "aiff", "m4a", "alac")  # whose field is a whole number


def kind_of(path: Path) -> str:
    with path.open("rb") as file:
        return sniff(file)


def write(path: Path, edit: GenreEdit | None = None, add: dict[str, str | None] | None = None, said=()) -> None:
    """Write; without both, undo."""
    prepared = prepare(str(path), kind_of(path), edit, add=add, said=said)
    assert commit(prepared, intend=lambda _: 1, done=lambda _: None, drop=lambda *_: None)


def standing(path: Path) -> dict[str, str]:
    """Tempo and key as mutagen finds them."""
    tags = mutagen.File(path).tags
    names = ("TBPM", "TKEY", "tmpo", "----:com.apple.iTunes:initialkey", "bpm", "BPM", "initialkey", "INITIALKEY",
             "WM/BeatsPerMinute", "WM/InitialKey")  # fmt: skip
    found = {}
    for name in names:
        if tags is not None and name in tags:
            value = tags[name]
            value = value.text[0] if hasattr(value, "text") else value if isinstance(value, str) else value[0]
            found[name] = value.decode() if isinstance(value, bytes) else str(value)
    return found


def own_field(path: Path) -> list[str]:
    """The field of the label set as mutagen finds it, whatever the container calls it."""
    names = (f"TXXX:{MOOD}", f"----:com.edm-indexer:{MOOD}", MOOD, MOOD.lower())
    tags = mutagen.File(path).tags
    found = next(tags[name] for name in names if name in tags)
    values = getattr(found, "text", found)
    return [value.decode() if isinstance(value, bytes) else str(value) for value in
            ([values] if isinstance(values, str) else values)]  # fmt: skip


@pytest.mark.parametrize("container", WRITABLE)
@pytest.mark.parametrize("writes", [["add"], ["genre", "add"], ["add", "genre"], ["both"]], ids="-".join)
def test_what_was_added_is_read_by_others_and_undone_with_the_genre(tmp_path, container, writes):
    path = write_audio(tmp_path / "a", container, 1.0)
    before = path.read_bytes()
    for what in writes:
        write(path, EDIT if what != "add" else None, ADD if what != "genre" else None)
    found = read_tags(path, kind_of(path))
    assert (found.bpm, found.musical_key) == (128.0 if container in WHOLE else 127.94, "Am")
    assert found.genres == (() if writes == ["add"] else ("House",))
    assert found.set_fields == {MOOD: ADD[MOOD]}
    assert own_field(path) == [ADD[MOOD]]
    assert sorted({*standing(path).values()}) == ["128" if container in WHOLE else "127.94", "Am"]
    write(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("version", [3, 4])
def test_an_existing_tag_is_added_to_and_given_back(tmp_path, version):
    path = write_audio(tmp_path / "a", "mp3", 1.0)
    tags = mutagen.id3.ID3()
    tags.add(mutagen.id3.TIT2(encoding=1, text=["Title"]))
    tags.add(mutagen.id3.TCON(encoding=0, text=["Techno"]))
    tags.save(path, v2_version=version)
    before = path.read_bytes()
    write(path, add=ADD)
    found = read_tags(path, "mp3")
    assert (found.title, found.genres, found.ours, found.bpm) == ("Title", ("Techno",), None, 128.0)
    write(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("text", ["128", "128,5", "0", "fast"])
def test_a_field_that_holds_anything_is_left_alone(tmp_path, text):
    path = write_audio(tmp_path / "a", "mp3", 1.0)
    tags = mutagen.id3.ID3()
    tags.add(mutagen.id3.TBPM(encoding=0, text=[text]))
    tags.save(path)
    before = path.read_bytes()
    assert read_tags(path, "mp3").filled == ("BPM",)
    with pytest.raises(WriteRefusedError, match="BPM is not empty"):
        write(path, add=ADD)
    assert path.read_bytes() == before
    write(path, add={"INITIALKEY": "Am"})
    assert standing(path) == {"TBPM": text, "TKEY": "Am"}
    write(path)
    assert path.read_bytes() == before


def test_a_blank_field_hides_no_other_tags_field(tmp_path):
    path = write_audio(tmp_path / "a", "mp3", 1.0)
    ape = mutagen.apev2.APEv2()
    ape["BPM"] = "0"
    ape.save(path)
    tags = mutagen.id3.ID3()
    tags.add(mutagen.id3.TBPM(encoding=3, text=[" "]))
    tags.save(path)
    assert read_tags(path, "mp3").filled == ("BPM",)  # so that no tempo is added, which would be refused


@pytest.mark.parametrize("genre", [False, True], ids=["alone", "with a genre"])
@pytest.mark.parametrize("container", ["flac", "vorbis", "mp3"])
def test_a_field_that_is_there_and_empty_is_filled_and_comes_back(tmp_path, container, genre):
    path = write_audio(tmp_path / "a", container, 1.0)
    if container == "mp3":
        tags = mutagen.id3.ID3()
        tags.add(mutagen.id3.TKEY(encoding=3, text=[" "]))
        tags.add(mutagen.id3.TCON(encoding=3, text=["Techno"]))
        tags.save(path)
    else:
        file = mutagen.File(path)
        file.tags.extend([("InitialKey", ""), ("GENRE", "Techno"), ("BPM", " "), ("TITLE", "x")])
        file.save()
    before = path.read_bytes()
    assert read_tags(path, kind_of(path)).filled == ()
    write(path, EDIT if genre else None, ADD)
    found = read_tags(path, kind_of(path))
    assert (found.bpm, found.musical_key) == (128.0 if container in WHOLE else 127.94, "Am")
    assert {*standing(path).values()} == {"128" if container in WHOLE else "127.94", "Am"}
    write(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("more", ["NaN", "-Infinity", "1e999", f'"{"A" * 4000}"'])
def test_a_record_that_the_library_could_not_hold_is_not_ours(tmp_path, more):
    """SQLite finds no part of it, and no worker of a cluster may answer with it."""
    path = write_audio(tmp_path / "a.mp3", "mp3", 1.0)
    tags = mutagen.id3.ID3()
    tags.add(mutagen.id3.TXXX(encoding=3, desc="INDEXER_ADDED", text=[f'{{"added": {{"BPM": "120"}}, "x": {more}}}']))
    tags.save(path)
    assert read_tags(path, "mp3").added is None


def test_what_was_changed_since_is_left_by_the_undo(tmp_path):
    path = write_audio(tmp_path / "a", "flac", 1.0)
    write(path, EDIT, ADD)
    file = mutagen.File(path)
    file["bpm"] = ["174.00"]
    file.save()
    write(path)
    file = mutagen.File(path)
    assert {key.lower(): value for key, value in file.tags.items()} == {"bpm": ["174.00"]}


# What a label set has in a file follows its word


@pytest.mark.parametrize("container", WRITABLE)
@pytest.mark.parametrize("genre", ["no", "before", "between", "after"])
def test_a_field_of_a_set_is_rewritten_and_taken_away_and_every_byte_comes_back(tmp_path, container, genre):
    path = write_audio(tmp_path / "a", container, 1.0)
    before = path.read_bytes()
    steps = [{MOOD: "dark"}, {MOOD: "x" * 100, "INDEXER_SET_ROLE": "peak"}, {MOOD: None}, {"INDEXER_SET_ROLE": None}]
    at = {"no": None, "before": 0, "between": 2, "after": 4}[genre]
    for number, add in enumerate([*steps, None]):
        if number == at:
            write(path, EDIT)
        if add:
            write(path, add=add)
        expected = [{MOOD: "dark"}, {MOOD: "x" * 100, "INDEXER_SET_ROLE": "peak"}, {"INDEXER_SET_ROLE": "peak"}]
        found = read_tags(path, kind_of(path))
        assert found.set_fields == (expected[number] if number < 3 else {})
        assert found.genres == (("House",) if at is not None and number >= at else ())
    if genre == "no":
        assert path.read_bytes() == before
        assert found.added is None
    else:
        write(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("container", ["flac", "mp3", "m4a", "wma", "wavpack"])
def test_a_field_of_a_set_that_another_program_wrote_stays(tmp_path, container):
    path = write_audio(tmp_path / "a", container, 1.0)
    file = mutagen.File(path)
    if file.tags is None:
        file.add_tags()
    if container == "mp3":
        file.tags.add(mutagen.id3.TXXX(encoding=3, desc="indexer_mood", text=["sad"]))
    else:
        file.tags["----:com.apple.iTunes:INDEXER_MOOD" if container == "m4a" else MOOD] = (
            [b"sad"] if container == "m4a" else "sad"
        )
    file.save()
    before = path.read_bytes()
    assert read_tags(path, kind_of(path)).set_fields == {MOOD: "sad"}
    with pytest.raises(WriteRefusedError, match="INDEXER_MOOD is not empty"):
        write(path, add={MOOD: "dark"})
    with pytest.raises(WriteRefusedError):
        write(path, add={MOOD: None})
    assert path.read_bytes() == before
    write(path, EDIT, {"INDEXER_ROLE": "peak"})
    assert read_tags(path, kind_of(path)).set_fields == {MOOD: "sad", "INDEXER_ROLE": "peak"}
    write(path)
    assert path.read_bytes() == before


def test_an_empty_field_of_a_set_comes_back_when_the_word_is_withdrawn(tmp_path):
    path = write_audio(tmp_path / "a", "flac", 1.0)
    file = mutagen.File(path)
    file.tags.extend([("Indexer_Mood", " "), ("TITLE", "x")])
    file.save()
    before = path.read_bytes()
    for text in ("dark", "bright", None):
        write(path, add={MOOD: text}, said=[MOOD])
        assert read_tags(path, "flac").set_fields == ({MOOD: text} if text else {})
    assert path.read_bytes() == before


def test_the_record_keeps_whose_word_a_field_holds(tmp_path):
    path = write_audio(tmp_path / "a", "mp3", 1.0)
    write(path, add={MOOD: "dark", "INDEXER_ROLE": "peak"}, said=[MOOD])
    write(path, add={"INDEXER_ROLE": "opener"})
    assert parse_added(read_tags(path, "mp3").added)["said"] == [MOOD]
    write(path, add={MOOD: "bright"})
    assert "said" not in parse_added(read_tags(path, "mp3").added)


@pytest.mark.parametrize(
    "record",
    ['{"added":{"INDEXER_GENRE":"x"}}', '{"added":{"TITLE":"x"}}', '{"added":{"INDEXER_MOOD":1}}', '{"added":[]}', "7",
     '{"added":{},"said":3}', '{"added":{},"said":[[]]}', '{"added":{},"blank":[]}', '{"added":{},"blank":{"BPM":1}}'],
)  # fmt: skip
def test_what_is_no_record_of_ours_takes_no_field_away(record):
    assert parse_added(record) is None


def test_where_only_info_stands_the_genre_is_written_without_what_has_no_place(tmp_path):
    path = write_audio(tmp_path / "a", "wav", 1.0)
    entry = b"INAM" + (6).to_bytes(4, "little") + b"Title\0"
    chunk = b"LIST" + (4 + len(entry)).to_bytes(4, "little") + b"INFO" + entry
    data = path.read_bytes() + chunk
    path.write_bytes(data[:4] + (len(data) - 8).to_bytes(4, "little") + data[8:])
    before = path.read_bytes()
    with pytest.raises(WriteRefusedError, match="no place"):
        write(path, add={MOOD: "dark"})
    write(path, EDIT, {MOOD: "dark"})
    assert (read_tags(path, "wav").genres, read_tags(path, "wav").set_fields) == (("House",), {})
    write(path)
    assert path.read_bytes() == before


# In a scan


def change(cli, sql: str) -> None:
    with contextlib.closing(sqlite3.connect(cli.db)) as conn, conn:
        conn.execute(sql)


@pytest.fixture
def measured(quick_cli, scanned_music):
    """Six recordings with a tempo and a key, in a library that has written nothing."""
    change(quick_cli, "UPDATE analysis SET tempo_bpm = 127.94, key = '8A', key_name = 'Am'")
    change(quick_cli, "UPDATE predictions SET tempo_bpm = NULL")
    return scanned_music


def test_tempo_and_key_are_written_only_when_asked_for(quick_cli, measured):
    assert quick_cli.json("scan", measured)["tags_written"] == 6
    assert [standing(path) for path in measured.rglob("*.*")] == [{}] * 6


@pytest.mark.parametrize("policy", ["off", "fill"])
def test_a_scan_adds_tempo_and_key_and_tags_undo_takes_them_away(quick_cli, measured, policy):
    before = contents(measured)
    on = {**ON, "INDEXER_WRITE_TAGS": policy}
    planned = quick_cli.json("scan", measured, "--dry-run", env=on)
    assert planned["tag_writes"] == 6
    assert {tuple(write["adds"].items()) for write in planned["writes"]} == {(("BPM", "127.94"), ("INITIALKEY", "Am"))}
    assert "INITIALKEY Am is added" in quick_cli("scan", measured, "--dry-run", env=on).stdout
    done = quick_cli.json("scan", measured, env=on)
    assert (done["tags_written"], done["genres_written"]) == (6, 0 if policy == "off" else 6)
    assert all(len(standing(path)) >= 2 for path in measured.rglob("*.*"))
    found = rows(quick_cli, "SELECT tag_bpm, tag_key, tag_genre FROM tracks")
    assert {row["tag_key"] for row in found} == {"Am"}
    assert {round(row["tag_bpm"]) for row in found} == {128}
    assert [row["tag_genre"] is None for row in found] == [policy == "off"] * 6
    again = quick_cli.json("scan", measured, env=on)
    assert (again["tags_written"], again["cached"]) == (0, 0)  # settled
    assert {row["action"] for row in rows(quick_cli, "SELECT action FROM tag_writes")} == {"write"}
    quick_cli("tags", "undo", "--all")
    assert contents(measured) == before
    assert {row["tag_bpm"] for row in rows(quick_cli, "SELECT tag_bpm FROM tracks")} == {None}
    assert quick_cli.json("scan", measured, env=on)["tags_written"] == 0  # what was undone is not written again


def test_a_users_own_genre_stays_beside_an_added_tempo(quick_cli, measured):
    path = measured / "flac.flac"
    file = mutagen.File(path)
    file["genre"] = ["Gabber"]
    file.save()
    quick_cli("scan", measured, env=ON)
    tags = {key.lower(): value for key, value in mutagen.File(path).tags.items()}
    assert (tags["genre"], tags["bpm"], tags["initialkey"]) == (["Gabber"], ["127.94"], ["Am"])
    assert not any(key.startswith("indexer_genre") for key in tags)


def test_known_recordings_get_them_once_they_are_measured(quick_cli, measured, monkeypatch):
    quick_cli("scan", measured, env=ON)
    quick_cli("tags", "undo", "--all")
    change(quick_cli, "DELETE FROM tag_writes")
    change(quick_cli, "UPDATE files SET tag_policy = NULL")
    change(quick_cli, "DELETE FROM analysis")
    facts = Analysis.facts
    monkeypatch.setattr(Analysis, "facts", lambda self: {**facts(self), "key": "8A", "key_name": "Am"})
    summary = quick_cli.json("scan", measured, env={"INDEXER_WRITE_TAGS": "off", "INDEXER_WRITE_TAGS_KEY": "true"})
    assert (summary["analysed"], summary["tags_written"]) == (6, 6)
    assert all("Am" in standing(path).values() for path in measured.rglob("*.*"))
