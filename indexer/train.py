"""`indexer train`: labels and embeddings of the library, a trained head in a file, that head in use.

Owns the order of the steps and what is said about them. The former head stays in use until the new one is on the disk, so
whatever goes wrong before costs nothing. Torch is loaded only after the labels were found good enough.
"""

import json
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from indexer import models, training_data
from indexer.config import Settings
from indexer.errors import ConfigError, ModelError
from indexer.heads import evaluation, load_head
from indexer.labels import SOURCES, Aliases, Labels, gather, read_csv
from indexer.lock import library_lock
from indexer.store import Store

if TYPE_CHECKING:
    from indexer.heads.training import Data, Epoch, Trained, TrainingSettings

MIN_RECORDINGS = 5  # of a label, below which it is not learned: one at least must be left for validation
DEFAULT_NAME = "trained"
HEADS_FOLDER = "heads"  # beside the database
SHOWN_UNMAPPED = 50  # values of a source that the result lists
HONEST = ("These recordings were held out from learning, but they chose when to stop, the temperature and the threshold: "
          "expect somewhat less on music that decided nothing.")


@dataclass(frozen=True, slots=True)
class Request:
    """What the user asked for; None: the default."""

    sources: tuple[str, ...] | None = None
    csv: Path | None = None
    name: str | None = None
    seed: int = 0
    epochs: int = 100
    target_precision: float = 0.9
    resume: bool = False

    def chosen_sources(self) -> tuple[str, ...]:
        """Sources in order of trust: all of the library's, only corrections beside a CSV, or what was asked for."""
        wanted = self.sources or (("corrections",) if self.csv else ("corrections", "tags", "folders"))
        return tuple(s for s in SOURCES if s in wanted or (s == "csv" and self.csv))

    def check(self) -> None:
        """Raise ConfigError for what cannot be."""
        unknown = [s for s in self.sources or () if s not in SOURCES or s == "csv"]
        if unknown:
            raise ConfigError(f"--labels: '{unknown[0]}' is not one of corrections, tags, folders (a CSV comes with --csv FILE)")
        if not 0.5 <= self.target_precision < 1:
            raise ConfigError(f"--target-precision is {self.target_precision}: must be from 0.5 to below 1")
        if not 1 <= self.epochs <= 100_000:
            raise ConfigError(f"--epochs is {self.epochs}: must be from 1 to 100000")
        if not 0 <= self.seed < 2**63:
            raise ConfigError(f"--seed is {self.seed}: must be from 0 to 2^63 - 1")
        if self.name is not None and not re.fullmatch(r"\w[\w .+-]{0,99}", self.name):
            raise ConfigError(f"--name: '{self.name}' must be letters, digits, space, '.', '+', '-' and '_' (at most 100)")


@dataclass
class Gathered:
    """Labelled recordings with embeddings, and what was left out."""

    data: "Data"
    recordings: list[int]  # those of the data's rows
    labels: Labels
    too_few: dict[str, int] = field(default_factory=dict)  # label -> recordings that it has
    not_embedded: int = 0
    damaged: int = 0
    near_duplicates: int = 0


def train(settings: Settings, request: Request, on_epoch: Callable[["Epoch"], None] = lambda _epoch: None) -> dict[str, Any]:
    """Learn a head from the library's labels, save it, and put it in use; returns everything that `train --json` prints.

    Raises ConfigError, ModelError, StoreError or LockedError with one line; then the former head is still in use.
    """
    started = time.monotonic()
    request.check()
    rows = read_csv(request.csv) if request.csv else []
    with library_lock(settings.db), Store(settings.db) as store:
        encoder = _encoder(store, settings)
        folder = settings.db.absolute().parent / HEADS_FOLDER
        if request.name and (folder / f"{request.name}.safetensors").exists():
            raise ConfigError(f"--name: there is a head '{request.name}' already; choose another name")
        labels = gather(training_data.files(store.connection), Aliases(settings.aliases), sources=request.chosen_sources(),
                        corrections=training_data.corrections(store.connection), rows=rows)
        gathered = _collect(store, encoder, labels)
        trained, options = _learn(settings, request, gathered, folder, on_epoch)
        trained, path = _save(store, trained, folder, request.name)
        _put_in_use(store, trained, path, encoder["id"])
        return _result(settings, request, gathered, trained, options, path, encoder["name"], time.monotonic() - started)


