"""Paths as the machine of the DJ programs sees them, by pairs of a folder here and the same folder there."""

import os
import re
from collections.abc import Mapping, Sequence

from indexer.conversion import expanded
from indexer.errors import ConfigError
from indexer.files.mounts import Mount, mount_of
from indexer.files.windows_paths import is_of_windows, of_windows


class PathMap:
    """Maps paths between this machine (absolute, as bytes) and the DJ programs' (``/...`` or ``D:/...``)."""

    def __init__(self, folders: Mapping[str, str]) -> None:
        """``folders``: here -> there. Raises ConfigError for a folder that is not absolute."""
        self._pairs = sorted(((_here(here), _there(there)) for here, there in folders.items()), reverse=True)
        self._unused = {here: f"{os.fsdecode(here)}={os.fsdecode(there)}" for here, there in self._pairs}

    def there(self, path: bytes) -> bytes:
        """A path of this machine as the other one sees it; as it is where no folder fits. The longest folder wins."""
        for here, there in self._pairs:
            if path.startswith(here + b"/"):
                self._unused.pop(here, None)
                return there + path[len(here) :]
        return path

    def here(self, path: bytes) -> bytes | None:
        """A path of the other machine as this one sees it; None where no folder fits."""
        for here, there in sorted(self._pairs, key=lambda pair: -len(pair[1])):
            below = there + b"/"
            # Windows does not tell upper from lower case.
            start = path[: len(below)]
            if start == below or (is_of_windows(there) and start.lower() == below.lower()):
                self._unused.pop(here, None)
                return here + path[len(there) :]
        return None

    def here_rooted(self, path: bytes) -> bytes | None:
        """A path from the root of its drive, as crates name tracks, as this machine sees it; None where none fits."""
        for here, there in self._pairs:
            folder = from_drive_root(there + b"/")
            if path.startswith(folder):
                self._unused.pop(here, None)
                return here + b"/" + path[len(folder) :]
        return None

    @property
    def unused(self) -> list[str]:
        """The pairs HERE=THERE that fitted no path so far."""
        return [*self._unused.values()]


def from_drive_root(path: bytes, mounts: Sequence[Mount] = ()) -> bytes:
    """A path from the root of its drive: ``D:/x``, ``/Volumes/USB/x`` and ``/x`` all are ``x``.

    ``mounts``: those of this machine, where the path is one of this machine.
    """
    if is_of_windows(path):
        return path[2:].lstrip(b"/")
    mount = mount_of(path, mounts)
    if mount is not None and mount.point != b"/":
        return path[len(mount.point) :].lstrip(b"/")
    return re.sub(rb"^/(Volumes/[^/]+/)?", b"", path)


def _here(folder: str) -> bytes:
    path = expanded(folder)
    if not path.is_absolute():
        raise ConfigError(f"--map: {folder}: name the folder here by its whole path")
    return os.path.realpath(os.fsencode(path)).rstrip(b"/")


def _there(folder: str) -> bytes:
    text = of_windows(folder if not re.fullmatch(r"[A-Za-z]:", folder) else folder + "/").rstrip("/")
    if text.startswith("//"):
        raise ConfigError(f"--map: {folder}: a share has no place in these lists; give it a drive's letter there")
    path = os.fsencode(text)
    if not (is_of_windows(path) or text.startswith("/") or folder == "/"):
        raise ConfigError(f"--map: {folder}: name the folder there by its whole path, such as /Volumes/USB or D:/Music")
    return path
