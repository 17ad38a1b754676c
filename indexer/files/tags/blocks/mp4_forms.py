"""Reads the texts of an MP4 file in every form that they are written in; never writes.

The forms: iTunes' item list; lists of numbered keys (handler ``mdta``), as phones and FFmpeg's ``use_metadata_tags``
write them; QuickTime's texts in ``udta``; the texts of 3GP (3GPP TS 26.244, 8.2); an ID3v2 tag in a ``meta`` atom. They
stand in ``meta`` and ``udta`` atoms at the top, in ``moov``, and in its first sound track, and each may stand there
several times.
"""

import struct
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from indexer.files.tags.blocks.blocks import TagDamagedError, file_size, read_exactly
from indexer.files.tags.blocks.id3_genres import ID3_GENRES
from indexer.files.tags.blocks.mp4 import ITUNES, Atom, atoms, children, handler_of, meta_head

Pairs = list[tuple[str, str]]  # name of a field in the file, and its text

MAX_ATOMS = 2_000  # of one udta or meta atom
MAX_TEXT_BYTES = 1 << 16  # of one text in udta
_3GP = (b"titl", b"perf", b"auth", b"gnre", b"albm", b"dscp")
_UNDETERMINED = 0x7FFF  # QuickTime's code for no language


class Form(NamedTuple):
    """The texts of one place: ``where`` names it for a person; ``id3`` is a whole ID3v2 tag, where one stands there."""

    where: str
    pairs: Pairs
    id3: bytes = b""


def item_list(file: BinaryIO) -> Pairs:
    """The texts of the item list that most programs read: the first of its kind in the first ``udta`` and ``meta``.

    Raises TagDamagedError where there is no ``moov`` atom.
    """
    found = _own_list(file)
    return [] if found is None else [pair for raw in _items(file, found) for pair in _item(raw)]


def other_forms(file: BinaryIO) -> Iterator[Form]:
    """The texts of all other places, in the order of the file. Raises TagDamagedError where there is no ``moov``."""
    own = _own_list(file)
    for place in _places(file):
        if place.name == b"udta":
            yield from _texts(file, place)
        else:
            yield from _lists(file, place, own)


def _inside(file: BinaryIO, atom: Atom) -> list[Atom]:
    head = meta_head(file, atom) if atom.name == b"meta" else 0
    return atoms(file, atom.body + head, atom.end, cut=True)[:MAX_ATOMS]


def _top(file: BinaryIO) -> list[Atom]:
    return atoms(file, 0, file_size(file), cut=True)


def _moov(top: list[Atom]) -> Atom:
    found = next((atom for atom in top if atom.name == b"moov"), None)
    if found is None:
        raise TagDamagedError("there is no moov atom")
    return found


def _own_list(file: BinaryIO) -> Atom | None:
    parent = _moov(_top(file))
    for name in (b"udta", b"meta", b"ilst"):
        inside = _inside(file, parent)
        if name == b"ilst" and handler_of(file, inside) not in ITUNES:
            return None
        found = next((atom for atom in inside if atom.name == name), None)
        if found is None:
            return None
        parent = found
    return parent


def _places(file: BinaryIO) -> Iterator[Atom]:
    """Every udta and meta atom, those inside of udta after their parent."""
    top = _top(file)
    inside = _inside(file, _moov(top))
    track = next((atom for atom in inside if atom.name == b"trak" and _is_sound(file, atom)), None)
    for atom in (*top, *inside, *(_inside(file, track) if track else [])):
        if atom.name == b"meta":
            yield atom
        elif atom.name == b"udta":
            yield atom
            yield from (child for child in _inside(file, atom) if child.name == b"meta")


def _is_sound(file: BinaryIO, track: Atom) -> bool:
    media = next((atom for atom in _inside(file, track) if atom.name == b"mdia"), None)
    return media is not None and handler_of(file, _inside(file, media)) == b"soun"


# --- lists in meta ------------------------------------------------------------


def _lists(file: BinaryIO, meta: Atom, own: Atom | None) -> Iterator[Form]:
    inside = _inside(file, meta)
    keys: list[str] = []
    for atom in inside:
        if atom.name == b"keys":
            keys = _keys(read_exactly(file, atom.body, atom.size - atom.header, "the list of keys"))
    numbered = handler_of(file, inside) == b"mdta"
    for atom in inside:
        if atom.name == b"ilst" and atom != own:
            items = _items(file, atom)
            if numbered:
                yield Form("a list of numbered keys (mdta)", [p for raw in items for p in _numbered(raw, keys)])
            else:
                yield Form("another item list", [pair for raw in items for pair in _item(raw)])
        elif atom.name == b"ID32" and atom.size > atom.header + 6:
            data = read_exactly(file, atom.body, atom.size - atom.header, "the ID3 tag")
            yield Form("an ID3v2 tag in a meta atom", [], data[6:])


