"""Folders that tests copy from: made once in a run, whichever of its workers needs one first."""

import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest


def once(factory: pytest.TempPathFactory, name: str, fill: Callable[[Path], object]) -> Path:
    """The folder of this name that all workers share, filled by the first that asks; the others wait for it."""
    base = factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / f"shared {name}"
    filled = folder.with_name(f"{folder.name}.filled")
    with folder.with_name(f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not filled.exists():
            shutil.rmtree(folder, ignore_errors=True)  # a worker that failed in it
            folder.mkdir()
            fill(folder)
            filled.touch()
    return folder
