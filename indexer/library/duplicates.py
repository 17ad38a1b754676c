"""Files of the same sound, side by side, and which copy to keep and why. Only looks: nothing is deleted or written.

indexer.library.vectors.same_sound finds which recordings are the same.
"""

from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from indexer.analysis.bandwidth import LOSSLESS_CODECS
from indexer.library.readonly import reading
from indexer.library.sqlite import Reader

# Readable files with the first recording of their sound, and the sounds that several of them have.
_SOUNDS = (
    "WITH sounds AS (SELECT f.id, coalesce(s.first_id, f.recording_id) AS first_id FROM files f LEFT JOIN same_sound s"
    " ON s.recording_id = f.recording_id WHERE f.state = 'ready' AND f.recording_id IS NOT NULL), found AS"
    " (SELECT first_id, count(*) AS files FROM sounds GROUP BY first_id HAVING count(*) > 1)"
)
_COPIES = (
    f"{_SOUNDS}, some AS (SELECT * FROM found ORDER BY files DESC, first_id LIMIT ? OFFSET ?) SELECT g.first_id, t.id,"
    " t.recording_id, t.path, t.title, t.artist, t.album, t.year, t.tag_genre, t.label, t.container, t.codec,"
    " t.sample_rate_hz, round(r.duration_s, 2) AS duration_s, t.size, t.bandwidth_hz, t.lossy_suspect, t.dj_data,"
    " t.reason, round(s.agreement, 3) AS agreement FROM some g JOIN sounds o ON o.first_id = g.first_id"
    " JOIN tracks t ON t.id = o.id JOIN recordings r ON r.id = t.recording_id"
    " LEFT JOIN same_sound s ON s.recording_id = t.recording_id ORDER BY g.files DESC, g.first_id, t.recording_id, t.id"
)
_TAGS = ("title", "artist", "album", "year", "tag_genre")
_KBIT_STEP = 16  # bit rates of lossy files count in such steps; the usual ones lie in the middle of one
# A lossless file that was lossy once counts as what it came from, by where its spectrum ends: LAME's lowpass.
_SAME_EDGE_HZ = 200  # within which two files of one sound have the same edge
_EDGES_HZ, _EDGE_KBIT_S = (16_000, 17_000, 19_000, 20_000, 20_500), (112, 128, 192, 256, 320)


def duplicates(db: Path) -> dict[str, Any]:
    """{groups, files, could_free_bytes, not_aligned}: all groups, see ``groups_of``.

    ``files``: how many there are beside those to keep; ``not_aligned``: groups that rest on embedding and length only.
    Raises StoreError.
    """
    with reading(db) as conn:
        groups = groups_of(conn)
    return {
        "groups": groups,
        "files": sum(len(group["copies"]) - 1 for group in groups),
        "could_free_bytes": sum(group["could_free_bytes"] for group in groups),
        "not_aligned": sum(group["how"] == BY_EMBEDDING for group in groups),
    }


SAME_AUDIO, ALIGNED, BY_EMBEDDING = "same audio", "aligned", "embedding and length"


def count_groups(reader: Reader) -> int:
    """How many sounds several readable files have."""
    return int(reader.execute(f"{_SOUNDS} SELECT count(*) FROM found").fetchone()[0])


def groups_of(reader: Reader, first: int = 0, at_most: int = -1) -> list[dict[str, Any]]:
    """The groups of files of one sound from the ``first`` on, those of most files first.

    Each has ``group`` (the number of its first recording), ``how`` it is known, the number and path of the file to
    ``keep``, ``why`` (sentences), ``beware`` (what only another copy has), ``could_free_bytes`` and ``copies``, the one
    to keep first.
    """
    rows = map(dict, reader.execute(_COPIES, (at_most, first)))
    return [_group(number, list(copies)) for number, copies in groupby(rows, itemgetter("first_id"))]


