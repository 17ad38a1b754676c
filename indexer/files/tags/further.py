"""Reads the tags that stand beside the one that is written: several of a kind, other kinds, other forms.

What they say counts where the first tag is silent. A genre in one of them is the user's, and nothing here is written.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import BinaryIO, NamedTuple

from indexer.files.audio.payload.excerpt import MAX_WALK_BYTES
from indexer.files.audio.payload.ogg import further_comments as further_ogg_comments
from indexer.files.audio.payload.source import ByteSource
from indexer.files.tags.blocks import mp4_forms
from indexer.files.tags.blocks.ape import ApeBlock, ape_in_front
from indexer.files.tags.blocks.asf import further_attributes
from indexer.files.tags.blocks.blocks import file_size, read_exactly
from indexer.files.tags.blocks.id3 import FOOTER, id3v1_at, tag_size
from indexer.files.tags.blocks.vorbis import comment_fields, comment_text, further_comments
from indexer.files.tags.chunks import ID3_CHUNKS, chunks_of, is_info, read_id3_chunk, read_info
from indexer.files.tags.fields import (
    Fields,
    attempt,
    from_ape,
    from_asf,
    from_comments,
    from_id3,
    from_mp4_form,
)

MAX_TAGS = 8  # of one kind; more are damage
TELLING = ("title", "artist", "album", "album_artist", "comment", "label", "ours", "original")


class Further(NamedTuple):
    """One further tag: ``where`` names it for a person."""

    where: str
    fields: Fields

    def says_something(self) -> bool:
        """Whether a person would miss it: it names the track, or holds our record."""
        return any(value.strip() for name in TELLING for value in self.fields.get(name, []))

    def has_genre(self) -> bool:
        """Whether a genre stands there."""
        return any(value.strip() for name in ("genre", "free_genre") for value in self.fields.get(name, []))


Reader = Callable[[BinaryIO], Iterator[Further]]


def further_tags(file: BinaryIO, readers: Iterable[Reader]) -> list[Further]:
    """What the readers of a container find; a tag that cannot be read is there with the reason, as ``unread``.

    Raises ReadError where the disk is at fault.
    """
    found: list[Further] = []

    def collect(file: BinaryIO, reader: Reader) -> Fields:
        found.extend(reader(file))
        return {}

    for reader in readers:
        unread = attempt(collect, file, reader)
        found += [Further("a damaged tag", unread)] if unread else []
    return found


def id3_in_front(file: BinaryIO) -> Iterator[Further]:
    """The first ID3v2 tag at the start of a file whose own tag is of another kind."""
    for at, size in _front_tags(file)[:1]:
        yield Further("an ID3v2 tag at the start of the file", from_id3(read_exactly(file, at, size, "the ID3 tag")))


def more_id3(file: BinaryIO) -> Iterator[Further]:
    """ID3v2 tags at the start of the file but for one at its first byte, and one at its end (ID3v2.4 structure, 5)."""
    for at, size in _front_tags(file):
        if not at:
            continue
        yield Further("a second ID3v2 tag", from_id3(read_exactly(file, at, size, "the ID3 tag")))
    for end in dict.fromkeys((file_size(file), id3v1_at(file) or 0, ApeBlock(file).at)):
        footer = read_exactly(file, end - 10, 10, "the ID3 footer") if end >= 10 else b""
        total = tag_size(b"ID3" + footer[3:]) if footer[:3] == b"3DI" and footer[5] & FOOTER else None
        if total and total < end:
            tag = read_exactly(file, end - total, total, "the ID3 tag")
            yield Further("an ID3v2 tag at the end of the file", from_id3(tag))


def _front_tags(file: BinaryIO) -> list[tuple[int, int]]:
    """Position and size of the ID3v2 tags at the start of the file, in a row; zeros may stand before each."""
    tags: list[tuple[int, int]] = []
    at, end = 0, file_size(file)
    while len(tags) < MAX_TAGS:
        file.seek(at)
        window = file.read(1 << 16)
        at += len(window) - len(window.lstrip(b"\x00"))
        file.seek(at)
        total = tag_size(file.read(10))
        if total is None or at + total > end:
            break
        tags.append((at, total))
        at += total
    return tags


def id3v1(file: BinaryIO) -> Iterator[Further]:
    """The ID3v1 tag of a file whose own tag is of another kind."""
    at = id3v1_at(file)
    if at is not None:
        yield Further("an ID3v1 tag", from_id3(read_exactly(file, at, 128, "the ID3v1 tag")))


def more_ape(file: BinaryIO) -> Iterator[Further]:
    """APEv2 tags in front of the last, which is the one that is read and written."""
    block = ApeBlock(file)
    for _ in range(MAX_TAGS):
        block = ApeBlock(file, block.at)
        if not block.exists:
            break
        yield Further("a second APEv2 tag", from_ape(read_exactly(file, block.at, block.total, "the APE tag")))
    if block.at and (size := ape_in_front(file)):
        yield Further("an APEv2 tag at the start of the file", from_ape(read_exactly(file, 0, size, "the APE tag")))


def more_chunks(file: BinaryIO) -> Iterator[Further]:
    """ID3 chunks and LIST INFO chunks of a WAV or AIFF file behind the first of each."""
    chunks = list(chunks_of(file))
    for chunk in [chunk for chunk in chunks if chunk.name in ID3_CHUNKS][1:MAX_TAGS]:
        yield Further("a second ID3 chunk", read_id3_chunk(file, chunk) if chunk.size else {})
    for chunk in [chunk for chunk in chunks if is_info(file, chunk)][1:MAX_TAGS]:
        yield Further("a second LIST INFO", read_info(file, chunk))


def more_comments(file: BinaryIO) -> Iterator[Further]:
    """Vorbis comments of a FLAC file behind the first."""
    for comment in further_comments(file)[:MAX_TAGS]:
        yield Further("a second Vorbis comment", from_comments(comment))


def more_ogg_comments(file: BinaryIO) -> Iterator[Further]:
    """The comments of an Ogg file behind the first: of later links, of other streams, a second one of a FLAC stream.

    Not of a file that takes too long to walk.
    """
    if file_size(file) > MAX_WALK_BYTES:
        return
    for comment in islice(further_ogg_comments(ByteSource(file, "")), MAX_TAGS):
        fields = comment_fields(comment)[1]
        yield Further("a later comment", from_comments(comment_text(field.raw) for field in fields))


def other_mp4_forms(file: BinaryIO) -> Iterator[Further]:
    """The tags of an MP4 file outside of its item list."""
    for form in mp4_forms.other_forms(file):
        yield Further(form.where, from_id3(form.id3) if form.id3 else from_mp4_form(form.pairs))


def more_asf(file: BinaryIO) -> Iterator[Further]:
    """Attributes of an ASF file in objects that are not written."""
    for where, pairs in further_attributes(file):
        yield Further(where, from_asf(pairs))
