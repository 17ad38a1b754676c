"""Chooses the encoder and head of a command: named by a flag or setting, else in use, else installed, else built in.

Owns the messages that explain why there are no genres. Never imports torch: an encoder's properties come from the
header of its file, and its weights are loaded when the first recording needs them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from indexer.config import Settings
from indexer.conversion import expanded
from indexer.encoders.checkpoints import inspect
from indexer.encoders.encoder import EncoderInfo, Part, Variant, Words, join
from indexer.encoders.load import BUILT_IN, built_in_info, load_encoder
from indexer.errors import ModelError
from indexer.heads.electronic import Ear, ears
from indexer.heads.head import Head
from indexer.heads.load import audioset_head, load_head
from indexer.library.lock import library_lock
from indexer.library.registered import NOTHING_IN_USE, EncoderInUse, InUse, in_use
from indexer.library.store import Store
from indexer.models import catalogue, texts
from indexer.models.guide import KINDS
from indexer.models.published import KNOWN


@dataclass(frozen=True)
class Model:
    """Encoders, and the head that classifies their joined vectors."""

    parts: tuple[Part, ...]
    head: Head | None
    inputs: tuple[str, ...]  # ids of the vectors that the head takes, in order
    ears: Sequence[Ear] = ()  # what tells more than a genre from the vectors

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids under which what the encoders make of a recording is cached."""
        return tuple(own for part in self.parts for own in part.ids)


WITHOUT_MODEL = (
    "the library's model is not installed any more, so files are indexed without genres: install it again, or choose "
    "another with `indexer models use NAME` (see `indexer models list`)"
)
WITHOUT_HEAD = (
    "no genres yet: {name}, an encoder (sound to numbers), has no head of its own (numbers to a genre). "
    "Label about ten tracks of each and run `indexer train`, or name a head with --head FILE"
)
GUESS_BY_WORDS = "; `indexer train --words` makes a first guess without labels"
WITHOUT_WEIGHTS = (
    "no genres yet: {name}, a built-in encoder (sound to numbers), has no head (numbers to a genre). "
    "Two ways to get them: label about ten tracks of each "
    "and run `indexer train`, or "
    "`indexer models download m2d_as_vit_base-80x1001p16x16-240213_AS-FT_enconly`"
)


@dataclass(frozen=True)
class Chosen:
    """An encoder, and the head to classify with."""

    info: EncoderInfo
    head: Head | None
    head_source: Path | None
    by_default: bool = False  # the built-in encoder, not asked for: an installed model replaces it

    @property
    def inputs(self) -> tuple[str, ...]:
        """The ids of the vectors that the head takes, in order; without a head the encoders' own.

        A head's encoder is the joined one of all parts, or one of the parts' audio vectors.
        """
        words = self.info.with_words(self.head.encoder_id) if self.head else None
        own = tuple(part.encoder_id for part in self.info.parts)
        return (words.words_id,) if words and words.words_id else own

    @property
    def ears(self) -> list[Ear]:
        """What tells more than a genre from the library's vectors."""
        return ears(self.head, tuple(part.encoder_id for part in self.info.parts))


def without_genres(chosen: Chosen | None) -> str | None:
    """One line on why a command gives no genres and what to do; None where it gives genres."""
    if chosen is None:
        return WITHOUT_MODEL
    if chosen.head is not None:
        return None
    reason = WITHOUT_WEIGHTS if all(part.built_in for part in chosen.info.parts) else WITHOUT_HEAD
    by_words = GUESS_BY_WORDS if any(part.words_id for part in chosen.info.parts) else ""
    return reason.format(name=chosen.info.name) + by_words


def choose(settings: Settings, library: InUse = NOTHING_IN_USE) -> Chosen | None:
    """The encoder and head of a command; None when the encoder in use is no longer installed.

    None, because no other encoder may replace it silently. ``library``: the model in use, as a scan, `train` or `models
    use` stored it. Raises ModelError.
    """
    source = expanded(settings.head) if settings.head and settings.head != "audioset" else None
    head = load_head(source) if source else None
    info, by_default = _encoder(settings, library, head)
    if info is None:
        return None
    info = info.varied(_variant(settings, info, library.encoder))
    if head is not None:
        if not _fits(head.encoder_id, info):
            raise ModelError(
                f"{source}: this head was trained for another encoder than {info.name}; name that one with --encoder"
            )
        return Chosen(info, head, source)
    if (
        not settings.head
        and library.head is not None
        and library.head.kind != "audioset"
        and _fits(library.head.encoder_id, info)
    ):
        source = Path(library.head.source)
        return Chosen(info, load_head(source), source)
    if info.head_width is not None:
        source = Path(info.source)
        return Chosen(info, audioset_head(source), source)
    if settings.head == "audioset":
        raise ModelError(
            f"{info.name} carries no AudioSet head: take a fine-tuned checkpoint (see `indexer models list`) "
            "or a trained head"
        )
    return Chosen(info, None, None, by_default)


