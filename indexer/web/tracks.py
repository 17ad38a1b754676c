"""The Tracks page: the library as one searches, filters, sorts, plays and labels it.

Owns what a row says. indexer.web.filters reads what is wanted, indexer.library.browse finds the tracks; what a person
says goes to indexer.web.correct. Without JavaScript it can be read, searched, filtered and sorted.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

from datasette.utils.asgi import Response

from indexer.learn import corrections
from indexer.library import browse
from indexer.library.browse import Found, Wanted
from indexer.library.registered import labels_in_use
from indexer.library.tracks_view import DEFAULT_LABELS
from indexer.web import playlist
from indexer.web.catalogue import catalogue_of
from indexer.web.context import ask, number, page, settings_of
from indexer.web.filters import WORDS, address, filters, genre_chips, query_of, wanted_of
from indexer.web.guard import STRICT_POLICY
from indexer.web.names import clipped
from indexer.wording import duration

PAGE_TRACKS = 100
# Heads of the table: (sort, its name, descending at the first click).
HEADS = (
    ("title", "Title", False),
    ("artist", "Artist", False),
    ("genre", "Genre", False),
    ("confidence", "Sure", False),
    ("length", "Length", False),
    ("tempo", "BPM", False),
    ("key", "Key", False),
    ("format", "Format", False),
    ("added", "Added", True),
)


def _moment(text: str) -> datetime | None:
    """A time of the library, in the zone of this machine."""
    try:
        return datetime.fromisoformat(text).astimezone()
    except ValueError:
        return None


def _day(moment: datetime, today: date) -> str:
    """A time as a day for people; of today the hour too."""
    day = moment.date()
    if day >= today - timedelta(days=1):
        return f"today {moment:%H:%M}" if day >= today else "yesterday"
    return f"{day.day} {day:%b}" if day.year == today.year else f"{day:%b %Y}"


def _row(track: Mapping[str, Any], today: date) -> dict[str, Any]:
    """What the page says of a track."""
    label = track["said"] or track["tag"] or track["decided"]
    words = {"you": track["said"], "tag": track["tag"], "model": track["decided"], "guess": track["guess"]}
    word = next((whose for whose, genre in words.items() if genre), None)
    # A tag counts as the label that it means, and is shown as it is written.
    genre = track["tag_genre"] if word == "tag" else label or track["guess"]
    percent = None if track["confidence"] is None else round(100 * track["confidence"])
    added = _moment(track["first_seen"])
    means = f", which counts as {label}" if word == "tag" and label != genre else ""
    return {
        "id": track["id"],
        "title": clipped(track["title"] or track["name"]),
        "artist": clipped(track["artist"] or ""),
        "album": clipped(track["album"] or ""),
        "year": track["year"],
        "genre": clipped(genre or ""),
        "label": label,
        "word": word,
        "said": f"{WORDS[word]}{means}" if word else None,
        "guess": track["guess"],
        "sets": {
            name: {"label": clipped(label), "decided": bool(decided), "said": confidence is None}
            for name, (label, confidence, decided) in track["sets"].items()
        },
        "rough": bool(track["rough"]),
        "percent": percent,
        "length": duration(track["duration_s"]) if track["duration_s"] else None,
        "bpm": round(bpm) if (bpm := track["tempo_bpm"] or track["tag_bpm"]) else None,
        "bpm_says": f"by the tag: {track['tag_bpm']:g}" if track["tag_bpm"] else None,
        "key": clipped(track["key"] or track["tag_key"] or ""),
        "key_says": "; ".join(_key_says(track)) or None,
        "lossy_suspect": bool(track["lossy_suspect"]),
        "format": track["container"],
        "added": _day(added, today) if added else track["first_seen"],
        "added_at": added.isoformat(sep=" ", timespec="seconds") if added else track["first_seen"],
        "state": track["state"],
        "reason": clipped(track["reason"] or ""),
        "root_id": track["root_id"],
        "is_playable": track["state"] == "ready" and track["root_id"] is not None,
        "path": track["path"],
    }


def _key_says(track: Mapping[str, Any]) -> Iterator[str]:
    """The measured key in notes, and the tag's beside it."""
    if track["key_name"]:
        yield track["key_name"]
    if track["key"] and track["tag_key"]:
        yield f"by the tag: {clipped(track['tag_key'])}"


# ---- answers


@dataclass
class _Browsed:
    """One page of what was wanted."""

    wanted: Wanted
    found: Found
    number: int  # from 1
    pages: int
    tracks: list[dict[str, Any]]
    labels: list[str]  # of the head in use, else the usual ones: they give the colours
    has: dict[str, bool]  # whether any track of the library has a tempo, a key, a genre by a model


