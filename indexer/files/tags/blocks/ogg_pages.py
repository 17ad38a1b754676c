"""The Ogg pages that hold a comment packet: reads them, lays the packet out anew, and keeps all other pages.

Pages keep their number and borders where the packet allows it, so that nothing behind them changes. Where a page must
be added, the later pages of the same logical stream count on, up to a link that begins with the same serial number.
Source of the format: RFC 3533, section 6.
"""

import zlib
from dataclasses import dataclass, replace
from itertools import groupby
from typing import BinaryIO, NamedTuple

from indexer.files.tags.blocks.blocks import MAX_TAG, TagDamagedError, UnwritableError, file_size, read_exactly, splice

HEADER_BYTES = 27
FULL = 255  # segments of a page, and bytes of a segment, at most
FULL_SEGMENT = b"\xff"
CONTINUED, FIRST, LAST = 1, 2, 4  # flags of a page
NO_PACKET_ENDS = b"\xff" * 8  # the granule position of such a page
Layout = list[list[int]]  # [segments of the packet on a page, pages in a row that hold so many], ...
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def checksum(page: bytes) -> int:
    """CRC-32 of a page with zeros in place of its checksum: polynomial 0x04c11db7, from 0, highest bits first.

    zlib computes the same polynomial lowest bits first, and inverts the register before and after.
    """
    crc = zlib.crc32(page.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int.from_bytes(crc.to_bytes(4, "little").translate(_REVERSED), "big")


@dataclass(frozen=True, slots=True)
class Page:
    """One page; ``offset`` is its position in the file, in bytes."""

    offset: int
    flags: int
    granule: bytes
    serial: bytes
    sequence: int
    lacing: bytes
    body: bytes

    @property
    def end(self) -> int:
        """Where the next page begins."""
        return self.offset + HEADER_BYTES + len(self.lacing) + len(self.body)

    def packet_segments(self) -> int:
        """Number of segments up to the end of the first packet, or of the page."""
        return next((number for number, size in enumerate(self.lacing, 1) if size < FULL), len(self.lacing))

    def packet_goes_on(self) -> bool:
        """Whether the first packet goes on on the next page."""
        return all(size == FULL for size in self.lacing)

    def to_bytes(self) -> bytes:
        """The page as it stands in a file, with its checksum."""
        numbers = self.granule + self.serial + (self.sequence % (1 << 32)).to_bytes(4, "little")
        head = b"OggS\0" + bytes([self.flags]) + numbers
        rest = bytes([len(self.lacing)]) + self.lacing + self.body
        return head + checksum(head + bytes(4) + rest).to_bytes(4, "little") + rest


class _Head(NamedTuple):
    """The header of a page and its segment table."""

    raw: bytes
    lacing: bytes

    @property
    def size(self) -> int:
        return HEADER_BYTES + len(self.lacing) + sum(self.lacing)


def _head(file: BinaryIO, offset: int) -> _Head:
    raw = read_exactly(file, offset, HEADER_BYTES, "an Ogg page")
    if raw[:5] != b"OggS\0":
        raise TagDamagedError(f"no Ogg page begins at byte {offset:,}")
    return _Head(raw, read_exactly(file, offset + HEADER_BYTES, raw[26], "an Ogg page"))


def _page(file: BinaryIO, offset: int) -> Page:
    """The page at ``offset``. Raises TagDamagedError for a wrong checksum: a rewrite would hide the damage."""
    raw, lacing = head = _head(file, offset)
    data = read_exactly(file, offset, head.size, "an Ogg page")
    page = Page(
        offset, raw[5], raw[6:14], raw[14:18], int.from_bytes(raw[18:22], "little"), lacing, data[27 + len(lacing) :]
    )
    if page.to_bytes() != data:
        raise TagDamagedError("the checksum of an Ogg header page is wrong")
    return page


class CommentPages:
    """The pages of the second packet of the first stream, which is its comment packet.

    ``first`` is the packet before it, ``packet`` the comment packet, ``layout`` how many segments of it each page
    holds. Raises TagDamagedError where the pages contradict themselves or do not end within 64 MiB.
    """

    def __init__(self, file: BinaryIO) -> None:
        page = _page(file, 0)
        if not page.flags & FIRST or page.packet_segments() != len(page.lacing) or page.lacing.endswith(FULL_SEGMENT):
            raise TagDamagedError("the Ogg stream does not begin with its header")
        self.first, serial = page.body, page.serial
        self._pages: list[Page] = []
        while not self._pages or self._pages[-1].packet_goes_on():
            page = _page(file, page.end)
            if page.end > MAX_TAG:
                raise TagDamagedError("the comment packet is larger than 64 MiB")
            if page.serial != serial:
                continue
            if not page.lacing or page.flags & FIRST or bool(page.flags & CONTINUED) != bool(self._pages):
                raise TagDamagedError("the pages of the comment packet contradict themselves")
            self._pages.append(page)
        # Decoders search for the next page; which one they find would depend on the size of the comment packet.
        file.seek(page.end)
        if file.read(4) not in (b"OggS", b""):
            raise TagDamagedError("no Ogg page follows the comment packet")
        self._segments = [page.packet_segments() for page in self._pages]
        self.packet = b"".join(page.body[: sum(page.lacing[: page.packet_segments()])] for page in self._pages)

    @property
    def layout(self) -> Layout:
        """How many segments of the packet each page holds."""
        return [[count, len(list(pages))] for count, pages in groupby(self._segments)]

    def write(self, file: BinaryIO, packet: bytes, layout: object) -> None:
        """Replace the packet. Its pages get ``layout`` where that fits, else they keep their own as far as possible."""
        first, last = self._pages[0], self._pages[-1]
        lacing = FULL_SEGMENT * (len(packet) // FULL) + bytes([len(packet) % FULL])
        behind = last.lacing[self._segments[-1] :]  # of the packets that begin on the last page
        room_on_last = FULL - len(behind)
        counts = _unfolded(layout, len(lacing), room_on_last) or _adapted(self._segments, len(lacing), room_on_last)
        # Pages come and go before the last one, so that what ends on the last one still ends there.
        added = len(counts) - len(self._pages)
        kept = self._pages[:-1][: len(counts) - 1]
        new = [replace(last, flags=0, granule=NO_PACKET_ENDS, sequence=last.sequence + n) for n in range(added)]
        frames = [*kept, *new, replace(last, sequence=last.sequence + added)]
        out, segments, body = [], 0, 0
        for frame, count in zip(frames, counts, strict=True):
            flags = frame.flags & ~CONTINUED | (CONTINUED if segments else 0)
            table = lacing[segments : segments + count]
            part = packet[body : body + sum(table)]
            segments, body = segments + count, body + len(part)
            if segments == len(lacing):
                table, part = table + behind, part + last.body[len(last.body) - sum(behind) :]
            out.append(replace(frame, flags=flags, lacing=table, body=part).to_bytes())
        gone = [b""] * (len(self._pages) - 1 - len(kept))
        data = self._between([*out[: len(kept)], *gone, b"".join(out[len(kept) :])], file)
        splice(file, first.offset, last.end - first.offset, data)
        if added:
            _count_on(file, first.offset + len(data), last.serial, added)

    def _between(self, pages: list[bytes], file: BinaryIO) -> bytes:
        """The new bytes of each old page, and between them the pages of other streams."""
        out, at = [], self._pages[0].offset
        for old, new in zip(self._pages, pages, strict=True):
            out += [read_exactly(file, at, old.offset - at, "an Ogg page"), new]
            at = old.end
        return b"".join(out)


def _unfolded(layout: object, wanted: int, room_on_last: int) -> list[int]:
    """The segments on each page by a recorded layout; none where it is not one of ``wanted`` segments."""
    rows = layout if isinstance(layout, list) else []
    for row in rows:
        if not isinstance(row, list) or len(row) != 2 or not all(isinstance(n, int) and n > 0 for n in row):
            return []
    if sum(count * pages for count, pages in rows) != wanted or max(rows)[0] > FULL or rows[-1][0] > room_on_last:
        return []
    return [count for count, pages in rows for _ in range(pages)]


def _adapted(present: list[int], wanted: int, room_on_last: int) -> list[int]:
    """The segments on each page when they become ``wanted``: the pages from the last on take up the difference."""
    counts, missing = list(present), wanted - sum(present)
    for number in reversed(range(len(counts))):
        count = max(1, min(room_on_last if number == len(counts) - 1 else FULL, counts[number] + missing))
        missing -= count - counts[number]
        counts[number] = count
    if missing < 0:
        return counts[-missing:]
    new = [FULL] * (missing // FULL) + [missing % FULL]
    return [*counts[:-1], *filter(None, new), counts[-1]]


def _count_on(file: BinaryIO, offset: int, serial: bytes, added: int) -> None:
    """Add ``added`` to the sequence numbers of a stream's pages from ``offset`` to the end of its link.

    The checksum is linear: the change of the page gives the change of the checksum, and a wrong one stays as wrong.
    Raises UnwritableError where something that is no page stands before the last page of the stream.
    """
    size, ended = file_size(file), False
    while offset < size:
        try:
            head = _head(file, offset)
        except TagDamagedError as error:
            if ended:
                return
            raise UnwritableError(
                f"an Ogg page would have to be added, and those behind be renumbered: {error}"
            ) from error
        if head.raw[14:18] == serial:
            if head.raw[5] & FIRST:
                return
            ended = ended or bool(head.raw[5] & LAST)
            old = int.from_bytes(head.raw[18:22], "little")
            new = (old + added) % (1 << 32)
            crc = int.from_bytes(head.raw[22:26], "little")
            crc ^= checksum(bytes(18) + (old ^ new).to_bytes(4, "little") + bytes(head.size - 22))
            file.seek(offset + 18)
            file.write(new.to_bytes(4, "little") + crc.to_bytes(4, "little"))
        offset += head.size
    file.flush()
