"""A CLAP checkpoint's audio vectors: compared with an independent float64 projector, and cached from the same pass."""

import numpy as np
import pytest

from indexer.encoders.load import load_encoder
from indexer.encoders.m2d import openvino
from indexer.encoders.m2d.checkpoint import convert, inspect, load_text, load_weights
from indexer.errors import ModelError
from indexer.listen.embedder import Embedder
from indexer.models import catalogue
from tests.helpers import checkpoints, reference_m2d
from tests.helpers.synth import music

SIZES = {"80x608": (checkpoints.NAME_CLAP, 38, 608), "80x1001": (checkpoints.NAME_CLAP_TI, 62, 1001)}
# layout -> size, the form of its projector
LAYOUTS = {
    "2024": ("80x608", {"form": "mlp", "words": 32}),
    "2025": ("80x1001", {"form": "semantic"}),
    "no bias": ("80x1001", {"form": "semantic", "depth": 1, "qkv_bias": False}),
    "mean": ("80x608", {"form": "mean"}),
}

INCLUDED = "text_encoder.text_encoder."


def samples_of(seconds, seed=0):
    return music(seconds, sample_rate_hz=16_000, channels=1, seed=seed)[:, 0]


def clap(layout):
    """Weights of the encoder, and the tensors that a CLAP checkpoint adds."""
    size, options = LAYOUTS[layout]
    weights = checkpoints.weights(columns=SIZES[size][1])
    audio = checkpoints.clap(**options)
    text = checkpoints.text_side(words=options.get("words", 64), hidden=16 if layout == "2024" else None)
    return size, weights, audio, text


def add(folder, layout, **changes):
    size, weights, audio, text = clap(layout)
    if any(key.startswith(INCLUDED) for key in changes) and layout == "2025":
        text |= checkpoints.bert(40, prefix=INCLUDED)
    kept = {key: value for key, value in (weights | audio | text | changes).items() if value is not None}
    source = checkpoints.write_folder(folder, checkpoints.published_state(kept), name=SIZES[size][0])
    return convert(source, folder / "converted")


@pytest.fixture(params=["torch", "OpenVINO"])
def engine(request, monkeypatch):
    if request.param == "OpenVINO" and not openvino.serves("fp32"):
        pytest.skip("OpenVINO is not installed: pip install 'edm-indexer[fast]'")
    if request.param == "torch":
        monkeypatch.setattr(openvino, "serves", lambda precision: False)
    return request.param


@pytest.mark.parametrize("layout", LAYOUTS)
def test_audio_vectors_agree_with_the_reference(tmp_path, layout, engine):
    size, weights, audio, _ = clap(layout)
    encoder = load_encoder(add(tmp_path, layout), device="cpu", precision="fp32")
    assert encoder.engine.startswith(engine)
    for seconds in (0.5, 3, (SIZES[size][2] - 1) / 100):
        samples = samples_of(seconds)
        cutter = encoder.cutter()
        (unit,) = cutter.push(samples) + cutter.finish()
        row = encoder.encode([unit])[0]
        expected = reference_m2d.audio_vector(samples, weights, audio, unit_frames=SIZES[size][2])
        assert row.shape == (encoder.width + encoder.words_width,)
        assert np.abs(row[encoder.width :] - expected).max() < 1e-5
        assert row[: encoder.width] == pytest.approx(
            reference_m2d.track(samples, weights, unit_frames=SIZES[size][2]), rel=1e-3, abs=1e-4
        )


def test_a_recordings_audio_vector_is_the_mean_of_its_units(tmp_path):
    _, weights, audio, _ = clap("2024")
    encoder = load_encoder(add(tmp_path, "2024"), device="cpu", precision="fp32")
    samples = samples_of(14)
    pieces = [samples[start : start + 608 * 160] for start in range(0, len(samples), 608 * 160)]
    embedder = Embedder(encoder)
    try:
        vector, trajectory = embedder.embed([samples]).result(timeout=60).words
    finally:
        embedder.close()
    assert len(pieces) == 3  # the last one is short and counts once like the others
    # Frames at a cut see the samples beyond it, so the reference's pieces differ there a little.
    units = [reference_m2d.audio_vector(piece[:-1], weights, audio, unit_frames=608) for piece in pieces]
    assert vector == pytest.approx(np.mean(units, axis=0), abs=5e-3)
    assert trajectory.coefficients.shape[0] == 3
    courses = vector + trajectory.coefficients @ trajectory.basis
    assert np.linalg.norm(courses, axis=1) == pytest.approx(np.ones(3), abs=1e-3)


