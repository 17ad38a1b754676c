"""The regression finds its one valley, for every problem alone, whatever the scale of the numbers."""

import numpy as np
import pytest
import torch

from indexer.heads import logistic
from indexer.heads.head import softmax
from indexer.heads.logistic import Problems

LABELS, WIDTH = 3, 40
RNG = np.random.default_rng(0)
Y = np.arange(90) % LABELS
# A few directions vary by far more than the others, as in music's vectors.
X = (RNG.standard_normal((90, WIDTH)) + RNG.standard_normal((LABELS, WIDTH))[Y]) * np.logspace(1, -1, WIDTH)
X = X @ np.linalg.qr(RNG.standard_normal((WIDTH, WIDTH)))[0]
X = ((X - X.mean(axis=0)) / X.std(axis=0)).astype(np.float32)


def problems(admitted, x=X):
    return Problems(torch.from_numpy(x), torch.from_numpy(Y), LABELS, torch.from_numpy(np.asarray(admitted)))


def slope(weight, bias, rows, strength):
    """How long the gradient of the loss is, written out in float64."""
    x = X[rows].astype(np.float64)
    error = softmax(x @ weight.T + bias).astype(np.float64) - np.eye(LABELS)[Y[rows]]
    by_weight = error.T @ x + strength * WIDTH * weight
    return np.linalg.norm(np.append(by_weight.ravel(), error.sum(axis=0)))


@pytest.mark.parametrize("strength", [3.0, 0.1, 0.003])
def test_the_loss_has_no_slope_where_the_fit_ends(strength):
    folds = np.arange(90) // 3 % 5
    fitted = problems([folds != fold for fold in range(5)]).fit(strength)
    for fold in range(5):
        rows = folds != fold
        weight, bias = fitted.weight[fold].double().numpy(), fitted.bias[fold].double().numpy()
        zero = slope(np.zeros_like(weight), np.zeros_like(bias), rows, strength)
        assert slope(weight, bias, rows, strength) < 2 * logistic.TOLERANCE * zero


def test_a_problem_learns_from_its_own_rows_only():
    folds = np.arange(90) // 3 % 5
    admitted = [folds != fold for fold in range(5)]
    other = X.copy()
    other[folds == 0] += 3 * RNG.standard_normal(((folds == 0).sum(), WIDTH)).astype(np.float32)
    fitted, again = problems(admitted).fit(0.1), problems(admitted, other).fit(0.1)
    change = (fitted.weight - again.weight).norm(dim=(1, 2)) / fitted.weight.norm(dim=(1, 2))
    assert change[0] < 0.04  # the same, but for where it stops
    assert (change[1:] > 0.1).all()


def test_where_it_starts_does_not_matter():
    whole, x, first = problems([np.ones(90, bool)]), torch.from_numpy(X), torch.zeros(90, dtype=torch.int64)
    zero = softmax(whole.fit(0.03).logits(x, first))
    warm = softmax(whole.fit(0.03, whole.fit(3.0)).logits(x, first))
    np.testing.assert_allclose(zero, warm, atol=0.02)


def test_few_rows_of_many_numbers_are_learned_by_fewer_numbers_to_the_same_end():
    """Half of the width decides which way is taken; a number that never varies adds nothing but to the penalty."""
    wide = np.concatenate([X, np.zeros((90, 200 - WIDTH), np.float32)], axis=1)
    x, first = torch.from_numpy(X), torch.zeros(90, dtype=torch.int64)
    plain = problems([np.arange(90) < 80]).fit(0.1)
    fitted = problems([np.arange(90) < 80], wide).fit(0.1 * WIDTH / 200)
    assert fitted.weight.shape == (1, LABELS, 200)
    assert fitted.weight[:, :, WIDTH:].abs().max() < 1e-5
    np.testing.assert_allclose(
        softmax(fitted.logits(torch.from_numpy(wide), first)), softmax(plain.logits(x, first)), atol=0.01
    )


def test_each_row_is_judged_by_the_problem_that_is_named():
    fitted = problems([np.arange(90) % 2 == 0, np.arange(90) % 2 == 1]).fit(0.1)
    of = np.arange(90) // 45
    expected = np.einsum("nd,nkd->nk", X, fitted.weight.numpy()[of]) + fitted.bias.numpy()[of]
    np.testing.assert_allclose(fitted.logits(torch.from_numpy(X), torch.from_numpy(of)), expected, atol=1e-4)
