"""The arithmetic and the engine that the encoder takes on a CPU, and how it reports them.

Also that OpenVINO computes the right vectors and sends no usage data.
"""

import os
import subprocess
import sys

import numpy as np
import pytest

from indexer.encoders import tensorfile
from indexer.encoders.load import load_encoder
from indexer.encoders.m2d import int8, openvino
from indexer.encoders.m2d.checkpoint import convert, load_weights
from indexer.errors import ModelError
from tests.helpers import checkpoints, reference_m2d
from tests.helpers.synth import music

needs_openvino = pytest.mark.skipif(
    not openvino.serves("fp32"), reason="OpenVINO is not installed: no wheel for this machine"
)
needs_bf16 = pytest.mark.skipif(not openvino.multiplies_bf16(), reason="this processor has no bfloat16 products")
BF16_CPU, OTHER_CPU = "fpu sse2 avx2 avx512f avx512_bf16 amx_tile", "fpu sse2 avx2 avx512f avx512_vnni"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A converted checkpoint of one head and two blocks, and its weights."""
    folder = tmp_path_factory.mktemp("model")
    weights = checkpoints.weights()
    return convert(checkpoints.write_folder(folder, checkpoints.published_state(weights)), folder / "out"), weights


@pytest.fixture
def cpu(tmp_path, monkeypatch):
    """Lets the processor have these flags."""

    def set_flags(flags):
        path = tmp_path / "cpuinfo"
        path.write_text(
            f"processor\t: 0\nmodel name\t: avx512_bf16 of the name only\nflags\t\t: {flags}\n"
            "bugs\t\t: amx_bf16\n\nprocessor\t: 1\n"
        )
        monkeypatch.setattr(openvino, "_CPUINFO", path)

    return set_flags


@pytest.mark.parametrize(
    ("flags", "expected"),
    [(BF16_CPU, True), ("avx2 amx_bf16", True), (OTHER_CPU, False), ("avx512_bf16x", False), ("", False)],
)
def test_bf16_products_are_what_the_processor_says(cpu, flags, expected):
    cpu(flags)
    assert openvino.multiplies_bf16() is expected


def test_a_system_that_does_not_tell_has_no_bf16_products(monkeypatch, tmp_path):
    monkeypatch.setattr(openvino, "_CPUINFO", tmp_path / "none")
    assert not openvino.multiplies_bf16()


@pytest.mark.parametrize(("flags", "expected"), [(BF16_CPU, "bf16"), (OTHER_CPU, "fp32")])
def test_auto_takes_bf16_where_the_processor_multiplies_it(model, cpu, monkeypatch, flags, expected):
    cpu(flags)
    monkeypatch.setattr(openvino, "serves", lambda precision: False)  # torch has every precision on every processor
    assert load_encoder(model[0], device="cpu").precision == expected
    assert load_encoder(model[0], device="cpu", precision="fp32").precision == "fp32"
    assert load_encoder(model[0], device="cpu", precision="bf16").precision == "bf16"


@needs_openvino
def test_bf16_goes_to_openvino_only_where_the_processor_multiplies_it(cpu):
    """Elsewhere OpenVINO would compute in float32 and say nothing."""
    cpu(OTHER_CPU)
    assert openvino.serves("fp32")
    assert not openvino.serves("bf16")
    cpu(BF16_CPU)
    assert openvino.serves("bf16")


@needs_openvino
@pytest.mark.parametrize("units", [1, 2, 7])
def test_openvino_agrees_with_the_reference_on_any_input(model, units):
    """New random spectrograms every time, of any number of columns, one engine for all of them."""
    path, weights = model
    info, mapped = load_weights(path)
    request = openvino.compiled(openvino.encoder_graph(info.geometry, mapped), "fp32").create_infer_request()
    engine = lambda lms: request.infer([lms])[0].copy()  # noqa: E731
    seed = int.from_bytes(os.urandom(4))
    rng = np.random.default_rng(seed)
    for columns in (1, 38, *rng.integers(2, 38, 3)):
        lms = rng.normal(0, 2, (units, 80, 16 * columns)).astype(np.float32)
        got = engine(lms)
        expected = np.stack([reference_m2d.encode_unit(unit.astype(np.float64), weights) for unit in lms])
        assert got.shape == expected.shape
        assert np.abs(got - expected).max() / np.abs(expected).max() < 1e-5, f"seed {seed}, {columns} columns"
        alone = engine(lms[-1:])[0]
        assert np.abs(got[-1] - alone).max() / np.abs(alone).max() < 1e-6, f"seed {seed}, {columns} columns"


@needs_openvino
@needs_bf16
def test_openvino_in_bf16_stays_near_the_reference(model):
    path, weights = model
    encoder = load_encoder(path, device="cpu", precision="bf16")
    assert encoder.engine == openvino.version()
    for seed in range(3):
        samples = music(6.08, sample_rate_hz=16_000, channels=1, seed=seed)[:, 0]
        (unit,) = encoder.cutter().push(np.append(samples, np.zeros(1000, np.float32)))
        got = encoder.encode([unit])[0]
        expected = reference_m2d.features(samples, weights, unit_frames=608)[:38].mean(0)
        assert 1e-5 < np.linalg.norm(got - expected) / np.linalg.norm(expected) < 0.03


def test_without_openvino_torch_does_the_same(model, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert load_encoder(model[0], device="cpu", precision="fp32").engine == "torch"


def test_a_damaged_openvino_is_one_line_with_the_remedy(model, monkeypatch, tmp_path):
    (tmp_path / "openvino").mkdir()
    (tmp_path / "openvino" / "__init__.py").write_text(
        "raise ImportError('libtbb.so.12: cannot open\\nshared object file')"
    )
    monkeypatch.delitem(sys.modules, "openvino", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        ModelError,
        match=r"^OpenVINO cannot be loaded \(libtbb.* pip install --force-reinstall openvino, [^\n]*$",
    ):
        load_encoder(model[0], device="cpu", precision="fp32")


@needs_openvino
def test_openvino_tells_nobody_that_it_is_used(model, tmp_path):
    """Left alone it writes ~/intel and sends an event to Google Analytics on every import."""
    code = f"""
