"""FLAC, WAV, AIFF, WavPack, Musepack, Monkey's Audio, TTA and DSF: finds the audio bytes.

One generator for each container yields the facts and byte ranges that make up the identity, and says where a file ends
early. Raises ReadError where nothing can be heard. Never hashes or decodes. Stated sizes are checked before use, so
every loop advances.
"""

import re
import struct
from collections.abc import Iterator
from typing import NamedTuple

from indexer.files.audio.payload.source import (
    ZEROS_BYTES,
    ByteSource,
    Part,
    Span,
    after_leading_tags,
    before_trailing_tags,
)

MAX_CHUNKS = 100_000
MAX_CHUNKS_BEHIND = 1_000  # behind the sound
MAX_FLAC_TRIES = 20_000  # false frame headers tried, each checked by its checksum
MAX_FLAC_GAP_BYTES = 256 << 20
_FLAC_SYNC = re.compile(b"\xff[\xf8\xf9]")
_UNKNOWN = 0xFFFFFFFF  # a size of 32 bits that the writer did not know
PCM, IEEE_FLOAT, ALAW, MULAW, EXTENSIBLE = 1, 3, 6, 7, 0xFFFE  # WAVE format tags


def _crc8(data: bytes) -> int:
    """FLAC's frame header checksum: polynomial x^8 + x^2 + x + 1."""
    value = 0
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = (value << 1 ^ 0x07 if value & 0x80 else value << 1) & 0xFF
    return value


def is_flac_frame(head: bytes) -> bool:
    """Whether a valid FLAC frame header (RFC 9639, section 9.1) begins ``head`` (16 bytes)."""
    if len(head) < 6 or head[0] != 0xFF or head[1] & 0xFE != 0xF8 or head[2] >> 4 == 0 or head[3] & 1:
        return False
    number_bytes = 1 if head[4] < 0x80 else max(1, 8 - (head[4] ^ 0xFF).bit_length())
    size_code, rate_code = head[2] >> 4, head[2] & 15
    length = 4 + number_bytes + {6: 1, 7: 2}.get(size_code, 0) + {12: 1, 13: 2, 14: 2}.get(rate_code, 0)
    return len(head) > length and _crc8(head[:length]) == head[length]


def streaminfo_facts(block: bytes) -> bytes:
    """Sample rate, channels and bits per sample of a STREAMINFO block: frames may refer to it for these."""
    return (int.from_bytes(block[10:14]) >> 4).to_bytes(4)


def wav_kind(_source: ByteSource, head: bytes) -> str | None:
    """``wav`` where the file begins as RIFF or one of its two 64-bit forms."""
    return "wav" if head[:4] in {b"RIFF", b"RF64", b"BW64"} and head[8:12] == b"WAVE" else None


def aiff_kind(_source: ByteSource, head: bytes) -> str | None:
    """``aiff`` where the file begins as AIFF or AIFF-C."""
    return "aiff" if head[:4] == b"FORM" and head[8:12] in {b"AIFF", b"AIFC"} else None


def walk_flac(source: ByteSource) -> Iterator[Part]:
    """FLAC: sample rate, channels and bits of STREAMINFO, then the frames."""
    start = after_leading_tags(source)
    end = before_trailing_tags(source, min(start, source.size))
    position, last, number = start + 4, False, 0
    while not last and position + 4 <= end and number < MAX_CHUNKS:
        head = source.at(position, 4)
        last, size = bool(head[0] & 0x80), int.from_bytes(head[1:])
        if head[0] & 0x7F == 0:
            if position + 38 > end:
                raise source.truncated("the header", position + 38, end)
            yield streaminfo_facts(source.at(position + 4, 34))
        if head[0] == 0xFF or (number and is_flac_frame(source.at(position, 16))):
            break
        position, number = position + 4 + size, number + 1
    if position > end:
        raise source.truncated("the header", position, end)
    position = _find_flac_frame(source, position, end)
    if position >= end:
        raise source.no_audio()
    yield Span(position, end)


