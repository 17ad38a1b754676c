"""What is measured beside the genre: each meter on sounds of known properties, and that none of them costs a file."""

import contextlib
import dataclasses
import json
import os
import sqlite3

import mutagen
import numpy as np
import pyarrow.parquet
import pytest

from indexer.analysis import analyser
from indexer.analysis.analyser import METERS, VERSION, Analyser, Analysis
from indexer.analysis.bandwidth import Bandwidth, BandwidthMeter
from indexer.analysis.plain import from_plain
from indexer.analysis.tempo import Tempo
from indexer.analysis.tempo_choice import choose_tempo
from indexer.config import load_settings
from indexer.errors import ReaderDiedError
from indexer.files.children.limits import Limits
from indexer.files.children.worker import Worker
from indexer.scan.run import Scan
from tests.helpers.contents import rows
from tests.helpers.pages import Pages
from tests.helpers.synth import write_audio, write_samples

RATE_HZ = 44_100


def noise(seconds: float, gain=lambda _hz: 1.0, rate_hz: int = RATE_HZ) -> np.ndarray:
    """Noise of 16 bits whose spectrum has the form of ``gain``, (n,) float32."""
    frames = round(seconds * rate_hz)
    spectrum = np.fft.rfft(np.random.default_rng(1).standard_normal(frames))
    sound = np.fft.irfft(spectrum * gain(np.fft.rfftfreq(frames, 1 / rate_hz)), frames)
    return (np.round(sound / np.abs(sound).max() * 20_000) / 32_768).astype(np.float32)


def bandwidth(sound: np.ndarray, rate_hz: int = RATE_HZ) -> Bandwidth | None:
    meter = BandwidthMeter(rate_hz)
    for start in range(0, len(sound), rate_hz):
        meter.push(sound[start : start + rate_hz])
    return meter.finish()


# Where the spectrum ends


@pytest.mark.parametrize("cutoff_hz", [16_000, 19_000, 20_300])
@pytest.mark.parametrize("rate_hz", [44_100, 48_000, 96_000])
def test_an_encoders_edge_is_found(cutoff_hz, rate_hz):
    found = bandwidth(noise(6, lambda hz: np.clip((cutoff_hz + 150 - hz) / 300, 1e-5, 1), rate_hz), rate_hz)
    assert found.bandwidth_hz == pytest.approx(cutoff_hz, abs=400)
    assert found.is_lossy_edge


@pytest.mark.parametrize("order", [2, 4, 10])
def test_a_filter_that_fades_out_is_no_encoders_edge(order):
    found = bandwidth(noise(6, lambda hz: (1 + (hz / 8_000) ** (2 * order)) ** -0.5))
    assert not found.is_lossy_edge
    assert (found.bandwidth_hz < 20_000) == (order == 10)


def test_noise_up_to_the_end_has_no_edge():
    found = bandwidth(noise(6))
    assert found.bandwidth_hz == pytest.approx(RATE_HZ / 2, abs=100)
    assert found.edge_db < 5


def test_a_converters_edge_near_the_end_of_the_band_is_no_encoders():
    assert not bandwidth(noise(6, lambda hz: np.clip((21_700 - hz) / 900, 1e-5, 1))).is_lossy_edge


@pytest.mark.parametrize("sound", [np.zeros(10 * RATE_HZ), noise(6) * 1e-4, noise(2), np.zeros(0)])
def test_silence_and_a_short_sound_have_no_bandwidth(sound):
    assert bandwidth(sound.astype(np.float32)) is None


# Every meter


@pytest.mark.parametrize("name", METERS)
@pytest.mark.parametrize("rate_hz", [8_000, 11_025, 44_100, 192_000])
def test_a_meter_takes_any_sound(name, rate_hz):
    """Silence, full scale, a constant, numbers far beyond full scale, one sample at a time, nothing at all."""
    t = np.arange(rate_hz, dtype=np.float32)
    sounds = [
        np.zeros(rate_hz), np.sign(np.sin(t)), np.full(rate_hz, 0.5), 1e6 * np.sin(t), 1e-30 * np.sin(t), np.ones(1),
    ]  # fmt: skip
    form = (2, -1) if getattr(METERS[name], "HEARS_CHANNELS", False) else (-1,)
    for sound in [[], *([part] for part in sounds), sounds]:
        meter = METERS[name](rate_hz)
        for part in sound:
            meter.push(np.broadcast_to(part.astype(np.float32), (2, len(part)))[: form[0]].reshape(form))
        result = meter.finish()
        assert result is None or from_plain(type(result), dataclasses.asdict(result)) == result


