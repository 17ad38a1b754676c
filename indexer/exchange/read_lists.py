"""Finds and reads playlists that others wrote: files of a known format, and folders of them."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from indexer.errors import ConfigError, FileError, LimitError
from indexer.files.children.worker import Worker
from indexer.files.playlists.foreign_lists import ForeignList, Left, all_left
from indexer.files.playlists.formats import FORMATS

MAX_FILES = 10_000  # of a folder
SHOWN_PROBLEMS = 10


Looking = Callable[[Path | None], None]  # the file that is read or folder that is searched now; None: done


@dataclass
class ReadLists:
    """What was found: the lists, and what could not be read."""

    lists: list[ForeignList] = field(default_factory=list)
    files: int = 0
    unread: int = 0  # files in folders that could not be read
    problems: list[str] = field(default_factory=list)  # why, of the first SHOWN_PROBLEMS


def read(paths: Sequence[Path], worker: Worker, looking: Looking = lambda _path: None) -> ReadLists:
    """Read files, and all playlists in folders; the names of folders count as those of lists in them do.

    Raises ConfigError for a file that was named and cannot be read, and for more than all may hold together.
    """
    found, left = ReadLists(), all_left()
    for path in paths:
        looking(path)
        if not path.is_dir():
            lists, left = _read_file(path, worker, left)
            _add(found, lists)
            continue
        named = found.files + found.unread
        for file in _files_below(path, looking):
            above = file.parent.relative_to(path).parts if file.suffix.lower() in (".m3u8", ".m3u") else ()
            try:
                lists, left = _read_file(file, worker, left)
            except ConfigError as e:
                found.unread += 1
                if found.unread <= SHOWN_PROBLEMS:
                    found.problems.append(str(e))
                continue
            _add(found, lists, (path.resolve().name, *above))
        if found.files + found.unread == named:
            raise ConfigError(f"{path}: holds no playlist that is known here: {', '.join(FORMATS)}")
    return found


def _add(found: ReadLists, lists: list[ForeignList], above: tuple[str, ...] = ()) -> None:
    found.files += 1
    found.lists += [ForeignList((*above, *one.names), one.entries) for one in lists]


def _read_file(path: Path, worker: Worker, left: Left) -> tuple[list[ForeignList], Left]:
    if not path.is_file():  # a pipe would be waited for
        raise ConfigError(f"{path}: {'is neither a file nor a folder' if path.exists() else 'no such file or folder'}")
    if path.suffix.lower() not in FORMATS:
        raise ConfigError(f"{path}: is no playlist that is known here: {', '.join(FORMATS)}, or a folder of them")
    try:
        return worker.playlists(os.fsencode(path), left)
    except LimitError as e:  # its reason is that of a file of sound
        raise ConfigError(f"{path}: reading it takes more computing than the setting max_read_cpu_s allows") from e
    except FileError as e:
        raise ConfigError(str(e)) from e


def _files_below(folder: Path, looking: Looking) -> Iterator[Path]:
    """The playlists in a folder and below it, sorted; links to folders are not followed."""
    count = 0
    for above, folders, names in os.walk(folder):
        looking(Path(above))
        folders.sort()
        for name in sorted(names):
            if Path(name).suffix.lower() in FORMATS:
                count += 1
                if count > MAX_FILES:
                    raise ConfigError(f"{folder}: holds more than {MAX_FILES:,} playlists; name a smaller folder")
                looking(Path(above, name))
                yield Path(above, name)
