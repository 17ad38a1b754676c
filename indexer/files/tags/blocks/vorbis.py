"""Vorbis comments as raw bytes, in FLAC metadata blocks and in Ogg packets (Vorbis, Opus, Speex, FLAC).

All other comments, the vendor, pictures and unknown metadata blocks keep their bytes and order; ogg_pages.py does the
paging.
"""

from typing import BinaryIO, ClassVar

from indexer.files.tags.blocks.blocks import (
    MAX_TAG,
    NAMED,
    Block,
    Field,
    TagDamagedError,
    UnwritableError,
    digest,
    file_size,
    our_name,
    read_exactly,
    splice,
)
from indexer.files.tags.blocks.id3 import tag_size
from indexer.files.tags.blocks.ogg_pages import CommentPages

PADDING, COMMENT = 1, 4  # FLAC metadata block types (RFC 9639)
VENDOR = b"indexer"


class _CommentBlock(Block):
    """The comment list, which FLAC and Ogg share."""

    def comments(self, vendor: bytes) -> bytes:
        """The list as bytes, without framing bit."""
        parts = [vendor, *(field.raw for field in self.fields)]
        counted = [len(part).to_bytes(4, "little") + part for part in parts]
        return counted[0] + len(self.fields).to_bytes(4, "little") + b"".join(counted[1:])

    def encode(self, name: str, values: list[str]) -> list[Field]:
        return [Field(name, f"{name}={value}".encode("utf-8", "replace")) for value in values]

    def values(self, field: Field) -> list[str]:
        return [field.raw.partition(b"=")[2].decode("utf-8", "replace")]


def comment_fields(data: bytes) -> tuple[bytes, list[Field], int]:
    """Vendor, comments, and where the list ends."""
    vendor, at = _counted(data, 0)
    if at + 4 > len(data):
        raise TagDamagedError("the Vorbis comment ends early")
    count = int.from_bytes(data[at : at + 4], "little")
    at += 4
    fields = []
    for _ in range(count):
        raw, at = _counted(data, at)
        key = raw.partition(b"=")[0].decode("utf-8", "replace").upper()
        fields.append(Field(key if key in NAMED or our_name(key) else f"comment {key}", raw))
    return vendor, fields, at


def _counted(data: bytes, at: int) -> tuple[bytes, int]:
    start = at + 4
    end = start + int.from_bytes(data[at:start], "little")
    if start > len(data) or end > len(data):
        raise TagDamagedError("the Vorbis comment ends early")
    return data[start:end], end


class FlacBlock(_CommentBlock):
    """The VORBIS_COMMENT block of a FLAC file; its room includes the last padding block."""

    kind = "vorbis"
    smallest_gap: ClassVar[int] = 4  # the header of a padding block

    def __init__(self, file: BinaryIO) -> None:
        self.start = flac_start(file)
        self.blocks, self.end = _flac_blocks(file, self.start)
        first = next((i for i, (kind, _) in enumerate(self.blocks) if kind == COMMENT), None)
        paddings = [i for i, (kind, _) in enumerate(self.blocks) if kind == PADDING]
        self.vendor, room = VENDOR, 0
        fields: list[Field] = []
        if first is not None:
            data = self.blocks[first][1]
            self.vendor, fields, end = comment_fields(data)
            if end != len(data):
                raise TagDamagedError("the FLAC comment block holds more than comments")
            room += 4 + len(data)
        if any(self.blocks[i][1].strip(b"\x00") for i in paddings):
            raise TagDamagedError("the FLAC padding is not empty")
        self.at, self.padding_at = first, paddings[-1] if paddings else None
        if self.padding_at is not None:
            room += 4 + len(self.blocks[self.padding_at][1])
        rest = {"vendor": digest([self.vendor])} if first is not None else {}
        others = [bytes([kind]) + data for i, (kind, data) in enumerate(self.blocks) if kind != PADDING and i != first]
        rest["other metadata blocks"] = digest(others)
        super().__init__(fields, exists=first is not None, room=room, rest=rest)

    def length(self) -> int:
        return 4 + len(self.comments(self.vendor)) if self.fields or self.exists else 0

    def save(self, file: BinaryIO, room: int, /) -> None:
        self._write(file, (COMMENT, self.comments(self.vendor)), room - self.length())

    def remove(self, file: BinaryIO, room: int, /) -> None:
        self._write(file, None, room if room >= self.smallest_gap else 0)

    def _write(self, file: BinaryIO, comment: tuple[int, bytes] | None, gap: int) -> None:
        blocks: list[tuple[int, bytes]] = []
        padding = [(PADDING, bytes(gap - 4))] if gap else []
        for number, block in enumerate(self.blocks):
            if number == self.at:
                blocks += [comment] if comment else []
            elif number == self.padding_at:
                blocks += ([comment] if comment and self.at is None else []) + padding
            else:
                blocks.append(block)
        if self.padding_at is None:
            blocks += ([comment] if comment and self.at is None else []) + padding
        if any(len(data) >= 1 << 24 for _, data in blocks):
            raise UnwritableError("a FLAC metadata block would become too large")
        last = len(blocks) - 1
        out = b"".join(
            bytes([kind | 0x80 * (i == last)]) + len(data).to_bytes(3, "big") + data
            for i, (kind, data) in enumerate(blocks)
        )
        splice(file, self.start + 4, self.end - self.start - 4, out)


