"""Playlists that others wrote, as every parser of a format tells of them, and what a file of them may be.

They are hostile input: a reader process parses them, a file has a greatest size, and all files together a greatest
number of lists, of entries and of bytes of paths and names.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from indexer.errors import ReadError
from indexer.files.children.limits import Heartbeat, no_heartbeat

MAX_ENTRIES = 1_000_000  # tracks of collections and entries of lists together
MAX_LISTS = 100_000
MAX_TEXTS = 512 << 20  # bytes of paths, characters of names and keys
MAX_FILE_BYTES = 64 << 20  # of a format that is read at once
MAX_PATH_BYTES = 8192  # a longer path is no path
MAX_NAME_CHARS = 200  # of a list; the rest names nothing
_MESSAGE_ENTRIES, _MESSAGE_PATHS_BYTES = 1000, 1 << 18  # from which a message to the program is sent


@dataclass(frozen=True, slots=True)
class Entry:
    """A track in a list: where it may lie as the list's own machine sees it, the likeliest place first."""

    paths: tuple[bytes, ...]  # absolute, with forward slashes
    duration_s: float | None = None
    size: int | None = None  # bytes
    size_unit: int = 1  # bytes; the size is a whole number of these
    rooted: bytes | None = None  # the path from the root of a drive that the list does not name

    def to_json(self) -> list[Any]:
        """Plain values; bytes that are no UTF-8 as lone surrogates."""
        rooted = None if self.rooted is None else os.fsdecode(self.rooted)
        return [[os.fsdecode(path) for path in self.paths], self.duration_s, self.size, self.size_unit, rooted]

    @classmethod
    def from_json(cls, told: list[Any]) -> "Entry":
        """The entry of which ``to_json`` told."""
        paths, duration_s, size, size_unit, rooted = told
        return cls(
            tuple(map(os.fsencode, paths)), duration_s, size, size_unit, None if rooted is None else os.fsencode(rooted)
        )


@dataclass(frozen=True, slots=True)
class ForeignList:
    """A playlist or crate: the names of the folders that it lies in and its own name last, and its tracks."""

    names: tuple[str, ...]
    entries: Sequence[Entry]


def messages(one: ForeignList) -> Iterator[dict[str, Any]]:
    """A list in messages of bounded size; the first has its ``names``, each a part of its ``entries``."""
    part: dict[str, Any] = {"names": one.names, "entries": []}
    paths_bytes = 0
    for entry in one.entries:
        part["entries"].append(entry.to_json())
        paths_bytes += sum(map(len, entry.paths))
        if len(part["entries"]) >= _MESSAGE_ENTRIES or paths_bytes >= _MESSAGE_PATHS_BYTES:
            yield part
            part, paths_bytes = {"entries": []}, 0
    if part["entries"] or "names" in part:
        yield part


def from_messages(told: Iterator[dict[str, Any]]) -> list[ForeignList]:
    """The lists of which ``messages`` told, one after the other. An entry of several lists is kept once."""
    lists: list[ForeignList] = []
    known: dict[Entry, Entry] = {}
    entries: list[Entry] = []
    for message in told:
        if "names" in message:
            entries = []
            lists.append(ForeignList(tuple(message["names"]), entries))
        for entry in map(Entry.from_json, message["entries"]):
            entries.append(known.setdefault(entry, entry))
    return lists


def read_bytes(file: BinaryIO, path: Path) -> bytes:
    """The content of a file that is read at once. Raises ReadError for one that is too large."""
    content = file.read(MAX_FILE_BYTES + 1)
    if len(content) > MAX_FILE_BYTES:
        raise ReadError(path, f"is larger than {MAX_FILE_BYTES >> 20} MB, which no playlist is")
    return content


class Left(NamedTuple):
    """How much the files that are still to be read may hold."""

    entries: int
    lists: int
    texts: int


def all_left() -> Left:
    """What all files together may hold."""
    return Left(MAX_ENTRIES, MAX_LISTS, MAX_TEXTS)


class Budget:
    """Counts what a file holds, and tells the program that work goes on."""

    def __init__(self, left: Left, heartbeat: Heartbeat = no_heartbeat) -> None:
        self.left = left
        self.beat = heartbeat

    def take(self, path: Path, *, entries: int = 0, lists: int = 0, texts: Sequence[bytes | str] = ()) -> None:
        """Count what comes from the file. Raises ReadError where it is more than is left, LimitError by the beat."""
        self.beat()
        had = self.left
        self.left = Left(had.entries - entries, had.lists - lists, had.texts - sum(map(len, texts)))
        if min(self.left) >= 0:
            return
        most = ((MAX_ENTRIES, "tracks"), (MAX_LISTS, "playlists"), (MAX_TEXTS, "bytes of paths and names"))
        for left, (count, what) in zip(self.left, most, strict=True):
            if left < 0:
                raise ReadError(path, f"with it there are more than {count:,} {what}; name fewer playlists")
