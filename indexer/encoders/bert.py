"""A text encoder that is fetched by itself: BERT's tensors in a file of our own, and a WordPiece vocabulary.

Converts what Hugging Face publishes (safetensors, never a pickle). Needs neither torch nor transformers.
"""

import re
from pathlib import Path

import numpy as np
import safetensors

from indexer.encoders import tensorfile
from indexer.encoders.m2d.words import BERT, MAX_VOCABULARY, Bert, bert_from_shapes
from indexer.errors import ModelError

WEIGHTS, VOCABULARY = "text.safetensors", "vocab.txt"  # the files' names in a model's folder
KIND = "bert"
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
VOCABULARY_BYTES = 8 << 20  # BERT base's has 0.2 MB
_TENSOR = re.compile(
    r"(?:bert\.)?((?:embeddings\.(?:\w+_embeddings|LayerNorm)|encoder\.layer\.\d+\..+)\.(?:weight|bias))", re.ASCII
)


def convert(source: Path, folder: Path, name: str) -> Path:
    """Convert a published ``model.safetensors`` of a BERT to ``folder/text.safetensors``; return that path.

    Raises ModelError with one line for a file that is damaged, holds NaN, or is no BERT.
    """
    arrays: dict[str, np.ndarray] = {}
    try:
        with safetensors.safe_open(source, framework="np") as file:
            for key in file.keys():  # noqa: SIM118 - no mapping
                match = _TENSOR.fullmatch(key)
                if match and file.get_slice(key).get_dtype() in ("F32", "F16"):
                    arrays[BERT + match[1]] = np.asarray(file.get_tensor(key), np.float32)
    except (safetensors.SafetensorError, OSError) as error:
        raise ModelError(f"{source}: damaged, or no safetensors file ({' '.join(str(error).split())[:200]})") from error
    try:
        if bert_from_shapes({key: array.shape for key, array in arrays.items()}) is None:
            raise ModelError("not the weights of a BERT in 32 or 16 bit")
        for key, array in arrays.items():
            if not np.isfinite(array).all():
                raise ModelError(f"{key.removeprefix(BERT)}: holds NaN or infinity")
    except ModelError as error:
        raise ModelError(f"{source}: {error}") from error
    path = folder / WEIGHTS
    tensorfile.write(path, arrays, {"kind": KIND, "name": name, "sha256": tensorfile.digest({}, arrays)})
    return path


def is_published(path: Path) -> bool:
    """Whether a file is a safetensors file that holds a BERT by its published names."""
    try:
        with safetensors.safe_open(path, framework="np") as file:
            return any((match := _TENSOR.fullmatch(key)) and "word_embeddings" in match[1] for key in file.keys())  # noqa: SIM118
    except (safetensors.SafetensorError, OSError):
        return False


def load(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a converted file. Raises ModelError where it is damaged, was edited, or is something else."""
    header = tensorfile.read_header(path)
    shape = bert_from_shapes(header.shapes)
    if header.about.get("kind") != KIND or shape is None:
        raise ModelError(f"{path}: no text encoder: install it again")
    arrays = tensorfile.read_arrays(path, shape.shapes())
    if tensorfile.digest({}, arrays) != header.about.get("sha256"):
        raise ModelError(f"{path}: its weights were changed after it was converted: install it again")
    return arrays


def check_vocabulary(path: Path, shape: Bert | None = None) -> list[str]:
    """The tokens of a vocabulary file, in order. Raises ModelError for none at all, or one of another BERT."""
    try:
        with path.open("rb") as file:
            content = file.read(VOCABULARY_BYTES + 1)
        tokens = content.decode().split("\n")
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ModelError(f"{path}: not a vocabulary: it is no text") from error
    tokens = [token.rstrip("\r") for token in (tokens[:-1] if tokens[-1] == "" else tokens)]
    if len(content) > VOCABULARY_BYTES or len(tokens) > MAX_VOCABULARY or not set(SPECIAL) <= set(tokens):
        raise ModelError(f"{path}: not a vocabulary of BERT's: one token a line, {', '.join(SPECIAL)} among them")
    if shape is not None and len(tokens) != shape.vocabulary:
        raise ModelError(
            f"{path}: a vocabulary of {len(tokens):,} tokens, and the text encoder has {shape.vocabulary:,}:"
            " `indexer models download bert-base-uncased` fetches the right one"
        )
    return tokens
