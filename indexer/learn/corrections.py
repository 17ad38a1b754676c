"""Stores the genre that a person gives a recording, and withdraws it again. Tags are written by the next scan.

Decides which texts are accepted as genres. The web pages change the library through this module only. Each change is
one small transaction under SQLite's own lock, so that it need not wait for a running scan to end.
"""

from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

from indexer.config import Settings
from indexer.errors import ConfigError
from indexer.files.foreign import NAME_CHARS, is_name
from indexer.files.tags.correction import CORRECTION
from indexer.learn.labels import BUILT_IN, Aliases
from indexer.library.facts import known_labels
from indexer.library.label_sets import labels_known
from indexer.library.readonly import open_readonly
from indexer.library.registered import labels_in_use
from indexer.library.sqlite import Reader
from indexer.library.store import Store
from indexer.wording import key


def genres(reader: Reader) -> list[str]:
    """The labels that a person can choose from, those of the head in use first."""
    in_use = labels_in_use(reader)
    first = list(BUILT_IN) if in_use is None else in_use
    return [*first, *sorted({*known_labels(reader)} - {*first})]


def label_for(reader: Reader, settings: Settings, genre: str, *, new: bool = False) -> str:
    """The label that a text means. Raises ConfigError for a text that means none.

    new: a text that the library does not know becomes a label.
    """
    known = {key(label): label for label in [*known_labels(reader), *BUILT_IN]}
    label = Aliases(settings.aliases).label(genre) or known.get(key(genre))
    if label is None and new:
        label = " ".join(genre.split())
        if label and not is_name(label):
            raise ConfigError(f"'{genre[:NAME_CHARS]}' is no genre: it is 1 to {NAME_CHARS} printable characters")
    if not label:
        close = get_close_matches(key(genre), known, 1)
        meant = f"did you mean '{known[close[0]]}'? " if close else ""
        raise ConfigError(
            f"'{genre}' is no genre here; {meant}There are {', '.join(sorted(set(known.values())))}; --new makes it one"
        )
    return label


def open_for_corrections(db: Path) -> Store:
    """Open the library although a scan may be running.

    Raises StoreError for a library of an earlier version while another process works on it.
    """
    open_readonly(db).close()
    return Store(db)


def say(settings: Settings, recording_ids: Sequence[int], genre: str, *, by: str, new: bool = False) -> str:
    """Store the genre that a person gives recordings; returns its label. The next scan writes it into the tags.

    Raises ConfigError as ``label_for`` does.
    """
    with open_for_corrections(settings.db) as store:
        label = label_for(store.connection, settings, genre, new=new)
        with store.transaction():
            for recording_id in recording_ids:
                store.correct(recording_id, label, by=by)
        return label


def say_in_set(
    settings: Settings,
    recording_ids: Sequence[int],
    name: str,
    label: str,
    *,
    by: str,
    new: bool = False,
) -> str:
    """Store the label that a person gives recordings in a label set; returns it as the set spells it.

    Raises ConfigError for a label that the set does not know, unless it is ``new``.
    """
    with open_for_corrections(settings.db) as store, store.transaction():
        store.use_sets(list(settings.label_sets))
        known = {key(one): one for one in [*labels_known(store.connection, name), *settings.label_sets[name].labels]}
        text = " ".join(label.split())
        meant = known.get(key(text))
        if meant is None and not new:
            there = f"There are {', '.join(sorted(known.values()))}; " if known else ""
            raise ConfigError(f"'{label[:NAME_CHARS]}' is no label of the set '{name}'. {there}--new makes it one")
        if meant is None and not is_name(text):
            raise ConfigError(f"'{label[:NAME_CHARS]}' is no label: it is 1 to {NAME_CHARS} printable characters")
        for recording_id in recording_ids:
            store.correct_in_set(recording_id, name, meant or text, by=by)
    return meant or text


def withdraw_in_set(db: Path, recording_ids: Sequence[int], name: str) -> None:
    """Delete the newest correction of each recording in a label set."""
    with open_for_corrections(db) as store, store.transaction():
        for recording_id in recording_ids:
            store.withdraw_in_set(recording_id, name)


def withdraw(db: Path, recording_ids: Sequence[int]) -> list[Path]:
    """Delete the newest correction of each recording; returns the files whose tags contain a correction already."""
    with open_for_corrections(db) as store:
        with store.transaction():
            for recording_id in recording_ids:
                store.withdraw_correction(recording_id)
        return [Path(path) for found in recording_ids for path in store.files_with_tag_of(found, CORRECTION)]
