"""Audio identity: stable under retagging, remuxing and paging, changed by one audio byte, quick on hostile files."""

import io
import itertools
import os
import random
import shutil
import struct
import subprocess
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import av
import mutagen
import mutagen.aac
import mutagen.aiff
import mutagen.apev2
import mutagen.asf
import mutagen.flac
import mutagen.id3
import mutagen.mp3
import mutagen.mp4
import mutagen.ogg
import mutagen.oggflac
import mutagen.oggopus
import mutagen.oggvorbis
import mutagen.wave
import mutagen.wavpack
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from indexer.errors import DeferredError, FileError, ReadError, UnsupportedError
from indexer.files.audio.identity import Fingerprint, Stat, fingerprint, signed64, sniff
from indexer.files.containers import AUDIO_SUFFIXES
from tests.helpers.synth import CONTAINERS, write_audio

FIXTURES = Path(__file__).parents[2] / "shared" / "tag-fixture"
PICTURE = random.Random(1).randbytes(200_000)
LOOKS_LIKE_FRAMES = (b"\xff\xfb\x90\x64" + bytes(413)) * 4 + (b"\xff\xf1\x50\x80\x10\x1f\xfc" + bytes(121)) * 4
NAMES = {"m4a": "mp4", "alac": "mp4", "wma": "asf"}


def identify(path: Path) -> Fingerprint:
    with path.open("rb") as file:
        return fingerprint(file, path)


def of_bytes(data: bytes) -> Fingerprint:
    return fingerprint(io.BytesIO(data), "memory")


def outcome(data: bytes) -> Fingerprint | str:
    """The fingerprint, or the reason why there is none."""
    try:
        return of_bytes(data)
    except FileError as error:
        return error.reason


def reason(data: bytes) -> str:
    """Why nothing of the file can be heard, or what is missing of it."""
    try:
        found = of_bytes(data)
    except ReadError as error:
        return error.reason
    assert found.truncated
    return found.truncated


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("samples")
    return {name: write_audio(folder / name, name, 2.0) for name in CONTAINERS}


@pytest.fixture
def sample(samples: dict[str, Path], tmp_path: Path) -> Callable[[str], Path]:
    """A private copy of one sample file."""
    return lambda name: Path(shutil.copy(samples[name], tmp_path))


# --- what is recognised -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CONTAINERS)
def test_container_is_known_by_content_not_by_its_ending(name, samples, tmp_path):
    path = Path(shutil.copy(samples[name], tmp_path / "file.bin"))
    assert identify(path).container == NAMES.get(name, name)
    with path.open("rb") as file:
        assert sniff(file) == NAMES.get(name, name)


def test_every_container_has_its_own_identity(samples):
    assert len({identify(path).audio_sha256 for path in samples.values()}) == len(CONTAINERS)


def test_endings_are_lower_case_with_a_dot():
    assert {ending for ending, _ in CONTAINERS.values()} <= AUDIO_SUFFIXES
    assert all(ending == ending.lower() and ending.startswith(".") for ending in AUDIO_SUFFIXES)


def test_stat_of_path_and_descriptor_survives_a_rename_and_sees_a_change(sample, tmp_path):
    path = sample("flac")
    before = Stat.of(path)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        assert Stat.of(descriptor) == before
    finally:
        os.close(descriptor)
    path = path.rename(tmp_path / "renamed.flac")
    assert Stat.of(path) == before
    os.utime(path, ns=(0, before.mtime_ns + 1))
    assert Stat.of(path) != before
    assert (before.size, before.ino) == (path.stat().st_size, path.stat().st_ino)


# --- retagging ----------------------------------------------------------------------------------------------------


def id3_frames(tags: mutagen.id3.ID3) -> None:
    tags.add(mutagen.id3.TIT2(encoding=3, text=["Ä title"]))
    tags.add(mutagen.id3.TCON(encoding=3, text=["Techno"]))
    tags.add(mutagen.id3.APIC(encoding=0, mime="image/png", type=3, desc="", data=PICTURE))


def retag_id3(version: int, v1: int) -> Callable[[Path], None]:
    def retag(path: Path) -> None:
        try:
            tags = mutagen.id3.ID3(path)
        except mutagen.id3.ID3NoHeaderError:
            tags = mutagen.id3.ID3()
        id3_frames(tags)
        if version == 3:
            tags.update_to_v23()
        tags.save(path, v2_version=version, v1=v1)

    return retag


