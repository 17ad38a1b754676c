"""Identifies a sound file and reads its tags as far as anything here can: damage costs what is damaged, no more.

Where the walker of a container refuses a file that the decoder plays to its end, all of its bytes identify it. Where no
reader knows its tags, or one stumbles over them, FFmpeg tells title, artist and genre. Nothing is ever written into
such a file.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO

from indexer.errors import FileError, LimitError, ReadError
from indexer.files.audio.decode import decode, metadata
from indexer.files.audio.identity import Fingerprint, fingerprint, fingerprint_of_all
from indexer.files.children.limits import Heartbeat, no_heartbeat
from indexer.files.containers import CONTAINERS
from indexer.files.tags.read import Tags, completed, read_tags

TAGS_LIMIT_S = 5.0  # of computing; a reader process is killed after 30 s of silence, and the machine may be busy
PLAY_RATE_HZ = 16_000


def identify(file: BinaryIO, path: str, *, heartbeat: Heartbeat = no_heartbeat) -> tuple[Fingerprint, str | None]:
    """Container and audio identity, and what is damaged in a file that can be heard all the same.

    Only files of a known container are tried: FFmpeg takes some noise for a few frames of MP3. ``heartbeat`` is called
    at least once for every MiB read and every 10 s of sound decoded, and may raise. Raises as ``fingerprint`` does
    where the file cannot be decoded either.
    """
    try:
        found = fingerprint(file, path, heartbeat=heartbeat)
        return found, found.truncated
    except ReadError as refusal:
        found = fingerprint_of_all(file, path, heartbeat=heartbeat)
        if found.container not in CONTAINERS or not _plays(path, heartbeat):
            raise
        return found, refusal.reason


def _plays(path: str, heartbeat: Heartbeat) -> bool:
    try:
        play(path, heartbeat)
    except LimitError:
        raise
    except FileError:
        return False
    return True


def play(path: str, heartbeat: Heartbeat) -> None:
    """Decode a file to its end. Raises as ``decode`` and ``heartbeat`` do."""
    heard_s = 0.0
    for block in decode(path, sample_rate_hz=PLAY_RATE_HZ):
        heard_s += len(block) / PLAY_RATE_HZ
        heartbeat(heard_s)


def all_tags(path: str, container: str) -> Tags:
    """The tags of a file. Raises ReadError where it cannot be opened, or the disk is at fault.

    Call it in the main thread of a process: a reader of tags is stopped by a signal when it works too long.
    """
    with _stopped_after(TAGS_LIMIT_S):
        found = read_tags(path, container)
    if container not in CONTAINERS or found.unread:
        with suppress(FileError):  # a file that FFmpeg cannot open either
            return completed(found, metadata(path))
    return found


@contextmanager
def _stopped_after(seconds: float) -> Iterator[None]:
    """Raise TimeoutError inside when it computes for so long, and again each second: parsers catch all they can."""

    def stop(_signal: int, _frame: object) -> None:
        raise TimeoutError("they need more time than allowed")

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds, 1.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        # A last signal may be on its way, and the default would end the process.
        signal.signal(signal.SIGVTALRM, signal.SIG_IGN if before == signal.SIG_DFL else before)
