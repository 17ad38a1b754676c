"""Shared fixtures: no test touches the user's own folders, settings or network."""

import os
from pathlib import Path

import numpy as np
import pytest

from indexer.encoders.load import load_encoder
from indexer.heads.linear import LinearHead
from tests.helpers import checkpoints, labelled
from tests.helpers.cli import FIXTURES, LABELS, Cli
from tests.helpers.synth import write_audio


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


@pytest.fixture
def track(tmp_path):
    return write_audio(tmp_path / "track", "mp3", 20.0, seed=3)


@pytest.fixture
def scanned(quick_cli, music_folder):
    quick_cli("scan", music_folder / "mp3.mp3", "--no-tags")
    return quick_cli


@pytest.fixture
def labelled_library(cli, tmp_path):
    """A library without files on disk: 90 recordings of 3 genres by 18 artists, tagged and embedded."""
    cli.model = None
    labelled.fill(cli.db, tmp_path)
    return cli
