"""How often two encodings of one track are found, and two tracks called the same: the figures of docs/dj.md.

    python -m tests.benchmarks.bench_duplicates [--real FOLDER] [--tracks 40] [--seconds 60] [--scan [--encoder X]]

Tracks are those in a folder, evenly chosen, or synthesised ones. ffmpeg makes six encodings of each, with silence
before them and at other volumes. Fingerprints of all pairs are aligned as a scan does it, without asking their lengths;
so are those of all tracks in the folder. With --scan a whole scan of the encodings is judged, too: by embedding, length
and alignment. judge_bandwidth.py measures how often `lossy_suspect` is right.
"""

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import soundfile

from indexer.analysis.fingerprint import FingerprintMeter, aligned
from indexer.encoders.synthesis import GENRES, SAMPLE_RATE_HZ, make_track
from indexer.files.audio.decode import listen
from indexer.library.vectors.same_sound import NEAR_LENGTH_S

SOUNDS = {".flac", ".mp3", ".ogg", ".opus", ".wav", ".m4a", ".aiff"}
# Name -> (ending, options of ffmpeg, gain in dB, silence before it in s)
ENCODINGS = {
    "FLAC": (".flac", "-c:a flac -ar 44100", 0, 0.0),
    "FLAC at 48 kHz": (".flac", "-c:a flac -ar 48000", -3, 0.5),
    "MP3 128": (".mp3", "-c:a libmp3lame -b:a 128k", -8, 0.3),
    "MP3 320": (".mp3", "-c:a libmp3lame -b:a 320k", 4, 1.0),
    "Opus 96": (".opus", "-c:a libopus -b:a 96k", 0, 2.0),
    "AAC 128": (".m4a", "-c:a aac -b:a 128k", -2, 0.1),
}


def encode(track: Path, seconds: float, folder: Path) -> list[Path]:
    """The encodings of a track's first seconds; its name begins theirs."""
    folder.mkdir()
    made = []
    for name, (ending, options, gain_db, silence_s) in ENCODINGS.items():
        out = folder / f"{name}{ending}"
        sound = f"volume={gain_db}dB,adelay={round(1000 * silence_s)}:all=1"
        command = f"ffmpeg -v error -nostdin -t {seconds} -i {shlex.quote(str(track))} -map 0:a -map_metadata -1"
        subprocess.run([*shlex.split(f"{command} -af {sound} {options}"), str(out)], check=True)
        made.append(out)
    return made


def fingerprint(path: Path, seconds: float) -> np.ndarray:
    """The words (n,) of a file's first seconds."""
    meter: FingerprintMeter | None = None
    heard = 0

    def hear(mono: np.ndarray, _channels: np.ndarray, rate_hz: int) -> None:
        nonlocal meter, heard
        meter = meter or FingerprintMeter(rate_hz)
        if heard < seconds * rate_hz:
            meter.push(mono)
        heard += len(mono)

    for heard_s in listen(str(path), hear):
        if heard_s > seconds:
            break
    found = meter.finish() if meter else None
    return np.array(found.words if found else (), "<u2")


def compare(title: str, words: Sequence[np.ndarray], track_of: Sequence[int], names: Sequence[str]) -> None:
    """Align all pairs and print how many are called the same, of those of one track and of the others."""
    agreements: list[float] = []  # of one track, and in the ten seconds that agree least
    weakest: list[float] = []
    called = {True: 0, False: 0}
    told = {True: 0, False: 0}
    began_s, pairs = time.process_time(), 0
    wrong = []
    apart = 0.0  # the highest agreement of two tracks that are told apart
    for a, b in combinations(range(len(words)), 2):
        pairs += 1
        of_one = track_of[a] == track_of[b]
        found = aligned(words[a], words[b], NEAR_LENGTH_S)
        if found is None:
            continue
        told[of_one] += 1
        called[of_one] += found.is_same
        if not (of_one or found.is_same):
            apart = max(apart, found.agreement)
        if of_one:
            agreements.append(found.agreement)
            weakest.append(found.weakest)
        if found.is_same != of_one:
            wrong.append((found, names[a], names[b]))
    took_ms = 1000 * (time.process_time() - began_s) / max(pairs, 1)
    print(f"{title}: {pairs:,} pairs, {took_ms:.3f} ms of computing each")
    for of_one, what in ((True, "of one track"), (False, "of two tracks")):
        if told[of_one]:
            edges = (
                f"agreement at least {min(agreements):.3f}, in the worst ten seconds {min(weakest):.3f}"
                if of_one
                else f"the others agree in {apart:.3f} at most"
            )
            print(f"  {what}: {called[of_one]:,} of {told[of_one]:,} called the same; {edges}")
    for found, a, b in wrong[:20]:
        print(f"  {'called the same' if found.is_same else 'missed'}: {a} | {b}"
              f" (agreement {found.agreement:.3f}, weakest {found.weakest:.3f})")  # fmt: skip


