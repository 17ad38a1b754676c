"""ASF (WMA) attributes as raw bytes: the extended content description, and genres in the metadata library.

All other header objects keep their bytes, except for the sizes that change with the tag (ASF specification 1.20.03,
sections 2.2, 3.1, 3.2, 3.4, 3.11 and 4.8). Our own fields go into the extended content description only.
"""

from collections.abc import Iterator
from typing import BinaryIO
from uuid import UUID

from indexer.files.tags.blocks.blocks import (
    BPM,
    GENRE,
    KEY,
    Block,
    Field,
    TagDamagedError,
    UnwritableError,
    digest,
    file_size,
    our_name,
    read_exactly,
    splice,
)

HEADER = UUID("75B22630-668E-11CF-A6D9-00AA0062CE6C").bytes_le
FILE_PROPERTIES = UUID("8CABDCA1-A947-11CF-8EE4-00C00C205365").bytes_le
EXTENDED_CONTENT = UUID("D2D0A440-E307-11D2-97F0-00A0C95EA850").bytes_le
HEADER_EXTENSION = UUID("5FBF03B5-A92E-11CF-8EE3-00C00C205365").bytes_le
METADATA = UUID("C5F8CBEA-5BAF-4877-8467-AA8C44FA4CCA").bytes_le
METADATA_LIBRARY = UUID("44231C94-9498-49D1-A141-1D134E457054").bytes_le
_KEYS = {GENRE: "WM/Genre", BPM: "WM/BeatsPerMinute", KEY: "WM/InitialKey"}
_NAMES = {key.upper(): name for name, key in _KEYS.items()}

Object = tuple[bytes, bytes]  # GUID and content


class _Header:
    """The header object of a file, parsed into its objects."""

    def __init__(self, file: BinaryIO) -> None:
        head = read_exactly(file, 0, 30, "the ASF header")
        self.total = int.from_bytes(head[16:24], "little")
        if head[:16] != HEADER or self.total < 30:
            raise TagDamagedError("the ASF header is missing")
        self.reserved = head[28:30]
        self.objects = list(_objects(read_exactly(file, 30, self.total - 30, "the ASF header")))
        if len(self.objects) != int.from_bytes(head[24:28], "little"):
            raise TagDamagedError("the ASF header holds another number of objects than it says")
        extension = self.find(HEADER_EXTENSION) or b""
        if extension and int.from_bytes(extension[18:22], "little") != len(extension) - 22:
            raise TagDamagedError("the size of the ASF header extension is wrong")
        self.extension_head = extension[:18]
        self.extensions = list(_objects(extension[22:]))

    def find(self, guid: bytes) -> bytes | None:
        return next((data for found, data in self.objects if found == guid), None)

    def others(self) -> str:
        """Digest of all objects that hold no genre, without the file size in the file properties."""
        content = [*self.objects, (b"extension", self.extension_head), *self.extensions]
        for guid in (EXTENDED_CONTENT, HEADER_EXTENSION, METADATA_LIBRARY):
            first = next((number for number, found in enumerate(content) if found[0] == guid), len(content))
            del content[first : first + 1]
        return digest(guid + (data[:16] + data[24:] if guid == FILE_PROPERTIES else data) for guid, data in content)

    def write(self, file: BinaryIO) -> None:
        """Write the objects, with their sizes updated."""
        inner = b"".join(_object(found) for found in self.extensions)
        extension = self.extension_head + len(inner).to_bytes(4, "little") + inner
        objects = [(guid, extension if guid == HEADER_EXTENSION else data) for guid, data in self.objects]
        total = 30 + sum(24 + len(data) for _, data in objects)
        old_size = file_size(file)
        out = HEADER + total.to_bytes(8, "little") + len(objects).to_bytes(4, "little") + self.reserved
        for guid, data in objects:
            content = data
            # a file size that was not filled in (zero) or is wrong stays as it is
            if guid == FILE_PROPERTIES and int.from_bytes(data[16:24], "little") == old_size:
                content = data[:16] + (old_size - self.total + total).to_bytes(8, "little") + data[24:]
            out += _object((guid, content))
        splice(file, 0, self.total, out)


class AsfBlock(Block):
    """The extended content description of an ASF file."""

    kind = "asf"
    padded = False

    def __init__(self, file: BinaryIO) -> None:
        self.header = _Header(file)
        content = self.header.find(EXTENDED_CONTENT)
        fields = [] if content is None else _attributes(content)
        super().__init__(fields, exists=content is not None, room=0, rest={"other objects": self.header.others()})

    def encode(self, name: str, values: list[str]) -> list[Field]:
        key = _KEYS.get(name, name).encode("utf-16-le") + b"\x00\x00"
        found = []
        for value in values:
            data = value.encode("utf-16-le", "replace") + b"\x00\x00"
            if len(data) > 0xFFFF:
                raise UnwritableError("the genre is too long for ASF")
            found.append(Field(name, _short(len(key)) + key + _short(0) + _short(len(data)) + data))
        return found

    def values(self, field: Field) -> list[str]:
        key_size = int.from_bytes(field.raw[:2], "little")
        return [_utf16(field.raw[6 + key_size :])]

    def length(self) -> int:
        return 0

    def save(self, file: BinaryIO, _room: int, /) -> None:
        _put(self.header.objects, EXTENDED_CONTENT, _counted(self.fields))
        self.header.write(file)

    def remove(self, file: BinaryIO, _room: int, /) -> None:
        self.header.objects = [found for found in self.header.objects if found[0] != EXTENDED_CONTENT]
        self.header.write(file)


