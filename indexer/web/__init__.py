"""The Datasette plugin: registers the pages, the guard before them, and the links to them.

Imports neither torch nor the pipeline, and never writes to the library except through indexer.learn.corrections.
"""

from collections.abc import Callable, Generator
from typing import Any

from datasette import hookimpl
from datasette.utils import tilde_encode

from indexer.learn import sql_process
from indexer.web import (
    canned,
    classify,
    correct,
    covers,
    duplicates,
    find,
    guard,
    library_map,
    mistakes,
    neighbours,
    overview,
    playlist,
    review,
    sound,
    track,
    tracks,
    training,
)
from indexer.web.context import library, settings_of, static_path

# A new page is a module with ROUTES, with MENU where the menu leads to it, and its name in this list.
PAGES = (
    *(overview, tracks, review, library_map, classify, track, duplicates, canned),
    *(correct, sound, covers, neighbours, playlist, training, find),
)
MENU: tuple[tuple[str, str], ...] = tuple(page.MENU for page in PAGES if hasattr(page, "MENU"))  # (label, path)

# datasette ships no types, so its decorator is unknown to mypy


@hookimpl  # type: ignore[untyped-decorator]
def register_routes(datasette: Any) -> list[tuple[str, Callable[..., Any]]]:
    """Our pages; Datasette matches them before its own."""
    if settings_of(datasette) is None:
        return []
    return [route for page in PAGES for route in page.ROUTES]


@hookimpl  # type: ignore[untyped-decorator]
def asgi_wrapper(datasette: Any) -> Callable[[guard.App], guard.App]:
    """Have the guard check every request first."""
    settings = settings_of(datasette)
    return (lambda app: app) if settings is None else guard.guarded(settings)


@hookimpl  # type: ignore[untyped-decorator]
def menu_links(datasette: Any) -> list[dict[str, str]]:
    """Links to our pages, also on Datasette's own pages."""
    settings = settings_of(datasette)
    if settings is None:
        return []
    tables = datasette.urls.database(settings.db.stem)
    ours = [{"href": datasette.urls.path(path), "label": label} for label, path in MENU]
    return [*ours, {"href": tables, "label": "Tables and SQL"}]


@hookimpl  # type: ignore[untyped-decorator]
def extra_css_urls(datasette: Any) -> list[str]:
    """Our stylesheet, on every page."""
    return [] if settings_of(datasette) is None else [static_path(datasette, "indexer.css")]


@hookimpl  # type: ignore[untyped-decorator]
def extra_template_vars(datasette: Any) -> dict[str, Any]:
    """What the frame of every page needs: the library's name in links, and the addresses of static files."""
    if settings_of(datasette) is None:
        return {"library_name": None}
    return {
        "library_name": tilde_encode(library(datasette).name),
        "static": lambda file: static_path(datasette, file),
    }


@hookimpl  # type: ignore[untyped-decorator]
def render_cell(row: Any, value: Any, column: str, datasette: Any) -> Any:
    """Link a track's id to its page, and show the tags that were heard as words."""
    if settings_of(datasette) is None:
        return None
    if column == "heard":
        return track.words(value)
    return track.link(datasette, row, value) if column == "id" else None


@hookimpl  # type: ignore[untyped-decorator]
def prepare_connection(conn: Any, datasette: Any) -> None:
    """Add the functions that our queries use; a Datasette without our settings has no aliases."""
    settings = settings_of(datasette)
    sql_process.add_functions(conn, settings.aliases if settings else {})


@hookimpl(hookwrapper=True)  # type: ignore[untyped-decorator]
def handle_exception(datasette: Any, request: Any, exception: BaseException) -> Generator[None, Any, None]:
    """Answer what went wrong in the place of Datasette's own handler."""
    outcome = yield
    if settings_of(datasette) is None:
        return
    found = mistakes.answer(datasette, request, exception, [page.__name__ for page in PAGES])
    if found is not None:
        outcome.force_result([found])


@hookimpl  # type: ignore[untyped-decorator]
def register_output_renderer() -> list[dict[str, Any]]:
    """Offer any list of tracks as a playlist."""
    return playlist.RENDERERS
