"""Decides which genre is written into a file, under the settings and what its tags hold already. Reads and writes no file."""

from collections.abc import Iterable

from indexer.files.tags import read as tags
from indexer.files.tags.genre import GenreEdit
from indexer.files.tags.read import CORRECTION, Tags


def is_ours(found: Tags) -> bool:
    """Whether the standing genre is the one we wrote, not changed since."""
    return found.genre_is_ours


def plan(  # the order in which one would say it
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
