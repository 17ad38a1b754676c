"""Reads the raw fields of a tag with mutagen's class for the container, under this program's field names.

Maps the fields of each tag format to title, artist, genre and so on; the texts are not cleaned. Never writes, and never
guesses the parser. A hostile tag can make a parser use up memory or hang, so this runs in a reader process with limits.
"""

import contextlib
import errno
import io
from collections.abc import Callable, Iterable, Mapping
from typing import Any, BinaryIO

from mutagen import apev2, asf, flac, id3

from indexer.errors import FileError, ReadError
from indexer.files.tags.blocks.blocks import (
    ADDED,
    GENRE,
    ORIGINAL,
    OURS,
    Block,
    is_set_field,
    our_name,
    read_exactly,
)
from indexer.files.tags.blocks.id3 import id3v1_at, tag_size
from indexer.files.tags.blocks.mp4_forms import Pairs, item_list
from indexer.files.tags.blocks.vorbis import FlacBlock, comment_text

# Names: title, artist, album, album_artist, comment, key, label, year, bpm, genre, ours, original, added, dj;
# INDEXER_MOOD and the like: the fields of label sets;
# free_genre: one in a field that somebody named so, beside the field that the format has for it; unread: why a part of
# the tags could not be read.
Fields = dict[str, list[str]]

_OF_DAMAGE = {errno.EINVAL, errno.EOVERFLOW}  # a damaged size led a parser outside the file

# Only these frames are parsed; pictures and unknown frames are not unpacked.
_FRAME_NAMES = {
    "TIT2", "TPE1", "TALB", "TPE2", "COMM", "TKEY", "TPUB", "TDRC", "TYER", "TBPM", "TCON", "TXXX", "GEOB", "PRIV",
    "TRCK", "TT2", "TP1", "TAL", "TP2", "COM", "TKE", "TPB", "TYE", "TBP", "TCO", "TXX", "GEO",
}  # fmt: skip
_FRAMES = {
    name: frame for frames in (id3.Frames, id3.Frames_2_2) for name, frame in frames.items() if name in _FRAME_NAMES
}


def open_with(kind: Any, file: Any, **options: Any) -> Any:
    """Make an object of a mutagen class; typed Any, as mutagen has no annotations."""
    return kind(file, **options)


def attempt(read: Callable[..., Fields], file: BinaryIO, *arguments: Any) -> Fields:
    """What a reader finds, or, where its parser stumbles, ``unread`` with the reason.

    Raises ReadError where the disk, not the tag, is at fault.
    """
    name = str(getattr(file, "name", ""))
    try:
        return read(file, *arguments)
    except FileError:
        raise
    except MemoryError:
        return {"unread": ["they need more memory than allowed"]}
    except Exception as error:  # damaged files make mutagen raise seven foreign kinds of error
        if disk := _disk_failure(error):
            raise ReadError(name, f"cannot be read ({disk.strerror})") from error
        said = str(error)
        for mention in (repr(name), "'<unknown>'"):  # mutagen begins with the file's name
            said = said.removeprefix(mention)
        return {"unread": [said or "they are damaged"]}


def _disk_failure(error: BaseException | None) -> OSError | None:
    """The operating system's error behind an error of a parser, unless bytes of the file led to it."""
    while error is not None:
        if isinstance(error, OSError) and error.errno and error.errno not in _OF_DAMAGE:
            return error
        error = error.__cause__ or error.__context__
    return None


def says_something(values: Iterable[str]) -> bool:
    """Whether any text of a field is more than white space."""
    return any(value.strip() for value in values)


def first_of(tags: Iterable[Fields]) -> Fields:
    """The fields of several tags: of those that hold one field, the first counts; every ``unread`` is kept.

    White space holds nothing.
    """
    fields: Fields = {"unread": []}
    for tag in tags:
        fields["unread"] += tag.get("unread", [])
        fields |= {name: values for name, values in tag.items() if says_something(values) and not fields.get(name)}
    return fields


