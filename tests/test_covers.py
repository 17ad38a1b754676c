"""Covers: found in every kind of tag, made anew as a small JPEG, and served by a track's number alone."""

import base64
import io
import os
import shutil
import sqlite3
import struct
import zlib
from contextlib import closing
from fractions import Fraction

import av
import mutagen
import numpy as np
import pytest
from mutagen import apev2, asf, flac, id3, mp4

from indexer.files.children.limits import Limits
from indexer.files.children.worker import Worker
from indexer.files.thumbnail import NoPictureError, thumbnail
from indexer.web import covers
from tests.helpers.pages import Pages, id_of
from tests.helpers.synth import write_audio

RED, BLUE = (200, 30, 30), (30, 30, 200)


def png(colour=RED, width=300, height=150):
    """A PNG of one colour."""
    encoder = av.CodecContext.create("png", "w")
    encoder.width, encoder.height, encoder.pix_fmt, encoder.time_base = width, height, "rgb24", Fraction(1)
    frame = av.VideoFrame.from_ndarray(np.full((height, width, 3), colour, np.uint8), "rgb24")
    return b"".join(bytes(packet) for packet in [*encoder.encode(frame), *encoder.encode(None)])


def opened(jpeg):
    """The pixels of a JPEG."""
    with av.open(io.BytesIO(jpeg), format="jpeg_pipe") as container:
        return next(container.decode(video=0)).to_ndarray(format="rgb24")


def is_of(jpeg, colour):
    return bool(np.abs(opened(jpeg).mean(axis=(0, 1)) - colour).max() < 12)


def flac_picture(kind, data):
    made = flac.Picture()
    made.type, made.mime, made.data = kind, "image/png", data
    return made


def put_pictures(path, pictures):
    """Write pictures [(kind, bytes)] into a file's tags, as programs do."""
    file = mutagen.File(path)
    if isinstance(file, flac.FLAC):
        for kind, data in pictures:
            file.add_picture(flac_picture(kind, data))
    elif isinstance(file, mp4.MP4):
        file["covr"] = [mp4.MP4Cover(data, mp4.MP4Cover.FORMAT_PNG) for _, data in pictures]
    elif isinstance(file, asf.ASF):
        names = "image/png".encode("utf-16-le") + b"\0\0" + b"\0\0"
        file["WM/Picture"] = [
            asf.ASFByteArrayAttribute(struct.pack("<BI", kind, len(data)) + names + data) for kind, data in pictures
        ]
    elif path.suffix == ".wv":
        names = {3: "Cover Art (Front)", 4: "Cover Art (Back)"}
        for kind, data in pictures:
            file[names[kind]] = apev2.APEValue(b"name.png\0" + data, apev2.BINARY)
    elif path.suffix in (".mp3", ".wav", ".aiff"):
        if file.tags is None:
            file.add_tags()
        for kind, data in pictures:
            file.tags.add(id3.APIC(3, "image/png", kind, str(kind), data))
    else:
        file["metadata_block_picture"] = [
            base64.b64encode(flac_picture(kind, data).write()).decode() for kind, data in pictures
        ]
    file.save()


@pytest.fixture(scope="module")
def reader():
    made = Worker(Limits(audio_s=0.0, cpu_s=10.0))
    yield made
    made.close()


@pytest.mark.parametrize("container", ["mp3", "flac", "vorbis", "opus", "oggflac", "wav", "aiff", "wavpack"])
def test_the_front_cover_is_found_before_other_pictures(tmp_path, reader, container):
    path = write_audio(tmp_path / "track", container, 0.5)
    assert reader.picture(os.fsencode(path), side_px=100) is None
    put_pictures(path, [(4, png(BLUE)), (3, png(RED))])
    found = reader.picture(os.fsencode(path), side_px=100)
    assert opened(found).shape == (50, 100, 3)
    assert is_of(found, RED)


@pytest.mark.parametrize("container", ["m4a", "wma"])
def test_containers_without_an_order_of_covers(tmp_path, reader, container):
    path = write_audio(tmp_path / "track", container, 0.5)
    put_pictures(path, [(3, png(BLUE))])
    assert is_of(reader.picture(os.fsencode(path), side_px=100), BLUE)


def test_a_picture_that_cannot_be_opened_gives_way_to_the_next(tmp_path, reader):
    path = write_audio(tmp_path / "track", "mp3", 0.5)
    put_pictures(path, [(3, b"\xff\xd8\xff no picture"), (4, png(BLUE))])
    assert is_of(reader.picture(os.fsencode(path), side_px=100), BLUE)


