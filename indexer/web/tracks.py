"""The Tracks page: the library as one searches, filters, sorts, plays and labels it.

Owns how a wish is written in an address, and what a row says. indexer.library.browse finds the tracks; what a person
says goes to indexer.web.correct. Without JavaScript it can be read, searched, filtered and sorted.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from datasette.utils.asgi import Response

from indexer.errors import IndexerError
from indexer.learn import corrections
from indexer.library import browse
from indexer.library.browse import Catalogue, Found, Wanted
from indexer.library.readonly import reading
from indexer.library.registered import labels_in_use
from indexer.library.tracks_view import DEFAULT_LABELS
from indexer.web import playlist
from indexer.web.context import ask, number, page, settings_of, state_of
from indexer.web.guard import STRICT_POLICY
from indexer.wording import duration

PAGE_TRACKS = 100
KEPT_TIMES = 10  # a reading that took a second serves for 10 s while the library changes
SHOWN_CHARS = 200  # of a title, an artist, a reason
MAX_SEARCH_CHARS = 200
MAX_VALUES = 50  # of one kind of filter in an address
SHOWN_GENRES = 12  # above the other filters; the rest is behind "More genres"
SHOWN_VALUES = 60  # of one kind of filter on the page, the most frequent

# Names in an address, and the fields of Wanted.
_TEXTS = {"genre": "genres", "word": "words", "format": "formats", "key": "keys", "state": "states"}
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
WORDS = {
    "you": "you said so",
    "tag": "the file's tag",
    "model": "the model decided",
    "guess": "a guess: the model is not sure",
}


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


# ---- a wish as an address


def wanted_of(args: Any) -> Wanted:
    """The wish that the query of an address states; what cannot be read in it is passed over."""

    def texts(name: str) -> tuple[str, ...]:
        return tuple(args.getlist(name)[:MAX_VALUES]) if name in args else ()

    asked = args.get("sort") or ""
    sort, descending = asked.lstrip("-"), asked.startswith("-")
    if sort not in browse.SORTS:
        sort, descending = "added", True
    return Wanted(
        search=(args.get("q") or "")[:MAX_SEARCH_CHARS].strip(),
        undecided=args.get("undecided") == "1",
        years=tuple(year for year in map(number, texts("year")) if year is not None),
        tempo_bpm=(number(args.get("from_bpm")), number(args.get("to_bpm"))),
        folder=args.get("folder") or "",
        lossy_suspect=args.get("lossy_suspect") == "1",
        sort=sort,
        descending=descending,
        genres=texts("genre"),
        words=texts("word"),
        formats=texts("format"),
        keys=texts("key"),
        states=texts("state"),
    )


def query_of(wanted: Wanted) -> list[tuple[str, str]]:
    """The query that states a wish, as ``wanted_of`` reads it."""
    found = [("q", wanted.search)] if wanted.search else []
    found += [(name, value) for name, field in _TEXTS.items() for value in getattr(wanted, field)]
    found += [("undecided", "1")] if wanted.undecided else []
    found += [("year", str(year)) for year in wanted.years]
    found += [
        (name, str(bpm)) for name, bpm in zip(("from_bpm", "to_bpm"), wanted.tempo_bpm, strict=True) if bpm is not None
    ]
    found += [("folder", wanted.folder)] if wanted.folder else []
    found += [("lossy_suspect", "1")] if wanted.lossy_suspect else []
    if (wanted.sort, wanted.descending) != ("added", True):
        found.append(("sort", ("-" if wanted.descending else "") + wanted.sort))
    return found


def _address(wanted: Wanted, *, page_number: int = 1) -> str:
    """What follows the page's own path; "?" alone for all tracks, which a browser takes for an empty query."""
    return "?" + urlencode(query_of(wanted) + ([("page", str(page_number))] if page_number > 1 else []))


# ---- filters


def _clipped(text: str) -> str:
    return text if len(text) <= SHOWN_CHARS else text[: SHOWN_CHARS - 1] + "…"


@dataclass(frozen=True)
class Chip:
    """A filter that one click sets or takes away."""

    text: str
    href: str
    count: int | None
    is_set: bool
    outline: bool = False


def _toggled(wanted: Wanted, field: str, value: Any) -> Wanted:
    values = getattr(wanted, field)
    changed: dict[str, Any] = {field: tuple(v for v in values if v != value) if value in values else (*values, value)}
    return replace(wanted, **changed)