def test_a_plain_checkpoint_keeps_its_id_and_knows_no_words(tmp_path):
    _, weights, _, _ = clap("2024")
    plain = convert(
        checkpoints.write_folder(tmp_path, checkpoints.published_state(weights), name=checkpoints.NAME_CLAP),
        tmp_path / "plain",
    )
    with_words = inspect(add(tmp_path / "clap", "2024"))
    assert inspect(plain).encoder_id == with_words.encoder_id
    assert (inspect(plain).words_id, inspect(plain).projection, inspect(plain).text) == (None, None, None)
    assert with_words.words_id not in (None, with_words.encoder_id)
    with pytest.raises(ModelError, match="without words"):
        load_text(plain)


def test_a_copy_of_a_converted_checkpoint_has_everything(tmp_path):
    path = add(tmp_path, "2025")
    copy = convert(path, tmp_path / "copy", name="other")
    assert inspect(copy).words_id == inspect(path).words_id
    assert load_text(copy)[1].keys() == load_text(path)[1].keys() == {"text_proj.weight", "text_proj.bias"}


@pytest.mark.parametrize(
    ("layout", "changes", "said"),
    [
        ("2024", {"audio_proj.2.weight": None}, "audio_proj.2.weight: missing"),
        ("2024", {"audio_proj.0.bias": None}, "audio_proj.0.bias: missing"),
        ("2024", {"audio_proj.0.weight": np.full((48, 64), np.nan, np.float32)}, "audio_proj.0.weight: holds NaN"),
        ("2024", {"audio_proj.0.weight": np.zeros((48, 65), np.float32)}, r"audio_proj.0.weight: shape \[48, 65\]"),
        ("2024", {"audio_proj.7.weight": np.zeros((4, 4), np.float32)}, "audio_proj.7.weight: not part of"),
        ("2024", {"text_proj.2.weight": np.zeros((31, 16), np.float32)}, "text_proj.2.bias: shape"),
        ("2025", {"audio_proj.norm.weight": None}, "audio_proj.norm.weight: missing"),
        ("2025", {"audio_proj.sem_blocks.0.attn.proj.bias": None}, "sem_blocks.0.attn.proj.bias: missing"),
        ("2025", {"text_proj.weight": np.zeros((10, 64), np.float32), "text_proj.bias": np.zeros(10, np.float32)},
         "text_proj: 10 numbers for a text where 64 are expected"),
        ("2025", {INCLUDED + "encoder.layer.1.output.dense.bias": np.full(64, np.nan, np.float32)},
         r"layer\.1\.output\.dense\.bias: holds NaN"),
        ("2025", {INCLUDED + "encoder.layer.1.output.dense.bias": None}, r"layer\.1\.output\.dense\.bias: missing"),
        ("2025", {INCLUDED + "embeddings.LayerNorm.weight": np.ones(63, np.float32)}, r"LayerNorm.weight: shape"),
        ("mean", {"text_proj.weight": None, "text_proj.bias": None, "text_encoder.text_encoder.embeddings."
         "word_embeddings.weight": np.zeros((9, 64), np.float32)}, "audio_proj, text_proj: missing"),
    ],
)  # fmt: skip
def test_a_damaged_way_to_words_is_told_in_one_line(tmp_path, layout, changes, said):
    with pytest.raises(ModelError, match=said) as caught:
        add(tmp_path, layout, **changes)
    assert "\n" not in str(caught.value)


def test_a_model_that_was_added_without_its_words_is_completed(tmp_path):
    _, weights, _, _ = clap("2024")
    name = checkpoints.NAME_CLAP
    plain = checkpoints.write_folder(tmp_path, checkpoints.published_state(weights), name=name)
    first = catalogue.add(plain, tmp_path / "models", name=name)
    whole = add(tmp_path / "clap", "2024")
    assert catalogue.add(whole, tmp_path / "models", name=name) == first
    assert inspect(first).words_id == inspect(whole).words_id
    catalogue.add(plain, tmp_path / "models", name=name)  # the same encoder: the words stay
    assert inspect(first).words_id == inspect(whole).words_id
    other = add(tmp_path / "other", "2024", **checkpoints.clap(form="mlp", words=32, seed=9))
    with pytest.raises(ModelError, match="with other weights is installed"):
        catalogue.add(other, tmp_path / "models", name=name)


def test_edited_weights_are_found(tmp_path):
    path = add(tmp_path, "2024")
    data = bytearray(path.read_bytes())
    place = data.index(checkpoints.clap(form="mlp", words=32)["audio_proj.2.weight"].tobytes())
    data[place + 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(ModelError, match="changed after it was converted"):
        load_weights(path)
