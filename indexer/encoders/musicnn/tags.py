"""The tags that MusiCNN's networks were trained to give: their names, and their probabilities from cached vectors.

Numpy only. The vectors are all that the networks' last layer takes, so no recording is heard again for its tags. They
are what a network heard, not genres.
"""

from functools import cache

import numpy as np

from indexer.encoders.musicnn import weights

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


@cache
def _last_layers() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    arrays = weights.load()
    return {
        network: (np.array(arrays[f"{network}/dense_1/kernel"]), np.array(arrays[f"{network}/dense_1/bias"]))
        for network in weights.NETWORKS
    }
