"""Walks music folders and lists audio files with their stats. Opens no file and knows no database."""

import fnmatch
import os
import stat as stat_module
from collections.abc import Iterator, Sequence
from pathlib import Path

from indexer.errors import ConfigError
from indexer.files.containers import AUDIO_SUFFIXES
from indexer.files.tags.write import TEMP_SUFFIX

SUFFIXES = frozenset(s.encode() for s in AUDIO_SUFFIXES)
# Folders made by file systems and NAS boxes. Hidden names (a leading dot, macOS's ._ files too) are skipped anyway.
SYSTEM_FOLDERS = frozenset({b"lost+found", b"System Volume Information", b"$RECYCLE.BIN", b"@eaDir", b"#recycle"})
_TEMP_SUFFIX = TEMP_SUFFIX.encode()
Walked = tuple[bytes, os.stat_result | None]  # (path, stat), or (folder, None) for a folder that cannot be listed


def walk(top: bytes, ignore: Sequence[str] = (), leftovers: list[bytes] | None = None) -> Iterator[Walked]:
    """Yield every audio file below ``top``, chosen by name ending, in bytewise path order; links are not followed.

    A folder that cannot be listed is yielded as (folder, None), so that its files do not count as deleted. Copies that
    a killed tag write left behind are appended to ``leftovers``.
    """
    patterns = [os.fsencode(p) for p in ignore]
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
                    if _wanted(e, patterns, leftovers)
                ]
        except OSError:
            yield path, None
            continue
        children.sort(key=lambda c: c[0], reverse=True)
        stack.extend((e.path, e) for _, e in children)


def _wanted(entry: os.DirEntry[bytes], patterns: list[bytes], leftovers: list[bytes] | None) -> bool:
    name = entry.name
    if leftovers is not None and name.endswith(_TEMP_SUFFIX) and name.startswith(b"."):
        leftovers.append(entry.path)
    if name.startswith(b".") or (patterns and any(fnmatch.fnmatchcase(name, p) for p in patterns)):
        return False
    dot = name.rfind(b".")
    if dot > 0 and name[dot:].lower() in SUFFIXES:
        return True
    return name not in SYSTEM_FOLDERS and entry.is_dir(follow_symlinks=False)


def folders_to_scan(paths: Sequence[Path], configured: Sequence[Path], known: Sequence[bytes]) -> list[bytes]:
    """The folders and files to scan: those named, else those configured, else those the library knows.

    The paths are absolute, have their symbolic links resolved, and none lies inside another. Raises ConfigError when
    there is nothing to scan.
    """
    chosen = [os.path.realpath(os.fsencode(p)) for p in (paths or configured)] or list(known)
    if not chosen:
        raise ConfigError("nothing to scan: name a folder (indexer scan FOLDER) or set 'roots' in the settings file")
    unique = sorted(set(chosen))
    return [p for p in unique if not any(p.startswith(o.rstrip(b"/") + b"/") for o in unique if o != p)]
