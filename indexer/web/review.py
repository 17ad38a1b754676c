"""The review page: asks about one track after the other that is undecided, or whose tag and model disagree.

Owns which tracks are asked about and in what order. Corrections go to `/-/correct` (indexer.web.correct).
"""

import json
from typing import Any

from datasette.utils.asgi import Response

from indexer.learn import corrections
from indexer.web.context import ask, number, page, rows
from indexer.web.guard import STRICT_POLICY
from indexer.web.names import track_name
from indexer.web.questions import DISAGREEMENT, FROM_PREDICTIONS, UNDECIDED

PAGE_TRACKS = 20  # in one answer
LOOKED_AT = 20_000  # recordings searched by one query; where little is to be reviewed, a search of all takes too long
KINDS = {"undecided": UNDECIDED, "disagreements": DISAGREEMENT}


async def next_tracks(datasette: Any, what: str, after: int) -> list[dict[str, Any]]:
    """The next tracks to ask about, by recording; one file a recording."""
    last = (await rows(datasette, "SELECT max(recording_id) AS id FROM predictions"))[0]["id"] or 0
    found: list[dict[str, Any]] = []
    while len(found) < PAGE_TRACKS and after < last:
        found += await _among(datasette, what, after, after + LOOKED_AT, PAGE_TRACKS - len(found))
        after += LOOKED_AT
    for track in found:
        scores = await rows(
            datasette,
            "SELECT genre, probability FROM scores WHERE recording_id = ? AND head_id = ?",
            [track["recording_id"], track.pop("head_id")],
        )
        track["scores"] = {row["genre"]: round(row["probability"], 4) for row in scores}
        track["name"] = track_name(track["artist"], track["title"], track["path"])
    return found


async def _among(datasette: Any, what: str, after: int, until: int, count: int) -> list[dict[str, Any]]:
    # The plus keeps SQLite from the index by genre: in the order of recordings it reads no more rows than it returns.
    tables = FROM_PREDICTIONS.replace("p.head_id = h.id", "+p.head_id = h.id").replace(
        " WHERE", " JOIN recordings r ON r.id = p.recording_id WHERE"
    )
    return await rows(
        datasette,
        "SELECT min(f.id) AS id, p.recording_id, f.path_text AS path, t.title, t.artist, t.album, t.genre AS"
        " tag_genre, p.genre, p.confidence, p.threshold,"
        f" p.reason, r.duration_s, h.id AS head_id {tables}{KINDS[what]}"
        " AND p.recording_id > :after AND p.recording_id <= :until GROUP BY p.recording_id ORDER BY"
        " p.recording_id LIMIT :n",
        {"after": after, "until": until, "n": count},
    )


async def review_page(request: Any, datasette: Any) -> Any:
    """`/-/review?what=undecided|disagreements`."""
    what = request.args.get("what") if request.args.get("what") in KINDS else "undecided"
    head = await rows(datasette, "SELECT labels FROM heads WHERE in_use = 1")
    shown = await page(
        datasette,
        request,
        "review.html",
        {
            "what": what,
            "genres": await ask(datasette, corrections.genres),
            "labels": json.loads(head[0]["labels"]) if head else [],
        },
    )
    shown.headers["content-security-policy"] = STRICT_POLICY
    return shown


async def review_json(request: Any, datasette: Any) -> Any:
    """`/-/review.json?what=&after=<recording id>`: the next tracks to ask about."""
    what, after = request.args.get("what") or "undecided", number(request.args.get("after") or 0)
    if what not in KINDS or after is None:
        return Response.json(
            {"error": f"what is one of {', '.join(KINDS)}, after the number of a recording"}, status=400
        )
    return Response.json({"tracks": await next_tracks(datasette, what, after)})


MENU = ("Review", "/-/review")
ROUTES = [(r"/-/review$", review_page), (r"/-/review\.json$", review_json)]
