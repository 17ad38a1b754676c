"""Labels from what the user has: corrections, a CSV, playlists, genre tags and folders, in this order of trust.

Owns the alias table (which text means which label), the votes of a recording's files, and the grouping by artist. Never
opens the database or a music file. A genre that this program wrote into a tag is no label.
"""

import csv
import io
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from indexer.errors import ConfigError
from indexer.files.foreign import is_name
from indexer.library.facts import FileFacts
from indexer.wording import key

SOURCES = ("corrections", "csv", "playlists", "tags", "folders")  # the first one that knows a recording decides
# Spellings only. The user decides which label a sub-genre belongs to (setting aliases): Deep House, Liquid, or Jungle,
# which some file under drum and bass and others do not.
BUILT_IN = {
    "ambient": ("ambient", "ambient music"),
    "drum and bass": ("drum and bass", "drum bass", "drumnbass", "dnb", "d and b"),
    "house": ("house", "house music"),
    "techno": ("techno", "techno music"),
    "trance": ("trance", "trance music"),
}
_VARIOUS = {"various", "variousartists", "va", "compilation", "diverse", "unknown", "unknownartist"}
_BRACKETS = re.compile(r"[(\[][^)\]]*[)\]]")


@dataclass
class Labels:
    """The label of each recording, its source, and what could not be used."""

    label_of: dict[int, str] = field(default_factory=dict)  # recording -> label
    source_of: dict[int, str] = field(default_factory=dict)  # recording -> the source that decided
    artist_of: dict[int, str] = field(default_factory=dict)  # every recording -> see ``artist_group``
    unmapped: dict[str, dict[str, int]] = field(default_factory=dict)  # source -> text without a label -> files
    contradictions: dict[str, int] = field(default_factory=dict)  # "tags" or "tags against folders" -> recordings
    unknown_rows: int = 0  # rows of the CSV that name no recording of the library
    playlists: dict[str, Any] | None = None  # how many entries of playlists were found; None: none were asked for


class Aliases:
    """Maps texts to labels: by the user's table, then the built-in spellings, then the names of the labels."""

    def __init__(
        self, own: Mapping[str, str] | None = None, built_in: Mapping[str, tuple[str, ...]] = BUILT_IN
    ) -> None:
        """``own``: text -> label, the user's table; a text with an empty label is ignored."""
        self._labels: dict[str, str] = {key(text): label for label, texts in built_in.items() for text in texts}
        self._found: dict[str, tuple[frozenset[str], tuple[str, ...]]] = {}
        own = own or {}
        for label in filter(None, own.values()):
            self._labels.setdefault(key(label), " ".join(label.split()))
        canonical = {label: self._labels[key(label)] if label else "" for label in own.values()}
        self._labels |= {key(text): canonical[label] for text, label in own.items()}

    def add(self, spellings: Counter[str]) -> None:
        """Make labels of texts that are not known yet and can be labels, in their most frequent spelling."""
        for text, _ in sorted(spellings.items(), key=lambda item: (-item[1], item[0])):
            label = " ".join(text.split())
            if is_name(label):
                self._labels.setdefault(key(text), label)
        self._found.clear()

    def label(self, text: str) -> str | None:
        """The label of a text; "" for a text to ignore, None for one without a label."""
        found = self._labels.get(key(text))
        return self._labels.get(key(_BRACKETS.sub(" ", text))) if found is None else found

    def of_tag(self, text: str) -> tuple[frozenset[str], tuple[str, ...]]:
        """All labels of a genre field, and its values without a label.

        Values are separated by ';'; one without a label is split again at ',', '/' and '|'. Text in brackets is
        dropped.
        """
        if text not in self._found:
            labels: set[str] = set()
            unknown: list[str] = []
            for value in (v.strip() for v in text.split(";")):
                whole = self.label(value)
                parts = (
                    [whole]
                    if whole is not None
                    else [self.label(p) for p in re.split(r"[,/|]", _BRACKETS.sub(" ", value)) if p.strip()]
                )
                labels.update(p for p in parts if p)
                if value and all(p is None for p in parts):
                    unknown.append(value)
            self._found[text] = frozenset(labels), tuple(unknown)
        return self._found[text]


