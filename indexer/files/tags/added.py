"""Adds tempo, key and the fields of label sets to a file's tags, and takes them away again, byte for byte.

INDEXER_ADDED records what was added, and an empty field that it took the place of; where no genre of ours records it
already, also how the tag was before. Edits in place: files/tags/write.py passes it a copy. Never decides whether to
write.
"""

import json
from collections.abc import Collection, Mapping
from typing import Any, BinaryIO

from indexer.errors import WriteRefusedError
from indexer.files.foreign import parse_json
from indexer.files.tags.blocks.blocks import ADDED, BPM, KEY, ORIGINAL, Block, Field, is_set_field
from indexer.files.tags.fields import attempt, says_something
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

Additions = Mapping[str, str | None]  # text by field, None for one of a label set that is to be taken away

TEMPO_AND_KEY = {BPM: "bpm", KEY: "key"}  # and how files/tags/fields.py calls them
_LONGEST_BLANK = 127  # bytes of an empty field that is replaced
MAX_RECORD = 4_000  # characters of INDEXER_ADDED, as of a comment


def can_be_added(field: str) -> bool:
    """Whether a field is one of those that are added here."""
    return field in TEMPO_AND_KEY or is_set_field(field)


def parse_added(text: str) -> dict[str, Any] | None:
    """Parse INDEXER_ADDED; None where it is not ours, and where the library could not hold it.

    {"added": {field: text}, "said": [fields with a person's word], "blank": {"form": version of the tag, field: bytes
    in hex}, "state": how the tag was}.
    """
    if len(text) > MAX_RECORD:
        return None
    try:
        data = parse_json(text)
        json.dumps(data, allow_nan=False)  # SQL asks for parts of it, and SQLite refuses NaN
    except ValueError:
        return None
    if not isinstance(data, dict) or not isinstance(added := data.get("added"), dict):
        return None
    said, blank = data.get("said", []), data.get("blank", {})
    if not isinstance(said, list) or not isinstance(blank, dict) or not all(map(can_be_added, added)):
        return None
    texts = [*added.values(), *said, *(text for name, text in blank.items() if name != "form")]
    return data if all(isinstance(text, str) for text in texts) else None


def standing(path: FilePath, container: str) -> set[str]:
    """Which of the fields that may be added hold anything that we did not add, in whatever tag and field."""
    with opened(path, container, "rb") as (file, kind):
        blocks = [place.load(file) for place in kind.places]
        ours, foreign = set(), set()
        for block in blocks:
            record = _record(block)
            for field in block.fields:
                if record and is_set_field(field.name) and _is_added(block, field, record):
                    ours.add(field.name)
                elif not _is_blank(block, field):
                    foreign.add(field.name)
        readers = [tag.fields for tag in further_tags(file, kind.further)]
        file.seek(0)
        readers.append(attempt(kind.read_fields, file) if kind.read_fields else {})
        known = {read: name for name, read in TEMPO_AND_KEY.items()}
        read = {known.get(name, name) for fields in readers for name in fields if says_something(fields[name])}
        return {name for name in foreign | (read - ours) if can_be_added(name)}


def touched(path: FilePath, container: str, add: Additions | None) -> frozenset[str]:
    """The fields that ``add_fields`` would set or, with None, ``remove_added`` remove, as other_fields calls them.

    None where the tag that holds our own fields has no place for them.
    """
    with opened(path, container, "rb") as (file, kind):
        blocks = [place.load(file) for place in kind.places]
        if add is not None:
            block = _carrier(blocks) or blocks[main_place(path, blocks, further_tags(file, kind.further))]
            return frozenset(f"{block.kind} {name}" for name in (*add, ADDED) if block.encode(ADDED, [""]))
        carrier = _carrier(blocks)
        if carrier is None:
            return frozenset()
        gone = [field.name for field in carrier.fields if _is_added(carrier, field, _record(carrier) or {})]
        return frozenset(f"{carrier.kind} {name}" for name in gone)


