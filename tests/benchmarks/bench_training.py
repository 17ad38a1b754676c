"""Training a head on 10,000 embeddings of 3840 numbers by both recipes, beside scikit-learn's SGDClassifier.

    python -m tests.benchmarks.bench_training [ROWS] [EPOCHS]      (default: 10000 100)

All in one run; processor seconds stand beside the clock's, which count what else the machine does. The paper's recipe
and SGDClassifier go through the same standardised rows the same number of times, without early stopping; ours also
splits, calibrates and keeps its checkpoints. scikit-learn is no dependency: where it is missing the ratio is left
out, and said so.
"""

import platform
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from indexer.heads import evaluation, paper, recipes, training

WIDTH, LABELS = 3840, ("ambient", "drum and bass", "house", "techno", "trance")


def made(rows: int, seed: int = 0) -> training.Data:
    """Correlated rows: 200 directions of falling strength, a mean a label, and noise, as float16."""
    rng = np.random.default_rng(seed)
    fixed = np.random.default_rng(99)
    strength = (1 / np.arange(1, 201) ** 0.7).astype(np.float32)
    basis = fixed.standard_normal((200, WIDTH)).astype(np.float32) / 10
    means = fixed.standard_normal((len(LABELS), 200)).astype(np.float32) * 0.35
    y = rng.integers(len(LABELS), size=rows)
    x = ((rng.standard_normal((rows, 200)).astype(np.float32) + means[y]) * strength) @ basis
    x += 0.05 * rng.standard_normal((rows, WIDTH), np.float32)
    return training.Data(
        "0" * 64, LABELS, tuple(f"{i:064x}" for i in range(rows)), x.astype(np.float16), y, np.arange(rows) // 5
    )


def main(rows: int, epochs: int) -> None:
    """Train, time, compare."""
    data, test = made(rows), made(2000, seed=1)
    print(f"{rows:,} x {WIDTH} on one thread of {_processor()}")
    for recipe in ("best", "paper"):
        settings = training.TrainingSettings(epochs=epochs, patience=epochs, recipe=recipe)
        with tempfile.TemporaryDirectory() as folder:
            started, processor_s = time.perf_counter(), time.process_time()
            head = recipes.train(data, settings, name="bench", checkpoint=Path(folder, "state")).head
            ours_s, processor_s = time.perf_counter() - started, time.process_time() - processor_s
        right = evaluation.accuracy(test.y, head.scores(test.vectors).argmax(axis=1))
        what = f", {epochs} epochs" if recipe == "paper" else ""
        print(
            f"recipe {recipe}{what}: {ours_s:.1f} s ({processor_s:.1f} s of processor),"
            f" {right:.1%} of 2,000 unseen made rows right"
        )
    started = time.perf_counter()
    evaluation.near_duplicates(data.vectors)
    print(f"looking for near-duplicates among them: {time.perf_counter() - started:.1f} s")
    try:
        from sklearn.linear_model import SGDClassifier
    except ImportError:
        print("scikit-learn is not installed: no ratio (pip install scikit-learn)")
        return
    parts = paper.split(data, settings)
    mean, scale = paper._standardisation(data.vectors[parts.train], settings.seed)
    x = ((data.vectors[parts.train].astype(np.float32) - mean) * scale).astype(np.float32)
    other = SGDClassifier(
        loss="log_loss",
        learning_rate="constant",
        eta0=settings.learning_rate,
        alpha=0,
        max_iter=epochs,
        tol=None,
        n_jobs=-1,
    )
    started = time.perf_counter()
    other.fit(x, data.y[parts.train])
    theirs_s = time.perf_counter() - started
    right = evaluation.accuracy(
        test.y, other.predict(((test.vectors.astype(np.float32) - mean) * scale).astype(np.float32))
    )
    print(
        f"scikit-learn's SGDClassifier (one against all): {theirs_s:.1f} s, {right:.1%} right;"
        f" the paper's recipe takes {ours_s / theirs_s:.2f} of its time"
    )


def _processor() -> str:
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return names[0].split(":")[1].strip() if names else platform.machine()


if __name__ == "__main__":
    main(*(int(a) for a in sys.argv[1:] or ("10000", "100")))
