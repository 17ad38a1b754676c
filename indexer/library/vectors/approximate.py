"""An index of the recordings nearest to any, for a library so large that comparing all of them takes too long.

Owns the files of the index beside the database: a graph (HNSW, https://arxiv.org/abs/1603.09320, by the library
usearch) over the recordings' directions along their strongest axes, mapped into memory and not read as a whole. It only
names candidates; they are compared by their whole vectors, which the database holds. Made and mended by a scan's end.
Without usearch (the extra `large`), without the files, and in a smaller library, every recording is compared instead.
"""

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from indexer.files.foreign import parse_json
from indexer.library.facts import joined_vectors
from indexer.library.sqlite import Reader
from indexer.library.store import Store
from indexer.library.vectors.directions import FOLDER, joined_directions
from indexer.library.vectors.projection import StoppedError, embedded, pages, sample_of

EXACT_UP_TO = 100_000  # recordings: so many are compared in some 0.1 s
DIMENSIONS = 96  # of the index: the axes along which a sample of the directions spreads most
MAX_CHANGED = 0.2  # the index is made anew when more than this share of the vectors changed since: its axes are old
FEW, FEW_AGAIN_S = 0.001, 3600.0  # a smaller share of new recordings waits so long, because the whole file is written
FIRST_CANDIDATES, MORE = 200, 8  # compared at first, and how many times as many whenever those are not enough
_ROUNDS = 4  # of the iteration that finds the axes
_VERSION = 1


@dataclass(frozen=True, eq=False)
class Neighbours:
    """An index with what leads into it."""

    recordings: np.ndarray  # (n,) int64, ascending: those in the graph
    widths: tuple[int, ...]  # of the joined encoders' vectors
    mean: np.ndarray  # (width,) float32: of the sample
    axes: np.ndarray  # (DIMENSIONS, width) float32, orthonormal
    graph: Any
    lock: threading.Lock = field(default_factory=threading.Lock)  # the graph takes one question at a time

    def places(self, vectors: np.ndarray) -> np.ndarray:
        """(n, DIMENSIONS) float32: the places of vectors (n, width) in the graph."""
        return np.asarray(joined_directions(vectors, self.widths, self.mean) @ self.axes.T)

    def ranked(
        self, reader: Reader, parts: Sequence[str], vector: np.ndarray, recording: int
    ) -> Iterator[tuple[int, float]]:
        """(recording, mean of the parts' centred cosines) of others than this one, the nearest to its vector first."""
        place, direction = self.places(vector[None])[0], joined_directions(vector[None], self.widths, self.mean)[0]
        given, count = {recording}, FIRST_CANDIDATES
        while True:
            if count < len(self.recordings):
                with self.lock:
                    found = self.graph.search(place, count).keys.tolist()
            else:  # all of them, also those that no way through the graph leads to
                found = self.recordings.tolist()
            candidates = [one for one in found if one not in given]
            kept, vectors = joined_vectors(reader, parts, candidates)
            cosines = joined_directions(vectors, self.widths, self.mean) @ direction
            for n in np.argsort(-cosines, kind="stable"):
                yield candidates[kept[n]], float(cosines[n])
            if count >= len(self.recordings):
                return
            given.update(candidates)
            count *= MORE


@cache
def graph_kind() -> Any | None:
    """The class of a graph, usearch's; None where the extra is not installed.

    OpenVINO goes first: it cannot read a compiled model in a process whose first C++ library was usearch's. Its
    telemetry stays off, as encoders/m2d/openvino.py says.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    with suppress(ImportError, OSError):
        import openvino  # noqa: F401
    try:
        from usearch.index import Index
    except (ImportError, OSError):
        return None
    return Index


def opened(reader: Reader, db: Path, encoder_id: str) -> Neighbours | None:
    """The index of a library's encoder; None where every recording is to be compared."""
    path = _path(db, encoder_id)
    try:
        stat = path.with_suffix(".npz").stat()
    except OSError:
        return None
    return _mapped(path, json.dumps(_about(reader, encoder_id)), stat.st_mtime_ns)


@lru_cache(maxsize=4)
def _mapped(path: Path, about: str, _mtime_ns: int) -> Neighbours | None:
    found = _load(path, parse_json(about.encode()), view=True)
    return found[0] if found else None


def _load(path: Path, about: dict[str, Any], *, view: bool) -> tuple[Neighbours, int] | None:
    """(the index, the changes counted when its axes were made); None: none, of another library, or not whole."""
    try:
        with np.load(path.with_suffix(".npz"), allow_pickle=False) as file:
            header = parse_json(str(file["header"]).encode())
            size_bytes, changes = header.pop("bytes"), header.pop("changes")
            if header != about or path.stat().st_size != size_bytes or (kind := graph_kind()) is None:
                return None
            graph = kind.restore(str(path), view=view)
            return Neighbours(file["recordings"], tuple(about["widths"]), file["mean"], file["axes"], graph), changes
    except (OSError, ValueError, KeyError, RuntimeError):
        return None


