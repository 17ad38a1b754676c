"""The tags that MusiCNN's networks heard: stored with the embedding, told everywhere, written into no file."""

import json
import shutil

import numpy as np
import pyarrow.parquet
import pytest

from indexer.encoders.musicnn import tags
from indexer.encoders.musicnn.encoder import MusicnnEncoder, encoder_id
from indexer.heads.electronic import ears
from indexer.heads.linear import LinearHead
from indexer.library.store import Store
from indexer.scan.heard import hear_cached
from tests.helpers.cli import LABELS
from tests.helpers.contents import contents, rows
from tests.helpers.pages import Pages
from tests.helpers.synth import write_audio


def saved(path, **how):
    """A head that is never sure, for musicnn's vectors."""
    zeros = np.zeros((5, 400), np.float32)
    LinearHead("even", encoder_id(), LABELS, 0.5, zeros, np.zeros(5, np.float32), **how).save(path)
    return path


@pytest.fixture(scope="module")
def musicnn_head(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("head") / "head.safetensors")


@pytest.fixture(scope="module")
def music(tmp_path_factory):
    folder = tmp_path_factory.mktemp("music")
    write_audio(folder / "beat", "flac", 4.0)
    return folder


@pytest.fixture
def heard(cli, music, musicnn_head):
    """The command line on a library whose only recording was heard by musicnn."""
    cli.model, cli.head = None, musicnn_head
    assert cli.json("scan", music, "--no-tags")["embedded"] == 1
    return cli


def stored(cli):
    (row,) = rows(cli, "SELECT h.*, e.vector FROM heard h JOIN embeddings e ON e.recording_id = h.recording_id")
    return row


def test_a_scan_stores_what_the_networks_say_of_its_vector(heard):
    row = stored(heard)
    found, all_of_them = json.loads(row["probabilities"]), tags.probabilities(np.frombuffer(row["vector"], "<f2")[None])
    for network, names in tags.NAMES.items():
        expected = {tag: p for tag, p in zip(names, all_of_them[network][0].tolist(), strict=True) if p >= 0.05}
        assert expected
        assert found[network] == pytest.approx(expected, abs=5e-4)
        assert list(found[network]) == sorted(expected, key=lambda tag: -expected[tag])


def test_a_tag_that_both_networks_know_is_named_once_and_counts_with_the_higher_probability():
    heard = {"MSD": {"electronic": 0.2, "rock": 0.15, "folk": 0.06}, "MTT": {"electronic": 0.7, "beat": 0.3}}
    assert tags.named(heard) == ["electronic", "beat", "rock"]


def test_tags_are_a_column_to_filter_by(heard):
    (row,) = rows(heard, "SELECT id, heard FROM tracks")
    names = json.loads(row["heard"])
    assert names == tags.named(json.loads(stored(heard)["probabilities"]))
    pages = Pages(heard.db)
    for tag, found in ((names[0], 1), ("harpsichord", 0)):
        assert len(pages.ask("GET", f"/library/tracks.json?heard__arraycontains={tag}").json()["rows"]) == found
    table = pages.ask("GET", "/library/tracks").text
    assert ", ".join(names[:2]) in table
    assert f"[&#34;{names[0]}" not in table


def test_tags_are_told_on_the_page_in_json_and_in_exports(heard, music, tmp_path):
    probabilities = json.loads(stored(heard)["probabilities"])
    (file_id,) = (row["id"] for row in rows(heard, "SELECT id FROM files"))
    page = Pages(heard.db).ask("GET", f"/library/tracks/{file_id}").text
    assert "What a network heard" in page
    assert all(next(iter(found)) in page for found in probabilities.values())
    assert Pages(heard.db).ask("GET", f"/library/tracks/{file_id}.json").json()["heard"] == probabilities
    (result,) = heard.json("classify", music / "beat.flac")
    for network, found in probabilities.items():
        assert result["heard"][network] == pytest.approx(found, abs=0.02)  # its vector is not rounded to float16
    assert f"heard: {next(iter(json.loads(stored(heard)['names'])))}" in heard("classify", music / "beat.flac").stdout
    heard("export", "--parquet", tmp_path / "export")
    (row,) = pyarrow.parquet.read_table(tmp_path / "export" / "recordings" / "part-00000.parquet").to_pylist()
    assert json.loads(row["heard"]) == probabilities


def test_a_library_that_musicnn_embedded_before_gets_its_tags_without_decoding(heard, music):
    """An earlier version stored no tags, or those of other rules: the next scan makes them from the vectors."""
    expected = stored(heard)
    with Store(heard.db) as store:
        store._run("DELETE FROM heard")
    assert heard.json("scan", music, "--no-tags")["embedded"] == 0
    assert stored(heard) == expected
    with Store(heard.db) as store:
        store.put_heard(expected["recording_id"], "an older ear", ["cello"], {"MTT": {"cello": 1.0}}, 0.0)
    assert heard.json("scan", music, "--no-tags")["embedded"] == 0
    assert stored(heard) == expected


def test_a_damaged_vector_has_no_tags_and_costs_no_other(tmp_path):
    encoder = MusicnnEncoder()
    with Store(tmp_path / "library.db") as store:
        store.put_encoder(encoder.id, name="musicnn", width=encoder.width, unit_s=encoder.unit_s)
        vectors = [np.zeros(400, "<f2").tobytes(), b"\0" * 10, np.full(400, np.nan, "<f2").tobytes()]
        for n, vector in enumerate(vectors):
            recording = store.recording(f"{n:064x}", codec="mp3", sample_rate_hz=44100, channels=2, duration_s=9.0)
            store.put_embedding(recording, encoder.id, vector, 1)
        told = []
        hear_cached(store, ears(None, ()), on_step=lambda *step: told.append(step))
        assert told == [("hearing", 0, 3)]
        assert [row["recording_id"] for row in store._run("SELECT recording_id FROM heard")] == [1]


def test_other_encoders_hear_no_tags(scanned, music_folder):
    assert rows(scanned, "SELECT * FROM heard") == []
    assert {row["heard"] for row in rows(scanned, "SELECT heard FROM tracks")} == {None}
    assert scanned.json("classify", music_folder / "mp3.mp3")[0]["heard"] is None
    page = Pages(scanned.db).ask("GET", "/library/tracks/1").text
    assert "What a network heard" not in page


def test_tags_are_written_into_no_file(heard, music, tmp_path):
    """Where a genre is written, it is the head's label."""
    folder = shutil.copytree(music, tmp_path / "copy")
    heard.head = saved(tmp_path / "head.safetensors", acoustic=LABELS)
    assert heard.json("scan", folder)["tags_written"] == 1
    (written,) = contents(folder).values()
    (before,) = contents(music).values()
    for name in json.loads(stored(heard)["names"]):
        assert written.count(name.encode()) == before.count(name.encode()) + (name in LABELS), name
