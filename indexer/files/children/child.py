"""The program of a reader process: one operation on one file at a time, until its input closes.

It handles hostile input under a memory limit; the parent kills it when it sends no sign of life. Never imports torch or
the store, and writes to no file but the copy that files/tags/write.py makes.
"""

import contextlib
import ctypes
import errno
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from indexer.analysis.analyser import Analyser
from indexer.errors import DeferredError, FileError, ReadError, TruncatedError
from indexer.files import links
from indexer.files.audio.decode import UnsafeToSeekError, listen, probe
from indexer.files.audio.decode import decode as decode_audio
from indexer.files.audio.decode import excerpts as sought
from indexer.files.audio.identity import Stat, sniff
from indexer.files.audio.resample import Resampler
from indexer.files.children.examine import examine as examine_file
from indexer.files.children.lenient import all_tags, identify
from indexer.files.children.limits import Budget, Limits
from indexer.files.children.worker import FOLLOWS_LINKS, HEADER, pack
from indexer.files.containers import CONTAINERS
from indexer.files.links import THROUGH_A_LINK, folder_of
from indexer.files.playlists import foreign_lists, formats
from indexer.files.tags.pictures import covers
from indexer.files.tags.write import edit_from_json, prepare
from indexer.files.thumbnail import NoPictureError, thumbnail


class Channel:
    """Sends messages to the parent, and signs of life (beats) at most five times a second; counts what a file takes."""

    def __init__(self, out: BinaryIO, limits: Limits) -> None:
        self._out = out
        self._limits = limits
        self.begin("")
        self._last_beat = 0.0

    def send(self, kind: str, message: dict[str, Any], raw: bytes | memoryview = b"") -> None:
        """Send one message; blocks until the parent takes it."""
        try:
            self._out.write(pack({"kind": kind, **message}, len(raw)))
            self._out.write(raw)
            self._out.flush()
        except BrokenPipeError:  # the parent is gone; not a signal, which a stderr that nobody reads would bring too
            os._exit(1)

    def begin(self, path: str) -> None:
        """Begin to count for an operation on a file."""
        self._path, self._budget = path, Budget(self._limits)

    def beat(self, heard_s: float = 0.0, /, beside_s: float = 0.0) -> None:
        """Tell the parent that work goes on. Called by work loops, never by a timer, so that a hang is silent.

        ``heard_s``: the seconds of sound so far. Raises LimitError where the operation takes more than it may;
        ``beside_s`` of computing are not its own.
        """
        self._budget.check(self._path, heard_s, beside_s)
        at = time.monotonic()
        if at - self._last_beat > 0.2:
            self._last_beat = at
            self.send("beat", {})


def inspect(path: str, channel: Channel) -> dict[str, Any]:
    """Stat, identity, tags and audio properties of one file; DeferredError if the file changed meanwhile.

    ``damage``: what is wrong with a file that can be heard all the same, or None.
    """
    try:
        with open_file(path) as file:
            before = Stat.of(file.fileno())
            identity, damage = identify(file, path, heartbeat=channel.beat)
            found = all_tags(path, identity.container)
            info = probe(path)
            after = Stat.of(path)
    except FileNotFoundError:
        raise DeferredError(path, "it vanished while it was read") from None
    except OSError as e:
        raise ReadError(path, f"cannot be read ({e.strerror or e})") from e
    if before != after:
        raise DeferredError(path, "it changed while it was read")
    return {
        "stat": asdict(before),
        "container": identity.container,
        "audio_sha256": identity.audio_sha256,
        "damage": damage,
        "tags": found.to_json(),
        "audio": asdict(info),
    }


def open_file(path: str) -> BinaryIO:
    """Open the file for reading without waiting, even where a named pipe has taken its place."""
    return os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")