def _find_flac_frame(source: ByteSource, start: int, end: int) -> int:
    """The first frame from ``start``: some writers state too small a size for a large picture."""
    position, tries = start, 0
    while position < min(end, start + MAX_FLAC_GAP_BYTES) and tries < MAX_FLAC_TRIES:
        buffer, base = source.window(position)
        found = _FLAC_SYNC.search(buffer, position - base)
        if found is None:  # one byte is kept back: the sync may span two windows
            position = max(position + 1, base + len(buffer) - 1)
            continue
        tries, position = tries + 1, base + found.start()
        if is_flac_frame(source.at(position, 16)):
            return position
        position += 1
    return end


def _wave_facts(fmt: bytes) -> bytes:
    """Format tag, channels, rate and sample width, the same for WAVEFORMATEX and EXTENSIBLE."""
    tag, channels, rate_hz, _bytes_per_s, block_bytes, bits = struct.unpack("<HHIIHH", fmt[:16])
    if tag == EXTENSIBLE and len(fmt) >= 26:
        tag = int.from_bytes(fmt[24:26], "little")
    width = block_bytes if tag in {PCM, IEEE_FLOAT} else bits if tag in {ALAW, MULAW} else 0
    return struct.pack("<HHIH", tag, channels, rate_hz, width)


def is_chunk_name(name: bytes) -> bool:
    """Whether these are four printable ASCII characters."""
    return len(name) == 4 and all(32 <= byte < 127 for byte in name)


class Chunk(NamedTuple):
    """A chunk of a WAV or AIFF file: where its content begins, the size stated (also in ds64), and the size it has."""

    name: bytes
    begin: int
    stated: int
    size: int


class Form:
    """A WAV file (RIFF, RF64, BW64) or an AIFF file: its chunks, the sound's with the size that it really has.

    A writer that could not seek back states 0 (AIFF: 8), just under 2 GiB or just under 4 GiB; one that wrote more than
    4 GiB states the rest modulo 4 GiB.
    """

    def __init__(self, source: ByteSource) -> None:
        self.source = source
        self.start = after_leading_tags(source)
        head = source.at(self.start, 12)
        self.is_aiff = head[:4] == b"FORM"
        self.layout = ">4sI" if self.is_aiff else "<4sI"  # name and size of a chunk
        self.size = int.from_bytes(head[4:8], "big" if self.is_aiff else "little")
        self._has_ds64 = head[:4] in {b"RF64", b"BW64"}

    def chunks(self) -> Iterator[Chunk]:
        """Yield the chunks, up to a chunk of sound whose size was wrong, or zeros behind the sound.

        Raises ReadError where the stated size of the sound cannot be believed and the real one is not known.
        """
        sound, size64 = b"SSND" if self.is_aiff else b"data", None
        position, heard = self.start + 12, False
        for _ in range(MAX_CHUNKS):
            if position + 8 > self.source.size or (heard and not any(self.source.at(position, ZEROS_BYTES))):
                return
            name, stated = struct.unpack(self.layout, self.source.at(position, 8))
            begin = position + 8
            if name == b"ds64" and self._has_ds64:
                size64 = int.from_bytes(self.source.at(begin + 8, 8), "little")
            size = self._sound_bytes(begin, stated, size64) if name == sound else stated
            yield Chunk(name, begin, stated if size64 is None or name != sound else size64, size)
            if size != stated:
                return
            heard = heard or name == sound
            position = self._after(begin, size)

    def _after(self, begin: int, size: int) -> int:
        """Where the next chunk begins: behind a pad byte to an even offset, which some writers omit."""
        end = begin + size
        padded = size & 1 and not (
            is_chunk_name(self.source.at(end, 4)) and not is_chunk_name(self.source.at(end + 1, 4))
        )
        return end + 1 if padded else end

    def _sound_bytes(self, begin: int, stated: int, size64: int | None) -> int:
        """The size of the chunk of sound whose content begins at ``begin``."""
        rest = self.source.size - begin
        if size64 is not None and stated in {_UNKNOWN, size64 & _UNKNOWN}:
            if 0 < size64 < 1 << 63:
                return size64
            stated = 0
        if stated <= (8 if self.is_aiff else 0):
            unknown = self.size in {0, _UNKNOWN} or not self._ends_at(begin + stated)
            return rest if unknown else stated
        huge = stated >= 0xFFFFFF00 or 0x7FFFF000 <= stated <= 0x7FFFFFFF
        if huge and (stated > rest or stated == _UNKNOWN or not self._ends_at(begin + stated)):
            return rest
        if rest - stated < 1 << 32:
            return stated
        whole = stated + (rest - stated >> 32 << 32)
        missing = (self.source.size - self.start - 8 - self.size) & _UNKNOWN
        wrapped = missing in {0, 1, _UNKNOWN} or rest - whole <= 1  # 1: a pad byte
        if wrapped and not self.is_aiff:
            return whole
        if not wrapped and (self._ends_at(begin + stated) or not any(self.source.at(begin + stated, ZEROS_BYTES))):
            return stated
        raise self.source.error(f"damaged: it states {stated / 1e6:,.1f} MB of sound and holds {rest / 1e9:,.1f} GB")

    def _ends_at(self, position: int) -> bool:
        """Whether no sound stands at ``position``: the file ends there, or with some chunks that begin there."""
        end = self.start + 8 + self.size
        for number in range(MAX_CHUNKS_BEHIND):
            if position + 8 > self.source.size or (number and position in {end, end + 1}):
                return position <= self.source.size + 1
            if not is_chunk_name(self.source.at(position, 4)):
                return False
            position = self._after(position + 8, struct.unpack(self.layout, self.source.at(position, 8))[1])
        return True


