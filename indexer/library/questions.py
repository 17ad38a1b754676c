"""The tracks that a question finds: one that is ready to be asked (datasette_metadata.json), or SQL of the user's."""

import functools
import sqlite3
from array import array
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from indexer.errors import StoreError
from indexer.files.foreign import parse_json
from indexer.library import apart
from indexer.library.sqlite import SCHEMA

LIMIT_S = 30.0  # of one question
MAX_TRACKS = 100_000  # of one answer


@functools.cache
def ready_made() -> dict[str, str]:
    """{title: SQL} of the questions that need no values."""
    told: dict[str, Any] = parse_json((SCHEMA / "datasette_metadata.json").read_bytes())
    return {
        question["title"]: question["sql"]
        for name, question in told["databases"]["library"]["queries"].items()
        if "params" not in question and name != "undecided"  # a playlist without a limit of its own
    }


def tracks_of(db: Path, aliases: Mapping[str, str], sql: str) -> "array[int] | None":
    """The ids (column ``id``) that a question answers with, each once, in its order; None where it has no such column.

    The SQL runs in a process apart that cannot write. Raises StoreError for what cannot be answered within the limits.
    """
    try:
        found = apart.ask(db, aliases, sql, (), limit_s=LIMIT_S, at_most=MAX_TRACKS)
    except sqlite3.OperationalError as e:
        too_long = e.args == ("interrupted",)
        raise StoreError(f"it takes longer than {LIMIT_S:.0f} s" if too_long else f"{e}") from e
    if "id" not in [column[0] for column in found.description]:
        return None
    ids = dict.fromkeys(row["id"] for row in found.rows)
    return array("q", (file_id for file_id in ids if isinstance(file_id, int)))
