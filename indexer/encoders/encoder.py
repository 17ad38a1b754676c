"""What an encoder is: it cuts a stream of samples into units and turns every unit into one vector.

Owns the interface that the rest of the program knows, what several encoders side by side are, and which ways of using
one give vectors of their own. Never decodes audio, never touches the store, and knows no encoder by itself:
indexer.encoders.load does.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np

from indexer.config import MAX_UNITS

DEVICES = ("auto", "cpu", "cuda", "mps")
PRECISIONS = ("auto", "fp32", "bf16", "int8")
INT8_VERSION = 1  # counts changes of how weights and activations become integers


@dataclass(frozen=True, slots=True)
class Unit:
    """One piece of a recording that an encoder can embed without seeing the rest of it."""

    samples: np.ndarray  # (n,) float32, mono, with the context the front end needs at both ends
    weight: int  # share of this unit in the track's mean; for M2D its patch columns


class UnitCutter(Protocol):
    """Cuts one recording, pushed in blocks of any size, into units; good for one recording."""

    def push(self, samples: np.ndarray) -> list[Unit]:
        """Take (n,) mono float32 samples and return the units that are complete now."""
        ...

    def finish(self) -> list[Unit]:
        """Return what is left; an empty list over the whole recording means it is too short to embed."""
        ...


class Encoder(Protocol):
    """Turns units into vectors of ``width`` numbers; ``id`` names weights and front end, not device or precision (see Variant)."""

    @property
    def id(self) -> str:
        """Hex sha256: the cache key of every vector this encoder makes."""
        ...

    @property
    def name(self) -> str:
        """The name a person knows it by."""
        ...

    @property
    def width(self) -> int:
        """Numbers in a vector."""
        ...

    @property
    def sample_rate_hz(self) -> int:
        """The rate of the samples the cutter wants."""
        ...

    @property
    def unit_s(self) -> float:
        """Duration of a full unit in seconds."""
        ...

    @property
    def batch_units(self) -> int:
        """How many units at a time are fastest; ``encode`` takes any number."""
        ...

    @property
    def device(self) -> str:
        """Where it runs: cpu, cuda, mps."""
        ...

    @property
    def precision(self) -> str:
        """Its arithmetic: fp64, fp32, bf16, int8."""
        ...

    @property
    def engine(self) -> str:
        """The library that does the arithmetic: numpy, torch, OpenVINO with its version."""
        ...

    def cutter(self) -> UnitCutter:
        """Return a fresh cutter for one recording."""
        ...

    def encode(self, units: Sequence[Unit]) -> np.ndarray:
        """Return (n, width) float32, one row a unit, in the order given."""
        ...


@dataclass(frozen=True, slots=True)
class Variant:
    """A way of using an encoder that changes its vectors so much that they are cached as another encoder's.

    Device, fp32 and bf16 do not: their vectors differ by less than those of two encodings of one recording.
    """

    units: int | None = None  # of a recording, evenly spread; None: all
    int8: bool = False  # its matrix products in integers

    def id_of(self, weights_id: str) -> str:
        """The id of an encoder used so; ``weights_id`` where nothing is special."""
        if self == Variant():
            return weights_id
        return hashlib.sha256(
            json.dumps(["variant", weights_id, self.units, INT8_VERSION if self.int8 else 0]).encode()
        ).hexdigest()

    def __str__(self) -> str:
        return ", ".join((["int8"] if self.int8 else []) + ([f"{self.units} units"] if self.units else []))


VARIANTS = [Variant(units, int8) for units in (None, *range(1, MAX_UNITS + 1)) for int8 in (False, True)]


@dataclass(frozen=True, slots=True)
class EncoderInfo:
    """What is known of an encoder before it is loaded; the fields are those of ``Encoder``."""

    weights_id: str  # of the encoder itself, whichever way it is used
    plain_name: str
    width: int
    sample_rate_hz: int
    unit_s: float
    source: str | Path  # what load_encoder takes; of a joined encoder those of its parts count
    head_width: int | None = None  # inputs of the AudioSet head it carries; None: it carries none
    joins: tuple["EncoderInfo", ...] = ()  # of a joined encoder
    variant: Variant = Variant()
    built_in: bool = False  # needs no download, runs in one arithmetic only

    @property
    def encoder_id(self) -> str:
        """The cache key of its vectors."""
        return (
            joined_id([part.encoder_id for part in self.joins]) if self.joins else self.variant.id_of(self.weights_id)
        )

    @property
    def name(self) -> str:
        """The name a person knows it by, with its variant."""
        return f"{self.plain_name} ({self.variant})" if self.variant != Variant() else self.plain_name

    @property
    def parts(self) -> tuple["EncoderInfo", ...]:
        """The encoders whose vectors, one after the other, are this one's: itself, unless it joins others."""
        return self.joins or (self,)

    def varied(self, variant: Variant) -> "EncoderInfo":
        """The same encoder used in another way; a built-in one has no int8."""
        joins = tuple(part.varied(variant) for part in self.joins)
        return replace(self, joins=joins, variant=replace(variant, int8=variant.int8 and not self.built_in))

    def variant_of(self, encoder_id: str) -> Variant | None:
        """The variant of this encoder that an id stands for; None: it is another encoder's."""
        return next((variant for variant in VARIANTS if self.varied(variant).encoder_id == encoder_id), None)


def joined_id(ids: Sequence[str]) -> str:
    """Hex sha256 that names the encoder which joins others, in this order."""
    return hashlib.sha256(json.dumps(["joined", *ids]).encode()).hexdigest()


def join(parts: Sequence[EncoderInfo]) -> EncoderInfo:
    """The encoder whose vectors are those of ``parts`` side by side; each part's are cached as its own."""
    if len(parts) == 1:
        return parts[0]
    return EncoderInfo(
        joined_id([part.weights_id for part in parts]),
        "+".join(part.plain_name for part in parts),
        sum(part.width for part in parts),
        parts[0].sample_rate_hz,
        parts[0].unit_s,
        "",
        joins=tuple(parts),
    )


def track_vector(vectors: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Average the unit vectors of one track, each by its weight.

    vectors (n, width), weights (n,) of positive numbers -> (width,) float32, summed in float64.
    Raises ValueError for no units, weights of another length, or weights that are not positive.
    """
    vectors = np.asarray(vectors)
    weights = np.asarray(weights, dtype=np.float64)
    if vectors.ndim != 2 or len(vectors) == 0:
        raise ValueError(f"need at least one unit vector, got an array of shape {vectors.shape}")
    if weights.shape != (len(vectors),) or not np.all(weights > 0):
        raise ValueError(f"need {len(vectors)} positive weights, got {weights.tolist()}")
    mean = (weights @ vectors.astype(np.float64)) / weights.sum()  # (n,) @ (n, width) -> (width,)
    return np.asarray(mean, dtype=np.float32)


@dataclass(frozen=True)
class Part:
    """An encoder; the weights are loaded when the first recording needs them."""

    encoder_id: str
    load: Callable[[], Encoder]
    units: int | None = None  # of a recording at most, evenly spread over it; None: all
