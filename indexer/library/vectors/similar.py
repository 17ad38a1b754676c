"""`indexer similar`: finds the tracks nearest to one by the cosine of embeddings, as a table or JSON.

Exact up to some 100,000 recordings: compares every one. Beyond that an index names candidates, which are compared.
Reads only, and works while a scan runs.
"""

import json
import os
import time
from collections.abc import Collection, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from indexer.analysis.mixing import Mixable
from indexer.errors import ConfigError, StoreError
from indexer.library.below import subtree_or_all
from indexer.library.facts import joined_vectors
from indexer.library.readonly import open_readonly
from indexer.library.sqlite import Reader
from indexer.library.vectors import approximate
from indexer.library.vectors.directions import Directions, open_directions
from indexer.library.vectors.mixing import Suited, mixable_of, shown
from indexer.library.whose_word import LABEL
from indexer.wording import artist_and_title, escaped, printable
from indexer.wording import count as counted

# A file of a recording with its tags, and the prediction of the head in use.
TRACKS = (
    "FROM files f JOIN recordings r ON r.id = f.recording_id LEFT JOIN tags t ON t.file_id = f.id"
    " LEFT JOIN heads h ON h.in_use = 1"
    " LEFT JOIN predictions p ON p.recording_id = f.recording_id AND p.head_id = h.id"
    " WHERE f.state <> 'missing' AND f.path >= ? AND f.path < ?"
)
_SORTED_FIRST = 256


class NotHeldError(ConfigError):
    """The library holds no readable recording of this file."""


class NotEmbeddedError(StoreError):
    """The encoder has no sound vector of this recording."""


def similar(db: Path, file: Path, count: int = 10, *, mix: bool = False) -> dict[str, Any]:
    """The recordings nearest to that of a file, one file of each, the nearest first; missing files are left out.

    {path, title, artist, encoder, tracks, elapsed_ms}; tracks: {id, path, title, artist, genre, confidence, decided,
    label, duration_s, similarity}; ``genre`` by the head, ``label`` the one that counts (see whose_word). ``mix``: only
    those that mix well, as ``mixing`` gives them. Raises NotHeldError for a file that the library does not hold,
    StoreError for one that is not embedded.
    """
    started = time.monotonic()
    exact = os.path.realpath(os.fsencode(file))
    conn = open_readonly(db)
    try:
        row = conn.execute(
            "SELECT f.recording_id, r.reason, t.title, t.artist FROM files f LEFT JOIN recordings r ON r.id ="
            " f.recording_id"
            " LEFT JOIN tags t ON t.file_id = f.id WHERE f.path = ?",
            (exact,),
        ).fetchone()
        if row is None or row["recording_id"] is None:
            raise NotHeldError(
                f"{printable(exact)}: the library does not hold it (or could not read it): run `indexer scan` on"
                " it first"
            )
        encoder = encoder_of(conn)
        recording = row["recording_id"]
        ranking = nearest(conn, db, encoder, recording)
        if mix:
            found = mixing(conn, ranking, mixable_of(conn, [recording])[recording], count)
        else:
            found = {"tracks": list(islice(tracks_of(conn, ranking), count))}
    except NotEmbeddedError as e:
        raise StoreError(f"{printable(exact)}: {row['reason'] or f'{e}: run `indexer scan --force` on it'}") from e
    finally:
        conn.close()
    return {
        "path": printable(exact),
        "title": row["title"],
        "artist": row["artist"],
        "encoder": encoder["name"],
        **found,
        "elapsed_ms": round(1000 * (time.monotonic() - started), 1),
    }


def encoder_of(reader: Reader) -> Any:
    """The row of the encoder in use, else of the one with most embeddings. Raises StoreError without embeddings."""
    rows = reader.execute("SELECT * FROM encoders WHERE words_of IS NULL ORDER BY in_use DESC, id").fetchall()
    if not rows:
        raise StoreError("nothing is embedded yet: run `indexer scan` first")
    if rows[0]["in_use"] or len(rows) == 1:  # counting would take as long as the search
        return rows[0]
    return max(
        rows,
        key=lambda row: reader.execute("SELECT count(*) FROM embeddings WHERE encoder_id = ?", (row["id"],)).fetchone()[
            0
        ],
    )


