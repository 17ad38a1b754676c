"""Every encoder of the registry is known everywhere: by name, in the help, in `models list`, in the documentation."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from indexer.config import Settings
from indexer.encoders.encoder import Unit
from indexer.encoders.load import BUILT_IN, DEFAULT, built_in_info, load_encoder
from indexer.models import choice, published
from indexer.models.guide import KINDS

DOCS = Path(__file__).parents[1] / "docs"


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_registered_encoder_loads_and_is_what_its_info_says(name):
    info, encoder = built_in_info(name), load_encoder(name)
    assert (info.name, info.source, info.built_in, info.joins) == (name, name, True, ())
    for field in ("name", "width", "sample_rate_hz", "unit_s"):
        assert getattr(encoder, field) == getattr(info, field)
    assert encoder.id == info.weights_id == info.encoder_id == built_in_info(name).encoder_id  # stable, 64 digits
    assert len(bytes.fromhex(encoder.id)) == 32


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_registered_encoder_keeps_the_interface(name):
    encoder, noise = load_encoder(name), np.random.default_rng(1).standard_normal(200_000).astype(np.float32) / 4
    cutter, units = encoder.cutter(), []
    for start in range(0, len(noise), 70_000):
        units += cutter.push(noise[start : start + 70_000])
    units += cutter.finish()
    whole = encoder.cutter()
    again = [*whole.push(noise), *whole.finish()]
    assert units
    assert all(isinstance(unit, Unit) and unit.weight > 0 for unit in units)
    assert len(units) == len(again)  # the size of the blocks changes nothing
    vectors = encoder.encode(units)
    assert (vectors.shape, vectors.dtype) == ((len(units), encoder.width), np.float32)
    assert np.isfinite(vectors.astype(np.float16)).all()  # the form in which they are stored
    np.testing.assert_array_equal(encoder.encode(again), vectors)
    assert encoder.cutter().finish() == []  # nothing heard: too short to embed
    assert encoder.batch_units > 0
    assert all((encoder.device, encoder.precision, encoder.engine))


def test_the_keys_of_all_places_agree(tmp_path):
    document = (DOCS / "models.md").read_text()
    assert [one["name"] for one in choice.overview(tmp_path)["built_in"]] == list(BUILT_IN)
    for name, entry in BUILT_IN.items():
        assert f"### {name}, built in" in document, f"docs/models.md has no section on {name}"
        assert entry.use
        assert choice.named(name, tmp_path) == built_in_info(name)  # --encoder NAME
        assert choice.known((built_in_info(name).encoder_id,), tmp_path) == built_in_info(name)  # from a library
        assert choice.describe(Settings(models=tmp_path), name)["name"] == name
    assert DEFAULT in BUILT_IN
    assert sorted(model for kind in KINDS for model in kind.models) == sorted(
        [*BUILT_IN, *(model.name for model in published.KNOWN)]
    )
    assert [kind.name for kind in KINDS if kind.recommended] == [DEFAULT]
    assert not set(BUILT_IN) & {model.name for model in published.KNOWN}
    assert len({built_in_info(name).encoder_id for name in BUILT_IN}) == len(BUILT_IN)


def test_looking_at_encoders_imports_no_torch():
    code = """
import sys
from indexer.encoders.load import BUILT_IN, built_in_info, load_encoder
for name in BUILT_IN:
    built_in_info(name), load_encoder(name)
print("torch" in sys.modules)
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"
