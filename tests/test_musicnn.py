"""The musicnn encoder against the published program's answers and an independent float64 implementation.

Also that its weights come from the published wheel, and that without them nothing else takes its place.
"""

import contextlib
import hashlib
import itertools
import struct
import threading
import tomllib
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from indexer.encoders import tensorfile
from indexer.encoders.encoder import Unit
from indexer.encoders.load import built_in_info, load_encoder
from indexer.encoders.musicnn import convert, encoder, frontend, tags, weights
from indexer.encoders.musicnn.frontend import FRAMES, HOP, SHORTEST, STRIDE, UNIT, LogMel
from indexer.errors import ModelError
from tests.helpers import reference_musicnn
from tests.helpers.synth import music

WHOLE = (FRAMES - 1) * HOP + HOP  # samples of a recording that is one unit; a window's halves reach beyond both ends
PUBLISHED = np.load(Path(__file__).parent / "fixtures" / "musicnn_reference.npz")


@pytest.fixture(scope="module")
def musicnn():
    return load_encoder("musicnn")


@pytest.fixture(scope="module")
def networks():
    """The float64 networks, in the order of the encoder's vector."""
    arrays = weights.load()
    return {name: reference_musicnn.Network(weights.of_network(arrays, name)) for name in weights.NETWORKS}


def noise(n=WHOLE, scale=0.1, seed=0):
    return (scale * np.random.default_rng(seed).standard_normal(n)).astype(np.float32)


def tone(hz, amplitude, n=WHOLE):
    return (amplitude * np.sin(2 * np.pi * hz * np.arange(n) / 16_000)).astype(np.float32)


def units_of(samples, sizes=()):
    """The units of a recording that is pushed in blocks of these sizes."""
    cutter, units, start = encoder.MusicnnEncoder().cutter(), [], 0
    for size in sizes:
        units += cutter.push(samples[start : start + size])
        start += size
    return [*units, *cutter.push(samples[start:]), *cutter.finish()]


SOUNDS = {
    "music": music(3.0, sample_rate_hz=16_000, channels=1)[:, 0],
    "too loud": noise(scale=100.0),
    "tone": tone(440, 0.5),
    "clicks": (np.arange(WHOLE) % 6400 == 0).astype(np.float32),
    "silence": np.zeros(WHOLE, np.float32),
    "short": noise(SHORTEST),
}


def test_the_reference_gives_what_the_published_program_gives(networks):
    (frames,) = reference_musicnn.units(PUBLISHED["audio"])
    np.testing.assert_allclose(frames[::10], PUBLISHED["log_mel"], atol=2e-6)
    for name, network in networks.items():
        for found, layer in zip(network(frames), ("maxima", "means", "penultimate", "tags"), strict=True):
            np.testing.assert_allclose(found, PUBLISHED[f"{name}_{layer}"], rtol=1e-5, atol=1e-4)


def test_the_encoder_gives_what_the_published_program_gives(musicnn):
    vectors = musicnn.encode(units_of(PUBLISHED["audio"]))
    expected = np.concatenate([PUBLISHED[f"{name}_penultimate"] for name in weights.NETWORKS])
    np.testing.assert_allclose(vectors, expected[None], atol=3e-5)
    for name, found in tags.probabilities(vectors).items():
        np.testing.assert_allclose(found[0], PUBLISHED[f"{name}_tags"], atol=1e-5)


@pytest.mark.parametrize("name", SOUNDS)
def test_every_number_agrees_with_the_reference(name, musicnn, networks):
    (frames,) = reference_musicnn.units(SOUNDS[name])
    units = units_of(SOUNDS[name])
    log_mel = LogMel()(torch.from_numpy(np.stack([unit.samples for unit in units]))).numpy()
    np.testing.assert_allclose(log_mel[0], frames, atol=1e-4)  # float32 transforms differ between processors
    vectors = musicnn.encode(units)
    heard = tags.probabilities(vectors)
    answers = {key: network(frames) for key, network in networks.items()}
    expected = np.concatenate([penultimate for _, _, penultimate, _ in answers.values()])
    np.testing.assert_allclose(vectors[0], expected, atol=1e-4)
    for key, (*_, probabilities) in answers.items():
        np.testing.assert_allclose(heard[key][0], probabilities, atol=1e-4)


