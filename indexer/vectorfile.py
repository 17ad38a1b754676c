"""An encoder's vectors as a memory-mapped file beside the database, ready for one matrix product: derived, made anew when stale.

Owns the file's form. A row is a recording's direction: its vector without the mean of all, of length 1, because vectors of different
tracks are nearly parallel before (cosines of .96 and more). Reads the database, never writes to it.
"""

import json
import os
import tempfile
import time
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from indexer.errors import StoreError
from indexer.training_data import Reader

FOLDER = "vectors"  # beside the database
_VERSION = 2
_HEADER_BYTES = 4096
_PAGE_ROWS = 500
_ABANDONED_S = 3600.0  # a file in the making that nobody wrote to for so long was left by a killed process


@dataclass(frozen=True, slots=True, eq=False)
class Directions:
    """Recordings and their directions, a row each, by recording id."""

    recordings: np.ndarray  # (n,) int64, ascending
    directions: np.ndarray  # (n, width) float32 of length 1; zero for a vector that is the mean

    def cosines(self, row: int) -> np.ndarray:
        """Return (n,) float32: the centred cosine of every row with this one."""
        return np.asarray(self.directions @ np.array(self.directions[row]))


def open_directions(reader: Reader, db: Path, encoder_id: str) -> Directions:
    """The directions of all that an encoder has soundly embedded. Raises StoreError when there is no room to keep them."""
    path = _path(db, encoder_id)
    reader.execute("SAVEPOINT directions")  # one state of the library through both readings, whatever a scan writes meanwhile
    try:
        # A library that was deleted and scanned again, or another one in this folder, may count as many changes.
        row = reader.execute("SELECT width, changes, (SELECT min(applied_at) FROM _sqlite_migrations) AS made_at FROM encoders WHERE id = ?",
                             (encoder_id,)).fetchone()
        about = {"version": _VERSION, "encoder": encoder_id, **dict(row)}
        return _load(path, about) or _make(reader, path, about)
    finally:
        reader.execute("RELEASE directions")


def remove_unused(db: Path, encoder_ids: Collection[str]) -> None:
    """Remove the files of all encoders but these."""
    kept = {_path(db, encoder_id).name for encoder_id in encoder_ids}
    for path in (db.absolute().parent / FOLDER).glob("*.directions"):
        if path.name not in kept:
            path.unlink(missing_ok=True)


def _path(db: Path, encoder_id: str) -> Path:
    return db.absolute().parent / FOLDER / f"{encoder_id[:16]}.directions"


def _load(path: Path, about: dict[str, Any]) -> Directions | None:
    """The file's content; None when it is not there, stale, cut off or something else."""
    try:
        with path.open("rb") as file:
            header = json.loads(file.read(_HEADER_BYTES))
        n, width = header.pop("rows"), about["width"]
        if header != about or path.stat().st_size != _HEADER_BYTES + n * (8 + 4 * width):
            return None
        found = _mapped(path, n, width)
        return found if (np.diff(found.recordings) > 0).all() else None
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return None


def _mapped(file: Any, n: int, width: int) -> Directions:
    if n == 0:
        return Directions(np.empty(0, np.int64), np.empty((0, width), np.float32))
    return Directions(np.memmap(file, "<i8", "r", _HEADER_BYTES, (n,)), np.memmap(file, "<f4", "r", _HEADER_BYTES + 8 * n, (n, width)))


def _make(reader: Reader, path: Path, about: dict[str, Any]) -> Directions:
    """Write the file whole or not at all; where it cannot be kept, one without a name serves this once."""
    total, recordings = np.zeros(about["width"]), []
    for ids, vectors in _pages(reader, about):
        total += vectors.sum(axis=0, dtype=np.float64)
        recordings += ids
    n, mean = len(recordings), (total / max(1, len(recordings))).astype(np.float32)
    named: str | None = None
    try:
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            _remove_abandoned(path)
            handle, named = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
            file = os.fdopen(handle, "r+b")
        except OSError:
            file = tempfile.TemporaryFile()  # noqa: SIM115 - mapped, and gone with the map
        with file:
            file.write(json.dumps({**about, "rows": n}).encode().ljust(_HEADER_BYTES))
            file.write(np.asarray(recordings, "<i8").tobytes())
            for _, vectors in _pages(reader, about):
                centred = vectors - mean
                file.write((centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12)).astype("<f4").tobytes())
            file.flush()
            made = _mapped(file, n, about["width"])
        if named:
            Path(named).replace(path)
            named = None
        return made
    except OSError as e:
        raise StoreError(f"{path}: no room for the vectors ({e.strerror}); free some, or move the library") from e
    finally:
        if named:
            with suppress(OSError):
                Path(named).unlink()


def _remove_abandoned(path: Path) -> None:
    """Remove what killed processes left of this file, gigabytes each."""
    for left in path.parent.glob(f".{path.name}.*"):
        with suppress(OSError):
            if time.time() - left.stat().st_mtime > _ABANDONED_S:
                left.unlink()


def _pages(reader: Reader, about: dict[str, Any]) -> Iterator[tuple[list[int], np.ndarray]]:
    """(recording ids, their vectors (rows, width) float32), ascending; damaged ones are left out."""
    width, last = about["width"], -1
    while page := reader.execute("SELECT recording_id, vector FROM embeddings WHERE encoder_id = ? AND recording_id > ? ORDER BY recording_id LIMIT ?",
                                 (about["encoder"], last, _PAGE_ROWS)).fetchall():
        last = page[-1]["recording_id"]
        whole = [row for row in page if len(row["vector"]) == 2 * width]
        vectors = np.frombuffer(b"".join(row["vector"] for row in whole), "<f2").reshape(len(whole), width).astype(np.float32)
        sound = np.isfinite(vectors).all(axis=1)
        yield [whole[i]["recording_id"] for i in np.flatnonzero(sound)], vectors[sound]
