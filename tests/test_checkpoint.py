"""Published checkpoints in every form become the same model.

Damaged and hostile ones run no code; the error says what is wrong.
"""

import argparse
import json
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import safetensors
import safetensors.numpy
import torch

from indexer.encoders.load import load_encoder
from indexer.encoders.m2d import published
from indexer.encoders.m2d.checkpoint import FILE_NAME, convert, inspect, load_head, load_weights
from indexer.errors import ModelError
from tests.helpers import checkpoints


@pytest.fixture(scope="module")
def weights():
    return checkpoints.weights(depth=1)


@pytest.fixture(scope="module")
def expected_id(weights, tmp_path_factory):
    folder = tmp_path_factory.mktemp("expected")
    return inspect(
        convert(checkpoints.write_pth(folder / "a.pth", checkpoints.published_state(weights)), folder / "out")
    ).encoder_id


def refused(source, tmp_path, match):
    """Assert that convert refuses source in one line and leaves nothing behind; return the message."""
    out = tmp_path / "refused-out"
    with pytest.raises(ModelError, match=match) as caught:
        convert(source, out)
    assert "\n" not in str(caught.value)
    assert list(out.iterdir()) == []
    return str(caught.value)


@pytest.mark.parametrize("prefix", checkpoints.PREFIXES)
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("form", ["pth", "pth-legacy", "pth-args", "zip", "folder"])
def test_every_form_gives_the_same_encoder(tmp_path, weights, expected_id, prefix, full, form):
    state = checkpoints.published_state(weights, prefix=prefix, full=full)
    source = {
        "pth": lambda: checkpoints.write_pth(tmp_path / "x.pth", state),
        "pth-legacy": lambda: checkpoints.write_pth(tmp_path / "x.pth", state, legacy=True),
        "pth-args": lambda: checkpoints.write_pth(
            tmp_path / checkpoints.NAME_608 / "checkpoint-300.pth", state, args=True
        ),
        "zip": lambda: checkpoints.write_zip(tmp_path, state),
        "folder": lambda: checkpoints.write_folder(tmp_path, state),
    }[form]()
    out = convert(source, tmp_path / "out")
    assert out == tmp_path / "out" / FILE_NAME
    assert [path.name for path in out.parent.iterdir()] == [FILE_NAME]
    info, arrays = load_weights(out)
    assert info.encoder_id == expected_id
    assert info.name == ("x" if form in ("pth", "pth-legacy") else checkpoints.NAME_608)
    assert (info.front_end.sample_rate_hz, info.front_end.n_fft, info.front_end.hop, info.front_end.f_max_hz) == (
        16_000,
        400,
        160,
        8_000,
    )
    assert (info.geometry.vector_width, info.geometry.unit_frames, info.unit_s) == (320, 608, 6.08)
    assert info.head_width is None
    assert arrays.keys() == weights.keys()
    for key, array in arrays.items():
        np.testing.assert_array_equal(array, weights[key])


def test_norm_stats_are_kept_and_enter_the_id(tmp_path, weights, expected_id):
    def info_of(name, **options):
        return inspect(
            convert(
                checkpoints.write_pth(tmp_path / name, checkpoints.published_state(weights, **options)),
                tmp_path / f"{name}-out",
            )
        )

    own = info_of("own.pth", norm_stats=[-5.5, 3.25])
    assert (own.front_end.mean, own.front_end.std) == (-5.5, 3.25)
    assert own.encoder_id != expected_id
    said = info_of("said.pth", norm_stats=[-7.1, 4.2], prefix="backbone.")
    assert said.encoder_id == expected_id


@pytest.mark.parametrize(
    ("name", "columns", "rate", "unit_frames"),
    [
        (checkpoints.NAME_608, 38, 16_000, 608),
        (checkpoints.NAME_1001, 62, 16_000, 1001),
        (checkpoints.NAME_32K, 38, 32_000, 608),
        ("renamed", 62, 16_000, 1001),
        ("m2d-80x608p16x16", 62, 16_000, 1001),
        ("m2d-80x1001p16x16", 38, 16_000, 608),
        ("m2d-80x200p16x16", 12, 16_000, 200),
    ],
)
def test_shapes_decide_the_unit_and_the_name_the_rate(tmp_path, name, columns, rate, unit_frames):
    state = checkpoints.published_state(checkpoints.weights(depth=1, columns=columns))
    info = inspect(convert(checkpoints.write_zip(tmp_path, state, name=name), tmp_path / "out"))
    assert info.name == name
    assert info.front_end.sample_rate_hz == rate
    assert (info.geometry.unit_frames, info.geometry.columns) == (unit_frames, columns)


