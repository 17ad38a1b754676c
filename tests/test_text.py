"""Texts become vectors as `transformers` makes them, from files that are checked; bad ones are told in one line."""

import importlib.util
import sys

import numpy as np
import pytest

from indexer.encoders import bert, text
from indexer.encoders.m2d.checkpoint import convert, inspect
from indexer.errors import ModelError
from indexer.models import catalogue, texts
from tests.helpers import checkpoints, words

needs_transformers = pytest.mark.skipif(
    importlib.util.find_spec("transformers") is None,
    reason="transformers is not installed: pip install 'edm-indexer[words]'",
)
TEXTS = (
    "melancholic dub techno with deep chords",
    "Détroit TECHNO!",
    "音楽 mixed \t\x1b[31m with \x00 control characters",
    "ภาษาไทย кириллица",
    "dub\u00adtechno, deep\u200bhouse \u2028 with\u00a0chords",
    "techno " * 10_000,
)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Converted checkpoints of both layouts, a text encoder for the older one, a vocabulary."""
    import safetensors.numpy

    folder = tmp_path_factory.mktemp("texts")
    found = {"vocabulary": words.write_vocabulary(folder)}
    for layout, name, state in (
        ("2025", checkpoints.NAME_CLAP_TI, words.clap_2025()),
        ("2024", checkpoints.NAME_CLAP, words.clap_2024()),
    ):
        source = checkpoints.write_folder(folder, checkpoints.published_state(state), name=name)
        found[layout] = convert(source, folder / layout)
    (folder / "gte-base").mkdir()
    published = folder / "gte-base" / "model.safetensors"
    weights = {key: value.astype(np.float16) for key, value in checkpoints.bert(len(words.TOKENS), seed=7).items()}
    position_ids = {"embeddings.position_ids": np.arange(40)[None], "pooler.dense.bias": np.zeros(64, np.float32)}
    safetensors.numpy.save_file(weights | position_ids, published)
    found |= {"published": published, "weights": weights}
    return found


def by_transformers(weights, vocabulary, text_proj, pooling, said):
    """What transformers' own classes make of a text, in float64 after them."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizer

    config = BertConfig(
        vocab_size=len(words.TOKENS), hidden_size=64, num_hidden_layers=2, num_attention_heads=1,
        intermediate_size=128, max_position_embeddings=40,
    )  # fmt: skip
    model = BertModel(config).eval()
    missing = model.load_state_dict({k: torch.from_numpy(np.float32(v)) for k, v in weights.items()}, strict=False)
    assert all("pooler" in key or "position_ids" in key for key in missing.missing_keys)
    tokenizer = BertTokenizer(str(vocabulary), do_lower_case=True)
    inputs = tokenizer([said], return_tensors="pt", truncation=True, max_length=40)
    with torch.inference_mode():
        hidden = model(**inputs).last_hidden_state[0].double().numpy()
    x = hidden[0] if pooling == "first" else hidden.mean(0)
    for number, name in enumerate(("0.", "2.") if "text_proj.0.weight" in text_proj else ("",) if text_proj else ()):
        x = np.maximum(0, x) if number else x
        x = text_proj[f"text_proj.{name}weight"].astype(np.float64) @ x + text_proj[f"text_proj.{name}bias"]
    return x / np.linalg.norm(x)


@needs_transformers
@pytest.mark.parametrize("layout", ["2025", "2024"])
def test_a_text_has_the_vector_that_transformers_gives(files, tmp_path, layout):
    if layout == "2025":
        encoder, weights, proj = None, checkpoints.bert(len(words.TOKENS)), checkpoints.text_side(hidden=24)
    else:
        encoder = bert.convert(files["published"], tmp_path, "gte-base")
        weights, proj = files["weights"], checkpoints.text_side(words=32)
    assert inspect(files[layout]).text.pooling == ("first" if layout == "2025" else "mean")
    tower = text.BertTower(files[layout], encoder, files["vocabulary"])
    together = tower.encode(TEXTS)
    assert together.shape == (len(TEXTS), 64 if layout == "2025" else 32)
    for said, vector in zip(TEXTS, together, strict=True):
        expected = by_transformers(weights, files["vocabulary"], proj, "first" if layout == "2025" else "mean", said)
        assert np.abs(vector - expected).max() < 1e-5
        assert tower.encode([said])[0] == pytest.approx(vector, abs=1e-5)  # however its batch was padded


@needs_transformers
@pytest.mark.parametrize("layout", ["2025", "2024"])
def test_a_checkpoint_without_text_proj_compares_with_the_text_encoders_own_numbers(files, tmp_path, layout):
    without = {f"text_proj.{name}": None for name in ("weight", "bias", "0.weight", "0.bias", "2.weight", "2.bias")}
    if layout == "2025":
        name, state, encoder = checkpoints.NAME_CLAP_TI, words.clap_2025(**without), None
        weights, pooling = checkpoints.bert(len(words.TOKENS)), "first"
    else:
        name, state = checkpoints.NAME_CLAP, words.clap_2024(**checkpoints.clap("mlp", words=64), **without)
        encoder, weights, pooling = bert.convert(files["published"], tmp_path, "gte-base"), files["weights"], "mean"
    source = checkpoints.write_folder(tmp_path, checkpoints.published_state(state), name=name)
    tower = text.BertTower(convert(source, tmp_path), encoder, files["vocabulary"])
    expected = by_transformers(weights, files["vocabulary"], {}, pooling, TEXTS[0])
    assert np.abs(tower.encode(TEXTS[:1])[0] - expected).max() < 1e-5


