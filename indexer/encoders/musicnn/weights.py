"""The weights of the two MusiCNN networks, which ship with the package.

Numpy only. Knows the names, shapes and digest of the arrays, not what is computed with them.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from indexer.encoders import tensorfile
from indexer.errors import ModelError

FILE = Path(__file__).with_name("weights.safetensors")
# Of all arrays, see tensorfile.digest.
WEIGHTS_SHA256 = "cc51ba87982cbcfca317e274a7cf7d1d8641c540736902f832b65847082aee3b"

NETWORKS = ("MSD", "MTT")  # trained on the Million Song Dataset with tags of Last.fm, and on MagnaTagATune
# Kernels as height, width, in, out; and the channels of each batch norm. Both in TensorFlow's order.
CONVOLUTIONS = ((7, 38, 1, 204), (7, 67, 1, 204), (128, 1, 1, 51), (64, 1, 1, 51), (32, 1, 1, 51),
                (7, 561, 1, 64), (7, 64, 1, 64), (7, 64, 1, 64))  # fmt: skip
DENSE = ((1506, 200), (200, 50))
NORMS = (1, 204, 204, 51, 51, 51, 64, 64, 64, 1506, 200)
NORM_EPSILON = 1e-3
PENULTIMATE = 200  # numbers of the layer before the tags


def load() -> dict[str, np.ndarray]:
    """The arrays of ``shapes``, mapped into memory.

    Raises ModelError where the package lacks them or holds others than WEIGHTS_SHA256 says.
    """
    try:
        tensorfile.read_header(FILE)
        arrays = tensorfile.read_arrays(FILE, shapes())
        if tensorfile.digest({}, arrays) != WEIGHTS_SHA256:
            raise ModelError(f"{FILE}: other weights than those of this version")
    except ModelError as error:
        raise ModelError(
            f"{error}; the package is damaged: pip install --force-reinstall --no-deps edm-indexer"
        ) from error
    return arrays


def of_network(arrays: Mapping[str, np.ndarray], network: str) -> dict[str, np.ndarray]:
    """One network's arrays, by TensorFlow's names alone."""
    return {name.removeprefix(f"{network}/"): array for name, array in arrays.items() if name.startswith(network)}


def shapes() -> dict[str, tuple[int, ...]]:
    """The shape of every array by its name: the network, then layer and part as TensorFlow names them."""
    found: dict[str, tuple[int, ...]] = {}
    for network in NETWORKS:
        for kind, kernels in (("conv2d", CONVOLUTIONS), ("dense", DENSE)):
            for number, kernel in enumerate(kernels):
                layer = f"{network}/{numbered(kind, number)}"
                found |= {f"{layer}/kernel": kernel, f"{layer}/bias": kernel[-1:]}
        for number, channels in enumerate(NORMS):
            layer = f"{network}/{numbered('batch_normalization', number)}"
            found |= {f"{layer}/{part}": (channels,) for part in ("gamma", "beta", "moving_mean", "moving_variance")}
    return found


def numbered(kind: str, number: int) -> str:
    """TensorFlow's name of a layer: the first of a kind has no number."""
    return f"{kind}_{number}" if number else kind