def _encoder(store: Store, settings: Settings) -> Any:
    """The row of the encoder whose embeddings are learned from: the named one, else the library's, else the default."""
    row = None if settings.encoder else store.encoder_in_use()
    if row is None:
        chosen = models.choose(replace(settings, head=None), None, None)
        row = store.encoder(chosen.info.encoder_id) if chosen else None
        if row is None:
            name = chosen.info.name if chosen else "any encoder"
            raise ModelError(f"the library holds no embeddings by {name}: run `indexer scan` with it first")
    return row


def _collect(store: Store, encoder: Any, labels: Labels) -> Gathered:
    from indexer.heads.training import Data

    counts = Counter(labels.label_of.values())
    too_few = _too_few(counts, "labelled", _not_understood(labels))
    digests = training_data.digests(store.connection)
    recordings = sorted((r for r, label in labels.label_of.items() if label not in too_few), key=lambda r: digests[r])
    places, vectors, damaged = training_data.vectors(store.connection, encoder["id"], encoder["width"], recordings)
    if not len(places):
        why = "their embeddings are damaged (scan with --force)" if damaged else f"none is embedded by {encoder['name']}: run `indexer scan` first"
        raise ModelError(f"{len(recordings):,} recordings have labels, but {why}")
    found = [recordings[place] for place in places]
    usable = Counter(labels.label_of[r] for r in found)
    too_few |= _too_few(Counter({label: usable[label] for label in counts if label not in too_few}), "labelled and soundly embedded")
    names = tuple(sorted(label for label in usable if label not in too_few))
    keep = np.asarray([i for i, r in enumerate(found) if labels.label_of[r] in names])
    found, vectors = [found[i] for i in keep], vectors[keep]
    first = evaluation.near_duplicates(vectors)
    data = Data(encoder["id"], names, tuple(digests[r] for r in found), vectors, np.asarray([names.index(labels.label_of[r]) for r in found], np.int64),
                _groups([labels.artist_of[r] for r in found], first))
    return Gathered(data, found, labels, too_few, len(recordings) - len(places) - damaged, damaged, int((first != np.arange(len(first))).sum()))


def _not_understood(labels: Labels) -> str:
    """The most frequent texts that mean no label, for the end of a message."""
    texts = [f'"{_shown(text)}"' for values in labels.unmapped.values() for text in list(values)[:4]]
    return f"; not understood, [aliases] can map them: {', '.join(texts)}" if texts else ""


def _too_few(counts: Counter[str], what: str, hint: str = "") -> dict[str, int]:
    """Labels that are left out; raises ModelError when fewer than two remain, with what each one lacks."""
    lacking = {label: n for label, n in sorted(counts.items()) if n < MIN_RECORDINGS}
    good = sorted(set(counts) - set(lacking))
    if len(good) >= 2:
        return lacking
    more = ", ".join(f"{label} {n} ({MIN_RECORDINGS - n} more)" for label, n in lacking.items())
    if not counts:
        raise ModelError(f"no recording has a label: a head needs two genres with {MIN_RECORDINGS} {what} recordings each (tags or folders that name "
                         f"genres, or --csv FILE){hint}")
    if good:
        raise ModelError(f"only '{good[0]}' has enough labels ({counts[good[0]]:,}): a head needs a second genre with {MIN_RECORDINGS} {what} recordings"
                         + (f"; there are: {more}" if more else "") + hint)
    raise ModelError(f"too few labels: two genres need {MIN_RECORDINGS} {what} recordings each; there are: {more}{hint}")