def parts_of(encoder: Any) -> list[str]:
    """Ids of the encoders that this one joins; its own where it joins none."""
    parts: list[str] = json.loads(encoder["parts"]) if encoder["parts"] else [encoder["id"]]
    return parts


def nearest(reader: Reader, db: Path, encoder: Any, recording: int) -> Iterator[tuple[int, float]]:
    """(recording, centred cosine) of all others, the nearest first; of joined encoders the mean over their parts.

    By the index of a large library, where there is one. Else exact: makes the derived files anew where they are stale.
    Raises NotEmbeddedError when the recording itself is not embedded.
    """
    index = approximate.opened(reader, db, encoder["id"])
    if index is not None:
        yield from index.ranked(reader, parts_of(encoder), vector_of(reader, encoder, recording), recording)
        return
    reader.execute("SAVEPOINT nearest")  # the recording's vector and all others are from one state
    try:
        parts = [open_directions(reader, db, part) for part in parts_of(encoder)]
        vector = vector_of(reader, encoder, recording)
    finally:
        reader.execute("RELEASE nearest")
    yield from ranked(parts, vector, recording)


def vector_of(reader: Reader, encoder: Any, recording: int) -> np.ndarray:
    """The recording's vector, of joined encoders their vectors side by side. Raises NotEmbeddedError."""
    places, vectors = joined_vectors(reader, parts_of(encoder), [recording])
    if not len(places):
        raise NotEmbeddedError(f"not embedded by {encoder['name']}")
    return np.asarray(vectors[0])


def ranked(parts: Sequence[Directions], vector: np.ndarray, recording: int) -> Iterator[tuple[int, float]]:
    """(recording, mean of the parts' cosines) of all recordings but this one, the nearest to its vector first."""
    recordings = np.asarray(parts[0].recordings)
    for part in parts[1:]:
        recordings = np.intersect1d(recordings, part.recordings, assume_unique=True)
    cosines = np.zeros(len(recordings), np.float32)
    first = 0
    for part in parts:
        all_of_part = part.cosines(vector[first : first + len(part.mean)])
        cosines += (
            all_of_part
            if len(recordings) == len(part.recordings)
            else all_of_part[np.searchsorted(part.recordings, recordings)]
        )
        first += len(part.mean)
    for place in descending(cosines):
        if recordings[place] != recording:
            yield int(recordings[place]), float(cosines[place] / len(parts))


def descending(values: np.ndarray) -> Iterator[int]:
    """Places by value, the largest first, equal ones in order.

    The first few are sorted apart: sorting all would take a quarter of the time of the matrix product.
    """
    first = (
        np.flatnonzero(values >= np.partition(values, -_SORTED_FIRST)[-_SORTED_FIRST])
        if len(values) > _SORTED_FIRST
        else np.arange(len(values))
    )
    yield from first[np.argsort(-values[first], kind="stable")]
    if len(first) < len(values):
        yield from np.argsort(-values, kind="stable")[len(first) :]


def tracks_of(
    reader: Reader,
    found: Iterator[tuple[int, float]],
    digits: int = 4,
    *,
    below: bytes | None = None,
    labels: Collection[str] | None = None,
) -> Iterator[dict[str, Any]]:
    """Yield one file of each recording with its ``similarity``; leaves out recordings whose files are all missing.

    digits: of the similarity. below: a folder that the file must be in. labels: one of them must be its genre that
    counts.
    """
    for recording, cosine in found:
        track = _track(reader, recording, below, labels)
        if track is not None:
            yield {**track, "similarity": round(cosine, digits)}


