"""Writes a file of ours as a whole: beside its place, then renamed, so that a reader sees the old or the new one.

The user's files are never written with it: music by files/tags/write.py, playlists by exchange/own_files.py.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from indexer.errors import ConfigError


@contextmanager
def replacing(path: Path, mode: int = 0o600) -> Iterator[IO[bytes]]:
    """A file to write into, whose ``name`` is its path; when the block has ended well, it takes the place of ``path``.

    It is on the disk then. After an error nothing of it is left. ``mode``: its permissions. Raises OSError.
    """
    with tempfile.NamedTemporaryFile(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent, delete=False) as file:
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
            Path(file.name).chmod(mode)
            Path(file.name).replace(path)
        finally:
            Path(file.name).unlink(missing_ok=True)
    sync_folder(path.parent)


def replace_text(path: Path, text: str, mode: int = 0o600) -> None:
    """Write a text file, whose folders are made; one that stands there keeps its mode. Raises ConfigError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path, path.stat().st_mode & 0o777 if path.exists() else mode) as file:
            file.write(text.encode())
    except OSError as e:
        raise ConfigError(f"{path}: cannot be written ({e.strerror})") from e


def sync_folder(folder: Path) -> None:
    """Have the names in a folder on the disk, where it can be opened and its file system syncs folders."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
