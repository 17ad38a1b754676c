"""Whose word counts for a genre: what a person said, then the user's own tag, then what the head decided.

The rule as SQL over rows of ``files f``, ``tags t`` and ``predictions p`` (of the head in use), for the view, the pages
and every other question. Whether the head decided stands in ``p.decided``; heads/decide.py said so. What a scan may
write into a tag follows the same order; see scan/policy.py.
"""

import json

from indexer.files.tags.read import CORRECTION

# What a person said last about the recording.
SAID = "(SELECT c.genre FROM corrections c WHERE c.recording_id = f.recording_id ORDER BY c.id DESC LIMIT 1)"
NOBODY_SAID = "NOT EXISTS (SELECT 1 FROM corrections c WHERE c.recording_id = f.recording_id)"
# The genre in the tag, where it is not the one that a head had us write.
USERS_TAG = (
    "CASE WHEN json_extract(t.indexer_genre, '$.genre') IS t.genre"
    f" AND json_extract(t.indexer_genre, '$.model') IS NOT '{CORRECTION}' THEN NULL ELSE nullif(t.genre, '') END"
)
DECIDED = "CASE WHEN p.decided THEN p.genre END"
LABEL = f"coalesce({SAID}, {USERS_TAG}, {DECIDED})"
LABEL_SOURCE = (
    f"CASE WHEN {SAID} IS NOT NULL THEN 'said' WHEN {USERS_TAG} IS NOT NULL THEN 'tag' WHEN p.decided THEN 'head' END"
)


def is_ours(genre: str | None, indexer_genre: str | None) -> bool:
    """Whether the genre in a tag is the one that a head had us write, unchanged except for white space.

    ``indexer_genre``: our own field beside it, as JSON text.
    """
    if not indexer_genre or not genre:
        return False
    ours = json.loads(indexer_genre)
    return ours.get("model") != CORRECTION and same_text(str(ours.get("genre", "")), genre)


def same_text(one: str, other: str) -> bool:
    """Whether two genres are equal except for white space."""
    return " ".join(one.split()) == " ".join(other.split())
