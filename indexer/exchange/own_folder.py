"""A set of files of ours in a folder of the user's: written anew as a whole, and nothing else in the folder is touched.

A list in the folder holds the SHA-256 of each file that we wrote; what is in the list and unchanged is ours. Files of
an earlier set that are not in the new one are removed. Interrupted at any instant, each file is the old or the new one,
and all are still known as ours.
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import BinaryIO

from indexer.errors import ConfigError
from indexer.exchange import own_files
from indexer.exchange.own_files import Output
from indexer.files.foreign import parse_json

LIST = ".indexer-playlists.json"
_FORMAT = "indexer playlists"


def write(folder: Path, ending: str, files: Mapping[str, Callable[[Output], None]]) -> None:
    """Write files, by name, each by its writer, in the place of an earlier set; all names have this ending.

    Makes the folder, not those above it. Raises ConfigError before anything is written where a file of another stands
    in the way, and where something cannot be written.
    """
    try:
        folder.mkdir(exist_ok=True)
    except OSError as e:
        raise ConfigError(f"{folder}: cannot be made ({e.strerror}); name a folder inside one that is there") from e
    refuse_others(folder, files)
    listed = _listed(folder)
    ours = partial(_is_listed, listed)
    stale = [folder / name for name in listed if name.endswith(ending) and name not in files]
    for name, write_one in files.items():
        own_files.replace(folder / name, partial(_noted, folder, listed, name, write_one), ours)
    for path in stale:
        with own_files.plain_errors(path):
            if path.is_file() and not path.is_symlink() and ours(path):
                path.unlink()
    others = {name: digests for name, digests in listed.items() if not name.endswith(ending)}
    _write_list(folder, others | {name: {_sha256(folder / name)} for name in files})


def refuse_others(folder: Path, names: Iterable[str]) -> None:
    """Raise ConfigError where a file of another stands in the way of one of these; the folder need not be there yet."""
    ours = partial(_is_listed, _listed(folder))
    for name in names:
        own_files.refuse_others(folder / name, ours)


def _noted(
    folder: Path, listed: dict[str, set[str]], name: str, write_one: Callable[[Output], None], out: BinaryIO
) -> None:
    """Write one file, and put it into the list before it takes its place."""
    hashing = own_files.Hashing(out)
    write_one(hashing)
    if hashing.sha256.hexdigest() not in listed[name]:
        listed[name].add(hashing.sha256.hexdigest())
        _write_list(folder, listed)


def _listed(folder: Path) -> dict[str, set[str]]:
    """{name: digests that the file may have}; empty where there is no list, or one that is damaged."""
    found: dict[str, set[str]] = defaultdict(set)
    try:
        told = parse_json((folder / LIST).read_bytes())
        for name, digests in told["files"].items() if told["format"] == _FORMAT else ():
            if Path(name).name == name:
                found[name] = {digest for digest in digests if isinstance(digest, str)}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        found.clear()
    return found


def _write_list(folder: Path, files: Mapping[str, set[str]]) -> None:
    text = json.dumps({"format": _FORMAT, "files": {name: sorted(files[name]) for name in sorted(files)}}, indent=1)
    own_files.replace(folder / LIST, lambda out: out.write(text.encode()), lambda _path: True)


def _is_listed(listed: Mapping[str, set[str]], path: Path) -> bool:
    return path.name in listed and _sha256(path) in listed[path.name]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
