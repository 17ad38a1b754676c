"""Reads checkpoints as NTT publishes them: a pickled .pth, the .zip around one, or the folder it unpacks to.

The files are untrusted: pickles are loaded only with weights_only and one extra safe class, names in a zip are never
used as paths, and sizes are bounded. Returns the encoder's tensors; never writes a model.
"""

import contextlib
import hashlib
import lzma
import re
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import torch

from indexer.encoders import pickled
from indexer.encoders.m2d import words
from indexer.errors import ModelError

PREFIXES = ("", "backbone.", "module.ar.runtime.backbone.")
HEAD_KEYS = {
    "head.mean": "module.head.norm.running_mean",
    "head.var": "module.head.norm.running_var",
    "head.weight": "module.head.mlp.mlp.0.weight",
    "head.bias": "module.head.mlp.mlp.0.bias",
}
HEAD_CLASSES = 527
MAX_BYTES = 8 << 30  # the largest published file is 1.3 GB
TEXT_ENCODER = "text_encoder.text_encoder."  # before BERT's own names
# Of BERT, what its vectors depend on: not the pooler, nor counters kept as tensors.
_BERT_KEY = re.compile(r"(embeddings\.(\w+_embeddings|LayerNorm)|encoder\.layer\.\d+\..+)\.(weight|bias)", re.ASCII)
_ENCODER_KEY = re.compile(r"(cls_token|pos_embed|norm_stats|(patch_embed|norm|blocks)\..+)", re.ASCII)
_BAD_ZIP = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError, ValueError, OverflowError)


@dataclass(frozen=True, slots=True)
class Published:
    """The parts of a published checkpoint that the program uses."""

    tensors: dict[str, torch.Tensor]  # the encoder's, float32, by name without prefix; shapes are not checked
    head: dict[str, torch.Tensor]  # head.mean, head.var, head.weight, head.bias, or empty
    words: dict[str, torch.Tensor]  # audio_proj.*, text_proj.* and bert.* by the names in words.py
    norm_stats: tuple[float, float] | None
    sha256: str  # of the file that was read: the zip or the pth
    names: tuple[str, ...]  # of the file and its folder: hints, never paths


def read(source: Path, scratch: Path) -> Published:
    """Read a .pth, a .zip or a folder; a zip is unpacked into ``scratch`` during the call.

    The tensors may be views of the file. Raises ModelError with one line for any fault in the source.
    """
    file = _only_pth(source) if source.is_dir() else source
    names = [file.name, file.parent.name]
    try:
        with file.open("rb") as opened:
            digest = hashlib.file_digest(opened, "sha256").hexdigest()
            opened.seek(0)
            member = _zipped_pth(opened, file) if opened.read(4) == b"PK\x03\x04" else None
            if member is None:
                return _assemble(file, file, digest, names)
            with _extracted(opened, member, file, scratch) as pth:
                return _assemble(pth, file, digest, [*names, member.filename])
    except OSError as error:
        raise ModelError(f"cannot read {file}: {error.strerror or error}") from error


def _only_pth(folder: Path) -> Path:
    found = sorted(folder.rglob("*.pth"))
    if len(found) != 1:
        raise ModelError(f"{folder}: holds {len(found) or 'no'} .pth files, one is expected")
    return found[0]


def _zipped_pth(opened: BinaryIO, path: Path) -> zipfile.ZipInfo | None:
    """Return the .pth inside a published zip, or None where the zip is itself a .pth (torch's own format is a zip)."""
    opened.seek(0)
    try:
        with zipfile.ZipFile(opened) as archive:
            members = archive.infolist()
    except _BAD_ZIP as error:
        raise ModelError(f"{path}: cut off or damaged ({error})") from error
    if any(re.fullmatch(r"[^/]+/data\.pkl", member.filename) for member in members):
        return None
    for member in members:
        if member.filename.startswith("/") or "\\" in member.filename or ".." in PurePosixPath(member.filename).parts:
            raise ModelError(f"{path}: refused, a name in it points outside its folder: {member.filename!r:.80}")
    found = [m for m in members if m.filename.endswith(".pth") and not m.filename.startswith("__MACOSX/")]
    if len(found) != 1:
        raise ModelError(f"{path}: holds {len(found) or 'no'} .pth files, one is expected")
    if found[0].file_size > MAX_BYTES:
        raise ModelError(f"{path}: refused, it claims to unpack to {found[0].file_size / 1e9:.0f} GB")
    return found[0]


