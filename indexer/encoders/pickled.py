"""Reads pickles of tensors that others published, so that they can run no code and claim no memory. Imports torch."""

import argparse
import re
import warnings
from collections.abc import Callable
from pathlib import Path

import torch

from indexer.errors import ModelError


def load(pth: Path, path: Path) -> object:
    """Unpickle tensors and nothing else; errors name ``path``, the file that the user passed.

    weights_only is passed explicitly, because an environment variable can change its default; a file that it refuses is
    not tried without it.
    """
    with pth.open("rb") as opened:
        zipped = opened.read(4) == b"PK\x03\x04"  # the older format cannot be mapped
    try:
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # our own error line reports what matters
            loaded: object = torch.load(pth, map_location="cpu", weights_only=True, mmap=zipped)
    except Exception as error:  # a hostile pickle can raise anything
        wanted = re.search(r"GLOBAL ([\w.]+)", str(error))
        reason = "it is cut off, damaged or no file of tensors"
        if wanted:
            reason = f"it asks for {wanted[1]}, which a file of tensors has no use for"
        raise ModelError(f"{path}: not loaded as a checkpoint: {reason}") from error
    return loaded


def tensor_checker(path: Path, limit: int) -> Callable[[str, object], torch.Tensor]:
    """Return a function that turns a value into a plain, finite float32 tensor, or raises ModelError with its key.

    limit: bytes that all tensors together may claim, since a small pickle can claim any shape.
    """
    claimed = 0

    def check(key: str, value: object) -> torch.Tensor:
        nonlocal claimed
        plain = isinstance(value, torch.Tensor) and value.layout == torch.strided and value.device.type == "cpu"
        if not isinstance(value, torch.Tensor) or not plain or value.is_quantized or not value.is_floating_point():
            raise ModelError(f"{key}: not a plain tensor of floating-point numbers")
        claimed += value.numel() * value.element_size()
        if claimed > limit:
            raise ModelError(f"{key}: claims more numbers than {path.name} holds")
        tensor = value.detach().float().contiguous()
        if not torch.isfinite(tensor).all():
            raise ModelError(f"{key}: holds NaN or infinity")
        return tensor

    return check
