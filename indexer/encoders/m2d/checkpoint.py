"""Our own form of an M2D checkpoint: one safetensors file with its description.

Defines its metadata and the encoder's id, and converts the published formats, which published.py reads. Imports torch
only to convert, so that ``inspect`` is quick.
"""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from indexer.encoders import tensorfile
from indexer.encoders.m2d.geometry import (
    DEFAULT_NORM,
    FrontEnd,
    Geometry,
    Shape,
    expected_shapes,
    front_end,
    geometry_from_shapes,
)
from indexer.encoders.m2d.words import (
    AUDIO,
    BERT,
    Projection,
    TextTower,
    bert_from_shapes,
    pooling_of,
    projection_from_shapes,
    text_tower_from_shapes,
)
from indexer.errors import ModelError
from indexer.files.foreign import is_name

if TYPE_CHECKING:
    from indexer.encoders.m2d.published import Published

FILE_NAME = "model.safetensors"
KIND = "m2d"
FORMAT_VERSION = 1
HEAD_CLASSES = 527  # AudioSet


@dataclass(frozen=True, slots=True)
class CheckpointInfo:
    """The description of a converted checkpoint."""

    path: Path
    name: str
    encoder_id: str  # hex sha256 of the encoder's weights and front end, without head and source format
    source_sha256: str  # hex, of the file it was converted from
    format_version: int
    front_end: FrontEnd
    geometry: Geometry
    head_width: int | None  # inputs of the AudioSet head (3840 or 768), None without one
    head_sha256: str | None  # hex, over the head's numbers
    projection: Projection | None = None  # to the space of words; None: a checkpoint without words
    text: TextTower | None = None  # what it holds of the text's side, together with the projection
    words_id: str | None = None  # hex sha256 of all that decides an audio vector
    text_sha256: str | None = None  # hex, over the numbers of the text's side

    @property
    def words_width(self) -> int:
        """Numbers in an audio vector; 0 for a checkpoint without words."""
        return self.projection.width if self.projection else 0

    @property
    def vector_width(self) -> int:
        """Numbers in a vector."""
        return self.geometry.vector_width

    @property
    def sample_rate_hz(self) -> int:
        """The sample rate of the front end."""
        return self.front_end.sample_rate_hz

    @property
    def unit_s(self) -> float:
        """Duration of a full unit in seconds."""
        return self.geometry.unit_frames * self.front_end.hop / self.front_end.sample_rate_hz

    def facts(self) -> dict[str, Any]:
        """What `models info` tells beside these."""
        return {
            "front_end": asdict(self.front_end),
            "geometry": asdict(self.geometry),
            "head": f"audioset ({self.head_width} inputs)" if self.head_width else None,
            "words": asdict(self.projection) if self.projection else None,
        }


def convert(source: Path, dest_folder: Path, *, name: str | None = None, sample_rate_hz: int | None = None) -> Path:
    """Convert a published checkpoint (.pth, .zip, folder) to ``dest_folder/model.safetensors``; return that path.

    A converted .safetensors, or a folder with one, is checked and copied. name: the model's name, by default that of
    the source. sample_rate_hz: 16000 or 32000, by default according to the file names (``p32k``). The write is atomic.
    Raises ModelError with one line for a source that is damaged, hostile or not an M2D checkpoint.
    """
    if source.is_dir() and (source / FILE_NAME).is_file():
        source = source / FILE_NAME
    try:
        dest_folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ModelError(f"cannot make {dest_folder}: {error.strerror}") from error
    dest = dest_folder / FILE_NAME
    if source.suffix.lower() == ".safetensors":
        _copy(source, dest, name, sample_rate_hz)
    else:
        from indexer.encoders.m2d import published

        found = published.read(source, dest_folder)
        _write(found, dest, name or _name_of(source), sample_rate_hz)
    return dest