def walk_wav(source: ByteSource) -> Iterator[Part]:
    """WAV, RF64, BW64: the facts of ``fmt `` and the bytes of ``data``, to the end of a file that was piped."""
    facts, seen = False, 0
    for chunk in Form(source).chunks():
        if chunk.name == b"fmt " and not facts:
            fmt = source.at(chunk.begin, min(chunk.size, 40))
            if len(fmt) < 16:
                raise source.error("damaged: its fmt chunk is too short")
            facts = True
            yield _wave_facts(fmt)
        elif chunk.name == b"data":
            end = chunk.begin + chunk.size
            if end > source.size:
                yield source.cut("the data chunk", chunk.size, source.size - chunk.begin)
                end = source.size
            seen += end - chunk.begin
            yield Span(chunk.begin, end)
    if not facts:
        raise source.error("damaged: it has no fmt chunk")
    if not seen:
        raise source.no_audio()


def walk_aiff(source: ByteSource) -> Iterator[Part]:
    """AIFF and AIFF-C: channels, bits, rate and compression of ``COMM`` and the bytes of ``SSND``."""
    compressed = source.at(after_leading_tags(source) + 8, 4) == b"AIFC"
    facts, seen = False, 0
    for chunk in Form(source).chunks():
        if chunk.name == b"COMM" and not facts:
            common = source.at(chunk.begin, 22)
            if len(common) < (22 if compressed else 18):
                raise source.error("damaged: its COMM chunk is too short")
            kind = common[18:22] if compressed else b"NONE"
            facts = True
            yield common[:2] + common[6:18] + (b"NONE" if kind == b"twos" else kind)
        elif chunk.name == b"SSND":
            end = chunk.begin + chunk.size
            if end > source.size:
                yield source.cut("the SSND chunk", chunk.size, source.size - chunk.begin)
                end = source.size
            first = chunk.begin + 8 + int.from_bytes(source.at(chunk.begin, 4))
            if first < end:
                seen += end - first
                yield Span(first, end)
    if not facts:
        raise source.error("damaged: it has no COMM chunk")
    if not seen:
        raise source.no_audio()


def walk_wavpack(source: ByteSource) -> Iterator[Part]:
    """WavPack: flags, sample count, checksum and body of every block with samples.

    Without total length and block index, which programs rewrite when they copy blocks.
    """
    position = after_leading_tags(source)
    end = before_trailing_tags(source, min(position, source.size))
    total = samples_end = seen = 0
    while position + 32 <= end and source.at(position, 4) == b"wvpk":
        head = source.at(position, 32)
        size, _version, high, total_high, low_total, low_index, samples = struct.unpack("<IHBBIII", head[4:24])
        block_end = position + 8 + size
        if size < 24:
            raise source.error("damaged: a WavPack block states an impossible size")
        if block_end > end:
            yield source.cut("a WavPack block", size + 8, end - position)
            break
        if samples:
            if not seen and low_total != 0xFFFFFFFF:
                total = low_total + (total_high << 32) - total_high
            seen += 1
            samples_end = low_index + (high << 32) + samples
            yield head[20:32]
            yield Span(position + 32, block_end)
        position = block_end
    if not seen:
        raise source.no_audio()
    if total > samples_end:
        yield source.cut_for(f"truncated: {samples_end:,} of {total:,} samples are there")


