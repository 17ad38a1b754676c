"""`indexer find`: the tracks whose sound is nearest to a text, by a model whose sound and text share a space."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from indexer.config import Settings
from indexer.encoders.text import cleaned
from indexer.errors import ConfigError, StoreError
from indexer.library.readonly import reading
from indexer.library.registered import in_use_by
from indexer.library.vectors.directions import open_directions
from indexer.library.vectors.words import has_sounds, like_text
from indexer.models.words import Texts, model_with_words
from indexer.wording import printable


def nothing_embedded(name: str) -> str:
    """The line for a library without audio vectors of a model."""
    return f"nothing is embedded by {name} together with its words: run `indexer scan`"


def find(
    settings: Settings,
    text: str,
    count: int = 10,
    *,
    genre: str | None = None,
    below: Path | None = None,
    on_step: Callable[[str], None] = lambda _line: None,
) -> dict[str, Any]:
    """The tracks nearest to a text: {text, encoder, tracks, recordings, elapsed_ms}; tracks as by ``like_text``.

    Raises ModelError for a text that says nothing, and where the model in use knows no words or something of it is
    missing; StoreError where nothing is embedded by it yet.
    """
    started = time.monotonic()
    genre = genre or None
    if below is not None and not below.is_absolute():
        below = Path.cwd() / below
    model = model_with_words(settings, in_use_by(settings.db))
    with reading(settings.db) as conn:
        sounds = open_directions(conn, settings.db, model.words_id) if has_sounds(conn, model.words_id) else None
        if sounds is None or not len(sounds.recordings):
            raise StoreError(nothing_embedded(model.encoder.name))
        (vector,) = Texts(settings).vectors(model, [text], on_step)
        folder = os.path.realpath(os.fsencode(below)) if below is not None else None
        tracks = like_text(conn, sounds, vector, count, genre=genre, below=folder)
    if not tracks and (genre is not None or below is not None):
        raise ConfigError(
            "no track" + (f" of genre {printable(os.fsencode(genre))}" if genre else "")
            + (f" below {printable(os.fsencode(below))}" if below else "") + " has an audio vector"
        )  # fmt: skip
    return {
        "text": cleaned(text),
        "encoder": model.encoder.name,
        "tracks": tracks,
        "recordings": len(sounds.recordings),
        "elapsed_ms": round(1000 * (time.monotonic() - started), 1),
    }
