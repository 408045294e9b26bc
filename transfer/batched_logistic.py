"""Many logistic regressions of one size, minimised together by a batched L-BFGS.

The objective and the coordinates are those of `transfer.logistic`. Each problem has its own curvature pairs and its own
step length; one that has converged is left out of the work.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable

import torch
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor
from torch.nn.functional import logsigmoid, one_hot

__all__ = ["fit_logistics", "minimize_all"]

# Value (b,) and gradient (b, P) of the objectives of some problems, named by their places (b,), at points (b, P).
Objective = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]

_PAIRS = 10  # curvature pairs that are kept, as SciPy does
_SUFFICIENT = 1e-4  # of the decrease that the slope promises (Armijo)
_MOST_HALVINGS = 40


def fit_logistics(
    values: Tensor, labels: Tensor, n_classes: int, *, strength: float, max_iter: int, tol: float
) -> tuple[Tensor, Tensor]:
    """Minimise  C sum_n -log softmax(W x_n + b)[y_n] + ||W||^2 / 2  for each of B problems.

    Args:
        values: (B, S, R) centred features.
        labels: (B, S) classes from 0 to C - 1, all of them in each problem.
        n_classes: how many.
        strength: C, the weight of the labels against the penalty.
        max_iter: of L-BFGS.
        tol: greatest entry of the gradient, in the solver's coordinates, at which a problem is done.

    Returns:
        W (B, classes, R) and b (B, classes); one row and one entry for two classes.

    Warns:
        ConvergenceWarning: `max_iter` iterations were not enough; says for how many problems.

    Example:
        >>> values, labels = torch.tensor([[[-1.0], [1.0]]]).double(), torch.tensor([[0, 1]])
        >>> weight, bias = fit_logistics(values, labels, 2, strength=1.0, max_iter=99, tol=1e-8)
        >>> round(float(weight), 4), abs(round(float(bias), 4))
        (0.6748, 0.0)

    Reference:
        As of `transfer.logistic.fit_logistic`.
    """
    problems, items, width = values.shape
    squares, axes = torch.linalg.eigh(values.mT @ values)
    shrink = (1 + strength * squares.clamp(min=0) / 4).rsqrt()[:, None, :]  # (B, 1, R)
    step_of_bias = (1 + strength * items / 4) ** -0.5
    # The bias is one more weight, of a feature that is the same for all items and costs no penalty.
    design = torch.cat([(values @ axes) * shrink, torch.full_like(values[:, :, :1], step_of_bias)], dim=2)
    penalty = torch.cat([shrink, torch.zeros_like(shrink[:, :, :1])], dim=2)
    rows = 1 if n_classes == 2 else n_classes
    targets = one_hot(labels, n_classes).to(values.dtype)
    signs = 2.0 * labels[:, :, None].to(values.dtype) - 1

    def objective(places: Tensor, flat: Tensor) -> tuple[Tensor, Tensor]:
        every = len(places) == problems
        x = design if every else design[places]
        v = flat.reshape(len(places), rows, width + 1)
        scores = x @ v.mT  # (b, S, rows)
        if rows == 1:
            margins = scores * (signs if every else signs[places])
            log_right = logsigmoid(margins)
            slope = -(signs if every else signs[places]) * torch.sigmoid(-margins)
        else:
            wanted = targets if every else targets[places]
            log_shares = scores.log_softmax(dim=2)
            log_right = (log_shares * wanted).sum(dim=2)
            slope = log_shares.exp() - wanted
        plain = v * (penalty if every else penalty[places])
        value = plain.square().sum(dim=(1, 2)) / 2 - strength * log_right.flatten(1).sum(dim=1)
        gradient = strength * (slope.mT @ x) + plain * (penalty if every else penalty[places])
        return value, gradient.flatten(1)

    start = values.new_zeros(problems, rows * (width + 1))
    found, unfinished = minimize_all(objective, start, max_iter=max_iter, tol=tol)
    if unfinished:
        warnings.warn(
            f"{unfinished} of {problems} logistic regressions did not converge in {max_iter} iterations: raise "
            "max_iter, or lower C.",
            ConvergenceWarning,
            stacklevel=2,
        )
    solution = found.reshape(problems, rows, width + 1)
    return (solution[:, :, :-1] * shrink) @ axes.mT, solution[:, :, -1] * step_of_bias


def minimize_all(objective: Objective, start: Tensor, *, max_iter: int, tol: float) -> tuple[Tensor, int]:
    """Minimise B convex functions of P variables by L-BFGS; return the points (B, P), and how many are not done.

    A function is done where no entry of its gradient exceeds `tol`, or where its value cannot be told from its
    minimum in the precision of `start`. Step lengths are halved until the decrease is enough (Armijo): with convex
    functions every accepted step has a curvature pair of the right sign, so nothing more is asked of it.

    Args:
        objective: value (b,) and gradient (b, P) of the functions at some places (b,).
        start: (B, P).
        max_iter: steps of each function.
        tol: of the gradient.

    Example:
        >>> centres = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).double()
        >>> def bowls(places, at):
        ...     away = at - centres[places]
        ...     return away.square().sum(dim=1), 2 * away
        >>> found, unfinished = minimize_all(bowls, torch.zeros(2, 2).double(), max_iter=20, tol=1e-9)
        >>> torch.allclose(found, centres), unfinished
        (True, 0)

    Reference:
        Nocedal and Wright, "Numerical optimization", 2006, algorithms 3.1 and 7.4.
    """
    points = start.clone()
    places = torch.arange(len(start))
    value, gradient = objective(places, points)
    at, pairs = points.clone(), _Pairs()
    unit = 8 * torch.finfo(start.dtype).eps  # of the value: below this no decrease can be seen
    for _ in range(max_iter):
        going = gradient.abs().amax(dim=1) > tol
        if not going.all():
            points[places] = at
            places, at, value, gradient = places[going], at[going], value[going], gradient[going]
            pairs = pairs.kept(going)
        if not len(places):
            return points, 0
        direction = -pairs.times(gradient)
        step, new_value, new_gradient = _line_search(objective, places, at, value, gradient, direction)
        moved = step[:, None] * direction
        pairs.add(moved, new_gradient - gradient)
        standing = value - new_value <= unit * torch.maximum(value.abs(), new_value.abs()).clamp(min=1)
        at, value, gradient = at + moved, new_value, new_gradient
        gradient = torch.where(standing[:, None], 0.0, gradient)  # done
    points[places] = at
    return points, int((gradient.abs().amax(dim=1) > tol).sum()) if len(places) else 0


def _line_search(
    objective: Objective, places: Tensor, at: Tensor, value: Tensor, gradient: Tensor, direction: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return each function's step, its value and its gradient there; a step of 0 where none brings it down."""
    slope = (gradient * direction).sum(dim=1)
    step = torch.ones_like(value)
    new_value, new_gradient = objective(places, at + direction)
    wrong = ~(new_value <= value + _SUFFICIENT * slope)
    for _ in range(_MOST_HALVINGS):
        if not wrong.any():
            break
        some = wrong.nonzero()[:, 0]
        # The minimum of the parabola through value, slope and what was found, not too near to either end.
        ratio = -slope[some] * step[some] / (2 * (new_value[some] - value[some] - slope[some] * step[some]))
        step[some] *= torch.nan_to_num(ratio, nan=0.5, posinf=0.5, neginf=0.5).clamp(0.1, 0.5)
        found, there = objective(places[some], at[some] + step[some, None] * direction[some])
        new_value[some], new_gradient[some] = found, there
        wrong[some] = ~(found <= value[some] + _SUFFICIENT * step[some] * slope[some])
    step = torch.where(wrong, 0.0, step)
    return step, torch.where(wrong, value, new_value), torch.where(wrong[:, None], gradient, new_gradient)


