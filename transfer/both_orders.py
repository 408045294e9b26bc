"""Heads on differences of two items: fitted on both orders of every pair, so that no side is preferred."""

from __future__ import annotations

import dataclasses

import numpy as np

from auxtasks.data.pair_table import LEFT, RIGHT
from auxtasks.errors import TransferError
from transfer.head import FittedHead, FloatArray, Head, IntArray
from transfer.instance_heads import FittedPrototype
from transfer.linear_heads import FittedLinear

__all__ = ["BothOrders", "scoring_weight"]


@dataclasses.dataclass(frozen=True)
class BothOrders(Head):
    """A head of two classes that sees each difference x as it is, and -x with the other class.

    By that symmetry the best intercept is zero, and what is left of it by rounding is dropped: the scores of x and -x
    are each other's, and swapping the two items of a pair swaps the answer. Only a vote of neighbours may break a tie
    of two equally similar ones by their order.

    Args:
        head: what is fitted.

    Raises:
        TransferError: at `fit`, other than two classes.

    Example:
        >>> from transfer.heads import build_head
        >>> head = BothOrders(build_head("logistic")).fit([[2.0, 1.0], [-1.0, 3.0], [1.0, 0.0]], [1, 0, 1], n_classes=2)
        >>> head.bias.tolist(), head.predict([[1.0, -2.0], [-1.0, 2.0]]).tolist()
        ([0.0, 0.0], [1, 0])
    """

    head: Head

    def _fit(self, features: FloatArray, labels: IntArray, n_classes: int) -> FittedHead:
        if n_classes != 2:
            raise TransferError(f"a pair has two orders, and so two classes; found n_classes={n_classes}.")
        doubled = np.concatenate([features, -features])
        return _without_intercept(self.head.fit(doubled, np.concatenate([labels, 1 - labels]), n_classes))


def _without_intercept(fitted: FittedHead) -> FittedHead:
    match fitted:
        case FittedLinear():
            weight = (fitted.weight - fitted.weight[::-1]) / 2
            return dataclasses.replace(fitted, weight=weight, bias=np.zeros(2))
        case FittedPrototype():
            prototypes = (fitted.prototypes - fitted.prototypes[::-1]) / 2
            return dataclasses.replace(fitted, prototypes=prototypes, shift=np.zeros_like(fitted.shift))
        case _:
            return fitted


def scoring_weight(fitted: FittedHead) -> FloatArray:
    """Return w (D,) of an item's score w·f: a head of pairs prefers the item whose score is the higher.

    Args:
        fitted: by `BothOrders`, on differences f(left) - f(right).

    Raises:
        TransferError: a head that is no function of w·(f(left) - f(right)): a vote of neighbours, other than two
            classes, or one with an intercept, which was not fitted on both orders.

    Example:
        >>> from transfer.heads import build_head
        >>> differences, labels = [[2.0, 1.0], [-1.0, 3.0], [1.0, 0.0]], [1, 0, 1]
        >>> head = BothOrders(build_head("prototype")).fit(differences, labels, n_classes=2)
        >>> [bool(score > 0) for score in np.asarray(differences) @ scoring_weight(head)]
        [True, False, True]
    """
    match fitted:
        case FittedLinear():
            vectors, intercept = fitted.weight, fitted.bias
        case FittedPrototype():
            vectors, intercept = fitted.prototypes, fitted.shift
        case _:
            raise TransferError(
                f"a {fitted.kind} head compares with what it was shown: it gives single items no score. Choose among "
                "logistic, ridge and prototype heads."
            )
    if fitted.n_classes != 2 or intercept.any():
        raise TransferError(
            "items can be scored by a head of two classes without an intercept: fit it with BothOrders, on differences "
            "of pairs."
        )
    return np.asarray(vectors[LEFT] - vectors[RIGHT])
