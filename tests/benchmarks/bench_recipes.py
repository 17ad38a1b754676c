"""How often heads are right with 5, 10, 50 labels a genre and all: our recipe, the paper's, scikit-learn's regression.

    python -m tests.benchmarks.bench_recipes [--encoder NAME] [--units 12] [--seeds 3] [FOLDER FOLDER ...]

Each FOLDER holds the tracks of one label, such as a soundtrack. Without folders: the demo's library with its truth,
which is SYNTHETIC music, artists apart. All learn from the same rows and judge the same folds. scikit-learn's
LogisticRegression stands there with the C that its own five folds choose, and with the one that proves best in
hindsight, which nobody can know beforehand. It is no dependency: where it is missing its rows are left out, and said
so. Times are processor seconds of one training.
"""

import argparse
import csv
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch

from indexer.cli.progress import Progress
from indexer.config import Settings
from indexer.encoders.encoder import track_vector
from indexer.encoders.load import load_encoder
from indexer.heads import evaluation
from indexer.heads.head import softmax
from indexer.heads.recipes import train
from indexer.heads.training import Data, TrainingSettings
from indexer.learn.train import RECIPES
from indexer.upkeep.demo import demo
from tests.benchmarks.bench_labels import units_of

ENDINGS = (".ogg", ".mp3", ".flac")
LABELLED = (5, 10, 50, None)  # labels a genre; None: all
FOLDS = 5
STRENGTHS_C = 10.0 ** np.arange(-4.5, 0.1, 0.5)
CHOSEN_C = "scikit-learn, C by folds"


def from_folders(folders: list[Path], encoder_name: str, units: int, kept: Path | None) -> Data:
    """A row a track, its folder the label; nearly the same recordings share a group. ``kept``: as --vectors."""
    if kept and kept.exists():
        found = np.load(kept)
        return _grouped(found["vectors"], found["y"], tuple(map(str, found["labels"])))
    encoder = load_encoder(encoder_name, device="cpu", precision="fp32")
    rows, y = [], []
    for label, folder in enumerate(folders):
        for path in sorted(p for p in folder.rglob("*") if p.suffix in ENDINGS):
            some = units_of(path, encoder, units)
            if some:
                rows.append(track_vector(encoder.encode(some), np.asarray([unit.weight for unit in some])))
                y.append(label)
    vectors = np.stack(rows).astype(np.float16)
    names = tuple(map(str, folders))
    if kept:
        np.savez(kept, vectors=vectors, y=y, labels=names)
    return _grouped(vectors, np.asarray(y), names)


def _grouped(vectors: np.ndarray, y: np.ndarray, names: tuple[str, ...]) -> Data:
    keys = tuple(map(str, range(len(y))))
    return Data("0" * 64, names, keys, vectors, y, evaluation.near_duplicates(vectors))


def from_demo(encoder_name: str, units: int) -> Data:
    """The demo's tracks with their true genres, in the groups of their made-up artists."""
    with tempfile.TemporaryDirectory() as temp:
        library = Path(temp, "demo")
        demo(Settings(db=library / "library.db", encoder=encoder_name), library, Progress(-1), lambda _: None)
        with (library / "truth.csv").open(newline="", encoding="utf-8") as file:
            truth = {Path(row["path"]): row["genre"] for row in csv.DictReader(file)}
        encoder = load_encoder(encoder_name, device="cpu", precision="fp32")
        names, artists = sorted(set(truth.values())), sorted({path.parent for path in truth})
        rows = []
        for path in truth:
            some = units_of(library / path, encoder, units)
            rows.append(track_vector(encoder.encode(some), np.asarray([unit.weight for unit in some])))
        y = np.asarray([names.index(genre) for genre in truth.values()])
        groups = np.asarray([artists.index(path.parent) for path in truth])
    return Data("0" * 64, tuple(names), tuple(map(str, range(len(y)))), np.stack(rows).astype(np.float16), y, groups)


