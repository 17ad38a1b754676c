"""The page of one track: its file, prediction, tags and journal; adding and withdrawing a correction.

Owns the data of a track, as page and JSON, and the POST routes that correct. Reads the library; changes go through
indexer.learn.corrections, and tags are undone by a process of its own.
"""

import asyncio
import json
import os
import subprocess
import sys
from typing import Any

from datasette.utils import tilde_decode
from datasette.utils.asgi import Forbidden, NotFound, Response
from markupsafe import Markup, escape

from indexer.config import Settings
from indexer.errors import IndexerError
from indexer.learn import corrections
from indexer.watch.status import ask_for_scan
from indexer.web.context import ask, library, number, page, posted, rows, settings_of
from indexer.web.guard import STRICT_POLICY
from indexer.web.names import track_name

UNDO_LIMIT_S = 120.0

_TRACK = """
SELECT f.id, f.recording_id, f.path_text AS path, f.container, f.size, f.state,
  coalesce(CASE WHEN f.state <> 'ready' THEN f.reason END, r.reason) AS reason,
  CASE WHEN f.state = 'ready' THEN f.reason END AS left_alone, f.first_seen, f.last_seen,
  o.path_text AS root, r.duration_s, r.codec, r.sample_rate_hz, r.channels, t.title, t.artist, t.album, t.album_artist,
  t.year, t.bpm, t.musical_key,
  t.record_label, t.comment, t.genre AS tag_genre, t.indexer_genre, t.dj_data, p.genre, p.confidence, p.threshold,
  p.decided, p.reason AS undecided_reason,
  p.second_genre, h.name AS head, h.labels, n.name AS encoder
FROM files f LEFT JOIN roots o ON o.id = f.root_id LEFT JOIN recordings r ON r.id = f.recording_id
LEFT JOIN tags t ON t.file_id = f.id
LEFT JOIN heads h ON h.in_use = 1 LEFT JOIN encoders n ON n.id = h.encoder_id
LEFT JOIN predictions p ON p.recording_id = f.recording_id AND p.head_id = h.id
WHERE f.id = :id"""


async def details(datasette: Any, file_id: int | None) -> dict[str, Any] | None:
    """Everything that a track's page shows; None when there is no such track."""
    found = await rows(datasette, _TRACK, {"id": file_id})
    if not found:
        return None
    track = found[0]
    recording = {"recording": track["recording_id"]}
    track["labels"] = json.loads(track["labels"] or "[]")
    track["indexer_genre"] = json.loads(track["indexer_genre"]) if track["indexer_genre"] else None
    scores = await rows(
        datasette,
        "SELECT s.genre, s.probability FROM scores s JOIN heads h ON h.id = s.head_id AND h.in_use = 1"
        " WHERE s.recording_id = :recording",
        recording,
    )
    track["scores"] = {row["genre"]: round(row["probability"], 4) for row in scores}
    track["timeline"] = _segments(
        track["labels"],
        await rows(
            datasette,
            "SELECT l.unit_s, l.scores FROM timeline l JOIN heads h ON h.id = l.head_id AND h.in_use = 1 WHERE"
            " l.recording_id = :recording",
            recording,
        ),
    )
    track["corrections"] = await rows(
        datasette,
        "SELECT genre, corrected_at, corrected_by FROM corrections WHERE recording_id = :recording ORDER BY id DESC",
        recording,
    )
    track["also_at"] = await rows(
        datasette,
        "SELECT id, path_text AS path, state FROM files WHERE recording_id = :recording AND id <> :id ORDER BY"
        " path LIMIT 50",
        {**recording, "id": file_id},
    )
    track["journal"] = [
        {**row, "before": json.loads(row["before"] or "[]"), "after": json.loads(row["after"] or "[]")}
        for row in await rows(
            datasette,
            "SELECT written_at, action, state, reason, before, after, run_id FROM tag_writes WHERE file_id = :id"
            " ORDER BY id DESC LIMIT 100",
            {"id": file_id},
        )
    ]
    return track


