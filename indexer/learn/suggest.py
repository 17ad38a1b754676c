"""`indexer suggest`: lists tracks to label next, and labels that look wrong, each with a reason.

Works on cached embeddings with the head in use and a cross-validation. Changes nothing and opens no music file.
"""

from itertools import islice
from typing import Any

import numpy as np

from indexer.config import Settings
from indexer.errors import ModelError
from indexer.heads.head import Head
from indexer.learn.dataset import Dataset, LabelRequest, collect
from indexer.learn.spread import directions, most_different
from indexer.library import facts
from indexer.library.readonly import open_readonly
from indexer.library.registered import in_use
from indexer.library.registered import unclassified as unclassified_by
from indexer.library.sqlite import Reader
from indexer.library.tracks import track_of
from indexer.models.choice import choose, without_genres
from indexer.wording import count as count_of
from indexer.wording import printable

CONSIDERED = 5000  # the least certain unlabelled recordings, from which to choose
FOLDS = 5


def suggest(settings: Settings, request: LabelRequest, count: int = 20, seed: int = 0) -> dict[str, Any]:
    """At most ``count`` recordings to label and to check, the most useful first.

    Returns {head, label, check, unclassified, notes}. label: recordings without a label, {path, title, artist, genre,
    confidence, reason}; check: labelled recordings, {path, title, artist, label, source, genre, confidence, reason};
    unclassified: how many recordings the head has not classified yet, which are not among them. Raises ConfigError,
    ModelError or StoreError.
    """
    request.check()
    conn = open_readonly(settings.db)
    try:
        chosen = choose(settings, in_use(conn))
        if chosen is None or chosen.head is None:
            raise ModelError(str(without_genres(chosen)))
        parts = [part.encoder_id for part in chosen.info.parts]
        unclassified = unclassified_by(conn, chosen.head.id, parts[0])
        found: dict[str, Any] = {"head": chosen.head.name, "unclassified": unclassified, "notes": []}
        labelled = request.gather(conn, settings).label_of
        found["label"] = _to_label(conn, chosen.head, parts, set(labelled), count)
        try:
            dataset = collect(conn, settings, request)
        except ModelError as e:
            found |= {"check": [], "notes": [f"labels cannot be checked: {e}"]}
        else:
            found["check"] = _to_check(conn, settings, dataset, count, seed)
    finally:
        conn.close()
    return found


def _to_label(reader: Reader, head: Head, parts: list[str], labelled: set[int], count: int) -> list[dict[str, Any]]:
    """Unlabelled recordings with uncertain predictions, far from the labelled ones and from each other."""
    unlabelled = [recording for recording in facts.least_confident(reader, head.id) if recording not in labelled]
    some = unlabelled[:CONSIDERED]
    known = sorted(labelled)
    places, vectors = facts.joined_vectors(reader, parts, [*some, *known])
    if not len(places):
        return []
    unit = directions(vectors)
    of_some = places < len(some)
    some = [some[i] for i in places[of_some]]
    if not some:
        return []
    candidates, others = unit[of_some], unit[~of_some]
    probabilities = head.scores(vectors[of_some].astype(np.float32))  # (n, labels)
    entropy = -(probabilities * np.log(np.maximum(probabilities, 1e-12))).sum(axis=1)
    uncertainty = entropy / np.log(len(head.labels))  # 0 to 1
    entries = []
    for best, distance in islice(most_different(candidates, others, uncertainty), count):
        first, second = np.argsort(-probabilities[best])[:2]
        reason = (
            f"{head.labels[first]} {probabilities[best, first]:.0%} or "
            f"{head.labels[second]} {probabilities[best, second]:.0%}"
            + (f"; the nearest labelled track is {1 - distance:.0%} alike" if len(others) else "")
        )
        entries.append(
            {
                **_track(reader, some[best]),
                "genre": head.labels[first],
                "confidence": round(float(probabilities[best, first]), 4),
                "reason": reason,
            }
        )
    return entries


def _to_check(reader: Reader, settings: Settings, dataset: Dataset, count: int, seed: int) -> list[dict[str, Any]]:
    """Labels contradicted by a head that was trained without the recording's artist, the surest first."""
    from indexer.heads import crossvalidation, evaluation
    from indexer.heads.training import Data, TrainingSettings

    features = dataset.features[0]
    data = Data(features.encoder_id, dataset.names, dataset.keys, features.vectors, dataset.y, dataset.groups)
    fold, _ = evaluation.make_folds(dataset.y, dataset.groups, FOLDS, seed)
    pooled = crossvalidation.cross_validate(
        crossvalidation.linear(data, TrainingSettings(seed=seed), settings.device), fold
    )
    said, own = pooled.scores.argmax(axis=1), pooled.scores[np.arange(len(dataset.y)), dataset.y]
    sure = pooled.scores.max(axis=1)
    doubtful = np.flatnonzero((said != dataset.y) & (sure >= pooled.thresholds))
    entries = []
    for row in doubtful[np.argsort(-(sure - own)[doubtful], kind="stable")][:count]:
        recording, label = dataset.recordings[row], dataset.names[dataset.y[row]]
        genre, source = dataset.names[said[row]], dataset.labels.source_of[dataset.recordings[row]]
        entries.append(
            {
                **_track(reader, recording),
                "label": label,
                "source": source,
                "genre": genre,
                "confidence": round(float(sure[row]), 4),
                "reason": f"{source} say {label}; heads that learned from other artists say "
                f"{genre} {sure[row]:.0%}, {label} {own[row]:.0%}",
            }
        )
    return entries


def _track(reader: Reader, recording: int) -> dict[str, Any]:
    """Path, title and artist of one file of a recording."""
    track = track_of(reader, recording)
    return {"path": printable(track.path), "title": track.title, "artist": track.artist}


def to_text(found: dict[str, Any]) -> str:
    """The result of ``suggest`` as text."""
    lines = ["most worth a label (indexer correct FILE GENRE):"] if found["label"] else []
    if n := found["unclassified"]:
        lines.insert(0, f"{found['head']} has not classified {count_of(n, 'recording')} yet: `indexer relabel` first")
    elif not found["label"]:
        lines.append("every recording has a label")
    lines += [f"  {entry['path']}\n      {entry['reason']}" for entry in found["label"]]
    if found["check"]:
        lines.append("labels that look wrong:")
        lines += [f"  {entry['path']}\n      {entry['reason']}" for entry in found["check"]]
    elif not found["notes"]:
        lines.append("no label looks wrong")
    return "\n".join([*lines, *(f"note: {note}" for note in found["notes"])])