def scan(music: Path, work: Path, encoder: str | None, pairs: tuple[int, int]) -> None:
    """Scan the encodings and print what `indexer duplicates` makes of them. ``pairs``: of one track, of two."""
    indexer = [sys.executable, "-m", "indexer"]
    library = ["--db", str(work / "library.db"), "--config", str(work / "config.toml")]
    (work / "config.toml").touch()
    chosen = ["--encoder", encoder] if encoder else []
    began_s = time.monotonic()
    subprocess.run([*indexer, "scan", str(music), "--no-tags", "-q", *chosen, *library], check=True)
    took_s = time.monotonic() - began_s
    answer = subprocess.run([*indexer, "duplicates", "--json", *library], check=True, capture_output=True)
    found, false = 0, []
    for group in json.loads(answer.stdout)["groups"]:
        for a, b in combinations([Path(copy["path"]) for copy in group["copies"]], 2):
            if a.parent == b.parent:
                found += 1
            else:
                false.append((a, b))
    print(f"a whole scan with {encoder or 'the default encoder'} ({took_s:.0f} s): {found:,} of {pairs[0]:,} pairs of"
          f" one track found, {len(false):,} of {pairs[1]:,} of two")  # fmt: skip
    for a, b in false[:20]:
        print(f"  called the same: {a} | {b}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--real", type=Path, metavar="FOLDER", help="tracks to encode, instead of synthesised ones")
    parser.add_argument("--tracks", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=60.0, help="of each track, at most")
    parser.add_argument("--scan", action="store_true")
    parser.add_argument("--encoder", help="of the scan")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        if options.real:
            tracks = sorted(p for p in options.real.rglob("*") if p.suffix.lower() in SOUNDS)
        else:
            tracks = []
            for n in range(options.tracks):
                tracks.append(work / f"{GENRES[n % len(GENRES)]} {n}.wav")
                soundfile.write(
                    tracks[-1], make_track(GENRES[n % len(GENRES)], 500 + n, options.seconds), SAMPLE_RATE_HZ
                )
        every = max(1, len(tracks) // options.tracks)
        (work / "music").mkdir()
        groups = [
            encode(track, options.seconds, work / "music" / f"{n:03d}")
            for n, track in enumerate(tracks[::every][: options.tracks])
        ]
        encodings = [(n, path) for n, group in enumerate(groups) for path in group]
        began_s = time.process_time()
        words = [fingerprint(path, options.seconds + 3) for _, path in encodings]
        minutes = len(words) * options.seconds / 60
        print(f"decoding and fingerprints: {(time.process_time() - began_s) / minutes:.3f} s of computing a minute")
        names = [f"{tracks[::every][n]} {path.name}" for n, path in encodings]
        compare(f"{len(ENCODINGS)} encodings of {len(groups)} tracks", words, [n for n, _ in encodings], names)
        originals = [fingerprint(track, options.seconds) for track in tracks]
        compare(f"all {len(tracks)} tracks", originals, range(len(tracks)), [str(track) for track in tracks])
        if options.scan:
            of_one = len(groups) * len(ENCODINGS) * (len(ENCODINGS) - 1) // 2
            scan(work / "music", work, options.encoder, (of_one, len(words) * (len(words) - 1) // 2 - of_one))


if __name__ == "__main__":
    main()
