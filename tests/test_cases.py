"""Inputs that once went wrong in other programs, each in small; the generators of ../shared/cases make the large ones.

Whatever decodes is ready, with its title where a reader of the file's kind can tell it. The kinds that need more than a
file have tests of their own: wrong sizes (test_excerpt), Ogg pages (test_ogg_pages), several tags and MP4 items
(test_further), titles elsewhere (test_lenient), stems and edit lists (test_mp4), names that are left out and inode
numbers (test_difference, test_scan), the library's path (test_web), its surroundings (faults/test_library).
"""

import os
import shutil
import socket
import struct
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import av
import mutagen
import numpy as np
import pytest
from mutagen.id3 import TIT2

from tests.helpers.contents import contents, rows
from tests.helpers.deep import DEEP
from tests.helpers.synth import music, write_audio
from tests.helpers.tag_bytes import ape_tag

GENERATORS = Path(__file__).parents[2] / "shared" / "cases"
UNREAD = "its tags cannot be read"


def little(number: int, width: int = 4) -> bytes:
    return number.to_bytes(width, "little")


def titled(folder: Path, container: str) -> bytearray:
    """A second of sound with the title T."""
    path = write_audio(folder / f"titled-{container}", container, 1.0)
    if container in {"mp3", "wav", "aiff"}:
        tags = mutagen.File(path)
        if tags.tags is None:
            tags.add_tags()
        tags.tags.add(TIT2(encoding=3, text=["T"]))
        tags.save(**({"v2_version": 3} if container == "mp3" else {}))
    else:
        tags = mutagen.File(path)
        tags[{"m4a": "\xa9nam", "alac": "\xa9nam"}.get(container, "Title")] = ["T"]
        tags.save()
    return bytearray(path.read_bytes())


def changed(container: str, place: Callable[[bytes], int], new: bytes) -> Callable[[Path], bytes]:
    """A maker of a file in which ``new`` stands at ``place``."""

    def make(folder: Path) -> bytes:
        data = titled(folder, container)
        at = place(bytes(data))
        data[at : at + len(new)] = new
        return bytes(data)

    return make


def muxed(muxer: str, codec: str, rate_hz: int = 44_100) -> Callable[[Path], bytes]:
    """A maker of a second of sound in any format of FFmpeg's."""

    def make(folder: Path) -> bytes:
        path = folder / "muxed"
        with av.open(str(path), "w", format=muxer) as out:
            stream = out.add_stream(codec, rate=rate_hz)
            stream.layout = "mono"
            data = np.ascontiguousarray(music(1.0, sample_rate_hz=rate_hz, channels=1).T)
            frame = av.AudioFrame.from_ndarray(data, format="flt", layout="mono")
            frame.sample_rate, frame.pts = rate_hz, 0
            for piece in av.AudioResampler(stream.codec_context.format, "mono", rate_hz).resample(frame):
                out.mux(stream.encode(piece))
            out.mux(stream.encode(None))
        return path.read_bytes()

    return make


def with_riff_size(data: bytes) -> bytes:
    return data[:4] + little(len(data) - 8) + data[8:]


def rifx(folder: Path) -> bytes:
    samples = (music(1.0, sample_rate_hz=16_000, channels=1) * 20_000).astype(">i2").tobytes()
    fmt = struct.pack(">4sIHHIIHH", b"fmt ", 16, 1, 1, 16_000, 32_000, 2, 16)
    data = struct.pack(">4sI", b"data", len(samples)) + samples
    return struct.pack(">4sI4s", b"RIFX", 36 + len(samples), b"WAVE") + fmt + data


def wav_with_unknown_id3(folder: Path) -> bytes:
    tag = b"ID3\x05\0\0\0\0\0\x0a" + bytes(10)
    data = write_audio(folder / "plain", "wav", 1.0).read_bytes()
    return with_riff_size(data + b"id3 " + little(len(tag)) + tag)


def flac_with_two_cue_sheets(folder: Path) -> bytes:
    data = titled(folder, "flac")
    sheet = bytes(136) + b"\0" + bytes(258) + b"\1" + bytes(8) + b"\xaa" + bytes(26)  # one byte short
    return bytes(data[:42] + 2 * (b"\x05" + len(sheet).to_bytes(3) + sheet) + data[42:])


def flac_with_two_streaminfos(folder: Path) -> bytes:
    data = titled(folder, "flac")
    return bytes(data[:42] + data[4:42] + data[42:])


def mp3_with_wrong_count(folder: Path) -> bytes:
    data = write_audio(folder / "plain", "mp3", 1.0).read_bytes()
    return data + ape_tag({"Title": b"T"}).replace(little(1) + little(0x80000000), little(9) + little(0x80000000))


