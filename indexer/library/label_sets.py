"""Label sets beside the genre: what each has of a recording as SQL, and what is stored about them. Reads only.

A set's word on a recording is a person's, else its head's. Its predictions stand in the same tables as the genre's,
under the set's own head; its corrections have a table of their own, so that none is ever taken for a genre.
"""

import json
from dataclasses import dataclass
from typing import Any

from indexer.errors import ConfigError
from indexer.library.sqlite import Reader

ENDINGS = ("", "_confidence", "_decided")  # of the columns that a set has in the view `tracks`


def title(name: str) -> str:
    """The name of a set for people: set_role is "Set role"."""
    return name.replace("_", " ").capitalize()


@dataclass(frozen=True, slots=True)
class Shown:
    """One set in a query: SQL of its columns. ``join`` gives the tables that they need."""

    name: str
    place: int  # of the set in the query
    columns: dict[str, str]

    @classmethod
    def of(cls, name: str, place: int, recording: str = "f.recording_id") -> "Shown":
        """``recording``: SQL of the recording's id. A person's word is decided, and has no confidence."""
        said = (
            f"(SELECT c.label FROM set_corrections c WHERE c.recording_id = {recording} AND c.label_set = '{name}'"
            " ORDER BY c.id DESC LIMIT 1)"
        )
        p = f"set_p{place}"
        sql = (
            f"coalesce({said}, {p}.genre)",
            # Cast, so that a filter in an address, which is text, is compared as a number.
            f"CAST(CASE WHEN {said} IS NULL THEN round({p}.confidence, 4) END AS REAL)",
            f"CAST(CASE WHEN {said} IS NULL THEN {p}.decided ELSE 1 END AS INTEGER)",
        )
        return cls(name, place, {name + ending: one for ending, one in zip(ENDINGS, sql, strict=True)})


def join(shown: Shown, recording: str = "f.recording_id") -> str:
    """SQL of the joins that a set's columns need."""
    one, p = f"set_{shown.place}", f"set_p{shown.place}"
    return (
        f"\nLEFT JOIN label_sets {one} ON {one}.name = '{shown.name}'"
        f"\nLEFT JOIN predictions {p} ON {p}.recording_id = {recording} AND {p}.head_id = {one}.head_id"
    )


def refuse_taken(names: list[str], taken: tuple[str, ...]) -> None:
    """Raise ConfigError where a column of a set would have the name of another column of `tracks`."""
    owner = dict.fromkeys(taken, "")
    for name in names:
        for column in (name + ending for ending in ENDINGS):
            if column in owner:
                of = f"the set '{owner[column]}'" if owner[column] else "the view `tracks` itself"
                raise ConfigError(f"sets.{name}: there is a column {column} of {of} already; choose another name")
            owner[column] = name


def shown_sets(reader: Reader) -> list[str]:
    """The names of the sets that the settings name, by name."""
    return [row["name"] for row in reader.execute("SELECT name FROM label_sets WHERE in_use ORDER BY name")]


@dataclass(frozen=True, slots=True)
class SetHead:
    """A set whose head classifies: the head's file, and the encoders whose vectors it takes, in order."""

    name: str
    head_id: str
    source: str
    inputs: tuple[str, ...]


def set_heads(reader: Reader) -> list[SetHead]:
    """The sets in use that have a head, by name. Without a word about a head that the genre uses, too."""
    return [
        SetHead(row["name"], row["head_id"], row["source"], tuple(json.loads(row["inputs"])))
        for row in reader.execute(
            "SELECT s.name, s.head_id, h.source, coalesce(n.parts, json_array(n.id)) AS inputs FROM label_sets s"
            " JOIN heads h ON h.id = s.head_id JOIN encoders n ON n.id = h.encoder_id"
            " WHERE s.in_use AND NOT h.in_use ORDER BY s.name"
        )
    ]


def labels_known(reader: Reader, name: str) -> set[str]:
    """Labels of a set's head, and those that a person gave in it."""
    head = reader.execute(
        "SELECT h.labels FROM label_sets s JOIN heads h ON h.id = s.head_id WHERE s.name = ?", (name,)
    ).fetchone()
    given = reader.execute("SELECT DISTINCT label FROM set_corrections WHERE label_set = ?", (name,))
    return {*(json.loads(head["labels"]) if head else ()), *(row["label"] for row in given)}


def corrections(reader: Reader, name: str) -> dict[int, str]:
    """By recording: a person's newest label in a set."""
    rows = reader.execute("SELECT recording_id, label FROM set_corrections WHERE label_set = ? ORDER BY id", (name,))
    return {row["recording_id"]: row["label"] for row in rows}


def of_recording(reader: Reader, recording_id: int) -> list[dict[str, Any]]:
    """What each set in use has of a recording: {set, label, confidence, decided, said, labels, scores}, by set."""
    found = []
    for name in shown_sets(reader):
        shown = Shown.of(name, 0, "r.id")
        label, confidence, decided = shown.columns.values()
        row = reader.execute(
            f"SELECT {label} AS label, {confidence} AS confidence, {decided} AS decided, h.id AS head_id, h.labels"
            f" FROM recordings r{join(shown, 'r.id')} LEFT JOIN heads h ON h.id = set_0.head_id WHERE r.id = ?",
            (recording_id,),
        ).fetchone()
        if row is None:
            continue
        scores = reader.execute(
            "SELECT genre, round(probability, 4) AS probability FROM scores WHERE recording_id = ? AND head_id = ?",
            (recording_id, row["head_id"]),
        )
        found.append(
            {
                "set": name,
                "label": row["label"],
                "confidence": row["confidence"],
                "decided": None if row["decided"] is None else bool(row["decided"]),
                "said": row["label"] is not None and row["confidence"] is None,
                "labels": sorted({*json.loads(row["labels"] or "[]"), *labels_known(reader, name)}),
                "scores": {score["genre"]: score["probability"] for score in scores},
            }
        )
    return found
