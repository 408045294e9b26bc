"""Thousands of small classifiers at once: the heads of `transfer.heads`, fitted and asked as batched linear algebra.

A problem is a support and queries, given as rows of one table of features: a label draw, or an episode. Problems of
the same size are stacked, block by block, so that a block fits the processor's cache and Python is called once a block
instead of once a problem. Scores equal those of the head fitted on that problem alone, but for the last digits.

Notation: B problems, S items of a support, Q queries of a problem, D features, C classes, N items of the table.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import embedding_bag, normalize, one_hot

from auxtasks.errors import TransferError
from transfer.batched_logistic import fit_logistics
from transfer.head import FloatArray, Head, IntArray
from transfer.instance_heads import NearestPrototype
from transfer.linear_heads import GREATEST_MAGNIFICATION, LogisticHead, RidgeHead, Scaling

__all__ = ["BATCHED_HEADS", "Precision", "Problems", "batched_predictions", "batched_scores"]

Precision = Literal["float64", "float32"]
BATCHED_HEADS = (NearestPrototype, RidgeHead, LogisticHead)

# Of what a block of problems gathers: linear algebra runs at the speed of the cache, and L-BFGS, whose many short
# steps each cost a few calls from Python, wants many problems at a time.
_BLOCK_BYTES = 4 << 20
_LOGISTIC_BLOCK_BYTES = 256 << 20


@dataclasses.dataclass(frozen=True, eq=False)
class Problems:
    """Supports and queries as rows of a table of features, checked.

    Args:
        support: (B, S) rows.
        labels: (B, S) classes from 0 to C - 1, or (S,) where they are the same for all problems.
        query: (B, Q) rows, or (Q,) where all problems have the same.
        n_classes: C.

    Raises:
        TransferError: shapes that do not fit, a label out of range, or a class that is absent from a support; names
            the first such problem, and how many there are.

    Example:
        >>> problems = Problems(support=np.array([[0, 2], [1, 3]]), labels=np.array([0, 1]), query=np.array([4]),
        ...                     n_classes=2)
        >>> len(problems), problems.labels.tolist()
        (2, [[0, 1], [0, 1]])
    """

    support: IntArray
    labels: IntArray
    query: IntArray
    n_classes: int

    def __post_init__(self) -> None:
        for name in ("support", "labels", "query"):
            values = np.asarray(getattr(self, name))
            if not np.issubdtype(values.dtype, np.integer):
                raise TransferError(f"{name} must be whole numbers, found {values.dtype}.")
            object.__setattr__(self, name, values.astype(np.int64, copy=False))
        if self.support.ndim != 2 or self.labels.shape not in (self.support.shape, self.support.shape[1:]):
            raise TransferError(
                f"support is (problems, items) and labels the same, or one row for all: found {self.support.shape} and "
                f"{self.labels.shape}."
            )
        if self.query.ndim not in (1, 2) or (self.query.ndim == 2 and len(self.query) != len(self.support)):
            raise TransferError(
                f"query is (problems, queries), or one row for all {len(self.support)} problems: found "
                f"{self.query.shape}."
            )
        if self.n_classes < 2:
            raise TransferError(f"n_classes is {self.n_classes}: a classifier needs at least 2 classes.")
        object.__setattr__(self, "labels", np.broadcast_to(self.labels, self.support.shape))
        self._check_labels()

    def _check_labels(self) -> None:
        labels, classes = self.labels, self.n_classes
        if labels.size and (labels.min() < 0 or labels.max() >= classes):
            raise TransferError(f"labels run from {labels.min()} to {labels.max()}, outside 0 to {classes - 1}.")
        cells = labels + classes * np.arange(len(labels))[:, None]
        counts = np.bincount(cells.ravel(), minlength=labels.shape[0] * classes).reshape(-1, classes)
        lacking = np.flatnonzero((counts == 0).any(axis=1))
        if len(lacking):
            first = int(lacking[0])
            absent = ", ".join(map(str, np.flatnonzero(counts[first] == 0)[:5]))
            raise TransferError(
                f"the support of problem {first} has no item of class {absent} ({len(lacking)} of {len(labels)} "
                "supports lack a class): every class needs at least one labelled item."
            )

    def __len__(self) -> int:
        """Return B."""
        return len(self.support)

    def check_rows(self, items: int) -> None:
        """Refuse rows that a table of so many items does not have.

        Raises:
            TransferError: there are such; says which range was found.
        """
        for name, rows in (("support", self.support), ("query", self.query)):
            if rows.size and (rows.min() < 0 or rows.max() >= items):
                raise TransferError(
                    f"{name} names rows {rows.min()} to {rows.max()}, but the features have rows 0 to {items - 1}."
                )


def batched_scores(
    head: Head, features: npt.ArrayLike, problems: Problems, *, precision: Precision = "float64"
) -> FloatArray:
    """Return what `head.fit(support).scores(query)` gives for every problem, (B, Q, C).

    Args:
        head: a nearest prototype, a ridge or a logistic regression.
        features: (N, D), finite.
        problems: whose rows are items of `features`.
        precision: float32 takes half the time and memory, and decides near ties by rounding.

    Raises:
        TransferError: another head, features that are not finite, rows that there are not, a singular ridge system.

    Warns:
        ConvergenceWarning: some logistic regressions did not converge.

    Example:
        >>> features = [[2.0, 0.1], [1.0, 0.0], [0.0, 3.0], [5.0, 1.0]]
        >>> problems = Problems(np.array([[0, 2], [1, 2]]), np.array([0, 1]), np.array([3]), n_classes=2)
        >>> batched_scores(RidgeHead(), features, problems).argmax(axis=2).tolist()
        [[0], [0]]
    """
    blocks = [scores.double().numpy() for scores in _blocks(head, features, problems, precision)]
    return np.concatenate(blocks) if blocks else np.zeros((0, problems.query.shape[-1], problems.n_classes))


def batched_predictions(
    head: Head, features: npt.ArrayLike, problems: Problems, *, precision: Precision = "float64"
) -> IntArray:
    """Return the class with the highest score, the lowest index among equals, for each query of each problem; (B, Q).

    Args, errors and warnings as in `batched_scores`; the scores of all problems are never held at once.

    Example:
        >>> features = [[2.0, 0.1], [1.0, 0.0], [0.0, 3.0], [5.0, 1.0]]
        >>> problems = Problems(np.array([[0, 2], [1, 2]]), np.array([0, 1]), np.array([3]), n_classes=2)
        >>> batched_predictions(RidgeHead(), features, problems).tolist()
        [[0], [0]]
    """
    blocks = [scores.argmax(dim=2).numpy() for scores in _blocks(head, features, problems, precision)]
    return np.concatenate(blocks) if blocks else np.zeros((0, problems.query.shape[-1]), np.int64)


Fit = Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]]  # (b, S, D), (b, S), C -> (b, C, D), (b, C)


def _blocks(head: Head, features: npt.ArrayLike, problems: Problems, precision: Precision) -> Iterator[Tensor]:
    """Yield the scores (b, Q, C) of block after block of problems."""
    table = _table(features, precision)
    problems.check_rows(len(table))
    score, unit_rows = _scorer(head)
    if unit_rows:
        table = normalize(table, dim=1, eps=torch.finfo(table.dtype).tiny)
    support, query = torch.from_numpy(problems.support), torch.from_numpy(problems.query)
    labels = torch.from_numpy(np.array(problems.labels))  # a copy: labels for all are not writable
    gathered = support.shape[1] + problems.n_classes + query.shape[-1]
    limit = _LOGISTIC_BLOCK_BYTES if isinstance(head, LogisticHead) else _BLOCK_BYTES
    size = max(1, limit // (gathered * max(1, table.shape[1]) * table.element_size()))
    shared = table[query] if query.ndim == 1 else None
    for start in range(0, len(problems), size):
        rows = slice(start, start + size)
        asked = table[query[rows]] if shared is None else shared
        try:
            yield score(table, support[rows], labels[rows], asked, problems.n_classes)
        except _SingularError as error:
            raise TransferError(
                f"alpha {error.alpha} is too small: the ridge system of problem {start + error.place} is singular. Use "
                "a larger one."
            ) from error


def _table(features: npt.ArrayLike, precision: Precision) -> Tensor:
    if precision not in ("float64", "float32"):
        raise TransferError(f'precision is "{precision}". Allowed: float64, float32.')
    values = np.asarray(features, dtype=precision)
    if values.ndim != 2 or values.shape[1] == 0:
        raise TransferError(f"features must be (N, D), found shape {values.shape}.")
    # A sum is finite only where all it adds is; row by row only where it is not.
    if not np.isfinite(values.sum()) and not np.isfinite(values).all():
        rows = np.flatnonzero(~np.isfinite(values).all(axis=1))
        raise TransferError(f"features of {len(rows)} items hold NaN or infinite values, the first is item {rows[0]}.")
    return torch.from_numpy(values if values.flags.writeable else values.copy())


# Table (N, D), support rows (b, S), labels (b, S), queries (b, Q, D) or (Q, D), C -> (b, Q, C).
Score = Callable[[Tensor, Tensor, Tensor, Tensor, int], Tensor]


def _scorer(head: Head) -> tuple[Score, bool]:
    """Return what scores a block of a head, and whether items are scaled to length 1 beforehand."""
    if isinstance(head, NearestPrototype):
        prototypes = head
        return lambda *given: _prototype_scores(prototypes, *given), not head.center
    if isinstance(head, RidgeHead):
        ridge = head
        fit: Fit = lambda *given: _fit_ridges(ridge, *given)  # noqa: E731  # two of a kind
    elif isinstance(head, LogisticHead):
        logistic = head
        fit = lambda *given: _fit_logistics(logistic, *given)  # noqa: E731
    else:
        names = ", ".join(one.__name__ for one in BATCHED_HEADS)
        raise TransferError(
            f"{type(head).__name__} is not fitted in batches, these are: {names}. Fit it one problem at a time."
        )

    def score(table: Tensor, support: Tensor, labels: Tensor, query: Tensor, n_classes: int) -> Tensor:
        weight, bias = fit(table[support], labels, n_classes)
        return _products(query, weight) + bias[:, None, :]

    return score, head.scaling == "l2"


def _products(query: Tensor, weight: Tensor) -> Tensor:
    """Return (b, Q, C) products of queries, shared (Q, D) or own (b, Q, D), with (b, C, D)."""
    if query.ndim == 3:
        return query @ weight.mT
    problems, classes, width = weight.shape
    return (query @ weight.reshape(-1, width).T).reshape(-1, problems, classes).transpose(0, 1)


def _prototype_scores(
    head: NearestPrototype, table: Tensor, support: Tensor, labels: Tensor, query: Tensor, n_classes: int
) -> Tensor:
    """Return what `FittedPrototype.scores` gives."""
    tiny = torch.finfo(table.dtype).tiny
    if head.center:
        items = table[support]
        shift = items.mean(dim=1, keepdim=True)
        table = normalize(items - shift, dim=2, eps=tiny).flatten(0, 1)
        support = torch.arange(len(table)).reshape(support.shape)
        query = normalize(query - shift, dim=2, eps=tiny)
    prototypes = _class_means(table, support, labels, n_classes)
    if head.metric == "cosine":
        return _products(query, normalize(prototypes, dim=2, eps=tiny)) / head.temperature
    squares = query.square().sum(-1, keepdim=True) + prototypes.square().sum(-1)[:, None, :]
    return (2 * _products(query, prototypes) - squares) / head.temperature


def _class_means(table: Tensor, support: Tensor, labels: Tensor, n_classes: int) -> Tensor:
    """Return the mean of each class's items, (b, C, D), without gathering the items first."""
    order = labels.argsort(dim=1, stable=True)
    counts = one_hot(labels, n_classes).sum(dim=1).flatten()  # (b * C,)
    ends = counts.cumsum(0)
    rows = support.gather(1, order).flatten()
    return embedding_bag(rows, table, ends - counts, mode="mean").reshape(len(support), n_classes, -1)


