"""An encoder's vectors as a memory-mapped file beside the database, for one matrix product; made anew when stale.

Owns the file's format. A row is a recording's direction: its vector minus the mean of all vectors, scaled to length 1,
because the vectors of different tracks themselves are nearly parallel (cosines of 0.96 and more). The mean is in the
file too, so that a vector that was embedded later can be compared with the rows, and so are the lengths, from which the
cosine with a text's vector follows. Reads the database and never writes to it.
"""

import json
import os
import tempfile
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from indexer.errors import StoreError
from indexer.files.foreign import parse_json
from indexer.library.facts import sound_vectors
from indexer.library.sqlite import Reader

FOLDER = "vectors"  # beside the database
_VERSION = 4
_HEADER_BYTES = 4096
_PAGE_ROWS = 500
_SHORTEST = np.float32(1e-12)  # a vector is as good as none
_ABANDONED_S = 3600.0  # a temporary file that was not written to for so long was left by a killed process


@dataclass(frozen=True, slots=True, eq=False)
class Directions:
    """Recordings and their directions, a row each, by recording id."""

    recordings: np.ndarray  # (n,) int64, ascending
    directions: np.ndarray  # (n, width) float32 of length 1; zero for a vector that is the mean
    lengths: np.ndarray  # (n, 2) float32: of the vector without the mean, of the vector itself
    mean: np.ndarray  # (width,) float32: of the vectors that the file was made of
    current: bool = True  # whether no embedding was added or removed since

    def cosines(self, vector: np.ndarray) -> np.ndarray:
        """Return (n,) float32: the centred cosine of every row with a vector as it is embedded."""
        return np.asarray(self.directions @ directions_of(vector[None], self.mean)[0])

    def plain_cosines(self, vector: np.ndarray) -> np.ndarray:
        """Return (n,) float32: the cosine of every recording's vector, with its mean, with another vector."""
        other = (vector / np.linalg.norm(vector)).astype(np.float32)
        apart, whole = self.lengths.T
        return np.asarray((self.mean @ other + apart * (self.directions @ other)) / np.maximum(whole, _SHORTEST))


