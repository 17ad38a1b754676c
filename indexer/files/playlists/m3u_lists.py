"""Reads M3U and M3U8 playlists: paths absolute, or relative to the list, in whatever bytes they were written."""

import os
import re
from pathlib import Path
from typing import BinaryIO

from indexer.errors import ReadError
from indexer.files.playlists.foreign_lists import MAX_PATH_BYTES, Budget, Entry, ForeignList, read_bytes
from indexer.files.playlists.xml_lists import path_of_address
from indexer.files.windows_paths import is_of_windows


def read(file: BinaryIO, path: Path, budget: Budget) -> list[ForeignList]:
    """The list in a file, named after the file. Raises ReadError for one that is none."""
    content = read_bytes(file, path).removeprefix(b"\xef\xbb\xbf")
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        content = content.decode("utf-16", "replace").encode()
    if b"\0" in content[:4096]:
        raise ReadError(path, "is no playlist")
    folder = os.path.realpath(os.fsencode(path.parent))
    entries: list[Entry] = []
    duration_s: float | None = None
    budget.take(path, lists=1)
    for line in (found[0].strip() for found in re.finditer(rb"[^\r\n]+", content)):
        if told := re.match(rb"#EXTINF:\s*(\d{1,6}(?:\.\d{1,6})?)", line):
            duration_s = float(told[1]) or None
        elif line and not line.startswith(b"#"):
            entries.append(Entry(_places(line[:MAX_PATH_BYTES], folder), duration_s))
            budget.take(path, entries=1, texts=entries[-1].paths)
            duration_s = None
        else:
            budget.beat()
    return [ForeignList((path.stem,), entries)]


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