def theirs(data: Data, vectors: np.ndarray) -> dict[str, np.ndarray]:
    """C -> (rows, labels) logits by scikit-learn's LogisticRegression on standardised rows; none without it."""
    try:
        from sklearn.linear_model import LogisticRegression, LogisticRegressionCV
    except ImportError:
        return {}
    x = data.vectors.astype(np.float64)
    mean, deviation = x.mean(axis=0), x.std(axis=0)
    factor = np.divide(1, deviation, out=np.zeros_like(deviation), where=deviation > 1e-6)
    x = (x - mean) * factor
    basis = np.linalg.qr(x.T)[0]  # weights lie in the span of the rows: the same answer from fewer numbers
    found = {}
    models = {f"scikit-learn, C {c:.1e}": LogisticRegression(C=c, max_iter=300) for c in STRENGTHS_C}
    models[CHOSEN_C] = LogisticRegressionCV(Cs=STRENGTHS_C, cv=5, max_iter=300)
    for name, model in models.items():
        model.fit(x @ basis, data.y)
        said = ((vectors - mean) * factor @ basis) @ model.coef_.T + model.intercept_
        if len(model.classes_) == 2:
            said = np.concatenate([np.zeros_like(said), said], axis=1)
        found[name] = said
    return found


def measure(data: Data, labelled: int | None, seeds: int) -> tuple[int, dict[str, list[tuple[np.ndarray, np.ndarray]]]]:
    """(labels that were learned from, learner -> [(scores, truth) of a fold]); the times are printed."""
    found: dict[str, list[tuple[np.ndarray, np.ndarray]]] = defaultdict(list)
    size, cost_s = 0, defaultdict(list)
    for seed in range(seeds):
        fold, _ = evaluation.make_folds(data.y, data.groups, FOLDS, seed)
        for number in np.unique(fold):
            judged, rows = np.flatnonzero(fold == number), np.flatnonzero(fold != number)
            order = np.random.default_rng([seed, number]).permutation(rows)
            rows = np.sort(np.concatenate([order[data.y[order] == k][:labelled] for k in range(len(data.labels))]))
            size += len(rows)
            truth, some = data.y[judged], data.rows(rows)
            for recipe in RECIPES:
                started = time.process_time()
                head = train(some, TrainingSettings(seed=seed, recipe=recipe), name="bench").head
                cost_s[recipe].append(time.process_time() - started)
                found[recipe].append((head.scores(data.vectors[judged]), truth))
            for name, logits in theirs(some, data.vectors[judged]).items():
                found[name].append((softmax(logits), truth))
    costs = ", ".join(f"{recipe} {np.mean(each):.2f} s" for recipe, each in cost_s.items())
    print(f"\n{labelled or 'all'} labels a genre, {size // (seeds * FOLDS):,} in all; a training takes {costs}")
    return size, found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="*", type=Path)
    parser.add_argument("--encoder", default="rhythm")
    parser.add_argument("--units", type=int, default=12, help="units of a track that stand for all")
    parser.add_argument("--vectors", type=Path, help="where the tracks' vectors are kept for the next time (.npz)")
    parser.add_argument("--seeds", type=int, default=3, help="how often the tracks are dealt into folds")
    options = parser.parse_args()
    torch.set_num_threads(1)
    real = bool(options.folders or options.vectors)
    data = (
        from_folders(options.folders, options.encoder, options.units, options.vectors)
        if real
        else from_demo(options.encoder, options.units)
    )
    largest = np.bincount(data.y).max() / len(data.y)
    print(
        f"{'real' if real else 'SYNTHETIC'} tracks by {options.encoder}: {len(data.y)} of"
        f" {len(data.labels)} labels; the most frequent label is right for {largest:.1%}"
    )
    last = 0
    for labelled in LABELLED:
        size, found = measure(data, labelled, options.seeds)
        if size == last:
            continue
        last = size
        print(f"{'':24} right  balanced  calibration error  log loss")
        hindsight = [name for name in found if name not in (*RECIPES, CHOSEN_C)]
        best = max(hindsight, key=lambda name: _right(found[name]), default=None)
        for name in [*RECIPES, *([CHOSEN_C, best] if best else [])]:
            scores, y = (np.concatenate(parts) for parts in zip(*found[name], strict=True))
            said, sure = scores.argmax(axis=1), scores.max(axis=1)
            loss = -np.log(np.maximum(scores[np.arange(len(y)), y], 1e-12)).mean()
            print(
                f"{name:24} {(said == y).mean():5.1%}  {evaluation.balanced_accuracy(y, said):8.1%}"
                f"  {evaluation.calibration_error(sure, said == y):17.3f}  {loss:8.3f}"
            )
        if not best:
            print("scikit-learn is not installed: its row is left out (pip install scikit-learn)")


def _right(parts: list[tuple[np.ndarray, np.ndarray]]) -> float:
    return float(np.concatenate([scores.argmax(axis=1) == y for scores, y in parts]).mean())


if __name__ == "__main__":
    main()
