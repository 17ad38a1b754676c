"""Reading the tags of a file into plain, cleaned values, with mutagen's class for the container that the content says it is.

Never writes (genre_fields does) and never guesses among all parsers. A parser can be made to eat memory or hang:
callers run this in a child process with limits.
"""

import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from indexer.errors import ReadError
from indexer.files.containers import CONTAINERS
from indexer.files.tags.fields import Fields
from indexer.files.tags.genre import (
    GenreEdit,
    IndexerGenre,
    joined,
    other_fields,
    parse_original,
    parse_ours,
    restore_genre,
    set_genre,
)

__all__ = [
    "GenreEdit",
    "IndexerGenre",
    "Tags",
    "from_json",
    "other_fields",
    "read_tags",
    "restore_genre",
    "set_genre",
    "to_json",
]

MAX_TEXT, MAX_COMMENT, MAX_VALUES = 1_000, 4_000, 50
CORRECTION = "correction"  # stands for the model in our field where a person said the genre
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_BIDI = re.compile(r"[\u202a-\u202e\u2066-\u2069]")  # overrides that make a title read backwards in a log or page


@dataclass(frozen=True)
class Tags:
    """What the tags of a file say; texts are cleaned and capped, ``genres`` are the values of the standard field."""

    title: str | None = None
    artist: str | None = None
    album: str | None = None
    album_artist: str | None = None
    comment: str | None = None
    musical_key: str | None = None
    record_label: str | None = None
    year: int | None = None
    bpm: float | None = None
    genres: tuple[str, ...] = ()
    ours: IndexerGenre | None = None
    original_genres: tuple[str, ...] | None = None  # what stood there before us
    dj_data: tuple[str, ...] = ()

    @property
    def genre(self) -> str | None:
        """All genres as one text."""
        return joined(self.genres) or None

    @property
    def genre_is_ours(self) -> bool:
        """Whether the standing genre is the one we wrote, unchanged."""
        return self.ours is not None and clean(self.ours.genre, MAX_TEXT * MAX_VALUES) == self.genre

    @property
    def corrected(self) -> bool:
        """Whether the standing genre is one that a person said and we wrote, unchanged."""
        return self.ours is not None and self.ours.model == CORRECTION and self.genre_is_ours


def clean(text: str, limit: int = MAX_TEXT) -> str:
    """Text safe to store and show: no control characters, lone surrogates or direction overrides, at most limit long."""
    text = _SURROGATE.sub("\ufffd", text[: 4 * limit])
    return _BIDI.sub("", _CONTROL.sub(" ", text)).strip()[:limit].rstrip()


def to_json(found: Tags) -> dict[str, Any]:
    """Plain values that cross a process border."""
    return asdict(found)


def from_json(data: dict[str, Any]) -> Tags:
    """The inverse of ``to_json``."""
    ours, original = data["ours"], data["original_genres"]
    return Tags(
        **{
            **data,
            "genres": tuple(data["genres"]),
            "dj_data": tuple(data["dj_data"]),
            "ours": None if ours is None else IndexerGenre(**ours),
            "original_genres": None if original is None else tuple(original),
        }
    )


def read_tags(path: str | bytes | os.PathLike[str], container: str) -> Tags:
    """Tags of a file; a file without any gives empty ones. ReadError where they cannot be read."""
    kind = CONTAINERS.get(container)
    if kind is None or kind.read_fields is None:
        return Tags()
    try:
        with Path(os.fsdecode(path)).open("rb") as file:
            return _tags(kind.read_fields(file))
    except ReadError:
        raise
    except MemoryError as error:
        raise ReadError(path, "the tag cannot be read: it needs more memory than allowed") from error
    except Exception as error:  # mutagen lets seven kinds that are not its own through on damaged files
        reason = clean(str(error) or type(error).__name__, 200)
        raise ReadError(path, f"the tag cannot be read: {reason}") from error


def _tags(fields: Fields) -> Tags:
    def first(name: str, limit: int = MAX_TEXT) -> str | None:
        return next((text for value in fields.get(name, [])[:MAX_VALUES] if (text := clean(value, limit))), None)

    original = parse_original("".join(fields.get("original", [])[:1]))
    genres = tuple(text for value in fields.get("genre", [])[:MAX_VALUES] if (text := clean(value)))
    return Tags(
        title=first("title"), artist=first("artist"), album=first("album"), album_artist=first("album_artist"),
        comment=first("comment", MAX_COMMENT), musical_key=first("key"), record_label=first("label"),
        year=_year(first("year")), bpm=_bpm(first("bpm")), genres=genres,
        ours=parse_ours("".join(fields.get("ours", [])[:1])),
        original_genres=None if original is None else tuple(text for value in original["genre"] if (text := clean(value))),
        dj_data=tuple(sorted(set(fields.get("dj", [])))),
    )  # fmt: skip


def _year(text: str | None) -> int | None:
    match = re.search(r"(?<!\d)(1[89]\d\d|20\d\d|21\d\d)(?!\d)", text or "")
    return int(match[1]) if match else None


def _bpm(text: str | None) -> float | None:
    match = re.match(r"\s*(\d{1,4}(?:[.,]\d{1,6})?)\s*(?:bpm)?\s*$", text or "", re.IGNORECASE)
    value = float(match[1].replace(",", ".")) if match else 0.0
    return value if 0 < value < 1000 else None
