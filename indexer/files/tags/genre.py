"""Writes a genre into the tags of a file and restores the original one, byte for byte.

INDEXER_ORIGINAL_GENRE records for every tag the bytes of the original genre, their position, the room of the tag, its
Ogg pages and an odd end of the file, so that undo needs only the file. Edits in place: files/tags/write.py passes it a
copy. Never decides whether to write.
"""

import json
import os
import stat
import struct
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

from indexer.errors import ReadError, UnsupportedError, WriteRefusedError
from indexer.files.containers import CONTAINERS, Container
from indexer.files.foreign import parse_json
from indexer.files.tags.blocks.blocks import (
    GENRE,
    ORIGINAL,
    OURS,
    OWN_NAMES,
    Block,
    Field,
    TagDamagedError,
    UnwritableError,
    digest,
)
from indexer.files.tags.fields import attempt
from indexer.files.tags.further import Further, further_tags

FilePath = str | bytes | os.PathLike[str]
FRAME_BYTES = 1024  # at most, of the headers of a tag, of the chunk or atoms around it, or of its Ogg pages
MAX_ORIGINAL = 60_000  # characters of the record for undo


@dataclass(frozen=True, slots=True)
class IndexerGenre:
    """The content of INDEXER_GENRE."""

    genre: str
    label: str
    confidence: float
    model: str

    def to_text(self) -> str:
        """Compact JSON, as stored in the tag."""
        return compact(asdict(self))


@dataclass(frozen=True, slots=True)
class GenreEdit:
    """What to write: all values of the genre field, and the label, confidence and model for INDEXER_GENRE."""

    genres: tuple[str, ...]
    label: str
    confidence: float
    model: str

    def describe(self) -> str:
        """The text for INDEXER_GENRE."""
        return IndexerGenre(joined(self.genres), self.label, round(self.confidence, 4), self.model).to_text()


def joined(genres: tuple[str, ...] | list[str]) -> str:
    """Several genres as one text."""
    return "; ".join(genres)


def parse_ours(text: str) -> IndexerGenre | None:
    """Parse INDEXER_GENRE; None where the text is not in our form."""
    try:
        data = parse_json(text)
        texts = [data[key] for key in ("genre", "label", "model")]
        confidence = data["confidence"]
    except (ValueError, TypeError, KeyError):
        return None
    known = all(isinstance(text, str) for text in texts) and isinstance(confidence, int | float)
    return IndexerGenre(texts[0], texts[1], float(confidence), texts[2]) if known and 0 <= confidence <= 1 else None


def parse_original(text: str) -> dict[str, Any] | None:
    """Parse INDEXER_ORIGINAL_GENRE, also a bare list of values; None where the text is not in our form."""
    try:
        data = parse_json(text)
    except ValueError:
        return None
    data = {"genre": data} if isinstance(data, list) else data
    if not isinstance(data, dict) or not isinstance(data.get("genre"), list):
        return None
    return data if all(isinstance(value, str) for value in data["genre"]) else None


def set_genre(path: FilePath, container: str, edit: GenreEdit) -> None:
    """Write the genre and our fields into the container's tags, recording the original unless an earlier write did.

    Raises UnsupportedError (a container without tags to write), WriteRefusedError (a tag that must not be rewritten),
    ReadError (a damaged tag).
    """
    with opened(path, container, "r+b") as (file, kind):
        blocks = [place.load(file) for place in kind.places]
        main = main_place(path, blocks, further_tags(file, kind.further))
        original = _kept_original(blocks) or compact(_record(blocks))
        if len(original) > MAX_ORIGINAL:
            raise WriteRefusedError(path, "what stands there is too long to be recorded for undo")
        for number, place in enumerate(kind.places):
            block = place.load(file)
            if number < main or (not block.exists and (main or not place.create)):
                continue
            at = next((i for i, f in enumerate(_without_own_two(block.fields)) if f.name == GENRE), None)
            others = _others(block.fields)
            new = block.encode(GENRE, list(edit.genres))
            at = len(others) if at is None else at
            carries = block.own_fields or number == main
            own = [*block.encode(OURS, [edit.describe()]), *block.encode(ORIGINAL, [original])] if carries else []
            block.fields = [*others[:at], *new, *others[at:], *own]
            block.write(file)


