"""The view ``tracks`` for people: one row for each file, what one looks for first.

It is made anew when the head in use has other labels, or the settings name other label sets.
"""

from collections.abc import Sequence

from indexer.library.label_sets import Shown, join
from indexer.library.measured import LOSSY_SUSPECT, MEASURED_JOIN, TEMPO_BPM, TEMPO_CONFIDENCE
from indexer.library.states import ROUGH
from indexer.library.whose_word import LABEL, LABEL_SOURCE, SAID

DEFAULT_LABELS = ("ambient", "drum and bass", "house", "techno", "trance")  # where no head is in use
TRACK_COLUMNS = (
    "id",
    "title",
    "artist",
    "album",
    "label",
    "label_source",
    "duration_s",
    "tempo_bpm",
    "tempo_confidence",
    "key",
    "key_name",
    "key_confidence",
    "loudness_lufs",
    "tag_bpm",
    "tag_key",
    "year",
    "genre",
    "confidence",
    "decided",
    "second_genre",
    "rough",
    "corrected",
    "tag_genre",
    "heard",
    "electronic",
    "record_label",
    "dj_data",
    "container",
    "codec",
    "sample_rate_hz",
    "bandwidth_hz",
    "lossy_suspect",
    "size",
    "path",
    "state",
    "reason",
    "first_seen",
    "recording_id",
)


def tracks_view(labels: Sequence[str], sets: Sequence[str] = ()) -> str:
    """Return the SQL of the view: a row for each file, a column with the probability of each of ``labels``.

    ``sets``: names of label sets beside the genre; each has three columns.
    """
    shown = [Shown.of(name, place) for place, name in enumerate(sets)]
    taken = {*TRACK_COLUMNS, *(column for one in shown for column in one.columns)}
    # Quoted: "order" and "group" name sets, too.
    beside = "".join(f',\n  {sql} AS "{column}"' for one in shown for column, sql in one.columns.items())
    columns = ""
    for label in labels:
        name = label
        while name.casefold() in taken:
            name += " score"
        taken.add(name.casefold())
        columns += (
            ",\n  (SELECT round(s.probability, 4) FROM scores s WHERE s.recording_id = f.recording_id AND"
            " s.head_id = h.id"
            " AND s.genre = " + _quoted(label, "'") + ") AS " + _quoted(name, '"')
        )
    return f"""CREATE VIEW tracks AS
SELECT f.id, t.title, t.artist, t.album,
  {LABEL} AS label,
  {LABEL_SOURCE} AS label_source,
  round(r.duration_s, 2) AS duration_s, {TEMPO_BPM} AS tempo_bpm, {TEMPO_CONFIDENCE} AS tempo_confidence,
  a.key, a.key_name, round(a.key_confidence, 4) AS key_confidence, a.loudness_lufs,
  t.bpm AS tag_bpm, t.musical_key AS tag_key, t.year,
  p.genre, round(p.confidence, 4) AS confidence, p.decided, p.second_genre,
  {ROUGH} AS rough,
  {SAID} AS corrected,
  t.genre AS tag_genre, w.names AS heard, round(w.electronic, 4) AS electronic{columns}{beside},
  t.record_label, t.dj_data, f.container, r.codec, r.sample_rate_hz, a.bandwidth_hz,
  {LOSSY_SUSPECT} AS lossy_suspect, f.size,
  f.path_text AS path, f.state, coalesce(f.reason, r.reason, p.reason) AS reason, f.first_seen, f.recording_id
FROM files f
LEFT JOIN tags t ON t.file_id = f.id
LEFT JOIN recordings r ON r.id = f.recording_id
LEFT JOIN heads h ON h.in_use = 1
LEFT JOIN predictions p ON p.recording_id = f.recording_id AND p.head_id = h.id
LEFT JOIN heard w ON w.recording_id = f.recording_id
{MEASURED_JOIN}{"".join(join(one, "f.recording_id") for one in shown)}"""


def _quoted(text: str, mark: str) -> str:
    """SQL text (') or name (") of any content."""
    return mark + text.replace(mark, mark * 2) + mark
