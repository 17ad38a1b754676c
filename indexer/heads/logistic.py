"""Softmax regression with an L2 penalty, for several sets of rows at once: L-BFGS in plain torch, one valley each.

Owns the arithmetic of the fit, nothing else: which rows, which strength and what becomes of the weights is decided by
the recipe (pooled). Imports torch: import it where training begins.

The problems share the rows x and differ in which of them they learn from, so one product with x serves all of them.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

ITERATIONS = 200  # at most; 5 to 30 are usual
# Of the gradient at zero weights: a tenth of it changed no out-of-fold prediction, and no accuracy, on real tracks.
TOLERANCE = 1e-3
MEMORY = 10  # steps that L-BFGS remembers, as Liu and Nocedal (1989) advise
ENOUGH_DESCENT = 1e-4  # of what the slope promises: Armijo's rule
HALVINGS = 30
# Music's vectors vary in few directions, by far more than in all others, so plain L-BFGS takes thrice the steps. The
# first guess at the inverse Hessian therefore knows so many leading directions.
DIRECTIONS = 32
SKETCH_ROWS = 2000  # rows that they are taken from


@dataclass(frozen=True, slots=True, eq=False)
class Fitted:
    """The weights of every problem."""

    weight: torch.Tensor  # (problems, labels, width) float32
    bias: torch.Tensor  # (problems, labels) float32

    def logits(self, x: torch.Tensor, problem: torch.Tensor) -> np.ndarray:
        """(rows, labels) float64: each row of x by the problem that ``problem`` (rows,) names."""
        found = torch.empty(len(x), self.bias.shape[1], dtype=torch.float64)
        for p in range(len(self.bias)):
            rows = torch.nonzero(problem == p)[:, 0]
            found[rows.cpu()] = torch.addmm(self.bias[p], x[rows], self.weight[p].T).double().cpu()
        return found.numpy()


class Problems:
    """Softmax regressions on the same rows, each on those that its mask admits.

    Of each problem this is the least of: the sum of log losses over its rows + strength / 2 * width * |weights|^2. The
    bias is free. With the width a strength means alike for vectors of every width, when numbers are standardised.
    """

    def __init__(self, x: torch.Tensor, y: torch.Tensor, labels: int, admitted: torch.Tensor) -> None:
        """Take rows x (rows, width) float32, about standardised; y (rows,) labels; admitted (problems, rows) bool."""
        self._labels, self._width = labels, x.shape[1]
        # The weights lie in the span of the rows, so few rows need few numbers: of a basis of it.
        self._basis = torch.linalg.qr(x.T).Q if 2 * len(x) <= self._width else None  # (width, rows)
        self._x = x if self._basis is None else x @ self._basis
        self._share = admitted.float() / admitted.sum(dim=1, keepdim=True)  # (problems, rows), sums to 1
        self._rows = admitted.sum(dim=1).double()  # (problems,)
        self._y = y[:, None, None].expand(-1, len(admitted), 1)  # (rows, problems, 1)
        self._one_hot = functional.one_hot(y, labels).float()[:, None]  # (rows, 1, labels)
        self._directions, self._variances, self._variance_beyond = _leading(self._x)

    def fit(self, strength: float, start: Fitted | None = None) -> Fitted:
        """The least of every problem, looked for from ``start`` or from zero."""
        problems, width = len(self._rows), self._x.shape[1]
        w = self._x.new_zeros(problems, self._labels * (width + 1))
        if start is not None:
            weight = start.weight if self._basis is None else start.weight @ self._basis
            w = torch.cat([weight.reshape(problems, -1), start.bias], dim=1)
        w = self._minimise(w, (strength * self._width / self._rows).float())
        weight, bias = self._parts(w)
        return Fitted(weight if self._basis is None else weight @ self._basis.T, bias)

    def _parts(self, w: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Weight (problems, labels, numbers) and bias (problems, labels)."""
        size = w.shape[1] - self._labels
        return w[:, :size].view(len(w), self._labels, -1), w[:, size:]

    def _loss(self, w: torch.Tensor, penalty: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean loss (problems,) float64 with its penalty, and its gradient, shaped as w."""
        weight, bias = self._parts(w)
        logits = (self._x @ weight.flatten(0, 1).T).view(-1, *bias.shape) + bias
        log_p = torch.log_softmax(logits, dim=2)  # (rows, problems, labels)
        loss = -(log_p.gather(2, self._y)[:, :, 0].double() * self._share.T).sum(dim=0)
        loss += penalty / 2 * weight.double().square().sum(dim=(1, 2))
        error = (log_p.exp_() - self._one_hot).mul_(self._share.T[:, :, None])
        by_weight = (error.flatten(1).T @ self._x).view_as(weight) + penalty[:, None, None] * weight
        return loss, torch.cat([by_weight.flatten(1), error.sum(dim=0)], dim=1)

    def _guess(self, gradient: torch.Tensor, penalty: torch.Tensor) -> torch.Tensor:
        """A step along the gradient by a rough inverse Hessian: a row's loss curves by at most 1/4 along a logit."""
        weight, bias = self._parts(gradient)
        p = penalty[:, None, None]
        along = weight @ self._directions.T
        step = (weight - along @ self._directions) / (self._variance_beyond / 4 + p)
        step += (along / (self._variances / 4 + p)) @ self._directions
        return torch.cat([step.flatten(1), bias * 4], dim=1)

    def _minimise(self, w: torch.Tensor, penalty: torch.Tensor) -> torch.Tensor:
        """L-BFGS (Nocedal and Wright, Numerical Optimization, algorithm 7.4), step lengths by halving, all at once.

        The loss is strictly convex, so steps and changes of the gradient agree in sign (up to rounding: then
        the pair is not used), and Wolfe's second rule is not needed.
        """
        small = TOLERANCE * self._loss(torch.zeros_like(w), penalty)[1].norm(dim=1)
        loss, gradient = self._loss(w, penalty)
        known: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []  # step, change of gradient, 1 / their product
        size = torch.ones_like(penalty)  # of the guess, by the last pair
        for _ in range(ITERATIONS):
            unfinished = gradient.norm(dim=1) > small
            if not unfinished.any():
                break
            direction = -self._direction(gradient, penalty, known, size) * unfinished[:, None]
            slope = (gradient * direction).sum(dim=1).double()
            length = torch.ones_like(penalty)
            for _ in range(HALVINGS):
                new_loss, new_gradient = self._loss(w + length[:, None] * direction, penalty)
                enough = new_loss <= loss + ENOUGH_DESCENT * length * slope
                if enough.all():
                    break
                length = torch.where(enough, length, length / 2)
            else:  # what float32 can tell is reached
                break
            step, change = length[:, None] * direction, new_gradient - gradient
            product = (step * change).sum(dim=1)
            usable = product > 1e-10 * change.square().sum(dim=1)
            guessed = (change * self._guess(change, penalty)).sum(dim=1)
            size = torch.where(usable, product / guessed, size)
            known = [*known[1 - MEMORY :], (step, change, torch.where(usable, 1 / product, 0.0))]
            w, loss, gradient = w + step, new_loss, new_gradient
        return w

    def _direction(
        self,
        gradient: torch.Tensor,
        penalty: torch.Tensor,
        known: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]],
        size: torch.Tensor,
    ) -> torch.Tensor:
        """The inverse Hessian times the gradient, as far as the steps so far tell it."""
        q, taken = gradient.clone(), []
        for step, change, inverse in reversed(known):
            taken.append(inverse * (step * q).sum(dim=1))
            q -= taken[-1][:, None] * change
        q = self._guess(q, penalty) * size[:, None]
        for (step, change, inverse), a in zip(known, reversed(taken), strict=True):
            q += (a - inverse * (change * q).sum(dim=1))[:, None] * step
        return q


def _leading(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, float]:
    """The leading directions (k, width) of x, the variances (k,) along them, and the mean one beyond them.

    By subspace iteration, as in novelty; a rough answer only costs steps.
    """
    rows = x[:: max(1, len(x) // SKETCH_ROWS)]
    k = min(DIRECTIONS, *rows.shape)
    basis = torch.randn(x.shape[1], k, generator=torch.Generator().manual_seed(0)).to(x.device)
    for _ in range(3):
        basis = torch.linalg.qr(rows.T @ (rows @ basis)).Q
    _, values, turn = torch.linalg.svd(rows @ basis, full_matrices=False)
    variances = values.square() / len(rows)
    beyond = float(rows.square().sum()) / len(rows) - float(variances.sum())
    return turn @ basis.T, variances, max(beyond, 1e-6) / max(1, min(rows.shape) - k)