def restore_genre(path: FilePath, container: str) -> None:
    """Restore the genre that INDEXER_ORIGINAL_GENRE records and remove our fields, whatever the genre is now.

    Raises WriteRefusedError where nothing is recorded.
    """
    with opened(path, container, "r+b") as (file, kind):
        blocks = [place.load(file) for place in kind.places]
        record = parse_original(first_text(blocks, ORIGINAL))
        if record is None:
            raise WriteRefusedError(path, "no earlier genre is recorded in the file")
        main = next(number for number, block in enumerate(blocks) if first_text([block], ORIGINAL))
        for number, place in enumerate(kind.places):
            block = place.load(file)
            if block.exists:
                _restore_block(file, block, record, is_main=number == main)
        for block in blocks:
            state = record.get(block.kind)
            if isinstance(state, dict) and "ending" in state:
                block.restore_ending(file, state["ending"])


def lesser_tags_alone(blocks: list[Block], further: list[Further]) -> bool:
    """Whether a first tag would hide the others: it holds nothing yet, and another one a title, artist or our record.

    Many programs read one kind of tag only, so a first tag with just a genre would hide what ID3v1, APEv2 or INFO hold.
    """
    others = any(block.says_something() or block.text_of(ORIGINAL) for block in blocks[1:])
    return not blocks[0].fields and (others or any(tag.says_something() for tag in further))


def main_place(path: FilePath, blocks: list[Block], further: list[Further]) -> int:
    """The number of the tag for our fields: the first; if it would hide others, the first of those.

    Raises WriteRefusedError where only tags exist that have no room for our fields.
    """
    if not lesser_tags_alone(blocks, further):
        return 0
    main = next((n for n, block in enumerate(blocks) if n and block.fields and block.kind != "id3v1"), None)
    if main is None:
        only = next((tag.where for tag in further if tag.says_something()), "an ID3v1 tag")
        raise WriteRefusedError(
            path,
            f"it has only {only}, and a new tag beside it would hide that from other programs; "
            "have a tag editor add a newer one first",
        )
    return main


def refuse_other_genre(path: FilePath, container: str) -> None:
    """Raise WriteRefusedError where a genre stands in a tag that is never written, so that it would contradict ours."""
    with opened(path, container, "rb") as (file, kind):
        where = next((tag.where for tag in further_tags(file, kind.further) if tag.has_genre()), None)
        file.seek(0)
        if where is None and kind.read_fields and attempt(kind.read_fields, file).get("free_genre"):
            where = "a field that somebody named so"
    if where is not None:
        raise WriteRefusedError(
            path, f"a genre stands in {where}, which is never written: other programs would go on to show it"
        )


def first_text(blocks: list[Block], name: str) -> str:
    """The text of one field from the first tag that has it: not always the main tag, as other programs add tags."""
    return next(filter(None, ("".join(block.text_of(name)[:1]) for block in blocks)), "")


def _restore_block(file: BinaryIO, block: Block, record: dict[str, Any], *, is_main: bool) -> None:
    state = record.get(block.kind)
    others = _others(block.fields)
    if isinstance(state, dict) and state.get("absent") and not others:
        block.hollow = number_in(state.get("hollow"))
        block.remove(file, number_in(state.get("room")))
        return
    if isinstance(state, dict) and state.get("form") == block.rest.get("version"):
        fields = list(others)
        for at, raw in state.get("raw", []):
            fields.insert(int(at), Field(GENRE, bytes.fromhex(raw)))
        block.fields = fields
        block.layout = state.get("pages")
        block.write(file, number_in(state.get("room")))
        return
    # Another program has rewritten the tag in another form since: only the text can be restored.
    if is_main or (isinstance(state, dict) and block.text_of(GENRE)):
        block.fields = [*others, *(block.encode(GENRE, record["genre"]) if record["genre"] else [])]
        block.write(file)


