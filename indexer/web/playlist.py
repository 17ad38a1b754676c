"""A playlist (M3U8, or XML for rekordbox) of any tracks: a filtered table, a query, similar ones, selected ones.

Owns which tracks a playlist holds: those with given ids, if these are ids of files. indexer.exchange writes it.
"""

import io
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

from datasette.utils.asgi import Response

from indexer.errors import StoreError
from indexer.exchange import own_files, rekordbox
from indexer.exchange.dj_paths import PathMap
from indexer.exchange.genres import genre_of
from indexer.exchange.m3u import to_m3u
from indexer.library import listed
from indexer.web.context import ask, library, number, posted, settings_of
from indexer.web.neighbours import similar_tracks

MAX_TRACKS = 10_000
MAX_SIMILAR = 50
_TABLES = ("tracks", "files")  # others have ids and paths too, but not of files
_CHUNK = 500  # ids in one query


async def tracks_of(datasette: Any, ids: Sequence[int]) -> list[dict[str, Any]]:
    """{path, path_text, title, artist, duration_s} of files, in this order, without missing ones.

    ``path`` is exact, as os.fsdecode gives it.
    """

    def find(conn: Any) -> dict[int, dict[str, Any]]:
        found = {}
        for start in range(0, len(ids), _CHUNK):
            chunk = ids[start : start + _CHUNK]
            for row in conn.execute(
                "SELECT f.id, f.path, f.path_text, t.title, t.artist, r.duration_s FROM files f LEFT JOIN tags t"
                " ON t.file_id = f.id LEFT JOIN recordings r"
                f" ON r.id = f.recording_id WHERE f.state <> 'missing' AND f.id IN ({','.join('?' * len(chunk))})",
                list(chunk),
            ):
                found[row["id"]] = {**dict(row), "path": os.fsdecode(row["path"])}
        return found

    found = await ask(datasette, find)
    return [found[i] for i in dict.fromkeys(ids) if i in found]


async def answer(datasette: Any, form: str, tracks: list[dict[str, Any]], name: str, *, more: bool = False) -> Any:
    """A playlist as a download; ``form``: m3u8 or xml; ``more``: there were more tracks than one may hold."""
    if form == "xml":
        content, kind = await _xml(datasette, tracks, f"{name}, the first {MAX_TRACKS:,}" if more else name), "xml"
    else:
        note = f"# only the first {MAX_TRACKS:,} tracks; there are more\n".encode() if more else b""
        content, kind = to_m3u({"tracks": tracks}, _there(datasette)) + note, "x-mpegurl"
    return Response(
        content,
        content_type=f"{'application' if form == 'xml' else 'audio'}/{kind}; charset=utf-8",
        headers={"content-disposition": f'attachment; filename="{name}.{form}"'},
    )


async def _xml(datasette: Any, tracks: list[dict[str, Any]], name: str) -> bytes:
    """The tracks and a playlist of them, for rekordbox."""
    settings = settings_of(datasette)
    assert settings is not None
    wanted = [track["id"] for track in tracks]
    found = await ask(datasette, lambda conn: [*listed.tracks(conn, wanted)])
    playlist = rekordbox.Playlist(name, [track.id for track in found])
    out = io.BytesIO()
    out.write(own_files.XML.first_line)
    rekordbox.write(out, found, len(found), [playlist], there=_there(datasette), genre_of=genre_of(settings))
    return out.getvalue()


def _there(datasette: Any) -> Callable[[bytes], bytes]:
    """How the DJ programs' machine sees a path."""
    settings = settings_of(datasette)
    return PathMap(settings.dj_map if settings else {}).there


def _numbers(text: str) -> list[int] | None:
    found = [number(part) for part in text.split(",")]
    known = [n for n in found if n is not None]
    return known if len(known) == len(found) else None