def heard(*parts, seconds=6.0):
    found = Analyser()
    for rate_hz, channels in parts:
        sound = noise(seconds, rate_hz=rate_hz)
        for start in range(0, len(sound), rate_hz):
            block = sound[start : start + rate_hz]
            found.hear(block, np.stack([block] * channels), rate_hz)
    return found.finish()


def test_what_was_measured_crosses_a_network_unchanged():
    found = heard((RATE_HZ, 2))
    assert (found.version, found.heard_s, found.failed) == (VERSION, 6.0, ())
    assert found.bandwidth.bandwidth_hz == pytest.approx(RATE_HZ / 2, abs=100)
    assert Analysis.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_of_a_file_that_changes_its_rate_the_longest_part_counts():
    found = heard((22_050, 2), (RATE_HZ, 2), (RATE_HZ, 2), (RATE_HZ, 1))
    assert found.heard_s == 12.0
    assert found.bandwidth.bandwidth_hz > 20_000


class Broken:
    """A meter that fails where it is told to."""

    where = ""

    def __init__(self, _rate_hz):
        if self.where == "made":
            raise ValueError("made")

    def push(self, _samples):
        if self.where == "push":
            raise MemoryError("push")

    def finish(self):
        if self.where == "finish":
            raise ZeroDivisionError("finish")
        return Bandwidth(float("nan"), 0, 0.0) if self.where == "result" else None


@pytest.mark.parametrize("where", ["made", "push", "finish", "result"])
def test_what_a_meter_raises_costs_its_own_measurement(where, monkeypatch):
    monkeypatch.setattr(Broken, "where", where)
    monkeypatch.setattr(analyser, "METERS", {"tempo": Broken, "bandwidth": BandwidthMeter})
    found = heard((RATE_HZ, 2))
    assert found.bandwidth is not None
    assert len(found.failed) == 1
    assert found.failed[0].startswith("tempo: ")


def test_where_the_computing_is_spent_what_was_heard_counts(monkeypatch):
    monkeypatch.setattr(analyser, "MOST_CPU_S", 0.0)
    assert 0 < heard((RATE_HZ, 2)).heard_s < 6


@pytest.mark.parametrize(
    "change",
    [
        {"version": "1"}, {"version": True}, {"heard_s": float("inf")}, {"heard_s": None}, {"failed": "no list"},
        {"failed": ["x" * 1000]}, {"failed": ["x"] * 20_000}, {"bandwidth": []}, {"bandwidth": {"bandwidth_hz": 1}},
        {"other": 1}, {"bandwidth": {"bandwidth_hz": 1.5, "edge_hz": 1, "edge_db": 1.0}}, {"version": 2**60},
    ],
)  # fmt: skip
def test_an_analysis_of_another_form_is_refused(change):
    with pytest.raises(ValueError):  # noqa: PT011 - of many reasons
        Analysis.from_json({**heard().to_json(), **change})
    with pytest.raises(ValueError):  # noqa: PT011
        Analysis.from_json([])


# In the reader process


@pytest.fixture
def worker():
    worker = Worker(Limits(3600.0, 900.0))
    yield worker
    worker.close()


def test_the_pass_that_decodes_for_the_encoder_measures_the_sound_at_its_own_rate(tmp_path, worker):
    path = os.fsencode(write_samples(tmp_path / "a", "flac", np.stack([noise(6)] * 2, 1), RATE_HZ))
    found: list[Analysis] = []
    blocks = list(worker.decode(path, sample_rate_hz=16_000, analysed=found.append))
    assert sum(map(len, blocks)) == 96_000
    assert found == [heard((RATE_HZ, 2))]
    assert Analysis.from_json(worker.call("analyse", path)["analysis"]) == found[0]


def test_of_a_file_that_lost_its_end_what_was_heard_counts(tmp_path, worker):
    path = write_audio(tmp_path / "a", "flac", 8.0)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 3 // 4])
    found = Analysis.from_json(worker.call("analyse", os.fsencode(path))["analysis"])
    assert 5 < found.heard_s < 8


# In the library


def change(cli, sql):
    with contextlib.closing(sqlite3.connect(cli.db)) as conn, conn:
        conn.execute(sql)


def analysis_of(cli):
    return rows(cli, "SELECT * FROM analysis ORDER BY recording_id")


