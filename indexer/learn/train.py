"""`indexer train`: trains a head on the library's labels and embeddings, saves it, and puts it in use.

The former head stays in use until the new one is saved, so a failure before changes nothing. Torch is imported only
once there are enough labels.
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from indexer.config import Settings
from indexer.errors import ConfigError
from indexer.heads.electronic import acoustic_labels
from indexer.heads.linear import LinearHead
from indexer.learn import head_files
from indexer.learn.dataset import MIN_RECORDINGS, Dataset, Features, LabelRequest, collect
from indexer.learn.words import guessed
from indexer.library.facts import electronic
from indexer.library.lock import library_lock
from indexer.library.store import Store
from indexer.wording import count, escaped

if TYPE_CHECKING:
    from indexer.heads.training import Step, Trained, TrainingSettings

DEFAULT_NAME = "trained"
NOVELTY_FOLDS = 5
SHOWN_UNMAPPED = 50  # unknown texts that the result lists for each source
RECIPES = ("best", "paper")  # of heads/recipes.py, which needs torch
HONEST = {
    "best": "Each recording was judged by what did not learn from its artist; then the head learned from all of them. "
    "The judgements also chose the penalty, the temperature and the threshold: expect somewhat less on music that "
    "decided nothing.",
    "paper": "These recordings were held out from learning, but they chose when to stop, the temperature and the "
    "threshold: expect somewhat less on music that decided nothing.",
}


@dataclass(frozen=True, slots=True)
class Request:
    """The options of `indexer train`; None: the default."""

    labels: LabelRequest = LabelRequest()
    name: str | None = None
    recipe: str = RECIPES[0]
    seed: int = 0
    epochs: int = 100
    target_precision: float = 0.9
    resume: bool = False

    @property
    def base_name(self) -> str:
        """The head's name, up to a number that makes it one of its own."""
        return self.name or self.labels.label_set or DEFAULT_NAME

    def check(self) -> None:
        """Raise ConfigError for options that cannot be used."""
        self.labels.check()
        check_numbers(self.seed, self.epochs, self.target_precision)
        head_files.check_name(self.name)


def check_numbers(seed: int, epochs: int, target_precision: float) -> None:
    """Raise ConfigError for options of training that cannot be used."""
    if not 0.5 <= target_precision < 1:
        raise ConfigError(f"--target-precision is {target_precision}: must be from 0.5 to below 1")
    if not 1 <= epochs <= 100_000:
        raise ConfigError(f"--epochs is {epochs}: must be from 1 to 100000")
    if not 0 <= seed < 2**63:
        raise ConfigError(f"--seed is {seed}: must be from 0 to 2^63 - 1")


@dataclass(frozen=True, slots=True, eq=False)
class _Learned:
    """A trained head, and the features it was trained on."""

    features: Features
    trained: "Trained"

    @property
    def metrics(self) -> dict[str, Any]:
        """The metrics on the recordings that were judged."""
        found: dict[str, Any] = self.trained.head.training["metrics"]
        return found


def train(
    settings: Settings, request: Request, on_step: Callable[["Step"], None] = lambda _step: None
) -> dict[str, Any]:
    """Train a head on the library's labels, save it, and put it in use; returns what `train --json` prints.

    Where the settings name no encoder and several have embedded the library, a head is trained for each on the same
    recordings, and for each joined with the built-in one; the one with the lowest log loss is used.
    Raises ConfigError, ModelError, StoreError or LockedError; then the former head is still in use.
    """
    started = time.monotonic()
    request = replace(request, labels=request.labels.resolved(settings))
    request.check()
    with library_lock(settings.db), Store(settings.db) as store:
        store.use_sets(list(settings.label_sets))
        folder = head_files.folder_of(settings)
        if request.name:
            head_files.refuse_taken(folder, request.name)
        dataset = collect(store.connection, settings, request.labels)
        dataset = replace(dataset, features=[*dataset.features, *guessed(store.connection, dataset)])
        learned, options = _learn(settings, request, dataset, folder, on_step)
        best = min(learned, key=lambda one: one.metrics["log_loss"])
        trained = best.trained
        if request.labels.label_set is None:  # whether it sounds electronic says nothing about other labels
            acoustic = acoustic_labels(dataset.names, dataset.y, electronic(store.connection, dataset.recordings))
            trained = replace(trained, head=replace(trained.head, acoustic=acoustic))
        trained, path = _save(store, trained, folder, request)
        _put_in_use(store, replace(best, trained=trained), path, request.labels.label_set)
        return _result(
            settings,
            dataset,
            learned,
            replace(best, trained=trained),
            options,
            path,
            request.labels.label_set,
            time.monotonic() - started,
        )


