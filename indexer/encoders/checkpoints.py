"""Converted checkpoints of any kind: which kind a file is, its description, and the encoder that it becomes.

Imports torch only to load an encoder, or to convert what was published.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from indexer.encoders import tensorfile
from indexer.encoders.clap import checkpoint as clap
from indexer.encoders.clap import published as published_clap
from indexer.encoders.clap.description import NEEDS_EXTRA
from indexer.encoders.encoder import Encoder
from indexer.encoders.huggingface import transformers
from indexer.encoders.m2d import checkpoint as m2d

# Of a published folder, in order: of each part, groups of file names; it needs all of one group. The weights are last.
PUBLISHED_PARTS = published_clap.PARTS


class Checkpoint(Protocol):
    """The description of a converted checkpoint; ids, widths and units as in ``Encoder``."""

    @property
    def path(self) -> Path:
        """Of the safetensors file."""
        ...

    @property
    def name(self) -> str:
        """The model's name."""
        ...

    @property
    def encoder_id(self) -> str:
        """Of its vectors."""
        ...

    @property
    def source_sha256(self) -> str:
        """Hex, of the file it was converted from."""
        ...

    @property
    def vector_width(self) -> int:
        """Numbers in a vector."""
        ...

    @property
    def sample_rate_hz(self) -> int:
        """The sample rate of the front end."""
        ...

    @property
    def unit_s(self) -> float:
        """Duration of a full unit in seconds."""
        ...

    @property
    def head_width(self) -> int | None:
        """Inputs of the AudioSet head; None without one."""
        ...

    @property
    def words_id(self) -> str | None:
        """Of its audio vectors; None: it knows no words."""
        ...

    @property
    def words_width(self) -> int:
        """Numbers in an audio vector; 0: it knows no words."""
        ...

    @property
    def text_sha256(self) -> str | None:
        """Hex, over all of the text's side that the checkpoint holds."""
        ...

    def facts(self) -> dict[str, Any]:
        """What `models info` tells beside these."""
        ...


def inspect(path: Path) -> Checkpoint:
    """Read the description of a converted checkpoint, without torch and without its weights.

    Raises ModelError for a file that is missing, damaged, of a newer format or not ours.
    """
    header = tensorfile.read_header(path)
    return clap.inspect(path, header) if header.about.get("kind") == clap.KIND else m2d.inspect(path, header)


def published_files(source: Path) -> list[Path] | None:
    """The files of a published folder that are converted together; None: it is no such folder. Raises ModelError."""
    return published_clap.files(source) if published_clap.is_published(source) else None


def whole(source: Path) -> Path:
    """The published folder that a file of weights lies in; any other source is itself."""
    in_folder = any([source.name] == list(group) for group in published_clap.WEIGHTS)
    return source.parent if in_folder and published_clap.is_published(source.parent) else source


def check_extra() -> None:
    """Raise ModelError where what a published folder needs to be converted is not installed."""
    transformers(NEEDS_EXTRA)


def convert(source: Path, dest_folder: Path, *, name: str | None = None) -> Path:
    """Convert a published or converted checkpoint to ``dest_folder/model.safetensors``; return that path.

    Raises ModelError with one line for a source that is damaged, hostile or no checkpoint.
    """
    converted = source / m2d.FILE_NAME if source.is_dir() else source
    if published_clap.is_published(source):
        return clap.convert(source, dest_folder, name=name)
    if converted.suffix == ".safetensors" and converted.is_file() and isinstance(inspect(converted), clap.ClapInfo):
        return clap.convert(converted, dest_folder, name=name)
    return m2d.convert(source, dest_folder, name=name)


def load(path: Path, *, device: str, precision: str) -> Encoder:
    """Load a converted checkpoint as an encoder; see ``load_encoder``."""
    if isinstance(inspect(path), clap.ClapInfo):
        from indexer.encoders.clap.encoder import ClapEncoder

        return ClapEncoder(path, device=device, precision=precision)
    from indexer.encoders.m2d.encoder import M2DEncoder

    return M2DEncoder(path, device=device, precision=precision)


def prepare(path: Path, progress: Callable[[str, int, int], None]) -> None:
    """Prepare a converted checkpoint for this processor, where its kind can be prepared. Raises ModelError."""
    if isinstance(inspect(path), m2d.CheckpointInfo):
        from indexer.encoders.m2d import prepare as of_m2d

        of_m2d.prepare(path, progress)