def number_in(value: object) -> int:
    """A number of a record for undo; 0 where it is none."""
    return value if isinstance(value, int) else 0


def _kept_original(blocks: list[Block]) -> str | None:
    """The record of our earlier write, if the genre is still ours; with the tags that were added since."""
    ours, text = parse_ours(first_text(blocks, OURS)), first_text(blocks, ORIGINAL)
    record = parse_original(text)
    if ours is None or record is None:
        return None
    carrier = next(block for block in blocks if block.text_of(OURS))
    read = next(filter(None, (block.text_of(GENRE) for block in _as_read(blocks))), [])
    if not ours.genre == joined(carrier.text_of(GENRE)) == joined(read):
        return None
    added = {
        block.kind: state_of(block) for block in blocks if _added_since(block, record) and not _holds(block, ours.genre)
    }
    return compact(record | added) if added else text


def _added_since(block: Block, record: dict[str, Any]) -> bool:
    """Whether our write did not know this tag: another program made it since, or an earlier version left its kind."""
    state = record.get(block.kind, {"absent": True})
    return isinstance(state, dict) and bool(state.get("absent")) and block.exists and not block.text_of(ORIGINAL)


def _as_read(blocks: list[Block]) -> list[Block]:
    """The tags in the order in which read_tags looks for a genre: APEv2 before ID3v1 only where no ID3v2 tag exists."""
    return [blocks[0], *sorted(blocks[1:], key=lambda block: blocks[0].exists and block.kind != "id3v1")]


def _record(blocks: list[Block]) -> dict[str, Any]:
    """The record for undo: the state of every tag; for a tag that still holds our genre, its earlier recorded state."""
    earlier = _earlier_states(blocks)
    values = [block.text_of(GENRE) for block in _as_read(blocks) if block.kind not in earlier]
    if blocks[0].kind == "asf":  # one field in two places
        values = [[value for found in values for value in found]]
    record: dict[str, Any] = {"genre": next(filter(any, values), [])}
    return record | {block.kind: earlier.get(block.kind) or state_of(block) for block in blocks}


def state_of(block: Block) -> dict[str, Any]:
    """What undo needs to restore this tag to its present state."""
    state: dict[str, Any] = {"room": block.room}
    if not block.exists:
        state["absent"] = True
    elif "version" in block.rest:
        state["form"] = block.rest["version"]
    if block.layout:
        state["pages"] = block.layout
    if block.hollow:
        state["hollow"] = block.hollow
    if block.ending:
        state["ending"] = block.ending
    raw = [[i, f.raw.hex()] for i, f in enumerate(_without_own_two(block.fields)) if f.name == GENRE]
    return {**state, "raw": raw} if raw else state


def _earlier_states(blocks: list[Block]) -> dict[str, dict[str, Any]]:
    """The recorded states of the tags that still hold our genre, by kind; the user has changed the genre in others."""
    ours, record = parse_ours(first_text(blocks, OURS)), parse_original(first_text(blocks, ORIGINAL))
    if ours is None or record is None:
        return {}
    states = {block.kind: record.get(block.kind) for block in blocks if _holds(block, ours.genre)}
    return {kind: state for kind, state in states.items() if isinstance(state, dict)}


def _holds(block: Block, genre: str) -> bool:
    standing = [field.raw for field in block.fields if field.name == GENRE]
    return bool(standing) and (
        joined(block.text_of(GENRE)) == genre or standing == [f.raw for f in block.encode(GENRE, [genre])]
    )


def other_fields(path: FilePath, container: str, but: Collection[str] = ()) -> dict[str, str]:
    """Digest (sha256 hex) of every field, chunk or atom that is neither audio nor genre nor ours, by name.

    ``but``: names of further fields that are left out. Keys beginning with ``tag:`` describe a tag as a whole (version,
    vendor, order of its fields). Raises ReadError, UnsupportedError.
    """
    with opened(path, container, "rb") as (file, kind):
        found: dict[str, str] = {}
        for place in kind.places:
            block = place.load(file)
            by_name: dict[str, list[bytes]] = {}
            others = [field for field in _others(block.fields) if f"{block.kind} {field.name}" not in but]
            for field in others:
                by_name.setdefault(field.name, []).append(field.raw)
            found |= {f"{block.kind} {name}": digest(raws) for name, raws in by_name.items()}
            if block.exists:
                found |= {f"tag:{block.kind} {key}": value for key, value in block.rest.items()}
                found[f"tag:{block.kind} order"] = digest(f.name.encode("utf-8", "replace") for f in others)
        if kind.other_parts is not None:
            found |= kind.other_parts(file)
        return found


