"""Shared fixtures: no test touches the user's own folders, settings or network."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import click.testing
import numpy as np
import pytest

from indexer.cli.main import main
from indexer.encoders.load import load_encoder
from indexer.heads.linear import LinearHead
from tests import checkpoints
from tests.synth import write_audio

FIXTURES = Path(__file__).parents[2] / "shared" / "tag-fixture"  # real odd files, beside the checkout where they exist


@pytest.fixture(autouse=True)
def _own_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings, library and models of a test live in a folder of its own."""
    home = tmp_path_factory.mktemp("home")
    for name in [n for n in os.environ if n.startswith("INDEXER_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(home))
    for name in ("XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME"):
        monkeypatch.setenv(name, str(home / name.lower()))


@pytest.fixture(scope="session")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A published-format checkpoint folder with random weights, much narrower than ViT-Base, with an AudioSet head."""
    state = checkpoints.published_state(checkpoints.weights(width=64, depth=1, columns=62), head_width=320)
    return checkpoints.write_folder(tmp_path_factory.mktemp("checkpoint"), state, name=checkpoints.NAME_1001)


LABELS = ("ambient", "drum and bass", "house", "techno", "trance")


@pytest.fixture(scope="session")
def rhythm_head(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A head with random weights for the encoder that needs none, so that genres cost no torch."""
    encoder = load_encoder("rhythm")
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("head") / "head.safetensors"
    LinearHead(
        "random",
        encoder.id,
        LABELS,
        0.5,
        rng.standard_normal((5, encoder.width)).astype(np.float32) / 20,
        np.zeros(5, np.float32),
    ).save(path)
    return path


@dataclass
class Cli:
    """The command line on a library of its own: every call gets --db, and the model (and head) where it embeds."""

    folder: Path
    model: Path | None
    head: Path | None = None

    @property
    def db(self) -> Path:
        return self.folder / "library.db"

    @property
    def environ(self) -> dict[str, str]:
        return {
            "INDEXER_DB": str(self.db),
            "INDEXER_MODELS": str(self.folder / "models"),
            "INDEXER_MIN_CONFIDENCE": "0",
            "INDEXER_JOBS": "2",
            **({"INDEXER_ENCODER": str(self.model)} if self.model else {}),
            **({"INDEXER_HEAD": str(self.head)} if self.head else {}),
        }

    def __call__(self, *args: object, code: int = 0, env: dict[str, str] | None = None) -> click.testing.Result:
        result = click.testing.CliRunner().invoke(main, [str(a) for a in args], env={**self.environ, **(env or {})})
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == code, result.output
        return result

    def json(self, *args: object, code: int = 0, env: dict[str, str] | None = None):
        return json.loads(self(*args, "--json", code=code, env=env).stdout)

    def process(self, *args: object, env_extra: dict[str, str] | None = None, **kwargs) -> "subprocess.Popen[str]":
        """The command as a process of its own, to be killed or interrupted."""
        return subprocess.Popen(
            [sys.executable, "-m", "indexer", *map(str, args)],
            env={**os.environ, **self.environ, **(env_extra or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **kwargs,
        )


@pytest.fixture
def cli(tmp_path: Path, small_model: Path) -> Cli:
    folder = tmp_path / "state"
    folder.mkdir()
    return Cli(folder, small_model)


@pytest.fixture
def quick_cli(tmp_path: Path, rhythm_head: Path) -> Cli:
    """As ``cli``, with the encoder that needs no torch."""
    folder = tmp_path / "state"
    folder.mkdir()
    return Cli(folder, Path("rhythm"), rhythm_head)


@pytest.fixture
def music_folder(tmp_path: Path) -> Path:
    """Six short recordings in six containers, without genres."""
    folder = tmp_path / "music"
    (folder / "album").mkdir(parents=True)
    for seed, container in enumerate(("mp3", "flac", "vorbis", "opus", "m4a")):
        write_audio(folder / container, container, 2.0, seed=seed)
    write_audio(folder / "album" / "wav", "wav", 1.0, seed=9)
    return folder


@pytest.fixture(scope="session")
def fixtures() -> Path:
    if not FIXTURES.is_dir():
        pytest.skip("the folder of real odd files (shared/tag-fixture) is not beside this checkout")
    return FIXTURES
