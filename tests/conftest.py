"""Shared fixtures: no test touches the user's own folders, settings or network."""

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from indexer.encoders.load import load_encoder
from indexer.encoders.m2d.prepare import prepare
from indexer.heads.linear import LinearHead
from indexer.models import catalogue
from indexer.upkeep.demo import Track, write_track
from tests.helpers import checkpoints, labelled
from tests.helpers.cli import FIXTURES, LABELS, Cli
from tests.helpers.libraries import adopt
from tests.helpers.once import once
from tests.helpers.pages import Pages
from tests.helpers.synth import write_audio

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is imported, here or in a child: workers fill the cores
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # to compile the program anew is half of a child's start
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # As a shell starts what runs in the background; the programs that the tests interrupt would ignore it, too.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_xdist_auto_num_workers() -> int:
    """Three workers for two cores: a third of the time, a test waits for a process or a clock."""
    return max(1, len(os.sched_getaffinity(0)) * 3 // 2)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start the long tests first, one on each worker in turn, so that none runs alone at the end.

    xdist's "worksteal" gives each worker a run of neighbouring tests to begin with: each run opens with its share of
    the long ones.
    """
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    slow = [item for item in items if item.get_closest_marker("slow_first")]
    other = [item for item in items if not item.get_closest_marker("slow_first")]
    bounds = [len(items) * n // workers for n in range(workers + 1)]
    ordered: list[pytest.Item] = []
    for n in range(workers):
        share = slow[n::workers]
        rest = bounds[n + 1] - len(ordered) - len(share)
        ordered += share + other[: max(0, rest)]
        del other[: max(0, rest)]
    items[:] = ordered + other


def move_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in os.environ if n.startswith("INDEXER_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(home))
    for name in ("XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME"):
        monkeypatch.setenv(name, str(home / name.lower()))


@pytest.fixture(autouse=True, scope="session")
def _session_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Fixtures that many tests share do not see the user's settings either."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        move_home(tmp_path_factory.mktemp("home"), monkeypatch)
        yield


@pytest.fixture(autouse=True)
def _own_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings, library and models of a test live in a folder of its own."""
    move_home(tmp_path_factory.mktemp("home"), monkeypatch)


@pytest.fixture(scope="session")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A published-format checkpoint folder with random weights, much narrower than ViT-Base, with an AudioSet head."""

    def fill(folder: Path) -> None:
        state = checkpoints.published_state(checkpoints.weights(width=64, depth=1, columns=62), head_width=320)
        checkpoints.write_folder(folder, state, name=checkpoints.NAME_1001)

    return once(tmp_path_factory, "checkpoint", fill) / checkpoints.NAME_1001


@pytest.fixture(scope="session")
def small_models(tmp_path_factory: pytest.TempPathFactory, small_model: Path) -> Path:
    """A folder of models in which that checkpoint is converted and prepared for this processor: to be copied."""

    def fill(folder: Path) -> None:
        prepare(catalogue.resolve(str(small_model), folder), lambda _precision, _done, _steps: None)

    return once(tmp_path_factory, "models", fill)


@pytest.fixture(scope="session")
def rhythm_head(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A head with random weights for the encoder that needs none, so that genres cost no torch."""
    encoder = load_encoder("rhythm")
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((5, encoder.width)).astype(np.float32) / 20
    head = LinearHead("random", encoder.id, LABELS, 0.5, weights, np.zeros(5, np.float32))
    return once(tmp_path_factory, "head", lambda folder: head.save(folder / "head.safetensors")) / "head.safetensors"


@pytest.fixture
def cli(tmp_path: Path, small_model: Path, small_models: Path) -> Cli:
    folder = tmp_path / "state"
    shutil.copytree(small_models, folder / "models")
    return Cli(folder, small_model)


@pytest.fixture
def bare_cli(tmp_path: Path) -> Cli:
    """As ``cli``, of somebody who has no model."""
    folder = tmp_path / "state"
    folder.mkdir()
    return Cli(folder, None)


@pytest.fixture
def quick_cli(tmp_path: Path, rhythm_head: Path) -> Cli:
    """As ``cli``, with the encoder that needs no torch."""
    folder = tmp_path / "state"
    folder.mkdir()
    return Cli(folder, Path("rhythm"), rhythm_head)


@pytest.fixture(scope="session")
def music_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six short recordings in six containers, without genres: to be copied, never changed."""

    def fill(folder: Path) -> None:
        for seed, container in enumerate(("mp3", "flac", "vorbis", "opus", "m4a")):
            write_audio(folder / container, container, 2.0, seed=seed)
        (folder / "album").mkdir()
        write_audio(folder / "album" / "wav", "wav", 1.0, seed=9)

    return once(tmp_path_factory, "music", fill)


@pytest.fixture
def music_folder(tmp_path: Path, music_template: Path) -> Path:
    """Six short recordings in six containers, without genres."""
    return Path(shutil.copytree(music_template, tmp_path / "music", copy_function=shutil.copyfile))


@pytest.fixture(scope="session")
def scanned_template(tmp_path_factory: pytest.TempPathFactory, music_template: Path, rhythm_head: Path) -> Path:
    """The folder of a library that knows ``music_template``, from a scan that writes no tags: to be copied."""

    def fill(folder: Path) -> None:
        Cli(folder, Path("rhythm"), rhythm_head)("scan", music_template, "--no-tags")

    return once(tmp_path_factory, "scanned", fill)


@pytest.fixture
def scanned_music(quick_cli: Cli, music_folder: Path, music_template: Path, scanned_template: Path) -> Path:
    """The six recordings, as a scan of ``quick_cli`` that writes no tags leaves them."""
    adopt(quick_cli, music_folder, state=scanned_template, scanned=music_template)
    return music_folder


@pytest.fixture
def pages(quick_cli: Cli, scanned_music: Path) -> Pages:
    """The pages of that library."""
    return Pages(quick_cli.db)


@pytest.fixture(scope="session")
def fixtures() -> Path:
    if not FIXTURES.is_dir():
        pytest.skip("the folder of real odd files (shared/tag-fixture) is not beside this checkout")
    return FIXTURES


@pytest.fixture(scope="session")
def track_template(tmp_path_factory):
    return write_audio(tmp_path_factory.mktemp("track") / "track", "mp3", 20.0, seed=3)


@pytest.fixture
def track(tmp_path, track_template):
    """20 s of music as MP3."""
    return Path(shutil.copy(track_template, tmp_path))


@pytest.fixture
def scanned(quick_cli, scanned_music):
    """The command line on a library that was scanned."""
    return quick_cli


@pytest.fixture(scope="session")
def unlabelled_template(tmp_path_factory):
    """12 short tracks of two kinds by six artists, embedded, without a genre in the tags and without a head."""

    def fill(folder: Path) -> None:
        for n in range(12):
            artist = folder / "music" / f"artist {n // 2}"
            artist.mkdir(parents=True, exist_ok=True)
            genre = ("ambient", "drum and bass")[n % 2]
            write_track(Track(artist / f"{genre} {n}.flac", genre, n, 3.0, f"{genre} {n}", artist.name, labelled=False))
        (folder / "state").mkdir()
        assert Cli(folder / "state", Path("rhythm")).json("scan", folder / "music")["embedded"] == 12

    folder = once(tmp_path_factory, "unlabelled", fill)
    return folder / "state", folder / "music"


@pytest.fixture
def unlabelled(tmp_path, unlabelled_template):
    """A library of one's own with these tracks: the command line, and the folder of the music."""
    state, scanned = unlabelled_template
    music = Path(shutil.copytree(scanned, tmp_path / "unlabelled"))
    cli = Cli(tmp_path / "unlabelled state", Path("rhythm"))
    cli.folder.mkdir()
    adopt(cli, music, state=state, scanned=scanned)
    return cli, music


@pytest.fixture
def labelled_library(bare_cli, tmp_path):
    """A library without files on disk: 90 recordings of 3 genres by 18 artists, tagged and embedded."""
    labelled.fill(bare_cli.db, tmp_path)
    return bare_cli
