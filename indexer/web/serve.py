"""Runs Datasette on the library: the database read-only, our metadata, safe settings.

Owns Datasette's settings, and who may run SQL. The pages themselves are Datasette's and the plugin's (indexer.web).
"""

import asyncio
import json
import logging
import socket
import threading
import webbrowser
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

from indexer.config import Settings
from indexer.errors import ConfigError
from indexer.library.readonly import open_readonly

# The limits keep one page from holding the library, and one open reader from holding its write-ahead log for long.
DATASETTE_SETTINGS = {
    "sql_time_limit_ms": 1000,
    "facet_time_limit_ms": 200,
    "facet_suggest_time_limit_ms": 50,
    "max_returned_rows": 1000,
    "max_csv_mb": 20,
    "allow_download": False,
    "truncate_cells_html": 300,
    "default_page_size": 50,
    "suggest_facets": False,
}


def metadata(db: Path) -> dict[str, Any]:
    """datasette_metadata.json, with its one database under the name that Datasette gives this file."""
    text = (resources.files("indexer.schema") / "datasette_metadata.json").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text)
    found["databases"] = {db.stem: found["databases"]["library"]}
    return found


def make_datasette(settings: Settings) -> Any:
    """The Datasette for a library, with indexer's pages. Raises ConfigError for a public address without password."""
    from datasette.app import Datasette

    from indexer.web.database import LibraryDatabase
    from indexer.web.guard import is_loopback

    class Library(Datasette):  # type: ignore[misc]  # datasette ships no types
        """A Datasette that carries the settings; its metadata is published, so it must not hold the password."""

        indexer_settings = settings

    here = is_loopback(settings.host)
    if not here and not settings.password:
        raise ConfigError(
            f"{settings.host} can be reached from other machines: set a password for the pages first"
            " (INDEXER_PASSWORD, or password in "
            "the settings file)"
        )
    ask_sql = here if settings.allow_sql == "auto" else settings.allow_sql == "always"
    # Mutable, not immutable: an immutable database is read without its write-ahead log, that is without the last scan.
    found = Library(
        [str(settings.db)],
        metadata=metadata(settings.db),
        settings={**DATASETTE_SETTINGS, "default_allow_sql": ask_sql},
    )
    found.remove_database(settings.db.stem)
    found.add_database(LibraryDatabase(found, settings), name=settings.db.stem)
    return found


def serve(settings: Settings, *, open_browser: bool = False, announce: Callable[[str], None] = lambda _: None) -> None:
    """Serve until interrupted; ``announce`` is called with the address.

    Raises StoreError without a library, ConfigError when the address cannot be used.
    """
    import uvicorn
    from datasette.cli import check_databases

    from indexer.web.catalogue import read_ahead
    from indexer.web.connections import MAX_CONNECTIONS, BoundedProtocol, SparingFilter, raise_file_limit

    open_readonly(settings.db).close()
    datasette = make_datasette(settings)
    asyncio.run(check_databases(datasette))
    BoundedProtocol.at_most = min(MAX_CONNECTIONS, raise_file_limit() // 2)
    listener = _listen(settings.host, settings.port)
    shown = "127.0.0.1" if settings.host in ("0.0.0.0", "::") else settings.host  # noqa: S104
    url = f"http://{f'[{shown}]' if ':' in shown else shown}:{listener.getsockname()[1]}/"
    announce(url)
    threading.Thread(target=read_ahead, args=(settings.db,), name="reading ahead", daemon=True).start()
    if open_browser:
        webbrowser.open(url)
    # An upload that is being classified when the server ends is dropped: nothing of it would be stored.
    config = uvicorn.Config(
        datasette.app(),
        http=BoundedProtocol,
        ws="none",
        timeout_keep_alive=5,
        h11_max_incomplete_event_size=16 * 1024,
        server_header=False,
        log_level="warning",
        timeout_graceful_shutdown=2,
    )
    sparing = SparingFilter()
    for name in ("uvicorn.error", "asyncio"):
        logging.getLogger(name).addFilter(sparing)
    uvicorn.Server(config).run(sockets=[listener])


def _listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises ConfigError, where uvicorn would end the process without a reason."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family)
    except OSError as e:
        raise ConfigError(f"cannot listen on {host} port {port} ({e.strerror}); choose another with --port") from e