def test_sample_rate_and_name_can_be_given(tmp_path, weights):
    source = checkpoints.write_pth(tmp_path / "x.pth", checkpoints.published_state(weights))
    info = inspect(convert(source, tmp_path / "out", name="mine", sample_rate_hz=32_000))
    assert (info.name, info.front_end.sample_rate_hz, info.front_end.n_fft) == ("mine", 32_000, 800)
    with pytest.raises(ModelError, match="44100"):
        convert(source, tmp_path / "out", sample_rate_hz=44_100)
    assert inspect(tmp_path / "out" / FILE_NAME) == info  # the refusal left the good one alone


@pytest.mark.parametrize("width", [320, 64])
def test_audioset_head_is_kept_and_does_not_enter_the_id(tmp_path, weights, expected_id, width):
    state = checkpoints.published_state(weights, prefix="module.ar.runtime.backbone.", head_width=width)
    out = convert(checkpoints.write_folder(tmp_path, state, name=checkpoints.NAME_1001), tmp_path / "out")
    info = inspect(out)
    assert (info.head_width, info.encoder_id) == (width, expected_id)
    head, expected = load_head(out), checkpoints.head(width)
    for ours, theirs in published.HEAD_KEYS.items():
        np.testing.assert_array_equal(head[ours], expected[theirs])


def test_head_for_other_classes_is_ignored(tmp_path, weights):
    state = checkpoints.published_state(weights, head_width=320)
    state["module.head.mlp.mlp.0.weight"] = torch.zeros(50, 320)
    assert inspect(convert(checkpoints.write_pth(tmp_path / "x.pth", state), tmp_path / "out")).head_width is None


def test_a_converted_model_can_be_added_again(tmp_path, weights):
    state = checkpoints.published_state(weights, head_width=320)
    first = convert(checkpoints.write_pth(tmp_path / "x.pth", state), tmp_path / "one")
    for source in (first, first.parent):
        again = convert(source, tmp_path / "two", name="copy")
        one, two = inspect(first), inspect(again)
        assert (two.name, two.encoder_id, two.source_sha256, two.head_width) == (
            "copy",
            one.encoder_id,
            one.source_sha256,
            320,
        )
        assert load_head(again).keys() == load_head(first).keys()


def test_half_precision_is_widened(tmp_path, weights):
    state = {key: value.half() for key, value in checkpoints.published_state(weights).items()}
    _, arrays = load_weights(convert(checkpoints.write_pth(tmp_path / "x.pth", state), tmp_path / "out"))
    assert arrays["cls_token"].dtype == np.float32
    np.testing.assert_array_equal(arrays["cls_token"], weights["cls_token"].astype(np.float16))


# ---- refused: wrong content