def retag_ape(path: Path) -> None:
    tags = mutagen.apev2.APEv2()
    tags["Genre"] = "Trance"
    tags["Cover Art (Front)"] = mutagen.apev2.APEValue(PICTURE, mutagen.apev2.BINARY)
    tags.save(path)


def lyrics3(path: Path) -> None:
    text = b"LYRICSBEGIN" + b"IND00002" + b"00" + b"LYR%05d" % len(LOOKS_LIKE_FRAMES) + LOOKS_LIKE_FRAMES
    append = text + b"%06d" % len(text) + b"LYRICS200"
    data = path.read_bytes()
    v1 = data[-128:] if data[-128:].startswith(b"TAG") else b""
    path.write_bytes(data[: len(data) - len(v1)] + append + v1)


def appended_id3v24(path: Path) -> None:
    size = bytes((0, 0, len(LOOKS_LIKE_FRAMES) >> 7, len(LOOKS_LIKE_FRAMES) & 0x7F))
    body = b"PRIV" + size + b"\0\0" + LOOKS_LIKE_FRAMES
    rest = bytes((4, 0, 0x10, 0, 0, len(body) >> 7, len(body) & 0x7F))
    path.write_bytes(path.read_bytes() + b"ID3" + rest + body + b"3DI" + rest)


def delete_id3(path: Path) -> None:
    mutagen.id3.delete(path)


def no_padding(path: Path) -> None:
    tags = mutagen.id3.ID3(path)
    tags.save(path, padding=lambda info: 0)


RETAGS = {
    "v23": retag_id3(3, 0), "v24": retag_id3(4, 0), "v23+v1": retag_id3(3, 2), "v24+v1": retag_id3(4, 2),
    "ape": retag_ape, "lyrics3": lyrics3, "appended": appended_id3v24, "delete": delete_id3,
}  # fmt: skip


@pytest.mark.parametrize("steps", list(itertools.permutations(RETAGS, 2)), ids="-".join)
@pytest.mark.parametrize("name", ["mp3", "aac"])
def test_mpeg_identity_survives_any_mix_of_tags(name, steps, sample):
    path = sample(name)
    before = identify(path)
    for step in steps:
        RETAGS[step](path)
        assert identify(path) == before, step


def test_mp3_identity_survives_padding_duplicates_and_leading_junk(sample):
    path = sample("mp3")
    before = identify(path)
    retag_id3(4, 0)(path)
    no_padding(path)
    assert identify(path) == before
    tag = mutagen.id3.ID3(path).size
    data = path.read_bytes()
    for variant in (
        data[:tag] + data,
        data[:tag] + b"\0" * 3000 + data,
        b"\0" * 5000 + data[tag:],
        data[:tag] + PICTURE + data[tag:],
        data + b"\0" * 999,
        data[tag:] + b"TAG" + b"x" * 125,
    ):
        assert of_bytes(variant) == before


@pytest.mark.parametrize("in_front", [b"", b"ID3\4\0\0\0\0\0\x0a" + bytes(10)])
def test_mp3_in_free_format_is_said_to_be_unsupported(sample, in_front):
    """FFmpeg cannot decode it; the frames here are those of 128 kbit/s, with and without the padding byte."""
    data = sample("mp3").read_bytes()
    data = bytearray(data[data.index(b"\xff\xfb\x90") :])
    at = 0
    while at + 417 <= len(data) and data[at] == 0xFF:
        length = 417 + (data[at + 2] >> 1 & 1)
        data[at + 2] &= 0x0F
        at += length
    with pytest.raises(UnsupportedError, match="free format"):
        of_bytes(in_front + bytes(data))
    assert "not audio" in reason(bytes(data[:4]) + random.Random(1).randbytes(30_000))


def tag_flac(path: Path) -> None:
    file = mutagen.flac.FLAC(path)
    file["genre"] = ["House"]
    picture = mutagen.flac.Picture()
    picture.data = PICTURE
    file.add_picture(picture)
    file.save(padding=lambda info: 7777)


def tag_vorbis_comment(kind: type) -> Callable[[Path], None]:
    def tag(path: Path) -> None:
        file = kind(path)
        file["genre"] = ["House"]
        file["metadata_block_picture"] = ["A" * 300_000]
        file.save()

    return tag


def tag_mp4(path: Path) -> None:
    file = mutagen.mp4.MP4(path)
    file["\xa9gen"] = ["House"]
    file["covr"] = [mutagen.mp4.MP4Cover(PICTURE)]
    file.save(padding=lambda info: 3333)