# --- ID3 ------------------------------------------------------------

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
    fields["added"] = own.get(ADDED, [])
    fields |= {name: texts for name, texts in own.items() if is_set_field(name)}
    fields["free_genre"] = own.get(GENRE, [])
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


def read_id3(file: BinaryIO) -> Fields:
    """MP3, AAC, TTA: ID3v2, its gaps filled from ID3v1 and APEv2; without ID3v2, APEv2 before ID3v1 (short texts)."""
    found: list[Any] = []

    def front(file: BinaryIO) -> Fields:
        with contextlib.suppress(id3.ID3NoHeaderError):
            found.append(open_with(id3.ID3, file, known_frames=_FRAMES))
        return _from_id3(found[0]) if found else {}

    fields = attempt(front, file)
    file.seek(0)
    ape = attempt(read_ape, file)
    only_id3v1 = bool(found) and found[0].version < (2, 0)
    return first_of([ape, fields] if only_id3v1 else [fields, ape])


def from_id3(data: bytes) -> Fields:
    """The fields of a whole ID3v2 tag, or of an ID3v1 tag."""
    return _from_id3(open_with(id3.ID3, io.BytesIO(data), known_frames=_FRAMES))


def id3_in(kind: Any) -> Callable[[BinaryIO], Fields]:
    """Make a function that reads the ID3 tag which a mutagen class finds inside its container."""

    def read(file: BinaryIO) -> Fields:
        return _from_id3(open_with(kind, file, known_frames=_FRAMES).tags)

    return read


# --- name and value tags ------------------------------------------------------------

_COMMENT_NAMES = {
    "title": "title", "artist": "artist", "album": "album", "albumartist": "album_artist",
    "album artist": "album_artist", "comment": "comment", "description": "comment", "initialkey": "key",
    "initial key": "key", "key": "key", "label": "label", "organization": "label", "publisher": "label",
    "date": "year", "year": "year", "bpm": "bpm", "tempo": "bpm",
    "genre": "genre", "indexer_genre": "ours", "indexer_original_genre": "original", "indexer_added": "added",
}  # fmt: skip


# FFmpeg's names of Matroska tags that say what they are about begin so.
_MATROSKA_NAMES = {
    "album/title": "album", "album/artist": "album_artist", "album/genre": "genre", "album/date_released": "year",
    **{f"{about}/{name}": name for about in ("track", "song") for name in ("title", "artist", "genre")},
}  # fmt: skip


def from_metadata(texts: Mapping[str, str]) -> Fields:
    """The fields of the tags of any container, as FFmpeg names them."""
    known = _COMMENT_NAMES | _MATROSKA_NAMES | {"album_artist": "album_artist"}
    return _by_name(texts.items(), known)


def _by_name(pairs: Iterable[tuple[str, str]], names: dict[str, str]) -> Fields:
    fields: Fields = {}
    for name, value in pairs:
        known = names.get(name.casefold()) or _set_field(name)
        if known:
            fields.setdefault(known, []).append(value)
        fields.setdefault("dj", []).extend(_dj_by_name(name))
    return fields


def _set_field(name: str) -> str | None:
    """The field of a label set that a name means, in whatever name space of MP4 it stands."""
    known = our_name(name.rpartition(":")[2])
    return known if known and is_set_field(known) else None


def comments(kind: Any, block: Callable[[BinaryIO], Block]) -> Callable[[BinaryIO], Fields]:
    """Make a function that reads the Vorbis comments which a mutagen class finds.

    mutagen also refuses what stands around them: then our own ``block`` that would be written is read.
    """

    def by_mutagen(file: BinaryIO) -> Fields:
        tags = open_with(kind, file).tags
        return from_comments((str(name), str(value)) for name, value in tags or [])

    def by_block(file: BinaryIO) -> Fields:
        return from_comments(comment_text(field.raw) for field in block(file).fields)

    def read(file: BinaryIO) -> Fields:
        found = attempt(by_mutagen, file)
        own = attempt(by_block, file) if "unread" in found else found
        return found if "unread" in own else own

    return read


def from_comments(pairs: Iterable[tuple[str, str]]) -> Fields:
    """The fields of a Vorbis comment, given as names and texts."""
    return _by_name(pairs, _COMMENT_NAMES)