@dataclasses.dataclass(frozen=True, eq=False)
class _Scaled:
    """Supports after scaling and centring; see `transfer.linear_heads`, whose sums these are."""

    values: Tensor  # (b, S, D)
    shift: Tensor  # (b, 1, D)
    divisor: Tensor  # (b, 1, 1) or (b, 1, D)

    @classmethod
    def of(cls, support: Tensor, scaling: Scaling) -> _Scaled:
        shift = support.mean(dim=1, keepdim=True)
        centred = support - shift
        divisor = torch.ones_like(centred[:, :1, :1])
        if scaling in ("rms", "standardize"):
            typical = centred.square().mean(dim=(1, 2), keepdim=True).sqrt()
            spread = typical
            if scaling == "standardize":
                spread = centred.square().mean(dim=1, keepdim=True).sqrt().maximum(typical / GREATEST_MAGNIFICATION)
            divisor = torch.where(typical > 0, spread, 1.0)
        return cls(centred / divisor, shift, divisor)

    def fold(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Return weight (b, C, D) and bias (b, C) on features as they come."""
        unscaled = weight / self.divisor
        return unscaled, bias - (unscaled @ self.shift.mT).squeeze(2)


class _SingularError(Exception):
    """A ridge system that has no solution."""

    def __init__(self, place: int, alpha: float) -> None:
        super().__init__(place)
        self.place, self.alpha = place, alpha


def _fit_ridges(head: RidgeHead, support: Tensor, labels: Tensor, n_classes: int) -> tuple[Tensor, Tensor]:
    """Return weights and biases of ridge regressions, by the smaller of the two systems."""
    scaled = _Scaled.of(support, head.scaling)
    values = scaled.values
    targets = 2 * one_hot(labels, n_classes).to(values.dtype) - 1
    bias = targets.mean(dim=1)
    targets = targets - bias[:, None, :]
    dual = values.shape[1] < values.shape[2]
    gram = values @ values.mT if dual else values.mT @ values
    gram.diagonal(dim1=1, dim2=2).add_(head.alpha)
    factor, failed = torch.linalg.cholesky_ex(gram)
    if failed.any():
        raise _SingularError(int(failed.nonzero()[0]), head.alpha)
    if dual:
        weight = torch.cholesky_solve(targets, factor).mT @ values
    else:
        weight = torch.cholesky_solve(values.mT @ targets, factor).mT
    return scaled.fold(weight / head.temperature, bias / head.temperature)


def _fit_logistics(head: LogisticHead, support: Tensor, labels: Tensor, n_classes: int) -> tuple[Tensor, Tensor]:
    """Return weights and biases of logistic regressions, each solved in the span of its support."""
    scaled = _Scaled.of(support, head.scaling)
    values = scaled.values
    basis = None
    if values.shape[1] < values.shape[2]:
        basis, coordinates = torch.linalg.qr(values.mT)  # (b, D, S), (b, S, S)
        values = coordinates.mT
    weight, bias = fit_logistics(values, labels, n_classes, strength=head.C, max_iter=int(head.max_iter), tol=head.tol)
    if basis is not None:
        weight = weight @ basis.mT
    if n_classes == 2:  # one vector for class 1 against class 0; half of it each way has the same softmax
        weight, bias = torch.cat([-weight, weight], dim=1) / 2, torch.cat([-bias, bias], dim=1) / 2
    return scaled.fold(weight, bias)
