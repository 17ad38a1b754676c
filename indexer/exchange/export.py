"""`indexer export --rekordbox`, `--m3u`, `--serato`: the library's playlists for players and DJ programs.

Owns which playlists there are: one for each genre, the undecided tracks, one for each label of a label set, and one for
each saved question. Reads one
state of the library and never changes it.
"""

import os
import re
import time
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from indexer.config import Settings
from indexer.errors import ConfigError, IndexerError
from indexer.exchange import living, m3u, own_files, own_folder, rekordbox, serato
from indexer.exchange.dj_paths import PathMap, from_drive_root
from indexer.exchange.genres import genre_of
from indexer.exchange.own_files import Output
from indexer.exchange.rekordbox import Playlist
from indexer.files.mounts import read_mounts
from indexer.library import apart, label_sets, listed, questions
from indexer.library.listed import ListedTrack
from indexer.library.sqlite import Reader
from indexer.library.tables import snapshot

Progress = Callable[[int, int], None]  # (tracks written, tracks to write)

FOLDER = "indexer"  # that holds all playlists in rekordbox
_NAME_BYTES = 240  # of a file's name, which may have 255 with its ending
_NO_FILE_NAME = re.compile(r'[\x00-\x1f\x7f<>:"/\\|?*\ud800-\udfff]')  # on the file systems of drives for DJs, too
_INTO_REKORDBOX = f"""\
into rekordbox, in two steps:
  1. Preferences > Advanced > Database (or > rekordbox xml) > Imported Library: choose {{file}}
     and show "rekordbox xml" in the tree (Preferences > View > Layout)
  2. in the tree, rekordbox xml > Playlists: right-click "{FOLDER}" > Import Playlist
tracks that rekordbox knows already keep what it has: open an imported playlist, select all, right-click >
Import To Collection, and say Yes to loading the information; of WAV files only Reload Tag brings the genre"""
_INTO_SERATO = "into Serato: close it and copy the .crate files into _Serato_/Subcrates of the drive with the tracks"
_DEVICES = re.compile(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\.|$)")


@dataclass
class Found:
    """What an export is about: the ids of all listed tracks, and the playlists, whose ids are among them."""

    ids: "array[int]"
    genres: list[Playlist]
    undecided: Playlist
    questions: list[Playlist]
    sets: list[Playlist] = field(default_factory=list)  # one for each label of each label set
    not_utf8: int = 0  # tracks whose path is no UTF-8
    problems: list[str] = field(default_factory=list)  # questions that could not be answered

    def playlists(self) -> list[Playlist]:
        """All playlists, without folders."""
        return [*self.genres, self.undecided, *self.sets, *self.questions]


def export(
    settings: Settings,
    *,
    to_rekordbox: Path | None = None,
    to_m3u: Path | None = None,
    to_serato: Path | None = None,
    relative: bool = False,
    progress: Progress = lambda _done, _total: None,
) -> dict[str, Any]:
    """Write the playlists in one or several formats.

    Returns for each of ``rekordbox``, ``m3u`` and ``serato`` that was asked for {to: its path, tracks, playlists,
    left_out}, and {not_utf8, problems, elapsed_s}. Raises ConfigError for a target that holds other files, a map that
    fits no track, and what cannot be written; StoreError for a library that cannot be read.
    """
    started = time.monotonic()
    paths = PathMap(settings.dj_map)
    if to_rekordbox:
        own_files.refuse_others(to_rekordbox)  # before anything takes long
    with snapshot(settings.db) as conn:
        found = _gather(conn, settings, paths)
        if paths.unused:
            raise ConfigError(f"--map {paths.unused[0]} fits no track of the library; nothing was written")
        for folder, ending in ((to_m3u, ".m3u8"), (to_serato, ".crate")):
            if folder:
                own_folder.refuse_others(folder, file_names(found.playlists(), ending))  # before anything is written
        listed_in_lists = sum(len(playlist.ids) for playlist in found.playlists())
        total = (len(found.ids) if to_rekordbox else 0) + listed_in_lists * (bool(to_m3u) + bool(to_serato))
        counting = _Counting(progress, total)
        done: dict[str, Any] = {}
        if to_rekordbox:
            done["rekordbox"] = _rekordbox(conn, settings, found, paths, to_rekordbox, counting)
        if to_m3u:
            done["m3u"] = _m3u(conn, found, paths, to_m3u, counting, relative=relative)
        if to_serato:
            done["serato"] = _serato(conn, found, paths, to_serato, counting)
    return {
        **done,
        "not_utf8": found.not_utf8,
        "problems": found.problems,
        "elapsed_s": round(time.monotonic() - started, 3),
    }


# ---- the playlists


def _gather(conn: Reader, settings: Settings, paths: PathMap) -> Found:
    ids, not_utf8 = array("q"), 0
    for file_id, path in listed.paths(conn):
        ids.append(file_id)
        paths.there(path)  # notes which folders of the map fit
        not_utf8 += not _is_utf8(path)
    taken: set[str] = set()
    genres = [Playlist(_unique(settings.text_for(label), taken), found) for label, found in listed.by_label(conn)]
    undecided = Playlist(_unique("Undecided", taken), listed.undecided(conn))
    found = Found(ids, genres, undecided, [], not_utf8=not_utf8)
    for name in label_sets.shown_sets(conn):
        found.sets += [
            Playlist(_unique(f"{label_sets.title(name)} - {label}", taken), tracks)
            for label, tracks in listed.by_set(conn, name)
        ]
    known = frozenset(ids)
    asked: dict[str, Callable[[], array[int] | None]] = {
        title: partial(questions.tracks_of, settings.db, settings.aliases, sql)
        for title, sql in questions.ready_made().items()
    }
    asked |= {
        name: partial(living.tracks_of, conn, settings, playlist) for name, playlist in settings.playlists.items()
    }
    try:
        for name, ask in asked.items():
            _ask(name, ask, found, known, taken)
    finally:
        apart.end()
    return found


