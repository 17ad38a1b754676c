"""Checks every request: host name, password, origin of a POST. Sets the headers of every answer.

Stands before everything that is served, Datasette's own pages too. Never reads a request's body and never looks into
the library.
"""

import base64
import binascii
import hmac
import ipaddress
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

from indexer.config import Settings
from indexer.web.csv_cells import HarmlessCsv

Scope = dict[str, Any]
Send = Callable[[dict[str, Any]], Awaitable[None]]
App = Callable[[Scope, Any, Any], Awaitable[None]]

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
ANY_ADDRESS = frozenset({"0.0.0.0", "::"})  # noqa: S104 - compared with, not bound to
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})

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
    """The name in a Host header, without port and brackets."""
    if header.startswith("["):
        return header[1:].partition("]")[0].lower()
    return header.rpartition(":")[0].lower() if header.count(":") == 1 else header.lower()


def guarded(settings: Settings) -> Callable[[App], App]:
    """Wrap an application so that only permitted requests reach it."""

    def wrap(app: App) -> App:
        async def checked(scope: Scope, receive: Any, send: Send) -> None:
            if scope["type"] != "http":
                await app(scope, receive, send)
                return
            headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
            refusal = why_refused(settings, scope["method"], headers)
            if refusal is None:
                await app(scope, receive, _with_headers(scope, send))
            else:
                await _refuse(send, *refusal)

        return checked

    return wrap


def why_refused(settings: Settings, method: str, headers: dict[str, str]) -> tuple[int, str] | None:
    """(status, reason) for a request that is refused; None for one that may pass."""
    if not _is_our_name(settings.host, headers.get("host", "")):
        # A page of another site could otherwise read the library through DNS rebinding.
        return 421, "This server does not answer for that host name."
    if settings.password and not _knows_password(headers.get("authorization", ""), settings.password):
        return 401, "This library asks for its password."
    if method not in SAFE_METHODS:
        return _why_foreign(headers)
    return None


def _is_our_name(served: str, host: str) -> bool:
    # A server on every address does not know the machine's names; it requires a password instead.
    return served in ANY_ADDRESS or host_of(host) in LOOPBACK_NAMES | {served.lower()}


def _why_foreign(headers: dict[str, str]) -> tuple[int, str] | None:
    """(status, reason) for a POST from elsewhere; None for one that may pass.

    A browser states the origin and must prove that it read one of these pages; curl states none and has no cookies.
    """
    if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        return 403, "This request comes from another site."
    origin = headers.get("origin")
    if origin is None:
        return None
    if urlsplit(origin).netloc.lower() != headers.get("host", "").lower():
        return 403, "This request comes from another site."
    if "cookie" not in headers:  # where there are cookies, Datasette asks for the token itself
        return 403, "This request lacks the token of a page; reload the page."
    return None


def _knows_password(authorization: str, password: str) -> bool:
    """HTTP Basic with any user name, which browsers ask people for, or Bearer for programs."""
    scheme, _, value = authorization.partition(" ")
    if scheme.lower() == "basic":
        try:
            value = base64.b64decode(value, validate=True).decode("utf-8", "replace").partition(":")[2]
        except binascii.Error:
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
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": f"{reason}\n".encode()})
