"""Heads score vectors as their numbers say, and refuse files that were cut, edited or are something else."""

import numpy as np
import pytest
import safetensors.numpy

from indexer.encoders import tensorfile
from indexer.encoders.m2d.checkpoint import convert, inspect
from indexer.errors import ModelError
from indexer.heads.audioset import AudioSetHead
from indexer.heads.linear import MAX_LABELS, LinearHead
from indexer.heads.load import audioset_head, load_head
from indexer.library.store import Store
from tests.helpers import checkpoints
from tests.helpers.heads import rewrite

ENCODER = "ab" * 32
ODD = ("\0", "\n", "\x1b[2J", "\x7f", "\x9b2J", "\ud800", "\u202e", "\u2028")  # what no name holds
LABELS = ("ambient", "drum and bass", "house", "techno", "trance")


def linear(width=12, labels=("house", "techno", "dub"), *, seed=0, **options):
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal((len(labels), width)).astype(np.float32)
    bias = rng.standard_normal(len(labels)).astype(np.float32)
    numbers = {
        "name": "mine",
        "encoder_id": ENCODER,
        "labels": labels,
        "threshold": 0.6,
        "weight": weight,
        "bias": bias,
    }
    return LinearHead(**numbers | options)


@pytest.fixture(params=[320, 64])
def fine_tuned(request, tmp_path):
    """A converted checkpoint with an AudioSet head, and the head's numbers as published."""
    weights = checkpoints.weights(depth=1)
    state = checkpoints.published_state(weights, prefix="module.ar.runtime.backbone.", head_width=request.param)
    path = convert(checkpoints.write_pth(tmp_path / "x.pth", state), tmp_path / "out")
    return path, checkpoints.head(request.param)


def test_linear_scores_are_a_softmax():
    head = linear()
    vectors = np.random.default_rng(1).standard_normal((7, 12)).astype(np.float32)
    expected = np.exp(vectors.astype(np.float64) @ head.weight.T + head.bias)
    expected /= expected.sum(1, keepdims=True)
    got = head.scores(vectors)
    assert (got.dtype, got.shape) == (np.float32, (7, 3))
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    huge = head.scores(vectors * 1e6)
    assert np.isfinite(huge).all()
    np.testing.assert_allclose(huge.sum(1), 1, rtol=1e-6)


def test_linear_head_survives_its_file(tmp_path):
    head = linear()
    head.save(tmp_path / "head.safetensors")
    again = load_head(tmp_path / "head.safetensors")
    assert (again.id, again.name, again.kind, again.encoder_id) == (head.id, "mine", "linear", ENCODER)
    assert (again.labels, again.threshold) == (("house", "techno", "dub"), 0.6)
    vectors = np.ones((2, 12), np.float32)
    np.testing.assert_array_equal(again.scores(vectors), head.scores(vectors))
    assert [path.name for path in tmp_path.iterdir()] == ["head.safetensors"]


def test_head_id_follows_its_content_only():
    head = linear()
    assert linear(name="other").id == head.id
    others = [
        linear(seed=1),
        linear(threshold=0.7),
        linear(labels=("house", "techno", "trance")),
        linear(encoder_id="cd" * 32),
    ]
    assert len({head.id, *(other.id for other in others)}) == 5


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"labels": ("house", "house", "dub")}, "different labels"),
        ({"labels": ("house", "", "dub")}, "label 2 is not"),
        ({"labels": ("house", "a" * 101, "dub")}, "label 2 is not"),
        ({"labels": ("house", " ", "dub")}, "label 2 is not"),
        *(({"labels": ("house", "dub", f"te{odd}chno")}, "label 3 is not") for odd in ODD),
        ({"name": "a\x1b[2J"}, "a head's name"),
        ({"name": "a" * 101}, "a head's name"),
        ({"threshold": 1.5}, "threshold"),
        ({"threshold": float("nan")}, "threshold"),
        ({"weight": np.zeros((2, 12), np.float32)}, "weight of shape"),
        ({"weight": np.zeros((3, 0), np.float32)}, "weight of shape"),
        ({"bias": np.zeros(4, np.float32)}, "bias of shape"),
        ({"bias": np.full(3, np.inf, np.float32)}, "NaN or infinity"),
    ],
)
def test_impossible_linear_heads_are_refused(options, match):
    with pytest.raises(ModelError, match=match):
        linear(**options)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"arrays": {"bias": np.zeros(3, np.float32)}}, "changed after it was written"),
        ({"arrays": {"bias": np.zeros(2, np.float32)}}, "bias of shape"),
        ({"arrays": {"weight": np.zeros((3, 5, 2), np.float32)}}, "weight of shape"),
        ({"arrays": {"weight": None}}, "weight is missing"),
        ({"arrays": {"bias": np.full(3, np.nan, np.float32)}}, "bias holds NaN"),
        ({"about": {"labels": ["a", "b"]}}, "2 labels"),
        ({"about": {"labels": 5}}, "description is damaged"),
        ({"about": {"labels": [1, 2, 3]}}, "description is damaged"),
        ({"about": {"threshold": "high"}}, "description is damaged"),
        ({"about": {"threshold": 0.1}}, "changed after it was written"),
        ({"about": {"name": None}}, "description is damaged"),
        ({"about": {"threshold": 10**400}}, "description is damaged"),
        ({"about": {"labels": ["house", "techno", "x" * 1_000_000]}}, "label 3 is not"),
        ({"about": {"labels": ["house", "techno", "du\0b"]}}, "label 3 is not"),
        ({"about": {"labels": ["house", "techno", "du\ud800b"]}}, "description is damaged"),
        ({"about": {"labels": [str(i) for i in range(1001)]}}, "2 to 1,000"),
        ({"about": {"name": "mine\x1b]0;owned\x07"}}, "a head's name"),
        ({"about": {"format_version": 9}}, "not a linear head this version"),
        ({"about": {"kind": "forest"}}, "kind that this version knows"),
    ],
)
def test_edited_head_files_are_refused(tmp_path, change, match):
    path = tmp_path / "head.safetensors"
    linear().save(path)
    rewrite(path, **change)
    with pytest.raises(ModelError, match=match) as caught:
        load_head(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a":' * 900 + "1" + "}" * 900, "{" * 2000, "[5]", '{"kind": "\\udc80"}']
)
def test_a_head_whose_description_is_no_usable_json_is_one_line(tmp_path, text):
    path = tmp_path / "head.safetensors"
    safetensors.numpy.save_file({"weight": np.zeros((2, 3), np.float32)}, path, {"indexer": text})
    with pytest.raises(ModelError, match="description is damaged"):
        load_head(path)
    safetensors.numpy.save_file(
        {"weight": np.zeros((2, 3), np.float32)}, path, {"indexer": "{}", "x": "y" * (17 << 20)}
    )
    with pytest.raises(ModelError, match="larger than 16 MB"):
        load_head(path)


