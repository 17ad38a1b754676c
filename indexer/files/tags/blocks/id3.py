"""ID3v2 tags as raw frames, and the genre byte of ID3v1.

All frames but the genre and ours keep their bytes and order, also unknown, compressed and encrypted ones; the tag keeps
its version, flags and unsynchronisation. ID3v2.2 is read and never written. The function ``store`` passed to
``Id3Block`` puts the tag in its place: the start of the file, a chunk, or the end of a DSF.
"""

import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO

from indexer.files.tags.blocks.blocks import (
    BPM,
    GENRE,
    KEY,
    Block,
    Field,
    TagDamagedError,
    UnwritableError,
    file_size,
    our_name,
    read_exactly,
    splice,
)
from indexer.files.tags.blocks.id3_genres import ID3_GENRES, named

UNSYNCHRONISED, EXTENDED, FOOTER = 0x80, 0x40, 0x10
MAX_INFLATED = 1 << 20  # bytes, plenty for a genre; stops decompression bombs
_FRAME_ID = re.compile(rb"[A-Z0-9]{3}[A-Z0-9 \x00]")  # some writers use v2.2's three-letter names in v2.3
_FRAME_ID_22 = re.compile(rb"[A-Z0-9]{3}")
_FRAMES_OF = {GENRE: b"TCON", BPM: b"TBPM", KEY: b"TKEY"}  # the others are TXXX frames
_NAMES_OF = {b"TBPM": BPM, b"TKEY": KEY}


def synchsafe(data: bytes, what: str = "the ID3 size") -> int:
    """Decode a number stored in seven bits of each byte. Raises TagDamagedError for a byte with the eighth bit."""
    if any(byte & 0x80 for byte in data):
        raise TagDamagedError(f"{what} is not synchsafe")
    value = 0
    for byte in data:
        value = value << 7 | byte
    return value


def to_synchsafe(value: int, width: int = 4) -> bytes:
    """The inverse of ``synchsafe``."""
    if value >= 1 << 7 * width:
        raise UnwritableError("the ID3 tag would become too large")
    return bytes(value >> 7 * place & 0x7F for place in reversed(range(width)))


def unsynchronise(data: bytes) -> bytes:
    """Insert a zero after every 0xFF that a decoder could take for a frame sync."""
    out = re.sub(rb"\xff(?=[\x00\xe0-\xff])", b"\xff\x00", data)
    return out + b"\x00" if out.endswith(b"\xff") else out


def synchronise(data: bytes) -> bytes:
    """Undo ``unsynchronise``."""
    return data.replace(b"\xff\x00", b"\xff")


@dataclass
class Id3Tag:
    """A parsed ID3v2 tag; ``total`` is its size in the file with header, padding and footer."""

    major: int
    revision: int
    flags: int
    extended: bytes
    frames: list[bytes]
    padding: bytes
    total: int
    plain_sizes: bool = False  # v2.4 with the frame sizes of v2.3, as iTunes once wrote
    behind: bytes = b""  # zeros between the tag and the end of its chunk; kept

    @property
    def footer(self) -> bool:
        return self.major == 4 and bool(self.flags & FOOTER)


def tag_size(header: bytes) -> int | None:
    """Size in bytes of the ID3v2 tag with this header of ten bytes; None where it is no ID3v2 header."""
    if len(header) < 10 or header[:3] != b"ID3" or header[3] == 0xFF or header[4] == 0xFF:
        return None
    footer = 10 if header[3] == 4 and header[5] & FOOTER else 0
    return 10 + synchsafe(header[6:10]) + footer


def parse(data: bytes) -> Id3Tag:
    """Parse a whole tag. Raises TagDamagedError where its bytes contradict themselves."""
    total = tag_size(data[:10])
    if total is None:
        raise TagDamagedError("there is no ID3 header")
    if total > len(data):
        raise TagDamagedError("the ID3 size is larger than the space it stands in")
    major, revision, flags = data[3], data[4], data[5]
    if major not in (2, 3, 4):
        raise TagDamagedError(f"ID3v2.{major} is unknown")
    body = data[10 : 10 + synchsafe(data[6:10])]
    if flags & UNSYNCHRONISED and major < 4:
        body = synchronise(body)
    extended = _extended_header(body, major) if flags & EXTENDED and major > 2 else b""
    body = body[len(extended) :]
    frames, end = _walk(body, major, plain=major == 3)
    plain = False
    if end is None and major == 4:
        frames, end = _walk(body, major, plain=True)
        plain = True
    if end is None:
        raise TagDamagedError(f"the ID3 frame after {len(frames)} good ones is damaged")
    return Id3Tag(major, revision, flags, extended, frames, body[end:], total, plain)


