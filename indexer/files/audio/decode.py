"""Decodes a sound file to mono float32 at one sample rate, in blocks of bounded memory, and reads its header.

FFmpeg (through PyAV) decodes one packet at a time, the channels are averaged here because FFmpeg's own downmix is 1.414
times too loud, and soxr HQ resamples the stream. Where FFmpeg refuses a file, libsndfile is asked; it goes on at the
same sample. Both read the file through what files/audio/opened.py opens. Never writes, starts threads or logs. Runs in
a reader process. Every failure is a ReadError or an UnsupportedError.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

import av
import numpy as np
import soxr

from indexer.errors import FileError, ReadError, TruncatedError, UnsupportedError
from indexer.files.audio import libsndfile
from indexer.files.audio.frames import Held, Tap, finite, mean
from indexer.files.audio.opened import AnyPath, SoundFile, check_disk, container_of, errors_named, opened, sound_stream
from indexer.files.audio.payload.source import shorter
from indexer.files.audio.resample import Resampler
from indexer.files.audio.stated_length import claimed_s, last_page_is_cut

_PROBE_PACKETS = 100  # decoded at most where the header, behind junk, does not tell the channels
_MIN_RATE_HZ, _MAX_RATE_HZ = 1_000, 12_000_000  # below: a damaged header; above: faster than DSD512 decoded

# Real MP3s contain a few junk packets. Losing more than this share (and more than a few) is audible damage.
_MAX_BAD_SHARE, _MAX_BAD_FEW = 0.02, 8

# What is there of a file that lost its end is heard if it is so long, or such a share of what the file states.
_ENOUGH_S, _ENOUGH_SHARE = 30.0, 1 / 3

_EXACT = {"flac"}  # formats whose header states the number of samples, and whose frames tell their place
_EXACT_S = 0.001

# Formats (as FFmpeg names them) in which going to a place was measured to lead there, to 0.1 s; see bench_seek.
_SEEKABLE = {"aiff", "flac", "mov,mp4,m4a,3gp,3g2,mj2", "mp3", "ogg", "wav"}
_LEAD_S = 1.0  # decoded and dropped before an excerpt: a lossy frame needs those before it
_FAR_S = 20.0  # a seek that ends so long before its place found no place near it
_GAP_S = 0.1  # between where a frame should begin and where it says that it does
_MIN_SHARE = 3  # a recording is so many times longer than its excerpts together, or decoding all of it is as fast


@dataclass(frozen=True, slots=True)
class AudioInfo:
    """The facts in a file's header; ``duration_s`` is None where the header states no length."""

    codec: str
    sample_rate_hz: int
    channels: int
    duration_s: float | None


def probe(path: AnyPath) -> AudioInfo:
    """Read the header of a sound file; only where it does not tell the channels, the first packets are decoded.

    :raises ReadError: the file cannot be read, is damaged, or is not a sound file.
    :raises UnsupportedError: a sound file that is encrypted or has no decoder.
    """
    try:
        with errors_named(path), opened(path) as file, container_of(path, file) as container:
            stream = sound_stream(path, file, container)
            context = stream.codec_context
            packets = islice(container.demux(stream), 0 if context.channels else _PROBE_PACKETS)
            while not context.channels and (packet := next(packets, None)) is not None:
                _decoded(packet, _Tally())
            if not context.channels:  # its decoder does not open
                raise ReadError(path, "no audio: nothing in it can be decoded")
            name = context.codec.canonical_name
            return AudioInfo(name, context.sample_rate, context.channels, _claimed_s(file, container, stream))
    except FileError as refusal:
        with _asked_too(path, refusal) as (file, sound):
            name, stated_s = libsndfile.codec(sound), libsndfile.stated_s(file, sound)
            return AudioInfo(name, sound.samplerate, sound.channels, stated_s)