def _learn(
    settings: Settings, request: Request, dataset: Dataset, folder: Path, on_step: Callable[["Step"], None]
) -> tuple[list[_Learned], "TrainingSettings"]:
    from indexer.heads.recipes import train as by_recipe
    from indexer.heads.training import Data, TrainingSettings

    options = TrainingSettings(
        seed=request.seed,
        target_precision=request.target_precision,
        recipe=request.recipe,
        epochs=request.epochs,
    )
    base = request.base_name
    about: dict[str, Any] = {"sources": list(request.labels.chosen())}
    if request.labels.label_set:
        about["label_set"] = request.labels.label_set
    head_files.make(folder)
    learned = []
    for features in dataset.features:
        data = Data(features.encoder_id, dataset.names, dataset.keys, features.vectors, dataset.y, dataset.groups)
        checkpoint = folder / f".{base}.{features.encoder_id[:8]}{'-words' if features.begun else ''}.training"
        trained = by_recipe(
            data,
            options,
            name=base,
            device=settings.device,
            checkpoint=checkpoint,
            resume=request.resume,
            about=about,
            on_step=on_step,
        )
        if features.begun is not None:
            trained = replace(trained, head=_of_audio_vectors(trained.head, features.begun, dataset, request.seed))
        learned.append(_Learned(features, trained))
    return learned, options


def _of_audio_vectors(head: LinearHead, begun: LinearHead, dataset: Dataset, seed: int) -> LinearHead:
    """A head that learned from the logits of one by words, as a head of audio vectors, (width,) each."""
    from indexer.heads import evaluation, novelty

    (vectors,) = (f.vectors for f in dataset.features if f.encoder_id == begun.encoder_id and f.begun is None)
    fold, _ = evaluation.make_folds(dataset.y, dataset.groups, NOVELTY_FOLDS, seed)
    unlike, _ = novelty.fit_apart(vectors.astype(np.float32), fold, seed=seed)
    weight = head.weight.astype(np.float64) @ begun.weight
    bias = head.weight.astype(np.float64) @ begun.bias + head.bias
    training = {**head.training, "begun_by_words": begun.training}
    return replace(
        head, weight=weight.astype(np.float32), bias=bias.astype(np.float32), unlike=unlike, training=training
    )


def _save(store: Store, trained: "Trained", folder: Path, request: Request) -> tuple["Trained", Path]:
    """Save the head under its name or the first free one; a head that equals a saved one keeps that file."""
    known = None if request.name else head_files.known(store, trained.head.id)
    if known is not None:
        name, path = known
        return replace(trained, head=replace(trained.head, name=name)), path
    path = head_files.free(folder, request.base_name)
    trained = replace(trained, head=replace(trained.head, name=path.stem))
    trained.head.save(path)
    return trained, path


def _put_in_use(store: Store, best: _Learned, path: Path, label_set: str | None) -> None:
    head, features = best.trained.head, best.features
    if len(features.parts) > 1:
        store.put_encoder(
            features.encoder_id,
            name=features.name,
            width=features.vectors.shape[1],
            unit_s=store.encoder_unit_s(features.parts[0]),
            parts=features.parts,
        )
    counts = head.training["recordings"]
    store.put_head(
        head.id,
        name=head.name,
        kind=head.kind,
        encoder_id=head.encoder_id,
        labels=head.labels,
        threshold=head.threshold,
        source=str(path),
    )
    store.describe_head(
        head.id,
        trained_on=", ".join(f"{label} {n}" for label, n in counts.items()),
        metrics=json.dumps(head.training["metrics"]),
    )
    if label_set is not None:
        store.use_set_head(label_set, head.id)
        return
    store.use_encoder(head.encoder_id)
    store.use_head(head.id)


def _result(
    settings: Settings,
    dataset: Dataset,
    learned: list[_Learned],
    best: _Learned,
    options: "TrainingSettings",
    path: Path,
    label_set: str | None,
    elapsed_s: float,
) -> dict[str, Any]:
    head, labels = best.trained.head, dataset.labels
    return {
        "head": head.name,
        "id": head.id,
        "file": str(path),
        "encoder": best.features.name,
        "recipe": options.recipe,
        "labels": head.training["recordings"],
        "recordings": len(dataset.y),
        "artists": len(np.unique(dataset.groups)),
        "sources": dataset.sources(head.training["sources"]),
        "threshold": head.threshold,
        "temperature": head.training["settings"]["temperature"],
        "target_precision": options.target_precision,
        "validation": best.metrics,
        "compared": [
            {
                "encoder": one.features.name,
                **{key: one.metrics[key] for key in ("log_loss", "accuracy", "balanced_accuracy")},
            }
            for one in learned
        ],
        "unmapped": {s: dict(list(v.items())[:SHOWN_UNMAPPED]) for s, v in labels.unmapped.items()},
        "contradictions": labels.contradictions,
        "too_few": dataset.too_few,
        "not_embedded": dataset.not_embedded,
        "damaged": dataset.damaged,
        "near_duplicates": dataset.near_duplicates,
        "csv_rows_unknown": labels.unknown_rows,
        "playlists": labels.playlists,
        "set": label_set,
        "notes": _notes(settings, dataset, best.trained, options, label_set),
        "elapsed_s": round(elapsed_s, 3),
    }


