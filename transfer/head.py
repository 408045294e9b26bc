"""What every head has: the two abstract classes, the checks of a support and of options, two operations on rows.

A head is a frozen dataclass of options; `fit` returns a fitted head and leaves the options as they were. Every fitted
head turns features (N, D) into `scores` (N, C), higher for the likelier class, and `predict_proba` (N, C), whose rows
sum to 1. All of it is computed in float64, and nothing is random: the same support gives the same head.

Notation: N items, D features, C classes; the support is the N labelled items that a head is fitted on.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import numpy.typing as npt
from scipy.special import softmax
from torch import Tensor

from auxtasks.errors import TransferError, did_you_mean

__all__ = [
    "FittedHead",
    "FloatArray",
    "Head",
    "IntArray",
    "Option",
    "check_choice",
    "check_flag",
    "check_positive",
    "checked_support",
    "normalize_rows",
    "softmax_rows",
]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
Option = str | int | float | bool


class FittedHead(abc.ABC):
    """A head after `fit`: scores, probabilities and predictions for new features.

    Attributes:
        kind: name under which `head_from_state` knows the class.

    Example:
        >>> from transfer.heads import build_head
        >>> fitted: FittedHead = build_head("prototype").fit([[0.0, 1.0], [1.0, 0.0]], [0, 1], n_classes=2)
        >>> fitted.n_classes, fitted.n_features, fitted.predict_proba([[0.0, 1.0]]).argmax(axis=1).tolist()
        (2, 2, [0])
    """

    kind: ClassVar[str]

    @property
    @abc.abstractmethod
    def n_classes(self) -> int:
        """C, the number of classes it was fitted on."""

    @property
    @abc.abstractmethod
    def n_features(self) -> int:
        """D, the width of the features it takes."""

    @abc.abstractmethod
    def scores(self, features: npt.ArrayLike) -> FloatArray:
        """Return one score a class, higher for the likelier one; (N, D) to (N, C)."""

    @abc.abstractmethod
    def predict_proba(self, features: npt.ArrayLike) -> FloatArray:
        """Return one probability a class, rows summing to 1; (N, D) to (N, C)."""

    @abc.abstractmethod
    def to_state(self) -> tuple[dict[str, Tensor], dict[str, Option]]:
        """Return all that `head_from_state` needs: tensors (float64) for safetensors, and settings for JSON."""

    def predict(self, features: npt.ArrayLike) -> IntArray:
        """Return the class with the highest score, the lowest index among equals; (N, D) to (N,)."""
        return np.asarray(np.argmax(self.scores(features), axis=1), dtype=np.int64)

    def _features(self, features: npt.ArrayLike) -> FloatArray:
        """Return checked features.

        Raises:
            TransferError: another width than the head was fitted on, or values that are not finite.
        """
        values = _checked_features(features)
        if values.shape[1] != self.n_features:
            raise TransferError(
                f"this head was fitted on {self.n_features} features, found {values.shape[1]}: take them from the same "
                f"layer, pooled in the same way."
            )
        return values


class Head(abc.ABC):
    """Options of a classifier; `fit` makes the classifier.

    Example:
        >>> from transfer.heads import build_head
        >>> head: Head = build_head("ridge", alpha=2.0)
        >>> fitted: FittedHead = head.fit([[0.0, 1.0], [1.0, 0.0]], [0, 1], n_classes=2)
        >>> fitted.predict([[0.1, 0.9]]).tolist()
        [0]
    """

    def fit(self, features: npt.ArrayLike, labels: npt.ArrayLike, n_classes: int) -> FittedHead:
        """Fit on the support.

        Args:
            features: (N, D) finite numbers.
            labels: (N,) class indices from 0 to C - 1, every class at least once.
            n_classes: C, at least 2.

        Raises:
            TransferError: shapes that do not fit, NaN, a label out of range, or a class without an item.
        """
        values, classes = checked_support(features, labels, n_classes)
        return self._fit(values, classes, n_classes)

    @abc.abstractmethod
    def _fit(self, features: FloatArray, labels: IntArray, n_classes: int) -> FittedHead:
        """Fit on a support that has been checked."""


def normalize_rows(values: FloatArray) -> FloatArray:
    """Return the rows scaled to length 1; rows of zeros stay zero.

    Example:
        >>> normalize_rows(np.array([[3.0, 4.0], [0.0, 0.0]])).tolist()
        [[0.6, 0.8], [0.0, 0.0]]
    """
    norms = np.linalg.norm(values, axis=1, keepdims=True)
    return np.asarray(values / np.where(norms > 0, norms, 1.0))


def softmax_rows(scores: FloatArray) -> FloatArray:
    """Return the softmax of each row; (N, C) to (N, C).

    Example:
        >>> softmax_rows(np.array([[0.0, 0.0], [0.0, 1000.0]])).tolist()
        [[0.5, 0.5], [0.0, 1.0]]
    """
    return np.asarray(softmax(scores, axis=1))


def _checked_features(features: npt.ArrayLike) -> FloatArray:
    values = np.asarray(features, dtype=np.float64)
    if values.ndim != 2 or values.shape[1] == 0:
        raise TransferError(f"features must be (N, D), found shape {values.shape}.")
    if not np.isfinite(values).all():
        rows = np.flatnonzero(~np.isfinite(values).all(axis=1))
        raise TransferError(f"features of {len(rows)} items hold NaN or infinite values, the first is item {rows[0]}.")
    return values


def checked_support(features: npt.ArrayLike, labels: npt.ArrayLike, n_classes: int) -> tuple[FloatArray, IntArray]:
    """Return features (N, D) and labels (N,) in the types that heads compute in, or raise as `Head.fit` says.

    Example:
        >>> features, labels = checked_support([[1, 2], [3, 4]], [0, 1], n_classes=2)
        >>> features.dtype, labels.dtype
        (dtype('float64'), dtype('int64'))
    """
    values, classes = _checked_features(features), np.asarray(labels)
    if classes.shape != (len(values),):
        raise TransferError(f"one label an item is needed: {len(values)} items, labels of shape {classes.shape}.")
    if not np.issubdtype(classes.dtype, np.integer):
        raise TransferError(f"labels must be integers from 0 to {n_classes - 1}, found {classes.dtype}.")
    if n_classes < 2:
        raise TransferError(f"n_classes is {n_classes}: a classifier needs at least 2 classes.")
    if classes.size and (classes.min() < 0 or classes.max() >= n_classes):
        raise TransferError(f"labels run from {classes.min()} to {classes.max()}, outside 0 to {n_classes - 1}.")
    absent = np.setdiff1d(np.arange(n_classes), classes)
    if len(absent):
        named = ", ".join(str(label) for label in absent[:5]) + (", ..." if len(absent) > 5 else "")
        raise TransferError(
            f"the support has no item of class {named} ({len(absent)} of {n_classes} classes): every class needs at "
            f"least one labelled item."
        )
    return values, classes.astype(np.int64)


def check_positive(**options: float) -> None:
    """Refuse options that are no number above 0.

    Example:
        >>> check_positive(alpha=1.0)
        >>> check_positive(alpha=-1.0)
        Traceback (most recent call last):
            ...
        auxtasks.errors.TransferError: alpha is -1.0: it must be a number above 0.
    """
    for name, value in options.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
            raise TransferError(f"{name} is {value!r}: it must be a number above 0.")


def check_flag(name: str, value: bool) -> None:
    """Refuse an option that is neither true nor false.

    Example:
        >>> check_flag("balanced", True)
        >>> check_flag("balanced", "yes")
        Traceback (most recent call last):
            ...
        auxtasks.errors.TransferError: balanced is 'yes': it must be true or false.
    """
    if not isinstance(value, bool):
        raise TransferError(f"{name} is {value!r}: it must be true or false.")


def check_choice(name: str, value: str, allowed: Sequence[str]) -> None:
    """Refuse an option that is none of the allowed words, with a guess at which was meant.

    Example:
        >>> check_choice("metric", "cosin", ["cosine", "euclidean"])
        Traceback (most recent call last):
            ...
        auxtasks.errors.TransferError: metric is "cosin". Did you mean "cosine"? Allowed: cosine, euclidean.
    """
    if value not in allowed:
        raise TransferError(f'{name} is "{value}".{did_you_mean(str(value), allowed)} Allowed: {", ".join(allowed)}.')