@pytest.mark.parametrize(
    ("key", "value", "match"),
    [
        ("cls_token", None, "cls_token"),
        ("pos_embed", None, "pos_embed: missing"),
        ("blocks.0.attn.qkv.bias", None, "blocks.0.attn.qkv.bias: missing"),
        ("norm.weight", torch.ones(65), r"norm.weight: shape \[65\] where \[64\]"),
        ("norm.weight", torch.full((64,), float("nan")), "norm.weight: holds NaN"),
        ("blocks.0.mlp.fc1.bias", torch.full((256,), float("inf")), "blocks.0.mlp.fc1.bias: holds NaN"),
        ("blocks.0.attn.proj.weight", torch.zeros(64, 32), "blocks.0.attn.proj.weight: shape"),
        ("blocks.0.ls1.gamma", torch.ones(64), "blocks.0.ls1.gamma: not part"),
        ("blocks.2.norm1.weight", torch.ones(64), "blocks.1.*: missing"),
        ("blocks.999.norm1.weight", torch.ones(64), "more blocks"),
        ("cls_token", torch.ones(1, 1, 100), "cls_token: 100"),
        ("cls_token", torch.ones(64), "cls_token: 1 dimensions"),
        ("cls_token", torch.ones(1, 1, 64, dtype=torch.int64), "cls_token: not a plain tensor"),
        ("cls_token", torch.ones(1, 1, 64).to_sparse(), "cls_token: not a plain tensor"),
        ("cls_token", torch.ones(1, 1, 64, device="meta"), "cls_token: not a plain tensor"),
        ("cls_token", "text", "cls_token: not a plain tensor"),
        ("pos_embed", torch.zeros(1, 190, 64), "pos_embed: 190 positions"),
        ("pos_embed", torch.zeros(1).expand(1, 10_000_001, 64), "pos_embed: claims more"),
        ("patch_embed.proj.weight", torch.zeros(64, 1, 17, 16), "patch_embed.proj.weight: patches of 17x16"),
        ("norm_stats", torch.tensor([-7.1]), "norm_stats: 1 numbers"),
        ("norm_stats", torch.tensor([-7.1, 0.0]), "norm_stats: the standard deviation"),
        ("norm_stats", torch.tensor([-7.1, float("nan")]), "norm_stats: holds NaN"),
        ("module.head.mlp.mlp.0.weight", torch.zeros(527, 100), "missing|head.weight: 100 inputs"),
    ],
)
def test_wrong_content_is_refused_by_its_key(tmp_path, weights, key, value, match):
    state = checkpoints.published_state(weights)
    if value is None:
        del state[key]
    else:
        state[key] = value
    refused(checkpoints.write_pth(tmp_path / "x.pth", state), tmp_path, match)


@pytest.mark.parametrize(
    ("key", "value", "match"),
    [
        ("module.head.norm.running_var", None, "running_var: missing"),
        ("module.head.norm.running_var", torch.full((320,), -1.0), "running_var: holds a negative"),
        ("module.head.norm.running_mean", torch.full((320,), float("nan")), "running_mean|head.mean"),
        ("module.head.mlp.mlp.0.bias", torch.zeros(5), "head.bias: shape"),
        ("module.head.mlp.mlp.0.weight", torch.zeros(527, 100), "100 inputs"),
    ],
)
def test_wrong_heads_are_refused(tmp_path, weights, key, value, match):
    state = checkpoints.published_state(weights, head_width=320)
    if value is None:
        del state[key]
    else:
        state[key] = value
    refused(checkpoints.write_pth(tmp_path / "x.pth", state), tmp_path, match)


@pytest.mark.parametrize("content", [[1, 2], {"model": [1]}, torch.zeros(3), {"model": {}}, {3: torch.zeros(3)}])
def test_other_pickles_are_no_checkpoints(tmp_path, content):
    path = tmp_path / "x.pth"
    torch.save(content, path)
    refused(path, tmp_path, "not a checkpoint|not an M2D checkpoint")


# ---- refused: hostile pickles


