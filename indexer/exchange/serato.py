"""Serato crates: records of a four-letter name, a length (big-endian) and a value; texts are UTF-16, big-endian.

https://github.com/Holzhaus/serato-tags describes the records. A track is named by its path from the root of its drive,
without a slash in front.
"""

import re
import struct
from collections.abc import Iterable, Sequence

from indexer.exchange.dj_paths import is_of_windows
from indexer.exchange.own_files import Output
from indexer.files.mounts import Mount, mount_of

VERSION = "1.0/Serato ScratchLive Crate"
_HEADER = struct.Struct(">4sI")


def record(name: bytes, value: bytes) -> bytes:
    """One record of a crate."""
    return _HEADER.pack(name, len(value)) + value


def write(out: Output, paths: Iterable[str]) -> None:
    """Write a crate of tracks, each by its path from its drive's root."""
    out.write(record(b"vrsn", VERSION.encode("utf-16-be")))
    for path in paths:
        out.write(record(b"otrk", record(b"ptrk", path.encode("utf-16-be"))))


def from_drive_root(path: bytes, mounts: Sequence[Mount] = ()) -> bytes:
    """A path from the root of its drive: ``D:/x``, ``/Volumes/USB/x`` and ``/x`` all are ``x``.

    ``mounts``: those of this machine, where the path is one of this machine.
    """
    if is_of_windows(path):
        return path[2:].lstrip(b"/")
    mount = mount_of(path, mounts)
    if mount is not None and mount.point != b"/":
        return path[len(mount.point) :].lstrip(b"/")
    return re.sub(rb"^/(Volumes/[^/]+/)?", b"", path)
