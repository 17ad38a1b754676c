"""Decoding: right length, place, level and memory for what is whole; one clear line for what is not."""

import os
import random
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
import soxr
from mutagen.flac import FLAC, Picture
from mutagen.id3 import APIC, ID3

from indexer.errors import FileError, ReadError, TruncatedError, UnsupportedError
from indexer.files.audio import libsndfile
from indexer.files.audio.decode import (
    AudioInfo,
    _frames,
    _heard,
    _Tally,
    decode,
    listen,
    probe,
)
from indexer.files.audio.identity import fingerprint
from indexer.files.audio.opened import FORMATS, leading_id3_bytes, sound_decoders
from indexer.files.audio.stated_length import ASF_ENCRYPTED
from tests.benchmarks.fuzz_tags import repair
from tests.helpers.synth import CONTAINERS, music, write_audio
from tests.helpers.vorbis import refused_by_ffmpeg

FIXTURE = Path(__file__).parents[2] / "shared" / "tag-fixture"
# These two do not tell the delay of their encoder, so it stays in: at most 50 ms.
UNTOLD_DELAY = {"wma", "aac"}
TONE_HZ = 440.0


def whole(path: Path | str | bytes, **options: float) -> np.ndarray:
    return np.concatenate(list(decode(path, **options)))


def cut(path: Path, folder: Path, share: float) -> Path:
    """A copy in ``folder`` of the first part of a file."""
    folder.mkdir(exist_ok=True)
    copy = folder / f"cut{path.suffix}"
    copy.write_bytes(path.read_bytes()[: round(path.stat().st_size * share)])
    return copy


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    n = min(len(a), len(b))
    return float(np.corrcoef(a[:n], b[:n])[0, 1])


def tone(seconds: float, rate_hz: int, channels: int, amplitude: float = 0.5) -> np.ndarray:
    t = np.arange(round(seconds * rate_hz)) / rate_hz
    return np.repeat((amplitude * np.sin(2 * np.pi * TONE_HZ * t))[:, None], channels, axis=1).astype(np.float32)


