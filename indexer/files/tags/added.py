"""Adds tempo and key to the tags of a file where they are empty, and takes them away again, byte for byte.

INDEXER_ADDED records what was added, and an empty field that it took the place of; where no genre of ours records it
already, also how the tag was before. Edits in place: files/tags/write.py passes it a copy. Never decides whether to
write.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from indexer.errors import WriteRefusedError
from indexer.files.foreign import parse_json
from indexer.files.tags.blocks.blocks import ADDED, BPM, KEY, ORIGINAL, Block, Field
from indexer.files.tags.fields import attempt
from indexer.files.tags.further import further_tags
from indexer.files.tags.genre import (
    FilePath,
    compact,
    first_text,
    main_place,
    number_in,
    opened,
    parse_original,
    state_of,
)

FIELDS = {BPM: "bpm", KEY: "key"}  # what may be added, and how files/tags/fields.py calls it
_LONGEST_BLANK = 127  # bytes of an empty field that is replaced
MAX_RECORD = 4_000  # characters of INDEXER_ADDED, as of a comment


def parse_added(text: str) -> dict[str, Any] | None:
    """Parse INDEXER_ADDED; None where it is not ours, and where the library could not hold it.

    {"added": {field: text}, "blank": {"form": version of the tag, field: bytes in hex}, "state": how the tag was}.
    """
    if len(text) > MAX_RECORD:
        return None
    try:
        data = parse_json(text)
        json.dumps(data, allow_nan=False)  # SQL asks for parts of it, and SQLite refuses NaN
    except ValueError:
        return None
    added = data.get("added") if isinstance(data, dict) else None
    if not isinstance(added, dict) or not added.keys() <= FIELDS.keys():
        return None
    return data if all(isinstance(value, str) for value in added.values()) else None


def standing(path: FilePath, container: str) -> set[str]:
    """Which of FIELDS hold anything, in whatever tag and field."""
    with opened(path, container, "rb") as (file, kind):
        blocks = [place.load(file) for place in kind.places]
        names = {field.name for block in blocks for field in block.fields if not _is_blank(block, field)}
        readers = [tag.fields for tag in further_tags(file, kind.further)]
        file.seek(0)
        readers.append(attempt(kind.read_fields, file) if kind.read_fields else {})
        names |= {name for name, read in FIELDS.items() if any(says_something(r.get(read, [])) for r in readers)}
        return names & FIELDS.keys()


def touched(path: FilePath, container: str, add: Mapping[str, str] | None) -> frozenset[str]:
    """The fields that ``add_fields`` would add or, with None, ``remove_added`` remove, as other_fields calls them."""
    with opened(path, container, "rb") as (file, kind):
        blocks = [place.load(file) for place in kind.places]
        if add is not None:
            block = blocks[main_place(path, blocks, further_tags(file, kind.further))]
            return frozenset(f"{block.kind} {name}" for name in (*add, ADDED))
        carrier = _carrier(blocks)
        if carrier is None:
            return frozenset()
        gone = [field.name for field in carrier.fields if _is_added(carrier, field, parse_added(_text(carrier)) or {})]
        return frozenset(f"{carrier.kind} {name}" for name in gone)


def add_fields(path: FilePath, container: str, add: Mapping[str, str]) -> None:
    """Write fields of FIELDS that are empty into the tag that holds our own. Raises as ``set_genre`` does."""
    with opened(path, container, "r+b") as (file, kind):
        blocks = [place.load(file) for place in kind.places]
        main = main_place(path, blocks, further_tags(file, kind.further))
        block = blocks[main]
        record = parse_added(_text(block))
        if record is None:
            record = {"added": {}}
            if parse_original(first_text(blocks, ORIGINAL)) is None:
                record["state"] = {key: value for key, value in state_of(block).items() if key != "raw"}
        fields = [field for field in block.fields if field.name != ADDED]
        for name, text in add.items():
            standing_there = [number for number, field in enumerate(fields) if field.name == name]
            at = standing_there[0] if standing_there else len(fields)
            if len(standing_there) > 1 or not all(_is_blank(block, fields[number]) for number in standing_there):
                raise WriteRefusedError(path, "a tempo or key stands there by now")
            encoded = block.encode(name, [text])
            if standing_there and encoded:
                blank = record.setdefault("blank", {"form": block.rest.get("version")})
                blank[name] = fields.pop(at).raw.hex()
            fields[at:at] = encoded
            record["added"] |= {field.name: "".join(block.values(field)) for field in encoded}
        if not record["added"]:
            raise WriteRefusedError(path, f"its {block.kind} tag has no place for tempo and key")
        told = compact(record)
        if len(told) > MAX_RECORD:
            raise WriteRefusedError(path, "what stands there is too long to be recorded for undo")
        block.fields = [*fields, *block.encode(ADDED, [told])]
        block.write(file)


def remove_added(path: FilePath, container: str) -> None:
    """Remove what ``add_fields`` added and is unchanged, and its record. Nothing where there is no record."""
    with opened(path, container, "r+b") as (file, kind):
        blocks = [place.load(file) for place in kind.places]
        block = _carrier(blocks)
        if block is None:
            return
        record = parse_added(_text(block)) or {}
        state = record.get("state")
        state = state if isinstance(state, dict) else {}
        told = record.get("blank")
        if not isinstance(told, dict) or told.get("form") != block.rest.get("version"):
            told = {}
        blank = {name: told[name] for name in FIELDS if name in told}
        block.fields = [
            Field(field.name, bytes.fromhex(blank[field.name])) if is_added else field
            for field in block.fields
            if not (is_added := _is_added(block, field, record)) or field.name in blank
        ]
        if state.get("absent") and not block.fields:
            block.hollow = number_in(state.get("hollow"))
            block.remove(file, number_in(state.get("room")))
        else:
            is_same_form = state.get("form") == block.rest.get("version")
            if "pages" in state:
                block.layout = state["pages"]
            block.write(file, number_in(state.get("room")) if state and is_same_form else None)
        if "ending" in state:
            block.restore_ending(file, state["ending"])


def says_something(values: Iterable[str]) -> bool:
    """Whether any text of a field is more than white space."""
    return any(value.strip() for value in values)


def is_recorded_first(text: str | None) -> bool:
    """Whether tempo or key came before a genre of ours, so that they are taken away after it."""
    return "state" in (parse_added(text or "") or {})


def _is_blank(block: Block, field: Field) -> bool:
    """Whether a field is there and says nothing."""
    values = block.values(field) if field.name in FIELDS and len(field.raw) <= _LONGEST_BLANK else []
    return bool(values) and not says_something(values)


def _carrier(blocks: list[Block]) -> Block | None:
    return next((block for block in blocks if _text(block)), None)


def _text(block: Block) -> str:
    return "".join(block.text_of(ADDED)[:1])


def _is_added(block: Block, field: Any, record: Mapping[str, Any]) -> bool:
    """Whether a field is our record, or one that we added and nobody changed since."""
    added = record.get("added", {})
    return field.name == ADDED or (field.name in added and block.values(field) == [added[field.name]])