def tag_chunked(kind: type) -> Callable[[Path], None]:
    def tag(path: Path) -> None:
        file = kind(path)
        if file.tags is None:
            file.add_tags()
        id3_frames(file.tags)
        file.save()

    return tag


def tag_asf(path: Path) -> None:
    file = mutagen.asf.ASF(path)
    file["WM/Genre"] = ["House"]
    file["WM/Picture"] = [mutagen.asf.ASFByteArrayAttribute(PICTURE)]
    file.save()


TAGGERS = {
    "flac": tag_flac,
    "vorbis": tag_vorbis_comment(mutagen.oggvorbis.OggVorbis),
    "opus": tag_vorbis_comment(mutagen.oggopus.OggOpus),
    "oggflac": tag_vorbis_comment(mutagen.oggflac.OggFLAC),
    "m4a": tag_mp4,
    "alac": tag_mp4,
    "wav": tag_chunked(mutagen.wave.WAVE),
    "aiff": tag_chunked(mutagen.aiff.AIFF),
    "wavpack": retag_ape,
    "wma": tag_asf,
}


@pytest.mark.parametrize("name", TAGGERS)
def test_identity_survives_tagging_retagging_and_deletion(name, sample):
    path = sample(name)
    before, plain = identify(path), path.read_bytes()
    TAGGERS[name](path)
    assert path.read_bytes() != plain
    assert identify(path) == before
    TAGGERS[name](path)
    assert identify(path) == before
    mutagen.File(path).delete()
    assert identify(path) == before


@pytest.mark.parametrize("name", ["flac", "wavpack"])
def test_foreign_id3_and_ape_around_other_containers(name, sample):
    path = sample(name)
    before = identify(path)
    retag_id3(3, 2)(path)
    retag_ape(path)
    assert identify(path) == before


# --- remuxing -----------------------------------------------------------------------------------------------------


def remux(source: Path, target: Path, container: str, options: dict[str, str] | None = None) -> None:
    """What ``ffmpeg -c copy`` does."""
    with av.open(str(source)) as given, av.open(str(target), "w", format=container, options=options or {}) as made:
        taken = given.streams.audio[0]
        stream = made.add_stream_from_template(taken)
        made.metadata["genre"] = "Techno"
        for packet in given.demux(taken):
            if packet.dts is not None or packet.size:
                packet.stream = stream
                made.mux(packet)


MUXERS = {
    "aac": "adts",
    "wma": "asf",
    "vorbis": "ogg",
    "oggflac": "ogg",
    "m4a": "ipod",
    "alac": "ipod",
    "wavpack": "wv",
    "opus": "ogg",
}


@pytest.mark.parametrize("name", CONTAINERS)
def test_identity_survives_a_remux(name, samples, tmp_path):
    target = tmp_path / f"again{CONTAINERS[name][0]}"
    remux(samples[name], target, MUXERS.get(name, name))
    assert target.read_bytes() != samples[name].read_bytes() or name in {"aac", "aiff"}
    assert identify(target) == identify(samples[name])


@pytest.mark.parametrize(
    "options",
    [{"movflags": "faststart"}, {"movflags": "frag_keyframe+empty_moov", "frag_duration": "200000"},
     {"movflags": "frag_keyframe+default_base_moof", "frag_duration": "300000"}],
)  # fmt: skip
@pytest.mark.parametrize("name", ["m4a", "alac"])
def test_mp4_identity_survives_moved_index_and_fragments(name, options, samples, tmp_path):
    target = tmp_path / "again.m4a"
    remux(samples[name], target, "mp4", options)
    assert identify(target) == identify(samples[name])


def test_mp3_identity_survives_a_lost_and_a_rewritten_info_frame(samples, tmp_path):
    target, other = tmp_path / "none.mp3", tmp_path / "again.mp3"
    remux(samples["mp3"], target, "mp3", {"write_xing": "0"})
    assert b"Info" not in target.read_bytes()[:2000]
    remux(target, other, "mp3")
    assert b"Info" in other.read_bytes()[:2000]
    assert identify(samples["mp3"]) == identify(target) == identify(other)


@pytest.mark.skipif(not shutil.which("ffmpeg"), reason="the ffmpeg program is not installed")
@pytest.mark.parametrize("name", CONTAINERS)
def test_identity_survives_the_ffmpeg_program(name, samples, tmp_path):
    target = tmp_path / f"again{CONTAINERS[name][0]}"
    subprocess.run(
        ["ffmpeg", "-v", "error", "-i", samples[name], "-c", "copy", "-metadata", "genre=X", target], check=True
    )
    assert identify(target) == identify(samples[name])


