"""Finds the pictures in a file's tags, the front cover first, with mutagen's class for the container.

Yields bytes as they stand in the tag: whether they are a picture at all, files/thumbnail.py finds out. Never writes.
Runs in a reader process with limits, as all reading of tags does.
"""

import base64
import binascii
import contextlib
import io
import struct
from collections.abc import Callable, Iterable, Iterator
from typing import Any, BinaryIO, NamedTuple

from mutagen import apev2, asf, flac, id3, mp4

from indexer.files.tags.blocks.blocks import read_exactly
from indexer.files.tags.chunks import ID3_CHUNKS, chunks_of
from indexer.files.tags.fields import open_with

MAX_PICTURE_BYTES = 16 << 20  # a larger one is passed over
FRONT_COVER = 3  # ID3v2.4, 4.14; FLAC and ASF use the same numbers
_FRAMES = {"APIC": id3.APIC, "PIC": id3.Frames_2_2["PIC"]}


class Picture(NamedTuple):
    """A picture in a tag; ``kind`` as in ID3v2."""

    kind: int
    data: bytes


Finder = Callable[[BinaryIO], Iterable[Picture]]


def covers(file: BinaryIO, find: Finder) -> list[bytes]:
    """The pictures that ``find`` finds, front covers first.

    Raises what mutagen raises for damaged tags, unless a picture was found before the damage.
    """
    found: list[Picture] = []
    try:
        found.extend(picture for picture in find(file) if 0 < len(picture.data) <= MAX_PICTURE_BYTES)
    except Exception:  # damaged files make mutagen raise seven foreign kinds of error
        if not found:
            raise
    return [picture.data for picture in sorted(found, key=lambda picture: picture.kind != FRONT_COVER)]


def _of_id3(tags: Any) -> Iterator[Picture]:
    for frame in tags.getall("APIC") if tags is not None else ():
        yield Picture(int(frame.type), bytes(frame.data))


def in_id3(file: BinaryIO) -> Iterator[Picture]:
    """MP3, AAC, TTA: the ID3v2 tag in front, then an APEv2 tag."""
    with contextlib.suppress(id3.ID3NoHeaderError):
        yield from _of_id3(open_with(id3.ID3, file, known_frames=_FRAMES))
    file.seek(0)
    yield from in_ape(file)


def in_id3_of(kind: Any) -> Finder:
    """Make a function that finds pictures in the ID3 tag which a mutagen class finds inside its container."""

    def find(file: BinaryIO) -> Iterator[Picture]:
        return _of_id3(open_with(kind, file, known_frames=_FRAMES).tags)

    return find


def in_chunks(file: BinaryIO) -> Iterator[Picture]:
    """WAV, AIFF: the ID3 chunks."""
    for chunk in chunks_of(file):
        if chunk.name in ID3_CHUNKS and chunk.size:
            tag = read_exactly(file, chunk.start, chunk.size, "the ID3 chunk")
            yield from _of_id3(open_with(id3.ID3, io.BytesIO(tag), known_frames=_FRAMES))


def in_flac(file: BinaryIO) -> Iterator[Picture]:
    """FLAC: the blocks PICTURE, and pictures in the Vorbis comment."""
    found = open_with(flac.FLAC, file)
    for picture in found.pictures:
        yield Picture(int(picture.type), picture.data)
    yield from _of_comments(found.tags)


def in_comments_of(kind: Any) -> Finder:
    """Make a function that finds pictures in the Vorbis comment which a mutagen class finds."""

    def find(file: BinaryIO) -> Iterator[Picture]:
        return _of_comments(open_with(kind, file).tags)

    return find


def _of_comments(tags: Any) -> Iterator[Picture]:
    for name, value in tags or []:
        try:
            if name.casefold() == "metadata_block_picture":  # a FLAC block in base64 (Xiph's wiki, VorbisComment)
                picture = open_with(flac.Picture, base64.b64decode(value))
                yield Picture(int(picture.type), picture.data)
            elif name.casefold() == "coverart":  # its predecessor: the picture alone
                yield Picture(FRONT_COVER, base64.b64decode(value))
        except (binascii.Error, ValueError, flac.error):
            continue


def in_mp4(file: BinaryIO) -> Iterator[Picture]:
    """MP4: the items ``covr``."""
    tags = open_with(mp4.MP4, file).tags
    for picture in tags.get("covr", []) if tags is not None else ():
        yield Picture(FRONT_COVER, bytes(picture))


def in_asf(file: BinaryIO) -> Iterator[Picture]:
    """ASF: the attributes WM/Picture: kind (1 byte), size (4), two texts of UTF-16, the picture."""
    for attribute in open_with(asf.ASF, file).tags.get("WM/Picture", []):
        value = bytes(attribute.value)
        if len(value) < 5:
            continue
        kind, size = struct.unpack_from("<BI", value)
        yield Picture(kind, value[-size:] if size <= len(value) - 5 else b"")


def in_ape(file: BinaryIO) -> Iterator[Picture]:
    """APEv2: the binary items ``Cover Art (...)``: a file name, zero-ended, and the picture."""
    try:
        tags = open_with(apev2.APEv2, file)
    except apev2.APENoHeaderError:
        return
    for name, item in tags.items():
        if name.casefold().startswith("cover art") and item.kind == apev2.BINARY:
            yield Picture(FRONT_COVER if "front" in name.casefold() else 0, bytes(item.value).partition(b"\x00")[2])
