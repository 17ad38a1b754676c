"""The formats of playlists that are read, by the ending of a file's name."""

from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from indexer.errors import ReadError
from indexer.files.playlists import crates, m3u_lists, xml_lists
from indexer.files.playlists.foreign_lists import Budget, ForeignList

FORMATS: dict[str, Callable[[BinaryIO, Path, Budget], list[ForeignList]]] = {
    ".xml": xml_lists.read,
    ".nml": xml_lists.read,
    ".crate": crates.read,
    ".m3u8": m3u_lists.read,
    ".m3u": m3u_lists.read,
}


def parse(file: BinaryIO, path: Path, budget: Budget) -> list[ForeignList]:
    """All lists in a file, which is open at its beginning; in a reader process only.

    Raises ReadError for what is damaged, of no known format, or more than the budget; OSError for what cannot be read.
    """
    try:
        return FORMATS[path.suffix.lower()](file, path, budget)
    except KeyError:
        raise ReadError(path, "is of no format of playlists that is known here") from None
