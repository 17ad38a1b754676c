"""Reads the length that a sound file states in its header or last page, without decoding.

A file that decodes to less was cut short. Only a header's count is used, never an estimate from bit rate and size.
"""

import struct
from collections.abc import Set
from typing import Protocol

from indexer.files.audio.payload.source import ZEROS_BYTES

# Formats whose stated length FFmpeg reports, checked with halved files; for the others it is read here.
HEADER_STATES_LENGTH = {"aiff", "ape", "caf", "dsf", "flac", "mov", "mpc", "mpc8", "tak", "tta", "wv"}

HEAD_BYTES = 1 << 16
_OGG_PAGE_BYTES = 65_307  # the longest page
_OGG_END_OF_STREAM = 4  # a flag of a page
_ASF_FILE_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
ASF_ENCRYPTED = (
    bytes.fromhex("fbb3112223bdd211b4b700a0c955fc6e"),  # content encryption object
    bytes.fromhex("14e68a292226174cb935dae07ee9289c"),  # extended content encryption object
)


class Source(Protocol):
    """The bytes of a file after its leading ID3v2 tags."""

    size: int

    def at(self, offset: int, size: int) -> bytes:
        """Up to ``size`` bytes from offset; none outside the file."""
        ...


def claimed_s(file: Source, names: Set[str], header_s: float | None) -> float | None:
    """The length in seconds that the file states, or None; estimates from bit rate and file size do not count.

    ``names``: FFmpeg's names of its format. ``header_s``: what the decoder says of its length, also an estimate.
    """
    claimed: float | None = None
    if names & HEADER_STATES_LENGTH:
        claimed = header_s
    elif "mp3" in names:
        claimed = _mp3_claimed_s(file)
    elif "wav" in names:
        claimed = _wav_claimed_s(file)
    elif "asf" in names:
        claimed = _asf_claimed_s(file)
    elif "ogg" in names:
        claimed = _ogg_flac_claimed_s(file) or (header_s if _is_one_stream(file) else None)
    return claimed if claimed is not None and claimed > 0 else None


def _mp3_claimed_s(file: Source) -> float | None:
    """The length by the frame count of a Xing, Info or VBRI header, less the delay and padding of its LAME tag."""
    head = file.at(0, HEAD_BYTES)
    at = head.find(b"\xff")
    while 0 <= at < len(head) - 60:
        version, layer, rate = head[at + 1] >> 3 & 3, head[at + 1] >> 1 & 3, head[at + 2] >> 2 & 3
        if head[at + 1] >= 0xE0 and version != 1 and layer == 1 and rate != 3:
            rate_hz = (44_100, 48_000, 32_000)[rate] >> {3: 0, 2: 1, 0: 2}[version]
            mono = head[at + 3] >> 6 == 3
            samples = _counted_samples(head[at : at + 256], version == 3, mono)
            if samples is not None:
                return samples / rate_hz
        at = head.find(b"\xff", at + 1)
    return None


def _counted_samples(frame: bytes, mpeg1: bool, mono: bool) -> int | None:
    """The samples that a layer III frame states if it is a Xing, Info or VBRI header; else None."""
    samples = 1152 if mpeg1 else 576
    xing = frame[4 + ((17 if mono else 32) if mpeg1 else (9 if mono else 17)) :]
    if xing[:4] in (b"Xing", b"Info"):
        flags, frames = struct.unpack(">II", xing[4:12])
        # The four optional fields: frames, bytes, table of contents, quality. A LAME tag follows them.
        lame = xing[8 + 4 * (flags & 1) + 4 * (flags >> 1 & 1) + 100 * (flags >> 2 & 1) + 4 * (flags >> 3 & 1) :]
        delays = int.from_bytes(lame[21:24], "big") if lame[:4] in (b"LAME", b"Lavf", b"Lavc") else 0
        return frames * samples - (delays >> 12) - (delays & 0xFFF) if flags & 1 else None
    if frame[36:40] == b"VBRI":
        return int.from_bytes(frame[50:54], "big") * samples
    return None


def _wav_claimed_s(file: Source) -> float | None:
    """The size of the data chunk over the bytes per second; None unless plain PCM, and for a piped file."""
    at, long_size, rate_bytes = 12, 0, 0
    while len(head := file.at(at, 36)) >= 8:
        name, size = head[:4], int.from_bytes(head[4:8], "little")
        if name == b"ds64" and len(head) >= 24 and file.at(0, 4) != b"RIFF":
            long_size = int.from_bytes(head[16:24], "little")
        elif name == b"fmt " and len(head) >= 24:
            kind, channels, rate_hz, rate_bytes, align = struct.unpack("<HHIIH", head[8:22])
            if kind not in (1, 3, 0xFFFE) or rate_bytes != rate_hz * align or not channels:
                return None
        elif name == b"data":
            size = long_size if size == 0xFFFFFFFF else size
            return size / rate_bytes if rate_bytes and not 0x7FFFF000 <= size <= 0xFFFFFFFF else None
        at += 8 + size + size % 2
    return None


def _asf_claimed_s(file: Source) -> float | None:
    """The play time of the file properties, less the preroll, if the file is shorter than its stated size."""
    head = file.at(0, HEAD_BYTES)
    at = head.find(_ASF_FILE_PROPERTIES)
    if at < 0 or len(head) < at + 92:
        return None
    size, _created, _packets, play, _send, preroll_ms, flags = struct.unpack("<QQQQQQI", head[at + 40 : at + 92])
    # Some programs write a play time that is seconds too long, so it counts only if bytes are missing too.
    is_short = file.size < size or ends_in_zeros(file)
    return play / 1e7 - preroll_ms / 1e3 if is_short and not flags & 1 else None


def _ogg_flac_claimed_s(file: Source) -> float | None:
    """The samples over the rate that the STREAMINFO of an Ogg FLAC file states, if any (RFC 9639, 8.2 and 10.1)."""
    streaminfo = file.at(28 + 17, 18)
    if file.at(28, 5) != b"\x7fFLAC" or len(streaminfo) < 18:
        return None
    rate_hz, samples = int.from_bytes(streaminfo[10:13]) >> 4, int.from_bytes(streaminfo[13:18]) & 0xFFFFFFFFF
    return samples / rate_hz if rate_hz else None


def ends_in_zeros(file: Source) -> bool:
    """Whether the file ends in zeros, as one does whose download reserved its room and broke off."""
    return not any(file.at(max(0, file.size - ZEROS_BYTES), ZEROS_BYTES))


def _is_one_stream(file: Source) -> bool:
    """Whether an Ogg file ends with the stream it begins with: in joined files the last position counts anew."""
    return _ogg_last_page(file)[14:18] == file.at(14, 4)


def last_page_is_cut(file: Source, *, zeros_behind: bool) -> bool:
    """Whether an Ogg file ends inside a page, or has no page near its end.

    ``zeros_behind``: zeros stand behind what is shown of it, as in a download that broke off; then it ends there too
    if its last page does not say that its stream ends.
    """
    page = _ogg_last_page(file)
    return (
        len(page) < 27
        or 27 + page[26] + sum(page[27 : 27 + page[26]]) > len(page)
        or (zeros_behind and not page[5] & _OGG_END_OF_STREAM)
    )


def _ogg_last_page(file: Source) -> bytes:
    """The bytes from the last Ogg page header to the end of the file; empty where none is found."""
    tail = file.at(max(0, file.size - 2 * _OGG_PAGE_BYTES), 2 * _OGG_PAGE_BYTES)
    at = tail.rfind(b"OggS\0")
    return tail[at:] if at >= 0 else b""
