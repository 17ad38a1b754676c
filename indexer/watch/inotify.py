"""An observer of watchdog that also reports what watchdog hides: dropped events, refused watches, dead threads."""

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

EVENTS: list[type[FileSystemEvent]] = [
    FileClosedEvent, FileMovedEvent, FileCreatedEvent, FileDeletedEvent,
    DirMovedEvent, DirCreatedEvent, DirDeletedEvent,
]  # fmt: skip
if sys.platform != "linux":  # only Linux reports when a file is closed; on Linux, "modified" comes with every write
    EVENTS.append(FileModifiedEvent)


class Handler(FileSystemEventHandler):
    """Passes every event to one function, which is called in a thread of watchdog."""

    def __init__(self, tell: Callable[[FileSystemEvent], None]) -> None:
        self._tell = tell

    def dispatch(self, event: FileSystemEvent) -> None:
        self._tell(event)


class _Recorded(BaseThread):
    """A thread of watchdog that keeps the exception that ended it."""

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

    # A folder that is moved out keeps its watch, and watchdog warns when it is moved back in: that is harmless.
    warnings.filterwarnings("ignore", "Callback with id", RuntimeWarning, __name__)

    class _Reader(_Recorded, InotifyFD):
        """Reads the kernel's queue, and reports refused watches and dropped events."""

        def __init__(self, wants: Callable[[bytes], bool], refused: Callable[[bytes, int], None],
                     overflowed: Callable[[], None]) -> None:  # fmt: skip
            super().__init__()
            self._wants, self._refused, self._overflowed = wants, refused, overflowed
            self._root: bytes | None = None  # the first folder; the caller gets its OSError

        def add_callback(self, path: bytes, mask: Mask, callback: WatchCallback, id_: CallbackId) -> WatchDescriptor:
            """Watch one folder. Raises OSError, which watchdog ignores for all folders except the root."""
            self._root = self._root or path
            if not self._wants(path):
                raise OSError(errno.ECANCELED, "left out")
            try:
                wd = super().add_callback(path, mask, callback, id_)
                if wd == -1:  # permission denied; watchdog would treat it as a watch
                    self.remove_callbacks([(wd, id_)])
                    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            except OSError as error:
                if path != self._root and error.errno not in {errno.ENOENT, errno.ENOTDIR}:  # not deleted meanwhile
                    self._refused(path, error.errno or 0)
                raise
            return wd

        def handle_event(self, event: InotifyEvent) -> None:
            """Handle an event as watchdog does, but report dropped events: the root is then watched anew."""
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

    def new_observer(wants: Callable[[bytes], bool], refused: Callable[[bytes, int], None],
                     overflowed: Callable[[], None]) -> BaseObserver:  # fmt: skip
        """An observer for one root, with a queue and threads of its own.

        ``wants`` says whether to watch a folder; ``refused`` receives a folder that the system does not watch, and
        errno; ``overflowed`` is called when the kernel dropped events. All are called in threads of watchdog.
        """
        reader = _Reader(wants, refused, overflowed)
        reader.start()
        return _Observer(reader)

else:
    from watchdog.observers import Observer

    def new_observer(**_: Callable[..., object]) -> BaseObserver:
        """An observer for one root."""
        return Observer()  # FSEvents: one watch for the whole tree, no limit


def _threads(observer: BaseObserver) -> Iterator[BaseThread]:
    """The threads that an event passes through; one can die while the others run on."""
    yield observer
    yield from observer.emitters
    reader = getattr(observer, "reader", None)
    if reader:
        yield reader


def why_dead(observer: BaseObserver) -> str | None:
    """Why an observer delivers no events any more; None while all its threads run."""
    for thread in _threads(observer):
        if not thread.is_alive():
            failure = getattr(thread, "failure", None)
            return f"watching stopped ({kind_of(failure)})" if failure else "watching stopped"
    return None


def kind_of(error: Exception) -> str:
    """An exception as text: its class and its message."""
    return f"{type(error).__name__}: {error}"
