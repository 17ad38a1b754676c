"""The places on the map: every recording in two dimensions, so that recordings that sound alike tend to lie together.

Owns the axes, when they are computed anew, and the tables ``projections`` and ``places``. The axes are the two
principal components of the recordings' directions (see indexer.library.vectors.directions): a linear map,
so that a new recording is placed without moving any other. Two axes show only a part of the variance: neighbours on the
map need not be neighbours in all dimensions. Knows neither genres nor how a map is drawn.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from indexer.library.facts import joined_vectors
from indexer.library.sqlite import Reader, now
from indexer.library.store import Store
from indexer.library.vectors.directions import joined_directions

SAMPLE = (
    10_000  # recordings that the axes are computed from; their directions are in memory, 15 kB each at a width of 3840
)
MAX_LATER = 0.2  # the axes are computed anew when more than this share of recordings was added (or removed) after them
# Drift: the share of variance that the axes show is the places' mean squared distance from the middle, so it is known
# without reading a vector. The axes are computed anew when it falls below this part of what it was, because the
# recordings now differ along other axes.
MIN_EXPLAINED = 0.9
_PAGE = 500
_SEARCHED = 16  # directions that are iterated together; those beyond two make the iteration converge fast
_MAX_ROUNDS = 60
_GROWTH = 1e-6  # the iteration ends when the variance shown grows by less than this share in a round


class StoppedError(Exception):
    """The scan is being stopped."""


@dataclass(frozen=True, slots=True, eq=False)
class Projection:
    """Two axes in the space of directions."""

    widths: tuple[int, ...]  # of the joined encoders' vectors
    mean: np.ndarray  # (width,) float32
    axes: np.ndarray  # (2, width) float32, orthonormal

    def places(self, vectors: np.ndarray) -> np.ndarray:
        """Return (n, 2) float32: the places of vectors (n, width)."""
        return np.asarray(joined_directions(vectors, self.widths, self.mean) @ self.axes.T)


def fit(vectors: np.ndarray, widths: Sequence[int], former: np.ndarray | None = None) -> Projection:
    """The axes of greatest variance of vectors (n, width), turned to lie near the ``former`` ones."""
    mean = vectors.mean(axis=0, dtype=np.float64).astype(np.float32)
    some = (vectors[first : first + _PAGE] for first in range(0, len(vectors), _PAGE))
    axes = principal_axes(np.concatenate([joined_directions(page, widths, mean) for page in some]))
    return Projection(tuple(widths), mean, axes if former is None else turned(axes, former))


def principal_axes(rows: np.ndarray) -> np.ndarray:
    """The two orthonormal directions (2, width) along which rows (n, width) spread most, by subspace iteration."""
    basis = np.random.default_rng(0).standard_normal((rows.shape[1], min(_SEARCHED, rows.shape[1]))).astype(np.float32)
    found = np.eye(2, rows.shape[1])  # any axes will do where nothing varies
    shown = 0.0  # variance along the best two directions found so far; it grows until they are the axes
    for _ in range(_MAX_ROUNDS):
        basis = np.linalg.qr(basis)[0]
        within = rows @ basis
        variances, turns = np.linalg.eigh((within.T @ within).astype(np.float64))  # ascending
        if variances[-2:].sum() <= shown * (1 + _GROWTH):
            break
        shown, basis, found = variances[-2:].sum(), rows.T @ within, (basis @ turns[:, :-3:-1]).T
    axes = np.zeros((2, rows.shape[1]))
    axes[: len(found)] = found  # with a width of 1 there is only one axis
    strongest = np.take_along_axis(
        axes, np.abs(axes).argmax(axis=1)[:, None], axis=1
    )  # its sign decides the sign of the axis
    return np.asarray(axes * np.where(strongest < 0, -1.0, 1.0), np.float32)


def turned(axes: np.ndarray, former: np.ndarray) -> np.ndarray:
    """The same plane, its axes turned and mirrored to lie nearest to the former ones (orthogonal Procrustes)."""
    u, _, v = np.linalg.svd(former.astype(np.float64) @ axes.T)
    return np.asarray(u @ v @ axes, np.float32)


def update(
    store: Store,
    encoder_id: str,
    parts: Sequence[str],
    stopped: Callable[[], bool] = lambda: False,
    on_done: Callable[[int, int], None] = lambda _done, _total: None,
) -> int:
    """Place the recordings that all ``parts`` of an encoder embedded: those without a place, or all on new axes.

    Reads only the vectors of those that it places (and, for new axes, of a sample). Returns how many were placed;
    changes nothing when it is stopped. ``on_done`` is told now and then how many are placed, and of how many.
    """
    reader = store.connection
    row = reader.execute("SELECT * FROM projections WHERE encoder_id = ?", (encoder_id,)).fetchone()
    unplaced = embedded(reader, parts, without_place=encoder_id)
    if row is None and not len(unplaced):
        return 0
    placed, explained = reader.execute(
        "SELECT count(*), coalesce(avg(x * x + y * y), 0) FROM places WHERE encoder_id = ?", (encoder_id,)
    ).fetchone()
    widths = [reader.execute("SELECT width FROM encoders WHERE id = ?", (part,)).fetchone()["width"] for part in parts]
    former = (
        None
        if row is None
        else Projection(
            tuple(widths), np.frombuffer(row["mean"], "<f4"), np.frombuffer(row["axes"], "<f4").reshape(2, -1)
        )
    )
    try:
        if former is not None and not _aged(row, placed, len(unplaced)):
            ids, places = _project(reader, former, parts, unplaced, stopped, on_done)
            shown = (placed * explained + _squares(places)) / max(1, placed + len(ids))
            if shown >= MIN_EXPLAINED * row["explained"]:
                _keep(store, encoder_id, ids, places)
                return len(ids)
        everyone = embedded(reader, parts)
        sample = sample_of(reader, parts, everyone, stopped)
        if not len(sample):
            return 0
        made = fit(sample, widths, former.axes if former else None)
        ids, places = _project(reader, made, parts, everyone, stopped, on_done)
    except StoppedError:
        return 0
    _replace(store, encoder_id, made, ids, places)
    return len(ids)


def _aged(row: Any, placed: int, new: int) -> bool:
    """Whether too many recordings were added or removed since the axes were computed."""
    return bool(row["later"] + new > MAX_LATER * (placed + new) or placed + new < (1 - MAX_LATER) * row["recordings"])


def _squares(places: np.ndarray) -> float:
    return float((places.astype(np.float64) ** 2).sum())


def embedded(reader: Reader, parts: Sequence[str], *, without_place: str | None = None) -> np.ndarray:
    """Ids (n,) of recordings that all parts embedded; with ``without_place`` only those without a place for it."""
    first, *others = parts
    also = " AND EXISTS (SELECT 1 FROM embeddings o WHERE o.recording_id = e.recording_id AND o.encoder_id = ?)" * len(
        others
    )
    rows = reader.execute(
        f"SELECT e.recording_id FROM embeddings e WHERE e.encoder_id = ?{also} AND NOT EXISTS"
        " (SELECT 1 FROM places p WHERE p.recording_id = e.recording_id AND p.encoder_id = ?) ORDER BY e.recording_id",
        (first, *others, without_place),
    )
    return np.fromiter((row["recording_id"] for row in rows), np.int64)  # 8 bytes for each recording of the library


def sample_of(reader: Reader, parts: Sequence[str], recordings: np.ndarray, stopped: Callable[[], bool]) -> np.ndarray:
    """The vectors (n, width) of at most SAMPLE recordings; the same ones each time for the same library."""
    chosen = (
        recordings
        if len(recordings) <= SAMPLE
        else np.sort(np.random.default_rng(0).choice(recordings, SAMPLE, replace=False))
    )
    return (
        np.concatenate([vectors for _, vectors in pages(reader, parts, chosen, stopped)])
        if len(chosen)
        else np.empty((0, 0))
    )


def _project(
    reader: Reader,
    projection: Projection,
    parts: Sequence[str],
    recordings: np.ndarray,
    stopped: Callable[[], bool],
    on_done: Callable[[int, int], None],
) -> tuple[np.ndarray, np.ndarray]:
    """(recordings with sound vectors (n,), their places (n, 2))."""
    ids = [np.empty(0, np.int64)]
    places = [np.empty((0, 2), np.float32)]
    for page, vectors in pages(reader, parts, recordings, stopped):
        on_done(sum(map(len, ids)), len(recordings))
        ids.append(page)
        places.append(projection.places(vectors))
    return np.concatenate(ids), np.concatenate(places)


def pages(
    reader: Reader, parts: Sequence[str], recordings: np.ndarray, stopped: Callable[[], bool]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (recordings (n,), their vectors (n, width) side by side) without damaged ones. Raises StoppedError."""
    for first in range(0, len(recordings), _PAGE):
        if stopped():
            raise StoppedError
        page = recordings[first : first + _PAGE]
        places, vectors = joined_vectors(reader, parts, page.tolist())
        yield page[places], vectors