@contextlib.contextmanager
def _extracted(opened: BinaryIO, member: zipfile.ZipInfo, path: Path, scratch: Path) -> Iterator[Path]:
    free = shutil.disk_usage(scratch).free
    if member.file_size > free:
        raise ModelError(f"not enough space in {scratch}: {path.name} unpacks to {member.file_size / 1e6:.0f} MB")
    with tempfile.NamedTemporaryFile(dir=scratch, prefix=".unpack-", suffix=".tmp") as target:
        try:
            with zipfile.ZipFile(opened) as archive, archive.open(member) as packed:
                shutil.copyfileobj(packed, target, 1 << 20)  # zipfile stops at the declared size and checks the CRC
        except _BAD_ZIP as error:
            raise ModelError(f"{path}: cut off or damaged ({error})") from error
        target.flush()
        yield Path(target.name)


def _assemble(pth: Path, path: Path, digest: str, names: list[str]) -> Published:
    """Load ``pth`` and pick the tensors in use; errors name ``path``, the file that the user passed."""
    loaded = pickled.load(pth, path)
    state = loaded.get("model", loaded) if isinstance(loaded, dict) else None
    if not isinstance(state, dict):
        raise ModelError(f"{path}: not a checkpoint: it holds no dictionary of tensors")
    prefix = next((prefix for prefix in PREFIXES if f"{prefix}cls_token" in state), None)
    if prefix is None:
        raise ModelError(f"{path}: not an M2D checkpoint: cls_token is missing")
    named = {
        key[len(prefix) :]: value for key, value in state.items() if isinstance(key, str) and key.startswith(prefix)
    }
    found = {key: value for key, value in named.items() if _ENCODER_KEY.fullmatch(key)}
    check = pickled.tensor_checker(path, pth.stat().st_size)
    tensors = {key: check(key, value) for key, value in found.items()}
    stats = tensors.pop("norm_stats", None)
    if stats is None and "norm_stats" in state:
        stats = check("norm_stats", state["norm_stats"])
    if stats is not None and stats.numel() != 2:
        raise ModelError(f"norm_stats: {stats.numel()} numbers where a mean and a standard deviation are expected")
    norm = (float(stats.flatten()[0]), float(stats.flatten()[1])) if stats is not None else None
    return Published(tensors, _head(state, check), _words(state, prefix, check), norm, digest, tuple(names))


def _words(
    state: Mapping[Any, Any], prefix: str, check: Callable[[str, object], torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Return what leads from patch tokens, and from text, to the space of words; empty where there is nothing of it."""
    found: dict[str, torch.Tensor] = {}
    for key in state:
        name = key.removeprefix(prefix) if isinstance(key, str) else ""
        if name.startswith(TEXT_ENCODER):
            own = name.removeprefix(TEXT_ENCODER)
            if _BERT_KEY.fullmatch(own):
                found[words.BERT + own] = check(name, state[key])
        elif name.startswith((words.AUDIO, words.TEXT)):
            found[name] = check(name, state[key])
    for name in [name for name in found if name.endswith(".attn.qkv.weight")]:  # blocks made without this bias
        found.setdefault(name.replace(".weight", ".bias"), torch.zeros(len(found[name])))
    return found


def _head(state: Mapping[Any, Any], check: Callable[[str, object], torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the AudioSet head; empty where there is none or it has other classes."""
    weight = state.get(HEAD_KEYS["head.weight"])
    if not isinstance(weight, torch.Tensor) or weight.ndim != 2 or weight.shape[0] != HEAD_CLASSES:
        return {}
    for key in HEAD_KEYS.values():
        if key not in state:
            raise ModelError(f"{key}: missing from the checkpoint")
    return {ours: check(theirs, state[theirs]) for ours, theirs in HEAD_KEYS.items()}
