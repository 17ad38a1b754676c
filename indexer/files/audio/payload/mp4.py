"""MP4, M4A and QuickTime: finds the sample bytes of the audio tracks.

Walks the boxes, the sample tables and movie fragments. The identity is made of the samples in order, wherever ``moov``
and the chunks lie. Never decodes or hashes; a table takes at most MAX_TABLE_BYTES of memory.
"""

import struct
import sys
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from indexer.errors import UnsupportedError
from indexer.files.audio.payload.source import ByteSource, Part, Span, after_leading_tags

MAX_TABLE_BYTES = 64 << 20  # 16 million samples: 100 hours of AAC
MAX_BOXES = 1_000_000
MAX_EDITS = 10_000
MAX_FREE = 8  # free boxes at the start
RUN_ENTRIES = 1 << 15  # of a trun box, read at a time
# Edits count in steps of this length. Half of it, 0.25 s, is more than any encoder's delay and padding: HE-AAC at
# 22.05 kHz delays by about 0.19 s, AAC-LC at 44.1 kHz by 2,112 samples, 0.05 s.
EDIT_STEP_S = 0.5
_BEGINNINGS = frozenset({b"ftyp", b"moov", b"mdat", b"wide", b"styp"})
_FREE = frozenset({b"free", b"skip"})
_PCM = frozenset({b"raw ", b"twos", b"sowt", b"lpcm", b"in24", b"in32", b"fl32", b"fl64", b"NONE", b"alaw", b"ulaw"})


class _Box(NamedTuple):
    name: bytes
    start: int
    body: int
    end: int
    stated_end: int


def mp4_kind(source: ByteSource, head: bytes) -> str | None:
    """``mp4`` where the file begins with a box that MP4 and QuickTime files begin with, perhaps behind free space."""
    position = after_leading_tags(source) if head[4:8] in _FREE else 0
    for _ in range(MAX_FREE):
        if head[4:8] not in _FREE:
            break
        position += max(8, int.from_bytes(head[:4]))
        head = source.at(position, 16)
    return "mp4" if head[4:8] in _BEGINNINGS else None


