"""Identifies the GPU, so that two processes can tell whether they share one."""

import torch


def gpu_id() -> str:
    """The UUID of the GPU that an encoder in this process uses."""
    return str(torch.cuda.get_device_properties(torch.cuda.current_device()).uuid)
