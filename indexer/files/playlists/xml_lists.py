"""Reads playlists from rekordbox XML and from Traktor's NML, a piece at a time.

Expat parses; a document type is refused where it begins, so that no entity is ever declared, read from elsewhere or
expanded. Depth, length of a tag and number of tracks have bounds.
"""

from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote_to_bytes
from xml.parsers import expat

from indexer.errors import ReadError
from indexer.files.playlists.foreign_lists import MAX_NAME_CHARS, MAX_PATH_BYTES, Budget, Entry, ForeignList
from indexer.files.windows_paths import is_of_windows

MAX_XML_BYTES = 1 << 30  # a collection of 100,000 tracks with its beats and cues has some 100 MB
MAX_LEVELS = 64  # of elements within each other
MAX_TAG_BYTES = 1 << 20
NML_VERSIONS = range(11, 21)  # that have tracks and playlists as they are read here
_BLOCK = 1 << 16

Attributes = dict[str, str]


def read(file: BinaryIO, path: Path, budget: Budget) -> list[ForeignList]:
    """The lists in a file that is rekordbox XML or NML, by its root element. Raises ReadError for any other."""
    reader = _Reader(path, budget)
    reader.read(file)
    return reader.lists


class _Reader:
    def __init__(self, path: Path, budget: Budget) -> None:
        self.lists: list[ForeignList] = []
        self._path = path
        self._budget = budget
        self._above: list[str] = []  # names of the elements around
        self._names: list[str | None] = []  # of the nodes around; the root has none
        self._list_names: tuple[str, ...] = ()  # of the playlist that is being read
        self._tracks: dict[str, Entry] = {}  # by the key by which playlists name them
        self._entries: list[Entry] | None = None  # of the playlist that is being read
        self._keys_are_locations = False
        self._nml_track: dict[str, Attributes] = {}
        self._start: Callable[[str, Attributes], None] = self._root

    def read(self, file: BinaryIO) -> None:
        parser = expat.ParserCreate()
        parser.StartElementHandler = self._started
        parser.EndElementHandler = self._ended
        parser.StartDoctypeDeclHandler = self._doctype
        fed = 0
        try:
            while block := file.read(_BLOCK):
                self._budget.beat()
                fed += len(block)
                if fed > MAX_XML_BYTES:
                    raise self._refused(f"is larger than {MAX_XML_BYTES >> 30} GB")
                parser.Parse(block, False)
                if fed - parser.CurrentByteIndex > MAX_TAG_BYTES:
                    raise self._refused("has a tag without an end")
            parser.Parse(b"", True)
        except (expat.ExpatError, ValueError, LookupError) as e:  # also an encoding that there is not
            if getattr(e, "code", None) == expat.errors.codes[expat.errors.XML_ERROR_NO_MEMORY]:
                raise MemoryError from e
            raise self._refused(f"is damaged, or no XML ({e})") from e

    def _refused(self, why: str) -> ReadError:
        return ReadError(self._path, why)

    def _doctype(self, *_of_it: object) -> None:
        raise self._refused("has a document type, which no DJ program writes; it is not read")

    def _started(self, name: str, attributes: Attributes) -> None:
        if len(self._above) >= MAX_LEVELS:
            raise self._refused(f"has more than {MAX_LEVELS} elements within each other")
        self._start(name, attributes)
        self._above.append(name)

    def _ended(self, name: str) -> None:
        self._above.pop()
        if name == "NODE":
            self._names.pop()
            if self._entries is not None:
                self.lists.append(ForeignList(self._list_names, self._entries))
                self._entries = None
        elif name == "ENTRY" and self._nml_track:
            self._add_nml_track()

    def _root(self, name: str, attributes: Attributes) -> None:
        if name == "DJ_PLAYLISTS":
            self._start = self._of_rekordbox
        elif name == "NML":
            version = attributes.get("VERSION", "")
            if not version.isdecimal() or len(version) > 4 or int(version) not in NML_VERSIONS:
                raise self._refused(
                    f"is NML of the version '{version[:20]}', which is not known here; known are"
                    f" {NML_VERSIONS[0]} to {NML_VERSIONS[-1]}"
                )
            self._start = self._of_traktor
        else:
            raise self._refused(f"is neither rekordbox XML nor NML (its root is {name[:60]})")

    def _list(self, entry: Entry | None) -> None:
        """Add a track to the playlist that is being read."""
        self._budget.take(self._path, entries=1)
        if entry is not None and self._entries is not None:
            self._entries.append(entry)

    def _track(self, key: str) -> Entry | None:
        return self._tracks.get(key[:MAX_PATH_BYTES])

    def _of_itself(self, entry: Entry) -> Entry:
        """An entry that is in no collection."""
        self._budget.take(self._path, texts=entry.paths)
        return entry

    def _keep(self, key: str, entry: Entry) -> None:
        self._budget.take(self._path, entries=1, texts=(*entry.paths, key))
        self._tracks[key[:MAX_PATH_BYTES]] = entry

    # ---- rekordbox

    def _of_rekordbox(self, name: str, attributes: Attributes) -> None:
        around = self._above[-1]
        if name == "TRACK" and around == "COLLECTION":
            if "TrackID" in attributes:
                self._keep(attributes["TrackID"], _of_location(attributes))
        elif name == "NODE":
            self._begin_node(attributes.get("Name", ""), is_list=attributes.get("Type") == "1")
            self._keys_are_locations = attributes.get("KeyType") == "1"
        elif name == "TRACK" and around == "NODE":
            key = attributes.get("Key", "")
            self._list(
                self._of_itself(_of_location({"Location": key})) if self._keys_are_locations else self._track(key)
            )

    def _begin_node(self, name: str, *, is_list: bool) -> None:
        self._names.append(name[:MAX_NAME_CHARS] if self._names else None)
        if is_list:
            self._list_names, self._entries = tuple(filter(None, self._names)), []
            self._budget.take(self._path, lists=1, texts=self._list_names)

    # ---- Traktor

    def _of_traktor(self, name: str, attributes: Attributes) -> None:
        if name == "NODE":
            self._begin_node(attributes.get("NAME", ""), is_list=attributes.get("TYPE") == "PLAYLIST")
        elif name == "PRIMARYKEY":
            key = attributes.get("KEY", "")
            self._list(self._track(key) or self._of_itself(_of_primary_key(key)))
        elif name in ("LOCATION", "INFO") and self._above[1:3] == ["COLLECTION", "ENTRY"]:
            self._nml_track[name] = attributes

    def _add_nml_track(self) -> None:
        place, info = self._nml_track.get("LOCATION", {}), self._nml_track.get("INFO", {})
        self._nml_track = {}
        key = place.get("VOLUME", "") + place.get("DIR", "") + place.get("FILE", "")
        size = _number(info.get("FILESIZE"))
        entry = _of_primary_key(key)
        duration_s = _number(info.get("PLAYTIME_FLOAT") or info.get("PLAYTIME"))
        self._keep(key, Entry(entry.paths, duration_s, None if size is None else int(size) * 1024, 1024))


