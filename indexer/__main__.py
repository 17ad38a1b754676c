"""``python -m indexer`` and the command ``indexer``.

Ctrl-C ends it with one line and exit code 130 at any moment, also while the command line is still being imported.
"""

import os
import signal
import sys
from types import FrameType

SAID = "indexer: interrupted\n"


def main() -> None:
    """Run the command line."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else whoever started us wants it ignored
        signal.signal(signal.SIGINT, _interrupt)
    try:
        from indexer.cli.main import main as run

        run()
    except KeyboardInterrupt:  # the command line answers those that come while a command runs
        sys.stderr.write(SAID)
        sys.exit(130)
    finally:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # nothing is left to tidy, and Python would print a traceback


def _interrupt(_number: int, frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt; within an import end at once, as a kill would.

    An import may lose the exception (callbacks of importlib ignore it), or a library's start break on it.
    """
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            os.write(2, SAID.encode())
            os._exit(130)
        frame = frame.f_back
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
