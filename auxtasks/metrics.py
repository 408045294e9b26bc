"""Scores of a model, as pure functions over tensors or arrays; each returns a Python float or a NumPy array.

The verification metrics take one score a pair, higher meaning more alike, and a label, 1 for a pair that belongs
together and 0 for one that does not. A pair is accepted when its score is at or above the threshold.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from auxtasks.errors import DataError

__all__ = [
    "accuracy",
    "best_threshold",
    "effective_rank",
    "embedding_spread",
    "equal_error_rate",
    "roc_auc",
    "tar_at_far",
    "verification_accuracy_folds",
]

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]


def accuracy(predicted: npt.ArrayLike | Tensor, labels: npt.ArrayLike | Tensor) -> float:
    """Return the fraction of items whose predicted class is their label.

    Args:
        predicted: (N,) class indices.
        labels: (N,) class indices.

    Raises:
        DataError: no items, different lengths, or NaN.

    Example:
        >>> accuracy([0, 1, 2, 2], [0, 1, 1, 2])
        0.75
    """
    found, wanted = _vector(predicted, "predicted"), _vector(labels, "labels")
    _check_same_length(predicted=found, labels=wanted)
    return float(np.mean(found == wanted))


def roc_auc(scores: npt.ArrayLike | Tensor, labels: npt.ArrayLike | Tensor) -> float:
    """Return the area under the ROC curve: how often a positive scores above a negative, ties counting one half.

    With mid-ranks r (the mean rank of equal scores) and P positives, N negatives:
    AUC = (sum of r over the positives - P (P + 1) / 2) / (P N).

    Args:
        scores: (N,) scores, higher for a positive.
        labels: (N,) 0 or 1.

    Raises:
        DataError: one class only, different lengths, labels other than 0 and 1, or scores that are not finite.

    Example:
        >>> roc_auc([0.1, 0.4, 0.4, 0.8], [0, 0, 1, 1])
        0.875

    Reference:
        Mann and Whitney, "On a test of whether one of two random variables is stochastically larger than the
        other", Annals of Mathematical Statistics 1947.
    """
    values, positive = _scores_and_labels(scores, labels)
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    mid_ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]
    positives = int(positive.sum())
    negatives = len(positive) - positives
    wins = mid_ranks[positive].sum() - positives * (positives + 1) / 2
    return float(wins / (positives * negatives))


def equal_error_rate(scores: npt.ArrayLike | Tensor, labels: npt.ArrayLike | Tensor) -> float:
    """Return the error rate at which as many negatives are accepted as positives are rejected.

    The ROC curve is joined by straight lines, so the crossing of FAR = 1 - TAR lies between two thresholds as a rule.

    Args:
        scores: (N,) scores, higher for a positive.
        labels: (N,) 0 or 1.

    Raises:
        DataError: as for `roc_auc`.

    Example:
        >>> equal_error_rate([0.1, 0.2, 0.6, 0.4, 0.8, 0.9], [0, 0, 0, 1, 1, 1])
        0.3333333333333333
    """
    far, tar = _roc_curve(*_scores_and_labels(scores, labels))
    excess = far - (1 - tar)  # rises from -1 to 1 along the curve
    after = int(np.argmax(excess >= 0))
    share = excess[after] / (excess[after] - excess[after - 1])
    return float(far[after] - share * (far[after] - far[after - 1]))


def tar_at_far(scores: npt.ArrayLike | Tensor, labels: npt.ArrayLike | Tensor, far: float) -> float:
    """Return the greatest share of positives accepted while at most a share `far` of the negatives is.

    No interpolation: the rate is reached by a real threshold. With fewer than 1 / `far` negatives this is the
    rate at which no negative at all is accepted.

    Args:
        scores: (N,) scores, higher for a positive.
        labels: (N,) 0 or 1.
        far: allowed false accept rate, from 0 to 1.

    Raises:
        DataError: `far` outside 0 to 1, or as for `roc_auc`.

    Example:
        >>> tar_at_far([0.1, 0.2, 0.6, 0.4, 0.8, 0.9], [0, 0, 0, 1, 1, 1], far=0.0)
        0.6666666666666666
    """
    if not 0 <= far <= 1:
        raise DataError(f"far is {far}: a false accept rate lies between 0 and 1, such as 0.001.")
    false_accepts, true_accepts = _roc_curve(*_scores_and_labels(scores, labels))
    return float(true_accepts[false_accepts <= far].max())


def best_threshold(scores: npt.ArrayLike | Tensor, labels: npt.ArrayLike | Tensor) -> float:
    """Return the threshold with the highest accuracy of ``score >= threshold``.

    Candidates are the midpoints between neighbouring scores, the lowest score (accept all) and the next number
    above the highest (accept none). Among equally accurate ones the widest gap between scores wins, since it is the
    safest for pairs not seen; among equally wide gaps the lowest threshold.

    Args:
        scores: (N,) scores, higher for a positive.
        labels: (N,) 0 or 1.

    Raises:
        DataError: as for `roc_auc`.

    Example:
        >>> best_threshold([0.125, 0.25, 0.75, 1.0], [0, 0, 1, 1])
        0.5
    """
    values, positive = _scores_and_labels(scores, labels)
    distinct, place = np.unique(values, return_inverse=True)
    positives = np.bincount(place, weights=positive)
    negatives = np.bincount(place, weights=~positive)
    # Candidate i rejects the i lowest distinct scores: right are the negatives below and the positives above it.
    right = np.concatenate([[0.0], np.cumsum(negatives)]) + np.concatenate([np.cumsum(positives[::-1])[::-1], [0.0]])
    gaps = np.concatenate([[0.0], np.diff(distinct), [0.0]])
    best = np.lexsort((np.arange(len(right)), -gaps, -right))[0]
    return float(_threshold_candidates(distinct)[best])


def verification_accuracy_folds(
    scores: npt.ArrayLike | Tensor, labels: npt.ArrayLike | Tensor, folds: npt.ArrayLike | Tensor
) -> FloatArray:
    """Return the accuracy in each fold, at the threshold that was best on all other folds.

    Args:
        scores: (N,) scores, higher for a positive.
        labels: (N,) 0 or 1.
        folds: (N,) number of the fold of each pair.

    Returns:
        (F,) accuracies, in the order of the sorted fold numbers.

    Raises:
        DataError: fewer than two folds, one class only outside a fold, or as for `roc_auc`.

    Example:
        >>> verification_accuracy_folds([0.1, 0.9, 0.2, 0.8], [0, 1, 0, 1], folds=[0, 0, 1, 1])
        array([1., 1.])

    Reference:
        Huang, Ramesh, Berg and Learned-Miller, "Labeled Faces in the Wild", technical report 07-49, 2007 (view 2).
    """
    values, positive = _scores_and_labels(scores, labels)
    fold_of = _vector(folds, "folds")
    _check_same_length(scores=values, folds=fold_of)
    numbers = np.unique(fold_of)
    if len(numbers) < 2:
        raise DataError("all pairs are in one fold: the threshold is picked on other folds, so two or more are needed.")
    accuracies = []
    for number in numbers:
        here = fold_of == number
        threshold = best_threshold(values[~here], positive[~here])
        accuracies.append(np.mean((values[here] >= threshold) == positive[here]))
    return np.array(accuracies, dtype=np.float64)


def effective_rank(embeddings: npt.ArrayLike | Tensor) -> float:
    """Return how many dimensions the embeddings use, from 1 (all on one line) to min(N, D).

    exp(-sum p_i log p_i), where p_i = s_i / sum s_j are the normalised singular values. The embeddings are not
    centred, as in the paper. All zeros have effective rank 0.

    Args:
        embeddings: (N, D) one row an item.

    Raises:
        DataError: not two-dimensional, empty, or not finite.

    Example:
        >>> round(effective_rank(np.eye(5)), 6)
        5.0

    Reference:
        Roy and Vetterli, "The effective rank: a measure of effective dimensionality", EUSIPCO 2007.
    """
    singular = np.linalg.svd(_matrix(embeddings), compute_uv=False)
    total = singular.sum()
    if total == 0:
        return 0.0
    share = singular[singular > 0] / total
    return float(np.exp(-np.sum(share * np.log(share))))


def embedding_spread(embeddings: npt.ArrayLike | Tensor) -> float:
    """Return how far the directions are spread: 0 when all are one (collapsed), near 1 when uniform on the sphere.

    sqrt(D) times the mean over dimensions of the standard deviation of z / ||z||. A direction that is uniform on the
    sphere has variance 1 / D in each dimension, so the measure is 1 there for any D. Rows of zeros stay zero.

    Args:
        embeddings: (N, D) one row an item.

    Raises:
        DataError: not two-dimensional, empty, or not finite.

    Example:
        >>> embedding_spread(np.ones((10, 4)))
        0.0
        >>> embedding_spread(np.concatenate([np.eye(4), -np.eye(4)]))
        1.0

    Reference:
        Chen and He, "Exploring simple siamese representation learning", CVPR 2021 (section 4.1).
    """
    values = _matrix(embeddings)
    norms = np.linalg.norm(values, axis=1, keepdims=True)
    directions = values / np.where(norms > 0, norms, 1.0)
    return float(np.sqrt(values.shape[1]) * directions.std(axis=0).mean())


def _roc_curve(values: FloatArray, positive: BoolArray) -> tuple[FloatArray, FloatArray]:
    """Return false and true accept rates at each threshold, from accept none to accept all; (K + 1,) each."""
    distinct, place = np.unique(-values, return_inverse=True)
    true_accepts = np.cumsum(np.bincount(place, weights=positive, minlength=len(distinct)))
    false_accepts = np.cumsum(np.bincount(place, weights=~positive, minlength=len(distinct)))
    far = np.concatenate([[0.0], false_accepts / false_accepts[-1]])
    tar = np.concatenate([[0.0], true_accepts / true_accepts[-1]])
    return far, tar


def _threshold_candidates(distinct: FloatArray) -> FloatArray:
    """Return the thresholds that reject 0, 1, ... all of the sorted distinct scores; (K + 1,)."""
    below, above = distinct[:-1], distinct[1:]
    middle = below + (above - below) / 2
    # Between two neighbouring floats there is no number: the midpoint would round onto the lower one and accept it.
    middle = np.where(middle > below, middle, above)
    return np.concatenate([distinct[:1], middle, np.nextafter(distinct[-1:], np.inf)])


def _scores_and_labels(scores: npt.ArrayLike | Tensor, labels: npt.ArrayLike | Tensor) -> tuple[FloatArray, BoolArray]:
    """Return checked scores and which of them are positives."""
    values, marks = _vector(scores, "scores"), _vector(labels, "labels")
    _check_same_length(scores=values, labels=marks)
    found = np.unique(marks)
    if not np.isin(found, (0, 1)).all():
        raise DataError(f"labels must be 0 and 1, found {[float(mark) for mark in found[:5]]}.")
    if len(found) < 2:
        raise DataError(
            f"all {len(marks)} labels are {int(found[0])}: both classes are needed to compare positives with negatives."
        )
    return values, marks == 1


def _vector(values: npt.ArrayLike | Tensor, name: str) -> FloatArray:
    array = _finite(values, name)
    if array.ndim != 1 or array.size == 0:
        raise DataError(f"{name} must be (N,) with N of at least 1, found shape {array.shape}.")
    return array


def _matrix(values: npt.ArrayLike | Tensor) -> FloatArray:
    array = _finite(values, "embeddings")
    if array.ndim != 2 or array.size == 0:
        raise DataError(f"embeddings must be (N, D) with both of at least 1, found shape {array.shape}.")
    return array


def _finite(values: npt.ArrayLike | Tensor, name: str) -> FloatArray:
    """Return a float64 array; through torch for a tensor, since NumPy has no bfloat16."""
    array = values.detach().to("cpu", torch.float64).numpy() if isinstance(values, Tensor) else values
    checked = np.asarray(array, dtype=np.float64)
    if not np.isfinite(checked).all():
        broken = np.argwhere(~np.isfinite(checked))
        first = tuple(int(place) for place in broken[0])
        raise DataError(f"{name} holds {len(broken)} values that are NaN or infinite, the first at {first}.")
    return checked


def _check_same_length(**vectors: FloatArray) -> None:
    """Raise when the vectors differ in length; shows all lengths."""
    if len({len(vector) for vector in vectors.values()}) > 1:
        lengths = ", ".join(f"{name} {len(vector)}" for name, vector in vectors.items())
        raise DataError(f"one entry an item is needed in each, found lengths: {lengths}.")