def inspect(path: Path, header: tensorfile.Header | None = None) -> CheckpointInfo:
    """Read the description of a converted checkpoint, without torch and without its weights.

    ``header``: the file's, where it was read already. Raises ModelError for a file that is missing, damaged, of a newer
    format or not ours.
    """
    header = header or tensorfile.read_header(path)
    about = header.about
    if about.get("kind") != KIND:
        raise ModelError(f"{path}: not an M2D model")
    if about.get("format_version") != FORMAT_VERSION:
        raise ModelError(f"{path}: written by another version of this program: add the checkpoint again")
    try:
        numbers = FrontEnd(**about["front_end"])
        unit_frames = int(about["geometry"]["unit_frames"])
        texts = [about[key] for key in ("name", "encoder_id", "source_sha256")]
        expected = front_end(numbers.sample_rate_hz, (numbers.mean, numbers.std))
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ModelError(f"{path}: its description is damaged") from error
    try:
        geometry = geometry_from_shapes(header.shapes, unit_frames=unit_frames)
        head_width = _head_width(header.shapes, geometry)
        projection = projection_from_shapes(header.shapes, geometry)
        words = dict(about.get("words") or {}) if projection else {}
        pooling = str(words.get("pooling"))
        text = text_tower_from_shapes(header.shapes, pooling, projection.width) if projection else None
    except (TypeError, ValueError) as error:
        raise ModelError(f"{path}: its description is damaged") from error
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error
    if (
        asdict(geometry) != about["geometry"]
        or numbers != expected
        or not all(is_name(text, 255) for text in [*texts, *words.values()])
    ):
        raise ModelError(f"{path}: its description does not fit its weights")
    return CheckpointInfo(
        path,
        texts[0],
        texts[1],
        texts[2],
        FORMAT_VERSION,
        numbers,
        geometry,
        head_width,
        about.get("head_sha256"),
        projection,
        text,
        words.get("id"),
        words.get("text_sha256"),
    )


def load_weights(path: Path) -> tuple[CheckpointInfo, dict[str, np.ndarray]]:
    """Read the encoder's weights, and those of its projection, and check that they match the ids.

    Returns the description and float32 arrays by their published names. Raises ModelError as ``inspect`` does, and for
    weights that are not finite or were edited.
    """
    info = inspect(path)
    weights = tensorfile.read_arrays(path, expected_shapes(info.geometry))
    changed = encoder_id(info.front_end, info.geometry, weights) != info.encoder_id
    if info.projection is not None:
        audio = tensorfile.read_arrays(path, info.projection.shapes(info.geometry))
        changed = changed or words_id(info.encoder_id, info.projection, audio) != info.words_id
        weights |= audio
    if changed:
        raise ModelError(f"{path}: its weights were changed after it was converted: add the checkpoint again")
    return info, weights


def load_text(path: Path) -> tuple[CheckpointInfo, dict[str, np.ndarray]]:
    """Read the text's side: the layers after the text encoder, and that itself where the file includes it.

    Raises ModelError as ``inspect`` does, for a checkpoint without words, and for weights that are not finite or were
    edited.
    """
    info = inspect(path)
    if info.text is None:
        raise ModelError(f"{path}: a checkpoint without words: take one of M2D-CLAP (see `indexer models list`)")
    bert = bert_from_shapes(tensorfile.read_header(path).shapes)
    weights = tensorfile.read_arrays(path, info.text.shapes() | (bert.shapes() if bert else {}))
    if tensorfile.digest({}, weights) != info.text_sha256:
        raise ModelError(f"{path}: its text's side was changed after it was converted: add the checkpoint again")
    return info, weights


def load_head(path: Path) -> dict[str, np.ndarray]:
    """Read the AudioSet head of a converted checkpoint: head.mean, head.var, head.weight, head.bias; empty without.

    Raises ModelError as ``inspect`` does, and for a head that is not finite or was edited.
    """
    info = inspect(path)
    if info.head_width is None:
        return {}
    head = tensorfile.read_arrays(path, _head_shapes(info.head_width))
    if tensorfile.digest({}, head) != info.head_sha256:
        raise ModelError(f"{path}: its AudioSet head was changed after it was converted: add the checkpoint again")
    return head


def encoder_id(numbers: FrontEnd, geometry: Geometry, weights: Mapping[str, np.ndarray]) -> str:
    """Return the id of an encoder: hex sha256 of its weights and of all numbers that affect its vectors."""
    return tensorfile.digest({"kind": KIND, "front_end": asdict(numbers), "geometry": asdict(geometry)}, weights)


def words_id(encoder_id: str, projection: Projection, weights: Mapping[str, np.ndarray]) -> str:
    """Return the id of audio vectors: hex sha256 of the encoder and of its projection to the space of words."""
    return tensorfile.digest({"kind": "m2d words", "encoder_id": encoder_id, "form": projection.form}, weights)


