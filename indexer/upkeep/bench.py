"""`indexer bench`: measures how fast this machine decodes and embeds, and estimates how long a library takes.

Runs the real steps on files (the user's, tracks of the library, or synthesised ones), each alone and then together.
Stores nothing and writes no tag.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from indexer import wording
from indexer.analysis.analyser import Analysis
from indexer.config import Settings
from indexer.encoders.encoder import PRECISIONS, Encoder, EncoderInfo, Unit
from indexer.encoders.load import load_encoder
from indexer.errors import ConfigError, FileError, ModelError
from indexer.files.children.limits import Limits
from indexer.files.children.worker import Worker
from indexer.library.readonly import reading
from indexer.library.registered import in_use_by
from indexer.library.tracks import sample_of_paths, total
from indexer.listen.embedder import Embedder
from indexer.models.choice import choose, part_of, without_genres
from indexer.wording import duration, printable

LIBRARY_TRACKS = 4  # taken from the library when no files are named
MADE_TRACKS, MADE_S = 2, 120.0  # synthesised when there is no library either
MEASURED_S = 4.0  # the encoder is measured at least this long at each precision
AUDIO_S = 180.0  # the encoder alone is measured on this much of each file


def bench(settings: Settings, files: Sequence[Path]) -> dict[str, Any]:
    """Measure decoding and embedding on files; every rate is in seconds of audio per second.

    Returns {files, source, encoder, cores, decode, reading_ms, encoders, together, bottleneck, library}.
    Raises ConfigError for a file that cannot be read, ModelError for a model that is not there.
    """
    info = _encoder(settings)
    with _tracks(settings.db, files) as (paths, source):
        decoded, decode = _decode(settings, paths, info.parts[0].sample_rate_hz)
        reading = _costs(settings, paths, info.parts[0].sample_rate_hz)
        encoders = [rate for part in info.parts for rate in _rates(settings, part, decoded)]
        together = _together(settings, info, paths)
    # Joined encoders work one after the other.
    chosen = [next(rate for rate in encoders if rate["name"] == part.name and rate["chosen"]) for part in info.parts]
    encode_x = 1 / sum(1 / rate["times_real_time"] for rate in chosen)
    result = {
        "files": [printable(os.fsencode(path)) for path in paths],
        "source": source,
        "encoder": info.name,
        "cores": os.cpu_count(),
        "decode": decode,
        "reading_ms": reading,
        "encoders": encoders,
        "together": together,
        "bottleneck": {
            "step": "decoding" if decode["all_jobs"] < encode_x else "encoder",
            "decoding": decode["all_jobs"],
            "encoder": round(encode_x, 1),
        },
    }
    return {**result, "library": _library(settings.db, together["times_real_time"])}


def _encoder(settings: Settings) -> EncoderInfo:
    chosen = choose(settings, in_use_by(settings.db))
    if chosen is None:
        raise ModelError(str(without_genres(chosen)))
    return chosen.info


@contextmanager
def _tracks(db: Path, files: Sequence[Path]) -> Iterator[tuple[list[Path], str]]:
    """Yield the files to measure on, and their source: named, library or synthesised."""
    if files:
        yield existing(files), "named"
        return
    found = from_library(db, LIBRARY_TRACKS)
    if found:
        yield found, "library"
        return
    with tempfile.TemporaryDirectory() as folder:
        yield _made(Path(folder)), "synthesised"


def existing(files: Sequence[Path]) -> list[Path]:
    """The files that were named. Raises ConfigError for one that is not there."""
    for path in files:
        if not path.is_file():
            raise ConfigError(f"{path}: no such file")
    return list(files)


def from_library(db: Path, count: int) -> list[Path]:
    """At most so many files of the library, spread over it; none where there is no library."""
    if not db.exists():
        return []
    with reading(db) as conn:
        paths = sample_of_paths(conn, count)
    return [path for one in paths if (path := Path(os.fsdecode(one))).is_file()]


def _made(folder: Path) -> list[Path]:
    import soundfile

    from indexer.encoders.synthesis import GENRES, SAMPLE_RATE_HZ, make_track

    paths = []
    for n in range(MADE_TRACKS):
        part = make_track(GENRES[n], n, 20.0)
        samples = np.tile(part, (round(MADE_S / 20.0), *[1] * (part.ndim - 1)))
        paths.append(folder / f"{n}.mp3")
        soundfile.write(paths[-1], samples, SAMPLE_RATE_HZ, format="MP3", subtype="MPEG_LAYER_III")
    return paths


def _decode(settings: Settings, paths: Sequence[Path], sample_rate_hz: int) -> tuple[list[np.ndarray], dict[str, Any]]:
    """Decode whole files, with one child process and with all: (the first AUDIO_S of each as samples, the rates)."""

    def one(worker: Worker, path: Path) -> tuple[float, np.ndarray]:
        frames, kept = 0, []
        try:
            for block in worker.decode(os.fsencode(path), sample_rate_hz=sample_rate_hz):
                if frames < AUDIO_S * sample_rate_hz:
                    kept.append(block)
                frames += len(block)
        except FileError as e:
            raise ConfigError(str(e)) from e
        return frames / sample_rate_hz, np.concatenate(kept)[: round(AUDIO_S * sample_rate_hz)]

    limits = Limits.of(settings)
    worker = Worker(limits, follows_links=True)
    try:
        one(worker, paths[0])  # starts the child
        started = time.perf_counter()
        found = [one(worker, path) for path in paths]
        alone_s = time.perf_counter() - started
    finally:
        worker.close()
    audio_s = sum(seconds for seconds, _ in found)
    jobs = settings.worker_count()
    return [samples for _, samples in found], {
        "jobs": jobs,
        "audio_s": round(audio_s, 1),
        "one_job": round(audio_s / alone_s, 1),
        "all_jobs": round(_all_jobs(jobs, limits, paths, one, audio_s), 1),
    }


def _all_jobs(jobs: int, limits: Limits, paths: Sequence[Path], one: Any, audio_s: float) -> float:
    """The rate of decoding while every child process decodes all files."""
    workers = [Worker(limits, follows_links=True) for _ in range(jobs)]
    try:
        with ThreadPoolExecutor(jobs) as pool:
            list(pool.map(lambda worker: one(worker, paths[0]), workers))
            started = time.perf_counter()
            list(pool.map(lambda worker: [one(worker, path) for path in paths], workers))
            return jobs * audio_s / (time.perf_counter() - started)
    finally:
        for worker in workers:
            worker.close()


def _costs(settings: Settings, paths: Sequence[Path], sample_rate_hz: int) -> dict[str, float]:
    """Processor milliseconds that each step of reading takes for a minute of sound."""
    worker = Worker(Limits.of(settings), follows_links=True)
    try:
        worker.call("costs", os.fsencode(paths[0]), sample_rate_hz=sample_rate_hz)  # imports what it needs
        found = [worker.call("costs", os.fsencode(path), sample_rate_hz=sample_rate_hz) for path in paths]
    except FileError as e:
        raise ConfigError(str(e)) from e
    finally:
        worker.close()
    minutes = sum(one["audio_s"] for one in found) / 60
    return {step: round(1e3 * sum(one["cpu_s"][step] for one in found) / minutes, 1) for step in found[0]["cpu_s"]}


def _rates(settings: Settings, part: EncoderInfo, decoded: Sequence[np.ndarray]) -> Iterator[dict[str, Any]]:
    """Yield the rate of the encoder alone, front end included, at every precision that this machine supports.

    chosen: whether a scan uses this precision. differs: the distance of one batch's vectors from those in fp32,
    divided by their length; None for an encoder without fp32.
    """
    chosen = part_of(part, settings).load()
    measured = [(chosen, *_rate(chosen, decoded))]
    for precision in () if part.built_in else PRECISIONS:
        if precision not in ("auto", chosen.precision):
            with suppress(ModelError):  # this machine does not support the precision
                encoder = load_encoder(part.source, device=settings.device, precision=precision)
                measured.append((encoder, *_rate(encoder, decoded)))
    exact = next((vectors for encoder, _, vectors in measured if encoder.precision == "fp32"), None)
    for encoder, rate, vectors in measured:
        n = min(len(vectors), len(exact)) if exact is not None else 0
        differs = (
            float(np.linalg.norm(vectors[:n] - exact[:n]) / np.linalg.norm(exact[:n])) if exact is not None else None
        )
        yield {
            "name": part.name,
            "device": encoder.device,
            "precision": encoder.precision,
            "engine": encoder.engine,
            "units_per_s": round(rate, 1),
            "times_real_time": round(rate * encoder.unit_s, 1),
            "differs": differs if differs is None else round(differs, 6),
            "chosen": encoder is chosen,
        }


def _rate(encoder: Encoder, decoded: Sequence[np.ndarray]) -> tuple[float, np.ndarray]:
    """(units per second, vectors of the first batch)."""
    units: list[Unit] = []
    for samples in decoded:
        units += encoder.cutter().push(samples)
    if not units:
        raise ConfigError(f"the files are too short to measure {encoder.name} on: name longer ones")
    batches = [units[n : n + encoder.batch_units] for n in range(0, len(units), encoder.batch_units)]
    vectors = encoder.encode(batches[0])  # warms up
    rates: list[float] = []
    ends_s = time.perf_counter() + MEASURED_S
    while time.perf_counter() < ends_s:
        batch = batches[len(rates) % len(batches)]
        started = time.perf_counter()
        encoder.encode(batch)
        rates.append(len(batch) / (time.perf_counter() - started))
    return statistics.median(rates), vectors


def _together(settings: Settings, info: EncoderInfo, paths: Sequence[Path]) -> dict[str, Any]:
    """Measure from files to embeddings, tempo and key with them, as a scan does; loading the models does not count."""
    embedders = [Embedder(part.load(), part.units) for part in (part_of(info, settings) for info in info.parts)]
    workers = [Worker(Limits.of(settings), follows_links=True) for _ in range(settings.worker_count())]
    audio_s = 0.0
    measurements: list[Analysis] = []
    started = time.perf_counter()
    try:
        with ThreadPoolExecutor(len(workers)) as pool:

            def one(numbered: tuple[int, Path]) -> float:
                number, path = numbered
                worker = workers[number % len(workers)]
                seconds = 0.0
                for embedder in embedders:
                    measured = measurements.append if embedder is embedders[0] else None  # one pass measures
                    embedding = embedder.embed_file(worker, os.fsencode(path), analysed=measured).result()
                    seconds = embedding.duration_s
                return seconds

            for start in range(0, len(paths), len(workers)):  # a worker serves one file at a time
                audio_s += sum(pool.map(one, enumerate(paths[start : start + len(workers)])))
        took_s = time.perf_counter() - started
    finally:
        for embedder in embedders:
            embedder.close()
        for worker in workers:
            worker.close()
    return {"audio_s": round(audio_s, 1), "took_s": round(took_s, 2), "times_real_time": round(audio_s / took_s, 1)}


def _library(db: Path, times_real_time: float) -> dict[str, Any] | None:
    """Estimate the time to embed all recordings of the library anew; None without a library or recordings."""
    if not db.exists():
        return None
    with reading(db) as conn:
        found = total(conn)
    if not found.recordings:
        return None
    return {
        "recordings": found.recordings,
        "audio_s": round(found.audio_s),
        "expected_s": round(found.audio_s / times_real_time),
    }


def to_text(found: dict[str, Any]) -> str:
    """The result as text for a person."""
    where = {
        "named": "your files",
        "library": "tracks of the library",
        "synthesised": "synthesised tracks (no library yet, no files named)",
    }[found["source"]]
    decode, limit = found["decode"], found["bottleneck"]
    files = wording.count(len(found["files"]), "file")
    lines = [
        f"measured on {files}, {where}; {found['cores']} cores; all rates in times real time",
        "",
        f"{decode['one_job']:10,.0f}  decoding, one child process",
        f"{decode['all_jobs']:10,.0f}  decoding, {decode['jobs']} at a time",
    ]
    lines += [
        f"{rate['times_real_time']:10,.0f}  {rate['name']} alone, {rate['device']} {rate['precision']}"
        + (f", vectors {rate['differs']:.1%} from fp32" if rate["differs"] else "")
        + (" (used by a scan)" if rate["chosen"] else "")
        for rate in found["encoders"]
    ]
    lines += [
        f"{found['together']['times_real_time']:10,.0f}  from files to embeddings, all together",
        "",
        f"the bottleneck is {'the encoder' if limit['step'] == 'encoder' else 'decoding'}",
        "reading a minute of sound takes these milliseconds of a processor: "
        + ", ".join(f"{step} {cost:,.0f}" for step, cost in found["reading_ms"].items()),
    ]
    if found["library"]:
        library = found["library"]
        lines.append(
            f"your library ({wording.count(library['recordings'], 'recording')}, "
            f"{duration(library['audio_s'])} of audio) would take {duration(library['expected_s'])} to embed anew"
        )
    return "\n".join(lines)