def ogg_pages(data: bytes) -> list[bytes]:
    pages, position = [], 0
    while position < len(data):
        lacing = data[position + 27 : position + 27 + data[position + 26]]
        end = position + 27 + len(lacing) + sum(lacing)
        pages.append(data[position:end])
        position = end
    return pages


@pytest.mark.parametrize("name", ["vorbis", "opus", "oggflac"])
def test_ogg_identity_is_that_of_packets_not_pages(name, samples):
    pages = [mutagen.ogg.OggPage(io.BytesIO(page)) for page in ogg_pages(samples[name].read_bytes())]
    packets = mutagen.ogg.OggPage.to_packets(pages)
    for page_bytes in (300, 20_000):
        repaged = mutagen.ogg.OggPage.from_packets(packets, default_size=page_bytes)
        repaged[0].first = True
        for page in repaged:
            page.serial = 4711
        assert len(repaged) != len(pages)
        assert of_bytes(b"".join(page.write() for page in repaged)) == identify(samples[name])


def test_chained_ogg_hashes_every_link_and_multiplexed_streams_in_any_interleaving(samples, tmp_path):
    one, two = samples["vorbis"], write_audio(tmp_path / "two", "vorbis", 1.0, seed=2)
    chained = of_bytes(one.read_bytes() + two.read_bytes())
    assert chained.container == "vorbis"
    assert chained not in {identify(one), identify(two), of_bytes(two.read_bytes() + one.read_bytes())}
    first, second = ogg_pages(one.read_bytes()), ogg_pages(two.read_bytes())
    beginning, rest = first[0] + second[0], (first[1:], second[1:])
    in_turn = beginning + b"".join(b"".join(pair) for pair in itertools.zip_longest(*rest, fillvalue=b""))
    one_by_one = beginning + b"".join(rest[0]) + b"".join(rest[1])
    assert of_bytes(in_turn) == of_bytes(one_by_one) != chained


def test_vorbis_comments_do_not_count_but_the_codec_setup_does(samples):
    data = bytearray(samples["vorbis"].read_bytes())
    before = of_bytes(bytes(data))
    for place, same in ((data.index(b"\x03vorbis") + 12, True), (data.index(b"\x05vorbis") + 60, False), (45, False)):
        data[place] ^= 1
        assert (of_bytes(bytes(data)) == before) is same
        data[place] ^= 1


def test_wavpack_block_positions_do_not_count(samples):
    data = bytearray(samples["wavpack"].read_bytes())
    before = of_bytes(bytes(data))
    data[12:20] = b"\xff\xff\xff\xff\0\0\0\0"  # total length unknown, as a copying program may leave it
    second = data.index(b"wvpk", 4)
    data[second + 16] ^= 1
    assert of_bytes(bytes(data)) == before


def test_opus_gain_and_preskip_do_not_count_but_channels_do(samples):
    data = bytearray(samples["opus"].read_bytes())
    head = data.index(b"OpusHead")
    before = of_bytes(bytes(data))
    data[head + 10 : head + 18] = b"\x11\x22\x33\x44\x55\x66\x77\x01"
    assert of_bytes(bytes(data)) == before
    data[head + 9] = 1
    assert of_bytes(bytes(data)) != before


# --- one changed byte ---------------------------------------------------------------------------------------------


def payload_bounds(name: str, data: bytes) -> tuple[int, int]:
    """A range that holds only audio."""
    if name in {"m4a", "alac"}:
        start = data.index(b"mdat") + 4
        return start, start + int.from_bytes(data[start - 8 : start - 4]) - 8
    if name == "wma":
        return len(data) // 2, len(data) - 4000
    if name in {"vorbis", "opus", "oggflac"}:
        return len(data) // 2, len(data)
    end = data.find(b"APETAGEX")
    return len(data) // 5, end if end > 0 else len(data) - 8


