"""What FFmpeg is shown of a file: up to the end of its sound, with wrong sizes put right. The files are sparse."""

import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile

from indexer.errors import ReadError
from indexer.files.audio.decode import decode
from indexer.files.audio.identity import fingerprint
from indexer.files.audio.payload.excerpt import excerpt
from indexer.files.audio.payload.simple import walk_wav
from indexer.files.audio.payload.source import ByteSource, Span
from tests.helpers.synth import CONTAINERS, music, write_audio

GIB4 = 1 << 32
UNKNOWN = 0xFFFFFFFF
RATE_HZ, SECONDS = 16_000, 3.0
SOUND = (music(SECONDS, sample_rate_hz=RATE_HZ, channels=1) * 20_000).astype("<i2").tobytes()
INFO = b"LIST" + struct.pack("<I", 26) + b"INFOISFT" + struct.pack("<I", 14) + b"Lavf58.29.100\0"


def wav(
    path: Path, riff: int, data: int, *, form: bytes = b"RIFF", ds64: bytes = b"", sound: int = 0, behind: bytes = b"",
    zeros: int = 0,
) -> Path:  # fmt: skip
    """A WAV file that states these sizes and holds SOUND, silence up to ``sound`` bytes, ``behind`` and zeros."""
    fmt = b"fmt " + struct.pack("<IHHIIHH", 16, 1, 1, RATE_HZ, 2 * RATE_HZ, 2, 16)
    head = form + struct.pack("<I", riff % GIB4) + b"WAVE" + ds64 + fmt + b"data" + struct.pack("<I", data % GIB4)
    with path.open("wb") as file:
        file.write(head + SOUND)
        file.seek(len(head) + max(sound, len(SOUND)))
        file.write(behind)
        file.truncate(file.tell() + zeros)
    return path


def heard_s(path: Path) -> float:
    return sum(len(block) for block in decode(path, sample_rate_hz=RATE_HZ)) / RATE_HZ


def identity(path: Path) -> str:
    with path.open("rb") as file:
        return fingerprint(file, path).audio_sha256


def sound_bytes(path: Path) -> int:
    with path.open("rb") as file:
        parts = list(walk_wav(ByteSource(file, path)))
    return sum(part.end - part.start for part in parts if isinstance(part, Span))


@pytest.fixture
def plain(tmp_path: Path) -> str:
    """The identity of the file with right sizes."""
    return identity(wav(tmp_path / "right.wav", 36 + len(SOUND), len(SOUND)))


@pytest.mark.parametrize(
    ("riff", "data", "more"),
    [
        (36, 0, {}),  # a recorder's header that was never brought up to date
        (0, 0, {}),
        (UNKNOWN, 0, {}),
        (36 + len(SOUND), 0, {}),
        (UNKNOWN, UNKNOWN, {}),
        (36 + len(SOUND), UNKNOWN, {}),
        (0x7FFFF024, 0x7FFFF000, {}),
        (0, len(SOUND), {}),
        (UNKNOWN, UNKNOWN, {"form": b"RF64", "ds64": b"ds64" + struct.pack("<IQQQI", 28, 0, 0, 0, 0)}),
        (UNKNOWN, UNKNOWN, {"form": b"BW64", "ds64": b"ds64" + struct.pack("<IQQQI", 28, *3 * [2**64 - 1], 0)}),
        (36 + len(SOUND), len(SOUND), {"zeros": 64_000_000}),
        (36 + len(SOUND) + len(INFO), len(SOUND), {"behind": INFO, "zeros": 64_000_000}),
        (36 + len(SOUND) + 64_000_000, len(SOUND), {"zeros": 64_000_000}),
        (36 + len(SOUND), len(SOUND), {"zeros": 5 * 10**9}),
        (36 + len(SOUND), len(SOUND), {"behind": bytes(range(256)) * 999, "zeros": 64_000_000}),
    ],
)
def test_a_wav_is_heard_and_hashed_whole_whatever_it_states(tmp_path, plain, riff, data, more):
    path = wav(tmp_path / "odd.wav", riff, data, **more)
    assert identity(path) == plain
    assert heard_s(path) == SECONDS


def test_an_empty_wav_has_no_sound_although_chunks_or_zeros_stand_behind(tmp_path):
    head = wav(tmp_path / "head.wav", 36 + len(INFO), 0).read_bytes()[:44]
    for behind in (b"", INFO, INFO + bytes(100_000)):
        path = tmp_path / "empty.wav"
        path.write_bytes(head + behind)
        with pytest.raises(ReadError, match="no audio"):
            identity(path)


@pytest.mark.parametrize(
    ("riff", "data", "sound", "behind"),
    [
        (36, 0, GIB4, b""),
        (36 + GIB4 + 96_000, 96_000, GIB4 + 96_000, b""),
        (36 + GIB4 + 96_000 + len(INFO), 96_000, GIB4 + 96_000, INFO),
        (UNKNOWN, 96_000, GIB4 + 96_000, b""),
        (0, 96_000, 2 * GIB4 + 96_000, b""),
        (36 + 32_000, 96_000, GIB4 + 96_000, b""),
        (UNKNOWN, UNKNOWN, 5 * 10**9, b""),
        (0x7FFFF024, 0x7FFFF000, 3 * 10**9, b"a bell"),
    ],
)
def test_a_size_that_wrapped_at_4_gib_is_noticed(tmp_path, riff, data, sound, behind):
    path = wav(tmp_path / "long.wav", riff, data, sound=sound, behind=behind)
    unstated = riff == 0x7FFFF024  # to the end of the file
    assert sound_bytes(path) == sound + (len(behind) if unstated else 0)
    with path.open("rb") as file:
        assert excerpt(ByteSource(file, path)).end == 44 + sound + (len(behind) if unstated else 0)
    blocks = decode(path, sample_rate_hz=RATE_HZ, block_s=1.0)
    first = [next(blocks) for _ in range(5)]
    assert np.abs(np.concatenate(first[:3])).max() > 0.1
    assert not np.any(first[4])  # the silence behind what a size modulo 4 GiB would end


