"""RIFF (WAV) and IFF (AIFF) chunks: the ID3 chunk, and the entries of LIST INFO.

All other chunks keep their bytes; the audio moves as a whole when a chunk before it grows. Files whose stated sizes
contradict their length (a WAV written to a pipe) are refused.
"""

from typing import BinaryIO, NamedTuple

from indexer.files.tags.blocks.blocks import (
    GENRE,
    ORIGINAL,
    OURS,
    OWN_NAMES,
    Block,
    Field,
    TagDamagedError,
    UnwritableError,
    digest_range,
    file_size,
    read_exactly,
    splice,
)
from indexer.files.tags.blocks.id3 import Id3Block, parse_all

AUDIO_CHUNKS = (b"data", b"SSND")  # compared through the audio identity
MAX_CHUNKS = 10_000  # zeros behind the last chunk read as a chunk every eight bytes
LARGEST = (1 << 32) - (1 << 18)  # bytes; leaves room for our tags below the format's 4 GiB


class Chunk(NamedTuple):
    """A chunk: ``at`` is its position, ``size`` its content's length, ``total`` with header and pad byte."""

    name: bytes
    at: int
    size: int
    total: int
    form: bytes  # type of a LIST, or nothing


class Form:
    """The chunks of a WAV or AIFF file."""

    def __init__(self, file: BinaryIO) -> None:
        header = read_exactly(file, 0, 12, "the RIFF header")
        self.order: str = "big" if header[:4] == b"FORM" else "little"
        if header[:4] in (b"RF64", b"BW64"):
            raise UnwritableError("WAV files in the form for more than 4 GiB are not edited")
        if header[:4] not in (b"RIFF", b"FORM"):
            raise TagDamagedError("the RIFF header is missing")
        size = file_size(file)
        self.too_many = 8 + self.number(header[4:8]) - size
        if self.too_many not in (0, 1):  # one missing pad byte at the end is common and harmless
            raise TagDamagedError(
                f"the sizes in the file contradict its length ({size + self.too_many:,} and {size:,} bytes)"
            )
        self.end = size
        self.chunks: list[Chunk] = []
        at = 12
        while at < size:
            head = read_exactly(file, at, min(12, size - at), "a chunk")
            length = self.number(head[4:8])
            if len(head) < 8 or at + 8 + length > size or not head[:4].isascii() or len(self.chunks) == MAX_CHUNKS:
                raise TagDamagedError("the sizes of the chunks contradict the length of the file")
            total = min(8 + length + length % 2, size - at)
            self.chunks.append(Chunk(head[:4], at, length, total, head[8:12] if head[:4] == b"LIST" else b""))
            at += total

    @property
    def ending(self) -> list[int] | None:
        """[bytes that the header states and the file lacks, pad bytes that the last chunk lacks]; None for [0, 0]."""
        last = self.chunks[-1] if self.chunks else None
        unpadded = int(last is not None and last.size % 2 == 1 and last.total == 8 + last.size)
        return [self.too_many, unpadded] if self.too_many or unpadded else None

    def number(self, data: bytes) -> int:
        return int.from_bytes(data, "big" if self.order == "big" else "little")

    def find(self, *names: bytes, form: bytes = b"") -> Chunk | None:
        """The first chunk with one of these names and this form, or None."""
        return next(iter(self.all(*names, form=form)), None)

    def all(self, *names: bytes, form: bytes = b"") -> list[Chunk]:
        """All chunks with one of these names and this form, in the order of the file."""
        return [c for c in self.chunks if c.name in names and c.form == form]

    def replace(self, file: BinaryIO, chunk: Chunk | None, name: bytes, data: bytes) -> None:
        """Write a chunk, create it at the end (``chunk`` None) or remove it (no data), and update the file's size."""
        order = "big" if self.order == "big" else "little"
        new = name + len(data).to_bytes(4, "big" if order == "big" else "little") + data + b"\x00" * (len(data) % 2)
        new = new if data else b""
        if chunk is None:
            start, old = self.end, 0
            new = b"\x00" * (self.end % 2) + new if new else new
        else:
            start, old = chunk.at, chunk.total
        splice(file, start, old, new)
        self.state_size(file, file_size(file) - 8)

    def state_size(self, file: BinaryIO, size: int) -> None:
        """Write the file's size into its header."""
        if size > 0xFFFFFFFF:
            raise UnwritableError("the file would outgrow its format")
        file.seek(4)
        file.write(size.to_bytes(4, "big" if self.order == "big" else "little"))


class _ChunkBlock(Block):
    """A tag in a chunk: what its file's end needs to be restored."""

    def restore_ending(self, file: BinaryIO, ending: object, /) -> None:
        form = Form(file)
        if ending not in ([0, 1], [1, 0], [1, 1]) or form.ending == ending:
            return
        too_many, unpadded = ending
        last = form.chunks[-1]
        if unpadded and last.total > 8 + last.size:
            file.truncate(form.end - 1)
        form.state_size(file, file_size(file) - 8 + too_many)


