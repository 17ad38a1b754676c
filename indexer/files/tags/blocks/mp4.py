"""MP4 atoms: the item list (moov.udta.meta.ilst), edited without touching any other atom.

When the list changes its size, the chunk offsets of every track are adjusted. Fragmented files and files whose offsets
would overflow are refused.
"""

from typing import BinaryIO, ClassVar, NamedTuple

from indexer.files.tags.blocks.blocks import (
    BPM,
    GENRE,
    KEY,
    Block,
    Field,
    TagDamagedError,
    UnwritableError,
    digest_range,
    file_size,
    our_name,
    read_exactly,
    splice,
)
from indexer.files.tags.blocks.id3_genres import ID3_GENRES

MEAN, APPLE = b"com.edm-indexer", b"com.apple.iTunes"
ITUNES = (b"mdir", bytes(4), None)  # handlers of an item list; some writers state none
CONTAINERS = (b"moov", b"udta", b"trak", b"mdia", b"minf", b"stbl")
_HDLR = b"\x00\x00\x00\x21hdlr" + bytes(8) + b"mdirappl" + bytes(9)


class Atom(NamedTuple):
    """An atom: ``at`` is its position, ``header`` the length of its header, ``size`` that of header and content."""

    name: bytes
    at: int
    header: int
    size: int

    @property
    def body(self) -> int:
        return self.at + self.header

    @property
    def end(self) -> int:
        return self.at + self.size


def atoms(file: BinaryIO, start: int, end: int, *, cut: bool = False) -> list[Atom]:
    """The atoms of a range; up to seven bytes left at its end are QuickTime's terminator.

    ``cut``: an atom that reaches beyond the range ends with it, and one with an impossible size ends the list.
    """
    found = []
    at = start
    while end - at >= 8:
        head = read_exactly(file, at, 8, "an MP4 atom")
        size, header = int.from_bytes(head[:4], "big"), 8
        if size == 1:
            size, header = int.from_bytes(read_exactly(file, at + 8, 8, "an MP4 atom"), "big"), 16
        elif size == 0:
            size = end - at
        if cut and size < header:
            break
        if cut:
            size = min(size, end - at)
        if size < header or at + size > end:
            raise TagDamagedError(f"the size of the MP4 atom at {at:,} contradicts the file")
        found.append(Atom(head[4:8], at, header, size))
        at += size
    return found


