"""Knowing when not to know: how unlike a track vector is to all that a head learned from, in plain numpy.

Owns the distance, its limit and the form of its arrays. Pure: never opens a file, never decides what happens to a
recording beyond the limit, knows no labels; every random choice comes from the seed it is given.

The distance has two parts, because rows are usually fewer than dimensions: along the leading principal components of
the training rows, and outside their span, where training rows say nothing (they hardly leave it). What is usual in each
part is therefore taken from held-out rows, of artists that the components do not know.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from indexer.errors import ModelError

KEYS = ("mean", "scale", "components", "weights")
COMPONENTS = 32  # at most: 0.5 MiB of float32 for vectors of 3840 numbers
ROWS_PER_COMPONENT = 4  # fewer rows leave the variance along a component to chance
ROWS = 2000  # that are looked at, of each kind: the components and the limit change little beyond
# Squares are divided by variance ** this: 1 is Mahalanobis' distance, 0 the Euclidean. The first saw speech best, the
# second solo instruments; halfway lost least on either (compared on synthesised tracks and game soundtracks).
WHITENING = 0.5
# No number's scale is below the median one: it caught 68 % of speech instead of 50 % at equal false alarms (2 %) with
# 52 training tracks; and below this share of the root mean square, for vectors of which most numbers never vary.
SMALLEST_SCALE = 0.1
RESOLUTION = 2.0**-11  # of float16, in which vectors are kept
SMALLEST_DISTANCE = 0.1  # of a usual one, where held-out rows repeat training rows
# The logarithm of held-out music's distance is close to normal: measured spreads were 0.11 to 0.22 on soundtracks and
# on synthesised tracks. That counts as so many rows, so that two held-out rows alike do not make a narrow limit.
PRIOR_SPREAD, PRIOR_ROWS = 0.2, 4
NORMAL_QUANTILE = 2.5758  # of 0.995: half a percent of such music is beyond the limit
SHARE_WITHIN = 0.99  # of the held-out rows, whatever their distribution
_BLOCK_ROWS = 1024


@dataclass(frozen=True, slots=True, eq=False)
class Novelty:
    """A fitted distance; 1.0 is the limit. Raises ModelError for arrays that cannot be right."""

    mean: np.ndarray  # (width,) float32
    scale: np.ndarray  # (width,) float32, above 0
    components: np.ndarray  # (k, width) float32, orthonormal
    weights: np.ndarray  # (k + 1,) float32, above 0: of the squares along each component, and of the one outside them

    def __post_init__(self) -> None:
        """Check shapes and numbers."""
        width, k = self.mean.size, len(self.components) if self.components.ndim else 0
        shapes = {"mean": (width,), "scale": (width,), "components": (k, width), "weights": (k + 1,)}
        for key, shape in shapes.items():
            array = getattr(self, key)
            if array.shape != shape or 0 in shape:
                raise ModelError(f"novelty: {key} of shape {list(array.shape)} for {k} components of {width} numbers")
            if not np.isfinite(array).all():
                raise ModelError(f"novelty: {key} holds NaN or infinity")
        if (self.scale <= 0).any() or (self.weights <= 0).any():
            raise ModelError("novelty: scales and weights must lie above 0")

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> "Novelty":
        """Take up what ``arrays`` gave; raises ModelError for a key that is missing, a wrong shape, NaN or infinity."""
        missing = [key for key in KEYS if key not in arrays]
        if missing:
            raise ModelError(f"novelty: {missing[0]} is missing")
        try:
            return cls(*(np.asarray(arrays[key], np.float32) for key in KEYS))
        except (TypeError, ValueError) as error:
            raise ModelError("novelty: its arrays hold no numbers") from error

    def arrays(self) -> dict[str, np.ndarray]:
        """Everything, by name, as float32."""
        return {key: getattr(self, key) for key in KEYS}

    def distance(self, vectors: np.ndarray) -> np.ndarray:
        """Return (n,) float32 for vectors (n, width); above 1: unlike anything learned.

        Raises ModelError for another width.
        """
        width, shape = len(self.mean), list(vectors.shape)
        if len(shape) != 2 or shape[1] != width:
            raise ModelError(f"novelty takes vectors of {width} numbers, not an array of shape {shape}")
        distances = np.empty(len(vectors), np.float32)
        for start in range(0, len(vectors), _BLOCK_ROWS):
            z = _standardised(vectors[start : start + _BLOCK_ROWS], self.mean, self.scale)
            squares = _squares(z, self.components) @ self.weights.astype(np.float64)  # (rows,)
            distances[start : start + _BLOCK_ROWS] = np.minimum(np.sqrt(squares), np.finfo(np.float32).max)
        return distances


def fit(train: np.ndarray, held_out: np.ndarray, *, seed: int) -> Novelty:
    """Fit the distance on train (n, width), rows that a head learned from, and held_out (m, width), of other artists.

    Both finite. Works from one row each, and is meant for n >= 8, m >= 2. The limit is a prediction limit for one more
    held-out row, wider the fewer there are; of the held-out rows themselves about one in a hundred lies beyond it at
    most (of up to 100 rows: one). The order of the rows does not matter. Raises ValueError for shapes that do not fit
    together.
    """
    shapes = train.shape, held_out.shape
    if [len(shape) for shape in shapes] != [2, 2] or shapes[0][1] != shapes[1][1] or 0 in shapes[0] + shapes[1]:
        raise ValueError(f"training rows {shapes[0]} and held-out rows {shapes[1]} do not fit together")
    basis = _basis(train, seed)
    return _limited(basis, basis.squares(_sample(held_out, seed)))


def fit_apart(vectors: np.ndarray, fold: np.ndarray, *, seed: int) -> tuple[Novelty, np.ndarray]:
    """Fit the distance on all vectors (n, width), its limit on each fold (n,) beside what the others hold.

    Also returns the distances (m,) that decided the limit. No row is held back, unless a fold leaves so many that fewer
    are looked at anyway: then the first is. Folds count from 0 and none is empty.
    """
    if (fold != 0).sum() >= ROWS:
        held_out = vectors[fold == 0]
        found = fit(vectors[fold != 0], held_out, seed=seed)
        return found, found.distance(held_out)
    parts = [fold == number for number in range(int(fold.max()) + 1)]
    bases = [_basis(vectors[~part], seed) for part in parts]
    k = min(len(basis.components) for basis in bases)
    squares = np.concatenate(
        [basis.first(k).squares(vectors[part]) for basis, part in zip(bases, parts, strict=True)]
    )  # (n, k + 1)
    found = _limited(_basis(vectors, seed).first(k), squares)
    return found, np.sqrt(squares @ found.weights.astype(np.float64))


@dataclass(frozen=True, slots=True, eq=False)
class _Basis:
    """What is usual among training rows, without a limit."""

    mean: np.ndarray  # (width,)
    scale: np.ndarray  # (width,)
    components: np.ndarray  # (k, width)
    variances: np.ndarray  # (k,)

    def first(self, k: int) -> "_Basis":
        """With the leading k components only."""
        return replace(self, components=self.components[:k], variances=self.variances[:k])

    def squares(self, rows: np.ndarray) -> np.ndarray:
        """Squared lengths (n, k + 1) of rows (n, width)."""
        return _squares(_standardised(rows, self.mean, self.scale), self.components)


def _basis(train: np.ndarray, seed: int) -> _Basis:
    rows = _sample(train, seed)
    mean, scale = _standardisation(rows)
    z = _standardised(rows, mean, scale)
    components = min(COMPONENTS, max(1, len(z) // ROWS_PER_COMPONENT), z.shape[1])
    return _Basis(mean, scale, *_principal(z, components, seed))


def _limited(basis: _Basis, squares: np.ndarray) -> Novelty:
    """The distance with the limit that held-out rows' squares (m, k + 1) set."""
    width = len(basis.mean)
    smallest = width * RESOLUTION**2
    outside = max(float(squares[:, -1].mean()), smallest)
    weights = np.maximum(basis.variances, outside / width) ** -WHITENING
    inside = max(float((squares[:, :-1] @ weights).mean()), smallest * float(weights.mean()))
    weights = np.append(weights / inside, 1 / outside) / 2  # both parts of a usual row together: 1
    weights /= _limit(np.sqrt(squares @ weights)) ** 2
    arrays = (basis.mean, basis.scale, basis.components, weights)
    return Novelty(*(array.astype(np.float32) for array in arrays))