def parse_all(data: bytes, place: str) -> Id3Tag:
    """Parse a tag that only zeros may follow; ``place`` names the place in errors."""
    tag = parse(data)
    tag.behind = data[tag.total :]
    if tag.behind.strip(b"\x00"):
        raise TagDamagedError(f"{place} holds more than the ID3 tag")
    return tag


def checksum_at(extended: bytes, major: int) -> int | None:
    """The offset of the CRC-32 in an extended header, or None: 4 bytes in v2.3, 5 synchsafe ones in v2.4."""
    if major == 3:
        return 10 if len(extended) >= 14 and extended[4] & 0x80 else None
    if len(extended) < 12 or not extended[5] & 0x20:
        return None
    return 8 if extended[5] & 0x40 else 7


def _extended_header(body: bytes, major: int) -> bytes:
    if _FRAME_ID.fullmatch(body[:4]):
        return b""  # some writers set the flag without an extended header
    size = synchsafe(body[:4], "the ID3 extended header") if major == 4 else int.from_bytes(body[:4], "big") + 4
    if not 6 <= size <= len(body):
        raise TagDamagedError("the ID3 extended header is damaged")
    return body[:size]


def _walk(body: bytes, major: int, *, plain: bool) -> tuple[list[bytes], int | None]:
    """Raw frames, and where the padding begins; None for the latter where something is not a frame."""
    header = 6 if major == 2 else 10
    names = _FRAME_ID_22 if major == 2 else _FRAME_ID
    frames: list[bytes] = []
    at = 0
    while at < len(body):
        if body[at] == 0:
            return frames, at
        name = body[at : at + (3 if major == 2 else 4)]
        if at + header > len(body) or not names.fullmatch(name):
            return frames, None
        raw_size = body[at + len(name) : at + 2 * len(name)]
        if major == 4 and not plain:
            if any(byte & 0x80 for byte in raw_size):
                return frames, None
            size = synchsafe(raw_size)
        else:
            size = int.from_bytes(raw_size, "big")
        end = at + header + size
        if end > len(body):
            return frames, None
        frames.append(body[at:end])
        at = end
    return frames, at


def payload(frame: bytes, tag: Id3Tag) -> bytes | None:
    """Content of a frame, unpacked and without extra header bytes; None if encrypted or damaged."""
    if tag.major == 2:
        return frame[6:]
    flags, data = frame[9], frame[10:]
    if tag.major == 3:
        if flags & 0x40:
            return None
        packed = bool(flags & 0x80)
        data = data[(4 if packed else 0) + (1 if flags & 0x20 else 0) :]
    else:
        if flags & 0x04:
            return None
        packed = bool(flags & 0x08)
        data = data[(1 if flags & 0x40 else 0) + (4 if flags & 0x01 else 0) :]
        if flags & 0x02 or tag.flags & UNSYNCHRONISED:
            data = synchronise(data)
    if not packed:
        return data
    try:
        return zlib.decompressobj().decompress(data, MAX_INFLATED)
    except zlib.error:
        return None


def decode_text(data: bytes) -> list[str]:
    """The strings of a text frame."""
    if not data:
        return []
    codec = {0: "latin-1", 1: "utf-16", 2: "utf-16-be", 3: "utf-8"}.get(data[0])
    if codec is None:
        return []
    text = data[1:].decode(codec, "replace").rstrip("\x00")
    parts = text.split("\x00") if text else []
    if data[0] == 1:  # every string begins with a byte order mark, of which the decoder removed the first
        parts[1:] = [part.removeprefix("\ufeff") for part in parts[1:]]
    return parts


def _encode_text(values: list[str], major: int) -> bytes:
    joined = "\x00".join(values)
    if major == 4:
        return b"\x03" + joined.encode("utf-8", "replace")
    try:
        return b"\x00" + joined.encode("latin-1")
    except UnicodeEncodeError:  # every string of a UTF-16 frame carries its own byte order mark
        return b"\x01" + b"\x00\x00".join(b"\xff\xfe" + value.encode("utf-16-le", "replace") for value in values)