def _groups(artists: Sequence[str], first: np.ndarray) -> np.ndarray:
    """Numbers (n,) that rows share when one artist made them or one nearly repeats the other, also through others."""
    _, number = np.unique(np.asarray(artists, dtype=object).astype(str), return_inverse=True)
    leader = np.arange(number.max(initial=-1) + 1)

    def root(group: int) -> int:
        while leader[group] != group:
            group = int(leader[group])
        return group

    for row in np.flatnonzero(first != np.arange(len(first))):
        a, b = root(int(number[row])), root(int(number[first[row]]))
        leader[max(a, b)] = min(a, b)
    return np.asarray([root(int(group)) for group in number], np.int64)


def _learn(settings: Settings, request: Request, gathered: Gathered, folder: Path,
           on_epoch: Callable[["Epoch"], None]) -> tuple["Trained", "TrainingSettings"]:
    from indexer.heads import training

    options = training.TrainingSettings(seed=request.seed, epochs=request.epochs, target_precision=request.target_precision)
    base = request.name or DEFAULT_NAME
    about = {"sources": list(request.chosen_sources())}
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as e:
        raise ModelError(f"cannot make {folder}: {e.strerror}") from e
    trained = training.train(gathered.data, options, name=base, device=settings.device, checkpoint=folder / f".{base}.training",
                             resume=request.resume, about=about, on_epoch=on_epoch)
    return trained, options


def _save(store: Store, trained: "Trained", folder: Path, name: str | None) -> tuple["Trained", Path]:
    """Write the head under its name, or the first free one; the very same head as before keeps its file."""
    base = name or DEFAULT_NAME
    known = store.head(trained.head.id)
    if known is not None and not name and _same_file(known["source"], trained.head.id):
        return replace(trained, head=replace(trained.head, name=known["name"])), Path(known["source"])
    number = 1
    while (folder / f"{base}.safetensors").exists():
        number += 1
        base = f"{name or DEFAULT_NAME}-{number}"
    trained = replace(trained, head=replace(trained.head, name=base))
    path = folder / f"{base}.safetensors"
    trained.head.save(path)
    return trained, path


def _same_file(source: str | None, head_id: str) -> bool:
    try:
        return bool(source) and load_head(Path(source or "")).id == head_id
    except ModelError:
        return False


def _put_in_use(store: Store, trained: "Trained", path: Path, encoder_id: str) -> None:
    head = trained.head
    counts = head.training["recordings"]
    store.put_head(head.id, name=head.name, kind=head.kind, encoder_id=encoder_id, labels=head.labels, threshold=head.threshold, source=str(path))
    store.describe_head(head.id, trained_on=", ".join(f"{label} {n}" for label, n in counts.items()), metrics=json.dumps(head.training["metrics"]))
    store.use_encoder(encoder_id)
    store.use_head(head.id)


def _result(settings: Settings, request: Request, gathered: Gathered, trained: "Trained", options: "TrainingSettings", path: Path,
            encoder: str, elapsed_s: float) -> dict[str, Any]:
    head, labels, data = trained.head, gathered.labels, gathered.data
    by_source = Counter(labels.source_of[r] for r in gathered.recordings)
    metrics = head.training["metrics"]
    return {
        "head": head.name, "id": head.id, "file": str(path), "encoder": encoder, "labels": head.training["recordings"],
        "recordings": len(data.y), "artists": len(np.unique(data.groups)), "sources": {s: by_source[s] for s in request.chosen_sources()},
        "threshold": head.threshold, "temperature": head.training["settings"]["temperature"], "target_precision": options.target_precision,
        "validation": metrics, "unmapped": {s: dict(list(v.items())[:SHOWN_UNMAPPED]) for s, v in labels.unmapped.items()},
        "contradictions": labels.contradictions, "too_few": gathered.too_few, "not_embedded": gathered.not_embedded, "damaged": gathered.damaged,
        "near_duplicates": gathered.near_duplicates, "csv_rows_unknown": labels.unknown_rows,
        "notes": _notes(settings, gathered, trained, options), "elapsed_s": round(elapsed_s, 3),
    }


