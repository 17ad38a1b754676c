"""The questions that are ready to be asked: a form with choices, the tracks that answer it, and ways to take them away.

Owns how a question is asked and how its answer reads. The questions themselves, as SQL, are in datasette_metadata.json;
Datasette answers them as JSON and CSV, and indexer.web.playlist as M3U8, at the same address with an ending.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from datasette.database import QueryInterrupted
from datasette.utils import sqlite3, tilde_decode
from datasette.utils.asgi import NotFound

from indexer.library.registered import labels_in_use
from indexer.web import overview
from indexer.web.context import ask, library, page
from indexer.web.guard import STRICT_POLICY
from indexer.web.names import track_name
from indexer.web.serve import metadata
from indexer.wording import duration

QUESTIONS: dict[str, dict[str, Any]] = metadata(Path("library.db"))["databases"]["library"]["queries"]

MAX_ROWS = 1000  # the LIMIT of the questions
SHOWN_ROWS = 200  # on the page; the playlist and the data hold all

# The heads of columns that do not say by themselves what they are.
HEADS = {
    "label": "genre",
    "genre": "the model hears",
    "tag_genre": "in the tag",
    "confidence": "sure",
    "tempo_bpm": "BPM",
    "tag_bpm": "BPM by the tag",
    "tempo_confidence": "sure",
    "tag_key": "key by the tag",
    "dj_data": "data of",
    "for_example": "for example",
    "written_at": "when",
    "container": "format",
    "duration_s": "length",
    "action": "what",
}
IN_THE_TRACK = ("id", "artist", "title", "path", "label_source")  # columns that the first cell tells


@dataclass(frozen=True)
class Field:
    """A field of a question's form: ``options`` (value, text), or a number where there are none."""

    name: str
    label: str
    value: str
    options: tuple[tuple[str, str], ...] = ()


async def fields_of(name: str, datasette: Any, args: Any) -> list[Field]:
    """The fields of a question, with what was asked, or a value to begin with."""
    genres: tuple[tuple[str, str], ...] = ()
    if "genre" in QUESTIONS[name].get("params", ()):
        counted = (await overview.counts_of(datasette))["genres"]
        genres = tuple((row["genre"], f"{row['genre']} ({row['decided']:,})") for row in counted if row["decided"])

    def field(param: str, label: str, default: str, options: tuple[tuple[str, str], ...] = ()) -> Field:
        value = args.get(param)
        value = default if value is None else value[:200]
        if options and value not in [option for option, _ in options]:
            options = ((value, value), *options)
        return Field(param, label, value, options)

    if name == "by_genre":
        sure = (("0", "however sure"), *((f"0.{n}", f"at least {n}0 % sure") for n in (5, 7, 9)))
        first = genres[0][0] if genres else ""
        return [field("genre", "Genre", first, genres), field("min_confidence", "The model is", "0", sure)]
    if name == "tempo":
        return [
            field("genre", "Genre", "", (("", "any genre"), *genres)),
            field("from_bpm", "From BPM", "60"),
            field("to_bpm", "to", "200"),
        ]
    return []


# How the values of some columns read, and whether they are numbers.
_TEXTS: dict[str, tuple[Callable[[Any], str], str]] = {
    **dict.fromkeys(("label", "genre", "tag_genre"), (str, "genre")),
    **dict.fromkeys(("confidence", "tempo_confidence"), (lambda share: f"{100 * share:.0f} %", "number")),
    "duration_s": (duration, "number"),
    "size": (lambda size: f"{size / 1e6:.1f} MB", "number"),
    **dict.fromkeys(("tempo_bpm", "tag_bpm"), (lambda bpm: f"{bpm:.4g}", "number")),
    "written_at": (str, "time"),
    **dict.fromkeys(("before", "after"), (lambda genres: "; ".join(json.loads(genres)) or "–", "text")),
}


def cell(column: str, value: Any) -> dict[str, str]:
    """How a value reads: {text, kind}, with ``kind`` genre, number, time or text."""
    read, kind = _TEXTS.get(column, (str, "text"))
    return {"text": "" if value is None else read(value), "kind": "text" if value in (None, "") else kind}


def row_of(found: Mapping[str, Any], columns: list[str]) -> dict[str, Any]:
    """A row as the page shows it: the track, where it is about one, and the cells of the other columns."""
    track = None
    if {"id", "path"} <= found.keys() and found["id"] is not None:
        title = found.get("title")
        name = title or track_name(None, None, found["path"])
        track = {"id": found["id"], "name": name, "artist": found.get("artist"), "path": found["path"]}
    return {"track": track, "cells": [cell(column, found[column]) for column in columns]}


async def question_page(request: Any, datasette: Any) -> Any:
    """`/<library>/<question>`: the form and the answer."""
    database, name = library(datasette), request.url_vars["question"]
    if tilde_decode(request.url_vars["database"]) not in (database.name, database.route):
        raise NotFound("there is no such library here")
    question = QUESTIONS[name]
    fields = await fields_of(name, datasette, request.args)
    values = {field.name: field.value for field in fields}
    problem, found, truncated = None, [], False
    try:
        answer = await database.execute(question["sql"], values, truncate=True)
        found, truncated = [dict(row) for row in answer.rows], answer.truncated
    except QueryInterrupted:
        problem = "This took longer than a second, the limit of one question. Narrow it, or ask again in a moment."
    except sqlite3.OperationalError as e:
        problem = f"This could not be answered just now ({e})."
    columns = [*found[0]] if found else []
    is_of_tracks = {"id", "path"} <= {*columns}
    shown_columns = [c for c in columns if not (is_of_tracks and c in IN_THE_TRACK)]
    may_ask = await datasette.permission_allowed(request.actor, "execute-sql", resource=database.name, default=True)
    shown = await page(
        datasette,
        request,
        "question.html",
        {
            "name": name,
            "question": question,
            "others": [(other, about["title"]) for other, about in QUESTIONS.items() if other != name],
            "fields": fields,
            "problem": problem,
            "columns": [
                {"head": HEADS.get(column, column.replace("_", " ")), "kind": _TEXTS.get(column, (str, "text"))[1]}
                for column in shown_columns
            ],
            "is_of_tracks": is_of_tracks,
            "count": len(found),
            "rows": [row_of(row, shown_columns) for row in found[:SHOWN_ROWS]],
            "is_more": truncated or len(found) == MAX_ROWS,
            "labels": await ask(datasette, labels_in_use) or [],
            "values": f"?{urlencode(values)}" if values else "",
            "sql": f"?{urlencode({'sql': question['sql'], **values})}" if may_ask else None,
        },
        status=503 if problem else 200,
    )
    shown.headers["content-security-policy"] = STRICT_POLICY
    return shown


ROUTES = [(rf"/(?P<database>[^/]+)/(?P<question>{'|'.join(QUESTIONS)})$", question_page)]