def add_fields(path: FilePath, container: str, add: Additions, said: Collection[str] = ()) -> None:
    """Write fields that are empty, or ours already, into the tag that holds our own, or take them away from it.

    ``said``: the fields of ``add`` that hold a person's word. Raises as ``set_genre`` does.
    """
    with opened(path, container, "r+b") as (file, kind):
        blocks = [place.load(file) for place in kind.places]
        block = _carrier(blocks) or blocks[main_place(path, blocks, further_tags(file, kind.further))]
        has_genre = parse_original(first_text(blocks, ORIGINAL)) is not None
        record = _record(block)
        if record is None:
            record = {"added": {}}
            if not has_genre:
                record["state"] = {key: value for key, value in state_of(block).items() if key != "raw"}
        block.fields = [field for field in block.fields if field.name != ADDED]
        for name, text in add.items():
            if text is None:
                _take_away(block, record, name)
            else:
                _put(path, block, record, name, text)
        kept = [name for name in record.get("said", []) if name in record["added"] and name not in add]
        record.pop("said", None)
        if by_person := sorted({*kept, *({*said} & record["added"].keys())}):
            record["said"] = by_person
        if any(text is not None for text in add.values()) and not record["added"]:
            raise WriteRefusedError(path, f"its {block.kind} tag has no place for tempo, key and label sets")
        if record["added"] or (has_genre and "state" in record):  # of a genre that came later, which is undone first
            told = compact(record)
            if len(told) > MAX_RECORD:
                raise WriteRefusedError(path, "what stands there is too long to be recorded for undo")
            block.fields += block.encode(ADDED, [told])
            block.write(file)
        else:
            _give_back(file, block, record)


def _put(path: FilePath, block: Block, record: dict[str, Any], name: str, text: str) -> None:
    """Set one field, in the place of what we added before, or of an empty one, which is recorded."""
    places = [number for number, field in enumerate(block.fields) if field.name == name]
    is_ours = len(places) == 1 and _is_added(block, block.fields[places[0]], record)
    if not is_ours and (len(places) > 1 or not all(_is_blank(block, block.fields[number]) for number in places)):
        raise WriteRefusedError(path, f"something stands in its field {name} by now")
    encoded = block.encode(name, [text])
    at = places[0] if places else len(block.fields)
    if places and encoded:
        replaced = block.fields.pop(at)
        if not is_ours:
            record.setdefault("blank", {"form": block.rest.get("version")})[name] = replaced.raw.hex()
    block.fields[at:at] = encoded
    record["added"] |= {field.name: "".join(block.values(field)) for field in encoded}


def _take_away(block: Block, record: dict[str, Any], name: str) -> None:
    """Remove one field as far as we added it, or give the empty one back; the record forgets it."""
    told = {"added": {name: record["added"].pop(name)}} if name in record["added"] else {}
    blank = _blanks(block, record)
    block.fields = [
        Field(name, bytes.fromhex(blank[name])) if is_added else field
        for field in block.fields
        if not (is_added := _is_added(block, field, told)) or name in blank
    ]
    record.get("blank", {}).pop(name, None)


def remove_added(path: FilePath, container: str) -> None:
    """Remove what ``add_fields`` added and is unchanged, and its record. Nothing where there is no record."""
    with opened(path, container, "r+b") as (file, kind):
        blocks = [place.load(file) for place in kind.places]
        block = _carrier(blocks)
        if block is None:
            return
        record = _record(block) or {"added": {}}
        block.fields = [field for field in block.fields if field.name != ADDED]
        for name in [*record["added"]]:
            _take_away(block, record, name)
        _give_back(file, block, record)


def _give_back(file: BinaryIO, block: Block, record: Mapping[str, Any]) -> None:
    """Write a tag from which all that we added is gone, with the room and the ending that it had before."""
    state = record.get("state")
    state = state if isinstance(state, dict) else {}
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


def is_recorded_first(text: str | None) -> bool:
    """Whether what was added came before a genre of ours, so that it is taken away after it."""
    return "state" in (parse_added(text or "") or {})


def _is_blank(block: Block, field: Field) -> bool:
    """Whether a field is there and says nothing."""
    values = block.values(field) if can_be_added(field.name) and len(field.raw) <= _LONGEST_BLANK else []
    return bool(values) and not says_something(values)


def _blanks(block: Block, record: Mapping[str, Any]) -> dict[str, str]:
    """The recorded empty fields, as hex, where they have the form of the present tag."""
    told = record.get("blank", {})
    return told if told.get("form") == block.rest.get("version") else {}


def _carrier(blocks: list[Block]) -> Block | None:
    return next((block for block in blocks if block.text_of(ADDED)), None)


def _record(block: Block) -> dict[str, Any] | None:
    """Our record in a tag; None where there is none."""
    return parse_added("".join(block.text_of(ADDED)[:1]))


def _is_added(block: Block, field: Field, record: Mapping[str, Any]) -> bool:
    """Whether a field is our record, or one that we added and nobody changed since."""
    added = record.get("added", {})
    return field.name == ADDED or (field.name in added and block.values(field) == [added[field.name]])
