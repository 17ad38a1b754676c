"""The executor whose heavy steps run on a Dask cluster: `scan --cluster tcp://SCHEDULER:8786`.

What the pipeline sees of a cluster; indexer.cluster.connection has the workers.
"""

import os
import time
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from indexer.cluster import settings as cluster_settings
from indexer.cluster.admission import Admission
from indexer.cluster.assignment import File
from indexer.cluster.connection import Connection
from indexer.config import Settings
from indexer.encoders.encoder import EncoderInfo, Part
from indexer.errors import ConfigError, DeferredError
from indexer.files.audio.identity import Stat
from indexer.listen.executor import Embedded, Engine


class ClusterExecutor:
    """An Executor on a Dask cluster. The connection has a thread of its own, with an event loop."""

    def __init__(self, settings: Settings, encoders: Sequence[EncoderInfo], roots: Sequence[bytes]) -> None:
        """``encoders``: those that the scan needs. ``roots``: folders that every worker must see.

        Connects when the first file comes, or at ``open``. Raises ConfigError for settings that cannot work.
        """
        cluster_settings.distributed()
        self._map = cluster_settings.PathMap(settings.map)
        admission = Admission(
            {info.encoder_id: info.name for info in encoders},
            [self._map.there(root) for root in roots],
            precision=settings.precision,
            device=settings.device,
            words={info.encoder_id: info.words_id for info in encoders if info.words_id},
        )
        widths = {info.encoder_id: (info.width, info.words.width if info.words else 0) for info in encoders}
        self._connection = Connection(settings, admission, widths)

    @property
    def limit(self) -> int:
        """See Executor."""
        return self._connection.limit

    def inspect(self, path: bytes, stat: Stat) -> "Future[dict[str, Any]]":
        """See Executor."""
        return self._submit(File("inspect", path, path, stat, None, Future()))

    def embed(self, path: bytes, stat: Stat, part: Part, *, analyse: bool, rough: bool = False) -> "Future[Embedded]":
        """See Executor; preferably on the worker that inspected the file."""
        near = self._connection.near.pop(path, None)
        return self._submit(File("embed", path, path, stat, part.encoder_id, Future(), analyse, rough, near=near))

    def engine(self) -> Engine | None:
        """See Executor; where workers differ, the engine of the last answer."""
        return self._connection.engine

    def load(self) -> dict[str, float]:
        """See Executor: the mean over the workers, each since it was admitted."""
        spans = self._connection.spans()
        elapsed_s = sum(after["elapsed"] - before["elapsed"] for before, after in spans)
        if elapsed_s <= 0:
            return {"the workers": 0.0}
        return {
            f"{part} on the workers": sum(after.get(part, 0.0) - before.get(part, 0.0) for before, after in spans)
            / elapsed_s
            for part in ("reading", "encoder")
        }

    def news(self) -> list[tuple[str, str]]:
        """See Executor."""
        found = []
        while self._connection.news:
            found.append(self._connection.news.popleft())
        if self._connection.failure and not found:
            raise self._connection.failure
        return found

    def workers(self) -> list[dict[str, Any]]:
        """See Executor."""
        return self._connection.rows

    def open(self) -> None:
        """Begin to connect and to ask all workers, in the background."""
        self._connection.open()

    def ask(self, timeout_s: float) -> list[dict[str, Any]]:
        """Connect, wait until every worker has answered, at most ``timeout_s``, and return ``workers``.

        Raises ClusterError where no scheduler answers or it has no worker.
        """
        self.open()
        end_s = time.monotonic() + timeout_s
        while not self._connection.asked.wait(0.1) and time.monotonic() < end_s and self._connection.failure is None:
            pass
        if self._connection.failure and not self._connection.rows:
            raise self._connection.failure
        return self._connection.rows

    def close(self) -> None:
        """See Executor."""
        self._connection.close()

    def _submit(self, file: File) -> "Future[Any]":
        try:
            file.path_on_workers = self._map.there(file.path)
        except ConfigError as e:
            file.future.set_exception(DeferredError(file.path, str(e)))
            return file.future
        self.open()
        self._connection.put(file)
        return file.future


def refuse_wrong_settings(settings: Settings, paths: Sequence[Path]) -> None:
    """Raise ConfigError for settings that cannot work, without connecting."""
    ClusterExecutor(settings, (), [os.fsencode(path.absolute()) for path in paths or settings.roots])
