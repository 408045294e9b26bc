"""Losses of max-margin ranking: pure functions of score differences, and the pairs and weights that go with them.

Legend for shapes: n items of one query, M places of all queries of a batch, P pairs of places, Q queries.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from auxtasks.errors import DataError, did_you_mean
from auxtasks.ranking_inputs import LARGEST_EXPONENT, Gains

__all__ = ["PairLoss", "ndcg_weights", "ordered_pairs", "pair_loss"]

PairLoss = Literal["hinge", "squared_hinge", "logistic"]


def pair_loss(difference: Tensor, margin: Tensor | float, kind: PairLoss) -> Tensor:
    """Return what each pair costs whose better item should lead the worse one by a margin.

    With x = margin - difference: max(0, x) for ``hinge``, max(0, x)^2 for ``squared_hinge``, log(1 + exp(x)) for
    ``logistic``. The first two cost nothing beyond the margin; the last is their smooth relative, which never quite
    reaches zero, and with margin 0 it is RankNet's loss.

    Args:
        difference: (P,) score of the better item minus score of the worse.
        margin: (P,) or one number for all pairs.
        kind: see above.

    Returns:
        (P,), not reduced: the caller weighs and sums.

    Raises:
        DataError: an unknown kind, or margins that are not one a pair.

    Example:
        >>> pair_loss(torch.tensor([2.0, 0.5, -1.0]), 1.0, "hinge").tolist()
        [0.0, 0.5, 2.0]
        >>> pair_loss(torch.tensor([0.5, -1.0]), torch.tensor([0.5, 2.0]), "squared_hinge").tolist()
        [0.0, 9.0]

    Reference:
        Herbrich, Graepel and Obermayer, "Large margin rank boundaries for ordinal regression", 2000. Joachims,
        "Optimizing search engines using clickthrough data", KDD 2002 (RankSVM). Burges et al., "Learning to rank
        using gradient descent", ICML 2005 (RankNet).
    """
    if isinstance(margin, Tensor) and margin.ndim and margin.shape != difference.shape:
        # (P, 1) against (P,) would broadcast to all P^2 combinations without a word.
        raise DataError(
            f"margins must be one a pair, found shape {tuple(margin.shape)} for differences of shape "
            f"{tuple(difference.shape)}."
        )
    short = margin - difference
    if kind == "hinge":
        return F.relu(short)
    if kind == "squared_hinge":
        return F.relu(short).square()
    if kind == "logistic":
        return F.softplus(short)
    raise DataError(_not_one_of("the pair loss", kind, get_args(PairLoss)))


def ordered_pairs(grades: NDArray[np.floating] | NDArray[np.integer]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return all pairs of places of one query of which the first has the higher grade.

    By sorting, in memory for the pairs that there are: a query of 100 000 items with one good one has 99 999 pairs,
    where a comparison of all with all would take 10 GB.

    Args:
        grades: (n,) finite.

    Returns:
        The better and the worse place of each pair, (P,) each, sorted by the better place, then by the grade of the
        worse. Empty where all grades are equal.

    Raises:
        DataError: not one-dimensional, or not finite.

    Example:
        >>> better, worse = ordered_pairs(np.array([1.0, 0.0, 2.0]))
        >>> list(zip(better.tolist(), worse.tolist()))
        [(0, 1), (2, 1), (2, 0)]
    """
    if grades.ndim != 1 or not np.isfinite(grades).all():
        raise DataError(f"grades must be (n,) finite numbers of one query, found {grades!r}.")
    order = np.argsort(grades, kind="stable")
    below = np.searchsorted(grades[order], grades, side="left")  # how many are worse than each
    better = np.repeat(np.arange(len(grades)), below)
    nth_worse = np.arange(len(better)) - np.repeat(np.cumsum(below) - below, below)
    return better.astype(np.int64), order[nth_worse].astype(np.int64)