def _keep(store: Store, encoder_id: str, ids: np.ndarray, places: np.ndarray) -> None:
    if len(ids):
        with store.transaction():
            _insert(store, encoder_id, ids, places)
            store.connection.execute(
                "UPDATE projections SET later = later + ? WHERE encoder_id = ?", (len(ids), encoder_id)
            )


def _replace(store: Store, encoder_id: str, made: Projection, ids: np.ndarray, places: np.ndarray) -> None:
    with store.transaction():
        store.connection.execute("DELETE FROM places WHERE encoder_id = ?", (encoder_id,))
        store.connection.execute(
            "INSERT OR REPLACE INTO projections (encoder_id, mean, axes, explained, recordings, made_at) VALUES"
            " (?, ?, ?, ?, ?, ?)",
            (
                encoder_id,
                made.mean.astype("<f4").tobytes(),
                made.axes.astype("<f4").tobytes(),
                _squares(places) / max(1, len(ids)),
                len(ids),
                now(),
            ),
        )
        _insert(store, encoder_id, ids, places)


def _insert(store: Store, encoder_id: str, ids: np.ndarray, places: np.ndarray) -> None:
    store.connection.executemany(
        "INSERT OR REPLACE INTO places (recording_id, encoder_id, x, y) VALUES (?, ?, ?, ?)",
        ((int(recording), encoder_id, float(x), float(y)) for recording, (x, y) in zip(ids, places, strict=True)),
    )
