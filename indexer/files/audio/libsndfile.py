"""Decodes with libsndfile (through soundfile) what FFmpeg refuses.

libsndfile contains libvorbis, libopus, libFLAC and mpg123, which play some streams that FFmpeg's own decoders do not.
Its samples are FFmpeg's: the same length and place, 2e-6 of full scale apart (Opus 2e-3). It reads the file through a
Python object and never sees a path. Takes an open file from decode.py, which names its errors. Never writes.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import soundfile

from indexer.files.audio.stated_length import Source, claimed_s

# libsndfile's name of a format -> FFmpeg's. Others are left out: libsndfile takes any file for some of them.
_FORMATS = {
    "AIFF": "aiff", "AU": "au", "CAF": "caf", "FLAC": "flac", "MP3": "mp3", "OGG": "ogg", "RF64": "wav", "W64": "w64",
    "WAV": "wav", "WAVEX": "wav",
}  # fmt: skip
_NOT_ITS_FORMAT = 1  # SF_ERR_UNRECOGNISED_FORMAT
_UNKNOWN_FRAMES = 1 << 62  # a length that is not stated is a number near 2**63
_BLOCK_VALUES = 1 << 16  # samples of all channels read at a time


class NotItsFormatError(Exception):
    """The file is in none of the formats that libsndfile reads."""


class RefusedError(Exception):
    """The file is in one of its formats, but libsndfile does not read it; the message is its answer."""


@contextmanager
def opened(file: Source) -> Iterator[Any]:
    """Open the file as soundfile's SoundFile. Raises NotItsFormatError and, while it is read too, RefusedError."""
    try:
        with _quiet():
            sound = soundfile.SoundFile(file)
        with sound:
            if sound.format not in _FORMATS:
                raise NotItsFormatError
            yield sound
    except soundfile.LibsndfileError as error:
        if error.code == _NOT_ITS_FORMAT:
            raise NotItsFormatError from error
        raise RefusedError(error.error_string.strip(" .")) from error


def stated_s(file: Source, sound: Any) -> float | None:
    """The length in seconds that the file states, or None; as claimed_s gives it for FFmpeg."""
    header_s = sound.frames / sound.samplerate if 0 < sound.frames < _UNKNOWN_FRAMES else None
    return claimed_s(file, {_FORMATS[sound.format]}, header_s)


def codec(sound: Any) -> str:
    """The codec under a name like FFmpeg's: vorbis, opus, mp3, flac, pcm_16."""
    if sound.format == "FLAC":
        return "flac"
    return "mp3" if sound.subtype == "MPEG_LAYER_III" else str(sound.subtype).lower()


def samples(sound: Any, after: int) -> Iterator[np.ndarray]:
    """Yield all channels, as (frames, channels) float32, from frame number ``after`` on.

    Frames before it are decoded and dropped: seeking is inexact in some formats.
    """
    block_frames = max(1, min(_BLOCK_VALUES // sound.channels, sound.samplerate))
    skip = after
    while len(block := _read(sound, block_frames)):
        kept = block[skip:]
        skip = max(0, skip - len(block))
        if len(kept):
            yield kept


def _read(sound: Any, frames: int) -> np.ndarray:
    with _quiet():
        block: np.ndarray = sound.read(frames, dtype="float32", always_2d=True)
        return block


@contextmanager
def _quiet() -> Iterator[None]:
    """Send stderr nowhere meanwhile: mpg123 prints what it thinks of a file."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