def test_a_sound_that_fills_the_band_is_heard_as_electronic_and_silence_is_not(musicnn):
    """The names stand in the networks' order: a synthesised beat is techno, a quiet tone is not loud."""
    beat = music(3.0, sample_rate_hz=16_000, channels=1)[:, 0]
    heard = tags.probabilities(musicnn.encode([*units_of(beat), *units_of(tone(440, 0.01))]))
    assert [len(names) for names in tags.NAMES.values()] == [50, 50]
    techno, quiet = (heard["MTT"][:, tags.NAMES["MTT"].index(name)] for name in ("techno", "quiet"))
    assert techno[0] > techno[1]
    assert quiet[1] > quiet[0]


def test_units_of_any_number_give_the_same_rows(musicnn):
    units = [Unit(noise(UNIT, seed=seed), 1) for seed in range(5)]
    together = musicnn.encode(units)
    assert musicnn.encode([]).shape == (0, musicnn.width)
    for row, unit in zip(together, units, strict=True):
        np.testing.assert_allclose(musicnn.encode([unit])[0], row, atol=1e-5)


def test_the_threads_of_others_keep_their_setting(musicnn):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        load_encoder("musicnn").encode([Unit(noise(UNIT), 1)] * 4)
        found = [torch.get_num_threads()]
        thread = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
        thread.start()
        thread.join()
        assert found == [3, 3]
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("samples", "units"),
    [
        (0, 0),
        (SHORTEST - 1, 0),
        (SHORTEST, 1),
        (WHOLE - HOP - 1, 1),
        (WHOLE - HOP, 1),
        (WHOLE, 1),
        (STRIDE + WHOLE - HOP - 1, 1),
        (STRIDE + WHOLE - HOP, 2),
        (5 * STRIDE + 1000, 5),
    ],
)
def test_a_recording_is_cut_as_the_reference_cuts_it(samples, units):
    recording = noise(samples)
    found = units_of(recording)
    assert [unit.weight for unit in found] == [1] * units
    if units:
        expected = reference_musicnn.units(recording)
        log_mel = LogMel()(torch.from_numpy(np.stack([unit.samples for unit in found]))).numpy()
        np.testing.assert_allclose(log_mel, expected, atol=1e-4)


@pytest.mark.parametrize("seconds", [1.0, 3.0, 9.5])
def test_blocks_of_any_size_give_what_one_push_gives(seconds):
    samples = noise(int(16_000 * seconds))
    whole = [unit.samples for unit in units_of(samples)]
    for sizes in (np.random.default_rng(1).integers(0, 9000, 20), [1, 255, 257, UNIT, STRIDE - 1], [UNIT] * 3):
        np.testing.assert_array_equal([unit.samples for unit in units_of(samples, sizes)], whole)


def test_a_unit_stays_as_it_is_while_the_cutter_goes_on():
    cutter = encoder.MusicnnEncoder().cutter()
    (unit,) = cutter.push(noise(UNIT))
    before = unit.samples.copy()
    cutter.push(noise(UNIT, seed=2))
    np.testing.assert_array_equal(unit.samples, before)


def test_a_cutter_takes_mono_and_one_recording():
    cutter = encoder.MusicnnEncoder().cutter()
    with pytest.raises(ValueError, match="mono"):
        cutter.push(np.zeros((2, 100), np.float32))
    cutter.finish()
    with pytest.raises(ValueError, match="one recording"):
        cutter.push(np.zeros(100, np.float32))


def test_a_unit_of_another_length_is_refused(musicnn):
    with pytest.raises(ValueError, match=f"{UNIT} samples"):
        musicnn.encode([Unit(np.zeros(UNIT - 1, np.float32), 1)])


def test_hostile_samples_never_give_a_plausible_vector(musicnn):
    for bad in (np.nan, np.inf, -np.inf):
        samples = noise(UNIT)
        samples[1000] = bad
        assert not np.isfinite(musicnn.encode([Unit(samples, 1)])).all()