def test_a_head_of_as_many_labels_as_are_allowed_works_in_a_library(tmp_path):
    labels = tuple(f"label {i}" for i in range(MAX_LABELS))
    linear(labels=labels).save(tmp_path / "head.safetensors")
    head = load_head(tmp_path / "head.safetensors")
    with Store(tmp_path / "library.db") as store:
        store.put_encoder(ENCODER, name="x", width=12, unit_s=1.0)
        store.put_head(
            head.id, name=head.name, kind=head.kind, encoder_id=ENCODER, labels=head.labels, threshold=0.5, source=""
        )
        store.use_head(head.id)
        assert store.connection.execute("SELECT * FROM tracks").fetchall() == []


def test_cut_off_and_foreign_head_files_are_refused(tmp_path):
    path = tmp_path / "head.safetensors"
    with pytest.raises(ModelError, match="No such file"):
        load_head(path)
    linear().save(path)
    data = path.read_bytes()
    for kept in (0, 7, 100, len(data) - 1):
        path.write_bytes(data[:kept])
        with pytest.raises(ModelError, match="cut off"):
            load_head(path)
    path.write_bytes(b"\x80\x04cos\nsystem\n" * 10)
    with pytest.raises(ModelError, match="damaged"):
        load_head(path)


def test_linear_head_refuses_vectors_of_another_encoder():
    for vectors in (np.zeros((2, 13), np.float32), np.zeros(12, np.float32)):
        with pytest.raises(ModelError, match="takes vectors of 12 numbers"):
            linear().scores(vectors)


def test_audioset_scores_follow_the_published_head(fine_tuned):
    path, published = fine_tuned
    head = load_head(path)
    assert isinstance(head, AudioSetHead)
    assert (head.name, head.kind, head.labels, head.threshold) == ("audioset", "audioset", LABELS, 0.8)
    assert head.encoder_id == inspect(path).encoder_id
    vectors = np.random.default_rng(3).standard_normal((4, 320)).astype(np.float32)
    width = len(published["module.head.norm.running_mean"])
    for vector, got in zip(vectors, head.scores(vectors), strict=True):
        # from the definition, one class after the other, over all 527 of them
        x = vector.astype(np.float64)
        if width == 64:
            x = (x[:64] + x[64:128] + x[128:192] + x[192:256] + x[256:]) / 5
        x = (x - published["module.head.norm.running_mean"]) / np.sqrt(published["module.head.norm.running_var"] + 1e-5)
        logits = published["module.head.mlp.mlp.0.weight"] @ x + published["module.head.mlp.mlp.0.bias"]
        five = np.exp([logits[440], logits[94], logits[162], logits[252], logits[257]])
        np.testing.assert_allclose(got, five / five.sum(), rtol=1e-5)
    with pytest.raises(ModelError, match="takes vectors of 320"):
        head.scores(np.zeros((1, 64), np.float32))


def test_audioset_head_id_is_stable_and_follows_its_weights(fine_tuned, tmp_path):
    path, _ = fine_tuned
    head = audioset_head(path)
    assert audioset_head(path).id == head.id
    assert head.id != linear().id
    other = checkpoints.published_state(checkpoints.weights(depth=1), head_width=len(head.mean))
    other["module.head.mlp.mlp.0.bias"] = other["module.head.mlp.mlp.0.bias"] + 1
    again = audioset_head(convert(checkpoints.write_pth(tmp_path / "y.pth", other), tmp_path / "other"))
    assert (again.encoder_id, again.id == head.id) == (head.encoder_id, False)


def test_a_model_without_a_head_says_so(tmp_path):
    source = checkpoints.write_pth(tmp_path / "plain.pth", checkpoints.published_state(checkpoints.weights(depth=1)))
    path = convert(source, tmp_path / "out")
    with pytest.raises(ModelError, match="plain carries no AudioSet head"):
        audioset_head(path)


def test_a_head_of_many_tensors_is_refused_before_any_is_mapped(tmp_path, monkeypatch):
    path = tmp_path / "head.safetensors"
    linear().save(path)
    monkeypatch.setattr(tensorfile, "MAX_TENSORS", 3)
    LinearHead.load(path)
    rewrite(path, arrays={f"novelty.{n}": np.zeros(1, "f4") for n in range(3)})
    with pytest.raises(ModelError, match="more than 3 tensors"):
        LinearHead.load(path)
