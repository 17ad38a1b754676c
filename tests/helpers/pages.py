"""The pages of a library, asked without a network, and what its database holds."""

import asyncio
import sqlite3
from contextlib import closing

from indexer.config import load_settings
from indexer.web.serve import make_datasette


class Pages:
    """A Datasette on a library, asked without a network; as curl asks, unless told otherwise."""

    def __init__(self, db, **settings):
        self._settings = load_settings(None, {"db": db, **settings}, {})

    def ask(self, method, path, **kwargs):
        async def once():
            datasette = make_datasette(self._settings)
            await datasette.invoke_startup()
            headers = {"host": "127.0.0.1:8001", **kwargs.pop("headers", {})}
            return await datasette.client.request(method, path, headers=headers, **kwargs)

        return asyncio.run(once())

    def get(self, path, **kwargs):
        return self.ask("GET", path, **kwargs)

    def json(self, path, **kwargs):
        answer = self.get(path, **kwargs)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def post(self, path, values, **kwargs):
        return self.ask("POST", path, json=values, **kwargs)


def one(db, sql, *values):
    with closing(sqlite3.connect(db)) as conn:
        row = conn.execute(sql, values).fetchone()
    return row[0] if row and len(row) == 1 else row


def id_of(cli, name):
    return one(cli.db, "SELECT id FROM files WHERE path_text LIKE ?", f"%{name}")


def corrections(db):
    """(path, genre) of what was said, in this order, for every file."""
    with closing(sqlite3.connect(db)) as conn:
        return conn.execute(
            "SELECT f.path_text, c.genre FROM corrections c JOIN files f ON f.recording_id = c.recording_id"
            " ORDER BY c.id, f.id"
        ).fetchall()
