"""The encoder computes what the published numbers say: compared with an independent float64 implementation."""

import numpy as np
import pytest
import torch

from indexer.encoders.encoder import Unit, track_vector
from indexer.encoders.load import load_encoder
from indexer.encoders.m2d import openvino, prepare
from indexer.encoders.m2d.checkpoint import convert
from indexer.encoders.m2d.cpu import Pace
from indexer.encoders.m2d.frontend import LogMel, M2DCutter, NumpyLogMel
from indexer.encoders.m2d.geometry import Geometry, front_end
from indexer.encoders.m2d.torch_model import best_batch
from indexer.errors import ModelError
from tests.helpers import checkpoints, reference_m2d
from tests.helpers.synth import music

DURATIONS_S = (0.1, 1, 6.08, 7, 20, 61)
SIZES = {"80x608": (checkpoints.NAME_608, 38, 608), "80x1001": (checkpoints.NAME_1001, 62, 1001)}


def samples_of(seconds, rate=16_000, seed=0):
    return music(seconds, sample_rate_hz=rate, channels=1, seed=seed)[:, 0]


def small_geometry(columns=38, unit_frames=608):
    return Geometry(64, 2, 1, 256, 16, 16, 5, columns, unit_frames)


def cut(cutter, samples):
    return cutter.push(samples) + cutter.finish()


def embed(encoder, samples):
    units = cut(encoder.cutter(), samples)
    return track_vector(encoder.encode(units), np.array([unit.weight for unit in units]))


def relative(got, expected):
    return np.linalg.norm(got - expected) / np.linalg.norm(expected)


@pytest.fixture(scope="module", params=["torch", "OpenVINO"])
def engine(request):
    """Encoders made on the CPU in fp32 run on this engine."""
    if request.param == "OpenVINO" and not openvino.serves("fp32"):
        pytest.skip("OpenVINO is not installed: no wheel for this machine")
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "torch":
            patch.setattr(openvino, "serves", lambda precision: False)
        yield request.param


@pytest.fixture(scope="module")
def small(tmp_path_factory, engine):
    """Encoders of one head and two blocks, and their weights, by input size."""
    folder = tmp_path_factory.mktemp("small")
    found = {}
    for size, (name, columns, _) in SIZES.items():
        weights = checkpoints.weights(columns=columns)
        source = checkpoints.write_folder(folder, checkpoints.published_state(weights), name=name)
        found[size] = (load_encoder(convert(source, folder / size), device="cpu", precision="fp32"), weights)
        assert found[size][0].engine.startswith(engine)
    return found


@pytest.fixture(scope="module")
def vit_base():
    """Weights of the published geometry."""
    return checkpoints.weights(width=768, depth=12, columns=62)


@pytest.mark.parametrize("rate", [16_000, 32_000])
@pytest.mark.parametrize("seconds", [0.1, 1, 6.08, 7, 20, 61])
def test_log_mel_agrees_with_the_reference(rate, seconds):
    samples = samples_of(seconds, rate)
    fe = front_end(rate)
    (unit,) = cut(M2DCutter(fe, small_geometry(columns=1000, unit_frames=16_000)), samples)
    expected = reference_m2d.log_mel(samples, rate)
    frames = 1 + len(samples) // fe.hop
    for got in (
        LogMel(fe)(torch.from_numpy(unit.samples)[None])[0].numpy(),
        NumpyLogMel(fe)([unit], frames)[0],
    ):
        assert got.shape == expected.shape == (80, frames)
        assert relative(got, expected) < 1e-4
        assert np.abs(got - expected).max() < 2e-3


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("seconds", DURATIONS_S)
def test_track_vector_agrees_with_the_reference(small, size, seconds):
    encoder, weights = small[size]
    samples = samples_of(seconds)
    got = embed(encoder, samples)
    expected = reference_m2d.track(samples, weights, unit_frames=SIZES[size][2])
    assert got.shape == (5 * 64,)
    assert got.dtype == np.float32
    assert relative(got, expected) < 1e-4


