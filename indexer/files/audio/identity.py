"""The identity of a file (Stat) and of the recording in it (Fingerprint).

Recognises containers by content and hashes the audio payload: sha256 over the facts and bytes that the container
walkers yield. Tags, padding, paging and remuxing do not change the hash; one changed audio byte does. Standard library
only, bounded memory. Never decodes, reads tags or writes.
"""

import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from indexer.errors import ReadError, UnsupportedError
from indexer.files.audio.payload.mpeg import is_free_format
from indexer.files.audio.payload.source import (
    ByteSource,
    Cut,
    Part,
    Span,
    after_leading_tags,
    before_trailing_tags,
)
from indexer.files.audio.payload.stated_end import missing_end
from indexer.files.containers import CONTAINERS, MAGIC, SEARCHES, SNIFFS

# Formats without a walker that FFmpeg may read: Matroska, AC-3, DTS, AU, CAF, Wave64, TAK, DSDIFF, AMR, Shorten,
# OptimFROG, RIFF with the high byte first (RIFX) and others.
_OTHER_AUDIO = (
    b"\x1a\x45\xdf\xa3", b"\x0b\x77", b"\x7f\xfe\x80\x01", b"\xfe\x7f\x01\x80", b".snd", b"caff",
    b"riff\x2e\x91\xcf\x11", b"tBaK", b"FRM8", b"#!AMR", b"ajkg", b"OFR ", b".RMF", b"Creative Voice File", b"TTA2",
    b"FLV\x01", b"RIFX", b"LA02", b"LA03", b"LA04",
)  # fmt: skip
_NOT_AUDIO = (
    (b"\xff\xd8\xff", "a JPEG image"), (b"\x89PNG", "a PNG image"), (b"GIF8", "a GIF image"), (b"%PDF", "a PDF"),
    (b"PK\x03\x04", "a ZIP archive"), (b"\x1f\x8b", "a gzip archive"), (b"Rar!", "a RAR archive"),
    (b"7z\xbc\xaf", "a 7z archive"), (b"\x7fELF", "a program"), (b"MZ", "a program"),
    (b"SQLite format 3", "a database"), (b"MThd", "MIDI notes without sound"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Stat:
    """Identifies one state of a file without opening it; a rename does not change it.

    Every number fits SQLite's 64 bits with a sign: file systems give inode numbers above 2^63 (mergerfs, CIFS, Lustre,
    overlay) and times after the year 2262, which are wrapped around.
    """

    dev: int
    ino: int
    size: int
    mtime_ns: int

    @classmethod
    def of(cls, path_or_fd: str | bytes | os.PathLike[str] | int) -> "Stat":
        """The Stat of a path (links are followed) or of an open descriptor. Raises OSError."""
        return cls.from_result(os.stat(path_or_fd))  # noqa: PTH116 - also takes a descriptor

    @classmethod
    def from_result(cls, found: os.stat_result) -> "Stat":
        """The Stat in what the system told."""
        return cls(*map(signed64, (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)))

    def same_state(self, other: "Stat") -> bool:
        """Whether both are the same state of one file, even if its drive was mounted again in between."""
        return same_node(self.dev, self.ino, other.dev, other.ino) and self.same_content(other)

    def same_content(self, other: "Stat") -> bool:
        """Whether size and time are the same; the file may have been put in the place of the other."""
        return (self.size, self.mtime_ns) == (other.size, other.mtime_ns)


def signed64(number: int) -> int:
    """A number wrapped around into 64 bits with a sign."""
    return (number + (1 << 63)) % (1 << 64) - (1 << 63)


def same_node(dev: int, ino: int, other_dev: int, other_ino: int) -> bool:
    """Whether two pairs of device and inode numbers can belong to the same file.

    A drive that is mounted again may have a new device number, and with it (FAT, network) new inode numbers.
    """
    return ino == other_ino or dev != other_dev


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """A file's container, recognised by content, and the hex sha256 that identifies its recording.

    ``truncated`` says what is missing of a file that lost its end; the identity is then of what is there.
    """

    container: str
    audio_sha256: str
    truncated: str | None = None


def sniff(file: BinaryIO) -> str:
    """The container, recognised by content; ``other`` for a format without a walker or no sound. Raises OSError."""
    try:
        return _sniff(ByteSource(file, str(getattr(file, "name", ""))))
    except ReadError:  # MPEG sync words, but no frames
        return "other"


def _sniff(source: ByteSource) -> str:
    for position in dict.fromkeys((after_leading_tags(source), 0)):
        head = source.at(position, 16)
        name = next((name for magic, name in MAGIC.items() if head.startswith(magic)), None)
        name = name or next(filter(None, (sniff(source, head) for sniff in SNIFFS)), None)
        if name or head.startswith((*_OTHER_AUDIO, b"OggS")):  # never search Ogg files for MPEG
            return name or "other"
    return next(filter(None, (search(source) for search in SEARCHES)), "other")


def fingerprint(
    file: BinaryIO, path: str | bytes | os.PathLike[str], *, heartbeat: Callable[[], None] = lambda: None
) -> Fingerprint:
    """Container and audio identity of an open file; ``path`` is used in error messages only.

    ``heartbeat`` is called at least once for every MiB read. Raises ReadError for a file that is damaged, empty, not
    audio, or cut before its audio, UnsupportedError for MP3 in free format, and DeferredError for one that became
    shorter while it was read.
    """
    try:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ReadError(path, "not a regular file")
    except (AttributeError, OSError):  # a file in memory has no descriptor
        pass
    try:
        source = ByteSource(file, path, heartbeat)
        if not source.size:
            raise ReadError(path, "empty file")
        container = _sniff(source)
        walk = CONTAINERS[container].walk if container in CONTAINERS else _walk_other
        return Fingerprint(container, *_hash(container, source, walk(source)))
    except OSError as error:
        raise ReadError(path, f"cannot be read: {error.strerror or error}") from error


def fingerprint_of_all(
    file: BinaryIO, path: str | bytes | os.PathLike[str], *, heartbeat: Callable[[], None] = lambda: None
) -> Fingerprint:
    """Container and identity of a file whose container is damaged: of all bytes between the tags at its ends.

    Raises DeferredError for a file that became shorter while it was read, ReadError where it cannot be read.
    """
    try:
        source = ByteSource(file, path, heartbeat)
        try:
            container = _sniff(source)
        except ReadError:  # MPEG sync words, but no frames
            container = "other"
        start = min(after_leading_tags(source), source.size)
        parts: list[Part] = [b"all", Span(start, before_trailing_tags(source, start))]
        return Fingerprint(container, *_hash(container, source, iter(parts)))
    except OSError as error:
        raise ReadError(path, f"cannot be read: {error.strerror or error}") from error


def _hash(container: str, source: ByteSource, parts: Iterator[Part]) -> tuple[str, str | None]:
    """Sha256 over the container's name, the facts and each lane's bytes; why the file is truncated, or None."""
    truncated = None
    facts = hashlib.sha256(container.encode() + b"\0")
    lanes: dict[int, hashlib._Hash] = {}
    for part in parts:
        if isinstance(part, bytes):
            facts.update(part)
            continue
        if isinstance(part, Cut):
            facts.update(b"truncated")
            truncated = truncated or part.reason
            continue
        digest = lanes.get(part.lane)
        if digest is None:
            digest = lanes[part.lane] = hashlib.sha256()
        for block in source.blocks(part.start, part.end):
            digest.update(block)
    for _lane, digest in sorted(lanes.items()):
        facts.update(digest.digest())
    return facts.hexdigest(), truncated


def _walk_other(source: ByteSource) -> Iterator[Part]:
    """The whole file with its tags, if FFmpeg may know the format; else ReadError, saying what the file looks like.

    Raises UnsupportedError for MP3 in free format.

    Retagging such a file changes its identity, so it is embedded again.
    """
    start = min(after_leading_tags(source), source.size)
    head = source.at(start, 4096)
    if head.startswith(_OTHER_AUDIO):
        if end := missing_end(source):
            yield source.cut("the file", end, source.size)
        yield Span(0, source.size)
        return
    if not head and start:
        stated = after_leading_tags(source)
        raise source.truncated("the ID3v2 tag", stated, source.size) if stated > source.size else source.no_audio()
    if is_free_format(source):
        raise UnsupportedError(source.path, "MP3 in free format, without a stated bit rate")
    if head[:4] == b"OggS":
        raise source.error("not audio: an Ogg file without an audio stream of a known kind")
    raise source.error(f"not audio: {_looks_like(head)}")


def _looks_like(head: bytes) -> str:
    for magic, name in _NOT_AUDIO:
        if head.startswith(magic):
            return f"it looks like {name}"
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<body")) or b"<html" in text[:1024]:
        return "it looks like HTML"
    if not head.strip(b"\0"):
        return "it begins with nothing but zeros"
    if not any(byte < 9 or 13 < byte < 32 for byte in head) and sum(byte > 127 for byte in head) < len(head) // 2:
        return "it looks like text"
    return "no known sound format was recognised"