def _of_location(attributes: Attributes) -> Entry:
    """A track of rekordbox: the file's address, size in bytes and length in seconds."""
    address = attributes.get("Location", "")[: 3 * MAX_PATH_BYTES]
    size = _number(attributes.get("Size"))
    return Entry(
        (path_of_address(address),),
        _number(attributes.get("TotalTime")),
        None if size is None else int(size),
    )


def path_of_address(address: str) -> bytes:
    """The path in a ``file:`` address, with forward slashes and, on Windows, beginning with the drive's letter."""
    text = address.removeprefix("file://").removeprefix("localhost")
    path = unquote_to_bytes(text.encode(errors="surrogateescape"))[:MAX_PATH_BYTES]
    return path[1:] if is_of_windows(path[1:]) else path


def _of_primary_key(key: str) -> Entry:
    """A track of Traktor: ``VOLUME/:folder/:file``, whose volume is a drive's letter, or the name of a Mac's disk."""
    volume, _, rest = key[:MAX_PATH_BYTES].partition("/:")
    path = rest.replace("/:", "/").encode(errors="replace")
    disk = volume.encode(errors="replace")
    if is_of_windows(disk + b"/"):
        return Entry((disk + b"/" + path,))
    return Entry((b"/Volumes/" + disk + b"/" + path, b"/" + path))


def _number(text: str | None) -> float | None:
    """A number that is more than 0 and not absurd; None for anything else."""
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if 0 < value < 1e15 else None
