"""The Duplicates page: files of the same sound side by side, which copy to keep, and why. It changes nothing."""

from typing import Any
from urllib.parse import urlencode

from datasette.utils.asgi import Response

from indexer.library.duplicates import count_groups, groups_of
from indexer.web.context import ask, number, page
from indexer.web.guard import STRICT_POLICY
from indexer.web.names import track_name
from indexer.wording import HOW_SAME, duration

PAGE_GROUPS = 50


async def _look(request: Any, datasette: Any) -> tuple[int, int, int, list[dict[str, Any]]]:
    """(how many groups there are, number of the page, how many pages, the groups of the page)."""
    total = await ask(datasette, count_groups)
    pages = max(1, -(-total // PAGE_GROUPS))
    at = min(max(1, number(request.args.get("page")) or 1), pages)
    return total, at, pages, await ask(datasette, lambda conn: groups_of(conn, (at - 1) * PAGE_GROUPS, PAGE_GROUPS))


async def duplicates_page(request: Any, datasette: Any) -> Any:
    """`/-/duplicates?page=`."""
    total, at, pages, groups = await _look(request, datasette)
    for group in groups:
        kept = group["copies"][0]
        group["name"] = kept["title"] or track_name(None, None, kept["path"])
        group["artist"], group["length"] = kept["artist"], duration(kept["duration_s"] or 0)
        group["says"] = HOW_SAME[group["how"]]
    before, after = (f"?{urlencode({'page': to})}" if 1 <= to <= pages else None for to in (at - 1, at + 1))
    values = {"groups": groups, "total": total, "first": (at - 1) * PAGE_GROUPS + 1, "before": before, "after": after}
    shown = await page(datasette, request, "duplicates.html", values)
    shown.headers["content-security-policy"] = STRICT_POLICY
    return shown


async def duplicates_json(request: Any, datasette: Any) -> Any:
    """The same for programs: {count, page, pages, groups}."""
    total, at, pages, groups = await _look(request, datasette)
    return Response.json({"count": total, "page": at, "pages": pages, "groups": groups})


ROUTES = [(r"/-/duplicates$", duplicates_page), (r"/-/duplicates\.json$", duplicates_json)]