def _ask(
    name: str, ask: Callable[[], "array[int] | None"], found: Found, known: frozenset[int], taken: set[str]
) -> None:
    """Add the tracks that a question finds as a playlist, where it finds any."""
    try:
        answer = array("q", (file_id for file_id in ask() or () if file_id in known))
    except IndexerError as e:
        found.problems.append(f"{name}: left out, {e}")
        return
    if answer:
        found.questions.append(Playlist(_unique(name, taken), answer))


def _is_utf8(path: bytes) -> bool:
    try:
        path.decode()
    except UnicodeDecodeError:
        return False
    return True


def _unique(name: str, taken: set[str]) -> str:
    """The name, with a number where another playlist has it already; not every file system tells case apart."""
    number, unique = 1, name
    while unique.casefold() in taken:
        number += 1
        unique = f"{name} ({number})"
    taken.add(unique.casefold())
    return unique


# ---- the formats


def _rekordbox(
    conn: Reader, settings: Settings, found: Found, paths: PathMap, file: Path, counting: "_Counting"
) -> dict[str, Any]:
    inside = [
        Playlist("Genres", inside=found.genres, is_folder=True),
        found.undecided,
        *([Playlist("Labels", inside=found.sets, is_folder=True)] if found.sets else []),
        Playlist("Questions", inside=found.questions, is_folder=True),
    ]

    def write(out: Output) -> None:
        rekordbox.write(
            out,
            counting.counted(listed.all_tracks(conn)),
            len(found.ids),
            [Playlist(FOLDER, inside=inside, is_folder=True)],
            there=paths.there,
            genre_of=genre_of(settings),
        )

    own_files.write_sealed(file, own_files.XML, write)
    return {"to": os.fspath(file), "tracks": len(found.ids), "playlists": len(found.playlists()), "left_out": 0}


def _m3u(
    conn: Reader,
    found: Found,
    paths: PathMap,
    folder: Path,
    counting: "_Counting",
    *,
    relative: bool,
) -> dict[str, Any]:
    path_of = m3u.relative_to(folder) if relative else paths.there
    left_out = 0

    def write(playlist: Playlist, out: Output) -> None:
        nonlocal left_out
        out.write(own_files.M3U8.first_line)
        left_out += m3u.write(out, counting.counted(listed.tracks(conn, playlist.ids)), path_of)

    names = file_names(found.playlists(), ".m3u8")
    own_folder.write(folder, ".m3u8", {name: partial(write, playlist) for name, playlist in names.items()})
    return _told(folder, names, left_out)


def _serato(conn: Reader, found: Found, paths: PathMap, folder: Path, counting: "_Counting") -> dict[str, Any]:
    mounts = read_mounts() or []
    left_out = 0

    def write(playlist: Playlist, out: Output) -> None:
        serato.write(out, rooted(playlist))

    def rooted(playlist: Playlist) -> Iterator[str]:
        nonlocal left_out
        for track in counting.counted(listed.tracks(conn, playlist.ids)):
            there = paths.there(track.path)
            path = from_drive_root(there, mounts if there == track.path else ())
            if _is_utf8(path):
                yield path.decode()
            else:  # UTF-16 cannot say it
                left_out += 1

    names = file_names(found.playlists(), ".crate")
    own_folder.write(folder, ".crate", {name: partial(write, playlist) for name, playlist in names.items()})
    return _told(folder, names, left_out)


def _told(folder: Path, names: dict[str, Playlist], left_out: int) -> dict[str, Any]:
    tracks = {file_id for playlist in names.values() for file_id in playlist.ids}
    return {"to": os.fspath(folder), "tracks": len(tracks), "playlists": len(names), "left_out": left_out}


def file_names(playlists: list[Playlist], ending: str) -> dict[str, Playlist]:
    """{name of a file: playlist}: names that every file system takes."""
    taken: set[str] = set()
    found = {}
    for playlist in playlists:
        name = _NO_FILE_NAME.sub("_", playlist.name).replace("%%", "%").strip(" .") or "_"  # "%%" parts crates
        if _DEVICES.match(name):
            name = f"_{name}"
        name = name.encode()[:_NAME_BYTES].decode(errors="ignore")
        found[_unique(name, taken) + ending] = playlist
    return found


class _Counting:
    def __init__(self, progress: Progress, total: int) -> None:
        self._progress, self._total, self._done = progress, total, 0

    def counted(self, tracks: Iterator[ListedTrack]) -> Iterator[ListedTrack]:
        """The same tracks; reports every hundredth."""
        for track in tracks:
            yield track
            self._done += 1
            if self._done % 100 == 0 or self._done == self._total:
                self._progress(self._done, self._total)


# ---- what to do with it


def next_steps(found: dict[str, Any]) -> list[str]:
    """How each export gets into its program, a line for each step."""
    lines = []
    if "rekordbox" in found:
        lines += _INTO_REKORDBOX.format(file=found["rekordbox"]["to"]).splitlines()
    if "serato" in found:
        lines.append(_INTO_SERATO)
    return lines
