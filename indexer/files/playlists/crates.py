"""Serato crates: records of a four-letter name, a length (big-endian) and a value; texts are UTF-16, big-endian.

https://github.com/Holzhaus/serato-tags describes the records. A track is named by its path from the root of its drive,
without a slash in front.
"""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from indexer.errors import ReadError
from indexer.files.playlists.foreign_lists import MAX_PATH_BYTES, Budget, Entry, ForeignList, read_bytes

VERSION = "1.0/Serato ScratchLive Crate"
HEADER = struct.Struct(">4sI")


def read(file: BinaryIO, path: Path, budget: Budget) -> list[ForeignList]:
    """The list that a crate is; the crates it lies in are in its name, parted by ``%%``. Raises ReadError."""
    records = _records(read_bytes(file, path), path)
    name, version = next(records, (b"", b""))
    told = version.decode("utf-16-be", "replace")
    if name != b"vrsn":
        raise ReadError(path, "is no Serato crate")
    if told != VERSION:
        raise ReadError(
            path, f"is a Serato file of the version '{told[:60]}', which is not known here; known is '{VERSION}'"
        )
    roots = _drive_roots(path)
    entries = []
    budget.take(path, lists=1)
    for record_name, value in records:
        for kind, track in _records(value, path) if record_name == b"otrk" else ():
            if kind == b"ptrk":
                entries.append(_entry(track, roots, path))
                budget.take(path, entries=1, texts=entries[-1].paths)
    return [ForeignList(tuple(path.stem.split("%%")), entries)]


def _records(content: bytes, path: Path) -> Iterator[tuple[bytes, bytes]]:
    at = 0
    while at < len(content):
        if at + HEADER.size > len(content):
            raise ReadError(path, "is damaged: a record has no end")
        name, size = HEADER.unpack_from(content, at)
        at += HEADER.size
        if at + size > len(content):
            raise ReadError(path, "is damaged: a record is longer than the file")
        yield name, content[at : at + size]
        at += size


def _entry(value: bytes, roots: tuple[bytes, ...], path: Path) -> Entry:
    try:
        track = value[: 2 * MAX_PATH_BYTES].decode("utf-16-be").encode()
    except UnicodeError as e:
        raise ReadError(path, "is damaged: the path of a track is no text") from e
    return Entry(tuple(root + track for root in roots), rooted=track)


def _drive_roots(path: Path) -> tuple[bytes, ...]:
    """Where the drive of a crate may begin: at the folder that holds ``_Serato_``, or at the root of this machine."""
    above = [folder.parent for folder in path.absolute().parents if folder.name == "_Serato_"]
    return (*(bytes(folder).rstrip(b"/") + b"/" for folder in above), b"/")