def decode(path: str, channel: Channel, *, sample_rate_hz: int, analyse: bool = False) -> dict[str, Any]:
    """Send the audio as messages with blocks of mono float32.

    ``truncated``: how the file shows that it lost its end, or None. ``analysis``: what was measured in all of it.
    """
    analyser = Analyser()
    truncated = None
    frames = 0
    try:
        for block in decode_audio(path, sample_rate_hz=sample_rate_hz, tap=analyser.hear if analyse else None):
            frames += len(block)
            channel.beat(frames / sample_rate_hz, analyser.cpu_s)
            channel.send("block", {}, block.data.cast("B"))
    except TruncatedError as error:
        truncated = error.reason
    return {"truncated": truncated, "analysis": analyser.finish().to_json() if analyse else None}


def analyse(path: str, channel: Channel) -> dict[str, Any]:
    """What is measured in the audio, as far as it can be decoded; no encoder hears it."""
    analyser = Analyser()
    try:
        for heard_s in listen(path, analyser.hear):
            channel.beat(heard_s, analyser.cpu_s)
    except FileError:
        found = analyser.finish()
        if not found.heard_s:
            raise
        return {"analysis": found.to_json()}
    return {"analysis": analyser.finish().to_json()}


def costs(path: str, channel: Channel, *, sample_rate_hz: int) -> dict[str, Any]:
    """Processor seconds of each step of reading one file for an encoder, and the seconds of its audio."""
    analyser, resampler = Analyser(), Resampler(sample_rate_hz)
    audio_s = resampling_s = 0.0

    def tap(mono: np.ndarray, channels: np.ndarray, rate_hz: int) -> None:
        nonlocal resampling_s
        analyser.hear(mono, channels, rate_hz)
        began_s = time.process_time()
        resampler.push(mono, rate_hz)
        resampling_s += time.process_time() - began_s

    began_s = time.process_time()
    inspect(path, channel)
    identified_s = time.process_time()
    with contextlib.suppress(TruncatedError):
        for audio_s in listen(path, tap):
            channel.beat(audio_s, analyser.cpu_s)
    decoding_s = time.process_time() - identified_s - analyser.cpu_s - resampling_s
    analyser.finish()
    steps = {"identity": identified_s - began_s, "decoding": decoding_s, "resampling": resampling_s}
    return {"audio_s": audio_s, "cpu_s": {**steps, **analyser.cpu_s_of}}


def excerpts(path: str, channel: Channel, *, sample_rate_hz: int, count: int, seconds: float) -> dict[str, Any]:
    """Send evenly spread pieces of the audio as messages; ``safe`` says whether it was certain where they lie."""
    frames = 0
    try:
        for start_s, piece in sought(path, count=count, seconds=seconds, sample_rate_hz=sample_rate_hz):
            frames += len(piece)
            channel.beat(frames / sample_rate_hz)
            channel.send("block", {"start_s": start_s}, piece.data.cast("B"))
    except UnsafeToSeekError:
        return {"safe": False}
    return {"safe": True}


def read_tags(path: str, _channel: Channel) -> dict[str, Any]:
    """Container and tags of one file, without looking at its audio."""
    try:
        with open_file(path) as file:
            container = sniff(file)
    except OSError as e:
        raise ReadError(path, f"cannot be read ({e.strerror or e})") from e
    return {"container": container, "tags": all_tags(path, container).to_json()}


def picture(path: str, channel: Channel, *, side_px: int) -> dict[str, Any]:
    """Send a small JPEG of the cover as a message; none where the tags hold no picture that can be opened."""
    try:
        with os.fdopen(links.open_file(path), "rb") as file:
            kind = CONTAINERS.get(sniff(file))
            file.seek(0)
            found = covers(file, kind.pictures) if kind and kind.pictures else []
    except OSError as e:
        raise ReadError(path, f"cannot be read ({e.strerror or e})") from e
    for data in found:
        with contextlib.suppress(NoPictureError):
            channel.send("block", {}, thumbnail(data, side_px))
            break
    return {}


def playlists(path: str, channel: Channel, *, left: list[int]) -> dict[str, Any]:
    """Send the lists in a file as messages; ``left`` is what all such files may hold, without and with this one."""
    budget = foreign_lists.Budget(foreign_lists.Left(*left), channel.beat)
    try:
        with open_file(path) as file:
            lists = formats.parse(file, Path(path), budget)
    except OSError as e:
        raise ReadError(path, f"cannot be read ({e.strerror or e})") from e
    for one in lists:
        for message in foreign_lists.messages(one):
            channel.send("block", message)
    return {"left": budget.left}


