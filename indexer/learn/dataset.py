"""Data sets of labelled recordings with their embeddings, for training and evaluating heads.

Chooses the encoders to compare and the recordings to use, and groups the recordings that must not be divided between
training and test. Changes nothing in the library; never imports torch.
"""

from collections import Counter
from collections.abc import Collection, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path

import numpy as np

from indexer.config import Settings
from indexer.encoders.encoder import joined_id
from indexer.encoders.load import is_built_in
from indexer.errors import ConfigError, ModelError
from indexer.exchange import read_lists
from indexer.exchange.dj_paths import PathMap
from indexer.exchange.match import match
from indexer.files.children.limits import Limits
from indexer.files.children.worker import Worker
from indexer.heads import evaluation
from indexer.heads.linear import LinearHead
from indexer.learn.labels import SOURCES, Aliases, Labels, gather, read_csv
from indexer.library import facts, label_sets
from indexer.library.registered import RegisteredEncoder, encoders, in_use
from indexer.library.sqlite import Reader
from indexer.models.choice import choose, known
from indexer.wording import escaped

MIN_RECORDINGS = 5  # a label with fewer is not learned: at least one must be left for validation
ENOUGH_SHARE = 0.9  # an encoder is compared if it embedded this share of the main encoder's recordings


@dataclass(frozen=True, slots=True)
class LabelRequest:
    """The sources of labels that the user asked for; None: the default."""

    sources: tuple[str, ...] | None = None
    csv: Path | None = None
    playlists: tuple[Path, ...] = ()  # files and folders
    label_set: str | None = None  # one of the settings' label sets; None: genres
    looking: read_lists.Looking = field(default=lambda _path: None, compare=False)  # is told where playlists are read

    def resolved(self, settings: Settings) -> "LabelRequest":
        """The request with what the settings say about its label set. Raises ConfigError for a set they do not name."""
        if self.label_set is None:
            return self
        name, own = settings.label_set(self.label_set)
        if "tags" in (self.sources or ()) and own.tag is None:
            raise ConfigError(
                f"--labels: tags name no label of the set '{name}'; its setting tag says which field does"
            )
        usual = ("corrections", "tags") if own.tag else ("corrections",)
        return replace(self, label_set=name, csv=self.csv or own.csv, sources=self.sources or usual)

    def chosen(self) -> tuple[str, ...]:
        """Sources in order of trust: a CSV and playlists that are named, and those asked for.

        Where none is asked for: corrections, and without CSV and playlists tags and folders, too.
        """
        named = {"csv": bool(self.csv), "playlists": bool(self.playlists)}
        usual = ("corrections",) if any(named.values()) else ("corrections", "tags", "folders")
        return tuple(s for s in SOURCES if named.get(s, s in (self.sources or usual)))

    def check(self) -> None:
        """Raise ConfigError for a source that does not exist."""
        unknown = [s for s in self.sources or () if s not in SOURCES or s in ("csv", "playlists")]
        if unknown:
            raise ConfigError(
                f"--labels: '{unknown[0]}' is not one of corrections, tags, folders (others come with"
                " --csv FILE and --playlists PATH)"
            )

    def gather(self, reader: Reader, settings: Settings) -> Labels:
        """The library's labels from these sources; ``resolved`` comes before it.

        Raises ConfigError for a CSV or playlist that cannot be used.
        """
        told = settings.label_sets[self.label_set] if self.label_set else None
        rows = read_csv(self.csv, self.label_set or "genre") if self.csv else []
        read = _read_playlists(self.playlists, Limits.of(settings), self.looking) if self.playlists else None
        files = list(facts.files(reader, (told and told.tag) or "genre"))
        matched = match(read.lists, files, PathMap(settings.dj_map)) if read else None
        aliases = Aliases({label: label for label in told.labels}, {}) if told else Aliases(settings.aliases)
        if not told:
            aliases.add(Counter(settings.words.keys()))  # what a first guess by words knows, labels may name, too
        found = gather(
            files,
            aliases,
            sources=self.chosen(),
            corrections=label_sets.corrections(reader, self.label_set) if self.label_set else facts.corrections(reader),
            rows=rows,
            members=matched.members if matched else (),
        )
        if read and matched:
            found.playlists = {
                **matched.to_json(),
                "files": read.files,
                "unread": read.unread,
                "problems": read.problems,
            }
        return found


def _read_playlists(paths: Sequence[Path], limits: Limits, looking: read_lists.Looking) -> read_lists.ReadLists:
    try:
        with closing(Worker(limits, follows_links=True)) as worker:
            return read_lists.read(paths, worker, looking)
    finally:
        looking(None)


@dataclass(frozen=True, slots=True, eq=False)
class Features:
    """The vectors of one encoder, or of several joined; one row for each recording."""

    encoder_id: str
    name: str
    parts: tuple[str, ...]  # encoder ids
    vectors: np.ndarray  # (n, width) float16, finite
    begun: LinearHead | None = None  # the head by words whose logits the vectors are

    @staticmethod
    def joined(parts: Sequence["Features"]) -> "Features":
        """The features of several encoders, each row joined into one vector."""
        ids = tuple(part.encoder_id for part in parts)
        return Features(
            joined_id(ids),
            "+".join(part.name for part in parts),
            ids,
            np.concatenate([part.vectors for part in parts], axis=1),
        )