def tone_amplitude(samples: np.ndarray, rate_hz: int = 16_000) -> float:
    """Of the tone alone, over the middle of the samples."""
    middle = samples[len(samples) // 4 : len(samples) * 3 // 4]
    t = np.arange(len(middle)) / rate_hz
    return float(2 * abs(np.mean(middle * np.exp(-2j * np.pi * TONE_HZ * t))))


def encode(path: Path, data: np.ndarray, rate_hz: int, codec: str, layout: str, fmt: str, muxer: str) -> Path:
    """Write float samples (frames, channels) with an FFmpeg encoder."""
    with av.open(str(path), "w", format=muxer) as out:
        stream = out.add_stream(codec, rate=rate_hz)
        stream.layout = layout
        stream.format = fmt
        resampler = av.AudioResampler(format=fmt, layout=layout, rate=rate_hz)
        for start in range(0, len(data), 1024):
            block = np.ascontiguousarray(data[start : start + 1024]).reshape(1, -1)
            frame = av.AudioFrame.from_ndarray(block, format="flt", layout=layout)
            frame.sample_rate, frame.pts = rate_hz, start
            for piece in resampler.resample(frame):
                out.mux(stream.encode(piece))
        out.mux(stream.encode(None))
    return path


def remux(source: Path, target: Path, **options: str) -> Path:
    with av.open(str(source)) as old, av.open(str(target), "w", container_options=options) as new:
        stream = new.add_stream_from_template(old.streams.audio[0])
        for packet in old.demux(old.streams.audio[0]):
            if packet.dts is not None:
                packet.stream = stream
                new.mux(packet)
    return target


@pytest.fixture(scope="module")
def tracks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Six seconds in every container."""
    folder = tmp_path_factory.mktemp("tracks")
    return {name: write_audio(folder / f"{name}{ending}", name, 6.0) for name, (ending, _) in CONTAINERS.items()}


# Whole files


@pytest.mark.parametrize("container", CONTAINERS)
def test_length_and_place_are_those_of_the_source(container, tracks):
    rate_hz = 48_000 if container == "opus" else 44_100
    source = soxr.resample(music(6.0, sample_rate_hz=rate_hz).mean(axis=1), rate_hz, 16_000, "HQ")
    samples = whole(tracks[container])
    assert samples.dtype == np.float32
    assert samples.ndim == 1
    if container in UNTOLD_DELAY:
        assert abs(len(samples) - len(source)) < 800
        lags = range(-800, 801)
        assert max(correlation(samples[max(0, k) :], source[max(0, -k) :]) for k in lags) > 0.99
    else:
        assert 0 <= len(samples) - len(source) <= (400 if container == "m4a" else 1)  # AAC fills its last frame
        assert correlation(samples, source) > 0.99
    assert np.abs(samples).max() < 1.2


@pytest.mark.parametrize("container", CONTAINERS)
def test_probe_says_what_the_header_says(container, tracks):
    info = probe(tracks[container])
    codec = {"m4a": "aac", "wav": "pcm_s16le", "aiff": "pcm_s16be", "wma": "wmav2", "oggflac": "flac"}.get(
        container, container
    )
    assert (info.codec, info.channels) == (codec, 2)
    assert info.sample_rate_hz == (48_000 if container == "opus" else 44_100)
    if container in UNTOLD_DELAY:
        assert info.duration_s is None
    else:
        assert info.duration_s == pytest.approx(6.0, abs=0.01)


@pytest.mark.parametrize("channels", [1, 2, 6, 16])
@pytest.mark.parametrize("rate_hz", [8_000, 11_025, 22_050, 44_100, 48_000, 96_000, 192_000])
def test_every_rate_and_channel_count_keeps_length_and_level(tmp_path, rate_hz, channels):
    path = tmp_path / "tone.wav"
    soundfile.write(path, tone(2.0, rate_hz, channels), rate_hz, subtype="PCM_16")
    samples = whole(path)
    assert len(samples) == 32_000
    assert tone_amplitude(samples) == pytest.approx(0.5, rel=1e-3)


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW"])
def test_every_sample_format_keeps_its_scale(tmp_path, subtype):
    path = tmp_path / "tone.wav"
    data = tone(1.0, 16_000, 2)
    soundfile.write(path, data, 16_000, subtype=subtype)
    error = np.abs(whole(path) - data[:, 0]).max()
    assert error < {"PCM_U8": 1 / 128, "PCM_16": 1 / 32768, "ULAW": 0.02, "ALAW": 0.02}.get(subtype, 1e-6)


@pytest.mark.parametrize(
    ("name", "codec", "fmt", "muxer"),
    [
        ("t.wv", "wavpack", "s16p", "wv"),
        ("t.wv", "wavpack", "fltp", "wv"),
        ("t.flac", "flac", "s32", "flac"),
        ("t.m4a", "alac", "s32p", "ipod"),
        ("t.tta", "tta", "s16", "tta"),
        ("t.wav", "pcm_f64le", "dbl", "wav"),
        ("t.mka", "pcm_s16be", "s16", "matroska"),
        ("t.caf", "pcm_s32be", "s32", "caf"),
    ],
)
def test_planar_and_packed_formats_keep_their_scale(tmp_path, name, codec, fmt, muxer):
    data = tone(1.0, 16_000, 2)
    data[:, 1] *= 0.5
    path = encode(tmp_path / name, data, 16_000, codec, "stereo", fmt, muxer)
    assert np.abs(whole(path) - data.mean(axis=1)).max() < 2 / 32768


@pytest.mark.parametrize(("layout", "channels"), [("mono", 1), ("stereo", 2), ("5.1", 6), ("7.1", 8)])
@pytest.mark.parametrize(
    ("codec", "ending", "fmt", "muxer"),
    [("aac", ".m4a", "fltp", "ipod"), ("flac", ".flac", "s16", "flac"), ("wavpack", ".wv", "s16p", "wv")],
)
def test_equal_channels_have_the_level_of_one(tmp_path, layout, channels, codec, ending, fmt, muxer):
    path = encode(tmp_path / f"t{ending}", tone(2.0, 48_000, channels), 48_000, codec, layout, fmt, muxer)
    samples = whole(path)
    # A lossy encoder low-passes the bass channel, which lowers nothing at 440 Hz but that channel.
    lost = 1 / channels if codec == "aac" and channels > 2 else 0
    assert 0.5 * (1 - lost) * 0.98 < tone_amplitude(samples) < 0.5 * 1.02


def test_more_planes_than_a_frame_has_pointers_for(tmp_path):
    data = tone(1.0, 16_000, 16)
    data[:, 8:] *= 0.5
    path = encode(tmp_path / "t.wv", data, 16_000, "wavpack", "hexadecagonal", "s16p", "wv")
    assert probe(path).channels == 16
    assert np.abs(whole(path) - data.mean(axis=1)).max() < 2 / 32768


def test_opposite_channels_cancel(tmp_path):
    data = tone(1.0, 44_100, 2) * np.array([1, -1], np.float32)
    soundfile.write(tmp_path / "t.wav", data, 44_100, subtype="FLOAT")
    assert np.abs(whole(tmp_path / "t.wav")).max() < 1e-6


def test_float_files_with_nan_infinity_and_nonsense_stay_sound(tmp_path):
    data = tone(1.0, 44_100, 2)
    data[1000], data[2000], data[3000], data[4000] = np.nan, np.inf, [np.inf, -np.inf], 3e38
    soundfile.write(tmp_path / "t.wav", data, 44_100, subtype="FLOAT")
    samples = whole(tmp_path / "t.wav")
    assert np.abs(samples).max() < 1
    assert tone_amplitude(samples) == pytest.approx(0.5, rel=0.01)


@pytest.mark.parametrize("sample_rate_hz", [16_000, 32_000, 44_100])
@pytest.mark.parametrize("block_s", [0.37, 1.0, 2.5, 10.0])
def test_blocks_are_exact_and_their_size_changes_nothing(tracks, block_s, sample_rate_hz):
    blocks = list(decode(tracks["flac"], block_s=block_s, sample_rate_hz=sample_rate_hz))
    size = round(block_s * sample_rate_hz)
    assert all(len(block) == size for block in blocks[:-1])
    assert 0 < len(blocks[-1]) <= size
    assert np.array_equal(np.concatenate(blocks), whole(tracks["flac"], block_s=60.0, sample_rate_hz=sample_rate_hz))
    assert sum(map(len, blocks)) == 6 * sample_rate_hz


def test_blocks_do_not_change_after_they_were_given(tracks):
    blocks = decode(tracks["wav"], block_s=0.5)
    first = next(blocks)
    kept = first.copy()
    list(blocks)
    assert np.array_equal(first, kept)


def test_streamed_resampling_equals_one_pass(tracks):
    data, rate_hz = soundfile.read(tracks["flac"], dtype="float32")
    assert np.abs(whole(tracks["flac"]) - soxr.resample(data.mean(axis=1), rate_hz, 16_000, "HQ")).max() < 1e-6


@pytest.mark.parametrize("frames", [1, 7, 100, 1600])
def test_very_short_files(tmp_path, frames):
    soundfile.write(tmp_path / "t.wav", tone(1.0, 16_000, 1)[:frames], 16_000)
    assert len(whole(tmp_path / "t.wav")) == frames


def test_long_file_in_flat_memory(tmp_path):
    statm = Path("/proc/self/statm")
    if not statm.exists():
        pytest.skip("no /proc to read the memory from")
    path = tmp_path / "hour.flac"
    with soundfile.SoundFile(path, "w", 8_000, 1) as file:
        for _ in range(60):
            file.write(np.zeros(8_000 * 60, np.int16))
    rss = [int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") for _ in decode(path)]
    assert len(rss) == 360
    assert max(rss[10:]) - rss[10] < 16e6  # the hour as float32 at 16 kHz is 230 MB


# What stands beside, before and behind the sound


def test_pictures_are_never_decoded():
    names = sound_decoders().split(",")
    assert {"flac", "mp3float", "aac", "opus", "vorbis", "alac", "wmav2"} <= set(names)
    assert not {"mjpeg", "png", "gif", "h264", "webp", "bmp"} & set(names)


@pytest.mark.parametrize(
    "data", [b"\xff\xd8\xff" + bytes(3_000_000), random.Random(1).randbytes(3_000_000)], ids=["zeros", "noise"]
)
def test_large_broken_pictures_change_nothing(tmp_path, data):
    flac = write_audio(tmp_path / "a.flac", "flac", 1.0)
    mp3 = write_audio(tmp_path / "a.mp3", "mp3", 1.0)
    before = [whole(flac), whole(mp3)]
    picture = Picture()
    picture.data, picture.mime, picture.type = data, "image/jpeg", 3
    tagged = FLAC(flac)
    tagged.add_picture(picture)
    tagged.save()
    tag = ID3()
    tag.add(APIC(encoding=3, mime="image/jpeg", type=3, desc="", data=data))
    tag.save(mp3)
    assert np.array_equal(whole(flac), before[0])
    assert np.array_equal(whole(mp3), before[1])


def id3_end(path: Path) -> int:
    fd = os.open(path, os.O_RDONLY)
    try:
        return leading_id3_bytes(fd)
    finally:
        os.close(fd)


def test_id3_tags_before_and_behind_change_nothing(tmp_path):
    path = write_audio(tmp_path / "a.mp3", "mp3", 2.0)
    before, sound = whole(path), path.read_bytes()
    bare = sound[id3_end(path) :]
    tag = b"ID3\x04\0\0\0\0\x0f\x7f" + bytes(0x7FF)
    (tmp_path / "b.mp3").write_bytes(tag + tag + bare + b"TAG" + bytes(125))
    assert np.array_equal(whole(tmp_path / "b.mp3"), before)


def test_id3_that_claims_more_than_the_file_is_not_believed(tmp_path):
    path = write_audio(tmp_path / "a.mp3", "mp3", 2.0)
    path.write_bytes(b"ID3\x04\0\0\x7f\x7f\x7f\x7f" + path.read_bytes())
    with pytest.raises(ReadError):
        whole(path)


def test_junk_inside_an_mp3_is_passed_over(tmp_path):
    path = write_audio(tmp_path / "a.mp3", "mp3", 30.0)
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 300] = random.Random(2).randbytes(300)
    path.write_bytes(data)
    assert len(whole(path)) == pytest.approx(30 * 16_000, abs=4_000)


def test_mostly_junk_is_damage(tmp_path):
    path = write_audio(tmp_path / "a.flac", "flac", 20.0)
    data, dice = bytearray(path.read_bytes()), random.Random(3)
    for at in range(20_000, len(data) - 100, 15_000):
        data[at : at + 50] = dice.randbytes(50)
    path.write_bytes(data)
    with pytest.raises(ReadError, match=r"damaged|truncated"):
        whole(path)


def test_best_of_several_streams(tmp_path):
    path = tmp_path / "two.mka"
    with av.open(str(path), "w", format="matroska") as out:
        streams = [out.add_stream("pcm_s16le", rate=16_000, layout=layout) for layout in ("mono", "stereo")]
        for stream, amplitude in zip(streams, (0.1, 0.5), strict=True):
            data = (tone(1.0, 16_000, stream.layout.nb_channels, amplitude) * 32767).astype(np.int16).reshape(1, -1)
            frame = av.AudioFrame.from_ndarray(data, format="s16", layout=stream.layout.name)
            frame.sample_rate, frame.pts = 16_000, 0
            out.mux(stream.encode(frame))
    assert probe(path).channels == 2
    assert tone_amplitude(whole(path)) == pytest.approx(0.5, rel=0.01)


# Files joined end to end


def join(folder: Path, container: str, **second: int) -> Path:
    ending = CONTAINERS[container][0]
    a = write_audio(folder / f"a{ending}", container, 3.0)
    b = write_audio(folder / f"b{ending}", container, 2.0, seed=1, **second)
    path = folder / f"joined{ending}"
    path.write_bytes(a.read_bytes() + b.read_bytes())
    return path


@pytest.mark.parametrize("container", ["vorbis", "opus", "oggflac", "mp3", "aac"])
def test_joined_files_are_read_to_the_end(tmp_path, container):
    assert len(whole(join(tmp_path, container))) == pytest.approx(5 * 16_000, abs=2_000)


@pytest.mark.parametrize("container", ["oggflac", "mp3", "aac"])
def test_a_change_of_rate_and_channels_is_followed(tmp_path, container):
    path = join(tmp_path, container, sample_rate_hz=22_050, channels=1)
    assert len(whole(path)) == pytest.approx(5 * 16_000, abs=2_500)


def test_a_change_that_cannot_be_followed_is_said(tmp_path):
    with pytest.raises(UnsupportedError, match=r"from 0:03 on"):
        whole(join(tmp_path, "vorbis", sample_rate_hz=22_050, channels=1))


def test_channels_that_the_header_does_not_tell_are_found_by_decoding(tmp_path):
    """Junk that looks like a frame of AAC misleads FFmpeg; the sound behind it decodes."""
    (tmp_path / "a.aac").write_bytes(b"\xff\xff\xff" + bytes(31) + write_audio(tmp_path / "b", "aac", 2.0).read_bytes())
    with av.open(str(tmp_path / "a.aac")) as container:
        assert container.streams.audio[0].codec_context.channels == 0
    assert probe(tmp_path / "a.aac") == AudioInfo("aac", 44_100, 2, None)


# What FFmpeg refuses


def mixed_by_libsndfile(path: Path, after: int = 0) -> np.ndarray:
    with path.open("rb") as file, libsndfile.opened(file) as sound:
        return np.concatenate([block.mean(axis=1) for block in libsndfile.samples(sound, after)])


@pytest.mark.parametrize(
    ("container", "difference"),
    [("mp3", 1e-5), ("flac", 0), ("vorbis", 1e-6), ("opus", 5e-3), ("wav", 0), ("aiff", 0)],
)
def test_libsndfile_gives_the_samples_that_ffmpeg_gives(container, difference, tracks):
    ours = np.concatenate([block.copy() for block, _ in _heard(tracks[container], _Tally())])
    theirs = mixed_by_libsndfile(tracks[container])
    assert len(ours) == len(theirs)
    assert np.abs(ours - theirs).max() <= difference
    assert np.array_equal(mixed_by_libsndfile(tracks[container], after=100_001), theirs[100_001:])


@pytest.fixture(scope="module")
def refused(tracks: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Vorbis stream that FFmpeg's decoder does not take."""
    path = tmp_path_factory.mktemp("refused") / "refused.ogg"
    path.write_bytes(refused_by_ffmpeg(tracks["vorbis"].read_bytes()))
    with av.open(str(path)) as container, pytest.raises(av.FFmpegError):
        next(container.decode(audio=0))
    return path


def test_what_ffmpeg_refuses_libsndfile_reads(refused, tracks, capfd):
    assert probe(refused) == probe(tracks["vorbis"])
    assert np.abs(whole(refused) - whole(tracks["vorbis"])).max() < 1e-5
    assert capfd.readouterr() == ("", "")


def test_libsndfile_goes_on_where_ffmpeg_stops(tracks, monkeypatch):
    def stopping(path: Path, tally: object) -> Iterator[object]:
        for number, frame in enumerate(_frames(path, tally)):
            if number == 3:
                raise UnsupportedError(path, "FFmpeg goes no further")
            yield frame

    expected = whole(tracks["vorbis"])
    monkeypatch.setattr("indexer.files.audio.decode._frames", stopping)
    assert np.abs(whole(tracks["vorbis"]) - expected).max() < 1e-5
    with pytest.raises(UnsupportedError, match=r"FFmpeg goes no further$"):
        whole(tracks["wavpack"])  # in none of libsndfile's formats


def test_where_both_refuse_the_reason_names_both(refused, tmp_path):
    data = bytearray(refused.read_bytes())
    at = data.index(b"\x05vorbis") + 8
    data[at : at + 40] = bytes(40)
    (tmp_path / "x.ogg").write_bytes(data)
    for action in (probe, whole):
        with pytest.raises(ReadError, match=r"\(FFmpeg\); .* \(libsndfile\)$"):
            action(tmp_path / "x.ogg")


# The tap


def tapped(path: Path) -> tuple[np.ndarray, np.ndarray, set[int]]:
    """What a tap is given: the mix, the channels, the rates."""
    mixes: list[np.ndarray] = []
    channels: list[np.ndarray] = []
    rates: set[int] = set()

    def tap(mix: np.ndarray, apart: np.ndarray, rate_hz: int) -> None:
        assert 0 < len(mix) == apart.shape[1] <= rate_hz
        mixes.append(mix.copy())
        channels.append(apart.copy())
        rates.add(rate_hz)

    with_tap = np.concatenate(list(decode(path, tap=tap)))
    assert np.array_equal(with_tap, whole(path))  # it changes nothing
    count = len(mixes)
    frames = sum(map(len, mixes))
    assert list(listen(path, tap))[-1] == pytest.approx(frames / next(iter(rates)))
    assert all(map(np.array_equal, mixes[:count], mixes[count:]))
    del mixes[count:], channels[count:]
    return np.concatenate(mixes), np.concatenate(channels, axis=1), rates


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
def test_a_tap_is_given_every_channel_at_the_files_own_rate(tmp_path, subtype):
    sound = np.stack([music(2.5, sample_rate_hz=22_050, channels=1, seed=seed)[:, 0] for seed in range(3)], axis=1)
    soundfile.write(tmp_path / "a.wav", sound, 22_050, subtype=subtype)
    mix, channels, rates = tapped(tmp_path / "a.wav")
    assert rates == {22_050}
    assert np.abs(channels.T - sound).max() < (0.01 if subtype == "PCM_U8" else 1e-4)
    np.testing.assert_allclose(mix, channels.mean(axis=0), atol=1e-6)


@pytest.mark.parametrize("container", CONTAINERS)
def test_a_tap_hears_what_is_decoded(container, tracks):
    mix, channels, _ = tapped(tracks[container])
    np.testing.assert_allclose(mix, channels.mean(axis=0), atol=1e-6)


def test_a_tap_hears_what_libsndfile_reads(refused, tracks):
    for ours, theirs in zip(tapped(refused), tapped(tracks["vorbis"]), strict=True):
        assert ours == theirs if isinstance(ours, set) else np.abs(ours - theirs).max() < 1e-5


def test_a_tap_is_given_no_nan(tmp_path):
    sound = music(1.0)
    sound[1000:1010] = np.nan
    soundfile.write(tmp_path / "a.wav", sound, 44_100, subtype="FLOAT")
    for part in tapped(tmp_path / "a.wav")[:2]:
        assert np.isfinite(part).all()


# Files that end early


def heard(path: Path) -> tuple[np.ndarray, FileError | None]:
    """The samples that are given, and the error after them."""
    blocks: list[np.ndarray] = []
    try:
        blocks.extend(decode(path))
    except FileError as error:
        return np.concatenate(blocks or [np.empty(0)]), error
    return np.concatenate(blocks), None


@pytest.mark.parametrize("share", [0.3, 0.5, 0.8])
@pytest.mark.parametrize("container", CONTAINERS)
def test_part_of_a_file_is_heard_if_it_is_most_of_it(tmp_path, tracks, container, share):
    path = cut(tracks[container], tmp_path, share)
    samples, error = heard(path)
    assert error is not None
    assert error.path == str(path)
    assert "\n" not in error.reason
    if path.suffix == ".m4a":  # its index stands at its end unless it was written for streaming
        assert "damaged" in error.reason
        return
    assert error.reason.startswith("truncated: ")
    # Nothing states the length of an ADTS file, nor that of an Ogg file without its last page.
    states_length = container not in {"aac", "vorbis", "opus", "oggflac"}
    assert isinstance(error, TruncatedError) == (share > 1 / 3 or not states_length)
    assert len(samples) == pytest.approx(share * 6 * 16_000, abs=20_000)  # Ogg pages hold a second
    assert correlation(samples, whole(tracks[container])) > 0.99


@pytest.mark.parametrize("container", ["vorbis", "opus", "wav", "wavpack", "wma"])
def test_a_file_that_is_150_bytes_short_is_heard(tmp_path, tracks, container):
    size = tracks[container].stat().st_size
    samples, _ = heard(cut(tracks[container], tmp_path, (size - 150) / size))
    assert len(samples) > 5.4 * 16_000


@pytest.fixture(scope="module")
def stating_bytes(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A maker of six seconds in formats whose header states its length in bytes alone."""
    folder = tmp_path_factory.mktemp("bytes")

    def make(name: str) -> Path:
        path = folder / name
        kind, data = path.suffix[1:], tone(6.0, 48_000, 1)
        if kind in {"mka", "webm"}:
            codec, fmt, muxer = ("flac", "s16", "matroska") if kind == "mka" else ("libopus", "s16", "webm")
            return encode(path, data, 48_000, codec, "mono", fmt, muxer)
        if kind == "dff":
            return dsdiff(path)
        subtype = "PCM_16" if path.stem == "plain" else path.stem.upper()
        soundfile.write(path, data, 48_000, format=kind.upper(), subtype=subtype)
        return path

    return make


def dsdiff(path: Path) -> Path:
    """Six seconds of DSD in the container DSDIFF 1.5."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return name + struct.pack(">Q", len(data)) + data

    facts = chunk(b"FS  ", struct.pack(">I", 2_822_400)) + chunk(b"CHNL", struct.pack(">H", 1) + b"C000")
    facts += chunk(b"CMPR", b"DSD \x0enot compressed\0")
    sound = chunk(b"DSD ", random.Random(1).randbytes(2_822_400 // 8 * 6))
    body = b"DSD " + chunk(b"FVER", struct.pack(">I", 0x01050000)) + chunk(b"PROP", b"SND " + facts) + sound
    path.write_bytes(chunk(b"FRM8", body))
    return path


@pytest.mark.parametrize(
    "name",
    [
        "plain.au", "ulaw.au", "plain.caf", "plain.w64", "ulaw.w64", "ulaw.wav", "ms_adpcm.wav", "ulaw.aiff", "x.mka",
        "x.webm", "x.dff",
    ],
)  # fmt: skip
def test_a_file_that_states_its_length_in_bytes_and_lost_its_end_is_noticed(tmp_path, stating_bytes, name):
    path = stating_bytes(name)
    size = path.stat().st_size
    assert heard(path)[1] is None
    for missing, kind in ((150, TruncatedError), (size * 3 // 100, TruncatedError), (size * 4 // 5, ReadError)):
        short = cut(path, tmp_path, (size - missing) / size)
        samples, error = heard(short)
        assert type(error) is kind, missing
        assert error.reason.startswith("truncated: ")
        assert len(samples) == pytest.approx(6 * 16_000 * (size - missing) / size, abs=8_000)
        with short.open("rb") as file:
            assert fingerprint(file, short).truncated.startswith("truncated: ")


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF])
def test_a_header_that_knows_no_size_claims_none(tmp_path, stating_bytes, size):
    data = bytearray(stating_bytes("plain.au").read_bytes())
    data[8:12] = struct.pack(">I", size)
    (tmp_path / "piped.au").write_bytes(data[: len(data) // 10])
    assert heard(tmp_path / "piped.au")[1] is None


def test_a_matroska_file_that_was_piped_claims_nothing(tmp_path, stating_bytes):
    data = bytearray(stating_bytes("x.mka").read_bytes())
    at = data.index(b"\x18\x53\x80\x67") + 4
    assert data[at] == 1, "the size takes eight bytes"
    data[at : at + 8] = b"\x01" + b"\xff" * 7
    (tmp_path / "piped.mka").write_bytes(data[: len(data) // 2])
    assert heard(tmp_path / "piped.mka")[1] is None


def test_a_flac_file_that_lost_a_little_is_noticed(tmp_path, tracks):
    size = tracks["flac"].stat().st_size
    with pytest.raises(TruncatedError, match=r"truncated: the last 0\.\d\d s are missing"):
        whole(cut(tracks["flac"], tmp_path, (size - 150) / size))


def test_an_ogg_flac_file_states_its_length_in_its_first_packet(tmp_path):
    path = write_audio(tmp_path / "b", "oggflac", 6.0)
    data = bytearray(path.read_bytes())
    data[58] = data[58] & 0xF0
    data[59:63] = struct.pack(">I", 6 * 44_100)  # STREAMINFO's number of samples; FFmpeg leaves it open
    path.write_bytes(repair(bytes(data)))
    assert len(whole(path)) == 6 * 16_000
    assert isinstance(heard(cut(path, tmp_path, 0.8))[1], TruncatedError)
    assert type(heard(cut(path, tmp_path, 0.2))[1]) is ReadError


@pytest.mark.parametrize("container", ["mp3", "flac", "vorbis", "opus", "m4a", "alac", "wavpack", "wma", "aac"])
def test_an_end_of_zeros_is_a_lost_end(tmp_path, tracks, container):
    """A download that reserved its room and broke off."""
    path = tracks[container]
    if path.suffix == ".m4a":
        path = remux(path, tmp_path / "front.m4a", movflags="faststart")
    data = path.read_bytes()
    (tmp_path / "zeros").write_bytes(data[: len(data) * 7 // 10] + bytes(len(data) - len(data) * 7 // 10))
    samples, error = heard(tmp_path / "zeros")
    assert isinstance(error, TruncatedError)
    assert error.reason.startswith("truncated: ")
    assert len(samples) == pytest.approx(0.7 * 6 * 16_000, abs=20_000)


def test_half_a_minute_is_enough_of_any_length(tmp_path):
    short = write_audio(tmp_path / "short", "wav", 29.0).read_bytes()
    claim = struct.pack("<I", 3600 * 44_100 * 4)
    for name, seconds, kind in (("a.wav", 29, ReadError), ("b.wav", 31, TruncatedError)):
        data = (short + bytes(2 * 44_100 * 4))[: 44 + seconds * 44_100 * 4]
        (tmp_path / name).write_bytes(data[:40] + claim + data[44:])
        assert type(heard(tmp_path / name)[1]) is kind


@pytest.mark.parametrize("container", ["vorbis", "opus", "flac", "wavpack"])
def test_a_hole_in_the_middle_is_damage(tmp_path, container):
    path = write_audio(tmp_path / "x", container, 20.0)
    data = bytearray(path.read_bytes())
    data[len(data) * 2 // 5 : len(data) * 7 // 10] = bytes(len(data) * 7 // 10 - len(data) * 2 // 5)
    path.write_bytes(data)
    with pytest.raises(ReadError, match="damaged"):
        whole(path)


@pytest.mark.parametrize("seconds", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("container", ["mp3", "flac", "wav", "aiff"])
def test_half_of_a_very_short_file(tmp_path, container, seconds):
    path = write_audio(tmp_path / f"x{CONTAINERS[container][0]}", container, seconds)
    assert len(whole(path)) == round(seconds * 16_000)
    with pytest.raises(TruncatedError, match="truncated"):
        whole(cut(path, tmp_path / "half", 0.5))


@pytest.mark.parametrize("container", ["m4a", "alac"])
def test_half_of_an_mp4_with_its_index_in_front(tmp_path, tracks, container):
    path = remux(tracks[container], tmp_path / "front.m4a", movflags="faststart")
    with pytest.raises(TruncatedError, match=r"truncated: ends at 0:0[23] of 0:06"):
        whole(cut(path, tmp_path / "half", 0.5))


def test_blocks_before_the_end_are_given_before_the_error(tmp_path, tracks):
    given: list[np.ndarray] = []
    with pytest.raises(TruncatedError, match=r"truncated: ends at 0:02 of 0:06"):
        given.extend(decode(cut(tracks["flac"], tmp_path, 0.5), block_s=1.0))
    assert [len(block) for block in given[:-1]] == [16_000, 16_000]
    assert 0 < len(given[-1]) < 16_000


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF, 0x7FFFFFFF - 36])
def test_a_piped_wav_does_not_know_its_length(tmp_path, size):
    path = tmp_path / "piped.wav"
    soundfile.write(path, tone(2.0, 16_000, 1), 16_000)
    data = bytearray(path.read_bytes())
    at = data.index(b"data")
    data[at + 4 : at + 8] = struct.pack("<I", size)
    path.write_bytes(data)
    assert probe(path).duration_s is None
    if size:
        assert len(whole(path)) == 32_000


def test_an_absurd_claim_is_a_truncation(tmp_path, tracks):
    data = bytearray(tracks["flac"].read_bytes())
    data[21] |= 0x0F  # the top bits of STREAMINFO's 36-bit sample count
    path = tmp_path / "huge.flac"
    path.write_bytes(data)
    with pytest.raises(ReadError, match="truncated"):
        whole(path)


def test_an_mp3_without_xing_header_claims_nothing(tmp_path, tracks):
    data = bytearray(tracks["mp3"].read_bytes())
    at = data.find(b"Xing") if b"Xing" in data else data.find(b"Info")
    data[at : at + 4] = bytes(4)
    path = tmp_path / "bare.mp3"
    path.write_bytes(data)
    assert probe(path).duration_s is None
    assert len(whole(path)) == pytest.approx(6 * 16_000, abs=1_500)


# Files that are something else


HOSTILE = {
    "zeros": bytes(100_000),
    "empty": b"",
    "one": b"\0",
    "noise": random.Random(0).randbytes(100_000),
    "html": b"<!DOCTYPE html><html><body>404 not found</body></html>" * 50,
    "hls": b"#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nSECRET\n#EXT-X-ENDLIST\n",
    "hls_url": b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nhttp://127.0.0.1:9/x.ts\n#EXT-X-ENDLIST\n",
    "concat": b"ffconcat version 1.0\nfile 'SECRET'\n",
    "dash": b'<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static">'
    b"<Period><BaseURL>SECRET</BaseURL></Period></MPD>",
    "sdp": b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 5004 RTP/AVP 0\n",
    "m3u": b"#EXTM3U\nSECRET\n",
    "png": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\1\0\0\0\1\x08\2\0\0\0\x90wS\xde" + bytes(100),
    "elf": b"\x7fELF\2\1\1" + bytes(5_000),
}


@pytest.mark.parametrize(
    "ending", [".mp3", ".flac", ".ogg", ".opus", ".m4a", ".wav", ".aiff", ".aac", ".wma", ".m3u8", ""]
)
@pytest.mark.parametrize("kind", HOSTILE)
def test_what_is_no_sound_file_is_refused_quietly(tmp_path, kind, ending, monkeypatch, capfd):
    secret = tmp_path / "secret.wav"
    soundfile.write(secret, tone(0.5, 16_000, 1), 16_000)
    path = tmp_path / f"x{ending}"
    path.write_bytes(HOSTILE[kind].replace(b"SECRET", os.fsencode(secret)))
    opened = []
    really_open = os.open
    monkeypatch.setattr(os, "open", lambda name, *rest: opened.append(name) or really_open(name, *rest))
    monkeypatch.chdir(tmp_path)
    for action in (probe, whole):
        with pytest.raises(ReadError):
            action(path)
    assert set(opened) <= {path, os.devnull}
    assert capfd.readouterr() == ("", "")


def test_formats_that_name_other_files_are_not_on_the_list():
    assert not set(FORMATS.split(",")) & {
        "hls",
        "concat",
        "dash",
        "sdp",
        "rtsp",
        "image2",
        "lavfi",
        "webm_dash_manifest",
        "applehttp",
    }


@pytest.mark.parametrize("kind", ["missing", "folder", "pipe"])
def test_no_regular_file(tmp_path, kind):
    path = tmp_path / "x.mp3"
    if kind == "folder":
        path.mkdir()
    if kind == "pipe":
        os.mkfifo(path)
    with pytest.raises(
        ReadError, match={"missing": "No such file", "folder": "not a regular file", "pipe": "not a regular file"}[kind]
    ):
        probe(path)


def test_no_file_stays_open(tmp_path, tracks):
    fds = Path("/proc/self/fd")
    if not fds.exists():
        pytest.skip("no /proc to count open files in")
    before = len(list(fds.iterdir()))
    (tmp_path / "zeros.mp3").write_bytes(bytes(1000))
    for path in (tmp_path, tmp_path / "zeros.mp3", tracks["mp3"]):
        read_or_refuse(probe, path)
        read_or_refuse(whole, path)
    blocks = decode(tracks["mp3"], block_s=1.0)
    next(blocks)
    blocks.close()
    assert len(list(fds.iterdir())) == before


def test_a_header_without_sound(tmp_path):
    soundfile.write(tmp_path / "x.wav", np.zeros((0, 2), np.float32), 44_100)
    with pytest.raises(ReadError, match="no audio"):
        whole(tmp_path / "x.wav")


@pytest.mark.parametrize("tag", [b"drms", b"enca"])
def test_encrypted_mp4_is_unsupported(tmp_path, tracks, tag):
    path = tmp_path / "x.m4a"
    path.write_bytes(tracks["m4a"].read_bytes().replace(b"mp4a", tag))
    for action in (probe, whole):
        with pytest.raises(UnsupportedError, match="encrypted"):
            action(path)


def test_encrypted_wma_is_unsupported(tmp_path, tracks):
    path = tmp_path / "x.wma"
    data = tracks["wma"].read_bytes()
    guid = ASF_ENCRYPTED[0]
    header_bytes, objects = struct.unpack("<QI", data[16:28])
    extra = guid + struct.pack("<Q", 40) + bytes(16)
    path.write_bytes(data[:16] + struct.pack("<QI", header_bytes + 40, objects + 1) + data[28:30] + extra + data[30:])
    with pytest.raises(UnsupportedError, match="encrypted"):
        whole(path)


@pytest.mark.parametrize(
    "name",
    [
        b"\xff\xfe.mp3",
        b"img%03d.mp3",
        b"concat:a|b.mp3",
        b"-rf.mp3",
        b"http:x.mp3",
        b"a\nb.mp3",
        b"file:x.mp3",
        b"x.m3u8",
    ],
)
def test_names_are_only_names(tmp_path, tracks, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    try:
        Path(os.fsdecode(name)).write_bytes(tracks["mp3"].read_bytes())
    except OSError:
        pytest.skip("this file system does not take the name")
    for path in (name, os.fsdecode(name), Path(os.fsdecode(name))):
        assert isinstance(probe(path), AudioInfo)
    assert len(whole(name)) == 96_000


def test_a_failing_disk_is_not_the_end_of_the_file(tracks, monkeypatch):
    real = os.pread

    def failing(fd: int, size: int, offset: int) -> bytes:
        if offset > 200_000:
            raise OSError(5, "Input/output error")
        return real(fd, size, offset)

    monkeypatch.setattr(os, "pread", failing)
    with pytest.raises(ReadError, match="Input/output error"):
        whole(tracks["wav"])


def read_or_refuse(action: Callable[[Path], object], path: Path) -> bool:
    """True if it could be read; anything but one of our errors with one line fails the test."""
    refusal = None
    try:
        action(path)
    except FileError as error:
        refusal = error
    assert refusal is None or (refusal.reason and refusal.reason.isprintable())
    return refusal is None


def flips(data: bytes, times: int) -> Iterator[bytes]:
    dice = random.Random(len(data))
    for _ in range(times):
        broken = bytearray(data)
        for _ in range(dice.choice((1, 5, 40))):
            # The headers decide most: half of the flips go there.
            broken[dice.randrange(min(len(data), dice.choice((400, len(data)))))] = dice.randrange(256)
        yield bytes(broken)


@pytest.mark.parametrize("container", CONTAINERS)
def test_flipped_bytes_raise_only_our_errors(tmp_path, container, capfd):
    path = write_audio(tmp_path / f"x{CONTAINERS[container][0]}", container, 0.5)
    for broken in flips(path.read_bytes(), 25):
        path.write_bytes(broken)
        read_or_refuse(probe, path)
        read_or_refuse(whole, path)
    assert capfd.readouterr() == ("", "")


@pytest.mark.skipif(not FIXTURE.is_dir(), reason="no ../shared/tag-fixture")
def test_real_odd_files_are_read_or_refused_in_time(capfd):
    readable = 0
    for path in sorted(FIXTURE.rglob("*")):
        if not path.is_file():
            continue
        start = time.monotonic()
        read_or_refuse(probe, path)
        readable += read_or_refuse(whole, path)
        assert time.monotonic() - start < 5, path
    assert readable > 300
    assert capfd.readouterr() == ("", "")
