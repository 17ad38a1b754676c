"""Damaged files and containers without a reader: what can be heard is identified, what can be read of tags is read."""

import dataclasses
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import av
import numpy as np
import pytest

from indexer.errors import ReadError
from indexer.files.audio.identity import fingerprint, sniff
from indexer.files.children import lenient
from indexer.files.children.lenient import all_tags, identify
from indexer.files.containers import CONTAINERS
from indexer.files.tags.genre import GenreEdit
from indexer.files.tags.read import Tags, completed
from indexer.files.tags.write import commit, prepare
from tests.helpers.contents import rows
from tests.helpers.synth import write_audio

TEXTS = {"title": "Elsewhere", "artist": "Somebody", "genre": "Minimal"}
MUXERS = {"mka": ("matroska", "flac"), "webm": ("webm", "libopus"), "caf": ("caf", "alac"), "au": ("au", "pcm_s16be")}


def write_other(path: Path, muxer: str, codec: str, texts: dict[str, str]) -> Path:
    """A short file of a container that has no entry in the registry."""
    with av.open(str(path), "w", format=muxer) as out:
        out.metadata.update(texts)
        stream = out.add_stream(codec, rate=48_000)
        stream.layout = "mono"
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 48_000), np.int16), format="s16", layout="mono")
        frame.sample_rate = 48_000
        frame.pts = 0
        resampler = av.AudioResampler(format=stream.codec_context.format, layout="mono", rate=48_000)
        for piece in resampler.resample(frame):
            out.mux(stream.encode(piece))
        out.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("ending", MUXERS)
def test_titles_and_genres_of_containers_without_a_reader_are_read(tmp_path, ending):
    path = write_other(tmp_path / f"a.{ending}", *MUXERS[ending], TEXTS)
    with path.open("rb") as file:
        container = sniff(file)
    found = all_tags(str(path), container)
    assert container == "other"
    assert (found.title, found.artist, found.genres, found.unread) == ("Elsewhere", "Somebody", ("Minimal",), None)


def test_a_users_genre_in_such_a_file_counts_and_the_file_keeps_its_bytes(quick_cli, tmp_path):
    path = write_other(tmp_path / "a.caf", *MUXERS["caf"], TEXTS)
    before = path.read_bytes()
    quick_cli("scan", path, env={"INDEXER_WRITE_TAGS": "replace"})
    found = rows(quick_cli, "SELECT state, title, label, label_source FROM tracks")
    assert found == [{"state": "ready", "title": "Elsewhere", "label": "Minimal", "label_source": "tag"}]
    assert path.read_bytes() == before


def test_what_matroska_says_of_album_and_track_is_told_apart():
    found = completed(
        Tags(), {"ALBUM/TITLE": "LP", "ALBUM/ARTIST": "Various", "TRACK/TITLE": "One", "TRACK/GENRE": "Dub"}
    )
    assert (found.album, found.album_artist, found.title, found.genres) == ("LP", "Various", "One", ("Dub",))


def with_comment(data: bytes, blocks: bytes, text: bytes) -> bytes:
    """A FLAC file with these metadata blocks and a comment behind its STREAMINFO."""
    comment = bytes(4) + (1).to_bytes(4, "little") + len(text).to_bytes(4, "little") + text
    return data[:42] + blocks + b"\4" + len(comment).to_bytes(3, "big") + comment + data[42:]


def test_a_flac_with_two_seek_tables_is_read_and_written(tmp_path):
    """mutagen refuses what stands beside the comments; our own reading of the block that is written does not."""
    path = write_audio(tmp_path / "a", "flac", 0.3)
    table = b"\3\0\0\x12" + bytes(18)
    path.write_bytes(before := with_comment(path.read_bytes(), table * 2, b"TITLE=Name"))
    found = all_tags(str(path), "flac")
    assert (found.title, found.unread) == ("Name", None)
    prepared = prepare(str(path), "flac", GenreEdit(("House",), "house", 0.9, "m"))
    commit(prepared, intend=lambda _: 1, done=lambda _: None, drop=lambda *_: None)
    assert table * 2 in path.read_bytes()
    assert all_tags(str(path), "flac").genres == ("House",)
    prepared = prepare(str(path), "flac", None)
    commit(prepared, intend=lambda _: 1, done=lambda _: None, drop=lambda *_: None)
    assert path.read_bytes() == before


