"""What every page needs from its server: the settings, queries to the library, numbers in a request, and rendering.

Owns how a page reads the library (read-only, in Datasette's own threads and under its time limits) and the addresses of
static files.
"""

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from indexer.config import Settings
from indexer.files.foreign import parse_json

PLUGIN = "edm-indexer"  # Datasette names a plugin's static files after its distribution
_T = TypeVar("_T")
_DIGITS = re.compile(r"[0-9]+")  # int() takes more than digits, str.isdigit() more than int()
NO_ROW = 10**18  # stands for all numbers of more digits than an SQLite integer has; no row of a library has it


def settings_of(datasette: Any) -> Settings | None:
    """The settings of `indexer serve`; None in a Datasette started otherwise, which gets none of these pages."""
    return getattr(datasette, "indexer_settings", None)


def library(datasette: Any) -> Any:
    """Datasette's database of the library."""
    settings = settings_of(datasette)
    assert settings is not None
    return datasette.get_database(settings.db.stem)


def number(text: object) -> int | None:
    """The number that ASCII digits mean in an address, a form or JSON; None for anything else.

    A number of more than 18 digits is NO_ROW, so that it is looked for and not found.
    """
    digits = str(text)
    if _DIGITS.fullmatch(digits) is None:
        return None
    return int(digits) if len(digits) <= 18 else NO_ROW


async def posted(request: Any) -> dict[str, Any]:
    """The values that a request brings as a form or as JSON; none where neither can be read."""
    is_json = request.headers.get("content-type", "").partition(";")[0].strip() == "application/json"
    try:
        found = parse_json(await request.post_body()) if is_json else await request.post_vars()
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


async def rows(datasette: Any, sql: str, values: Sequence[Any] | dict[str, Any] = ()) -> list[dict[str, Any]]:
    """All rows of a query, under Datasette's time limit. Raises datasette.database.QueryInterrupted beyond it."""
    found = await library(datasette).execute_here(sql, values)
    return [dict(row) for row in found.rows]


async def ask(datasette: Any, function: Callable[[Any], _T]) -> _T:
    """Call ``function`` with a read-only connection in one of Datasette's threads."""
    found: _T = await library(datasette).execute_fn(function)
    return found


async def page(datasette: Any, request: Any, template: str, values: dict[str, Any], *, status: int = 200) -> Any:
    """Render a template of ours as a response; adds ``database``, the library's name in links."""
    from datasette.utils import tilde_encode
    from datasette.utils.asgi import Response

    name = tilde_encode(library(datasette).name)
    shown = await datasette.render_template(template, {**values, "database": name}, request=request)
    return Response.html(shown, status=status)


def static_path(datasette: Any, file: str) -> str:
    """The address of a static file; changes with its size and time, so that a browser never mixes two versions."""
    stat = (Path(__file__).parent / "static" / file).stat()
    return f"{datasette.urls.static_plugins(PLUGIN, file)}?{stat.st_mtime_ns ^ stat.st_size:x}"


def state_of(db: Path) -> list[tuple[int, int] | None]:
    """A value that changes whenever the library is written to."""
    return [
        (found.st_mtime_ns, found.st_size) if found else None
        for found in map(_stat, (db, db.with_name(f"{db.name}-wal")))
    ]


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:
        return None
