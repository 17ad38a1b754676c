"""Which recordings sound like a text: the cosine of their audio vectors with the text's.

Exact: compares every recording, by one matrix product over the derived file of directions. The index of a large library
does not serve here: it was made for sounds that lie near each other, and those nearest to a text lie far from it. Reads
only.
"""

from array import array
from itertools import islice
from typing import Any

import numpy as np

from indexer.library.below import subtree_or_all
from indexer.library.sqlite import Reader
from indexer.library.vectors.directions import Directions
from indexer.library.vectors.similar import TRACKS, descending, tracks_of
from indexer.library.whose_word import LABEL

DIGITS = 6  # of a similarity


def has_sounds(reader: Reader, words_id: str) -> bool:
    """Whether audio vectors of this space were ever stored."""
    row = reader.execute("SELECT changes FROM encoders WHERE id = ?", (words_id,)).fetchone()
    return row is not None and row["changes"] > 0


def like_text(
    reader: Reader,
    sounds: Directions,
    vector: np.ndarray,
    count: int,
    *,
    genre: str | None = None,
    below: bytes | None = None,
) -> list[dict[str, Any]]:
    """At most ``count`` tracks whose sound is nearest to a text's vector (words,), as ``similar.tracks_of`` gives them.

    sounds: of the audio vectors. genre: only tracks whose genre that counts is this one. below: only in this folder.
    """
    labels = None
    recordings, cosines = np.asarray(sounds.recordings), sounds.plain_cosines(vector)
    if genre is not None or below is not None:
        wanted, labels = _wanted(reader, genre, below)
        kept = np.isin(recordings, wanted)
        recordings, cosines = recordings[kept], cosines[kept]
    ranked = ((int(recordings[place]), float(cosines[place])) for place in descending(cosines))
    return list(islice(tracks_of(reader, ranked, DIGITS, below=below, labels=labels), count))


def _wanted(reader: Reader, genre: str | None, below: bytes | None) -> tuple[np.ndarray, set[str] | None]:
    """The recordings (n,) with a file of a genre below a folder, and how that genre is written there; None: any."""
    found = reader.execute(
        f"SELECT f.recording_id, {LABEL if genre is not None else 'NULL'} AS label {TRACKS}", subtree_or_all(below)
    )
    if genre is None:
        return np.fromiter((row[0] for row in found), np.int64), None
    written, recordings = set(), array("q")
    for recording, label in found:
        if label is not None and (label in written or label.casefold() == genre.casefold()):
            written.add(label)
            recordings.append(recording)
    return np.asarray(recordings), written
