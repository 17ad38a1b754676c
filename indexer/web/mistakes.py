"""Answers a mistake in an address with 400, and a damaged library with 503, where Datasette alone would answer 500.

Datasette reads numbers and JSON in a query without checking them. An error in one of our own pages stays a 500.
"""

import traceback
from collections.abc import Collection
from pathlib import Path
from typing import Any

from datasette.utils.asgi import Base400, Response

from indexer.errors import StoreError
from indexer.library.readonly import is_damage, plain_errors

SHOWN_CHARS = 200


def answer(request: Any, exception: BaseException, ours: Collection[str], db: Path) -> Any:
    """The answer where the library is damaged, or Datasette cannot read a query; None for an error of another kind.

    ours: the names of the modules whose errors are faults of this program.
    """
    if is_damage(exception):
        return _said(request, 503, _sentence(exception, db))
    modules = {frame.f_globals.get("__name__") for frame, _ in traceback.walk_tb(exception.__traceback__)}
    known = isinstance(exception, Base400) or getattr(exception, "status", 500) != 500  # Datasette has an answer
    if known or not request.query_string or modules & {*ours}:
        return None
    return _said(request, 400, f"this address cannot be answered ({str(exception)[:SHOWN_CHARS]})")


def _sentence(exception: BaseException, db: Path) -> str:
    try:
        with plain_errors(db):
            raise exception
    except StoreError as e:
        return str(e)


def _said(request: Any, status: int, reason: str) -> Any:
    if request.path.endswith(".json"):
        return Response.json({"ok": False, "error": reason, "status": status, "title": None}, status=status)
    return Response.text(f"{reason}\n", status=status)
