"""Reading the tags of a file into plain, cleaned values, with mutagen's class for the container that the content says it is.

Never writes (genre_fields does) and never guesses among all parsers. A parser can be made to eat memory or hang: callers
run this in a child process with limits.
"""

import contextlib
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from mutagen import aiff, apev2, asf, dsf, flac, id3, mp4, oggflac, oggopus, oggspeex, oggvorbis, wave

from indexer.errors import ReadError
from indexer.files.tags.blocks.blocks import GENRE, ORIGINAL, OURS
from indexer.files.tags.blocks.riff import InfoBlock, entry_text, genres_in
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

# Only these frames are parsed: pictures and unknown ones are not even unpacked.
_FRAME_NAMES = {
    "TIT2", "TPE1", "TALB", "TPE2", "COMM", "TKEY", "TPUB", "TDRC", "TYER", "TBPM", "TCON", "TXXX", "GEOB", "PRIV", "TRCK",
    "TT2", "TP1", "TAL", "TP2", "COM", "TKE", "TPB", "TYE", "TBP", "TCO", "TXX", "GEO",
}  # fmt: skip
_FRAMES = {
    name: frame for frames in (id3.Frames, id3.Frames_2_2) for name, frame in frames.items() if name in _FRAME_NAMES
}

Fields = dict[str, list[str]]  # lower-case names of ours -> values


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
    reader = _READERS.get(container)
    if reader is None:
        return Tags()
    try:
        with Path(os.fsdecode(path)).open("rb") as file:
            return _tags(reader(file))
    except ReadError:
        raise
    except MemoryError as error:
        raise ReadError(path, "the tag cannot be read: it needs more memory than allowed") from error
    except Exception as error:  # mutagen lets seven kinds that are not its own through on damaged files
        reason = clean(str(error) or type(error).__name__, 200)
        raise ReadError(path, f"the tag cannot be read: {reason}") from error


def _open(kind: Any, file: BinaryIO, **options: Any) -> Any:
    """An object of a mutagen class, which have no annotations."""
    return kind(file, **options)


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


# --- ID3 ---------------------------------------------------------------------------------------------------------------

_ID3_NAMES = {
    "title": "TIT2",
    "artist": "TPE1",
    "album": "TALB",
    "album_artist": "TPE2",
    "key": "TKEY",
    "label": "TPUB",
    "bpm": "TBPM",
}
_MIXED_IN_KEY = {"Key", "Energy", "CuePoints"}


def _from_id3(tags: Any) -> Fields:
    if tags is None:
        return {}
    fields: Fields = {}
    for name, frame_id in _ID3_NAMES.items():
        if frame_id in tags:
            fields[name] = [str(value) for value in tags[frame_id].text]
    dates = tags.getall("TDRC") + tags.getall("TYER")
    fields["year"] = [str(value) for frame in dates for value in frame.text]
    comments = sorted(tags.getall("COMM"), key=lambda frame: (frame.desc != "", frame.desc.startswith("iTun")))
    fields["comment"] = [str(value) for frame in comments for value in frame.text]
    if "TCON" in tags:
        fields["genre"] = [str(value) for value in tags["TCON"].genres]
    own = {frame.desc.upper(): [str(value) for value in frame.text] for frame in tags.getall("TXXX")}
    fields["ours"], fields["original"] = own.get(OURS, []), own.get(ORIGINAL, [])
    fields["dj"] = list(_dj_of_id3(tags))
    return fields


def _dj_of_id3(tags: Any) -> Iterable[str]:
    for frame in tags.getall("GEOB"):
        if frame.desc.startswith("Serato"):
            yield "Serato"
        elif frame.desc in _MIXED_IN_KEY:
            yield "Mixed In Key"
    for frame in tags.getall("PRIV"):
        if frame.owner.upper().startswith("TRAKTOR"):
            yield "Traktor"
    for frame in (*tags.getall("GEOB"), *tags.getall("TXXX")):
        yield from _dj_by_name(frame.desc)


def _dj_by_name(name: str) -> Iterable[str]:
    name = name.casefold()
    if "serato" in name:
        yield "Serato"
    if "traktor" in name or name == "native instruments":
        yield "Traktor"
    if "mixedinkey" in name or "mixed in key" in name:
        yield "Mixed In Key"
    if "rekordbox" in name:
        yield "rekordbox"


def _read_id3(file: BinaryIO) -> Fields:
    """MP3, AAC, TTA: ID3v2 filled up from ID3v1 and APEv2; where there is no ID3v2, APEv2 before ID3v1, which cuts texts."""
    fields: Fields = {}
    only_id3v1 = False
    with contextlib.suppress(id3.ID3NoHeaderError):
        found = _open(id3.ID3, file, known_frames=_FRAMES)
        fields, only_id3v1 = _from_id3(found), found.version < (2, 0)
    file.seek(0)
    try:
        ape = _read_ape(file)
    except ReadError:
        raise
    except Exception:  # the second tag of a file that has a readable first one
        if not fields:
            raise
        return fields
    low, high = (fields, ape) if only_id3v1 else (ape, fields)
    return {**low, **{name: values for name, values in high.items() if values}}