import sys
from pathlib import Path
from indexer.encoders.load import load_encoder
assert load_encoder(Path({str(model[0])!r}), device="cpu", precision="fp32").engine.startswith("OpenVINO")
print([name for name, module in sys.modules.items() if name.startswith("openvino_telemetry") and module])
"""
    environ = {name: value for name, value in os.environ.items() if name not in ("CI", "GITHUB_ACTIONS")} | {
        "HOME": str(tmp_path)
    }
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environ)
    assert out.returncode == 0, out.stderr
    assert out.stdout.strip() == "[]"
    assert list(tmp_path.iterdir()) == []


def test_released_weights_are_read_again_from_the_file(model):
    shapes = {"cls_token": (1, 1, 64), "blocks.0.mlp.fc1.weight": (256, 64)}
    arrays = tensorfile.read_arrays(model[0], shapes)
    tensorfile.release(arrays)
    for key in shapes:
        np.testing.assert_array_equal(arrays[key], model[1][key])


def test_a_scan_says_what_it_took(cli, music_folder):
    path = music_folder / "vorbis.ogg"
    found = cli.json("scan", path, "--no-tags", "--device", "cpu", "--precision", "fp32")
    engine = openvino.version() if openvino.serves("fp32") else "torch"
    assert (found["device"], found["precision"], found["engine"]) == ("cpu", "fp32", engine)
    again = cli("scan", path, "--no-tags", "--force", "--device", "cpu", "--precision", "fp32", "-v")
    assert f"times real time on cpu (fp32, {engine})" in again.output
    assert "bottleneck" in again.output
    plain = cli("scan", path, "--no-tags", "--force", "--device", "cpu", "--precision", "fp32").output
    assert "times real time\n" in plain
    assert "bottleneck" not in plain


@pytest.fixture
def int8_encoder(model, cpu):
    """An encoder in integers, on whatever processor the tests run.

    One without instructions for that computes slowly, and sums may overflow a little.
    """
    cpu(BF16_CPU.replace("avx512_bf16", "avx512_vnni").replace("amx_tile", ""))
    return load_encoder(model[0], device="cpu", precision="int8")


@needs_openvino
def test_int8_stays_near_the_reference_and_is_not_fp32(int8_encoder, model):
    """Real units that the calibration never saw, among them a short one."""
    assert (int8_encoder.precision, int8_encoder.engine) == ("int8", openvino.version())
    got, expected = [], []
    for seed in range(6):
        samples = music(6.08, sample_rate_hz=16_000, channels=1, seed=seed)[:, 0]
        (unit,) = int8_encoder.cutter().push(np.append(samples, np.zeros(1000, np.float32)))
        got.append(int8_encoder.encode([unit])[0])
        expected.append(reference_m2d.features(samples, model[1], unit_frames=608)[:38].mean(0))
    got, expected = np.asarray(got), np.asarray(expected)
    error = np.linalg.norm(got - expected, axis=1) / np.linalg.norm(expected, axis=1)
    assert 1e-3 < error.min() <= error.max() < 0.08
    a, b = got - got.mean(0), expected - expected.mean(0)
    assert ((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).min() > 0.97


@needs_openvino
def test_the_smoothing_changes_nothing_but_rounding(model):
    """Without it, channels a thousand times larger than the rest, as trained models have, leave the rest no steps."""
    info, weights = load_weights(model[0])
    weights = {key: np.array(array) for key, array in weights.items()}
    for norm, linear in int8.smoothed_pairs(info.geometry.depth):
        weights[f"{norm}.weight"][3] *= 300
        weights[f"{linear}.weight"][:, 3] /= 300
    rng = np.random.default_rng(0)
    lms = rng.normal(0, 1, (4, 80, 608)).astype(np.float32)
    seen = openvino.Observer(info.geometry, weights)(lms)
    assert set(seen) == {
        f"blocks.{n}.{layer}"
        for n in range(info.geometry.depth)
        for layer in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    }
    exact, rough = (
        openvino.compiled(openvino.encoder_graph(info.geometry, weights, ranges), precision)([lms])[0]
        for precision, ranges in (("fp32", None), ("int8", seen))
    )
    assert np.linalg.norm(rough - exact) / np.linalg.norm(exact) < 0.08


def test_ranges_hold_zero_and_everything_seen():
    seen = int8.Seen(np.asarray([-1.0, -0.1]), np.asarray([0.5, 3.0]))
    low, high = int8.activation_range(seen, np.ones(1))
    step = (high - low) / 255
    assert low <= -1 + step / 2
    assert high >= 3 - step / 2
    assert abs(low / step - round(float(low / step))) < 1e-3
    low, high = int8.activation_range(int8.Seen(np.asarray([0.2]), np.asarray([0.7])), np.ones(1))
    assert (low, high) == (0, pytest.approx(0.7))


def test_weights_come_back_within_half_a_step():
    weight = np.random.default_rng(1).normal(0, 1, (5, 40)).astype(np.float32)
    weight[2] = 0
    rounded, scale = int8.quantised(weight)
    assert rounded.dtype == np.int8
    assert np.abs(rounded * scale - weight).max() <= scale.max() / 2 * 1.001
    assert not rounded[2].any()


@pytest.mark.parametrize(
    ("flags", "installed", "device", "said"),
    [
        ("avx2", True, "cpu", "no integer products of its own"),
        ("avx512_vnni", False, "cpu", "pip install openvino"),
        ("avx512_vnni", True, "mps", "for processors"),
    ],
)
def test_int8_is_refused_in_one_line_where_it_wins_nothing(model, cpu, monkeypatch, flags, installed, device, said):
    cpu(flags)
    monkeypatch.setattr(openvino, "is_installed", lambda: installed)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: True)
    with pytest.raises(ModelError, match=said):
        load_encoder(model[0], device=device, precision="int8")


@needs_openvino
def test_a_library_in_int8_has_vectors_of_its_own_and_says_so(cli, music_folder, cpu):
    path = music_folder / "flac.flac"
    cli("scan", path, "--no-tags", "--precision", "fp32")
    cpu("avx512_vnni")
    found = cli.json("scan", path, "--no-tags", "--precision", "int8")
    assert (found["precision"], found["embedded"], found["failed"]) == ("int8", 1, 0)
    assert cli.json("scan", path, "--no-tags")["embedded"] == 0  # it stays so
    assert cli.json("status")["encoder"]["name"].endswith(" (int8)")
    cpu("avx2")  # the library on another machine
    assert "use --precision fp32" in cli("scan", path, "--no-tags", "--force", code=2).stderr
    assert cli.json("scan", path, "--no-tags", "--precision", "fp32")["embedded"] == 0


def test_a_precision_that_was_refused_does_not_stay(cli, music_folder, cpu):
    cpu("avx2")
    path = music_folder / "flac.flac"
    cli("scan", path, "--no-tags", "--precision", "int8", code=2)
    cli.model = None  # the one in use
    found = cli.json("scan", path, "--no-tags")
    assert (found["embedded"], found["precision"]) == (1, "fp32")