@pytest.mark.parametrize("name", CONTAINERS)
def test_one_flipped_audio_byte_changes_the_identity(name, samples):
    data = samples[name].read_bytes()
    before = of_bytes(data)
    start, end = payload_bounds(name, data)
    rng = random.Random(0)
    places = {start, (start + end) // 2, end - 1, *(rng.randrange(start, end) for _ in range(12))}
    if name in {"vorbis", "opus", "oggflac"}:  # page headers are no audio
        pages, headers, position = ogg_pages(data), set(), 0
        for page in pages:
            headers.update(range(position, position + 27 + page[26]))
            position += len(page)
        places -= headers
    if name == "wma":  # packet headers and padding are no audio
        places = {data.index(data[-1000:-900]) + 40}
    for place in places:
        changed = bytearray(data)
        changed[place] ^= 0x5A
        assert outcome(bytes(changed)) != before, place


def wav(data: bytes, *, bits: int = 16, channels: int = 2, tag: int = 1, extensible: bool = False, pad: bytes = b"",
        data_size: int | None = None, riff_size: int | None = None, before: bytes = b"") -> bytes:  # fmt: skip
    block = channels * bits // 8
    fmt = struct.pack("<HHIIHH", 0xFFFE if extensible else tag, channels, 44_100, 44_100 * block, block, bits)
    if extensible:
        fmt += struct.pack("<HHIH", 22, bits, 3, tag) + bytes.fromhex("000000001000800000aa00389b71")
    body = b"WAVE" + before + b"fmt " + struct.pack("<I", len(fmt)) + fmt
    body += b"data" + struct.pack("<I", len(data) if data_size is None else data_size) + data + pad
    return b"RIFF" + struct.pack("<I", len(body) if riff_size is None else riff_size) + body


def test_wav_meaning_counts_and_form_does_not():
    sound = random.Random(3).randbytes(1200)
    plain = of_bytes(wav(sound))
    assert of_bytes(wav(sound, extensible=True)) == plain
    assert of_bytes(wav(sound, before=b"JUNK\x03\0\0\0abc\0")) == plain
    assert of_bytes(wav(sound, before=b"JUNK\x03\0\0\0abc")) == plain  # a writer that forgot the pad byte
    others = [wav(sound, bits=24), wav(sound, channels=1), wav(sound, tag=3), wav(sound[:-1] + b"!"), wav(sound[:-4])]
    assert len({of_bytes(other).audio_sha256 for other in others} | {plain.audio_sha256}) == 6
    assert of_bytes(wav(sound[:-1], pad=b"\0")) == of_bytes(wav(sound[:-1], pad=b"\1")) == of_bytes(wav(sound[:-1]))


@pytest.mark.parametrize(
    ("data_size", "riff_size"), [(0xFFFFFFFF, 0xFFFFFFFF), (0, 0), (0, 0xFFFFFFFF), (0x7FFFFFFF - 44, 0x7FFFFFFF)]
)
def test_piped_wav_counts_to_the_end_of_the_file(data_size, riff_size):
    sound = random.Random(3).randbytes(1200)
    assert of_bytes(wav(sound, data_size=data_size, riff_size=riff_size)) == of_bytes(wav(sound))


def test_rf64_takes_its_size_from_ds64():
    sound = random.Random(3).randbytes(1200)
    size64 = b"ds64" + struct.pack("<IQQQI", 28, 5000, len(sound), 300, 0)
    rf64 = (
        b"RF64" + wav(sound, data_size=0xFFFFFFFF, riff_size=0xFFFFFFFF, before=size64, pad=b"LIST\x04\0\0\0abcd")[4:]
    )
    assert of_bytes(rf64) == of_bytes(wav(sound))
    cut = rf64.replace(struct.pack("<Q", len(sound)), struct.pack("<Q", 99_999))
    assert reason(cut).startswith("truncated: the data chunk needs 99,999 bytes")


# --- what cannot be read ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "empty file"),
        (b"\0" * 5000, "zeros"),
        (b"\0" * 3_000_000, "zeros"),
        (b"<!DOCTYPE html><html><body>404</body></html>", "HTML"),
        (b"just some words\n" * 50, "text"),
        (random.Random(5).randbytes(300_000), "no known sound format"),
        (b"\xff\xd8\xff\xe0" + random.Random(6).randbytes(3000), "JPEG"),
        (b"\x89PNG\r\n" + random.Random(6).randbytes(3000), "PNG"),
        (b"\xff" * 3_000_000, "no known sound format"),
        (b"\xff\xfb\x90\0" * 1_000_000, "no MPEG frames follow one another"),
        (b"\xff\xf8" * 10_000, "no known sound format"),
        (b"ID3\x04\0\0\0\0\0\0", "no audio data"),
        (
            b"ID3\x04\0\0\x7f\x7f\x7f\x7f" + b"\0" * 999,
            "truncated: the ID3v2 tag needs 268,435,465 bytes, 1,009 are there",
        ),
        (b"OggS" + bytes(200), "Ogg"),
        (b"fLaC", "no audio data"),
        (b"fLaC\0\0\0\x22" + bytes(34) + b"\x81\xff\xff\xff" + bytes(100), "truncated"),
        (wav(b""), "no audio data"),
        (wav(b"abcd", data_size=9999), "truncated: the data chunk needs 9,999 bytes, 4 are there"),
        (b"FORM\0\0\0\4AIFF", "no COMM chunk"),
        (b"\0\0\0\x10ftypM4A \0\0\0\0", "moov"),
        (b"\0\0\0\x10ftypM4A \0\0\0\0\0\0\0\x08moov", "without an audio track"),
        (b"wvpk" + bytes(200), "impossible size"),
        (b"MPCK" + b"\0" * 110, "impossible size"),
        (b"MP+\x07" + b"\0" * 20, "no audio data"),
        (b"TTA1" + bytes(18), "no audio data"),
        (b"MAC \x96\x0f" + bytes(10), "no audio data"),
        (b"DSD " + bytes(24) + b"fmt " + bytes(60), "impossible size"),
    ],
)  # fmt: skip
def test_what_is_not_audio_is_refused_with_a_reason_and_quickly(data, words):
    began = time.perf_counter()
    assert words in reason(data)
    assert time.perf_counter() - began < 5


