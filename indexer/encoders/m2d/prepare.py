"""Prepares a model for this processor: quantises it, finds its pace and its fastest precision, and keeps all that.

Done by `models download|add`, and else when a model is loaded for the first time. Loads converted checkpoints only.
"""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from indexer.encoders import tensorfile
from indexer.encoders.encoder import Unit
from indexer.encoders.m2d import int8, openvino
from indexer.encoders.m2d.checkpoint import CheckpointInfo, inspect, load_weights
from indexer.encoders.m2d.cpu import CpuModel, Pace
from indexer.encoders.m2d.frontend import M2DCutter, NumpyLogMel
from indexer.encoders.m2d.prepared import Prepared, Shelf

TOLERANCE = 0.05  # of a precision that is chosen automatically: see ``deviation``
NOISE = 1.2  # times the time of fp32: bf16 products may cost more only by what a busy machine adds
TRIAL_S = 1.5  # after which a trial begins no other round
ROUNDS = 3  # of a trial, at most
GAIN = 1.03  # that another than the plain pace must bring

# (the precision that is prepared now, precisions done, precisions in all)
Progress = Callable[[str, int, int], None]


def prepare(path: Path, progress: Progress) -> None:
    """Prepare every precision that this processor multiplies, unless that is done.

    Raises ModelError for a model that cannot be loaded.
    """
    served = [precision for precision in ("fp32", "bf16", "int8") if openvino.serves(precision)]
    info = inspect(path)
    kept = Shelf(info).read("auto") if served else None
    if served and (kept is None or not set(served) <= set(kept.about.get("measured", ()))):
        _compare(info, served, progress)


def fastest(info: CheckpointInfo) -> str:
    """The precision that was measured to be the fastest here, of those whose track vectors are those of fp32."""
    candidates = [precision for precision in ("fp32", "bf16") if openvino.serves(precision)]
    if len(candidates) == 1:
        return candidates[0]
    shelf = Shelf(info)
    if not shelf.is_writable:  # to measure at every start would cost more than it gains
        return candidates[-1]
    kept = shelf.read("auto")
    if kept is not None and kept.about.get("precision") in candidates:
        return str(kept.about["precision"])
    return _compare(info, candidates)


def _compare(
    info: CheckpointInfo, precisions: Sequence[str], progress: Progress = lambda _found, _done, _steps: None
) -> str:
    """Prepare and measure every precision, fp32 first, keep what was found, and return the one to choose."""
    units = _units(info)
    exact = None
    found: dict[str, dict[str, float]] = {}
    for precision in precisions:
        progress(precision, len(found), len(precisions))
        model = load(info, precision)
        model.encode(units, info.geometry.columns)  # warms up
        started_s = time.process_time()  # which other processes disturb less
        vectors = model.encode(units, info.geometry.columns)[:, : info.geometry.vector_width]
        unit_cpu_s = (time.process_time() - started_s) / len(units)
        exact = vectors if exact is None else exact
        found[precision] = {"unit_cpu_s": unit_cpu_s, "deviation": deviation(vectors, exact)}
        del model
    half = found.get("bf16")
    suits = half and half["deviation"] <= TOLERANCE and half["unit_cpu_s"] < NOISE * found["fp32"]["unit_cpu_s"]
    best = "bf16" if suits else "fp32"
    Shelf(info).write("auto", Prepared({"precision": best, "measured": found}, b""))
    return best


def deviation(vectors: np.ndarray, exact: np.ndarray) -> float:
    """How far vectors (n, width) lie from the exact ones, as a share of how far these lie from their mean.

    Vectors of different music are alike, so their distance from each other is what counts.
    """
    spread = float(np.linalg.norm(exact - exact.mean(axis=0)))
    return float(np.linalg.norm(vectors - exact)) / max(spread, float(np.finfo(np.float32).tiny))


def load(info: CheckpointInfo, precision: str) -> CpuModel:
    """The model, as it was prepared; else it is prepared now. Raises ModelError."""
    shelf = Shelf(info)
    kept = shelf.read(precision)
    if kept is not None:
        try:
            pace = Pace(**kept.about["pace"])
            if kept.content:
                model = openvino.imported(kept.content, precision, pace.streams)
            else:
                model = _compiled(info, precision)(pace.streams)
            return CpuModel(info, model, precision, pace)
        except (KeyError, TypeError, ValueError, RuntimeError):  # written by something else: made anew
            pass
    make = _compiled(info, precision)
    if not shelf.is_writable:
        return CpuModel(info, make(1), precision, Pace())
    content = b""
    if precision == "int8":  # compiling takes seconds, and float32 weights that are four times as large
        content = openvino.exported(make(1))
        make = lambda streams: openvino.imported(content, precision, streams)  # noqa: E731
    pace = _trial(info, precision, make)
    shelf.write(precision, Prepared({"pace": asdict(pace)}, content))
    return CpuModel(info, make(pace.streams), precision, pace)


def _compiled(info: CheckpointInfo, precision: str) -> Callable[[int], Any]:
    """A function that compiles the model for a number of streams."""
    _, weights = load_weights(info.path)
    seen = _calibrated(info, weights) if precision == "int8" else None
    graph = openvino.encoder_graph(info.geometry, weights, seen, info.projection)

    def compile_for(streams: int) -> Any:
        model = openvino.compiled(graph, precision, streams)
        tensorfile.release(weights)
        return model

    return compile_for


def _calibrated(info: CheckpointInfo, weights: dict[str, np.ndarray]) -> dict[str, int8.Seen]:
    """The ranges of the layers' inputs on the calibration music."""
    observer = openvino.Observer(info.geometry, weights)
    tensorfile.release(weights)
    return observer(NumpyLogMel(info.front_end)(_units(info), info.geometry.columns * info.geometry.patch_frames))


def _units(info: CheckpointInfo) -> list[Unit]:
    return _calibration_units(info.front_end, info.geometry)


@cache
def _calibration_units(front_end: Any, geometry: Any) -> list[Unit]:
    return int8.calibration_units(M2DCutter(front_end, geometry), front_end.sample_rate_hz)


def _paces() -> Iterator[Pace]:
    """The plain one, then those that leave the threads less to wait for each other."""
    threads = openvino.threads()
    yield Pace()
    if threads >= 8:
        yield Pace(threads // 4)
    if 1 < threads <= 16:  # each stream has its own memory for activations
        yield Pace(threads, 4)


def _trial(info: CheckpointInfo, precision: str, make: Callable[[int], Any]) -> Pace:
    """The fastest pace, from samples to vectors."""
    best, best_rate = Pace(), 0.0
    paces = list(_paces())
    if len(paces) == 1:
        return best
    for pace in paces:
        rate = _rate(info, CpuModel(info, make(pace.streams), precision, pace), pace)
        if rate > GAIN * best_rate:
            best, best_rate = pace, rate
    return best


def _rate(info: CheckpointInfo, model: CpuModel, pace: Pace) -> float:
    """Units per second."""
    music = _units(info)
    units = [music[n % len(music)] for n in range(max(16, (pace.streams + 1) * pace.request_units))]
    model.encode(units[: pace.streams * pace.request_units], info.geometry.columns)  # warms up
    rates: list[float] = []
    ends_s = time.perf_counter() + TRIAL_S
    while not rates or (len(rates) < ROUNDS and time.perf_counter() < ends_s):
        started_s = time.perf_counter()
        model.encode(units, info.geometry.columns)
        rates.append(len(units) / (time.perf_counter() - started_s))
    return statistics.median(rates)
