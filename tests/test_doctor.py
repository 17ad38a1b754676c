"""doctor: what every reader sees, which tags contradict each other, what a write would refuse.

On files of every kind, and no file is changed.
"""

import os
import shutil
import signal
import time
from pathlib import Path

import av
import mutagen
import mutagen.apev2
import mutagen.id3
import pytest

from indexer.errors import FileError
from indexer.files.audio.identity import sniff
from indexer.files.children import examine
from indexer.files.tags.genre import GenreEdit
from indexer.files.tags.write import commit, discard, prepare
from indexer.upkeep.doctor import contradictions, exit_code, report_of, to_text
from tests.helpers.synth import CONTAINERS, write_audio

EDIT = GenreEdit(("Drum & Bass",), "drum and bass", 0.93, "linear@12345678")


def one(cli, path: Path, code: int = 0) -> dict:
    """The report of one file from the command line."""
    [report] = cli.json("doctor", path, code=code)["reports"]
    return report


def report_on(path: Path) -> dict:
    """The same without a child process, and under "text" what a person reads."""
    report = report_of(os.fsencode(path), examine.examine(str(path)))
    return {**report, "text": to_text({"folders": 0, "reports": [report]})}


def seen(report: dict) -> dict[str, list[str]]:
    return {genre["place"]: genre["values"] for genre in report["genres"]}


def container_of(path: Path) -> str:
    with path.open("rb") as file:
        return sniff(file)


def give_genre(path: Path, container: str, genre: str) -> None:
    prepared = prepare(str(path), container, GenreEdit((genre,), genre.lower(), 0.9, "linear@12345678"))
    assert commit(prepared, intend=lambda _: 1, done=lambda _: None, drop=lambda *_: None)


def id3(*frames: mutagen.id3.Frame) -> mutagen.id3.ID3:
    tags = mutagen.id3.ID3()
    for frame in frames:
        tags.add(frame)
    return tags


def with_info(path: Path, genre: str) -> None:
    """A RIFF INFO genre at the end of a WAV."""
    text = genre.encode() + b"\0" * (2 - len(genre) % 2)
    chunk = b"LIST" + (12 + len(text)).to_bytes(4, "little") + b"INFOIGNR" + len(text).to_bytes(4, "little") + text
    data = path.read_bytes() + chunk
    path.write_bytes(data[:4] + (len(data) - 8).to_bytes(4, "little") + data[8:])


# --- what readers see ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "places"), [
    ("mp3", ["ID3v2.4"]), ("flac", ["Vorbis comment"]), ("vorbis", ["Vorbis comment"]), ("opus", ["Vorbis comment"]),
    ("oggflac", ["Vorbis comment"]), ("m4a", ["MP4"]), ("wav", ["ID3v2.3", "RIFF INFO"]), ("aiff", ["ID3v2.3"]),
    ("wavpack", ["APEv2"]), ("wma", ["ASF"]),
])  # fmt: skip
def test_the_genre_is_seen_in_every_place_it_was_written_to(tmp_path, name, places):
    path = write_audio(tmp_path / name, name, 0.3)
    container = container_of(path)
    give_genre(path, container, "Techno")
    facts = examine.examine(str(path))
    assert {p["name"]: p["values"] for p in facts["places"]} == {name: ["Techno"] for name in places}
    assert (facts["container"], facts["unread"], facts["unwritten"]) == (container, None, None)
    assert contradictions(container, facts["places"]) == []


def test_a_report_tells_everything_of_one_file(bare_cli, tmp_path):
    path = write_audio(tmp_path / "a", "mp3", 0.5)
    ape = mutagen.apev2.APEv2()
    ape["Genre"] = "Techno"
    ape.save(path)
    tag = id3(
        mutagen.id3.TCON(encoding=3, text=["House"]),
        mutagen.id3.GEOB(encoding=0, mime="a/b", desc="Serato Markers2", data=b"x"),
        mutagen.id3.PRIV(owner="TRAKTOR4", data=b"y"),
    )
    tag.save(path, v2_version=3, v1=2)
    before = path.read_bytes(), path.stat().st_mtime_ns
    report = one(bare_cli, path)
    assert seen(report) == {"ID3v2.3": ["House"], "APEv2": ["Techno"], "ID3v1": ["House"]}
    assert report["verdict"] == "writable"
    assert report["genre"] == "House"
    assert report["dj_data"] == ["Serato", "Traktor"]
    assert report["contradictions"] == ["ID3v2.3 says House, APEv2 says Techno"]
    assert report["indexer"] is None
    text = bare_cli("doctor", path).stdout
    for words in (
        "ID3v2.3",
        "[where DJ programs and players look]",
        "APEv2",
        "Techno",
        "DJ data",
        "Serato, Traktor",
        "! ID3v2.3 says House",
    ):
        assert words in text
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before
    assert os.listdir(tmp_path / "state") == []  # needs no library and makes none