@torch.no_grad()
def ndcg_weights(
    scores: Tensor,
    grades: Tensor,
    query: Tensor,
    better: Tensor,
    worse: Tensor,
    *,
    top: int | None = None,
    gains: Gains = "exponential",
) -> Tensor:
    """Return by how much the NDCG of a pair's query changes when the two items swap their present ranks.

    |gain(better) - gain(worse)| * |discount(better) - discount(worse)| / ideal DCG, with discount 1 / log2(1 + rank).
    As weights of `pair_loss`, they turn its gradient into that of LambdaRank: mistakes at the top count most. Ranks
    go by descending score; of equal scores the earlier place comes first. No gradient flows.

    Two stable sorts and one sum over segments serve all queries of the batch; nothing is added up in an order that
    depends on timing, so a device gives the same bits each time.

    Args:
        scores: (M,).
        grades: (M,) at least 0.
        query: (M,) int64, rising: the places of a query are contiguous.
        better, worse: (P,) places, both of one query.
        top: ranks beyond it count nothing (NDCG@top); None counts all.
        gains: 2^grade - 1 if ``exponential``, the grade itself if ``linear``.

    Returns:
        (P,) in float32 (float64 for float64 scores), from 0 to 1; 0 for queries in which no item has a gain.

    Raises:
        DataError: places that do not fit, queries that are not contiguous, a pair across two queries, grades without
            a gain, or a setting out of range.

    Example:
        >>> scores, grades = torch.tensor([3.0, 2.0, 1.0]), torch.tensor([0.0, 0.0, 1.0])
        >>> one_query, better, worse = torch.zeros(3, dtype=torch.long), torch.tensor([2, 2]), torch.tensor([0, 1])
        >>> ndcg_weights(scores, grades, one_query, better, worse)  # 1 - 1/2 and 1/log2(3) - 1/2
        tensor([0.5000, 0.1309])

    Reference:
        Burges, Ragno and Le, "Learning to rank with nonsmooth cost functions", NIPS 2006 (LambdaRank).
    """
    _check_places(scores, grades, query, better, worse)
    if top is not None and top < 1:
        raise DataError(f"top counts the ranks that matter, at least 1, or None for all; found {top}.")
    dtype = torch.promote_types(scores.dtype, torch.float32)
    if len(better) == 0:
        return torch.zeros(0, dtype=dtype, device=scores.device)
    gain = _gain(grades.to(dtype), gains)
    lengths = torch.bincount(query)
    # Queries are contiguous, so in any order that is sorted by query first, place p of the M has the rank p - start.
    rank = torch.arange(1, len(query) + 1, device=query.device) - (lengths.cumsum(0) - lengths)[query]
    discount_at = 1 / torch.log2(1 + rank.to(dtype))
    if top is not None:
        discount_at = discount_at.masked_fill(rank > top, 0.0)
    discount = torch.empty_like(discount_at)
    discount[_descending_in_query(scores, query)] = discount_at
    best_first = gain[_descending_in_query(gain, query)] * discount_at
    # index_add_ would do, but on a GPU it adds in an order that changes from run to run.
    ideal = torch.segment_reduce(best_first, "sum", lengths=lengths, initial=0)[query[better]]
    change = (gain[better] - gain[worse]).abs() * (discount[better] - discount[worse]).abs()
    return torch.where(ideal > 0, change / ideal, torch.zeros_like(change))


def _descending_in_query(values: Tensor, query: Tensor) -> Tensor:
    """Return the places (M,) sorted by query, then by descending value, then by place."""
    by_value = torch.argsort(values, descending=True, stable=True)
    return by_value[torch.argsort(query[by_value], stable=True)]


def _gain(grades: Tensor, gains: Gains) -> Tensor:
    if gains not in get_args(Gains):
        raise DataError(_not_one_of("gains", gains, get_args(Gains)))
    lowest, highest = torch.stack(grades.aminmax()).tolist()
    largest = LARGEST_EXPONENT if gains == "exponential" else float("inf")
    if not (lowest >= 0 and highest <= largest):  # so that NaN is refused too
        raise DataError(
            f"grades with {gains} gains must be from 0 to {largest}, found {lowest} to {highest}. Shift them, or take "
            f"linear gains if they are large."
        )
    return torch.exp2(grades) - 1 if gains == "exponential" else grades


def _check_places(scores: Tensor, grades: Tensor, query: Tensor, better: Tensor, worse: Tensor) -> None:
    places, pairs = {scores.shape, grades.shape, query.shape}, {better.shape, worse.shape}
    if len(places) > 1 or scores.ndim != 1 or len(pairs) > 1 or better.ndim != 1:
        raise DataError(
            f"scores, grades and query must be (M,), better and worse (P,), found shapes {tuple(scores.shape)}, "
            f"{tuple(grades.shape)}, {tuple(query.shape)}, {tuple(better.shape)} and {tuple(worse.shape)}."
        )
    if (query.diff() < 0).any():
        raise DataError("the places of one query must be contiguous and queries in rising order: sort by query.")
    if (query[better] != query[worse]).any():
        first = int((query[better] != query[worse]).int().argmax())
        raise DataError(
            f"pair {first} joins places {int(better[first])} and {int(worse[first])} of the queries "
            f"{int(query[better[first]])} and {int(query[worse[first]])}: a pair is of one query."
        )


def _not_one_of(what: str, found: str, allowed: tuple[str, ...]) -> str:
    return f'{what} must be one of {", ".join(allowed)}, found "{found}".{did_you_mean(found, allowed)}'
