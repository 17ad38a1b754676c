"""Decides what the fields of label sets in a file are to say: a person's word, else what the set's head decided.

What is not decided is not written, and what we wrote follows: it is changed or taken away. What another program wrote,
or somebody changed since, is left alone. Reads and writes no file. library/set_fields.py has the same rule in SQL.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from indexer.files.audio.identity import Stat
from indexer.files.tags.added import parse_added
from indexer.files.tags.read import Tags, clean
from indexer.heads.decide import sure_from
from indexer.library.set_fields import WrittenSet, said_and_predicted
from indexer.library.sqlite import Reader, Row
from indexer.scan.policy import Label, held_back


@dataclass(slots=True)
class SetEdits:
    """What is to be written of label sets: text by field, None where it is to be taken away."""

    texts: dict[str, str | None] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)  # the fields with a person's word


def set_edits(
    reader: Reader,
    file_id: int,
    sets: Sequence[WrittenSet],
    found: Tags,
    last: Row | None,
    stat: Stat,
) -> SetEdits:
    """What these sets have to write into a file with these tags.

    ``last``: its newest journal entry, which may hold that back; None: nothing does.
    """
    edits = SetEdits()
    record = parse_added(found.added or "") or {}
    for one in sets:
        standing, recorded = found.set_fields.get(one.field), record.get("added", {}).get(one.field)
        if standing is not None and (recorded is None or standing != clean(recorded)):
            continue
        is_marked = one.field in record.get("said", [])
        facts = said_and_predicted(reader, file_id, one)
        known, text = _word(one, facts, is_marked=is_marked)
        is_said = facts["said"] is not None
        if is_marked and not is_said and _is_held_back(last, stat, text, None):
            text = None  # a person's word was withdrawn, and the head's is held back
        stands = text == standing and (text is None or is_said == is_marked)
        if known and not stands and not _is_held_back(last, stat, text, facts["said_at"]):
            edits.texts[one.field] = text
            edits.said += [one.field] if is_said else []
    return edits


def _word(one: WrittenSet, facts: Row, *, is_marked: bool) -> tuple[bool, str | None]:
    """Whether it is known what a file should say of a set, and that: None for nothing.

    ``is_marked``: what stands there is a person's word. If this library did not write it, another one did, which may
    be lost: only a person's word takes its place then.
    """
    if facts["said"] is not None:
        return True, clean(facts["said"]) or None
    if is_marked and not facts["known_here"]:
        return False, None
    is_whole = facts["predicted"] is not None and not facts["rough"]
    if facts["decided"] and (is_whole or facts["confidence"] >= sure_from(one.threshold)):
        return True, clean(facts["predicted"]) or None
    return is_marked or is_whole, None


def _is_held_back(last: Row | None, stat: Stat, text: str | None, said_at: str | None) -> bool:
    """Whether the journal keeps a field from being set or, with None, taken away: that an undo has done already."""
    if last is None or (text is None and last["action"] == "undo"):
        return False
    label = Label.by_person(text or "", said_at) if said_at else None
    return held_back(last, stat, label)