class Id3Block(Block):
    """The ID3v2 tag of a file. ``store(file, old_total, data)`` puts the new tag where it belongs."""

    kind = "id3"

    def __init__(self, tag: Id3Tag | None, store: Callable[[BinaryIO, int, bytes], None]) -> None:
        # A new tag is v2.3, the version that every player, rekordbox and Windows can read.
        self.tag = tag or Id3Tag(3, 0, 0, b"", [], b"", 0)
        self.store = store
        fields = [Field(self._name(frame), frame) for frame in self.tag.frames]
        rest = {} if tag is None else {"version": f"2.{tag.major}.{tag.revision} {tag.flags:02x}"}
        room = 0 if tag is None else sum(map(len, tag.frames)) + len(tag.padding)
        super().__init__(fields, exists=tag is not None, room=room, rest=rest)

    def _name(self, frame: bytes) -> str:
        if self.tag.major == 2:
            return GENRE if frame[:3] == b"TCO" else frame[:3].decode("latin-1")
        if frame[:4] in (b"TCON", b"TCO\x00", b"TCO "):
            return GENRE
        name = _NAMES_OF.get(frame[:4]) or frame[:4].decode("latin-1")
        if name == "TXXX":
            words = decode_text(payload(frame[:4096], self.tag) or b"")
            return (our_name(words[0]) if words else None) or name
        return name

    def problem(self) -> str | None:
        if self.tag.major == 2:
            return "ID3v2.2 tags are read but never written"
        if self.tag.footer:
            return "the ID3 tag has a footer"
        if self.tag.padding.strip(b"\x00"):
            return "the padding of the ID3 tag is not empty: its size is wrong or it holds something unknown"
        if self._with_checksum(self.tag.extended, b"".join(self.tag.frames), self.tag.padding) != self.tag.extended:
            return "the ID3 tag carries a checksum that does not fit"
        return None

    def _with_checksum(self, extended: bytes, frames: bytes, padding: bytes) -> bytes:
        at = checksum_at(extended, self.tag.major)
        if at is None:
            return extended
        if self.tag.major == 3:  # covers the frames only (ID3v2.3, 3.2)
            return extended[:at] + zlib.crc32(frames).to_bytes(4, "big") + extended[at + 4 :]
        return extended[:at] + to_synchsafe(zlib.crc32(frames + padding), 5) + extended[at + 5 :]  # ID3v2.4, 3.2

    def encode(self, name: str, values: list[str]) -> list[Field]:
        frame = _FRAMES_OF.get(name, b"TXXX")
        if name == BPM:  # ID3v2.4, 4.2.3: an integer
            values = [str(round(float(value))) for value in values]
        words = values if name in _FRAMES_OF else [name, *values]
        data = _encode_text(words, self.tag.major)
        plain = self.tag.major == 3 or self.tag.plain_sizes
        size = len(data).to_bytes(4, "big") if plain else to_synchsafe(len(data))
        return [Field(name, frame + size + b"\x00\x00" + data)]

    def values(self, field: Field) -> list[str]:
        words = decode_text(payload(field.raw, self.tag) or b"")
        if field.name == GENRE:
            return [genre for word in words for genre in named(word)]
        return words if field.name in _FRAMES_OF else words[1:]

    def length(self) -> int:
        return sum(len(field.raw) for field in self.fields)

    def save(self, file: BinaryIO, room: int, /) -> None:
        tag = self.tag
        extended = tag.extended
        if tag.major == 3 and len(extended) >= 10:  # its last field is the size of the padding
            extended = extended[:6] + (room - self.length()).to_bytes(4, "big") + extended[10:]
        frames, padding = b"".join(field.raw for field in self.fields), b"\x00" * (room - self.length())
        body = self._with_checksum(extended, frames, padding) + frames + padding
        if tag.flags & UNSYNCHRONISED and tag.major < 4:
            body = unsynchronise(body)
        header = b"ID3" + bytes([tag.major, tag.revision, tag.flags]) + to_synchsafe(len(body))
        self.store(file, tag.total, header + body + tag.behind)

    def remove(self, file: BinaryIO, _room: int, /) -> None:
        self.store(file, self.tag.total, b"")