def _group(number: int, copies: list[dict[str, Any]]) -> dict[str, Any]:
    smallest: dict[int, int] = {}  # by recording: its audio is no larger, whatever pictures are in another file
    for copy in copies:
        recording = copy["recording_id"]
        smallest[recording] = min(copy["size"], smallest.get(recording, copy["size"]))
    for copy in copies:
        seconds = copy["duration_s"]
        copy["kbit_s"] = round(smallest[copy["recording_id"]] / seconds / 125) if seconds else None
        copy["lossless"] = copy["codec"] in LOSSLESS_CODECS
        copy["lossy_suspect"] = None if copy["lossy_suspect"] is None else bool(copy["lossy_suspect"])
        copy["tags"] = sum(copy[tag] not in (None, "") for tag in _TAGS)
        copy["truncated"] = (copy.pop("reason") or "").startswith("truncated")
        del copy["first_id"]
    for copy in copies:
        copy["counts_as_kbit_s"] = _lossy_kbit_s(copy, copies)
    copies.sort(key=_merits, reverse=True)
    kept, *others = copies
    for copy in copies:
        copy["keep"] = copy is kept
    recordings = {copy["recording_id"]: copy["agreement"] for copy in copies}
    is_aligned = all(agreement is not None for agreement in recordings.values())
    return {
        "group": number,
        "how": SAME_AUDIO if len(recordings) == 1 else ALIGNED if is_aligned else BY_EMBEDDING,
        "keep": {"id": kept["id"], "path": kept["path"]},
        "why": list(dict(_why(kept, other) for other in reversed(others)).values())[::-1],  # the nearest of each kind
        "beware": _beware(kept, others),
        "could_free_bytes": sum(copy["size"] for copy in others),
        "copies": copies,
    }


def _merits(copy: dict[str, Any]) -> tuple[float, ...]:
    """What a copy is judged by, the weightiest first; more is better."""
    is_lossless = copy["lossless"] and not copy["lossy_suspect"]
    return (
        not copy["truncated"],
        is_lossless,
        0 if is_lossless else round(copy["counts_as_kbit_s"] / _KBIT_STEP),
        copy["sample_rate_hz"] or 0,
        bool(copy["dj_data"]),
        copy["tags"],
        copy["label"] is not None,
        -copy["size"],
    )


def _why(kept: dict[str, Any], other: dict[str, Any]) -> tuple[int, str]:
    """By which of its merits the copy to keep is better than another, by number and in words."""
    reasons = (
        "it is whole",
        "it is lossless, the other may have been lossy once" if other["lossless"] else "it is lossless",
        f"{kept['counts_as_kbit_s']} kbit/s are more than {other['counts_as_kbit_s']}",
        f"{(kept['sample_rate_hz'] or 0) / 1000:g} kHz are more than {(other['sample_rate_hz'] or 0) / 1000:g}",
        f"it carries data of {kept['dj_data']}",
        f"it has {kept['tags']} of {len(_TAGS)} tags, not {other['tags']}",
        "it has a genre",
        "it is smaller and as good",
    )
    differences = zip(reasons, _merits(kept), _merits(other), strict=True)
    told = ((merit, why) for merit, (why, mine, theirs) in enumerate(differences) if mine != theirs)
    return next(told, (len(reasons), "they are equally good, it came first"))


def _lossy_kbit_s(copy: dict[str, Any], copies: list[dict[str, Any]]) -> int:
    """The bit rate of a lossy file, or what it probably was before a lossless one was made of it.

    That is the best lossy copy whose spectrum ends where its own does, else what LAME would have taken for that edge.
    """
    if not copy["lossless"]:
        return copy["kbit_s"] or 0
    edge_hz = copy["bandwidth_hz"] or 0
    sources = [
        other["kbit_s"] or 0
        for other in copies
        if not other["lossless"] and abs((other["bandwidth_hz"] or 0) - edge_hz) <= _SAME_EDGE_HZ
    ]
    return max(sources, default=round(float(np.interp(edge_hz, _EDGES_HZ, _EDGE_KBIT_S))))


def _beware(kept: dict[str, Any], others: list[dict[str, Any]]) -> list[str]:
    """What the copy to keep lacks and another has, as sentences."""
    found = []
    have = set((kept["dj_data"] or "").split(", "))
    for other in others:
        more = [program for program in (other["dj_data"] or "").split(", ") if program and program not in have]
        have |= set(more)
        if more:
            found.append(f"data of {', '.join(more)}, cues perhaps, is only in {other['path']}")
    lacks = [tag for tag in _TAGS if kept[tag] in (None, "")]
    for tag in lacks:
        holder = next((other for other in others if other[tag] not in (None, "")), None)
        if holder is not None:
            found.append(f"the {tag.replace('tag_', '')} is only in {holder['path']}")
    return found
