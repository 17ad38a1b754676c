"""`indexer prune`: forgets missing files, and on demand embeddings and predictions of models that are not in use.

Forgets missing files in roots that are online, or below named paths. Removes rows and never touches a file; a person's
corrections stay in the files' own tags. Nothing but this and upkeep/forget.py forgets anything.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from indexer.library.lock import library_lock
from indexer.library.pruning import forget_unused_models, forgettable, missing_files
from indexer.library.readonly import reading
from indexer.library.store import Store
from indexer.library.vectors.directions import remove_unused
from indexer.wording import printable

MAX_LISTED = 1000  # paths in the result; the counts include all


def plan(db: Path, paths: Sequence[Path], *, embeddings: bool = False) -> dict[str, Any]:
    """What ``forget`` would remove, and what offline roots keep.

    {files, paths, recordings, embeddings, predictions, kept: {root: files}}.
    """
    with reading(db) as conn:
        found = forgettable(conn, _exact(paths), unused_models=embeddings, max_paths=MAX_LISTED)
    return {
        "files": found.files,
        "paths": [printable(path) for path in found.paths],
        "recordings": found.recordings,
        "embeddings": found.embeddings,
        "predictions": found.predictions,
        "kept": found.kept,
    }


def forget(db: Path, paths: Sequence[Path], *, embeddings: bool = False) -> dict[str, Any]:
    """Remove the rows: {forgotten: files}. A file that has come back meanwhile is kept."""
    with library_lock(db), Store(db) as store:
        missing = missing_files(store.connection, _exact(paths))
        gone = [file_id for file_id, path in missing if not os.path.lexists(path)]
        store.forget_files(gone)
        if embeddings:
            remove_unused(db, forget_unused_models(store))
    return {"forgotten": len(gone)}


def _exact(paths: Sequence[Path]) -> list[bytes]:
    return [os.path.realpath(os.fsencode(path)) for path in paths]
