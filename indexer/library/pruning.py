"""What `indexer prune` may remove: rows of missing files, embeddings and predictions of models that are not in use."""

from collections.abc import Sequence
from dataclasses import dataclass

from indexer.library.below import subtree
from indexer.library.sqlite import Reader
from indexer.library.states import LEFT_OUT
from indexer.library.store import Store

_MISSING = f"f.state = 'missing' AND f.reason IS NOT '{LEFT_OUT}'"
_OFFLINE = "EXISTS (SELECT 1 FROM roots o WHERE o.id = f.root_id AND o.state = 'offline')"
_SET_HEADS = "SELECT head_id FROM label_sets WHERE in_use AND head_id IS NOT NULL"
_USED = (
    "SELECT id FROM encoders WHERE in_use UNION SELECT j.value FROM encoders e, json_each(e.parts) j WHERE e.in_use"
    f" UNION SELECT h.encoder_id FROM heads h WHERE h.id IN ({_SET_HEADS})"
    f" UNION SELECT j.value FROM heads h JOIN encoders e ON e.id = h.encoder_id, json_each(e.parts) j"
    f" WHERE h.id IN ({_SET_HEADS})"
)
_UNUSED_EMBEDDINGS = (
    f"encoder_id NOT IN ({_USED} UNION SELECT id FROM encoders WHERE words_of IN ({_USED}))"
    " AND EXISTS (SELECT 1 FROM encoders WHERE in_use)"
)
_UNUSED_HEADS = (
    f"head_id NOT IN (SELECT id FROM heads WHERE in_use UNION {_SET_HEADS})"
    " AND EXISTS (SELECT 1 FROM heads WHERE in_use)"
)


@dataclass(frozen=True, slots=True)
class Forgettable:
    """Counts of what may be forgotten, and what offline roots keep."""

    files: int
    paths: list[bytes]  # of the files, the first ones
    recordings: int  # that no other file holds
    embeddings: int
    predictions: int
    kept: dict[str, int]  # offline root as text -> missing files that it keeps


def forgettable(reader: Reader, paths: Sequence[bytes], *, unused_models: bool, max_paths: int) -> Forgettable:
    """Count what may be forgotten at or below ``paths``; without paths, in all roots that are online.

    unused_models: count embeddings and predictions that no model in use needs, too.
    """
    condition, values = _condition(paths)

    def count(sql: str, parameters: Sequence[bytes] = ()) -> int:
        return int(reader.execute(sql, parameters).fetchone()[0])

    listed = reader.execute(
        f"SELECT f.path FROM files f WHERE {condition} ORDER BY f.path LIMIT {max_paths}", values
    ).fetchall()
    kept = reader.execute(
        f"SELECT o.path_text, count(*) AS n FROM files f JOIN roots o ON o.id = f.root_id WHERE {_MISSING} AND"
        " o.state = 'offline'"
        f" AND NOT ({condition}) GROUP BY o.id",
        values,
    ).fetchall()
    return Forgettable(
        files=count(f"SELECT count(*) FROM files f WHERE {condition}", values),
        paths=[row["path"] for row in listed],
        recordings=count(
            f"SELECT count(DISTINCT f.recording_id) FROM files f WHERE {condition} AND NOT EXISTS (SELECT 1 FROM"
            " files g"
            f" WHERE g.recording_id = f.recording_id AND g.id NOT IN (SELECT f.id FROM files f WHERE {condition}))",
            [*values, *values],
        ),
        embeddings=count(f"SELECT count(*) FROM embeddings WHERE {_UNUSED_EMBEDDINGS}") if unused_models else 0,
        predictions=count(f"SELECT count(*) FROM predictions WHERE {_UNUSED_HEADS}") if unused_models else 0,
        kept={row["path_text"]: row["n"] for row in kept},
    )


def missing_files(reader: Reader, paths: Sequence[bytes]) -> list[tuple[int, bytes]]:
    """(id, path) of the files that ``forgettable`` counts."""
    condition, values = _condition(paths)
    rows = reader.execute(f"SELECT f.id, f.path FROM files f WHERE {condition}", values).fetchall()
    return [(row["id"], row["path"]) for row in rows]


def forget_unused_models(store: Store) -> set[str]:
    """Remove embeddings and predictions that no model in use needs.

    Returns the ids of the encoders that still have embeddings.
    """
    store.forget_unused(_UNUSED_EMBEDDINGS, _UNUSED_HEADS)
    return store.encoders_with_embeddings()


@dataclass(frozen=True, slots=True)
class Held:
    """What the library holds at or below some paths."""

    files: int
    paths: list[bytes]  # of the files, the first ones
    recordings: int  # that no other file holds
    corrections: int  # of these recordings: how many a person gave a genre


def held_below(reader: Reader, paths: Sequence[bytes], max_paths: int) -> Held:
    """Count what is held at or below ``paths``, whatever its state."""
    below, values = _below(paths)
    alone = (
        f"SELECT DISTINCT f.recording_id AS id FROM files f WHERE f.recording_id IS NOT NULL AND ({below}) AND NOT"
        " EXISTS (SELECT 1 FROM files g WHERE g.recording_id = f.recording_id AND g.id NOT IN"
        f" (SELECT f.id FROM files f WHERE {below}))"
    )

    def count(sql: str, parameters: Sequence[bytes]) -> int:
        return int(reader.execute(sql, parameters).fetchone()[0])

    return Held(
        files=count(f"SELECT count(*) FROM files f WHERE {below}", values),
        paths=[
            row["path"]
            for row in reader.execute(
                f"SELECT f.path FROM files f WHERE {below} ORDER BY f.path LIMIT {max_paths}", values
            )
        ],
        recordings=count(f"SELECT count(*) FROM ({alone})", [*values, *values]),
        corrections=count(
            f"SELECT count(DISTINCT c.recording_id) FROM corrections c JOIN ({alone}) a ON a.id = c.recording_id",
            [*values, *values],
        ),
    )


def ids_below(reader: Reader, paths: Sequence[bytes]) -> list[int]:
    """The ids of the files that ``held_below`` counts."""
    below, values = _below(paths)
    return [row["id"] for row in reader.execute(f"SELECT f.id FROM files f WHERE {below}", values)]


def _condition(paths: Sequence[bytes]) -> tuple[str, list[bytes]]:
    """SQL that is true for a missing row of ``files f`` at or below the paths; without paths, outside offline roots."""
    below, values = _below(paths)
    return f"{_MISSING} AND " + (f"({below})" if paths else f"NOT {_OFFLINE}"), values


def _below(paths: Sequence[bytes]) -> tuple[str, list[bytes]]:
    """SQL that is true for a row of ``files f`` at or below one of the paths."""
    below = " OR ".join(["f.path = ? OR (f.path >= ? AND f.path < ?)"] * len(paths))
    return below, [value for path in paths for value in (path, *subtree(path))]
