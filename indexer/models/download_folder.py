"""Downloads the files of a published folder, each of which a later call can resume."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from indexer.models.download import MissingError, Progress, fetch


def fetch_all(
    url: str,
    folder: Path,
    parts: Sequence[Sequence[Sequence[str]]],
    *,
    progress: Progress | None = None,
    timeout_s: float = 30.0,
    sleep: Callable[[float], None] = time.sleep,
) -> list[Path]:
    """Download files below ``url`` into ``folder``; return them. Resumes, and raises ModelError, like ``fetch``.

    ``parts``: of each part, groups of names: all of the first group that the server has are fetched. ``progress`` tells
    of the last file, which should be the large one.
    """
    found: list[Path] = []
    for groups in parts:
        for group in groups:
            try:
                for name in group:
                    shown = progress if groups is parts[-1] else None
                    fetch(f"{url}/{name}", folder / name, progress=shown, timeout_s=timeout_s, sleep=sleep)
            except MissingError:
                if group is groups[-1]:
                    raise
            else:
                found += [folder / name for name in group]
                break
    return found
