"""ASF (WMA): finds the payload bytes of the audio streams.

Reads the header and data objects and the data packets (ASF specification 01.20.05, sections 3 and 5). The identity is
made of the payloads in order, however they are split into packets. Never decodes or hashes.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from indexer.files.audio.payload.source import ByteSource, Part, Span, after_leading_tags

HEADER = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
DATA = bytes.fromhex("3626b2758e66cf11a6d900aa0062ce6c")
FILE_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
STREAM_PROPERTIES = bytes.fromhex("9107dcb7b7a9cf118ee600c00c205365")
AUDIO_STREAM = bytes.fromhex("409e69f84d5bcf11a8fd00805f5c442b")
MAX_OBJECTS = 10_000
MIN_PACKET_BYTES, MAX_PACKET_BYTES = 64, 1 << 20
_FIELD_BYTES = (0, 1, 2, 4)


@dataclass(slots=True)
class _Facts:
    packet_bytes: int = 0
    live: bool = False
    lanes: dict[int, int] = field(default_factory=dict)  # stream number -> lane
    formats: list[bytes] = field(default_factory=list)
    data: tuple[int, int] | None = None  # position and stated size of the data object
    packets: int = 0


def _number(source: ByteSource, position: int, count: int) -> int:
    return int.from_bytes(source.at(position, count), "little")


def walk_asf(source: ByteSource) -> Iterator[Part]:
    """Yield the format of each audio stream and its payloads.

    Says where data packets are missing. Raises ReadError where the header is damaged or no audio is there.
    """
    facts = _facts(source)
    if not facts.lanes:
        raise source.error("not audio: an ASF file without an audio stream")
    if facts.data is None:
        raise source.error("truncated: it ends before its audio data")
    if not MIN_PACKET_BYTES <= facts.packet_bytes <= MAX_PACKET_BYTES:
        raise source.error("damaged: its ASF packet size is impossible")
    yield b"".join(facts.formats)
    start, stated = facts.data
    first = start + 50
    end = source.size if facts.live or stated < 50 else start + stated
    packets = min(facts.packets, (end - first) // facts.packet_bytes) if not facts.live else source.size
    if not facts.live and first + packets * facts.packet_bytes > source.size:
        yield source.cut("the data object", packets * facts.packet_bytes, source.size - first)
    packets, seen = min(packets, (source.size - first) // facts.packet_bytes), False
    for index in range(packets):
        position = first + index * facts.packet_bytes
        for stream, payload_start, payload_end in _payloads(source, position, position + facts.packet_bytes):
            lane = facts.lanes.get(stream)
            if lane is not None and payload_end > payload_start:
                seen = True
                yield Span(payload_start, payload_end, lane)
    if not seen:
        raise source.no_audio()


def _facts(source: ByteSource) -> _Facts:
    facts = _Facts()
    start = after_leading_tags(source)
    header_end = start + _number(source, start + 16, 8)
    position = start + 30
    for _ in range(MAX_OBJECTS):
        size = _number(source, position + 16, 8)
        if size < 24 or position + size > min(header_end, source.size):
            break
        _header_object(source, position, facts)
        position += size
    position = header_end
    for _ in range(MAX_OBJECTS):
        name, size = source.at(position, 16), _number(source, position + 16, 8)
        if name == DATA:
            facts.data = (position, size)
            facts.packets = _number(source, position + 40, 8)
            break
        if size < 24 or position + size > source.size:
            break
        position += size
    return facts


def _header_object(source: ByteSource, position: int, facts: _Facts) -> None:
    name = source.at(position, 16)
    if name == FILE_PROPERTIES:
        facts.live = bool(_number(source, position + 88, 4) & 1)
        facts.packet_bytes = _number(source, position + 92, 4)
    elif name == STREAM_PROPERTIES and source.at(position + 24, 16) == AUDIO_STREAM:
        number = _number(source, position + 72, 2) & 0x7F
        wave = source.at(position + 78, 14)
        facts.lanes.setdefault(number, len(facts.lanes))
        facts.formats.append(wave[:8] + wave[12:14])  # codec, channels, sample rate, block size


def _payloads(source: ByteSource, position: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield (stream, start, end) of every payload in one data packet; stops where the packet is malformed."""
    packet = source.at(position, end - position)
    at = 0
    if packet[:1] and packet[0] & 0x80:
        at = 1 + (packet[0] & 0x0F)
    if at + 2 > len(packet):
        return
    kinds, properties, at = packet[at], packet[at + 1], at + 2
    for shift in (5, 1):  # packet length, sequence
        at += _FIELD_BYTES[kinds >> shift & 3]
    padding, at = _take(packet, at, kinds >> 3)
    at += 6  # send time, duration
    count, length_kind, last = 1, 0, len(packet) - padding
    if kinds & 1:
        head, at = _take(packet, at, 1)
        count, length_kind = head & 0x3F, head >> 6
    for _ in range(count):
        stream, at = _take(packet, at, 1)
        at += _FIELD_BYTES[properties >> 4 & 3] + _FIELD_BYTES[properties >> 2 & 3]
        replicated, at = _take(packet, at, properties)
        at += replicated
        length, at = _take(packet, at, length_kind) if kinds & 1 else (last - at, at)
        if at + length > len(packet) or length < 0:
            return
        if replicated == 1:  # sub-payloads, each after a byte with its length
            yield from _sub_payloads(packet, stream & 0x7F, position, at, at + length)
        else:
            yield stream & 0x7F, position + at, position + at + length
        at += length


def _sub_payloads(packet: bytes, stream: int, base: int, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    while start < end:
        length = packet[start]
        if start + 1 + length > end:
            return
        yield stream, base + start + 1, base + start + 1 + length
        start += 1 + length


def _take(packet: bytes, at: int, kind: int) -> tuple[int, int]:
    """(value, position after it) of a field whose size is given by two bits."""
    count = _FIELD_BYTES[kind & 3]
    return int.from_bytes(packet[at : at + count], "little"), at + count