@pytest.mark.parametrize("frames", [609, 992, 993, 1000, 1001, 1002])
def test_long_units_lose_the_part_of_a_patch_at_their_end(small, frames):
    encoder, weights = small["80x1001"]
    samples = samples_of(((frames - 1) * 160 + 80) / 16_000)
    got = embed(encoder, samples)
    assert relative(got, reference_m2d.track(samples, weights, unit_frames=1001)) < 1e-4


@pytest.mark.slow_first
@pytest.mark.parametrize("size", SIZES)
def test_vit_base_agrees_with_the_reference(tmp_path, vit_base, monkeypatch, size):
    """The published geometry, two units: a full one and a short one; by every engine."""
    name, columns, unit_frames = SIZES[size]
    weights = vit_base | {"pos_embed": vit_base["pos_embed"][:, : 1 + 5 * columns]}
    path = convert(
        checkpoints.write_folder(tmp_path, checkpoints.published_state(weights), name=name), tmp_path / "out"
    )
    samples = samples_of(unit_frames / 100 + 1)
    expected = reference_m2d.track(samples, weights, unit_frames=unit_frames)
    monkeypatch.setattr(prepare, "_trial", lambda *_: Pace())
    engines = ["OpenVINO", "torch"] if openvino.serves("fp32") else ["torch"]
    for engine in engines:
        if engine == "torch":
            monkeypatch.setattr(openvino, "serves", lambda precision: False)
        encoder = load_encoder(path, device="cpu", precision="fp32")
        assert encoder.engine.startswith(engine)
        assert encoder.width == 3840
        got = embed(encoder, samples)
        assert relative(got, expected) < 1e-4
        cosine = got @ expected / np.linalg.norm(got) / np.linalg.norm(expected)
        assert cosine >= 0.99999


def test_32_khz_model_with_norm_stats_agrees_with_the_reference(tmp_path):
    weights = checkpoints.weights()
    state = checkpoints.published_state(weights, norm_stats=[-5.5, 3.25])
    source = checkpoints.write_folder(tmp_path, state, name=checkpoints.NAME_32K)
    encoder = load_encoder(convert(source, tmp_path / "out"), device="cpu", precision="fp32")
    assert encoder.sample_rate_hz == 32_000
    samples = samples_of(8, 32_000)
    expected = reference_m2d.track(samples, weights, unit_frames=608, rate=32_000, mean=-5.5, std=3.25)
    assert relative(embed(encoder, samples), expected) < 1e-4


def test_plain_products_agree_with_every_engine(small, tmp_path, monkeypatch):
    """Machines whose torch has no packed product compute the same, and so does OpenVINO."""
    weights = small["80x608"][1]
    source = checkpoints.write_folder(tmp_path, checkpoints.published_state(weights))
    monkeypatch.setattr("indexer.encoders.m2d.model._packing_works", lambda precision: False)
    monkeypatch.setattr(openvino, "serves", lambda precision: False)
    plain = load_encoder(convert(source, tmp_path / "out"), device="cpu", precision="fp32")
    samples = samples_of(7)
    assert relative(embed(plain, samples), embed(small["80x608"][0], samples)) < 1e-5


