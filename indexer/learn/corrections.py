"""What a person says about a recording's genre: into the library, and taken back again. Tags are left to whoever writes them.

Owns which texts are genres here, and the one way by which the web pages change the library. Each change is one small transaction
under SQLite's own lock, so that it need not wait until a scan is through.
"""

from pathlib import Path

from indexer.config import Settings
from indexer.errors import ConfigError
from indexer.files.tags.read import CORRECTION
from indexer.learn.labels import BUILT_IN, Aliases, key
from indexer.library.facts import known_labels
from indexer.library.readonly import Reader, open_readonly
from indexer.library.registered import labels_in_use
from indexer.library.store import Store


def genres(reader: Reader) -> list[str]:
    """The labels that may be said here, those of the head in use first."""
    in_use = labels_in_use(reader)
    first = list(BUILT_IN) if in_use is None else in_use
    return [*first, *sorted({*known_labels(reader)} - {*first})]


def label_for(reader: Reader, settings: Settings, genre: str, *, new: bool = False) -> str:
    """The label that a text means; ``new`` allows one that the library has not met. Raises ConfigError for one that means none."""
    known = {key(label): label for label in [*known_labels(reader), *BUILT_IN]}
    label = Aliases(settings.aliases).label(genre) or known.get(key(genre))
    if label is None and new:
        label = " ".join(genre.split())
    if not label:
        raise ConfigError(f"'{genre}' is no genre here ({', '.join(sorted(set(known.values())))}); --new makes it one")
    return label


def open_for_corrections(settings: Settings) -> Store:
    """The library, opened beside a scan that may be at work. Raises StoreError for one of another version: only the lock's holder migrates."""
    open_readonly(settings.db).close()
    return Store(settings.db)


def say(settings: Settings, recording_id: int, genre: str, *, by: str) -> str:
    """Store a person's word on a recording; the label it means. The next scan writes it into the tags of its files."""
    with open_for_corrections(settings) as store:
        label = label_for(store.connection, settings, genre)
        store.correct(recording_id, label, by=by)
        return label


def withdraw(settings: Settings, recording_id: int) -> list[Path]:
    """Forget what was said last on a recording; files whose tags carry such a word already, where it is to be undone."""
    with open_for_corrections(settings) as store:
        store.withdraw_correction(recording_id)
        return [Path(path) for path in store.files_with_tag_of(recording_id, CORRECTION)]
