"""The review page: asks about one track after the other that has no genre, or one that is to be looked at.

Owns which tracks are asked about and in what order: the most different first, so that few labels teach much. It needs
no model. Corrections go to `/-/correct` (indexer.web.correct), training to `/-/train` (indexer.web.training).
"""

import asyncio
import json
from itertools import islice
from typing import Any

from datasette.utils.asgi import Response

from indexer.errors import StoreError
from indexer.files.containers import media_type
from indexer.learn import corrections
from indexer.learn.spread import directions, most_different
from indexer.library.facts import joined_vectors
from indexer.library.vectors.similar import encoder_of, parts_of
from indexer.library.whose_word import LABEL, NOBODY_SAID, USERS_TAG
from indexer.web.context import ask, number, page, rows
from indexer.web.guard import STRICT_POLICY
from indexer.web.names import track_name
from indexer.web.questions import DISAGREEMENT

PAGE_TRACKS = 20  # in one answer
# Recordings that one question looks at: all of them, or so many evenly spread over a larger library, of which the
# answer then tells about how many there are. Where that finds too few, the next questions go through all.
LOOKED_AT = 2000
COMPARED, COMPARED_WITH = 400, 100  # recordings to ask about, and others, whose vectors are compared
MAX_SKIPPED = 2000
_LOCK = "_indexer_review_lock"  # attribute of the Datasette object
KINDS = {
    "undecided": f"{LABEL} IS NULL",
    # The tag has a word that means no label, or several of them: such words teach a head nothing.
    "other-words": f"{NOBODY_SAID} AND {USERS_TAG} IS NOT NULL"
    " AND NOT EXISTS (SELECT 1 FROM genre_labels g WHERE g.genre = t.genre)",
    "disagreements": DISAGREEMENT,
}
BY_DIFFERENCE = ("undecided", "other-words")  # the others come in the order of recordings
_FILES = (
    " FROM files f JOIN recordings r ON r.id = f.recording_id LEFT JOIN tags t ON t.file_id = f.id"
    " LEFT JOIN heads h ON h.in_use = 1"
    " LEFT JOIN predictions p ON p.recording_id = f.recording_id AND p.head_id = h.id"
    " WHERE +f.state = 'ready' AND "  # the plus: nearly every file is ready, so the index of states is of no use
)
_SOME = "f.recording_id IN (SELECT value FROM json_each(:ids))"
_RANGE = "f.recording_id > :after AND f.recording_id <= :until"