def walk_musepack(source: ByteSource) -> Iterator[Part]:
    """Musepack: SV7 without the replay gain of its header, SV8 the stream header and the audio packets."""
    start = after_leading_tags(source)
    end = before_trailing_tags(source, min(start, source.size))
    if source.at(start, 4) != b"MPCK":
        if end - start <= 32:
            raise source.no_audio()
        yield source.at(start, 12)
        yield Span(start + 20, end)
        return
    position, seen = start + 4, 0
    while position + 3 <= end:
        head = source.at(position, 12)
        size, used = _varint(head[2:])
        if not used or size < 2 + used:
            raise source.error("damaged: a Musepack packet states an impossible size")
        name = head[:2]
        if position + size > end:
            yield source.cut("a Musepack packet", size, end - position)
            break
        if name == b"SH":
            yield Span(position, position + size)
        elif name == b"AP":
            seen += 1
            yield Span(position, position + size)
        elif name == b"SE":
            break
        position += size
    else:
        yield source.cut_for("truncated: the last Musepack packet is missing")
    if not seen:
        raise source.no_audio()


def _varint(data: bytes) -> tuple[int, int]:
    """(value, bytes used) of a big-endian number with 7 bits a byte; (0, 0) where it does not end."""
    value = 0
    for used, byte in enumerate(data[:9], 1):
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, used
    return 0, 0


def walk_ape(source: ByteSource) -> Iterator[Part]:
    """Monkey's Audio: all bytes between the tags."""
    start = after_leading_tags(source)
    end = before_trailing_tags(source, min(start, source.size))
    head = source.at(start, 52)
    if len(head) < 32 or end - start <= 32:
        raise source.no_audio()
    if int.from_bytes(head[4:6], "little") >= 3980 and len(head) >= 36:  # versions with a descriptor
        sizes = struct.unpack("<7I", head[8:36])
        needed = sum(sizes[:5]) + (sizes[5] << 32) + sizes[6]
        if needed > end - start:
            yield source.cut("the audio", needed, end - start)
    yield Span(start, end)


def walk_tta(source: ByteSource) -> Iterator[Part]:
    """True Audio: all bytes between the tags."""
    start = after_leading_tags(source)
    end = before_trailing_tags(source, min(start, source.size))
    head = source.at(start, 22)
    if len(head) < 22:
        raise source.truncated("the header", 22, len(head))
    rate_hz, samples = struct.unpack("<II", head[10:18])
    frame_samples = 256 * rate_hz // 245
    if not frame_samples or not samples:
        raise source.no_audio()
    needed = 26 + 4 * -(-samples // frame_samples)
    position, table_end = start + 22, start + needed - 4
    if table_end > end:
        raise source.truncated("the seek table", needed, end - start)
    while position < table_end:
        piece = source.at(position, min(table_end - position, 1 << 16))
        needed += sum(struct.unpack(f"<{len(piece) // 4}I", piece[: len(piece) // 4 * 4]))
        position += len(piece)
    if needed > end - start:
        yield source.cut("the audio", needed, end - start)
    yield Span(start, end)


def walk_dsf(source: ByteSource) -> Iterator[Part]:
    """DSF: the facts of its ``fmt `` chunk and the bytes of ``data``."""
    position, facts = after_leading_tags(source) + 28, False
    for _ in range(MAX_CHUNKS):
        if position + 12 > source.size:
            break
        name, size = struct.unpack("<4sQ", source.at(position, 12))
        if size < 12:
            raise source.error("damaged: a DSF chunk states an impossible size")
        if position + size > source.size:
            yield source.cut(f"the {name.decode('latin-1').strip()} chunk", size, source.size - position)
            size = source.size - position
        if name == b"fmt ":
            facts = True
            yield source.at(position + 12, min(size, 52) - 12)
        elif name == b"data" and facts:
            if size == 12:
                break
            yield Span(position + 12, position + size)
            return
        position += size
    raise source.no_audio()
