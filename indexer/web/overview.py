"""The home page: what the library holds, what to do next, the state of the scan, new tracks, tags to be looked at.

Owns what is counted for it. Gives two answers: figures that change with the library, and the state of a scan, which
the page requests every few seconds.
"""

import json
from typing import Any

from datasette.utils.asgi import Response

from indexer.library.registered import heard_roughly, main_encoder, unclassified_by_head_in_use
from indexer.library.set_fields import count_unwritten as unwritten_labels
from indexer.library.states import SHOWN_STATE, TRUNCATED
from indexer.library.summary import as_it_ended
from indexer.library.tracks_view import DEFAULT_LABELS
from indexer.library.unwritten import count_unwritten
from indexer.library.whose_word import GENRE_COUNTS, LABEL
from indexer.watch.status import read_status
from indexer.web.context import ask, page, rows, settings_of
from indexer.web.guard import STRICT_POLICY
from indexer.web.kept import Kept
from indexer.web.names import track_name
from indexer.web.questions import DISAGREEMENT, FROM_PREDICTIONS

_KEPT = "_indexer_counts"  # attribute of the Datasette object: a Kept, and the device and inode of the library
SHOWN_OTHERS = 10  # genres that people gave and the head does not know, the most frequent
LATEST = 12  # tracks listed as added lately
SHOWN_DISAGREEMENTS = 8
# Disagreements are searched among the newest recordings: without any, a search of all would exceed the time limit.
LOOKED_AT = 20_000

_TOTALS = (
    "SELECT count(DISTINCT f.recording_id) AS recordings, sum(r.duration_s) / 3600 AS hours,"
    " (SELECT count(DISTINCT artist) FROM tags) AS artists"
    " FROM files f JOIN recordings r ON r.id = f.recording_id WHERE +f.state = 'ready'"
)
_LATEST = (
    "SELECT f.id, f.path_text AS path, t.title, t.artist, f.first_seen, f.state, f.root_id, p.genre, p.confidence,"
    f" p.decided, {LABEL} AS label FROM files f"
    " LEFT JOIN tags t ON t.file_id = f.id LEFT JOIN heads h ON h.in_use = 1"
    " LEFT JOIN predictions p ON p.recording_id = f.recording_id AND p.head_id = h.id ORDER BY f.id DESC LIMIT :n"
)
_DISAGREEMENTS = (
    "SELECT f.id, f.path_text AS path, t.title, t.artist, t.genre AS tag_genre, p.genre, p.confidence,"
    " (SELECT g.label FROM genre_labels g WHERE g.genre = t.genre) AS tag_label"
    f" {FROM_PREDICTIONS}{DISAGREEMENT}"
    " AND p.recording_id > (SELECT max(id) FROM recordings) - :newest LIMIT :n"
).replace("p.head_id = h.id", "+p.head_id = h.id")


_COUNTS = {
    "genres": GENRE_COUNTS,
    "totals": _TOTALS,
    "states": f"SELECT {SHOWN_STATE} AS shown, count(*) AS n FROM files GROUP BY shown",
    "truncated": f"SELECT count(*) AS n FROM files f WHERE {TRUNCATED}",
}


async def _counts(datasette: Any) -> dict[str, Any]:
    """Rows of {genres, totals, states, truncated}; the numbers {rough, unwritten, unwritten_labels, unclassified}.

    One request at a time asks, without a limit of time.
    """
    settings = settings_of(datasette)
    assert settings is not None

    def count(conn: Any) -> dict[str, Any]:
        found = {name: [dict(row) for row in conn.execute(sql)] for name, sql in _COUNTS.items()}
        encoder = main_encoder(conn)
        return {
            **found,
            "rough": heard_roughly(conn, encoder.parts) if encoder else 0,
            "unwritten": count_unwritten(conn, settings),
            "unwritten_labels": sum(unwritten_labels(conn, settings).values()),
            "unclassified": unclassified_by_head_in_use(conn),
        }

    found: dict[str, Any] = await ask(datasette, count)
    return found


async def counts_of(datasette: Any) -> dict[str, Any]:
    """The rows of ``_counts`` that this server keeps of a library; of a file that took its place, new ones."""
    settings = settings_of(datasette)
    assert settings is not None
    try:
        stat = settings.db.stat()
        library_file = stat.st_dev, stat.st_ino
    except OSError:
        library_file = None
    if getattr(datasette, _KEPT, (None, None))[1] != library_file or library_file is None:
        setattr(datasette, _KEPT, (Kept(lambda: _counts(datasette)), library_file))
    found: dict[str, Any] = await getattr(datasette, _KEPT)[0].value()
    return found


