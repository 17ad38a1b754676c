"""How the pages name a track."""

import os


def track_name(artist: str | None, title: str | None, path: str) -> str:
    """``artist – title``, or whichever of the two is known; without both the name of the file."""
    return " – ".join(filter(None, (artist, title))) or os.path.basename(path)  # noqa: PTH119 - for people, not a path
