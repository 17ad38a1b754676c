"""Decides which genre is written into a file: a person's correction, else the tag's genre, else the head's.

The setting ``write_tags`` says whether the tag comes before the head (fill) or not (replace, append). Reads and writes
no file. library/whose_word.py has the same order in SQL.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from indexer.config import Settings
from indexer.errors import READ_ONLY
from indexer.files.audio.identity import Stat
from indexer.files.tags.blocks.blocks import BPM, KEY
from indexer.files.tags.correction import CORRECTION
from indexer.files.tags.genre import GenreEdit
from indexer.files.tags.read import Tags, clean
from indexer.heads.head import Head
from indexer.library.set_fields import WrittenSet
from indexer.library.sqlite import Row
from indexer.library.writing.journal import parse_stat


def plan(
    found: Tags, label: str, text: str, confidence: float, model: str, policy: str,
) -> GenreEdit | None:  # fmt: skip
    """The edit that a policy (off, fill, replace, append) makes; None when nothing is to be written.

    ``text``: the user's wording of ``label``. fill writes only where the genre is empty or ours. A person's correction
    is never replaced.
    """
    ours = found.genre_is_ours
    text = clean(text)
    if policy == "off" or found.corrected or (policy == "fill" and found.genres and not ours):
        return None
    genres: tuple[str, ...] = (text,)
    if policy == "append":
        users = (found.original_genres or ()) if ours else found.genres
        genres = _deduplicated((*users, text))
    if not text or found.genres == genres:
        return None
    return GenreEdit(genres, label, confidence, model)


def plan_correction(found: Tags, label: str, text: str) -> GenreEdit | None:
    """The edit that writes a person's correction; None when the tag already holds it as the person's own."""
    genres = (clean(text),)
    if not genres[0] or (found.genres == genres and (found.corrected or not found.genre_is_ours)):
        return None
    return GenreEdit(genres, label, 1.0, CORRECTION)


def _deduplicated(genres: Iterable[str]) -> tuple[str, ...]:
    seen: dict[str, str] = {}
    for genre in genres:
        seen.setdefault(genre.casefold(), genre)
    return tuple(seen.values())


@dataclass(frozen=True, slots=True)
class Label:
    """A genre to be written: the head's with its confidence, or a person's with its time."""

    genre: str
    confidence: float
    corrected_at: str | None = None

    @classmethod
    def by_person(cls, genre: str, corrected_at: str) -> "Label":
        """The label that a person gave at a time."""
        return cls(genre, 1.0, corrected_at)


def tag_policy_digest(settings: Settings, head: Head | None, threshold: float, sets: Sequence[WrittenSet] = ()) -> str:
    """A digest that changes whenever heads or settings could lead to another genre, tempo, key or label in a file."""
    parts = [head.id if head else None, threshold, settings.write_tags, sorted(settings.labels.items())]
    adds = [settings.write_tags_bpm, settings.write_tags_key]
    of_sets = [[one.field, one.head_id, one.threshold] for one in sets]
    content = json.dumps([*parts, *(adds if any(adds) or sets else []), *of_sets])
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def held_back(last: Row, stat: Stat, label: Label | None) -> bool:
    """Whether a file's newest journal entry keeps its tag from being written: an undo, or a refusal of the same file.

    ``last``: its ``action``, ``write_state``, ``write_reason``, ``stat_before`` and ``written_at``. A label that a
    person gave after that entry is written all the same.
    """
    written_at, stat_before = last["written_at"], last["stat_before"]
    if label and label.corrected_at and written_at and label.corrected_at > written_at:
        return False
    if last["write_state"] == "refused":
        if (last["write_reason"] or "").startswith(READ_ONLY):
            return False
        return stat_before is not None and parse_stat(stat_before).same_content(stat)
    return bool(last["action"] == "undo" and last["write_state"] == "done")


def to_add(settings: Settings, found: Tags, tempo_bpm: float | None, key_name: str | None) -> dict[str, str]:
    """The tempo and key to be written into a file with these tags: where the settings ask for it, and it states none.

    The tempo has two decimals at most; ID3 and MP4 hold it as a whole number.
    """
    wanted: dict[str, str] = {}
    if settings.write_tags_bpm and tempo_bpm is not None and BPM not in found.filled:
        wanted[BPM] = f"{tempo_bpm:.2f}".rstrip("0").rstrip(".")
    if settings.write_tags_key and key_name is not None and KEY not in found.filled:
        wanted[KEY] = key_name
    return wanted


def edit_for(settings: Settings, head: Head | None, found: Tags, label: Label) -> GenreEdit | None:
    """The edit that these settings make for a label in a file with these tags; None when nothing is to be written."""
    if settings.write_tags == "off":
        return None
    text = settings.text_for(label.genre)
    if label.corrected_at or head is None:
        return plan_correction(found, label.genre, text)
    return plan(found, label.genre, text, label.confidence, f"{head.name}@{head.id[:8]}", settings.write_tags)
