"""The model in use as one that knows words: which it is, and the vectors of texts in its space.

Imports torch and transformers only once a text has to be encoded.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from indexer.config import Settings
from indexer.encoders.checkpoints import Checkpoint, inspect
from indexer.encoders.clap.text import ClapTower
from indexer.encoders.encoder import EncoderInfo
from indexer.encoders.m2d.checkpoint import CheckpointInfo
from indexer.encoders.text import BertTower, Tower, cleaned
from indexer.errors import ModelError
from indexer.library.registered import InUse
from indexer.models import texts, word_list
from indexer.models.choice import choose
from indexer.models.published import WITH_WORDS, WITH_WORDS_FOR_ALL


@dataclass(frozen=True, slots=True)
class WordsModel:
    """The part of the model in use that knows words."""

    encoder: EncoderInfo
    checkpoint: Checkpoint
    words_id: str


def model_with_words(settings: Settings, library: InUse) -> WordsModel:
    """The model that texts are compared by. Raises ModelError, with the way to one, where the one in use knows none."""
    chosen = choose(settings, library)
    for part in chosen.info.parts if chosen else ():
        if part.words_id is not None:
            return WordsModel(part, inspect(Path(part.source)), part.words_id)
    used = f"{chosen.info.name}, the model in use," if chosen else "the library's model"
    raise ModelError(
        f"{used} knows no words: `indexer models download {WITH_WORDS}` (or {WITH_WORDS_FOR_ALL}, which paid "
        "work may use, too), then `indexer models use` it and `indexer scan`"
    )


class Texts:
    """Makes the vectors of texts; keeps the text encoder that it loaded last."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._loaded: tuple[str | None, Tower] | None = None

    def vectors(
        self, model: WordsModel, said: Sequence[str], on_step: Callable[[str], None] = lambda _line: None
    ) -> np.ndarray:
        """The vectors (n, words) of texts, of length one: kept ones, or made now, then the list of words is kept, too.

        Raises ModelError for a text that says nothing, and where something of the text's side is missing.
        """
        said = [cleaned(text) for text in said]
        found = word_list.kept(model.checkpoint)
        if set(said) <= found.keys():
            return np.stack([found[text] for text in said])
        tower = self._tower(model, on_step)
        vectors = np.asarray(tower.encode(said))
        if not found and os.access(model.checkpoint.path.parent, os.W_OK):
            on_step("making the vectors of the listed words, once")
            word_list.keep(model.checkpoint, tower.encode)
        return vectors

    def _tower(self, model: WordsModel, on_step: Callable[[str], None]) -> Tower:
        checkpoint = model.checkpoint
        # LAION-CLAP's have all that a text needs in their own file.
        files = texts.needed(checkpoint, self._settings.models) if isinstance(checkpoint, CheckpointInfo) else None
        if self._loaded is None or self._loaded[0] != checkpoint.text_sha256:
            on_step("loading the text encoder")
            tower = BertTower(checkpoint.path, *files) if files else ClapTower(checkpoint.path)
            self._loaded = checkpoint.text_sha256, tower
        return self._loaded[1]