def test_our_own_fields_and_a_change_since_are_told(tmp_path):
    path = write_audio(tmp_path / "a", "flac", 0.5)
    file = mutagen.File(path)
    file["genre"] = ["House", "Acid"]
    file.save()
    give_genre(path, "flac", "Techno")
    report = report_on(path)
    assert report["indexer"] == {
        "genre": "Techno",
        "label": "techno",
        "confidence": 0.9,
        "model": "linear@12345678",
        "standing": True,
    }
    assert report["original_genre"] == ["House", "Acid"]
    file = mutagen.File(path)
    file["genre"] = ["Trance"]
    file.save()
    report = report_on(path)
    assert report["indexer"]["standing"] is False
    assert "Techno (techno 90%, linear@12345678), changed since" in report["text"]
    assert "House; Acid" in report["text"]


def test_a_wav_without_info_is_said_to_show_nothing_in_rekordbox(tmp_path):
    path = write_audio(tmp_path / "a", "wav", 0.5)
    file = mutagen.File(path)
    file.add_tags()
    file.tags.add(mutagen.id3.TCON(encoding=3, text=["House"]))
    file.save()
    report = report_on(path)
    assert seen(report) == {"ID3v2.4": ["House"], "RIFF INFO": []}
    assert report["contradictions"] == ["ID3v2.4 says House, RIFF INFO (what rekordbox and Windows read) says nothing"]
    assert "RIFF INFO       (no such tag)" in report["text"]
    with_info(path, "Techno")
    assert report_on(path)["contradictions"] == ["ID3v2.4 says House, RIFF INFO says Techno"]


def test_a_tag_that_no_write_makes_is_not_missed(tmp_path):
    """With INFO alone the genre goes there and no ID3 tag is made: nothing contradicts, before or after."""
    path = write_audio(tmp_path / "a", "wav", 0.3)
    with_info(path, "House")
    path.write_bytes(path.read_bytes().replace(b"INFOIGNR", b"INFOINAM"))  # a title
    for genres in ([], ["Techno"]):
        report = report_on(path)
        assert (seen(report), report["verdict"], report["contradictions"]) == ({"RIFF INFO": genres}, "writable", [])
        give_genre(path, "wav", "Techno")


def test_id3v1_alone_is_said_to_be_refused(tmp_path):
    path = write_audio(tmp_path / "a", "mp3", 0.3)
    id3(mutagen.id3.TIT2(encoding=3, text=["Title"])).save(path, v1=2)
    mutagen.id3.delete(path, delete_v1=False)
    report = report_on(path)
    assert (report["verdict"], seen(report)) == ("refused", {"ID3v1": []})
    assert "only an ID3v1 tag" in report["reason"]


def test_a_stale_id3_tag_in_front_of_a_flac_is_found(tmp_path):
    path = write_audio(tmp_path / "a", "flac", 0.3)
    give_genre(path, "flac", "Techno")
    id3(mutagen.id3.TCON(encoding=3, text=["House"])).save(path)
    facts = examine.examine(str(path))
    assert contradictions("flac", facts["places"]) == ["Vorbis comment says Techno, ID3v2.4 says House"]


@pytest.mark.parametrize(("stored", "read"), [
    ("17", ["Rock"]), ("(17)", ["Rock"]), ("(4)Eurodisco", ["Disco", "Eurodisco"]), ("(RX)", ["Remix"]),
    ("(4)(18)", ["Disco", "Techno"]), ("House", ["House"]), ("2step", ["2step"]), ("²", ["²"]),
])  # fmt: skip
def test_id3_genres_by_number_are_named(tmp_path, stored, read):
    path = write_audio(tmp_path / "a", "mp3", 0.1)
    id3(mutagen.id3.TCON(encoding=3, text=[stored])).save(path)
    assert [p["values"] for p in examine.places(str(path), "mp3") if p["kind"] == "id3"] == [read]


def place(kind: str, *values: str, name: str = "", problem: str | None = None, filled: bool = True) -> dict:
    return {
        "kind": kind,
        "name": name or kind,
        "values": list(values),
        "problem": problem,
        "filled": filled,
        "own": True,
        "exists": True,
    }