def _notes(
    settings: Settings, dataset: Dataset, trained: "Trained", options: "TrainingSettings", label_set: str | None
) -> list[str]:
    """Notes for the user about this head, one line each."""
    notes = []
    for label, n in dataset.too_few.items():
        notes.append(f"'{label}' was not learned: {n} recordings, {MIN_RECORDINGS - n} more needed")
    if dataset.damaged:
        notes.append(
            f"{dataset.damaged:,} embeddings are damaged (NaN or of another width) and were left out; "
            "repair them with `indexer scan --force`"
        )
    if dataset.not_embedded:
        notes.append(
            f"{dataset.not_embedded:,} labelled recordings are not embedded yet and were left out; "
            "`indexer scan` embeds them"
        )
    if trained.not_separated:
        notes.append(
            f"recordings of {', '.join(repr(label) for label in trained.not_separated)} come from too few artists "
            "(or from one folder of unknown artists) to part them, "
            "so what learns and what is judged share an artist there: the figures flatter"
        )
    if not trained.target_reached:
        notes.append(
            f"no threshold is shown to reach {options.target_precision:.0%} precision on "
            f"{trained.head.training['metrics']['recordings']} validation recordings, "
            f"so {'labels' if label_set else 'genres'} count as decided from {trained.head.threshold:.0%} confidence; "
            "more labels help"
        )
    if label_set is not None:
        own = settings.label_sets[label_set].min_confidence
        if own is not None:
            notes.append(f"the setting sets.{label_set}.min_confidence = {own} wins over this head's threshold")
        return notes
    if settings.head:
        notes.append(f'the setting head = "{settings.head}" wins over this head: remove it to use what was learned')
    if settings.min_confidence is not None:
        notes.append(f"the setting min_confidence = {settings.min_confidence} wins over this head's threshold")
    return notes


def report(found: dict[str, Any]) -> str:
    """The result of ``train`` as text."""
    v = found["validation"]
    of_set = f" for the set {found['set']}" if found["set"] else ""
    lines = [
        f"learned '{found['head']}'{of_set} from {found['recordings']:,} recordings of {found['artists']:,} artists, "
        f"embedded by {found['encoder']}: " + ", ".join(f"{label} {n:,}" for label, n in found["labels"].items()),
        "labels from " + ", ".join(f"{source} {n:,}" for source, n in found["sources"].items()),
    ]
    lines += [f"  contradictory: {pair}: {n:,}" for pair, n in found["contradictions"].items()]
    if found["csv_rows_unknown"]:
        lines.append(f"  {found['csv_rows_unknown']:,} rows of the CSV name no recording of this library")
    if found["playlists"]:
        lines += _of_playlists(found["playlists"])
    for source, values in found["unmapped"].items():
        shown = ", ".join(f'"{escaped(text)}" {n:,}' for text, n in list(values.items())[:8])
        if shown:
            lines.append(
                f"  {source} that mean no label here ([aliases] can map them): {shown}"
                f"{', ...' if len(values) > 8 else ''}"
            )
    low, high = v["accuracy_95"]
    lines.append(
        f"validation: {v['accuracy']:.1%} right (95 %: {low:.0%} to {high:.0%}), "
        f"balanced {v['balanced_accuracy']:.1%}, on {v['recordings']:,} recordings "
        f"of {v['artists']:,} artists; "
        + (f"best of {v['epochs']} epochs: {v['best_epoch']}" if v["epochs"] else f"in {v['folds']} folds")
    )
    lines += [
        f"  {label:15} recall {_percent(m['recall'])}  precision {_percent(m['precision'])}  of {m['recordings']:,}"
        for label, m in v["labels"].items()
    ]
    lines.append(
        f"  decided from {found['threshold']:.1%} confidence: {_percent(v['coverage'])} of them, "
        f"{_percent(v['precision_decided'])} of those right"
    )
    lines.append(f"  {HONEST[found['recipe']]}")
    if len(found["compared"]) > 1:
        lines.append(
            "compared on the same recordings: "
            + ", ".join(f"{c['encoder']} {c['accuracy']:.1%} (log loss {c['log_loss']:.3f})" for c in found["compared"])
            + f"; the lowest log loss is taken: {found['encoder']}"
        )
    lines += [f"note: {note}" for note in found["notes"]]
    lines.append(f"in use{of_set}: {found['file']} ({found['elapsed_s']:.1f} s)")
    return "\n".join(lines)


def _of_playlists(found: dict[str, Any]) -> list[str]:
    """What was found of the playlists, and what was not, a line each."""
    what = f"{count(found['lists'], 'playlist')} in {count(found['files'], 'file')}"
    how = f"{found['by_path']:,} found by path, {found['by_name']:,} by name and length, size or folder"
    lost = f"{found['ambiguous']:,} fit several tracks, {found['unmatched']:,} none"
    lines = [f"  {what}: of {found['entries']:,} entries {how}; {lost}"]
    if found["examples"]:
        lines.append(f"  not found, for example: {found['examples'][0]} (--map HERE=THERE maps folders)")
    lines += [f"  --map {pair} fits none of them" for pair in found["unused_maps"]]
    lines += [f"  {problem}" for problem in found["problems"]]
    if more := found["unread"] - len(found["problems"]):
        lines.append(f"  {count(more, 'file')} more could not be read")
    return lines


def _percent(value: float | None) -> str:
    return "  n/a" if value is None else f"{value:.0%}"
