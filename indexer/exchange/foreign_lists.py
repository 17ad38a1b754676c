"""Playlists that others wrote, as every reader of a format tells of them, and what a file of them may be.

They are hostile input: a file has a greatest size, all files together a greatest number of entries.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from indexer.errors import ConfigError

MAX_ENTRIES = 1_000_000  # tracks of a collection, and entries of all lists together
MAX_FILE_BYTES = 64 << 20  # of a format that is read at once
MAX_PATH_BYTES = 8192  # a longer path is no path


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


def too_many(path: Path) -> ConfigError:
    """The error for a file with more entries than may be."""
    return ConfigError(f"{path}: has more than {MAX_ENTRIES:,} tracks; name a smaller part of your playlists")
