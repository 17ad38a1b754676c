"""`indexer similar` for a file that the library does not hold: embeds it, stores nothing, and lists its neighbours."""

import os
import time
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from indexer.config import Settings
from indexer.errors import FileError, ModelError, StoreError
from indexer.library.readonly import reading
from indexer.library.registered import in_use_by
from indexer.library.vectors import approximate
from indexer.library.vectors.directions import open_directions
from indexer.library.vectors.mixing import mixable
from indexer.library.vectors.similar import encoder_of, mixing, parts_of, ranked, tracks_of
from indexer.listen.classify import FileClassifier
from indexer.models.choice import choose
from indexer.wording import printable

NO_RECORDING = -1  # of the library is left out


def similar_file(settings: Settings, file: Path, count: int = 10, *, mix: bool = False) -> dict[str, Any]:
    """The recordings nearest to a file, as ``library.vectors.similar.similar`` gives them for one of the library.

    Raises FileError for a file that cannot be heard, ModelError where the library's encoder is not installed,
    StoreError where nothing is embedded.
    """
    started = time.monotonic()
    exact = os.path.realpath(os.fsencode(file))
    with reading(settings.db) as conn:
        encoder = encoder_of(conn)
        chosen = choose(settings, in_use_by(settings.db))
        if chosen is None or chosen.info.encoder_id != encoder["id"]:
            raise ModelError(f"{encoder['name']}, which embedded the library, is not the encoder in use here")
        with FileClassifier(settings, chosen) as heard:
            fed = heard.feed(exact)
            if isinstance(fed, FileError):
                raise fed
            try:
                vector = np.concatenate([future.result().vector for future in fed.embedded]).astype(np.float32)
            except ValueError as e:
                raise StoreError(f"{printable(exact)}: {e}") from e
        index = approximate.opened(conn, settings.db, encoder["id"])
        if index is not None:
            ranking = index.ranked(conn, parts_of(encoder), vector, NO_RECORDING)
        else:
            parts = [open_directions(conn, settings.db, part) for part in parts_of(encoder)]
            ranking = ranked(parts, vector, NO_RECORDING)
        if mix:
            found = mixing(conn, ranking, mixable(fed.analysis.facts(), fed.tags.bpm, fed.tags.musical_key), count)
        else:
            found = {"tracks": list(islice(tracks_of(conn, ranking), count))}
    return {
        "path": printable(exact),
        "title": fed.tags.title,
        "artist": fed.tags.artist,
        "encoder": encoder["name"],
        **found,
        "elapsed_ms": round(1000 * (time.monotonic() - started), 1),
    }
