"""Our own form of a CLAP checkpoint: one safetensors file with its description and its tokenizer.

Defines the ids of its vectors. Imports torch and transformers only to convert what was published, so that ``inspect``
is quick.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from indexer.encoders import tensorfile
from indexer.encoders.clap import published
from indexer.encoders.clap.description import NEEDS_EXTRA, Description, described
from indexer.encoders.tensorfile import Header
from indexer.errors import ModelError
from indexer.files.foreign import is_name, parse_json

FILE_NAME = "model.safetensors"
KIND = "clap"
FORMAT_VERSION = 1
TOKENIZER = "tokenizer"  # the entry of the file that holds tokens and merges, as JSON
AUDIO, AUDIO_WORDS, TEXT = "audio_model.", "audio_projection.", ("text_model.", "text_projection.")


@dataclass(frozen=True, slots=True)
class ClapInfo:
    """The description of a converted checkpoint."""

    path: Path
    name: str
    encoder_id: str  # hex sha256 of the audio network, without its projection, and of the front end
    source_sha256: str  # hex, of the weights' file it was converted from
    description: Description
    words_id: str  # hex sha256 of all that decides an audio vector
    text_sha256: str  # hex, of the text's side: numbers and tokenizer
    head_width: None = None  # no checkpoint carries an AudioSet head

    @property
    def vector_width(self) -> int:
        """Numbers in a vector."""
        return int(self.description.audio["hidden_size"])

    @property
    def words_width(self) -> int:
        """Numbers in an audio vector, and in a text's."""
        return int(self.description.projection["projection_dim"])

    @property
    def sample_rate_hz(self) -> int:
        """The sample rate of the front end."""
        return int(self.description.front_end["sampling_rate"])

    @property
    def unit_s(self) -> float:
        """Duration of a full unit in seconds."""
        return float(self.description.front_end["max_length_s"])

    def facts(self) -> dict[str, Any]:
        """What `models info` tells beside these."""
        return {
            "front_end": self.description.front_end,
            "geometry": self.description.audio,
            "head": None,
            "words": self.description.projection | {"text": self.description.text},
        }


def convert(source: Path, dest_folder: Path, *, name: str | None = None) -> Path:
    """Convert a published folder to ``dest_folder/model.safetensors``, or copy a converted file; return that path.

    Raises ModelError with one line for a source that is damaged, hostile or no CLAP checkpoint, and without the extra.
    """
    dest = dest_folder / FILE_NAME
    try:
        dest_folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ModelError(f"cannot make {dest_folder}: {error.strerror}") from error
    if source.is_dir():
        _write(source, dest, name or source.resolve().name)
    else:
        _copy(source, dest, name)
    return dest


def inspect(path: Path, header: Header) -> ClapInfo:
    """Read the description of a converted checkpoint, without torch and without its weights. Raises ModelError."""
    about = header.about
    if about.get("kind") != KIND or about.get("format_version") != FORMAT_VERSION:
        raise ModelError(f"{path}: written by another version of this program: add the checkpoint again")
    keys = ("name", "encoder_id", "source_sha256", "words_id", "text_sha256")
    try:
        own = about["description"]
        front_end = own["front_end"]
        found = described({"audio_config": own["audio"], "text_config": own["text"], **own["projection"]}, front_end)
        name, encoder, source, words, text = (about[key] for key in keys)
    except (KeyError, TypeError) as error:
        raise ModelError(f"{path}: its description is damaged") from error
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error
    info = ClapInfo(path, name, encoder, source, found, words, text)
    shape = header.shapes.get(f"{AUDIO_WORDS}linear2.weight"), header.shapes.get(f"{AUDIO_WORDS}linear1.weight")
    width = info.words_width
    if (
        asdict(found) != own
        or shape != ((width, width), (width, info.vector_width))
        or not all(is_name(about[key], 255) for key in keys)
    ):
        raise ModelError(f"{path}: its description does not fit its weights")
    return info


def load_audio(path: Path) -> tuple[ClapInfo, dict[str, np.ndarray]]:
    """Read the audio's side, by its published names, and check it against the ids. Raises ModelError as ``inspect``."""
    info, header = _opened(path)
    weights = _read(path, header, (AUDIO, AUDIO_WORDS))
    if _ids(info.description, weights) != (info.encoder_id, info.words_id):
        raise ModelError(f"{path}: its weights were changed after it was converted: add the checkpoint again")
    return info, weights