async def playlist(request: Any, datasette: Any) -> Any:
    """`/-/playlist.m3u8` and `.xml`: GET ?ids=1,2,3 or ?similar=ID, with &mix=1; POST with the field ids, for many."""
    values = await posted(request) if request.method == "POST" else request.args
    form = request.url_vars["form"]
    similar = number(values.get("similar"))
    try:
        if similar is not None:
            mix = values.get("mix") == "1"
            found = await similar_tracks(datasette, similar, MAX_SIMILAR, mix=mix)
            if found is None:
                return Response.text(
                    "the library is being prepared for this; try again in a moment",
                    status=503,
                    headers={"retry-after": "10"},
                )
            named = "mixes well with" if mix else "similar to"
            return await answer(datasette, form, found["tracks"], f"{named} {similar}")
    except StoreError as e:
        return Response.text(str(e), status=404)
    ids = _numbers(str(values.get("ids")))
    if ids is None:
        return Response.text("ids are the numbers of tracks, parted by commas", status=400)
    if len(ids) > MAX_TRACKS:
        return Response.text(f"at most {MAX_TRACKS:,} tracks", status=400)
    return await answer(datasette, form, await tracks_of(datasette, ids), "tracks")


# ---- every table and query of tracks


def can_render(columns: Sequence[str], table: str | None) -> bool:
    """Whether a table or query lists tracks."""
    return {"id", "path"} <= {*columns} and table in (None, *_TABLES)


async def render(
    form: str,
    datasette: Any,
    request: Any,
    rows: Iterable[Any],
    columns: Sequence[str],
    table: str | None,
    view_name: str,
    data: Mapping[str, Any],
) -> Any:
    """A playlist of all tracks of a filtered table, not only of the page shown, or of all rows of a query."""
    if not can_render(columns, table):
        return Response.text("this is no list of tracks: it needs the columns id and path", status=400)
    if table is not None and view_name == "table":
        return await _table(form, datasette, request, table)
    if data.get("truncated"):
        query = data["query"]
        sql = f"SELECT id, path FROM (\n{query['sql'].rstrip().rstrip(';')}\n) LIMIT {MAX_TRACKS + 1}"
        rows = (await library(datasette).execute(sql, query["params"], truncate=False)).rows
    paths = {row["id"]: row["path"] for row in rows if isinstance(row["id"], int)}
    tracks = await tracks_of(datasette, [*paths][:MAX_TRACKS])
    # A query may name any columns id and path; a row counts only when both are those of one file.
    return await answer(
        datasette,
        form,
        [track for track in tracks if paths[track["id"]] in (track["path_text"], os.fsencode(track["path"]))],
        data.get("query_name") or "query",
        more=len(paths) > MAX_TRACKS,
    )


async def _table(form: str, datasette: Any, request: Any, table: str) -> Any:
    headers = {name: request.headers[name] for name in ("host", "authorization") if name in request.headers}
    asked = [
        (key, value)
        for key in request.args
        for value in request.args.getlist(key)
        if key not in ("_next", "_size", "_shape", "_facet")
    ]
    path = request.path.removesuffix(f".{form}") + ".json"
    ids: list[int] = []
    following: str | None = ""
    while following is not None and len(ids) <= MAX_TRACKS:
        query = urlencode(
            [
                *asked,
                ("_size", "max"),
                ("_shape", "objects"),
                ("_nofacet", "1"),
                ("_nocount", "1"),
                *([("_next", following)] if following else []),
            ]
        )
        found = await datasette.client.get(f"{path}?{query}", headers=headers)
        if found.status_code != 200:
            return Response.text("that table cannot be told just now; try again, or filter it further", status=503)
        page = found.json()
        ids += [row["id"] for row in page["rows"]]
        following = page.get("next")
    return await answer(
        datasette, form, await tracks_of(datasette, ids[:MAX_TRACKS]), table, more=len(ids) > MAX_TRACKS
    )


def _renderer(form: str) -> dict[str, Any]:
    async def render_as(
        datasette: Any,
        request: Any,
        rows: Iterable[Any],
        columns: Sequence[str],
        table: str | None,
        view_name: str,
        data: Mapping[str, Any],
    ) -> Any:  # Datasette looks at the names
        return await render(form, datasette, request, rows, columns, table, view_name, data)

    return {"extension": form, "can_render": can_render, "render": render_as}


RENDERERS = [_renderer("m3u8"), _renderer("xml")]
ROUTES = [(r"/-/playlist\.(?P<form>m3u8|xml)$", playlist)]
