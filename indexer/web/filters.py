"""A wish for tracks as an address, and the filters: links that each lead to the wish with one more, or one less.

What cannot be read in an address is passed over. indexer.library.browse finds the tracks.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlencode

from indexer.library import browse
from indexer.library.browse import IN_SET, Found, Wanted
from indexer.library.columns import in_order
from indexer.library.label_sets import title
from indexer.web.context import number
from indexer.web.names import clipped

MAX_SEARCH_CHARS = 200
MAX_VALUES = 50  # of one kind of filter in an address
SHOWN_GENRES = 12  # above the other filters; the rest is behind "More genres"
SHOWN_VALUES = 60  # of one kind of filter on the page, the most frequent

# Names in an address, and the fields of Wanted.
_TEXTS = {"genre": "genres", "word": "words", "format": "formats", "key": "keys", "state": "states"}

# Whose word a genre is.
WORDS = {
    "you": "you said so",
    "tag": "the file's tag",
    "model": "the model decided",
    "guess": "a guess: the model is not sure",
}


def wanted_of(args: Any, sets: Collection[str] = ()) -> Wanted:
    """The wish that the query of an address states; what cannot be read in it is passed over.

    ``sets``: the label sets that there are.
    """

    def texts(name: str) -> tuple[str, ...]:
        return tuple(args.getlist(name)[:MAX_VALUES]) if name in args else ()

    asked = args.get("sort") or ""
    sort, descending = asked.lstrip("-"), asked.startswith("-")
    if sort not in (*browse.SORTS, *(IN_SET + name for name in sets)):
        sort, descending = "added", True
    return Wanted(
        search=(args.get("q") or "")[:MAX_SEARCH_CHARS].strip(),
        undecided="1" in texts("undecided"),
        undecided_in=tuple(name for name in texts("undecided") if name in sets),
        labels=tuple((name, label) for name in sets for label in texts(IN_SET + name)),
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
    found += [(IN_SET + name, label) for name, label in wanted.labels]
    found += [("undecided", name) for name in wanted.undecided_in]
    found += [("year", str(year)) for year in wanted.years]
    found += [
        (name, str(bpm)) for name, bpm in zip(("from_bpm", "to_bpm"), wanted.tempo_bpm, strict=True) if bpm is not None
    ]
    found += [("folder", wanted.folder)] if wanted.folder else []
    found += [("lossy_suspect", "1")] if wanted.lossy_suspect else []
    if (wanted.sort, wanted.descending) != ("added", True):
        found.append(("sort", ("-" if wanted.descending else "") + wanted.sort))
    return found


def address(wanted: Wanted, *, page_number: int = 1) -> str:
    """What follows the page's own path; "?" alone for all tracks, which a browser takes for an empty query."""
    return "?" + urlencode(query_of(wanted) + ([("page", str(page_number))] if page_number > 1 else []))


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
    among: Callable[[Any], bool] = lambda _value: True,
) -> list[Chip]:
    """The filters of one kind: those that are set, then the most frequent. ``among``: which of those set are of it."""
    chosen = list(filter(among, getattr(wanted, field)))
    values = [*dict.fromkeys(chosen), *sorted(counts.keys() - {*chosen}, key=lambda value: (-counts[value], value))]
    values = values[:SHOWN_VALUES]
    if by_name:
        values.sort(key=lambda value: in_order(str(value)))
    return [
        Chip(
            clipped(text(value)),
            address(_toggled(wanted, field, value)),
            counts.get(value, 0),
            value in chosen,
        )
        for value in values
    ]


def genre_chips(wanted: Wanted, found: Found) -> list[Chip]:
    chips = _chips(wanted, "genres", found.counts["genre"])[:SHOWN_GENRES]
    if found.undecided or wanted.undecided:
        href = address(replace(wanted, undecided=not wanted.undecided))
        chips.append(Chip("undecided", href, found.undecided, wanted.undecided, outline=True))
    return chips


def _set_chips(wanted: Wanted, found: Found, name: str) -> list[Chip]:
    """The labels of a set, what is undecided in it, and the order by it."""
    counts = {(name, label): n for label, n in found.counts[IN_SET + name].items()}
    chips = _chips(wanted, "labels", counts, text=lambda pair: str(pair[1]), among=lambda pair: pair[0] == name)
    n, is_set = found.undecided_in[name], name in wanted.undecided_in
    if n or is_set:
        chips.append(Chip("undecided", address(_toggled(wanted, "undecided_in", name)), n, is_set, outline=True))
    if chips:
        is_sorted = wanted.sort == IN_SET + name
        order = replace(wanted, sort=IN_SET + name, descending=is_sorted and not wanted.descending)
        arrow = (" ↓" if wanted.descending else " ↑") if is_sorted else ""
        chips.append(Chip(f"sort by {name.replace('_', ' ')}{arrow}", address(order), None, is_set=False))
    return chips


def _tempo_chips(wanted: Wanted, counts: Mapping[int, int]) -> list[Chip]:
    chips = []
    for low in sorted(counts):
        span = (low, low + 9)
        is_set = wanted.tempo_bpm == span
        href = address(replace(wanted, tempo_bpm=(None, None) if is_set else span))
        chips.append(Chip(f"{low}–{low + 9}", href, counts[low], is_set))
    return chips


def _lossy_chips(wanted: Wanted, found: Found) -> list[Chip]:
    """Lossless files that were lossy once, where there are any."""
    href = address(replace(wanted, lossy_suspect=not wanted.lossy_suspect))
    chip = Chip("lossy once?", href, found.lossy_suspects, wanted.lossy_suspect, outline=True)
    return [chip] if found.lossy_suspects or wanted.lossy_suspect else []


def _folder_chips(wanted: Wanted, counts: Mapping[str, int]) -> list[Chip]:
    chips = []
    if wanted.folder:
        above = wanted.folder.rpartition("/")[0]
        chips = [
            Chip("all folders", address(replace(wanted, folder="")), None, False),
            Chip(f"↑ {above}/", address(replace(wanted, folder=above)), None, False),
            Chip(wanted.folder, address(replace(wanted, folder="")), None, True),
        ]
    return chips + [
        Chip(path.rpartition("/")[2] + "/", address(replace(wanted, folder=path)), counts[path], False)
        for path in sorted(counts, key=str.casefold)[:SHOWN_VALUES]
    ]


def filters(wanted: Wanted, found: Found) -> list[dict[str, Any]]:
    """The kinds of filters below the genres, where there is a choice or one is set.

    Each is {name, chips, chosen: in words, more: how many values are not shown}.
    """
    counts = found.counts
    kinds = [
        ("More genres", "genre", _chips(wanted, "genres", counts["genre"])[SHOWN_GENRES:]),
        *((title(name), IN_SET + name, _set_chips(wanted, found, name)) for name in found.undecided_in),
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
