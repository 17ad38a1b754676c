"""`indexer bench --labels`: what changes between precisions and numbers of units, and when int8 is recommended."""

import numpy as np
import pytest
import soundfile

from indexer.encoders.m2d import openvino
from indexer.upkeep import bench_labels
from tests.helpers.synth import music


@pytest.fixture(scope="session")
def tracks(tmp_path_factory):
    """Five tracks of 61 s, the least that a library's sample takes."""
    folder = tmp_path_factory.mktemp("tracks")
    for seed in range(5):
        part = music(12.2, sample_rate_hz=16_000, channels=1, seed=seed)
        loudness = np.repeat(np.linspace(0.2, 1, 5), len(part))[:, None]  # the units are not all the same
        soundfile.write(folder / f"{seed}.flac", np.tile(part, (5, 1)) * loudness, 16_000)
    return sorted(folder.iterdir())


def variant(found, precision, units=None):
    (one,) = [v for v in found["variants"] if (v["precision"], v["units"]) == (precision, units)]
    return one


def test_every_precision_of_the_machine_is_compared_with_fp32(cli, tracks):
    found = cli.json("bench", "--labels", *tracks)
    precisions = [precision for precision in ("fp32", "bf16", "int8") if openvino.serves(precision)] or ["fp32"]
    assert [(v["precision"], v["units"]) for v in found["variants"]] == [
        (precision, units) for precision in precisions for units in (None, 20, 10, 5)
    ]
    exact = variant(found, "fp32")
    assert (exact["labels_changed"], exact["decided_changed"], exact["neighbours_changed"]) == (0, 0, 0)
    assert exact["worst_cosine"] == pytest.approx(1, abs=1e-4)
    assert exact["times_real_time"] > 0
    assert variant(found, "fp32", 5)["worst_cosine"] < exact["worst_cosine"]
    assert (found["files"], found["neighbours"], found["int8_recommended"]) == (5, 1, None)
    assert found["head"].startswith("audioset")
    assert not cli.db.exists()


def test_a_library_is_sampled_and_a_file_that_went_bad_is_left_out(cli, tracks, tmp_path):
    cli.model = "rhythm"
    folder = tmp_path / "music"
    folder.mkdir()
    copies = [folder / path.name for path in tracks]
    for path, copy in zip(tracks, copies, strict=True):
        copy.write_bytes(path.read_bytes())
    cli("scan", folder, "--no-tags")
    copies[0].write_bytes(b"no sound")
    before = cli.db.read_bytes()
    found = cli("bench", "--labels")
    assert "4 tracks, rhythm, no head in use: only what is alike is compared" in found.stdout
    assert "against fp64 on all units" in found.stdout
    assert str(copies[0]) in found.stderr
    assert "int8" not in found.stdout
    assert cli.db.read_bytes() == before


def test_joined_encoders_change_together(cli, tracks):
    cli.model = f"{cli.model}+rhythm"
    found = cli.json("bench", "--labels", *tracks)
    assert variant(found, "fp32")["neighbours_changed"] == 0
    assert found["encoder"].endswith("+rhythm")


@pytest.mark.parametrize(("count", "said"), [(0, "4 files are the least to compare, here are 0"), (3, "here are 3")])
def test_too_few_files_are_one_line(cli, tracks, count, said):
    cli.model = "rhythm"
    error = cli("bench", "--labels", *tracks[:count], code=2).stderr
    assert said in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("labels", "decided", "neighbours", "tracks", "expected"),
    [
        (0.0, 0.02, 0.1, 30, True),
        (None, None, 0.0, 60, None),
        (0.03, 0.0, 0.0, 60, False),
        (0.0, 0.03, 0.0, 60, False),
        (0.0, 0.0, 0.11, 60, False),
        (0.0, 0.0, 0.0, 29, None),
    ],
)
def test_int8_is_recommended_only_where_little_changes_on_enough_tracks(labels, decided, neighbours, tracks, expected):
    row = {"precision": "int8", "units": None, "labels_changed": labels, "decided_changed": decided}
    assert bench_labels._is_recommended([row | {"neighbours_changed": neighbours}], tracks) is expected


def test_without_int8_nothing_is_said_of_it():
    assert bench_labels._is_recommended([{"precision": "fp32", "units": None}], 60) is None


def test_neighbours_are_the_nearest_others():
    places = np.asarray([[1, 0], [0.9, 0.1], [0, 1], [0.1, 0.9], [-1, 0]], np.float32)
    assert bench_labels._nearest(places)[:, 0].tolist() == [1, 0, 3, 2, 2]
    assert [bench_labels._count_of_neighbours(n) for n in (2, 4, 30, 31, 1000)] == [1, 1, 9, 10, 10]
