"""`indexer demo`: synthesises a small library and runs the whole program on it.

Owns the demo's folder, names and messages. The demo shows that the program works on this machine; the music is
synthetic, so no figure from it says anything about real music.
"""

import csv
import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr

from indexer.config import Settings
from indexer.encoders.load import BUILT_IN
from indexer.encoders.synthesis import GENRES, SAMPLE_RATE_HZ, make_track
from indexer.errors import ConfigError, StoreError
from indexer.files.children.start import without_interrupts
from indexer.learn.dataset import LabelRequest
from indexer.learn.evaluate import Request as EvaluationRequest
from indexer.learn.evaluate import evaluate
from indexer.learn.train import Request, train
from indexer.library.readonly import open_readonly
from indexer.library.tracks import classified_by_path
from indexer.models.choice import choose
from indexer.scan.outcome import Listener
from indexer.scan.relabel import relabel
from indexer.scan.run import Scan

TRACKS_PER_GENRE = 12
ARTISTS_PER_GENRE = 6
DURATION_S = (20.0, 30.0)
ALBUM = "indexer demo"
# ending -> libsndfile's format and subtype, and the sample rate of the file
FORMATS = {
    ".mp3": ("MP3", "MPEG_LAYER_III", SAMPLE_RATE_HZ),
    ".flac": ("FLAC", "PCM_16", SAMPLE_RATE_HZ),
    ".ogg": ("OGG", "VORBIS", SAMPLE_RATE_HZ),
    ".opus": ("OGG", "OPUS", 48_000),
    ".wav": ("WAV", "PCM_16", SAMPLE_RATE_HZ),
    ".aiff": ("AIFF", "PCM_16", SAMPLE_RATE_HZ),
}
_NAMES = ("Nova", "Delta", "Pulse", "Vector", "Echo", "Lumen", "Orbit", "Static", "Prism", "Cobalt")
_MORE = ("System", "Garden", "Unit", "Theory", "Machine", "Harbour")


@dataclass(frozen=True)
class Track:
    """One file of the demo."""

    path: Path
    genre: str
    seed: int
    duration_s: float
    title: str
    artist: str
    labelled: bool  # its tag holds the genre


def plan_tracks(folder: Path) -> list[Track]:
    """Plan TRACKS_PER_GENRE tracks of each genre, half of them labelled; an artist's tracks are all labelled or none.

    libsndfile writes no tags into AIFF files, so these are among the unlabelled.
    """
    rng = np.random.default_rng(1)
    tracks = []
    for g, genre in enumerate(GENRES):
        for n in range(TRACKS_PER_GENRE):
            labelled = n < TRACKS_PER_GENRE // 2
            endings = [e for e in FORMATS if not (labelled and e == ".aiff")]
            seed = 100 * g + n
            artist = f"{_NAMES[(2 * g + n // 2) % len(_NAMES)]} {_MORE[n * ARTISTS_PER_GENRE // TRACKS_PER_GENRE]}"
            title = f"Study {seed:03}"
            tracks.append(
                Track(
                    folder / artist / f"{title}{endings[n % len(endings)]}",
                    genre,
                    seed,
                    float(rng.uniform(*DURATION_S)),
                    title,
                    artist,
                    labelled,
                )
            )
    return tracks


def write_track(track: Track) -> Path:
    """Synthesise and encode one track with its tags."""
    container, subtype, sample_rate_hz = FORMATS[track.path.suffix]
    samples = make_track(track.genre, track.seed, track.duration_s)
    if sample_rate_hz != SAMPLE_RATE_HZ:
        samples = soxr.resample(samples, SAMPLE_RATE_HZ, sample_rate_hz)
    with soundfile.SoundFile(track.path, "w", sample_rate_hz, 2, subtype, format=container) as file:
        if container != "MP3":
            file.title, file.artist, file.album = track.title, track.artist, ALBUM
            if track.labelled:
                file.genre = track.genre.title()
        for start in range(0, len(samples), sample_rate_hz):  # libsndfile's Vorbis encoder crashes on long pieces
            file.write(samples[start : start + sample_rate_hz])
    if container == "MP3":
        track.path.write_bytes(id3_tag(track) + track.path.read_bytes())
    return track.path


