"""Takes MusiCNN's weights out of its published wheel: ``python -m indexer.encoders.musicnn.convert WHEEL``.

Writes weights.safetensors beside this file, which ships with the package; so nobody has to run it again. Reads
TensorFlow's checkpoint itself, without TensorFlow; Adam's state stays behind.
"""

import hashlib
import math
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from indexer.encoders import tensorfile
from indexer.encoders.musicnn.weights import FILE, NETWORKS, shapes
from indexer.errors import ModelError

WHEEL = "musicnn-0.1.0-py3-none-any.whl"
WHEEL_SHA256 = "f38a4890c648c1ddbb141c5d96d2b0a8cfcd36746002d896989f7b88beb65cfa"

_MAGIC = bytes.fromhex("57fb808b247547db")  # ends a LevelDB table
_FOOTER_BYTES = 48
_TYPE, _SHAPE, _OFFSET, _SIZE = 1, 2, 4, 5  # the fields of a BundleEntryProto that are read
_FLOAT32 = 1


def convert(wheel: Path, target: Path) -> None:
    """Write both networks' weights to ``target``. Raises ModelError for any wheel but the published one."""
    try:
        content = wheel.read_bytes()
    except OSError as error:
        raise ModelError(f"cannot read {wheel}: {error.strerror}") from error
    if wheel.name != WHEEL or hashlib.sha256(content).hexdigest() != WHEEL_SHA256:
        raise ModelError(f"{wheel} is not {WHEEL} as published: pip download musicnn==0.1.0 --no-deps")
    found = {}
    with zipfile.ZipFile(wheel) as archive:
        for network in NETWORKS:
            index, data = (
                archive.read(f"musicnn/{network}_musicnn/.{part}") for part in ("index", "data-00000-of-00001")
            )
            found.update({f"{network}/{name}": array for name, array in read_checkpoint(index, data).items()})
    about = {"source": WHEEL, "sha256": WHEEL_SHA256, "licence": "ISC, in LICENSE.md"}
    tensorfile.write(target, {name: found[name] for name in shapes()}, about)


def read_checkpoint(index: bytes, data: bytes) -> dict[str, np.ndarray]:
    """The float32 tensors of a TensorFlow checkpoint by name, from its .index and its only .data file.

    Raises ModelError for files of another form.
    """
    tensors = {}
    try:
        if index[-len(_MAGIC) :] != _MAGIC:
            raise ValueError("no table of LevelDB")
        footer = _Bytes(index[-_FOOTER_BYTES:])
        _, _, start, size = (footer.varint() for _ in range(4))  # of the index of the index, and of the index of blocks
        for _, place in _entries(index, start, size):
            handle = _Bytes(place)
            for key, value in _entries(index, handle.varint(), handle.varint()):
                entry = _Entry.of(value)
                if key and entry.is_float32:  # the entry without a name describes the file
                    if entry.size != 4 * math.prod(entry.shape) or entry.offset + entry.size > len(data):
                        raise ValueError(f"{key.decode()} has another size than its shape")
                    numbers = np.frombuffer(data, "<f4", entry.size // 4, entry.offset)
                    tensors[key.decode()] = numbers.reshape(entry.shape)
    except ValueError as error:
        raise ModelError(f"not a TensorFlow checkpoint, or a damaged one: {error}") from error
    return tensors


class _Bytes:
    """Reads bytes from the front. Raises ValueError at their end."""

    def __init__(self, content: bytes) -> None:
        self._content, self._at = content, 0

    def __bool__(self) -> bool:
        return self._at < len(self._content)

    def take(self, count: int) -> bytes:
        self._at += count
        if self._at > len(self._content):
            raise ValueError("it is cut off")
        return self._content[self._at - count : self._at]

    def varint(self) -> int:
        value = shift = 0
        while True:
            (byte,) = self.take(1)
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7


class _Entry(NamedTuple):
    """Where a tensor lies in the .data file."""

    is_float32: bool
    shape: tuple[int, ...]
    offset: int
    size: int

    @classmethod
    def of(cls, message: bytes) -> "_Entry":
        numbers, texts = {}, {_SHAPE: b""}
        for field, value in _fields(message):
            if isinstance(value, int):
                numbers[field] = value
            else:
                texts[field] = value
        sides = (dict(_fields(side)).get(1, 0) for _, side in _fields(texts[_SHAPE]) if isinstance(side, bytes))
        shape = tuple(side for side in sides if isinstance(side, int))
        return cls(numbers.get(_TYPE) == _FLOAT32, shape, numbers.get(_OFFSET, 0), numbers.get(_SIZE, 0))


def _entries(index: bytes, start: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """The keys and values of an uncompressed block; each key leaves out what it shares with the one before."""
    if index[start + size : start + size + 1] != b"\0":
        raise ValueError("a block is compressed or cut off")
    block = index[start : start + size]
    restarts = int.from_bytes(block[-4:], "little")
    content, key = _Bytes(block[: max(0, size - 4 * restarts - 4)]), b""
    while content:
        shared, own, length = (content.varint() for _ in range(3))
        key = key[:shared] + content.take(own)
        yield key, content.take(length)


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Number and value of each field of a protobuf message."""
    content = _Bytes(message)
    while content:
        field, kind = divmod(content.varint(), 8)
        if kind == 0:
            yield field, content.varint()
        elif kind == 2:
            yield field, content.take(content.varint())
        elif kind == 5:  # four bytes: a checksum
            yield field, content.take(4)
        else:
            raise ValueError("it holds a field of an unknown kind")


def main() -> int:
    """Convert the wheel that the command line names."""
    if len(sys.argv) != 2:
        sys.stderr.write(f"usage: python -m {__spec__.name} {WHEEL}\n")
        return 2
    try:
        convert(Path(sys.argv[1]), FILE)
    except ModelError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
