"""The interface of an encoder, which cuts a stream of samples into units and turns every unit into one vector.

Also defines joined encoders, and the variants of an encoder whose vectors are cached separately. Never decodes audio or
touches the store. The encoders themselves are registered in encoders/load.py.
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
INT8_VERSION = 1  # raised when weights or activations are quantised in another way


@dataclass(frozen=True, slots=True)
class Unit:
    """One piece of a recording, which an encoder embeds without the rest."""

    samples: np.ndarray  # (n,) float32, mono, with the context the front end needs at both ends
    weight: int  # of this unit in the track's mean; for M2D its patch columns


class UnitCutter(Protocol):
    """Cuts a recording, pushed in blocks of any size, into units; each recording needs a new cutter."""

    def push(self, samples: np.ndarray) -> list[Unit]:
        """Take (n,) mono float32 samples and return the units that are complete now."""
        ...

    def finish(self) -> list[Unit]:
        """Return the last units. A recording that has given no unit at all is too short to embed."""
        ...


class Encoder(Protocol):
    """Turns units into vectors of ``width`` numbers; ``id`` covers weights and front end, not the device."""

    @property
    def id(self) -> str:
        """Hex sha256: the cache key of every vector this encoder makes."""
        ...

    @property
    def name(self) -> str:
        """The name shown to people."""
        ...

    @property
    def width(self) -> int:
        """Numbers in a vector."""
        ...

    @property
    def words_width(self) -> int:
        """Numbers in a unit's audio vector, which lies in one space with vectors of text; 0: it knows no words."""
        ...

    @property
    def sample_rate_hz(self) -> int:
        """The sample rate that the cutter expects."""
        ...

    @property
    def unit_s(self) -> float:
        """Duration of a full unit in seconds."""
        ...

    @property
    def batch_units(self) -> int:
        """The fastest number of units a batch; ``encode`` takes any number."""
        ...

    @property
    def device(self) -> str:
        """The device it runs on: cpu, cuda, mps."""
        ...

    @property
    def precision(self) -> str:
        """Its arithmetic: fp64, fp32, bf16, int8."""
        ...

    @property
    def engine(self) -> str:
        """The library that computes: numpy, torch, or OpenVINO with its version."""
        ...

    def cutter(self) -> UnitCutter:
        """Return a fresh cutter for one recording."""
        ...

    def encode(self, units: Sequence[Unit]) -> np.ndarray:
        """Return (n, width + words_width) float32, one row a unit in order; audio vectors are of length 1."""
        ...


@dataclass(frozen=True, slots=True)
class Variant:
    """A way of using an encoder whose vectors differ so much that they are cached under another id.

    Device, fp32 and bf16 make no variant: their vectors differ by less than those of two encodings of one recording.
    """

    units: int | None = None  # units used of a recording, evenly spread; None: all
    int8: bool = False  # whether it multiplies in integers

    def id_of(self, weights_id: str) -> str:
        """The encoder's id in this variant; ``weights_id`` itself in the default variant."""
        if self == Variant():
            return weights_id
        return hashlib.sha256(
            json.dumps(["variant", weights_id, self.units, INT8_VERSION if self.int8 else 0]).encode()
        ).hexdigest()

    def __str__(self) -> str:
        return ", ".join((["int8"] if self.int8 else []) + ([f"{self.units} units"] if self.units else []))


@dataclass(frozen=True, slots=True)
class Words:
    """The space that an encoder's audio vectors share with vectors of text."""

    weights_id: str  # of the audio vectors, without a variant
    width: int  # numbers in a vector


VARIANTS = [Variant(units, int8) for units in (None, *range(1, MAX_UNITS + 1)) for int8 in (False, True)]


@dataclass(frozen=True, slots=True)
class EncoderInfo:
    """An encoder's facts before it is loaded; fields as in ``Encoder``."""

    weights_id: str  # the id without a variant
    plain_name: str
    width: int
    sample_rate_hz: int
    unit_s: float
    source: str | Path  # for load_encoder; empty for a joined encoder, whose parts have theirs
    head_width: int | None = None  # inputs of its AudioSet head; None: it has none
    joins: tuple["EncoderInfo", ...] = ()  # the parts of a joined encoder
    variant: Variant = Variant()
    built_in: bool = False  # needs no download and has one precision only
    words: Words | None = None  # made in the same pass; None: it knows no words

    @property
    def encoder_id(self) -> str:
        """The cache key of its vectors."""
        return (
            joined_id([part.encoder_id for part in self.joins]) if self.joins else self.variant.id_of(self.weights_id)
        )

    @property
    def words_id(self) -> str | None:
        """The cache key of its audio vectors; None: it knows no words."""
        return self.variant.id_of(self.words.weights_id) if self.words else None

    @property
    def name(self) -> str:
        """The name shown to people, with its variant."""
        return f"{self.plain_name} ({self.variant})" if self.variant != Variant() else self.plain_name

    @property
    def parts(self) -> tuple["EncoderInfo", ...]:
        """The encoders whose concatenated vectors are this one's: itself, unless it joins others."""
        return self.joins or (self,)

    def varied(self, variant: Variant) -> "EncoderInfo":
        """The same encoder in another variant; a built-in one ignores int8."""
        joins = tuple(part.varied(variant) for part in self.joins)
        return replace(self, joins=joins, variant=replace(variant, int8=variant.int8 and not self.built_in))

    def variant_of(self, encoder_id: str) -> Variant | None:
        """The variant of this encoder that has the given id; None: the id is another encoder's."""
        return next((variant for variant in VARIANTS if self.varied(variant).encoder_id == encoder_id), None)

    def with_words(self, words_id: str) -> "EncoderInfo | None":
        """The part whose audio vectors have the given id, in any variant; None: there is none."""
        known = (part for part in self.parts if part.words)
        return next(
            (part for part in known if any(part.varied(variant).words_id == words_id for variant in VARIANTS)), None
        )


def joined_id(ids: Sequence[str]) -> str:
    """The id of a joined encoder: hex sha256 of its parts' ids in order."""
    return hashlib.sha256(json.dumps(["joined", *ids]).encode()).hexdigest()


def join(parts: Sequence[EncoderInfo]) -> EncoderInfo:
    """The encoder whose vectors are those of ``parts`` concatenated; each part's vectors are cached separately."""
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
    """One of the encoders of a run; its weights are loaded when the first recording needs them."""

    encoder_id: str
    load: Callable[[], Encoder]
    units: int | None = None  # at most, of a recording, evenly spread; None: all
    words_id: str | None = None  # of the audio vectors that come with it; None: it knows no words

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids under which what it makes of a recording is cached."""
        return (self.encoder_id, self.words_id) if self.words_id else (self.encoder_id,)