class _Id3Chunk(_ChunkBlock, Id3Block):
    """The ID3 tag in its chunk."""

    def remove(self, file: BinaryIO, room: int, /) -> None:
        """Remove the chunk; where an empty one stood before the tag, leave it empty."""
        form = Form(file)
        chunk = form.find(b"id3 ", b"ID3 ")
        if not self.hollow or chunk is None:
            super().remove(file, room)
            return
        splice(file, chunk.at, chunk.total, chunk.name + bytes(4))
        form.state_size(file, file_size(file) - 8)


def no_room(file: BinaryIO) -> str | None:
    """Why no tag can be put into a WAV or AIFF file, or None."""
    return "there is no room for a tag: the format ends at 4 GiB" if file_size(file) > LARGEST else None


def load_id3_chunk(file: BinaryIO) -> Id3Block:
    """The ID3 tag in its chunk, written 'id3 ' in WAV and 'ID3 ' in AIFF."""
    form = Form(file)
    chunk = form.find(b"id3 ", b"ID3 ")
    tag = None
    if chunk is not None and chunk.size:
        tag = parse_all(read_exactly(file, chunk.at + 8, chunk.size, "the ID3 chunk"), "the ID3 chunk")
    name = chunk.name if chunk else (b"ID3 " if form.order == "big" else b"id3 ")
    block = _Id3Chunk(tag, lambda target, _old, data: form.replace(target, chunk, name, data))
    block.ending, block.hollow = form.ending, int(chunk is not None and not chunk.size)
    return block


_INFO_IDS = {GENRE: b"IGNR", OURS: b"ixgn", ORIGINAL: b"ixor"}
_INFO_NAMES = {entry: name for name, entry in _INFO_IDS.items()}


class InfoBlock(_ChunkBlock):
    """The entries of LIST INFO, which rekordbox and Windows read instead of the ID3 chunk.

    Our own fields are written here only if the file has no other tag. RIFF leaves lower-case ids to applications.
    """

    kind = "info"
    padded = False
    own_fields = False

    def __init__(self, file: BinaryIO, chunk: Chunk | None = None) -> None:
        """Read the entries of one chunk; None: of the first LIST INFO, if there is one."""
        self.form = Form(file)
        self.chunk = chunk or self.form.find(b"LIST", form=b"INFO")
        fields: list[Field] = []
        if self.chunk:
            data = read_exactly(file, self.chunk.at + 12, self.chunk.size - 4, "LIST INFO")
            at = 0
            while at < len(data):
                size = int.from_bytes(data[at + 4 : at + 8], "little")
                if at + 8 + size > len(data):
                    raise TagDamagedError("an entry of LIST INFO is damaged")
                name = data[at : at + 4]
                end = min(at + 8 + size + size % 2, len(data))
                fields.append(Field(_INFO_NAMES.get(name) or name.decode("latin-1"), data[at:end]))
                at = end
        super().__init__(fields, exists=self.chunk is not None, room=self.chunk.size - 4 if self.chunk else 0)
        self.ending = self.form.ending

    def says_something(self) -> bool:
        """Whether there is more than the name of the writing program, which FFmpeg adds by itself."""
        return any(field.name not in (*OWN_NAMES, "ISFT") for field in self.fields)

    def encode(self, name: str, values: list[str]) -> list[Field]:
        if name not in _INFO_IDS:
            return []
        data = "; ".join(values).encode("utf-8", "replace") + b"\x00"
        return [Field(name, _INFO_IDS[name] + len(data).to_bytes(4, "little") + data + b"\x00" * (len(data) % 2))]

    def values(self, field: Field) -> list[str]:
        text = entry_text(field.raw)
        return [value for value in (genres_in(text) if field.name == GENRE else [text]) if value]

    def length(self) -> int:
        return sum(len(field.raw) for field in self.fields)

    def save(self, file: BinaryIO, room: int, /) -> None:
        data = b"".join(field.raw for field in self.fields)
        assert len(data) == room
        self.form.replace(file, self.chunk, b"LIST", b"INFO" + data)

    def remove(self, file: BinaryIO, _room: int, /) -> None:
        self.form.replace(file, self.chunk, b"LIST", b"")


def genres_in(text: str) -> list[str]:
    """The values of an IGNR entry, which holds one text: Windows joins several with semicolons."""
    return text.split("; ")


def entry_text(raw: bytes) -> str:
    """The text of an INFO entry: UTF-8, else Latin-1, as older programs write it."""
    data = raw[8 : 8 + int.from_bytes(raw[4:8], "little")].split(b"\x00")[0]
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def other_chunks(file: BinaryIO) -> dict[str, str]:
    """Digests of the chunks that are neither audio nor tag, in order."""
    found: dict[str, str] = {}
    form = Form(file)
    written = (form.find(b"id3 ", b"ID3 "), form.find(b"LIST", form=b"INFO"))
    for number, chunk in enumerate(c for c in form.chunks if c not in written):
        value = "audio" if chunk.name in AUDIO_CHUNKS else digest_range(file, chunk.at, 8 + chunk.size)
        found[f"chunk {number} {chunk.name.decode('latin-1')}"] = value
    return found
