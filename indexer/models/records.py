"""Reads and writes the JSON records of the models folder; locks models and hashes files.

A record is replaced atomically. Never touches the network.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from indexer.errors import ModelError
from indexer.files.foreign import parse_json
from indexer.files.replace import replacing
from indexer.library.lock import open_own


def megabytes(size_bytes: float) -> str:
    """Return a size as text, in MB of a million bytes."""
    return f"{size_bytes / 1e6:,.1f} MB"


def write_problem(path: Path, error: OSError) -> ModelError:
    """Return the error for the user when a write to ``path`` failed."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ModelError(f"disk full at {path}: free some space and run the same command again")
    return ModelError(f"cannot write {path}: {error.strerror or error}")


def read_json(path: Path) -> dict[str, Any] | None:
    """Return the JSON object in ``path``; None where the file is missing, unreadable or no JSON object."""
    try:
        value = parse_json(path.read_bytes())
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write ``value`` to ``path``; a crash leaves the old or the new record. Raises OSError."""
    with replacing(path, 0o644) as file:
        file.write(json.dumps(value, indent=2, sort_keys=True).encode() + b"\n")


@contextlib.contextmanager
def writing(models_dir: Path) -> Iterator[None]:
    """Create the models folder, and turn an OSError of the body into a ModelError for the user."""
    try:
        models_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        yield
    except OSError as error:
        raise write_problem(Path(error.filename) if isinstance(error.filename, str) else models_dir, error) from error


@contextlib.contextmanager
def locked(models_dir: Path, name: str, *, wait: bool = False) -> Iterator[None]:
    """Lock one model against other processes; the lock file is removed at the end.

    Raises ModelError when another process holds the lock, unless ``wait``.
    """
    path = models_dir / f".{name}.lock"
    while True:
        descriptor = open_own(path, os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            # If the former holder removed the file that was opened here, the lock is worthless: try again.
            if os.path.lexists(path) and os.path.samestat(os.fstat(descriptor), path.lstat()):
                break
        except BlockingIOError as error:
            os.close(descriptor)
            raise ModelError(f"another indexer is working on model {name}: wait until it is done") from error
        except FileNotFoundError:
            pass
        os.close(descriptor)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def sha256_of(files: list[Path]) -> str:
    """Return the SHA-256, in hex, of the files' contents one after the other. Raises ModelError."""
    digest = hashlib.sha256()
    for path in files:
        try:
            with path.open("rb") as file:
                hashlib.file_digest(file, lambda: digest)  # continues the same digest
        except OSError as error:
            raise ModelError(f"cannot read {path}: {error.strerror}") from error
    return digest.hexdigest()
