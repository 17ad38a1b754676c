"""Opens a sound file for FFmpeg so that it reaches no other file, no network, no picture, and no tag in front.

PyAV reads through a Python file object and never sees a path, a protocol or a second file. What it raises becomes a
ReadError or an UnsupportedError. Never decodes.
"""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, NoReturn

import av

from indexer.errors import FileError, ReadError, UnsupportedError
from indexer.files.audio.payload.excerpt import Excerpt, excerpt
from indexer.files.audio.payload.source import ByteSource
from indexer.files.audio.payload.stated_end import missing_end
from indexer.files.audio.stated_length import ASF_ENCRYPTED, HEAD_BYTES, ends_in_zeros

AnyPath = str | bytes | os.PathLike[str]

# Self-contained sound files only: a format that names other files (hls, concat, dash, sdp, ...), a device, raw samples
# or a picture is refused before any of it is parsed. Names as of FFmpeg 4.4 to 8, which ignores unknown ones.
FORMATS = (
    "aac,ac3,aiff,amr,ape,asf,au,caf,dsf,dts,dtshd,eac3,flac,flv,iff,matroska,webm,mov,mp4,m4a,3gp,3g2,mj2,mp3,mpc,mpc8,"
    "mlp,mpeg,mpegts,ogg,oma,rm,shn,tak,truehd,tta,voc,w64,wav,wv,xwma"
)

_READ_BYTES = 1 << 16
_WINDOW_BYTES = 1 << 12  # read at once to find the end of the sound, which needs a head and a tail
_PROBE_BYTES = 1 << 20  # enough for every sound file, and a limit for hostile ones

# Everything PyAV and FFmpeg are known to raise on bad input; FFmpegError covers its own tree.
_FAILURES = (av.FFmpegError, OSError, ValueError, LookupError, ArithmeticError, MemoryError, RuntimeError, TypeError)


@contextmanager
def errors_named(path: AnyPath) -> Iterator[None]:
    """Turn the libraries' errors into a ReadError or UnsupportedError with one plain line."""
    try:
        yield
    except FileError:
        raise
    except MemoryError as error:
        raise ReadError(path, "damaged: it asks for more memory than allowed") from error
    except av.error.PatchWelcomeError as error:
        raise UnsupportedError(path, "a variant of this kind of file that cannot be decoded") from error
    except av.FFmpegError as error:  # FFmpeg's many codes tell no more
        raise ReadError(path, "damaged, or not a sound file") from error
    except OSError as error:
        raise ReadError(path, error.strerror or type(error).__name__) from error
    except _FAILURES as error:
        raise ReadError(path, " ".join(f"cannot be decoded: {error}".split())) from error


class SoundFile:
    """The file as FFmpeg sees it: without a name and leading ID3v2 tags, and no more of it than ``show`` says.

    By a name's ending FFmpeg would take noise for sound, and it would unpack the tags, which may be hostile.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._start = leading_id3_bytes(fd)
        self._position = 0
        self._patches: tuple[tuple[int, bytes], ...] = ()
        self.size = os.fstat(fd).st_size - self._start
        self.stated_bytes = 0  # what a file that lost its end states
        self.ends_in_zeros = ends_in_zeros(self)
        self.failure: OSError | None = None

    def show(self, part: Excerpt) -> None:
        """Let FFmpeg see this part, from its beginning."""
        self.size, self._patches = part.end, part.patches
        self._position = 0

    def read(self, size: int = -1) -> bytes:
        """Read on. PyAV would swallow an exception raised here, so a failing disk is kept in ``failure``."""
        try:
            data = self.at(self._position, size)
        except OSError as error:
            self.failure = error
            return b""
        self._position += len(data)
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to offset; returns a negative error number outside the file, as FFmpeg expects."""
        target = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.size}[whence]
        if not 0 <= target <= self.size:
            return -errno.EINVAL
        self._position = target
        return target

    def tell(self) -> int:
        return self._position

    def at(self, offset: int, size: int) -> bytes:
        """Up to ``size`` bytes from offset, without moving FFmpeg's position; none outside the file."""
        if not 0 <= offset < self.size:
            return b""
        data = os.pread(self._fd, min(size, self.size - offset), offset + self._start)
        for position, patch in self._patches:
            if offset - len(patch) < position < offset + len(data):
                data = _patched(data, position - offset, patch)
        return data


