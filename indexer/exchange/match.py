"""Finds the recordings that playlists of others mean: by path, else by the file's name and length, size or folder."""

import os
import unicodedata
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from indexer.exchange.dj_paths import PathMap
from indexer.files.playlists.foreign_lists import Entry, ForeignList
from indexer.library.facts import FileFacts
from indexer.wording import printable

LENGTH_S = 1.5  # lists hold whole seconds, rounded or cut
EXAMPLES = 10


@dataclass
class Matched:
    """Which recordings lists hold, and what could not be told."""

    members: list[tuple[int, tuple[str, ...]]] = field(default_factory=list)  # (recording, names of the list)
    lists: int = 0
    entries: int = 0
    by_path: int = 0
    by_name: int = 0
    ambiguous: int = 0  # entries that fit several recordings
    unmatched: int = 0  # entries that fit none
    examples: list[str] = field(default_factory=list)  # paths of entries that were not matched
    unused_maps: list[str] = field(default_factory=list)  # HERE=THERE that fitted no entry

    def to_json(self) -> dict[str, Any]:
        """The counts, and what they do not tell."""
        names = ("lists", "entries", "by_path", "by_name", "ambiguous", "unmatched", "examples", "unused_maps")
        return {name: getattr(self, name) for name in names}


def match(lists: Sequence[ForeignList], files: Iterable[FileFacts], paths: PathMap) -> Matched:
    """Find the recording of every entry; one that a list names twice is one member of it."""
    library = _Library(files, paths)
    found = Matched(lists=len(lists))
    known: dict[Entry, tuple[str, int | None]] = {}
    for one in lists:
        members: dict[int, None] = {}
        for entry in one.entries:
            if entry not in known:
                known[entry] = library.find(entry)
            how, recording = known[entry]
            setattr(found, how, getattr(found, how) + 1)
            found.entries += 1
            if recording is not None:
                members[recording] = None
            elif len(found.examples) < EXAMPLES:
                told = printable(entry.rooted or entry.paths[0])
                found.examples += [told] if told not in found.examples else []
        found.members += [(recording, one.names) for recording in members]
    found.unused_maps = paths.unused
    return found


class _Library:
    def __init__(self, files: Iterable[FileFacts], paths: PathMap) -> None:
        self._paths = paths
        self._by_path: dict[bytes, int] = {}
        self._by_name: dict[str, list[FileFacts]] = defaultdict(list)
        self._namesakes: dict[str, _Namesakes] = {}
        for file in files:
            self._by_path[file.path] = file.recording_id
            self._by_name[_folded(os.path.basename(file.path))].append(file)  # noqa: PTH119 - bytes

    def find(self, entry: Entry) -> tuple[str, int | None]:
        """(by_path, by_name, ambiguous or unmatched; the recording, where there is one)."""
        for path in self._places(entry):
            if path in self._by_path:
                return "by_path", self._by_path[path]
        candidates = self._like(entry)
        recordings = {file.recording_id for file in candidates}
        if len(recordings) > 1:
            recordings = {file.recording_id for file in _nearest(entry, candidates)}
        if len(recordings) == 1:
            return "by_name", recordings.pop()
        return ("ambiguous" if recordings else "unmatched"), None

    def _places(self, entry: Entry) -> list[bytes]:
        """Where the file of an entry may lie on this machine."""
        mapped = [self._paths.here(path) for path in entry.paths]
        if entry.rooted is not None:
            mapped.append(self._paths.here_rooted(entry.rooted))
        return [*(path for path in mapped if path is not None), *entry.paths]

    def _like(self, entry: Entry) -> list[FileFacts]:
        """The files of an entry's name that agree with what else it tells."""
        name = _folded(entry.paths[0].rpartition(b"/")[2])
        if name not in self._by_name or not name:
            return []
        if name not in self._namesakes:
            self._namesakes[name] = _Namesakes(self._by_name[name])
        return self._namesakes[name].like(entry)


class _Namesakes:
    """Files of one name."""

    def __init__(self, files: Sequence[FileFacts]) -> None:
        self._files = sorted(files, key=lambda file: file.duration_s or 0.0)
        self._durations = [file.duration_s or 0.0 for file in self._files]
        self._by_folder: dict[str, list[FileFacts]] = defaultdict(list)
        self._by_size: dict[int, list[FileFacts]] = defaultdict(list)
        for file in files:
            self._by_folder[_folded(_folder(file.path))].append(file)
            self._by_size[file.size].append(file)

    def like(self, entry: Entry) -> list[FileFacts]:
        """Those of the entry's length; where it tells none, of its size, else in a folder of its folder's name.

        Several of one length are told apart by their size, where that of one is the entry's: a tag that was written
        changes it.
        """
        if entry.duration_s is not None:
            first = bisect_left(self._durations, entry.duration_s - LENGTH_S)
            found = self._files[first : bisect_right(self._durations, entry.duration_s + LENGTH_S)]
            return [file for file in found if _has_size(file, entry)] or found
        if entry.size is not None:
            if entry.size_unit == 1:
                return self._by_size.get(entry.size, [])
            return [file for file in self._files if _has_size(file, entry)]
        return self._by_folder.get(_folded(_folder(entry.paths[0])), [])


def _has_size(file: FileFacts, entry: Entry) -> bool:
    return entry.size is not None and abs(file.size - entry.size) < entry.size_unit


def _nearest(entry: Entry, files: Sequence[FileFacts]) -> list[FileFacts]:
    """Of several files those whose path ends most like the entry's."""
    parts = [_folded(part) for part in reversed(entry.paths[0].split(b"/"))]

    def alike(file: FileFacts) -> int:
        pairs = zip(parts, reversed(file.path.split(b"/")), strict=False)
        return next((n for n, (a, b) in enumerate(pairs) if a != _folded(b)), len(parts))

    most = max(map(alike, files))
    return [file for file in files if alike(file) == most]


def _folder(path: bytes) -> bytes:
    return path.rpartition(b"/")[0].rpartition(b"/")[2]


def _folded(name: bytes) -> str:
    """A name without case; Macs take accented letters apart."""
    return unicodedata.normalize("NFC", os.fsdecode(name)).casefold()
