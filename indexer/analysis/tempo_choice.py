"""Chooses the tempo that is shown: of a recording's candidates the one that suits its genre, without hearing it again.

Pure functions. After Hörschläger, Vogl, Böck, Knees: Addressing tempo estimation octave errors in electronic music by
incorporating style information extracted from Wikipedia (SMC 2015), with ranges instead of densities, so that a person
can read and change them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np

from indexer.analysis.tempo import TOLERANCE, Tempo, usual
from indexer.wording import key

# Beats a minute in which tracks of a genre are counted. House, drum and bass, dubstep, dub and hip hop: Ableton,
# Learning Music, "Tempo and genre"; the others: the infoboxes and texts of Wikipedia's pages on these styles, and for
# techno and trance what is sold under the name, which reaches further than Ableton's 120 to 140. A name that is not
# here takes the range of the longest one that it ends with ("Deep House": house); ambient, electronica, IDM and the
# like have no usual tempo.
RANGES_BPM: dict[str, tuple[float, float]] = {
    "house": (115, 130),
    "hard house": (138, 155),
    "techno": (120, 150),
    "hard techno": (138, 165),
    "trance": (128, 145),
    "hard trance": (138, 155),
    "psytrance": (135, 150),
    "psychedelic trance": (135, 150),
    "goa": (135, 150),
    "drum and bass": (160, 180),
    "jungle": (155, 180),
    "breakcore": (160, 220),
    "breakbeat": (110, 150),
    "breaks": (110, 150),
    "big beat": (100, 140),
    "dubstep": (135, 145),
    "trap": (130, 160),
    "grime": (135, 145),
    "garage": (128, 140),
    "2-step": (128, 140),
    "footwork": (150, 165),
    "hardstyle": (140, 160),
    "hardcore": (155, 200),
    "gabber": (155, 200),
    "speedcore": (200, 250),
    "electro": (120, 140),
    "disco": (110, 130),
    "synthwave": (80, 120),
    "moombahton": (105, 115),
    "reggaeton": (85, 105),
    "hip hop": (60, 100),
    "rap": (60, 100),
    "trip hop": (60, 110),
    "downtempo": (60, 115),
    "chillout": (60, 115),
    "lounge": (60, 120),
    "dub": (60, 90),
    "reggae": (60, 90),
}
_OTHER_NAMES = {"dnb": "drum and bass", "drumnbass": "drum and bass", "drum bass": "drum and bass", "psy": "psytrance"}
_KNOWN = {key(name): span for name, span in RANGES_BPM.items()}
_KNOWN |= {key(other): RANGES_BPM[name] for other, name in _OTHER_NAMES.items()}

_EDGE = 0.03  # how far beyond its range a genre's tempi still occur: width of a Gaussian, as a share
# Likelihood of any other tempo, where inside the range it is 1. A smaller one settles octaves no better and obeys a
# genre that is wrong more often; see docs/accuracy.md.
_ELSEWHERE = 0.3
_SHARPNESS = 4.0  # how much surer the best of two readings is than their ratio says


@dataclass(frozen=True, slots=True)
class ChosenTempo:
    """The tempo to show, and 0 to 1 how likely it is right, the choice among its readings included."""

    bpm: float
    confidence: float


def choose_tempo(
    found: Tempo | None, genres: Mapping[str, float], own_ranges: Mapping[str, Sequence[float]] | None = None
) -> ChosenTempo | None:
    """The candidate whose score times its likelihood under the genres is highest; None without candidates.

    genres: label -> probability; empty where no head has been asked: then what is usual in any music decides.
    own_ranges: label -> (slowest, fastest) in beats a minute, or empty for no preference; before those of RANGES_BPM.
    """
    # Those of another machine may be anything.
    candidates = [(bpm, score) for bpm, score in found.candidates if bpm > 0 and score > 0] if found else []
    if found is None or not candidates:
        return None
    bpms, scores = np.array(candidates).T
    weights = scores * _likelihood(bpms, genres, own_ranges or {})
    best = int(np.argmax(weights))
    share = 1 / np.sum((weights / max(weights[best], 1e-12)) ** _SHARPNESS)
    return ChosenTempo(float(bpms[best]), round(float(found.confidence * share), 3))


def range_bpm(label: str, own_ranges: Mapping[str, Sequence[float]]) -> Sequence[float] | None:
    """Slowest and fastest tempo of a label in beats a minute, or None where it has no preference."""
    return _range_bpm(label, tuple((name, tuple(span)) for name, span in own_ranges.items()))


@lru_cache(maxsize=4096)
def _range_bpm(label: str, own_ranges: tuple[tuple[str, tuple[float, ...]], ...]) -> tuple[float, ...] | None:
    known = _KNOWN | {key(name): span for name, span in own_ranges}
    name = key(label).removesuffix("music")
    for start in range(len(name)):
        if name[start:] in known:
            return known[name[start:]] or None
    return None


def _likelihood(bpms: np.ndarray, genres: Mapping[str, float], own_ranges: Mapping[str, Sequence[float]]) -> np.ndarray:
    """How likely each tempo (n,) is in music of these genres, 0 to 1."""
    spans = {label: span for label in genres if (span := range_bpm(label, own_ranges)) is not None}
    without = sum(probability for label, probability in genres.items() if label not in spans)
    total = (without + max(0.0, 1 - sum(genres.values()))) * usual(bpms)
    if spans:
        slowest, fastest = np.array(list(spans.values())).T[:, :, None]
        beyond = np.maximum(0, np.maximum(np.log(slowest / bpms), np.log(bpms / fastest))) / _EDGE  # (genres, n)
        inside = np.maximum(_ELSEWHERE, np.exp(-0.5 * beyond**2))
        total = total + np.array([genres[label] for label in spans]) @ inside
    return np.asarray(total)


def agreement(bpm: float, tag_bpm: float) -> Literal["same", "octave", "differs"]:
    """How a tag's tempo stands to the measured one: the same within 4 %, twice or half of it, or another."""
    if abs(tag_bpm / bpm - 1) < TOLERANCE:
        return "same"
    return "octave" if any(abs(tag_bpm / bpm / ratio - 1) < TOLERANCE for ratio in (2, 0.5)) else "differs"