def mixing(reader: Reader, found: Iterator[tuple[int, float]], of: Mixable, count: int) -> dict[str, Any]:
    """Those of ``found`` that mix well with a track: {tracks, mix}.

    tracks: as ``tracks_of`` gives them, each with ``tempo_bpm``, ``key``, ``key_name`` and ``reasons``, a sentence for
    each of ``sound``, ``key`` and ``tempo``. mix: the track's own {tempo_bpm, key, key_name}, ``missing`` (what is not
    known of it, in sentences) and ``unknown`` (how many were passed over because their tempo or key is not known).
    """
    suited = Suited(reader, found, of)
    tracks: list[dict[str, Any]] = []
    for recording, cosine, more in suited:
        tracks += ({**track, **more} for track in tracks_of(reader, iter([(recording, cosine)])))
        if len(tracks) == count:
            break
    return {"tracks": tracks, "mix": {**shown(of), "missing": of.missing(), "unknown": suited.unknown}}


def _track(
    reader: Reader, recording: int, below: bytes | None = None, labels: Collection[str] | None = None
) -> dict[str, Any] | None:
    """One file of a recording that is not missing, a readable one before others; None when there is none."""
    of_labels = f" AND {LABEL} IN ({','.join('?' * len(labels))})" if labels is not None else ""
    row = reader.execute(
        "SELECT f.id, f.path, t.title, t.artist, r.duration_s, p.genre, p.confidence, p.decided,"
        f" {LABEL} AS label {TRACKS} AND f.recording_id = ?{of_labels} ORDER BY f.state <> 'ready', f.path LIMIT 1",
        (*subtree_or_all(below), recording, *(labels or ())),
    ).fetchone()
    if row is None:
        return None
    return {
        **dict(row),
        "path": os.fsdecode(row["path"]),
        "confidence": None if row["confidence"] is None else round(row["confidence"], 4),
        "decided": None if row["decided"] is None else bool(row["decided"]),
    }


def _genre_text(track: dict[str, Any]) -> str:
    """The genre that counts, with the head's confidence where it is the head's; its guess where nothing counts."""
    if track["label"] and not (track["decided"] and track["label"] == track["genre"]):
        return str(track["label"])
    if not track["genre"]:
        return ""
    return f"{'' if track['decided'] else 'perhaps '}{track['genre']} ({track['confidence']:.0%})"


def to_text(found: dict[str, Any]) -> str:
    """The result as text for a person."""
    like = f"mixing well with {_to_mix(found)}" if "mix" in found else f"like {found['path']}"
    lines = [tracks_text(found["tracks"])] if found["tracks"] else []
    lines.append(
        f"{counted(len(found['tracks']), 'track')} {like}, by {found['encoder']}, in {found['elapsed_ms']:.0f} ms"
    )
    if "mix" in found:
        lines += found["mix"]["missing"]
        if found["mix"]["unknown"]:
            lines.append(f"{counted(found['mix']['unknown'], 'track')} passed over: their tempo or key is not known")
    return "\n".join(lines)


def tracks_text(tracks: Sequence[dict[str, Any]]) -> str:
    """A line for each track, with its similarity and genre, and one with its reasons where it has them."""
    lines = []
    for track in tracks:
        title = artist_and_title(track["artist"], track["title"])
        genre = escaped(_genre_text(track))
        path = printable(os.fsencode(track["path"]))
        lines.append(f"{track['similarity']:6.3f}  {genre:28}  {path}" + (f"  ({title})" if title else ""))
        if "reasons" in track:
            lines.append(f"        {'; '.join(track['reasons'].values())}")
    return "\n".join(lines)


def _to_mix(found: dict[str, Any]) -> str:
    """The track's path with its tempo and key, as far as they are known."""
    bpm, key = found["mix"]["tempo_bpm"], found["mix"]["key"]
    known = ", ".join(
        filter(None, (f"{bpm:.1f} BPM" if bpm else "", f"{key} ({found['mix']['key_name']})" if key else ""))
    )
    return f"{found['path']}" + (f" ({known})" if known else "")