def _notes(settings: Settings, gathered: Gathered, trained: "Trained", options: "TrainingSettings") -> list[str]:
    """What the user should know about this head, one line each."""
    notes = []
    for label, n in gathered.too_few.items():
        notes.append(f"'{label}' was not learned: {n} recordings, {MIN_RECORDINGS - n} more needed")
    if gathered.damaged:
        notes.append(f"{gathered.damaged:,} embeddings are damaged (NaN or of another width) and were left out; repair them with `indexer scan --force`")
    if gathered.not_embedded:
        notes.append(f"{gathered.not_embedded:,} labelled recordings are not embedded yet and were left out; `indexer scan` embeds them")
    if trained.not_separated:
        notes.append(f"recordings of {', '.join(repr(label) for label in trained.not_separated)} come from too few artists (or from one folder of unknown "
                     "artists) to part them, so learning and validation share an artist there: the figures flatter")
    if not trained.target_reached:
        notes.append(f"no threshold is shown to reach {options.target_precision:.0%} precision on {trained.head.training['metrics']['recordings']} validation "
                     f"recordings, so genres count as decided from {trained.head.threshold:.0%} confidence; more labels help")
    if settings.head:
        notes.append(f"the setting head = \"{settings.head}\" wins over this head: remove it to use what was learned")
    if settings.min_confidence is not None:
        notes.append(f"the setting min_confidence = {settings.min_confidence} wins over this head's threshold")
    return notes


def report(found: dict[str, Any]) -> str:
    """The result as a person reads it."""
    v = found["validation"]
    lines = [f"learned '{found['head']}' from {found['recordings']:,} recordings of {found['artists']:,} artists, embedded by {found['encoder']}: "
             + ", ".join(f"{label} {n:,}" for label, n in found["labels"].items()),
             "labels from " + ", ".join(f"{source} {n:,}" for source, n in found["sources"].items())]
    lines += [f"  contradictory: {pair}: {n:,}" for pair, n in found["contradictions"].items()]
    if found["csv_rows_unknown"]:
        lines.append(f"  {found['csv_rows_unknown']:,} rows of the CSV name no recording of this library")
    for source, values in found["unmapped"].items():
        shown = ", ".join(f"\"{_shown(text)}\" {n:,}" for text, n in list(values.items())[:8])
        if shown:
            lines.append(f"  {source} that mean no label here ([aliases] can map them): {shown}{', ...' if len(values) > 8 else ''}")
    low, high = v["accuracy_95"]
    lines.append(f"validation: {v['accuracy']:.1%} right (95 %: {low:.0%} to {high:.0%}), balanced {v['balanced_accuracy']:.1%}, on {v['recordings']:,} recordings "
                 f"of {v['artists']:,} artists; best of {v['epochs']} epochs: {v['best_epoch']}")
    lines += [f"  {label:15} recall {_percent(m['recall'])}  precision {_percent(m['precision'])}  of {m['recordings']:,}" for label, m in v["labels"].items()]
    lines.append(f"  decided from {found['threshold']:.1%} confidence: {_percent(v['coverage'])} of them, {_percent(v['precision_decided'])} of those right")
    lines.append(f"  {HONEST}")
    lines += [f"note: {note}" for note in found["notes"]]
    lines.append(f"in use: {found['file']} ({found['elapsed_s']:.1f} s); next: indexer relabel")
    return "\n".join(lines)


def _percent(value: float | None) -> str:
    return "  n/a" if value is None else f"{value:.0%}"


def _shown(text: str) -> str:
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode("ascii") for c in os.fsencode(text).decode("utf-8", "backslashreplace"))