async def next_tracks(datasette: Any, what: str, skip: list[int]) -> tuple[list[dict[str, Any]], int | None, bool]:
    """(The next tracks to ask about, one file a recording; how many there are, None: unknown; whether that is exact).

    ``skip``: recordings that are not to be asked about, because they were.
    """
    last = (await rows(datasette, "SELECT max(recording_id) AS id FROM files"))[0]["id"] or 0
    if last <= LOOKED_AT:
        found, others = await _among(datasette, what, skip, _RANGE, {"after": 0, "until": last})
        total: int | None = len(found)
    else:
        ids = [1 + n * last // LOOKED_AT for n in range(LOOKED_AT)]
        found, others = await _among(datasette, what, skip, _SOME, {"ids": json.dumps(ids)})
        total = round(len(found) * last / LOOKED_AT)
        if len(found) < PAGE_TRACKS:
            found, total = await _search(datasette, what, skip, last), None
    if what in BY_DIFFERENCE:
        async with _one_at_a_time(datasette):
            found = await ask(datasette, lambda reader: _in_order(reader, found, [*skip, *others]))
    return await _told(datasette, what, found[:PAGE_TRACKS]), total, last <= LOOKED_AT


def _one_at_a_time(datasette: Any) -> asyncio.Lock:
    """The lock of this server for comparing vectors: each comparison computes on all cores, and several held up all."""
    if not hasattr(datasette, _LOCK):
        setattr(datasette, _LOCK, asyncio.Lock())
    found: asyncio.Lock = getattr(datasette, _LOCK)
    return found


async def _among(
    datasette: Any, what: str, skip: list[int], where: str, values: dict[str, Any]
) -> tuple[list[int], list[int]]:
    """(recordings to ask about, the others), each in the order of recordings."""
    # One row, made by SQLite alone: between two rows, threads of Python wait for each other.
    asked = await rows(
        datasette,
        "SELECT json_group_array(id) FILTER (WHERE asked) AS found, json_group_array(id) FILTER (WHERE NOT asked) AS"
        f" others FROM (SELECT f.recording_id AS id, coalesce(max({KINDS[what]}), 0) AS asked{_FILES}{where}"
        " GROUP BY f.recording_id)",
        values,
    )
    skipped = {*skip}
    found = [recording for recording in sorted(json.loads(asked[0]["found"])) if recording not in skipped]
    return found, sorted(json.loads(asked[0]["others"]))


async def _search(datasette: Any, what: str, skip: list[int], last: int) -> list[int]:
    """The first recordings to ask about, where there are few of them."""
    found: list[int] = []
    for after in range(0, last, LOOKED_AT):
        found += (await _among(datasette, what, skip, _RANGE, {"after": after, "until": after + LOOKED_AT}))[0]
        if len(found) >= PAGE_TRACKS:
            break
    return found


def _in_order(reader: Any, found: list[int], others: list[int]) -> list[int]:
    """The first PAGE_TRACKS recordings to ask about, the most different from the others and each other first.

    Those that are not embedded come last.
    """
    some, known = _evenly(found, COMPARED), _evenly(others, COMPARED_WITH)
    try:
        places, vectors = joined_vectors(reader, parts_of(encoder_of(reader)), [*some, *known])
    except StoreError:  # nothing is embedded
        return found
    if not len(places):
        return found
    unit, of_some = directions(vectors), places < len(some)
    some = [some[place] for place in places[of_some]]
    first = [some[n] for n, _ in islice(most_different(unit[of_some], unit[~of_some]), PAGE_TRACKS)]
    return [*first, *sorted({*found} - {*first})]


def _evenly(values: list[int], count: int) -> list[int]:
    """So many of the values, evenly spread over them."""
    return [values[n * len(values) // count] for n in range(count)] if len(values) > count else values


async def _told(datasette: Any, what: str, recordings: list[int]) -> list[dict[str, Any]]:
    """What the page shows of these recordings, in their order."""
    found = await rows(
        datasette,
        "SELECT min(f.id) AS id, f.recording_id, f.path_text AS path, f.container, t.title, t.artist, t.album,"
        " t.genre AS tag_genre, p.genre, p.confidence, p.threshold, p.decided, p.reason, r.duration_s, h.id AS head_id"
        f"{_FILES}{_SOME} AND {KINDS[what]} GROUP BY f.recording_id",
        {"ids": json.dumps(recordings)},
    )
    for track in found:
        scores = await rows(
            datasette,
            "SELECT genre, probability FROM scores WHERE recording_id = ? AND head_id = ?",
            [track["recording_id"], track.pop("head_id")],
        )
        track["scores"] = {row["genre"]: round(row["probability"], 4) for row in scores}
        track["name"] = track_name(track["artist"], track["title"], track["path"])
        track["media_type"] = media_type(track["container"])
    return sorted(found, key=lambda track: recordings.index(track["recording_id"]))


async def review_page(request: Any, datasette: Any) -> Any:
    """`/-/review?what=`, one of KINDS."""
    what = request.args.get("what") if request.args.get("what") in KINDS else "undecided"
    head = await rows(datasette, "SELECT labels FROM heads WHERE in_use = 1")
    files = await rows(datasette, "SELECT EXISTS (SELECT 1 FROM files) AS any")
    shown = await page(
        datasette,
        request,
        "review.html",
        {
            "what": what,
            "empty": not files[0]["any"],
            "genres": await ask(datasette, corrections.genres),
            "labels": json.loads(head[0]["labels"]) if head else [],
        },
    )
    shown.headers["content-security-policy"] = STRICT_POLICY
    return shown


async def review_json(request: Any, datasette: Any) -> Any:
    """`/-/review.json?what=&skip=<recordings>`: {tracks, total, exact}, the next tracks to ask about.

    skip: numbers of recordings, separated by commas. total: how many there are beside them; null where nobody counted.
    """
    what = request.args.get("what") or "undecided"
    skip = [number(text) for text in filter(None, (request.args.get("skip") or "").split(","))]
    if what not in KINDS or None in skip or len(skip) > MAX_SKIPPED:
        reason = f"what is one of {', '.join(KINDS)}, skip up to {MAX_SKIPPED:,} numbers of recordings"
        return Response.json({"error": reason}, status=400)
    tracks, total, exact = await next_tracks(datasette, what, [found for found in skip if found is not None])
    return Response.json({"tracks": tracks, "total": total, "exact": exact})


MENU = ("Review", "/-/review")
ROUTES = [(r"/-/review$", review_page), (r"/-/review\.json$", review_json)]
