"""Scores on held-out labels as a curve over cuts: means, intervals, the best cut, and what is as good as the best."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from transfer.depth_fits import Cut
from transfer.statistics import corrected_resampled_interval, interval

__all__ = ["DepthPoint", "Scored", "best_cut", "join_draws", "one_standard_error", "point_of"]

Matrix = NDArray[np.float64]


@dataclasses.dataclass(frozen=True, eq=False)
class Scored:
    """How often items were classified rightly while they were held out.

    Attributes:
        table: (draws, units) share of the times that an item was right; NaN where a draw never held it out.
        splits: draw by draw the accuracy of each part that was held out.
        overlap: items held out over items learnt from, in one split.

    Example:
        >>> right = np.array([[1.0, 0.0, np.nan], [1.0, np.nan, 1.0]])
        >>> Scored(right, splits=((0.5,), (1.0,)), overlap=0.25).values.tolist()
        [0.5, 1.0]
    """

    table: Matrix
    splits: tuple[tuple[float, ...], ...]
    overlap: float

    @property
    def values(self) -> Matrix:
        """Accuracy of each draw, (draws,)."""
        return np.asarray(np.nanmean(self.table, axis=1))


@dataclasses.dataclass(frozen=True)
class DepthPoint:
    """The validation score of one cut.

    Attributes:
        mean: over draws.
        ci95: of draws and items, each resampled; of a single draw that is cross-validated, the corrected resampled
            interval of its splits, whose training parts overlap.
        values: by draw; of a single draw that is cross-validated, by split.
        standard_error: of the mean.
        head: the head that the cut was given most often.

    Example:
        >>> DepthPoint(mean=0.9, ci95=(0.8, 1.0), values=(0.85, 0.95), standard_error=0.05, head="ridge").mean
        0.9
    """

    mean: float
    ci95: tuple[float, float] | None
    values: tuple[float, ...]
    standard_error: float
    head: str


def join_draws(by_draw: Sequence[Scored]) -> Scored:
    """Return the scores whose draw d is the d-th of the d-th given: each draw with the head that it chose.

    Example:
        >>> prototype = Scored(np.array([[0.5, 0.5], [0.6, 0.6]]), ((0.5,), (0.6,)), overlap=0.25)
        >>> ridge = Scored(np.array([[0.9, 0.9], [0.1, 0.1]]), ((0.9,), (0.1,)), overlap=0.25)
        >>> join_draws([ridge, prototype]).values.tolist()
        [0.9, 0.6]
    """
    return Scored(
        table=np.stack([scored.table[draw] for draw, scored in enumerate(by_draw)]),
        splits=tuple(scored.splits[draw] for draw, scored in enumerate(by_draw)),
        overlap=by_draw[0].overlap,
    )


def point_of(scored: Scored, head: str, *, seed: int) -> DepthPoint:
    """Return mean and interval of a cut.

    Args:
        scored: of each draw with the head that it chose.
        head: its commonest.
        seed: of the bootstrap.

    Example:
        >>> right = np.array([[1.0, 1.0, 0.0, 1.0], [1.0, 0.0, 1.0, 1.0]])
        >>> point = point_of(Scored(right, ((0.75,), (0.75,)), overlap=0.25), "ridge", seed=0)
        >>> point.mean, point.values, point.head
        (0.75, (0.75, 0.75), 'ridge')
    """
    splits = scored.splits[0]
    mean = float(np.mean(scored.values))
    if len(scored.values) == 1 and len(splits) > 1:
        # Items say nothing of how much the labels matter that a head is fitted on, splits do.
        low, high = corrected_resampled_interval(splits, n_train=_PARTS, n_test=_whole_parts(scored.overlap))
        error = float(np.sqrt((1 / len(splits) + scored.overlap) * np.var(splits, ddof=1)))
        return DepthPoint(mean, (max(low, 0.0), min(high, 1.0)), splits, error, head)
    found = interval(scored.table, seed=seed, limits=(0.0, 1.0))
    return DepthPoint(found.mean, found.ci95, found.values, _standard_error(scored), head)


_PARTS = 1_000_000  # the interval takes two numbers of items, of which it only needs the ratio


def _whole_parts(overlap: float) -> int:
    return max(1, round(overlap * _PARTS))


def _standard_error(scored: Scored) -> float:
    """Return the standard error of a mean over draws or, of a single draw, over its items."""
    values = scored.values if len(scored.values) > 1 else scored.table[0][~np.isnan(scored.table[0])]
    return float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 0.0


def best_cut(scores: Mapping[Cut, float]) -> Cut:
    """Return the cut with the highest score; among equals the first, so cuts come with the cheapest first.

    Example:
        >>> best_cut({Cut("stem", "frozen"): 0.5, Cut("top", "frozen"): 0.75, Cut("top", "finetuned"): 0.75})
        Cut(layer='top', mode='frozen')
    """
    return max(scores, key=scores.__getitem__)


def one_standard_error(points: Mapping[Cut, DepthPoint]) -> str:
    """Say which cuts are within one standard error of the best, and which of them is the cheapest: the first.

    The rule would take that one; it is told, not followed. A lower cut costs less to compute, and frozen less to keep.

    Example:
        >>> def point(mean): return DepthPoint(mean, None, (mean,), 0.02, "ridge")
        >>> one_standard_error({Cut("stem", "frozen"): point(0.5), Cut("top", "frozen"): point(0.9)})
        'No other cut is within one standard error (2.0 points) of the best (top, frozen).'
        >>> one_standard_error({Cut("stem", "frozen"): point(0.89), Cut("top", "frozen"): point(0.9)})
        'Within one standard error (2.0 points) of the best (top, frozen): stem, frozen. The cheapest is stem, frozen.'

    Reference:
        Breiman, Friedman, Olshen and Stone, "Classification and regression trees", 1984, section 3.4.3.
    """
    best = best_cut({cut: point.mean for cut, point in points.items()})
    error = points[best].standard_error
    near = [cut for cut, point in points.items() if point.mean >= points[best].mean - error]
    within = f"within one standard error ({100 * error:.1f} points) of the best ({best})"
    if len(near) == 1:
        return f"No other cut is {within}."
    others = "; ".join(str(cut) for cut in near if cut != best)
    return f"{within[0].upper()}{within[1:]}: {others}. The cheapest is {near[0]}."