def test_a_chunk_that_the_wrong_size_ends_at_does_not_deceive(tmp_path):
    """What stands where the wrapped size ends may look like a chunk up to the end of the file."""
    path = wav(
        tmp_path / "a.wav", 36 + GIB4 + len(SOUND), GIB4 + len(SOUND), behind=b"junk" + struct.pack("<I", GIB4 - 8)
    )
    with path.open("r+b") as file:
        file.truncate(44 + GIB4 + len(SOUND))
    assert sound_bytes(path) == GIB4 + len(SOUND)


def test_a_size_that_cannot_be_believed_is_refused(tmp_path):
    path = wav(tmp_path / "a.wav", 36 + 32_000, 32_000, sound=GIB4 + 77_777)
    for attempt in (identity, heard_s):
        with pytest.raises(ReadError, match=r"it states 0\.0 MB of sound and holds 4\.3 GB"):
            attempt(path)


@pytest.mark.parametrize("form_size", [None, 0, UNKNOWN])
@pytest.mark.parametrize("sound_size", [None, 0, 8, UNKNOWN])
def test_an_aiff_is_heard_and_hashed_whole_whatever_it_states(tmp_path, form_size, sound_size):
    path = tmp_path / "a.aiff"
    soundfile.write(path, np.frombuffer(SOUND, "<i2"), RATE_HZ, format="AIFF", subtype="PCM_16")
    right, data = identity(path), bytearray(path.read_bytes())
    for position, size in ((4, form_size), (data.index(b"SSND") + 4, sound_size)):
        if size is not None:
            data[position : position + 4] = struct.pack(">I", size)
    path.write_bytes(data)
    assert identity(path) == right
    assert heard_s(path) == SECONDS


def test_an_aiff_whose_sizes_wrapped_is_refused(tmp_path):
    path = tmp_path / "a.aiff"
    soundfile.write(path, np.frombuffer(SOUND, "<i2"), RATE_HZ, format="AIFF", subtype="PCM_16")
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size + GIB4)
    with pytest.raises(ReadError, match=r"states 0\.1 MB of sound and holds 4\.3 GB"):
        heard_s(path)


@pytest.mark.parametrize(
    ("kind", "position", "width", "order", "sizes"),
    [
        ("AU", 8, 4, "big", (0, UNKNOWN)),
        ("CAF", 4084, 8, "big", (0, 4, 2**64 - 1)),
        ("W64", 96, 8, "little", (0, 24, 2**64 - 1)),
    ],
)
def test_au_caf_and_wave64_that_were_piped_are_heard_whole(tmp_path, kind, position, width, order, sizes):
    path = tmp_path / f"a.{kind.lower()}"
    soundfile.write(path, np.frombuffer(SOUND, "<i2"), RATE_HZ, format=kind, subtype="PCM_16")
    data = bytearray(path.read_bytes())
    stated = int.from_bytes(data[position : position + width], order)
    assert stated - len(SOUND) in {0, 4, 24}, "the size of the sound stands here"
    for size in sizes:
        data[position : position + width] = size.to_bytes(width, order)
        path.write_bytes(data)
        assert heard_s(path) == SECONDS, size


@pytest.mark.parametrize("junk", [False, True], ids=["zeros", "junk"])
@pytest.mark.parametrize("name", [*CONTAINERS, "caf", "w64"])
def test_what_stands_behind_the_last_chunk_is_not_heard(tmp_path, name, junk):
    path = tmp_path / f"a.{name}"
    if name in CONTAINERS:
        path = write_audio(tmp_path / name, name, 1.0)
    else:
        soundfile.write(path, music(1.0), 44_100, format=name.upper(), subtype="PCM_16")
    right = heard_s(path)
    with path.open("ab") as file:
        file.write(np.random.default_rng(1).bytes(1_000_000) if junk else b"")
        file.truncate(file.tell() + 8_000_000)
    assert heard_s(path) == pytest.approx(right, abs=0.01)


def test_no_byte_of_sound_is_taken_for_a_flac_block(tmp_path):
    """Some writers state too small a size for a picture: what follows looks like blocks, up to within the sound."""
    data = write_audio(tmp_path / "whole", "flac", 1.0).read_bytes()
    picture = b"\x06" + (100).to_bytes(3) + bytes(100) + 50 * (b"\x05" + (996).to_bytes(3) + bytes(996))
    path = tmp_path / "a.flac"
    path.write_bytes(data[:42] + picture + b"\x05" + (len(data) // 2).to_bytes(3) + data[42:])
    with path.open("rb") as file:
        assert excerpt(ByteSource(file, path)).patches == ()
