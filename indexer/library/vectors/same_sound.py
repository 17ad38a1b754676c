"""Recordings that sound the same: other encodings of one piece, with nearly the same embedding and length.

Where fingerprints of both are known, aligning them decides; until then embedding and length do. Owns the table
``same_sound`` and what counts as the same. Each recording is compared once with all of its length, and again when it
has a fingerprint.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache

import numpy as np

from indexer.analysis.fingerprint import aligned
from indexer.library.facts import joined_vectors
from indexer.library.sqlite import Reader
from indexer.library.store import Store
from indexer.library.vectors.directions import joined_directions

# Without fingerprints.
# Chosen on 22 real tracks of one length, each in FLAC, MP3 (128 and 320 kbit/s), Opus (96) and AAC (128). Of 220 pairs
# of one track 212 lie above it by musicnn and all by rhythm; of 5,775 pairs of two tracks none does (0.82 at most).
SAME_COSINE = 0.95
SAME_LENGTH_S = 1.0  # encoders add up to 0.1 s
# What is aligned where there are fingerprints: some seconds of silence may have been added or cut.
NEAR_COSINE = 0.5  # another volume or a clipped copy moves the vectors of rhythm as far
NEAR_LENGTH_S = 2.5
MOST_ALIGNED = 50  # with one recording, the nearest ones: 0.2 ms each
MOST_AT_ONCE = 10_000  # recordings of one length that are compared with each other: 15 kB each at a width of 3840
_PAGE = 500


def update(
    store: Store,
    encoder_id: str,
    parts: Sequence[str],
    stopped: Callable[[], bool] = lambda: False,
    on_done: Callable[[int, int], None] = lambda _done, _total: None,
) -> int:
    """Compare the recordings that all ``parts`` of an encoder embedded and that were not compared yet.

    Needs the encoder's place on the map (see projection), whose mean vector it uses. Returns how many were compared;
    changes nothing when it is stopped. ``on_done`` is told now and then how many are looked at, and of how many.
    """
    reader = store.connection
    row = reader.execute("SELECT mean FROM projections WHERE encoder_id = ?", (encoder_id,)).fetchone()
    if row is None:
        return 0
    ids, lengths_s, is_new = _by_length(reader, encoder_id, parts)
    near = _within(lengths_s, lengths_s[is_new])  # no other can be the same as a new one
    ids, lengths_s, is_new = ids[near], lengths_s[near], is_new[near]
    groups, judge = _Groups(reader, encoder_id), _Judge(reader)
    compared: list[int] = []
    agreements: dict[int, float] = {}
    mean = np.frombuffer(row["mean"], "<f4")
    for page, pairs in _pairs(reader, parts, mean, ids, lengths_s):
        if stopped():
            return 0
        on_done(int(page[-1]) + 1 if len(page) else 0, len(ids))
        compared += ids[page[is_new[page]]].tolist()
        for one, other, cosine in pairs:
            if stopped():
                return 0
            low, high = int(ids[other]), int(ids[one])
            is_known = low in agreements and high in agreements and groups.are_joined(low, high)
            if is_known or not (is_new[one] or is_new[other]):
                continue
            is_same, agreement = judge.same(low, high, cosine, abs(lengths_s[one] - lengths_s[other]))
            if is_same:
                groups.join(low, high)
                if agreement is not None:
                    agreements |= {each: max(agreement, agreements.get(each, 0.0)) for each in (low, high)}
    with store.transaction():
        store.connection.execute("DELETE FROM same_sound WHERE encoder_id <> ?", (encoder_id,))
        store.connection.executemany(
            "INSERT OR REPLACE INTO same_sound (recording_id, encoder_id, first_id) VALUES (?, ?, ?)",
            ((recording, encoder_id, recording) for recording in compared),
        )
        store.connection.executemany(
            "UPDATE same_sound SET agreement = max(coalesce(agreement, 0), ?) WHERE recording_id = ?",
            ((agreement, recording) for recording, agreement in agreements.items()),
        )
        store.connection.executemany(
            "UPDATE same_sound SET first_id = ? WHERE first_id = ?",
            ((first, former) for former, first in groups.moved()),
        )
    return len(compared)


def _by_length(reader: Reader, encoder_id: str, parts: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(ids (n,), lengths in s (n,), whether not compared yet (n,)) by length; empty where nothing is new."""
    first, *others = parts
    also = " AND EXISTS (SELECT 1 FROM embeddings o WHERE o.recording_id = e.recording_id AND o.encoder_id = ?)" * len(
        others
    )
    new = "s.first_id IS NULL OR s.stale"
    embedded = (
        "FROM embeddings e JOIN recordings r ON r.id = e.recording_id"
        " LEFT JOIN same_sound s ON s.recording_id = r.id AND s.encoder_id = ?"
        f" WHERE e.encoder_id = ?{also} AND r.duration_s IS NOT NULL"
    )
    values = (encoder_id, first, *others)
    found = np.empty(0, "i8,f8,?")
    if reader.execute(f"SELECT 1 {embedded} AND ({new}) LIMIT 1", values).fetchone():
        rows = reader.execute(f"SELECT r.id, r.duration_s, {new} {embedded} ORDER BY r.duration_s, r.id", values)
        found = np.fromiter((tuple(row) for row in rows), found.dtype)
    return found["f0"], found["f1"], found["f2"]


