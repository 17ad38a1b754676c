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
from indexer.files.audio.payload.simple import MAX_CHUNKS, Form, aiff_kind, is_flac_frame, wav_kind
from indexer.files.audio.payload.source import ByteSource, Part, Span, before_trailing_tags
from indexer.files.audio.payload.stated_end import UNKNOWN_32, W64_MAGIC, stated_end, w64_sound

USUAL_TAIL_BYTES = 1 << 13  # an Ogg page as encoders make them
TAIL_BYTES = 1 << 17  # two Ogg pages, or sixteen frames of ADTS AAC, at least
MAX_WALK_BYTES = 1 << 30  # ten seconds of a slow disk
MAX_FLAC_BLOCKS = 1_000
_FLAC_PADDING, _FLAC_COMMENT = 1, 4  # types of metadata blocks (RFC 9639, 8.1)
_NEEDED = frozenset({b"fmt ", b"fact", b"data", b"FVER", b"COMM", b"SSND"})


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
            patches = [(form.start, b"RIFF"), (chunk.begin - 4, UNKNOWN_32)]
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
    """Up to the last chunk with a name, if the size of the sound is stated."""
    end = stated_end(source)
    return Excerpt(source.size if end is None else min(end, source.size))


def _w64(source: ByteSource) -> Excerpt:
    """Up to the end of the sound; where its chunk states nothing, to the end, with that size."""
    end = stated_end(source)
    if end is not None:
        return Excerpt(min(end, source.size))
    sound = w64_sound(source, 0)
    patches = ((sound.at + 16, (source.size - sound.at).to_bytes(8, "little")),) if sound else ()
    return Excerpt(source.size, patches)


def _au(source: ByteSource) -> Excerpt:
    """All of it; a size of 0 is shown as not known."""
    return Excerpt(source.size, () if any(source.at(8, 4)) else ((8, UNKNOWN_32),))


def _dsdiff(source: ByteSource) -> Excerpt:
    """All of it; a chunk that ends behind the end of the file is shown as ending there."""
    position = 16
    for _ in range(MAX_CHUNKS):
        head = source.at(position, 12)
        if len(head) < 12:
            break
        size, rest = int.from_bytes(head[4:]), source.size - position - 12
        if size > rest:
            return Excerpt(source.size, ((position + 4, (rest - rest % 2).to_bytes(8)),))
        position += 12 + size + size % 2
    return Excerpt(source.size)


def _flac(source: ByteSource) -> Excerpt:
    """All of it; metadata that FFmpeg refuses a file for (a cue sheet, a second STREAMINFO) is shown as padding.

    Not where the blocks do not lead to a frame: what looks like a block may be sound then.
    """
    patches: list[tuple[int, bytes]] = []
    position = 4
    for _ in range(MAX_FLAC_BLOCKS):
        head = source.at(position, 4)
        if len(head) < 4:
            break
        if position > 4 and head[0] & 0x7F != _FLAC_COMMENT:
            patches.append((position, bytes([head[0] & 0x80 | _FLAC_PADDING])))
        position += 4 + int.from_bytes(head[1:])
        if head[0] & 0x80:
            return Excerpt(source.size, tuple(patches) if is_flac_frame(source.at(position, 16)) else ())
    return Excerpt(source.size)


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
_MAGIC = {b"caff": _caf, W64_MAGIC: _w64, b".snd": _au, b"FRM8": _dsdiff, b"fLaC": _flac, b"OggS": _ogg, b"\xff": _mpeg}
