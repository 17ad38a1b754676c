"""Ogg: finds the bytes of the packets of the audio streams.

Reads pages, lacing, chained and multiplexed streams of Vorbis, Opus, Speex and FLAC. The identity is made of packets
without comment packets, so the paging does not matter. Never decodes or hashes. A cut page is the end of a truncated
file; a missing end-of-stream flag means nothing, as recordings of web radio lack it.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from indexer.files.audio.payload.simple import streaminfo_facts
from indexer.files.audio.payload.source import ByteSource, Cut, Part, Span, after_leading_tags

CAPTURE = b"OggS"
PAGE_HEADER_BYTES = 27
MAX_STREAMS = 64  # open at the same time
_BEGINNINGS = {b"\x01vorbis": "vorbis", b"OpusHead": "opus", b"Speex   ": "speex", b"\x7fFLAC": "oggflac"}
_BEFORE_COMMENTS = {"vorbis": 7, "opus": 8, "speex": 0, "oggflac": 4}  # bytes of a comment packet before its list
MAX_COMMENT_BYTES = 64 << 20
DROP, KEEP, AUDIO = range(3)


@dataclass(slots=True)
class _Stream:
    kind: str
    lane: int
    packet: int = 0
    role: int = DROP
    inside_packet: bool = False
    in_audio: bool = False


@dataclass(frozen=True, slots=True)
class _Page:
    flags: int
    serial: int
    lacing: bytes
    body: int
    end: int


def _page(source: ByteSource, position: int) -> _Page | None:
    """The page at ``position``, or None where no whole page header begins; its end may lie beyond the file."""
    head = source.at(position, PAGE_HEADER_BYTES)
    if head[:4] != CAPTURE or len(head) < PAGE_HEADER_BYTES:
        return None
    lacing = source.at(position + PAGE_HEADER_BYTES, head[26])
    body = position + PAGE_HEADER_BYTES + head[26]
    return _Page(head[5], int.from_bytes(head[14:18], "little"), lacing, body, body + sum(lacing))


def _pages(source: ByteSource) -> Iterator[_Page | Cut]:
    """The whole pages; a Cut where the last one is not whole."""
    position = after_leading_tags(source)
    while position < source.size:
        page = _page(source, position)
        if page:
            if page.end > source.size:
                yield source.cut("the last Ogg page", page.end - position, source.size - position)
                return
            yield page
            position = page.end
            continue
        if source.at(position, 4) == CAPTURE:
            yield source.cut("the last Ogg page", PAGE_HEADER_BYTES, source.size - position)
            return
        buffer, base = source.window(position)
        found = buffer.find(CAPTURE, position + 1 - base)
        # three bytes are kept back: the capture pattern may span two windows
        position = base + found if found >= 0 else max(position + 1, base + len(buffer) - 3)


def _kind(source: ByteSource, page: _Page) -> str | None:
    head = source.at(page.body, 8)
    return next((kind for beginning, kind in _BEGINNINGS.items() if head.startswith(beginning)), None)


def ogg_kind(source: ByteSource, head: bytes) -> str | None:
    """The codec of the first audio stream among the streams that begin together, or None."""
    if head[: len(CAPTURE)] != CAPTURE:
        return None
    position = after_leading_tags(source)
    for _ in range(MAX_STREAMS):
        page = _page(source, position)
        if page is None or not page.flags & 2:
            return None
        kind = _kind(source, page)
        if kind:
            return kind
        position = page.end
    return None


def walk_ogg(source: ByteSource) -> Iterator[Part]:
    """Yield the packets of all audio streams without comments; multiplexed streams get a lane each.

    Says where the file ends within a page. Raises ReadError where no audio packet is there.
    """
    streams: dict[int, _Stream] = {}
    lane, beginning, seen = 0, False, False
    for page in _pages(source):
        if isinstance(page, Cut):
            yield page
            break
        if page.flags & 2:  # begin of stream
            lane = lane if beginning else 0
            beginning = True
            kind = _kind(source, page)
            if kind:
                streams[page.serial] = _Stream(kind, lane)
                lane += 1
            else:
                streams.pop(page.serial, None)
        else:
            beginning = False
        stream = streams.get(page.serial)
        if stream is None:
            continue
        if len(streams) > MAX_STREAMS:
            raise source.error("damaged: too many Ogg streams at once")
        if page.flags & 4:  # end of stream
            streams.pop(page.serial)
        if stream.in_audio:
            yield Span(page.body, page.end, stream.lane)
        else:
            yield from _header_parts(source, page, stream)
        seen = seen or stream.in_audio
    if not seen:
        raise source.no_audio()


def further_comments(source: ByteSource) -> Iterator[bytes]:
    """Yield the lists of comments of all audio streams but the first one's first, in the order in which they end.

    A stream of Vorbis, Opus and Speex has one; one of FLAC may have several. What lies beyond the end of the file, or
    is longer than MAX_COMMENT_BYTES, is passed over.
    """
    streams: dict[int, _Comments] = {}
    first: _Comments | None = None
    for page in _pages(source):
        if isinstance(page, Cut):
            return
        if page.flags & 2:
            kind = _kind(source, page)
            streams.pop(page.serial, None)
            if kind and len(streams) < MAX_STREAMS:
                streams[page.serial] = _Comments(kind)
                first = first or streams[page.serial]
        stream = streams.get(page.serial)
        if stream is None:
            continue
        position = page.body
        for value in page.lacing:
            if len(stream.packet) <= MAX_COMMENT_BYTES:
                stream.packet += source.at(position, value)
            position += value
            if value < 255:
                comment = stream.end_packet()
                if comment and not (stream is first and stream.number == 2):
                    yield comment
                if stream.over:
                    streams.pop(page.serial)
                    break


@dataclass(slots=True)
class _Comments:
    """The header packets of a stream; ``number`` of them have ended."""

    kind: str
    number: int = 0
    packet: bytearray = field(default_factory=bytearray)
    over: bool = False

    def end_packet(self) -> bytes | None:
        """Take the packet as whole; returns the list of comments if it holds one."""
        packet, number = bytes(self.packet), self.number
        self.packet, self.number = bytearray(), number + 1
        if self.kind == "oggflac":
            is_block = number == 0 or packet[:1] < b"\xff"
            self.over = not is_block or (number > 0 and packet[:1] >= b"\x80")
            is_comment = number > 0 and is_block and packet[:1] in {b"\x04", b"\x84"}
        else:
            self.over = is_comment = number == 1
        return packet[_BEFORE_COMMENTS[self.kind] :] if is_comment and len(packet) <= MAX_COMMENT_BYTES else None


def _header_parts(source: ByteSource, page: _Page, stream: _Stream) -> Iterator[Part]:
    """Yield the identity's parts of a header page, from the first audio packet to the end of the page."""
    position, index = page.body, 0
    while index < len(page.lacing):
        start = position
        while index < len(page.lacing):
            value = page.lacing[index]
            position, index = position + value, index + 1
            if value < 255:
                break
        if not stream.inside_packet:
            head = source.at(start, min(80, position - start))
            stream.role = _role(stream.kind, stream.packet, head)
            if stream.role == AUDIO:
                stream.in_audio = True
                yield Span(start, page.end, stream.lane)
                return
            facts = _facts(stream.kind, head) if stream.packet == 0 else b""
            if facts:
                stream.role = DROP
                yield facts
        if stream.role == KEEP:
            yield Span(start, position, stream.lane)
        stream.inside_packet = page.lacing[index - 1] == 255
        stream.packet += not stream.inside_packet


def _role(kind: str, packet: int, head: bytes) -> int:
    if kind == "vorbis":
        return AUDIO if not head[:1] or not head[0] & 1 else DROP if head[0] == 3 else KEEP
    if kind == "opus":
        return DROP if head[:8] in {b"OpusHead", b"OpusTags"} else AUDIO
    if kind == "speex":
        return KEEP if packet == 0 else DROP if packet == 1 else AUDIO
    return AUDIO if packet and head[:1] == b"\xff" else DROP


def _facts(kind: str, head: bytes) -> bytes:
    """The facts of the identification packet that no program rewrites: Opus without gain, pre-skip, original rate."""
    if kind == "opus":
        return b"opus" + head[9:10] + head[18:]
    if kind == "oggflac":
        return b"flac" + streaminfo_facts(head[17:51])
    return b""
