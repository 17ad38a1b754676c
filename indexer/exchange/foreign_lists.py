"""Playlists that others wrote, as every reader of a format tells of them, and what a file of them may be.

They are hostile input: a file has a greatest size, and all files together a greatest number of lists, of entries and of
bytes of paths.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from indexer.errors import ConfigError

MAX_ENTRIES = 1_000_000  # tracks of collections and entries of lists together
MAX_LISTS = 100_000
MAX_PATHS_BYTES = 512 << 20  # of all paths together
MAX_FILE_BYTES = 64 << 20  # of a format that is read at once
MAX_PATH_BYTES = 8192  # a longer path is no path
MAX_NAME_CHARS = 200  # of a list; the rest names nothing


@dataclass(frozen=True, slots=True)
class Entry:
    """A track in a list: where it may lie as the list's own machine sees it, the likeliest place first."""

    paths: tuple[bytes, ...]  # absolute, with forward slashes
    duration_s: float | None = None
    size: int | None = None  # bytes
    size_unit: int = 1  # bytes; the size is a whole number of these
    rooted: bytes | None = None  # the path from the root of a drive that the list does not name


@dataclass(frozen=True, slots=True)
class ForeignList:
    """A playlist or crate: the names of the folders that it lies in and its own name last, and its tracks."""

    names: tuple[str, ...]
    entries: Sequence[Entry]


def read_bytes(path: Path) -> bytes:
    """The content of a file that is read at once. Raises ConfigError for one that cannot be read or is too large."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as e:
        raise ConfigError(f"{path}: cannot be read ({e.strerror})") from e
    if len(content) > MAX_FILE_BYTES:
        raise ConfigError(f"{path}: is larger than {MAX_FILE_BYTES >> 20} MB, which no playlist is")
    return content


class Budget:
    """Counts what all files that are read together hold."""

    def __init__(self) -> None:
        self._entries = self._lists = self._paths_bytes = 0

    def take(self, path: Path, *, entries: int = 0, lists: int = 0, paths: Sequence[bytes] = ()) -> None:
        """Count what comes from a file. Raises ConfigError where it is more than all may hold."""
        self._entries += entries
        self._lists += lists
        self._paths_bytes += sum(map(len, paths))
        for count, most, what in (
            (self._entries, MAX_ENTRIES, "tracks"),
            (self._lists, MAX_LISTS, "playlists"),
            (self._paths_bytes, MAX_PATHS_BYTES, "bytes of paths"),
        ):
            if count > most:
                raise ConfigError(f"{path}: with it there are more than {most:,} {what}; name fewer playlists")
