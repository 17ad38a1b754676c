"""MPEG audio (layers I to III) and ADTS AAC: finds the audio frames.

Finds the first frame (also behind an ID3v2 tag that overstates its size), walks the frames, drops the Xing/Info/VBRI
frame, and recognises a cut file by the counts in that frame. Never decodes or hashes. Frame lengths and
side-information offsets follow ISO 11172-3, 13818-3 and 13818-7.
"""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from indexer.files.audio.payload.source import (
    ID3V2_HEADER_BYTES,
    ByteSource,
    Part,
    Span,
    before_trailing_tags,
    id3v2_end,
    leading_tags,
)

SEARCH_BYTES = 8 << 20  # of junk before the first frame; larger than a picture left over by a broken tag
CHAIN_FRAMES = 3  # so many frames in a row do not occur by chance
TAG_CHAIN_FRAMES = 8  # the same, inside a tag's stated size
RUN_BYTES = 256 << 10
MAX_TRIES = 100_000  # false headers tried; bounds hostile files to a second of work
MAX_TAG_FRAMES = 10_000
FREE_FRAME_MIN, FREE_FRAME_BYTES = 24, 8192  # shortest and longest frame in free format
MPEG_MASK, ADTS_MASK = 0xFFFE0C00, 0xFFFEFC00  # header bits that all frames of a file share

