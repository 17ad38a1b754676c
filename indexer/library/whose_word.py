"""Whose word counts for a genre: what a person said, then the user's own tag, then what the head decided.

The rule as SQL over rows of ``files f``, ``tags t`` and ``predictions p`` (of the head in use), for the view, the
pages, the counts, the exports and every other query. ``p.decided`` holds whether the head decided, as heads/decide.py
computed it. What a scan may write into a tag follows the same order; see scan/policy.py.
"""

import json

from indexer.files.tags.correction import CORRECTION

# A person's newest correction of the recording.
SAID = "(SELECT c.genre FROM corrections c WHERE c.recording_id = f.recording_id ORDER BY c.id DESC LIMIT 1)"
NOBODY_SAID = "NOT EXISTS (SELECT 1 FROM corrections c WHERE c.recording_id = f.recording_id)"
# Whether we wrote the genre in the tag, for a head.
_OURS = (
    "json_extract(t.indexer_genre, '$.genre') IS t.genre"
    f" AND json_extract(t.indexer_genre, '$.model') IS NOT '{CORRECTION}'"
)
# The user's own genre in the tag: the label that it means by the table ``genre_labels``, else as it is written.
USERS_TAG = (
    f"CASE WHEN {_OURS} THEN NULL ELSE"
    " nullif(coalesce((SELECT g.label FROM genre_labels g WHERE g.genre = t.genre), t.genre), '') END"
)
DECIDED = "CASE WHEN p.decided THEN p.genre END"
LABEL = f"coalesce({SAID}, {USERS_TAG}, {DECIDED})"
LABEL_SOURCE = (
    f"CASE WHEN {SAID} IS NOT NULL THEN 'said' WHEN {USERS_TAG} IS NOT NULL THEN 'tag' WHEN p.decided THEN 'head' END"
)
# By genre: its recordings, how many of them have it as their label, and by whose word; the rest have no label, and the
# head finds this genre the most probable. A recording whose files say different genres counts in each. Materialized,
# because SQLite would evaluate each word again wherever it stands.
GENRE_COUNTS = f"""
WITH words AS MATERIALIZED (
  SELECT f.recording_id AS id, {SAID} AS said, {USERS_TAG} AS tag, {DECIDED} AS head, p.genre AS guess
  FROM files f
  LEFT JOIN tags t ON t.file_id = f.id
  LEFT JOIN heads h ON h.in_use = 1
  LEFT JOIN predictions p ON p.recording_id = f.recording_id AND p.head_id = h.id
  WHERE f.recording_id IS NOT NULL
)
SELECT coalesce(said, tag, head, guess) AS genre, count(DISTINCT id) AS recordings,
  count(DISTINCT CASE WHEN coalesce(said, tag, head) IS NOT NULL THEN id END) AS decided,
  count(DISTINCT CASE WHEN said IS NOT NULL THEN id END) AS said,
  count(DISTINCT CASE WHEN said IS NULL AND tag IS NOT NULL THEN id END) AS tag,
  count(DISTINCT CASE WHEN said IS NULL AND tag IS NULL AND head IS NOT NULL THEN id END) AS head
FROM words WHERE coalesce(said, tag, head, guess) IS NOT NULL GROUP BY 1 ORDER BY recordings DESC, genre
"""


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