def read_flac(file: BinaryIO) -> Fields:
    """FLAC: the Vorbis comment, its gaps filled from the ID3v2 tag that some programs put in front of it."""

    def front(file: BinaryIO) -> Fields:
        file.seek(0)
        size = tag_size(file.read(10))
        return from_id3(read_exactly(file, 0, size, "the ID3 tag")) if size else {}

    return first_of([attempt(comments(flac.FLAC, FlacBlock), file), attempt(front, file)])


def read_ape(file: BinaryIO) -> Fields:
    """APEv2: the text items."""
    try:
        tags = open_with(apev2.APEv2, file)
    except apev2.APENoHeaderError:
        return {}
    pairs = ((name, text) for name, value in tags.items() if value.kind == 0 for text in str(value).split("\x00"))
    return _by_name(pairs, _COMMENT_NAMES)


def read_ape_file(file: BinaryIO) -> Fields:
    """WavPack, Musepack, Monkey's Audio: APEv2, its gaps filled from ID3v1."""
    ape, at = attempt(read_ape, file), id3v1_at(file)
    return first_of([ape, *([] if at is None else [from_id3(read_exactly(file, at, 128, "the ID3v1 tag"))])])


def from_ape(data: bytes) -> Fields:
    """The fields of a whole APEv2 tag."""
    return read_ape(io.BytesIO(data))


_MP4_NAMES = {
    "\xa9nam": "title", "\xa9art": "artist", "\xa9alb": "album", "aart": "album_artist", "\xa9cmt": "comment",
    "\xa9day": "year", "\xa9gen": "genre", "tmpo": "bpm", "----:com.apple.itunes:initialkey": "key",
    "----:com.apple.itunes:genre": "free_genre",
    "----:com.apple.itunes:label": "label", "----:com.apple.itunes:publisher": "label",
    "----:com.edm-indexer:indexer_genre": "ours",
    "----:com.edm-indexer:indexer_original_genre": "original", "----:com.edm-indexer:indexer_added": "added",
}  # fmt: skip
# Names of QuickTime's texts, of 3GP's, and of numbered keys, which FFmpeg calls as Vorbis comments are called.
_MP4_OTHER_NAMES = _COMMENT_NAMES | _MP4_NAMES | {
    "\xa9aut": "artist", "\xa9prf": "artist", "\xa9inf": "comment", "album_artist": "album_artist", "author": "artist",
    "performer": "artist", "udta titl": "title", "udta perf": "artist", "udta auth": "artist", "udta albm": "album",
    "udta dscp": "comment", "udta gnre": "genre", "yrrc": "year",
}  # fmt: skip


def read_mp4(file: BinaryIO) -> Fields:
    """MP4: the item list."""
    return _by_name(item_list(file), _MP4_NAMES)


def from_mp4_form(pairs: Pairs) -> Fields:
    """The fields of another form of MP4 tags; Apple's keys are named ``com.apple.quicktime.title`` and so on."""
    return _by_name(((name.removeprefix("com.apple.quicktime."), text) for name, text in pairs), _MP4_OTHER_NAMES)


_ASF_NAMES = {
    "title": "title", "author": "artist", "wm/albumtitle": "album", "wm/albumartist": "album_artist",
    "description": "comment", "wm/year": "year", "wm/genre": "genre", "genre": "free_genre", "wm/beatsperminute": "bpm",
    "wm/initialkey": "key", "wm/publisher": "label",
    "indexer_genre": "ours", "indexer_original_genre": "original", "indexer_added": "added",
}  # fmt: skip


def read_asf(file: BinaryIO) -> Fields:
    """ASF: the attributes of its header objects, except those that hold bytes."""
    tags = open_with(asf.ASF, file).tags
    return _by_name(((name, str(value)) for name, value in tags if value.TYPE != 1), _ASF_NAMES)


def from_asf(pairs: Iterable[tuple[str, str]]) -> Fields:
    """The fields of ASF attributes, given as names and texts."""
    return _by_name(pairs, _ASF_NAMES)
