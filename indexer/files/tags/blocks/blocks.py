"""The interface of a tag that can hold a genre: raw fields in order, and room to write them in.

A block keeps the bytes of its fields, and writes back every field but the genre and ours unchanged. The modules beside
this one implement the formats. Nothing here opens a file or decides what is written.
"""

import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import BinaryIO, ClassVar, NamedTuple

GENRE = "GENRE"
OURS = "INDEXER_GENRE"
ORIGINAL = "INDEXER_ORIGINAL_GENRE"
OWN_NAMES = (GENRE, OURS, ORIGINAL)
# Fields that may be added where they are empty, see files/tags/added.py; the last one records them.
BPM, KEY, ADDED = "BPM", "INITIALKEY", "INDEXER_ADDED"
NAMED = (*OWN_NAMES, BPM, KEY, ADDED)
_OUR_NAME = re.compile("INDEXER_[A-Z0-9_]{1,40}")
GROWTH = 1024  # bytes of padding added when a tag outgrows its room
MAX_TAG = 64 << 20  # a larger tag is damaged or hostile
MOVE_BLOCK = 1 << 20


class TagDamagedError(ValueError):
    """A tag whose bytes contradict themselves; the message says where."""


class UnwritableError(TagDamagedError):
    """A sound tag that cannot be rewritten, because its format has no room for it; the message says why."""


class Field(NamedTuple):
    """One field of a tag: its name and its raw bytes; only those of NAMED and of label sets may change."""

    name: str
    raw: bytes


def our_name(name: str) -> str | None:
    """A field's name in capitals where it has the form of our own, INDEXER_*; None otherwise."""
    return upper if _OUR_NAME.fullmatch(upper := name.upper()) else None


def is_set_field(name: str) -> bool:
    """Whether a field is of the form that label sets are written into, such as INDEXER_MOOD."""
    return bool(_OUR_NAME.fullmatch(name)) and name not in NAMED


class Block(ABC):
    """One tag of a file, read into ``fields``; ``save`` writes them back.

    ``room`` is the number of bytes that fields and padding take in the file, 0 where the tag does not exist yet.
    """

    kind: ClassVar[str]
    padded: bool = True  # whether the tag can be padded
    smallest_gap: ClassVar[int] = 0  # the smallest padding the format can express, in bytes
    own_fields: ClassVar[bool] = True  # whether the tag can hold INDEXER_* fields
    layout: object = None  # how the tag is divided among pages, as JSON can hold it, where its format has pages
    hollow: int = 0  # where the tag does not exist: how many empty chunks or atoms for it stand there, one in the other
    ending: object = None  # how the file ends, as JSON can hold it, where that is odd and a write puts it right

    def __init__(self, fields: list[Field], *, exists: bool, room: int, rest: dict[str, str] | None = None) -> None:
        self.fields = fields
        self.exists = exists
        self.room = room
        self.rest = rest or {}  # what the tag holds besides fields (version, vendor, ...), as text or digest

    @abstractmethod
    def encode(self, name: str, values: list[str]) -> list[Field]:
        """Encode ``values`` as fields of NAMED or of a label set; none where this kind of tag has no place for it."""

    @abstractmethod
    def values(self, field: Field) -> list[str]:
        """The text of a field of NAMED or of a label set; empty when it cannot be decoded."""

    @abstractmethod
    def length(self) -> int:
        """Bytes that the fields take without padding."""

    @abstractmethod
    def save(self, file: BinaryIO, room: int, /) -> None:
        """Write the fields, padded to ``room``."""

    @abstractmethod
    def remove(self, file: BinaryIO, room: int, /) -> None:
        """Remove the whole tag; ``room``: the room that was there before the tag (padding of a FLAC)."""

    def restore_ending(self, _file: BinaryIO, _ending: object, /) -> None:
        """Give the file the recorded odd end again; nothing where its format knows none."""
        return

    def problem(self) -> str | None:
        """Why this tag must not be rewritten, or None."""
        return None

    def says_something(self) -> bool:
        """Whether the tag holds any field but the genre and ours."""
        return any(field.name not in OWN_NAMES for field in self.fields)

    def text_of(self, name: str) -> list[str]:
        """All values of the fields of one name, in order."""
        return [value for field in self.fields if field.name == name for value in self.values(field)]

    def write(self, file: BinaryIO, wanted_room: int | None = None) -> None:
        """Write the fields into ``wanted_room`` or the present room; if both are too small, grow and add padding."""
        content = self.length()
        if not self.padded:
            self.save(file, content)
            return
        for room in (wanted_room, self.room):
            if room is not None and (room == content or room - content >= max(1, self.smallest_gap)):
                self.save(file, room)
                return
        self.save(file, content + GROWTH)


def digest(parts: Iterable[bytes]) -> str:
    """Sha256 (hex) of the parts, each preceded by its length, so that their borders count."""
    total = hashlib.sha256()
    for part in parts:
        total.update(len(part).to_bytes(8, "little"))
        total.update(part)
    return total.hexdigest()


def digest_range(file: BinaryIO, offset: int, size: int) -> str:
    """Sha256 (hex) of a range of the file, read in blocks."""
    total = hashlib.sha256()
    file.seek(offset)
    while size > 0 and (block := file.read(min(size, MOVE_BLOCK))):
        total.update(block)
        size -= len(block)
    return total.hexdigest()


def read_exactly(file: BinaryIO, offset: int, size: int, what: str) -> bytes:
    """Read ``size`` bytes at ``offset``. Raises TagDamagedError where the file ends before; ``what`` names them."""
    if not 0 <= size <= MAX_TAG:
        raise TagDamagedError(f"{what} claims {size:,} bytes")
    file.seek(offset)
    data = file.read(size)
    if len(data) != size:
        raise TagDamagedError(f"{what} is longer than the file")
    return data


def file_size(file: BinaryIO) -> int:
    """Length of the open file in bytes."""
    return file.seek(0, 2)


def splice(file: BinaryIO, offset: int, old_size: int, new: bytes) -> None:
    """Replace ``old_size`` bytes at ``offset`` by ``new``; the bytes after them are moved in blocks."""
    end = file_size(file)
    tail_from, tail_to = offset + old_size, offset + len(new)
    remaining = end - tail_from
    if tail_to > tail_from:  # moving up: begin at the end, so that nothing is overwritten unread
        while remaining > 0:
            step = min(MOVE_BLOCK, remaining)
            remaining -= step
            file.seek(tail_from + remaining)
            data = file.read(step)
            file.seek(tail_to + remaining)
            file.write(data)
    elif tail_to < tail_from:
        done = 0
        while done < remaining:
            file.seek(tail_from + done)
            data = file.read(min(MOVE_BLOCK, remaining - done))
            file.seek(tail_to + done)
            file.write(data)
            done += len(data)
        file.truncate(tail_to + remaining)
    file.seek(offset)
    file.write(new)
    file.flush()
