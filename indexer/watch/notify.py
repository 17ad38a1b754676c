"""Tells systemd how the daemon is: readiness, watchdog, status line. Does nothing elsewhere."""

import contextlib
import os
import socket
import time

from indexer.wording import escaped

STATE_CHARS = 800  # systemd drops a whole datagram over 4096 bytes; a character has at most 4
SEND_TIMEOUT_S = 1.0  # a supervisor that does not listen must not stop the work


def notify(*states: str) -> None:
    """Tell the supervisor in one message ``READY=1``, ``STOPPING=1``, ``RELOADING=1``, ``WATCHDOG=1``, ``STATUS=...``.

    Does nothing where no supervisor listens ($NOTIFY_SOCKET) and never raises. Control characters are escaped and long
    states cut; ``RELOADING=1`` gets the time stamp that it needs and must be followed by ``READY=1``.
    """
    address = os.environb.get(b"NOTIFY_SOCKET")
    if not address:
        return
    lines = [escaped(state)[:STATE_CHARS] for state in states]
    if "RELOADING=1" in states:
        lines.append(f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
    if address.startswith(b"@"):  # a name in the abstract namespace, not a path
        address = b"\0" + address[1:]
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.settimeout(SEND_TIMEOUT_S)
        sender.sendto("\n".join(lines).encode(), address)


def watchdog_interval_s() -> float | None:
    """Seconds of silence after which the supervisor kills this process, or None; report at least every half of it."""
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):  # meant for a parent
        return None
    text = os.environ.get("WATCHDOG_USEC", "")
    return int(text) / 1e6 if text.isascii() and text.isdigit() and int(text) else None


def under_journald() -> bool:
    """Whether stderr is the journal, which adds time stamps itself and reads ``<N>`` before a line as its priority."""
    try:
        stderr = os.fstat(2)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{stderr.st_dev}:{stderr.st_ino}"