def prepare_write(
    path: str,
    channel: Channel,
    *,
    container: str,
    edit: dict[str, Any] | None,
    preserve_mtime: bool,
    add: dict[str, str | None] | None = None,
    said: Sequence[str] = (),
) -> dict[str, Any]:
    """Make and verify the edited copy beside the file; the parent renames it. See ``prepare``."""
    wanted = edit_from_json(edit) if edit is not None else None
    prepared = prepare(
        path, container, wanted, add=add, said=said, preserve_mtime=preserve_mtime, heartbeat=channel.beat
    )
    return prepared.to_json()


def examine(path: str, channel: Channel) -> dict[str, Any]:
    """The facts of one file for `indexer doctor`; see children/examine.py."""
    return examine_file(path, heartbeat=channel.beat)


OPERATIONS: dict[str, Callable[..., dict[str, Any]]] = {
    "inspect": inspect, "decode": decode, "read_tags": read_tags, "prepare_write": prepare_write, "examine": examine,
    "picture": picture, "analyse": analyse, "excerpts": excerpts, "costs": costs, "playlists": playlists,
}  # fmt: skip


def go_to(path: str) -> str:
    """Go into the folder of a file and return its name there: whatever the path leads to later, this is the folder.

    Raises DeferredError where the path holds a link or leads nowhere.
    """
    try:
        with folder_of(path) as (folder, name):
            os.fchdir(folder)
    except FileNotFoundError:
        raise DeferredError(path, "it vanished while it was read") from None
    except OSError as e:
        if e.errno != errno.ELOOP:
            raise ReadError(path, f"cannot be read ({e.strerror})") from e
        raise DeferredError(path, THROUGH_A_LINK) from None
    if os.path.islink(name):  # noqa: PTH114 - bytes
        raise DeferredError(path, THROUGH_A_LINK)
    return os.fsdecode(name)


def requests(stream: BinaryIO) -> Iterator[dict[str, Any]]:
    """Yield the parent's requests until it closes the pipe."""
    while len(header := stream.read(HEADER.size)) == HEADER.size:
        text_length, raw_length = HEADER.unpack(header)
        yield json.loads(stream.read(text_length + raw_length)[:text_length])


def limit_resources(memory_limit_bytes: int) -> None:
    """Limit the memory, write no core dumps, gain no rights by running a program, and die with the parent."""
    resource.setrlimit(resource.RLIMIT_AS, (memory_limit_bytes, memory_limit_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        pr_set_pdeathsig, pr_set_no_new_privs = 1, 38  # linux/prctl.h
        prctl, on, zero = ctypes.CDLL(None).prctl, ctypes.c_ulong(1), ctypes.c_ulong(0)
        prctl(pr_set_pdeathsig, signal.SIGKILL)
        prctl(pr_set_no_new_privs, on, zero, zero, zero)


def main() -> None:
    """Read requests from stdin and answer on the original stdout; what libraries print goes to stderr."""
    limit_resources(int(sys.argv[1]))
    find = str if FOLLOWS_LINKS in sys.argv else go_to
    channel = Channel(os.fdopen(os.dup(1), "wb"), Limits(float(sys.argv[2]), float(sys.argv[3])))
    os.dup2(2, 1)
    for request in requests(sys.stdin.buffer):
        path = request.pop("path")
        channel.begin(path)
        try:
            channel.send("result", OPERATIONS[request.pop("op")](find(path), channel, **request))
        except FileError as e:
            channel.send("error", {"class": type(e).__name__, "reason": e.reason})
        except MemoryError:
            channel.send(
                "error", {"class": "ReadError", "reason": "reading it needs more memory than such a file should"}
            )
        except Exception as e:  # damaged input makes libraries raise anything; the next file must go on
            channel.send("error", {"class": "ReadError", "reason": f"cannot be read ({type(e).__name__}: {e})"})
        if find is go_to:
            os.chdir("/")  # a drive can be unmounted while nobody reads from it


if __name__ == "__main__":
    main()
