"""Reads where a file states that its last byte is, in formats whose header tells it in bytes: shorter, it lost its end.

WAV and AIFF are here too, for their compressed kinds, whose header states no length in time.
"""

from typing import NamedTuple

from indexer.files.audio.payload.simple import MAX_CHUNKS, Form, aiff_kind, is_chunk_name, wav_kind
from indexer.files.audio.payload.source import ByteSource, after_leading_tags

UNKNOWN_32 = b"\xff\xff\xff\xff"  # the size in a header whose writer did not know it
W64_MAGIC, _W64_DATA = b"riff\x2e\x91\xcf\x11", b"data\xf3\xac\xd3\x11"
_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"
_MAX_ELEMENTS = 16  # before Matroska's segment


def missing_end(source: ByteSource) -> int | None:
    """The size in bytes that the file states, if it is shorter; else None.

    Raises ReadError where the sizes in a WAV or AIFF file cannot be believed.
    """
    end = stated_end(source)
    return end if end is not None and end > source.size else None


def stated_end(source: ByteSource) -> int | None:
    """The position behind the last byte that the file states, perhaps beyond its end; None where it states nothing."""
    start = min(after_leading_tags(source), source.size)
    head = source.at(start, 16)
    if wav_kind(source, head) or aiff_kind(source, head):
        sounds = (chunk for chunk in Form(source).chunks() if chunk.name in {b"data", b"SSND"})
        return max((chunk.begin + chunk.size for chunk in sounds), default=None)
    read = next((read for magic, read in _KINDS.items() if head.startswith(magic)), None)
    return read(source, start) if read else None


def _au(source: ByteSource, start: int) -> int | None:
    head = source.at(start, 12)
    if len(head) < 12 or head[8:] in {bytes(4), UNKNOWN_32}:
        return None
    return start + int.from_bytes(head[4:8]) + int.from_bytes(head[8:])


def _caf(source: ByteSource, start: int) -> int | None:
    """The end of the last chunk with a name; sound may state -1, or nothing behind the 4 bytes of its edit count."""
    position = start + 8
    for _ in range(MAX_CHUNKS):
        head = source.at(position, 12)
        if len(head) < 12 or not is_chunk_name(head[:4]):
            break
        size = int.from_bytes(head[4:], signed=True)
        if size < 0 or (head[:4] == b"data" and size <= 4):
            return None
        position += 12 + size
    return position


class W64Sound(NamedTuple):
    """The chunk of sound of a Wave64 file: its position, and the size that it states, with its head of 24 bytes."""

    at: int
    stated: int


def w64_sound(source: ByteSource, start: int) -> W64Sound | None:
    """The chunk of sound of a Wave64 file that begins at ``start``, or None."""
    position = start + 40
    for _ in range(MAX_CHUNKS):
        head = source.at(position, 24)
        size = int.from_bytes(head[16:], "little")
        if head.startswith(_W64_DATA):
            return W64Sound(position, size)
        if size < 24:
            break
        position += size + -size % 8
    return None


def _w64(source: ByteSource, start: int) -> int | None:
    sound = w64_sound(source, start)
    return sound.at + sound.stated if sound and 24 < sound.stated < 1 << 63 else None


def _dsdiff(source: ByteSource, start: int) -> int | None:
    head = source.at(start, 12)
    return start + 12 + int.from_bytes(head[4:]) if len(head) == 12 else None


def _matroska(source: ByteSource, start: int) -> int | None:
    """The end of the segment (RFC 8794 and 9559); a live stream does not know its size."""
    position = start
    for _ in range(_MAX_ELEMENTS):
        head = source.at(position, 12)
        id_bytes = _vint_bytes(head[:1])
        size_bytes = _vint_bytes(head[id_bytes : id_bytes + 1])
        begin = position + id_bytes + size_bytes
        size, unknown = int.from_bytes(head[id_bytes : begin - position]), 1 << 7 * size_bytes
        size &= unknown - 1
        if not id_bytes or not size_bytes or size == unknown - 1:
            return None
        if head.startswith(_SEGMENT):
            return begin + size
        position = begin + size
    return None


def _vint_bytes(first: bytes) -> int:
    """How many bytes a number of EBML takes, by the leading zeros of its first byte; 0 where none begins."""
    return 9 - first[0].bit_length() if first and first[0] else 0


_KINDS = {b".snd": _au, b"caff": _caf, W64_MAGIC: _w64, b"FRM8": _dsdiff, _EBML: _matroska}