def _chips(
    wanted: Wanted,
    field: str,
    counts: Mapping[Any, int],
    *,
    text: Callable[[Any], str] = str,
    by_name: bool = False,
) -> list[Chip]:
    """The filters of one kind: those that are set, then the most frequent."""
    chosen = getattr(wanted, field)
    values = [*dict.fromkeys(chosen), *sorted(counts.keys() - {*chosen}, key=lambda value: (-counts[value], value))]
    values = values[:SHOWN_VALUES]
    if by_name:
        values.sort(key=lambda value: browse.in_order(str(value)))
    return [
        Chip(
            _clipped(text(value)),
            _address(_toggled(wanted, field, value)),
            counts.get(value, 0),
            value in chosen,
        )
        for value in values
    ]


def _genre_chips(wanted: Wanted, found: Found) -> list[Chip]:
    chips = _chips(wanted, "genres", found.counts["genre"])[:SHOWN_GENRES]
    if found.undecided or wanted.undecided:
        address = _address(replace(wanted, undecided=not wanted.undecided))
        chips.append(Chip("undecided", address, found.undecided, wanted.undecided, outline=True))
    return chips


def _tempo_chips(wanted: Wanted, counts: Mapping[int, int]) -> list[Chip]:
    chips = []
    for low in sorted(counts):
        span = (low, low + 9)
        is_set = wanted.tempo_bpm == span
        address = _address(replace(wanted, tempo_bpm=(None, None) if is_set else span))
        chips.append(Chip(f"{low}–{low + 9}", address, counts[low], is_set))
    return chips


def _lossy_chips(wanted: Wanted, found: Found) -> list[Chip]:
    """Lossless files that were lossy once, where there are any."""
    address = _address(replace(wanted, lossy_suspect=not wanted.lossy_suspect))
    chip = Chip("lossy once?", address, found.lossy_suspects, wanted.lossy_suspect, outline=True)
    return [chip] if found.lossy_suspects or wanted.lossy_suspect else []


def _folder_chips(wanted: Wanted, counts: Mapping[str, int]) -> list[Chip]:
    chips = []
    if wanted.folder:
        above = wanted.folder.rpartition("/")[0]
        chips = [
            Chip("all folders", _address(replace(wanted, folder="")), None, False),
            Chip(f"↑ {above}/", _address(replace(wanted, folder=above)), None, False),
            Chip(wanted.folder, _address(replace(wanted, folder="")), None, True),
        ]
    return chips + [
        Chip(path.rpartition("/")[2] + "/", _address(replace(wanted, folder=path)), counts[path], False)
        for path in sorted(counts, key=str.casefold)[:SHOWN_VALUES]
    ]


def filters(wanted: Wanted, found: Found) -> list[dict[str, Any]]:
    """The kinds of filters below the genres, where there is a choice or one is set.

    Each is {name, chips, chosen: in words, more: how many values are not shown}.
    """
    counts = found.counts
    kinds = [
        ("More genres", "genre", _chips(wanted, "genres", counts["genre"])[SHOWN_GENRES:]),
        ("Format", "format", [*_chips(wanted, "formats", counts["format"]), *_lossy_chips(wanted, found)]),
        ("Tempo", "tempo", _tempo_chips(wanted, counts["tempo"])),
        ("Key", "key", _chips(wanted, "keys", counts["key"], by_name=True)),
        ("Year", "year", _chips(wanted, "years", counts["year"], by_name=True)),
        ("Folder", "folder", _folder_chips(wanted, counts["folder"])),
        ("Whose word", "word", _chips(wanted, "words", counts["word"], text=lambda word: WORDS.get(word, word))),
        ("State", "state", _chips(wanted, "states", counts["state"])),
    ]
    chosen = {name: ", ".join(chip.text for chip in chips if chip.is_set) for name, _, chips in kinds}
    if wanted.tempo_bpm != (None, None):
        low, high = wanted.tempo_bpm
        chosen["Tempo"] = f"{'' if low is None else low}–{'' if high is None else high}"
    return [
        {"name": name, "chips": chips, "chosen": chosen[name], "more": max(0, len(counts[kind]) - SHOWN_VALUES)}
        for name, kind, chips in kinds
        if len(chips) > 1 or chosen[name] or (kind == "genre" and chips)
    ]