def changed_fields(before: dict[str, str], after: dict[str, str]) -> list[str]:
    """Names that differ between two results of ``other_fields``; a tag that was added or removed does not count."""
    names = sorted(before.keys() | after.keys())
    return [
        n
        for n in names
        if before.get(n) != after.get(n) and not (n.startswith("tag:") and (n in before) != (n in after))
    ]


def standing_genres(path: FilePath, container: str) -> dict[str, list[str]]:
    """The genre in each tag of the file, by kind of tag (id3, ape, id3v1, info, vorbis, ilst, asf)."""
    with opened(path, container, "rb") as (file, kind):
        blocks = [place.load(file) for place in kind.places]
        return {block.kind: block.text_of(GENRE) for block in blocks}


def tag_bytes(path: FilePath, container: str) -> int:
    """The most bytes by which the file can shrink when its tags are rewritten."""
    with opened(path, container, "rb") as (file, kind):
        blocks = [place.load(file) for place in kind.places]
        return sum(max(block.room, sum(len(field.raw) for field in block.fields)) + FRAME_BYTES for block in blocks)


def refuse_damaged(path: FilePath, container: str) -> None:
    """Raise WriteRefusedError where tags or sizes look damaged, UnsupportedError where no tag can be written."""
    try:
        with opened(path, container, "rb") as (file, kind):
            blocks = [place.load(file) for place in kind.places]
            if reason := next(filter(None, (block.problem() for block in blocks)), None):
                raise WriteRefusedError(path, reason)
            main_place(path, blocks, further_tags(file, kind.further))
            if kind.problem is not None and (reason := kind.problem(file)):
                raise WriteRefusedError(path, reason)
    except ReadError as error:
        raise WriteRefusedError(path, error.reason) from error


def _others(fields: list[Field]) -> list[Field]:
    return [field for field in fields if field.name not in OWN_NAMES]


def _without_own_two(fields: list[Field]) -> list[Field]:
    return [field for field in fields if field.name not in (OURS, ORIGINAL)]


@contextmanager
def opened(path: FilePath, container: str, mode: Literal["rb", "r+b"]) -> Iterator[tuple[BinaryIO, Container]]:
    """Open a file whose tags can be written; what its blocks raise becomes a FileError."""
    kind = CONTAINERS.get(container)
    if kind is None or not kind.places:
        raise UnsupportedError(path, f"tags of {container} files cannot be written")
    try:
        with Path(os.fsdecode(path)).open(mode) if mode == "rb" else _own_copy(path) as file:
            yield file, kind
    except UnwritableError as error:
        raise WriteRefusedError(path, str(error)) from error
    except TagDamagedError as error:
        raise ReadError(path, f"the tag is damaged: {error}") from error
    except (EOFError, struct.error, IndexError, ValueError, AssertionError, OverflowError) as error:
        raise ReadError(path, f"the tag cannot be read: {error or type(error).__name__}") from error


def _own_copy(path: FilePath) -> BinaryIO:
    """Open a copy to be edited. Raises WriteRefusedError where something else has taken its place."""

    def open_it(name: str, flags: int) -> int:
        return os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK)

    file = open(os.fsdecode(path), "r+b", opener=open_it)  # noqa: SIM115 - the caller closes it
    found = os.fstat(file.fileno())
    if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
        file.close()
        raise WriteRefusedError(path, "something else has taken the place of its copy")
    return file


def compact(data: object) -> str:
    """JSON without spaces."""
    return json.dumps(data, ensure_ascii=False, separators=(",", ":"))
