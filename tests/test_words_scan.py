"""A scan caches audio vectors beside the track vectors, from one pass; what lacks them is made up for."""

import sqlite3
from contextlib import closing

import numpy as np
import pytest

from indexer.library.readonly import open_readonly
from indexer.models import catalogue
from tests.helpers import checkpoints
from tests.helpers.cli import Cli
from tests.helpers.synth import write_audio


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A CLAP checkpoint of one block, and two recordings."""
    folder = tmp_path_factory.mktemp("words")
    weights = checkpoints.weights(depth=1) | checkpoints.clap("mlp", words=32) | checkpoints.text_side(words=32)
    state = checkpoints.published_state(weights)
    (folder / "music").mkdir()
    for n in range(2):
        write_audio(folder / "music" / f"{n}", "flac", 8.0, seed=n)
    return checkpoints.write_folder(folder, state, name=checkpoints.NAME_CLAP), folder / "music"


@pytest.fixture
def library(tmp_path, template):
    model, music = template
    cli = Cli(tmp_path / "state", model)
    cli.folder.mkdir()
    assert cli.json("scan", music, "--no-tags", "--precision", "fp32")["embedded"] == 2
    return cli


def rows(db):
    """Of each registered encoder: whether it is of words, its width, and its vectors by recording."""
    with closing(open_readonly(db)) as conn:
        return [
            (
                row["words_of"] is not None,
                row["width"],
                {
                    e["recording_id"]: np.frombuffer(e["vector"], "<f2")
                    for e in conn.execute("SELECT * FROM embeddings WHERE encoder_id = ?", (row["id"],))
                },
            )
            for row in conn.execute("SELECT * FROM encoders ORDER BY words_of IS NOT NULL")
        ]


def test_a_scan_caches_both_vectors_and_similar_uses_the_encoders_own(library, template):
    (of_words, width, vectors), (also, words_width, words) = rows(library.db)
    assert (of_words, width, also, words_width) == (False, 320, True, 32)
    assert vectors.keys() == words.keys() == {1, 2}
    assert all(0.5 < np.linalg.norm(vector) <= 1.001 for vector in words.values())
    assert library.json("similar", template[1] / "0.flac")["encoder"].startswith(checkpoints.NAME_CLAP)
    assert library.json("status")["embedded"] == 2
    assert library.json("scan", template[1])["cached"] == 0  # nothing is lacking


def test_a_recording_without_its_audio_vector_is_embedded_again(library, template):
    before = rows(library.db)[1][2]
    with closing(sqlite3.connect(library.db)) as conn, conn:
        conn.execute("DELETE FROM embeddings WHERE recording_id = 1 AND length(vector) = 64")
    assert library.json("scan", template[1], "--no-tags", "--precision", "fp32")["embedded"] == 1
    assert np.array_equal(rows(library.db)[1][2][1], before[1])


def test_a_variant_has_audio_vectors_of_its_own(library, template):
    assert library.json("scan", template[1], "--no-tags", "--units", "1")["embedded"] == 2
    found = rows(library.db)
    assert [len(vectors) for _, _, vectors in found] == [2, 2, 2, 2]
    assert np.linalg.norm(found[3][2][1]) == pytest.approx(1, abs=1e-3)  # of one unit


def test_pruning_keeps_the_audio_vectors_of_the_model_in_use(library, template):
    library("scan", template[1], "--no-tags", "--units", "1")
    assert library.json("prune", "--embeddings", "--yes")["embeddings"] == 4
    assert sorted(len(vectors) for _, _, vectors in rows(library.db)) == [0, 0, 2, 2]


def test_models_info_names_the_projection(library, template):
    assert library.json("models", "info", template[0])["words"] == {
        "form": "mlp", "width": 32, "hidden": 48, "depth": 0,
    }  # fmt: skip


def test_of_two_models_that_differ_in_their_words_alone_the_one_that_was_chosen_is_used(tmp_path, template):
    cli = Cli(tmp_path / "state", None)
    cli.folder.mkdir()
    state = checkpoints.published_state(checkpoints.weights(depth=1))
    catalogue.add(checkpoints.write_folder(tmp_path, state), cli.folder / "models", name="without")
    catalogue.add(template[0], cli.folder / "models", name="with")
    for name, lacking in (("with", "nothing is embedded by with"), ("without", "without, the model in use, knows no")):
        cli("models", "use", name)
        assert lacking in cli("find", "techno", code=2).stderr
