"""The outcome of a file in the plain form in which a worker sends it: written on the worker, read by the executor."""

import os
from concurrent.futures import CancelledError, Future
from typing import Any

from indexer import errors
from indexer.cluster.assignment import File
from indexer.errors import DeferredError, FileError, ModelError, ReaderDiedError

CANNOT_OPEN = "cannot be opened by the worker"  # how the reason begins when the worker may not read the file

_FILE_ERRORS: dict[str, type[FileError]] = {
    c.__name__: c for c in (errors.ReadError, errors.UnsupportedError, errors.DeferredError)
}
_OTHER_ERRORS: dict[str, type[Exception]] = {
    "ValueError": ValueError,
    "ArithmeticError": ArithmeticError,
    "ModelError": ModelError,
}


KINDS = frozenset({*_FILE_ERRORS, *_OTHER_ERRORS, "ReaderDiedError", "Exception"})  # of an outcome that is no result
REASON_CHARS = 2_000  # of a reason, at most


def to_plain(future: "Future[Any]") -> tuple[str, Any]:
    """Wait for a file: ("ok", the result in plain types), or (an error's class, (reason, deaths))."""
    try:
        value = future.result()
    except FileError as e:
        return _kind_of(e), (e.reason[:REASON_CHARS], e.deaths if isinstance(e, ReaderDiedError) else 0)
    except (CancelledError, InterruptedError):
        return "DeferredError", ("the worker was ending", 0)
    except (ValueError, ArithmeticError, ModelError) as e:
        return _kind_of(e), (str(e)[:REASON_CHARS], 0)
    except Exception as e:  # of the encoder; its class may not exist on the other machine
        return "Exception", ((str(e) or type(e).__name__)[:REASON_CHARS], 0)
    if isinstance(value, dict):
        return "ok", {**value, "damage": value["damage"] and value["damage"][:REASON_CHARS]}
    analysis = value.analysis and value.analysis.to_json()
    parts = (value.vector, value.units, value.trajectory, value.duration_s, value.truncated, analysis, value.words)
    return "ok", parts


def _kind_of(error: Exception) -> str:
    """The name of the class that it has at the coordinator: its own, or the nearest that is known there."""
    return next((c.__name__ for c in type(error).__mro__ if c.__name__ in KINDS), "Exception")


def to_error(worker: str, file: File, kind: str, reason: str, deaths: int) -> Exception:
    """The error that the local executor would have raised; ``worker`` is its title for people."""
    if kind == "DeferredError" and reason.startswith(CANNOT_OPEN):
        if not os.access(file.path, os.R_OK):  # this machine may not read it either
            return errors.ReadError(file.path, reason.replace(CANNOT_OPEN, "cannot be read"))
        return DeferredError(file.path, f"{reason}: {worker}")
    if kind == "ReaderDiedError":
        return ReaderDiedError(file.path, reason, deaths)
    if kind in _FILE_ERRORS:
        return _FILE_ERRORS[kind](file.path, reason)
    return _OTHER_ERRORS.get(kind, RuntimeError)(reason) if file.op == "embed" else DeferredError(file.path, reason)