def metadata(path: AnyPath) -> dict[str, str]:
    """The texts that FFmpeg finds in a file's tags, by its own names; none in an ID3v2 tag in front.

    What the file says comes before what its sound stream says.

    :raises ReadError: as ``probe`` does.
    :raises UnsupportedError: as ``probe`` does.
    """
    with errors_named(path), opened(path) as file, container_of(path, file) as container:
        stream = sound_stream(path, file, container)
        return {**stream.metadata, **container.metadata}


def decode(
    path: AnyPath, *, sample_rate_hz: int = 16_000, block_s: float = 10.0, tap: Tap | None = None
) -> Iterator[np.ndarray]:
    """Yield a sound file as mono float32 blocks of exactly ``block_s`` seconds but the last, each of shape (frames,).

    Encoder delay and padding are cut where the file states them. Memory does not depend on the length of the file.

    :param sample_rate_hz: the rate of the result in Hz.
    :param tap: is given all samples of all channels on their way; it must not raise.
    :raises TruncatedError: after the last block: the file lost its end, and what was given is most of the recording.
    :raises ReadError: while iterating too: the file is damaged, has no audio, or has lost most of it.
    :raises UnsupportedError: a sound file that is encrypted or has no decoder.
    """
    block_frames = max(1, round(block_s * sample_rate_hz))
    with errors_named(path):
        parts: list[np.ndarray] = []
        held = given = 0
        tally = _Tally()
        for samples in _resampled(path, sample_rate_hz, tally, tap):
            parts.append(samples)
            held += len(samples)
            if held < block_frames:
                continue
            joined = np.concatenate(parts)
            whole = held - held % block_frames
            for start in range(0, whole, block_frames):
                yield joined[start : start + block_frames].copy()
            parts, held, given = [joined[whole:].copy()], held - whole, given + whole
        if held:
            yield np.concatenate(parts)
        elif not given:
            raise ReadError(path, "no audio")
        _judge(path, tally)


def listen(path: AnyPath, tap: Tap) -> Iterator[float]:
    """Give all samples of a sound file to ``tap`` and yield the seconds so far; nothing is resampled.

    Raises as ``decode`` does.
    """
    tally = _Tally()
    heard_s = 0.0
    with errors_named(path):
        for mono, rate_hz in _heard(path, tally, tap):
            heard_s += len(mono) / rate_hz
            yield heard_s
        if not heard_s:
            raise ReadError(path, "no audio")
        _judge(path, tally)


class UnsafeToSeekError(Exception):
    """It is not certain that going to a place in this file leads there: decode it from its beginning."""


def excerpts(
    path: AnyPath, *, count: int, seconds: float, sample_rate_hz: int = 16_000
) -> Iterator[tuple[float, np.ndarray]]:
    """Yield ``count`` evenly spread pieces of a sound file, (start in seconds, mono float32 (frames,)), going to each.

    The last one ends with the recording, which shows that the file did not lose its end.

    :raises UnsafeToSeekError: while iterating too: the format is none of those in which it was measured to lead to the
        right place, the file states no length, is short or damaged, or says that it is elsewhere than asked for.
    :raises ReadError: as ``decode`` does.
    :raises UnsupportedError: as ``decode`` does.
    """
    with errors_named(path), opened(path) as file, container_of(path, file) as container:
        stream = sound_stream(path, file, container)
        stated_s = _claimed_s(file, container, stream)
        if container.format.name not in _SEEKABLE or file.stated_bytes or file.ends_in_zeros or stated_s is None:
            raise UnsafeToSeekError
        if stated_s < _MIN_SHARE * count * seconds:
            raise UnsafeToSeekError
        stream.codec_context.thread_count, stream.codec_context.thread_type = 1, "NONE"
        step_s = (stated_s - seconds) / max(1, count - 1)
        for n in range(count):
            to_the_end = n == count - 1
            mono, rate_hz, reached_s = _excerpt(container, stream, n * step_s, None if to_the_end else seconds)
            check_disk(path, file)
            if to_the_end and _is_short(reached_s, stated_s):
                raise UnsafeToSeekError
            yield n * step_s, soxr.resample(mono, _checked_rate(path, rate_hz), sample_rate_hz, quality="HQ")