@needs_transformers
def test_a_tower_of_files_that_do_not_fit(files, tmp_path):
    other = words.write_vocabulary(tmp_path, [*words.TOKENS, "more"])
    with pytest.raises(ModelError, match=r"a vocabulary of \d+ tokens, and the text encoder has"):
        text.BertTower(files["2025"], None, other)
    with pytest.raises(ModelError, match="needs a text encoder of 64 numbers a token, and has none"):
        text.BertTower(files["2024"], None, files["vocabulary"])


@pytest.mark.parametrize("said", ["", "  \n\t", "\x00\x1b"])
def test_a_text_that_says_nothing(said):
    with pytest.raises(ModelError, match="no words: say what to look for"):
        text.cleaned(said)


def test_a_text_of_any_length_and_script_is_cleaned():
    assert text.cleaned("\udcffdub \ud800\x00") == "dub"
    assert text.cleaned(" a\x1b[31mb\r\n音 ") == "a[31mb 音"
    with pytest.raises(ModelError, match="say it in fewer words"):
        text.cleaned("word " * 100_000)


@pytest.mark.parametrize("missing", ["transformers", "tokenizers"])
def test_without_transformers_the_way_is_told(files, monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ModelError, match=r"^texts need the extra: pip install 'edm-indexer\[words\]'"):
        text.BertTower(files["2025"], None, files["vocabulary"])


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"\xff\xfe", "it is no text"), (b"a\nb\n", "not a vocabulary of BERT's"), (b"", "not a vocabulary of BERT's")],
)
def test_a_file_that_is_no_vocabulary(tmp_path, content, said):
    (tmp_path / "vocab.txt").write_bytes(content)
    with pytest.raises(ModelError, match=said):
        texts.add(tmp_path / "vocab.txt", texts.VOCABULARY, tmp_path / "models")
    assert not (tmp_path / "models" / "bert-base-uncased").exists()


def test_files_of_texts_are_recognised_and_are_no_models(files, tmp_path):
    folder = files["published"].parent
    assert texts.recognised(folder) == [(texts.ENCODER, files["published"])]
    assert texts.recognised(files["vocabulary"]) == [(texts.VOCABULARY, files["vocabulary"])]
    assert texts.recognised(files["2024"]) == []
    for one, path in ((texts.ENCODER, files["published"]), (texts.VOCABULARY, files["vocabulary"])):
        assert texts.add(path, one, tmp_path) == texts.place(one, tmp_path)
    assert catalogue.installed(tmp_path) == []
    assert [one["installed"] for one in texts.overview(tmp_path)] == [True, True]
    assert texts.needed(inspect(files["2024"]), tmp_path) == (
        tmp_path / "gte-base" / "text.safetensors",
        tmp_path / "bert-base-uncased" / "vocab.txt",
    )


def test_what_is_missing_is_told_with_the_way(files, tmp_path):
    for layout, name in (("2025", "bert-base-uncased"), ("2024", "bert-base-uncased")):
        with pytest.raises(ModelError, match=f"indexer models download {name}"):
            texts.needed(inspect(files[layout]), tmp_path)
    texts.add(files["vocabulary"], texts.VOCABULARY, tmp_path)
    with pytest.raises(ModelError, match="indexer models download gte-base"):
        texts.needed(inspect(files["2024"]), tmp_path)


@pytest.mark.parametrize(
    ("letter", "said"),
    [("N", "is NV-Embed-v2, which does not run here"), ("B", "is BERT base, which is not in its file")],
)
def test_a_checkpoint_whose_text_encoder_is_another_is_refused(tmp_path, letter, said):
    """Its sounds are vectors all the same; GTE base would give it texts of another space."""
    name = f"m2d_clap_vit_base-80x608p16x16p16kp{letter}-2025"
    source = checkpoints.write_folder(tmp_path, checkpoints.published_state(words.clap_2024()), name=name)
    with pytest.raises(ModelError, match=f"{name}: its text encoder {said}") as caught:
        texts.needed(inspect(convert(source, tmp_path / "converted")), tmp_path)
    assert "\n" not in str(caught.value)


def test_a_damaged_text_encoder(files, tmp_path):
    import safetensors.numpy

    broken = {**checkpoints.bert(9), "encoder.layer.1.output.dense.bias": np.full(64, np.nan, np.float32)}
    safetensors.numpy.save_file(broken, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=r"output\.dense\.bias: holds NaN"):
        bert.convert(tmp_path / "model.safetensors", tmp_path, "gte-base")
    del broken["encoder.layer.1.output.dense.bias"]
    safetensors.numpy.save_file(broken, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=r"output\.dense\.bias: missing"):
        bert.convert(tmp_path / "model.safetensors", tmp_path, "gte-base")
    (tmp_path / "model.safetensors").write_bytes(b"x" * 99)
    with pytest.raises(ModelError, match="damaged"):
        bert.convert(tmp_path / "model.safetensors", tmp_path, "gte-base")
    path = bert.convert(files["published"], tmp_path, "gte-base")
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    with pytest.raises(ModelError, match="changed after it was converted"):
        bert.load(path)
