"""`indexer evaluate`: measures how well heads recognise this library's genres, on recordings not used for training.

Decides which learners are compared, on which recordings, and what the report contains. Changes nothing in the library.
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from indexer import __version__
from indexer.config import Settings
from indexer.errors import ConfigError, IndexerError, ModelError
from indexer.files.children.limits import Limits
from indexer.learn import report
from indexer.learn.dataset import MIN_RECORDINGS, Dataset, Features, LabelRequest, collect
from indexer.learn.train import check_numbers
from indexer.learn.words import guessed
from indexer.library.facts import one_file_of_each
from indexer.library.readonly import open_readonly
from indexer.library.sqlite import Reader, now

if TYPE_CHECKING:
    from indexer.heads.crossvalidation import Learner
    from indexer.heads.training import Data, TrainingSettings

DEFAULT_REPORT = "evaluation.html"  # beside the database
SPECTROGRAMS_FOLDER = "spectrograms"  # beside the database
SPECTROGRAMS_SHARE = 0.3  # share of the progress bar that spectrograms take, with --cnn
CNN_STEPS = 20  # training the CNN once counts as many steps of the progress bar as this many linear heads

Progress = Callable[[str, float], None]  # (step in progress, share that is done, 0 to 1)


@dataclass(frozen=True, slots=True)
class Request:
    """The options of `indexer evaluate`; None: the default."""

    labels: LabelRequest = field(default_factory=LabelRequest)
    folds: int = 5
    held_out: float | None = None
    cnn: bool = False
    seed: int = 0
    epochs: int = 100
    target_precision: float = 0.9
    report: Path | None = None

    def check(self) -> None:
        """Raise ConfigError for options that cannot be used."""
        self.labels.check()
        check_numbers(self.seed, self.epochs, self.target_precision)
        if not 2 <= self.folds <= 100:
            raise ConfigError(f"--folds is {self.folds}: must be from 2 to 100")
        if self.held_out is not None and not 0.05 <= self.held_out <= 0.9:
            raise ConfigError(f"--held-out is {self.held_out}: must be from 0.05 to 0.9")
        if self.report is not None and self.report.suffix not in (".html", ".htm"):
            raise ConfigError(f"--report: {self.report} must end in .html (the JSON is written beside it)")


def evaluate(settings: Settings, request: Request, progress: Progress = lambda _what, _share: None) -> dict[str, Any]:
    """Compare the learners, write the report (HTML, and JSON beside it), and return what `evaluate --json` prints.

    Raises ConfigError, ModelError or StoreError, and IndexerError where the report cannot be written.
    """
    started = time.monotonic()
    request = replace(request, labels=request.labels.resolved(settings))
    request.check()
    label_set = request.labels.label_set
    name = f"evaluation-{label_set}.html" if label_set else DEFAULT_REPORT
    target = request.report or settings.db.absolute().parent / name
    conn = open_readonly(settings.db)
    try:
        whole = collect(conn, settings, request.labels)
        dataset = whole.rows(np.flatnonzero(whole.first == np.arange(len(whole.first))))
        dataset = replace(dataset, features=[*dataset.features, *guessed(conn, dataset)])
        notes: list[str] = []
        clips = None
        if request.cnn:
            dataset, clips = _with_spectrograms(conn, settings, dataset, notes, progress)
        _refuse_too_few(dataset)
        found = _measure(settings, request, dataset, clips, notes, progress)
    finally:
        conn.close()
    found |= {
        "version": __version__,
        "made": now(),
        "set": label_set,
        "library": {
            "recordings": len(dataset.y),
            "artists": len(np.unique(dataset.groups)),
            "labels": dataset.counts(),
            "sources": dataset.sources(request.labels.chosen()),
            "near_duplicates_removed": whole.near_duplicates,
            "not_embedded": whole.not_embedded,
            "damaged": whole.damaged,
            "too_few": whole.too_few,
            "contradictions": whole.labels.contradictions,
            "playlists": whole.labels.playlists,
        },
        "method": {
            "folds": None if request.held_out else request.folds,
            "held_out": request.held_out,
            "seed": request.seed,
            "target_precision": request.target_precision,
            "epochs": request.epochs,
        },
        "elapsed_s": round(time.monotonic() - started, 3),
    }
    found["report"] = str(target)
    _write(target, report.to_html(found))
    _write(target.with_suffix(".json"), json.dumps(found, indent=1))
    return found


def _refuse_too_few(dataset: Dataset) -> None:
    """Raise ModelError where near-duplicates and undecodable files leave a label with too few recordings."""
    lacking = {label: n for label, n in dataset.counts().items() if n < MIN_RECORDINGS}
    if lacking:
        few = ", ".join(f"{label} {n} ({MIN_RECORDINGS - n} more)" for label, n in lacking.items())
        raise ModelError(f"without near-duplicates and unreadable files too few recordings are left to judge by: {few}")


def _with_spectrograms(
    reader: Reader, settings: Settings, dataset: Dataset, notes: list[str], progress: Progress
) -> tuple[Dataset, list[np.ndarray]]:
    """The data set without recordings that cannot be decoded, and the clips; all learners use the same recordings."""
    from indexer.learn import spectrograms

    folder = settings.db.absolute().parent / SPECTROGRAMS_FOLDER
    key_of = dict(zip(dataset.recordings, dataset.keys, strict=True))
    paths = {key_of[recording]: path for recording, path in one_file_of_each(reader, dataset.recordings).items()}
    done = 0

    def step() -> None:
        nonlocal done
        done += 1
        progress("spectrograms", SPECTROGRAMS_SHARE * done / len(paths))

    made, _ = spectrograms.make_all(paths, folder, settings.worker_count(), Limits.of(settings), step)
    keep = np.flatnonzero(np.isin(dataset.keys, made))
    if len(keep) < len(dataset.keys):
        notes.append(
            f"{len(dataset.keys) - len(keep):,} recordings have no file that can be decoded now and were left out"
        )
    dataset = dataset.rows(keep)
    return dataset, spectrograms.load(folder, dataset.keys)


def _measure(
    settings: Settings,
    request: Request,
    dataset: Dataset,
    clips: list[np.ndarray] | None,
    notes: list[str],
    progress: Progress,
) -> dict[str, Any]:
    """Cross-validate every learner: {learners, best, learning_curve, notes}."""
    from indexer.heads import crossvalidation, evaluation
    from indexer.heads.training import Data, TrainingSettings

    options = TrainingSettings(seed=request.seed, epochs=request.epochs, target_precision=request.target_precision)
    y, groups = dataset.y, dataset.groups
    if request.held_out is None:
        fold, loose = evaluation.make_folds(y, groups, request.folds, request.seed)
    else:
        fold, loose = evaluation.hold_out(y, groups, request.held_out, request.seed)
    notes += _notes(dataset, loose)
    folds = int(fold.max()) + 1
    begun = SPECTROGRAMS_SHARE if clips else 0.0
    judgements_each = len(dataset.features) + sum(features.begun is not None for features in dataset.features) + 1
    steps = folds * judgements_each + len(crossvalidation.CURVE_SHARES) + (CNN_STEPS * folds if clips else 0)
    done = 0

    def step(what: str, size: int = 1) -> None:
        nonlocal done
        done += size
        progress(what, begun + (1 - begun) * done / steps)

    def judged(learner: "Learner", name: str, features: Features | None, recipe: str | None) -> dict[str, Any]:
        pooled = crossvalidation.cross_validate(learner, fold, lambda: step(name, 1 if features else CNN_STEPS))
        return {
            "name": name,
            "kind": ("linear" if recipe else "words") if features else "cnn",
            "encoder": features.name if features else None,
            "width": features.vectors.shape[1] if features else None,
            "recipe": recipe,
            **crossvalidation.figures(pooled, y, groups, dataset.names, request.seed),
        }

    data = [Data(f.encoder_id, dataset.names, dataset.keys, f.vectors, y, groups) for f in dataset.features]
    learners = [crossvalidation.linear(d, options, settings.device) for d in data]
    judgements = [
        judged(learner, f"{f.name} + linear", f, options.recipe)
        for learner, f in zip(learners, dataset.features, strict=True)
    ]
    order = sorted(range(len(data)), key=lambda n: -judgements[n]["balanced_accuracy"])
    rows, best = [judgements[n] for n in order], order[0]
    curve = crossvalidation.learning_curve(
        learners[best], y, groups, fold, request.seed, lambda: step("learning curve")
    )
    learned = round(float(np.mean([(fold != number).sum() for number in range(folds)])))
    curve.append({"recordings": learned, **{key: rows[0][key] for key in ("accuracy", "accuracy_95")}})
    paper = crossvalidation.linear(data[best], replace(options, recipe="paper"), settings.device)
    features = dataset.features[best]
    rows.append(judged(paper, f"{features.name} + paper's recipe", features, "paper"))
    rows += [judged(_by_words(f.vectors), f"{f.name}, no label", f, None) for f in dataset.features if f.begun]
    if clips:
        rows.append(judged(_cnn(clips, data[0], options, settings.device), "CNN", None, None))
    return {"learners": rows, "best": rows[0]["name"], "learning_curve": curve, "notes": notes}


def _by_words(logits: np.ndarray) -> "Learner":
    """A learner that learns nothing: what a head by words says, whose logits (n, labels) are given."""
    from indexer.heads.crossvalidation import Fold

    return lambda _learned, judged: Fold(logits[judged].astype(np.float64), 1.0, 1.0)


def _cnn(clips: list[np.ndarray], data: "Data", options: "TrainingSettings", device: str) -> "Learner":
    """A learner that trains the CNN, with the same validation recordings as the linear heads."""
    from indexer.heads import cnn, evaluation
    from indexer.heads.crossvalidation import Fold
    from indexer.heads.paper import split

    def learn(learned: np.ndarray, judged: np.ndarray) -> Fold:
        parts = split(data.rows(learned), options)
        validation = learned[parts.validation]
        trained = cnn.train_cnn(
            clips,
            data.y,
            learned[parts.train],
            validation,
            len(data.labels),
            cnn.CnnSettings(seed=options.seed),
            device,
        )
        scores = trained.scores([clips[row] for row in validation])
        threshold, _ = evaluation.choose_threshold(
            scores.max(axis=1), scores.argmax(axis=1) == data.y[validation], options.target_precision
        )
        return Fold(trained.logits([clips[row] for row in judged]), trained.temperature, threshold)

    return learn


def _notes(dataset: Dataset, loose: list[int]) -> list[str]:
    """Notes on the limits of the figures, one line each."""
    notes = []
    if loose:
        names = ", ".join(repr(dataset.names[i]) for i in loose)
        notes.append(
            f"recordings of {names} come from too few artists (or one folder of unknown artists) to keep artists apart"
            ": the figures flatter"
        )
    artists = len(np.unique(dataset.groups))
    if artists < 20:
        notes.append(f"only {artists} artists: the intervals are wide, and rough")
    return notes


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as e:
        raise IndexerError(
            f"{path}: the report cannot be written ({e.strerror}); name another place with --report"
        ) from e