# ---- rows


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
        "title": _clipped(track["title"] or track["name"]),
        "artist": _clipped(track["artist"] or ""),
        "album": _clipped(track["album"] or ""),
        "year": track["year"],
        "genre": _clipped(genre or ""),
        "label": label,
        "word": word,
        "said": f"{WORDS[word]}{means}" if word else None,
        "guess": track["guess"],
        "rough": bool(track["rough"]),
        "percent": percent,
        "length": duration(track["duration_s"]) if track["duration_s"] else None,
        "bpm": round(bpm) if (bpm := track["tempo_bpm"] or track["tag_bpm"]) else None,
        "bpm_says": f"by the tag: {track['tag_bpm']:g}" if track["tag_bpm"] else None,
        "key": _clipped(track["key"] or track["tag_key"] or ""),
        "key_says": "; ".join(_key_says(track)) or None,
        "lossy_suspect": bool(track["lossy_suspect"]),
        "format": track["container"],
        "added": _day(added, today) if added else track["first_seen"],
        "added_at": added.isoformat(sep=" ", timespec="seconds") if added else track["first_seen"],
        "state": track["state"],
        "reason": _clipped(track["reason"] or ""),
        "root_id": track["root_id"],
        "is_playable": track["state"] == "ready" and track["root_id"] is not None,
        "path": track["path"],
    }


def _key_says(track: Mapping[str, Any]) -> Iterator[str]:
    """The measured key in notes, and the tag's beside it."""
    if track["key_name"]:
        yield track["key_name"]
    if track["key"] and track["tag_key"]:
        yield f"by the tag: {_clipped(track['tag_key'])}"


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
    wanted = wanted_of(request.args)
    asked = number(request.args.get("page")) or 1

    def find(conn: Any) -> _Browsed:
        catalogue = catalogue_of(conn, settings.db)
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
            "confidence": bool(catalogue.guess.names),
        }
        return _Browsed(wanted, found, at, pages, tracks, labels, has)

    return await ask(datasette, find)


async def tracks_page(request: Any, datasette: Any) -> Any:
    """`/-/tracks?q=&genre=&undecided=1&format=&from_bpm=&to_bpm=&key=&year=&folder=&lossy_suspect=1&word=&state=&sort=&page=`."""
    browsed = await _browse(request, datasette)
    wanted, found = browsed.wanted, browsed.found
    heads = []
    for sort, name, descends in HEADS:
        if browsed.has.get(sort, True):
            is_set = wanted.sort == sort
            address = _address(replace(wanted, sort=sort, descending=not wanted.descending if is_set else descends))
            heads.append({"sort": sort, "name": name, "href": address, "is_set": is_set})
    at, first = browsed.number, (browsed.number - 1) * PAGE_TRACKS + 1
    shown = await page(
        datasette,
        request,
        "tracks.html",
        {
            "wanted": wanted,
            "kept": [(name, value) for name, value in query_of(wanted) if name != "q"],
            "is_filtered": bool(query_of(replace(wanted, sort="added", descending=True))),
            "all": _address(Wanted(sort=wanted.sort, descending=wanted.descending)),
            "count": len(found.ids),
            "hours": found.duration_s / 3600,
            "first": first,
            "last": first + len(browsed.tracks) - 1,
            "at": at,
            "pages": browsed.pages,
            "before": _address(wanted, page_number=at - 1) if at > 1 else None,
            "after": _address(wanted, page_number=at + 1) if at < browsed.pages else None,
            "query": _address(wanted),
            "tracks": browsed.tracks,
            "heads": heads,
            "has": browsed.has,
            "labels": browsed.labels,
            "genre_chips": _genre_chips(wanted, found),
            "filters": filters(wanted, found),
            "genres": await ask(datasette, corrections.genres),
        },
    )
    shown.headers["content-security-policy"] = STRICT_POLICY
    return shown


async def tracks_json(request: Any, datasette: Any) -> Any:
    """The same for programs: {count, duration_s, page, pages, undecided, lossy_suspects, counts, tracks}."""
    browsed = await _browse(request, datasette)
    return Response.json(
        {
            "count": len(browsed.found.ids),
            "duration_s": round(browsed.found.duration_s, 1),
            "page": browsed.number,
            "pages": browsed.pages,
            "undecided": browsed.found.undecided,
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
