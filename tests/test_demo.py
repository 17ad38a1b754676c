import csv
import itertools

import numpy as np
import pytest

from indexer.encoders import synthesis
from indexer.upkeep import demo
from tests.helpers.contents import rows


@pytest.mark.parametrize("genre", synthesis.GENRES)
def test_a_track_is_sound_of_the_asked_length_and_the_same_for_the_same_seed(genre):
    track = synthesis.make_track(genre, 7, 6.0)
    assert track.shape == (6 * synthesis.SAMPLE_RATE_HZ, 2)
    assert track.dtype == np.float32
    assert 0.5 <= np.abs(track).max() <= 0.96
    assert np.sqrt(np.mean(track**2)) > 0.01
    assert np.array_equal(track, synthesis.make_track(genre, 7, 6.0))
    assert not np.array_equal(track, synthesis.make_track(genre, 8, 6.0))


def test_no_single_number_tells_the_genres_apart():
    """Tempo ranges of neighbours overlap; levels are drawn alike for all."""
    ranges = sorted(synthesis.TEMPO_BPM[g] for g in ("ambient", "house", "techno", "trance"))
    assert all(low < previous_high for (_, previous_high), (low, _) in itertools.pairwise(ranges))
    loudness = {g: [np.sqrt(np.mean(synthesis.make_track(g, s, 4.0) ** 2)) for s in range(6)] for g in synthesis.GENRES}
    assert max(min(v) for v in loudness.values()) < min(max(v) for v in loudness.values())


def test_artists_are_wholly_labelled_or_not_at_all_and_every_format_occurs(tmp_path):
    tracks = demo.plan_tracks(tmp_path)
    assert len(tracks) == 60
    assert sum(t.labelled for t in tracks) == 30
    by_artist = {}
    for track in tracks:
        by_artist.setdefault(track.artist, set()).add(track.labelled)
    assert all(len(kinds) == 1 for kinds in by_artist.values())
    assert {t.path.suffix for t in tracks} == set(demo.FORMATS)
    assert len({t.path for t in tracks}) == 60


@pytest.mark.slow_first
def test_the_demo_runs_the_whole_program(bare_cli, tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "GENRES", ("ambient", "drum and bass"))  # two are enough to see it work
    monkeypatch.setattr(demo, "DURATION_S", (6.5, 7.0))
    folder = tmp_path / "demo"
    found = bare_cli.json("demo", folder)
    assert (found["tracks"], found["embedded"], found["failed"]) == (24, 24, 0)
    assert found["encoder"] in {"rhythm", "musicnn", "rhythm+musicnn"}
    assert found["accuracy"] >= 0.75  # of 12 synthetic tracks; chance is one half
    bare_cli.folder = folder
    with (folder / "truth.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 24
    assert all(t["tag_genre"] for t in rows(bare_cli, "SELECT tag_genre FROM tracks WHERE decided"))
    assert "is not empty" in bare_cli("demo", folder, code=2).stderr