class Attack:
    """Touches a file when it is unpickled without care."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("form", ["plain", "legacy", "torch", "zip", "args", "in-namespace"])
@pytest.mark.parametrize("forced", [False, True])
def test_a_malicious_pickle_runs_no_code(tmp_path, monkeypatch, weights, form, forced):
    if forced:
        monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    marker = tmp_path / "marker"
    state = checkpoints.published_state(weights)
    attack = Attack(marker)
    source = tmp_path / "x.pth"
    if form == "plain":
        source.write_bytes(pickle.dumps(attack))
    elif form == "zip":
        source = checkpoints.write_zip(tmp_path, state | {"norm_stats": attack})
    elif form == "in-namespace":
        torch.save({"model": state, "args": argparse.Namespace(lr=attack)}, source)
    else:
        checkpoints.write_pth(source, state | {"norm_stats": attack}, args=form == "args", legacy=form == "legacy")
    message = refused(source, tmp_path, "not loaded as a checkpoint|environment")
    assert not marker.exists()
    if form != "plain" and not forced:
        assert "system" in message
    if form == "torch":  # loading without care does run the code
        torch.load(source, weights_only=False)
        assert marker.exists()


# ---- refused: damaged files and hostile zips


@pytest.mark.parametrize("kept", [0, 1, 4, 100, 5_000, -2_000, -30, -1])
@pytest.mark.parametrize("form", ["pth", "legacy", "zip"])
def test_cut_off_files_are_refused(tmp_path, weights, form, kept):
    state = checkpoints.published_state(weights)
    source = (
        checkpoints.write_zip(tmp_path, state)
        if form == "zip"
        else checkpoints.write_pth(tmp_path / "x.pth", state, legacy=form == "legacy")
    )
    data = source.read_bytes()
    source.write_bytes(data[:kept])
    refused(source, tmp_path, "cut off or damaged|not loaded as a checkpoint")


@pytest.mark.parametrize(
    "content", [b"", b"<html>404</html>", bytes(5_000), b"PK\x03\x04" + bytes(500), os.urandom(5_000)]
)
def test_other_files_are_refused(tmp_path, content):
    source = tmp_path / "x.pth"
    source.write_bytes(content)
    refused(source, tmp_path, "cut off or damaged|not loaded as a checkpoint")


@pytest.mark.parametrize(
    ("names", "match"),
    [
        ([], "no .pth"),
        (["a/readme.txt"], "no .pth"),
        (["a/one.pth", "a/two.pth"], "2 .pth"),
        (["../../escaped.pth"], "outside its folder"),
        (["/tmp/escaped.pth"], "outside its folder"),
        (["a/good.pth", "../escaped.txt"], "outside its folder"),
        (["a\\..\\escaped.pth"], "outside its folder"),
    ],
)
def test_hostile_names_in_a_zip_are_refused(tmp_path, weights, names, match):
    pth = checkpoints.write_pth(tmp_path / "x.pth", checkpoints.published_state(weights))
    source = tmp_path / "deep" / "er" / "model.zip"
    source.parent.mkdir(parents=True)
    with zipfile.ZipFile(source, "w") as archive:
        archive.writestr("a/", "")
        for name in names:
            info = zipfile.ZipInfo("x")
            info.filename = name
            archive.writestr(info, pth.read_bytes())
    refused(source, tmp_path, match)
    assert not list(tmp_path.rglob("escaped*"))


def test_huge_and_lying_sizes_in_a_zip_are_refused(tmp_path, weights, monkeypatch):
    source = checkpoints.write_zip(tmp_path, checkpoints.published_state(weights))
    monkeypatch.setattr(published, "MAX_BYTES", 1_000)
    refused(source, tmp_path, "claims to unpack")
    monkeypatch.undo()
    monkeypatch.setattr(published.shutil, "disk_usage", lambda folder: argparse.Namespace(free=1_000))
    refused(source, tmp_path, "not enough space")
    monkeypatch.undo()
    bomb = tmp_path / "bomb.zip"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/x.pth", bytes(5_000_000))
    data = bytearray(bomb.read_bytes())
    central = data.rindex(b"PK\x01\x02")
    data[central + 24 : central + 28] = (1_000).to_bytes(4, "little")  # claims 1 kB, holds 5 MB
    bomb.write_bytes(data)
    refused(bomb, tmp_path, "damaged|not loaded")


def test_damaged_byte_in_a_zip_is_noticed(tmp_path, weights):
    source = checkpoints.write_zip(tmp_path, checkpoints.published_state(weights))
    data = bytearray(source.read_bytes())
    data[len(data) // 2] ^= 0xFF
    source.write_bytes(data)
    refused(source, tmp_path, "damaged")


def test_folders_with_no_or_two_checkpoints_are_refused(tmp_path, weights):
    folder = tmp_path / "m"
    folder.mkdir()
    refused(folder, tmp_path, "no .pth")
    for name in ("a", "b"):
        checkpoints.write_pth(folder / f"{name}.pth", checkpoints.published_state(weights))
    refused(folder, tmp_path, "2 .pth")
    refused(tmp_path / "absent.pth", tmp_path, "No such file")


# ---- our own form


@pytest.fixture
def converted(tmp_path, weights):
    state = checkpoints.published_state(weights, head_width=320)
    return convert(checkpoints.write_pth(tmp_path / "x.pth", state), tmp_path / "converted")


def rewrite(path, *, about=None, **arrays):
    """Write the file anew with some arrays or parts of its description replaced; None removes."""
    with safetensors.safe_open(path, "np") as file:
        metadata = file.metadata()
    data = safetensors.numpy.load_file(path) | arrays
    described = json.loads(metadata["indexer"]) | (about or {})
    safetensors.numpy.save_file(
        {key: value for key, value in data.items() if value is not None}, path, {"indexer": json.dumps(described)}
    )


def nudged(path, key):
    array = safetensors.numpy.load_file(path)[key].copy()
    array.flat[0] += 1
    return array


def test_every_truncation_is_refused(converted):
    data = converted.read_bytes()
    for kept in (0, 3, 8, 50, 2_000, len(data) // 2, len(data) - 1):
        converted.write_bytes(data[:kept])
        for look in (inspect, load_encoder):
            with pytest.raises(ModelError, match="cut off"):
                look(converted)


def test_edited_weights_and_heads_are_refused(converted):
    rewrite(converted, **{"head.bias": nudged(converted, "head.bias")})
    load_weights(converted)
    with pytest.raises(ModelError, match="head was changed"):
        load_head(converted)
    rewrite(converted, **{"norm.bias": nudged(converted, "norm.bias")})
    inspect(converted)
    with pytest.raises(ModelError, match="weights were changed"):
        load_encoder(converted)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"norm.bias": None}, "norm.bias: missing"),
        ({"norm.bias": np.zeros(3, np.float32)}, "norm.bias: shape"),
        ({"norm.bias": np.zeros(64, np.float16)}, "norm.bias holds F16"),
        ({"head.bias": None}, "head.bias: shape"),
        ({"about": {"kind": "linear"}}, "not an M2D model"),
        ({"about": {"format_version": 2}}, "another version"),
        ({"about": {"front_end": {}}}, "description is damaged"),
        ({"about": {"geometry": None}}, "description is damaged"),
        ({"about": {"encoder_id": 7}}, "does not fit"),
        ({"about": {"geometry": {"unit_frames": 609}}}, "does not fit"),
    ],
)
def test_edited_shapes_and_descriptions_are_refused(converted, change, match):
    rewrite(converted, **change)
    with pytest.raises(ModelError, match=match) as caught:
        inspect(converted)
    assert "\n" not in str(caught.value)


def test_nan_in_the_weights_is_refused(converted):
    rewrite(converted, **{"norm.bias": np.full(64, np.nan, np.float32)})
    with pytest.raises(ModelError, match=r"norm\.bias holds NaN"):
        load_encoder(converted)


def test_other_safetensors_are_refused(tmp_path):
    path = tmp_path / FILE_NAME
    with pytest.raises(ModelError, match="No such file"):
        inspect(path)
    safetensors.numpy.save_file({"x": np.zeros(3, np.float32)}, path)
    with pytest.raises(ModelError, match="not a model file"):
        inspect(path)
    for text in ("[", "[]"):
        safetensors.numpy.save_file({"x": np.zeros(3, np.float32)}, path, {"indexer": text})
        with pytest.raises(ModelError, match="description is damaged"):
            inspect(path)


def test_writing_keeps_the_old_file_when_the_folder_is_full(converted, tmp_path, monkeypatch):
    before = converted.read_bytes()
    source = tmp_path / "x.pth"

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ModelError, match="No space left"):
        convert(source, converted.parent, name="new")
    assert converted.read_bytes() == before
    assert [path.name for path in converted.parent.iterdir()] == [FILE_NAME]


def test_looking_at_a_model_imports_no_torch(converted):
    code = (
        "import sys; from pathlib import Path; from indexer.heads.load import load_head;"
        "from indexer.encoders.m2d.checkpoint import inspect; from indexer.encoders.m2d.frontend import M2DCutter;"
        "path = Path(sys.argv[1]); inspect(path); load_head(path); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(converted)], check=True, cwd=Path(__file__).parents[1])
