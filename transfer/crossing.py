"""From how many labels on does one way of training beat another, and how often does one fail, by the draws' scores.

Both are read from what a report keeps: one score a label draw, for each arm and number of labels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special

from auxtasks.errors import TransferError
from auxtasks.seeding import generator

__all__ = ["Crossing", "chance_level", "crossing_point", "failed_share"]

FloatArray = npt.NDArray[np.float64]
Values = Mapping[int, Sequence[float]]  # shots to one score a draw

# What guessing gets, whatever the number of classes; of an accuracy it is one over that.
_CHANCE = {"matthews": 0.0, "auc": 0.5, "roc_auc": 0.5}
_ACCURACIES = ("accuracy", "balanced_accuracy")


def chance_level(metric: str, classes: int | None) -> float | None:
    """Return what guessing gets, or None where that is not known.

    Example:
        >>> chance_level("accuracy", 4), chance_level("matthews", 2), chance_level("accuracy", None)
        (0.25, 0.0, None)
    """
    if metric in _ACCURACIES:
        return 1 / classes if classes else None
    return _CHANCE.get(metric)


def failed_share(values: Sequence[float], chance: float, *, higher_is_better: bool = True) -> float:
    """Return the share of runs that are not better than chance.

    Args:
        values: one score a run, which is a label draw.
        chance: what guessing gets; a run that gets just that has failed.
        higher_is_better: whether a higher score is a better one.

    Raises:
        TransferError: no runs.

    Example:
        >>> failed_share([0.5, 0.9, 0.4, 0.8], 0.5)
        0.5

    Reference:
        Mosbach, Andriushchenko and Klakow, "On the stability of fine-tuning BERT: misconceptions, explanations, and
        strong baselines", ICLR 2021. They compare with a classifier that names the commonest class; here with a guess,
        which is the same where classes are tested in equal numbers.
    """
    if not len(values):
        raise TransferError("no run was scored: the share of those that failed is not known.")
    # Shares of test items are sums of fractions: one at chance may come out a digit above it.
    scores = np.asarray(values, dtype=np.float64)
    above = scores > chance + 1e-9 if higher_is_better else scores < chance - 1e-9
    return float(np.mean(~above))


@dataclass(frozen=True)
class Crossing:
    """Where one arm overtakes another.

    Attributes:
        low: the arm that is better with few labels, if they cross.
        high: the arm that is better with many.
        at: labels a class from which on `high` stays better; 0 where it is better at every number that was measured,
            infinite where it is not better at the largest.
        ci95: its 95 % interval over label draws; the ends may be 0 or infinite. None for a single draw.
        shots: the numbers of labels that were measured.

    Example:
        >>> found = Crossing(low="frozen", high="finetuned", at=12.0, ci95=(8.0, 20.0), shots=(1, 5, 20))
        >>> found.is_known
        True
    """

    low: str
    high: str
    at: float
    ci95: tuple[float, float] | None
    shots: tuple[int, ...]

    @property
    def is_known(self) -> bool:
        """Whether the draws rule out anything: the interval is not all that there is."""
        return self.ci95 is not None and self.ci95 != (0.0, math.inf)


def crossing_point(
    low: Values,
    high: Values,
    *,
    names: tuple[str, str] = ("frozen", "finetuned"),
    higher_is_better: bool = True,
    resamples: int = 2000,
    seed: int = 0,
) -> Crossing:
    """Find the number of labels from which on the second arm stays better, and how sure that is.

    The mean difference (second minus first) is joined by straight lines over the logarithm of the labels; the crossing
    is the last zero after which it stays positive. Draws are resampled whole: the labels of one draw are nested, so its
    scores at different shots belong together. As in `transfer.statistics`, resampled means are moved away from the mean
    to make up for few draws. Test items are not resampled: the interval says what other labels would do, on this test.

    Args:
        low: shots to one score a draw, of the arm that is expected to be better with few labels.
        high: the same draws and shots, of the other arm.
        names: of both.
        higher_is_better: whether a higher score is a better one.
        resamples: of the bootstrap.
        seed: of the bootstrap.

    Raises:
        TransferError: fewer than two shared numbers of shots, or draws that do not pair.

    Example:
        >>> frozen = {1: [0.5, 0.6], 10: [0.6, 0.7]}
        >>> finetuned = {1: [0.4, 0.5], 10: [0.7, 0.8]}
        >>> found = crossing_point(frozen, finetuned)
        >>> round(found.at, 2), found.is_known
        (3.16, True)

    Reference:
        Efron and Tibshirani, "An introduction to the bootstrap", 1993.
    """
    shots = tuple(sorted(low.keys() & high.keys()))
    if len(shots) < 2:
        raise TransferError(
            f"{names[0]} and {names[1]} share {len(shots)} numbers of labels: a crossing needs at least 2."
        )
    differences = _differences(low, high, shots, names) * (1 if higher_is_better else -1)
    draws = len(differences)
    mean = differences.mean(axis=0)
    at = float(_crossings(mean[None], shots)[0])
    if draws < 2:
        return Crossing(*names, at, None, shots)
    rng = generator(seed, "crossing point")
    counts = rng.multinomial(draws, np.full(draws, 1 / draws), size=resamples)
    stretch = math.sqrt(draws / (draws - 1)) * float(special.stdtrit(draws - 1, 0.975) / special.ndtri(0.975))
    means = mean + stretch * (counts @ differences / draws - mean)
    # Ends that were found, not between two: there is no middle between a number and infinity.
    found = np.sort(_crossings(means, shots))
    ends = found[math.floor(0.025 * (resamples - 1))], found[math.ceil(0.975 * (resamples - 1))]
    return Crossing(*names, at, (float(ends[0]), float(ends[1])), shots)


def _differences(low: Values, high: Values, shots: Sequence[int], names: tuple[str, str]) -> FloatArray:
    """Return (draws, shots) differences."""
    sizes = {len(arm[shot]) for arm in (low, high) for shot in shots}
    if len(sizes) > 1 or sizes == {0}:
        found = "; ".join(f"{len(low[shot])} and {len(high[shot])} at {shot}" for shot in shots)
        raise TransferError(f"{names[0]} and {names[1]} need the same draws at every number of labels, found {found}.")
    return np.array([[b - a for a, b in zip(low[shot], high[shot], strict=True)] for shot in shots], dtype=float).T


def _crossings(differences: FloatArray, shots: Sequence[int]) -> FloatArray:
    """Return, for each row (R, shots) of differences, from where on they stay above zero: 0, a number, or infinity."""
    places = np.log(np.asarray(shots, dtype=np.float64))
    # The last number of labels at which the second arm is not better, -1 for none.
    last = np.where(differences <= 0, np.arange(len(shots)), -1).max(axis=1)
    found = np.where(last < 0, 0.0, np.inf)
    inside = np.flatnonzero((last >= 0) & (last < len(shots) - 1))
    before, after = differences[inside, last[inside]], differences[inside, last[inside] + 1]
    share = -before / (after - before)
    start, end = places[last[inside]], places[last[inside] + 1]
    found[inside] = np.exp(start + share * (end - start))
    return found
