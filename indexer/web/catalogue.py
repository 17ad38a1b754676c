"""The library as the Tracks page reads it: kept in memory, and read anew when the library has changed."""

import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from indexer.errors import IndexerError
from indexer.library import browse
from indexer.library.browse import Catalogue
from indexer.library.readonly import reading
from indexer.web.context import state_of

KEPT_TIMES = 10  # a reading that took a second serves for 10 s while the library changes


@dataclass
class _Kept:
    """A reading of a library, when it was read, and how long that took."""

    catalogue: Catalogue
    state: object
    read_at_s: float  # time.monotonic()
    cost_s: float


_kept: dict[Path, _Kept] = {}
_reading = threading.Lock()


def catalogue_of(conn: Any, db: Path) -> Catalogue:
    """The library as it is now; where reading it takes long and it changes all the time, as it was a little ago."""
    kept = _kept.get(db)
    if kept is not None and _is_good(kept, db):
        return kept.catalogue
    if not _reading.acquire(blocking=kept is None):  # another request is reading already
        assert kept is not None
        return kept.catalogue
    try:
        kept = _kept.get(db)
        if kept is None or not _is_good(kept, db):
            state, began_s = state_of(db), time.monotonic()
            catalogue = browse.read(conn)
            read_at_s = time.monotonic()
            _kept[db] = kept = _Kept(catalogue, state, read_at_s, read_at_s - began_s)
        return kept.catalogue
    finally:
        _reading.release()


def read_ahead(db: Path) -> None:
    """Read the library before anybody asks, so that the first visit need not wait; what fails, the page will say."""
    with suppress(IndexerError), reading(db) as conn:
        catalogue_of(conn, db)


def _is_good(kept: _Kept, db: Path) -> bool:
    return kept.state == state_of(db) or time.monotonic() < kept.read_at_s + KEPT_TIMES * kept.cost_s
