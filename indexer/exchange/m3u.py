"""M3U8 playlists, written and read: paths are the exact bytes of names, absolute or relative to the list."""

import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from indexer.errors import ConfigError
from indexer.exchange.dj_paths import is_of_windows
from indexer.exchange.foreign_lists import MAX_PATH_BYTES, Budget, Entry, ForeignList, read_bytes
from indexer.exchange.own_files import M3U8, Output
from indexer.exchange.xml_lists import path_of_address
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


def to_m3u(found: dict[str, Any]) -> bytes:
    """A whole playlist of {tracks: [{path, artist, title, duration_s}]}, with exact paths."""
    return M3U8.first_line + b"".join(
        entry(os.fsencode(track["path"]), track["artist"], track["title"], track["duration_s"])
        for track in found["tracks"]
    )


def read(path: Path, budget: Budget) -> Iterator[ForeignList]:
    """The list in a file, named after the file. Raises ConfigError for one that cannot be read."""
    content = read_bytes(path).removeprefix(b"\xef\xbb\xbf")
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        content = content.decode("utf-16", "replace").encode()
    if b"\0" in content[:4096]:
        raise ConfigError(f"{path}: is no playlist")
    folder = os.path.realpath(os.fsencode(path.parent))
    entries: list[Entry] = []
    duration_s: float | None = None
    for line in map(bytes.strip, re.split(rb"[\r\n]+", content)):
        if told := re.match(rb"#EXTINF:\s*(\d{1,6}(?:\.\d{1,6})?)", line):
            duration_s = float(told[1]) or None
        elif line and not line.startswith(b"#"):
            entries.append(Entry(_places(line[:MAX_PATH_BYTES], folder), duration_s))
            budget.take(path, entries=1, paths=entries[-1].paths)
            duration_s = None
    budget.take(path, lists=1)
    yield ForeignList((path.stem,), entries)


def _places(line: bytes, folder: bytes) -> tuple[bytes, ...]:
    """Where a line's file may lie; an address on the internet is nowhere here."""
    if line.startswith(b"file://"):
        return (path_of_address(os.fsdecode(line)),)
    forms = [line]
    try:
        line.decode()
    except UnicodeDecodeError:  # as programs of Windows wrote .m3u
        forms.append(line.decode("cp1252", "replace").encode())
    if b"\\" in line:
        forms += [form.replace(b"\\", b"/") for form in forms]
    return tuple(
        form if is_of_windows(form) else os.path.normpath(os.path.join(folder, form))  # noqa: PTH118 - bytes
        for form in forms
    )
