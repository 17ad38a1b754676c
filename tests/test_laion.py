"""LAION-CLAP: bit for bit what `transformers` computes, installed, searched by words; bad files told in one line."""

import functools
import importlib.util
import json
import shutil
import sys

import numpy as np
import pytest

from indexer.encoders import checkpoints
from indexer.encoders.clap.description import described
from indexer.encoders.clap.text import ClapTower
from indexer.encoders.load import load_encoder
from indexer.errors import ModelError
from indexer.models import catalogue
from tests.helpers import laion, servers
from tests.helpers.cli import Cli
from tests.helpers.pages import Pages
from tests.helpers.synth import music

RATE = 48_000
NAME = "larger_clap_music"
SAID = ["melancholic dub techno with deep chords", "Détroit TECHNO! 音楽 \x00", "techno " * 10_000]
pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("transformers") is None,
    reason="transformers is not installed: pip install 'edm-indexer[words]'",
)


@pytest.fixture(scope="module")
def model():
    return laion.model()


@pytest.fixture(scope="module")
def folder(tmp_path_factory, model):
    return laion.write_folder(tmp_path_factory.mktemp("published") / NAME, model)


@pytest.fixture(scope="module")
def path(tmp_path_factory, folder):
    return checkpoints.convert(folder, tmp_path_factory.mktemp("converted"))


@pytest.fixture
def changed(tmp_path, folder):
    """A copy of the published folder, to be damaged."""
    return shutil.copytree(folder, tmp_path / NAME)


def samples_of(seconds, seed=0):
    """Music, noise that grows louder, a low tone: three sounds that are little alike, and so on."""
    if seed % 3 == 0:
        return music(seconds, sample_rate_hz=RATE, channels=1, seed=seed)[:, 0].astype(np.float32)
    times = np.arange(int(seconds * RATE)) / RATE
    noise = np.random.default_rng(seed).standard_normal(len(times)) * times / (10 * seconds)
    return (noise if seed % 3 == 1 else 0.5 * np.sin(400 * times)).astype(np.float32)


def by_transformers(model, clips):
    """(vectors, audio vectors) of clips of at most one unit, in one batch, by transformers' own front end and model."""
    import torch
    from transformers import ClapFeatureExtractor

    made = ClapFeatureExtractor(**laion.FRONT_END)(clips, sampling_rate=RATE, return_tensors="pt")
    with torch.inference_mode():
        pooled = model.audio_model(**made).pooler_output.numpy()
        return pooled, model.get_audio_features(**made).pooler_output.numpy()


def text_by_transformers(model, said):
    import torch

    inputs = laion.tokenizer()(said, padding=True, truncation=True, max_length=38, return_tensors="pt")
    with torch.inference_mode():
        return model.get_text_features(**inputs).pooler_output.numpy()


def test_vectors_are_bit_for_bit_those_of_transformers(path, model):
    encoder = load_encoder(path, device="cpu")
    assert (encoder.width, encoder.words_width, encoder.sample_rate_hz) == (laion.WIDTH, laion.WORDS, RATE)
    assert (encoder.unit_s, encoder.precision, encoder.engine) == (10.0, "fp32", "torch")
    samples = np.concatenate([samples_of(10), samples_of(10, seed=1), samples_of(3.4, seed=2)])
    cutter = encoder.cutter()
    units = cutter.push(samples[:700_000]) + cutter.push(samples[700_000:]) + cutter.finish()
    assert [unit.weight for unit in units] == [1000, 1000, 340]
    assert np.array_equal(np.concatenate([unit.samples for unit in units]), samples)
    rows = encoder.encode(units)
    vectors, words = by_transformers(model, [unit.samples for unit in units])  # the last is filled up by repeating it
    assert np.array_equal(rows[:, : laion.WIDTH], vectors)
    assert np.array_equal(rows[:, laion.WIDTH :], words)
    assert np.array_equal(encoder.encode(units[:1]), np.hstack(by_transformers(model, [units[0].samples])))
    assert np.abs(words[0] - words[1]).max() > 1e-3  # they do depend on the sound