def test_where_a_reader_stumbles_titles_are_told_and_the_reason_stays(tmp_path):
    """A padding block that is not empty, beside a second table: nobody here can read the comments, FFmpeg can."""
    path = write_audio(tmp_path / "a", "flac", 0.3)
    odd = (b"\3\0\0\x12" + bytes(18)) * 2 + b"\1\0\0\4junk"
    path.write_bytes(with_comment(path.read_bytes(), odd, b"TITLE=Name"))
    found = all_tags(str(path), "flac")
    assert found.title == "Name"
    assert found.unread.startswith("its tags cannot be read (")


def read_with_a_reader_that_hangs(path: str) -> None:
    def spin(_file: object) -> None:
        while True:
            with suppress(ValueError):
                int("x")

    lenient.TAGS_LIMIT_S = 0.05
    CONTAINERS["mp3"] = dataclasses.replace(CONTAINERS["mp3"], read_fields=spin)
    print(all_tags(path, "mp3").unread)


def test_a_reader_that_hangs_is_stopped_and_the_file_is_heard(tmp_path):
    """In a process of its own, as a reader is: a signal stops it."""
    path = write_audio(tmp_path / "a", "mp3", 0.3)
    command = [sys.executable, "-c", f"from {__name__} import *; read_with_a_reader_that_hangs({str(path)!r})"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (
        0,
        "its tags cannot be read (they need more time than allowed)\n",
        "",
    )


def identified(path: Path) -> tuple[object, str | None]:
    with path.open("rb") as file:
        return identify(file, str(path))


def damaged_behind_the_sound(folder: Path) -> Path:
    path = write_audio(folder / "a", "wavpack", 2.0)
    sound, tag, rest = path.read_bytes().partition(b"APETAGEX")
    path.write_bytes(sound + b"wvpk" + (10).to_bytes(4, "little") + bytes(24) + tag + rest)
    return path


def test_a_file_that_its_walker_refuses_but_the_decoder_plays_is_known_by_its_bytes(tmp_path):
    """A block of an impossible size follows the sound; a tag in front does not count, a changed byte does."""
    path = damaged_behind_the_sound(tmp_path)
    data = path.read_bytes()
    with path.open("rb") as file, pytest.raises(ReadError, match="damaged"):
        fingerprint(file, path)
    known, damage = identified(path)
    assert (known.container, damage.partition(":")[0]) == ("wavpack", "damaged")
    path.write_bytes(b"ID3\4\0\0\0\0\0\x0a" + bytes(10) + data)
    assert identified(path)[0] == known
    at = data.rindex(b"wvpk") + 20
    path.write_bytes(data[:at] + b"x" + data[at + 1 :])
    assert identified(path)[0] != known


def test_such_a_file_is_embedded_shown_with_its_damage_and_never_written(quick_cli, tmp_path):
    path = damaged_behind_the_sound(tmp_path)
    before = path.read_bytes()
    found = quick_cli.json("scan", path)
    assert (found["embedded"], found["classified"], found["left_alone"]) == (1, 1, 1)
    assert (found["tags_written"], found["tags_refused"], found["failed"]) == (0, 1, 0)
    reasons = [entry["reason"] for entry in quick_cli.json("status")["left_alone"]]
    assert len(reasons) == 1
    assert reasons[0].startswith("damaged: a WavPack block states an impossible size")
    assert reasons[0].endswith("; no genre is written into it")
    assert "(wavpack): refused: " in quick_cli("doctor", path, code=1).stdout
    assert path.read_bytes() == before


def test_what_nothing_decodes_keeps_the_reason_of_its_walker(tmp_path):
    path = tmp_path / "a.mp3"
    path.write_bytes(b"<html>" * 500)
    with pytest.raises(ReadError, match="not audio: it looks like HTML"):
        identified(path)