@pytest.mark.parametrize("places", [
    [],
    [place("id3"), place("info")],
    [place("id3", "Drum and Bass"), place("id3v1", "Drum & Bass")],
    [place("id3", "House", "Acid"), place("id3v1", "House")],
    [place("id3", "House", "Acid"), place("info", "House; Acid")],
    [place("id3", "Breakcore"), place("id3v1", filled=False)],
    [place("id3", "House"), place("ape", problem="damaged")],
    [place("asf", "House"), place("asf library", "Acid")],
])  # fmt: skip
def test_what_is_no_contradiction(places):
    assert contradictions("wav", places) == []


# --- verdicts --------------------------------------------------------------------------------------------------------


def damaged_id3(folder: Path) -> Path:
    path = write_audio(folder / "damaged", "mp3", 1.0)
    data = path.read_bytes()
    path.write_bytes(b"ID3\x03\0\0\0\0\0\x1eTIT2\0\0\0\x02\0\0\0xnot a frame at all" + data[data.index(b"\xff\xfb") :])
    return path


def hard_linked(folder: Path) -> Path:
    path = write_audio(folder / "linked", "flac", 0.3)
    os.link(path, folder / "twin.flac")
    return path


def read_only(folder: Path) -> Path:
    path = write_audio(folder / "locked", "flac", 0.3)
    path.chmod(0o444)
    return path


def cut(folder: Path) -> Path:
    path = write_audio(folder / "cut", "wav", 1.0)
    path.write_bytes(path.read_bytes()[:100_000])
    return path


def text_file(folder: Path) -> Path:
    path = folder / "text.mp3"
    path.write_text("this is no music\n" * 50)
    return path


def raw_aac(folder: Path) -> Path:
    return write_audio(folder / "raw", "aac", 0.5)


@pytest.mark.parametrize(("make", "verdict", "reason", "code"), [
    (damaged_id3, "refused", "the tag is damaged: the ID3 frame after 1 good ones is damaged", 1),
    (hard_linked, "refused", "hard links", 1),
    (read_only, "refused", "read-only", 1),
    (cut, "truncated", "the data chunk needs", 1),
    (text_file, "unreadable", "looks like text", 1),
    (raw_aac, "unsupported", "tags of aac files cannot be written", 0),
])  # fmt: skip
def test_verdicts_with_their_reasons(tmp_path, make, verdict, reason, code):
    report = report_on(make(tmp_path))
    assert report["verdict"] == verdict
    assert reason in report["reason"]
    assert reason in report["text"]
    assert exit_code({"verdicts": {verdict: 1}}) == code


def test_what_is_not_there_is_said_and_the_rest_is_examined(cli, tmp_path):
    path = write_audio(tmp_path / "a", "flac", 0.3)
    found = cli.json("doctor", tmp_path / "nothing.mp3", path, code=1)
    assert found["verdicts"] == {"writable": 1, "unreadable": 1}
    assert found["reports"][0]["reason"] == "no such file or folder"


def test_a_damaged_tag_hides_no_other(tmp_path):
    path = damaged_id3(tmp_path)
    ape = mutagen.apev2.APEv2()
    ape["Genre"] = "Techno"
    ape.save(path)
    found = {p["kind"]: (p["values"], p["problem"]) for p in examine.places(str(path), "mp3")}
    assert found == {"id3": ([], "the ID3 frame after 1 good ones is damaged"), "ape": (["Techno"], None)}


def test_a_link_is_examined_as_the_file_that_a_write_would_touch(cli, tmp_path):
    path = write_audio(tmp_path / "a", "flac", 0.3)
    (tmp_path / "link.flac").symlink_to(path)
    assert one(cli, tmp_path / "link.flac")["path"] == str(path)


def test_a_pipe_and_a_device_are_not_waited_for(cli, tmp_path):
    os.mkfifo(tmp_path / "pipe.mp3")
    assert one(cli, tmp_path / "pipe.mp3", 1)["verdict"] == "unreadable"


def test_terminal_sequences_in_tags_and_names_are_not_printed(cli, tmp_path):
    path = write_audio(tmp_path / "a\x1b[31m.flac", "flac", 0.3)
    file = mutagen.File(path)
    file["genre"] = ["\x1b]0;owned\x07House\u202e"]
    file.save()
    text = cli("doctor", path).stdout
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "House" in text


# --- folders ---------------------------------------------------------------------------------------------------------


