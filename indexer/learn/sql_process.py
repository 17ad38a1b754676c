"""The program of the process that answers SQL of others, and the functions that SQL has here beside SQLite's own.

indexer.library.apart starts it and owns its limits. Imports as little as it can, to be there at once.
"""

import re
from collections.abc import Mapping

from indexer.analysis.tempo_choice import agreement
from indexer.learn.labels import Aliases
from indexer.library.apart import answer_orders
from indexer.library.sqlite import Connection

MAX_CHARS = 1000  # of a text that our functions look into; a genre and a search are shorter
_WORDS = re.compile(r'"[^"]*"|[^\s"]+')


def add_functions(conn: Connection, aliases: Mapping[str, str]) -> None:
    """``tag_disagrees(tag text, genre)``, ``tempo_disagrees(measured, tag)`` and ``escape_fts(search)``.

    ``tag_disagrees``: 1 when the tag names genres but not this one, by the user's aliases. ``tempo_disagrees``: 1 when
    two tempi are neither the same nor an octave apart. ``escape_fts``: the words and quoted phrases of a search as FTS5
    reads them; Datasette's own SQL calls it. NULL for a text that is too long.
    """
    known = Aliases(aliases)

    def tag_disagrees(tag: object, genre: object) -> int | None:
        if not isinstance(tag, str) or not isinstance(genre, str) or not tag or not genre:
            return 0
        if len(tag) > MAX_CHARS:
            return None
        labels, unknown = known.of_tag(tag)
        return int((bool(labels) or bool(unknown)) and genre not in labels)

    def tempo_disagrees(measured_bpm: object, tag_bpm: object) -> int:
        bpms = [bpm for bpm in (measured_bpm, tag_bpm) if isinstance(bpm, (int, float)) and bpm > 0]
        return int(len(bpms) == 2 and agreement(*bpms) == "differs")

    def escape_fts(search: object) -> str | None:
        text = str(search)
        if len(text) > MAX_CHARS:
            return None
        words = _WORDS.findall(text + '"' * (text.count('"') % 2))
        return " ".join(word if word.startswith('"') else f'"{word}"' for word in words if word != '""')

    conn.create_function("tag_disagrees", 2, tag_disagrees, deterministic=True)
    conn.create_function("tempo_disagrees", 2, tempo_disagrees, deterministic=True)
    conn.create_function("escape_fts", 1, escape_fts, deterministic=True)


if __name__ == "__main__":
    answer_orders(add_functions)
