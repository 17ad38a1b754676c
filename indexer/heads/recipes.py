"""The recipes by which a linear head is trained: which there are, and one call for all.

Imports torch: import it where training begins.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from indexer.heads import paper, pooled
from indexer.heads.training import Data, Step, Trained, TrainingSettings, one_thread, torch_device


def train(
    data: Data,
    settings: TrainingSettings,
    *,
    name: str,
    device: str = "auto",
    checkpoint: Path | None = None,
    resume: bool = False,
    about: dict[str, Any] | None = None,
    on_step: Callable[[Step], None] = lambda _step: None,
) -> Trained:
    """Train a head by ``settings.recipe``; the same bits for the same data, settings and device.

    checkpoint: where the state is kept while it runs (removed at the end); resume: go on from there, if it exists, to
    the same bits as without the interruption. about: what else the head's file should say. device: auto is the CPU,
    which takes seconds. Raises ModelError for a device that is not there, or a checkpoint of other data or settings.
    """
    where = torch_device(device)
    with one_thread():
        if settings.recipe == "paper":
            trained = paper.train(
                data,
                settings,
                name=name,
                device=where,
                checkpoint=checkpoint,
                resume=resume,
                about=about,
                on_epoch=lambda epoch: on_step(Step("epoch", epoch.number, settings.epochs)),
            )
        else:
            trained = pooled.train(
                data,
                settings,
                name=name,
                device=where,
                checkpoint=checkpoint,
                resume=resume,
                about=about,
                on_step=on_step,
            )
    if checkpoint:
        checkpoint.unlink(missing_ok=True)
    return trained