def _patched(data: bytes, position: int, patch: bytes) -> bytes:
    """``data`` with ``patch`` laid over it at ``position``, which may begin before it and end behind it."""
    first, last = max(0, -position), len(data) - position
    patch, position = patch[first:last], max(0, position)
    return data[:position] + patch + data[position + len(patch) :]


def leading_id3_bytes(fd: int) -> int:
    """The length of the leading ID3v2 tags; a tag that claims to fill the whole file does not count."""
    start, size = 0, os.fstat(fd).st_size
    while True:
        head = os.pread(fd, 10, start)
        if len(head) < 10 or head[:3] != b"ID3" or head[3] == 0xFF or any(byte & 0x80 for byte in head[6:]):
            return start
        end = start + 10 + (head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9]) + (10 if head[5] & 0x10 else 0)
        if end >= size:
            return start
        start = end


@contextmanager
def opened(path: AnyPath) -> Iterator[SoundFile]:
    """Open the file so that a decoder can reach no other file and no network."""
    # O_NONBLOCK: does not wait for the other end of a named pipe.
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise ReadError(path, "not a regular file")
        file = SoundFile(fd)
        if not file.size:
            raise ReadError(path, "no audio: the file is empty")
        source = ByteSource(file, path, window_bytes=_WINDOW_BYTES)
        file.stated_bytes = missing_end(source) or 0
        file.show(excerpt(source))
        check_disk(path, file)
        yield file
    finally:
        os.close(fd)


def container_of(path: AnyPath, file: SoundFile) -> Any:
    try:
        return av.open(
            file,
            metadata_errors="replace",
            buffer_size=_READ_BYTES,
            io_open=_refuse_other_files,
            container_options={
                "format_whitelist": FORMATS,
                "codec_whitelist": sound_decoders(),  # no picture is decoded, not even for its size
                "protocol_whitelist": "",
                "probesize": str(_PROBE_BYTES),
            },
        )
    finally:
        check_disk(path, file)


def check_disk(path: AnyPath, file: SoundFile) -> None:
    if file.failure is not None:
        raise ReadError(path, f"reading failed: {file.failure.strerror}") from file.failure


def _refuse_other_files(url: str, _flags: int, _options: dict[str, str]) -> NoReturn:
    raise PermissionError(errno.EACCES, f"refers to another file, {url[:80]!r}, which is not opened")


@cache
def sound_decoders() -> str:
    """The names of all of FFmpeg's audio decoders, comma-separated."""
    names = []
    for name in sorted(av.codecs_available):
        try:
            codec = av.codec.Codec(name, "r")
        except ValueError:  # has an encoder only
            continue
        if codec.type == "audio":
            names.append(name)
    return ",".join(names)


def sound_stream(path: AnyPath, file: SoundFile, container: Any) -> Any:
    """The first audio stream of an MP4 (a stem file's master), else the one that FFmpeg ranks best.

    Raises UnsupportedError where it cannot be decoded.
    """
    streams = container.streams.audio
    if not streams:
        raise ReadError(path, "no audio stream")
    if container.format.name == "asf" and any(guid in file.at(0, HEAD_BYTES) for guid in ASF_ENCRYPTED):
        raise UnsupportedError(path, "encrypted (DRM)")
    is_mp4 = "mp4" in container.format.name.split(",")
    decodable = [stream for stream in streams if stream.codec_context is not None]
    stream = (decodable and is_mp4 and decodable[0]) or container.streams.best("audio") or streams[0]
    if stream.codec_context is None:
        raise UnsupportedError(path, "no decoder for this kind of sound")
    if stream.codec_context.codec_tag in ("drms", "enca", "drmi"):
        raise UnsupportedError(path, "encrypted (DRM)")
    return stream