def directions_of(vectors: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Vectors (n, width) without the mean and of length 1, float32."""
    centred = vectors.astype(np.float32) - mean
    return np.asarray(centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), _SHORTEST), np.float32)


def lengths_of(vectors: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """The lengths (n, 2) of vectors (n, width) without the mean, and with it, float32."""
    return np.stack([np.linalg.norm(vectors - mean, axis=1), np.linalg.norm(vectors, axis=1)], axis=1)


def joined_directions(vectors: np.ndarray, widths: Sequence[int], mean: np.ndarray) -> np.ndarray:
    """Directions (n, width) of length 1; those of joined encoders side by side, each with the same weight."""
    cuts = np.cumsum(widths)[:-1]
    parts = zip(np.split(vectors, cuts, axis=1), np.split(mean, cuts), strict=True)
    return np.concatenate([directions_of(part, of_part) for part, of_part in parts], axis=1) / np.float32(
        np.sqrt(len(widths))
    )


def open_directions(reader: Reader, db: Path, encoder_id: str) -> Directions:
    """The directions of all sound embeddings of an encoder. Raises StoreError when there is no room for the file."""
    path = _path(db, encoder_id)
    reader.execute("SAVEPOINT directions")  # both readings see one state of the library, whatever a scan writes
    try:
        about = _about(reader, encoder_id)
        found = _load(path, about)
        return found if found is not None and found.current else _make(reader, path, about)
    finally:
        reader.execute("RELEASE directions")


def stored_directions(reader: Reader, db: Path, encoder_id: str) -> Directions | None:
    """The file as it is, perhaps not ``current``; None when there is none of this library and encoder."""
    return _load(_path(db, encoder_id), _about(reader, encoder_id))


def _about(reader: Reader, encoder_id: str) -> dict[str, Any]:
    """The header that identifies a file of this library, encoder and state."""
    # A library that was deleted and scanned again, or another one in this folder, may count as many changes.
    row = reader.execute(
        "SELECT width, changes, (SELECT min(applied_at) FROM _sqlite_migrations) AS made_at FROM encoders WHERE id = ?",
        (encoder_id,),
    ).fetchone()
    return {"version": _VERSION, "encoder": encoder_id, **dict(row)}


def remove_unused(db: Path, encoder_ids: Collection[str]) -> None:
    """Remove the files of all encoders but these."""
    kept = {_path(db, encoder_id).name for encoder_id in encoder_ids}
    for path in (db.absolute().parent / FOLDER).glob("*.directions"):
        if path.name not in kept:
            path.unlink(missing_ok=True)


def _path(db: Path, encoder_id: str) -> Path:
    return db.absolute().parent / FOLDER / f"{encoder_id[:16]}.directions"


def _load(path: Path, about: dict[str, Any]) -> Directions | None:
    """The file's content; None when it is not there, has another header, or is truncated."""
    try:
        with path.open("rb") as file:
            header = parse_json(file.read(_HEADER_BYTES))
            n, changes = header.pop("rows"), header.pop("changes")
            if header != {key: value for key, value in about.items() if key != "changes"} or os.fstat(
                file.fileno()
            ).st_size != _size_bytes(n, about["width"]):
                return None
            found = _mapped(file, n, about["width"], current=changes == about["changes"])
        return found if (np.diff(found.recordings) > 0).all() else None
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return None


def _size_bytes(n: int, width: int) -> int:
    return _HEADER_BYTES + 8 * n + 4 * width + 4 * n * width + 8 * n


def _mapped(file: Any, n: int, width: int, *, current: bool = True) -> Directions:
    mean_at = _HEADER_BYTES + 8 * n
    mean = np.array(np.memmap(file, "<f4", "r", mean_at, (width,)))
    if n == 0:
        return Directions(
            np.empty(0, np.int64), np.empty((0, width), np.float32), np.empty((0, 2), np.float32), mean, current
        )
    rows_at = mean_at + 4 * width
    return Directions(
        np.memmap(file, "<i8", "r", _HEADER_BYTES, (n,)),
        np.memmap(file, "<f4", "r", rows_at, (n, width)),
        np.memmap(file, "<f4", "r", rows_at + 4 * n * width, (n, 2)),
        mean,
        current,
    )


def _make(reader: Reader, path: Path, about: dict[str, Any]) -> Directions:
    """Write the file completely or not at all; where its folder cannot be written, use an unnamed temporary file."""
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
            file.write(mean.astype("<f4").tobytes())
            lengths = []
            for _, vectors in _pages(reader, about):
                file.write(directions_of(vectors, mean).astype("<f4").tobytes())
                lengths.append(lengths_of(vectors, mean).astype("<f4"))
            file.writelines(page.tobytes() for page in lengths)
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
    """Remove temporary files that killed processes left, gigabytes each."""
    for left in path.parent.glob(f".{path.name}.*"):
        with suppress(OSError):
            if time.time() - left.stat().st_mtime > _ABANDONED_S:
                left.unlink()


def _pages(reader: Reader, about: dict[str, Any]) -> Iterator[tuple[list[int], np.ndarray]]:
    """Yield (recording ids, their vectors (rows, width) float32), ascending, without damaged ones."""
    width, last = about["width"], -1
    while page := reader.execute(
        "SELECT recording_id, vector FROM embeddings WHERE encoder_id = ? AND recording_id > ? ORDER BY"
        " recording_id LIMIT ?",
        (about["encoder"], last, _PAGE_ROWS),
    ).fetchall():
        last = page[-1]["recording_id"]
        sound, vectors = sound_vectors([row["vector"] for row in page], width)
        yield [page[i]["recording_id"] for i in sound], vectors