class IlstBlock(Block):
    """The iTunes item list of an MP4 file; created with its parents where none exists."""

    kind = "ilst"
    smallest_gap: ClassVar[int] = 8  # the header of a free atom

    def __init__(self, file: BinaryIO) -> None:
        self.top = atoms(file, 0, file_size(file))
        self.parents: list[Atom] = []
        self.ilst: Atom | None = None
        self.free: Atom | None = None
        self.foreign = False  # whether the list that stands there is of another kind
        self.fill = b"\x00"
        self._descend(file)
        fields: list[Field] = []
        room = 0
        if self.ilst:
            data = read_exactly(file, self.ilst.body, self.ilst.size - self.ilst.header, "the item list")
            for child in atoms(file, self.ilst.body, self.ilst.end):
                raw = data[child.at - self.ilst.body : child.end - self.ilst.body]
                fields.append(Field(_name(raw), raw))
            if sum(len(field.raw) for field in fields) != len(data):
                raise TagDamagedError("the item list holds bytes that are no atom")
            room = self.ilst.size
            if self.free:
                filling = read_exactly(file, self.free.body, self.free.size - self.free.header, "free space")
                if len(set(filling)) < 2:  # the undo could not give back another filling
                    room += self.free.size
                    self.fill = filling[:1] or b"\x00"  # some writers fill with another byte
        super().__init__(fields, exists=self.ilst is not None, room=room)
        self.hollow = 0 if self.ilst else len(self.parents) - 1

    def _descend(self, file: BinaryIO) -> None:
        moov = next((a for a in self.top if a.name == b"moov"), None)
        if moov is None:
            raise TagDamagedError("there is no moov atom")
        self.parents = [moov]
        inside = atoms(file, moov.body, moov.end)
        for name in (b"udta", b"meta"):
            found = next((a for a in inside if a.name == name), None)
            if found is None:
                return
            self.parents.append(found)
            inside = atoms(file, found.body + (meta_head(file, found) if name == b"meta" else 0), found.end)
        self.foreign = handler_of(file, inside) not in ITUNES
        for number, atom in enumerate(inside):
            if atom.name == b"ilst" and not self.foreign:
                self.ilst = atom
                after = inside[number + 1] if number + 1 < len(inside) else None
                self.free = after if after and after.name == b"free" else None
                return

    def problem(self) -> str | None:
        if self.foreign:
            return (
                "its meta atom holds tags in another form than iTunes' item list (numbered keys or an ID3 tag), "
                "to which no genre is added"
            )
        return None

    def encode(self, name: str, values: list[str]) -> list[Field]:
        data = b"".join(
            _atom(b"data", b"\x00\x00\x00\x01" + bytes(4) + value.encode("utf-8", "replace")) for value in values
        )
        if name == GENRE:
            return [Field(name, _atom(b"\xa9gen", data))]
        if name == BPM:  # whole beats a minute: a big-endian number (type 21) of two bytes
            number = min(0xFFFF, round(float(values[0]))).to_bytes(2, "big")
            return [Field(name, _atom(b"tmpo", _atom(b"data", b"\x00\x00\x00\x15" + bytes(4) + number)))]
        space, word = (APPLE, b"initialkey") if name == KEY else (MEAN, name.encode())
        mean, own = _atom(b"mean", bytes(4) + space), _atom(b"name", bytes(4) + word)
        return [Field(name, _atom(b"----", mean + own + data))]

    def values(self, field: Field) -> list[str]:
        data = [content[8:] for name, content in children(field.raw) if name == b"data"]
        if field.raw[4:8] == b"gnre":
            numbers = [int.from_bytes(content, "big") - 1 for content in data]
            return [ID3_GENRES[number] for number in numbers if 0 <= number < len(ID3_GENRES)]
        if field.name == BPM:
            return [str(int.from_bytes(content, "big")) for content in data]
        return [content.decode("utf-8", "replace") for content in data]

    def length(self) -> int:
        return 8 + sum(len(field.raw) for field in self.fields)

    def save(self, file: BinaryIO, room: int, /) -> None:
        if problem := self.problem():
            raise UnwritableError(problem)
        gap = room - self.length()
        data = _atom(b"ilst", b"".join(field.raw for field in self.fields))
        data += _atom(b"free", self.fill * (gap - 8)) if gap else b""
        if self.ilst:
            self._replace(file, self.parents, self.ilst.at, self.room, data)
            return
        if len(self.parents) < 3:
            data = _atom(b"meta", bytes(4) + _HDLR + data)
        if len(self.parents) < 2:
            data = _atom(b"udta", data)
        last = self.parents[-1]
        inner = last.body + (meta_head(file, last) if last.name == b"meta" else 0)
        inside = atoms(file, inner, last.end)
        self._replace(file, self.parents, inside[-1].end if inside else inner, 0, data)

    def remove(self, file: BinaryIO, _room: int, /) -> None:
        """Remove the list, and its parent atoms if they hold nothing else and did not stand there before it."""
        if not self.ilst:
            return
        parents, at, size = list(self.parents), self.ilst.at, self.room
        meta = parents[-1]
        if meta.size == meta.header + 4 + len(_HDLR) + size and self.hollow < 2:
            parents.pop()
            at, size = meta.at, meta.size
            udta = parents[-1]
            if udta.size == udta.header + size and self.hollow < 1:
                parents.pop()
                at, size = udta.at, udta.size
        self._replace(file, parents, at, size, b"")

    def _replace(self, file: BinaryIO, parents: list[Atom], at: int, old: int, data: bytes) -> None:
        delta = len(data) - old
        if delta:
            if any(a.name in (b"moof", b"sidx", b"mfra") for a in self.top):
                raise UnwritableError("fragmented MP4 files cannot grow")
            _move_offsets(file, self.parents[0], at, delta)
            for parent in parents:
                _resize(file, parent, delta)
        splice(file, at, old, data)


def handler_of(file: BinaryIO, inside: list[Atom]) -> bytes | None:
    """The handler type that the ``hdlr`` atom among these atoms states; None without one."""
    found = next((atom for atom in inside if atom.name == b"hdlr" and atom.size >= atom.header + 12), None)
    return None if found is None else read_exactly(file, found.body + 8, 4, "the handler")