def load_text(path: Path) -> tuple[ClapInfo, dict[str, np.ndarray], list[str], list[tuple[str, str]]]:
    """Read the text's side: weights by their published names, the tokenizer's tokens, its merges. As ``load_audio``."""
    info, header = _opened(path)
    weights = _read(path, header, TEXT)
    content = tensorfile.read_text(path, TOKENIZER)
    if _text_digest(info.description, weights, content) != info.text_sha256:
        raise ModelError(f"{path}: its text's side was changed after it was converted: add the checkpoint again")
    tokenizer = parse_json(content)
    return info, weights, tokenizer["tokens"], [(left, right) for left, right in tokenizer["merges"]]


def _opened(path: Path) -> tuple[ClapInfo, Header]:
    header = tensorfile.read_header(path)
    return inspect(path, header), header


def _read(path: Path, header: Header, prefixes: tuple[str, ...]) -> dict[str, np.ndarray]:
    return tensorfile.read_arrays(path, {k: shape for k, shape in header.shapes.items() if k.startswith(prefixes)})


def _ids(of: Description, weights: Mapping[str, np.ndarray]) -> tuple[str, str]:
    """The ids of vectors and of audio vectors: hex sha256 of weights, and of all numbers that affect them."""
    network = {key: array for key, array in weights.items() if key.startswith(AUDIO)}
    projection = {key: array for key, array in weights.items() if key.startswith(AUDIO_WORDS)}
    encoder = tensorfile.digest({"kind": KIND, "front_end": of.front_end, "audio": of.audio}, network)
    about = {"kind": "clap words", "encoder_id": encoder, "projection": of.projection}
    return encoder, tensorfile.digest(about, projection)


def _text_digest(of: Description, weights: Mapping[str, np.ndarray], tokenizer: str) -> str:
    hashed = sha256(tokenizer.encode()).hexdigest()
    about = {"kind": "clap text", "text": of.text, "projection": of.projection, "tokenizer": hashed}
    return tensorfile.digest(about, weights)


def _write(source: Path, dest: Path, name: str) -> None:
    from indexer.encoders.clap import model

    found = published.read(source)
    try:
        model.tokenizer(found.description, found.tokens, found.merges)
        expected = model.expected_shapes(found.description)
        for side, what in (("text_model.", "text encoder"), (AUDIO, "audio encoder")):
            if not any(key.startswith(side) for key in found.tensors):
                raise ModelError(f"{side.rstrip('.')}: missing from the checkpoint, which holds no {what}")
        for key, shape in expected.items():
            if key not in found.tensors:
                raise ModelError(f"{key}: missing from the checkpoint")
            if tuple(found.tensors[key].shape) != shape:
                raise ModelError(f"{key}: shape {list(found.tensors[key].shape)} where {list(shape)} is expected")
    except ModelError as error:
        raise error if NEEDS_EXTRA in str(error) else ModelError(f"{source}: {error}") from error
    weights = {key: found.tensors[key].numpy() for key in expected}
    tokenizer = json.dumps({"tokens": found.tokens, "merges": found.merges}, ensure_ascii=False)
    encoder, words = _ids(found.description, {k: array for k, array in weights.items() if not k.startswith(TEXT)})
    about = {
        "kind": KIND,
        "format_version": FORMAT_VERSION,
        "name": name,
        "encoder_id": encoder,
        "source_sha256": found.sha256,
        "description": asdict(found.description),
        "words_id": words,
        "text_sha256": _text_digest(
            found.description, {k: array for k, array in weights.items() if k.startswith(TEXT)}, tokenizer
        ),
    }
    tensorfile.write(dest, weights, about, {TOKENIZER: tokenizer})


def _copy(source: Path, dest: Path, name: str | None) -> None:
    info, audio = load_audio(source)
    about = tensorfile.read_header(source).about | {"name": name or info.name}
    text = load_text(source)[1]
    tensorfile.write(dest, audio | text, about, {TOKENIZER: tensorfile.read_text(source, TOKENIZER)})