def _excerpt(container: Any, stream: Any, start_s: float, seconds: float | None) -> tuple[np.ndarray, int, float]:
    """(mixed samples (n,) from ``start_s`` on, their rate in Hz, where they end); ``seconds`` None: to the end."""
    first_s = float((stream.start_time or 0) * stream.time_base)
    container.seek(int((first_s + max(0.0, start_s - _LEAD_S)) / stream.time_base), stream=stream)
    parts: list[np.ndarray] = []
    held, rate_hz, reached_s = 0, 0, None
    for packet in container.demux(stream):
        tally = _Tally()
        for frame in _decoded(packet, tally):
            at_s = -1.0 if frame.time is None else frame.time - first_s
            if reached_s is None:
                strays = not start_s - _FAR_S < at_s <= start_s + _GAP_S
            else:
                strays = abs(at_s - reached_s) > _GAP_S or frame.sample_rate != rate_hz
            if strays:
                raise UnsafeToSeekError
            rate_hz = frame.sample_rate
            reached_s = at_s + frame.samples / rate_hz
            mono = mean(frame)[max(0, round((start_s - at_s) * rate_hz)) :]
            parts.append(mono)
            held += len(mono)
        if held and tally.bad:
            raise UnsafeToSeekError
        if held and (held >= seconds * rate_hz if seconds else held > (_FAR_S + _LEAD_S) * rate_hz):
            break
    if reached_s is None or not held or (seconds and held < seconds * rate_hz):
        raise UnsafeToSeekError
    mono = np.concatenate(parts)
    return mono[: round(seconds * rate_hz)] if seconds else mono, rate_hz, reached_s


def _resampled(path: AnyPath, sample_rate_hz: int, tally: "_Tally", tap: Tap | None) -> Iterator[np.ndarray]:
    """Yield the mixed samples at ``sample_rate_hz``."""
    resampler = Resampler(sample_rate_hz)
    for mono, rate_hz in _heard(path, tally, tap):
        yield from resampler.push(mono, rate_hz)
    yield from resampler.finish()


def _heard(path: AnyPath, tally: "_Tally", tap: Tap | None = None) -> Iterator[tuple[np.ndarray, int]]:
    """Yield the mixed samples with their rate in Hz: FFmpeg's, and libsndfile's from where FFmpeg refuses to go on."""
    frames = 0
    try:
        with errors_named(path):
            for mono, rate_hz in _mixed(path, tally, tap):
                yield mono, rate_hz
                frames += len(mono)
    except FileError as refusal:
        before = frames
        with _asked_too(path, refusal) as (file, sound):
            rate_hz = _checked_rate(path, sound.samplerate)
            for block in libsndfile.samples(sound, frames):
                with np.errstate(all="ignore"):
                    mono = finite(block.mean(axis=1))
                if tap is not None:
                    tap(mono, finite(block.T), rate_hz)
                yield mono, rate_hz
                frames += len(mono)
            check_disk(path, file)
            tally.libsndfile(
                frames / sound.samplerate,
                libsndfile.stated_s(file, sound),
                cut_page=sound.format == "OGG" and last_page_is_cut(file, zeros_behind=file.ends_in_zeros),
            )
            tally.present_bytes, tally.stated_bytes = file.size, file.stated_bytes
        if frames == before:
            raise


@contextmanager
def _asked_too(path: AnyPath, refusal: FileError) -> "Iterator[tuple[SoundFile, Any]]":
    """Open with libsndfile a file that FFmpeg refused. Raises the refusal; where libsndfile refuses too, both."""
    try:
        with errors_named(path), opened(path) as file, libsndfile.opened(file) as sound:
            yield file, sound
    except libsndfile.NotItsFormatError:
        raise refusal from None
    except libsndfile.RefusedError as error:
        raise type(refusal)(path, f"{refusal.reason} (FFmpeg); {error} (libsndfile)") from error