def png_of_zeros(width, height):
    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>",
        b"<html><script>alert(1)</script>",
        b"%PDF-1.7",
        b"\xff\xd8\xff" + b"x" * 1000,
        b"GIF89a" + b"\xff" * 100,
        b"RIFF\x00\x00\x00\x00WEBPVP8 " + b"\x01" * 200,
        png_of_zeros(60_000, 60_000),
        png()[:60],
    ],
)
def test_what_is_no_picture_or_a_bomb_is_refused(data):
    with pytest.raises(NoPictureError):
        thumbnail(data, 100)


def test_a_small_picture_is_not_enlarged_and_nothing_of_the_original_passes():
    script = b"<script>alert(1)</script>"
    made = thumbnail(png(width=20, height=10) + script, 100)
    assert opened(made).shape == (10, 20, 3)
    assert script not in made
    assert made.startswith(b"\xff\xd8\xff")


# ---- served


@pytest.fixture
def cli(quick_cli):
    """No torch is needed to look at pages."""
    return quick_cli


@pytest.fixture
def pages(cli, scanned_music):
    put_pictures(scanned_music / "mp3.mp3", [(3, png(width=900, height=900))])
    return Pages(cli.db)


def test_a_cover_comes_as_a_jpeg_in_two_sizes_and_is_kept_by_the_browser(pages, cli):
    track = id_of(cli, "mp3.mp3")
    small, large = (pages.get(f"/-/cover/{track}?size={size}") for size in covers.SIDES_PX)
    assert sorted(opened(answer.content).shape[0] for answer in (large, small)) == sorted(covers.SIDES_PX.values())
    for answer in (large, small):
        assert answer.headers["content-type"] == "image/jpeg"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["content-security-policy"] == "sandbox; default-src 'none'"
        assert answer.headers["cache-control"] == "private, max-age=3600"
    assert large.headers["etag"] != small.headers["etag"]
    again = pages.get(f"/-/cover/{track}?size=small", headers={"if-none-match": small.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert pages.get(f"/-/cover/{track}").content == large.content
    assert pages.get(f"/-/cover/{track}?size=huge").status_code == 400
    assert pages.ask("POST", f"/-/cover/{track}").status_code == 405


def test_a_track_without_a_picture_has_no_cover(pages, cli, music_folder):
    assert pages.get(f"/-/cover/{id_of(cli, 'flac.flac')}").status_code == 204
    put_pictures(music_folder / "flac.flac", [(3, b"<svg onload=alert(1)>")])
    answer = pages.get(f"/-/cover/{id_of(cli, 'flac.flac')}")
    assert (answer.status_code, answer.content) == (204, b"")


def test_a_cover_follows_its_file(pages, cli, music_folder):
    track = id_of(cli, "mp3.mp3")
    assert is_of(pages.get(f"/-/cover/{track}").content, RED)
    tags = id3.ID3(music_folder / "mp3.mp3")
    tags.delall("APIC")
    tags.add(id3.APIC(3, "image/png", 3, "", png(BLUE)))
    tags.save(music_folder / "mp3.mp3")
    assert is_of(pages.get(f"/-/cover/{track}").content, BLUE)


def test_a_cover_never_comes_from_outside_the_music_folders(pages, cli, music_folder, tmp_path):
    track, secret = id_of(cli, "mp3.mp3"), tmp_path / "secret.mp3"
    shutil.copy(music_folder / "mp3.mp3", secret)
    (music_folder / "mp3.mp3").unlink()
    (music_folder / "mp3.mp3").symlink_to(secret)
    assert pages.get(f"/-/cover/{track}").status_code == 404
    for path in (str(secret), f"{music_folder}/../secret.mp3", f"{music_folder}/"):
        with closing(sqlite3.connect(cli.db)) as conn:
            conn.execute("UPDATE files SET path = ? WHERE id = ?", (os.fsencode(path), track))
            conn.commit()
        assert pages.get(f"/-/cover/{track}").status_code == 404, path
    assert pages.get("/-/cover/999").status_code == 404


def test_the_reader_follows_no_link_that_was_put_in_a_files_place(tmp_path, reader):
    path = write_audio(tmp_path / "track", "mp3", 0.5)
    put_pictures(path, [(3, png())])
    (tmp_path / "link.mp3").symlink_to(path)
    with pytest.raises(covers.FileError):
        reader.picture(os.fsencode(tmp_path / "link.mp3"), side_px=100)


def test_covers_in_memory_are_bounded(monkeypatch):
    monkeypatch.setattr(covers, "KEPT_BYTES", 250)
    made = covers.Covers()
    for n in range(5):
        made._keep((b"", n, 0, 1), bytes(100))
    assert [key[1] for key in made._kept] == [3, 4]
    assert made._kept_bytes == 200
