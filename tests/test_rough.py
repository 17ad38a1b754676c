"""A library that takes long to hear is heard roughly first, and whole afterwards."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from indexer.config import Settings
from indexer.files.audio.decode import UnsafeToSeekError, decode, excerpts
from indexer.files.audio.identity import Stat
from indexer.heads import decide
from indexer.library.store import Store
from indexer.library.summary import status
from indexer.listen import embedder
from indexer.scan import pace
from indexer.scan.run import Scan
from tests.benchmarks.bench_seek import landed
from tests.helpers.contents import genre_of, rows
from tests.helpers.pages import Pages
from tests.helpers.synth import CONTAINERS, write_audio, write_samples

SECONDS = 26.0  # of each track: four segments of the encoder `rhythm`
ROUGH = {"INDEXER_ROUGH_AFTER_H": "0"}
WHOLE = {"INDEXER_ROUGH_AFTER_H": "1000"}


class Silent:
    """A listener that keeps what it hears."""

    def __init__(self):
        self.steps, self.done = [], []

    def begin(self, step, files, size_bytes):
        self.steps.append((step, files))

    def advance(self, path, outcome):
        self.done.append((Path(path).name, outcome))

    def step(self, step, done, total):
        pass

    def problem(self, path, reason):
        raise AssertionError((path, reason))


@pytest.fixture(scope="module")
def tracks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tracks")
    for seed, container in enumerate(("mp3", "flac", "vorbis", "m4a", "wavpack")):
        write_audio(folder / container, container, SECONDS, seed=seed, channels=1, sample_rate_hz=22_050)
    return folder


@pytest.fixture
def music(tmp_path, tracks, monkeypatch):
    """Five tracks, of which one unit is heard at first."""
    monkeypatch.setattr(embedder, "ROUGH_UNITS", 1)
    return Path(shutil.copytree(tracks, tmp_path / "music"))


def scan_roughly(cli, music, **settings):
    """The part of a scan before anything is heard whole, as the daemon orders it."""
    settings = Settings(
        db=cli.db, encoder="rhythm", head=str(cli.head), min_confidence=0.0, rough_after_h=0.0, jobs=2, **settings
    )
    listener = Silent()
    return Scan(settings, listener, watched=True).run([music]), listener, settings


def vectors(cli):
    return {
        path: (vector, units, rough)
        for path, vector, units, rough in (
            tuple(row.values())
            for row in rows(
                cli,
                "SELECT f.path_text, e.vector, e.units, e.rough FROM embeddings e JOIN files f USING (recording_id)",
            )
        )
    }


def test_pages_and_genres_are_there_before_anything_is_heard_whole(quick_cli, music):
    result, _, _ = scan_roughly(quick_cli, music)
    assert (result.counts.embedded, result.counts.rough, result.counts.refined, result.rough_left) == (5, 5, 0, 5)
    found = rows(quick_cli, "SELECT * FROM tracks")
    assert [(track["rough"], track["decided"]) for track in found] == [(1, 1)] * 5
    assert {units for _, units, _ in vectors(quick_cli).values()} == {1}
    assert len(rows(quick_cli, "SELECT * FROM places")) == 5
    status = quick_cli.json("status")
    assert (status["embedded"], status["rough"]) == (5, 5)
    assert "5 of them heard roughly so far" in quick_cli("status").stdout


def test_what_was_heard_roughly_is_heard_whole_by_the_next_scan(quick_cli, music, tmp_path):
    scan_roughly(quick_cli, music)
    summary = quick_cli.json("scan", music)
    assert (summary["embedded"], summary["refined"], summary["rough_left"]) == (0, 5, 0)
    heard_whole = vectors(quick_cli)
    assert all(rough == 0 for _, _, rough in heard_whole.values())
    assert [track["rough"] for track in rows(quick_cli, "SELECT rough FROM tracks")] == [0] * 5
    other = type(quick_cli)(tmp_path / "other", quick_cli.model, quick_cli.head)
    other.folder.mkdir()
    other("scan", music, env=WHOLE)
    assert vectors(other) == heard_whole
    assert quick_cli.json("scan", music)["refined"] == 0


def test_one_scan_does_both_and_says_so(quick_cli, music):
    summary = quick_cli.json("scan", music, env=ROUGH)
    assert (summary["embedded"], summary["rough"], summary["refined"], summary["rough_left"]) == (5, 5, 5, 0)
    assert len(rows(quick_cli, "SELECT * FROM places")) == 5


def test_a_genre_by_a_rough_vector_is_written_only_where_the_head_is_sure(quick_cli, music):
    quick_cli("scan", music, "--no-tags", env=WHOLE)
    confidences = [row["confidence"] for row in rows(quick_cli, "SELECT confidence FROM predictions")]
    quick_cli.db.unlink()
    threshold = 2 * sorted(confidences)[2] - 1.001  # about half of them are sure
    settings = Settings(
        db=quick_cli.db, encoder="rhythm", head=str(quick_cli.head), min_confidence=max(0.0, threshold),
        rough_after_h=0.0, jobs=2,
    )  # fmt: skip
    result = Scan(settings, Silent(), watched=True).run([music])
    found = rows(quick_cli, "SELECT path, confidence, decided FROM tracks")
    sure = {row["path"]: row["confidence"] >= decide.sure_from(max(0.0, threshold)) for row in found}
    assert all(row["decided"] for row in found)
    assert {path: genre_of(Path(path)) is not None for path in sure} == sure
    assert result.counts.tags_written == sum(sure.values())
    # What is decided and not sure is no backlog: the next scan of this kind has nothing to do.
    again = Scan(settings, listener := Silent(), watched=True).run([music])
    assert (again.counts.any(), listener.steps) == (False, [("scanning", 0)])
    Scan(settings, Silent()).run([music])
    assert all(genre_of(Path(path)) for path in sure)


def test_the_journal_gets_no_second_entry_where_the_genre_stays(quick_cli, music):
    _, _, settings = scan_roughly(quick_cli, music, write_tags="replace")
    rough = {row["path"]: row["genre"] for row in rows(quick_cli, "SELECT path, genre FROM tracks")}
    sure = rows(quick_cli, "SELECT count(*) AS n FROM tag_writes WHERE state = 'done'")[0]["n"]
    Scan(settings, Silent()).run([music])
    whole = {row["path"]: row["genre"] for row in rows(quick_cli, "SELECT path, genre FROM tracks")}
    entries = rows(
        quick_cli, "SELECT path_text AS path, count(*) AS n FROM tag_writes WHERE state = 'done' GROUP BY path"
    )
    changed = {path for path, genre in whole.items() if genre != rough[path]}
    assert {row["path"] for row in entries if row["n"] > 1} <= changed
    assert {path: genre_of(Path(path)).casefold() for path in whole} == whole
    assert sum(row["n"] for row in entries) <= sure + len(changed) + (5 - sure)


def test_the_newest_files_are_heard_whole_first_whatever_was_written_into_them(quick_cli, music):
    names = ["flac.flac", "wavpack.wv", "mp3.mp3", "vorbis.ogg", "m4a.m4a"]
    for age, name in enumerate(names):
        stat = (music / name).stat()
        os.utime(music / name, ns=(stat.st_atime_ns, 10**18 - age * 10**9))
    _, _, settings = scan_roughly(quick_cli, music)
    listener = Silent()
    Scan(Settings(**{**settings.__dict__, "jobs": 1}), listener).run([music])
    assert listener.steps == [("scanning", 0), ("hearing whole", 5)]
    assert [name for name, _ in listener.done] == names


def test_the_daemon_hears_whole_for_a_while_and_goes_on_later(quick_cli, music):
    _, _, settings = scan_roughly(quick_cli, music)
    scan = Scan(settings, Silent(), watched=True)
    first = scan.refine(0.0)
    assert (first.counts.refined, first.rough_left) == (0, 5)
    second = Scan(settings, Silent(), watched=True).refine(1000.0)
    assert (second.counts.refined, second.rough_left) == (5, 0)


def test_stopped_at_any_file_the_rest_is_heard_whole_later(quick_cli, music):
    _, _, settings = scan_roughly(quick_cli, music)
    scan = Scan(settings, listener := Silent())
    advance = listener.advance
    listener.advance = lambda path, outcome: (advance(path, outcome), scan.stop())
    result = scan.run([music])
    assert result.interrupted
    assert 0 < result.counts.refined < 5
    assert result.rough_left == 5 - result.counts.refined
    assert Scan(settings, Silent()).run([music]).counts.refined == result.rough_left


def test_what_was_heard_whole_is_never_replaced_by_less(quick_cli, music):
    quick_cli("scan", music, env=WHOLE)
    before = vectors(quick_cli)
    summary = quick_cli.json("scan", "--force", music, env=ROUGH)
    assert (summary["embedded"], summary["rough"]) == (5, 0)
    assert vectors(quick_cli) == before


def test_only_a_run_of_many_hours_is_rough():
    at = [0.0]
    left = [1000]
    one = pace.Pace(3600.0, lambda: left[0], lambda: at[0])
    for _ in range(pace.FIRST + 1):
        assert not one.is_rough()
        one.heard()
        at[0] += 3.0
        one.finished()
    assert not one.is_rough()  # 1,000 files of 3 s are 50 minutes
    left[0] = 1500
    assert one.is_rough()
    left[0] = 1
    assert one.is_rough()  # it stays so


@pytest.mark.parametrize("container", CONTAINERS)
def test_an_excerpt_is_what_decoding_everything_finds_there(tmp_path, container):
    rate_hz = 48_000 if container == "opus" else 22_050
    notes_hz = np.random.default_rng(1).uniform(200, 3000, 240)  # a melody that never repeats, 20 notes a second
    phase = np.cumsum(np.repeat(notes_hz, rate_hz // 20)) * 2 * np.pi / rate_hz
    melody = (0.5 * np.sin(phase))[:, None].astype(np.float32)
    path = write_samples(tmp_path / container, container, melody, rate_hz)
    rate_hz = 16_000
    whole = np.concatenate(list(decode(path, sample_rate_hz=rate_hz)))
    try:
        pieces = list(excerpts(path, count=3, seconds=1.0, sample_rate_hz=rate_hz))
    except UnsafeToSeekError:
        assert container in ("wavpack", "wma", "oggflac", "aac")
        return
    assert [start_s for start_s, _ in pieces] == pytest.approx([0.0, 5.5, 11.0], abs=0.1)
    for start_s, piece in pieces:
        shift_ms, differs = landed(whole, piece, round(start_s * rate_hz))
        assert abs(shift_ms) < 50
        assert differs < 0.15  # the start may lie within a sample; another place differs by 1 and more


@pytest.mark.parametrize("damage", ["cut", "short", "holes"])
def test_a_file_that_is_not_whole_is_not_sought_in(tmp_path, damage):
    path = write_audio(tmp_path / "track", "mp3", 3.0 if damage == "short" else 20.0)
    data = bytearray(path.read_bytes())
    if damage == "cut":
        del data[len(data) // 2 :]
    elif damage == "holes":
        for at in range(len(data) // 4, len(data), 3000):
            data[at : at + 2000] = bytes(2000)
    path.write_bytes(data)
    with pytest.raises(UnsafeToSeekError):
        list(excerpts(path, count=4, seconds=1.0))


def test_the_pages_mark_what_is_heard_roughly(quick_cli, music):
    scan_roughly(quick_cli, music)
    pages = Pages(quick_cli.db)
    assert ">rough</span>" in pages.get("/-/tracks").text
    assert "heard roughly so far" in pages.get("/library/tracks/1").text
    assert "5 heard roughly so far" in pages.get("/").text
    assert pages.get("/-/overview.json").json()["rough"] == 5


def test_what_another_encoder_heard_roughly_is_not_counted(tmp_path):
    db = tmp_path / "library.db"
    with Store(db) as store:
        recording = store.recording("0" * 64, codec="mp3", sample_rate_hz=1, channels=1, duration_s=1.0)
        store.put_file(b"/m/a.mp3", Stat(1, 1, 1, 1), root_id=None, state="ready", recording_id=recording)
        for encoder, is_rough in (("former", True), ("new", False)):
            store.put_encoder(encoder, name=encoder, width=1, unit_s=1.0)
            store.put_embedding(recording, encoder, b"\0\0", 1, rough=is_rough)
        store.use_encoder("new")
    assert status(Settings(db=db))["rough"] == Pages(db).json("/-/overview.json")["rough"] == 0
    with Store(db) as store:
        store.use_encoder("former")
    assert status(Settings(db=db))["rough"] == Pages(db).json("/-/overview.json")["rough"] == 1
