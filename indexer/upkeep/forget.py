"""`indexer forget`: takes roots, folders or files out of the library. Removes rows and never touches a file.

What a person said stays in the tags of the files, where it was written. A recording that other files hold stays.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from indexer.errors import ConfigError
from indexer.library.below import subtree
from indexer.library.lock import library_lock
from indexer.library.pruning import held_below, ids_below
from indexer.library.readonly import reading
from indexer.library.roots import root_paths
from indexer.library.sqlite import Reader
from indexer.library.store import Store
from indexer.library.vectors.directions import remove_unused
from indexer.wording import printable

MAX_LISTED = 1000  # paths in the result; the counts include all


def plan(db: Path, paths: Sequence[Path]) -> dict[str, Any]:
    """What ``forget`` would remove.

    {roots, files, paths, recordings, corrections, comes_back: {path: root that still holds it}}. Raises ConfigError
    for a path of which the library knows nothing.
    """
    with reading(db) as conn:
        places = [_place(conn, path) for path in paths]
        roots = _roots_below(conn, places)
        held = held_below(conn, places, MAX_LISTED)
        left = [root for root in root_paths(conn) if root not in roots]
    return {
        "roots": [printable(root) for root in roots],
        "files": held.files,
        "paths": [printable(path) for path in held.paths],
        "recordings": held.recordings,
        "corrections": held.corrections,
        "comes_back": {
            printable(place): printable(root) for place in places for root in left if _is_below(place, root)
        },
    }


def forget(db: Path, paths: Sequence[Path]) -> dict[str, Any]:
    """Remove the rows and the roots: {forgotten: files}. Raises ConfigError as ``plan`` does, and LockedError."""
    with library_lock(db), Store(db) as store:
        places = [_place(store.connection, path) for path in paths]
        roots = _roots_below(store.connection, places)
        forgotten = ids_below(store.connection, places)
        with store.transaction():
            store.forget_files(forgotten)
            store.forget_roots(roots)
        remove_unused(db, store.encoders_with_embeddings())
    return {"forgotten": len(forgotten)}


def _place(reader: Reader, path: Path) -> bytes:
    """The exact path of which the library knows something, as it is written or with its links resolved."""
    written = os.path.abspath(os.fsencode(path))  # noqa: PTH100 - bytes
    known = root_paths(reader)
    for place in (written, os.path.realpath(written)):
        if ids_below(reader, [place]) or any(_is_below(root, place) for root in known):
            return place
    listed = ", ".join(map(printable, known)) or "none"
    raise ConfigError(f"{printable(written)}: the library knows nothing there; its roots: {listed}")


def _roots_below(reader: Reader, places: Sequence[bytes]) -> list[bytes]:
    return [root for root in root_paths(reader) if any(_is_below(root, place) for place in places)]


def _is_below(path: bytes, folder: bytes) -> bool:
    return path == folder or path.startswith(subtree(folder)[0])
