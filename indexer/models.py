"""Which encoder and head a command works with: named by a flag or setting, chosen by `models use`, or the only one there is.

Never loads torch: an encoder's numbers come from its file's header, its weights when the first recording needs them.
"""

from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from indexer.config import Settings
from indexer.encoders import load_encoder
from indexer.errors import ModelError
from indexer.heads import Head, audioset_head, load_head
from indexer.lock import library_lock
from indexer.m2d import catalogue
from indexer.m2d.checkpoint import CheckpointInfo, inspect
from indexer.pipeline import Model
from indexer.store import Store

WITHOUT_MODEL = (
    "no model is installed, so files are indexed without genres; see `indexer models list`, "
    "or name a checkpoint with --encoder PATH"
)
WITHOUT_HEAD = "{name} has no head of its own, so embeddings are stored without genres; name a head with --head FILE"


@dataclass(frozen=True)
class Chosen:
    """An encoder's file with its header, and the head to classify with."""

    info: CheckpointInfo
    head: Head | None
    head_source: Path | None


def choose(settings: Settings, encoder_in_use: str | None = None, head_in_use: Any = None) -> Chosen | None:
    """The model of a command, or None when none is installed.

    encoder_in_use: id that `models use` stored; head_in_use: its row of ``heads``. Raises ModelError with what to do.
    """
    path = _encoder_file(settings, encoder_in_use)
    if path is None:
        return None
    info = inspect(path)
    if settings.head and settings.head != "audioset":
        head, source = load_head(Path(settings.head).expanduser()), Path(settings.head).expanduser()
        if head.encoder_id != info.encoder_id:
            raise ModelError(f"{source}: this head was trained for another encoder than {info.name}; name that one with --encoder")
        return Chosen(info, head, source)
    if not settings.head and head_in_use is not None and head_in_use["encoder_id"] == info.encoder_id and head_in_use["kind"] == "linear":
        source = Path(head_in_use["source"])
        return Chosen(info, load_head(source), source)
    if info.head_width is not None:
        return Chosen(info, audioset_head(path), path)
    if settings.head == "audioset":
        raise ModelError(f"{info.name} carries no AudioSet head: take a fine-tuned checkpoint (see `indexer models list`) or a trained head")
    return Chosen(info, None, None)


def _encoder_file(settings: Settings, encoder_in_use: str | None) -> Path | None:
    if settings.encoder:
        return catalogue.resolve(settings.encoder, settings.models)
    usable = [m for m in catalogue.installed(settings.models) if m.problem is None]
    for model in usable:
        if model.encoder_id == encoder_in_use:
            return model.path
    if len(usable) > 1:
        raise ModelError(f"several models are installed ({', '.join(m.name for m in usable)}): choose with `indexer models use NAME`")
    return usable[0].path if usable else None


def register(store: Store, chosen: Chosen) -> None:
    """Write encoder and head into the library and make them the ones in use."""
    info, head = chosen.info, chosen.head
    store.put_encoder(info.encoder_id, name=info.name, width=info.geometry.vector_width, unit_s=info.unit_s)
    store.use_encoder(info.encoder_id)
    if head is not None:
        store.put_head(head.id, name=head.name, kind=head.kind, encoder_id=info.encoder_id, labels=head.labels,
                       threshold=head.threshold, source=str(chosen.head_source))
    store.use_head(head.id if head else None)


def pipeline_model(chosen: Chosen, settings: Settings) -> Model:
    """What the pipeline needs to know, with loading postponed."""
    info = chosen.info
    return Model(info.encoder_id, info.name, info.front_end.sample_rate_hz, info.unit_s,
                 partial(load_encoder, info.path, device=settings.device, precision=settings.precision), chosen.head)


def overview(models_dir: Path) -> dict[str, Any]:
    """Installed and published models, for `models list`."""
    return {
        "installed": [{"name": m.name, "path": str(m.path), "encoder_id": m.encoder_id, "size": m.size, "source": m.source,
                       "licence_accepted": m.licence_accepted, "problem": m.problem} for m in catalogue.installed(models_dir)],
        "published": [{"name": m.name, "tag": m.tag, "use": m.use, "about_mb": m.about_mb} for m in catalogue.KNOWN],
    }


def describe(settings: Settings, spec: str) -> dict[str, Any]:
    """Everything a checkpoint's header says of it, for `models info`."""
    path = catalogue.resolve(spec, settings.models)
    info = inspect(path)
    return {
        "name": info.name, "path": str(path), "encoder_id": info.encoder_id, "source_sha256": info.source_sha256,
        "sample_rate_hz": info.front_end.sample_rate_hz, "unit_s": info.unit_s, "vector_width": info.geometry.vector_width,
        "front_end": asdict(info.front_end), "geometry": asdict(info.geometry),
        "head": f"audioset ({info.head_width} inputs)" if info.head_width else None,
    }


def use(settings: Settings, spec: str) -> str:
    """Make an encoder, and the head that goes with it, the library's; returns a line that says which."""
    with library_lock(settings.db), Store(settings.db) as store:
        chosen = choose(replace(settings, encoder=spec), None, store.head_in_use())
        assert chosen is not None
        register(store, chosen)
    return f"in use: {chosen.info.name}, " + (f"head {chosen.head.name}" if chosen.head else "no head: genres need one (--head FILE)")
