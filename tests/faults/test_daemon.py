"""The real `indexer watch` under faults: full disks, drives that go, readers that die, dropped events, a library in use.

What must hold: the daemon goes on, says what is wrong, loses no row, and makes good what it missed. Each place that is full
or mounted belongs to a process of its own; skips where the system refuses that.
"""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from indexer import tags
from indexer.encoders import load_encoder
from indexer.fingerprint import fingerprint
from indexer.heads.linear import LinearHead
from indexer.store import open_readonly
from tests.conftest import Cli
from tests.daemons import Watching
from tests.faults.helpers import REPOSITORY, leave_room, mount, private_mounts
from tests.synth import write_audio

# Imported by every Python process that has its folder in PYTHONPATH: readers that misbehave by the name of the file, and
# shorter waits, so that a fault costs no minutes here.
SPOILED = """
import os, sys, time
from pathlib import Path

gate = Path(__file__).parent

if "indexer.child" in sys.orig_argv:
    from indexer import audio

    real = audio.decode

    def decode(path, **how):
        name = os.path.basename(path)
        if name.startswith("crash"):
            os.kill(os.getpid(), 11)
        if name.startswith("hang"):
            time.sleep(600)
        if name.startswith("gate"):
            (gate / "reached").touch()
            while not (gate / "open").exists():
                time.sleep(0.02)
        return real(path, **how)

    audio.decode = decode
elif "indexer.runner" in sys.orig_argv:
    import functools, sqlite3
    from indexer.worker import Worker

    Worker.__init__.__kwdefaults__["stall_limit_s"] = 4.0

    class Impatient(sqlite3.Connection):
        def executescript(self, script):
            return super().executescript(script.replace("busy_timeout = 10000", "busy_timeout = 500"))

    sqlite3.connect = functools.partial(sqlite3.connect, factory=Impatient)
elif "watch" in sys.orig_argv:
    from indexer import daemon

    daemon.FIRST_RETRY_S = 0.5
"""


@pytest.fixture
def spoiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of SPOILED, which is in force: ``reached`` appears there when the gate is, and ``open`` opens it."""
    folder = tmp_path / "spoiled"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(SPOILED)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    return folder


@pytest.fixture
def folder(cli: Cli, tmp_path: Path) -> Path:
    """An empty music folder; the cheap encoder is told."""
    cli.model = Path("rhythm")
    made = tmp_path / "music"
    made.mkdir()
    return made


def audio(path: Path, seed: int = 0, container: str = "flac", seconds: float = 1.0) -> Path:
    return write_audio(path.with_suffix(""), container, seconds, seed=seed)


def head(folder: Path) -> Path:
    """A head for the cheap encoder that is sure of everything."""
    weight = np.zeros((2, 1668), np.float32)
    path = folder / "head.safetensors"
    LinearHead("sure", load_encoder("rhythm").id, ("house", "techno"), 0.0, weight, np.zeros(2, np.float32)).save(path)
    return path


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return fingerprint(file, str(path)).audio_sha256
