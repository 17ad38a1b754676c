"""Checks every request: host name, password, and from which site it comes. Sets the headers of every answer.

Stands before everything that is served, Datasette's own pages too. Never looks into a request's body or the library.
"""

import base64
import hmac
import ipaddress
import re
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qs

from indexer.config import Settings
from indexer.web import bodies
from indexer.web.attempts import EVERY_S, Attempts
from indexer.web.csv_cells import HarmlessCsv

Scope = dict[str, Any]
Send = Callable[[dict[str, Any]], Awaitable[None]]
App = Callable[[Scope, Any, Any], Awaitable[None]]

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
ANY_ADDRESS = frozenset({"0.0.0.0", "::"})  # noqa: S104 - compared with, not bound to
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_LONG_GAP = re.compile(r"\*/\s{100}")  # Datasette's check of SQL takes time quadratic in such a gap
_HOST = re.compile(r"([a-z0-9._-]+|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?", re.IGNORECASE)

# Nothing may come from, or be framed by, another host. Datasette's own pages carry inline scripts and styles, ours
# none.
_POLICY = (
    "default-src 'self'; script-src 'self'{inline}; style-src 'self'{inline}; img-src 'self' data:; media-src"
    " 'self' blob:; object-src 'none';"
    " frame-ancestors 'none'; base-uri 'self'; form-action 'self'"
)
STRICT_POLICY = _POLICY.format(inline="")
HEADERS = (
    (b"content-security-policy", _POLICY.format(inline=" 'unsafe-inline'").encode()),
    (b"x-frame-options", b"DENY"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),  # who opened a page of ours cannot watch how it loads
)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def host_of(header: str) -> str:
    """The name in a Host header (RFC 9112, 3.2), without port and brackets; empty for anything else."""
    match = _HOST.fullmatch(header)
    return match[1].strip("[]").lower() if match else ""


def guarded(settings: Settings) -> Callable[[App], App]:
    """Wrap an application so that only permitted requests reach it."""
    attempts = Attempts()

    def wrap(app: App) -> App:
        async def checked(scope: Scope, receive: Any, send: Send) -> None:
            if scope["type"] != "http":
                await app(scope, receive, send)
                return
            headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
            target = scope["path"] + ("?" if scope["query_string"] else "")
            client = scope["client"][0] if scope.get("client") else ""
            tries_password = bool(settings.password) and "authorization" in headers
            if tries_password and not attempts.may_try(client):
                refusal: tuple[int, str] | None = (429, "There were too many wrong passwords; try again in a while.")
            else:
                refusal = why_refused(settings, scope["method"], target, headers)
                if tries_password and refusal is not None and refusal[0] == 401:
                    attempts.was_wrong(client)
            if refusal is None and any(
                map(_LONG_GAP.search, parse_qs(scope["query_string"].decode("latin-1")).get("sql", ()))
            ):
                refusal = 400, "Please write SQL with shorter gaps behind its comments."
            if refusal is not None:
                await _refuse(send, *refusal)
                return
            try:
                if scope["method"] not in SAFE_METHODS:
                    receive = await bodies.received(scope["path"], headers, receive)
                await app(scope, receive, _with_headers(scope, send))
            except bodies.BodyError as e:
                await _refuse(send, e.status, f"The request was dropped: {e.reason}.")
            except (ValueError, TypeError, LookupError):
                if scope["method"] in SAFE_METHODS:
                    raise
                # Datasette answers its pages' errors itself; only the check of a form's token raises.
                await _refuse(send, 400, "This form cannot be read.")

        return checked

    return wrap


def why_refused(settings: Settings, method: str, target: str, headers: dict[str, str]) -> tuple[int, str] | None:
    """(status, reason) for a request that is refused; None for one that may pass.

    ``target``: the path, with a question mark where a query follows.
    """
    if not _is_our_name(settings.host, host_of(headers.get("host", ""))):
        # A page of another site could otherwise read the library through DNS rebinding.
        return 421, "This server does not answer for that host name."
    if settings.password and not _knows_password(headers.get("authorization", ""), settings.password):
        return 401, "This library asks for its password."
    if not target.startswith("/"):  # a whole address, as to a proxy; Datasette would send the client there
        return 400, "This server is no proxy."
    return _why_foreign(method, target, headers)


def _is_our_name(served: str, name: str) -> bool:
    # A server on every address does not know the machine's names; it requires a password instead.
    return bool(name) and (served in ANY_ADDRESS or name in LOOPBACK_NAMES | {served.lower()})


def _why_foreign(method: str, target: str, headers: dict[str, str]) -> tuple[int, str] | None:
    """(status, reason) for what another site asks through a browser; None for what may pass.

    A site that cannot read an answer still measures how long it took, so reading is refused too. A browser states the
    site of every request to this machine or over TLS; curl states none and has no cookies. A link to a page may be
    followed, but not one that asks the library something in its query.
    """
    site, origin = headers.get("sec-fetch-site", "none"), headers.get("origin")
    host = headers.get("host", "").lower()
    is_ours = site in ("same-origin", "none") and (
        origin is None or origin.lower() in (f"http://{host}", f"https://{host}")
    )
    if not is_ours:
        is_link = (
            method == "GET"
            and headers.get("sec-fetch-mode") == "navigate"
            and headers.get("sec-fetch-dest") == "document"
        )
        if not is_link or origin is not None:
            return 403, "This request comes from another site."
        if "?" in target or "." in target:  # the names of data and files have a dot, those of pages none
            return 403, "This link comes from another site. To follow it, press Enter in the address bar."
    if method not in SAFE_METHODS and origin is not None and "cookie" not in headers:
        # A browser must prove that it read one of these pages; where there are cookies, Datasette asks for the token.
        return 403, "This request lacks the token of a page; reload the page."
    return None


def _knows_password(authorization: str, password: str) -> bool:
    """HTTP Basic with any user name, which browsers ask people for, or Bearer for programs."""
    scheme, _, value = authorization.partition(" ")
    if scheme.lower() == "basic":
        try:
            value = base64.b64decode(value, validate=True).decode("utf-8", "replace").partition(":")[2]
        except ValueError:  # not base64, or not even ASCII
            return False
    elif scheme.lower() != "bearer":
        return False
    return hmac.compare_digest(value.encode(), password.encode())


def _with_headers(scope: Scope, send: Send) -> Send:
    """Add our headers to an answer, and make its CSV cells harmless."""
    csv: HarmlessCsv | None = None

    async def send_with_headers(message: dict[str, Any]) -> None:
        nonlocal csv
        if message["type"] == "http.response.start":
            given = list(message.get("headers", []))
            names = {name.lower() for name, _ in given}
            message = {**message, "headers": [*given, *(header for header in HEADERS if header[0] not in names)]}
            if scope["path"].endswith(".csv") and message["status"] == 200:
                csv = HarmlessCsv()
                message["headers"] = [header for header in message["headers"] if header[0].lower() != b"content-length"]
        elif csv is not None:
            more = bool(message.get("more_body"))
            message = {**message, "body": csv.push(message.get("body", b""), last=not more)}
        await send(message)

    return send_with_headers


async def _refuse(send: Send, status: int, reason: str) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8"), *HEADERS]
    if status == 401:
        headers.append((b"www-authenticate", b'Basic realm="indexer", charset="UTF-8"'))
    if status == 429:
        headers.append((b"retry-after", b"%d" % EVERY_S))
    if status == 408:
        headers.append((b"connection", b"close"))  # nobody waits for the rest; a body that is too large is read on
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": f"{reason}\n".encode()})
