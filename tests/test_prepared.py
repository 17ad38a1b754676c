"""What is made of a model for this processor is made once, kept beside the weights, and never trusted blindly.

And a scan on a processor loads no torch.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from indexer.encoders.load import load_encoder
from indexer.encoders.m2d import openvino, prepare
from indexer.encoders.m2d.checkpoint import convert, inspect
from indexer.encoders.m2d.cpu import CpuModel, Pace
from indexer.encoders.m2d.prepared import FOLDER, Prepared, Shelf
from indexer.errors import ModelError
from tests.helpers import checkpoints
from tests.helpers.synth import music

pytestmark = pytest.mark.skipif(not openvino.is_installed(), reason="OpenVINO has no wheel for this machine")
VNNI, BF16 = "avx2 avx512_vnni", "avx2 avx512_bf16"


@pytest.fixture(scope="module")
def model_template(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    return convert(checkpoints.write_folder(folder, checkpoints.published_state(checkpoints.weights())), folder / "out")


@pytest.fixture
def model(model_template, tmp_path):
    """A converted checkpoint of one head and two blocks, not prepared."""
    (tmp_path / "model").mkdir()
    return Path(shutil.copy(model_template, tmp_path / "model"))


@pytest.fixture
def cpu(tmp_path, monkeypatch):
    """Lets the processor have these flags."""

    def set_flags(flags, name="one"):
        path = tmp_path / "cpuinfo"
        path.write_text(f"processor\t: 0\nmodel name\t: {name}\nflags\t\t: {flags}\n")
        monkeypatch.setattr(openvino, "_CPUINFO", path)

    return set_flags


def units_of(encoder):
    return encoder.cutter().push(music(13, sample_rate_hz=16_000, channels=1)[:, 0])


def kept(model):
    return sorted(model.parent.glob(f"{FOLDER}/*"))


def made(monkeypatch):
    """Counts how often weights are read, and how often a pace is sought."""
    counts = {"weights": 0, "trials": 0}

    def counting(name, real):
        def count(*arguments):
            counts[name] += 1
            return real(*arguments)

        return count

    monkeypatch.setattr(prepare, "load_weights", counting("weights", prepare.load_weights))
    monkeypatch.setattr(prepare, "_trial", counting("trials", prepare._trial))
    return counts


def test_int8_is_quantised_once_and_then_read(model, cpu, monkeypatch):
    cpu(VNNI)
    first = load_encoder(model, device="cpu", precision="int8")
    expected = first.encode(units_of(first))
    counts = made(monkeypatch)
    again = load_encoder(model, device="cpu", precision="int8")
    assert counts == {"weights": 0, "trials": 0}
    assert (again.precision, again.engine, again.id) == ("int8", openvino.version(), inspect(model).encoder_id)
    np.testing.assert_allclose(again.encode(units_of(again)), expected, rtol=1e-5, atol=1e-5)


def test_the_pace_of_every_other_precision_is_kept_too(model, cpu, monkeypatch):
    cpu("avx2")
    load_encoder(model, device="cpu")
    counts = made(monkeypatch)
    load_encoder(model, device="cpu")
    assert counts == {"weights": 1, "trials": 0}


def spoil_a_byte(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def make_a_link(path):
    moved = path.rename(path.with_name("elsewhere"))
    path.symlink_to(moved)


def claim_another(key, value):
    def claim(path):
        line, content = path.read_bytes().split(b"\n", 1)
        head = json.loads(line)
        assert key in head["key"]
        head["key"][key] = value
        path.write_bytes(json.dumps(head).encode() + b"\n" + content)

    return claim


@pytest.mark.parametrize(
    "spoil",
    [
        spoil_a_byte,
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: path.write_bytes(b"[1, 2]\n"),
        lambda path: path.write_bytes(b'{"key": 1, "sha256": "", "about": {}}\n'),
        lambda path: path.write_bytes(b"[" * 100_000),
        lambda path: path.chmod(0o666),
        lambda path: (path.unlink(), path.mkdir()),
        lambda path: (path.unlink(), os.mkfifo(path)),
        make_a_link,
        claim_another("engine", "2020.1"),
        claim_another("encoder_id", "0" * 64),
        claim_another("version", -1),
        claim_another("processor", "another"),
    ],
    ids=lambda spoil: spoil.__name__,
)
def test_what_is_damaged_or_foreign_is_made_anew(model, cpu, monkeypatch, spoil):
    cpu(VNNI)
    load_encoder(model, device="cpu", precision="int8")
    (path,) = kept(model)
    spoil(path)
    counts = made(monkeypatch)
    monkeypatch.setattr(prepare, "_trial", lambda *_: Pace())
    encoder = load_encoder(model, device="cpu", precision="int8")
    assert counts["weights"] == 1
    assert np.isfinite(encoder.encode(units_of(encoder))).all()


def test_content_that_is_whole_and_no_model_is_made_anew(model, cpu, monkeypatch):
    cpu(VNNI)
    about = {"pace": {"streams": 1, "request_units": 8}}
    Shelf(inspect(model)).write("int8", Prepared(about, b"no model of any kind"))
    counts = made(monkeypatch)
    assert load_encoder(model, device="cpu", precision="int8").precision == "int8"
    assert counts == {"weights": 1, "trials": 1}


@pytest.mark.parametrize("about", [{}, {"pace": 3}, {"pace": {"lanes": 1}}, {"pace": {"streams": "two"}}])
def test_a_description_of_another_form_is_made_anew(model, cpu, monkeypatch, about):
    cpu("avx2")
    Shelf(inspect(model)).write("fp32", Prepared(about, b""))
    counts = made(monkeypatch)
    load_encoder(model, device="cpu")
    assert counts["trials"] == 1


def test_machines_that_share_a_folder_keep_their_own(model, cpu):
    for name in ("one", "another", "one"):
        cpu("avx2", name)
        load_encoder(model, device="cpu")
    assert len(kept(model)) == 2


def test_weights_that_were_edited_are_found_out(model, cpu):
    cpu(VNNI)
    load_encoder(model, device="cpu", precision="int8")
    content = bytearray(model.read_bytes())
    content[-1] ^= 1
    model.write_bytes(content)
    with pytest.raises(ModelError, match="weights were changed"):
        load_encoder(model, device="cpu", precision="int8")


def test_a_folder_that_cannot_be_written_costs_no_trial(model, cpu, monkeypatch):
    cpu(f"{BF16} {VNNI}")
    monkeypatch.setattr(os, "access", lambda *_: False)
    counts = made(monkeypatch)
    assert load_encoder(model, device="cpu").precision == "bf16"
    assert load_encoder(model, device="cpu", precision="int8").precision == "int8"
    assert (counts["trials"], kept(model)) == (0, [])


@pytest.mark.parametrize(
    ("bf16_s", "deviation", "expected"), [(0.5, 0.01, "bf16"), (1.5, 0.01, "fp32"), (0.5, 0.2, "fp32")]
)
def test_auto_is_the_fastest_of_those_that_agree(model, cpu, monkeypatch, bf16_s, deviation, expected):
    cpu(BF16)
    now = [0.0]
    real = CpuModel.encode

    def encode(self, units, columns):
        now[0] += {"fp32": 1.0, "bf16": bf16_s}[self.precision]
        return real(self, units, columns)

    monkeypatch.setattr(CpuModel, "encode", encode)
    monkeypatch.setattr(prepare.time, "process_time", lambda: now[0])
    monkeypatch.setattr(prepare, "deviation", lambda vectors, exact: 0.0 if vectors is exact else deviation)
    assert load_encoder(model, device="cpu").precision == expected
    monkeypatch.setattr(prepare, "_compare", None)  # it was kept
    assert load_encoder(model, device="cpu").precision == expected


def test_a_deviation_is_a_share_of_how_vectors_differ():
    exact = np.asarray([[100.0, 0.0], [104.0, 0.0]])
    assert prepare.deviation(exact, exact) == 0
    assert prepare.deviation(exact + np.asarray([0.0, 0.2]), exact) == pytest.approx(0.1)


def test_the_fastest_pace_is_taken_if_it_gains_enough(model, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(prepare, "_paces", lambda: iter([Pace(1, 8), Pace(2, 4), Pace(4, 4)]))
    monkeypatch.setattr(prepare.time, "perf_counter", lambda: now[0])

    class Slow:
        def __init__(self, info, model, precision, pace):
            self.pace = pace

        def encode(self, units, columns):
            now[0] += len(units) * {1: 0.1, 2: 0.08, 4: 0.079}[self.pace.streams]

    monkeypatch.setattr(prepare, "CpuModel", Slow)
    assert prepare._trial(inspect(model), "fp32", lambda streams: None) == Pace(2, 4)


@pytest.mark.parametrize(("flags", "warnings"), [("avx2", 1), (BF16, 0)])
def test_bf16_that_the_processor_cannot_is_said_in_one_line(model, cpu, monkeypatch, caplog, flags, warnings):
    cpu(flags)
    monkeypatch.setattr(openvino, "serves", lambda precision: False)
    assert load_encoder(model, device="cpu", precision="bf16").precision == "bf16"
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == warnings
    assert all("does not multiply bf16" in line and "\n" not in line for line in lines)


def test_adding_a_model_prepares_it(bare_cli, model_template, cpu, monkeypatch):
    cpu(f"{BF16} {VNNI}")
    found = bare_cli("models", "add", model_template, "--name", "mine")
    assert found.stdout == "installed mine\n"
    lines = [line for line in found.stderr.splitlines() if "preparing" in line]
    assert [line.rsplit(": ", 1)[1] for line in lines] == ["fp32 (1 of 3)", "bf16 (2 of 3)", "int8 (3 of 3)"]
    counts = made(monkeypatch)
    (installed,) = bare_cli.json("models", "list")["installed"]
    encoder = load_encoder(Path(installed["path"]), device="cpu", precision="int8")
    assert counts == {"weights": 0, "trials": 0}
    assert encoder.precision == "int8"
    assert "preparing" not in bare_cli("models", "add", model_template, "--name", "mine").stderr  # it is
    assert bare_cli("models", "add", model_template, "--name", "quiet", "-q").stderr == ""


def test_a_model_is_added_even_if_it_cannot_be_prepared(cli, model_template, monkeypatch):
    def broken():
        raise ModelError("OpenVINO cannot be loaded (libtbb)")

    monkeypatch.setattr(openvino, "engine", broken)
    found = cli("models", "add", model_template, "--name", "mine")
    assert found.stdout == "installed mine\n"
    assert "libtbb" in found.stderr


@pytest.mark.parametrize("precision", ["auto", "int8"])
def test_a_scan_on_a_processor_loads_no_torch(cli, music_folder, model_template, precision):
    if not openvino.serves("int8") and precision == "int8":
        pytest.skip("this processor has no integer products")
    cli("models", "add", model_template, "--name", "mine", "-q")
    arguments = [
        "scan", str(music_folder / "flac.flac"), "--device", "cpu", "--encoder", "mine", "--precision", precision,
    ]  # fmt: skip
    code = f"""
import sys
sys.argv = ["indexer", *{arguments!r}, "--json"]
from indexer.cli.main import main
try:
    main()
except SystemExit as e:
    assert not e.code, e.code
print([m for m in ("torch", "torchaudio") if m in sys.modules])
"""
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env={**os.environ, **cli.environ}
    )
    assert out.returncode == 0, out.stderr
    found, modules = out.stdout.splitlines()
    assert json.loads(found)["embedded"] == 1
    assert json.loads(found)["engine"] == openvino.version()
    assert modules == "[]"
