"""The whole library as arrays, for browsing: which tracks a search and filters leave, in which order, and how many.

One row for each file, read at once; counts of every kind then take milliseconds in a library of any size. What a page
shows of its tracks is read anew, by ``shown``. Reads only.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import takewhile
from typing import Any

import numpy as np

from indexer.analysis.camelot import parse_key
from indexer.library.columns import Coding, Labels, Texts
from indexer.library.label_sets import ENDINGS, Shown, join, shown_sets
from indexer.library.measured import LOSSY_SUSPECT, MEASURED_JOIN, TAG_BPM, TEMPO_BPM
from indexer.library.sqlite import Reader
from indexer.library.states import ROUGH, SHOWN_STATE
from indexer.library.whose_word import DECIDED, SAID, USERS_TAG

HIDDEN_STATES = ("missing", "left out")  # shown when they are asked for
IN_SET = "set."  # in front of a label set's name, among kinds and orders
SORTS = ("added", "title", "artist", "genre", "confidence", "length", "tempo", "key", "year", "format")
MAX_WORDS = 8  # of a search
KEPT_SEARCHES = 20  # of one reading of the library
MAX_TEMPO_BPM = 999  # what a tag claims beyond is not known
PAGE_ROWS = 10_000  # read at once

_JOINED = f"""FROM (SELECT *, {SHOWN_STATE} AS shown FROM files) f
  LEFT JOIN tags t ON t.file_id = f.id LEFT JOIN recordings r ON r.id = f.recording_id LEFT JOIN heads h ON h.in_use = 1
  LEFT JOIN predictions p ON p.recording_id = f.recording_id AND p.head_id = h.id
  {MEASURED_JOIN}"""
# Materialized, because SQLite would evaluate each word again wherever it stands. Its fields: of label sets.
_ALL = f"""
WITH words AS MATERIALIZED (
  SELECT f.id, f.path_text, f.shown AS state, f.container, r.duration_s, coalesce({TEMPO_BPM}, t.bpm) AS tempo_bpm,
    coalesce(a.key, t.musical_key) AS key, {LOSSY_SUSPECT} AS lossy, t.year,
    {SAID} AS said, {USERS_TAG} AS tag, {DECIDED} AS head, p.genre AS guess, p.confidence{{columns}}
  {_JOINED}{{joins}}
)
SELECT id, rtrim(rtrim(path_text, replace(path_text, '/', '')), '/'), state, container, duration_s, tempo_bpm, key,
  lossy, year, coalesce(said, tag, head), CASE WHEN said IS NOT NULL THEN 'you' WHEN tag IS NOT NULL THEN 'tag'
  WHEN head IS NOT NULL THEN 'model' END, guess, confidence{{labels}} FROM words ORDER BY id