def _segments(labels: list[str], found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The stored timeline as `indexer classify --json` writes it."""
    if not found or not labels:
        return []
    scores, unit_s = found[0]["scores"], found[0]["unit_s"]
    return [
        {
            "start_s": round(n * unit_s, 2),
            "scores": {label: round(scores[n * len(labels) + place] / 255, 3) for place, label in enumerate(labels)},
        }
        for n in range(len(scores) // len(labels))
    ]


async def track_page(request: Any, datasette: Any) -> Any:
    """`/<library>/tracks/<id>`, and the same as JSON."""
    if tilde_decode(request.url_vars["database"]) not in (library(datasette).name, library(datasette).route):
        raise NotFound("there is no such library here")
    track = await details(datasette, number(request.url_vars["id"]))
    if track is None:
        raise NotFound("there is no track with this number")
    if request.url_vars["format"]:
        return Response.json(track, default=str)
    settings = settings_of(datasette)
    genres = await ask(datasette, corrections.genres)
    name = track_name(track["artist"], track["title"], track["path"])
    shown = await page(
        datasette,
        request,
        "track.html",
        {
            "track": track,
            "name": name,
            "genres": genres,
            "writes_tags": settings is not None and settings.write_tags != "off",
            "chart": {key: track[key] for key in ("scores", "threshold", "labels", "timeline", "duration_s", "id")},
        },
    )
    shown.headers["content-security-policy"] = STRICT_POLICY
    return shown


def link(datasette: Any, row: Any, value: Any) -> Any:
    """A track's id as a link to its page, in the view `tracks` and the queries made from it; None elsewhere."""
    if not {"path", "id"} <= {*row.keys()} or not isinstance(value, int):
        return None
    return Markup('<a href="{}">{}</a>').format(address(datasette, value), escape(value))


def address(datasette: Any, file_id: int) -> str:
    """The address of a track's page."""
    return str(datasette.urls.path(f"{datasette.urls.database(library(datasette).name)}/tracks/{file_id}"))


# ---- corrections and undo


async def correct(request: Any, datasette: Any) -> Any:
    """POST `/-/correct` {id, genre} as JSON or form: a correction; genre null withdraws the last. Returns the state."""
    if request.method != "POST":
        return Response.json({"error": "POST {id, genre}"}, status=405, headers={"allow": "POST"})
    settings = _settings(datasette)
    values = await posted(request)
    file_id, genre = number(values.get("id")), values.get("genre")
    if file_id is None:
        return Response.json({"error": "id is the number of a track"}, status=400)
    found = await rows(datasette, "SELECT recording_id FROM files WHERE id = ?", [file_id])
    if not found or found[0]["recording_id"] is None:
        return Response.json({"error": "the library holds no such track, or could not read it"}, status=404)
    recording_id = found[0]["recording_id"]
    undone: dict[str, Any] = {}
    try:
        if genre:
            label = await asyncio.to_thread(corrections.say, settings, recording_id, str(genre), by="web page")
        else:
            label = None
            tagged = await asyncio.to_thread(corrections.withdraw, settings.db, recording_id)
            undone = await _undo(settings, [os.fspath(path) for path in tagged]) if tagged else {}
    except IndexerError as e:
        return Response.json({"error": str(e)}, status=400)
    tags = "off" if settings.write_tags == "off" else "soon" if ask_for_scan(settings.db) else "with the next scan"
    return _done(request, datasette, file_id, {"id": file_id, "genre": label, "tags": tags, **undone})


async def undo_tags(request: Any, datasette: Any) -> Any:
    """POST `/-/undo` {id}: take back what we wrote into the track's tags, as `indexer tags undo` does."""
    if request.method != "POST":
        return Response.json({"error": "POST {id}"}, status=405, headers={"allow": "POST"})
    values = await posted(request)
    file_id = number(values.get("id"))
    if file_id is None:
        return Response.json({"error": "id is the number of a track"}, status=400)
    found = await rows(datasette, "SELECT path FROM files WHERE id = ? AND state = 'ready'", [file_id])
    if not found:
        return Response.json({"error": "the library holds no such file just now"}, status=404)
    result = await _undo(_settings(datasette), [os.fsdecode(found[0]["path"])])
    return _done(request, datasette, file_id, result, failed="error" in result)


def _settings(datasette: Any) -> Settings:
    settings = settings_of(datasette)
    if settings is None:
        raise Forbidden("this server does not serve a library")
    return settings


def _done(request: Any, datasette: Any, file_id: int, result: dict[str, Any], *, failed: bool = False) -> Any:
    """JSON for a program; a form goes back to the track's page."""
    if request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded") and not failed:
        return Response.redirect(address(datasette, file_id))
    return Response.json(result, status=409 if failed else 200)


async def _undo(settings: Settings, paths: list[str]) -> dict[str, Any]:
    """Run `indexer tags undo` as a process, because the server never writes into a file: {undone} or {error}."""
    environ = {
        **os.environ,
        "INDEXER_DB": os.fspath(settings.db),
        "INDEXER_PRESERVE_MTIME": str(settings.preserve_mtime).lower(),
    }

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-P", "-m", "indexer", "tags", "undo", "--json", "--", *paths],
            env=environ,
            capture_output=True,
            text=True,
            check=False,
            timeout=UNDO_LIMIT_S,
            errors="replace",
        )

    try:
        done = await asyncio.to_thread(run)
    except subprocess.TimeoutExpired:
        return {"error": f"the undo took longer than {UNDO_LIMIT_S:.0f} s and was stopped; nothing is half written"}
    if done.returncode == 0:
        return {"undone": len(json.loads(done.stdout)["restored"])}
    return {
        "error": done.stderr.strip().removeprefix("indexer: ").splitlines()[-1]
        if done.stderr.strip()
        else "the undo failed"
    }


ROUTES = [
    (r"/(?P<database>[^/]+)/tracks/(?P<id>[^/]+?)(?P<format>\.json)?$", track_page),
    (r"/-/correct$", correct),
    (r"/-/undo$", undo_tags),
]