# name -> (maker, title, whether its tags can be read)
STUMBLES: dict[str, tuple[Callable[[Path], bytes], str | None, bool]] = {
    "esds of another kind.m4a": (changed("m4a", lambda d: d.index(b"esds") + 8, b"\4"), "T", True),
    "stsd version 1.m4a": (changed("m4a", lambda d: d.index(b"stsd") + 4, b"\1"), "T", True),
    "alac cookie version 1.m4a": (
        changed("alac", lambda d: d.index(b"alac", d.index(b"alac") + 4) + 4, b"\1"), "T", True,
    ),
    "junk behind.wav": (lambda folder: with_riff_size(bytes(titled(folder, "wav")) + b"\0\1junk tail"), "T", True),
    "ID3v2.5.wav": (wav_with_unknown_id3, None, False),
    "ID3v2.5.mp3": (changed("mp3", lambda d: 3, b"\5"), None, False),
    "form too large.aiff": (changed("aiff", lambda d: 4, b"\0\7\7\7"), "T", True),
    "two cue sheets.flac": (flac_with_two_cue_sheets, "T", True),
    "two STREAMINFOs.flac": (flac_with_two_streaminfos, "T", True),
    "zeros behind.ogg": (lambda folder: bytes(titled(folder, "vorbis")) + bytes(300_000), "T", True),
    "APEv2 of another count.mp3": (mp3_with_wrong_count, "T", False),
    "bad key.wv": (lambda folder: bytes(titled(folder, "wavpack")).replace(b"Title", b"Ti\1le"), None, False),
    "free space first.m4a": (changed("m4a", lambda d: 4, b"free"), "T", True),
    "tag longer than the file.mp3": (changed("mp3", lambda d: 6, b"\x20"), "T", False),
    "high byte first.wav": (rifx, None, True),
    "MP3 in RIFF.wav": (muxed("wav", "libmp3lame"), None, True),
    "MP3 in RIFF.mp3": (muxed("wav", "libmp3lame"), None, True),
    "layer II.mp2": (muxed("mp2", "mp2"), None, True),
    "8 kHz.mp3": (muxed("mp3", "libmp3lame", 8_000), None, True),
}  # fmt: skip


def test_what_a_strict_reader_refuses_is_heard(quick_cli, tmp_path):
    folder = tmp_path / "music"
    folder.mkdir()
    for name, (make, _, _) in STUMBLES.items():
        (folder / name).write_bytes(make(tmp_path))
    before = contents(folder)
    summary = quick_cli.json("scan", folder, "--no-tags")
    assert (summary["files"], summary["unreadable"], summary["unsupported"]) == (len(STUMBLES), 0, 0)
    found = {
        Path(row["path"]).name: (row["state"], row["title"], not (row["reason"] or "").startswith(UNREAD))
        for row in rows(quick_cli, "SELECT path, state, title, reason FROM tracks")
    }
    assert found == {name: ("ready", title, readable) for name, (_, title, readable) in STUMBLES.items()}
    assert contents(folder) == before


NAMES = [
    b"line\nbreak", b"x" * 251, "ä".encode() * 125 + b"a", b"dots...", b"..", "שלום עולם".encode(), "🎧🔥".encode(),
    "é".encode(), "e\u0301".encode(), b"Case", b"case", b"latin\xe9", b"\xff\xfe", b"-rf", b"$(touch x)", b"tab\there",
    b"\x1b[31mred", b" lead and trail ", b"a;b,c'd\"e", b"%41", b"CON", b"...Like Dust",
]  # fmt: skip


def test_any_name_is_found_and_shown_as_one_line(quick_cli, tmp_path, track_template):
    folder = os.fsencode(tmp_path / "music")
    os.makedirs(folder + b"/folder.mp3")
    for name in [*NAMES, b"folder.mp3/in"]:
        shutil.copyfile(track_template, os.path.join(folder, name + b".mp3"))
    os.mkfifo(folder + b"/pipe.mp3")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(folder + b"/socket.mp3")
    os.symlink(b".", folder + b"/loop")
    os.symlink(b"nowhere", folder + b"/dangling.mp3")
    os.symlink(b"Case.mp3", folder + b"/link.mp3")
    summary = quick_cli.json("scan", os.fsdecode(folder), "--no-tags")
    assert (summary["files"], summary["embedded"], summary["failed"]) == (len(NAMES) + 1, 1, 0)
    stored = {row["path"] for row in rows(quick_cli, "SELECT path FROM files")}
    assert stored == {os.path.join(folder, name + b".mp3") for name in [*NAMES, b"folder.mp3/in"]}
    shown = [row["path_text"] for row in rows(quick_cli, "SELECT path_text FROM files")]
    assert all(text.isprintable() for text in shown)
    assert len(set(shown)) == len(shown)


# generator -> (titles of what is ready, how many it has besides, by the beginning of their reason)
MADE: dict[str, tuple[dict[str | None, int], dict[str, int]]] = {
    "03-mp3-several-id3v2": ({"Second Tag": 4, "First Tag": 1}, {}),
    "07-wav-sizes": ({None: 4}, {}),
    "09-mp3-kinds": ({None: 4}, {"MP3 in free format": 1}),
    "10-titles-elsewhere": ({"Elsewhere": 7, None: 1}, {}),  # FFmpeg writes no title into Wave64
    "11-stems-and-chapters": ({"Stem Master": 3, "Chapters": 1}, {}),
    "13-nas-folders": ({None: 3}, {}),
    "15-ellipsis-names": ({None: 4}, {}),
    "17-mp3-in-riff": ({None: 2}, {}),
    "18-tag-parser-stumbles": ({"T": 12, "Name": 1, None: 1}, {UNREAD: 3}),
    "19-mp4-odd-items": ({"Whole Title": 9}, {}),
    "21-m4a-edit-lists": ({None: 3}, {}),
}


@pytest.mark.skipif(not DEEP, reason="makes nine seconds of sound for every file")
@pytest.mark.parametrize("name", MADE)
def test_what_the_generators_make(quick_cli, tmp_path, name):
    if not (GENERATORS / f"{name}.py").exists():
        pytest.skip("the generators of cases are not beside this checkout")
    subprocess.run([sys.executable, GENERATORS / f"{name}.py", tmp_path / "music"], check=True)
    titles, reasons = MADE[name]
    quick_cli("scan", tmp_path / "music", "--no-tags", code=int("MP3 in free format" in reasons))
    found = rows(quick_cli, "SELECT state, title, reason FROM tracks")
    ready = Counter(row["title"] for row in found if row["state"] == "ready")
    assert ready == titles
    said = Counter(begin for row in found for begin in reasons if (row["reason"] or "").startswith(begin))
    assert said == reasons
    assert sum(1 for row in found if row["reason"]) == sum(reasons.values())