def meta_head(file: BinaryIO, meta: Atom) -> int:
    """Bytes of version and flags before the child atoms of meta: 4, or 0 in the QuickTime form."""
    return 0 if meta.size - meta.header >= 8 and read_exactly(file, meta.body, 8, "meta")[4:] == b"hdlr" else 4


def _resize(file: BinaryIO, atom: Atom, delta: int) -> None:
    if read_exactly(file, atom.at, 4, "an MP4 atom") == bytes(4):
        return  # size 0: reaches to the end of the file
    wide = atom.header == 16
    if not wide and atom.size + delta >= 1 << 32:
        raise UnwritableError("an MP4 atom would become too large")
    file.seek(atom.at + (8 if wide else 0))
    file.write((atom.size + delta).to_bytes(8 if wide else 4, "big"))


def _move_offsets(file: BinaryIO, moov: Atom, at: int, delta: int) -> None:
    """Add delta to every chunk offset from ``at`` on."""
    for table, _path in walk(file, moov.body, moov.end, "moov"):
        if table.name not in (b"stco", b"co64"):
            continue
        width = 4 if table.name == b"stco" else 8
        data = bytearray(read_exactly(file, table.body, table.size - table.header, "a chunk table"))
        count = int.from_bytes(data[4:8], "big")
        if 8 + count * width > len(data):
            raise TagDamagedError("a chunk table is longer than its atom")
        for place in range(8, 8 + count * width, width):
            offset = int.from_bytes(data[place : place + width], "big")
            if offset >= at:
                if offset + delta >= 1 << 8 * width:
                    raise UnwritableError("the chunk offsets would overflow")
                data[place : place + width] = (offset + delta).to_bytes(width, "big")
        file.seek(table.body)
        file.write(data)


def walk(file: BinaryIO, start: int, end: int, path: str) -> list[tuple[Atom, str]]:
    """All leaf atoms of a range, with their paths; meta counts as a leaf."""
    leaves = []
    for atom in atoms(file, start, end):
        below = f"{path}.{atom.name.decode('latin-1')}"
        if atom.name in CONTAINERS and path.count(".") < 8:
            leaves += walk(file, atom.body, atom.end, below)
        else:
            leaves.append((atom, below))
    return leaves


def other_atoms(file: BinaryIO) -> dict[str, str]:
    """Digests of all atoms but audio, item list, free space and chunk offsets (which move with the audio)."""
    found: dict[str, str] = {}
    skipped = (b"mdat", b"free", b"skip", b"wide", b"stco", b"co64", b"ilst")
    block = IlstBlock(file)
    own = next((atom for atom in block.parents if atom.name == b"meta"), None)
    leaves = walk(file, 0, file_size(file), "")
    for number, (atom, path) in enumerate((a, p) for a, p in leaves if a.name not in skipped and a != own):
        found[f"atom {number} {path[1:]}"] = digest_range(file, atom.body, atom.size - atom.header)
    if own:
        inside = atoms(file, own.body + meta_head(file, own), own.end)
        content = [a for a in inside if a.name not in (*skipped[:-1], b"hdlr") and a != block.ilst]
        for number, atom in enumerate(content):
            found[f"atom meta {number} {atom.name.decode('latin-1')}"] = digest_range(file, atom.at, atom.size)
    return found


def _atom(name: bytes, content: bytes) -> bytes:
    return (len(content) + 8).to_bytes(4, "big") + name + content


def children(raw: bytes) -> list[tuple[bytes, bytes]]:
    """Names and contents of the atoms inside an item."""
    found, at = [], 8
    while at + 8 <= len(raw):
        size = int.from_bytes(raw[at : at + 4], "big")
        if size < 8:
            break
        found.append((raw[at + 4 : at + 8], raw[at + 8 : at + size]))
        at += size
    return found


def _name(raw: bytes) -> str:
    kind = raw[4:8]
    if kind in (b"\xa9gen", b"gnre"):
        return GENRE
    if kind == b"tmpo":
        return BPM
    if kind != b"----":
        return f"item {kind.decode('latin-1')}"
    parts = dict(children(raw))
    mean, name = parts.get(b"mean", b"")[4:], parts.get(b"name", b"")[4:].decode("utf-8", "replace")
    if mean.lower() == MEAN and (ours := our_name(name)):
        return ours
    if mean.lower() == APPLE.lower() and name.upper() == KEY:
        return KEY
    return f"item ----:{mean.decode('utf-8', 'replace')}:{name}"
