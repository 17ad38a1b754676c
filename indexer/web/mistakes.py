"""Answers a mistake in an address with 400, and a library that cannot be read with 503, without a traceback.

Datasette reads numbers and JSON in a query without checking them. An error in one of our own pages stays a 500.
"""

import traceback
from collections.abc import Collection
from typing import Any

from datasette.utils.asgi import Base400, Response

from indexer.errors import StoreError

SHOWN_CHARS = 200


def answer(request: Any, exception: BaseException, ours: Collection[str]) -> Any:
    """The answer to a request whose query Datasette cannot read, or the library; None for an error of another kind.

    ours: the names of the modules whose errors are faults of this program.
    """
    if isinstance(exception, StoreError):
        return _line(request, str(exception), 503)
    modules = {frame.f_globals.get("__name__") for frame, _ in traceback.walk_tb(exception.__traceback__)}
    known = isinstance(exception, Base400) or getattr(exception, "status", 500) != 500  # Datasette has an answer
    if known or not request.query_string or modules & {*ours}:
        return None
    reason = f"this address cannot be answered ({str(exception)[:SHOWN_CHARS]})"
    return _line(request, reason, 400)


def _line(request: Any, reason: str, status: int) -> Any:
    if request.path.endswith(".json"):
        return Response.json({"ok": False, "error": reason, "status": status, "title": None}, status=status)
    return Response.text(f"{reason}\n", status=status)
