"""What the stages of a file share: the kinds of work, what a stage waits for, how it fails, and the run itself.

A stage that has to wait is a generator: it yields a ``Wait`` for a heavy step and goes on in the run's own thread when
that step is done. All work with the library happens in that one thread. All work with the file's bytes happens in the
executor and the reader processes. Every failure of a file ends in ``FileFailedError``.
"""

from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, TypeVar

from indexer.config import Settings
from indexer.files.children.pool import Readers
from indexer.files.tags.read import Tags
from indexer.library.set_fields import WrittenSet
from indexer.library.store import Store
from indexer.library.writing.files import FileRow
from indexer.listen.executor import Executor
from indexer.models.choice import Model
from indexer.scan.label_sets import SetModel
from indexer.scan.outcome import Counts, Listener
from indexer.scan.pace import Pace

NO_GENRE = "no genre is written into it"  # ends the reason of a file that can be heard and is left alone
_T = TypeVar("_T")


@dataclass(frozen=True)
class Changed:
    """A file to be read: new, changed, or read again with ``force``."""

    path: bytes
    root_id: int | None


@dataclass(frozen=True)
class Backlog:
    """A file that an earlier run read and that lacks a later stage."""

    file_id: int


@dataclass(frozen=True)
class Unanalysed:
    """A file of a known recording that was not measured yet."""

    file_id: int


@dataclass(frozen=True)
class Rough:
    """A file whose recording was heard roughly and is to be heard whole."""

    file_id: int


Item = Changed | Backlog | Unanalysed | Rough


@dataclass(frozen=True, slots=True)
class Wait:
    """A step that a stage waits for.

    ``outside``: start it outside any transaction, because starting may take long (an encoder loads its weights).
    ``alone``: resume the stage outside any shared transaction, because it commits by itself.
    """

    start: Callable[[], "Future[Any]"]
    outside: bool = False
    alone: bool = False

    @classmethod
    def on(cls, future: "Future[Any]") -> "Wait":
        """Wait for something that was started before."""
        return cls(lambda: future)


# A stage yields what it waits for, is sent the finished future, and returns its result.
Stage = Generator[Wait, Future[Any], _T]


@dataclass
class KnownFile:
    """A file that has its row: read just now, or by an earlier run."""

    row: FileRow
    recording_id: int
    tags: Tags | None = None  # None until this run has read them
    is_new: bool = False  # its recording was found for the first time just now
    outcome: str = "known"  # a few words for the listener
    reported: bool = False  # whether the listener was told that no genre is written


class FileFailedError(Exception):
    """A file failed at some stage; the message is the reason. ``state``: its row's state now, where that changed."""

    def __init__(self, reason: str, state: str | None = None) -> None:
        super().__init__(reason)
        self.state = state


class FileGoneError(Exception):
    """The file is not there any more. ``noted``: its row says so, and the listener is told."""

    def __init__(self, *, noted: bool) -> None:
        super().__init__()
        self.noted = noted


@dataclass
class Run:
    """What all stages of a run share."""

    store: Store
    settings: Settings
    model: Model | None
    executor: Executor
    readers: Readers
    listener: Listener
    run_id: int
    threshold: float  # from which the head's genre counts as decided
    tag_policy: str | None  # digest of what decides which genre is written; None: no tag is written
    force: bool
    explicit_tags: bool
    stopped: Callable[[], bool]
    pace: Pace
    sets: Sequence[SetModel] = ()  # label sets beside the genre
    written_sets: tuple[WrittenSet, ...] = ()  # those that are written into files
    counts: Counts = field(default_factory=Counts)
    embedding: dict[int, "Future[bool]"] = field(default_factory=dict)  # recording in work -> whether it was embedded
    embedded: set[int] = field(default_factory=set)  # recordings that this run embedded
    truncated: set[int] = field(default_factory=set)  # files of which decoding found that they lost their end