def _read_wav(file: BinaryIO) -> Fields:
    fields = _from_id3(_open(wave.WAVE, file, known_frames=_FRAMES).tags)
    names = {"INAM": "title", "IART": "artist", "IPRD": "album", "ICMT": "comment", "ICRD": "year",
             GENRE: "genre", OURS: "ours", ORIGINAL: "original"}  # fmt: skip
    info: Fields = {}
    for field in _info_fields(file):
        if field.name in names:
            text = entry_text(field.raw)
            info.setdefault(names[field.name], []).extend(genres_in(text) if field.name == GENRE else [text])
    return {**info, **{name: values for name, values in fields.items() if values}}


def _info_fields(file: BinaryIO) -> list[Any]:
    try:
        return InfoBlock(file).fields
    except ValueError:  # sizes that contradict the file: readable all the same, only never written
        return []


# --- name and value tags -----------------------------------------------------------------------------------------------

_COMMENT_NAMES = {
    "title": "title", "artist": "artist", "album": "album", "albumartist": "album_artist", "album artist": "album_artist",
    "comment": "comment", "description": "comment", "initialkey": "key", "initial key": "key", "key": "key",
    "label": "label", "organization": "label", "publisher": "label", "date": "year", "year": "year", "bpm": "bpm", "tempo": "bpm",
    "genre": "genre", "indexer_genre": "ours", "indexer_original_genre": "original",
}  # fmt: skip


def _by_name(pairs: Iterable[tuple[str, str]], names: dict[str, str]) -> Fields:
    fields: Fields = {}
    for name, value in pairs:
        known = names.get(name.casefold())
        if known:
            fields.setdefault(known, []).append(value)
        fields.setdefault("dj", []).extend(_dj_by_name(name))
    return fields


def _comments(kind: Any) -> Callable[[BinaryIO], Fields]:
    def read(file: BinaryIO) -> Fields:
        tags = _open(kind, file).tags
        return _by_name(((str(name), str(value)) for name, value in tags or []), _COMMENT_NAMES)

    return read


def _read_ape(file: BinaryIO) -> Fields:
    try:
        tags = _open(apev2.APEv2, file)
    except apev2.APENoHeaderError:
        return {}
    pairs = ((name, text) for name, value in tags.items() if value.kind == 0 for text in str(value).split("\x00"))
    return _by_name(pairs, _COMMENT_NAMES)


_MP4_NAMES = {
    "\xa9nam": "title", "\xa9art": "artist", "\xa9alb": "album", "aart": "album_artist", "\xa9cmt": "comment", "\xa9day": "year",
    "\xa9gen": "genre", "tmpo": "bpm", "----:com.apple.itunes:initialkey": "key", "----:com.apple.itunes:label": "label",
    "----:com.apple.itunes:publisher": "label", "----:com.edm-indexer:indexer_genre": "ours",
    "----:com.edm-indexer:indexer_original_genre": "original",
}  # fmt: skip


def _read_mp4(file: BinaryIO) -> Fields:
    found: dict[str, Any] = _open(mp4.MP4, file).tags or {}
    values = [(name, v) for name, v in found.items() if name != "covr"]
    flat = [(name, v) for name, value in values for v in (value if isinstance(value, list) else [value])]
    pairs = ((name, v.decode("utf-8", "replace") if isinstance(v, bytes) else str(v)) for name, v in flat)
    return _by_name(pairs, _MP4_NAMES)


_ASF_NAMES = {
    "title": "title", "author": "artist", "wm/albumtitle": "album", "wm/albumartist": "album_artist", "description": "comment",
    "wm/year": "year", "wm/genre": "genre", "wm/beatsperminute": "bpm", "wm/initialkey": "key", "wm/publisher": "label",
    "indexer_genre": "ours", "indexer_original_genre": "original",
}  # fmt: skip


def _read_asf(file: BinaryIO) -> Fields:
    return _by_name(((name, str(value)) for name, value in _open(asf.ASF, file).tags if value.TYPE != 1), _ASF_NAMES)


_READERS: dict[str, Callable[[BinaryIO], Fields]] = {
    "mp3": _read_id3,
    "aac": _read_id3,
    "tta": _read_id3,
    "flac": _comments(flac.FLAC),
    "vorbis": _comments(oggvorbis.OggVorbis),
    "opus": _comments(oggopus.OggOpus),
    "speex": _comments(oggspeex.OggSpeex),
    "oggflac": _comments(oggflac.OggFLAC),
    "mp4": _read_mp4,
    "wav": _read_wav,
    "aiff": lambda file: _from_id3(_open(aiff.AIFF, file, known_frames=_FRAMES).tags),
    "dsf": lambda file: _from_id3(_open(dsf.DSF, file, known_frames=_FRAMES).tags),
    "asf": _read_asf,
    "wavpack": _read_ape,
    "musepack": _read_ape,
    "ape": _read_ape,
}
