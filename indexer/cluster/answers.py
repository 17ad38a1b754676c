"""Checks what a worker answers, before anything is done with it: its types, sizes and numbers, and which file it is of.

A worker is another machine, perhaps of another version, broken, or not ours. Whatever it sends either has the form that
this version sends, or raises WrongAnswerError; the executor then does without the worker. It cannot be checked here
whether a well-formed answer is true.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from indexer.analysis.analyser import Analysis
from indexer.cluster.assignment import MAX_WINDOW, File
from indexer.cluster.outcome import KINDS, REASON_CHARS
from indexer.cluster.wire import unpack
from indexer.cluster.worker import same_content
from indexer.encoders.trajectory import MAX_SEGMENTS, RANK, Trajectory
from indexer.files.audio.identity import Stat
from indexer.files.containers import CONTAINERS
from indexer.files.tags.added import parse_added
from indexer.files.tags.blocks.blocks import is_set_field
from indexer.files.tags.read import MAX_COMMENT, MAX_TEXT, MAX_VALUES

PRECISIONS = ("fp32", "fp64", "fp16", "bf16", "int8")
WORD = 200  # characters of a version, a host's name, a codec
Widths = tuple[int, int]  # of an encoder: numbers in a vector, and in an audio vector (0: it knows no words)
Outcome = tuple[str, Any]  # "ok" and the result, or the class of an error and (reason, deaths)


class WrongAnswerError(Exception):
    """A worker answered something that this version of the program never answers; says what."""


def checked_proof(answer: object, widths: Mapping[str, Widths]) -> dict[str, Any]:
    """The answer to ``worker.prove``. widths: of the encoders that it was asked for, by id."""
    about = _record(answer, "the proof")
    found: dict[str, Any] = {key: _text(about, key, WORD) for key in ("version", "host")}
    if about.get("refused") is not None:
        return found | {"refused": _text(about, "refused", REASON_CHARS)}
    for key in ("device", "engine", "gpu"):
        found[key] = None if about.get(key) is None else _text(about, key, WORD)
    precision, probe = _record(about.get("precision"), "precision"), _record(about.get("probe"), "probe")
    if precision.keys() != widths.keys() or probe.keys() != widths.keys():
        raise WrongAnswerError("its proof is of other encoders")
    if not all(value in PRECISIONS for value in precision.values()):
        raise WrongAnswerError("its precision is none")
    for encoder_id, (width, _) in widths.items():
        _vector(probe[encoder_id], "<f4", width)
    return found | {
        "refused": None,
        "token": _text(about, "token", WORD),
        "limit": min(_whole(about, "limit", 1), MAX_WINDOW),
        "jobs": _whole(about, "jobs", 1),
        "busy": _busy(about.get("busy")),
        "precision": precision,
        "probe": probe,
    }


def checked_outcomes(
    answer: object, files: Sequence[File], widths: Mapping[str, Widths]
) -> tuple[dict[str, float], list[Outcome]] | None:
    """The answer to ``worker.work`` for these files: what the worker was busy with, and an outcome for each, in order.

    None: the worker does not know the token. widths: of the encoders, by id.
    """
    if not isinstance(answer, bytes):
        raise WrongAnswerError("it is not packed")
    try:
        found = _record(unpack(answer), "the answer")
    except ValueError as error:
        raise WrongAnswerError(str(error)) from error
    if found.get("unknown") is True:
        return None
    outcomes = found.get("outcomes")
    if not isinstance(outcomes, list) or len(outcomes) != len(files):
        raise WrongAnswerError(f"it does not answer for each of {len(files)} files")
    return _busy(found.get("busy")), [_outcome(one, file, widths) for one, file in zip(outcomes, files, strict=True)]


def _outcome(outcome: object, file: File, widths: Mapping[str, Widths]) -> Outcome:
    if not isinstance(outcome, list) or len(outcome) != 3:
        raise WrongAnswerError("an outcome is not of three parts")
    path, kind, value = outcome
    if path != file.path_on_workers:
        raise WrongAnswerError("it answers for another file than it was asked for")
    if kind == "ok":
        return "ok", _embedded(value, widths[file.encoder_id]) if file.encoder_id else _inspected(value, file)
    if not isinstance(kind, str) or kind not in KINDS or not isinstance(value, list) or len(value) != 2:
        raise WrongAnswerError("an outcome is neither a result nor an error")
    error = dict(zip(("reason", "deaths"), value, strict=True))
    return kind, (_text(error, "reason", REASON_CHARS), _whole(error, "deaths", 0))


def _inspected(value: object, file: File) -> dict[str, Any]:
    """A result of ``child.inspect``."""
    found = _record(value, "a result")
    if found.keys() != {"stat", "container", "audio_sha256", "damage", "tags", "audio"}:
        raise WrongAnswerError("a result has other parts")
    stat = _record(found["stat"], "the stat")
    if not same_content(Stat(0, 0, _whole(stat, "size", 0), _whole(stat, "mtime_ns", None)), file.stat):
        raise WrongAnswerError("a result is of another state of the file")
    if found["container"] not in (*CONTAINERS, "other"):
        raise WrongAnswerError("a result names a container that does not exist")
    if not re.fullmatch("[0-9a-f]{64}", _text(found, "audio_sha256", 64)):
        raise WrongAnswerError("an identity is no hash")
    _optional(found, "damage", REASON_CHARS)
    _check_tags(_record(found["tags"], "tags"))
    audio = _record(found["audio"], "audio")
    if audio.keys() != {"codec", "sample_rate_hz", "channels", "duration_s"}:
        raise WrongAnswerError("the facts about a sound have other parts")
    _text(audio, "codec", WORD)
    _whole(audio, "sample_rate_hz", 0)
    _whole(audio, "channels", 0)
    if audio["duration_s"] is not None:
        _real(audio, "duration_s", -math.inf)  # the file's own claim
    return found


TAG_TEXTS = ("title", "artist", "album", "album_artist", "comment", "musical_key", "record_label", "unread")
TAG_LISTS = ("genres", "original_genres", "dj_data", "filled")


def _check_tags(tags: dict[str, Any]) -> None:
    """Check that this is ``Tags.to_json()``."""
    if tags.keys() != {*TAG_TEXTS, *TAG_LISTS, "added", "set_fields", "year", "bpm", "ours"}:
        raise WrongAnswerError("tags have other parts")
    for key in TAG_TEXTS:
        _optional(tags, key, MAX_COMMENT)
    if tags["added"] is not None and parse_added(_text(tags, "added", MAX_COMMENT)) is None:
        raise WrongAnswerError("added is no record of ours")
    if tags["year"] is not None:
        _whole(tags, "year", 0)
    if tags["bpm"] is not None:
        _real(tags, "bpm")
    for key in TAG_LISTS:
        values = tags[key]
        if not (values is None and key == "original_genres") and not (
            isinstance(values, list) and all(isinstance(text, str) and len(text) <= MAX_COMMENT for text in values)
        ):
            raise WrongAnswerError(f"{key} is no list of texts")
    if tags["ours"] is not None:
        _check_ours(_record(tags["ours"], "our record"))
    _check_set_fields(_record(tags["set_fields"], "the fields of label sets"))


def _check_ours(ours: dict[str, Any]) -> None:
    if ours.keys() != {"genre", "label", "confidence", "model"}:
        raise WrongAnswerError("our record has other parts")
    if not all(isinstance(ours[key], str) for key in ("genre", "label", "model")):
        raise WrongAnswerError("our record holds no texts")
    if _real(ours, "confidence") > 1:
        raise WrongAnswerError("a confidence lies above 1")


def _check_set_fields(found: dict[str, Any]) -> None:
    if len(found) > MAX_VALUES or not all(map(is_set_field, found)):
        raise WrongAnswerError("a field is of no label set")
    for name in found:
        _text(found, name, MAX_TEXT)


def _embedded(value: object, widths: Widths) -> tuple[Any, ...]:
    """The parts of an ``Embedded`` of an encoder of these widths."""
    if not isinstance(value, list) or len(value) != 7:
        raise WrongAnswerError("an embedding is not of seven parts")
    names = ("vector", "units", "trajectory", "duration_s", "truncated", "analysis", "words")
    found = dict(zip(names, value, strict=True))
    width, words_width = widths
    vector, trajectory = _vector_and_trajectory(found["vector"], found["trajectory"], width)
    words = found["words"]
    if (words is None) != (words_width == 0):
        raise WrongAnswerError("the audio vector is missing, or not asked for")
    if words is not None:
        if not isinstance(words, list) or len(words) != 2:
            raise WrongAnswerError("an audio vector is not of two parts")
        words = _vector_and_trajectory(words[0], words[1], words_width)
    _optional(found, "truncated", REASON_CHARS)
    units, duration_s = _whole(found, "units", 1), _real(found, "duration_s")
    try:
        analysis = None if found["analysis"] is None else Analysis.from_json(found["analysis"])
    except ValueError as error:
        raise WrongAnswerError(f"an analysis is damaged: {error}") from error
    return vector, units, trajectory, duration_s, found["truncated"], analysis, words


def _vector_and_trajectory(vector: Any, trajectory: Any, width: int) -> tuple[bytes, bytes]:
    _vector(vector, "<f2", width)
    try:
        course = Trajectory.from_bytes(trajectory)
    except (TypeError, ValueError) as error:
        raise WrongAnswerError("a trajectory is damaged") from error
    segments, rank = course.coefficients.shape
    if course.basis.shape != (rank, width) or rank > RANK or not 1 <= segments <= MAX_SEGMENTS:
        raise WrongAnswerError("a trajectory has another shape")
    finite = np.isfinite(course.coefficients).all() and np.isfinite(course.basis).all()
    if not (finite and 0 < course.segment_s < math.inf):
        raise WrongAnswerError("a trajectory holds NaN or infinity")
    return vector, trajectory


def _busy(value: object) -> dict[str, float]:
    """Seconds by part of the worker, see ``Session.busy``."""
    found = _record(value, "busy")
    if "elapsed" not in found or len(found) > 10:
        raise WrongAnswerError("busy has other parts")
    return {key: _real(found, key) for key in found}


# ---- the kinds of values


def _record(value: object, what: str) -> dict[str, Any]:
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise WrongAnswerError(f"{what} is no record")
    return value


def _text(found: Mapping[str, Any], key: str, at_most: int) -> str:
    value = found.get(key)
    if not isinstance(value, str) or len(value) > at_most:
        raise WrongAnswerError(f"{key} is no text of at most {at_most:,} characters")
    return value


def _optional(found: Mapping[str, Any], key: str, at_most: int) -> None:
    if found[key] is not None:
        _text(found, key, at_most)


def _whole(found: Mapping[str, Any], key: str, least: int | None) -> int:
    value = found.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or not (least is None or value >= least):
        raise WrongAnswerError(f"{key} is no whole number" + ("" if least is None else f" from {least} on"))
    if abs(value) >= 2**63:  # no column holds it
        raise WrongAnswerError(f"{key} is too large")
    return value


def _real(found: Mapping[str, Any], key: str, least: float = 0.0) -> float:
    value = found.get(key)
    if not isinstance(value, float) and not (isinstance(value, int) and abs(value) < 2**63):
        raise WrongAnswerError(f"{key} is no number")
    if not math.isfinite(value) or value < least:
        raise WrongAnswerError(f"{key} is {value}")
    return float(value)


def _vector(value: object, form: str, width: int) -> None:
    if not isinstance(value, bytes) or len(value) != width * np.dtype(form).itemsize:
        raise WrongAnswerError(f"a vector is not of {width} numbers")
    if not np.isfinite(np.frombuffer(value, form)).all():
        raise WrongAnswerError("a vector holds NaN or infinity")
