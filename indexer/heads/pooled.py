"""The recipe that wastes no label: everything is chosen by pooled out-of-fold predictions, then learned from all rows.

Owns the folds, the choice of the penalty's strength and of the numbers' spread, and the state of a training between two
fits. The arithmetic of a fit is logistic's. The recordings are dealt into folds, artists whole; regressions that
learned from the other folds judge each fold. Their judgements choose spread, strength, temperature and threshold and
are what is reported; what is unlike the labelled music is told by the same folds. The head itself learns from every
row.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from indexer.heads import evaluation, novelty
from indexer.heads.head import softmax
from indexer.heads.linear import LinearHead
from indexer.heads.logistic import Fitted, Problems
from indexer.heads.training import (
    Data,
    Judged,
    Step,
    Trained,
    TrainingSettings,
    finished,
    moments,
    read_state,
    write_state,
)

FOLDS = 5
# Few rows choose a strength by chance, so they are dealt several times: with 5 labels each, 4 deals were right for .330
# instead of .315 of real tracks.
DEALS, DEALT_ROWS = 4, 1000  # at most so many deals, and so many rows in all
CHOOSING_ROWS = 1500  # that choose the strength, where there are more
# From strong to weak, each fit from the former one; half a decade changes the loss by a percent or two. Real tracks
# chose 0.003 to 0.1, synthesised ones down to 0.0003.
STRENGTHS: tuple[float, ...] = tuple(10.0 ** (-n / 2) for n in range(-2, 9))
PATIENCE = 2  # strengths without a lower loss
# How far the numbers keep their own spread: their standard deviations to this power. Standardised (0), those that
# hardly vary may say as much as the others; real tracks are rather told apart with 0.5.
SPREADS = (0.0, 0.5)
_FITS = len(SPREADS) * len(STRENGTHS) + 2  # at most: then those of all rows, by fold and as the head


def train(
    data: Data,
    settings: TrainingSettings,
    *,
    name: str,
    device: torch.device,
    checkpoint: Path | None = None,
    resume: bool = False,
    about: dict[str, Any] | None = None,
    on_step: Callable[[Step], None] = lambda _step: None,
) -> Trained:
    """Choose, judge, and learn from all rows; see recipes.train for the arguments."""
    mean, scale = moments(data.vectors)
    run = _Run(data, settings, mean, scale, device, checkpoint, on_step)
    if checkpoint and resume and checkpoint.exists():
        run.load(checkpoint)
    run.choose()
    logits = run.judge()
    weight, bias = run.learn()
    unlike, distance = novelty.fit_apart(data.vectors, run.fold, seed=settings.seed)
    head = LinearHead(
        name,
        data.encoder_id,
        data.labels,
        1.0,
        weight.astype(np.float32),
        (bias - weight @ mean).astype(np.float32),
        unlike,
    )
    return finished(
        data,
        settings,
        Judged(np.arange(len(data.y)), logits, int((distance > 1).sum())),
        head,
        not_separated=tuple(data.labels[i] for i in run.loose),
        about=dict(about or {}),
        used={
            "recipe": settings.recipe,
            "seed": settings.seed,
            "target_precision": settings.target_precision,
            "spread": run.spread,
            "strength": run.strength,
        },
        metrics={"epochs": None, "best_epoch": None, "folds": int(run.fold.max()) + 1},
    )


class _Run:
    """The three parts of a training, and the state between two fits."""

    def __init__(
        self,
        data: Data,
        settings: TrainingSettings,
        mean: np.ndarray,
        scale: np.ndarray,
        device: torch.device,
        checkpoint: Path | None,
        on_step: Callable[[Step], None],
    ) -> None:
        dealt = [_deal(data, settings.seed + deal) for deal in range(max(1, min(DEALS, DEALT_ROWS // len(data.y))))]
        self.fold, self.loose = dealt[0]
        self._folds = [fold for fold, _ in dealt]
        self._y, self._labels = data.y, len(data.labels)
        self._vectors, self._mean, self._scale = data.vectors, mean, scale
        self._choosing = _some(data, settings.seed)
        self._checkpoint, self._on_step, self._device = checkpoint, on_step, device
        about = [settings.recipe, settings.seed, settings.target_precision, device.type]
        self._identity = f"{data.digest()} {json.dumps(about)}"
        self._losses: list[list[float]] = []  # of the strengths so far, for each spread so far
        problems = sum(int(fold.max()) + 1 for fold in self._folds)
        self._zero = Fitted(
            torch.zeros(problems, self._labels, len(mean), device=device),
            torch.zeros(problems, self._labels, device=device),
        )
        self._last = self._best = self._zero  # of the last of them, and of the one with the lowest loss
        self._logits = np.empty((0, self._labels))  # of that one: every choosing row by who did not learn from it

    @property
    def spread(self) -> float:
        """The chosen one."""
        return SPREADS[self._losses.index(min(self._losses, key=min))]

    @property
    def strength(self) -> float:
        """The chosen one."""
        losses = min(self._losses, key=min)
        return STRENGTHS[losses.index(min(losses))]

    def load(self, path: Path) -> None:
        """Take up the state after the last whole fit; raises ModelError as ``read_state``."""
        state = read_state(path, self._identity, self._device)
        self._losses, self._logits = state["losses"], state["logits"].cpu().numpy()
        self._last, self._best = Fitted(*state["last"]), Fitted(*state["best"])

    def choose(self) -> None:
        """For each spread, fit the strengths one after the other, until weaker ones are no better."""
        y = np.tile(self._y[self._choosing], len(self._folds))
        for number, spread in enumerate(SPREADS):
            if number == len(self._losses):
                self._losses.append([])
                self._last = self._zero
            losses = self._losses[number]
            x = self._numbers(self._choosing, spread)
            problems, problem_of = self._problems(x, self._choosing, self._folds)
            while len(losses) < len(STRENGTHS) and min(losses[:-PATIENCE], default=np.inf) > min(
                losses[-PATIENCE:], default=0
            ):
                self._last = problems.fit(STRENGTHS[len(losses)], self._last)
                logits = np.concatenate([self._last.logits(x, of) for of in problem_of])
                loss = _log_loss(logits, y)
                if loss < min((min(known) for known in self._losses if known), default=np.inf):
                    self._best, self._logits = self._last, logits[: len(x)]
                losses.append(loss)
                self._done(number * len(STRENGTHS) + len(losses))

    def judge(self) -> np.ndarray:
        """(n, labels): what regressions of the chosen strength say of the fold that they did not learn from."""
        rows = np.arange(len(self._y))
        if len(self._choosing) == len(rows):
            return self._logits
        x = self._numbers(rows, self.spread)
        problems, (problem_of,) = self._problems(x, rows, self._folds[:1])
        folds = int(self.fold.max()) + 1
        start = Fitted(self._best.weight[:folds], self._best.bias[:folds])  # each knows rows of its own problem only
        return problems.fit(self.strength, start).logits(x, problem_of)

    def learn(self) -> tuple[np.ndarray, np.ndarray]:
        """Weight (labels, width) and bias (labels,) float64 for centred vectors, learned from every row."""
        self._done(_FITS - 1)
        rows = np.arange(len(self._y))
        whole = torch.ones(1, len(rows), dtype=torch.bool, device=self._device)
        y = torch.from_numpy(self._y).to(self._device)
        problem = Problems(self._numbers(rows, self.spread), y, self._labels, whole)
        best = self._best
        fitted = problem.fit(self.strength, Fitted(best.weight.mean(dim=0)[None], best.bias.mean(dim=0)[None]))
        self._done(_FITS)
        weight = fitted.weight[0].double().cpu().numpy() * _factor(self._scale, self.spread)
        return weight, fitted.bias[0].double().cpu().numpy()

    def _numbers(self, rows: np.ndarray, spread: float) -> torch.Tensor:
        """(rows, width) float32: the vectors centred, with this spread."""
        x = torch.empty((len(rows), len(self._mean)), device=self._device)
        factor = _factor(self._scale, spread)
        for part in np.array_split(np.arange(len(rows)), -(-len(rows) // CHOOSING_ROWS)):
            numbers = (self._vectors[rows[part]] - self._mean) * factor
            x[part] = torch.from_numpy(numbers.astype(np.float32)).to(self._device)
        return x

    def _problems(
        self, x: torch.Tensor, rows: np.ndarray, folds: list[np.ndarray]
    ) -> tuple[Problems, list[torch.Tensor]]:
        """A regression for each fold of each deal, on these rows; and which one judges each row, for each deal."""
        admitted: list[np.ndarray] = []
        judge = []
        for fold in folds:
            judge.append(torch.from_numpy(fold[rows] + len(admitted)).to(self._device))
            admitted += [fold[rows] != number for number in range(int(fold.max()) + 1)]
        y = torch.from_numpy(self._y[rows]).to(self._device)
        return Problems(x, y, self._labels, torch.from_numpy(np.stack(admitted)).to(self._device)), judge

    def _done(self, number: int) -> None:
        if self._checkpoint:
            state = {
                "losses": self._losses,
                "logits": torch.from_numpy(self._logits),
                "last": (self._last.weight, self._last.bias),
                "best": (self._best.weight, self._best.bias),
            }
            write_state(self._checkpoint, self._identity, state)
        self._on_step(Step("fit", number, _FITS))


def _factor(scale: np.ndarray, spread: float) -> np.ndarray:
    """(width,): what numbers of the standard deviations 1 / scale are multiplied by, so that their mean variance is 1.

    0 for a number that never varies.
    """
    varied = scale > 0
    factor = np.where(varied, scale, 1.0) ** (1 - spread) * varied
    size = np.divide(factor, scale, out=np.zeros_like(scale), where=varied)
    return factor / np.sqrt(np.mean(size[varied] ** 2)) if varied.any() else factor


def _deal(data: Data, seed: int) -> tuple[np.ndarray, list[int]]:
    """Folds (n,) from 0 on, none empty, and the labels that could not be separated by artist."""
    fold, loose = evaluation.make_folds(data.y, data.groups, FOLDS, seed)
    return np.unique(fold, return_inverse=True)[1], loose


def _some(data: Data, seed: int) -> np.ndarray:
    """The rows that choose the strength: all, or whole groups of about CHOOSING_ROWS rows that hold every label."""
    share = CHOOSING_ROWS / len(data.y)
    if share >= 1:
        return np.arange(len(data.y))
    return np.flatnonzero(evaluation.grouped_parts(data.y, data.groups, [share, 1 - share], seed) == 0)


def _log_loss(logits: np.ndarray, y: np.ndarray) -> float:
    """Mean log loss at the temperature that suits these logits (m, labels) best."""
    scores = softmax(logits / evaluation.fit_temperature(logits, y))
    return float(-np.log(np.maximum(scores[np.arange(len(y)), y], 1e-12)).mean())
