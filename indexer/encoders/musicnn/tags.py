"""The tags that MusiCNN's networks were trained to give: their names, and their probabilities from cached vectors.

Numpy only. The vectors are all that the networks' last layer takes, so no recording is heard again for its tags. They
are what a network heard, not genres.
"""

import hashlib
import json
from collections.abc import Mapping
from functools import cache

import numpy as np

from indexer.encoders.encoder import VARIANTS
from indexer.encoders.musicnn import weights
from indexer.encoders.musicnn.encoder import encoder_id

KEPT_FROM = 0.05  # a tag less probable than this is not kept; of 28 soundtracks 19 of the 100 tags were
NAMED_FROM = 0.1  # one less probable than this is not named among the likely ones; 8 were
Heard = dict[str, dict[str, float]]  # by network: tag -> probability, the likeliest first

# In the networks' order, as configuration.py of the published wheel lists them.
NAMES = {
    "MSD": (
        "rock", "pop", "alternative", "indie", "electronic", "female vocalists", "dance", "00s", "alternative rock",
        "jazz", "beautiful", "metal", "chillout", "male vocalists", "classic rock", "soul", "indie rock", "Mellow",
        "electronica", "80s", "folk", "90s", "chill", "instrumental", "punk", "oldies", "blues", "hard rock", "ambient",
        "acoustic", "experimental", "female vocalist", "guitar", "Hip-Hop", "70s", "party", "country", "easy listening",
        "sexy", "catchy", "funk", "electro", "heavy metal", "Progressive rock", "60s", "rnb", "indie pop", "sad",
        "House", "happy",
    ),
    "MTT": (
        "guitar", "classical", "slow", "techno", "strings", "drums", "electronic", "rock", "fast", "piano", "ambient",
        "beat", "violin", "vocal", "synth", "female", "indian", "opera", "male", "singing", "vocals", "no vocals",
        "harpsichord", "loud", "quiet", "flute", "woman", "male vocal", "no vocal", "pop", "soft", "sitar", "solo",
        "man", "classic", "choir", "voice", "new age", "dance", "male voice", "female vocal", "beats", "harp", "cello",
        "no voice", "weird", "country", "metal", "female voice", "choral",
    ),
}  # fmt: skip


def probabilities(vectors: np.ndarray) -> dict[str, np.ndarray]:
    """By network, the probability of each tag in NAMES: vectors (n, 400) -> (n, 50) float32.

    Of the mean vector of a recording it is near the mean of its units' probabilities, see docs/models.md. Raises
    ModelError like ``weights.load``.
    """
    found = {}
    for n, (network, (kernel, bias)) in enumerate(_last_layers().items()):
        columns = slice(n * weights.PENULTIMATE, (n + 1) * weights.PENULTIMATE)
        logits = vectors[:, columns].astype(np.float32) @ kernel + bias
        found[network] = 1 / (1 + np.exp(-logits))
    return found


def likely(vectors: np.ndarray) -> list[Heard]:
    """What was heard in each recording: vectors (n, 400) -> the probabilities from KEPT_FROM on.

    Raises ModelError like ``weights.load``.
    """
    found = probabilities(vectors)
    return [
        {
            network: {
                NAMES[network][i]: round(float(rows[n, i]), 3) for i in np.argsort(-rows[n]) if rows[n, i] >= KEPT_FROM
            }
            for network, rows in found.items()
        }
        for n in range(len(vectors))
    ]


def named(heard: Mapping[str, Mapping[str, float]]) -> list[str]:
    """The tags from NAMED_FROM on of both networks, the likeliest first.

    One that both know counts with the higher probability.
    """
    highest: dict[str, float] = {}
    for tags in heard.values():
        for tag, probability in tags.items():
            highest[tag] = max(probability, highest.get(tag, 0.0))
    return sorted((tag for tag in highest if highest[tag] >= NAMED_FROM), key=lambda tag: -highest[tag])


@cache
def encoder_ids() -> frozenset[str]:
    """The ids of every variant of the encoder whose vectors have tags."""
    return frozenset(variant.id_of(encoder_id()) for variant in VARIANTS if not variant.int8)


@cache
def version() -> str:
    """Hex sha256 over everything that decides the tags of a vector."""
    content = [weights.WEIGHTS_SHA256, KEPT_FROM, NAMED_FROM, NAMES]
    return hashlib.sha256(json.dumps(["musicnn tags", *content]).encode()).hexdigest()


@cache
def _last_layers() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    arrays = weights.load()
    return {
        network: (np.array(arrays[f"{network}/dense_1/kernel"]), np.array(arrays[f"{network}/dense_1/bias"]))
        for network in weights.NETWORKS
    }
