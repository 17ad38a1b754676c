"""Finds the mount a path lies on, and whether its file system reports changes.

Reads /proc/self/mountinfo only. Mounts nothing, waits for nothing and opens no file below a mount.
"""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from indexer.files.links import is_in

Mode = Literal["events + scan", "scan only"]

MOUNTINFO = Path("/proc/self/mountinfo")
_OCTAL = re.compile(rb"\\([0-7]{3})")

# inotify(7): "it does not catch remote events that occur on network filesystems". Changes made by this machine are
# reported, so watching seems to work until another machine changes a file.
_NETWORK = frozenset({
    "nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "ceph", "glusterfs", "lustre", "beegfs", "pvfs2", "coda", "ncpfs",
    "9p",
})  # fmt: skip
_SHARED_DISK = frozenset({"gfs2", "ocfs2"})
_HOST_FOLDER = frozenset({"virtiofs", "vboxsf", "vmhgfs", "prl_fs", "drvfs"})


@dataclass(frozen=True)
class Mount:
    """One line of mountinfo."""

    id: int  # changes when a drive is mounted again
    point: bytes
    fs_type: str
    source: bytes  # the device or share, shown to people


def parse_mountinfo(text: bytes) -> list[Mount]:
    """Parse mountinfo (proc_pid_mountinfo(5)) into mounts in the kernel's order; malformed lines are skipped.

    A line is ``id parent major:minor root point options [optional fields] - type source super-options``.
    """
    mounts = []
    for line in text.split(b"\n"):
        front, separator, back = line.partition(b" - ")  # spaces inside a field are escaped
        fields, file_system = front.split(b" "), back.split(b" ")
        if separator and len(fields) >= 6 and len(file_system) >= 2 and fields[0].isdigit():
            fs_type, source = os.fsdecode(file_system[0]), _unescape(file_system[1])
            mounts.append(Mount(int(fields[0]), _unescape(fields[4]), fs_type, source))
    return mounts


def _unescape(field: bytes) -> bytes:
    return _OCTAL.sub(lambda m: bytes([int(m[1], 8) & 0xFF]), field)


def read_mounts() -> list[Mount] | None:
    """The mounts that this process sees; None where the system has no mountinfo (macOS)."""
    try:
        return parse_mountinfo(MOUNTINFO.read_bytes())
    except OSError:
        return None


def mount_of(path: bytes, mounts: Iterable[Mount]) -> Mount | None:
    """The mount of an absolute path without symbolic links: the longest matching mount point, the last if equal."""
    found: Mount | None = None
    for mount in mounts:
        if is_in(path, mount.point) and (found is None or len(mount.point) >= len(found.point)):
            found = mount
    return found


def mounts_below(path: bytes, mounts: Iterable[Mount]) -> list[Mount]:
    """The mounts at the path itself and at folders below it."""
    return [m for m in mounts if is_in(m.point, path)]


def why_silent(fs_type: str) -> str | None:
    """The reason why changes on such a file system may go unreported; None when all are reported.

    FUSE counts as silent, because its backend (sshfs, rclone, mergerfs) can change without the kernel. ``fuseblk`` is a
    local disk (NTFS, exFAT) that only this machine writes, and an overlay is changed by the kernel: both report.
    """
    if fs_type in _NETWORK:
        return f"{fs_type} is a network file system: what other machines change there is not reported"
    if fs_type in _SHARED_DISK:
        return f"{fs_type} is shared by several machines: what the others change there is not reported"
    if fs_type in _HOST_FOLDER:
        return f"{fs_type} is a folder of the host machine: what the host changes there is not reported"
    if fs_type == "fuse" or fs_type.startswith("fuse."):
        return f"{fs_type} is a FUSE file system: what changes behind it is not reported"
    if fs_type == "autofs":
        return "autofs mounts the drive when it is used, and it is not mounted now"
    return None


# The driver makes the inode numbers up: FAT and exFAT (``fuseblk`` is exFAT or NTFS) have none on the disk, a share or
# a FUSE program need not tell its own.
_FLEETING_INODES = _HOST_FOLDER | frozenset({
    "vfat", "msdos", "exfat", "fuseblk", "overlay", "fuse", "cifs", "smb3", "smbfs", "9p", "ncpfs",
})  # fmt: skip


class LastingInodes:
    """Whether a file keeps its inode number when its drive is mounted again. Reads the mounts when first asked."""

    def __init__(self) -> None:
        self._mounts: list[Mount] | None = None

    def at(self, path: bytes) -> bool:
        """Of an absolute path without symbolic links; an unknown file system keeps them."""
        if self._mounts is None:
            self._mounts = read_mounts() or []
        mount = mount_of(path, self._mounts)
        return mount is None or not (mount.fs_type in _FLEETING_INODES or mount.fs_type.startswith("fuse."))


def watch_mode(path: bytes, mounts: Iterable[Mount] | None = None) -> tuple[Mode, str | None]:
    """How changes below a folder are noticed: ("events + scan", None), or ("scan only", the reason).

    ``mounts``: by default those of this process. Symbolic links are resolved; an unknown file system counts as local.
    """
    known = read_mounts() if mounts is None else mounts
    mount = mount_of(os.path.realpath(path), known or ())
    reason = why_silent(mount.fs_type) if mount else None
    return ("scan only", reason) if reason else ("events + scan", None)