def _fits(head_encoder_id: str, info: EncoderInfo) -> bool:
    """Whether a head for this encoder id takes what the encoder makes."""
    return info.variant_of(head_encoder_id) is not None or info.with_words(head_encoder_id) is not None


def _variant(settings: Settings, info: EncoderInfo, in_use: EncoderInUse | None) -> Variant:
    """Units and precision of the encoder: from the settings, else as the library used the encoder before.

    A former variant that embedded nothing does not count: perhaps it could not be loaded.
    """
    former = (info.variant_of(in_use.id) if in_use and in_use.embedded else None) or Variant()
    if settings.units is None:
        units = former.units
    elif settings.units == "all":
        units = None
    else:
        units = settings.units
    return Variant(units, former.int8 if settings.precision == "auto" else settings.precision == "int8")


def _encoder(settings: Settings, library: InUse, head: Head | None) -> tuple[EncoderInfo | None, bool]:
    """The encoder, and whether it is a built-in one because there is no other.

    Where none is chosen yet, a head that was named brings the encoder it was trained for. A library that a built-in
    encoder has embedded by default keeps that one, whatever the default is now.
    """
    if settings.encoder:
        return named(settings.encoder, settings.models), False
    if (in_use := library.encoder) is not None:
        return known(in_use.joins or (in_use.id,), settings.models, in_use.names), False
    if head is not None and (own := _with_id(head.encoder_id, settings.models)) is not None:
        return own, False
    usable = [m for m in catalogue.installed(settings.models) if m.problem is None]
    if len(usable) > 1:
        raise ModelError(
            f"several models are installed ({', '.join(m.name for m in usable)}): choose with `indexer models use NAME`"
        )
    if usable:
        return _checkpoint_info(usable[0].path), False
    built_in = [built_in_info(name) for name in BUILT_IN]
    former = [info for info in built_in if any(info.variant_of(made_by) for made_by in library.embedded_by)]
    return former[0] if former else built_in_info(), True


def named(spec: str, models_dir: Path) -> EncoderInfo:
    """The encoder with this name or path, or the one that joins several, separated by '+'.

    Raises ModelError for an encoder that is not installed, or is named twice.
    """
    specs = [spec] if expanded(spec).exists() else [part.strip() for part in spec.split("+")]
    parts = [
        built_in_info(part) if part in BUILT_IN else _checkpoint_info(catalogue.resolve(part, models_dir))
        for part in specs
    ]
    if len({part.encoder_id for part in parts}) < len(parts):
        raise ModelError(f"{spec}: joins an encoder with itself; name two different ones")
    return join(parts)


def known(encoder_ids: Sequence[str], models_dir: Path, names: Sequence[str] = ()) -> EncoderInfo | None:
    """The encoder with this id, in any variant, or the one that joins several ids; None when one is not installed.

    names: which is meant where several have one id, as two checkpoints have whose ways to words alone differ.
    """
    found = [_with_id(encoder_id, models_dir, names) for encoder_id in encoder_ids]
    return join([part for part in found if part]) if all(found) else None


def _with_id(encoder_id: str, models_dir: Path, names: Sequence[str] = ()) -> EncoderInfo | None:
    for name in BUILT_IN:
        info = built_in_info(name)
        if info.variant_of(encoder_id):
            return info
    usable = (_checkpoint_info(model.path) for model in catalogue.installed(models_dir) if model.problem is None)
    fitting = [info for info in usable if _fits(encoder_id, info)]
    meant = (info for info in fitting if (own := info.variant_of(encoder_id)) and info.varied(own).name in names)
    return next(meant, next(iter(fitting), None))


def _checkpoint_info(path: Path) -> EncoderInfo:
    found = inspect(path)
    return EncoderInfo(
        found.encoder_id,
        found.name,
        found.vector_width,
        found.sample_rate_hz,
        found.unit_s,
        found.path,
        found.head_width,
        words=Words(found.words_id, found.words_width) if found.words_id else None,
    )


