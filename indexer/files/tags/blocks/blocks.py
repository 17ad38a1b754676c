"""What every place of a file that can hold a genre has in common: raw fields in order, and room to write them in.

A block knows the bytes of each of its fields and writes back every field that is not the genre or ours exactly as it
stood. The formats are in the modules beside this one. Nothing here opens a file or decides what is written.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import BinaryIO, ClassVar, NamedTuple

GENRE = "GENRE"
OURS = "INDEXER_GENRE"
ORIGINAL = "INDEXER_ORIGINAL_GENRE"
OWN_NAMES = (GENRE, OURS, ORIGINAL)
GROWTH = 1024  # bytes of padding left behind when a tag outgrows its room, as most taggers do
MAX_TAG = 64 << 20  # a larger tag is damaged or hostile
MOVE_BLOCK = 1 << 20


class TagDamagedError(ValueError):
    """A tag whose bytes contradict themselves; the message says where."""


class UnwritableError(TagDamagedError):
    """A sound tag that cannot be rewritten, because its format has no room for it; the message says why."""


class Field(NamedTuple):
    """One field of a tag: its name (GENRE, OURS and ORIGINAL are ours to change) and its bytes as they stand."""

    name: str
    raw: bytes


class Block(ABC):
    """One tag of a file, read into ``fields``; ``save`` writes them back.

    ``room`` is the number of bytes that fields and padding take in the file, 0 where the tag does not exist yet.
    """

    kind: ClassVar[str]
    padded: bool = True  # whether a larger room than the content can be written
    smallest_gap: ClassVar[int] = 0  # padding of 1 to this many bytes less one cannot be expressed
    own_fields: ClassVar[bool] = True  # whether INDEXER_* fields fit in

    def __init__(self, fields: list[Field], *, exists: bool, room: int, rest: dict[str, str] | None = None) -> None:
        self.fields = fields
        self.exists = exists
        self.room = room
        self.rest = rest or {}  # digests of what belongs to the tag but is no field: version, vendor, ...

    @abstractmethod
    def encode(self, name: str, values: list[str]) -> list[Field]:
        """The fields that say ``values`` under one of our three names."""

    @abstractmethod
    def values(self, field: Field) -> list[str]:
        """The text of one of our three fields; empty when it cannot be decoded."""

    @abstractmethod
    def length(self) -> int:
        """Bytes that the fields take without padding."""

    @abstractmethod
    def save(self, file: BinaryIO, room: int, /) -> None:
        """Write the fields, padded to ``room``."""

    @abstractmethod
    def remove(self, file: BinaryIO, room: int, /) -> None:
        """Take the whole tag out of the file; ``room`` is what stood there before the tag (padding of a FLAC)."""

    def problem(self) -> str | None:
        """Why this tag must not be rewritten, or None."""
        return None

    def says_something(self) -> bool:
        """Whether any field but the genre and ours stands here."""
        return any(field.name not in OWN_NAMES for field in self.fields)

    def text_of(self, name: str) -> list[str]:
        """All values of the fields of one name, in order."""
        return [value for field in self.fields if field.name == name for value in self.values(field)]

    def write(self, file: BinaryIO, wanted_room: int | None = None) -> None:
        """Write the fields into ``wanted_room`` or the room there is; where both are too small, grow by some padding."""
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
    """Sha256 (hex) of the parts, each with its length, so that borders count."""
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
    """Bytes of the file; TagDamagedError when it ends before."""
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
    """Put ``new`` where ``old_size`` bytes stood; what follows moves, in blocks, and the file grows or shrinks."""
    end = file_size(file)
    tail_from, tail_to = offset + old_size, offset + len(new)
    remaining = end - tail_from
    if tail_to > tail_from:  # moving up: from the end, so that nothing is overwritten before it was read
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