def _mixed(path: AnyPath, tally: "_Tally", tap: Tap | None = None) -> Iterator[tuple[np.ndarray, int]]:
    """Yield the average of all channels at the file's own rate, as (frames (n,), rate in Hz), n at most one second.

    The array is reused: the next frames overwrite it.
    """
    form: tuple[int, str, int] | None = None
    held: Held | None = None
    for frame in _frames(path, tally):
        now = frame.sample_rate, frame.format.name, frame.layout.nb_channels
        if held is None or now != form:
            if held and held.samples:
                yield held.mixed(tap)
            form, held = now, Held(_checked_rate(path, frame.sample_rate), *now[1:])
        taken = 0
        while taken < frame.samples:
            taken += held.take(frame, taken)
            if held.is_full:
                yield held.mixed(tap)
    if held and held.samples:
        yield held.mixed(tap)


def _checked_rate(path: AnyPath, rate_hz: int) -> int:
    if not _MIN_RATE_HZ <= rate_hz <= _MAX_RATE_HZ:
        raise ReadError(path, f"damaged: a sample rate of {rate_hz} Hz")
    return rate_hz


def _claimed_s(file: "SoundFile", container: Any, stream: Any) -> float | None:
    names = set(container.format.name.split(","))
    # FFmpeg counts the silence that an edit list puts in front of an MP4, and does not play it.
    silence = max(0, stream.start_time or 0) if "mp4" in names else 0
    header_s = float((stream.duration - silence) * stream.time_base) if stream.duration else None
    return claimed_s(file, names, header_s)


@dataclass(slots=True)
class _Tally:
    """What is known of a file so far: what it states, and what was decoded."""

    packets: int = 0
    bad: int = 0
    bad_at_end: int = 0  # of these, in a row up to the last packet
    decoded_s: float = 0.0
    reached_s: float = 0.0  # where the last frame ends, by its time stamp
    stated_s: float | None = None
    cut_page: bool = False  # its last Ogg page is incomplete
    cut_frame: bool = False  # its last frame is incomplete, in a format that states no length
    exact: bool = False  # its stated length is exact
    present_bytes: int = 0
    stated_bytes: int = 0  # 0 where the file is as long as it states, or states nothing

    def libsndfile(self, decoded_s: float, stated_s: float | None, *, cut_page: bool) -> None:
        """Begin anew with what libsndfile found: FFmpeg's packets say nothing about it."""
        self.packets = self.bad = self.bad_at_end = 0
        self.decoded_s, self.stated_s, self.cut_page = decoded_s, stated_s, cut_page
        self.reached_s = decoded_s if stated_s is None else stated_s  # it has no time stamps and passes over gaps


def _frames(path: AnyPath, tally: _Tally) -> Iterator[Any]:
    """Yield FFmpeg's frames; skips bad packets. Raises FileError where FFmpeg does not go on."""
    with opened(path) as file, container_of(path, file) as container:
        stream = sound_stream(path, file, container)
        tally.stated_s = _claimed_s(file, container, stream)
        tally.cut_page = container.format.name == "ogg" and last_page_is_cut(file, zeros_behind=file.ends_in_zeros)
        tally.present_bytes, tally.stated_bytes = file.size, file.stated_bytes
        tally.exact = container.format.name in _EXACT
        context = stream.codec_context
        context.thread_count, context.thread_type = 1, "NONE"  # threads would use an unknown amount of memory
        broken = False
        try:
            for packet in container.demux(stream):
                frames = _decoded(packet, tally)
                if tally.bad_at_end and context.codec.canonical_name == "vorbis":
                    _check_share(path, tally)  # at once, for libvorbis may play the rest
                for frame in frames:
                    frame_s = frame.samples / max(1, frame.sample_rate)
                    tally.decoded_s += frame_s
                    tally.reached_s = frame_s + (frame.time or 0.0)
                    yield frame
        except av.error.PatchWelcomeError as error:
            end = _clock(tally.decoded_s)
            raise UnsupportedError(
                path, f"from {end} on it goes on as another kind of stream (joined Ogg files?)"
            ) from error
        except av.FFmpegError as error:
            if isinstance(error, MemoryError) or not tally.decoded_s:
                raise
            broken = True
        check_disk(path, file)
        if not tally.decoded_s:
            raise ReadError(path, "no audio: nothing in it can be decoded" if tally.bad else "no audio")
        # FFmpeg may fail on a foreign tag after the sound (WavPack, Musepack): a file with its full length is accepted.
        if (broken and tally.stated_s is None) or _stops_inside(file, tally):
            raise ReadError(path, f"damaged: nothing can be read after {_clock(tally.decoded_s)}")
        tally.cut_frame = tally.bad_at_end > 0 and container.format.name == "aac"


