"""What a run reports: its counts, its result, and the interface of the listener that it reports to."""

import os
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from indexer.listen.executor import Engine
from indexer.wording import printable


@dataclass
class Counts:
    """What a run did."""

    embedded: int = 0  # recordings
    rough: int = 0  # of these, heard roughly
    refined: int = 0  # recordings that were heard roughly before and are heard whole now
    cached: int = 0  # files whose recording was embedded before, or by another file of this run
    classified: int = 0  # files that the run worked on and whose recording has a prediction
    undecided: int = 0  # of these, under the threshold
    analysed: int = 0  # recordings whose tempo, key and the like were measured
    tags_written: int = 0  # files
    genres_written: int = 0  # of these; the others got only a tempo or key
    tags_refused: int = 0
    not_written: int = 0  # decided genres that are not in the files: read-only, or a full disk
    left_alone: int = 0  # files that were read, but whose tags or sizes are damaged: no genre is ever written there
    failed: int = 0  # files that could not be read, embedded, classified or written
    failed_later: int = 0  # of these, those that are neither unreadable nor unsupported
    audio_s: float = 0.0  # seconds of audio that were embedded
    engine: Engine | None = None  # what embedded them
    workers: list[dict[str, Any]] = field(default_factory=list)  # of a cluster: what each one did
    busy: dict[str, float] = field(default_factory=dict)  # part of the program -> share of the run's time it worked
    failures: list[tuple[str, str]] = field(default_factory=list)  # (path, reason), the first 1,000
    deferred: list[bytes] = field(default_factory=list)  # files that may be readable a little later, the first 10,000

    def any(self) -> bool:
        """Whether any file was worked on."""
        return bool(
            self.embedded
            or self.refined
            or self.cached
            or self.classified
            or self.tags_written
            or self.tags_refused
            or self.failed
        )


class Listener(Protocol):
    """Receives the progress of a run."""

    def begin(self, step: str, files: int, size_bytes: int) -> None:
        """A step on so many files of so many bytes begins."""

    def advance(self, path: str, outcome: str) -> None:
        """A file is finished; ``outcome`` says how."""

    def step(self, step: str, done: int, total: int) -> None:
        """Of a step that opens no file, so many recordings are done."""

    def problem(self, path: str, reason: str) -> None:
        """A file was not handled, or only in part."""


@dataclass
class ScanResult:
    """A run's summary; ``to_json`` is what `scan --json` prints."""

    counts: Counts
    files: int = 0  # files of the scanned folders that are there now
    unreadable: int = 0
    unsupported: int = 0
    truncated: int = 0  # readable ones that lost their end
    missing: int = 0
    unanalysed: int = 0  # recordings of the scanned folders that this run did not get to measure
    rough_left: int = 0  # recordings of the library that are heard only roughly so far
    elapsed_s: float = 0.0
    interrupted: bool = False
    named: bool = False  # the run was about single named paths, not about whole folders
    scan_again: bool = False  # files came back to an offline root; only a scan can tell whether enough of them did
    left_out: Counter[str] = field(default_factory=Counter)  # why (see walk) -> audio files and folders
    notes: list[str] = field(default_factory=list)  # lines for a person: offline roots, folders that cannot be read

    def to_json(self) -> dict[str, Any]:
        """The summary under the names of `scan --json`."""
        c = self.counts
        return {
            "files": self.files,
            "embedded": c.embedded,
            "rough": c.rough,
            "refined": c.refined,
            "rough_left": self.rough_left,
            "cached": c.cached,
            "classified": c.classified,
            "undecided": c.undecided,
            "analysed": c.analysed,
            "unanalysed": self.unanalysed,
            "tags_written": c.tags_written,
            "genres_written": c.genres_written,
            "tags_refused": c.tags_refused,
            "not_written": c.not_written,
            "left_alone": c.left_alone,
            "unreadable": self.unreadable,
            "unsupported": self.unsupported,
            "truncated": self.truncated,
            "missing": self.missing,
            "failed": c.failed,
            "failed_later": c.failed_later,
            **(asdict(c.engine) if c.engine else {"device": None, "precision": None, "engine": None}),
            "busy": {part: round(share, 3) for part, share in c.busy.items()},
            "elapsed_s": round(self.elapsed_s, 3),
            "audio_s": round(c.audio_s, 3),
            "interrupted": self.interrupted,
            **({"workers": c.workers} if c.workers else {}),
            **({"scan_again": True} if self.scan_again else {}),
            "left_out": dict(self.left_out),
            "notes": self.notes,
            "failures": [{"path": printable(os.fsencode(p)), "reason": r} for p, r in c.failures],
        }

    @property
    def exit_code(self) -> int:
        """0 when all went well, 1 when a file or root failed, 130 when interrupted."""
        if self.interrupted:
            return 130
        return 1 if self.counts.failed or self.notes else 0
