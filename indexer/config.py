"""Settings: defaults, then the TOML file, then INDEXER_* in the environment, then flags.

Owns every setting's name, type, default and meaning. Never opens the database, a model or a music file.
"""

import dataclasses
import json
import os
import re
import tomllib
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from indexer.conversion import converted, nearest, parse_text
from indexer.errors import ConfigError

Policy = Literal["fill", "replace", "append", "off"]
Device = Literal["auto", "cpu", "cuda", "mps"]
Precision = Literal["auto", "fp32", "bf16", "int8"]
Units = int | Literal["all"] | None
AllowSql = Literal["auto", "always", "never"]

APP = "indexer"
MAX_UNITS = 256  # that can be asked for of a recording
MAX_SETS = 16  # label sets beside the genre; each is a join of the view `tracks`
OUR_FIELDS = ("INDEXER_GENRE", "INDEXER_ORIGINAL_GENRE", "INDEXER_ADDED")  # in tags, beside the fields of label sets
TAG_FIELDS = ("comment", "record_label", "genre")  # that a label set may learn from; columns of the table `tags`


def data_dir() -> Path:
    """Where library.db lives unless told otherwise."""
    return _user_folder("data")


def config_file() -> Path:
    """The settings file that is read when it exists; INDEXER_CONFIG or --config name another."""
    return _user_folder("config") / "config.toml"


def _models_dir() -> Path:
    return _user_folder("cache") / "models"


def _user_folder(kind: Literal["data", "config", "cache"]) -> Path:
    import platformdirs

    try:
        found: Path = getattr(platformdirs, f"user_{kind}_path")(APP)
    except RuntimeError as error:
        raise ConfigError("this user has no home folder: set HOME to a folder that can be written") from error
    return found


def _doc(help_text: str, **kwargs: Any) -> Any:
    return field(metadata={"help": help_text}, **kwargs)


@dataclass(frozen=True, kw_only=True)
class LivingPlaylist:
    """A playlist that every scan brings up to date: a question, by filters or as SQL, and the file for its answer."""

    file: Path  # absolute; .m3u8, .m3u or .xml
    sql: str | None = None  # its column id names tracks
    genre: tuple[str, ...] = ()  # one of these
    tempo: tuple[float, ...] = ()  # BPM: from, to
    key: tuple[str, ...] = ()  # one of these
    confidence: float | None = None  # at least, of the head in the genre
    relative: bool = False  # M3U8: paths relative to the file's folder

    def __post_init__(self) -> None:
        filters = bool(self.genre or self.tempo or self.key or self.confidence is not None)
        if filters == bool(self.sql):
            raise ConfigError("needs either sql or some of genre, tempo, key, confidence")
        if self.file.suffix.lower() not in (".m3u8", ".m3u", ".xml"):
            raise ConfigError(f"file is {self.file}: must end in .m3u8, .m3u or .xml")
        if self.tempo and not (len(self.tempo) == 2 and 0 <= self.tempo[0] <= self.tempo[1]):
            raise ConfigError(f"tempo is {list(self.tempo)}: must be two tempos in BPM, such as [120, 128]")
        if self.confidence is not None and not 0 <= self.confidence <= 1:
            raise ConfigError(f"confidence is {self.confidence}: must be between 0 and 1")
        if not self.file.is_absolute():  # a daemon stands in another folder than a person
            raise ConfigError(f"file is {self.file}: must be a whole path, such as ~/Music/{self.file.name}")


@dataclass(frozen=True, kw_only=True)
class LabelSet:
    """A set of labels beside the genre, and where a head for it learns from."""

    labels: tuple[str, ...] = ()  # that tags, folders, playlists and `correct` may name; a CSV may name others, too
    csv: Path | None = None  # path (or audio_sha256) and label
    tag: str | None = None  # one of TAG_FIELDS
    min_confidence: float | None = None  # instead of the head's own threshold
    write: bool = False  # into the files' tags, as ``set_field`` names it

    def __post_init__(self) -> None:
        if self.tag is not None and self.tag not in TAG_FIELDS:
            raise ConfigError(f"tag is '{self.tag}': must be one of {', '.join(TAG_FIELDS)}")
        if self.tag is not None and not self.labels:
            raise ConfigError("tag needs labels: the words to look for in that field")
        if self.min_confidence is not None and not 0 <= self.min_confidence <= 1:
            raise ConfigError(f"min_confidence is {self.min_confidence}: must be between 0 and 1")

    def threshold(self, heads_own: float) -> float:
        """The confidence from which a label counts as decided: the user's, else the head's own."""
        return heads_own if self.min_confidence is None else self.min_confidence


