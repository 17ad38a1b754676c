"""Reads an open file for the container walkers, and finds the tags before and after the audio of any container.

Keeps at most two read windows in memory, calls the heartbeat, checks every count and size against the real file size,
and skips ID3v2, ID3v1, APEv2 and Lyrics3 blocks. Never writes.
"""

import os
import struct
from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

from indexer.errors import DeferredError, ReadError
from indexer.wording import escaped

WINDOW_BYTES = 1 << 20
ZEROS_BYTES = 1 << 12
MAX_TAGS = 64  # blocks before or after the audio; real files have at most five
ID3V1_BYTES, ID3V1_EXTENDED_BYTES, APE_FOOTER_BYTES, ID3V2_HEADER_BYTES = 128, 227, 32, 10


class Span(NamedTuple):
    """A run of payload bytes in the file; interleaved streams have one ``lane`` each."""

    start: int
    end: int
    lane: int = 0


class Cut(NamedTuple):
    """The file lost its end: the spans are what is there, and the identity is not that of the whole file."""

    reason: str


Part = bytes | Span | Cut  # bytes: facts about the format that enter the identity


class Readable(Protocol):
    """A file that is open for reading bytes."""

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int: ...

    def read(self, size: int = -1, /) -> bytes: ...


class ByteSource:
    """An open file for the walkers: its size, its bytes by position, and errors that name the path."""

    def __init__(
        self,
        file: Readable,
        path: str | bytes | os.PathLike[str],
        heartbeat: Callable[[], None] = lambda: None,
        window_bytes: int = WINDOW_BYTES,
    ) -> None:
        """``window_bytes``: how much is read at once, at least."""
        self.path = path
        self._window_bytes = window_bytes
        self.size = file.seek(0, os.SEEK_END)
        self._file = file
        self._heartbeat = heartbeat
        self._start = 0
        self._buffer = b""
        self._before = 0, b""  # the previous window: walkers alternate between head and end
        self._unreported = 0
        self._cut: Cut | None = None

    def window(self, position: int) -> tuple[bytes, int]:
        """(a buffer that holds ``position``, the position of its first byte); empty beyond the end.

        Raises DeferredError, as all reading here does, if the file became shorter since it was opened.
        """
        self._load(position, 1)
        if not self._buffer and position < self.size:
            raise self._shrunk()
        return self._buffer, self._start

    def at(self, position: int, count: int) -> bytes:
        """Up to ``count`` bytes at ``position``: fewer at the end of the file, none outside."""
        if not 0 <= position < self.size:
            return b""
        count = min(count, self.size - position)
        self._load(position, count)
        offset = position - self._start
        found = self._buffer[offset : offset + count]
        if len(found) < count:
            raise self._shrunk()
        return found

    def _load(self, position: int, count: int) -> None:
        """Make the window with these bytes the current one; if neither holds them, read a new one over the older."""
        if not self._recall(position, count):
            self._before = self._start, self._buffer
            self._start, self._buffer = position, self._read(position, max(count, self._window_bytes))

    def _recall(self, position: int, count: int) -> bool:
        """Whether a window holds these bytes; if so, it becomes the current one."""
        for _ in range(2):
            if self._start <= position and position + count <= self._start + len(self._buffer):
                return True
            (self._start, self._buffer), self._before = self._before, (self._start, self._buffer)
        return False

    def _read(self, position: int, count: int) -> bytes:
        self._file.seek(position)
        block = self._file.read(count)
        self._unreported += len(block)
        if self._unreported >= WINDOW_BYTES:
            self._unreported = 0
            self._heartbeat()
        return block

    def blocks(self, start: int, end: int) -> Iterator[bytes]:
        """Yield the bytes from start to end in blocks. Raises DeferredError if the file became shorter meanwhile."""
        position = start
        while position < end:
            if self._recall(position, 1):
                block = self._buffer[position - self._start : end - self._start]
            else:
                block = self._read(position, min(WINDOW_BYTES, end - position))
            if not block:
                raise self._shrunk()
            yield block
            position += len(block)

    def _shrunk(self) -> DeferredError:
        return DeferredError(self.path, "the file became shorter while it was read")

    def error(self, reason: str) -> ReadError:
        """A ReadError for this file, to be raised by the caller."""
        return ReadError(self.path, reason)

    def truncated(self, what: str, needed: int, present: int) -> ReadError:
        """A ReadError for a file that is shorter than it states, and of which nothing can be heard."""
        return self.error(shorter(what, needed, present))

    def cut(self, what: str, needed: int, present: int) -> Cut:
        """The part that says that the file is shorter than it states."""
        return self.cut_for(shorter(what, needed, present))

    def cut_for(self, reason: str) -> Cut:
        """As ``cut``, with a reason of its own."""
        self._cut = Cut(reason)
        return self._cut

    def no_audio(self) -> ReadError:
        """A ReadError for a file without audio: well-formed, or cut before its audio begins."""
        return self.error(self._cut.reason if self._cut else "no audio data")