@dataclasses.dataclass(eq=False)
class _Pairs:
    """The newest steps and changes of gradient of each problem: what L-BFGS knows of the curvature."""

    steps: list[Tensor] = dataclasses.field(default_factory=list)  # (b, P)
    changes: list[Tensor] = dataclasses.field(default_factory=list)  # (b, P)
    weights: list[Tensor] = dataclasses.field(default_factory=list)  # (b, 1), 1 / (step . change), 0 for none
    scale: Tensor | None = None  # (b, 1), about the inverse curvature

    def add(self, step: Tensor, change: Tensor) -> None:
        product = (step * change).sum(dim=1, keepdim=True)
        square = change.square().sum(dim=1, keepdim=True)
        sound = product > torch.finfo(step.dtype).eps * square
        self.steps, self.changes = [*self.steps, step][-_PAIRS:], [*self.changes, change][-_PAIRS:]
        self.weights = [*self.weights, torch.where(sound, 1 / product, 0.0)][-_PAIRS:]
        before = torch.ones_like(product) if self.scale is None else self.scale
        self.scale = torch.where(sound, product / square, before)

    def kept(self, which: Tensor) -> _Pairs:
        """Return those of some problems."""
        steps, changes, weights = ([one[which] for one in of] for of in (self.steps, self.changes, self.weights))
        return _Pairs(steps, changes, weights, None if self.scale is None else self.scale[which])

    def times(self, gradient: Tensor) -> Tensor:
        """Return the inverse curvature times a gradient, by the two loops of L-BFGS."""
        found, shares = gradient, []
        for step, change, weight in zip(self.steps[::-1], self.changes[::-1], self.weights[::-1], strict=True):
            share = weight * (step * found).sum(dim=1, keepdim=True)
            found = found - share * change
            shares.append(share)
        if self.scale is not None:
            found = found * self.scale
        for step, change, weight, share in zip(self.steps, self.changes, self.weights, shares[::-1], strict=True):
            found = found + (share - weight * (change * found).sum(dim=1, keepdim=True)) * step
        return found
