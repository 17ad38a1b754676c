"""MP4: what an edit list leaves of the samples is part of the recording's identity, and the first track is heard."""

import struct
from pathlib import Path

import av
import numpy as np
import pytest

from indexer.files.audio.decode import decode
from indexer.files.audio.identity import fingerprint
from tests.helpers.synth import write_samples

RATE_HZ = 44_100
SECONDS = 8.0
DELAY = 1024  # samples of FFmpeg's AAC encoder
Edit = tuple[float, float]  # (first second, length in seconds); a first second below 0: an empty edit


def atoms(data: bytes) -> list[tuple[bytes, bytes]]:
    """(name, content) of the boxes in data."""
    found, position = [], 0
    while position + 8 <= len(data):
        size = int.from_bytes(data[position : position + 4])
        found.append((data[position + 4 : position + 8], data[position + 8 : position + size]))
        position += size
    return found


def box(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(content), name) + content


def with_edits(data: bytes, edits: list[Edit] | None, version: int = 0) -> bytes:
    """The file, whose index stands behind the samples, with this edit list instead of its own; None: without."""
    at = data.index(b"mvhd")
    movie_hz = int.from_bytes(data[at + 16 : at + 20])
    entries = b"".join(
        struct.pack(
            ">Qqhh" if version else ">Iihh",
            round(length_s * movie_hz),
            -1 if first_s < 0 else round(first_s * RATE_HZ) + DELAY,
            1,
            0,
        )
        for first_s, length_s in edits or ()
    )
    listed = box(b"elst", struct.pack(">BxxxI", version, len(edits or ())) + entries)

    def rebuilt(content: bytes) -> bytes:
        parts = []
        for name, inside in atoms(content):
            if name == b"edts":
                parts.append(box(b"edts", listed) if edits is not None else b"")
            else:
                parts.append(box(name, rebuilt(inside) if name in {b"moov", b"trak"} else inside))
        return b"".join(parts)

    return rebuilt(data)


def identity(path: Path) -> str:
    with path.open("rb") as file:
        return fingerprint(file, path).audio_sha256


def heard(path: Path) -> np.ndarray:
    return np.concatenate(list(decode(path)))


@pytest.fixture(scope="module", params=["m4a", "alac"])
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("source") / request.param
    t = np.arange(round(SECONDS * RATE_HZ)) / RATE_HZ
    sweep = 0.5 * np.sin(2 * np.pi * (200 * t + 200 * t**2))  # 200 + 400 t Hz: the pitch tells the time
    return write_samples(path, request.param, sweep[:, None].astype(np.float32), RATE_HZ)


@pytest.fixture
def cut(source: Path, tmp_path: Path):
    """Make a file of the same samples with another edit list."""

    def made(edits: list[Edit] | None, version: int = 0) -> Path:
        path = tmp_path / "cut.m4a"
        path.write_bytes(with_edits(source.read_bytes(), edits, version))
        return path

    return made


@pytest.mark.parametrize("version", [0, 1])
@pytest.mark.parametrize(
    "edits",
    [
        None,
        [],
        [(0, SECONDS)],
        [(0.2, SECONDS - 0.4)],
        [(0.2, SECONDS)],
        [(-1, 3), (0, SECONDS)],  # begins late
        [(0, 3), (3, SECONDS - 3)],  # cut and put together again
    ],
)
def test_cuts_of_an_encoders_delay_are_the_same_recording(source, cut, edits, version):
    assert identity(cut(edits, version)) == identity(source)


@pytest.mark.parametrize("version", [0, 1])
def test_what_an_edit_list_makes_to_other_sound_is_another_recording(source, cut, version):
    lists: list[list[Edit]] = [
        [(0, 3)],
        [(5, 3)],
        [(2, 4)],
        [(3, 2), (5.5, 2)],
        [(5.5, 2), (3, 2)],
        [(3, 2), (3, 2)],
        [(1, SECONDS - 1)],
        [(0, SECONDS - 1)],
    ]
    identities = {identity(cut(edits, version)) for edits in lists}
    assert len(identities | {identity(source)}) == len(lists) + 1