def test_a_folder_gets_counts_and_the_files_with_something_to_say(cli, tmp_path):
    folder = tmp_path / "music"
    (folder / "deep").mkdir(parents=True)
    for name in ("mp3", "flac", "vorbis"):
        write_audio(folder / name, name, 0.3)
    text_file(folder / "deep")
    read_only(folder / "deep")
    (folder / "cover.jpg").write_bytes(b"x")
    found = cli.json("doctor", folder, code=1)
    assert (found["files"], found["verdicts"]) == (5, {"writable": 3, "refused": 1, "unreadable": 1})
    assert [Path(r["path"]).name for r in found["reports"]] == ["locked.flac", "text.mp3"]
    assert to_text(found).splitlines()[0] == "5 files: 3 writable, 1 refused, 1 unreadable"
    shutil.rmtree(folder / "deep")
    result = cli("doctor", "-v", folder)
    assert result.stdout == "3 files: 3 writable\n"
    assert result.stderr.count("writable") == 3


def test_named_files_are_always_reported_and_an_empty_folder_is_fine(cli, tmp_path):
    folder = tmp_path / "empty"
    folder.mkdir()
    assert "0 files" in cli("doctor", folder).stdout
    path = write_audio(tmp_path / "a", "flac", 0.3)
    found = cli.json("doctor", folder, path)
    assert [r["verdict"] for r in found["reports"]] == ["writable"]
    cli("doctor", code=2)


def test_a_name_that_is_not_text_is_no_obstacle(cli, tmp_path):
    folder = tmp_path / "odd"
    folder.mkdir()
    shutil.copyfile(write_audio(tmp_path / "a", "flac", 0.3), os.fsencode(folder) + b"/\xff\n.flac")
    assert cli.json("doctor", folder)["verdicts"] == {"writable": 1}


def test_ctrl_c_ends_it_and_its_children(cli, tmp_path):
    folder = tmp_path / "music"
    folder.mkdir()
    first = write_audio(folder / "first", "wav", 60.0)
    for number in range(30):
        os.link(first, folder / f"{number}.wav")
    running = cli.process("doctor", "-v", folder)
    assert running.stderr.readline()
    running.send_signal(signal.SIGINT)
    started = time.monotonic()
    running.communicate(timeout=20)
    assert running.returncode == 130
    assert time.monotonic() - started < 10


# --- as the writer decides -------------------------------------------------------------------------------------------


def rehearse(path: str, container: str) -> None:
    discard(prepare(path, container, EDIT))


def test_doctor_and_the_writer_agree_on_every_real_file(fixtures, tmp_path, monkeypatch):
    """A file that doctor calls writable is written; one that it does not is not, for the reason it gives."""
    monkeypatch.setattr(os, "fsync", lambda _: None)
    examined = 0
    for source in sorted(p for p in fixtures.rglob("*") if p.is_file()):
        path = tmp_path / source.name
        shutil.copyfile(source, path)
        container = container_of(path)
        said = examine._complaint(examine._write, str(path), container, lambda: None)
        real = examine._complaint(rehearse, str(path), container)
        if real and not said:  # what cannot be read whole is never classified
            said = examine._complaint(examine._read, str(path), container, lambda: None)
        assert bool(said) == bool(real), source
        assert not said or said["reason"] == real["reason"] or "does not read back" in said["reason"], source
        examined += 1
        path.unlink()
    assert examined > 500


def test_a_fragmented_mp4_is_refused_by_both(tmp_path):
    path = tmp_path / "fragmented.m4a"
    with (
        av.open(str(write_audio(tmp_path / "whole", "m4a", 1.0))) as source,
        av.open(str(path), "w", format="ipod", options={"movflags": "frag_keyframe+empty_moov"}) as out,
    ):
        stream = out.add_stream_from_template(source.streams.audio[0])
        for packet in source.demux(audio=0):
            if packet.dts is not None:
                packet.stream = stream
                out.mux(packet)
    with pytest.raises(FileError, match="fragmented MP4 files cannot grow"):
        prepare(str(path), "mp4", EDIT)
    assert examine.examine(str(path))["unwritten"] == {
        "state": "refused",
        "reason": "fragmented MP4 files cannot grow",
    }


@pytest.mark.parametrize("name", CONTAINERS)
def test_examining_opens_nothing_for_writing(tmp_path, monkeypatch, name):
    path = write_audio(tmp_path / name, name, 0.2)
    before = path.read_bytes(), path.stat().st_mtime_ns, sorted(os.listdir(tmp_path))
    path.chmod(0o444)
    tmp_path.chmod(0o555)
    try:
        assert examine.examine(str(path))["unread"] is None
    finally:
        tmp_path.chmod(0o755)
    assert (path.read_bytes(), path.stat().st_mtime_ns, sorted(os.listdir(tmp_path))) == before
