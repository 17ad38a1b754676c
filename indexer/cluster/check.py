"""`indexer cluster check`: reports which workers a scan would admit, and why not the others. Stores nothing."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from indexer.cluster.executor import ClusterExecutor
from indexer.config import Settings
from indexer.errors import ConfigError
from indexer.files.walk import folders_to_scan
from indexer.library.registered import in_use_by
from indexer.library.roots import known_roots
from indexer.models.choice import choose

PATIENCE_S = 120.0  # for all workers to answer; each loads the models


def check(settings: Settings, paths: Sequence[Path]) -> dict[str, Any]:
    """Ask every worker: {cluster, encoder, precision, agree: how many would be admitted, workers: one row each}.

    Raises ConfigError, ModelError, or ClusterError where no worker answers.
    """
    if settings.cluster is None:
        raise ConfigError("name the scheduler: --cluster tcp://HOST:PORT, or the setting cluster")
    known = known_roots(settings.db)
    chosen = choose(settings, in_use_by(settings.db))
    roots = folders_to_scan(paths, settings.roots, known) if paths or settings.roots or known else []
    executor = ClusterExecutor(
        settings,
        chosen.info.parts if chosen else (),
        [root for root in roots if os.path.exists(root)],  # noqa: PTH110 - bytes
    )
    try:
        workers = executor.ask(PATIENCE_S)
    finally:
        executor.close()
    admitted = [worker for worker in workers if worker["state"] == "ready"]
    return {
        "cluster": settings.cluster,
        "encoder": chosen.info.name if chosen else None,
        "agree": len(admitted),
        "workers": workers,
        "precision": next((worker["precision"] for worker in admitted if worker["embeds"]), {}),
    }
