"""`indexer bench --labels`: what precision and number of units do to the user's own genres and similar tracks.

Embeds a sample of files in every precision of the machine, and compares labels and nearest neighbours with those of the
exact arithmetic on all units. Stores nothing and writes no tag.
"""

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from indexer import wording
from indexer.config import Settings
from indexer.encoders.encoder import Encoder, EncoderInfo, Unit, track_vector
from indexer.encoders.load import load_encoder
from indexer.encoders.m2d.openvino import multiplies_bf16, serves
from indexer.errors import ConfigError, FileError, ModelError
from indexer.files.children.limits import Limits
from indexer.files.children.worker import Worker
from indexer.heads.decide import decide
from indexer.heads.head import Head
from indexer.library.registered import in_use_by
from indexer.library.vectors.directions import joined_directions
from indexer.listen.units import spread
from indexer.models.choice import choose, without_genres
from indexer.upkeep.bench import existing, from_library
from indexer.wording import printable

SAMPLE = 60  # tracks of the library when no files are named
UNITS = (None, 20, 10, 5)  # None: all
NEIGHBOURS = 10
LEAST = 4  # files
MOST_UNITS = 100  # of a track, which stand for all: ten minutes of M2D
# int8 is recommended where no more than this changes, on so many tracks at least.
FEW_LABELS, FEW_NEIGHBOURS, ENOUGH = 0.02, 0.1, 30


class Listener(Protocol):
    """Receives the progress."""

    def begin(self, step: str, files: int, size_bytes: int) -> None:
        """The number of files is known."""

    def advance(self, path: str, outcome: str) -> None:
        """One file was embedded in every way."""

    def problem(self, path: str, reason: str) -> None:
        """A file is left out."""


Variant = tuple[str, int | None]  # precision, and number of units


class _Sample:
    """Embeds tracks in every variant."""

    def __init__(self, settings: Settings, infos: Sequence[EncoderInfo], *, words: bool) -> None:
        """``words``: of audio vectors, which a head by words takes. Raises ModelError."""
        # Of each of the joined encoders: its precisions here, the exact one first; a built-in one has only one.
        self._parts = [_by_precision(settings, info) for info in infos]
        self.precisions = max((list(part) for part in self._parts), key=len)
        firsts = [next(iter(part.values())) for part in self._parts]
        self._columns = [slice(one.width, None) if words else slice(one.width) for one in firsts]
        self.widths = [one.words_width if words else one.width for one in firsts]
        self.tracks: list[dict[Variant, np.ndarray]] = []  # of each its vectors (width,), as the library keeps them
        self.audio_s = 0.0
        self.took_s = dict.fromkeys(self.precisions, 0.0)  # that the encoders took

    def add(self, worker: Worker, path: bytes) -> None:
        """Embed one file. Raises FileError."""
        pieces: dict[Variant, list[np.ndarray]] = {}
        for part, columns in zip(self._parts, self._columns, strict=True):
            units, duration_s = _units(worker, path, next(iter(part.values())))
            rows: dict[str, tuple[np.ndarray, float]] = {}
            for precision, encoder in part.items():
                started_s = time.perf_counter()
                rows[precision] = encoder.encode(units)[:, columns], time.perf_counter() - started_s
            for precision in self.precisions:
                vectors, took_s = rows.get(precision) or next(iter(rows.values()))
                self.took_s[precision] += took_s
                for count in UNITS:
                    pieces.setdefault((precision, count), []).append(_mean(units, vectors, count))
        self.tracks.append({variant: np.concatenate(parts) for variant, parts in pieces.items()})
        self.audio_s += duration_s

    def vectors(self, variant: Variant) -> np.ndarray:
        """(tracks, width) float32."""
        return np.stack([track[variant] for track in self.tracks]).astype(np.float32)


