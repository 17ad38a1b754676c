"""What the encoder's arithmetic and the number of units do to vectors and to labels, on real music.

    python -m tests.benchmarks.bench_labels [--encoder rhythm|random|PATH] [--precisions bf16 int8] [--units 5 10 20]
    FOLDER FOLDER ...

Each FOLDER holds the tracks of one label, such as a soundtrack. Heads learn from half of the tracks, from the vectors
of all units in the exact arithmetic, and judge the other half by exact and by varied vectors. ``random`` is a ViT-Base
with random weights: its accuracy means nothing, and its deviations are those of random weights.
--emulate computes in integers on a processor that has no instructions for that: slow, and sums may overflow a little.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np

from indexer.encoders.encoder import Encoder, Unit, track_vector
from indexer.encoders.load import DEFAULT, load_encoder
from indexer.encoders.m2d import openvino
from indexer.encoders.m2d.checkpoint import convert
from indexer.files.audio.decode import decode
from indexer.heads.recipes import train
from indexer.heads.training import Data, TrainingSettings
from indexer.listen.units import spread
from tests.helpers import checkpoints

REPEATS = 5  # of the split of the tracks into two halves
FLAGS = "flags : avx512_vnni\n"


def random_vit_base(folder: Path) -> Path:
    """A converted checkpoint of ViT-Base's size."""
    weights = checkpoints.weights(width=768, depth=12)
    return convert(checkpoints.write_pth(folder / "model.pth", checkpoints.published_state(weights)), folder / "out")


def units_of(path: Path, encoder: Encoder, most: int) -> list[Unit]:
    """The units of a track that are not silent, at most so many of them, evenly spread."""
    cutter = encoder.cutter()
    units = [unit for block in decode(path, sample_rate_hz=encoder.sample_rate_hz) for unit in cutter.push(block)]
    return spread(units + cutter.finish(), most)


def encoded(encoder: Encoder, tracks: list[list[Unit]]) -> list[np.ndarray]:
    """(units, width) of every track."""
    rows = encoder.encode([unit for units in tracks for unit in units])
    ends = np.cumsum([len(units) for units in tracks])
    return np.split(rows, ends[:-1])


def means(rows: list[np.ndarray], tracks: list[list[Unit]], chosen: list[list[Unit]]) -> np.ndarray:
    """(tracks, width) from the chosen ones of the units that ``rows`` were made of."""
    found = []
    for vectors, units, few in zip(rows, tracks, chosen, strict=True):
        place = {id(unit): n for n, unit in enumerate(units)}
        found.append(
            track_vector(vectors[[place[id(unit)] for unit in few]], np.asarray([unit.weight for unit in few]))
        )
    return np.stack(found).astype(np.float16)  # as the library keeps them


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cosine of each track's two vectors after the mean of all is removed: without that, all tracks are alike."""
    a, b = (
        a.astype(np.float64) - a.mean(axis=0, dtype=np.float64),
        b.astype(np.float64) - b.mean(axis=0, dtype=np.float64),
    )
    return np.asarray((a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1))


def judged(
    exact: np.ndarray, varied: dict[str, tuple[np.ndarray, np.ndarray]], y: np.ndarray, labels: list[str]
) -> dict[str, list[float]]:
    """Variant -> [share of labels that change, share of right labels before, share after, number of labels].

    varied: variant -> its (exact, varied) vectors.
    """
    tally: dict[str, list[tuple[float, float, float]]] = {name: [] for name in varied}
    for repeat in range(REPEATS):
        order = np.random.default_rng(repeat).permutation(len(y))
        half = np.zeros(len(y), bool)
        for label in range(len(labels)):  # each label's tracks in halves
            half[order[y[order] == label][::2]] = True
        for learned in (half, ~half):
            rows = np.flatnonzero(learned)
            data = Data("", tuple(labels), tuple(map(str, rows)), exact[rows], y[rows], rows)
            head = train(data, TrainingSettings(seed=repeat), name="bench").head
            for name, (before, after) in varied.items():
                a, b = (head.logits(vectors[~learned]).argmax(axis=1) for vectors in (before, after))
                tally[name] += [
                    (float(p != q), float(p == t), float(q == t)) for p, q, t in zip(a, b, y[~learned], strict=True)
                ]
    return {name: [*np.mean(rows, axis=0), float(len(rows))] for name, rows in tally.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--encoder", default=DEFAULT)
    parser.add_argument("--precisions", nargs="*", default=[])
    parser.add_argument("--units", nargs="*", type=int, default=[5, 10, 20, 30])
    parser.add_argument("--most", type=int, default=50, help="units of a track that stand for all")
    parser.add_argument(
        "--compared", type=int, default=4, help="units of a track that are encoded in another arithmetic"
    )
    parser.add_argument("--emulate", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temp:
        source = random_vit_base(Path(temp)) if options.encoder == "random" else options.encoder
        if options.emulate:
            openvino._CPUINFO = Path(temp, "cpuinfo")
            openvino._CPUINFO.write_text(FLAGS)
        encoder = load_encoder(source, device="cpu", precision="fp32")
        files = [
            (label, path)
            for label, folder in enumerate(options.folders)
            for path in sorted(folder.rglob("*"))
            if path.suffix in (".ogg", ".mp3", ".flac")
        ]
        tracks, y = [], []
        for label, path in files:
            units = units_of(path, encoder, options.most)
            if len(units) >= 5:
                tracks.append(units)
                y.append(label)
        rows = encoded(encoder, tracks)
        exact = means(rows, tracks, tracks)
        varied = {
            f"{count} units": (exact, means(rows, tracks, [spread(units, count) for units in tracks]))
            for count in options.units
        }
        few = [spread(units, options.compared) for units in tracks]
        for precision in options.precisions:
            other = load_encoder(source, device="cpu", precision=precision)
            varied[f"{precision} ({other.engine})"] = (means(rows, tracks, few), means(encoded(other, few), few, few))
        found = judged(exact, varied, np.asarray(y), [str(folder) for folder in options.folders])
        print(
            f"{encoder.name}: {len(tracks)} tracks of {len(options.folders)} labels, {sum(map(len, tracks)):,} units,"
            f" at most {options.most} a track; precisions on {options.compared} units a track"
        )
        for name, (before, after) in varied.items():
            cosine = cosines(before, after)
            changed, right, then_right, n = found[name]
            print(
                f"{name:24} centred cosine {cosine.mean():.5f}, worst {cosine.min():.5f};"
                f" labels changed {changed:.1%} of {n:.0f}; right {right:.1%} -> {then_right:.1%}"
            )


if __name__ == "__main__":
    main()
