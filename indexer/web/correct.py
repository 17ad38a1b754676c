"""What the pages change: a person's word on one or several tracks, its withdrawal, and the undo of written tags.

Owns the POST routes. A word goes through indexer.learn.corrections; tags are undone by a process of its own.
"""

import asyncio
import json
import os
import subprocess
import sys
from typing import Any

from datasette.utils.asgi import Forbidden, Response

from indexer.config import Settings
from indexer.errors import IndexerError
from indexer.learn import corrections
from indexer.watch.status import ask_for_scan, keep_playlists_true
from indexer.web.context import number, posted, rows, settings_of
from indexer.web.track import address

UNDO_LIMIT_S = 120.0
MAX_TRACKS = 1000  # in one request


async def correct(request: Any, datasette: Any) -> Any:
    """POST `/-/correct` {id, genre} as JSON or form, or {ids, genre} as JSON: what a person says about tracks.

    A genre of null withdraws the newest word on each. ``new``: true where it may be one that the library does not know.
    With ``set``, the name of a label set, it is about that set, and ``label`` has the place of genre. Returns the
    state.
    """
    if request.method != "POST":
        return Response.json({"error": "POST {id, genre}"}, status=405, headers={"allow": "POST"})
    settings = _settings(datasette)
    values = await posted(request)
    genre, asked = values.get("genre"), values.get("ids", [values.get("id")])
    ids = [found for found in map(number, asked) if found is not None] if isinstance(asked, list) else []
    if not ids or len(ids) != len(asked) or len(ids) > MAX_TRACKS:
        reason = f"id is the number of a track, ids a list of up to {MAX_TRACKS:,} of them"
        return Response.json({"error": reason}, status=400)
    found = await rows(
        datasette,
        f"SELECT DISTINCT recording_id FROM files WHERE id IN ({','.join('?' * len(ids))})"
        " AND recording_id IS NOT NULL ORDER BY recording_id",
        ids,
    )
    if not found:
        return Response.json({"error": "the library holds no such track, or could not read it"}, status=404)
    recordings = [row["recording_id"] for row in found]
    undone: dict[str, Any] = {}
    if values.get("set"):
        return await _correct_in_set(request, datasette, settings, values, ids, recordings)
    try:
        if genre:
            new = values.get("new") is True
            label = await asyncio.to_thread(corrections.say, settings, recordings, str(genre), by="web page", new=new)
        else:
            label = None
            tagged = await asyncio.to_thread(corrections.withdraw, settings.db, recordings)
            undone = await _undo(settings, [os.fspath(path) for path in tagged]) if tagged else {}
    except IndexerError as e:
        return Response.json({"error": str(e)}, status=400)
    tags = _when_written(settings, writes=settings.write_tags != "off")
    which = {"ids": ids, "recordings": len(recordings)} if "ids" in values else {"id": ids[0]}
    return _done(request, datasette, ids[0], {**which, "genre": label, "tags": tags, **undone})


async def _correct_in_set(
    request: Any, datasette: Any, settings: Settings, values: dict[str, Any], ids: list[int], recordings: list[int]
) -> Any:
    """What a person says in a label set, or takes back; the next scan has the tags follow where they are to."""
    label, by = values.get("label"), "web page"
    try:
        name, told = settings.label_set(str(values["set"]))
        if label:
            new = values.get("new") is True
            say = corrections.say_in_set
            label = await asyncio.to_thread(say, settings, recordings, name, str(label), by=by, new=new)
        else:
            await asyncio.to_thread(corrections.withdraw_in_set, settings.db, recordings, name)
    except IndexerError as e:
        return Response.json({"error": str(e)}, status=400)
    tags = _when_written(settings, writes=told.write)
    which = {"ids": ids, "recordings": len(recordings)} if "ids" in values else {"id": ids[0]}
    return _done(request, datasette, ids[0], {**which, "set": name, "label": label or None, "tags": tags})


def _when_written(settings: Settings, *, writes: bool) -> str:
    """When the tags say what a person said: off (never), soon, or with the next scan, for which a daemon is asked."""
    if not writes:
        keep_playlists_true(settings)
        return "off"
    return "soon" if ask_for_scan(settings.db) else "with the next scan"


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


ROUTES = [(r"/-/correct$", correct), (r"/-/undo$", undo_tags)]