def set_name(text: str) -> str:
    """The name of a label set as columns have it: "Set Role" is ``set_role``. Raises ConfigError for no such name."""
    name = "_".join(text.lower().split())
    if not re.fullmatch("[a-z][a-z0-9_]{0,39}", name):
        raise ConfigError(
            f"'{text[:60]}' cannot name a label set: it is up to 40 letters (a to z), digits, spaces and '_', and"
            " begins with a letter"
        )
    return name


def set_field(name: str) -> str:
    """The field of the tags that a label set is written into: "Set Role" has INDEXER_SET_ROLE. Raises ConfigError."""
    field = f"INDEXER_{re.sub('[^A-Z0-9]', '_', set_name(name).upper())}"
    if field in OUR_FIELDS:
        raise ConfigError(
            f"sets.{name}: its field {field} is one of indexer's own; choose another name, or write = false"
        )
    return field


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All settings; the help texts are the documentation's table."""

    roots: tuple[Path, ...] = _doc("music folders that a scan without PATH goes through", default=())
    db: Path = _doc("the library's database", default_factory=lambda: data_dir() / "library.db")
    models: Path = _doc("folder of installed models", default_factory=_models_dir)
    encoder: str | None = _doc(
        "model to embed with: a built-in one such as musicnn, an installed name, or a checkpoint's path", default=None
    )
    head: str | None = _doc("head to classify with: 'audioset', or a head file's path", default=None)
    device: Device = _doc("where the encoder runs", default="auto")
    precision: Precision = _doc(
        "arithmetic of the encoder; auto: fp32 for a model with words; for others bf16 on a GPU, and on a CPU that "
        "multiplies it (AVX512_BF16, AMX) where that is measured to be faster and its vectors agree, else fp32; int8 "
        "must be asked for",
        default="auto",
    )
    units: Units = _doc(
        'units (6 s each) of a recording that are embedded, evenly spread over it, or "all"; default: what the library '
        "already uses, and all for a new library",
        default=None,
    )
    rough_after_h: float = _doc(
        "hours of work from which new music is first heard roughly (a few units of each recording), so that genres and "
        "similarity are there early, and whole afterwards; 0: always, a large number: never",
        default=3.0,
    )
    jobs: int = _doc("child processes that read and decode files; 0: one a core, at most 32", default=0)
    max_audio_s: float = _doc("seconds of sound from which a file is left alone", default=24 * 3600.0)
    max_read_cpu_s: float = _doc(
        "seconds of computing that reading a file may take, without the encoder's", default=900.0
    )
    cluster: str | None = _doc(
        "Dask scheduler whose workers read and embed, such as tcp://127.0.0.1:8786; see docs/cluster.md", default=None
    )
    map: Mapping[str, str] = _doc(
        'cluster: folder here = the same folder as the workers see it, such as "/mnt/music" = "/data/music"',
        default_factory=dict,
    )
    worker_resources: Mapping[str, str] = _doc(
        'cluster: what a worker must offer to embed, such as GPU = "1"; the others only read', default_factory=dict
    )
    cluster_wait_s: float = _doc(
        "cluster: seconds that a scan waits for a scheduler or workers that are gone", default=300.0
    )
    tls_ca: Path | None = _doc("cluster: certificate of the authority that signed everybody's (tls://)", default=None)
    tls_cert: Path | None = _doc("cluster: this machine's certificate", default=None)
    tls_key: Path | None = _doc("cluster: its key", default=None)
    write_tags: Policy = _doc("what may happen to a file's genre tag", default="fill")
    write_tags_bpm: bool = _doc("write the measured tempo into files that state none", default=False)
    write_tags_key: bool = _doc("write the measured key (Am) into files that state none", default=False)
    min_confidence: float | None = _doc(
        "confidence from which a genre counts as decided, instead of the head's own", default=None
    )
    preserve_mtime: bool = _doc("keep a file's modification time when its tag is written", default=False)
    labels: Mapping[str, str] = _doc(
        'text to write for a genre, such as "drum and bass" = "Drum & Bass"', default_factory=dict
    )
    aliases: Mapping[str, str] = _doc(
        'genre tag or folder name that means a label when training, such as "Deep House" = "house"',
        default_factory=dict,
    )
    words: Mapping[str, tuple[str, ...]] = _doc(
        'train --words: the genres of the head, and sentences for each beside the usual ones, such as "dub techno" ='
        ' ["deep techno with echoing chords"]; [] for the usual ones alone',
        default_factory=dict,
    )
    tempo_ranges: Mapping[str, tuple[float, ...]] = _doc(
        "beats a minute in which tracks of a genre are counted, before those that are built in, such as"
        ' "techno" = [125, 160]; [] for none; see docs/analysis.md',
        default_factory=dict,
    )
    dj_map: Mapping[str, str] = _doc(
        'folder here = the same folder as the DJ programs\' machine sees it, such as "/mnt/music" = "D:/Music"; see'
        " docs/dj.md",
        default_factory=dict,
    )
    playlists: Mapping[str, LivingPlaylist] = _doc(
        "playlists that every scan and `watch` keep true: name -> a question and the file for its answer; see"
        " docs/dj.md",
        default_factory=dict,
    )
    sets: Mapping[str, LabelSet] = _doc(
        "label sets beside the genre, such as mood: name -> its labels and where they come from; see docs/sets.md",
        default_factory=dict,
    )
    ignore: tuple[str, ...] = _doc("name patterns of files and folders that a scan leaves out", default=())
    settle_s: float = _doc("watch: seconds that a file must have been left alone before it is read", default=2.0)
    scan_interval_s: float = _doc("watch: seconds from one scan of all roots to the next", default=3600.0)
    unload_after_s: float = _doc("watch: seconds without work after which the encoder leaves the memory", default=300.0)
    host: str = _doc("address that the web pages listen on", default="127.0.0.1")
    port: int = _doc("port that the web pages listen on", default=8001)
    password: str | None = _doc(
        "what the web pages ask for before they show anything; needed on any address but this machine's own",
        default=None,
    )
    allow_sql: AllowSql = _doc(
        "who may ask SQL of their own on the web pages: auto is on this machine's own address only", default="auto"
    )

    def __post_init__(self) -> None:
        if self.jobs < 0:
            raise ConfigError(f"jobs is {self.jobs}: must be 0 (one a core) or more")
        if isinstance(self.units, int) and not 1 <= self.units <= MAX_UNITS:
            raise ConfigError(f"units is {self.units}: must be from 1 to {MAX_UNITS}, or all")
        if self.min_confidence is not None and not 0 <= self.min_confidence <= 1:
            raise ConfigError(f"min_confidence is {self.min_confidence}: must be between 0 and 1")
        if not 0 <= self.rough_after_h < 1e9:
            raise ConfigError(f"rough_after_h is {self.rough_after_h}: must be 0 or more hours")
        for key in ("settle_s", "scan_interval_s", "unload_after_s", "cluster_wait_s"):
            if not 0 <= getattr(self, key) < 1e9:
                raise ConfigError(f"{key} is {getattr(self, key)}: must be 0 or more seconds")
        for key in ("max_audio_s", "max_read_cpu_s"):
            if not 0 < getattr(self, key) < 1e9:
                raise ConfigError(f"{key} is {getattr(self, key)}: must be more than 0 seconds")
        _check_tempo_ranges(self.tempo_ranges)
        by_file: dict[Path, str] = {}
        for name, playlist in self.playlists.items():
            other = by_file.setdefault(playlist.file, name)
            if other != name:
                raise ConfigError(f"playlists: '{other}' and '{name}' have the same file, {playlist.file}")
        _check_sets(self.sets)
        if not 0 <= self.port <= 65_535:
            raise ConfigError(f"port is {self.port}: must be between 0 and 65535")

    @property
    def label_sets(self) -> dict[str, LabelSet]:
        """The label sets beside the genre, by their names as columns have them."""
        return {set_name(text): told for text, told in self.sets.items()}

    def label_set(self, text: str) -> tuple[str, LabelSet]:
        """The set that a person names, and its name as columns have it. Raises ConfigError where there is none."""
        name, sets = set_name(text), self.label_sets
        if name not in sets:
            raise ConfigError(
                f"there is no label set '{name}'"
                + (nearest(name, sets) if sets else "")
                + f"; [sets.{name}] in the settings file makes one"
            )
        return name, sets[name]

    @property
    def writes_any_tag(self) -> bool:
        """Whether a scan may write into files at all."""
        return bool(self.write_tags != "off" or self.write_tags_bpm or self.write_tags_key or self.written_sets)

    @property
    def written_sets(self) -> dict[str, str]:
        """By label set that is written into files: the field for it."""
        return {name: set_field(name) for name, told in self.label_sets.items() if told.write}

    def threshold(self, heads_own: float) -> float:
        """The confidence from which a genre counts as decided: the user's, else the head's own."""
        return heads_own if self.min_confidence is None else self.min_confidence

    def text_for(self, label: str) -> str:
        """The genre text that is written for a label: the user's own, or the label in title case ("Drum and Bass")."""
        for key, text in self.labels.items():
            if key.casefold() == label.casefold():
                return text
        return " ".join(w if w in {"and", "of", "the"} else w.capitalize() for w in label.split())

    def worker_count(self) -> int:
        """Child processes to start."""
        return self.jobs or min(32, os.cpu_count() or 1)


