"""Ways of using an encoder that give vectors of their own: cached apart, and understood by one head."""

import json
from dataclasses import replace

import pytest

from indexer.config import load_settings
from indexer.encoders.encoder import VARIANTS, EncoderInfo, Variant, Words, join, joined_id
from indexer.encoders.load import built_in_info, is_built_in
from indexer.errors import ConfigError
from indexer.models.choice import Chosen, without_genres
from tests.helpers.contents import rows
from tests.helpers.synth import write_audio

A = EncoderInfo("a" * 64, "a", 4, 16_000, 6.0, "a.safetensors")
B = EncoderInfo("b" * 64, "rhythm", 4, 44_100, 6.0, "rhythm", built_in=True)


def test_ids_differ_and_the_plain_one_is_the_weights_own():
    assert A.encoder_id == A.weights_id
    assert len({A.varied(v).encoder_id for v in VARIANTS}) == len(VARIANTS)
    assert A.varied(Variant(10, True)).varied(Variant()) == A


def test_an_id_tells_its_variant_also_of_joined_encoders():
    assert A.variant_of(A.varied(Variant(12, True)).encoder_id) == Variant(12, True)
    both = join([A, B])
    assert both.encoder_id == joined_id([A.encoder_id, B.encoder_id])
    varied = both.varied(Variant(7, True))
    assert [p.variant for p in varied.parts] == [
        Variant(7, True),
        Variant(7),
    ]  # the built-in encoder does not compute in integers
    assert both.variant_of(varied.encoder_id) == Variant(7, True)
    assert A.variant_of(B.encoder_id) is None


def test_a_built_in_encoder_is_one_in_every_variant():
    few = built_in_info("rhythm").varied(Variant(12))
    assert is_built_in(few.encoder_id)
    assert not is_built_in(A.encoder_id)
    assert str(without_genres(Chosen(few, None, None))).startswith("no genres yet: rhythm (12 units), a built-in")
    both = join([few, built_in_info("musicnn").varied(Variant(12))])
    assert "models download" in str(without_genres(Chosen(both, None, None)))
    assert "models download" not in str(without_genres(Chosen(A, None, None)))
    assert "train --words" not in str(without_genres(Chosen(A, None, None)))
    knows_words = replace(A, words=Words("w" * 64, 4))
    assert str(without_genres(Chosen(knows_words, None, None))).endswith("makes a first guess without labels")


def test_names_say_how():
    assert A.varied(Variant(10, True)).name == "a (int8, 10 units)"
    assert A.name == "a"


@pytest.mark.parametrize(("text", "value"), [("all", "all"), ("12", 12)])
def test_units_from_everywhere(tmp_path, text, value):
    config = tmp_path / "c.toml"
    config.write_text(f"units = {json.dumps(value)}\n")
    assert load_settings(config, {}, {}).units == value
    assert load_settings(None, {}, {"INDEXER_UNITS": text, "INDEXER_CONFIG": str(config)}).units == value


@pytest.mark.parametrize("value", ["some", "0", "257", "1.5"])
def test_units_that_make_no_sense(tmp_path, value):
    config = tmp_path / "c.toml"
    config.write_text(f"units = {value if value[0].isdigit() else json.dumps(value)}\n")
    with pytest.raises(ConfigError, match="units"):
        load_settings(config, {}, {})


def test_few_units_are_cached_apart_and_stay_the_librarys_way(cli, tmp_path):
    folder = tmp_path / "m"
    folder.mkdir()
    write_audio(folder / "a.wav", "wav", 40.0, sample_rate_hz=16_000, channels=1)
    assert cli.json("scan", folder)["embedded"] == 1
    few = cli.json("scan", folder, "--units", "3")
    assert (few["embedded"], few["failed"], few["classified"]) == (1, 0, 1)  # the same head
    assert cli.json("scan", folder)["embedded"] == 0  # it stays
    plain, varied = rows(
        cli,
        "SELECT e.name, e.in_use, b.units FROM embeddings b JOIN encoders e ON e.id = b.encoder_id ORDER BY e.in_use",
    )
    assert varied["name"] == f"{plain['name']} (3 units)"
    assert (plain["units"], varied["units"]) == (4, 3)
    assert cli.json("classify", folder / "a.wav")[0]["timeline"][1]["start_s"] == pytest.approx(40 / 3, abs=0.01)
    again = cli.json("scan", folder, "--units", "all")
    assert (again["embedded"], again["failed"]) == (0, 0)
    assert [r["name"] for r in rows(cli, "SELECT name FROM encoders WHERE in_use")] == [plain["name"]]


def test_units_are_refused_in_one_line(cli, tmp_path):
    for bad in ("0", "x", "999"):
        result = cli("scan", tmp_path, "--units", bad, code=2)
        assert "units" in result.stderr
        assert len(result.stderr.strip().splitlines()) == 1
