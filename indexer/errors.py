"""Every error the program raises on purpose, each with the exit code the command line maps it to.

File errors carry (path, reason); the reason is one line for a person. What an error says is escaped when it is made,
because names, tags and answers of others are part of it.
"""

import os

from indexer.wording import escaped, printable

READ_ONLY = "read-only"  # how the reason of a ReadOnlyError begins


class IndexerError(Exception):
    """Shown to the user as one line: what happened and what to do."""

    exit_code = 2

    def __init__(self, message: str) -> None:
        super().__init__(escaped(message))


class ConfigError(IndexerError):
    """A setting, flag or file of settings that cannot be used."""


class ModelError(IndexerError):
    """A checkpoint, head or download that is refused, with what to do about it."""


class StoreError(IndexerError):
    """The database cannot be opened, migrated or written."""


class LockedError(IndexerError):
    """Another indexer process works on this library."""

    exit_code = 75


class ClusterError(IndexerError):
    """The cluster cannot be worked with: no scheduler, no worker that is admitted."""


class ClusterLostError(ClusterError):
    """It was there and did not come back in time; what it did is stored, and the next scan goes on."""

    exit_code = 1


class FileError(IndexerError):
    """One file that could not be handled: ``reason`` is a line for a person; ``state`` the row's state."""

    exit_code = 1
    state = "unreadable"

    def __init__(self, path: str | bytes | os.PathLike[str], reason: str) -> None:
        Exception.__init__(self, path, reason)  # the arguments of a copy
        self.path = os.fsdecode(path)
        self.reason = escaped(reason)

    def __str__(self) -> str:
        return f"{printable(os.fsencode(self.path))}: {self.reason}"


class ReadError(FileError):
    """The file is damaged, truncated or not audio."""


class TruncatedError(ReadError):
    """The file lost its end. What is there was read; it is most of the recording, as far as the file tells."""

    state = "ready"


class ReaderDiedError(ReadError):
    """Reading it killed or hung whatever read it, ``deaths`` times: the file's fault, or bad luck."""

    def __init__(self, path: str | bytes | os.PathLike[str], reason: str, deaths: int = 1) -> None:
        super().__init__(path, reason)
        self.deaths = deaths


class UnsupportedError(FileError):
    """A sound file of a kind that cannot be handled."""

    state = "unsupported"


class LimitError(UnsupportedError):
    """Reading the file takes more computing, or it has more sound, than the settings allow."""


class DeferredError(FileError):
    """Not now: the file changed while it was read, or the disk is full. Tried again by the next scan."""

    state = "deferred"


class WriteRefusedError(FileError):
    """The tag was not written and the file is untouched."""

    state = "refused"


class ReadOnlyError(WriteRefusedError):
    """The file, its folder or its drive cannot be written now; the next scan tries again. See READ_ONLY."""
