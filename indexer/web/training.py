"""Training from the pages: begins it, tells how far it is, and writes the genres that it decided once a person says so.

Owns the one job of this server and its state, which outlives the page that began it. Another process
(indexer.upkeep.train_process) does the work; this one neither loads torch nor writes.
"""

import json
import signal
import subprocess
import sys
import threading
from collections import Counter
from contextlib import suppress
from typing import Any

from datasette.utils.asgi import Response

from indexer import config
from indexer.config import Settings
from indexer.files.children.start import without_interrupts
from indexer.library.lock import watching_process
from indexer.library.sqlite import now
from indexer.web.context import ask, posted, rows, settings_of
from indexer.web.kept import Kept

ORDERS = ("train", "look", "write")
_SINCE = (
    "SELECT count(DISTINCT c.recording_id) AS labels FROM heads h JOIN corrections c ON c.corrected_at > h.created"
    " WHERE h.in_use = 1 AND h.trained_on IS NOT NULL"
)
# Whether the library changed after a time, so that what would be written then may be something else now.
_CHANGED = (
    "SELECT coalesce((SELECT finished_at FROM runs ORDER BY id DESC LIMIT 1) > :time, 0)"
    " OR coalesce((SELECT corrected_at FROM corrections ORDER BY id DESC LIMIT 1) > :time, 0) AS changed"
)
_HEAD = "SELECT name, created, trained_on, metrics FROM heads WHERE in_use = 1"


class BusyError(Exception):
    """A job is going on already."""


class Trainer:
    """Starts the training process, follows what it tells, and keeps the last job's state."""

    def __init__(self, settings: Settings, labels: Kept[dict[str, int]]) -> None:
        """``labels``: recordings by label."""
        self.labels = labels
        self._settings = settings
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._job: dict[str, Any] | None = None

    @property
    def job(self) -> dict[str, Any] | None:
        """{do, state, step, done, total, ...} of the job that goes on or ended last; None before the first."""
        with self._lock:
            return dict(self._job) if self._job else None

    def begin(self, do: str) -> None:
        """Begin one of ORDERS. Raises BusyError while a job goes on."""
        with self._lock:
            if self._process is not None:
                raise BusyError
            with without_interrupts():
                process = subprocess.Popen(
                    [sys.executable, "-P", "-m", "indexer.upkeep.train_process"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                )
            self._process = process
            kept = {} if do == "train" or self._job is None else self._job  # the figures stay while tags are written
            begun = {"do": do, "state": "running", "step": "starting", "error": None, "cancelling": False}
            self._job = {**kept, **begun, "began_at": now()}
            self._tell(config.to_json(self._settings))
            self._tell({"do": do})
        threading.Thread(target=self._follow, args=(process,), name="training", daemon=True).start()

    def cancel(self) -> None:
        """Have the job that goes on end soon; nothing where none does."""
        with self._lock:
            if self._process is not None and self._job is not None:
                self._job["cancelling"] = True
                self._tell({"cancel": True})

    def _tell(self, message: dict[str, Any]) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # ``_follow`` notices the end of the process
            self._process.stdin.write(json.dumps(message).encode("ascii") + b"\n")
            self._process.stdin.flush()

    def _follow(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        assert self._job is not None
        ended: dict[str, Any] = {}
        for line in process.stdout:
            told = json.loads(line)
            if "state" in told:
                ended = told
            else:
                with self._lock:
                    self._job |= told
        code = process.wait()
        with self._lock:
            self._process = None  # before anybody reads that the job has ended, and begins the next
            if not ended and self._job["cancelling"]:
                ended = {"state": "cancelled"}
            elif not ended:
                how = f"the process that did it ended unexpectedly ({_how(code)})"
                ended = {"state": "failed", "error": f"{how}; {_what_is(self._job)}"}
            self._job |= ended
        with suppress(BrokenPipeError):
            process.stdin.close()
        process.stdout.close()


def _how(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}; the server's log says why"


def _what_is(job: dict[str, Any]) -> str:
    """What holds after a job that broke off."""
    if job["do"] == "write":
        return "each file is wholly old or wholly new, and the next scan goes on"
    if job["do"] == "train" and "learned" in job:
        return "the new head is in use, and the next scan classifies the rest with it"
    return "nothing has changed; try again"


def trainer_of(datasette: Any) -> Trainer:
    """The trainer of this server, made at the first call."""
    found: Trainer | None = getattr(datasette, "indexer_trainer", None)
    if found is None:
        settings = settings_of(datasette)
        assert settings is not None
        found = datasette.indexer_trainer = Trainer(settings, Kept(lambda: _labels(datasette, settings)))
    return found


async def train(request: Any, datasette: Any) -> Any:
    """POST `/-/train` {do}: one of ORDERS, or "cancel". Returns {job}; 409 while a job goes on."""
    if request.method != "POST":
        return Response.json({"error": "POST {do}"}, status=405, headers={"allow": "POST"})
    do = (await posted(request)).get("do")
    trainer = trainer_of(datasette)
    if do == "cancel":
        trainer.cancel()
    elif do in ORDERS:
        try:
            trainer.begin(do)
        except BusyError:
            return Response.json({"error": "a training is going on already", "job": trainer.job}, status=409)
    else:
        return Response.json({"error": f"do is {', '.join(ORDERS)} or cancel"}, status=400)
    return Response.json({"job": trainer.job}, status=202)


async def train_json(datasette: Any) -> Any:
    """`/-/train.json`: {job, labels, needed, head, since, watched, write_tags}.

    job: as Trainer.job; its ``preview`` is null once the library has changed.
    labels: recordings by label, as `train` learns from them; needed: of each of two genres. head: the one in use, with
    its figures where it was trained here. since: recordings that people labelled after it was trained. watched: whether
    `indexer watch` runs, which writes what is decided by itself.
    """
    from indexer.learn.dataset import MIN_RECORDINGS  # they import the encoders, so not at the top
    from indexer.learn.train import HONEST

    settings = settings_of(datasette)
    assert settings is not None
    trainer = trainer_of(datasette)
    job = trainer.job
    if job and "preview" in job:
        changed = await rows(datasette, _CHANGED, {"time": job["preview"]["looked_at"]})
        job |= {"preview": None} if changed[0]["changed"] else {}
    head = await rows(datasette, _HEAD)
    for row in head:
        row["metrics"] = json.loads(row["metrics"] or "null")
        row["honest"] = HONEST["paper" if row["metrics"] and row["metrics"]["epochs"] else "best"]
    return Response.json(
        {
            "job": job,
            "labels": await trainer.labels.value(),
            "needed": MIN_RECORDINGS,
            "head": head[0] if head else None,
            "since": (await rows(datasette, _SINCE))[0]["labels"],
            "watched": watching_process(settings.db) is not None,
            "write_tags": settings.write_tags,
        },
        headers={"cache-control": "no-store"},
    )


async def _labels(datasette: Any, settings: Settings) -> dict[str, int]:
    """Recordings by label, the most frequent first, as `indexer train` would learn from them."""
    from indexer.learn.dataset import LabelRequest

    labels = await ask(datasette, lambda reader: LabelRequest().gather(reader, settings).label_of)
    return dict(Counter(labels.values()).most_common())


ROUTES = [(r"/-/train$", train), (r"/-/train\.json$", train_json)]