def further_comments(file: BinaryIO) -> list[list[tuple[str, str]]]:
    """Names and texts of each VORBIS_COMMENT block of a FLAC file but the first, which is the one that is written."""
    at, last, places = flac_start(file) + 4, False, []
    while not last:
        head = read_exactly(file, at, 4, "a FLAC metadata block")
        last, size = bool(head[0] & 0x80), int.from_bytes(head[1:], "big")
        places += [(at + 4, size)] if head[0] & 0x7F == COMMENT else []
        at += 4 + size
    lists = [comment_fields(read_exactly(file, *place, "a FLAC metadata block"))[1] for place in places[1:]]
    return [[comment_text(field.raw) for field in fields] for fields in lists]


def comment_text(raw: bytes) -> tuple[str, str]:
    """Name and text of a comment."""
    name, _, value = raw.partition(b"=")
    return name.decode("utf-8", "replace"), value.decode("utf-8", "replace")


def flac_start(file: BinaryIO) -> int:
    """The position of the mark fLaC: the start of the file, or the end of an ID3 tag."""
    file.seek(0)
    start = tag_size(file.read(10)) or 0
    if read_exactly(file, start, 4, "the FLAC mark") != b"fLaC":
        raise TagDamagedError("the FLAC mark is missing")
    return start


def _flac_blocks(file: BinaryIO, start: int) -> tuple[list[tuple[int, bytes]], int]:
    blocks, at, last = [], start + 4, False
    while not last:
        head = read_exactly(file, at, 4, "a FLAC metadata block")
        size = int.from_bytes(head[1:], "big")
        blocks.append((head[0] & 0x7F, read_exactly(file, at + 4, size, "a FLAC metadata block")))
        last = bool(head[0] & 0x80)
        at += 4 + size
        if at - start > MAX_TAG:
            raise TagDamagedError("the FLAC metadata is larger than 64 MiB")
    if at < file_size(file) and read_exactly(file, at, 1, "the FLAC audio") != b"\xff":
        raise TagDamagedError("the FLAC metadata blocks do not end where the audio begins")
    return blocks, at


class OggBlock(_CommentBlock):
    """The comment packet of the first Ogg stream."""

    kind = "vorbis"
    # start of the first packet -> (start of the comment packet, has a framing bit, may be padded)
    CODECS: ClassVar[dict[bytes, tuple[bytes, bool, bool]]] = {
        b"\x01vorbis": (b"\x03vorbis", True, True),
        b"OpusHead": (b"OpusTags", False, True),
        b"Speex   ": (b"", False, True),
        b"\x7fFLAC": (b"", False, False),
    }

    def __init__(self, file: BinaryIO) -> None:
        self.pages = CommentPages(file)
        codec = next((codec for codec in self.CODECS if self.pages.first.startswith(codec)), None)
        if codec is None:
            raise TagDamagedError("the first Ogg stream is of an unknown kind")
        self.prefix, self.framing, self.padded = self.CODECS[codec]
        data = self.pages.packet
        self.is_flac = codec == b"\x7fFLAC"
        if self.is_flac:
            if data[0] & 0x7F != COMMENT or int.from_bytes(data[1:4], "big") != len(data) - 4:
                raise TagDamagedError("the FLAC comment packet is damaged")
            self.prefix = data[:4]
        elif not data.startswith(self.prefix):
            raise TagDamagedError("the comment packet is missing")
        body = data[len(self.prefix) :]
        self.vendor, fields, end = comment_fields(body)
        self.tail = self._tail(body[end:])
        rest = {"vendor": digest([self.vendor]), "tail": digest([self.tail])}
        super().__init__(fields, exists=True, room=len(body), rest=rest)
        self.layout = self.pages.layout

    def _tail(self, after: bytes) -> bytes:
        """What to keep after the comments: framing bit, what Opus marks to be kept (RFC 7845, 5.2), zeros in FLAC."""
        if self.framing:
            if not after[:1] or not after[0] & 1:
                raise TagDamagedError("the framing bit of the Vorbis comment is missing")
            if after[1:].strip(b"\x00"):
                raise TagDamagedError("the padding of the Vorbis comment is not empty")
            return after[:1]
        if self.prefix == b"OpusTags" and after[:1] and after[0] & 1:
            self.padded = False
            return after
        framing = after[:1] if after[:1] == b"\x01" and not self.prefix else b""  # FFmpeg writes one for Speex too
        if after[len(framing) :].strip(b"\x00"):
            raise TagDamagedError("the padding of the comment packet is not empty")
        return after if self.is_flac else framing

    def length(self) -> int:
        return len(self.comments(self.vendor)) + len(self.tail)

    def save(self, file: BinaryIO, room: int, /) -> None:
        body = self.comments(self.vendor) + self.tail
        prefix = self.prefix[:1] + len(body).to_bytes(3, "big") if self.is_flac else self.prefix
        self.pages.write(file, prefix + body + bytes(room - len(body)), self.layout)

    def remove(self, _file: BinaryIO, _room: int, /) -> None:
        raise TagDamagedError("the comment packet is never removed")
