"""How processes of our own are started: Ctrl-C on a terminal does not reach them."""

import contextlib
import signal
from collections.abc import Iterator


@contextlib.contextmanager
def without_interrupts() -> Iterator[None]:
    """Start a process in here: it is born with SIGINT blocked, and ends with its parent or when the parent says so.

    A terminal sends SIGINT to the whole group, and a process that is still importing could only die with a traceback.
    Works in every thread.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
