"""Finds the device to compute on, and imports torch only where there may be a GPU."""

import sys
from pathlib import Path

from indexer.encoders.encoder import DEVICES
from indexer.errors import ModelError

# Nodes of the drivers of NVIDIA (also on Jetson and in WSL) and AMD.
_GPU_NODES = ("/dev/nvidiactl", "/dev/nvmap", "/dev/dxg", "/dev/kfd")


def chosen(wanted: str) -> str:
    """cpu, cuda or mps; auto takes cuda, else mps, else cpu. Raises ModelError for a device that is not here."""
    if wanted not in DEVICES:
        raise ModelError(f"unknown device {wanted!r}: use one of {', '.join(DEVICES)}")
    if wanted == "cpu" or (wanted == "auto" and not _may_have_gpu()):
        return "cpu"
    import torch

    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if wanted == "auto":
        return next(name for name in present if present[name])
    if not present[wanted]:
        raise ModelError(f"device {wanted} is not available on this machine: use --device auto or cpu")
    return wanted


def gpu_id() -> str:
    """The UUID of the GPU that an encoder in this process uses, to tell whether two share one."""
    import torch

    return str(torch.cuda.get_device_properties(torch.cuda.current_device()).uuid)


def _may_have_gpu() -> bool:
    return sys.platform == "darwin" or any(Path(node).exists() for node in _GPU_NODES)
