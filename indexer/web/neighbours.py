"""The tracks most similar to one, or that mix well with it, answered at once, also while a scan changes the library.

Owns when the derived files of directions are made anew for the pages: in a thread of this process, one at a time. Until
then it compares the track's own vector, from the library, with the files that exist. Never writes to the library.
"""

import os
import threading
import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from datasette.utils.asgi import Response

from indexer.errors import StoreError
from indexer.library.measured import MEASURED_JOIN, TAG_BPM, TEMPO_BPM
from indexer.library.readonly import reading
from indexer.library.vectors import approximate
from indexer.library.vectors.directions import Directions, open_directions, stored_directions
from indexer.library.vectors.mixing import mixable_of
from indexer.library.vectors.similar import (
    NotEmbeddedError,
    encoder_of,
    mixing,
    parts_of,
    ranked,
    tracks_of,
    vector_of,
)
from indexer.library.whose_word import LABEL
from indexer.web.context import ask, number, rows, settings_of
from indexer.wording import printable

MADE_ANEW_AFTER_S = 600.0  # the shortest time between two rebuilds; each takes seconds on all cores
TRIED_AGAIN_AFTER_S = 60.0  # after a failure
MAX_TRACKS = 1000


class Maker:
    """Makes the derived files anew in the background."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._last: dict[tuple[Path, str], tuple[float, str | None]] = {}  # when making it began, and why it failed
        self._unkept: dict[tuple[Path, str], Directions] = {}  # where the library's folder cannot be written to

    def stored(self, reader: Any, db: Path, encoder_id: str) -> Directions | None:
        """The newest directions that exist; None when there are none yet."""
        return stored_directions(reader, db, encoder_id) or self._unkept.get((db, encoder_id))

    def newest(self, reader: Any, db: Path, encoder_ids: Sequence[str]) -> list[Directions] | None:
        """The newest directions of each encoder; None while some are made for the first time. Stale ones are made anew.

        Raises StoreError when that failed a moment ago.
        """
        parts = [self.stored(reader, db, encoder_id) for encoder_id in encoder_ids]
        found = [part for part in parts if part is not None]
        if len(found) < len(parts) or not all(part.current for part in found):
            self.make(db, encoder_ids, urgent=len(found) < len(parts))
        return found if len(found) == len(parts) else None

    def make(self, db: Path, encoder_ids: Sequence[str], *, urgent: bool) -> None:
        """Begin to make the files anew, unless that is going on or was done lately.

        ``urgent``: there are none to answer from. Raises StoreError when that failed a moment ago.
        """
        with self._lock:
            if self._thread is not None and self._thread.is_alive():
                return
            began, failure = max(
                (self._last.get((db, encoder_id), (-MADE_ANEW_AFTER_S, None)) for encoder_id in encoder_ids),
                key=lambda last: last[0],
            )
            ago_s = time.monotonic() - began
            if failure and ago_s < TRIED_AGAIN_AFTER_S:
                if urgent:
                    raise StoreError(failure)
                return
            if urgent or ago_s >= MADE_ANEW_AFTER_S:
                self._thread = threading.Thread(
                    target=self._run, args=(db, encoder_ids), name="neighbours", daemon=True
                )
                self._thread.start()

    def wait(self, at_most_s: float | None = None) -> None:
        """Wait until the work that was begun is done."""
        thread = self._thread
        if thread is not None:
            thread.join(at_most_s)

    def _run(self, db: Path, encoder_ids: Sequence[str]) -> None:
        for encoder_id in encoder_ids:
            self._last[db, encoder_id] = (
                time.monotonic(),
                "the vectors could not be prepared; the server's log says why",
            )
            try:
                with reading(db) as conn:
                    made = open_directions(conn, db, encoder_id)
                    if stored_directions(conn, db, encoder_id) is None:
                        self._unkept[db, encoder_id] = made
            except StoreError as e:
                self._last[db, encoder_id] = (self._last[db, encoder_id][0], str(e))
                return
            self._last[db, encoder_id] = (self._last[db, encoder_id][0], None)


maker = Maker()


async def similar_tracks(datasette: Any, file_id: int, count: int = 10, *, mix: bool = False) -> dict[str, Any] | None:
    """The tracks most similar to a file, the nearest first: {tracks}; None while they are being prepared.

    Each is {id, title, artist, path, genre, confidence, decided, duration_s, similarity}; ``path`` is exact, as
    os.fsdecode gives it. ``mix``: only those that mix well: {tracks, mix}, see ``library.vectors.similar.mixing``.
    Searches the newest derived file, so tracks of the last minutes may be missing. Raises NotEmbeddedError for a track
    without an embedding, StoreError where nothing can be prepared.
    """
    settings = settings_of(datasette)
    assert settings is not None
    db = settings.db

    def find(conn: Any) -> dict[str, Any] | None:
        row = conn.execute(
            "SELECT f.recording_id, r.reason FROM files f LEFT JOIN recordings r ON r.id = f.recording_id WHERE"
            " f.id = ?",
            (file_id,),
        ).fetchone()
        if row is None or row["recording_id"] is None:
            raise NotEmbeddedError("the library holds no such track, or could not read it")
        encoder = encoder_of(conn)
        try:
            vector = vector_of(conn, encoder, row["recording_id"])
        except NotEmbeddedError as e:
            raise NotEmbeddedError(row["reason"] or str(e)) from e
        index = approximate.opened(conn, db, encoder["id"])
        if index is not None:
            ranking = index.ranked(conn, parts_of(encoder), vector, row["recording_id"])
        else:
            found = maker.newest(conn, db, parts_of(encoder))
            if found is None:
                return None
            ranking = ranked(found, vector, row["recording_id"])
        if mix:
            return mixing(conn, ranking, mixable_of(conn, [row["recording_id"]])[row["recording_id"]], count)
        return {"tracks": list(islice(tracks_of(conn, ranking), count))}

    return await ask(datasette, find)


async def similar_json(request: Any, datasette: Any) -> Any:
    """`/-/similar/<file id>.json?n=10`: {state: ready, tracks}, or 202 {state: preparing}; ?mix=1: what mixes well."""
    count, file_id = number(request.args.get("n") or 10), number(request.url_vars["id"])
    if file_id is None:
        return Response.json({"error": "there is no track with this number"}, status=404)
    if count is None or not 1 <= count <= MAX_TRACKS:
        return Response.json({"error": f"n is a number from 1 to {MAX_TRACKS}"}, status=400)
    try:
        found = await similar_tracks(datasette, file_id, count, mix=request.args.get("mix") == "1")
    except NotEmbeddedError as e:
        return Response.json({"error": str(e)}, status=404)
    except StoreError as e:
        return Response.json({"error": str(e)}, status=503)
    if found is None:
        return Response.json({"state": "preparing"}, status=202)
    ids = [track["id"] for track in found["tracks"]]
    said = await rows(
        datasette,
        f"SELECT f.id, {LABEL} AS label, {TEMPO_BPM} AS tempo_bpm, a.key, a.key_name, {TAG_BPM} AS tag_bpm,"
        f" t.musical_key AS tag_key FROM files f LEFT JOIN tags t ON t.file_id = f.id {MEASURED_JOIN}"
        " LEFT JOIN heads h ON h.in_use = 1 LEFT JOIN predictions p ON p.recording_id = f.recording_id AND"
        f" p.head_id = h.id WHERE f.id IN ({','.join('?' * len(ids))})",
        ids,
    )
    more = {row["id"]: row for row in said}
    # A file that was forgotten since is left out.
    kept = [track for track in found["tracks"] if track["id"] in more]
    shown = [{**more[track["id"]], **track, "path": printable(os.fsencode(track["path"]))} for track in kept]
    return Response.json({"state": "ready", **found, "tracks": shown})


ROUTES = [(r"/-/similar/(?P<id>[^/]+?)\.json$", similar_json)]
