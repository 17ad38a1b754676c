"""ID3v2 and APEv2 tags as bytes, made without any library."""

from indexer.files.tags.blocks.id3 import to_synchsafe, unsynchronise


def frame(name: bytes, content: bytes, *, major: int = 3, flags: bytes = b"\0\0") -> bytes:
    size = len(content).to_bytes(4, "big") if major == 3 else to_synchsafe(len(content))
    return name + size + flags + content


def id3_tag(frames: list[bytes], *, major: int = 3, padding: int = 0, flags: int = 0, extended: bytes = b"") -> bytes:
    body = extended + b"".join(frames) + bytes(padding)
    if flags & 0x80 and major == 3:
        body = unsynchronise(body)
    return b"ID3" + bytes([major, 0, flags]) + to_synchsafe(len(body)) + body


def ape_tag(items: dict[str, bytes]) -> bytes:
    kinds = {k: (2 if k.startswith("Cover") else 0).to_bytes(4, "little") for k in items}  # binary or text
    data = b"".join(len(v).to_bytes(4, "little") + kinds[k] + k.encode() + b"\0" + v for k, v in items.items())
    ends = [
        b"APETAGEX" + b"".join(n.to_bytes(4, "little") for n in (2000, len(data) + 32, len(items), f)) + bytes(8)
        for f in (0xA0000000, 0x80000000)
    ]
    return ends[0] + data + ends[1]