def test_float16_keeps_what_matters(musicnn):
    """The store keeps float16: a recording's tags from the stored vector are those from the exact one."""
    vectors = musicnn.encode([unit for sound in SOUNDS.values() for unit in units_of(sound)])
    kept = vectors.astype("<f2").astype(np.float32)
    assert np.abs(kept).max() < 100
    for name, exact in tags.probabilities(vectors).items():
        np.testing.assert_allclose(tags.probabilities(kept)[name], exact, atol=1e-3)


def test_the_id_names_weights_and_every_constant(monkeypatch):
    before = encoder.encoder_id()
    assert before == "1e07f9c1b7f45b8134267ab09167d71338b980daf862eb98ce3d90b97ca8f80f"  # vectors in users' libraries
    for module, constants in (
        (weights, ("WEIGHTS_SHA256", "NETWORKS", "NORM_EPSILON")),
        (frontend, {key for key in vars(frontend) if key.isupper()} - {"STRIDE", "UNIT", "MARGIN", "TYPE_CHECKING"}),
        (encoder, ("VERSION",)),
    ):
        for name in constants:
            value = getattr(module, name)
            monkeypatch.setattr(module, name, value[:-1] if isinstance(value, (tuple, str)) else value + 1)
            assert encoder.encoder_id() != before, name
            monkeypatch.setattr(module, name, value)


def test_the_package_ships_weights_and_licence():
    with (Path(__file__).parents[1] / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)
    patterns = project["tool"]["setuptools"]["package-data"]["indexer.encoders.musicnn"]
    folder = weights.FILE.parent
    shipped = {path.name for pattern in patterns for path in folder.glob(pattern)}
    assert shipped == {path.name for path in folder.iterdir() if path.suffix != ".py" and path.is_file()}
    notice = (folder / "LICENSE.md").read_text()
    assert "Music Technology Group, Universitat Pompeu Fabra" in notice
    assert "indexer/encoders/musicnn/LICENSE.md" in project["project"]["license-files"]


def damaged(path, how):
    content = bytearray(weights.FILE.read_bytes())
    if how == "missing":
        return path
    if how == "cut off":
        content = content[:-1000]
    elif how == "a bit flipped":
        content[len(content) // 2] ^= 1
    elif how == "empty":
        content = b""
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("how", ["missing", "cut off", "a bit flipped", "empty"])
def test_without_whole_weights_one_line_says_so_and_no_other_encoder_is_taken(how, tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "FILE", damaged(tmp_path / "weights.safetensors", how))
    with pytest.raises(ModelError, match="the package is damaged: pip install --force-reinstall") as raised:
        load_encoder("musicnn")
    assert str(tmp_path) in str(raised.value)
    assert "\n" not in str(raised.value)
    assert built_in_info("musicnn").encoder_id == encoder.encoder_id()  # what the library holds is still known


def test_a_scan_without_whole_weights_embeds_nothing(tmp_path, monkeypatch, cli, music_folder):
    monkeypatch.setattr(weights, "FILE", tmp_path / "none")
    result = cli("scan", music_folder / "mp3.mp3", "--encoder", "musicnn", code=2)
    assert "the package is damaged" in result.stderr


# The converter


def varint(value):
    out = b""
    while value > 0x7F:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def field(number, value):
    if isinstance(value, int):
        return varint(8 * number) + varint(value)
    return varint(8 * number + 2) + varint(len(value)) + value


def block(entries):
    """A block of LevelDB whose keys leave out what they share with the one before, one restart, and its trailer."""
    out, before = b"", b""
    for key, value in entries:
        shared = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(key, before, strict=False)))
        out += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        before = key
    return out + struct.pack("<II", 0, 1)


