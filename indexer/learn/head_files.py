"""The files of heads beside the library: their folder, their names, and which of them a library knows already."""

import re
from pathlib import Path

from indexer.config import Settings
from indexer.errors import ConfigError, ModelError
from indexer.heads.load import load_head
from indexer.library.store import Store

FOLDER = "heads"  # beside the database
_NAME = re.compile(r"\w[\w .+-]{0,99}")


def check_name(name: str | None) -> None:
    """Raise ConfigError for a name that a head's file cannot have; None: the default."""
    if name is not None and not _NAME.fullmatch(name):
        raise ConfigError(f"--name: '{name}' must be letters, digits, space, '.', '+', '-' and '_' (at most 100)")


def folder_of(settings: Settings) -> Path:
    """The folder of heads, which need not be there yet."""
    return settings.db.absolute().parent / FOLDER


def make(folder: Path) -> None:
    """Make the folder of heads. Raises ModelError."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as e:
        raise ModelError(f"cannot make {folder}: {e.strerror}") from e


def path_of(folder: Path, name: str) -> Path:
    """The file of a head of this name."""
    return folder / f"{name}.safetensors"


def refuse_taken(folder: Path, name: str) -> None:
    """Raise ConfigError where there is a head of the name that a person gave."""
    if path_of(folder, name).exists():
        raise ConfigError(f"--name: there is a head '{name}' already; choose another name")


def free(folder: Path, name: str) -> Path:
    """A path that no other head has: of this name, or with a number behind it."""
    path, number = path_of(folder, name), 1
    while path.exists():
        number += 1
        path = path_of(folder, f"{name}-{number}")
    return path


def known(store: Store, head_id: str) -> tuple[str, Path] | None:
    """Name and file of the saved head that equals this one; None where there is none."""
    row = store.head(head_id)
    if row is None or not row["source"]:
        return None
    path = Path(row["source"])
    try:
        return (row["name"], path) if load_head(path).id == head_id else None
    except ModelError:
        return None