def test_a_scan_measures_each_recording_with_its_embedding(quick_cli, music_folder):
    summary = quick_cli.json("scan", music_folder)
    assert (summary["analysed"], summary["unanalysed"]) == (6, 0)
    assert [row["version"] for row in analysis_of(quick_cli)] == [VERSION] * 6


def test_known_recordings_are_measured_later_without_losing_embeddings(quick_cli, scanned_music):
    embeddings = rows(quick_cli, "SELECT * FROM embeddings")
    before = analysis_of(quick_cli)
    change(quick_cli, "DELETE FROM analysis WHERE recording_id > 2")
    change(quick_cli, "UPDATE analysis SET version = 0 WHERE recording_id = 2")
    summary = quick_cli.json("scan", scanned_music)
    assert (summary["analysed"], summary["unanalysed"], summary["embedded"]) == (5, 0, 0)
    assert analysis_of(quick_cli) == before
    assert rows(quick_cli, "SELECT * FROM embeddings") == embeddings
    assert quick_cli.json("scan", scanned_music)["analysed"] == 0
    assert quick_cli.json("scan", scanned_music, "--force")["analysed"] == 6


class Quiet:
    """A listener that hears nothing."""

    def begin(self, *_):
        pass

    advance = problem = begin


def test_measuring_ends_in_time_and_for_what_is_new(quick_cli, scanned_music, monkeypatch):
    for name, value in quick_cli.environ.items():
        monkeypatch.setenv(name, value)
    change(quick_cli, "DELETE FROM analysis")
    scan = Scan(load_settings(), Quiet(), watched=True)
    scan.add([os.fsencode(scanned_music / "new.flac")])
    result = scan.analyse(3600.0)
    assert (result.counts.analysed, result.unanalysed) == (0, 6)
    assert scan.left_over() == [os.fsencode(scanned_music / "new.flac")]
    result = Scan(load_settings(), Quiet(), watched=True).analyse(0.0)
    assert (result.counts.analysed, result.unanalysed) == (0, 6)
    result = Scan(load_settings(), Quiet(), watched=True).analyse(3600.0)
    assert (result.counts.analysed, result.unanalysed) == (6, 0)
    assert rows(quick_cli, "SELECT * FROM runs WHERE command = 'analyse'") == []


def test_a_tag_that_differs_by_more_than_an_octave_is_asked_about(quick_cli, scanned_music):
    change(
        quick_cli,
        "UPDATE analysis SET tempo_bpm = 120, tempo_confidence = 0.8,"
        " key = '10A', key_name = 'Bm', key_confidence = 0.5",
    )
    change(quick_cli, "UPDATE predictions SET tempo_bpm = NULL")
    for file_id, tag in enumerate((None, 120.5, 240, 60.2, 0, 128), 1):
        change(quick_cli, f"UPDATE tags SET bpm = {'NULL' if tag is None else tag} WHERE file_id = {file_id}")
    change(quick_cli, "UPDATE analysis SET key = '8A' WHERE recording_id = 3")
    pages = Pages(quick_cli.db)
    assert [row["id"] for row in pages.json("/library/tempo_disagrees.json?_shape=array")] == [6]
    assert "another tempo" in pages.get("/library/tracks/6").text
    assert "another tempo" not in pages.get("/library/tracks/3").text
    listed = pages.json("/-/tracks.json?sort=key")["tracks"]
    assert [track["key"] for track in listed] == ["8A"] + 5 * ["10A"]
    assert {track["bpm"] for track in listed} == {120}
    assert pages.json("/-/tracks.json?from_bpm=119&to_bpm=121&key=8A")["count"] == 1


def test_only_what_is_scanned_is_measured(quick_cli, scanned_music):
    change(quick_cli, "DELETE FROM analysis")
    assert quick_cli.json("scan", scanned_music / "album")["analysed"] == 1


@pytest.fixture
def fake(tmp_path):
    """A folder with a file that is honestly lossless, one that ends as an MP3 does, and an MP3 that does."""
    folder = tmp_path / "fake"
    folder.mkdir()
    edge = noise(6, lambda hz: np.clip((16_150 - hz) / 300, 1e-5, 1))
    for name, container, sound in (("true", "flac", noise(6)), ("fake", "flac", edge), ("lossy", "mp3", edge)):
        write_samples(folder / name, container, np.stack([sound] * 2, 1), RATE_HZ)
    return folder


