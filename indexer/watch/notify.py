"""Reports readiness, liveness and a status line to systemd (sd_notify(3)); does nothing without systemd."""

import contextlib
import os
import socket
import time

from indexer.wording import escaped

STATE_CHARS = 800  # systemd drops a whole datagram over 4096 bytes; a character has at most 4
SEND_TIMEOUT_S = 1.0  # a supervisor that does not listen must not stop the work


def notify(*states: str) -> None:
    """Send the supervisor one message of states: READY=1, STOPPING=1, RELOADING=1, WATCHDOG=1 or STATUS=text.

    Does nothing where $NOTIFY_SOCKET is unset, and never raises. Control characters are escaped, and a state is cut to
    ``STATE_CHARS``. The time stamp that RELOADING=1 needs is added; READY=1 must follow it.
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
    """Seconds without WATCHDOG=1 after which the supervisor kills this process; None where it has no watchdog.

    sd_watchdog_enabled(3) recommends a report every half of it.
    """
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):  # the variable was inherited from a parent
        return None
    text = os.environ.get("WATCHDOG_USEC", "")
    usec = int(text) if text.isascii() and text.isdigit() and len(text) < 20 else 0  # a number of 64 bits
    return usec / 1e6 if usec else None


def under_journald() -> bool:
    """Whether stderr is the journal, which adds time stamps itself and reads ``<N>`` before a line as its priority."""
    try:
        stderr = os.fstat(2)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{stderr.st_dev}:{stderr.st_ino}"
