"""APEv2 tags at the end of a file, as raw items; ID3v1 and Lyrics3 after them stay in place.

All items but the genre and ours keep their bytes and order. A tag at the start of the file is refused.
"""

from typing import BinaryIO

from indexer.files.tags.blocks.blocks import (
    GENRE,
    MAX_TAG,
    NAMED,
    Block,
    Field,
    TagDamagedError,
    file_size,
    our_name,
    read_exactly,
    splice,
)
from indexer.files.tags.blocks.id3 import id3v1_at, tag_size

HAS_HEADER, IS_HEADER = 1 << 31, 1 << 29
ENDS = 32  # bytes of a header or footer


class ApeBlock(Block):
    """The APEv2 tag of a file; created in front of the ID3v1 tag where none exists."""

    kind = "ape"
    padded = False

    def __init__(self, file: BinaryIO, end: int | None = None) -> None:
        """Read the tag that ends at ``end``; None: at the end of the file, or before ID3v1 and Lyrics3v2."""
        self.version, self.flags = 2000, HAS_HEADER
        self.reserved = b"\x00" * 8
        self.header_end = (HAS_HEADER | IS_HEADER).to_bytes(4, "little") + self.reserved  # flags, reserved bytes
        self.at = _content_end(file) if end is None else end  # where the tag begins
        self.total = 0
        fields: list[Field] = []
        footer = read_exactly(file, self.at - ENDS, ENDS, "the APE footer") if self.at >= ENDS else b""
        exists = footer[:8] == b"APETAGEX"
        if exists:
            fields = self._parse(file, footer)
        elif end is None and ape_in_front(file):
            raise TagDamagedError("the APE tag stands at the start of the file")
        rest = {"version": f"{self.version} {self.flags:08x}"} if exists else {}
        super().__init__(fields, exists=exists, room=self.total, rest=rest)

    def _parse(self, file: BinaryIO, footer: bytes) -> list[Field]:
        self.version, size, count, self.flags = (int.from_bytes(footer[i : i + 4], "little") for i in (8, 12, 16, 20))
        self.reserved = footer[24:]
        end = self.at
        start = end - size
        if not ENDS <= size <= MAX_TAG or start < 0 or self.flags & IS_HEADER:
            raise TagDamagedError("the size of the APE tag is wrong")
        data = read_exactly(file, start, size - ENDS, "the APE tag")
        if self.flags & HAS_HEADER:
            start -= ENDS
            header = read_exactly(file, start, ENDS, "the APE header") if start >= 0 else b""
            if header[:8] != b"APETAGEX":
                raise TagDamagedError("the APE tag has no header where it says so")
            if header[8:20] != footer[8:20]:
                raise TagDamagedError("the header and the footer of the APE tag contradict each other")
            self.header_end = header[20:]
        fields, at = [], 0
        while at < len(data):
            key_end = data.find(b"\x00", at + 8)
            end_of_item = key_end + 1 + int.from_bytes(data[at : at + 4], "little")
            if key_end < 0 or not 2 <= key_end - at - 8 <= 255 or end_of_item > len(data):
                raise TagDamagedError("an item of the APE tag is damaged")
            key = data[at + 8 : key_end].decode("latin-1")
            known = key.upper() if key.upper() in NAMED else our_name(key)
            fields.append(Field(known or f"item {key}", data[at:end_of_item]))
            at = end_of_item
        if len(fields) != count:
            raise TagDamagedError("the APE tag holds another number of items than it says")
        self.at, self.total = start, end - start
        return fields

    def encode(self, name: str, values: list[str]) -> list[Field]:
        value = "\x00".join(values).encode("utf-8", "replace")
        key = "Genre" if name == GENRE else name
        return [Field(name, len(value).to_bytes(4, "little") + bytes(4) + key.encode() + b"\x00" + value)]

    def values(self, field: Field) -> list[str]:
        value = field.raw[field.raw.index(b"\x00", 8) + 1 :]
        return [text for text in value.decode("utf-8", "replace").split("\x00") if text]

    def length(self) -> int:
        return sum(len(field.raw) for field in self.fields) + (2 * ENDS if self.flags & HAS_HEADER else ENDS)

    def save(self, file: BinaryIO, room: int, /) -> None:
        items = b"".join(field.raw for field in self.fields)
        numbers = (self.version, len(items) + ENDS, len(self.fields))
        common = b"APETAGEX" + b"".join(number.to_bytes(4, "little") for number in numbers)
        footer = common + self.flags.to_bytes(4, "little") + self.reserved
        data = (common + self.header_end if self.flags & HAS_HEADER else b"") + items + footer
        assert len(data) == room
        splice(file, self.at, self.total, data)

    def remove(self, file: BinaryIO, _room: int, /) -> None:
        splice(file, self.at, self.total, b"")


def ape_in_front(file: BinaryIO) -> int:
    """The size in bytes of an APEv2 tag at the start of the file; 0 where none stands there."""
    file.seek(0)
    head = file.read(16)
    return ENDS + int.from_bytes(head[12:16], "little") if head[:8] == b"APETAGEX" else 0


class WavPackBlock(ApeBlock):
    """The APEv2 tag of a WavPack file, which must begin where the last audio block ends.

    A decoder that does not know the length of a stream stops at the tag, and reports damage if anything precedes it.
    """

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file)
        self.blocks_end = _wavpack_end(file, self.at)

    def problem(self) -> str | None:
        return None if self.blocks_end == self.at else "something unknown stands between the WavPack audio and the tag"


def _wavpack_end(file: BinaryIO, end: int) -> int:
    """Where the WavPack blocks end (WavPack 4 and 5: ckID, then ckSize, which counts from byte 8)."""
    file.seek(0)
    at = tag_size(file.read(10)) or 0
    while at + 32 <= end:
        file.seek(at)
        head = file.read(8)
        if head[:4] != b"wvpk":
            break
        at += 8 + int.from_bytes(head[4:], "little")
    return at


def _content_end(file: BinaryIO) -> int:
    """Where an APE tag would end: before ID3v1 and Lyrics3v2."""
    end = id3v1_at(file)
    if end is None:
        return file_size(file)
    if end >= 15:
        mark = read_exactly(file, end - 15, 15, "the Lyrics3 tag")
        if mark[6:] == b"LYRICS200" and mark[:6].isdigit() and int(mark[:6]) + 15 <= end:
            return end - 15 - int(mark[:6])
    return end