def _about(reader: Reader, encoder_id: str) -> dict[str, Any]:
    """What identifies an index of this library and encoder."""
    made_at = reader.execute("SELECT min(applied_at) AS at FROM _sqlite_migrations").fetchone()["at"]
    widths = [row["width"] for row in _parts(reader, encoder_id)]
    return {"version": _VERSION, "encoder": encoder_id, "widths": widths, "library": made_at}


def _parts(reader: Reader, encoder_id: str) -> list[Any]:
    """The rows of the encoders that one joins, in its order; its own where it joins none."""
    rows: list[Any] = reader.execute(
        "SELECT p.width, p.changes FROM encoders e, json_each(coalesce(e.parts, json_array(e.id))) j"
        " JOIN encoders p ON p.id = j.value WHERE e.id = ? ORDER BY j.key",
        (encoder_id,),
    ).fetchall()
    return rows


def _path(db: Path, encoder_id: str) -> Path:
    return db.absolute().parent / FOLDER / f"{encoder_id[:16]}.neighbours"


def update(
    store: Store,
    encoder_id: str,
    parts: Sequence[str],
    stopped: Callable[[], bool] = lambda: False,
    on_done: Callable[[int, int], None] = lambda _done, _of: None,
) -> int:
    """Bring the index up to date: new recordings are added, those that are gone taken out. Returns how many were added.

    A small library has none. Changes nothing when it is stopped.
    """
    path, reader = _path(store.path, encoder_id), store.connection
    recordings = embedded(reader, parts)
    if len(recordings) <= EXACT_UP_TO:
        for stale in (path, path.with_suffix(".npz")):
            stale.unlink(missing_ok=True)
        return 0
    if graph_kind() is None:
        return 0
    about, changes = _about(reader, encoder_id), sum(row["changes"] for row in _parts(reader, encoder_id))
    found = _load(path, about, view=False)
    try:
        if found is None or changes - found[1] > MAX_CHANGED * len(recordings) * len(parts):
            index, made_at = _new(reader, about, parts, recordings, stopped), changes
        else:
            index, made_at = found
        new = np.setdiff1d(recordings, index.recordings, assume_unique=True)
        gone = np.setdiff1d(index.recordings, recordings, assume_unique=True)
        if not len(new) and not len(gone):
            return 0
        if found and len(new) + len(gone) < FEW * len(recordings) and _age_s(path) < FEW_AGAIN_S:
            return 0
        added = 0
        for ids, vectors in pages(reader, parts, new, stopped):
            index.graph.add(ids.astype(np.uint64), index.places(vectors))
            added += len(ids)
            on_done(added, len(new))
        if len(gone):
            index.graph.remove(gone.astype(np.uint64))
    except StoppedError:
        return 0
    _save(path, {**about, "changes": made_at}, index, recordings)
    return added


def _age_s(path: Path) -> float:
    return time.time() - path.stat().st_mtime


def _new(
    reader: Reader, about: dict[str, Any], parts: Sequence[str], recordings: np.ndarray, stopped: Callable[[], bool]
) -> Neighbours:
    """An empty index whose axes suit these recordings."""
    vectors = sample_of(reader, parts, recordings, stopped)
    mean = vectors.mean(axis=0, dtype=np.float64).astype(np.float32)
    rows = joined_directions(vectors, about["widths"], mean)
    axes = np.random.default_rng(0).standard_normal((rows.shape[1], min(DIMENSIONS, rows.shape[1]))).astype(np.float32)
    for _ in range(_ROUNDS):
        axes = np.linalg.qr(rows.T @ (rows @ axes))[0]
    kind = graph_kind()
    assert kind is not None  # update has looked
    graph = kind(ndim=axes.shape[1], metric="ip", dtype="f16")
    return Neighbours(np.empty(0, np.int64), tuple(about["widths"]), mean, axes.T.copy(), graph)


def _save(path: Path, header: dict[str, Any], index: Neighbours, recordings: np.ndarray) -> None:
    """Write both files completely; where only one is replaced, its size tells, and there is no index until the next."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    graph, leads = path.with_suffix(".new"), path.with_suffix(".new.npz")
    try:
        index.graph.save(str(graph))
        header["bytes"] = graph.stat().st_size
        np.savez(leads, header=np.array(json.dumps(header)), recordings=recordings, mean=index.mean, axes=index.axes)
        graph.replace(path)
        leads.replace(path.with_suffix(".npz"))
    finally:  # on a full disk, what was written of them would keep it full
        graph.unlink(missing_ok=True)
        leads.unlink(missing_ok=True)