def _copy(source: Path, dest: Path, name: str | None, sample_rate_hz: int | None) -> None:
    info, weights = load_weights(source)
    if sample_rate_hz not in (None, info.front_end.sample_rate_hz):
        raise ModelError(f"{source}: converted for {info.front_end.sample_rate_hz} Hz, not {sample_rate_hz} Hz")
    head = load_head(source)
    about = tensorfile.read_header(source).about
    text = load_text(source)[1] if info.text else {}
    tensorfile.write(dest, weights | head | text, about | {"name": name or info.name})


def _write(found: "Published", dest: Path, name: str, sample_rate_hz: int | None) -> None:
    hints = (name, *found.names)
    weights = {key: tensor.numpy() for key, tensor in found.tensors.items()}
    geometry = geometry_from_shapes(
        {key: array.shape for key, array in weights.items()}, unit_frames=_claimed_frames(hints)
    )
    rate_hz = sample_rate_hz or (32_000 if any("p32k" in hint for hint in hints) else 16_000)
    numbers = front_end(rate_hz, found.norm_stats or DEFAULT_NORM)
    head = {key: tensor.numpy() for key, tensor in found.head.items()}
    _head_width({key: array.shape for key, array in head.items()}, geometry)
    if head and not (head["head.var"] >= 0).all():
        raise ModelError("module.head.norm.running_var: holds a negative variance")
    own_id = encoder_id(numbers, geometry, weights)
    words = {key: tensor.numpy() for key, tensor in found.words.items()}
    about: dict[str, Any] = {
        "kind": KIND,
        "format_version": FORMAT_VERSION,
        "name": name,
        "encoder_id": own_id,
        "source_sha256": found.sha256,
        "head_sha256": tensorfile.digest({}, head) if head else None,
        "front_end": asdict(numbers),
        "geometry": asdict(geometry),
    }
    if (described := _about_words(words, geometry, own_id, hints)) is not None:
        about["words"] = described
    tensorfile.write(dest, weights | head | words, about)


def _about_words(
    words: Mapping[str, np.ndarray], geometry: Geometry, encoder: str, hints: tuple[str, ...]
) -> dict[str, str] | None:
    """Describe the way to the space of words; None for a checkpoint without. Raises ModelError for an odd one."""
    shapes = {key: array.shape for key, array in words.items()}
    projection = projection_from_shapes(shapes, geometry)
    if projection is None:
        return None
    audio = {key: array for key, array in words.items() if key.startswith(AUDIO)}
    text = {key: array for key, array in words.items() if not key.startswith(AUDIO)}
    pooling = pooling_of(hints, included=any(key.startswith(BERT) for key in text))
    text_tower_from_shapes(shapes, pooling, projection.width)
    return {
        "id": words_id(encoder, projection, audio),
        "pooling": pooling,
        "text_sha256": tensorfile.digest({}, text),
    }


def _head_shapes(width: int) -> dict[str, Shape]:
    shapes: dict[str, Shape] = {"head.weight": (HEAD_CLASSES, width), "head.bias": (HEAD_CLASSES,)}
    return shapes | {"head.mean": (width,), "head.var": (width,)}


def _head_width(shapes: Mapping[str, Shape], geometry: Geometry) -> int | None:
    """Return the inputs of the AudioSet head, None without one; raises ModelError where its shapes are impossible."""
    if not any(key.startswith("head.") for key in shapes):
        return None
    width = shapes.get("head.weight", (0, 0))[-1]
    if width not in (geometry.width, geometry.vector_width):
        raise ModelError(f"head.weight: {width} inputs where {geometry.vector_width} or {geometry.width} are expected")
    for key, shape in _head_shapes(width).items():
        if tuple(shapes.get(key, ())) != shape:
            raise ModelError(f"{key}: shape {list(shapes.get(key, ()))} where {list(shape)} is expected")
    return width


def _name_of(source: Path) -> str:
    """Return the name of a published checkpoint: that of the folder, of the zip, or of the folder around a .pth."""
    if source.is_dir():
        return source.resolve().name
    return source.parent.name if source.parent.name.startswith("m2d_") else source.stem


def _claimed_frames(hints: tuple[str, ...]) -> int | None:
    """Return the unit length in frames that a name states, as 608 in ``80x608p16x16``."""
    found = (re.search(r"80x(\d{1,5})p\d", hint, re.ASCII) for hint in hints)
    return next((int(match[1]) for match in found if match), None)
