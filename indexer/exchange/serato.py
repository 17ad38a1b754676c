"""Writes Serato crates; indexer.files.playlists.crates tells of their form and reads them."""

from collections.abc import Iterable

from indexer.exchange.own_files import Output
from indexer.files.playlists.crates import HEADER, VERSION


def record(name: bytes, value: bytes) -> bytes:
    """One record of a crate."""
    return HEADER.pack(name, len(value)) + value


def write(out: Output, paths: Iterable[str]) -> None:
    """Write a crate of tracks, each by its path from its drive's root."""
    out.write(record(b"vrsn", VERSION.encode("utf-16-be")))
    for path in paths:
        out.write(record(b"otrk", record(b"ptrk", path.encode("utf-16-be"))))