async def _browse(request: Any, datasette: Any) -> _Browsed:
    settings = settings_of(datasette)
    assert settings is not None
    asked = number(request.args.get("page")) or 1

    def find(conn: Any) -> _Browsed:
        catalogue = catalogue_of(conn, settings.db)
        wanted = wanted_of(request.args, catalogue.sets)
        labels = labels_in_use(conn) or list(DEFAULT_LABELS)
        found = catalogue.find(conn, wanted)
        pages = max(1, -(-len(found.ids) // PAGE_TRACKS))
        at = min(asked, pages)
        ids = found.ids[(at - 1) * PAGE_TRACKS : at * PAGE_TRACKS].tolist()
        today = datetime.now(UTC).astimezone().date()
        tracks = [_row(track, today) for track in browse.shown(conn, ids)]
        has = {
            "tempo": bool((catalogue.tempo_bpm > 0).any()),
            "key": bool(catalogue.key.names),
            "confidence": bool(catalogue.genre.guess.names),
        }
        return _Browsed(wanted, found, at, pages, tracks, labels, has)

    return await ask(datasette, find)


async def tracks_page(request: Any, datasette: Any) -> Any:
    """`/-/tracks?q=&genre=&undecided=1&format=&from_bpm=&to_bpm=&key=&year=&folder=&lossy_suspect=1&word=&state=&sort=&page=`.

    For each label set also `set.NAME=LABEL`, `undecided=NAME` and `sort=set.NAME`.
    """
    browsed = await _browse(request, datasette)
    wanted, found = browsed.wanted, browsed.found
    heads = []
    for sort, name, descends in HEADS:
        if browsed.has.get(sort, True):
            is_set = wanted.sort == sort
            href = address(replace(wanted, sort=sort, descending=not wanted.descending if is_set else descends))
            heads.append({"sort": sort, "name": name, "href": href, "is_set": is_set})
    at, first = browsed.number, (browsed.number - 1) * PAGE_TRACKS + 1
    shown = await page(
        datasette,
        request,
        "tracks.html",
        {
            "wanted": wanted,
            "kept": [(name, value) for name, value in query_of(wanted) if name != "q"],
            "is_filtered": bool(query_of(replace(wanted, sort="added", descending=True))),
            "all": address(Wanted(sort=wanted.sort, descending=wanted.descending)),
            "count": len(found.ids),
            "hours": found.duration_s / 3600,
            "first": first,
            "last": first + len(browsed.tracks) - 1,
            "at": at,
            "pages": browsed.pages,
            "before": address(wanted, page_number=at - 1) if at > 1 else None,
            "after": address(wanted, page_number=at + 1) if at < browsed.pages else None,
            "query": address(wanted),
            "tracks": browsed.tracks,
            "heads": heads,
            "has": browsed.has,
            "labels": browsed.labels,
            "genre_chips": genre_chips(wanted, found),
            "filters": filters(wanted, found),
            "genres": await ask(datasette, corrections.genres),
        },
    )
    shown.headers["content-security-policy"] = STRICT_POLICY
    return shown


async def tracks_json(request: Any, datasette: Any) -> Any:
    """The same for programs.

    {count, duration_s, page, pages, undecided, lossy_suspects, counts, tracks}; ``undecided_in``: by label set, where
    there are any.
    """
    browsed = await _browse(request, datasette)
    return Response.json(
        {
            "count": len(browsed.found.ids),
            "duration_s": round(browsed.found.duration_s, 1),
            "page": browsed.number,
            "pages": browsed.pages,
            "undecided": browsed.found.undecided,
            **({"undecided_in": browsed.found.undecided_in} if browsed.found.undecided_in else {}),
            "lossy_suspects": browsed.found.lossy_suspects,
            "counts": browsed.found.counts,
            "tracks": browsed.tracks,
        }
    )


async def tracks_playlist(request: Any, datasette: Any) -> Any:
    """All tracks that the page lists, on all its pages, as a playlist (M3U8 or XML)."""
    ids = (await _browse(request, datasette)).found.ids
    found = await playlist.tracks_of(datasette, ids[: playlist.MAX_TRACKS].tolist())
    form, more = request.url_vars["form"], len(ids) > playlist.MAX_TRACKS
    return await playlist.answer(datasette, form, found, "tracks", more=more)


MENU = ("Tracks", "/-/tracks")
ROUTES = [
    (r"/-/tracks$", tracks_page),
    (r"/-/tracks\.json$", tracks_json),
    (r"/-/tracks\.(?P<form>m3u8|xml)$", tracks_playlist),
]