def test_a_lossless_file_that_was_lossy_once_is_told(quick_cli, fake, tmp_path):
    tagged = mutagen.File(fake / "true.flac")
    tagged.update({"bpm": "128,5", "initialkey": "8A"})
    tagged.save()
    quick_cli("scan", fake)
    found = {row["path"][len(str(fake)) + 1 :]: row for row in rows(quick_cli, "SELECT * FROM tracks")}
    assert {name: row["lossy_suspect"] for name, row in found.items()} == {
        "true.flac": 0,
        "fake.flac": 1,
        "lossy.mp3": None,
    }
    assert found["fake.flac"]["bandwidth_hz"] == pytest.approx(16_000, abs=400)
    pages = Pages(quick_cli.db)
    listed = pages.json("/-/tracks.json?lossy_suspect=1")
    assert (listed["lossy_suspects"], [track["title"] for track in listed["tracks"]]) == (1, ["fake.flac"])
    assert "lossy once?" in pages.get("/-/tracks").text
    assert "may have been one" in pages.get(f"/library/tracks/{found['fake.flac']['id']}").text
    assert "may have been one" not in pages.get(f"/library/tracks/{found['true.flac']['id']}").text
    assert (found["true.flac"]["tag_bpm"], found["true.flac"]["tag_key"]) == (128.5, "8A")
    classified = quick_cli.json("classify", fake)
    for result in classified:
        row = found[os.path.basename(result["path"])]
        for name in (*heard().facts(), "lossy_suspect", "tag_bpm", "tag_key"):
            assert result[name] == row[name]
    assert "it may have been one" in quick_cli("classify", fake / "fake.flac").stdout
    quick_cli("export", "--parquet", tmp_path / "out")
    exported = pyarrow.parquet.read_table(tmp_path / "out" / "recordings").to_pylist()
    assert sorted(str(row["lossy_suspect"]) for row in exported) == ["0", "1", "None"]
    assert all(Analysis.from_json(json.loads(row["measured"])).version == VERSION for row in exported)


def test_a_recording_that_cannot_be_measured_is_tried_once(quick_cli, scanned_music, monkeypatch):
    change(quick_cli, "DELETE FROM analysis")
    real = Worker.call

    def call(self, op, path, **arguments):
        if op == "analyse" and path.endswith(b".mp3"):
            raise ReaderDiedError(path, "it crashed the reader")
        return real(self, op, path, **arguments)

    monkeypatch.setattr(Worker, "call", call)
    result = quick_cli("scan", scanned_music)
    assert "not measured: it crashed the reader" in result.stderr
    assert quick_cli.json("scan", scanned_music)["analysed"] == 0
    assert len(analysis_of(quick_cli)) == 6


TEMPO = {"candidates": [[87.0, 1.0], [174.0, 0.9], [130.5, 0.5]], "confidence": 0.9, "range_bpm": None}


def test_the_tempo_that_suits_the_genre_is_shown_and_relabel_chooses_again(quick_cli, scanned_music):
    measured = json.dumps({"version": VERSION, "heard_s": 9.0, "tempo": TEMPO})
    change(quick_cli, f"UPDATE analysis SET tempo_bpm = 87, tempo_confidence = 0.5, measured = '{measured}'")
    scores = {
        row["id"]: {genre: row[genre] for genre in ("ambient", "drum and bass", "house", "techno", "trance")}
        for row in rows(quick_cli, "SELECT * FROM tracks")
    }
    # The head's numbers are random: what it hears decides, whatever that is.
    for ranges, code in (("", 0), ('{"drum and bass" = [80, 90], house = [170, 180]}', 0)):
        quick_cli("relabel", env={"INDEXER_TEMPO_RANGES": ranges} if ranges else {}, code=code)
        own = {"drum and bass": (80.0, 90.0), "house": (170.0, 180.0)} if ranges else {}
        for row in rows(quick_cli, "SELECT id, tempo_bpm, tempo_confidence FROM tracks"):
            chosen = choose_tempo(from_plain(Tempo, TEMPO), scores[row["id"]], own)
            assert (row["tempo_bpm"], row["tempo_confidence"]) == (
                chosen.bpm,
                pytest.approx(chosen.confidence, abs=0.02),
            )
    change(quick_cli, "UPDATE analysis SET measured = json_set(measured, '$.tempo', NULL), tempo_bpm = NULL")
    quick_cli("relabel")
    assert {row["tempo_bpm"] for row in rows(quick_cli, "SELECT tempo_bpm FROM tracks")} == {None}