def checkpoint(tensors):
    """The .index and .data of a TensorFlow checkpoint; also holds an int64, as the published ones do."""
    entries, data = [(b"", field(1, 1))], b""
    for name, array in sorted({**tensors, "step": np.array(7, np.int64)}.items()):
        shape = b"".join(field(2, field(1, side)) for side in array.shape)
        kind = {"<f4": 1, "<i8": 9}[array.dtype.str]
        place = field(4, len(data)) if data else b""
        entry = field(1, kind) + field(2, shape) + place + field(5, array.nbytes) + varint(8 * 6 + 5) + b"abcd"
        entries.append((name.encode(), entry))
        data += array.tobytes()
    index, handles = b"", []
    for part in (entries[: len(entries) // 2], entries[len(entries) // 2 :]):
        content = block(part)
        handles.append((part[-1][0], varint(len(index)) + varint(len(content))))
        index += content + b"\0crc_"
    content = block(handles)
    footer = varint(0) + varint(0) + varint(len(index)) + varint(len(content))
    return index + content + b"\0crc_" + footer.ljust(40, b"\0") + bytes.fromhex("57fb808b247547db"), data


def tensors_of(seed=0):
    rng = np.random.default_rng(seed)
    found = {name: shape for name, shape in weights.shapes().items() if name.startswith("MSD/")}
    return {name.removeprefix("MSD/"): rng.standard_normal(shape).astype("<f4") for name, shape in found.items()}


def test_a_checkpoint_is_read_by_name():
    tensors = {"a/b": np.arange(6, dtype="<f4").reshape(2, 3), "a/bc": np.float32([1.5]), "d": np.array(2, "<f4")}
    found = convert.read_checkpoint(*checkpoint(tensors))
    assert found.keys() == tensors.keys()
    for name, array in tensors.items():
        np.testing.assert_array_equal(found[name], array)


def test_a_damaged_checkpoint_gives_one_clear_error():
    index, data = checkpoint({"a/b": np.arange(6, dtype="<f4").reshape(2, 3), "a/bc": np.float32([1.5])})
    for cut in range(len(index)):
        with pytest.raises(ModelError, match="not a TensorFlow checkpoint"):
            convert.read_checkpoint(index[:cut], data)
    with pytest.raises(ModelError, match="another size"):
        convert.read_checkpoint(index, data[:-9])
    for place in range(len(index)):
        broken = bytearray(index)
        broken[place] ^= 0x55
        with contextlib.suppress(ModelError):  # never another error
            convert.read_checkpoint(bytes(broken), data)


def wheel(path, checkpoints):
    with zipfile.ZipFile(path, "w") as archive:
        for network, (index, data) in checkpoints.items():
            archive.writestr(f"musicnn/{network}_musicnn/.index", index)
            archive.writestr(f"musicnn/{network}_musicnn/.data-00000-of-00001", data)
    return path


def test_a_wheel_becomes_one_file_of_what_the_networks_need(tmp_path, monkeypatch):
    given = {network: tensors_of(seed) for seed, network in enumerate(weights.NETWORKS)}
    adam = {"conv2d/kernel/Adam": np.float32([1])}
    path = wheel(tmp_path / convert.WHEEL, {network: checkpoint({**t, **adam}) for network, t in given.items()})
    monkeypatch.setattr(convert, "WHEEL_SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
    convert.convert(path, tmp_path / "out.safetensors")
    arrays = tensorfile.read_arrays(tmp_path / "out.safetensors", weights.shapes())
    assert len(tensorfile.read_header(tmp_path / "out.safetensors").shapes) == len(arrays)
    for network, tensors in given.items():
        for name, array in tensors.items():
            np.testing.assert_array_equal(arrays[f"{network}/{name}"], array)


@pytest.mark.parametrize("name", ["musicnn-0.1.1-py3-none-any.whl", convert.WHEEL])
def test_another_wheel_is_refused_by_name_and_by_content(name, tmp_path):
    path = wheel(tmp_path / name, {network: checkpoint(tensors_of()) for network in weights.NETWORKS})
    with pytest.raises(ModelError, match=r"pip download musicnn==0\.1\.0"):
        convert.convert(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(ModelError, match="cannot read"):
        convert.convert(tmp_path / "none.whl", tmp_path / "out")


def test_the_shipped_weights_name_the_wheel_they_come_from():
    about = tensorfile.read_header(weights.FILE).about
    assert (about["source"], about["sha256"]) == (convert.WHEEL, convert.WHEEL_SHA256)
