"""Decides which genre is written into a file: what a person said, else what the tag holds, else what the head decided.

The setting ``write_tags`` says whether the tag comes before the head (fill) or not (replace, append). Reads and writes
no file. The same order as SQL, for questions to the library, is in library/whose_word.py.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass

from indexer.config import Settings
from indexer.files.audio.identity import Stat
from indexer.files.tags import read as tags
from indexer.files.tags.correction import CORRECTION
from indexer.files.tags.genre import GenreEdit
from indexer.files.tags.read import Tags
from indexer.heads.head import Head
from indexer.library.store import parse_stat


def is_ours(found: Tags) -> bool:
    """Whether the standing genre is the one we wrote, not changed since."""
    return found.genre_is_ours


def plan(
    found: Tags, label: str, text: str, confidence: float, model: str, policy: str,
) -> GenreEdit | None:  # fmt: skip
    """What to write under a policy, or None when nothing should be written or the value already stands.

    ``text`` is what the user wants to read for ``label``. fill: only where the genre is empty or ours. What a person
    corrected is never touched.
    """
    ours = is_ours(found)
    text = tags.clean(text)
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
    """What to write where a person said the genre, or None when it stands there as theirs already."""
    genres = (tags.clean(text),)
    if not genres[0] or (found.genres == genres and (found.corrected or not is_ours(found))):
        return None
    return GenreEdit(genres, label, 1.0, CORRECTION)


def _deduplicated(genres: Iterable[str]) -> tuple[str, ...]:
    seen: dict[str, str] = {}
    for genre in genres:
        seen.setdefault(genre.casefold(), genre)
    return tuple(seen.values())


@dataclass(frozen=True, slots=True)
class Label:
    """A genre to be written: the head's with its confidence, or what a person said and when."""

    genre: str
    confidence: float
    corrected_at: str | None = None

    @classmethod
    def said(cls, genre: str, corrected_at: str) -> "Label":
        """The label that a person gave."""
        return cls(genre, 1.0, corrected_at)


def tag_policy_digest(settings: Settings, head: Head | None, threshold: float) -> str:
    """Return a digest that changes whenever head or settings could lead to another genre in a file."""
    content = json.dumps([head.id if head else None, threshold, settings.write_tags, sorted(settings.labels.items())])
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def held_back(
    action: str | None, state: str | None, stat_before: str | None, written_at: str | None, stat: Stat, label: Label
) -> bool:
    """Whether a file's newest journal entry says to leave its tag alone: undone, or refused and not changed since.

    What a person said after that is written all the same.
    """
    if label.corrected_at and written_at and label.corrected_at > written_at:
        return False
    if state == "refused":
        return stat_before is not None and parse_stat(stat_before) == stat
    return action == "undo" and state == "done"


def edit_for(settings: Settings, head: Head | None, found: Tags, label: Label) -> GenreEdit | None:
    """What these settings write for a label into a file with these tags; None: nothing."""
    text = settings.text_for(label.genre)
    if label.corrected_at or head is None:
        return plan_correction(found, label.genre, text)
    return plan(found, label.genre, text, label.confidence, f"{head.name}@{head.id[:8]}", settings.write_tags)
