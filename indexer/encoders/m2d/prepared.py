"""What was made of a model for this processor, kept in files beside its weights.

A file is one line of JSON, which says what it is and holds the digest of the bytes behind it. Only a file that the user
or the weights' owner wrote, nobody else can write to, and whose content is whole, is read; whatever is wrong with one,
it counts as missing and is made anew. A file is replaced by one rename.
"""

import contextlib
import hashlib
import json
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from indexer.encoders.m2d import openvino
from indexer.encoders.m2d.checkpoint import CheckpointInfo
from indexer.files.foreign import parse_json
from indexer.files.replace import replacing

FOLDER = "prepared"
CONVERSION_VERSION = 1  # raised when graph, quantisation, trial or the form of the files change
_LINE_BYTES = 1 << 16  # at most


@dataclass(frozen=True, slots=True)
class Prepared:
    """What was kept."""

    about: dict[str, Any]
    content: bytes  # a compiled model; empty where compiling is as quick as reading one


class Shelf:
    """The files of one model for this processor, engine and number of threads."""

    def __init__(self, info: CheckpointInfo) -> None:
        self._weights = info.path
        self._encoder_id = info.encoder_id

    def read(self, what: str) -> Prepared | None:
        """What was kept under this name; None where that is missing, damaged, or of another model or machine."""
        try:
            handle = os.open(self._path(what), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            with os.fdopen(handle, "rb") as file:
                if not self._is_trusted(os.fstat(handle)):
                    return None
                head = parse_json(file.readline(_LINE_BYTES))
                content = file.read()
            if head["key"] != self._key(what) or head["sha256"] != hashlib.sha256(content).hexdigest():
                return None
            return Prepared(dict(head["about"]), content)
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write(self, what: str, prepared: Prepared) -> None:
        """Keep it, in place of what another release kept; in a folder that cannot be written, nothing happens."""
        head = {
            "key": self._key(what),
            "sha256": hashlib.sha256(prepared.content).hexdigest(),
            "about": prepared.about,
        }
        path = self._path(what)
        with contextlib.suppress(OSError):
            path.parent.mkdir(mode=0o755, exist_ok=True)
            with replacing(path, 0o644) as file:
                file.write(json.dumps(head).encode() + b"\n" + prepared.content)

    @property
    def is_writable(self) -> bool:
        """Whether anything can be kept."""
        folder = self._path("").parent
        return os.access(folder if folder.exists() else folder.parent, os.W_OK)

    def _is_trusted(self, found: os.stat_result) -> bool:
        owners = {os.geteuid(), self._weights.stat().st_uid}
        return (
            stat.S_ISREG(found.st_mode) and found.st_uid in owners and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        )

    def _key(self, what: str) -> dict[str, Any]:
        weights = self._weights.stat()
        return {
            "what": what,
            "encoder_id": self._encoder_id,
            "weights": [weights.st_size, weights.st_mtime_ns],  # edited ones are checked again
            "engine": str(openvino.engine().__version__),
            "processor": openvino.processor(),
            "threads": openvino.threads(),
            "version": CONVERSION_VERSION,
        }

    def _path(self, what: str) -> Path:
        machine = hashlib.sha256(f"{openvino.processor()}, {openvino.threads()}".encode()).hexdigest()[:12]
        return self._weights.parent / FOLDER / f"{what}-{machine}"