@dataclass
class Dataset:
    """Labelled recordings, sorted by audio_sha256 so that row numbers do not matter, and counts of those left out."""

    names: tuple[str, ...]  # labels
    recordings: list[int]
    keys: tuple[str, ...]  # audio_sha256, ascending
    y: np.ndarray  # (n,) int64, index into names
    groups: np.ndarray  # (n,) int64: rows of one artist, or nearly the same recording, share a number
    first: np.ndarray  # (n,) the first row of which each is a near-duplicate; its own number where it is none
    features: list[Features]  # of every encoder that can be compared; the library's own first
    labels: Labels
    too_few: dict[str, int] = field(default_factory=dict)  # label -> recordings that it has
    not_embedded: int = 0
    damaged: int = 0

    @property
    def near_duplicates(self) -> int:
        """How many rows are near-duplicates of an earlier one."""
        return int((self.first != np.arange(len(self.first))).sum())

    def counts(self) -> dict[str, int]:
        """{label: recordings}."""
        return {name: int((self.y == i).sum()) for i, name in enumerate(self.names)}

    def sources(self, asked: Sequence[str]) -> dict[str, int]:
        """{source: recordings whose label it decided}, for the sources ``asked``."""
        counts = Counter(self.labels.source_of[r] for r in self.recordings)
        return {source: counts[source] for source in asked}

    def rows(self, keep: np.ndarray) -> "Dataset":
        """The data set with only these rows (ascending); ``names`` stays as it is."""
        place = np.full(len(self.y), -1)
        place[keep] = np.arange(len(keep))
        return replace(
            self,
            recordings=[self.recordings[i] for i in keep],
            keys=tuple(self.keys[i] for i in keep),
            y=self.y[keep],
            groups=self.groups[keep],
            first=place[self.first[keep]],
            features=[replace(f, vectors=f.vectors[keep]) for f in self.features],
        )


def collect(reader: Reader, settings: Settings, request: LabelRequest) -> Dataset:
    """The labelled recordings that the main encoder has embedded. Raises ConfigError or ModelError."""
    main, others = _encoders(reader, settings)
    if request.label_set:
        others = []  # its head takes what every new file is embedded by anyway
    labels = request.gather(reader, settings)
    counts = Counter(labels.label_of.values())
    too_few = _too_few(counts, "labelled", request.label_set, _not_understood(labels))
    digests = facts.digests(reader)
    recordings = sorted((r for r, label in labels.label_of.items() if label not in too_few), key=lambda r: digests[r])
    found, parts, damaged = _vectors(reader, main, recordings)
    if not found:
        why = (
            "their embeddings are damaged (scan with --force)"
            if damaged
            else f"none is embedded by {_name(main)}: run `indexer scan` first"
        )
        raise ModelError(f"{len(recordings):,} recordings have labels, but {why}")
    not_embedded = len(recordings) - len(found) - damaged
    for other in others:
        also, (vectors,), _ = _vectors(reader, [other], found)
        if len(also) >= ENOUGH_SHARE * len(found):
            keep = np.flatnonzero(np.isin(found, also))
            found, parts = also, [*(replace(p, vectors=p.vectors[keep]) for p in parts), vectors]
    usable = Counter(labels.label_of[r] for r in found)
    too_few |= _too_few(
        Counter({label: usable[label] for label in counts if label not in too_few}),
        "labelled and soundly embedded",
        request.label_set,
    )
    names = tuple(sorted(label for label in usable if label not in too_few))
    keep = np.asarray([i for i, r in enumerate(found) if labels.label_of[r] in names])
    found, parts = [found[i] for i in keep], [replace(p, vectors=p.vectors[keep]) for p in parts]
    of_words = {one.id for one in others if one.words_of}
    features = _compared(parts, len(main), bool(settings.encoder or request.label_set), of_words)
    first = evaluation.near_duplicates(features[0].vectors)
    y = np.asarray([names.index(labels.label_of[r]) for r in found], np.int64)
    groups = _groups([labels.artist_of[r] for r in found], first)
    return Dataset(
        names,
        found,
        tuple(digests[r] for r in found),
        y,
        groups,
        first,
        features,
        labels,
        too_few,
        not_embedded,
        damaged,
    )