def load_front(file: BinaryIO) -> Id3Block:
    """The ID3v2 tag at the start of an MP3, AAC or TTA file."""
    file.seek(0)
    total = tag_size(file.read(10))
    tag = None
    if total is not None:
        tag = parse(read_exactly(file, 0, total, "the ID3 tag"))
    return Id3Block(tag, lambda target, old, data: splice(target, 0, old, data))


def no_frame_follows(file: BinaryIO) -> str | None:
    """Why an MP3 file must not be written, if neither a frame nor another tag follows its ID3v2 tag; else None.

    Zeros that some writers leave after the tag are skipped.
    """
    file.seek(0)
    file.seek(tag_size(file.read(10)) or 0)
    data = file.read(1 << 16).lstrip(b"\x00")
    if data[:3] == b"ID3" or data[:8] == b"APETAGEX" or (len(data) > 1 and data[0] == 0xFF and data[1] & 0xE0 == 0xE0):
        return None
    return "no MPEG frame follows the ID3 tag: its size is wrong"


def load_dsf(file: BinaryIO) -> Id3Block:
    """The ID3v2 tag at the end of a DSF file (DSF 1.01: total size at byte 12, pointer to the tag at byte 20)."""
    header = read_exactly(file, 0, 28, "the DSF header")
    end, at = file_size(file), int.from_bytes(header[20:28], "little")
    start = 28
    for name in (b"fmt ", b"data"):
        head = read_exactly(file, start, 12, "a DSF chunk")
        start += int.from_bytes(head[4:], "little")
        if head[:4] != name:
            raise TagDamagedError("the DSF chunks are not where they belong")
    if header[:4] != b"DSD " or int.from_bytes(header[12:20], "little") != end or start != (at or end):
        raise TagDamagedError("the sizes in the DSF header contradict the file")
    tag = (
        parse_all(read_exactly(file, at, end - at, "the ID3 tag"), "the end of the DSF file")
        if at < end and at
        else None
    )

    def store(target: BinaryIO, _old: int, data: bytes) -> None:
        splice(target, start, file_size(target) - start, data)
        target.seek(12)
        target.write((start + len(data)).to_bytes(8, "little") + (start if data else 0).to_bytes(8, "little"))

    return Id3Block(tag, store)


class Id3v1Block(Block):
    """The genre byte of an ID3v1 tag, which is the file's last 128 bytes; such a tag is never created."""

    kind = "id3v1"
    padded = False
    own_fields = False

    def __init__(self, file: BinaryIO) -> None:
        self.at = id3v1_at(file)
        data = b"" if self.at is None else read_exactly(file, self.at, 128, "the ID3v1 tag")
        fields = [Field("rest", data[:127]), Field(GENRE, data[127:])] if data else []
        super().__init__(fields, exists=bool(data), room=len(data))

    def says_something(self) -> bool:
        return any(field.raw[3:].strip(b"\x00 ") for field in self.fields if field.name != GENRE)

    def encode(self, name: str, values: list[str]) -> list[Field]:
        wanted = {_plain(value): None for value in values}
        known = {_plain(genre): number for number, genre in reversed(list(enumerate(ID3_GENRES)))}
        number = next((known[value] for value in wanted if value in known), 255)
        return [Field(name, bytes([number]))]

    def values(self, field: Field) -> list[str]:
        return [ID3_GENRES[field.raw[0]]] if field.raw and field.raw[0] < len(ID3_GENRES) else []

    def length(self) -> int:
        return 128

    def save(self, file: BinaryIO, room: int, /) -> None:
        if self.at is not None:
            file.seek(self.at + room - 1)
            file.write(next(field.raw for field in self.fields if field.name == GENRE))

    def remove(self, _file: BinaryIO, _room: int, /) -> None:
        raise TagDamagedError("an ID3v1 tag is never removed")


def _plain(genre: str) -> str:
    return "".join(c for c in genre.casefold().replace(" and ", " & ") if c.isalnum() or c == "&")


def id3v1_at(file: BinaryIO) -> int | None:
    """Where the ID3v1 tag begins, or None."""
    end = file_size(file)
    if end < 128:
        return None
    file.seek(max(0, end - 131))
    data = file.read(131)
    # "TAG" is also in the middle of "APETAGEX"
    return end - 128 if data[-128:-125] == b"TAG" and data[:-128] != b"APE" else None
