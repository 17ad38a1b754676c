"""Reads what a head can learn from: files with their tags, corrections, cached embeddings.

Reads over any connection (the store's own or a read-only one) and changes nothing. Decides one thing about labels: a
genre that we wrote is not the user's own, so the genre from before our write is taken from the journal.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from indexer.files.tags.correction import CORRECTION
from indexer.library.sqlite import Reader
from indexer.library.whose_word import is_ours, same_text


@dataclass(frozen=True, slots=True)
class FileFacts:
    """A file whose audio is known, with the tags that can serve as labels."""

    recording_id: int
    audio_sha256: str
    path: bytes
    root: bytes | None
    genre: str | None  # the user's own, or another field of the tags; several values joined with "; "
    artist: str | None
    album_artist: str | None
    size: int = 0  # bytes
    duration_s: float | None = None


def files(reader: Reader, tag: str = "genre") -> Iterator[FileFacts]:
    """Yield every file whose audio is known; a missing file only when no other file holds its recording.

    ``tag``: the column of ``tags`` that a label may stand in.
    """
    before = _genres_before_ours(reader)
    for row in reader.execute(
        "SELECT f.id, f.recording_id, r.audio_sha256, f.path, o.path AS root, t.genre, t.indexer_genre,"
        f" t.{tag} AS told, t.artist, t.album_artist, f.size, r.duration_s"
        " FROM files f JOIN recordings r ON r.id = f.recording_id LEFT JOIN roots o ON o.id = f.root_id LEFT"
        " JOIN tags t ON t.file_id = f.id"
        " WHERE f.state <> 'missing' OR NOT EXISTS"
        " (SELECT 1 FROM files g WHERE g.recording_id = f.recording_id AND g.state <> 'missing') ORDER BY f.id"
    ):
        ours = tag == "genre" and is_ours(row["genre"], row["indexer_genre"])
        genre = "; ".join(before.get(row["id"], ())) or None if ours else row["told"]
        yield FileFacts(
            row["recording_id"],
            row["audio_sha256"],
            row["path"],
            row["root"],
            genre,
            row["artist"],
            row["album_artist"],
            row["size"],
            row["duration_s"],
        )


def _genres_before_ours(reader: Reader) -> dict[int, list[str]]:
    """By file: the genres that our newest write replaced, passing over writes that replaced our own genre."""
    users: dict[int, list[str]] = {}
    ours: dict[int, list[str]] = {}
    for row in reader.execute(
        "SELECT file_id, before, after FROM tag_writes WHERE state = 'done' AND file_id IS NOT NULL ORDER BY id"
    ):
        before = json.loads(row["before"] or "[]")
        if before != ours.get(row["file_id"]):
            users[row["file_id"]] = before
        ours[row["file_id"]] = json.loads(row["after"] or "[]")
    return users


def corrections(reader: Reader) -> dict[int, str]:
    """By recording: a person's newest correction; without one in the library, the correction in a file's tag."""
    found: dict[int, str] = {}
    for row in reader.execute(
        "SELECT f.recording_id, t.genre, t.indexer_genre FROM tags t JOIN files f ON f.id = t.file_id"
        " WHERE f.recording_id IS NOT NULL AND t.indexer_genre LIKE ? ORDER BY f.id",
        (f'%"{CORRECTION}"%',),
    ):
        ours = json.loads(row["indexer_genre"])
        if ours.get("model") == CORRECTION and same_text(str(ours.get("genre", "")), row["genre"] or ""):
            found[row["recording_id"]] = str(ours["label"])
    return found | {
        row["recording_id"]: row["genre"]
        for row in reader.execute("SELECT recording_id, genre FROM corrections ORDER BY id")
    }


def known_labels(reader: Reader) -> set[str]:
    """Labels of the head in use and of all corrections."""
    head = reader.execute("SELECT labels FROM heads WHERE in_use = 1").fetchone()
    return {
        *(json.loads(head["labels"]) if head else ()),
        *(row["genre"] for row in reader.execute("SELECT DISTINCT genre FROM corrections")),
    }


def digests(reader: Reader) -> dict[int, str]:
    """By recording: its audio_sha256."""
    return {row["id"]: row["audio_sha256"] for row in reader.execute("SELECT id, audio_sha256 FROM recordings")}


def vectors(
    reader: Reader, encoder_id: str, width: int, recordings: Sequence[int]
) -> tuple[np.ndarray, np.ndarray, int]:
    """(places in ``recordings`` that have a sound embedding, their vectors (n, width) float16, how many are damaged).

    Damaged are vectors of another width, or with NaN or infinity.
    """
    found = np.empty((len(recordings), width), np.float16)
    places: list[int] = []
    damaged = 0
    for place, recording in enumerate(recordings):
        row = reader.execute(
            "SELECT vector FROM embeddings WHERE recording_id = ? AND encoder_id = ?", (recording, encoder_id)
        ).fetchone()
        if row is None:
            continue
        blob = row["vector"]
        vector = np.frombuffer(blob, "<f2") if len(blob) == 2 * width else None
        if vector is None or not np.isfinite(vector).all():
            damaged += 1
            continue
        found[len(places)] = vector
        places.append(place)
    return np.asarray(places, np.int64), found[: len(places)], damaged


def electronic(reader: Reader, recordings: Sequence[int]) -> np.ndarray:
    """How electronic each recording sounds, (n,) from 0 to 1; NaN where nothing has told."""
    found = dict(reader.execute("SELECT recording_id, electronic FROM heard WHERE electronic IS NOT NULL").fetchall())
    return np.array([found.get(recording, np.nan) for recording in recordings])


def sound_vectors(blobs: Sequence[bytes], width: int) -> tuple[list[int], np.ndarray]:
    """(places of the sound ones among the blobs, their vectors (n, width) float32)."""
    whole = [place for place, blob in enumerate(blobs) if len(blob) == 2 * width]
    found = (
        np.frombuffer(b"".join(blobs[place] for place in whole), "<f2").reshape(len(whole), width).astype(np.float32)
    )
    sound = np.isfinite(found).all(axis=1)
    return [whole[i] for i in np.flatnonzero(sound)], found[sound]


def joined_vectors(
    reader: Reader, encoder_ids: Sequence[str], recordings: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """(places in ``recordings`` with a sound embedding by every encoder, their vectors (n, width) side by side)."""
    places = np.arange(len(recordings))
    parts: list[np.ndarray] = []
    for encoder_id in encoder_ids:
        width = reader.execute("SELECT width FROM encoders WHERE id = ?", (encoder_id,)).fetchone()["width"]
        kept, found, _ = vectors(reader, encoder_id, width, [recordings[int(i)] for i in places])
        parts = [*(part[kept] for part in parts), found]
        places = places[kept]
    return places, np.concatenate(parts, axis=1)


def one_file_of_each(reader: Reader, recordings: Sequence[int]) -> dict[int, bytes]:
    """By recording: the path of a readable file that holds it, where there is one."""
    found: dict[int, bytes] = {}
    for recording in recordings:
        row = reader.execute(
            "SELECT path FROM files WHERE recording_id = ? AND state = 'ready' ORDER BY path LIMIT 1", (recording,)
        ).fetchone()
        if row is not None:
            found[recording] = row["path"]
    return found


def least_confident(reader: Reader, head_id: str) -> list[int]:
    """Recordings of readable files that a head has classified, the least confident prediction first."""
    rows = reader.execute(
        "SELECT recording_id FROM predictions p WHERE head_id = ? AND EXISTS"
        " (SELECT 1 FROM files f WHERE f.recording_id = p.recording_id AND f.state = 'ready')"
        " ORDER BY confidence, recording_id",
        (head_id,),
    )
    return [row["recording_id"] for row in rows]
