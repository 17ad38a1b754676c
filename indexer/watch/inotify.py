"""Watchdog's observer made to say what it loses: overflow, a full watch table, a dead thread."""

import errno
import os
import sys
import warnings
from collections.abc import Callable, Iterator

from watchdog.events import (
    DirCreatedEvent,
    DirDeletedEvent,
    DirMovedEvent,
    FileClosedEvent,
    FileCreatedEvent,
    FileDeletedEvent,
    FileModifiedEvent,
    FileMovedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers.api import BaseObserver
from watchdog.utils import BaseThread

_EVENTS: list[type[FileSystemEvent]] = [
    FileClosedEvent, FileMovedEvent, FileCreatedEvent, FileDeletedEvent,
    DirMovedEvent, DirCreatedEvent, DirDeletedEvent,
]  # fmt: skip
if sys.platform != "linux":  # nothing but Linux says when a file is closed; there, modified would come with every write
    _EVENTS.append(FileModifiedEvent)


class _Handler(FileSystemEventHandler):
    def __init__(self, tell: Callable[[FileSystemEvent], None]) -> None:
        self._tell = tell

    def dispatch(self, event: FileSystemEvent) -> None:
        self._tell(event)


class _Recorded(BaseThread):
    """A thread of watchdog that leaves behind what it died of."""

    failure: Exception | None = None

    def run(self) -> None:
        try:
            super().run()
        except Exception as error:
            self.failure = error


if sys.platform == "linux":
    from watchdog.observers.inotify import InotifyEmitter
    from watchdog.observers.inotify_c import (
        CallbackId,
        InotifyEvent,
        InotifyFD,
        Mask,
        WatchCallback,
        WatchDescriptor,
    )

    # A folder that was moved out keeps its watch and gets it again when it is moved back in: nothing for people.
    warnings.filterwarnings("ignore", "Callback with id", RuntimeWarning, __name__)

    class _Reader(_Recorded, InotifyFD):
        """Reads the kernel's queue, and tells what watchdog keeps to itself: refused watches and dropped events."""

        def __init__(self, wants: Callable[[bytes], bool], refused: Callable[[bytes, int], None],
                     overflowed: Callable[[], None]) -> None:  # fmt: skip
            super().__init__()
            self._wants, self._refused, self._overflowed = wants, refused, overflowed
            self._root: bytes | None = None  # the first folder; its refusal reaches the caller by itself

        def add_callback(self, path: bytes, mask: Mask, callback: WatchCallback, id_: CallbackId) -> WatchDescriptor:
            """Watch one folder. Raises OSError, which watchdog ignores for all folders but the root."""
            self._root = self._root or path
            if not self._wants(path):
                raise OSError(errno.ECANCELED, "left out")
            try:
                wd = super().add_callback(path, mask, callback, id_)
                if wd == -1:  # permission denied, which watchdog takes for a watch
                    self.remove_callbacks([(wd, id_)])
                    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            except OSError as error:
                if path != self._root and error.errno not in {errno.ENOENT, errno.ENOTDIR}:  # gone meanwhile
                    self._refused(path, error.errno or 0)
                raise
            return wd

        def handle_event(self, event: InotifyEvent) -> None:
            """As watchdog does, but dropped events are told: all is watched anew then."""
            if event.is_queue_overflow:
                self._overflowed()
            else:
                super().handle_event(event)

    class _Emitter(_Recorded, InotifyEmitter):
        """Turns the kernel's records of one root into events."""

    class _Observer(_Recorded, BaseObserver):
        """Hands the events of one root to the handler."""

        def __init__(self, reader: _Reader) -> None:
            super().__init__(_Emitter, inotify_fd=reader)
            self.reader = reader

        def on_thread_stop(self) -> None:
            super().on_thread_stop()
            self.reader.stop()
            self.reader.join()

    def _new_observer(wants: Callable[[bytes], bool], refused: Callable[[bytes, int], None],
                      overflowed: Callable[[], None]) -> BaseObserver:  # fmt: skip
        reader = _Reader(wants, refused, overflowed)
        reader.start()
        return _Observer(reader)

else:
    from watchdog.observers import Observer

    def _new_observer(**_: Callable[..., object]) -> BaseObserver:
        return Observer()  # FSEvents: one watch for the whole tree, no limit


def _threads(observer: BaseObserver) -> Iterator[BaseThread]:
    """Every thread that an event passes through; any of them can die alone and leave the others running."""
    yield observer
    yield from observer.emitters
    reader = getattr(observer, "reader", None)
    if reader:
        yield reader


def _why_dead(observer: BaseObserver) -> str | None:
    for thread in _threads(observer):
        if not thread.is_alive():
            failure = getattr(thread, "failure", None)
            return f"watching stopped ({_kind_of(failure)})" if failure else "watching stopped"
    return None


def _kind_of(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
