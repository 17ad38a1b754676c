"""Reads the tags of any sound file: with the readers of its container, and with FFmpeg what these cannot.

FFmpeg's reading is for people only: it tells title, artist and genre of containers that have no reader here and of tags
over which a reader stumbled, and nothing is ever written into such a file.
"""

from contextlib import suppress

from indexer.errors import FileError
from indexer.files.audio.decode import metadata
from indexer.files.containers import CONTAINERS
from indexer.files.tags.read import Tags, completed, read_tags


def all_tags(path: str, container: str) -> Tags:
    """The tags of a file. Raises ReadError where it cannot be opened, or the disk is at fault."""
    found = read_tags(path, container)
    if container not in CONTAINERS or found.unread:
        with suppress(FileError):  # a file that FFmpeg cannot open either
            return completed(found, metadata(path))
    return found