async def figures(datasette: Any) -> dict[str, Any]:
    """Counts and lists of the library.

    ``genres``: {genre, colour, decided, undecided}, the commonest first; ``colour`` is the place of the label,
    None for a genre of the user's own. ``without``: recordings that nobody, no tag and no head gives a genre.
    """
    counts = await counts_of(datasette)
    head = await rows(datasette, "SELECT name, labels, threshold FROM heads WHERE in_use = 1")
    labels = json.loads(head[0]["labels"]) if head else []
    colours = labels or list(DEFAULT_LABELS)  # those of the genres that the program begins with
    counted = {row["genre"]: row for row in counts["genres"]}
    others = [genre for genre in counted if genre not in labels]
    states = {row["shown"]: row["n"] for row in counts["states"]}
    totals = counts["totals"][0]
    decided = sum(row["decided"] for row in counted.values())
    undecided = sum(row["recordings"] - row["decided"] for row in counted.values())
    return {
        "files": sum(states.values()),
        "states": states,
        "truncated": counts["truncated"][0]["n"],
        "rough": counts["rough"],
        "recordings": totals["recordings"],
        "hours": round(totals["hours"] or 0, 1),
        "artists": totals["artists"],
        "head": head[0]["name"] if head else None,
        "labels": colours,
        "genres": sorted(
            (
                {
                    "genre": genre,
                    "colour": colours.index(genre) if genre in colours else None,
                    "decided": counted[genre]["decided"] if genre in counted else 0,
                    "undecided": counted[genre]["recordings"] - counted[genre]["decided"] if genre in counted else 0,
                }
                for genre in (*labels, *others[:SHOWN_OTHERS])
            ),
            key=lambda row: (-row["decided"], -row["undecided"]),
        ),
        "other_genres": len(others[SHOWN_OTHERS:]),
        "known_genres": sum(row["decided"] > 0 for row in counted.values()),
        "decided": decided,
        "undecided": undecided,
        "without": undecided if head else max(0, totals["recordings"] - decided),
        "not_written": counts["unwritten"],
        "labels_not_written": counts["unwritten_labels"],
        "unclassified": counts["unclassified"],
        "latest": await rows(datasette, _LATEST, {"n": LATEST}),
        "disagreements": await rows(datasette, _DISAGREEMENTS, {"n": SHOWN_DISAGREEMENTS, "newest": LOOKED_AT}),
        "looked_at": LOOKED_AT,
        "roots": await rows(datasette, "SELECT path_text AS path, state, reason, scanned_at FROM roots ORDER BY path"),
    }


async def going_on(datasette: Any) -> dict[str, Any]:
    """{run, watch}: the newest run with its counts so far, and the state that the daemon reports."""
    settings = settings_of(datasette)
    found = await rows(
        datasette, "SELECT id, command, state, started_at, finished_at, summary FROM runs ORDER BY id DESC LIMIT 1"
    )
    run = found[0] if found else None
    if run and settings:
        run = as_it_ended(run, settings.db)
        run["summary"] = run["summary"] or {}
    return {"run": run, "watch": read_status(settings.db) if settings else None}


async def overview_page(request: Any, datasette: Any) -> Any:
    """The home page."""
    found = await figures(datasette)
    for track in (*found["latest"], *found["disagreements"]):
        track["name"] = track_name(track["artist"], track["title"], track["path"])
    values = {
        **found,
        "scale": max((row["decided"] + row["undecided"] for row in found["genres"]), default=0) or 1,
        "has_map": bool(await rows(datasette, "SELECT 1 FROM projections LIMIT 1")),
        "now": await going_on(datasette),
    }
    shown = await page(datasette, request, "overview.html", values)
    shown.headers["content-security-policy"] = STRICT_POLICY
    return shown


async def overview_json(datasette: Any) -> Any:
    """The same figures for programs."""
    return Response.json({**await figures(datasette), **await going_on(datasette)}, default=str)


async def now_json(datasette: Any) -> Any:
    """The state of the scan, with which the page refreshes itself."""
    return Response.json(await going_on(datasette), default=str)


MENU = ("Overview", "/")
ROUTES = [(r"/$", overview_page), (r"/-/overview\.json$", overview_json), (r"/-/now\.json$", now_json)]
