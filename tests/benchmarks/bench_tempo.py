"""How often a tempo is right, and what it costs: ours by the sound alone and with the genre, librosa's, Essentia's.

    python -m tests.benchmarks.bench_tempo [--seeds 12] [--real FOLDER]

Synthetic tracks of 60 s whose tempo is known; the genres are those that a head predicts which learned from musicnn's
vectors of other tracks. FOLDER: sounds, of which 120 s are heard, with their true tempo at the end of the name, such as
song-128.wav; with ``--render FOLDER`` the demo songs of LMMS and Hydrogen that are installed here are rendered into it
first. Accuracy 1: within 4 % of the truth; Accuracy 2: of it, its double, triple, half or third. librosa and Essentia
are no dependencies; what is missing is left out, and said so. CPU: processor seconds a minute of sound, one thread,
without decoding.
"""

import argparse
import gzip
import importlib
import os
import re
import shutil
import subprocess
import time
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):  # as reader processes have it
    os.environ[_name] = "1"

import numpy as np  # noqa: E402
import soundfile  # noqa: E402
import soxr  # noqa: E402

from indexer.analysis.tempo import TOLERANCE, Tempo, TempoMeter  # noqa: E402
from indexer.analysis.tempo_choice import choose_tempo  # noqa: E402
from indexer.encoders.encoder import track_vector  # noqa: E402
from indexer.encoders.load import load_encoder  # noqa: E402
from indexer.encoders.synthesis import GENRES, SAMPLE_RATE_HZ, make_track, track_tempo_bpm  # noqa: E402
from indexer.heads.head import Head  # noqa: E402
from indexer.heads.recipes import train  # noqa: E402
from indexer.heads.training import Data, TrainingSettings  # noqa: E402

DURATION_S, REAL_S = 60.0, 120.0
FIRST_SEED = 9_000  # of the tracks that are judged
LEARNED_SEEDS, LEARNED_S = range(16), 25.0  # of those that the head learns from
LMMS_FOLDER, HYDROGEN_FOLDER = Path("/usr/share/lmms/projects"), Path("/usr/share/hydrogen/data/demo_songs")


@dataclass
class Track:
    """Mono samples (n,) float32 with their rate in Hz and true tempo; its genre where that is known."""

    name: str
    samples: np.ndarray
    rate_hz: int
    bpm: float
    genre: str | None = None


class Score:
    """Counts over tracks."""

    def __init__(self) -> None:
        self.tracks = self.first = self.second = self.none = 0
        self.cpu_s = self.audio_s = 0.0

    def add(self, track: Track, bpm: float | None, cpu_s: float) -> None:
        self.tracks += 1
        self.none += bpm is None
        self.first += bpm is not None and is_near(bpm, track.bpm)
        self.second += bpm is not None and any(is_near(bpm, track.bpm * ratio) for ratio in (1, 2, 3, 1 / 2, 1 / 3))
        self.cpu_s += cpu_s
        self.audio_s += len(track.samples) / track.rate_hz

    def __str__(self) -> str:
        share = [f"{100 * n / self.tracks:.0f} %" for n in (self.first, self.second)]
        cpu = f"{60 * self.cpu_s / self.audio_s:.3f}" if self.cpu_s else ""
        return f"| {' | '.join([str(self.tracks), *share, str(self.none), cpu])} |"


def is_near(bpm: float, true_bpm: float) -> bool:
    return abs(bpm / true_bpm - 1) < TOLERANCE


def measured(track: Track) -> Tempo | None:
    meter = TempoMeter(track.rate_hz)
    for start in range(0, len(track.samples), track.rate_hz):
        meter.push(track.samples[start : start + track.rate_hz])
    return meter.finish()


