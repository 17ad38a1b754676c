"""A small Ogg muxer: any packets on any pages, also such as no program lays out; and a reader of pages.

Shares no code with the program. Source: RFC 3533, section 6.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

CONTINUED, FIRST, LAST = 1, 2, 4
NO_PACKET_ENDS = (1 << 64) - 1


def _crc_table() -> list[int]:
    table = []
    for byte in range(256):
        value = byte << 24
        for _ in range(8):
            value = value << 1 ^ (0x104C11DB7 if value & 0x80000000 else 0)
        table.append(value)
    return table


_CRC = _crc_table()


def crc(data: bytes) -> int:
    """The checksum of a page whose own checksum is zero."""
    value = 0
    for byte in data:
        value = (value << 8 & 0xFFFFFFFF) ^ _CRC[value >> 24 ^ byte]
    return value


@dataclass(frozen=True)
class Page:
    """One page of a stream."""

    serial: int
    sequence: int
    lacing: bytes
    body: bytes
    flags: int = 0
    granule: int = 0
    wrong: int = 0  # is put on the checksum

    def to_bytes(self) -> bytes:
        """The page with its checksum."""
        head = b"OggS\0" + bytes([self.flags]) + self.granule.to_bytes(8, "little") + self.serial.to_bytes(4, "little")
        head += (self.sequence % (1 << 32)).to_bytes(4, "little")
        rest = bytes([len(self.lacing)]) + self.lacing + self.body
        return head + (crc(head + bytes(4) + rest) ^ self.wrong).to_bytes(4, "little") + rest


def lacing_of(packet: bytes) -> bytes:
    """The segment sizes of a packet that ends."""
    return b"\xff" * (len(packet) // 255) + bytes([len(packet) % 255])


def lay_out(packets: Sequence[bytes], counts: Sequence[int]) -> list[tuple[bytes, bytes, bool, bool]]:
    """The packets on pages of so many segments each: (lacing, body, goes on from the page before, a packet ends)."""
    lacing, data = b"".join(map(lacing_of, packets)), b"".join(packets)
    assert sum(counts) == len(lacing)
    pages, goes_on = [], False
    for count in counts:
        table, lacing = lacing[:count], lacing[count:]
        body, data = data[: sum(table)], data[sum(table) :]
        pages.append((table, body, goes_on, any(size < 255 for size in table)))
        goes_on = table[-1] == 255
    return pages


def stream(serial: int, parts: Sequence[tuple[Sequence[bytes], Sequence[int]]], *, sequence: int = 0) -> list[Page]:
    """The pages of a logical stream; each part is packets and the segments on each of their pages."""
    pages: list[Page] = []
    for number, (packets, counts) in enumerate(parts):
        for table, body, goes_on, packet_ends in lay_out(packets, counts):
            granule = (960 * len(pages) if number > 1 else 0) if packet_ends else NO_PACKET_ENDS
            flags = CONTINUED * goes_on | FIRST * (not pages)
            pages.append(Page(serial, sequence + len(pages), table, body, flags, granule))
    return [*pages[:-1], replace(pages[-1], flags=pages[-1].flags | LAST)]


def merged(rng: random.Random, streams: Sequence[Sequence[Page]]) -> list[Page]:
    """Multiplexed streams: first pages first, then any order that keeps that of every stream."""
    out, rest = [pages[0] for pages in streams], [list(pages[1:]) for pages in streams]
    while any(rest):
        out.append(rng.choice([pages for pages in rest if pages]).pop(0))
    return out


def pages_of(data: bytes) -> list[Page]:
    """The pages of a file; ``wrong`` is what the checksum differs by."""
    pages, at = [], 0
    while data[at : at + 4] == b"OggS":
        table = data[at + 27 : at + 27 + data[at + 26]]
        end = at + 27 + len(table) + sum(table)
        number = [int.from_bytes(data[at + a : at + b], "little") for a, b in ((6, 14), (14, 18), (18, 22), (22, 26))]
        wrong = number[3] ^ crc(data[at : at + 22] + bytes(4) + data[at + 26 : end])
        pages.append(
            Page(number[1], number[2], table, data[at + 27 + len(table) : end], data[at + 5], number[0], wrong)
        )
        at = end
    return pages


def packets_of(pages: Sequence[Page]) -> list[bytes]:
    """The packets of one stream's pages, also the last where it does not end."""
    packets, open_packet = [], b""
    for page in pages:
        at = 0
        for size in page.lacing:
            open_packet += page.body[at : at + size]
            at += size
            if size < 255:
                packets.append(open_packet)
                open_packet = b""
    return [*packets, open_packet] if open_packet else packets
