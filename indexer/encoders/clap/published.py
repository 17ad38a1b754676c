"""Reads LAION-CLAP checkpoints as Hugging Face publishes them: a folder of weights, sizes, front end and tokenizer.

The files are untrusted: each is bounded, a pickle is loaded with weights_only, and of a tokenizer only its tokens and
merges are taken. Imports torch only to read weights.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from indexer.encoders.clap.description import MAX_VOCABULARY, Description, described
from indexer.errors import ModelError
from indexer.files.foreign import parse_json

if TYPE_CHECKING:
    import torch

CONFIG, FRONT_END = "config.json", "preprocessor_config.json"
# Each line: files of which a folder needs all of the first group that it has.
WEIGHTS = (("model.safetensors",), ("pytorch_model.bin",))
TOKENIZER = (("tokenizer.json",), ("vocab.json", "merges.txt"))
PARTS = (((CONFIG,),), ((FRONT_END,),), TOKENIZER, WEIGHTS)
MODEL_TYPE = "clap"
JSON_BYTES = 8 << 20  # of a file beside the weights; RoBERTa's tokenizer.json has 2.1 MB


@dataclass(frozen=True, slots=True)
class Published:
    """The parts of a published checkpoint that the program uses."""

    description: Description
    tensors: dict[str, "torch.Tensor"]  # float32, by their published names
    tokens: list[str]  # by their numbers
    merges: list[tuple[str, str]]
    sha256: str  # of the weights' file


def is_published(folder: Path) -> bool:
    """Whether this is a folder whose config.json says that it holds a CLAP model."""
    try:
        return folder.is_dir() and _json(folder / CONFIG).get("model_type") == MODEL_TYPE
    except ModelError:
        return False


def files(folder: Path) -> list[Path]:
    """The files of the folder that are used, the weights last. Raises ModelError where one is missing."""
    found = []
    for groups in PARTS:
        names = next((group for group in groups if all((folder / name).is_file() for name in group)), None)
        if names is None:
            wanted = " or ".join(" with ".join(group) for group in groups)
            raise ModelError(f"{folder}: no {wanted} in it: a CLAP model needs it")
        found += [folder / name for name in names]
    return found


def read(folder: Path) -> Published:
    """Read a folder. Raises ModelError with one line for any fault; shapes of tensors are not checked."""
    paths = {path.name: path for path in files(folder)}
    weights = next(path for path in paths.values() if (path.name,) in WEIGHTS)
    try:
        description = described(_json(paths[CONFIG]), _json(paths[FRONT_END]))
        tokens, merges = _tokenizer(paths)
    except ModelError as error:
        raise error if str(folder) in str(error) else ModelError(f"{folder}: {error}") from error
    try:
        with weights.open("rb") as opened:
            sha256 = hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        raise ModelError(f"cannot read {weights}: {error.strerror or error}") from error
    return Published(description, _tensors(weights), tokens, merges, sha256)


def _tensors(path: Path) -> dict[str, "torch.Tensor"]:
    import safetensors

    from indexer.encoders import pickled

    check = pickled.tensor_checker(path, path.stat().st_size)
    found: dict[str, torch.Tensor] = {}
    try:
        if path.suffix == ".safetensors":
            with safetensors.safe_open(path, framework="pt") as file:
                for key in file.keys():  # noqa: SIM118 - no mapping
                    if file.get_slice(key).get_dtype() in ("F32", "F16", "BF16"):  # the others are counters
                        found[key] = check(key, file.get_tensor(key))
            return found
        state = pickled.load(path, path)
    except (safetensors.SafetensorError, OSError) as error:
        why = " ".join(str(error).split())[:200]
        raise ModelError(f"{path}: damaged or cut off, not a whole safetensors file ({why})") from error
    except ModelError as error:
        raise error if str(path) in str(error) else ModelError(f"{path}: {error}") from error
    if not isinstance(state, dict) or not all(isinstance(key, str) for key in state):
        raise ModelError(f"{path}: not a checkpoint: it holds no dictionary of tensors")
    floating = {key: value for key, value in state.items() if getattr(value, "is_floating_point", lambda: True)()}
    try:
        return {key: check(key, value) for key, value in floating.items()}
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error


def _tokenizer(paths: dict[str, Path]) -> tuple[list[str], list[tuple[str, str]]]:
    """The tokens in the order of their numbers, and the merges in the order of their rank."""
    if "tokenizer.json" in paths:
        path = paths["tokenizer.json"]
        whole = _json(path)
        model = whole.get("model")
        numbers, merges = (model.get("vocab"), model.get("merges")) if isinstance(model, dict) else (None, None)
        added = whole.get("added_tokens") or []
        if isinstance(numbers, dict) and isinstance(added, list):
            whole_tokens = (token for token in added if isinstance(token, dict) and {"content", "id"} <= token.keys())
            numbers = numbers | {token["content"]: token["id"] for token in whole_tokens}
    else:
        path = paths["vocab.json"]
        numbers = _json(path)
        merges = [line for line in _text(paths["merges.txt"]).split("\n") if line and not line.startswith("#version")]
    if (
        not isinstance(numbers, dict)
        or len(numbers) > MAX_VOCABULARY
        or any(type(number) is not int for number in numbers.values())
        or sorted(numbers.values()) != list(range(len(numbers)))
    ):
        raise ModelError(f"{path}: not a vocabulary: its tokens are not numbered from 0 on")
    return sorted(numbers, key=numbers.__getitem__), _pairs(merges, path)


def _pairs(merges: Any, path: Path) -> list[tuple[str, str]]:
    found = []
    for merge in merges if isinstance(merges, list) and len(merges) <= MAX_VOCABULARY else [None]:
        pair = merge.split(" ") if isinstance(merge, str) else merge
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(token, str) for token in pair):
            raise ModelError(f"{path}: no tokenizer of byte pairs: its merges are not pairs of tokens")
        found.append((pair[0], pair[1]))
    return found


def _json(path: Path) -> dict[str, Any]:
    try:
        value = parse_json(_text(path))
    except ValueError as error:
        raise ModelError(f"{path}: not JSON, or cut off") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path}: not a JSON object")
    return value


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(JSON_BYTES + 1)
        if len(content) > JSON_BYTES:
            raise ModelError(f"{path}: larger than {JSON_BYTES >> 20} MB")
        return content.decode()
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ModelError(f"{path}: it is no text") from error