def others() -> dict[str, Callable[[Track], float | None]]:
    """The programs that are installed, by name."""
    found: dict[str, Callable[[Track], float | None]] = {}
    try:
        librosa = importlib.import_module("librosa")
        found["librosa"] = lambda track: float(
            np.atleast_1d(librosa.feature.tempo(y=track.samples, sr=track.rate_hz))[0]
        )
    except ImportError as error:
        print(f"left out: librosa is not installed ({error})")
    try:
        essentia = importlib.import_module("essentia")
        essentia.log.infoActive = essentia.log.warningActive = False
        standard = importlib.import_module("essentia.standard")
        for method in ("degara", "multifeature"):
            extract = standard.RhythmExtractor2013(method=method)
            found[f"Essentia ({method})"] = lambda track, extract=extract: float(extract(at_44k(track))[0])
    except ImportError as error:
        print(f"left out: Essentia is not installed ({error})")
    return found


def at_44k(track: Track) -> np.ndarray:
    same = track.rate_hz == 44_100
    return track.samples if same else soxr.resample(track.samples, track.rate_hz, 44_100)


class Genres:
    """A head on musicnn's vectors of synthetic tracks, none of which is judged."""

    def __init__(self) -> None:
        self._encoder = load_encoder("musicnn", device="cpu", precision="fp32")
        rows, y = [], []
        for seed in LEARNED_SEEDS:
            for label, genre in enumerate(GENRES):
                rows.append(self._vector(Track("", make_track(genre, seed, LEARNED_S).mean(1), SAMPLE_RATE_HZ, 0.0)))
                y.append(label)
        keys = tuple(map(str, range(len(y))))
        data = Data("0" * 64, GENRES, keys, np.stack(rows).astype(np.float16), np.array(y), np.arange(len(y)))
        self._head: Head = train(data, TrainingSettings(), name="tempo").head

    def _vector(self, track: Track) -> np.ndarray:
        cutter = self._encoder.cutter()
        heard = soxr.resample(track.samples, track.rate_hz, self._encoder.sample_rate_hz)
        units = [*cutter.push(heard.astype(np.float32)), *cutter.finish()]
        return track_vector(self._encoder.encode(units), np.array([unit.weight for unit in units]))

    def predicted(self, track: Track) -> dict[str, float]:
        """Label -> probability."""
        return dict(zip(self._head.labels, self._head.scores(self._vector(track)[None])[0].tolist(), strict=True))


def synthetic(seeds: Iterable[int]) -> Iterator[Track]:
    for seed in seeds:
        for genre in GENRES:
            samples = make_track(genre, seed, DURATION_S).mean(1)
            yield Track(f"{genre} {seed}", samples, SAMPLE_RATE_HZ, track_tempo_bpm(genre, seed), genre)


def real(folder: Path) -> Iterator[Track]:
    for path in sorted(folder.iterdir()):
        if match := re.search(r"-(\d+(?:\.\d+)?)\.(wav|flac|ogg|mp3)$", path.name):
            samples, rate_hz = soundfile.read(path, dtype="float32", always_2d=True)
            yield Track(path.name, samples[: int(REAL_S * rate_hz)].mean(1), rate_hz, float(match[1]))


def render(folder: Path) -> None:
    """Make the demo songs of LMMS and Hydrogen into sounds, with the tempo of the project in the name."""
    folder.mkdir(parents=True, exist_ok=True)
    songs = [*LMMS_FOLDER.rglob("*.mmpz"), *HYDROGEN_FOLDER.glob("*.h2song")]
    if not songs:
        print("left out: neither LMMS nor Hydrogen with their demo songs is installed")
    for song in sorted(songs):
        bpm = project_bpm(song)
        out = folder / f"{song.stem}-{bpm:g}.wav"
        lmms = ["lmms", "--allowroot", "render", str(song), "-f", "wav", "-s", "44100", "-o"]
        hydrogen = ["h2cli", "-s", str(song), "-d", "null", "-o"]
        command = lmms if song.suffix == ".mmpz" else hydrogen
        if out.exists() or not shutil.which(command[0]):
            continue
        part = folder / f"part-{song.stem}.wav"
        environment = {**os.environ, "QT_QPA_PLATFORM": "offscreen"}
        done = subprocess.run([*command, str(part)], env=environment, capture_output=True, timeout=600, check=False)
        print(f"rendered {song.name}" if not done.returncode else f"left out: {song.name} ({command[0]} failed)")
        if not done.returncode:
            part.replace(out)