def _check_sets(sets: Mapping[str, LabelSet]) -> None:
    if len(sets) > MAX_SETS:
        raise ConfigError(f"sets: there are {len(sets)}, and at most {MAX_SETS} fit")
    if len({set_name(text) for text in sets}) < len(sets):
        raise ConfigError(f"sets: two of {', '.join(map(repr, sets))} are one name")
    for text, told in sets.items():
        if told.write:
            set_field(text)


def _check_tempo_ranges(ranges: Mapping[str, tuple[float, ...]]) -> None:
    for label, span in ranges.items():
        if span and not (len(span) == 2 and 20 <= span[0] < span[1] <= 400):
            raise ConfigError(
                f"tempo_ranges.{label} is {list(span)}: must be the slowest and the fastest tempo in beats a minute, "
                "from 20 to 400, such as [120, 150], or []"
            )


def load_settings(
    config: Path | None = None,
    flags: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] = os.environ,
) -> Settings:
    """Settings from all four sources; a flag whose value is None was not given.

    Raises ConfigError naming the key and the nearest valid one for an unknown key, and key and type for a wrong value.
    """
    values = _from_file_and_environment(settings_file(config, environ), environ)
    hints = typing.get_type_hints(Settings)
    for key, value in (flags or {}).items():
        if value is not None:
            values[key] = converted(value, hints[key], f"--{key.replace('_', '-')}")
    return Settings(**values)