"""
_TEXT_COLUMNS = ("folder", "state", "format", "key", "label", "word", "guess")
_COLUMNS = (
    "id", "folder", "state", "format", "duration_s", "tempo_bpm", "key", "lossy", "year", "label", "word", "guess",
    "confidence",
)  # fmt: skip
# A file's name: the path without what ends with its last slash.
_NAME = "replace(f.path_text, rtrim(f.path_text, replace(f.path_text, '/', '')), '')"
_BY_TEXT = {
    "title": f"coalesce(nullif(t.title, ''), {_NAME})",
    "artist": "nullif(t.artist, '')",
}
_SHOWN = f"""
SELECT f.id, f.path_text AS path, {_NAME} AS name, f.shown AS state, f.container, f.first_seen,
  coalesce(CASE WHEN f.state <> 'ready' THEN f.reason END, r.reason) AS reason, f.root_id,
  t.title, t.artist, t.album, t.year, {TEMPO_BPM} AS tempo_bpm, a.key, a.key_name, {LOSSY_SUSPECT} AS lossy_suspect,
  {TAG_BPM} AS tag_bpm, t.musical_key AS tag_key, t.genre AS tag_genre, r.duration_s,
  {SAID} AS said, {USERS_TAG} AS tag, {DECIDED} AS decided, p.genre AS guess, p.confidence,
  {ROUGH} AS rough{{columns}}
{_JOINED}{{joins}}
WHERE f.id IN ({{ids}})
"""


@dataclass(frozen=True)
class Wanted:
    """What a person wants to see. Values of one kind are alternatives; all kinds together must hold.

    tempo_bpm: whole beats a minute, both ends included; None leaves an end open. folder: with all below it.
    """

    search: str = ""
    genres: tuple[str, ...] = ()
    undecided: bool = False  # an alternative to the genres
    words: tuple[str, ...] = ()  # whose word the genre is: you, tag, model
    formats: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    years: tuple[int, ...] = ()
    tempo_bpm: tuple[int | None, int | None] = (None, None)
    folder: str = ""
    lossy_suspect: bool = False
    states: tuple[str, ...] = ()
    labels: tuple[tuple[str, str], ...] = ()  # of label sets: the set's name and a label of it
    undecided_in: tuple[str, ...] = ()  # names of label sets; an alternative to their labels
    sort: str = "added"  # one of SORTS, or the name of a label set behind IN_SET
    descending: bool = True


@lru_cache(4096)
def _in_one_notation(key: str | None) -> str | None:
    """A key of a tag as the measured ones are counted, 8A; what names no key as it stands there."""
    meant = parse_key(key)
    return meant.camelot if meant else key or None


@dataclass
class Found:
    """The tracks that were wanted, in their order, and what each further filter would leave.

    counts: by kind (genre, word, format, key, year, tempo, folder, state, and each label set behind IN_SET) and value,
    under all filters but those of the same kind. Tempo is counted in tens, by the lowest.
    """

    ids: np.ndarray  # (found,) int64
    duration_s: float  # of all of them together
    undecided: int  # counted like a genre
    undecided_in: dict[str, int]  # the same by label set
    lossy_suspects: int
    counts: dict[str, dict[Any, int]]


@dataclass
class Catalogue:
    """One reading of the library: (rows,) arrays in the order of ids, NaN where a number is not known."""

    ids: np.ndarray  # int64
    folder: Texts  # without the slash at the end
    state: Texts
    format: Texts
    key: Texts
    genre: Labels
    word: Texts
    sets: dict[str, Labels]  # the label sets beside the genre, by name
    duration_s: np.ndarray
    tempo_bpm: np.ndarray  # rounded
    year: np.ndarray
    confidence: np.ndarray
    lossy: np.ndarray  # 1: a lossless file that was lossy once, as far as its spectrum tells
    _orders: dict[tuple[str, bool], np.ndarray] = field(default_factory=dict)
    _searches: dict[str, np.ndarray] = field(default_factory=dict)

    def find(self, reader: Reader, wanted: Wanted) -> Found:
        """The tracks that are wanted."""
        masks = self._masks(reader, wanted)

        def left(but: str = "") -> np.ndarray:
            """The rows that all filters leave but those of one kind."""
            rows = np.ones(len(self.ids), bool)
            for kind, mask in masks.items():
                if kind != but:
                    rows &= mask
            return rows

        chosen = left()
        order = self._order(reader, wanted.sort, descending=wanted.descending)
        genre_rows, tempo_rows, year_rows = left("genre"), left("tempo"), left("year")
        set_rows = {name: left(IN_SET + name) for name in self.sets}
        return Found(
            self.ids[order[chosen[order]]],
            float(np.nansum(self.duration_s[chosen])),
            int((genre_rows & self.genre.undecided()).sum()),
            {name: int((rows & self.sets[name].undecided()).sum()) for name, rows in set_rows.items()},
            int((left("lossy") & (self.lossy == 1)).sum()),
            {
                "genre": self.genre.label.counts(genre_rows),
                "word": self.word.counts(left("word")),
                "format": self.format.counts(left("format")),
                "key": self.key.counts(left("key")),
                "state": self.state.counts(left("state")),
                "year": _number_counts(self.year[year_rows]),
                "tempo": _number_counts(self.tempo_bpm[tempo_rows] // 10 * 10),
                "folder": self._folders_below(wanted.folder, left("folder")),
                **{IN_SET + name: self.sets[name].label.counts(rows) for name, rows in set_rows.items()},
            },
        )

    def _masks(self, reader: Reader, wanted: Wanted) -> dict[str, np.ndarray]:
        """By kind of filter, where it is set: (rows,) bool."""
        masks = {
            "state": self.state.among(wanted.states) if wanted.states else ~self.state.among(HIDDEN_STATES),
        }
        if wanted.search.strip():
            masks["search"] = self._matching(reader, wanted.search)
        if wanted.genres or wanted.undecided:
            masks["genre"] = self.genre.among(wanted.genres, or_undecided=wanted.undecided)
        for name, one in self.sets.items():
            labels, or_undecided = [label for of, label in wanted.labels if of == name], name in wanted.undecided_in
            if labels or or_undecided:
                masks[IN_SET + name] = one.among(labels, or_undecided=or_undecided)
        for kind, column, values in (
            ("word", self.word, wanted.words),
            ("format", self.format, wanted.formats),
            ("key", self.key, [_in_one_notation(key) or key for key in wanted.keys]),
        ):
            if values:
                masks[kind] = column.among(values)
        if wanted.years:
            masks["year"] = np.isin(self.year, wanted.years)
        low, high = wanted.tempo_bpm
        if (low, high) != (None, None):
            masks["tempo"] = (self.tempo_bpm >= (low or 0)) & (self.tempo_bpm <= (np.inf if high is None else high))
        if wanted.lossy_suspect:
            masks["lossy"] = self.lossy == 1
        if wanted.folder:
            below = wanted.folder.rstrip("/") + "/"
            inside = [name == wanted.folder or name.startswith(below) for name in self.folder.names]
            masks["folder"] = np.array([*inside, False])[self.folder.codes]
        return masks

    def _folders_below(self, folder: str, rows: np.ndarray) -> dict[str, int]:
        """By path of the folders that lie directly in one: how many of these rows are in them."""
        counts = self.folder.counts(rows)
        base = folder.rstrip("/") or _common_folder(self.folder.names)  # begin where the paths part
        found: dict[str, int] = {}
        for path, n in counts.items():
            if path.startswith(base + "/"):
                child = base + "/" + path[len(base) + 1 :].split("/", 1)[0]
                found[child] = found.get(child, 0) + n
        return found

    def _matching(self, reader: Reader, search: str) -> np.ndarray:
        """(rows,) bool: the tracks in whose tags, path or genre every word of a search begins a word, or stands."""
        found = self._searches.get(search)
        if found is None:
            found = np.ones(len(self.ids), bool)
            for word in search.replace("\0", " ").split()[:MAX_WORDS]:  # SQLite would end the word there
                found &= self._with_word(reader, word)
            if len(self._searches) >= KEPT_SEARCHES:
                self._searches.clear()
            self._searches[search] = found
        return found

    def _with_word(self, reader: Reader, word: str) -> np.ndarray:
        like = "%" + word.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_") + "%"
        rows = self._rows_of(reader.execute("SELECT id FROM files WHERE path_text LIKE ? ESCAPE '\\'", (like,)))
        if any(character.isalnum() for character in word):  # FTS5 knows letters and digits only
            prefix = '"' + word.replace('"', '""') + '"*'
            rows |= self._rows_of(reader.execute("SELECT rowid FROM tags_fts WHERE tags_fts MATCH ?", (prefix,)))
        for one in (self.genre, *self.sets.values()):
            rows |= one.label.among([name for name in one.label.names if word.casefold() in name.casefold()])
        return rows

    def _rows_of(self, found: Iterable[Sequence[int]]) -> np.ndarray:
        """(rows,) bool: the tracks whose ids a query finds."""
        rows: np.ndarray = np.isin(self.ids, np.fromiter((row[0] for row in found), np.int64))
        return rows

    def _order(self, reader: Reader, sort: str, *, descending: bool) -> np.ndarray:
        """Places of all rows in an order; what is not known comes last either way, the newest first among equals."""
        if (sort, descending) not in self._orders:
            ranks = self._ranks(reader, sort)
            self._orders[sort, descending] = np.lexsort((-self.ids, -ranks if descending else ranks)).astype(np.int32)
        return self._orders[sort, descending]

    def _ranks(self, reader: Reader, sort: str) -> np.ndarray:
        if sort in _BY_TEXT:
            ranks = np.full(len(self.ids), np.nan)
            found = reader.execute(
                f"SELECT f.id, {_BY_TEXT[sort]} COLLATE NOCASE AS name FROM files f"
                " LEFT JOIN tags t ON t.file_id = f.id WHERE name IS NOT NULL ORDER BY name"
            )
            ids = np.fromiter((row[0] for row in found), np.int64)
            places = np.searchsorted(self.ids, ids)
            known = places < len(self.ids)
            known[known] = self.ids[places[known]] == ids[known]  # a file that came since is in the next reading
            ranks[places[known]] = np.flatnonzero(known)
            return ranks
        if sort == "genre":
            return self.genre.ranks()
        if sort.startswith(IN_SET):
            return self.sets[sort.removeprefix(IN_SET)].ranks()
        columns = {
            "added": self.ids.astype(float),
            "confidence": self.confidence,
            "length": self.duration_s,
            "tempo": self.tempo_bpm,
            "year": self.year,
        }
        return columns[sort] if sort in columns else {"key": self.key, "format": self.format}[sort].ranks()


def _number_counts(values: np.ndarray) -> dict[int, int]:
    """By value: how often it is there; NaN is not counted."""
    found, counts = np.unique(values[~np.isnan(values)], return_counts=True)
    return {int(value): int(n) for value, n in zip(found, counts, strict=True)}


def _common_folder(paths: Sequence[str]) -> str:
    """The innermost folder in which all of these lie, or which they are; '' for none."""
    if not paths:
        return ""
    first, last = min(paths).split("/"), max(paths).split("/")
    return "/".join(one for one, _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False)))


def read(reader: Reader) -> Catalogue:
    """Read the library, a page of rows at a time."""
    sets = [Shown.of(name, place) for place, name in enumerate(shown_sets(reader))]
    columns, joins = _of_sets(sets)
    labels = "".join(
        f", CASE WHEN set{n}_decided THEN set{n} END, CASE WHEN NOT set{n}_decided THEN set{n} END"
        for n in range(len(sets))
    )
    cursor = reader.execute(_ALL.format(columns=columns, joins=joins, labels=labels))
    cursor.row_factory = None  # plain tuples: there is one for every file
    ids = [np.empty(0, np.int64)]
    of_sets = [(one.name, kind) for one in sets for kind in ("label", "guess")]
    texts: dict[Any, Coding] = {name: Coding() for name in (*_TEXT_COLUMNS, *of_sets)}
    numbers = {name: [np.empty(0)] for name in ("duration_s", "tempo_bpm", "year", "confidence", "lossy")}
    while page := cursor.fetchmany(PAGE_ROWS):
        values: dict[Any, Any] = dict(zip((*_COLUMNS, *of_sets), zip(*page, strict=True), strict=True))
        ids.append(np.array(values["id"], np.int64))
        for name, coding in texts.items():
            coding.add(map(_in_one_notation, values[name]) if name == "key" else values[name])
        for name, parts in numbers.items():
            parts.append(np.array(values[name], float))  # None becomes NaN
    tempo_bpm = np.rint(np.concatenate(numbers["tempo_bpm"]))
    tempo_bpm[(tempo_bpm < 1) | (tempo_bpm > MAX_TEMPO_BPM)] = np.nan
    return Catalogue(
        ids=np.concatenate(ids),
        folder=texts["folder"].column(),
        state=texts["state"].column(),
        format=texts["format"].column(),
        key=texts["key"].column(),
        genre=Labels(texts["label"].column(), texts["guess"].column()),
        word=texts["word"].column(),
        sets={one.name: Labels(texts[one.name, "label"].column(), texts[one.name, "guess"].column()) for one in sets},
        duration_s=np.concatenate(numbers["duration_s"]),
        tempo_bpm=tempo_bpm,
        year=np.concatenate(numbers["year"]),
        confidence=np.concatenate(numbers["confidence"]),
        lossy=np.concatenate(numbers["lossy"]),
    )


def _of_sets(sets: Sequence[Shown]) -> tuple[str, str]:
    """SQL of the columns set0, set0_confidence, set0_decided, set1 and so on, and of the joins that they need."""
    columns = "".join(
        f", {sql} AS set{number}{ending}"
        for number, one in enumerate(sets)
        for ending, sql in zip(ENDINGS, one.columns.values(), strict=True)
    )
    return columns, "".join(map(join, sets))


def shown(reader: Reader, ids: Sequence[int]) -> list[Mapping[str, Any]]:
    """What a page shows of tracks, in this order, as they are now; without those that are gone.

    ``sets``: by label set beside the genre: its label, confidence (None for a person's word) and whether it is decided.
    """
    sets = [Shown.of(name, place) for place, name in enumerate(shown_sets(reader))]
    columns, joins = _of_sets(sets)
    rows = reader.execute(_SHOWN.format(columns=columns, joins=joins, ids=",".join("?" * len(ids))), list(ids))
    found = {
        row["id"]: {
            **dict(row),
            "sets": {
                one.name: (row[f"set{n}"], row[f"set{n}_confidence"], row[f"set{n}_decided"])
                for n, one in enumerate(sets)
                if row[f"set{n}"] is not None
            },
        }
        for row in rows
    }
    return [found[file_id] for file_id in ids if file_id in found]
