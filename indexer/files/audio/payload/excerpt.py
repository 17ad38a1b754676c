"""Chooses what FFmpeg is shown of a file: the bytes up to the end of its sound, with a wrong size put right.

A card that was copied by cluster, or a recorder that reserved room, leaves megabytes of zeros or of old data behind the
last chunk. FFmpeg walks the zeros eight bytes at a time, or takes what stands there for the rest of the recording. And
it takes a size at its word that wrapped at 4 GiB.
"""

from collections.abc import Iterator
from typing import NamedTuple

from indexer.errors import ReadError
from indexer.files.audio.payload.mpeg import frames_follow, walk_mpeg
from indexer.files.audio.payload.ogg import walk_ogg
from indexer.files.audio.payload.simple import MAX_CHUNKS, Form, aiff_kind, is_chunk_name, wav_kind
from indexer.files.audio.payload.source import ByteSource, Part, Span, before_trailing_tags

USUAL_TAIL_BYTES = 1 << 13  # an Ogg page as encoders make them
TAIL_BYTES = 1 << 17  # two Ogg pages, or sixteen frames of ADTS AAC, at least
MAX_WALK_BYTES = 1 << 30  # ten seconds of a slow disk
_UNKNOWN = b"\xff\xff\xff\xff"  # a size of 32 bits, for which FFmpeg goes on to the end
_NEEDED = frozenset({b"fmt ", b"fact", b"data", b"FVER", b"COMM", b"SSND"})
_W64_MAGIC, _W64_DATA = b"riff\x2e\x91\xcf\x11", b"data\xf3\xac\xd3\x11"


class Excerpt(NamedTuple):
    """The bytes of a file up to ``end``; at the position of each of ``patches`` stand the bytes given there."""

    end: int
    patches: tuple[tuple[int, bytes], ...] = ()


def excerpt(source: ByteSource) -> Excerpt:
    """What FFmpeg is shown of a file, which begins behind its leading ID3v2 tags.

    Raises ReadError where the sizes in a WAV or AIFF file cannot be believed.
    """
    head = source.at(0, 16)
    show = next((show for is_kind, show in _KINDS if is_kind(source, head)), None)
    show = show or next((show for magic, show in _MAGIC.items() if head.startswith(magic)), None)
    return show(source) if show else Excerpt(source.size)


def _wav(source: ByteSource) -> Excerpt:
    """Up to the last chunk that FFmpeg needs; sound of another size than stated is shown as RIFF without a size."""
    form = Form(source)
    end, patches = form.start, []
    for chunk in form.chunks():
        if chunk.name in _NEEDED:
            end = min(chunk.begin + chunk.size, source.size)
        if chunk.size != chunk.stated:
            patches = [(form.start, b"RIFF"), (chunk.begin - 4, _UNKNOWN)]
    return Excerpt(end, tuple(patches))


def _aiff(source: ByteSource) -> Excerpt:
    """Up to the last chunk that FFmpeg needs, with the sizes of the file and of its sound put right."""
    form = Form(source)
    end, patches = form.start, []
    for chunk in form.chunks():
        if chunk.name in _NEEDED:
            end = min(chunk.begin + chunk.size, source.size)
        if chunk.size != chunk.stated:
            patches.append((chunk.begin - 4, chunk.size.to_bytes(4)))
    return Excerpt(end, ((form.start + 4, max(0, end - form.start - 8).to_bytes(4)), *patches))


def _caf(source: ByteSource) -> Excerpt:
    """Up to the last chunk with a name; sound may state -1, or nothing behind the 4 bytes of its edit count."""
    position = 8
    for _ in range(MAX_CHUNKS):
        head = source.at(position, 12)
        if len(head) < 12 or not is_chunk_name(head[:4]):
            break
        size = int.from_bytes(head[4:], signed=True)
        if size < 0 or (head[:4] == b"data" and size <= 4):
            return Excerpt(source.size)
        position += 12 + size
    return Excerpt(min(position, source.size))


def _w64(source: ByteSource) -> Excerpt:
    """Up to the end of the sound; where its chunk states nothing (a size with its head of 24 bytes), to the end."""
    position = 40
    for _ in range(MAX_CHUNKS):
        head = source.at(position, 24)
        if len(head) < 24:
            break
        size = int.from_bytes(head[16:], "little")
        if head.startswith(_W64_DATA):
            if 24 < size <= source.size - position:
                return Excerpt(position + size)
            return Excerpt(source.size, ((position + 16, (source.size - position).to_bytes(8, "little")),))
        if size < 24:
            break
        position += size + -size % 8
    return Excerpt(source.size)


def _au(source: ByteSource) -> Excerpt:
    """All of it; a size of 0 is shown as not known."""
    return Excerpt(source.size, () if any(source.at(8, 4)) else ((8, _UNKNOWN),))


def _ogg(source: ByteSource) -> Excerpt:
    """All of it where a page begins near its end, else up to the last page."""
    for tail in (USUAL_TAIL_BYTES, TAIL_BYTES):
        if b"OggS" in source.at(max(0, source.size - tail), tail):
            return Excerpt(source.size)
    return _up_to_sound(source, walk_ogg(source))


def _mpeg(source: ByteSource) -> Excerpt:
    """All of it where frames stand near its end, else up to the last frame."""
    start = max(0, source.size - TAIL_BYTES)
    if frames_follow(source, start, before_trailing_tags(source, start)):
        return Excerpt(source.size)
    return _up_to_sound(source, walk_mpeg(source))


def _up_to_sound(source: ByteSource, parts: Iterator[Part]) -> Excerpt:
    """Up to the end of the sound; a damaged file, or one that takes too long to walk, is shown as it is."""
    if source.size > MAX_WALK_BYTES:
        return Excerpt(source.size)
    try:
        return Excerpt(max(part.end for part in parts if isinstance(part, Span)))
    except (ReadError, ValueError):
        return Excerpt(source.size)


_KINDS = ((wav_kind, _wav), (aiff_kind, _aiff))
_MAGIC = {b"caff": _caf, _W64_MAGIC: _w64, b".snd": _au, b"OggS": _ogg, b"\xff": _mpeg}