def project_bpm(song: Path) -> float:
    """The tempo that a project of LMMS (Qt's zlib behind four bytes) or Hydrogen (XML, sometimes gzip) names."""
    raw = song.read_bytes()
    if song.suffix == ".mmpz":
        text = zlib.decompress(raw[4:]).decode(errors="replace")
    else:
        text = (gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw).decode(errors="replace")
    match = re.search(r'bpm="([\d.]+)"|<bpm>([\d.]+)', text)
    assert match, song
    return float(match[1] or match[2])


def judge(tracks: Iterable[Track], genres: Genres | None, programs: dict[str, Callable[[Track], float | None]]) -> None:
    """Print a table: a row for each way, and each track that ours reads wrongly."""
    scores: dict[str, Score] = defaultdict(Score)
    sure: list[tuple[float, bool]] = []
    for track in tracks:
        measured(Track("", track.samples[: track.rate_hz], track.rate_hz, 0.0))  # warms up
        began_s = time.process_time()
        found = measured(track)
        cpu_s = time.process_time() - began_s
        ways = {"ours, by the sound alone": {}}
        if genres and track.genre:
            ways |= {"ours, with the predicted genre": genres.predicted(track)}
            ways |= {"ours, with the true genre": {track.genre: 1.0}}
        for way, probabilities in ways.items():
            chosen = choose_tempo(found, probabilities)
            scores[way].add(track, chosen.bpm if chosen else None, cpu_s)
        last = next(reversed(ways))
        chosen = choose_tempo(found, ways.get("ours, with the predicted genre", ways[last]))
        if chosen is not None:
            sure.append((chosen.confidence, is_near(chosen.bpm, track.bpm)))
        if chosen is None or not is_near(chosen.bpm, track.bpm):
            print(f"  {track.name}: {track.bpm:.1f} is read as {f'{chosen.bpm:.1f}' if chosen else 'none'}")
        for name, program in programs.items():
            began_s = time.process_time()
            bpm = program(track)
            scores[name].add(track, bpm, time.process_time() - began_s)
    print("| | tracks | Accuracy 1 | Accuracy 2 | none | CPU s/min |\n|---|---|---|---|---|---|")
    for way, score in scores.items():
        print(f"| {way} {score}")
    for low, high in ((0.0, 0.5), (0.5, 0.8), (0.8, 0.95), (0.95, 1.01)):
        right = [is_right for confidence, is_right in sure if low <= confidence < high]
        if right:
            print(f"  of {len(right)} with a confidence from {low} to {min(1, high)}: {sum(right)} right")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=12)
    parser.add_argument("--real", type=Path)
    parser.add_argument("--render", type=Path)
    options = parser.parse_args()
    programs = others()
    for program in programs.values():  # imports and compiles
        program(Track("", make_track("house", 0, 10.0).mean(1), SAMPLE_RATE_HZ, 0.0))
    if options.render:
        render(options.render)
    genres = Genres()
    judged = list(synthetic(range(FIRST_SEED, FIRST_SEED + options.seeds)))
    print(f"\nSynthetic, not ambient, {DURATION_S:.0f} s")
    judge([track for track in judged if track.genre != "ambient"], genres, programs)
    print("\nSynthetic ambient")
    judge([track for track in judged if track.genre == "ambient"], genres, programs)
    if folder := options.real or options.render:
        print(f"\nReal: {folder}")
        judge(real(folder), None, programs)


if __name__ == "__main__":
    main()
