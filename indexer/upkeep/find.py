"""`indexer find`: the tracks whose sound is nearest to a text, by a model whose sound and text share a space."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from indexer.config import Settings
from indexer.encoders.encoder import EncoderInfo
from indexer.encoders.m2d.checkpoint import CheckpointInfo, inspect
from indexer.encoders.text import BertTower, cleaned
from indexer.errors import ConfigError, ModelError, StoreError
from indexer.library.readonly import reading
from indexer.library.registered import in_use_by
from indexer.library.vectors.words import count_with_words, like_text
from indexer.models import catalogue, texts, word_list
from indexer.models.choice import choose
from indexer.wording import printable


@dataclass(frozen=True, slots=True)
class WordsModel:
    """The part of the model in use that knows words."""

    encoder: EncoderInfo
    checkpoint: CheckpointInfo
    words_id: str


def model_with_words(settings: Settings) -> WordsModel:
    """The model that `find` asks. Raises ModelError, with the way to one, where the model in use knows no words."""
    chosen = choose(settings, in_use_by(settings.db))
    for part in chosen.info.parts if chosen else ():
        if part.words_id is not None:
            return WordsModel(part, inspect(Path(part.source)), part.words_id)
    used = f"{chosen.info.name}, the model in use," if chosen else "the library's model"
    raise ModelError(
        f"{used} knows no words: `indexer models download {catalogue.WITH_WORDS}`, then `indexer models use` it and "
        "`indexer scan`"
    )


def tower_of(model: WordsModel, settings: Settings) -> BertTower:
    """Load what makes vectors of texts. Raises ModelError, with the way to it, where something is missing."""
    encoder, vocabulary = texts.needed(model.checkpoint, settings.models)
    return BertTower(model.checkpoint.path, encoder, vocabulary)


def text_vector(model: WordsModel, settings: Settings, text: str, on_step: Callable[[str], None]) -> np.ndarray:
    """The vector of a text, (words,): kept, or made now, together with the list of words where that is not kept."""
    text = cleaned(text)
    found = word_list.kept(model.checkpoint)
    if text not in found:
        on_step("loading the text encoder")
        tower = tower_of(model, settings)
        vector = np.asarray(tower.encode([text])[0])
        if not found and os.access(model.checkpoint.path.parent, os.W_OK):
            on_step("making vectors of the listed words, once")
            word_list.keep(model.checkpoint, tower.encode)
        return vector
    return found[text]


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
    if below is not None and not below.is_absolute():
        below = Path.cwd() / below
    model = model_with_words(settings)
    with reading(settings.db) as conn:
        recordings = count_with_words(conn, model.words_id)
        if not recordings:
            raise StoreError(f"nothing is embedded by {model.encoder.name} together with its words: run `indexer scan`")
        vector = text_vector(model, settings, text, on_step)
        folder = os.path.realpath(os.fsencode(below)) if below is not None else None
        tracks = like_text(conn, model.words_id, vector, count, genre=genre, below=folder)
    if not tracks and (genre is not None or below is not None):
        raise ConfigError(
            "no track" + (f" of genre {printable(os.fsencode(genre))}" if genre else "")
            + (f" below {printable(os.fsencode(below))}" if below else "") + " has an audio vector"
        )  # fmt: skip
    return {
        "text": cleaned(text),
        "encoder": model.encoder.name,
        "tracks": tracks,
        "recordings": recordings,
        "elapsed_ms": round(1000 * (time.monotonic() - started), 1),
    }
