"""Keeps what the genres in tags mean, by the user's aliases, in the library, so that SQL counts them by label."""

from collections import Counter

from indexer.config import Settings
from indexer.learn.labels import Aliases
from indexer.library.facts import known_labels
from indexer.library.store import Store


def update_genre_labels(store: Store, settings: Settings) -> None:
    """Store the label of every genre that stands in tags and means exactly one; '' for one that the aliases ignore."""
    aliases = Aliases(settings.aliases)
    aliases.add(Counter(known_labels(store.connection)))
    meant: dict[str, str] = {}
    for genre in store.tag_genres():
        labels, unknown = aliases.of_tag(genre)
        if len(labels) == 1:
            (meant[genre],) = labels
        elif not labels and not unknown:
            meant[genre] = ""
    store.put_genre_labels(meant)