def _decoded(packet: Any, tally: _Tally) -> list[Any]:
    """The frames of one packet, none if it cannot be decoded."""
    tally.packets += 1
    try:
        frames = [frame for frame in packet.decode() if frame.samples]
    except av.FFmpegError as error:
        if isinstance(error, MemoryError):
            raise
        tally.bad += 1
        tally.bad_at_end += 1
        return []
    if frames:
        tally.bad_at_end = 0
    return frames


def _judge(path: AnyPath, tally: _Tally) -> None:
    """Raise ReadError for a file that lost too much of its sound, TruncatedError for one that lost its end alone."""
    _check_share(path, tally, but_the_end=tally.stated_s is not None)
    stated_s, heard_s = tally.stated_s, tally.decoded_s
    reason = _early_end(path, tally)
    if reason is None:
        return
    if tally.stated_bytes:  # a header may state bytes only, or FFmpeg count what is there
        stated_s = max(stated_s or 0.0, heard_s * tally.stated_bytes / tally.present_bytes)
    if stated_s is not None and heard_s < min(_ENOUGH_S, _ENOUGH_SHARE * stated_s):
        raise ReadError(path, reason)
    raise TruncatedError(path, reason)


def _early_end(path: AnyPath, tally: _Tally) -> str | None:
    """How the file shows that its end is missing, or None. Raises ReadError if sound is missing before the end."""
    end = _clock(tally.decoded_s)
    if tally.cut_page:
        return "truncated: its last Ogg page is incomplete"
    if tally.stated_s is not None and _is_short(tally.decoded_s, tally.stated_s):
        if not _is_short(tally.reached_s, tally.stated_s):
            raise ReadError(path, f"damaged: {end} of {_clock(tally.stated_s)} can be decoded")
        return f"truncated: ends at {end} of {_clock(tally.stated_s)}"
    if tally.exact and tally.stated_s is not None and tally.stated_s - tally.reached_s > _EXACT_S:
        return f"truncated: the last {tally.stated_s - tally.reached_s:.2f} s are missing"
    if tally.stated_bytes:
        return shorter("the file", tally.stated_bytes, tally.present_bytes)
    return f"truncated: the last frame, at {end}, is incomplete" if tally.cut_frame else None


def _stops_inside(file: "SoundFile", tally: _Tally) -> bool:
    """Whether FFmpeg gave up at damaged bytes, before the end of the file and of the stated length."""
    if tally.stated_s is None or file.tell() >= file.size or file.ends_in_zeros:
        return False
    return _is_short(max(tally.decoded_s, tally.reached_s), tally.stated_s)


def _is_short(found_s: float, stated_s: float) -> bool:
    return stated_s - found_s > max(min(1.0, stated_s / 4), 0.01 * stated_s)


def _check_share(path: AnyPath, tally: _Tally, *, but_the_end: bool = False) -> None:
    """Raise ReadError where too many of the packets so far could not be decoded; perhaps not counting those at the end.

    An end that a download filled with zeros is a lost end, not damage.
    """
    bad = tally.bad - tally.bad_at_end * but_the_end
    if bad > _MAX_BAD_FEW and bad > _MAX_BAD_SHARE * tally.packets:
        raise ReadError(path, f"damaged: {tally.bad} of {tally.packets} packets cannot be decoded")


def _clock(seconds: float) -> str:
    """Format as minutes and seconds, with hours where needed: 3:40, 1:02:03."""
    minutes, s = divmod(int(seconds), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours}:{m:02}:{s:02}" if hours else f"{m}:{s:02}"
