"""Finds and loads the head that a name stands for: 'audioset' or a head file."""

from pathlib import Path

from indexer.encoders import tensorfile
from indexer.errors import ModelError
from indexer.heads.head import Head


def load_head(path: str | Path) -> Head:
    """Load a head from its own file, or the AudioSet head from an encoder's ``model.safetensors``.

    Raises ModelError with one line for a file that is damaged, edited, of a wrong shape, or holds no head.
    """
    from indexer.heads.audioset import AudioSetHead
    from indexer.heads.linear import LinearHead

    path = Path(path)
    kind = tensorfile.read_header(path).about.get("kind")
    if kind == "linear":
        return LinearHead.load(path)
    if kind == "m2d":
        return AudioSetHead.load(path)
    raise ModelError(f"{path}: holds no head of a kind that this version knows")


def audioset_head(path: str | Path) -> Head:
    """Return the AudioSet head in a fine-tuned encoder's ``model.safetensors``. Raises ModelError without one."""
    from indexer.heads.audioset import AudioSetHead

    return AudioSetHead.load(Path(path))
