"""M3U8 playlists, written: paths are the exact bytes of names, absolute or relative to the list."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from indexer.exchange.own_files import M3U8, Output, write_sealed
from indexer.library.listed import ListedTrack
from indexer.wording import artist_and_title, printable


def entry(path: bytes, artist: str | None, title: str | None, duration_s: float | None) -> bytes:
    """The lines of one track. M3U cannot hold a line break: a comment replaces such a path."""
    if _breaks(path):
        return f"# left out, its path has a line break: {printable(path)}\n".encode()
    name = artist_and_title(artist, title) or printable(os.path.basename(path))  # noqa: PTH119 - bytes
    return f"#EXTINF:{round(duration_s or -1)},{name}\n".encode() + path + b"\n"


def _breaks(path: bytes) -> bool:
    return b"\n" in path or b"\r" in path


def write(out: Output, tracks: Iterable[ListedTrack], path_of: Callable[[bytes], bytes]) -> int:
    """Write what follows the first line; returns how many tracks M3U cannot hold.

    ``path_of``: how a path is to stand in the list.
    """
    left_out = 0
    for track in tracks:
        path = path_of(track.path)
        left_out += _breaks(path)
        out.write(entry(path, track.artist, track.title, track.duration_s))
    return left_out


def relative_to(folder: Path) -> Callable[[bytes], bytes]:
    """A function that tells a path as seen from a folder, the one in which the list lies."""
    start = os.path.realpath(os.fsencode(folder))

    def path_of(path: bytes) -> bytes:
        relative = os.path.relpath(path, start)
        return b"./" + relative if relative.startswith(b"#") else relative  # else it would be a comment

    return path_of


def to_m3u(found: dict[str, Any], path_of: Callable[[bytes], bytes] = bytes) -> bytes:
    """A whole playlist of {tracks: [{path, artist, title, duration_s}]}; ``path_of`` as ``write`` has it."""
    return M3U8.first_line + _entries(found, path_of)


def write_own(path: Path, found: dict[str, Any]) -> None:
    """Write the playlist of ``to_m3u`` into a file of ours. Raises ConfigError where another file stands there."""
    write_sealed(path, M3U8, lambda out: out.write(_entries(found)))


def _entries(found: dict[str, Any], path_of: Callable[[bytes], bytes] = bytes) -> bytes:
    """What follows the first line."""
    return b"".join(
        entry(path_of(os.fsencode(track["path"])), track["artist"], track["title"], track["duration_s"])
        for track in found["tracks"]
    )
