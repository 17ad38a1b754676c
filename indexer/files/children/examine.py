"""The facts of one file for `indexer doctor`: the genre in each tag, and whether the file can be read and written.

Reads every tag by itself, so that a damaged one does not hide the others, also tags that a write leaves alone (an ID3
tag in front of a FLAC). Runs in a reader process, draws no conclusions and never writes.
"""

import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from indexer.errors import FileError, ReadError, TruncatedError, WriteRefusedError
from indexer.files.audio.decode import probe
from indexer.files.audio.identity import fingerprint, sniff
from indexer.files.children.lenient import all_tags, identify, play
from indexer.files.children.limits import Heartbeat, no_heartbeat
from indexer.files.containers import CONTAINERS, Loader
from indexer.files.tags.blocks.ape import ApeBlock
from indexer.files.tags.blocks.blocks import GENRE, Block, TagDamagedError
from indexer.files.tags.blocks.id3 import Id3Block, Id3v1Block, load_front
from indexer.files.tags.blocks.mp4 import IlstBlock
from indexer.files.tags.copies import check_replaceable
from indexer.files.tags.further import further_tags
from indexer.files.tags.genre import lesser_tags_alone, other_fields, refuse_damaged, refuse_other_genre
from indexer.files.tags.read import clean, read_tags

ANYWHERE: tuple[Loader, ...] = (load_front, ApeBlock, Id3v1Block)  # tags found on files of any container
FRAGMENTS = (b"moof", b"sidx", b"mfra")
FIELDS_BYTES = 400  # size of a genre and our own fields in an item list
MAX_SHOWN, MAX_VALUES = 200, 20  # characters shown of a genre; genres shown of a tag
_NAMES = {
    "id3": "ID3v2",
    "id3v1": "ID3v1",
    "ape": "APEv2",
    "info": "RIFF INFO",
    "vorbis": "Vorbis comment",
    "ilst": "MP4",
    "asf": "ASF",
    "asf library": "ASF library",
}
_DAMAGED = (TagDamagedError, EOFError, struct.error, IndexError, ValueError, AssertionError, OverflowError)


def examine(path: str, *, heartbeat: Heartbeat = no_heartbeat) -> dict[str, Any]:
    """The facts of one file as plain values: container, places, tags, and why it cannot be read or written.

    Raises ReadError where the file cannot be opened.
    """
    try:
        with Path(path).open("rb") as file:
            container = sniff(file)
    except OSError as error:
        raise ReadError(path, f"cannot be read: {error.strerror or error}") from error
    return {
        "container": container,
        "places": places(path, container),
        "tags": all_tags(path, container).to_json(),
        "unread": _complaint(_read, path, container, heartbeat),
        "unwritten": _complaint(_write, path, container, heartbeat),
    }


def _complaint(attempt: Callable[..., None], *arguments: Any) -> dict[str, str] | None:
    try:
        attempt(*arguments)
    except FileError as error:
        return {"state": error.state, "reason": error.reason}
    return None


def _read(path: str, _container: str, heartbeat: Heartbeat) -> None:
    """Read the sound as a scan does, in the same order; raises the error that a scan would report."""
    with Path(path).open("rb") as file:
        _, damage = identify(file, path, heartbeat=heartbeat)
    truncated = damage if damage and damage.startswith("truncated") else None
    probe(path)
    try:
        play(path, heartbeat)
    except ReadError as error:
        if truncated and error.reason.startswith("truncated"):  # told in bytes, as the writer tells it
            raise type(error)(path, truncated) from error
        raise
    if truncated:
        raise TruncatedError(path, truncated)


def _write(path: str, container: str, heartbeat: Heartbeat) -> None:
    """Make the checks that come before a copy is made; raises the error that refuses the write."""
    check_replaceable(path)
    refuse_damaged(path, container)
    refuse_other_genre(path, container)
    if unread := read_tags(path, container).unread:
        raise WriteRefusedError(path, unread)
    other_fields(path, container)
    with Path(path).open("rb") as file:
        truncated = fingerprint(file, path, heartbeat=heartbeat).truncated
    if truncated:
        raise WriteRefusedError(path, truncated)
    if container == "mp4":
        _write_mp4(path)


def _write_mp4(path: str) -> None:
    """Make the checks of an MP4 that a write makes only on its copy."""
    with Path(path).open("rb") as file:
        block = IlstBlock(file)
        if block.room - block.length() < FIELDS_BYTES and any(atom.name in FRAGMENTS for atom in block.top):
            raise WriteRefusedError(path, "fragmented MP4 files cannot grow")


def places(path: str, container: str) -> list[dict[str, Any]]:
    """Every tag with its genre: kind, name, values, why it cannot be read, whether a write fills it.

    The container's own places come first, even those that do not exist yet; other tags only where they exist.
    """
    own = [(place.load, place.create) for place in CONTAINERS[container].places] if container in CONTAINERS else []
    if own and _lesser_tags_alone(path, container, own):  # a write creates no new tag
        own = [(load, filled and number > 0) for number, (load, filled) in enumerate(own)]
    wanted = [*own, *((load, False) for load in ANYWHERE if load not in [known for known, _ in own])]
    found = [_place(path, load, filled=filled, own=number < len(own)) for number, (load, filled) in enumerate(wanted)]
    return [place for place in found if place]


def _lesser_tags_alone(path: str, container: str, own: list[tuple[Loader, bool]]) -> bool:
    try:
        with Path(os.fsdecode(path)).open("rb") as file:
            further = further_tags(file, CONTAINERS[container].further)
            return lesser_tags_alone([load(file) for load, _ in own], further)
    except _DAMAGED:
        return False


def _place(path: str, load: Loader, *, filled: bool, own: bool) -> dict[str, Any] | None:
    try:
        with Path(os.fsdecode(path)).open("rb") as file:
            block = load(file)
    except _DAMAGED as error:
        kind = getattr(load, "kind", "id3")
        problem = clean(str(error) or type(error).__name__, MAX_SHOWN)
        return {
            "kind": kind,
            "name": _NAMES[kind],
            "exists": True,
            "values": [],
            "problem": problem,
            "filled": filled,
            "own": own,
        }
    if not block.exists and not filled:
        return None
    values = [text for value in block.text_of(GENRE)[:MAX_VALUES] if (text := clean(value, MAX_SHOWN))]
    return {
        "kind": block.kind,
        "name": _name(block),
        "exists": block.exists,
        "values": values,
        "problem": None,
        "filled": filled,
        "own": own,
    }


def _name(block: Block) -> str:
    name = _NAMES[block.kind]
    return f"{name}.{block.tag.major}" if isinstance(block, Id3Block) and block.exists else name
