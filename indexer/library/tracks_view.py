"""The view ``tracks``, which people look at: one row a file. Made anew when the head in use has other labels."""

from collections.abc import Sequence

_TRACK_COLUMNS = (
    "id",
    "path",
    "title",
    "artist",
    "album",
    "duration_s",
    "tag_genre",
    "genre",
    "confidence",
    "decided",
    "second_genre",
    "corrected",
    "bpm",
    "musical_key",
    "year",
    "record_label",
    "dj_data",
    "container",
    "codec",
    "sample_rate_hz",
    "size",
    "state",
    "reason",
    "first_seen",
    "recording_id",
)


def tracks_view(labels: Sequence[str]) -> str:
    """The SQL of the view ``tracks``: a row a file, a column a label (its probability) of the head in use."""
    taken = set(_TRACK_COLUMNS)
    columns = ""
    for label in labels:
        name = label
        while name.casefold() in taken:
            name += " score"
        taken.add(name.casefold())
        columns += (
            ",\n  (SELECT round(s.probability, 4) FROM scores s WHERE s.recording_id = f.recording_id AND s.head_id = h.id"
            " AND s.genre = " + _quoted(label, "'") + ") AS " + _quoted(name, '"')
        )
    return f"""CREATE VIEW tracks AS
SELECT f.id, f.path_text AS path, t.title, t.artist, t.album, r.duration_s, t.genre AS tag_genre, p.genre,
  round(p.confidence, 4) AS confidence, p.decided, p.second_genre,
  (SELECT c.genre FROM corrections c WHERE c.recording_id = f.recording_id ORDER BY c.id DESC LIMIT 1) AS corrected{columns},
  t.bpm, t.musical_key, t.year, t.record_label, t.dj_data, f.container, r.codec, r.sample_rate_hz, f.size,
  f.state, coalesce(f.reason, r.reason, p.reason) AS reason, f.first_seen, f.recording_id
FROM files f
LEFT JOIN tags t ON t.file_id = f.id
LEFT JOIN recordings r ON r.id = f.recording_id
LEFT JOIN heads h ON h.in_use = 1
LEFT JOIN predictions p ON p.recording_id = f.recording_id AND p.head_id = h.id"""


def _quoted(text: str, mark: str) -> str:
    """SQL text (') or name (") of any content."""
    return mark + text.replace(mark, mark * 2) + mark