def _items(file: BinaryIO, found: Atom) -> list[bytes]:
    """The raw items of a list, without its pictures."""
    wanted = (child for child in _inside(file, found) if child.name != b"covr")
    return [read_exactly(file, child.at, child.size, "an item") for child in wanted]


def _keys(data: bytes) -> list[str]:
    """The names of a ``keys`` atom: version, number of keys, then size, namespace and name of each."""
    found: list[str] = []
    at = 8
    while at + 8 <= len(data) and len(found) < MAX_ATOMS:
        size = int.from_bytes(data[at : at + 4], "big")
        if size < 8:
            break
        found.append(data[at + 8 : at + size].decode("utf-8", "replace"))
        at += size
    return found


def _numbered(raw: bytes, keys: list[str]) -> Iterator[tuple[str, str]]:
    number = int.from_bytes(raw[4:8], "big") - 1
    if 0 <= number < len(keys):
        yield from ((keys[number], text) for text in _data(raw))


def _item(raw: bytes) -> Iterator[tuple[str, str]]:
    """Name and texts of an item of iTunes' list; freeform items are named ``----:mean:name``."""
    kind = raw[4:8]
    if kind == b"gnre":
        for name, content in children(raw):
            number = int.from_bytes(content[8:], "big") - 1
            if name == b"data" and 0 <= number < len(ID3_GENRES):
                yield "\xa9gen", ID3_GENRES[number]
    elif kind == b"----":
        parts = {name: content[4:].decode("utf-8", "replace") for name, content in children(raw) if name != b"data"}
        freeform = f"----:{parts.get(b'mean', '')}:{parts.get(b'name', '')}"
        yield from ((freeform, text) for text in _data(raw))
    else:
        yield from ((kind.decode("latin-1"), text) for text in _data(raw))


def _data(raw: bytes) -> Iterator[str]:
    """The values of the data atoms inside an item, by their well-known type (QuickTime File Format, metadata)."""
    for name, content in children(raw):
        if name != b"data" or len(content) < 8:
            continue
        kind, value = int.from_bytes(content[1:4], "big"), content[8:]
        if kind in (21, 22):
            yield str(int.from_bytes(value[:8], "big", signed=kind == 21)) if value else ""
        elif (kind, len(value)) in ((23, 4), (24, 8)):
            yield f"{struct.unpack('>f' if kind == 23 else '>d', value)[0]:g}"
        elif kind in (2, 5):
            yield value.decode("utf-16-be", "replace").removeprefix("\ufeff")
        else:
            yield value.decode("utf-8", "replace")


# --- texts in udta ------------------------------------------------------------


def _texts(file: BinaryIO, udta: Atom) -> Iterator[Form]:
    quicktime: Pairs = []
    mobile: Pairs = []
    for atom in _inside(file, udta):
        is_text = atom.name[:1] == b"\xa9" or atom.name in (*_3GP, b"yrrc")
        if not is_text or not 0 < atom.size - atom.header <= MAX_TEXT_BYTES:
            continue
        raw = read_exactly(file, atom.at, atom.size, "a text")[atom.header :]
        name = atom.name.decode("latin-1")
        if atom.name[:1] == b"\xa9":
            quicktime += ((name, text) for text in _quicktime(raw))
        elif atom.name == b"yrrc":
            mobile.append((name, str(int.from_bytes(raw[4:6], "big"))))
        else:
            mobile.append((f"udta {name}", _mobile(raw[6:])))
    if quicktime:
        yield Form("QuickTime texts in udta", quicktime)
    if mobile:
        yield Form("3GP texts in udta", mobile)


def _quicktime(data: bytes) -> list[str]:
    """The texts of one atom, in one or more languages: size and language of 16 bits before each.

    Some writers put a data atom of iTunes there, or the bare text.
    """
    if data[4:8] == b"data":
        return list(_data(bytes(8) + data))
    found: list[str] = []
    at = 0
    while at + 4 <= len(data):
        size, language = struct.unpack(">HH", data[at : at + 4])
        if at + 4 + size > len(data):
            break
        found.append(_decoded(data[at + 4 : at + 4 + size], macintosh=language < 0x400 or language == _UNDETERMINED))
        at += 4 + size
    return [text for text in found if text] if found and len(data) - at < 4 else [_decoded(data, macintosh=True)]


def _mobile(data: bytes) -> str:
    """A text of 3GP: UTF-8, or UTF-16 with a byte order mark, up to its zero; the album's track number may follow."""
    if data[:2] in (b"\xfe\xff", b"\xff\xfe"):
        return _decoded(data, macintosh=False)
    return _decoded(data.partition(b"\x00")[0], macintosh=False)


def _decoded(data: bytes, *, macintosh: bool) -> str:
    """UTF-16 with a byte order mark, or UTF-8; text that is no UTF-8 is in Mac Roman or Latin-1."""
    if data[:2] in (b"\xfe\xff", b"\xff\xfe"):
        return data.decode("utf-16", "replace").partition("\x00")[0]
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        text = data.decode("mac-roman" if macintosh else "latin-1")
    return text.strip("\x00")
