"""Reads the tags of a file into plain, cleaned values, with mutagen's class for the container.

Never writes, and never guesses the parser. A hostile tag can make a parser use up memory or hang, so this runs in a
reader process with limits.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from dataclasses import fields as dataclass_fields
from pathlib import Path
from typing import Any

from indexer.errors import ReadError
from indexer.files.containers import CONTAINERS
from indexer.files.tags.added import TEMPO_AND_KEY, parse_added
from indexer.files.tags.blocks.blocks import is_set_field
from indexer.files.tags.correction import CORRECTION
from indexer.files.tags.fields import Fields, attempt, first_of, from_metadata, says_something
from indexer.files.tags.further import further_tags
from indexer.files.tags.genre import GenreEdit, IndexerGenre, joined, parse_original, parse_ours

__all__ = ["GenreEdit", "IndexerGenre", "Tags", "completed", "read_tags"]

MAX_TEXT, MAX_COMMENT, MAX_VALUES, MAX_REASON = 1_000, 4_000, 50, 200
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_BIDI = re.compile(r"[\u202a-\u202e\u2066-\u2069]")  # direction overrides, which make text read backwards


@dataclass(frozen=True)
class Tags:
    """The values of a file's tags; texts are cleaned and capped, ``genres`` are the values of the standard field.

    ``unread`` says why the tags could not be read, or not all of them: the user's genre is then unknown, and no genre
    is written.
    """

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
    original_genres: tuple[str, ...] | None = None  # from before our first write
    dj_data: tuple[str, ...] = ()
    unread: str | None = None
    added: str | None = None  # our record of what we added
    filled: tuple[str, ...] = ()  # which of BPM and INITIALKEY hold anything, also what is no tempo and no key
    set_fields: Mapping[str, str] = field(default_factory=dict)  # INDEXER_MOOD and the like, whoever wrote them

    @property
    def genre(self) -> str | None:
        """All genres as one text."""
        return joined(self.genres) or None

    @property
    def genre_is_ours(self) -> bool:
        """Whether the genre is the one we wrote, unchanged."""
        return self.ours is not None and clean(self.ours.genre, MAX_TEXT * MAX_VALUES) == self.genre

    @property
    def corrected(self) -> bool:
        """Whether the genre is a person's correction that we wrote, unchanged."""
        return self.ours is not None and self.ours.model == CORRECTION and self.genre_is_ours

    def to_json(self) -> dict[str, Any]:
        """Plain values for another process."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Tags":
        """The inverse of ``to_json``."""
        ours, original = data["ours"], data["original_genres"]
        return cls(
            **{
                **data,
                "genres": tuple(data["genres"]),
                "dj_data": tuple(data["dj_data"]),
                "filled": tuple(data["filled"]),
                "ours": None if ours is None else IndexerGenre(**ours),
                "original_genres": None if original is None else tuple(original),
            }
        )


def clean(text: str, limit: int = MAX_TEXT) -> str:
    """Make text safe to store and show: no control characters, lone surrogates or direction overrides, capped."""
    text = _SURROGATE.sub("\ufffd", text[: 4 * limit])
    return _BIDI.sub("", _CONTROL.sub(" ", text)).strip()[:limit].rstrip()


def read_tags(path: str | bytes | os.PathLike[str], container: str) -> Tags:
    """The tags of a file; empty for a file without any, and ``unread`` where a parser stumbles over them.

    Raises ReadError where the file cannot be opened, or the disk is at fault.
    """
    kind = CONTAINERS.get(container)
    if kind is None or kind.read_fields is None:
        return Tags()
    try:
        with Path(os.fsdecode(path)).open("rb") as file:
            further = [tag.fields for tag in further_tags(file, kind.further)]
            file.seek(0)
            return _tags(first_of([attempt(kind.read_fields, file), *further]))
    except OSError as error:
        raise ReadError(path, f"cannot be read ({error.strerror or error})") from error


def completed(found: Tags, texts: Mapping[str, str]) -> Tags:
    """Tags with their gaps filled from what FFmpeg found in the file (``decode.metadata``)."""
    more = _tags(from_metadata(texts))
    return Tags(**{f.name: getattr(found, f.name) or getattr(more, f.name) for f in dataclass_fields(Tags)})


def _tags(fields: Fields) -> Tags:
    def first(name: str, limit: int = MAX_TEXT) -> str | None:
        return next((text for value in fields.get(name, [])[:MAX_VALUES] if (text := clean(value, limit))), None)

    unread = [clean(why, MAX_REASON) for why in fields.get("unread", [])]
    original = parse_original("".join(fields.get("original", [])[:1]))
    standing = fields.get("genre") or fields.get("free_genre", [])
    genres = tuple(text for value in standing[:MAX_VALUES] if (text := clean(value)))
    return Tags(
        title=first("title"), artist=first("artist"), album=first("album"), album_artist=first("album_artist"),
        comment=first("comment", MAX_COMMENT), musical_key=first("key"), record_label=first("label"),
        year=_year(first("year")), bpm=_bpm(first("bpm")), genres=genres,
        ours=parse_ours("".join(fields.get("ours", [])[:1])),
        original_genres=None if original is None else tuple(filter(None, map(clean, original["genre"]))),
        added=added if parse_added(added := "".join(fields.get("added", [])[:1])) else None,
        filled=tuple(name for name, read in TEMPO_AND_KEY.items() if says_something(fields.get(read, []))),
        set_fields={
            name: text
            for name in sorted(filter(is_set_field, fields))[:MAX_VALUES]
            if (text := clean(joined(fields[name][:MAX_VALUES])))
        },
        dj_data=tuple(sorted(set(fields.get("dj", [])))),
        unread=f"its tags cannot be read ({unread[0]})" if unread else None,
    )  # fmt: skip


def _year(text: str | None) -> int | None:
    match = re.search(r"(?<!\d)(1[89]\d\d|20\d\d|21\d\d)(?!\d)", text or "")
    return int(match[1]) if match else None


def _bpm(text: str | None) -> float | None:
    match = re.match(r"\s*(\d{1,4}(?:[.,]\d{1,6})?)\s*(?:bpm)?\s*$", text or "", re.IGNORECASE)
    value = float(match[1].replace(",", ".")) if match else 0.0
    return value if 0 < value < 1000 else None