def test_bf16_stays_near_fp32(small, tmp_path):
    encoder, weights = small["80x608"]
    source = checkpoints.write_folder(tmp_path, checkpoints.published_state(weights))
    half = load_encoder(convert(source, tmp_path / "out"), device="cpu", precision="bf16")
    assert half.id == encoder.id
    for seed in range(3):
        samples = samples_of(7, seed=seed)
        got = relative(embed(half, samples), embed(encoder, samples))
        assert 0 < got < 0.02


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("rate", "unit_frames"), [(16_000, 608), (16_000, 1001), (32_000, 608)])
def test_blocks_of_any_size_give_the_same_units(rate, unit_frames, seed):
    rng = np.random.default_rng(seed)
    samples = samples_of(rng.uniform(0.02, 30), rate, seed)
    fe, geometry = front_end(rate), small_geometry(unit_frames // 16, unit_frames)
    whole = cut(M2DCutter(fe, geometry), samples)
    cutter, pieces, start = M2DCutter(fe, geometry), [], 0
    while start < len(samples):
        n = int(rng.choice([0, 1, 7, 160, 201, 4096, 97_520, 200_000]))
        pieces += cutter.push(samples[start : start + n])
        start += n
    pieces += cutter.finish()
    assert [unit.weight for unit in pieces] == [unit.weight for unit in whole]
    for a, b in zip(pieces, whole, strict=True):
        np.testing.assert_array_equal(a.samples, b.samples)


@pytest.mark.parametrize(
    "n", [*range(195, 206), 97_079, 97_080, 97_081, 97_120, 97_279, 97_280, 97_281, 97_480, 160_160, 160_000]
)
@pytest.mark.parametrize("unit_frames", [608, 1001])
def test_units_are_slices_of_the_padded_recording(n, unit_frames):
    samples = samples_of(n / 16_000)
    assert len(samples) == n
    geometry = small_geometry(unit_frames // 16, unit_frames)
    units = cut(M2DCutter(front_end(16_000), geometry), samples)
    if n <= 200:
        assert units == []
        return
    padded = np.pad(samples, 200, mode="reflect")
    frames = 1 + n // 160
    starts = range(0, frames, unit_frames)
    assert len(units) == len(starts)
    for start, unit in zip(starts, units, strict=True):
        count = min(unit_frames, frames - start)
        np.testing.assert_array_equal(unit.samples, padded[start * 160 : (start + count - 1) * 160 + 400])
        assert unit.weight == min(-(-count // 16), geometry.columns)


def test_cutter_holds_about_one_unit():
    cutter = M2DCutter(front_end(16_000), small_geometry())
    block = samples_of(1)
    count = sum(len(cutter.push(block)) for _ in range(600))
    assert count == 98
    held = sum(value.nbytes for value in vars(cutter).values() if isinstance(value, np.ndarray))
    assert held < 2 * 608 * 160 * 4


def test_cutter_serves_one_recording_of_mono_samples():
    cutter = M2DCutter(front_end(16_000), small_geometry())
    with pytest.raises(ValueError, match="mono"):
        cutter.push(np.zeros((10, 2), np.float32))
    assert cutter.finish() == []
    with pytest.raises(ValueError, match="one recording"):
        cutter.push(np.zeros(10, np.float32))


def test_batch_composition_does_not_change_the_result(small):
    encoder, _ = small["80x608"]
    units = [
        unit
        for s, seed in ((20, 1), (61, 2), (1, 3), (5.9, 4), (6.0, 5))
        for unit in cut(encoder.cutter(), samples_of(s, seed=seed))
    ]
    alone = np.concatenate([encoder.encode([unit]) for unit in units])
    order = np.random.default_rng(0).permutation(len(units))
    shuffled = encoder.encode([units[i] for i in order])
    assert np.abs(shuffled - alone[order]).max() / np.abs(alone).max() < 1e-5


def test_no_units_give_no_vectors(small):
    assert small["80x608"][0].encode([]).shape == (0, 320)


def test_out_of_memory_halves_the_batch(tmp_path, monkeypatch):
    monkeypatch.setattr(openvino, "serves", lambda precision: False)
    source = checkpoints.write_folder(tmp_path, checkpoints.published_state(checkpoints.weights()))
    encoder = load_encoder(convert(source, tmp_path / "out"), device="cpu", precision="fp32")
    units = cut(encoder.cutter(), samples_of(61))
    expected = encoder.encode(units)
    real, limit = encoder._model._encode_batch, 3

    def hungry(batch, columns):
        if len(batch) > limit:
            raise torch.OutOfMemoryError("no memory left")
        return real(batch, columns)

    monkeypatch.setattr(encoder._model, "_encode_batch", hungry)
    np.testing.assert_allclose(encoder.encode(units), expected, rtol=1e-4, atol=1e-5)
    assert encoder.batch_units == 2
    limit = 0
    with pytest.raises(ModelError, match="not enough memory"):
        encoder.encode(units)


def test_track_vector_is_the_weighted_mean():
    vectors = np.array([[1, 2], [3, 6]], np.float32)
    np.testing.assert_allclose(track_vector(vectors, np.array([38, 2])), [1.1, 2.2], rtol=1e-6)
    for weights in ([1], [1, 0], [1, -1], [1, np.nan]):
        with pytest.raises(ValueError, match="weights"):
            track_vector(vectors, np.array(weights))
    with pytest.raises(ValueError, match="at least one"):
        track_vector(np.empty((0, 2)), np.array([]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "tpu"}, "unknown device 'tpu'"),
        ({"precision": "int4"}, "unknown precision 'int4'"),
        ({"device": "mps"}, "device mps is not available"),
        ({"device": "cuda"}, "device cuda is not available"),
    ],
)
def test_options_that_cannot_be_had(small_models, monkeypatch, options, message):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(ModelError, match=message):
        load_encoder(next(small_models.glob("*/model.safetensors")), **options)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize(("precision", "limit"), [("fp32", 1e-4), ("auto", 0.02)])
def test_cuda_agrees_with_the_reference(tmp_path, vit_base, precision, limit):
    weights = vit_base | {"pos_embed": vit_base["pos_embed"][:, : 1 + 5 * 38]}
    source = checkpoints.write_folder(tmp_path, checkpoints.published_state(weights))
    encoder = load_encoder(convert(source, tmp_path / "out"), device="cuda", precision=precision)
    samples = samples_of(7)
    assert relative(embed(encoder, samples), reference_m2d.track(samples, weights, unit_frames=608)) < limit


def test_silence_and_loud_noise_stay_finite(small):
    encoder, _ = small["80x608"]
    for samples in (
        np.zeros(32_000, np.float32),
        np.random.default_rng(0).uniform(-100, 100, 32_000).astype(np.float32),
    ):
        assert np.isfinite(embed(encoder, samples)).all()


def test_units_longer_or_shorter_than_their_columns_are_fitted(small):
    """Frames beyond the last whole column are not used: 62 columns of 16 frames end at frame 992."""
    encoder, _ = small["80x1001"]
    (unit,) = cut(encoder.cutter(), samples_of(10, seed=3))
    used = Unit(unit.samples[: 991 * 160 + 400], unit.weight)
    np.testing.assert_array_equal(encoder.encode([unit]), encoder.encode([used]))


@pytest.mark.parametrize(
    ("unit_s", "fits", "expected"),
    [
        (
            {16: 1.0, 32: 0.6, 64: 0.5, 128: 0.49, 256: 0.2},
            256,
            64,
        ),  # 128 gains too little, and what lies beyond is not tried
        ({16: 1.0, 32: 0.9, 64: 0.8, 128: 0.7, 256: 0.6}, 256, 256),
        ({16: 1.0, 32: 0.5, 64: 0.25, 128: 0.1, 256: 0.05}, 64, 64),
        ({16: 1.0}, 8, 16),  # encode halves it when the time comes
    ],
)
def test_the_batch_of_a_gpu_is_the_one_after_which_little_is_gained(unit_s, fits, expected):
    tried = []

    def seconds(size):
        tried.append(size)
        if size > fits:
            raise torch.OutOfMemoryError("too large")
        return unit_s[size] * size

    assert best_batch(seconds, (16, 32, 64, 128, 256)) == expected
    assert len(tried) == len(set(tried))


def test_a_batch_is_timed_from_samples_to_vectors(small, engine):
    if engine == "torch":
        assert small["80x608"][0]._model._seconds(2) > 0
