"""Walks music folders and lists audio files with their stats. Opens no file and knows no database."""

import fnmatch
import os
import re
import stat as stat_module
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from indexer.errors import ConfigError
from indexer.files.containers import AUDIO_SUFFIXES
from indexer.files.links import is_folder, is_in, resolved
from indexer.files.tags.copies import TEMP_SUFFIX

SUFFIXES = frozenset(s.encode() for s in AUDIO_SUFFIXES)
# Folders that file systems, NAS boxes and archives make beside the music, in lower case. They hold trash, snapshots,
# thumbnails and halves of files.
SYSTEM_FOLDERS = frozenset({
    b"lost+found", b"lost.dir",
    b"system volume information", b"$recycle.bin", b"recycler", b"recycled", b"$extend",
    b"#recycle", b"@recycle", b"#snapshot", b"~snapshot", b"@snapshot", b"@recently-snapshot",
    b"@eadir", b"@tmp", b"@sharebin", b"@__thumb", b"@transcode",
    b"@synoeastream", b"@synoresource", b"@downloadstationtempfiles",
    b"__macosx", b"network trash folder", b"temporary items", b"thevolumesettingsfolder",
})  # fmt: skip
_FOUND = re.compile(rb"found\.\d{3}")  # where Windows puts what it repaired
_TEMP_SUFFIX = TEMP_SUFFIX.encode()
HIDDEN, SYSTEM, IGNORED, LINK = "hidden", "system", "ignored", "link"  # why a file or folder is left out
Walked = tuple[bytes, os.stat_result | None]  # (path, stat), or (folder, None) for a folder that cannot be listed


class Names:
    """Which names below a music folder are left out: hidden ones, folders of the system, the user's patterns."""

    def __init__(self, ignore: Sequence[str] = ()) -> None:
        """``ignore``: shell patterns of single names."""
        self._patterns = [os.fsencode(p) for p in ignore]

    def why_left_out(self, name: bytes, *, is_folder: bool) -> str | None:
        """HIDDEN, IGNORED, SYSTEM, or None for a name that counts.

        One leading dot hides a name, macOS's ._ files too; more dots are an ellipsis, as in "...Like Dust".
        """
        if name.startswith(b".") and not name.startswith(b".."):
            return HIDDEN
        if self._patterns and any(fnmatch.fnmatchcase(name, p) for p in self._patterns):
            return IGNORED
        lower = name.lower()
        return SYSTEM if is_folder and (lower in SYSTEM_FOLDERS or _FOUND.fullmatch(lower)) else None

    def leave_out(self, path: bytes, folder: bytes) -> bool:
        """Whether a walk of ``folder`` leaves out this file below it, for its name or a folder's on the way."""
        *folders, name = path[len(folder.rstrip(b"/")) + 1 :].split(b"/")
        return any(self.why_left_out(one, is_folder=True) for one in folders) or bool(
            self.why_left_out(name, is_folder=False)
        )


def walk(
    top: bytes,
    ignore: Sequence[str] = (),
    leftovers: list[bytes] | None = None,
    left_out: Counter[str] | None = None,
) -> Iterator[Walked]:
    """Yield every audio file below ``top``, chosen by name ending, in bytewise path order; links are not followed.

    A folder that cannot be listed is yielded as (folder, None), so that its files do not count as deleted. Copies that
    a killed tag write left behind are appended to ``leftovers``. Audio files and folders that ``Names`` leaves out, and
    links of any kind, are counted in ``left_out``, by the reason.
    """
    names = Names(ignore)
    if not is_folder(top):  # not there, or a link has taken the place of one of its folders
        yield top, None
        return
    stack: list[tuple[bytes, os.DirEntry[bytes] | None]] = [(top, None)]
    while stack:
        path, entry = stack.pop()
        if entry is not None and not entry.is_dir(follow_symlinks=False):
            try:
                found = entry.stat(follow_symlinks=False)
            except OSError:
                continue  # deleted since it was listed
            if stat_module.S_ISREG(found.st_mode):
                yield path, found
            continue
        try:
            with os.scandir(path) as listing:
                children = [
                    (e.name + b"/" if e.is_dir(follow_symlinks=False) else e.name, e)
                    for e in listing
                    if _wanted(e, names, leftovers, left_out)
                ]
        except OSError:
            yield path, None
            continue
        children.sort(key=lambda c: c[0], reverse=True)
        stack.extend((e.path, e) for _, e in children)


def _wanted(
    entry: os.DirEntry[bytes], names: Names, leftovers: list[bytes] | None, left_out: Counter[str] | None
) -> bool:
    name = entry.name
    if leftovers is not None and name.endswith(_TEMP_SUFFIX) and name.startswith(b"."):
        leftovers.append(entry.path)
    dot = name.rfind(b".")
    is_audio = dot > 0 and name[dot:].lower() in SUFFIXES
    is_link = entry.is_symlink()  # where it leads is not looked at: a drive that is away might not answer
    is_folder = not is_audio and entry.is_dir(follow_symlinks=False)
    if not is_audio and not is_folder and not is_link:
        return False
    reason = names.why_left_out(name, is_folder=is_folder) or (LINK if is_link else None)
    if reason and left_out is not None:
        left_out[reason] += 1
    return reason is None


def folders_to_scan(paths: Sequence[Path], configured: Sequence[Path], known: Sequence[bytes]) -> list[bytes]:
    """The folders and files to scan: those named, else those configured, else those the library knows.

    The paths are absolute, have their symbolic links resolved, and none lies inside another. Raises ConfigError when
    there is nothing to scan, and as ``resolve_named`` does.
    """
    chosen = resolve_named(paths, configured, known) or [resolved(p) for p in configured] or list(known)
    if not chosen:
        raise ConfigError("nothing to scan: name a folder (indexer scan FOLDER) or set 'roots' in the settings file")
    unique = sorted(set(chosen))
    return [p for p in unique if not any(is_in(p, o) for o in unique if o != p)]


def resolve_named(paths: Sequence[Path], configured: Sequence[Path], known: Sequence[bytes]) -> list[bytes]:
    """What a person named, absolute and without symbolic links.

    A music folder may be named through links. Raises ConfigError for a link inside a configured or known one.
    """
    folders = [*(resolved(p) for p in configured), *known] if paths else []
    return [resolved(p, folders) for p in paths]
