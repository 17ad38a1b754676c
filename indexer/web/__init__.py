"""The Datasette plugin: who may connect, and the headers of every answer.

Imports neither torch nor the pipeline, and never writes to the library.
"""

from collections.abc import Awaitable, Callable
from typing import Any

from datasette import hookimpl

Scope = dict[str, Any]
App = Callable[[Scope, Any, Any], Awaitable[None]]

# Datasette's own pages carry inline scripts and styles; nothing may come from, or be framed by, another host.
POLICY = (
    b"default-src 'self'", b"script-src 'self' 'unsafe-inline'", b"style-src 'self' 'unsafe-inline'", b"img-src 'self' data:",
    b"frame-ancestors 'none'", b"base-uri 'self'", b"form-action 'self'",
)
HEADERS = (
    (b"content-security-policy", b"; ".join(POLICY)),
    (b"x-frame-options", b"DENY"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),
)
LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})


def host_of(header: str) -> str:
    """The name in a Host header, without port and brackets."""
    if header.startswith("["):
        return header[1:].partition("]")[0].lower()
    return header.rpartition(":")[0].lower() if header.count(":") == 1 else header.lower()


@hookimpl  # type: ignore[untyped-decorator]  # datasette ships no types
def asgi_wrapper(datasette: Any) -> Callable[[App], App]:
    """Refuse a foreign Host: a page of another site could otherwise read the library through DNS rebinding."""
    served = (datasette.plugin_config("indexer") or {}).get("host", "127.0.0.1")
    # Served on every address, the machine's names are not known here: whoever does that has opened the library to the network.
    allowed = None if served in ("0.0.0.0", "::") else LOOPBACK_NAMES | {served.lower()}  # noqa: S104

    def wrap(app: App) -> App:
        async def checked(scope: Scope, receive: Any, send: Any) -> None:
            if scope["type"] != "http":
                await app(scope, receive, send)
                return
            host = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"host"), "")
            if allowed is not None and host_of(host) not in allowed:
                await _misdirected(send)
                return

            async def send_with_headers(message: dict[str, Any]) -> None:
                if message["type"] == "http.response.start":
                    message = {**message, "headers": [*message.get("headers", []), *HEADERS]}
                await send(message)

            await app(scope, receive, send_with_headers)

        return checked

    return wrap


async def _misdirected(send: Any) -> None:
    await send({"type": "http.response.start", "status": 421, "headers": [(b"content-type", b"text/plain"), *HEADERS]})
    await send({"type": "http.response.body", "body": b"This server does not answer for that host name.\n"})
