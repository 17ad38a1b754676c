"""Ogg Vorbis streams that libvorbis plays and FFmpeg's own decoder refuses."""

import struct


class _Bits:
    """Reads Vorbis's bits: the lowest of each byte first."""

    def __init__(self, data: bytes) -> None:
        self.value = int.from_bytes(data, "little")
        self.at = 0

    def take(self, count: int) -> int:
        taken = self.value >> self.at & (1 << count) - 1
        self.at += count
        return taken


def _skip_codebook(bits: _Bits) -> None:
    assert bits.take(24) == 0x564342
    dimensions, entries = bits.take(16), bits.take(24)
    if bits.take(1):  # ordered
        bits.take(5)
        done = 0
        while done < entries:
            done += bits.take((entries - done).bit_length())
    else:
        sparse = bits.take(1)
        for _ in range(entries):
            if not sparse or bits.take(1):
                bits.take(5)
    lookup = bits.take(4)
    if lookup:
        bits.take(64)
        value_bits = bits.take(4) + 1
        bits.take(1)
        values = entries * dimensions
        if lookup == 1:
            values = int(entries ** (1 / dimensions) + 1e-9)
            values += (values + 1) ** dimensions <= entries
        bits.take(value_bits * values)


def with_a_wide_codebook(setup: bytes) -> bytes:
    """The setup packet with one codebook more, of 17 dimensions, that nothing uses: FFmpeg takes at most 16."""
    bits = _Bits(setup[7:])
    books = bits.take(8) + 1
    for _ in range(books):
        _skip_codebook(bits)
    wide = 0x564342 | 17 << 24 | 2 << 40  # two entries, neither ordered nor sparse, of one bit each, without a lookup
    length = 24 + 16 + 24 + 1 + 1 + 5 + 5 + 4
    before, rest = bits.value & (1 << bits.at) - 1, bits.value >> bits.at
    value = before | wide << bits.at | rest << (bits.at + length)
    value = (value & ~0xFF) | books
    return setup[:7] + value.to_bytes((value.bit_length() + 7) // 8, "little")


def pages_of(packets: list[bytes], serial: int, number: int, granule: int) -> bytes:
    """Packets as Ogg pages, the last of which ends with the last packet."""
    lacing = b"".join(bytes([255] * (len(packet) // 255) + [len(packet) % 255]) for packet in packets)
    body, out, continued = b"".join(packets), b"", 0
    for start in range(0, len(lacing), 255):
        part = lacing[start : start + 255]
        last = start + 255 >= len(lacing)
        head = struct.pack("<4sBBqIIIB", b"OggS", 0, continued, granule if last else -1, serial, number, 0, len(part))
        page = head + part + body[: sum(part)]
        out += page[:22] + struct.pack("<I", _crc(page)) + page[26:]
        body, continued, number = body[sum(part) :], int(part[-1] == 255), number + 1
    return out


def _crc(page: bytes) -> int:
    value = 0
    for byte in page:
        value ^= byte << 24
        for _ in range(8):
            value = (value << 1 ^ 0x04C11DB7 if value & 0x80000000 else value << 1) & 0xFFFFFFFF
    return value


def refused_by_ffmpeg(data: bytes) -> bytes:
    """The Ogg Vorbis file with a setup packet that FFmpeg refuses; libsndfile wrote it, one page for each header."""
    pages, at = [], 0
    while at < len(data):
        count = data[at + 26]
        end = at + 27 + count + sum(data[at + 27 : at + 27 + count])
        pages.append(data[at:end])
        at = end
    first_audio = next(n for n, page in enumerate(pages) if page[6:14] not in (bytes(8), b"\xff" * 8))
    lacing = b"".join(page[27 : 27 + page[26]] for page in pages[1:first_audio])
    body = b"".join(page[27 + page[26] :] for page in pages[1:first_audio])
    packets, length, at = [], 0, 0
    for value in lacing:
        length += value
        if value < 255:
            packets.append(body[at : at + length])
            at, length = at + length, 0
    comment, setup = packets
    serial = int.from_bytes(data[14:18], "little")
    headers = pages_of([comment, with_a_wide_codebook(setup)], serial, 1, 0)
    return pages[0] + headers + b"".join(pages[first_audio:])