def bench_labels(settings: Settings, files: Sequence[Path], listener: Listener) -> dict[str, Any]:
    """Compare every precision and number of units with the exact arithmetic on all units.

    Returns {files, encoder, head, neighbours, variants, int8_recommended}. A variant is {precision, units,
    times_real_time, labels_changed, decided_changed, neighbours_changed, cosine, worst_cosine}: units is None for all;
    what changed is a share, 0 to 1, and None for labels without a head. int8_recommended is None where int8 is not to
    be had, there is no head, or there are too few tracks.

    Raises ConfigError where there are too few files, ModelError for a model that is not there.
    """
    paths = existing(files) or from_library(settings.db, SAMPLE)
    chosen = choose(settings, in_use_by(settings.db))
    if chosen is None:
        raise ModelError(str(without_genres(chosen)))
    if len(paths) < LEAST:
        raise ConfigError(f"{LEAST} files are the least to compare, here are {len(paths)}: name more, or scan a folder")
    by_words = chosen.info.with_words(chosen.head.encoder_id) if chosen.head else None
    sample = _Sample(settings, (by_words,) if by_words else chosen.info.parts, words=by_words is not None)
    listener.begin("embedding", len(paths), 0)
    worker = Worker(Limits.of(settings), follows_links=True)
    try:
        for path in paths:
            shown = printable(os.fsencode(path))
            try:
                sample.add(worker, os.fsencode(path))
                listener.advance(shown, "embedded")
            except FileError as error:
                listener.problem(shown, error.reason)
    finally:
        worker.close()
    if len(sample.tracks) < LEAST:
        raise ConfigError(f"only {len(sample.tracks)} of the files could be heard, {LEAST} are the least to compare")
    variants = list(_compared(sample, chosen.head, settings))
    return {
        "files": len(sample.tracks),
        "encoder": chosen.info.name,
        "head": chosen.head.name if chosen.head else None,
        "neighbours": _count_of_neighbours(len(sample.tracks)),
        "variants": variants,
        "int8_recommended": _is_recommended(variants, len(sample.tracks)),
    }


def _by_precision(settings: Settings, info: EncoderInfo) -> dict[str, Encoder]:
    if info.built_in:
        encoder = load_encoder(info.source)
        return {encoder.precision: encoder}
    served = {"fp32": load_encoder(info.source, device=settings.device, precision="fp32")}
    on_gpu = served["fp32"].device != "cpu"
    for precision, is_served in (("bf16", on_gpu or multiplies_bf16()), ("int8", not on_gpu and serves("int8"))):
        if is_served:
            with suppress(ModelError):  # not every encoder has every precision
                served[precision] = load_encoder(info.source, device=settings.device, precision=precision)
    return served


def _units(worker: Worker, path: bytes, encoder: Encoder) -> tuple[list[Unit], float]:
    """(the units with sound, at most MOST_UNITS of them; seconds of audio)."""
    cutter, frames = encoder.cutter(), 0

    def cut() -> Iterator[Unit]:
        nonlocal frames
        for block in worker.decode(path, sample_rate_hz=encoder.sample_rate_hz):
            frames += len(block)
            yield from cutter.push(block)
        yield from cutter.finish()

    units = spread(cut(), MOST_UNITS)
    if not units:
        raise FileError(path, "too short for the encoder")
    return units, frames / encoder.sample_rate_hz


def _mean(units: Sequence[Unit], vectors: np.ndarray, count: int | None) -> np.ndarray:
    """The track's vector of all its units, or of so many, rounded as the library keeps it."""
    places = {id(unit): n for n, unit in enumerate(units)}
    chosen = [places[id(unit)] for unit in (units if count is None else spread(units, count))]
    return track_vector(vectors[chosen], np.asarray([units[n].weight for n in chosen])).astype(np.float16)


def _compared(sample: _Sample, head: Head | None, settings: Settings) -> Iterator[dict[str, Any]]:
    exact = sample.vectors((sample.precisions[0], None))
    mean = exact.mean(axis=0)
    places = joined_directions(exact, sample.widths, mean)
    near = _nearest(places)
    genres, decided = _labels(exact, sample.widths, head, settings)
    for precision in sample.precisions:
        for count in UNITS:
            vectors = sample.vectors((precision, count))
            own = _nearest(joined_directions(vectors, sample.widths, vectors.mean(axis=0)))
            kept = [len(set(before) & set(after)) / len(before) for before, after in zip(near, own, strict=True)]
            cosines = (joined_directions(vectors, sample.widths, mean) * places).sum(axis=1)
            own_genres, own_decided = _labels(vectors, sample.widths, head, settings)
            yield {
                "precision": precision,
                "units": count,
                "times_real_time": round(sample.audio_s / sample.took_s[precision], 1) if count is None else None,
                "labels_changed": _share(genres, own_genres),
                "decided_changed": _share(decided, own_decided),
                "neighbours_changed": round(1 - float(np.mean(kept)), 4),
                "cosine": round(float(cosines.mean()), 5),
                "worst_cosine": round(float(cosines.min()), 5),
            }