_BITRATES_KBPS = {  # (is MPEG-1, layer) -> by the header's 4-bit index
    (True, 1): (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_SAMPLE_RATES_HZ = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}


class FirstFrame(NamedTuple):
    """The position of the first frame, the kind (``mp3`` or ``aac``), and the header bits that all frames share."""

    position: int
    kind: str
    mask: int
    header: int


def _header_pattern() -> re.Pattern[bytes]:
    """A pattern for the start of a frame: sync bits, and no reserved version, layer, bitrate or sample rate."""
    mpeg = bytes(byte for byte in range(256) if byte >> 4 not in {0, 15} and byte >> 2 & 3 != 3)
    adts = bytes(byte for byte in range(256) if byte >> 2 & 15 <= 12)
    layers = bytes(byte for byte in range(0xE0, 0x100) if byte >> 3 & 3 != 1 and byte >> 1 & 3)
    return re.compile(
        b"\xff(?:[%b][%b]|[\xf0\xf1\xf8\xf9][%b])" % tuple(map(re.escape, (layers, mpeg, adts))), re.DOTALL
    )


_HEADER = _header_pattern()


@cache
def _mpeg_frame(header: int) -> tuple[int, int, int] | None:
    """(bytes, samples, sample rate in Hz) of the frame with this 32-bit header, or None where it is not valid."""
    version, layer = header >> 19 & 3, 4 - (header >> 17 & 3)
    bitrate_index, rate_index, padding = header >> 12 & 15, header >> 10 & 3, header >> 9 & 1
    if header >> 21 != 0x7FF or version == 1 or layer == 4 or bitrate_index in {0, 15} or rate_index == 3:
        return None
    first = version == 3
    rate_hz = _SAMPLE_RATES_HZ[version][rate_index]
    bitrate = 1000 * _BITRATES_KBPS[first, layer][bitrate_index]
    if layer == 1:
        return (12 * bitrate // rate_hz + padding) * 4, 384, rate_hz
    samples = 576 if layer == 3 and not first else 1152
    return samples // 8 * bitrate // rate_hz + padding, samples, rate_hz


def _frame_bytes(source: ByteSource, position: int, kind: str) -> int:
    """Length of the frame at ``position``; 0 where none begins."""
    head = source.at(position, 7)
    if len(head) < 4 or head[0] != 0xFF or head[1] < 0xE0:
        return 0
    if kind == "mp3":
        facts = _mpeg_frame(int.from_bytes(head[:4]) & 0xFFFFFF00)
        return facts[0] if facts else 0
    if len(head) < 7 or head[1] & 0xF6 != 0xF0 or head[2] >> 2 & 15 > 12:
        return 0
    length = (head[3] & 3) << 11 | head[4] << 3 | head[5] >> 5
    return length if length >= 7 else 0


def _chain(source: ByteSource, position: int, end: int, kind: str, wanted: int) -> bool:
    """Whether ``wanted`` frames of one sort follow one another here, or fewer up to the end of the file."""
    mask = MPEG_MASK if kind == "mp3" else ADTS_MASK
    first = int.from_bytes(source.at(position, 4)) & mask
    for count in range(wanted):
        if position == end and count:
            return True
        length = _frame_bytes(source, position, kind)
        if not length or int.from_bytes(source.at(position, 4)) & mask != first:
            return False
        position += length
        if position > end:
            return count > 0
    return True


@dataclass(slots=True)
class _Search:
    """Searches for chains of frames; a budget of tries for the whole file bounds the time."""

    source: ByteSource
    end: int
    tries: int = MAX_TRIES

    def chain(self, start: int, limit: int, wanted: int = CHAIN_FRAMES) -> FirstFrame | None:
        """The first chain of ``wanted`` frames that begins between ``start`` and ``limit``, or None."""
        for position in self.places(start, min(limit, self.end), _HEADER):
            self._try()
            layer_bits = self.source.at(position + 1, 1)[0] & 6
            kind = "mp3" if layer_bits else "aac"
            if _chain(self.source, position, self.end, kind, wanted):
                mask = MPEG_MASK if layer_bits else ADTS_MASK
                return FirstFrame(position, kind, mask, int.from_bytes(self.source.at(position, 4)) & mask)
        return None

    def places(self, start: int, limit: int, pattern: re.Pattern[bytes]) -> Iterator[int]:
        """Yield the positions of the pattern (at most three bytes)."""
        position = start
        while position < limit:
            buffer, base = self.source.window(position)
            found = pattern.search(buffer, position - base, limit + 2 - base)
            if found:
                position = base + found.start()
                yield position
                position += 1
            else:  # two bytes are kept back: the pattern may span two windows
                position = max(position + 1, min(base + len(buffer) - 2, limit))

    def onward(self, position: int, first: FirstFrame) -> FirstFrame | None:
        """Where frames continue after junk or a tag: two frames of the same sort, or a chain of another sort."""
        tag_end = id3v2_end(self.source, position)
        if tag_end is not None and tag_end < self.end and _matching_frame(self.source, tag_end, first):
            return first._replace(position=tag_end)
        second = first.header >> 16 & 0xFE
        pattern = re.compile(b"\xff[" + re.escape(bytes((second, second | 1))) + b"]")
        same = next(
            (place for place in self.places(position + 1, self.end, pattern) if self._pair(place, first)), self.end
        )
        other = self.chain(position + 1, same)
        return other or (first._replace(position=same) if same < self.end else None)

    def _pair(self, position: int, first: FirstFrame) -> bool:
        self._try()
        length = _matching_frame(self.source, position, first)
        following = position + length
        return length > 0 and (following == self.end or _matching_frame(self.source, following, first) > 0)

    def _try(self) -> None:
        self.tries -= 1
        if self.tries < 0:
            raise self.source.error("not audio: it has sync words but no MPEG frames follow one another")


def first_frame(source: ByteSource) -> FirstFrame | None:
    """Where the audio of an MPEG or ADTS file begins, or None.

    A tag may state more bytes than it has. Its padding must be zeros, so frames found there begin the audio.
    """
    tags = leading_tags(source)
    stated = tags[-1][1] if tags else 0
    search = _Search(source, before_trailing_tags(source, min(stated, source.size)))
    for start, tag_end in tags:
        limit = min(tag_end, search.end)
        nonzero = _first_nonzero(source, _id3v2_contents_end(source, start, limit), limit)
        inside = search.chain(nonzero, limit, TAG_CHAIN_FRAMES) if nonzero is not None else None
        if inside:
            return inside
    return search.chain(stated, stated + SEARCH_BYTES)


def is_free_format(source: ByteSource) -> bool:
    """Whether MP3 frames in free format begin the file: bit rate index 0, so only the next frame tells their length.

    Two frames behind the first must follow at the same distance, give or take the padding byte (ISO 11172-3, 2.4.2.3).
    """
    tags = leading_tags(source)
    start = tags[-1][1] if tags else 0
    window = source.at(start, 3 * FREE_FRAME_BYTES)
    header = int.from_bytes(window[:4])
    if header & 0xF000 or _mpeg_frame(header | 0x1000) is None:
        return False
    same = re.compile(
        re.escape(window[:2]) + b"[" + re.escape(bytes((window[2] & ~2, window[2] | 2))) + b"]", re.DOTALL
    )
    frames = {match.start() for match in same.finditer(window)}
    return any(
        not frames.isdisjoint((2 * length - 1, 2 * length, 2 * length + 1))
        for length in frames
        if length > FREE_FRAME_MIN
    )


def frames_follow(source: ByteSource, start: int, end: int) -> bool:
    """Whether frames follow one another somewhere between ``start`` and ``end``."""
    return _Search(source, end).chain(start, end) is not None


def mpeg_kind(source: ByteSource) -> str | None:
    """``mp3`` or ``aac`` (ADTS) where frames of that kind follow one another somewhere in the file."""
    first = first_frame(source)
    return first.kind if first else None


def _id3v2_contents_end(source: ByteSource, position: int, end: int) -> int:
    """Where the padding of the ID3v2 tag begins, by the stated sizes of its frames."""
    head = source.at(position, ID3V2_HEADER_BYTES)
    version, flags = head[3], head[5]
    position += ID3V2_HEADER_BYTES
    if flags & 0x40 and version >= 3:  # extended header
        raw = source.at(position, 4)
        position += _syncsafe(raw) if version >= 4 else 4 + int.from_bytes(raw)
    id_bytes, head_bytes = (3, 6) if version == 2 else (4, 10)
    for _ in range(MAX_TAG_FRAMES):
        if position + head_bytes > end:
            break
        frame = source.at(position, head_bytes)
        name = frame[:id_bytes]
        if not (name.isalnum() and name.isupper()):
            break
        raw = frame[id_bytes : 2 * id_bytes]
        size = int.from_bytes(raw)
        if version >= 4 and max(raw) < 0x80:
            size = _syncsafe(raw)
            following = source.at(position + head_bytes + size, 4)
            if following.strip(b"\0") and not following.isalnum():
                plain = source.at(position + head_bytes + int.from_bytes(raw), 4)  # some writers use plain sizes
                size = int.from_bytes(raw) if plain.isalnum() or not plain.strip(b"\0") else size
        if position + head_bytes + size > end:
            break
        position += head_bytes + size
    return position


def _syncsafe(raw: bytes) -> int:
    return int.from_bytes(raw) if len(raw) < 4 else raw[0] << 21 | raw[1] << 14 | raw[2] << 7 | raw[3]


def _first_nonzero(source: ByteSource, start: int, end: int) -> int | None:
    position = start
    while position < end:
        buffer, base = source.window(position)
        part = buffer[position - base : end - base]
        rest = part.lstrip(b"\0")
        if rest:
            return position + len(part) - len(rest)
        position += max(1, len(part))
    return None


def walk_mpeg(source: ByteSource) -> Iterator[Part]:
    """Yield the audio frames of an MP3, MP2 or ADTS file without tags, junk and the Xing/Info/VBRI frame.

    ``ffmpeg -c copy`` keeps all of these, except a first frame whose channel mode differs from the second's.

    Says where the file ends well before what its Xing/Info/VBRI frame claims. Raises ReadError where no frames are
    found.
    """
    first = first_frame(source)
    if first is None:
        raise source.error("not audio: no MPEG frames found")
    end = before_trailing_tags(source, first.position)
    claim, position = None, first.position
    if first.kind == "mp3":
        claim, position = _skip_info_frames(source, first, end)
    search, sort, frames, run_start = _Search(source, end), first, 0, position
    while position < end:
        length = _matching_frame(source, position, sort)
        if length:
            frames += 1
            position = min(position + length, end)
            if position - run_start < RUN_BYTES:
                continue
        if position > run_start:
            yield Span(run_start, position)
        if not length:
            found = search.onward(position, sort)
            if found is None:
                run_start = end
                break
            sort, position = found, found.position
        run_start = position
    if position > run_start:
        yield Span(run_start, position)
    if claim and (reason := _shortage(claim, frames, end - first.position)):
        yield source.cut_for(reason)


def _matching_frame(source: ByteSource, position: int, first: FirstFrame) -> int:
    """Length of the frame at ``position``; 0 where none of the same sort as ``first`` begins."""
    if int.from_bytes(source.at(position, 4)) & first.mask != first.header:
        return 0
    return _frame_bytes(source, position, first.kind)


class Claim(NamedTuple):
    """The counts in a Xing, Info or VBRI frame: frames and bytes (0: not stated), and the duration of one frame."""

    frames: int
    data_bytes: int
    frame_s: float


def _skip_info_frames(source: ByteSource, first: FirstFrame, end: int) -> tuple[Claim | None, int]:
    """The claim of the first Xing/Info/VBRI frame, and the position of the first frame with sound."""
    claim, position = None, first.position
    while position < end:
        facts = _mpeg_frame(int.from_bytes(source.at(position, 4)) & 0xFFFFFF00)
        found = _info_frame(source, position, facts[1] / facts[2]) if facts else None
        if facts is None or found is None:
            break
        claim = claim or found
        position += facts[0]
    return claim, min(position, end)


def _info_frame(source: ByteSource, position: int, frame_s: float) -> Claim | None:
    """The claim of the frame at ``position`` if it is a Xing, Info or VBRI frame, else None."""
    head = source.at(position, 64)
    if len(head) < 64 or head[1] >> 1 & 3 != 1:  # layer III only
        return None
    mono, first_version = head[3] >> 6 == 3, head[1] >> 3 & 3 == 3
    side_bytes = (17 if mono else 32) if first_version else (9 if mono else 17)
    crc_bytes = 0 if head[1] & 1 else 2
    for offset in {4 + side_bytes, 4 + side_bytes + crc_bytes}:
        if head[offset : offset + 4] in {b"Xing", b"Info"}:
            flags, one, two = struct.unpack(">3I", head[offset + 4 : offset + 16])
            values = [one, two]
            frames = values.pop(0) if flags & 1 else 0
            return Claim(frames, values.pop(0) if flags & 2 else 0, frame_s)
    if head[36:40] == b"VBRI":
        data_bytes, frames = struct.unpack(">2I", head[46:54])
        return Claim(frames, data_bytes, frame_s)
    return None


def _shortage(claim: Claim, frames: int, data_bytes: int) -> str | None:
    """What is missing where the file falls short of every number of the claim by more than old encoders do."""
    counts = ((frames, claim.frames), (data_bytes, claim.data_bytes))
    missing = [1 - found / stated for found, stated in counts if stated]
    if not missing or min(missing) <= 0:
        return None
    total_s = (claim.frames or frames / (1 - min(missing))) * claim.frame_s
    missing_s = min(missing) * total_s
    if missing_s > 0.2 and (min(missing) > 0.01 or missing_s > 2):
        return f"truncated: {frames * claim.frame_s:.1f} s of {total_s:.1f} s are there"
    return None