@pytest.mark.parametrize("name", ["mp3", "vorbis", "opus", "oggflac", "m4a", "alac", "wav", "aiff", "wavpack", "wma"])
@pytest.mark.parametrize("share", [0.3, 0.8])
def test_a_cut_file_is_truncated(name, share, tmp_path):
    data = write_audio(tmp_path / "x", name, 4.0).read_bytes()
    assert reason(data[: int(len(data) * share)]).startswith("truncated: ")


@pytest.mark.parametrize("name", ["mp3", "vorbis", "opus", "oggflac", "wav", "aiff", "wavpack", "wma"])
def test_a_cut_file_is_a_recording_of_its_own(name, tmp_path):
    data = write_audio(tmp_path / "x", name, 4.0).read_bytes()
    whole, most, less = of_bytes(data), of_bytes(data[: int(len(data) * 0.8)]), of_bytes(data[: int(len(data) * 0.6)])
    assert whole.truncated is None
    assert most.truncated
    assert len({whole.audio_sha256, most.audio_sha256, less.audio_sha256}) == 3
    assert most == of_bytes(data[: int(len(data) * 0.8)])


def test_a_cut_header_leaves_nothing_to_hear(tmp_path):
    data = write_audio(tmp_path / "x", "vorbis", 1.0).read_bytes()
    with pytest.raises(ReadError, match="truncated: the last Ogg page"):
        of_bytes(data[:3000])


