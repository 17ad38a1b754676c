"""`indexer train --words`: a head of no labels, whose weights are the vectors of sentences about each genre.

It is a first guess and never decides (see heads/decide.py). Once there are labels, `train` and `evaluate` may begin
with it: a head then learns from its few logits instead of from hundreds of numbers, so few labels move it.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from indexer.config import Settings
from indexer.errors import ConfigError, ModelError
from indexer.heads.head import BY_WORDS
from indexer.heads.linear import LinearHead
from indexer.heads.load import load_head
from indexer.learn import head_files
from indexer.learn.dataset import Dataset, Features
from indexer.library.lock import library_lock
from indexer.library.registered import heads, in_use
from indexer.library.sqlite import Reader
from indexer.library.store import Store
from indexer.library.tracks_view import DEFAULT_LABELS
from indexer.models.choice import choose, register
from indexer.models.words import Texts, model_with_words
from indexer.wording import escaped

NAME = "words"
# M2D-CLAP learned from captions like the first.
TEMPLATES = ("The sound of {} music.", "{} music.", "This track is {}.")
# Of the softmax over cosines. No label was there to choose it, so it is a guess: the head is not to be sure of itself.
TEMPERATURE = 0.05
MAX_SENTENCES = 100  # of a genre


def sentences(words: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """By genre the sentences that stand for it: the templates, then the user's own.

    words: the setting of that name; without it the five genres that the program knows.
    """
    own = words or dict.fromkeys(DEFAULT_LABELS, ())
    return {genre: [template.format(genre) for template in TEMPLATES] + list(own[genre]) for genre in own}


def train_by_words(
    settings: Settings, name: str | None = None, on_step: Callable[[str], None] = lambda _line: None
) -> dict[str, Any]:
    """Make a head of sentences, save it, and put it in use; returns what `train --words --json` prints.

    Raises ConfigError for genres that cannot be labels, ModelError where the model in use knows no words or something
    of it is missing, StoreError or LockedError.
    """
    started = time.monotonic()
    head_files.check_name(name)
    said = sentences(settings.words)
    if any(len(of_genre) > MAX_SENTENCES for of_genre in said.values()):
        raise ConfigError(f"words: at most {MAX_SENTENCES} sentences a genre")
    with library_lock(settings.db), Store(settings.db) as store:
        library = in_use(store.connection)
        model = model_with_words(replace(settings, head=None), library)
        texts = [text for of_genre in said.values() for text in of_genre]
        vectors = Texts(settings).vectors(model, texts, on_step)
        bounds = np.cumsum([len(of_genre) for of_genre in said.values()])[:-1]
        means = np.stack([part.mean(axis=0) for part in np.split(vectors, bounds)])  # (labels, words)
        weight = means / np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12) / TEMPERATURE
        folder = head_files.folder_of(settings)
        if name is not None:
            head_files.refuse_taken(folder, name)
        path = head_files.free(folder, name or NAME)
        head = LinearHead(
            path.stem,
            model.words_id,
            tuple(said),
            0.5,
            weight.astype(np.float32),
            np.zeros(len(said), np.float32),
            by_words=True,
            training={"words": said, "temperature": TEMPERATURE},
        )
        known = None if name else head_files.known(store, head.id)
        if known is not None:
            head, path = replace(head, name=known[0]), known[1]
        else:
            head_files.make(folder)
            head.save(path)
        chosen = choose(replace(settings, head=str(path)), library)
        assert chosen is not None
        register(store, chosen)
    notes = ["a first guess, which no label has calibrated: it decides nothing and is never written into a file"]
    if settings.head:
        notes.append(f'the setting head = "{settings.head}" wins over this head: remove it to use this one')
    return {
        "head": head.name,
        "id": head.id,
        "file": str(path),
        "encoder": model.encoder.name,
        "recipe": BY_WORDS,
        "first_guess": True,
        "sentences": said,
        "temperature": TEMPERATURE,
        "notes": notes,
        "elapsed_s": round(time.monotonic() - started, 3),
    }


def report(found: dict[str, Any]) -> str:
    """The result of ``train_by_words`` as text."""
    lines = [f"made '{found['head']}' of words, for {found['encoder']}:"]
    lines += [f"  {genre:15} {'; '.join(map(escaped, said))}" for genre, said in found["sentences"].items()]
    lines += [f"note: {note}" for note in found["notes"]]
    lines.append(f"in use: {found['file']} ({found['elapsed_s']:.1f} s)")
    return "\n".join(lines)


def guessed(reader: Reader, dataset: Dataset) -> list[Features]:
    """The logits of the newest head by words that knows all of the labels, as features; else nothing."""
    by_encoder = {features.encoder_id: features for features in dataset.features}
    known = sorted((head for head in heads(reader) if head.kind == BY_WORDS), key=lambda head: head.created or "")
    for row in reversed(known):
        features = by_encoder.get(row.encoder_id)
        if features is None or not set(dataset.names) <= set(row.labels):
            continue
        try:
            head = load_head(Path(row.source or ""))
        except ModelError:  # its file is gone: the labels do without it
            continue
        if isinstance(head, LinearHead):
            rows = [head.labels.index(label) for label in dataset.names]
            guess = replace(head, labels=dataset.names, weight=head.weight[rows], bias=head.bias[rows])
            logits = guess.logits(features.vectors).astype(np.float16)
            return [Features(row.encoder_id, f"{features.name}, begun by words", features.parts, logits, guess)]
    return []
