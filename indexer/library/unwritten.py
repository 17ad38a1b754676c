"""Counts the decided genres that are not in the files yet, from what the library holds, whatever kept them out.

The rule of scan/policy.py as SQL: what a scan under these settings would write. Standard library only.
"""

import json

from indexer.config import Settings
from indexer.errors import READ_ONLY
from indexer.files.tags.correction import CORRECTION
from indexer.library.set_fields import LAST_WRITE
from indexer.library.sqlite import Reader

_LABELS = (
    "SELECT value FROM heads, json_each(heads.labels) WHERE in_use = 1 UNION SELECT DISTINCT genre FROM corrections"
)
# By the setting write_tags: whether a decided genre of the head is still to be written. ``ours``: a head's genre that
# we wrote stands there unchanged.
_OF_HEAD = {
    "fill": "coalesce(standing, '') IN ('', ours) AND standing IS NOT text",
    "replace": "standing IS NOT text",
    "append": "NOT instr('; ' || lower(coalesce(standing, '')) || '; ', '; ' || lower(text) || '; ')",
}
_WANTED = f"""
WITH texts AS (SELECT key AS label, value AS text FROM json_each(?)),
wanted AS MATERIALIZED (
  SELECT f.id, f.size, f.mtime_ns, c.corrected_at, t.genre AS standing,
    CASE WHEN json_extract(t.indexer_genre, '$.genre') IS t.genre THEN t.genre END AS ours,
    coalesce(json_extract(t.indexer_genre, '$.model') = '{CORRECTION}', 0) AS by_person,
    coalesce(c.genre, p.genre) AS label
  FROM files f
  LEFT JOIN tags t ON t.file_id = f.id
  LEFT JOIN heads h ON h.in_use = 1
  LEFT JOIN predictions p ON p.recording_id = f.recording_id AND p.head_id = h.id AND p.decided
    AND NOT p.rough
  LEFT JOIN corrections c ON c.id = (SELECT max(x.id) FROM corrections x WHERE x.recording_id = f.recording_id)
  WHERE f.state = 'ready' AND f.reason IS NULL AND coalesce(c.genre, p.genre) IS NOT NULL
)
SELECT count(*) AS n FROM wanted JOIN texts USING (label)
WHERE text <> ''
AND CASE WHEN corrected_at IS NOT NULL THEN standing IS NOT text OR (ours IS NOT NULL AND NOT by_person)
  ELSE NOT (ours IS NOT NULL AND by_person) AND %s END
AND NOT EXISTS (
  SELECT 1 FROM tag_writes w
  WHERE w.id = {LAST_WRITE.replace("f.id", "wanted.id")}
    AND coalesce(corrected_at <= w.written_at, 1)
    AND CASE w.state WHEN 'done' THEN w.action = 'undo' ELSE coalesce(w.reason, '') NOT LIKE '{READ_ONLY}%%'
      AND json_extract(w.stat_before, '$.size') = size AND json_extract(w.stat_before, '$.mtime_ns') = mtime_ns END
)
"""


def count_unwritten(reader: Reader, settings: Settings) -> int:
    """In how many readable files the genre that a person gave or the head in use decided is still to be written.

    What was undone, what is heard only roughly so far, and what a file or the setting ``write_tags`` refuses, does not
    count; a read-only file does.
    """
    if settings.write_tags == "off":
        return 0
    texts = {label: settings.text_for(label).strip() for (label,) in reader.execute(_LABELS)}
    row = reader.execute(_WANTED % _OF_HEAD[settings.write_tags], (json.dumps(texts),)).fetchone()
    return int(row["n"])