@pytest.mark.parametrize("edits", [[(5, 3)], [(5.5, 2), (3, 2)], [(-1, 2), (1, 4)]])
def test_the_edit_list_is_heard(cut, edits):
    """The edits in the identity are the parts that FFmpeg plays, in their order, without the silence in front."""
    found = heard(cut(edits))
    played = [edit for edit in edits if edit[0] >= 0]
    assert len(found) / 16_000 == pytest.approx(sum(length_s for _, length_s in played), abs=0.1)
    begin_s = 0.0
    for first_s, length_s in played:
        at = round((begin_s + length_s / 2) * 16_000)
        spectrum = np.abs(np.fft.rfft(found[at - 800 : at + 800] * np.hanning(1600)))
        assert (np.argmax(spectrum) * 10 - 200) / 400 == pytest.approx(first_s + length_s / 2, abs=0.15)
        begin_s += length_s


def test_a_cut_keeps_its_identity_when_the_movie_counts_otherwise(source, cut):
    """A program that writes the file anew may choose another unit for lengths, which rounds them otherwise."""
    assert identity(cut([(2, 4)])) == identity(cut([(2.01, 3.99)])) == identity(cut([(1.9, 4.2)]))


def test_hostile_edit_lists_end(source, cut):
    path = cut([(2, 4)] * 20_000, 1)
    assert len(identity(path)) == 64
    data = bytearray(path.read_bytes())
    at = data.index(b"elst") + 12
    data[at : at + 16] = b"\x7f" + b"\xff" * 15
    data[data.index(b"stts") + 12 :][:4] = b"\xff" * 4
    path.write_bytes(data)
    assert len(identity(path)) == 64


@pytest.fixture(scope="module")
def stems(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A master of 300 Hz at 64 kbit/s and two stems of 2,000 Hz at 192 kbit/s."""
    path = tmp_path_factory.mktemp("stems") / "a.stem.m4a"
    with av.open(str(path), "w", format="mp4") as out:
        streams = []
        for rate in (64_000, 192_000, 192_000):
            stream = out.add_stream("aac", rate=RATE_HZ)
            stream.bit_rate, stream.layout = rate, "mono"
            streams.append(stream)
        t = np.arange(RATE_HZ, dtype=np.float32) / RATE_HZ
        for number, stream in enumerate(streams):
            wave = 0.5 * np.sin(2 * np.pi * (2_000 if number else 300) * t)
            frame = av.AudioFrame.from_ndarray(wave[None].astype(np.float32), format="fltp", layout="mono")
            frame.sample_rate = RATE_HZ
            for packet in [*stream.encode(frame), *stream.encode(None)]:
                out.mux(packet)
    return path.read_bytes()


def enabled(data: bytes, flags: list[bool]) -> bytes:
    """The file with these tracks enabled."""
    changed, at = bytearray(data), 0
    for flag in flags:
        at = changed.index(b"tkhd", at) + 4
        changed[at + 3] = changed[at + 3] & ~1 | flag
    return bytes(changed)


@pytest.mark.parametrize("flags", [[True, False, False], [True] * 3, [False] * 3, [False, True, True]])
def test_the_master_of_a_stem_file_is_heard(tmp_path, stems, flags):
    path = tmp_path / "a.stem.m4a"
    path.write_bytes(enabled(stems, flags))
    spectrum = np.abs(np.fft.rfft(heard(path)[:16_000]))
    assert 290 < np.argmax(spectrum) < 310  # Hz


def test_a_file_of_which_another_track_was_heard_is_another_recording(tmp_path, stems):
    """Its embedding is of the wrong track, so it must be made again; the other's stays."""
    identities = []
    for flags in ([True, False, False], [True] * 3, [False] * 3):
        path = tmp_path / "a.stem.m4a"
        path.write_bytes(enabled(stems, flags))
        identities.append(identity(path))
    assert identities[0] not in identities[1:]
    assert identities[1] == identities[2]
