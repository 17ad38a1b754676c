"""Uploads to our routes, without a network."""

import asyncio

from indexer.config import load_settings
from indexer.web.serve import make_datasette


def with_server(scanned, work, **settings):
    """Run ``work(client, datasette)`` against our routes, without a network."""
    values = load_settings(None, {"min_confidence": 0.0, **settings}, scanned.environ)

    async def run():
        datasette = make_datasette(values)
        await datasette.invoke_startup()
        try:
            return await work(datasette.client, datasette)
        finally:
            process = getattr(datasette, "indexer_classifier", None) and datasette.indexer_classifier._process
            if process:
                process.stdin.close()
                await asyncio.wait_for(process.wait(), 20)

    return asyncio.run(run())


def post(scanned, *, settings=None, **request):
    async def work(client, _datasette):
        headers = {"host": "127.0.0.1:8001", **request.pop("headers", {})}
        return await client.post("/-/classify.json", headers=headers, timeout=60, **request)

    return with_server(scanned, work, **(settings or {}))


def post_all(scanned, requests):
    """Several requests to one server, one after the other."""

    async def work(client, _datasette):
        return [
            await client.post(
                "/-/classify.json",
                **{**request, "headers": {"host": "localhost", **request.get("headers", {})}},
                timeout=60,
            )
            for request in requests
        ]

    return with_server(scanned, work)