def _encoders(reader: Reader, settings: Settings) -> tuple[list[RegisteredEncoder], list[RegisteredEncoder]]:
    """(parts of the main encoder, other installed encoders that join no others).

    The main encoder is the one of the settings, else the one in use, else the default.
    """
    registered = {encoder.id: encoder for encoder in encoders(reader)}
    main = None if settings.encoder else next((one for one in registered.values() if one.in_use), None)
    if main is None:
        chosen = choose(replace(settings, head=None), in_use(reader))
        wanted = [part.encoder_id for part in chosen.info.parts] if chosen else []
        if not wanted or not set(wanted) <= set(registered):
            name = chosen.info.name if chosen else "any encoder"
            raise ModelError(f"the library holds no embeddings by {name}: run `indexer scan` with it first")
    else:
        wanted = list(main.parts)
    others = [
        one
        for one in registered.values()
        if not settings.encoder and not one.joins and one.id not in wanted and known((one.id,), settings.models)
    ]
    return [registered[i] for i in wanted], others


def _name(parts: Sequence[RegisteredEncoder]) -> str:
    return "+".join(part.name for part in parts)


def _vectors(
    reader: Reader, parts: Sequence[RegisteredEncoder], recordings: Sequence[int]
) -> tuple[list[int], list[Features], int]:
    """(recordings with a valid embedding by each of ``parts``, their features, how many embeddings are damaged)."""
    found, damaged = list(recordings), 0
    features: list[Features] = []
    for part in parts:
        places, vectors, bad = facts.vectors(reader, part.id, part.width, found)
        features = [
            *(replace(f, vectors=f.vectors[places]) for f in features),
            Features(part.id, part.name, (part.id,), vectors),
        ]
        found, damaged = [found[i] for i in places], damaged + bad
    return found, features, damaged


def _compared(parts: list[Features], main: int, only_main: bool, of_words: Collection[str] = ()) -> list[Features]:
    """The features to compare: the main encoder's first, each other encoder's, and the pairs with a built-in one.

    ``main``: how many of the first parts make up the main encoder. ``only_main``: compare no others, because the user
    named the encoder; ``of_words``: ids of audio vectors, which join nothing.
    """
    own = parts[0] if main == 1 else Features.joined(parts[:main])
    if only_main:
        return [own]
    pairs = [
        Features.joined(pair)
        for pair in combinations([part for part in parts if part.encoder_id not in of_words], 2)
        if any(is_built_in(part.encoder_id) for part in pair)
    ]
    return [own, *(f for f in [*parts, *pairs] if f.encoder_id != own.encoder_id)]


def _not_understood(labels: Labels) -> str:
    """The most frequent texts without a label, and how much of playlists was found, as the end of a message."""
    texts = [f'"{escaped(text)}"' for values in labels.unmapped.values() for text in list(values)[:4]]
    hint = f"; not understood, [aliases] can map them: {', '.join(texts)}" if texts else ""
    if labels.playlists:
        told = labels.playlists
        found = told["by_path"] + told["by_name"]
        hint += f"; of {told['entries']:,} entries of the playlists {found:,} are tracks of the library"
        hint += f", {told['examples'][0]} for example is not" if told["examples"] else ""
        hint += f"; --map {told['unused_maps'][0]} fits none of them" if told["unused_maps"] else ""
        hint += f"; {told['unread']:,} could not be read: {told['problems'][0]}" if told["unread"] else ""
    return hint


def _too_few(counts: Counter[str], what: str, label_set: str | None, hint: str = "") -> dict[str, int]:
    """{label: recordings} of the labels with too few. Raises ModelError when fewer than two other labels remain."""
    lacking = {label: n for label, n in sorted(counts.items()) if n < MIN_RECORDINGS}
    good = sorted(set(counts) - set(lacking))
    if len(good) >= 2:
        return lacking
    kind, ways = "genre", "tags or folders that name genres, or --csv FILE"
    if label_set:
        kind, ways = "label", f"`indexer correct --set {label_set} FILES LABEL`, --csv FILE or --playlists PATH"
    more = ", ".join(f"{label} {n} ({MIN_RECORDINGS - n} more)" for label, n in lacking.items())
    if not counts:
        raise ModelError(
            f"no recording has a label: a head needs two {kind}s with {MIN_RECORDINGS} {what} recordings each "
            f"({ways}){hint}"
        )
    if good:
        raise ModelError(
            f"only '{good[0]}' has enough labels ({counts[good[0]]:,}): a head needs a second {kind} with "
            f"{MIN_RECORDINGS} {what} recordings" + (f"; there are: {more}" if more else "") + hint
        )
    raise ModelError(
        f"too few labels: two {kind}s need {MIN_RECORDINGS} {what} recordings each; there are: {more}{hint}"
    )


def _groups(artists: Sequence[str], first: np.ndarray) -> np.ndarray:
    """Group numbers (n,): rows of one artist and near-duplicates share one, also through further rows."""
    _, number = np.unique(np.asarray(artists, dtype=object).astype(str), return_inverse=True)
    leader = np.arange(number.max(initial=-1) + 1)

    def root(group: int) -> int:
        while leader[group] != group:
            group = int(leader[group])
        return group

    for row in np.flatnonzero(first != np.arange(len(first))):
        a, b = root(int(number[row])), root(int(number[first[row]]))
        leader[max(a, b)] = min(a, b)
    return np.asarray([root(int(group)) for group in number], np.int64)
