"""How good the rankings of queries are: one number a query, then the mean over queries.

A query has n items with a score and a grade each; a higher grade is better, and a good model scores it higher. Items
with equal scores are tied: a metric counts the mean over all orders of the tied items, so it never depends on the order
in which the items were given. (Average precision is scikit-learn's: tied items are taken in together.)

A query in which nothing is relevant has no NDCG, MAP or MRR: they are NaN, left out of the mean, and the queries are
counted. Others disagree, so numbers differ where such queries are many: LightGBM counts their NDCG as 1, scikit-learn
as 0. Here, a query with NDCG 0.63 and an empty one:

    >>> from sklearn.metrics import ndcg_score
    >>> scores, grades = [3.0, 2.0, 1.0, 2.0, 1.0, 0.0], [0, 1, 0, 0, 0, 0]
    >>> found = summarise(per_query(scores, grades, [0, 3, 6]))
    >>> round(found["ndcg"], 3), found["queries"], found["queries_without_relevant"]  # ours
    (0.631, 2.0, 1.0)
    >>> round((found["ndcg"] + 1) / 2, 3)  # LightGBM's
    0.815
    >>> round(float(ndcg_score(np.reshape(grades, (2, 3)), np.reshape(scores, (2, 3)))), 3)  # scikit-learn's
    0.315

How sure a mean over queries is, `transfer.statistics` says: a table (seeds, queries) with NaN is what it takes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from auxtasks.ranking_inputs import Gains, check_tops, checked_offsets, finite_values, gain_of, one_query

__all__ = [
    "average_precision",
    "kendall_tau",
    "ndcg",
    "pair_accuracy",
    "per_query",
    "reciprocal_rank",
    "summarise",
]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

# Comparisons in one block, 4 MB of booleans: a query of 2000 items is one block.
_BLOCK_CELLS = 4_000_000


class _TiedGroups(NamedTuple):
    """Items of one query by their scores, those with equal scores in one of G groups, best group first."""

    of: IntArray  # (n,) group of each item
    sizes: IntArray  # (G,) how many items each group has
    ends: IntArray  # (G,) rank of the last item of each group

    def sums(self, values: npt.NDArray[np.generic]) -> FloatArray:
        """Add up values (n,) group by group; (G,)."""
        return np.asarray(np.bincount(self.of, weights=values), dtype=np.float64)


class _PairCounts(NamedTuple):
    """How many pairs have different grades, and in how many of them the better item leads, or is tied."""

    pairs: int
    right: int
    tied: int


def ndcg(
    scores: npt.ArrayLike, grades: npt.ArrayLike, *, top: int | None = None, gains: Gains = "exponential"
) -> float:
    """Return the normalised discounted cumulative gain of one query: DCG over that of the best order.

    DCG is the sum of gain / log2(1 + rank) over the ranks up to `top`. Tied items have the mean of their gains each,
    which is the mean over all orders of them; equal to scikit-learn's `ndcg_score` on the gains.

    Args:
        scores: (n,).
        grades: (n,) at least 0.
        top: ranks beyond it count nothing; None counts all.
        gains: 2^grade - 1 if ``exponential``, the grade itself if ``linear``.

    Returns:
        From 0 to 1; NaN where no item has a gain.

    Raises:
        DataError: different lengths, no items, values that are not finite, negative grades, or a setting out of range.

    Example:
        >>> ndcg([3.0, 2.0, 1.0], [2, 1, 0]), round(ndcg([1.0, 2.0, 3.0], [2, 1, 0], top=1), 3)
        (1.0, 0.0)
        >>> ndcg([1.0, 2.0], [0, 0])
        nan

    Reference:
        Järvelin and Kekäläinen, "Cumulated gain-based evaluation of IR techniques", ACM TOIS 2002. McSherry and
        Najork, "Computing information retrieval performance measures efficiently in the presence of tied scores",
        ECIR 2008.
    """
    values, levels = one_query(scores, grades)
    check_tops(() if top is None else (top,))
    return _ndcg(_tied_groups(values), gain_of(levels, gains, np.array([0, len(levels)])), top)


def average_precision(scores: npt.ArrayLike, grades: npt.ArrayLike, relevant_from: float = 1.0) -> float:
    """Return the mean of the precision at each relevant item of one query; NaN where none is relevant.

    Items with equal scores are taken in together, as scikit-learn's `average_precision_score` does; the mean over
    their orders would be another number.

    Args:
        scores, grades: (n,).
        relevant_from: lowest grade that counts as relevant.

    Raises:
        DataError: as for `ndcg`, but for negative grades, which are taken.

    Example:
        >>> average_precision([4.0, 3.0, 2.0, 1.0], [1, 0, 2, 0])  # (1/1 + 2/3) / 2
        0.8333333333333333
    """
    values, levels = one_query(scores, grades)
    return _average_precision(_tied_groups(values), levels >= relevant_from)


def reciprocal_rank(scores: npt.ArrayLike, grades: npt.ArrayLike, relevant_from: float = 1.0) -> float:
    """Return 1 / rank of the first relevant item of one query; NaN where none is relevant.

    With ties it is the expectation over all orders of the tied items, exactly: of t items of which r are relevant, the
    first relevant one is the k-th with probability C(t - k, r - 1) / C(t, r).

    Args:
        scores, grades: (n,).
        relevant_from: lowest grade that counts as relevant.

    Raises:
        DataError: as for `ndcg`, but for negative grades, which are taken.

    Example:
        >>> reciprocal_rank([3.0, 2.0, 1.0], [0, 1, 1]), reciprocal_rank([2.0, 2.0, 1.0], [0, 1, 1])
        (0.5, 0.75)
    """
    values, levels = one_query(scores, grades)
    return _reciprocal_rank(_tied_groups(values), levels >= relevant_from)


def kendall_tau(scores: npt.ArrayLike, grades: npt.ArrayLike) -> float:
    """Return the rank correlation tau-b of scores and grades of one query, as SciPy's `kendalltau`.

    (right - wrong pairs) / sqrt(pairs with different scores * pairs with different grades); from -1 to 1. NaN where
    all scores or all grades are equal.

    Raises:
        DataError: as for `ndcg`, but for negative grades, which are taken.

    Example:
        >>> kendall_tau([1.0, 2.0, 3.0], [0, 1, 2]), kendall_tau([3.0, 2.0, 1.0], [0, 1, 2])
        (1.0, -1.0)

    Reference:
        Kendall, "The treatment of ties in ranking problems", Biometrika 1945.
    """
    values, levels = one_query(scores, grades)
    return _kendall_tau(_tied_groups(values), _pair_counts(values, levels))


def pair_accuracy(scores: npt.ArrayLike, grades: npt.ArrayLike) -> float:
    """Return the share of pairs with different grades of one query that are in their right order, ties one half.

    For two grades it is the area under the ROC curve. NaN where all grades are equal.

    Raises:
        DataError: as for `ndcg`, but for negative grades, which are taken.

    Example:
        >>> pair_accuracy([3.0, 2.0, 2.0], [2, 1, 0])  # two right, one tied
        0.8333333333333334
    """
    return _pair_accuracy(_pair_counts(*one_query(scores, grades)))


def per_query(
    scores: npt.ArrayLike,
    grades: npt.ArrayLike,
    offsets: npt.ArrayLike,
    *,
    tops: Sequence[int] = (10,),
    gains: Gains = "exponential",
    relevant_from: float = 1.0,
) -> dict[str, FloatArray]:
    """Return every metric of every query.

    Args:
        scores: (M,) of all queries, query by query.
        grades: (M,) at least 0.
        offsets: (Q + 1,) integers; query q holds the places ``offsets[q]`` to ``offsets[q + 1] - 1``.
        tops: the k of every NDCG@k.
        gains: of NDCG, see `ndcg`.
        relevant_from: lowest grade that counts as relevant for ``map`` and ``mrr``.

    Returns:
        (Q,) for each of ``ndcg@k``, ``ndcg``, ``map``, ``mrr``, ``kendall_tau`` and ``pair_accuracy``, NaN where the
        query says nothing about it; and ``pairs``, how many pairs of a query have different grades.

    Raises:
        DataError: lengths that do not fit, offsets that do not rise from 0 to M, values that are not finite or grades
            without a gain (with place and query), or a setting out of range.

    Example:
        >>> found = per_query([2.0, 1.0, 1.0, 2.0], [1, 0, 1, 0], [0, 2, 4], tops=(1,))
        >>> found["ndcg@1"].tolist(), found["mrr"].tolist(), found["pair_accuracy"].tolist()
        ([1.0, 0.0], [1.0, 0.5], [1.0, 0.0])
    """
    bounds = checked_offsets(offsets)
    values, levels = finite_values(scores, "scores", bounds), finite_values(grades, "grades", bounds)
    check_tops(tops)
    gain = gain_of(levels, gains, bounds)
    rows = []
    for start, end in itertools.pairwise(bounds):
        here = slice(start, end)
        groups, relevant = _tied_groups(values[here]), levels[here] >= relevant_from
        counts = _pair_counts(values[here], levels[here])
        row = {f"ndcg@{top}": _ndcg(groups, gain[here], top) for top in tops}
        row |= {"ndcg": _ndcg(groups, gain[here], None)}
        row |= {"map": _average_precision(groups, relevant), "mrr": _reciprocal_rank(groups, relevant)}
        row |= {"kendall_tau": _kendall_tau(groups, counts), "pair_accuracy": _pair_accuracy(counts)}
        rows.append(row | {"pairs": counts.pairs})
    return {name: np.array([row[name] for row in rows], dtype=np.float64) for name in rows[0]}


def summarise(per_query: Mapping[str, FloatArray]) -> dict[str, float]:
    """Return the mean of each metric over the queries that say something about it, and how many do not.

    Args:
        per_query: what the function of that name returns.

    Returns:
        The mean of each metric, NaN where no query says anything; ``pair_accuracy_pooled``, in which each pair weighs
        the same and not each query; and the counts ``queries``, ``queries_without_relevant`` (no item of a grade from
        `relevant_from` on) and ``queries_without_pairs`` (all grades equal). Kendall's tau also leaves out queries
        with one score for all items, where pair accuracy is 0.5: a model that ties everything has no tau.

    Example:
        >>> found = summarise(per_query([2.0, 1.0, 1.0, 2.0, 3.0], [1, 0, 1, 0, 0], [0, 2, 5]))
        >>> found["pair_accuracy"], round(found["pair_accuracy_pooled"], 4), found["queries_without_pairs"]
        (0.5, 0.3333, 0.0)
    """
    means = {name: _mean_of_known(values) for name, values in per_query.items() if name != "pairs"}
    pairs, accuracy = per_query["pairs"], per_query["pair_accuracy"]
    right = np.where(pairs > 0, accuracy, 0.0) * pairs
    return {
        **means,
        "pair_accuracy_pooled": float(right.sum() / pairs.sum()) if pairs.any() else math.nan,
        "queries": float(len(pairs)),
        "queries_without_relevant": float(np.isnan(per_query["map"]).sum()),
        "queries_without_pairs": float((pairs == 0).sum()),
    }


def _tied_groups(scores: FloatArray) -> _TiedGroups:
    _, of, sizes = np.unique(-scores, return_inverse=True, return_counts=True)
    return _TiedGroups(of, sizes, np.cumsum(sizes))


def _ndcg(groups: _TiedGroups, gain: FloatArray, top: int | None) -> float:
    discount = 1 / np.log2(np.arange(2, len(gain) + 2))
    if top is not None:
        discount[top:] = 0.0
    ideal = np.sort(gain)[::-1] @ discount
    if ideal == 0:
        return math.nan
    up_to = np.concatenate([[0.0], np.cumsum(discount)])
    of_group = up_to[groups.ends] - up_to[groups.ends - groups.sizes]
    return float((groups.sums(gain) / groups.sizes) @ of_group / ideal)


def _average_precision(groups: _TiedGroups, relevant: npt.NDArray[np.bool_]) -> float:
    if not relevant.any():
        return math.nan
    found = groups.sums(relevant)
    return float(found @ (np.cumsum(found) / groups.ends) / found.sum())


def _reciprocal_rank(groups: _TiedGroups, relevant: npt.NDArray[np.bool_]) -> float:
    if not relevant.any():
        return math.nan
    found = groups.sums(relevant)
    first = int(np.argmax(found > 0))
    size, hits = int(groups.sizes[first]), int(found[first])
    ahead = int(groups.ends[first]) - size
    # P(k) / P(k - 1) = C(t - k, r - 1) / C(t - k + 1, r - 1): no binomial has to be computed, which would overflow.
    k = np.arange(1, size - hits + 2)
    ratios = np.append(hits / size, (size - hits - k[:-1] + 1) / (size - k[:-1]))
    return float(np.cumprod(ratios) @ (1 / (ahead + k)))


def _pair_counts(scores: FloatArray, grades: FloatArray) -> _PairCounts:
    """Compare all items with all, block by block: n^2 time, but memory for one block only."""
    pairs = right = tied = 0
    rows = max(1, _BLOCK_CELLS // len(scores))
    for start in range(0, len(scores), rows):
        block = slice(start, start + rows)
        better = grades[block, None] > grades
        pairs += int(np.count_nonzero(better))
        right += int(np.count_nonzero(better & (scores[block, None] > scores)))
        tied += int(np.count_nonzero(better & (scores[block, None] == scores)))
    return _PairCounts(pairs, right, tied)


def _kendall_tau(groups: _TiedGroups, counts: _PairCounts) -> float:
    items = len(groups.of)
    of_different_scores = items * (items - 1) // 2 - int((groups.sizes * (groups.sizes - 1) // 2).sum())
    if of_different_scores == 0 or counts.pairs == 0:
        return math.nan
    wrong = counts.pairs - counts.right - counts.tied
    # Two divisions, then a cut, as in SciPy: one by the root of the product may round to another last bit.
    tau = (counts.right - wrong) / math.sqrt(of_different_scores) / math.sqrt(counts.pairs)
    return min(1.0, max(-1.0, tau))


def _pair_accuracy(counts: _PairCounts) -> float:
    return (counts.right + counts.tied / 2) / counts.pairs if counts.pairs else math.nan


def _mean_of_known(values: FloatArray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else math.nan
