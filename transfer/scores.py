"""Metrics of a fixed test set, as one number an item whose mean is the metric.

The report's statistics take a table (draws, units) and treat a mean over units as the score. An accuracy is such a
mean; a correlation is not, and is written as one here, to first order and exactly at the sample itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from auxtasks.errors import TransferError, did_you_mean

__all__ = ["METRICS", "check_metric", "item_scores"]

Rows = NDArray[np.int64]
Scores = NDArray[np.float64]


def item_scores(metric: str, predicted: Rows, labels: Rows) -> Scores:
    """Return one number a test item, (M,), whose mean is the metric.

    For ``"accuracy"`` it is 1 where the item is right and 0 elsewhere. For ``"matthews"``, the Matthews correlation r
    of two classes, it is r + i_j with i_j the derivative of r with respect to item j's weight: with predictions p and
    labels y as 0 and 1, both standardised over the items (z_p, z_y),

        r = mean(z_p z_y),   i_j = z_pj z_yj - r (z_pj^2 + z_yj^2) / 2.

    The i_j sum to zero, so the mean is r exactly, and the mean over resampled items is r's resampled value to first
    order (the infinitesimal jackknife); so the bootstrap and the paired differences of two arms hold as they are. Where
    only one class is predicted, or only one is there, r is 0 by convention, and so is every i_j.

    Args:
        metric: one of `METRICS`.
        predicted: (M,) predicted classes.
        labels: (M,) true classes.

    Raises:
        TransferError: an unknown metric, no item, or other classes than 0 and 1 for ``"matthews"``.

    Example:
        >>> item_scores("accuracy", np.array([0, 1, 1]), np.array([0, 1, 0])).tolist()
        [1.0, 1.0, 0.0]
        >>> scores = item_scores("matthews", np.array([0, 1, 1, 1]), np.array([0, 1, 0, 1]))
        >>> round(float(scores.mean()), 4)
        0.5774

    Reference:
        Matthews, "Comparison of the predicted and observed secondary structure of T4 phage lysozyme", 1975; Jaeckel,
        "The infinitesimal jackknife", Bell Laboratories memorandum, 1972; Efron, "The jackknife, the bootstrap and
        other resampling plans", 1982.
    """
    _check_known(metric)
    if len(predicted) != len(labels) or not len(labels):
        raise TransferError(f"{len(predicted)} predictions for {len(labels)} labels: one each, and at least one.")
    return METRICS[metric](np.asarray(predicted), np.asarray(labels))


def check_metric(metric: str, n_classes: int, *, fixed_test: bool) -> None:
    """Refuse a metric that cannot be measured on a target.

    Raises:
        TransferError: an unknown metric, Matthews correlation of more than two classes or without a fixed test set.

    Example:
        >>> check_metric("accuracy", n_classes=5, fixed_test=False)
        >>> check_metric("matthews", n_classes=5, fixed_test=True)
        Traceback (most recent call last):
            ...
        auxtasks.errors.TransferError: the Matthews correlation is for two classes, the target has 5: use accuracy.
    """
    _check_known(metric)
    if metric == "matthews" and n_classes != 2:
        raise TransferError(f"the Matthews correlation is for two classes, the target has {n_classes}: use accuracy.")
    if metric != "accuracy" and not fixed_test:
        raise TransferError(
            f"{metric} needs a fixed test set (test=...): without one each class is scored by itself, draw by draw, "
            "and only an accuracy can be."
        )


def _check_known(metric: str) -> None:
    if metric not in METRICS:
        raise TransferError(
            f'unknown metric "{metric}".{did_you_mean(metric, METRICS)} There are: {", ".join(METRICS)}.'
        )


def _accuracy(predicted: Rows, labels: Rows) -> Scores:
    return np.asarray(predicted == labels, dtype=np.float64)


def _matthews(predicted: Rows, labels: Rows) -> Scores:
    outside = sorted({*np.unique(predicted).tolist(), *np.unique(labels).tolist()} - {0, 1})
    if outside:
        raise TransferError(f"the Matthews correlation is for the classes 0 and 1, found {outside}: use accuracy.")
    p, y = predicted - predicted.mean(), labels - labels.mean()
    if not p.any() or not y.any():
        return np.zeros(len(labels))
    z_p, z_y = p / p.std(), y / y.std()
    product = z_p * z_y
    correlation = product.mean()
    return np.asarray(correlation + product - correlation * (z_p**2 + z_y**2) / 2)


METRICS: Mapping[str, Callable[[Rows, Rows], Scores]] = {"accuracy": _accuracy, "matthews": _matthews}
