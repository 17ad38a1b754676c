"""A process of ours that the server gives work to: it gets the settings first, then each message is a line of JSON."""

import asyncio
import json
import sys
from asyncio.subprocess import PIPE, Process
from contextlib import suppress
from typing import Any

from indexer import config
from indexer.config import Settings
from indexer.files.children.start import without_interrupts


async def start(module: str, settings: Settings, *, longest_answer: int) -> Process:
    """Start a module as a process that is told the settings; ``longest_answer``: bytes of a line that it sends."""
    with without_interrupts():
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-m", module, stdin=PIPE, stdout=PIPE, limit=longest_answer
        )
    send(process, config.to_json(settings))
    return process


def send(process: Process, message: dict[str, Any]) -> None:
    """Send a message; to a process that has ended it goes nowhere."""
    assert process.stdin is not None
    process.stdin.write(json.dumps(message).encode("ascii") + b"\n")


def kill(process: Process) -> None:
    """Kill a process, which may have ended."""
    with suppress(ProcessLookupError):
        process.kill()
