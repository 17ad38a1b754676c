"""Reads the tags in the chunks of WAV and AIFF files: ID3, LIST INFO, and the text chunks of AIFF.

The sizes in such files are often wrong (a recorder never brought its header up to date) or stand elsewhere (RF64 and
BW64: EBU Tech 3306, ITU-R BS.2088), so every chunk that lies in the file counts, whatever the header says. Of several
chunks that hold one field the first counts. Never writes.
"""

from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from indexer.files.audio.payload.source import ByteSource, after_leading_tags
from indexer.files.tags.blocks.blocks import TagDamagedError, file_size, read_exactly
from indexer.files.tags.blocks.riff import entry_text, genres_in
from indexer.files.tags.fields import Fields, attempt, first_of, from_id3

ID3_CHUNKS = (b"id3 ", b"ID3 ")
MAX_CHUNKS = 10_000
_HEAD_BYTES = 1 << 12  # read of a file to pass over tags in front of it
_SIZE_IN_DS64 = 0xFFFFFFFF
_INFO_NAMES = {
    b"INAM": "title", b"IART": "artist", b"IPRD": "album", b"ICMT": "comment", b"ICRD": "year", b"IGNR": "genre",
    b"ixgn": "ours", b"ixor": "original",
}  # fmt: skip
_TEXT_NAMES = {b"NAME": "title", b"AUTH": "artist", b"ANNO": "comment"}  # Audio IFF 1.3, Text Chunks


class Chunk(NamedTuple):
    """A chunk: its name, where its content starts, and the length of that."""

    name: bytes
    start: int  # of its content
    size: int


def read_wav(file: BinaryIO) -> Fields:
    """WAV, RF64, BW64: the ID3 chunk, its gaps filled from LIST INFO."""
    chunks = list(chunks_of(file))
    lists = [chunk for chunk in chunks if is_info(file, chunk)]
    return first_of([*_id3_tags(file, chunks), *(attempt(read_info, file, chunk) for chunk in lists)])


def read_aiff(file: BinaryIO) -> Fields:
    """AIFF: the ID3 chunk, its gaps filled from the chunks NAME, AUTH and ANNO."""
    chunks = list(chunks_of(file))
    texts = [attempt(_text, file, chunk) for chunk in chunks if chunk.name in _TEXT_NAMES]
    return first_of([*_id3_tags(file, chunks), *texts])


def chunks_of(file: BinaryIO) -> Iterator[Chunk]:
    """The chunks from the first that lie whole in the file; a pad byte to an even length may be missing."""
    begin, end = after_leading_tags(ByteSource(file, "", window_bytes=_HEAD_BYTES)), file_size(file)
    order = "big" if _bytes(file, begin, 4) == b"FORM" else "little"
    at, data_bytes = begin + 12, 0
    for _ in range(MAX_CHUNKS):
        head = _bytes(file, at, 8)
        name, size = head[:4], int.from_bytes(head[4:], order)  # type: ignore[arg-type]
        if name == b"data" and size == _SIZE_IN_DS64:
            size = data_bytes or size
        following = at + 8 + size
        if not _is_name(name) or len(head) < 8 or following > end:
            return
        if name == b"ds64":
            data_bytes = int.from_bytes(_bytes(file, at + 16, 8), "little")
        yield Chunk(name, at + 8, size)
        unpadded = _is_name(_bytes(file, following, 4)) and not _is_name(_bytes(file, following + 1, 4))
        at = following + (size % 2 and not unpadded)


def _is_name(name: bytes) -> bool:
    return len(name) == 4 and all(32 <= byte < 127 for byte in name)


def _bytes(file: BinaryIO, at: int, count: int) -> bytes:
    file.seek(at)
    return file.read(count)


def is_info(file: BinaryIO, chunk: Chunk) -> bool:
    """Whether a chunk is a LIST INFO."""
    return chunk.name == b"LIST" and _bytes(file, chunk.start, 4) == b"INFO"


def _id3_tags(file: BinaryIO, chunks: list[Chunk]) -> list[Fields]:
    found = [chunk for chunk in chunks if chunk.name in ID3_CHUNKS and chunk.size]
    return [attempt(read_id3_chunk, file, chunk) for chunk in found]


def read_id3_chunk(file: BinaryIO, chunk: Chunk) -> Fields:
    """The fields of the ID3 tag in a chunk."""
    return from_id3(read_exactly(file, chunk.start, chunk.size, "the ID3 chunk"))


def read_info(file: BinaryIO, chunk: Chunk) -> Fields:
    """The entries of a LIST INFO."""
    data = read_exactly(file, chunk.start + 4, chunk.size - 4, "LIST INFO")
    fields: Fields = {}
    at = 0
    while at + 8 <= len(data):
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        if at + 8 + size > len(data):
            raise TagDamagedError("an entry of LIST INFO is damaged")
        if field := _INFO_NAMES.get(data[at : at + 4]):
            text = entry_text(data[at : at + 8 + size])
            fields.setdefault(field, []).extend(genres_in(text) if field == "genre" else [text])
        at += 8 + size + size % 2
    return fields


def _text(file: BinaryIO, chunk: Chunk) -> Fields:
    data = read_exactly(file, chunk.start, chunk.size, "a text chunk")
    return {_TEXT_NAMES[chunk.name]: [entry_text(bytes(4) + len(data).to_bytes(4, "little") + data)]}