@dataclass(frozen=True, slots=True)
class CsvRow:
    """One line of the user's CSV: a path or an audio_sha256, and a genre or another set's label."""

    path: bytes | None
    audio_sha256: str | None
    genre: str


def read_csv(path: Path, label_column: str = "genre") -> list[CsvRow]:
    """Rows of a CSV with the columns ``genre`` and ``path`` or ``audio_sha256`` (comma, semicolon or tab; UTF-8).

    ``label_column``: where the label stands, instead of in ``genre``; in ``label`` where there is no such column. A
    relative path is taken from the CSV's own folder. Raises ConfigError for a file that cannot be used.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig", "surrogateescape").lstrip()
        mark = max(",;\t", key=text[: text.find("\n")].count)
        reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=mark)
        columns = {name.strip().casefold(): name for name in reader.fieldnames or () if name}
        if label_column != "genre":
            columns["genre"] = columns.get(label_column) or columns.get("label", "")
        if not columns.get("genre") or not columns.keys() & {"path", "audio_sha256"}:
            needed = label_column if label_column == "genre" else f"{label_column} (or label)"
            raise ConfigError(f"{path}: needs a first line with the columns path (or audio_sha256) and {needed}")
        return [row for line in reader if (row := _csv_row(line, columns, path.absolute().parent))]
    except OSError as e:
        raise ConfigError(f"{path}: cannot be read ({e.strerror})") from e
    except csv.Error as e:
        raise ConfigError(f"{path}: not a CSV file ({e})") from e


def _csv_row(line: Mapping[str, str | None], columns: Mapping[str, str], folder: Path) -> CsvRow | None:
    def value(column: str) -> str:
        return (line.get(columns.get(column, "")) or "").strip()

    if not value("genre") or not (value("path") or value("audio_sha256")):
        return None
    path = None
    if value("path"):
        expanded = os.path.expanduser(value("path"))  # noqa: PTH111 - never raises
        path = os.fsencode(os.path.normpath(folder / expanded))
    return CsvRow(path, value("audio_sha256").casefold() or None, value("genre"))


def gather(
    files: Iterable[FileFacts],
    aliases: Aliases,
    *,
    sources: Sequence[str] = SOURCES,
    corrections: Mapping[int, str] | None = None,
    rows: Sequence[CsvRow] = (),
    members: Sequence[tuple[int, tuple[str, ...]]] = (),
) -> Labels:
    """The label of each recording, from the first of ``sources`` in order of trust that has one.

    ``members``: recordings in playlists, with the names of the folders around and of the playlist, which comes last.
    Within a source the majority of the recording's files decides; a tie, or a tag with two genres, gives no label.
    """
    found = Labels()
    files = sorted(files, key=lambda f: (f.recording_id, f.path))
    said = {recording: text for recording, text in (corrections or {}).items() if "corrections" in sources}
    explicit: dict[str, list[tuple[int, str]]] = {
        "corrections": sorted(said.items()),
        "csv": _match(rows, files, found) if "csv" in sources else [],
    }
    aliases.add(Counter(text for pairs in explicit.values() for _, text in pairs))
    votes: dict[str, dict[int, Counter[str]]] = {source: defaultdict(Counter) for source in SOURCES}
    for source, pairs in explicit.items():
        for recording, text in pairs:
            if label := aliases.label(text):
                votes[source][recording][label] += 1
    unmapped: dict[str, Counter[str]] = defaultdict(Counter)
    contradictions: Counter[str] = Counter()
    confused: dict[str, set[int]] = defaultdict(set)
    for recording, names in members if "playlists" in sources else ():
        label = _nearest_label(names, aliases)
        if label:
            votes["playlists"][recording][label] += 1
        unmapped["playlists"].update(names[-1:] if label is None else ())
    for file in files:
        found.artist_of.setdefault(file.recording_id, artist_group(file))
        for source, (labels, unknown) in _implied(file, aliases, sources).items():
            if len(labels) > 1:
                confused[source].add(file.recording_id)
            votes[source][file.recording_id].update(labels if len(labels) == 1 else ())
            unmapped[source].update(unknown if not labels else ())
    _decide(found, votes, confused, contradictions)
    found.unmapped = {source: dict(counts.most_common()) for source, counts in unmapped.items() if counts}
    found.contradictions = dict(contradictions)
    return found


def _match(rows: Sequence[CsvRow], files: Sequence[FileFacts], found: Labels) -> list[tuple[int, str]]:
    by_path = {f.path: f.recording_id for f in files}
    by_digest = {f.audio_sha256: f.recording_id for f in files}
    pairs = []
    for row in rows:
        recording = by_digest.get(row.audio_sha256 or "")
        if recording is None and row.path is not None and b"\0" not in row.path:
            recording = by_path.get(row.path) or by_path.get(os.path.realpath(row.path))
        if recording is None:
            found.unknown_rows += 1
        else:
            pairs.append((recording, row.genre))
    return pairs


def _implied(
    file: FileFacts, aliases: Aliases, sources: Sequence[str]
) -> dict[str, tuple[frozenset[str], tuple[str, ...]]]:
    """{source: (labels, texts without a label)}, from tags and folder names."""
    implied = {}
    if "tags" in sources and file.genre:
        implied["tags"] = aliases.of_tag(file.genre)
    if "folders" in sources:
        names = _folders(file)
        label = _nearest_label(names, aliases)
        implied["folders"] = (frozenset([label] if label else []), tuple(names[1:2]) if label is None else ())
    return implied


def _nearest_label(names: Sequence[str], aliases: Aliases) -> str | None:
    """The label of the last name that has one; None where none has."""
    return next((label for name in reversed(names) if (label := aliases.label(name)) is not None), None)


def _folders(file: FileFacts) -> list[str]:
    """Names of the folders above a file, from its root's own name down; without a root only the parent's name."""
    folder = os.path.dirname(file.path)  # noqa: PTH120 - bytes
    above = os.path.dirname(file.root) if file.root else os.path.dirname(folder)  # noqa: PTH120
    return [os.fsdecode(name) for name in folder[len(above) :].split(b"/") if name]


def _decide(
    found: Labels,
    votes: Mapping[str, Mapping[int, Counter[str]]],
    confused: Mapping[str, set[int]],
    contradictions: Counter[str],
) -> None:
    """Choose each recording's label from the votes, and count where votes or sources contradict each other."""
    label_by: dict[int, dict[str, str]] = defaultdict(dict)  # recording -> source -> label
    for source in SOURCES:
        undecided = set(confused.get(source, ()))
        for recording, counter in votes[source].items():
            best = counter.most_common(2)
            if len(best) > 1:
                undecided.add(recording)
            if best and (len(best) == 1 or best[0][1] > best[1][1]):
                label_by[recording][source] = best[0][0]
        if undecided:
            contradictions[source] = len(undecided)
    for recording, by_source in sorted(label_by.items()):
        first, label = next(iter(by_source.items()))  # in order of trust
        found.label_of[recording], found.source_of[recording] = label, first
        for a, b in _pairs(list(by_source)):
            contradictions[f"{a} against {b}"] += by_source[a] != by_source[b]
    for pair in [pair for pair, count in contradictions.items() if not count]:
        del contradictions[pair]


def _pairs(names: Sequence[str]) -> list[tuple[str, str]]:
    return [(a, b) for n, a in enumerate(names) for b in names[n + 1 :]]


def artist_group(file: FileFacts) -> str:
    """A name for recordings of one artist: the album's artist, else the track's, else the file's folder.

    Names such as "Various Artists" are skipped.
    """
    for name in (file.album_artist, file.artist):
        if name and key(name) not in _VARIOUS:
            return f"artist {key(name)}"
    return f"folder {os.fsdecode(os.path.dirname(file.path))}"  # noqa: PTH120 - bytes
