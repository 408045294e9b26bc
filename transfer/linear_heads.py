"""Heads with a weight a feature: logistic and ridge regression, on features that the support says how to scale.

Notation as in `transfer.head`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt
import scipy.linalg
import torch
from torch import Tensor

from auxtasks.errors import TransferError
from transfer.head import (
    FittedHead,
    FloatArray,
    Head,
    IntArray,
    Option,
    check_choice,
    check_positive,
    normalize_rows,
    softmax_rows,
)
from transfer.logistic import fit_logistic

__all__ = ["FittedLinear", "LogisticHead", "RidgeHead", "Scaling"]

Scaling = Literal["standardize", "rms", "l2", "none"]

# A feature that hardly moves in the support gets at most this many times the weight of a typical one: the spread
# of a nearly dead unit over a few items is noise, and dividing by it would let that unit decide on new items.
GREATEST_MAGNIFICATION = 1000.0


@dataclass(frozen=True)
class LogisticHead(Head):
    """Multinomial logistic regression with an L2 term: scikit-learn's objective, solved as `fit_logistic` says.

    min over W, b of  C sum_n -log softmax(W x_n + b)[y_n] + ||W||^2 / 2, the bias without penalty. For two classes
    it is the binary model, with one weight vector, as in scikit-learn.

    With fewer items than features the best W lies in the span of the centred support, whatever C is (what is
    orthogonal to it changes no score and costs penalty). The fit therefore runs on the support's coordinates in an
    orthonormal basis of that span, N instead of D numbers an item, and gives the same solution.

    Args:
        C: weight of the labels against the penalty; lower is smoother.
        scaling: "rms" (centre, then divide all features by one number), "standardize" (each feature to mean 0 and
            standard deviation 1 over the support), "l2" (each item to length 1), or "none". Standard deviations over
            a few items are mostly noise: with one item a class of two classes, standardising leaves nothing but the
            signs, and on scikit-learn's digits it costs 10 points of accuracy at one label a class, 1 point at ten.
        max_iter: of the solver; a ConvergenceWarning says when it was not enough.
        tol: greatest gradient entry at which the solver stops, see `fit_logistic`.

    Example:
        >>> features, labels = [[0.0, 1.0], [1.0, 0.0], [4.0, 5.0], [5.0, 4.0]], [0, 0, 1, 1]
        >>> head = LogisticHead(C=10.0).fit(features, labels, n_classes=2)
        >>> head.predict([[0.5, 0.5], [4.5, 4.5]])
        array([0, 1])
    """

    C: float = 1.0
    scaling: Scaling = "rms"
    max_iter: int = 1000
    tol: float = 1e-6

    def __post_init__(self) -> None:
        check_positive(C=self.C, max_iter=self.max_iter, tol=self.tol)
        check_choice("scaling", self.scaling, ("standardize", "rms", "l2", "none"))

    def _fit(self, features: FloatArray, labels: IntArray, n_classes: int) -> FittedLinear:
        scaled = _Scaled.of(features, self.scaling)
        basis, coordinates = _span(scaled.values)
        coefficients, bias = fit_logistic(
            coordinates, labels, n_classes, strength=self.C, max_iter=self.max_iter, tol=self.tol
        )
        weight = coefficients @ basis
        if n_classes == 2:  # one vector for class 1 against class 0; half of it each way has the same softmax
            weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
        return scaled.fold(weight, bias)


@dataclass(frozen=True)
class RidgeHead(Head):
    """Least squares on one target a class, +1 for its items and -1 for all others, with an L2 term; closed form.

    min over W, b of  ||Z W^T + b - Y||^2 + alpha ||W||^2 for centred, scaled Z (N, D), so b is the mean of Y. With
    K = Z Z^T:  W^T = Z^T (K + alpha I)^-1 (Y - b) when N < D, and (Z^T Z + alpha I)^-1 Z^T (Y - b) otherwise, by
    Cholesky. The scores are W z + b over the temperature, and their softmax is the probability; not calibrated.

    Args:
        alpha: of the penalty; higher is smoother.
        scaling: as for `LogisticHead`.
        temperature: by which targets of -1 and +1 are divided before the softmax.

    Raises:
        TransferError: when alpha is so small that the system is singular.

    Example:
        >>> features, labels = [[0.0, 1.0], [1.0, 0.0], [4.0, 5.0], [5.0, 4.0]], [0, 0, 1, 1]
        >>> RidgeHead().fit(features, labels, n_classes=2).predict([[0.5, 0.5], [4.5, 4.5]])
        array([0, 1])

    Reference:
        Rifkin, Yeo and Poggio, "Regularized least-squares classification", 2003.
    """

    alpha: float = 1.0
    scaling: Scaling = "rms"
    temperature: float = 0.25

    def __post_init__(self) -> None:
        check_positive(alpha=self.alpha, temperature=self.temperature)
        check_choice("scaling", self.scaling, ("standardize", "rms", "l2", "none"))

    def _fit(self, features: FloatArray, labels: IntArray, n_classes: int) -> FittedLinear:
        scaled = _Scaled.of(features, self.scaling)
        targets = 2 * np.eye(n_classes)[labels] - 1
        bias = targets.mean(axis=0)
        weight = _ridge_weight(scaled.values, targets - bias, self.alpha)
        return scaled.fold(weight / self.temperature, bias / self.temperature)


@dataclass(frozen=True, eq=False)
class FittedLinear(FittedHead):
    """A fitted `LogisticHead` or `RidgeHead`: scores W x + b whose softmax are the probabilities.

    Args:
        weight: (C, D), on features as they come: the support's scaling is folded in.
        bias: (C,).
        unit_rows: whether each item is scaled to length 1 first, which no weight can stand for.

    Example:
        >>> head: FittedLinear = RidgeHead().fit([[0.0, 1.0], [1.0, 0.0]], [0, 1], n_classes=2)
        >>> head.weight.shape, [tuple(tensor.shape) for tensor in head.as_linear()]
        ((2, 2), [(2, 2), (2,)])
    """

    kind: ClassVar[str] = "linear"
    weight: FloatArray
    bias: FloatArray
    unit_rows: bool

    @property
    def n_classes(self) -> int:
        """C, the number of classes."""
        return len(self.weight)

    @property
    def n_features(self) -> int:
        """D, the width of the features."""
        return int(self.weight.shape[1])

    def scores(self, features: npt.ArrayLike) -> FloatArray:
        """Return W x + b; (N, C)."""
        values = self._features(features)
        return (normalize_rows(values) if self.unit_rows else values) @ self.weight.T + self.bias

    def predict_proba(self, features: npt.ArrayLike) -> FloatArray:
        """Return the softmax of the scores; (N, C)."""
        return softmax_rows(self.scores(features))

    def as_linear(self) -> tuple[Tensor, Tensor]:
        """Return weight (C, D) and bias (C,) in float32, for an `nn.Linear` on the original features.

        The softmax of that layer's outputs are this head's probabilities, so fine-tuning can start from it.

        Raises:
            TransferError: when items are scaled to length 1 first, which no linear layer can do.
        """
        if self.unit_rows:
            raise TransferError(
                'a head with scaling="l2" is not linear in the original features: each item is divided by its own '
                'length. Use scaling="standardize" or "rms" where fine-tuning starts from the head.'
            )
        return torch.tensor(self.weight, dtype=torch.float32), torch.tensor(self.bias, dtype=torch.float32)

    def to_state(self) -> tuple[dict[str, Tensor], dict[str, Option]]:
        """Return tensors and settings for `head_from_state`."""
        tensors = {"weight": torch.tensor(self.weight), "bias": torch.tensor(self.bias)}
        return tensors, {"kind": self.kind, "unit_rows": self.unit_rows}


@dataclass(frozen=True, eq=False)
class _Scaled:
    """Features after scaling and centring, and what is needed to undo both in a weight.

    values = (x - shift) / divisor, with x first scaled to length 1 where `unit_rows` is set.
    """

    values: FloatArray  # (N, D)
    shift: FloatArray  # (D,)
    divisor: FloatArray  # (D,)
    unit_rows: bool

    @classmethod
    def of(cls, features: FloatArray, scaling: Scaling) -> _Scaled:
        """Scale the support; the bias of a linear model makes up for the centring, whatever the scaling."""
        rows = normalize_rows(features) if scaling == "l2" else features
        shift = rows.mean(axis=0)
        centred = rows - shift
        divisor = np.ones(rows.shape[1])
        typical = float(np.sqrt(np.mean(centred**2)))
        if typical > 0 and scaling == "rms":
            divisor = divisor * typical
        if typical > 0 and scaling == "standardize":
            divisor = np.maximum(centred.std(axis=0), typical / GREATEST_MAGNIFICATION)
        return cls(centred / divisor, shift, divisor, scaling == "l2")

    def fold(self, weight: FloatArray, bias: FloatArray) -> FittedLinear:
        """Return the head on unscaled features: W (x - m) / s + b = (W / s) x + (b - (W / s) m)."""
        unscaled = weight / self.divisor
        return FittedLinear(unscaled, bias - unscaled @ self.shift, self.unit_rows)


def _span(values: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return an orthonormal basis (R, D) of the rows' span and their coordinates in it (N, R), R = min(N, D).

    QR of the transpose does what a singular value decomposition would, several times as fast.
    """
    items, width = values.shape
    if items >= width:
        return np.eye(width), values
    basis, coordinates = np.linalg.qr(values.T)  # (D, N), (N, N)
    return basis.T, np.ascontiguousarray(coordinates.T)


def _ridge_weight(values: FloatArray, targets: FloatArray, alpha: float) -> FloatArray:
    """Return (C, D) weights of ridge regression without a bias, by the smaller of the two systems."""
    items, width = values.shape
    try:
        if items < width:
            gram = values @ values.T + alpha * np.eye(items)
            dual = scipy.linalg.cho_solve(scipy.linalg.cho_factor(gram, lower=True), targets)
            return np.asarray(dual.T @ values)
        gram = values.T @ values + alpha * np.eye(width)
        primal = scipy.linalg.cho_solve(scipy.linalg.cho_factor(gram, lower=True), values.T @ targets)
        return np.asarray(primal.T)
    except np.linalg.LinAlgError as error:
        raise TransferError(f"alpha {alpha} is too small: the ridge system is singular. Use a larger one.") from error