def id3_tag(track: Track) -> bytes:
    """An ID3v2.3 tag with padding: libsndfile gives an MP3 only an ID3v1 tag, which has no room for our fields."""
    texts = {
        "TIT2": track.title,
        "TPE1": track.artist,
        "TALB": ALBUM,
        **({"TCON": track.genre.title()} if track.labelled else {}),
    }
    frames = b"".join(
        name.encode() + (1 + len(text)).to_bytes(4, "big") + b"\0\0\0" + text.encode("latin-1")
        for name, text in texts.items()
    )
    content = frames.ljust(2048, b"\0")
    return b"ID3\x03\0\0" + bytes(len(content) >> shift & 0x7F for shift in (21, 14, 7, 0)) + content


def demo(settings: Settings, folder: Path, listener: Listener, say: Callable[[str], None]) -> dict[str, Any]:
    """Make the library in ``folder`` and run the program on it: {tracks, encoder, accuracy, ...}.

    Raises ConfigError for a folder in use.
    """
    started = time.monotonic()
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"{folder}: is not empty; name a new folder for the demo")
    music = folder / "music"
    tracks = plan_tracks(music)
    for track in tracks:
        track.path.parent.mkdir(parents=True, exist_ok=True)
    say(f"synthesising {len(tracks)} tracks of {', '.join(GENRES)} in {music}")
    listener.begin("synthesising", len(tracks), 0)
    with ProcessPoolExecutor(min(8, os.cpu_count() or 1), mp_context=get_context("spawn")) as pool:
        with without_interrupts():
            written = pool.map(write_track, tracks)
        for path in written:
            listener.advance(str(path), "written")
    with (folder / "truth.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("path", "genre"), *((t.path, t.genre) for t in tracks)])
    settings = replace(settings, db=folder / "library.db", roots=(), head=None, min_confidence=None, write_tags="fill")
    chosen = choose(settings)
    scanned = replace(settings, encoder="+".join(BUILT_IN)) if chosen and chosen.by_default else settings
    say("indexer scan: reading tags, decoding, embedding")
    found = Scan(scanned, listener).run([music], write_tags=False)
    say(f"indexer train: a linear head from the genres in the tags of {sum(t.labelled for t in tracks)} tracks")
    trained = train(settings, Request(LabelRequest(("tags",))))
    if len(trained["compared"]) > 1:
        say(f"compared by what they know of these tracks: {_ranking(trained['compared'])}; the first is in use")
    judged = evaluate(settings, EvaluationRequest(LabelRequest(("tags",)), report=folder / "evaluation.html"))
    best = judged["learners"][0]
    say(
        f"indexer evaluate: {best['accuracy']:.0%} right on labelled tracks by artists it did not learn from; "
        f"the report: {judged['report']}"
    )
    relabel(settings)
    accuracy, decided = _compare(settings.db, [t for t in tracks if not t.labelled])
    say(
        f"on the {sum(not t.labelled for t in tracks)} tracks without a label, by other artists: {accuracy:.0%} right "
        f"({decided:.0%} sure enough to be decided)"
    )
    say("this is synthetic music: it shows that the program works, not how well it knows real music")
    say("indexer tags apply: writing the decided genres into the files that have none")
    applied = Scan(settings, listener).run([music])
    return {
        "folder": str(folder),
        "tracks": len(tracks),
        "encoder": trained["encoder"],
        "embedded": found.counts.embedded,
        "audio_s": round(found.counts.audio_s, 1),
        "accuracy": round(accuracy, 4),
        "decided": round(decided, 4),
        "tags_written": applied.counts.tags_written,
        "failed": found.counts.failed,
        "elapsed_s": round(time.monotonic() - started, 1),
    }


def _ranking(compared: list[dict[str, Any]]) -> str:
    best_first = sorted(compared, key=lambda one: one["log_loss"])
    return ", ".join(f"{one['encoder']} {one['accuracy']:.0%} (log loss {one['log_loss']:.3f})" for one in best_first)


def _compare(db: Path, tracks: list[Track]) -> tuple[float, float]:
    """(share of the tracks whose genre is right, share that is decided)."""
    conn = open_readonly(db)
    by_path = classified_by_path(conn)
    conn.close()
    found = [one for track in tracks if (one := by_path.get(str(track.path.resolve()))) and one.genre is not None]
    if len(found) < len(tracks):
        raise StoreError(f"{db}: the scan did not classify every track of the demo")
    right = [one.genre == track.genre for one, track in zip(found, tracks, strict=True)]
    return float(np.mean(right)), float(np.mean([one.decided for one in found]))
