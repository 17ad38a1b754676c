"""Small files that take long: hours of silence, pages without packets, tables of samples that lie nowhere."""

import struct

BLOCK_FRAMES = 65_535  # samples of a FLAC frame, at most


def silent_flac(blocks: int) -> bytes:
    """A FLAC of digital silence at 8 kHz: 8.19 s a block of about 13 bytes. Source: RFC 9639."""
    about = (8_000 << 44 | 15 << 36 | blocks * BLOCK_FRAMES).to_bytes(8)  # mono, 16 bits
    info = struct.pack(">HH", BLOCK_FRAMES, BLOCK_FRAMES) + bytes(6) + about + bytes(16)
    frames = []
    for number in range(blocks):
        head = b"\xff\xf8\x74\x08" + chr(number).encode() + struct.pack(">H", BLOCK_FRAMES - 1)
        frame = head + bytes([_crc(head, 0x07, 8)]) + bytes(3)  # one subframe: the constant 0
        frames.append(frame + _crc(frame, 0x8005, 16).to_bytes(2))
    return b"fLaC\x80" + len(info).to_bytes(3) + info + b"".join(frames)


def _crc(data: bytes, polynomial: int, bits: int) -> int:
    value = 0
    for byte in data:
        value ^= byte << (bits - 8)
        for _ in range(8):
            value = (value << 1 ^ polynomial if value >> (bits - 1) else value << 1) & ((1 << bits) - 1)
    return value


def empty_pages(serial: int, count: int) -> bytes:
    """Ogg pages of a stream on which no packet ends, 27 bytes each; their checksums are wrong."""
    return (b"OggS\0\0" + b"\xff" * 8 + serial.to_bytes(4, "little") + bytes(9)) * count


def fragmented_m4a(sizes: bytes, audio: bytes) -> bytes:
    """An MP4 of one fragment, whose trun box has these sizes (4 bytes each) for the samples in ``audio``."""
    entry = box(b"mp4a", bytes(28))
    tables = (box(b"stts", bytes(8)), box(b"stsc", bytes(8)), box(b"stsz", bytes(12)), box(b"stco", bytes(8)))
    stbl = box(b"stbl", box(b"stsd", bytes(4), bytes([0, 0, 0, 1]), entry), *tables)
    handler = box(b"hdlr", bytes(8), b"soun", bytes(13))
    mdhd = box(b"mdhd", bytes(12), (44_100).to_bytes(4), bytes(8))
    tkhd = box(b"tkhd", bytes([0, 0, 0, 1]), bytes(8), bytes([0, 0, 0, 1]), bytes(72))
    mvhd = box(b"mvhd", bytes(12), (1_000).to_bytes(4), bytes(84))
    mvex = box(b"mvex", box(b"trex", bytes(4), bytes([0, 0, 0, 1]), bytes(16)))
    moov = box(b"moov", mvhd, box(b"trak", tkhd, box(b"mdia", mdhd, handler, box(b"minf", stbl))), mvex)
    behind = 8 + 16 + 8 + 16 + 20 + len(sizes) + 8  # moof, mfhd, traf, tfhd, trun, the head of mdat
    trun = box(b"trun", b"\0\0\2\1", (len(sizes) // 4).to_bytes(4), behind.to_bytes(4), sizes)
    traf = box(b"traf", box(b"tfhd", b"\0\2\0\0", bytes([0, 0, 0, 1])), trun)
    return box(b"ftyp", b"M4A ", bytes(4)) + moov + box(b"moof", box(b"mfhd", bytes(8)), traf) + box(b"mdat", audio)


def box(name: bytes, *parts: bytes) -> bytes:
    """A box of MP4."""
    return (8 + sum(map(len, parts))).to_bytes(4) + name + b"".join(parts)
