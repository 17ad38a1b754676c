"""What one file may take: no small file holds up the others for hours, and its reason names the setting."""

import io
import os

import pytest

from indexer.config import Settings
from indexer.errors import ConfigError, LimitError, ReadError
from indexer.files.audio.identity import fingerprint
from indexer.files.audio.payload.mp4 import walk_mp4
from indexer.files.audio.payload.source import ByteSource, Span
from indexer.files.children import lenient
from indexer.files.children.limits import Budget, Limits
from indexer.files.children.worker import Worker
from tests.helpers.contents import rows
from tests.helpers.endless import empty_pages, fragmented_m4a, silent_flac
from tests.helpers.synth import write_audio

TOO_LONG = "it is longer than 600 s, the limit max_audio_s of the settings"
TOO_SLOW = "of computing, the limit max_read_cpu_s of the settings"


@pytest.fixture
def long_flac(tmp_path):
    """Eleven minutes of silence in 1,083 bytes."""
    path = tmp_path / "long.flac"
    path.write_bytes(silent_flac(80))
    return path


@pytest.fixture
def slow_opus(tmp_path):
    """Two seconds of music with 200,000 empty pages behind its headers."""
    path = write_audio(tmp_path / "slow", "opus", 2.0)
    data = path.read_bytes()
    third = data.find(b"OggS", data.find(b"OggS", 4) + 4)
    path.write_bytes(data[:third] + empty_pages(int.from_bytes(data[14:18], "little"), 200_000) + data[third:])
    return path


@pytest.fixture
def reader():
    """Starts readers with given limits."""
    started = []

    def start(**limits):
        started.append(Worker(Limits(**{"audio_s": 600.0, "cpu_s": 900.0, **limits})))
        return started[-1]

    yield start
    for worker in started:
        worker.close()


def test_decoding_ends_at_the_limit_of_sound_and_the_same_reader_goes_on(reader, long_flac, tmp_path):
    worker = reader()
    blocks = worker.decode(os.fsencode(long_flac), sample_rate_hz=16_000)
    assert sum(len(next(blocks)) for _ in range(60)) == 600 * 16_000
    with pytest.raises(LimitError, match=TOO_LONG):
        next(blocks)
    pid = worker._child.pid
    assert worker.call("inspect", os.fsencode(write_audio(tmp_path / "a", "flac")))["container"] == "flac"
    assert worker._child.pid == pid


def test_a_file_of_just_the_limit_is_heard(reader, long_flac):
    blocks = reader(audio_s=656.0).decode(os.fsencode(long_flac), sample_rate_hz=16_000)
    assert sum(map(len, blocks)) / 16_000 == pytest.approx(655.35)


def test_each_operation_has_a_limit_of_computing_of_its_own(reader, slow_opus, tmp_path):
    worker = reader(cpu_s=0.25)
    for operation in ("inspect", "inspect"):
        with pytest.raises(LimitError, match=f"it takes more than 0.25 s {TOO_SLOW}"):
            worker.call(operation, os.fsencode(slow_opus))
    assert worker.call("inspect", os.fsencode(write_audio(tmp_path / "a", "wav", 0.5)))["container"] == "wav"


def test_a_write_has_the_same_limit_and_leaves_no_copy(reader, slow_opus):
    edit = {"genres": ["techno"], "label": "techno", "confidence": 0.9, "model": "m"}
    before = {path.name for path in slow_opus.parent.iterdir()}
    with pytest.raises(LimitError, match=TOO_SLOW):
        reader(cpu_s=0.25).call(
            "prepare_write", os.fsencode(slow_opus), container="opus", edit=edit, preserve_mtime=False
        )
    assert {path.name for path in slow_opus.parent.iterdir()} == before


def test_a_limit_ends_the_second_try_of_a_damaged_file_too(long_flac, monkeypatch):
    """What the walker refuses is played to its end, and that end may be far."""

    def refuse(_file, path, **_options):
        raise ReadError(path, "damaged")

    monkeypatch.setattr(lenient, "fingerprint", refuse)
    budget = Budget(Limits(audio_s=600.0, cpu_s=900.0))
    with long_flac.open("rb") as file, pytest.raises(LimitError, match=TOO_LONG):
        lenient.identify(file, str(long_flac), heartbeat=lambda heard_s=0.0, /: budget.check("x", heard_s))


def test_a_scan_says_which_setting_and_reads_the_file_again_only_when_asked(quick_cli, long_flac):
    write_audio(long_flac.parent / "fine", "flac", 7.0)
    few = {"INDEXER_MAX_AUDIO_S": "600"}
    first = quick_cli.json("scan", long_flac.parent, env=few, code=1)
    assert rows(quick_cli, "SELECT state, reason FROM files WHERE path_text LIKE '%long%'") == [
        {"state": "unsupported", "reason": f"{TOO_LONG}; left alone until it changes, or `scan --force` names it"}
    ]
    assert first["embedded"] == 1
    quick_cli("scan", long_flac.parent, env=few)
    quick_cli("scan", "--force", long_flac)
    assert rows(quick_cli, "SELECT state, reason FROM files WHERE path_text LIKE '%long%'") == [
        {"state": "ready", "reason": None}
    ]


def test_doctor_and_classify_have_the_limits_too(quick_cli, long_flac):
    few = {"INDEXER_MAX_AUDIO_S": "600"}
    assert TOO_LONG in quick_cli("doctor", long_flac, env=few).stdout
    assert TOO_LONG in quick_cli("classify", long_flac, "--json", env=few, code=1).stdout


def test_the_sizes_of_a_fragment_are_read_in_blocks():
    """25 million of them took a minute, one at a time."""
    count = 100_000
    sizes = b"".join((number % 3).to_bytes(4) for number in range(count))
    audio = b"a" * sum(number % 3 for number in range(count))
    data = fragmented_m4a(sizes, audio)

    source = ByteSource(io.BytesIO(data), "x.m4a")
    asked = 0
    real = source.at

    def at(position, size):
        nonlocal asked
        asked += 1
        return real(position, size)

    source.at = at
    spans = [part for part in walk_mp4(source) if isinstance(part, Span)]
    assert [(span.start, span.end) for span in spans] == [(len(data) - len(audio), len(data))]
    assert asked < 300
    assert fingerprint(io.BytesIO(data), "x.m4a").truncated is None


@pytest.mark.parametrize("key", ["max_audio_s", "max_read_cpu_s"])
def test_a_limit_is_more_than_nothing(key):
    with pytest.raises(ConfigError, match=f"{key} is 0.0: must be more than 0 seconds"):
        Settings(**{key: 0.0})


def test_no_mix_of_twelve_hours_meets_the_limits_that_nobody_set():
    """Even where a file is read at 100 times its speed only; twice."""
    limits = Limits.of(Settings())
    assert limits.audio_s >= 2 * 12 * 3600
    assert limits.cpu_s >= 2 * 12 * 3600 / 100