def _from_file_and_environment(path: Path, environ: Mapping[str, str]) -> dict[str, Any]:
    """{key: value} of every setting that a person has made; the environment wins."""
    hints = typing.get_type_hints(Settings)
    values: dict[str, Any] = {}
    if path != config_file() or path.exists():
        for key, value in read_toml(path).items():
            if key not in hints:
                raise ConfigError(f"{path}: unknown setting '{key}'{nearest(key, hints)}")
            values[key] = converted(value, hints[key], f"{path}: {key}")
    for key, hint in hints.items():
        text = environ.get(f"INDEXER_{key.upper()}")
        if text is not None:
            values[key] = converted(parse_text(text, hint, key), hint, f"INDEXER_{key.upper()}")
    return values


def settings_file(config: Path | None = None, environ: Mapping[str, str] = os.environ) -> Path:
    """The settings file of a command: the named one, else that of INDEXER_CONFIG, else the usual one."""
    return config or (Path(environ["INDEXER_CONFIG"]) if environ.get("INDEXER_CONFIG") else config_file())


def made(config: Path | None = None, environ: Mapping[str, str] = os.environ) -> frozenset[str]:
    """The settings that the file or the environment makes, whatever their values. Raises ConfigError."""
    return frozenset(_from_file_and_environment(settings_file(config, environ), environ))


def to_json(settings: Settings) -> dict[str, Any]:
    """Plain values that cross a process border."""
    return json.loads(json.dumps(dataclasses.asdict(settings), default=os.fspath))  # type: ignore[no-any-return]


def from_json(values: Mapping[str, Any]) -> Settings:
    """The inverse of ``to_json``."""
    hints = typing.get_type_hints(Settings)
    return Settings(**{key: converted(value, hints[key], key) for key, value in values.items() if value is not None})


def read_toml(path: Path) -> dict[str, Any]:
    """What a settings file says. Raises ConfigError where it cannot be read."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as e:
        raise ConfigError(f"{path}: cannot be read ({e.strerror})") from e
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
        raise ConfigError(f"{path}: not valid TOML ({e})") from e
