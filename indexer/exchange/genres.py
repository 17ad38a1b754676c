"""The genre that other programs are told of a track."""

from collections.abc import Callable

from indexer.config import Settings
from indexer.library.listed import ListedTrack


def genre_of(settings: Settings) -> Callable[[ListedTrack], str | None]:
    """The genre that DJ programs are told of a track: as it stands in the tag, or as we would write it."""

    def genre(track: ListedTrack) -> str | None:
        if track.label is None or track.label_source == "tag":
            return track.tag_genre if track.label else None
        return settings.text_for(track.label)

    return genre
