"""`indexer bench`: what it measures adds up, on named files, on the library's tracks, and without either."""

import pytest

from indexer.analysis.analyser import METERS
from indexer.encoders.m2d import openvino
from indexer.upkeep import bench
from tests.helpers.synth import write_audio


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(bench, "MEASURED_S", 0.2)
    monkeypatch.setattr(bench, "MADE_S", 20.0)


@pytest.fixture(scope="session")
def tracks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tracks")
    return [write_audio(folder / name, name, 62.0, seed=seed) for seed, name in enumerate(("mp3", "flac"))]


def test_named_files_are_measured_in_every_arithmetic(cli, tracks):
    found = cli.json("bench", "--jobs", 2, *tracks)
    assert (found["source"], found["files"]) == ("named", [str(path) for path in tracks])
    assert found["decode"]["audio_s"] == pytest.approx(124, abs=1)
    assert found["together"]["audio_s"] == pytest.approx(124, abs=1)
    assert found["decode"]["jobs"] == 2
    assert min(found["decode"]["one_job"], found["decode"]["all_jobs"]) > 1
    assert list(found["reading_ms"]) == ["identity", "decoding", "resampling", *METERS]
    assert min(found["reading_ms"].values()) > 0
    best, *others = found["encoders"]
    assert best["precision"] in (("fp32", "bf16") if openvino.multiplies_bf16() else ("fp32",))  # as it was measured
    assert (best["chosen"], {rate["chosen"] for rate in others}) == (True, {False})
    served = {"fp32", "bf16", *(["int8"] if openvino.serves("int8") else [])}
    assert {rate["precision"] for rate in found["encoders"]} == served
    assert {rate["device"] for rate in found["encoders"]} == {"cpu"}
    differs = {rate["precision"]: rate["differs"] for rate in found["encoders"]}
    assert differs["fp32"] == 0
    assert 1e-4 < differs["bf16"] < 0.02
    assert found["library"] is None
    limits = found["bottleneck"]
    assert limits["step"] == ("decoding" if limits["decoding"] < limits["encoder"] else "encoder")


def test_a_library_is_asked_for_its_own_tracks_and_told_how_long_it_takes(cli, tracks):
    cli.model = "rhythm"
    cli("scan", tracks[0].parent, "--no-tags")
    before = cli.db.read_bytes()
    found = cli.json("bench")
    assert found["source"] == "library"
    assert sorted(found["files"]) == sorted(map(str, tracks))
    assert found["library"]["recordings"] == 2
    assert found["library"]["expected_s"] == pytest.approx(124 / found["together"]["times_real_time"], abs=1)
    assert [(rate["name"], rate["precision"]) for rate in found["encoders"]] == [("rhythm", "fp64")]
    assert cli.db.read_bytes() == before
    text = bench.to_text(found)
    assert "the bottleneck is" in text
    assert "reading a minute of sound takes" in text
    assert "your library (2 recordings, 2:04 of audio)" in text


def test_joined_encoders_are_each_measured(cli, tracks):
    cli.model = f"{cli.model}+rhythm" if "+" not in str(cli.model) else cli.model
    found = cli.json("bench", tracks[0])
    assert [rate["name"] for rate in found["encoders"] if rate["chosen"]][1:] == ["rhythm"]
    chosen = [rate["times_real_time"] for rate in found["encoders"] if rate["chosen"]]
    assert found["bottleneck"]["encoder"] == pytest.approx(1 / sum(1 / rate for rate in chosen), abs=0.1)


def test_without_files_and_library_it_makes_its_own(cli):
    cli.model = "rhythm"
    found = cli.json("bench")
    assert found["source"] == "synthesised"
    assert found["together"]["audio_s"] == pytest.approx(40, abs=1)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [("gone.mp3", None, "no such file"), ("text.mp3", b"no music" * 100, "not a sound file")],
)
def test_what_cannot_be_measured_is_one_line(cli, tmp_path, name, content, reason):
    cli.model = "rhythm"
    path = tmp_path / name
    if content:
        path.write_bytes(content)
    error = cli("bench", path, code=2).stderr
    assert reason in error
    assert error.count("\n") == 1
