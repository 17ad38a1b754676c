"""Whether a recording is electronic music at all, and whether a head may give it a genre then.

A head of electronic genres knows nothing else, and orchestral music can lie near its ambient. Networks that were
trained on all kinds of sound say more. Pure arithmetic on cached vectors; the numbers below were chosen with
tests/benchmarks/calibrate_electronic.py, see docs/accuracy.md.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from indexer.encoders import tensorfile
from indexer.encoders.musicnn import tags
from indexer.encoders.musicnn.encoder import MusicnnEncoder
from indexer.heads.audioset import AudioSetHead
from indexer.heads.head import Head

LIMIT = 0.05  # below this a recording is not electronic
ACOUSTIC_SHARE = 0.1  # a label of which so many tracks lie below the limit is not held to it
# The evidence is the mean log-odds of these tags. Nothing that was fitted to more tags, or to the vectors, told music
# of a soundtrack that it did not learn from better.
TAGS = {"MSD": ("electronic", "electronica", "electro"), "MTT": ("electronic", "techno", "synth")}
SLOPE, MIDDLE = 2.6, -2.15  # of the logistic curve from evidence to 0 to 1, fitted on the same tracks


class Heard(NamedTuple):
    """What an ear heard in one recording."""

    tags: tags.Heard  # empty: it knows none
    electronic: float  # 0 to 1


@dataclass(frozen=True, slots=True)
class Ear:
    """Tells from the vectors of some encoders what is heard in a recording beside a genre."""

    id: str  # hex sha256 over everything that decides what it hears of a vector
    encoder_ids: frozenset[str]
    width: int  # of their vectors
    hear: Callable[[np.ndarray], list[Heard]]  # vectors (n, width) -> one each


def ears(head: Head | None, encoder_ids: tuple[str, ...]) -> list[Ear]:
    """The ears for the vectors of a library with this head, which takes vectors of ``encoder_ids``; the best first.

    musicnn comes first, because only it could be tried on real recordings.
    """
    content = {"tags": tags.version(), "evidence": TAGS, "curve": [SLOPE, MIDDLE]}
    musicnn = Ear(tensorfile.digest(content, {}), tags.encoder_ids(), MusicnnEncoder.width, _by_musicnn)
    if not isinstance(head, AudioSetHead):
        return [musicnn]
    return [musicnn, Ear(head.evidence_id, frozenset(encoder_ids), head.vector_width, lambda v: _by_audioset(head, v))]


def acoustic_labels(names: Sequence[str], y: np.ndarray, electronic: np.ndarray) -> tuple[str, ...]:
    """The labels that music may have which does not sound electronic: ACOUSTIC_SHARE of their own tracks do not.

    names: labels; y: the place of each track's label in them; electronic: 0 to 1, NaN where nothing can tell.
    """
    known = np.isfinite(electronic)
    below = [electronic[known & (y == place)] < LIMIT for place in range(len(names))]
    return tuple(name for name, rows in zip(names, below, strict=True) if len(rows) and rows.mean() >= ACOUSTIC_SHARE)


def _by_musicnn(vectors: np.ndarray) -> list[Heard]:
    found = tags.probabilities(vectors)
    odds = [
        np.log(found[network][:, tags.NAMES[network].index(tag)].astype(np.float64)) -
        np.log1p(-found[network][:, tags.NAMES[network].index(tag)].astype(np.float64))
        for network, chosen in TAGS.items() for tag in chosen
    ]  # fmt: skip
    electronic = 1 / (1 + np.exp(-SLOPE * (np.mean(odds, axis=0) - MIDDLE)))
    return [Heard(*pair) for pair in zip(tags.likely(vectors), electronic.tolist(), strict=True)]


def _by_audioset(head: AudioSetHead, vectors: np.ndarray) -> list[Heard]:
    return [Heard({}, value) for value in head.electronic(vectors).tolist()]
