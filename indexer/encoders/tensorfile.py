"""Reads and writes our own safetensors files: named float32 arrays and one JSON object that describes them.

Writes atomically; any damage found on reading is a ModelError with one clear line. Numpy only: knows no model, and
never imports torch or opens a pickle.
"""

import contextlib
import hashlib
import json
import mmap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from indexer.errors import ModelError
from indexer.files.foreign import parse_json
from indexer.files.replace import replacing

_KEY = "indexer"  # the safetensors metadata entry that holds the description
MAX_TENSORS = 2_000  # of a file that is read; each is a map of memory, and the largest model has some 200
HEADER_BYTES = 16 << 20  # of a file that is read; a head of 1,000 labels needs a quarter of it


@dataclass(frozen=True, slots=True)
class Header:
    """A file's description and the shapes of its tensors, read without the tensors."""

    about: dict[str, Any]  # the JSON object
    shapes: dict[str, tuple[int, ...]]


def read_header(path: Path) -> Header:
    """Read the description and the shapes; raises ModelError for a file that is missing, damaged or not ours."""
    with _opened(path) as file:
        if len(file.keys()) > MAX_TENSORS:
            raise ModelError(f"{path}: holds more than {MAX_TENSORS:,} tensors, which no model of this program does")
        text = (file.metadata() or {}).get(_KEY)
        shapes, types = {}, {}
        for key in file.keys():  # noqa: SIM118 - no mapping
            piece = file.get_slice(key)
            shapes[key], types[key] = tuple(piece.get_shape()), piece.get_dtype()
    if text is None:
        raise ModelError(f"{path}: not a model file of this program (add checkpoints with `indexer models add`)")
    try:
        about = parse_json(text)
    except ValueError as error:
        raise ModelError(f"{path}: its description is damaged") from error
    if not isinstance(about, dict):
        raise ModelError(f"{path}: its description is damaged")
    for key, kind in types.items():
        if kind != "F32":
            raise ModelError(f"{path}: {key} holds {kind} numbers, not F32")
    return Header(about, shapes)


def read_arrays(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Map some arrays into memory (copy on write).

    Call ``read_header`` first: it checks that the file is whole. Raises ModelError for a key that is missing or has
    another shape, NaN or infinity.
    """
    arrays = {}
    with _opened(path), path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        places = parse_json(file.read(length))
        for key, shape in shapes.items():
            if tuple(places.get(key, {}).get("shape", ())) != shape or 0 in shape:
                raise ModelError(f"{path}: {key} is missing or has another shape than {list(shape)}")
            start = 8 + length + places[key]["data_offsets"][0]
            # One map for each array, so that its memory is freed together with the array.
            arrays[key] = np.require(np.memmap(file, "<f4", "c", start, shape), np.float32, "A")
    for key, array in arrays.items():
        if not np.isfinite(array).all():
            raise ModelError(f"{path}: {key} holds NaN or infinity")
    return arrays


def release(arrays: Mapping[str, np.ndarray]) -> None:
    """Free the memory of unmodified arrays that ``read_arrays`` mapped; reading them again reads the file again."""
    for array in arrays.values():
        if isinstance(array.base, mmap.mmap):
            array.base.madvise(mmap.MADV_DONTNEED)


def read_text(path: Path, name: str) -> str:
    """Read a text that was written beside the description. Raises ModelError where there is none."""
    with _opened(path) as file:
        text = (file.metadata() or {}).get(name)
    if text is None:
        raise ModelError(f"{path}: holds no {name}: add it again with `indexer models add`")
    return str(text)


def write(
    path: Path, arrays: Mapping[str, np.ndarray], about: Mapping[str, Any], texts: Mapping[str, str] | None = None
) -> None:
    """Write float32 arrays, their description and further texts by name, atomically and durably.

    Raises ModelError where the folder cannot be written.
    """
    contiguous = {key: np.ascontiguousarray(array, np.float32) for key, array in arrays.items()}
    try:
        with replacing(path, 0o644) as file:
            safetensors.numpy.save_file(contiguous, file.name, {**(texts or {}), _KEY: json.dumps(about)})
    except (OSError, safetensors.SafetensorError) as error:
        raise ModelError(f"cannot write {path}: {_reason(error)}") from error


def digest(about: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> str:
    """Return the hex sha256 over numbers and arrays in one canonical form: sorted names, little-endian float32."""
    sha = hashlib.sha256(json.dumps(about, sort_keys=True, separators=(",", ":")).encode())
    for key in sorted(arrays):
        array = np.ascontiguousarray(arrays[key], "<f4")
        sha.update(json.dumps([key, "<f4", list(array.shape)], separators=(",", ":")).encode())
        sha.update(array.reshape(-1).view(np.uint8).data)
    return sha.hexdigest()


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with path.open("rb") as plain:  # gives the reason that safetensors' own message hides
            length = int.from_bytes(plain.read(8), "little")
        if length > HEADER_BYTES:
            raise ModelError(f"{path}: damaged, or its description is larger than {HEADER_BYTES >> 20} MB")
        with safetensors.safe_open(path, framework="np") as file:
            yield file
    except safetensors.SafetensorError as error:
        raise ModelError(f"{path}: damaged or cut off, not a whole safetensors file ({_reason(error)})") from error
    except OSError as error:
        raise ModelError(f"cannot read {path}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split())[:200]