def shorter(what: str, needed: int, present: int) -> str:
    """Say that a file lost its end."""
    return f"truncated: {escaped(what)} needs {needed:,} bytes, {max(0, present):,} are there"


def id3v2_end(source: ByteSource, position: int) -> int | None:
    """The stated end of the ID3v2 tag at ``position`` (perhaps beyond the file); None where no tag begins."""
    head = source.at(position, ID3V2_HEADER_BYTES)
    if len(head) < ID3V2_HEADER_BYTES or head[:3] != b"ID3" or head[3] == 0xFF or head[4] == 0xFF:
        return None
    if max(head[6:10]) > 0x7F:
        return None
    size = head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9]
    footer = ID3V2_HEADER_BYTES if head[3] >= 4 and head[5] & 0x10 else 0
    return position + ID3V2_HEADER_BYTES + size + footer


def leading_tags(source: ByteSource) -> list[tuple[int, int]]:
    """(start, stated end) of all ID3v2 tags at the beginning; zeros between them are skipped."""
    tags: list[tuple[int, int]] = []
    position = 0
    while len(tags) < MAX_TAGS:
        end = id3v2_end(source, position)
        if end is None:
            break
        tags.append((position, end))
        if end >= source.size:
            break
        position = end + _zeros(source, end)
    return tags


def _zeros(source: ByteSource, start: int) -> int:
    """The number of zero bytes from ``start``, up to a window. Reads in small steps, as there are usually none."""
    found = 0
    while found < WINDOW_BYTES:
        piece = source.at(start + found, min(ZEROS_BYTES, WINDOW_BYTES - found))
        zeros = len(piece) - len(piece.lstrip(b"\0"))
        found += zeros
        if not piece or zeros < len(piece):
            break
    return found


def after_leading_tags(source: ByteSource) -> int:
    """The stated end of all ID3v2 tags at the beginning; it may lie beyond the file."""
    tags = leading_tags(source)
    return tags[-1][1] if tags else 0


def before_trailing_tags(source: ByteSource, start: int) -> int:
    """The position where the ID3v1, APEv2, Lyrics3 and appended ID3v2.4 blocks at the end begin, in any order."""
    end = source.size
    for _ in range(MAX_TAGS):
        length = _trailing_tag_bytes(source, end)
        if not length or end - length < start:
            break
        end -= length
    return end


def _trailing_tag_bytes(source: ByteSource, end: int) -> int:
    """Length of the tag that ends exactly at ``end``; 0 where none does or its stated size is impossible."""
    tail_start = max(0, end - 5200)  # Lyrics3 v1 holds at most 5,100 bytes
    tail = source.at(tail_start, end - tail_start)
    if tail[-ID3V1_BYTES:].startswith(b"TAG") and len(tail) >= ID3V1_BYTES:
        both = ID3V1_BYTES + ID3V1_EXTENDED_BYTES
        return both if tail[-both:].startswith(b"TAG+") else ID3V1_BYTES
    length = 0
    if tail[-APE_FOOTER_BYTES:].startswith(b"APETAGEX") and len(tail) >= APE_FOOTER_BYTES:
        _version, size, _items, flags = struct.unpack("<4I", tail[-24:-8])
        if not flags & 0x20000000:  # a footer; its stated size excludes the header
            length = max(APE_FOOTER_BYTES, size)
            if flags & 0x80000000:  # there is a header too, which confirms the size
                length += APE_FOOTER_BYTES
                length = length if source.at(end - length, 8) == b"APETAGEX" else APE_FOOTER_BYTES
        else:
            length = APE_FOOTER_BYTES
    elif tail.endswith(b"LYRICS200") and tail[-15:-9].isdigit():
        length = int(tail[-15:-9]) + 15
        length = length if source.at(end - length, 11) == b"LYRICSBEGIN" else 0
    elif tail.endswith(b"LYRICSEND"):
        found = tail.rfind(b"LYRICSBEGIN")
        length = len(tail) - found if found >= 0 else 0
    elif tail[-ID3V2_HEADER_BYTES:].startswith(b"3DI") and len(tail) >= 20 and max(tail[-4:]) < 0x80:
        length = (tail[-4] << 21 | tail[-3] << 14 | tail[-2] << 7 | tail[-1]) + 20
        length = length if source.at(end - length, 3) == b"ID3" else 0
    return length if length <= end else 0
