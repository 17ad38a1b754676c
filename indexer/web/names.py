"""How the pages name a track, and how much of a text they show."""

import os

SHOWN_CHARS = 200  # of a title, an artist, a reason


def track_name(artist: str | None, title: str | None, path: str) -> str:
    """``artist – title``, or whichever of the two is known; without both the name of the file."""
    return " – ".join(filter(None, (artist, title))) or os.path.basename(path)  # noqa: PTH119 - for people, not a path


def clipped(text: str) -> str:
    """The text, or so much of it as a page shows of a title, an artist, a reason."""
    return text if len(text) <= SHOWN_CHARS else text[: SHOWN_CHARS - 1] + "…"