def _sample(rows: np.ndarray, seed: int) -> np.ndarray:
    """Up to ROWS rows, chosen and ordered by a digest of their content: the order they came in does not matter."""
    key = str(seed).encode()
    order = np.argsort([hashlib.blake2b(row.tobytes(), digest_size=8, key=key).digest() for row in rows], kind="stable")
    return rows[order[:ROWS]].astype(np.float64)


def _standardisation(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and scale (width,) of rows; the scale is no smaller than the median one, nor than what float16 resolves."""
    mean, deviation = rows.mean(axis=0), rows.std(axis=0)
    resolution = RESOLUTION * max(1.0, _root_mean_square(mean))
    smallest = max(float(np.median(deviation)), SMALLEST_SCALE * _root_mean_square(deviation), resolution)
    return mean, np.maximum(deviation, smallest)


def _root_mean_square(values: np.ndarray) -> float:
    return float(np.sqrt(np.square(values).mean()))


def _standardised(rows: np.ndarray, mean: np.ndarray, scale: np.ndarray) -> np.ndarray:
    return np.asarray((rows.astype(np.float64) - mean) / scale)


def _principal(z: np.ndarray, k: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The k leading principal directions (k, width) of z (n, width) and the variances (k,) along them.

    By subspace iteration from a random start: Halko, Martinsson, Tropp, Finding structure with randomness (SIAM Review
    2011), algorithm 4.4. Exact where the start spans all of z.
    """
    basis = np.random.default_rng(abs(seed)).standard_normal((z.shape[1], min(2 * k, *z.shape)))
    for _ in range(4):
        basis = np.linalg.qr(z.T @ (z @ basis))[0]
    _, values, turn = np.linalg.svd(z @ basis, full_matrices=False)
    return turn[:k] @ basis.T, values[:k] ** 2 / len(z)


def _squares(z: np.ndarray, components: np.ndarray) -> np.ndarray:
    """Squared lengths (n, k + 1) of z (n, width) along each component, and outside all of them."""
    along = np.square(z @ components.T)  # (n, k)
    outside = np.maximum(np.square(z).sum(axis=1) - along.sum(axis=1), 0)
    return np.column_stack([along, outside])


def _limit(distances: np.ndarray) -> float:
    """The distance that one more held-out row stays below, from those of the held-out rows (m,)."""
    logs, m = np.log(np.maximum(distances, SMALLEST_DISTANCE)), len(distances)
    freedom = PRIOR_ROWS + m - 1
    spread = np.sqrt((PRIOR_ROWS * PRIOR_SPREAD**2 + np.square(logs - logs.mean()).sum()) / freedom)
    beyond = logs.mean() + _student(freedom) * spread * np.sqrt(1 + 1 / m)
    return float(np.exp(max(beyond, np.quantile(logs, SHARE_WITHIN, method="lower"))))


def _student(freedom: int) -> float:
    """Student's quantile for NORMAL_QUANTILE: Abramowitz, Stegun, 26.7.5; within 1 % from 4 degrees of freedom on."""
    z = NORMAL_QUANTILE
    return (
        z
        + (z**3 + z) / (4 * freedom)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * freedom**3)
    )
