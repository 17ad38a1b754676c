"""Which recordings sound like a text: the cosine of their audio vectors with the text's, from the cached embeddings.

Exact: reads every audio vector, without an index or a derived file. Reads only.
"""

from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np

from indexer.library.readonly import Reader
from indexer.library.vectors.similar import tracks_of

DIGITS = 6  # of a similarity


def count_with_words(reader: Reader, words_id: str) -> int:
    """How many recordings have an audio vector of this space."""
    return int(reader.execute("SELECT count(*) FROM embeddings WHERE encoder_id = ?", (words_id,)).fetchone()[0])


def like_text(
    reader: Reader,
    words_id: str,
    vector: np.ndarray,
    count: int,
    *,
    genre: str | None = None,
    below: bytes | None = None,
) -> list[dict[str, Any]]:
    """At most ``count`` tracks whose sound is nearest to a text's vector (words,), as ``similar.tracks_of`` gives them.

    words_id: of the audio vectors. genre: only tracks whose genre that counts is this one. below: only in this folder.
    """
    tracks = tracks_of(reader, _ranked(reader, words_id, vector), below, DIGITS)
    if genre is not None:
        wanted = genre.casefold()
        tracks = (track for track in tracks if (track["label"] or "").casefold() == wanted)
    return list(islice(tracks, count))


def _ranked(reader: Reader, words_id: str, vector: np.ndarray) -> Iterator[tuple[int, float]]:
    """(recording, cosine) of all recordings, the nearest first."""
    cursor = reader.execute(
        "SELECT recording_id, vector FROM embeddings WHERE encoder_id = ? AND length(vector) = ?",
        (words_id, 2 * len(vector)),
    )
    recordings: list[int] = []
    cosines: list[np.ndarray] = []
    direction = vector.astype(np.float64) / np.linalg.norm(vector)
    while page := cursor.fetchmany(4096):
        audio = np.frombuffer(b"".join(row["vector"] for row in page), "<f2").reshape(len(page), -1).astype(np.float64)
        lengths = np.linalg.norm(audio, axis=1)
        recordings += [row["recording_id"] for row in page]
        cosines.append(audio @ direction / np.maximum(lengths, np.finfo(np.float32).tiny))
    found = np.concatenate(cosines) if cosines else np.empty(0)
    for place in np.argsort(-found, kind="stable"):
        if np.isfinite(found[place]):  # a damaged vector is like nothing
            yield recordings[place], float(found[place])
