"""The map: the library as a scatter of its embeddings, coloured by genre.

Owns the compact form in which a browser gets all points. indexer.library.vectors.projection computes the places.
"""

import gzip
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from datasette.utils.asgi import Response

from indexer.library.tracks_view import DEFAULT_LABELS
from indexer.library.whose_word import LABEL, SAID, USERS_TAG
from indexer.web.context import ask, number, page, rows, settings_of, state_of
from indexer.web.guard import STRICT_POLICY
from indexer.web.names import track_name

NO_GENRE = 127  # stands for the label of a recording without a prediction
UNDECIDED = 128  # is added to the label of an undecided prediction
_POINT = np.dtype([("id", np.int64), ("x", np.float64), ("y", np.float64), ("genre", np.uint8)])

# The plus keeps SQLite from the index of states: by recording it need not sort the whole library.
_POINTS = (
    f"SELECT min(f.id), l.x, l.y, coalesce({SAID}, {USERS_TAG}, p.genre),"
    f" coalesce({SAID}, {USERS_TAG}) IS NOT NULL OR p.decided"
    " FROM places l JOIN files f ON f.recording_id = l.recording_id AND +f.state = 'ready'"
    " LEFT JOIN tags t ON t.file_id = f.id"
    " LEFT JOIN predictions p ON p.recording_id = l.recording_id AND p.head_id = :head"
    " WHERE l.encoder_id = :encoder AND l.recording_id % :step = 0 GROUP BY l.recording_id"
)
# The encoder whose vectors the head takes; without a head the one in use, else any that has a map.
_ENCODER = (
    "SELECT j.encoder_id FROM projections j LEFT JOIN heads h ON h.encoder_id = j.encoder_id AND h.in_use = 1"
    " JOIN encoders e ON e.id = j.encoder_id"
    " ORDER BY h.id IS NULL, e.in_use DESC, j.made_at DESC LIMIT 1"
)


FEW = 2_000  # points of the small map on the home page, at most


def points(conn: Any, at_most: int | None = None) -> tuple[list[str], Iterable[Any]]:
    """(labels, iterator of (file id, x, y, genre, decided)): one readable file for each recording with a place.

    ``at_most``: about so many of them, evenly chosen.
    """
    head = conn.execute("SELECT id, labels FROM heads WHERE in_use = 1").fetchone()
    encoder = conn.execute(_ENCODER).fetchone()
    labels = json.loads(head["labels"]) if head else list(DEFAULT_LABELS)
    if encoder is None:
        return labels, []
    step = 1
    if at_most is not None:
        last = conn.execute("SELECT max(recording_id) FROM places").fetchone()[0] or 0
        step = max(1, -(-last // at_most))
    cursor = conn.cursor()
    cursor.row_factory = None
    values = {"head": head["id"] if head else None, "encoder": encoder["encoder_id"], "step": step}
    return labels, cursor.execute(_POINTS, values)


def packed(labels: list[str], found: Iterable[Any]) -> bytes:
    """The points of the map as bytes.

    A line of JSON {labels, points}, padded to a multiple of 4 bytes; then for all points, little-endian: the step of
    the file id from the point before (uint32), x and y (uint16, the map's own square), the label's place (uint8).
    """
    place = {label: n for n, label in enumerate(labels[:NO_GENRE])}  # labels beyond these have no colour of their own

    def colour(genre: Any, decided: int | None) -> int:
        return place.get(genre, NO_GENRE) + (0 if decided or genre not in place else UNDECIDED)

    # An array, because there is a point for every recording, and rows would take much more memory.
    table = np.fromiter(((n, x, y, colour(genre, decided)) for n, x, y, genre, decided in found), _POINT)
    table.sort(order="id")
    ids, xy, genres = table["id"], np.stack([table["x"], table["y"]], axis=1), table["genre"]
    low, high = (xy.min(axis=0), xy.max(axis=0)) if len(xy) else (np.zeros(2), np.ones(2))
    scale = max(1e-9, float((high - low).max()))  # one for both: distances stay comparable
    scaled = np.rint((xy - (low + high) / 2) / scale * 65_535 + 32_767.5).clip(0, 65_535).astype("<u2")
    header = json.dumps({"labels": labels, "points": len(table)}).encode()
    header += b" " * (-(len(header) + 1) % 4) + b"\n"
    return b"".join(
        [
            header,
            np.diff(ids, prepend=0).astype("<u4").tobytes(),
            scaled[:, 0].tobytes(),
            scaled[:, 1].tobytes(),
            genres.tobytes(),
        ]
    )


# By library and number of points: the state of its files, the compressed points, their digest.
_built: dict[tuple[Path, int | None], tuple[Any, bytes, str]] = {}


def built(conn: Any, db: Path, at_most: int | None = None) -> tuple[bytes, str]:
    """(the compressed points, their digest); packs them again only after the library changed."""
    state = state_of(db)
    if (db, at_most) not in _built or _built[db, at_most][0] != state:
        content = packed(*points(conn, at_most))
        _built[db, at_most] = (state, gzip.compress(content, 6), hashlib.sha256(content).hexdigest()[:32])
    return _built[db, at_most][1:]


async def map_data(request: Any, datasette: Any) -> Any:
    """`/-/map.bin`: all points, see ``packed``; with ?few=1 at most FEW of them."""
    settings = settings_of(datasette)
    assert settings is not None
    at_most = FEW if request.args.get("few") else None
    content, digest = await ask(datasette, lambda conn: built(conn, settings.db, at_most))
    headers = {"etag": f'"{digest}"', "cache-control": "private, no-cache", "vary": "Accept-Encoding"}
    if digest in request.headers.get("if-none-match", ""):
        return Response(b"", status=304, headers=headers)
    if "gzip" in request.headers.get("accept-encoding", ""):
        headers["content-encoding"] = "gzip"
    else:
        content = gzip.decompress(content)
    return Response(content, headers=headers, content_type="application/octet-stream")


async def map_track(request: Any, datasette: Any) -> Any:
    """`/-/map/track/<file id>.json`: the track of a point, for its tooltip and the player."""
    file_id = number(request.url_vars["id"])
    found = await rows(
        datasette,
        "SELECT f.id, f.path_text AS path, t.title, t.artist, p.genre, p.confidence, f.root_id IS NOT NULL AS"
        f" playable, {LABEL} AS label FROM files f"
        " LEFT JOIN tags t ON t.file_id = f.id LEFT JOIN heads h ON h.in_use = 1"
        " LEFT JOIN predictions p ON p.recording_id = f.recording_id AND p.head_id = h.id WHERE f.id = ?",
        [file_id],
    )
    if not found:
        return Response.json({"error": "there is no track with this number"}, status=404)
    track = found[0]
    track["name"] = track_name(track["artist"], track["title"], track.pop("path"))
    return Response.json(track)


async def map_page(request: Any, datasette: Any) -> Any:
    """`/-/map`."""
    made = await rows(
        datasette,
        "SELECT e.name, j.made_at, j.recordings FROM projections j JOIN encoders e ON e.id = j.encoder_id"
        f" WHERE j.encoder_id = ({_ENCODER})",
    )
    shown = await page(datasette, request, "map.html", {"made": made[0] if made else None})
    shown.headers["content-security-policy"] = STRICT_POLICY
    return shown


MENU = ("Map", "/-/map")
ROUTES = [(r"/-/map$", map_page), (r"/-/map\.bin$", map_data), (r"/-/map/track/(?P<id>[^/]+?)\.json$", map_track)]