@pytest.mark.parametrize("name", ["m4a", "alac"])
def test_an_mp4_with_its_index_in_front_may_lose_its_end(name, tmp_path):
    plain = write_audio(tmp_path / "x", name, 4.0)
    front = tmp_path / "front.m4a"
    with av.open(str(plain)) as old, av.open(str(front), "w", options={"movflags": "faststart"}) as new:
        stream = new.add_stream_from_template(old.streams.audio[0])
        for packet in old.demux(old.streams.audio[0]):
            if packet.dts is not None:
                packet.stream = stream
                new.mux(packet)
    data = front.read_bytes()
    assert of_bytes(data).truncated is None
    found = of_bytes(data[: len(data) // 2])
    assert found.truncated
    assert found.truncated.startswith("truncated: an MP4 sample needs")
    assert found.audio_sha256 != of_bytes(data).audio_sha256
    with pytest.raises(ReadError, match="truncated: its mdat box"):
        of_bytes(plain.read_bytes()[: len(data) // 2])


def test_a_cut_mp3_says_how_much_is_there_and_sloppy_counts_pass(samples):
    data = samples["mp3"].read_bytes()
    assert " s of 2.0 s are there" in reason(data[: len(data) // 2])
    place = data.index(b"Info") + 8
    for change in (-1, 1, 2):
        sloppy = bytearray(data)
        sloppy[place : place + 4] = (int.from_bytes(data[place : place + 4]) + change).to_bytes(4)
        assert of_bytes(bytes(sloppy)) == of_bytes(data)


def test_ogg_without_end_of_stream_flag_is_no_fault(samples):
    pages = ogg_pages(samples["vorbis"].read_bytes())
    assert of_bytes(b"".join(pages[:-1])).container == "vorbis"
    assert "the last Ogg page" in reason(b"".join(pages)[:-1])
    assert "the last Ogg page" in reason(b"".join(pages[:-1]) + pages[-1][:20])


@pytest.mark.parametrize("frames_swallowed", [9, 40])
def test_audio_under_an_overstated_id3_size_is_found(frames_swallowed, samples):
    data = samples["mp3"].read_bytes()
    start = 0 if data[:3] != b"ID3" else int.from_bytes(data[8:10]) // 256 * 128 + data[9] + 10
    audio = data[start:]
    frame = b"TIT2\0\0\0\x05\0\0\0abcd"
    for padding, extra in itertools.product((0, 500), (0, 1, 77, 5_000_000)):
        size = len(frame) + padding + 418 * frames_swallowed + extra
        head = b"ID3\x03\0\0" + bytes((size >> shift) & 0x7F for shift in (21, 14, 7, 0))
        assert of_bytes(head + frame + b"\0" * padding + audio) == of_bytes(data)


def test_junk_made_of_sync_words_after_real_frames_ends_quickly(samples):
    data = samples["mp3"].read_bytes()
    began = time.perf_counter()
    assert "sync words" in reason(data + b"\xff\xfb" * 2_000_000)
    assert time.perf_counter() - began < 5


def test_sniff_of_sync_words_without_frames_is_other():
    assert sniff(io.BytesIO(b"\xff\xfb\x90\0" * 1_000_000)) == "other"


def test_frames_of_another_sort_after_the_first_ones_count(tmp_path):
    one = write_audio(tmp_path / "a", "mp3", 1.0).read_bytes()
    two = write_audio(tmp_path / "b", "mp3", 1.0, sample_rate_hz=48_000).read_bytes()
    both = of_bytes(one + two)
    assert both != of_bytes(one)
    changed = bytearray(one + two)
    changed[-500] ^= 1
    assert of_bytes(bytes(changed)) != both


# --- hostile ------------------------------------------------------------------------------------------------------


def box(name: bytes, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return struct.pack(">I", len(body) + 8) + name + body


def hostile_mp4(*, samples_claimed: int, chunks: int, size_each: int = 0) -> bytes:
    head = box(b"ftyp", b"M4A \0\0\0\0")
    table = box(
        b"stbl",
        box(b"stsd", struct.pack(">II", 0, 1), box(b"mp4a", bytes(28))),
        box(b"stsz", struct.pack(">III", 0, size_each, samples_claimed)),
        box(b"stsc", struct.pack(">IIIII", 0, 1, 1, 0xFFFFFFFF, 1)),
        box(b"stco", struct.pack(">II", 0, 0xFFFFFFFF), struct.pack(">I", 0) * chunks),
    )
    media = box(b"mdia", box(b"hdlr", bytes(8), b"soun"), box(b"minf", table))
    return head + box(b"moov", box(b"trak", box(b"tkhd", bytes(20)), media))


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"samples_claimed": 0xFFFFFFFF, "chunks": 3}, "no audio data"),
        ({"samples_claimed": 0xFFFFFFFF, "chunks": 3, "size_each": 0xFFFFFFFF}, "truncated: an MP4 sample"),
        ({"samples_claimed": 5, "chunks": 100_000, "size_each": 50_000_000}, "truncated"),
    ],
)
def test_mp4_tables_that_claim_billions_need_no_memory(facts, words):
    data = hostile_mp4(**facts)
    tracemalloc.start()
    try:
        assert words in reason(data)
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()


def test_mp4_chunks_that_overlap_cannot_make_it_read_for_ever():
    data = hostile_mp4(samples_claimed=0xFFFFFFFF, chunks=50_000, size_each=1)
    data = data.replace(struct.pack(">IIIII", 0, 1, 1, 0xFFFFFFFF, 1), struct.pack(">IIIII", 0, 1, 1, 100_000, 1))
    assert "more bytes than the file has" in reason(data)


class Sparse(io.RawIOBase):
    """A file that begins with ``head`` and goes on with zeros up to ``size``; counts what is read."""

    def __init__(self, head: bytes, size: int) -> None:
        self.head, self.length, self.position = head, size, 0

    def seek(self, offset: int, whence: int = 0) -> int:
        self.position = offset + (self.length if whence == 2 else 0)
        return self.position

    def read(self, size: int = -1) -> bytes:
        assert 0 <= size <= 1 << 20, "reads are bounded"
        part = self.head[self.position : self.position + size]
        part += bytes(max(0, min(size, self.length - self.position) - len(part)))
        self.position += len(part)
        return part


def test_heartbeat_and_flat_memory_for_a_big_file():
    size, beats = 100 << 20, []
    head = wav(b"", data_size=size - 44, riff_size=size - 8)
    tracemalloc.start()
    try:
        fingerprint(Sparse(head, size), "big.wav", heartbeat=lambda: beats.append(1))
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()
    assert 90 <= len(beats) <= 200


def test_a_file_that_shrinks_while_it_is_read_is_deferred():
    file = Sparse(wav(b"", data_size=5_000_000, riff_size=5_000_036), 5_000_044)

    def shrink() -> None:
        file.length = 2_000_000

    with pytest.raises(DeferredError, match="became shorter"):
        fingerprint(file, "x.wav", heartbeat=shrink)


def test_an_input_error_is_a_read_error():
    class Failing(Sparse):
        def read(self, size: int = -1) -> bytes:
            raise OSError(5, "Input/output error")

    with pytest.raises(ReadError, match="cannot be read: Input/output error"):
        fingerprint(Failing(b"", 1000), "x")


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    folder = tmp_path_factory.mktemp("seeds")
    found = [write_audio(folder / name, name, 0.2).read_bytes()[:20_000] for name in CONTAINERS]
    remux(
        folder / "m4a.m4a",
        folder / "frag.m4a",
        "mp4",
        {"movflags": "frag_keyframe+empty_moov", "frag_duration": "50000"},
    )
    tagged = folder / "mp3.mp3"
    retag_id3(3, 2)(tagged)
    retag_ape(tagged)
    tta = (
        b"TTA1\1\0\2\0\x10\0"
        + struct.pack("<II", 44_100, 90_000)
        + bytes(4)
        + struct.pack("<II", 400, 300)
        + bytes(4)
        + bytes(700)
    )
    dsf = (
        b"DSD "
        + struct.pack("<QQQ", 28, 500, 0)
        + b"fmt "
        + struct.pack("<Q", 52)
        + bytes(40)
        + b"data"
        + struct.pack("<Q", 412)
        + bytes(400)
    )
    sv8 = b"MPCK" + b"SH\x0a" + bytes(7) + b"AP\x20" + bytes(29) + b"SE\x03"
    return [*found, (folder / "frag.m4a").read_bytes(), tagged.read_bytes()[-3000:], tta, dsf, sv8]


def test_the_small_seeds_are_read(seeds):
    assert [of_bytes(seed).container for seed in seeds[-3:]] == ["tta", "dsf", "musepack"]


@settings(max_examples=600, deadline=3000, database=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_mutated_files_raise_only_our_errors_and_end(seeds, data):
    changed = bytearray(data.draw(st.sampled_from(seeds)))
    for _ in range(data.draw(st.integers(1, 8))):
        place = data.draw(st.integers(0, min(len(changed) - 1, 600)) | st.integers(0, len(changed) - 1))
        if data.draw(st.booleans()):
            changed[place : place + 4] = data.draw(
                st.sampled_from([b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff", b"\0\0\0\1"])
            )
        else:
            changed[place] = data.draw(st.integers(0, 255))
    changed = changed[: data.draw(st.just(len(changed)) | st.integers(1, len(changed)))]
    found = outcome(bytes(changed))
    assert "\n" not in found if isinstance(found, str) else len(found.audio_sha256) == 64


@pytest.mark.skipif(not FIXTURES.is_dir(), reason="the tag fixtures are not beside this checkout")
def test_real_odd_files_raise_only_our_errors_within_a_second():
    known = 0
    for path in sorted(FIXTURES.rglob("*")):
        if path.is_file():
            began = time.perf_counter()
            found = outcome(path.read_bytes())
            assert found, path
            known += isinstance(found, Fingerprint)
            assert time.perf_counter() - began < 1, path
    assert known > 350


@given(st.integers(-(2**70), 2**70))
def test_every_number_of_a_stat_fits_sqlite(number):
    fitted = signed64(number)
    assert -(2**63) <= fitted < 2**63
    assert (fitted - number) % 2**64 == 0
    assert fitted == number or not -(2**63) <= number < 2**63
