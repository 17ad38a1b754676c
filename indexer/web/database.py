"""The library as Datasette's database: connections that cannot write, and SQL of others in a process apart.

Every connection is to the file that has the library's name now: `doctor --rebuild` or a person may replace it.

Datasette's pages build SQL from what a request says, and take whole queries from it. All of that goes through
``execute``. Our own pages' SQL runs here, in Datasette's threads, which nothing else can hold up.
"""

import asyncio
import functools
import threading
from collections.abc import Callable
from typing import Any

from datasette.database import Database, QueryInterrupted, Results
from datasette.utils import sqlite3

from indexer.config import Settings
from indexer.errors import StoreError
from indexer.library import apart
from indexer.library.sqlite import connect_readonly, plain_errors


class LibraryDatabase(Database):  # type: ignore[misc]  # datasette ships no types
    """Connects as all of indexer does: Datasette takes % and ? in a path for parts of an address."""

    execute_here = Database.execute  # for SQL of ours, with values from a request at most

    def __init__(self, datasette: Any, settings: Settings) -> None:
        super().__init__(datasette, path=str(settings.db))
        self._settings = settings
        self._here = threading.local()  # of each of Datasette's threads: (file, connection to it)

    def connect(self, write: bool = False) -> Any:
        """A connection that cannot write; the pages never ask for another."""
        assert not write
        conn = connect_readonly(self._settings.db, check_same_thread=False)
        apart.set_limits(conn)
        self._all_file_connections.append(conn)
        return conn

    async def execute_fn(self, fn: Callable[[Any], Any]) -> Any:
        """Call a function with a connection, in one of Datasette's threads. Raises StoreError where there is none."""

        def in_thread() -> Any:
            with plain_errors(self._settings.db):
                return fn(self._connection())

        return await asyncio.get_running_loop().run_in_executor(self.ds.executor, in_thread)

    def _connection(self) -> Any:
        try:
            found = self._settings.db.stat()
        except OSError as e:
            raise StoreError(f"{self._settings.db}: cannot be read ({e.strerror})") from e
        file = found.st_dev, found.st_ino
        opened, connection = getattr(self._here, "opened", (None, None))
        if opened != file:
            if connection:
                del self._here.opened
                self._all_file_connections.remove(connection)
                connection.close()
            connection = self.connect()
            self.ds._prepare_connection(connection, self.name)
            self._here.opened = file, connection
        return connection

    async def execute(
        self,
        sql: str,
        params: Any = None,
        truncate: bool = False,
        custom_time_limit: float | None = None,
        page_size: int | None = None,
        log_sql_errors: bool = True,  # noqa: ARG002 - Datasette's; a mistake is told to the person who made it alone
    ) -> Any:
        """Run SQL in a process apart, within Datasette's limits. Raises QueryInterrupted, sqlite3.OperationalError."""
        limit_ms = min(custom_time_limit or self.ds.sql_time_limit_ms, self.ds.sql_time_limit_ms)
        at_most = self.ds.max_returned_rows + (self.ds.max_returned_rows == (page_size or self.ds.page_size))
        asked = functools.partial(
            apart.ask,
            self._settings.db,
            self._settings.aliases,
            sql,
            params or (),
            limit_s=limit_ms / 1000,
            at_most=at_most if truncate else None,
        )
        try:
            found = await asyncio.get_running_loop().run_in_executor(apart.threads(), asked)
        except sqlite3.OperationalError as e:
            if e.args == ("interrupted",):
                raise QueryInterrupted(e, sql, params) from e
            raise
        return Results(found.rows, found.truncated, found.description)
