"""Paths of Windows, as playlists tell them."""

import re

_DRIVE = re.compile(rb"[A-Za-z]:(?=/|$)")


def is_of_windows(path: bytes) -> bool:
    """Whether a path begins with a drive's letter."""
    return _DRIVE.match(path) is not None


def of_windows(path: str) -> str:
    """A path of Windows with forward slashes; any other as it is."""
    return path.replace("\\", "/") if re.match(r"[A-Za-z]:[\\/]|\\\\", path) else path
