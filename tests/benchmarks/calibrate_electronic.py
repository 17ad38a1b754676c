"""How well "electronic at all?" tells: misses and false alarms for each kind of recording, before and after.

    python -m tests.benchmarks.calibrate_electronic [--packages DIR] [--seconds 60]

Without options: synthesised tracks, noise, silence, and speech where espeak-ng is installed. With --packages also real
recordings: DIR/NAME holds what `dpkg-deb -x` takes out of the Debian package NAME, see ``SOURCES`` (600 MB in all,
`apt-get download` fetches them; music.pk3 of nexuiz-music is a zip to be unpacked). Each recording is heard from 20 s
on for --seconds.

*Before* is the check that a trained head has without this evidence: what is unlike its training music. It is fitted on
all electronic sources; for one of these, on the others. *After*: what either of them holds back. Held back is right for
what is not electronic (else: a miss), wrong for what is (a false alarm). A source counts as what its makers made it;
nobody listened track by track. docs/accuracy.md shows what it printed.
"""

import argparse
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np

from indexer.encoders import synthesis
from indexer.encoders.load import load_encoder
from indexer.encoders.musicnn.frontend import SAMPLE_RATE_HZ
from indexer.errors import FileError
from indexer.files.audio.decode import decode
from indexer.heads import novelty
from indexer.heads.electronic import LIMIT, ears

