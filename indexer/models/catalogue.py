"""The models folder: lists the installed models, downloads published ones, and installs a model.

Owns the record of digests (trust on first use) and ``source.json`` beside each model. Weights are read by
``encoders/checkpoints.py`` only; torch is not imported but to convert. A model's folder is installed by one rename, so
it is never incomplete.
"""

import os
import re
import shutil
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from indexer import __version__
from indexer.encoders import bert, checkpoints
from indexer.encoders.load import BUILT_IN
from indexer.errors import ModelError
from indexer.models.download import Progress, discard, fetch
from indexer.models.download_folder import fetch_all
from indexer.models.published import LAION, KnownModel, known, nearest
from indexer.models.records import locked, megabytes, read_json, sha256_of, write_json, write_problem, writing

WEIGHTS = "model.safetensors"
SOURCE = "source.json"
DIGESTS = "digests.json"
OF_TEXTS = (bert.VOCABULARY, bert.WEIGHTS)  # in folders that hold no model, see texts.py

_SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,119}", re.ASCII)
# Names of checkpoint files that say nothing about the model: its name is the folder's.
_NAMELESS = re.compile(r"(checkpoint|weights|model)([-_ep0-9.].*)?", re.ASCII)
_SUFFIXES = (".zip", ".pth", ".safetensors")


@dataclass(frozen=True, slots=True)
class InstalledModel:
    """A model in the models folder, usable or not."""

    name: str
    path: Path  # of its safetensors file
    encoder_id: str | None  # None when it cannot be used
    words_id: str | None  # of its audio vectors; None: it knows no words
    size: int  # of that file, in bytes
    licence_accepted: str | None  # ISO 8601 time
    source: str | None  # the address or path it came from
    problem: str | None  # why it cannot be used


