"""Answers what goes wrong: a page with ways on, one line for programs, and never a traceback for bad input.

Datasette reads numbers and JSON in a query without checking them: that is a mistake in the address, 400. A library that
cannot be read is 503. An error in one of our own pages stays a 500.
"""

import traceback
from collections.abc import Awaitable, Callable, Collection
from typing import Any

from datasette.utils.asgi import Base400, Response
from datasette.views.base import DatasetteError

from indexer.errors import StoreError
from indexer.web.context import library, page
from indexer.web.guard import STRICT_POLICY

SHOWN_CHARS = 200
TITLES = {400: "This cannot be answered", 403: "This is closed", 404: "There is nothing here", 503: "Not just now"}
FAULT = "Something went wrong here", "This is a fault of the program; the window that it runs in says more."
TOO_LONG = "The query took longer than a second, the limit of one query. Narrow it, or end it with LIMIT."


def answer(
    datasette: Any, request: Any, exception: BaseException, ours: Collection[str]
) -> Callable[[], Awaitable[Any]] | Any:
    """The answer to a request that raised; None where Datasette's own is as good.

    ours: the names of the modules whose errors are faults of this program.
    """
    status, reason = _told(request, exception, ours)
    if request.path.endswith((".json", ".csv", ".m3u8", ".xml", ".bin")):
        if status == 500 or isinstance(exception, Base400) or getattr(exception, "status", 500) != 500:
            return None
        if not request.path.endswith(".json"):
            return Response.text(f"{reason}\n", status=status)
        return Response.json({"ok": False, "error": reason, "status": status, "title": None}, status=status)
    if status == 500:
        traceback.print_exception(exception)

    async def shown() -> Any:
        return await mistake_page(datasette, request, status, reason, getattr(exception, "title", None))

    return shown


def _told(request: Any, exception: BaseException, ours: Collection[str]) -> tuple[int, str]:
    """(status, reason) of an error."""
    if isinstance(exception, StoreError):
        return 503, str(exception)
    if isinstance(exception, Base400):
        return exception.status, str(exception.args[0]) if exception.args else ""
    if isinstance(exception, DatasetteError) and exception.status != 500:
        return exception.status, TOO_LONG if exception.message_is_html else str(exception.message)
    modules = {frame.f_globals.get("__name__") for frame, _ in traceback.walk_tb(exception.__traceback__)}
    if request.query_string and not modules & {*ours}:
        return 400, f"this address cannot be answered ({str(exception)[:SHOWN_CHARS]})"
    return 500, FAULT[1]


async def mistake_page(datasette: Any, request: Any, status: int, reason: str, title: str | None) -> Any:
    """A page that says what went wrong and leads on. A query of one's own stays there to be put right."""
    sql = request.args.get("sql") if request.path == datasette.urls.database(library(datasette).name) else None
    if status == 404 and (reason in ("", "404") or reason.endswith(" not found") or "not found:" in reason):
        reason = "No page, track or table has this address."
    shown = await page(
        datasette,
        request,
        "mistake.html",
        {
            "status": status,
            "title": title or (FAULT[0] if status >= 500 and status != 503 else TITLES.get(status, TITLES[400])),
            "reason": reason[:1].upper() + reason[1:],
            "sql": sql,
            "values": [(name, request.args[name]) for name in request.args if name != "sql" and name[:1] != "_"],
        },
        status=status,
    )
    shown.headers["content-security-policy"] = STRICT_POLICY
    return shown
