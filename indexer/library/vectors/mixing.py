"""Finds the tracks that mix well with one: of those that sound alike, the ones whose key and tempo suit it.

Tempo and key are those for the decks (library/measured.py): the tags', else what was measured.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from indexer.analysis.camelot import parse_key
from indexer.analysis.mixing import Mixable, reasons
from indexer.library.measured import MEASURED_JOIN, TEMPO_BPM, THEIR_BPM, THEIR_KEY
from indexer.library.sqlite import Reader

MOST_COMPARED = 20_000  # of the most similar recordings
_AT_ONCE = 500


def mixable_of(reader: Reader, recordings: Sequence[int]) -> dict[int, Mixable]:
    """What is known of each recording that a mix needs."""
    rows = reader.execute(
        f"SELECT f.recording_id, a.recording_id IS NOT NULL AS measured, {TEMPO_BPM} AS tempo_bpm, a.key,"
        f" max({THEIR_BPM}) AS tag_bpm, group_concat({THEIR_KEY}, char(10)) AS tag_keys FROM files f {MEASURED_JOIN}"
        " LEFT JOIN heads h ON h.in_use = 1"
        " LEFT JOIN predictions p ON p.recording_id = f.recording_id AND p.head_id = h.id"
        " LEFT JOIN tags t ON t.file_id = f.id"
        f" WHERE f.recording_id IN ({','.join('?' * len(recordings))}) GROUP BY f.recording_id",
        tuple(recordings),
    )
    return {
        row["recording_id"]: mixable(
            dict(row) if row["measured"] else None, row["tag_bpm"], _first_key(row["tag_keys"])
        )
        for row in rows
    }


def _first_key(texts: str | None) -> str | None:
    """The first of the texts in the tags of a recording's files, a line each, that names a key."""
    return next(filter(parse_key, (texts or "").split("\n")), None)


def mixable(measured: Mapping[str, Any] | None, tag_bpm: float | None, tag_key: str | None) -> Mixable:
    """What is known of a track by its tags, else by its measured ``tempo_bpm`` and ``key``."""
    tempo_bpm, key = (measured["tempo_bpm"], parse_key(measured["key"])) if measured else (None, None)
    said = parse_key(tag_key)
    return Mixable(tag_bpm or tempo_bpm, bool(tag_bpm), said or key, said is not None, measured is not None)


class Suited:
    """Of recordings in order, those that mix well with a track: iterates (recording, similarity, more).

    ``more``: {tempo_bpm, key, key_name, reasons}, see ``shown`` and ``reasons``.
    """

    def __init__(self, reader: Reader, found: Iterable[tuple[int, float]], of: Mixable) -> None:
        """``found``: (recording, similarity), the most similar first; the first MOST_COMPARED are looked at."""
        self.unknown = 0  # recordings that were passed over because their tempo or key is not known
        self._reader = reader
        self._found = islice(found, MOST_COMPARED if of.key or of.tempo_bpm else 0)
        self._of = of

    def __iter__(self) -> Iterator[tuple[int, float, dict[str, Any]]]:
        while some := list(islice(self._found, _AT_ONCE)):
            known = mixable_of(self._reader, [recording for recording, _ in some])
            for recording, similarity in some:
                to = known.get(recording)
                why = reasons(self._of, to, similarity) if to else None
                if to and why:
                    yield recording, similarity, {**shown(to), "reasons": why}
                elif to and ((self._of.key and not to.key) or (self._of.tempo_bpm and not to.tempo_bpm)):
                    self.unknown += 1


def shown(of: Mixable) -> dict[str, Any]:
    """The tempo and key by which a track was compared, as JSON has them."""
    return {
        "tempo_bpm": None if of.tempo_bpm is None else round(of.tempo_bpm, 2),
        "key": of.key and of.key.camelot,
        "key_name": of.key and of.key.name,
    }
