"""How often the key is right, beside Essentia's edma, on tracks of known key; with FILES, how often both agree.

    python -m tests.benchmarks.bench_key [--seeds 20] [--seconds 45] [--tunes FOLDER] [FILE ...]

Known keys have the synthesised tracks of the demo (all in minor, tuned at random; the techno is nearly atonal) and,
with --tunes, folk tunes with the key their editors wrote down, played as electronic music (tests/benchmarks/tunes.py).
The weighted score is MIREX's: 1 for the key, 0.5 a fifth away, 0.3 the relative, 0.2 the parallel key; a track that is
given no key scores 0. Essentia is AGPL and no dependency: `pip install --target DIR essentia`, PYTHONPATH=DIR.

The five fitted constants of indexer/analysis/key.py come from 75 synthesised tracks of even seeds below 30 and 85 tunes
of music21's corpus (of 170, every second), by maximum likelihood of the right key. Seeds here begin at 1000; tunes may
be among those 85, in another key, tuning, tempo and timbre.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from indexer.analysis.camelot import Key, parse_key
from indexer.analysis.key import KeyMeter
from indexer.encoders import synthesis
from indexer.files.audio.decode import decode
from tests.benchmarks.tunes import play, tunes_in

FIRST_SEED = 1000
MAX_TUNES = 100
RATE_HZ = synthesis.SAMPLE_RATE_HZ

Estimate = tuple[Key | None, float]  # with its confidence


def ours(sound: np.ndarray) -> Estimate:
    meter = KeyMeter(RATE_HZ)
    for start in range(0, len(sound), RATE_HZ):
        meter.push(sound[start : start + RATE_HZ])
    found = meter.finish()
    return (parse_key(found.camelot), found.confidence) if found else (None, 0.0)


def edma() -> Callable[[np.ndarray], Estimate] | None:
    """Essentia's KeyExtractor with the profile edma; None where it is not installed."""
    try:
        import essentia
        from essentia.standard import KeyExtractor
    except ImportError:
        return None
    essentia.log.infoActive = essentia.log.warningActive = False
    extract = KeyExtractor(profileType="edma")

    def estimate(sound: np.ndarray) -> Estimate:
        tonic, scale, strength = extract(sound)
        return parse_key(f"{tonic} {scale}"), strength

    return estimate


def weighted(true: Key, found: Key | None) -> float:
    """MIREX's score of one estimate."""
    if found is None:
        return 0.0
    step = (found.tonic - true.tonic) % 12
    if found.minor == true.minor:
        return {0: 1.0, 5: 0.5, 7: 0.5}.get(step, 0.0)
    return 0.3 if found.number == true.number else 0.2 if step == 0 else 0.0


def synthesised(seeds: int, seconds: float) -> Iterator[tuple[str, np.ndarray, Key]]:
    for genre in synthesis.GENRES:
        for seed in range(FIRST_SEED, FIRST_SEED + seeds):
            pitch = 9 + 12 * np.log2(synthesis.track_tonic_hz(genre, seed) / 440)
            sound = synthesis.make_track(genre, seed, seconds).mean(axis=1)
            yield genre, sound, Key(round(pitch) % 12, True)


def tunes(folder: Path, seconds: float) -> Iterator[tuple[str, np.ndarray, Key]]:
    """Half of them in minor, drawn at random."""
    found = list(tunes_in(folder))
    for is_minor in (True, False):
        some = [tune for tune in found if tune.key.minor == is_minor]
        for n in np.random.default_rng(7).permutation(len(some))[: MAX_TUNES // 2]:
            sound, key = play(some[n], FIRST_SEED + int(n), seconds)
            yield f"tunes in {'minor' if is_minor else 'major'}", sound, key


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE")
    parser.add_argument("--seeds", type=int, default=20, help="synthesised tracks a genre")
    parser.add_argument("--seconds", type=float, default=45.0)
    parser.add_argument("--tunes", type=Path, metavar="FOLDER", help="of ABC files")
    args = parser.parse_args()
    ways = {"ours": ours}
    reference = edma()
    if reference is None:
        print("Essentia is not installed: only our own estimates are shown", file=sys.stderr)
    else:
        ways["edma"] = reference
    scores: dict[str, dict[str, list[float]]] = {}
    cpu_s, heard_s = dict.fromkeys(ways, 0.0), 0.0
    by_confidence: list[tuple[float, float]] = []
    none = 0

    def measure(sound: np.ndarray) -> dict[str, Estimate]:
        nonlocal heard_s
        heard_s += len(sound) / RATE_HZ
        found = {}
        for name, way in ways.items():
            began_s = time.process_time()
            found[name] = way(sound)
            cpu_s[name] += time.process_time() - began_s
        return found

    def tracks() -> Iterator[tuple[str, np.ndarray, Key]]:
        if not args.files:
            yield from synthesised(args.seeds, args.seconds)
        if args.tunes:
            yield from tunes(args.tunes, args.seconds)

    for kind, sound, true in tracks():
        for name, (key, confidence) in measure(sound).items():
            score = weighted(true, key)
            scores.setdefault(kind, {}).setdefault(name, []).append(score)
            if name == "ours":
                none += key is None
                if key is not None:
                    by_confidence.append((confidence, score))
    for path in args.files:
        found = measure(np.concatenate(list(decode(path, sample_rate_hz=RATE_HZ))))
        (key, confidence), (other, _) = found["ours"], found.get("edma", (None, 0.0))
        names = [k.camelot if k else "none" for k in (key, other)]
        print(f"{names[0]:5} {confidence:.2f}  edma {names[1]:5} {path}")
        none += key is None
        if key is not None and other is not None:
            scores.setdefault("agreement with edma", {}).setdefault("ours", []).append(weighted(other, key))
            by_confidence.append((confidence, weighted(other, key)))
    whole: dict[str, list[float]] = {name: [] for name in ways}
    for kind, by_way in scores.items():
        for name, values in by_way.items():
            whole[name] += values
            print(f"{kind:20} {name:5} {_figures(values)}")
    for name, values in whole.items():
        if values:
            print(f"{'all':20} {name:5} {_figures(values)}")
    for low, high in ((0.0, 0.3), (0.3, 0.5), (0.5, 0.7), (0.7, 1.01)):
        values = [score for confidence, score in by_confidence if low <= confidence < high]
        if values:
            print(f"confidence {low:.1f} to {min(high, 1):.1f}    ours  {_figures(values)}")
    print(
        f"no key: {none} tracks; CPU s a minute: " + ", ".join(f"{n} {s / heard_s * 60:.3f}" for n, s in cpu_s.items())
    )


def _figures(scores: list[float]) -> str:
    values = np.array(scores)
    return f"exact {100 * np.mean(values == 1):3.0f} %, weighted {100 * values.mean():3.0f} %, of {len(values)}"


if __name__ == "__main__":
    main()