def installed(models_dir: Path) -> list[InstalledModel]:
    """Return all models in ``models_dir``, sorted by name; reads no weights. Raises ModelError.

    Unusable ones are included, with their problem.
    """
    try:
        folders = sorted(entry for entry in models_dir.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ModelError(f"cannot read the models folder {models_dir}: {error.strerror}") from error
    return [_look(folder) for folder in folders if not any((folder / own).is_file() for own in OF_TEXTS)]


def _look(folder: Path) -> InstalledModel:
    path = folder / WEIGHTS
    source = read_json(folder / SOURCE) or {}
    size, encoder_id, words_id, problem = 0, None, None, None
    try:
        size = path.stat().st_size
        found = checkpoints.inspect(path)
        encoder_id, words_id = found.encoder_id, found.words_id
    except FileNotFoundError:
        problem = f"no {WEIGHTS} in it"
    except OSError as error:
        problem = error.strerror or str(error)
    except ModelError as error:
        problem = str(error)
    origin = source.get("url") or source.get("path")
    accepted = source.get("licence_accepted_at")
    return InstalledModel(
        folder.name,
        path,
        encoder_id,
        words_id,
        size,
        accepted if isinstance(accepted, str) else None,
        origin if isinstance(origin, str) else None,
        problem,
    )


def download(
    name: str,
    models_dir: Path,
    *,
    accept: Callable[[str], bool],
    progress: Progress | None = None,
    base_url: str | None = None,
    timeout_s: float = 30.0,
    sleep: Callable[[float], None] = time.sleep,
) -> Path:
    """Download and convert a published checkpoint, unless it is installed; return the path of its safetensors.

    ``accept`` gets the publisher's notice; unless it returns True, nothing is requested or written. ``progress`` gets
    the bytes so far and the total. Raises ModelError; a ``NAME.zip.part``, or a folder of parts, that the next call
    resumes may stay, and the message says so.
    """
    model = known(name)
    if model is None:
        raise ModelError(f"no checkpoint {name!r} is published{nearest(name, [])}: see `indexer models list`")
    if (present := _usable(models_dir, model)) is not None:
        return present
    publisher, name = model.publisher, model.name
    if not accept(publisher.notice):
        raise ModelError(f"{publisher.name}'s licence was not accepted: nothing was downloaded")
    source: dict[str, Any] = {
        "url": model.url(base_url or publisher.base_url),
        "licence_accepted_at": _now(),
        "licence": publisher.recorded,
    }
    if publisher is LAION:
        checkpoints.check_extra()
    part = models_dir / (f".{name}.parts" if publisher is LAION else f"{name}.zip.part")
    with writing(models_dir), locked(models_dir, name):
        if (present := _usable(models_dir, model)) is not None:  # another process has installed it meanwhile
            return present
        trusted = trusted_digests(models_dir)
        if publisher is LAION:
            parts = checkpoints.PUBLISHED_PARTS
            files = fetch_all(source["url"], part, parts, progress=progress, timeout_s=timeout_s, sleep=sleep)
        else:
            fetch(source["url"], part, progress=progress, timeout_s=timeout_s, sleep=sleep)
            files = [part]
        source |= {"size": sum(file.stat().st_size for file in files), "sha256": sha256_of(files)}
        try:
            check_digest(models_dir, name, source["sha256"], trusted.get(name))
            if part.is_file() and not zipfile.is_zipfile(part):
                raise ModelError(
                    f"{source['url']} is no whole zip: download it elsewhere and run `indexer models add FILE`"
                )
            path = _install(part, models_dir, name, source)
        except (ModelError, OSError) as error:
            raise _after_failure(error, part, source["size"]) from error
        record_digest(models_dir, name, source["sha256"])
        discard(part)
    return path


def _usable(models_dir: Path, model: KnownModel) -> Path | None:
    """The path of an installed published model; None where it cannot be used, or was installed without its words."""
    present = _look(models_dir / model.name)
    whole = present.encoder_id is not None and (present.words_id is not None or not model.words)
    return present.path if whole else None


def _after_failure(error: ModelError | OSError, part: Path, size: int) -> ModelError:
    """Return the error for the user; keep the download only where this machine failed and the file may be good."""
    shown = write_problem(part.parent, error) if isinstance(error, OSError) else error
    if isinstance(error, OSError) or isinstance(error.__cause__, (OSError, SafetensorError)):
        return ModelError(f"{shown} ({megabytes(size)} are kept in {part} and need not come again)")
    discard(part)
    return shown


def add(source: Path, models_dir: Path, *, name: str | None = None) -> Path:
    """Install a local ``.pth``, ``.zip``, folder or converted ``.safetensors``; return the path of its safetensors.

    ``name`` defaults to the folder's or file's name. Raises ModelError, also where a model of that name with other
    weights is installed; one with the same encoder is left as it is.
    """
    source = _absolute(source)
    files = _checkpoint_files(source)
    if name is not None and not _SAFE_NAME.fullmatch(name):
        raise ModelError(f"{name!r} cannot name a model: use letters, digits and . _ + - only")
    name = name or _name_of(source)
    if name in BUILT_IN:
        raise ModelError(f"'{name}' is a built-in encoder's name: choose another with --name")
    with writing(models_dir), locked(models_dir, name):
        record = _local_source(source, _states(files), sha256_of(files))
        return _install(source, models_dir, name, record)


def resolve(spec: str, models_dir: Path) -> Path:
    """Return the path of the safetensors of ``spec``: a model's name, the beginning of one, or a checkpoint's path.

    A checkpoint is converted into ``models_dir`` once, under its name and the first digits of its digest; later calls
    return that while the file keeps its size and mtime. Raises ModelError.
    """
    if _is_path(spec, models_dir):
        return _resolve_path(_absolute(Path(spec)), models_dir)
    models = installed(models_dir)
    found = [model for model in models if model.name == spec]
    found = found or [model for model in models if spec and model.encoder_id and model.name.startswith(spec)]
    if len(found) > 1:
        raise ModelError(f"model {spec!r} may be {', '.join(model.name for model in found)}: give more of the name")
    if not found:
        if known(spec):
            raise ModelError(f"model {spec} is not installed: run `indexer models download {spec}`")
        raise ModelError(
            f"no model {spec!r} is installed{nearest(spec, [model.name for model in models])}: see "
            "`indexer models list`, then `indexer models download NAME` or `indexer models add FILE`"
        )
    (model,) = found
    if model.encoder_id is None:
        raise ModelError(
            f"model {model.name} cannot be used ({model.problem}): remove {model.path.parent} and install it again"
        )
    return model.path


def _is_path(spec: str, models_dir: Path) -> bool:
    if not spec:
        return False
    if os.sep in spec or spec.startswith(("~", ".")):
        return True
    try:
        return not (models_dir / spec).is_dir() and (spec.lower().endswith(_SUFFIXES) or Path(spec).exists())
    except OSError:  # for example a name that is too long
        return False


def _resolve_path(path: Path, models_dir: Path) -> Path:
    files = _checkpoint_files(path)
    if files[0].suffix.lower() == ".safetensors":
        checkpoints.inspect(files[0])  # raises for a file that is no checkpoint
        return files[0]
    stem = _name_of(path)[:100]
    states = _states(files)
    for folder in sorted(models_dir.glob(f"{stem}-*")):
        source = read_json(folder / SOURCE) or {}
        if source.get("path") == str(path) and source.get("files") == states and _look(folder).encoder_id is not None:
            return folder / WEIGHTS
    sha256 = sha256_of(files)
    name = f"{stem}-{sha256[:8]}"
    with writing(models_dir), locked(models_dir, name, wait=True):
        source = _local_source(path, states, sha256)
        present = _look(models_dir / name)
        record = read_json(models_dir / name / SOURCE) or {}
        if present.encoder_id is not None and record.get("sha256") == sha256:
            write_json(models_dir / name / SOURCE, record | source)  # the same bytes, moved or touched
            return present.path
        return _install(path, models_dir, name, source)


def _install(source: Path, models_dir: Path, name: str, record: dict[str, Any]) -> Path:
    """Convert ``source`` in a temporary folder, then rename that; raises ModelError and OSError."""
    folder = models_dir / name
    staging = models_dir / f".{name}.new"
    shutil.rmtree(staging, ignore_errors=True)  # left by a run that was killed
    try:
        converted = checkpoints.convert(source, staging, name=name)
        write_json(staging / SOURCE, record | {"indexer_version": __version__, "installed_at": _now()})
        found = checkpoints.inspect(converted)
        present = _look(folder)
        same = present.encoder_id == found.encoder_id
        if same and (found.words_id is None or found.words_id == present.words_id):
            return present.path
        if present.encoder_id is not None and not (same and present.words_id is None):
            raise ModelError(
                f"a model {name} with other weights is installed: give this one another --name, or remove {folder}"
            )
        if folder.exists():  # it has no usable model, or one without words; other files in it stay
            (staging / SOURCE).replace(folder / SOURCE)
            converted.replace(folder / WEIGHTS)
        else:
            staging.replace(folder)
        return folder / WEIGHTS
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def trusted_digests(models_dir: Path) -> dict[str, Any]:
    path = models_dir / DIGESTS
    digests = read_json(path)
    if digests is None and path.exists():  # to ignore a damaged record would be to trust any file
        raise ModelError(f"{path} is damaged: mend it, or remove it to trust every next download like a first one")
    return digests or {}


def check_digest(models_dir: Path, name: str, sha256: str, trusted: str | None) -> None:
    if trusted not in (None, sha256):
        raise ModelError(
            f"{name} is not the file that was downloaded before "
            f"(sha256 {sha256[:16]}..., then {str(trusted)[:16]}...): "
            f"if you trust the new one, remove {name} from {models_dir / DIGESTS} and download again"
        )


def record_digest(models_dir: Path, name: str, sha256: str) -> None:
    with locked(models_dir, DIGESTS, wait=True):
        write_json(models_dir / DIGESTS, trusted_digests(models_dir) | {name: sha256})


def _absolute(path: Path) -> Path:
    """The path; of a file that is published in a folder together with others, that folder. Raises ModelError."""
    try:
        return checkpoints.whole(path.expanduser().absolute())
    except RuntimeError as error:
        raise ModelError(f"{path}: there is no such user") from error


def _checkpoint_files(source: Path) -> list[Path]:
    """Return ``source``, or the checkpoint in the folder ``source``, as a list. Raises ModelError."""
    try:
        return _files_below(source)
    except OSError as error:
        raise ModelError(f"cannot read {source}: {error.strerror}") from error


def _files_below(source: Path) -> list[Path]:
    if (published := checkpoints.published_files(source)) is not None:
        return published
    if source.is_dir():
        # The converted form is preferred to the pickle it was made from.
        files = [source / WEIGHTS] if (source / WEIGHTS).is_file() else sorted(source.rglob("*.pth"))
        if len(files) != 1:
            raise ModelError(f"{source} holds {len(files)} .pth files where one is expected: name the file itself")
        return files
    if not source.exists():
        raise ModelError(f"{source} does not exist: give a .pth, .zip or .safetensors file, or a folder with one")
    if not source.is_file() or source.suffix.lower() not in _SUFFIXES:
        raise ModelError(f"{source} is not a checkpoint: give a .pth, .zip or .safetensors file, or a folder with one")
    return [source]


def _states(files: list[Path]) -> list[list[Any]]:
    """Return [path, size, mtime_ns] of each file; a file with the same values counts as unchanged."""
    return [[str(file), file.stat().st_size, file.stat().st_mtime_ns] for file in files]


def _local_source(source: Path, states: list[list[Any]], sha256: str) -> dict[str, Any]:
    return {"path": str(source), "files": states, "size": sum(size for _, size, _ in states), "sha256": sha256}


def _name_of(source: Path) -> str:
    """Return a model's name from a path; the folder's name for a file called checkpoint-300 or the like."""
    stem = source.name if source.is_dir() or source.suffix.lower() not in _SUFFIXES else source.stem
    if not source.is_dir() and _NAMELESS.fullmatch(stem):
        stem = source.parent.name
    name = re.sub(r"[^A-Za-z0-9._+-]+", "_", stem).lstrip("._+-")[:120]
    return name or "model"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