def _within(lengths_s: np.ndarray, new_s: np.ndarray) -> np.ndarray:
    """Whether each length is near one of the new ones (n,); both ascend."""
    padded = np.concatenate([[-np.inf], new_s, [np.inf]])
    above = np.searchsorted(padded, lengths_s)
    nearest = np.minimum(padded[above] - lengths_s, lengths_s - padded[above - 1])
    return np.asarray(nearest <= NEAR_LENGTH_S)


def _pairs(
    reader: Reader, parts: Sequence[str], mean: np.ndarray, ids: np.ndarray, lengths_s: np.ndarray
) -> Iterator[tuple[np.ndarray, Iterator[tuple[int, int, float]]]]:
    """Yield the places of a page with sound vectors, and pairs of it and what was before that may sound the same.

    A pair comes with its cosine; of each recording the nearest MOST_ALIGNED come, the nearest first.
    """
    widths = [reader.execute("SELECT width FROM encoders WHERE id = ?", (part,)).fetchone()["width"] for part in parts]
    window, directions = np.empty(0, np.int64), np.empty((0, sum(widths)), np.float32)
    for start in range(0, len(ids), _PAGE):
        kept = (lengths_s[window] >= lengths_s[start] - NEAR_LENGTH_S) & (
            np.arange(len(window)) >= len(window) - MOST_AT_ONCE
        )
        sound, vectors = joined_vectors(reader, parts, ids[start : start + _PAGE].tolist())
        page = start + sound
        before = int(kept.sum())
        window = np.concatenate([window[kept], page])
        directions = np.concatenate([directions[kept], joined_directions(vectors, widths, mean)])
        cosines = directions[before:] @ directions.T  # (page, window)
        cosines[np.abs(lengths_s[page][:, None] - lengths_s[window][None]) > NEAR_LENGTH_S] = -1
        cosines[page[:, None] <= window[None]] = -1  # each pair once
        yield page, _nearest(page, window, cosines)


def _nearest(page: np.ndarray, window: np.ndarray, cosines: np.ndarray) -> Iterator[tuple[int, int, float]]:
    for one, row in zip(page, cosines, strict=True):
        near = np.flatnonzero(row >= NEAR_COSINE)
        for place in near[np.argsort(-row[near], kind="stable")][:MOST_ALIGNED]:
            yield int(one), int(window[place]), float(row[place])


class _Judge:
    """Says whether two recordings that may be the same are."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._words = lru_cache(maxsize=4000)(self._read)  # 20 MB

    def same(self, one: int, other: int, cosine: float, apart_s: float) -> tuple[bool, float | None]:
        """Whether they are the same, and how well their fingerprints agree; None where these cannot tell."""
        words = self._words(one), self._words(other)
        found = aligned(*words, NEAR_LENGTH_S)
        if found is None:
            return cosine >= SAME_COSINE and apart_s <= SAME_LENGTH_S, None
        return found.is_same, found.agreement

    def _read(self, recording: int) -> np.ndarray:
        row = self._reader.execute("SELECT words FROM fingerprints WHERE recording_id = ?", (recording,)).fetchone()
        return np.frombuffer(row["words"] if row else b"", "<u2")


class _Groups:
    """Which recordings are the same; a group is called by its lowest id."""

    def __init__(self, reader: Reader, encoder_id: str) -> None:
        self._reader, self._encoder_id = reader, encoder_id
        self._first: dict[int, int] = {}

    def join(self, one: int, other: int) -> None:
        """Two recordings are the same, and so are all in their groups."""
        low, high = sorted((self._root(one), self._root(other)))
        self._first[high] = low

    def are_joined(self, one: int, other: int) -> bool:
        """Whether two recordings are in one group."""
        return self._root(one) == self._root(other)

    def moved(self) -> Iterator[tuple[int, int]]:
        """Yield (former first recording, first recording) of the groups that became part of another."""
        for recording in [*self._first]:
            if (first := self._root(recording)) != recording:
                yield recording, first

    def _root(self, recording: int) -> int:
        passed = []
        while (first := self._former(recording)) != recording:
            passed.append(recording)
            recording = first
        self._first |= dict.fromkeys(passed, recording)  # the way is short from now on
        return recording

    def _former(self, recording: int) -> int:
        """A recording of the same group with a lower id, nearer to its first; itself where it is the first."""
        if recording not in self._first:
            row = self._reader.execute(
                "SELECT first_id FROM same_sound WHERE recording_id = ? AND encoder_id = ? AND NOT stale",
                (recording, self._encoder_id),
            ).fetchone()
            self._first[recording] = row["first_id"] if row else recording
        return self._first[recording]