def register(store: Store, chosen: Chosen) -> None:
    """Store encoder and head in the library and put them in use; an encoder chosen by default is only stored."""
    info, head = chosen.info, chosen.head
    for part in info.parts:
        store.put_encoder(part.encoder_id, name=part.name, width=part.width, unit_s=part.unit_s)
        if part.words and part.words_id:
            store.put_encoder(
                part.words_id,
                name=f"{part.name}, words",
                width=part.words.width,
                unit_s=part.unit_s,
                words_of=part.encoder_id,
            )
    store.put_encoder(
        info.encoder_id, name=info.name, width=info.width, unit_s=info.unit_s, parts=[p.encoder_id for p in info.joins]
    )
    if not chosen.by_default:
        store.use_encoder(info.encoder_id)
    if head is not None:
        store.put_head(
            head.id,
            name=head.name,
            kind=head.kind,
            encoder_id=chosen.inputs[0] if info.with_words(head.encoder_id) else info.encoder_id,
            labels=head.labels,
            threshold=head.threshold,
            source=str(chosen.head_source),
        )
    store.use_head(head.id if head else None)


def pipeline_model(chosen: Chosen, settings: Settings) -> Model:
    """The model for the pipeline; its encoders are loaded when they are first needed."""
    return Model(tuple(part_of(info, settings) for info in chosen.info.parts), chosen.head, chosen.inputs, chosen.ears)


def part_of(info: EncoderInfo, settings: Settings) -> Part:
    """One encoder for an executor, which loads it when it is first needed."""
    precision = "int8" if info.variant.int8 else settings.precision
    return Part(
        info.encoder_id,
        partial(load_encoder, info.source, device=settings.device, precision=precision),
        info.variant.units,
        info.words_id,
    )


def overview(models_dir: Path) -> dict[str, Any]:
    """Which encoder for whom, and the built-in, installed and published models, for `models list`."""
    return {
        "encoders": [kind.facts() for kind in KINDS],
        "built_in": [
            {"name": name, "encoder_id": built_in_info(name).encoder_id, "use": entry.use}
            for name, entry in BUILT_IN.items()
        ],
        "installed": [
            {
                "name": m.name,
                "path": str(m.path),
                "encoder_id": m.encoder_id,
                "size": m.size,
                "source": m.source,
                "licence_accepted": m.licence_accepted,
                "problem": m.problem,
            }
            for m in catalogue.installed(models_dir)
        ],
        "texts": texts.overview(models_dir),
        "published": [model.facts() for model in KNOWN],
    }


def describe(settings: Settings, spec: str) -> dict[str, Any]:
    """The properties of a model that are known without loading it, for `models info`."""
    if spec in BUILT_IN:
        info = built_in_info(spec)
        return {
            "name": info.name,
            "path": None,
            "encoder_id": info.encoder_id,
            "sample_rate_hz": info.sample_rate_hz,
            "unit_s": info.unit_s,
            "vector_width": info.width,
            "head": None,
            "words": None,
        }
    path = catalogue.resolve(spec, settings.models)
    found = inspect(path)
    return {
        "name": found.name,
        "path": str(path),
        "encoder_id": found.encoder_id,
        "source_sha256": found.source_sha256,
        "sample_rate_hz": found.sample_rate_hz,
        "unit_s": found.unit_s,
        "vector_width": found.vector_width,
        **found.facts(),
    }


def use(settings: Settings, spec: str) -> str:
    """Put an encoder and its head in use; returns a line that names them."""
    with library_lock(settings.db), Store(settings.db) as store:
        chosen = choose(replace(settings, encoder=spec), replace(in_use(store.connection), encoder=None))
        assert chosen is not None
        register(store, chosen)
    line = f"in use: {chosen.info.name}, " + (
        f"head {chosen.head.name}" if chosen.head else "no head: genres need one (--head FILE)"
    )
    if settings.encoder and settings.encoder != spec:
        line += (
            f'; but the setting encoder = "{settings.encoder}" wins: change it there, or by `indexer init --encoder`'
        )
    return line


def choose_and_register(store: Store, settings: Settings) -> Chosen | None:
    """Choose the encoder and head of a run, and store them in the library as the ones in use; the label sets, too.

    Raises ConfigError for a label set whose name cannot be a column.
    """
    store.use_sets(list(settings.label_sets))
    chosen = choose(settings, in_use(store.connection))
    if chosen:
        register(store, chosen)
    return chosen
