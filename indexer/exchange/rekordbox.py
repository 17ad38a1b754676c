"""Writes rekordbox XML, the format in which rekordbox imports tracks and playlists; other DJ programs read it, too.

The format: https://cdn.rekordbox.com/files/20200410160904/xml_format_list.pdf. Elements are made one at a time, so that
a library of any size takes the same memory; that is why the numbers of entries must be known before.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from urllib.parse import quote
from xml.etree import ElementTree as ET  # only makes elements; what others wrote is never parsed with it

from indexer import __version__
from indexer.exchange.own_files import Output
from indexer.files.windows_paths import is_of_windows
from indexer.library.listed import ListedTrack
from indexer.wording import printable

# By container; what rekordbox does not play has no name.
_KINDS = {"mp3": "MP3 File", "mp4": "M4A File", "flac": "FLAC File", "wav": "WAV File", "aiff": "AIFF File"}
# Characters that XML 1.0 has no way to say (https://www.w3.org/TR/xml/#charsets).
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
# What stands for itself in rekordbox's own addresses.
_PLAIN = "/!'()*,;=@$+"


@dataclass
class Playlist:
    """A playlist: the ids of its tracks, or a folder of others."""

    name: str
    ids: Sequence[int] = ()
    inside: list["Playlist"] = field(default_factory=list)
    is_folder: bool = False


def write(
    out: Output,
    tracks: Iterable[ListedTrack],
    count: int,
    playlists: Sequence[Playlist],
    *,
    there: Callable[[bytes], bytes],
    genre_of: Callable[[ListedTrack], str | None],
) -> None:
    """Write what follows the XML declaration.

    ``count``: how many tracks there are; ``there``: a path as rekordbox's machine sees it. Every id of a playlist must
    be that of one of the tracks.
    """
    out.write(b'<DJ_PLAYLISTS Version="1.0.0">\n')
    out.write(_element("PRODUCT", {"Name": "indexer", "Version": __version__, "Company": ""}))
    out.write(b'<COLLECTION Entries="%d">\n' % count)
    for track in tracks:
        out.write(_element("TRACK", _attributes(track, there(track.path), genre_of(track))))
    out.write(b"</COLLECTION>\n<PLAYLISTS>\n")
    _write_node(out, Playlist("ROOT", inside=list(playlists), is_folder=True))
    out.write(b"</PLAYLISTS>\n</DJ_PLAYLISTS>\n")


def location(path: bytes) -> str:
    """The address of a file, given its absolute path as rekordbox's machine sees it (``/...`` or ``D:/...``)."""
    if is_of_windows(path):
        return f"file://localhost/{path[:2].decode()}{quote(path[2:], safe=_PLAIN)}"
    return f"file://localhost{quote(path, safe=_PLAIN)}"


def _attributes(track: ListedTrack, path: bytes, genre: str | None) -> dict[str, object]:
    seconds = track.duration_s or 0.0
    return {
        "TrackID": track.id,
        "Name": track.title or printable(track.path.rpartition(b"/")[2]),
        "Artist": track.artist,
        "Album": track.album,
        "Genre": genre,
        "Kind": _KINDS.get(track.container or ""),
        "Size": track.size,
        "TotalTime": round(seconds) or None,
        "Year": track.year,
        "AverageBpm": f"{track.bpm:.2f}" if track.bpm else None,
        "DateAdded": track.first_seen[:10],
        "BitRate": round(track.size / seconds / 125) if seconds >= 1 else None,
        "SampleRate": track.sample_rate_hz,
        "Comments": track.comment,
        "Location": location(path),
        "Tonality": track.musical_key,
        "Label": track.record_label,
    }


def _write_node(out: Output, playlist: Playlist) -> None:
    if playlist.is_folder:
        out.write(_start("NODE", {"Type": 0, "Name": playlist.name, "Count": len(playlist.inside)}))
        for one in playlist.inside:
            _write_node(out, one)
    else:
        out.write(_start("NODE", {"Name": playlist.name, "Type": 1, "KeyType": 0, "Entries": len(playlist.ids)}))
        for file_id in playlist.ids:
            out.write(b'<TRACK Key="%d"/>\n' % file_id)
    out.write(b"</NODE>\n")


def _element(name: str, attributes: dict[str, object]) -> bytes:
    """An element without content; attributes that are None are left out."""
    told = {key: _NOT_XML.sub("\ufffd", str(value)) for key, value in attributes.items() if value is not None}
    return ET.tostring(ET.Element(name, told), encoding="unicode").encode() + b"\n"


def _start(name: str, attributes: dict[str, object]) -> bytes:
    return _element(name, attributes).removesuffix(b" />\n") + b">\n"