def test_texts_have_bit_for_bit_the_vectors_of_transformers(path, model):
    clean = [" ".join("".join(c if c.isprintable() else " " for c in said).split()) for said in SAID]
    tower = ClapTower(path)
    assert np.array_equal(tower.encode(SAID), text_by_transformers(model, clean))
    assert np.array_equal(tower.encode(SAID[:1]), text_by_transformers(model, clean[:1]))
    with pytest.raises(ModelError, match="no words: say what to look for"):
        tower.encode([" \x00"])


def test_what_is_left_over_is_a_unit_unless_it_is_shorter_than_a_window(path):
    encoder = load_encoder(path, device="cpu")
    for samples, units in ((1023, 0), (1024, 1), (480_000, 1), (481_023, 1), (481_024, 2)):
        cutter = encoder.cutter()
        assert len(cutter.push(np.zeros(samples, np.float32)) + cutter.finish()) == units
    assert encoder.encode([]).shape == (0, laion.WIDTH + laion.WORDS)
    with pytest.raises(ValueError, match="mono"):
        encoder.cutter().push(np.zeros((2, 2), np.float32))


def test_bf16_is_near_and_int8_is_refused(path):
    exact, rounded = (load_encoder(path, device="cpu", precision=precision) for precision in ("fp32", "bf16"))
    cutter = exact.cutter()
    (unit,) = cutter.push(samples_of(10))
    a, b = exact.encode([unit])[0, laion.WIDTH :], rounded.encode([unit])[0, laion.WIDTH :]
    assert a @ b > 0.99
    assert not np.array_equal(a, b)
    with pytest.raises(ModelError, match="cannot be computed in int8"):
        load_encoder(path, precision="int8")


def test_both_published_forms_and_a_copy_are_the_same_model(folder, path, tmp_path):
    older = checkpoints.inspect(checkpoints.convert(laion.in_older_form(folder, tmp_path / "older"), tmp_path / "a"))
    copy = checkpoints.inspect(checkpoints.convert(path, tmp_path / "b", name="other"))
    first = checkpoints.inspect(path)
    for other in (older, copy):
        assert (other.encoder_id, other.words_id, other.text_sha256) == (
            first.encoder_id, first.words_id, first.text_sha256,
        )  # fmt: skip
    assert (first.name, older.name, copy.name) == (NAME, "older", "other")
    assert ClapTower(copy.path).encode(["dub"]).shape == (1, laion.WORDS)


def test_fields_left_out_have_the_values_of_transformers():
    from transformers import ClapConfig, ClapFeatureExtractor

    found = described({"audio_config": {}, "text_config": {}}, {"truncation": "rand_trunc"})
    config, front_end = ClapConfig(audio_config={}, text_config={}), ClapFeatureExtractor(truncation="rand_trunc")
    for own, theirs in (
        (found.audio, config.audio_config), (found.text, config.text_config),
        (found.projection, config), (found.front_end, front_end),
    ):  # fmt: skip
        assert own == {key: [4, 4] if key == "patch_size" else _plain(getattr(theirs, key)) for key in own}


def _plain(value):
    return list(value) if isinstance(value, tuple) else value


def edit(path, *keys, value):
    """Change, or with None remove, an entry of a JSON file."""
    content = json.loads(path.read_text())
    place = content
    for key in keys[:-1]:
        place = place[key]
    place.pop(keys[-1], None) if value is None else place.update({keys[-1]: value})
    path.write_text(json.dumps(content))


def weights(folder, change):
    import safetensors.torch

    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    safetensors.torch.save_file(change(tensors), folder / "model.safetensors", {"format": "pt"})


def without(prefix):
    return lambda folder: weights(
        folder, lambda tensors: {key: value for key, value in tensors.items() if not key.startswith(prefix)}
    )


def instead(key, change):
    return lambda folder: weights(folder, lambda tensors: tensors | {key: change(tensors[key])})


def of(file, *keys, value):
    return lambda folder: edit(folder / file, *keys, value=value)