def _labels(
    vectors: np.ndarray, widths: Sequence[int], head: Head | None, settings: Settings
) -> tuple[list[str], list[str | None]]:
    """(the likeliest genre of each track, the decided genre of each or None); empty without a head."""
    if head is None:
        return [], []
    cuts = np.cumsum(widths)[:-1]
    threshold = settings.threshold(head.threshold)
    found = [decide(head, threshold, np.split(vector, cuts), [None] * len(widths)) for vector in vectors]
    return [one.genre for one in found], [one.genre if one.decided else None for one in found]


def _share(before: Sequence[object], after: Sequence[object]) -> float | None:
    """The share that differs; None of nothing."""
    return round(float(np.mean([a != b for a, b in zip(before, after, strict=True)])), 4) if before else None


def _nearest(directions: np.ndarray) -> np.ndarray:
    """(tracks, k): the places of the nearest other tracks of each."""
    cosines = directions @ directions.T
    np.fill_diagonal(cosines, -np.inf)
    return np.argsort(-cosines, axis=1, kind="stable")[:, : _count_of_neighbours(len(directions))]


def _count_of_neighbours(tracks: int) -> int:
    """Ten, but of a small sample no more than a third, of which the rest can still be told apart."""
    return max(1, min(NEIGHBOURS, (tracks - 1) // 3))


def _is_recommended(variants: Sequence[dict[str, Any]], tracks: int) -> bool | None:
    """Whether int8 changes little of what a person sees; None where that cannot be told: see ``_advice``."""
    int8 = next((one for one in variants if one["precision"] == "int8" and one["units"] is None), None)
    if int8 is None or int8["labels_changed"] is None or tracks < ENOUGH:
        return None
    changed = max(int8["labels_changed"], int8["decided_changed"])
    return bool(changed <= FEW_LABELS and int8["neighbours_changed"] <= FEW_NEIGHBOURS)


def to_text(found: dict[str, Any]) -> str:
    """The result as text for a person."""
    exact, *others = found["variants"]
    judged = f"head {found['head']}" if found["head"] else "no head in use: only what is alike is compared"
    rows = [["", "speed", "other label", "other decision", "other neighbours", "likeness, worst"]]
    for one in others:
        units = "all units" if one["units"] is None else wording.count(one["units"], "unit")
        speed = f"{one['times_real_time']:,.0f} x" if one["times_real_time"] else ""
        changed = [_percent(one[f"{what}_changed"]) for what in ("labels", "decided", "neighbours")]
        rows.append([f"{one['precision']}, {units}", speed, *changed, f"{one['worst_cosine']:.4f}"])
    shown = [row if found["head"] else row[:2] + row[4:] for row in rows]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(text.rjust(w) for text, w in zip(row[1:], widths[1:], strict=True))])
        for row in shown
    ]
    return "\n".join(
        [
            f"{wording.count(found['files'], 'track')}, {found['encoder']}, {judged}",
            f"against {exact['precision']} on all units ({exact['times_real_time']:,.0f} x):",
            "",
            *lines,
            "",
            "speed: seconds of music a second, the encoder alone",
            f"neighbours: the {wording.count(found['neighbours'], 'nearest track')} of each in the sample",
            *_advice(found),
        ]
    )


def _advice(found: dict[str, Any]) -> list[str]:
    verdict = found["int8_recommended"]
    if verdict:
        return ["int8 is recommended: `indexer scan --precision int8` (it embeds the library anew)"]
    if verdict is False:
        return ["int8 is not recommended: it changes too much of your labels or neighbours"]
    if all(one["precision"] != "int8" for one in found["variants"]):
        return []
    if found["head"] is None:
        return ["whether to recommend int8 cannot be told without a head: `indexer train` makes one"]
    return [f"too few tracks to recommend int8: {ENOUGH} are the least"]


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.1%}"