@dataclass(slots=True)
class _Walker:
    source: ByteSource
    boxes: int = 0

    def children(self, start: int, end: int) -> Iterator[_Box]:
        """Yield the boxes between start and end; a box that claims more than its parent ends with the parent."""
        position = start
        while position + 8 <= end:
            self.boxes += 1
            if self.boxes > MAX_BOXES:
                raise self.source.error("damaged: too many MP4 boxes")
            head = self.source.at(position, 16)
            size, name, body = int.from_bytes(head[:4]), head[4:8], position + 8
            if size == 1:
                size, body = int.from_bytes(head[8:16]), position + 16
            elif size == 0:
                size = end - position
            if size < body - position:
                return
            yield _Box(name, position, body, min(position + size, end), position + size)
            position += size

    def find(self, box: _Box | None, *names: bytes) -> _Box | None:
        """The first box at the path ``names`` below ``box``, or None."""
        for name in names:
            if box is None:
                return None
            box = next((child for child in self.children(box.body, box.end) if child.name == name), None)
        return box

    def number(self, position: int, count: int = 4) -> int:
        return int.from_bytes(self.source.at(position, count))

    def table(self, box: _Box | None, header_bytes: int, entry_bytes: int, typecode: str) -> "array[int]":
        """The entries of a table box as unsigned numbers: as many as it states, at most as many as fit into it."""
        values = array(typecode)
        if box is None:
            return values
        count = self.number(box.body + header_bytes - 4)
        start = box.body + header_bytes
        length = min(count * entry_bytes, (box.end - start) // entry_bytes * entry_bytes)
        if length > MAX_TABLE_BYTES:
            raise self.source.error("damaged: an MP4 table is too large")
        for part in self.parts(start, length, 1 << 19, typecode):
            values.extend(part)
        return values

    def parts(self, start: int, length: int, step: int, typecode: str) -> "Iterator[array[int]]":
        """Yield the bytes from ``start`` on as unsigned numbers, ``step`` bytes at a time."""
        for position in range(start, start + length, step):
            values = array(typecode, self.source.at(position, min(step, start + length - position)))
            if sys.byteorder == "little":
                values.byteswap()
            yield values


@dataclass(slots=True)
class _Track:
    box: _Box
    id: int
    lane: int
    is_enabled: bool
    table: _Box | None
    codec: bytes
    default_size: int = 0


def walk_mp4(source: ByteSource) -> Iterator[Part]:
    """Yield the codec and the samples of each audio track, and what the edit list leaves of the first, which is heard.

    Says where samples lie beyond the end of the file. Raises ReadError where there is no index or no audio track.
    """
    walker = _Walker(source)
    moov, cut, fragments = None, None, []
    for box in walker.children(0, source.size):
        if box.name == b"moov" and moov is None:
            moov = box
        elif box.name == b"moof":
            fragments.append(box)
        cut = box if box.stated_end > source.size else None
    shorter = cut and (f"its {cut.name.decode('latin-1')} box", cut.stated_end - cut.start, source.size - cut.start)
    if shorter and moov is None:
        raise source.truncated(*shorter)
    if moov is None:
        raise source.error("damaged: an MP4 file without its index (moov box); the recording was not finished")
    if shorter and cut is moov:
        yield source.cut(*shorter)
    tracks = _audio_tracks(walker, moov)
    if not tracks:
        raise source.truncated(*shorter) if shorter else source.error("not audio: an MP4 file without an audio track")
    if len(tracks) > 1 and not (tracks[0].is_enabled and not any(track.is_enabled for track in tracks[1:])):
        yield b"first"  # where the tracks are enabled so, another was heard before the first was chosen
    yield _edit_facts(walker, moov, tracks[0], is_fragmented=bool(fragments))
    yield from _present(source, _samples(walker, tracks, fragments))


def _present(source: ByteSource, samples: Iterator[bytes | Span]) -> Iterator[Part]:
    """Yield the samples as far as they lie in the file, and say what lies beyond its end."""
    beyond: Span | None = None
    total = 0
    for part in samples:
        if isinstance(part, bytes):
            yield part
            continue
        if part.end > source.size:
            beyond = beyond or part
        if part.start < source.size:
            span = part._replace(end=min(part.end, source.size))
            total += span.end - span.start
            if total > source.size:
                raise source.error("damaged: its sample table names more bytes than the file has")
            yield span
    if beyond:
        yield source.cut("an MP4 sample", beyond.end, source.size)
    if not total:
        raise source.no_audio()


def _samples(walker: _Walker, tracks: list[_Track], fragments: list[_Box]) -> Iterator[bytes | Span]:
    """Yield the codec of each track and its samples as the tables state them, perhaps beyond the end of the file."""
    for track in tracks:
        yield track.codec
        yield from _table_spans(walker, track)
    yield from _fragment_spans(walker, fragments, {track.id: track for track in tracks})


def _audio_tracks(walker: _Walker, moov: _Box) -> list[_Track]:
    tracks: list[_Track] = []
    for box in walker.children(moov.body, moov.end):
        handler = walker.find(box, b"mdia", b"hdlr") if box.name == b"trak" else None
        if handler is None or walker.source.at(handler.body + 8, 4) != b"soun":
            continue
        header = walker.find(box, b"tkhd")
        table = walker.find(box, b"mdia", b"minf", b"stbl")
        described = walker.find(table, b"stsd")
        codec = walker.source.at(described.body + 12, 4) if described else b""
        late = header is not None and walker.number(header.body, 1) == 1
        track_id = walker.number(header.body + (20 if late else 12)) if header else 0
        is_enabled = header is not None and walker.number(header.body + 3, 1) & 1 == 1
        tracks.append(_Track(box, track_id, len(tracks), is_enabled, table, codec))
    defaults = walker.find(moov, b"mvex")
    for box in walker.children(defaults.body, defaults.end) if defaults else ():
        for track in tracks:
            if box.name == b"trex" and walker.number(box.body + 4) == track.id:
                track.default_size = walker.number(box.body + 16)
    return tracks


def _edit_facts(walker: _Walker, moov: _Box, track: _Track, *, is_fragmented: bool) -> bytes:
    """The parts of a track that its edit list plays, in order; nothing where it plays all but an encoder's delay.

    A part is the number of steps of EDIT_STEP_S before it and behind it. As in FFmpeg, silence that is put in front
    (media time -1) and the speed of an edit do not count, and of a fragmented file only where a single edit begins.
    """
    media_hz = _time_scale(walker, walker.find(track.box, b"mdia", b"mdhd"))
    movie_hz = _time_scale(walker, walker.find(moov, b"mvhd"))
    edits = _edits(walker, walker.find(track.box, b"edts", b"elst"))
    while edits and edits[0][1] == -1:
        edits.pop(0)
    if not edits or not media_hz or not movie_hz or (is_fragmented and len(edits) > 1):
        return b""
    times = walker.table(walker.find(track.table, b"stts"), 8, 8, "I")
    end_s = sum(count * each for count, each in zip(times[::2], times[1::2], strict=True)) / media_hz
    if is_fragmented:
        before = round(edits[0][1] / media_hz / EDIT_STEP_S)
        return b"edits %d" % before if before > 0 else b""
    parts: list[tuple[float, float]] = []
    for length, start in edits:
        first_s = max(0, start) / media_hz
        last_s = min(first_s + length / movie_hz, end_s)
        if parts and abs(parts[-1][1] - first_s) < EDIT_STEP_S / 2:  # goes on where the part before it ended
            first_s = parts.pop()[0]
        if last_s > first_s:
            parts.append((first_s, last_s))
    steps = [round(cut_s / EDIT_STEP_S) for first_s, last_s in parts for cut_s in (first_s, end_s - last_s)]
    return b"edits " + b" ".join(b"%d" % step for step in steps) if any(steps) else b""


def _time_scale(walker: _Walker, header: _Box | None) -> int:
    """The units a second of a mvhd or mdhd box; 0 where there is none."""
    return walker.number(header.body + (20 if walker.number(header.body, 1) == 1 else 12)) if header else 0


def _edits(walker: _Walker, box: _Box | None) -> list[tuple[int, int]]:
    """(length in the movie's units, start in the track's units) of each entry of an elst box."""
    if box is None:
        return []
    entry = ">Qq4x" if walker.number(box.body, 1) == 1 else ">Ii4x"
    size = struct.calcsize(entry)
    count = min(walker.number(box.body + 4), max(0, box.end - box.body - 8) // size, MAX_EDITS)
    return [struct.unpack(entry, walker.source.at(box.body + 8 + number * size, size)) for number in range(count)]


def _table_spans(walker: _Walker, track: _Track) -> Iterator[Span]:
    """Yield one span for each chunk, from stsc, stsz (or stz2) and stco (or co64)."""
    short = walker.find(track.table, b"stco")
    offsets = walker.table(short, 8, 4, "I") if short else walker.table(walker.find(track.table, b"co64"), 8, 8, "Q")
    runs = walker.table(walker.find(track.table, b"stsc"), 8, 12, "I")
    one_size, sizes, count = _sample_sizes(walker, track)
    first = run = 0
    for chunk, offset in enumerate(offsets, 1):
        while run + 3 < len(runs) and runs[run + 3] <= chunk:
            run += 3
        wanted = min(runs[run + 1] if runs else 0, count - first)
        if wanted <= 0:
            continue
        length = wanted * one_size if one_size else sum(sizes[first : first + wanted])
        first += wanted
        yield Span(offset, offset + length, track.lane)


def _sample_sizes(walker: _Walker, track: _Track) -> "tuple[int, array[int], int]":
    """(the size that all samples share or 0, else their sizes, the number of samples)."""
    box = walker.find(track.table, b"stsz")
    if box is None:
        sizes = _compact_sizes(walker, walker.find(track.table, b"stz2"))
        return 0, sizes, len(sizes)
    one_size, count = walker.number(box.body + 4), walker.number(box.body + 8)
    if one_size == 1 and track.codec in _PCM:  # old QuickTime: 1 means one frame of all channels
        entry = walker.find(track.table, b"stsd")
        head = walker.source.at(entry.body + 8, 28) if entry else b""
        if len(head) == 28:
            one_size = max(1, int.from_bytes(head[24:26]) * int.from_bytes(head[26:28]) // 8)
    if one_size:
        return one_size, array("I"), count
    sizes = walker.table(box, 12, 4, "I")
    return 0, sizes, len(sizes)


def _compact_sizes(walker: _Walker, box: _Box | None) -> "array[int]":
    """The sizes of a stz2 box with fields of 8 or 16 bits."""
    bits = walker.number(box.body + 7, 1) if box else 8
    if bits not in {8, 16}:
        raise UnsupportedError(walker.source.path, f"MP4 sample sizes of {bits} bits are not read")
    return walker.table(box, 12, bits // 8, "B" if bits == 8 else "H")


def _fragment_spans(walker: _Walker, fragments: list[_Box], tracks: dict[int, _Track]) -> Iterator[Span]:
    """Yield one span for each run of each movie fragment."""
    for moof in fragments:
        after = moof.start
        for traf in walker.children(moof.body, moof.end):
            header = walker.find(traf, b"tfhd") if traf.name == b"traf" else None
            if header is None:
                continue
            track = tracks.get(walker.number(header.body + 4))
            flags, position = walker.number(header.body + 1, 3), header.body + 8
            base, size = moof.start if flags & 0x20000 else after, track.default_size if track else 0
            if flags & 1:
                base, position = walker.number(position, 8), position + 8
            position += 4 * bool(flags & 2) + 4 * bool(flags & 8)
            if flags & 0x10:
                size = walker.number(position)
            after = base
            for run in walker.children(traf.body, traf.end):
                if run.name == b"trun":
                    start, after = _run(walker, run, base, after, size)
                    if track:
                        yield Span(start, after, track.lane)


def _run(walker: _Walker, run: _Box, base: int, after: int, default_size: int) -> tuple[int, int]:
    """(start, end) of the samples of one trun box."""
    flags, count, position = walker.number(run.body + 1, 3), walker.number(run.body + 4), run.body + 8
    start = after
    if flags & 1:
        start = base + int.from_bytes(walker.source.at(position, 4), signed=True)
        position += 4
    position += 4 * bool(flags & 4)
    if start < 0:
        raise walker.source.error("damaged: an MP4 fragment points before the file")
    if not flags & 0x200:
        return start, start + count * default_size
    before = 4 * bool(flags & 0x100)
    entry_bytes = before + 4 + 4 * bool(flags & 0x400) + 4 * bool(flags & 0x800)
    length = min(count, max(0, run.end - position) // entry_bytes) * entry_bytes
    parts = walker.parts(position, length, RUN_ENTRIES * entry_bytes, "I")
    return start, start + sum(sum(part[before // 4 :: entry_bytes // 4]) for part in parts)
