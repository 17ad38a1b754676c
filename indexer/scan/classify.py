"""Classifies one recording from its cached embeddings and stores the prediction, for a scan and for `relabel`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from indexer.analysis.plain import from_plain
from indexer.analysis.tempo import Tempo
from indexer.analysis.tempo_choice import choose_tempo
from indexer.encoders.trajectory import Trajectory
from indexer.errors import ModelError
from indexer.heads.decide import Prediction, decide
from indexer.heads.head import Head
from indexer.library.store import Store

DAMAGED = "its embedding is damaged; `indexer scan --force` makes it again"


@dataclass(frozen=True, slots=True)
class JustFound:
    """What a recording's genre and tempo depend on beside its embeddings."""

    electronic: float | None  # how electronic it sounds; None: nothing has told
    tempo: Tempo | None  # as measured
    rough: bool | None = None  # whether it was heard roughly; None: that is looked up


def classify_recording(
    store: Store,
    recording_id: int,
    head: Head,
    threshold: float,
    cached: Sequence[tuple[bytes, bytes | None]],
    tempo_ranges: Mapping[str, Sequence[float]],
    just_found: JustFound | None = None,
) -> Prediction:
    """Decide the genre from the cached (vector, trajectory) under every encoder of the head, and store it.

    With it the tempo that suits these genres: no file is heard again. ``just_found``: what else was stored of the
    recording a moment ago, all there is; None: that is looked up. Call it inside a transaction. Raises ModelError for
    an embedding that is damaged.
    """
    try:
        vectors = [np.frombuffer(vector, "<f2") for vector, _ in cached]
        trajectories = [Trajectory.from_bytes(trajectory) if trajectory else None for _, trajectory in cached]
        found = just_found or _found_before(store, recording_id)
        prediction = decide(head, threshold, vectors, trajectories, found.electronic)
        tempo = choose_tempo(found.tempo, prediction.scores, tempo_ranges)
    except (ValueError, ModelError) as e:
        raise ModelError(DAMAGED) from e
    if not np.isfinite(prediction.confidence):
        raise ModelError(DAMAGED)
    store.put_prediction(
        recording_id,
        head.id,
        prediction.scores,
        threshold,
        decided=prediction.decided,
        reason=prediction.reason,
        second_genre=prediction.second_genre,
        tempo=(tempo.bpm, tempo.confidence) if tempo else None,
        rough=found.rough,
    )
    if prediction.timeline is not None:
        store.put_timeline(recording_id, head.id, prediction.segment_s, prediction.timeline.tobytes())
    return prediction


def _found_before(store: Store, recording_id: int) -> JustFound:
    electronic, measured = store.electronic_and_tempo(recording_id)
    return JustFound(electronic, from_plain(Tempo, measured) if measured else None)
