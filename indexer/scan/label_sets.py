"""Classifies in the label sets beside the genre, from cached embeddings, for a scan and for `relabel`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from indexer.config import Settings
from indexer.errors import ModelError
from indexer.heads.decide import decide
from indexer.heads.head import Head
from indexer.heads.load import load_head
from indexer.library.label_sets import set_heads
from indexer.library.store import Store
from indexer.scan.classify import DAMAGED

Cached = tuple[bytes, bytes | None]  # a vector and its trajectory


@dataclass(frozen=True, slots=True)
class SetModel:
    """A label set with its head: the ids of the vectors that it takes, and from which confidence it decides."""

    name: str
    head: Head
    inputs: tuple[str, ...]
    threshold: float


def load_sets(store: Store, settings: Settings, on_problem: Callable[[str, str], None]) -> list[SetModel]:
    """The sets that have a head; ``on_problem(file, reason)`` is called for a head that cannot be read."""
    found = []
    for one in set_heads(store.connection):
        try:
            head = load_head(one.source)
        except ModelError as e:
            on_problem(one.source, f"the label set '{one.name}' is not classified ({e}); train it again")
            continue
        told = settings.label_sets.get(one.name)
        found.append(SetModel(one.name, head, one.inputs, told.threshold(head.threshold) if told else head.threshold))
    return found


def is_classified(store: Store, recording_id: int, one: SetModel) -> bool:
    """Whether the recording has a prediction by the set's head, under its threshold."""
    prediction = store.prediction(recording_id, one.head.id)
    return prediction is not None and prediction["threshold"] == one.threshold


def classify_in_set(
    store: Store, recording_id: int, one: SetModel, made: Mapping[str, Cached] | None = None
) -> bool | None:
    """Store what the set's head says of a recording; returns whether it is decided.

    None where an embedding that the head needs is missing. ``made``: embeddings that need not be read, by encoder.
    Whether it sounds electronic has no say here. Call it inside a transaction. Raises ModelError for a damaged
    embedding.
    """
    cached = [(made or {}).get(encoder) or store.embedding(recording_id, encoder) for encoder in one.inputs]
    if any(row is None for row in cached):
        return None
    try:
        vectors = [np.frombuffer(row[0], "<f2") for row in cached if row is not None]
        found = decide(one.head, one.threshold, vectors, [None] * len(vectors))
    except (ValueError, ModelError) as e:
        raise ModelError(DAMAGED) from e
    if not np.isfinite(found.confidence):
        raise ModelError(DAMAGED)
    store.put_prediction(
        recording_id, one.head.id, found.scores, one.threshold, decided=found.decided, reason=found.reason
    )
    return found.decided


def relabel_sets(
    store: Store, sets: Sequence[SetModel], commit_rows: int, on_step: Callable[[str, int, int], None]
) -> dict[str, dict[str, int | float | str]]:
    """Classify all cached recordings anew in every set: {set: {head, threshold, classified, undecided, damaged}}."""
    told: dict[str, dict[str, int | float | str]] = {}
    for one in sets:
        classified = undecided = damaged = 0
        total = store.embedded_count(one.inputs[0])
        pages = store.embedded_recordings(one.inputs[0], commit_rows)
        for page in pages:
            on_step(f"classifying {one.name}", classified + damaged, total)
            with store.transaction():
                for recording_id in page:
                    try:
                        decided = classify_in_set(store, recording_id, one)
                    except ModelError:
                        damaged += 1
                        continue
                    if decided is not None:
                        classified += 1
                        undecided += not decided
        told[one.name] = {
            "head": one.head.name,
            "threshold": one.threshold,
            "classified": classified,
            "undecided": undecided,
            "damaged": damaged,
        }
    return told