DAMAGES = {
    "no text tower": (without("text_model."), "text_model: missing from the checkpoint, which holds no text encoder"),
    "no projection": (without("audio_projection."), "audio_projection.linear1.weight: missing"),
    "NaN": (instead("text_projection.linear2.bias", lambda t: t * float("nan")), "linear2.bias: holds NaN"),
    "wrong size": (instead("audio_projection.linear2.bias", lambda t: t[:5].clone()),
                   r"linear2.bias: shape \[5\] where \[12\]"),
    "cut off": (lambda folder: (folder / "model.safetensors").write_bytes(
        (folder / "model.safetensors").read_bytes()[:9000]), "damaged or cut off"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "no model.safetensors or pytorch_model.bin"),
    "no front end": (lambda folder: (folder / "preprocessor_config.json").unlink(), "no preprocessor_config.json"),
    "no tokenizer": (lambda folder: (folder / "tokenizer.json").unlink(),
                     "no tokenizer.json or vocab.json with merges.txt"),
    "another vocabulary": (of("tokenizer.json", "model", "vocab", "more", value=len(laion.TOKENS)),
                           "a tokenizer of 106 tokens, and the text encoder has 105: it is another's"),
    "another tokenizer": (of("tokenizer.json", "model", value={"vocab": {"[PAD]": 0, "a": 1}, "merges": []}),
                          "not a vocabulary|not RoBERTa's"),
    "merges of others": (of("tokenizer.json", "model", "merges", value=[["x", "zzz"]]), "merges do not fit"),
    "no merges": (of("tokenizer.json", "model", "merges", value=7), "no tokenizer of byte pairs"),
    "a hole in the numbers": (of("tokenizer.json", "model", "vocab", "a", value=7_000), "not a vocabulary"),
    "fused": (of("config.json", "audio_config", "enable_fusion", value=True), "feature fusion"),
    "fused front end": (of("preprocessor_config.json", "truncation", value=None), "feature fusion"),
    "huge": (of("config.json", "text_config", "vocab_size", value=10**12), "vocab_size: 1000000000000 where"),
    "stages": (of("config.json", "audio_config", "num_attention_heads", value=[1]), "num_attention_heads"),
    "heads": (of("config.json", "audio_config", "num_attention_heads", value=[3, 2]), "sizes do not fit each other"),
    "bands": (of("preprocessor_config.json", "feature_size", value=32), "feature_size: 32 bands"),
    "longer than the network": (of("preprocessor_config.json", "max_length_s", value=60), "do not fit"),
    "no JSON": (lambda folder: (folder / "tokenizer.json").write_text('{"model": '), "not JSON, or cut off"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_folder_is_told_in_one_line(changed, tmp_path, damage):
    make, said = DAMAGES[damage]
    make(changed)
    with pytest.raises(ModelError, match=said) as caught:
        catalogue.add(changed, tmp_path / "models")
    assert "\n" not in str(caught.value)
    assert str(changed) in str(caught.value)
    assert not (tmp_path / "models" / NAME).exists()


def test_a_pickle_that_would_run_code_is_refused(folder, tmp_path):
    import pickle

    older = laion.in_older_form(folder, tmp_path / "older")

    class Attack:
        def __reduce__(self):
            return (tmp_path / "ran").mkdir, ()

    (older / "pytorch_model.bin").write_bytes(pickle.dumps({"text_model.a": Attack()}))
    with pytest.raises(ModelError, match="not loaded as a checkpoint"):
        catalogue.add(older, tmp_path / "models")
    assert not (tmp_path / "ran").exists()


def test_edited_weights_are_found(path, tmp_path):
    copy = shutil.copy(path, tmp_path / "model.safetensors")
    data = bytearray(copy.read_bytes())
    data[-3] ^= 1  # of the text's side, the last by name
    copy.write_bytes(data)
    load_encoder(copy, device="cpu")
    with pytest.raises(ModelError, match="text's side was changed"):
        ClapTower(copy)
    copy.write_bytes(path.read_bytes()[:-2_000])
    with pytest.raises(ModelError, match="damaged or cut off"):
        checkpoints.inspect(copy)


def test_without_transformers_the_way_is_told(path, folder, tmp_path, monkeypatch):
    assert checkpoints.inspect(path).words_id  # looking needs none
    monkeypatch.setitem(sys.modules, "transformers", None)
    for call in (
        lambda: load_encoder(path),
        lambda: ClapTower(path),
        lambda: catalogue.add(folder, tmp_path / "models"),
        lambda: catalogue.download(NAME, tmp_path / "models", accept=lambda _notice: True),
    ):
        with pytest.raises(ModelError, match=r"pip install 'edm-indexer\[words\]'"):
            call()


@pytest.fixture
def server(monkeypatch):
    with servers.running(monkeypatch) as server:
        yield server


def test_a_download_shows_the_licence_fetches_what_is_there_and_is_used_offline(folder, path, tmp_path, server):
    older, below = laion.in_older_form(folder, tmp_path / "older"), f"/laion/{NAME}/resolve/main/"
    server.files = {below + file.name: file.read_bytes() for file in older.iterdir()}
    models, notices = tmp_path / "models", []
    with pytest.raises(ModelError, match="LAION's licence was not accepted"):
        catalogue.download(NAME, models, accept=lambda _notice: False, base_url=server.base_url)
    assert server.seen == []
    get = functools.partial(
        catalogue.download, f"laion/{NAME}", models, accept=lambda notice: not notices.append(notice),
        base_url=server.base_url, sleep=lambda _seconds: None,
    )  # fmt: skip
    # config.json breaks off, and goes on where it broke off; then the server is gone
    server.script = [servers.cut(100), servers.serve, *[servers.answer(500)] * 5]
    with pytest.raises(ModelError, match=r"preprocessor_config\.json answers 500"):
        get()
    assert server.seen[1]["range"] == "bytes=100-"
    found = get()
    assert checkpoints.inspect(found).encoder_id == checkpoints.inspect(path).encoder_id
    assert "Apache License 2.0" in notices[0]
    record = json.loads((found.parent / "source.json").read_text())
    assert record["licence"].startswith("Apache-2.0")
    assert record["size"] == sum(map(len, server.files.values()))
    assert json.loads((models / "digests.json").read_text()) == {NAME: record["sha256"]}
    assert sorted(entry.name for entry in models.iterdir()) == ["digests.json", NAME]
    count = len(server.seen)
    assert get() == found
    assert len(server.seen) == count  # it is here: nothing is asked for
    shutil.rmtree(found.parent)
    server.files[below + "preprocessor_config.json"] = server.files[below + "preprocessor_config.json"] + b" "
    with pytest.raises(ModelError, match=f"{NAME} is not the file that was downloaded before"):
        get()


@pytest.fixture(scope="module")
def library(tmp_path_factory, folder):
    """Four clips of one unit, scanned."""
    import soundfile

    place = tmp_path_factory.mktemp("library")
    (place / "music").mkdir()
    for n in range(4):
        soundfile.write(place / "music" / f"{n}.flac", samples_of(6.0 + n, seed=n), RATE, subtype="PCM_24")
    cli = Cli(place / "state", None)
    cli.folder.mkdir()
    cli("models", "add", folder)
    assert cli.json("scan", place / "music", "--no-tags")["embedded"] == 4
    return cli, place / "music"


def test_find_ranks_by_the_cosines_of_transformers(library, model):
    import soundfile

    cli, folder = library
    clips = {str(path): soundfile.read(path, dtype="float32")[0] for path in sorted(folder.iterdir())}
    (text,) = text_by_transformers(model, SAID[:1])
    expected = {path: float(by_transformers(model, [clip])[1][0] @ text) for path, clip in clips.items()}
    found = cli.json("find", SAID[0])
    assert [row["path"] for row in found] == sorted(expected, key=expected.__getitem__, reverse=True)
    for row in found:
        assert row["similarity"] == pytest.approx(expected[row["path"]], abs=5e-4)  # stored in 16 bit
    listed = Pages(cli.db, models=cli.folder / "models").json("/-/find.json?text=The+sound+of+techno+music.")
    assert len(listed["tracks"]) == 4  # without a text encoder


def test_a_first_guess_by_words(library):
    cli, folder = library
    made = cli.json("train", "--words")
    assert (made["encoder"], made["recipe"], made["first_guess"]) == (NAME, "words", True)
    assert cli.json("relabel")["classified"] == 4
    assert cli.json("classify", folder / "0.flac")[0]["decided"] is False
    compared = cli.json("bench", "--labels", *sorted(folder.iterdir()))  # by the audio vectors, which its head takes
    assert {variant["precision"] for variant in compared["variants"]} >= {"fp32"}
    assert compared["head"] == "words"