FROM_S = 20.0  # past the introduction, where a recording is long enough
SMALLEST_BYTES = 100_000  # shorter files are effects of a game
SYNTHESISED = "synthesised"
TEXT = Path(__file__).parents[2] / "docs" / "safety.md"  # what is spoken
VOICES = ("en", "en-us", "de", "fr", "es", "it", "en+f3", "en+m3", "de+f2", "pl", "pt", "sv")
# kind -> (whether it is electronic, {package: names of its recordings})
SOURCES: dict[str, tuple[bool, dict[str, tuple[str, ...]]]] = {
    "singularity: ambient, electronica": (True, {"singularity-music": ("*.ogg",)}),
    "freedroidrpg: electronica": (True, {"freedroidrpg-data": ("sound/music/*.ogg",)}),
    "wizznic: dance": (True, {"wizznic-data": ("*.ogg",)}),
    "nexuiz: industrial, trance": (True, {"nexuiz-music": ("*.ogg",)}),
    "starfighter: electronica": (True, {"starfighter-data": ("music/*.ogg",)}),
    "shooters by Kenta Cho: techno": (
        True,
        {f"{game}-data": ("*.ogg",) for game in ("gunroar", "noiz2sa", "parsec47", "rrootage", "torus-trooper")},
    ),
    "wesnoth: orchestra": (False, {"wesnoth-1.16-music": ("*.ogg",)}),
    "drascula: orchestra, piano, band": (False, {"drascula-music": ("audio/*.ogg",)}),
    "freedink: chamber music, piano": (False, {"freedink-data": ("*.ogg",)}),
    "fretsonfire: rock, metal": (False, {f"fretsonfire-songs-{by}": ("song.ogg",) for by in ("sectoid", "muldjord")}),
    "lincity: field recordings": (False, {"lincity-ng-data": ("sounds/*.wav",)}),
    "freedroidrpg, asterisk: voices": (
        False,
        {"freedroidrpg-data": ("titles/*.ogg",), "asterisk-core-sounds-en-wav": ("*.wav",)},
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packages", type=Path)
    parser.add_argument("--seconds", type=float, default=60.0)
    options = parser.parse_args()
    (ear,) = ears(None, ())
    found: dict[str, tuple[bool, np.ndarray]] = {}
    for kind, electronic, recordings in kinds(options.packages):
        vectors = [embedded(recording, options.seconds) for recording in recordings]
        kept = [vector for vector in vectors if vector is not None]
        if kept:
            found[kind] = electronic, np.stack(kept)
    unlike = before(found)
    print(f"{'kind':34} {'recordings':>10} {'median':>7} {'before':>9} {'alone':>9} {'after':>9}")
    totals = {True: np.zeros(4, int), False: np.zeros(4, int)}
    for kind, (electronic, vectors) in sorted(found.items(), key=lambda item: not item[1][0]):
        values = np.array([heard.electronic for heard in ear.hear(vectors)])
        below = values < LIMIT
        counts = np.array([len(vectors), unlike[kind].sum(), below.sum(), (unlike[kind] | below).sum()])
        totals[electronic] += counts
        print(row(kind, electronic, counts, f"{np.median(values):.2f}"))
    for electronic, counts in totals.items():
        print(row("all electronic" if electronic else "all others", electronic, counts, ""))
    print(
        f"wrong of all: before, `electronic` alone (below {LIMIT}), after both; electronic ones held back, others not"
    )


def row(kind: str, electronic: bool, counts: np.ndarray, median: str) -> str:
    """A line: how many of a kind each check gets wrong."""
    n = counts[0]
    wrong = counts[1:] if electronic else n - counts[1:]
    return f"{kind:34} {n:10} {median:>7} " + " ".join(f"{w:4} {w / n:4.0%}" for w in wrong)


def before(found: dict[str, tuple[bool, np.ndarray]]) -> dict[str, np.ndarray]:
    """By kind: which recordings (n,) are unlike the electronic ones, of other kinds where it is electronic itself."""

    def fitted(kinds: list[str]) -> novelty.Novelty:
        fold = np.repeat(np.arange(len(kinds)), [len(found[kind][1]) for kind in kinds])
        return novelty.fit_apart(np.concatenate([found[kind][1] for kind in kinds]), fold, seed=0)[0]

    music = [kind for kind, (electronic, _) in found.items() if electronic]
    if len(music) < 3:  # nothing to learn from beside the one that is judged
        return {kind: np.zeros(len(vectors), bool) for kind, (_, vectors) in found.items()}
    everything = fitted(music)
    return {
        kind: (fitted([other for other in music if other != kind]) if electronic else everything).distance(vectors) > 1
        for kind, (electronic, vectors) in found.items()
    }


def embedded(samples: Iterator[np.ndarray], seconds: float) -> np.ndarray | None:
    """The vector of a recording's blocks of 16 kHz; None where it cannot be read, or has less than a second."""
    encoder = load_encoder("musicnn")
    try:
        audio = np.concatenate([np.zeros(0, np.float32), *islice(samples, round((FROM_S + seconds) / 10.0))])
    except FileError:
        return None
    first = round(FROM_S * SAMPLE_RATE_HZ)
    audio = audio[first:] if len(audio) >= 2 * first else audio[: round(seconds * SAMPLE_RATE_HZ)]
    if len(audio) < SAMPLE_RATE_HZ:
        return None
    cutter = encoder.cutter()
    return np.asarray(encoder.encode([*cutter.push(audio), *cutter.finish()]).mean(axis=0))


def kinds(packages: Path | None) -> Iterator[tuple[str, bool, Iterator[Iterator[np.ndarray]]]]:
    """(kind, whether it is electronic, the blocks of each recording)."""
    for genre in synthesis.GENRES:
        yield f"{SYNTHESISED}: {genre}", True, (synthesised(genre, seed) for seed in range(1000, 1006))
    yield "noise, hum, silence", False, (iter([samples]) for samples in noises())
    if espeak := shutil.which("espeak-ng"):
        yield "espeak: voices", False, (spoken(espeak, place) for place in range(len(VOICES)))
    for kind, (electronic, places) in SOURCES.items() if packages else ():
        assert packages is not None
        files = [
            path
            for package, patterns in places.items()
            for pattern in patterns
            for path in sorted((packages / package).rglob(pattern))
            if path.stat().st_size >= SMALLEST_BYTES
        ]
        yield kind, electronic, (decode(bytes(path)) for path in files)


def synthesised(genre: str, seed: int) -> Iterator[np.ndarray]:
    """One of the demo's tracks, 30 s."""
    yield from through_file(lambda path: write(path, synthesis.make_track(genre, seed, 30.0)))


def write(path: Path, samples: np.ndarray) -> None:
    import soundfile

    soundfile.write(path, samples, synthesis.SAMPLE_RATE_HZ)


def spoken(espeak: str, place: int) -> Iterator[np.ndarray]:
    """One voice that reads a page, each from another place on."""
    text = TEXT.read_text(encoding="utf-8").replace("`", "")[300 * place :][:900]
    command = [espeak, "-v", VOICES[place], "-s", str(120 + 8 * place), "-w"]
    yield from through_file(lambda path: subprocess.run([*command, str(path), text], check=True))


def through_file(write_to: object) -> Iterator[np.ndarray]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.wav"
        write_to(path)  # type: ignore[operator]
        yield from decode(bytes(path))


def noises() -> Iterator[np.ndarray]:
    """White, pink and brown noise, loud and quiet; hum, a tone, the noise of a converter, nothing: 30 s at 16 kHz."""
    rng = np.random.default_rng(0)
    n = 30 * SAMPLE_RATE_HZ
    seconds = np.arange(n) / SAMPLE_RATE_HZ
    for exponent in (0.0, 0.5, 1.0):
        spectrum = np.fft.rfft(rng.standard_normal(n)) / np.maximum(np.arange(n // 2 + 1), 1) ** exponent
        noise = np.fft.irfft(spectrum, n)
        yield from ((noise / np.abs(noise).max() * level).astype(np.float32) for level in (0.1, 0.9))
    hum = sum(np.sin(2 * np.pi * 50 * k * seconds) / k for k in (1, 2, 3, 5))
    for sound in (0.2 * np.asarray(hum), 0.3 * np.sin(2 * np.pi * 1000 * seconds), 1e-4 * rng.standard_normal(n)):
        yield sound.astype(np.float32)
    yield np.zeros(n, np.float32)


if __name__ == "__main__":
    main()