class AsfLibraryBlock(Block):
    """Genres in the metadata library, where some programs keep all but the first; ours replaces them."""

    kind = "asf library"
    padded = False
    own_fields = False

    def __init__(self, file: BinaryIO) -> None:
        self.header = _Header(file)
        content = next((data for guid, data in self.header.extensions if guid == METADATA_LIBRARY), None)
        fields = [] if content is None else _records(content)
        super().__init__(fields, exists=content is not None, room=0)

    def encode(self, name: str, values: list[str]) -> list[Field]:  # noqa: ARG002  # AsfBlock alone holds ours
        return []

    def values(self, field: Field) -> list[str]:
        name_size = int.from_bytes(field.raw[4:6], "little")
        return [_utf16(field.raw[12 + name_size :])]

    def length(self) -> int:
        return 0

    def save(self, file: BinaryIO, _room: int, /) -> None:
        _put(self.header.extensions, METADATA_LIBRARY, _counted(self.fields))
        self.header.write(file)

    def remove(self, _file: BinaryIO, _room: int, /) -> None:
        raise TagDamagedError("the metadata library is never removed")


def further_attributes(file: BinaryIO) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Names and texts of the attributes in objects that are never written, with a name for each object."""
    header = _Header(file)
    for number, data in enumerate(data for guid, data in header.objects if guid == EXTENDED_CONTENT):
        if number:
            yield "a second extended content description", [_text(f.raw, 0) for f in _attributes(data)]
    for data in (data for guid, data in header.extensions if guid == METADATA):
        yield "the ASF metadata object", [_text(f.raw, 4) for f in _records(data)]
    for number, data in enumerate(data for guid, data in header.extensions if guid == METADATA_LIBRARY):
        if number:
            yield "a second ASF metadata library", [_text(f.raw, 4) for f in _records(data)]


def _text(raw: bytes, at: int) -> tuple[str, str]:
    """Name and text of an attribute (``at`` 0) or a record (4); the text is empty where the value is none."""
    size = int.from_bytes(raw[at : at + 2], "little")
    kind = int.from_bytes(raw[2 + size : 4 + size] if at == 0 else raw[6:8], "little")
    name, value = (raw[2 : 2 + size], raw[6 + size :]) if at == 0 else (raw[12 : 12 + size], raw[12 + size :])
    return _utf16(name), _utf16(value) if kind == 0 else ""


def _utf16(data: bytes) -> str:
    return data.decode("utf-16-le", "replace").rstrip("\x00")


def _objects(data: bytes) -> Iterator[Object]:
    at = 0
    while at < len(data):
        size = int.from_bytes(data[at + 16 : at + 24], "little")
        if size < 24 or at + size > len(data):
            raise TagDamagedError("an object of the ASF header is damaged")
        yield data[at : at + 16], data[at + 24 : at + size]
        at += size


def _object(found: Object) -> bytes:
    guid, data = found
    return guid + (24 + len(data)).to_bytes(8, "little") + data


def _put(objects: list[Object], guid: bytes, content: bytes) -> None:
    """Replace the first object of this GUID, or add one."""
    at = next((i for i, found in enumerate(objects) if found[0] == guid), len(objects))
    objects[at : at + 1] = [(guid, content)]


def _attributes(data: bytes) -> list[Field]:
    fields, at = [], 2
    for _ in range(int.from_bytes(data[:2], "little")):
        start = at
        key_size = int.from_bytes(data[at : at + 2], "little")
        at += 2 + key_size
        kind, size = (int.from_bytes(data[i : i + 2], "little") for i in (at, at + 2))
        at += 4 + size
        fields.append(_field(data[start + 2 : start + 2 + key_size], kind, data[start:at], at <= len(data)))
    return _all(fields, data[at:])


def _records(data: bytes) -> list[Field]:
    fields, at = [], 2
    for _ in range(int.from_bytes(data[:2], "little")):
        start = at
        name_size, kind = (int.from_bytes(data[i : i + 2], "little") for i in (at + 4, at + 6))
        at += 12 + name_size + int.from_bytes(data[at + 8 : at + 12], "little")
        fields.append(_field(data[start + 12 : start + 12 + name_size], kind, data[start:at], at <= len(data)))
    return _all(fields, data[at:])


def _field(name_bytes: bytes, kind: int, raw: bytes, whole: bool) -> Field:
    if not whole:
        raise TagDamagedError("an ASF attribute is damaged")
    name = _utf16(name_bytes)
    known = _NAMES.get(name.upper()) or our_name(name) if kind == 0 else None
    return Field(known or f"attribute {name}", raw)


def _all(fields: list[Field], behind: bytes) -> list[Field]:
    if behind.strip(b"\x00"):
        raise TagDamagedError("the ASF attributes are followed by something unknown")
    return fields


def _counted(fields: list[Field]) -> bytes:
    return _short(len(fields)) + b"".join(field.raw for field in fields)


def _short(value: int) -> bytes:
    return value.to_bytes(2, "little")
