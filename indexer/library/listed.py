"""What playlists and DJ programs are told of tracks, and which tracks a genre has. Reads only.

A file is listed while it is ready, and while its drive is away: unplugging a drive empties no playlist. Tempo and key
are those for the decks (library/measured.py).
"""

import json
from array import array
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

from indexer.analysis.camelot import Key, parse_key
from indexer.library.label_sets import Shown, join
from indexer.library.measured import DECK_BPM, MEASURED_JOIN, THEIR_KEY, deck_key
from indexer.library.sqlite import Reader, Row
from indexer.library.states import LEFT_OUT
from indexer.library.whose_word import LABEL, LABEL_SOURCE

CHUNK = 500  # ids in one query

_IS_LISTED = (
    f"(f.state = 'ready' OR (f.state = 'missing' AND f.reason IS NOT '{LEFT_OUT}'"
    " AND f.root_id IN (SELECT id FROM roots WHERE state = 'offline')))"
)
_JOINED = (
    """FROM files f
LEFT JOIN tags t ON t.file_id = f.id LEFT JOIN recordings r ON r.id = f.recording_id LEFT JOIN heads h ON h.in_use = 1
LEFT JOIN predictions p ON p.recording_id = f.recording_id AND p.head_id = h.id
"""
    + MEASURED_JOIN
)
_SHOWN = f"""
SELECT f.id, f.path, f.container, f.size, f.first_seen, t.title, t.artist, t.album, t.year, {DECK_BPM},
  {THEIR_KEY}, t.record_label, t.comment, t.genre, {LABEL}, {LABEL_SOURCE}, r.duration_s, r.sample_rate_hz, a.key_name
{_JOINED} WHERE {_IS_LISTED}"""
_BY_NAME = "t.artist COLLATE NOCASE, t.title COLLATE NOCASE, f.path"


class ListedTrack(NamedTuple):
    """A file as playlists and DJ programs are told of it."""

    id: int
    path: bytes
    container: str | None
    size: int  # bytes
    first_seen: str  # ISO 8601
    title: str | None
    artist: str | None
    album: str | None
    year: int | None
    bpm: float | None
    musical_key: str | None  # as it stands in the tag, or Am
    record_label: str | None
    comment: str | None
    tag_genre: str | None  # as it stands in the file
    label: str | None  # by whose word counts
    label_source: str | None  # said, tag or head
    duration_s: float | None
    sample_rate_hz: int | None


def all_tracks(reader: Reader, page_rows: int = 1000) -> Iterator[ListedTrack]:
    """Yield every listed track in the order of ids; holds a page of them at a time."""
    cursor = reader.execute(f"{_SHOWN} ORDER BY f.id")
    while page := cursor.fetchmany(page_rows):
        yield from map(_listed, page)


def tracks(reader: Reader, ids: Sequence[int]) -> Iterator[ListedTrack]:
    """Yield tracks in the order of their ids, each once, without those that are not listed."""
    ids = list(dict.fromkeys(ids))
    for start in range(0, len(ids), CHUNK):
        chunk = ids[start : start + CHUNK]
        rows = reader.execute(f"{_SHOWN} AND f.id IN ({','.join('?' * len(chunk))})", chunk)
        found = {row[0]: _listed(row) for row in rows}
        yield from (found[file_id] for file_id in chunk if file_id in found)


def _listed(row: Row) -> ListedTrack:
    *told, measured_key = row
    track = ListedTrack._make(told)
    return track._replace(musical_key=deck_key(track.musical_key, measured_key))


def paths(reader: Reader) -> Iterator[tuple[int, bytes]]:
    """Yield id and path of every listed file, in the order of ids."""
    yield from map(tuple, reader.execute(f"SELECT f.id, f.path FROM files f WHERE {_IS_LISTED} ORDER BY f.id"))


def by_label(reader: Reader) -> Iterator[tuple[str, "array[int]"]]:
    """Yield each genre with the ids of its tracks, by artist and title."""
    rows = reader.execute(
        f"SELECT label, id FROM (SELECT {LABEL} AS label, f.id, row_number() OVER (ORDER BY {_BY_NAME})"
        f" AS place {_JOINED} WHERE {_IS_LISTED}) WHERE label IS NOT NULL ORDER BY label, place"
    )
    for label, found in groupby(rows, lambda row: row[0]):
        yield label, array("q", (row[1] for row in found))


def by_set(reader: Reader, name: str) -> Iterator[tuple[str, "array[int]"]]:
    """Yield each label of a label set with the ids of the tracks that it decidedly has, by artist and title."""
    shown = Shown.of(name, 0)
    label, _, decided = shown.columns.values()
    rows = reader.execute(
        f"SELECT label, id FROM (SELECT {label} AS label, {decided} AS decided, f.id, row_number() OVER"
        f" (ORDER BY {_BY_NAME}) AS place {_JOINED}{join(shown)} WHERE {_IS_LISTED}) WHERE decided"
        " ORDER BY label, place"
    )
    for label_found, found in groupby(rows, lambda row: row[0]):
        yield label_found, array("q", (row[1] for row in found))


def matching(
    reader: Reader,
    *,
    labels: Sequence[str] = (),
    tempo_bpm: tuple[float, float] | None = None,
    keys: Sequence[Key] = (),
    confidence: float | None = None,
) -> "array[int]":
    """The ids of tracks for which all that is given holds, by artist and title.

    ``labels``: one of these, whatever the case; ``confidence``: at least, of the head in the genre.
    """
    wanted = [_IS_LISTED]
    values: list[object] = []
    if labels:
        wanted.append(f"{LABEL} COLLATE NOCASE IN ({','.join('?' * len(labels))})")
        values += labels
    if tempo_bpm:
        wanted.append(f"{DECK_BPM} BETWEEN ? AND ?")
        values += tempo_bpm
    if keys:
        tagged = {row[0]: parse_key(row[0]) for row in reader.execute("SELECT DISTINCT musical_key FROM tags")}
        meant = [text for text, key in tagged.items() if key in keys]
        of_tags = [text for text, key in tagged.items() if key is not None]
        wanted.append(
            f"CASE WHEN {THEIR_KEY} IN (SELECT value FROM json_each(?))"
            " THEN t.musical_key IN (SELECT value FROM json_each(?))"
            " ELSE a.key IN (SELECT value FROM json_each(?)) END"
        )
        values += map(json.dumps, (of_tags, meant, [key.camelot for key in keys]))
    if confidence is not None:
        wanted.append(f"p.genre = {LABEL} AND p.confidence >= ?")
        values.append(confidence)
    rows = reader.execute(f"SELECT f.id {_JOINED} WHERE {' AND '.join(wanted)} ORDER BY {_BY_NAME}", values)
    return array("q", (row[0] for row in rows))


def undecided(reader: Reader) -> "array[int]":
    """The ids of tracks that nobody gave a genre and of whose guess the head is not sure, by artist and title."""
    rows = reader.execute(
        f"SELECT f.id {_JOINED} WHERE {_IS_LISTED} AND {LABEL} IS NULL AND p.decided = 0 ORDER BY {_BY_NAME}"
    )
    return array("q", (row[0] for row in rows))
