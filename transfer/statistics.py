"""How sure a few-shot result is: intervals over label draws and test units, and paired differences.

A few-shot experiment fills a table: one row a draw of the labels, one column a unit of the test set (a class, or a
test item), one more axis in front when several pretraining seeds were run. Both the draws and the units are samples,
so both are resampled; resampling only one of them gives intervals that are too short.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special

from auxtasks.errors import TransferError
from auxtasks.seeding import generator

__all__ = [
    "Estimate",
    "corrected_resampled_interval",
    "interval",
    "paired_difference",
    "pigeonhole_bootstrap",
]

FloatArray = npt.NDArray[np.float64]

# Cells of the largest temporary array, 32 MB: resamples are drawn in blocks of this size.
_BLOCK_CELLS = 4_000_000


@dataclass(frozen=True)
class Estimate:
    """A mean, its 95 % interval, and the value of each draw.

    Attributes:
        mean: mean over all cells that are not NaN.
        ci95: low and high end, in the unit of the mean; None for a single cell, which says nothing about spread.
        values: mean over the units, one a draw (seed by seed when there are several).

    Example:
        >>> found: Estimate = interval([[0.5, 0.75], [0.75, 1.0]])
        >>> found.mean, found.values
        (0.75, (0.625, 0.875))
    """

    mean: float
    ci95: tuple[float, float] | None
    values: tuple[float, ...]


def interval(
    matrix: npt.ArrayLike,
    *,
    resamples: int = 2000,
    seed: int = 0,
    confidence: float = 0.95,
    limits: tuple[float, float] = (-np.inf, np.inf),
) -> Estimate:
    """Return mean, interval and per-draw values of one arm.

    Args:
        matrix: (draws, units) or (seeds, draws, units) scores; NaN marks a cell that was not measured.
        resamples: of the bootstrap.
        seed: of the bootstrap.
        confidence: coverage wanted, between 0 and 1.
        limits: the lowest and highest value that a mean can have, (0, 1) for an accuracy; the interval ends there.

    Raises:
        TransferError: as for `pigeonhole_bootstrap`, and a draw without any measured cell.

    Example:
        >>> estimate = interval([[0.5, 0.75], [0.75, 1.0]])
        >>> (estimate.mean, estimate.values)
        (0.75, (0.625, 0.875))
    """
    table = _checked(matrix)
    draws = table.reshape(-1, table.shape[-1])
    if np.isnan(draws).all(axis=1).any():
        empty = int(np.argmax(np.isnan(draws).all(axis=1)))
        raise TransferError(f"draw {empty} has no measured unit: every cell of its row is NaN.")
    ci95 = None
    if table.size > 1:
        low, high = pigeonhole_bootstrap(table, resamples=resamples, seed=seed, confidence=confidence)
        ci95 = (max(low, limits[0]), min(high, limits[1]))
    return Estimate(float(np.nanmean(table)), ci95, tuple(float(value) for value in np.nanmean(draws, axis=1)))


def paired_difference(
    a: npt.ArrayLike, b: npt.ArrayLike, *, resamples: int = 2000, seed: int = 0, confidence: float = 0.95
) -> Estimate:
    """Return a - b over the cells that both arms measured, with its interval and per-draw values.

    Both arms saw the same label draws and are scored on the same units, so what makes a draw or a unit hard cancels;
    the interval of the difference is far shorter than the two arms' own intervals suggest.

    Args:
        a: (draws, units) scores of one arm, or (seeds, draws, units).
        b: the other arm's, of the same shape, cell by cell the same draws and units.
        resamples: of the bootstrap.
        seed: of the bootstrap.
        confidence: coverage wanted, between 0 and 1.

    Raises:
        TransferError: different shapes, or as for `interval`.

    Example:
        >>> difference = paired_difference([[0.5, 0.75], [0.75, 1.0]], [[0.25, 0.5], [0.5, 0.75]])
        >>> (difference.mean, difference.ci95)
        (0.25, (0.25, 0.25))
    """
    first, second = _checked(a), _checked(b)
    if first.shape != second.shape:
        raise TransferError(
            f"a paired difference needs the same draws and units in both arms, found shapes {first.shape} and "
            f"{second.shape}. Run both arms on the same label draws and test set."
        )
    return interval(first - second, resamples=resamples, seed=seed, confidence=confidence)


def pigeonhole_bootstrap(
    matrix: npt.ArrayLike, *, resamples: int = 2000, seed: int = 0, confidence: float = 0.95
) -> tuple[float, float]:
    """Return the interval of the mean of a table whose rows and columns are both samples.

    Rows are drawn with replacement, and columns too, independently; a cell weighs the product of how often its row and
    its column came. The mean of a resample is sum w x / sum w over the measured cells. With more axes, each is
    resampled. Where noise of single cells dominates, the variance comes out up to three times too large: conservative.

    Percentiles of a bootstrap are too short for a few draws: its variance lacks the factor n / (n - 1), and its tails
    are the normal distribution's. Both ends are therefore moved away from the mean, by the ratio of Student's quantile
    to the normal one, with the degrees of freedom that Satterthwaite's formula gives for the axes' contributions. In
    simulations that turns 80 % coverage at 3 draws, and 88 % at 5, into 93 to 97 %.

    Args:
        matrix: (draws, units) scores; NaN marks a cell that was not measured. Or (seeds, draws, units).
        resamples: how many tables are drawn.
        seed: the same seed gives the same interval.
        confidence: coverage wanted, between 0 and 1.

    Raises:
        TransferError: no measured cell, a single cell, values that are infinite, or a setting out of range.

    Example:
        >>> low, high = pigeonhole_bootstrap(np.arange(12.0).reshape(3, 4), seed=0)
        >>> low < 5.5 < high
        True

    Reference:
        Owen, "The pigeonhole bootstrap", Annals of Applied Statistics 2007. Hesterberg, "What teachers should know
        about the bootstrap", The American Statistician 2015, on short intervals for few items: he takes further
        percentiles, which for 3 draws do not exist, so we scale the distance instead.
    """
    table = _checked(matrix)
    if table.size < 2:
        raise TransferError(
            "one draw of one unit says nothing about spread: run more draws, or score per class or item."
        )
    if resamples < 100 or not 0 < confidence < 1:
        raise TransferError(
            f"resamples is {resamples} and confidence {confidence}: use at least 100 resamples, and a confidence "
            f"between 0 and 1, such as 0.95."
        )
    means = np.concatenate(list(_resampled_means(table, resamples, seed)))
    tail = (1 - confidence) / 2
    middle, stretch = float(np.nanmean(table)), _small_sample_stretch(table, tail)
    low, high = middle + (np.nanquantile(means, [tail, 1 - tail]) - middle) * stretch
    return float(low), float(high)


def corrected_resampled_interval(
    differences: npt.ArrayLike, n_train: int, n_test: int, *, confidence: float = 0.95
) -> tuple[float, float]:
    """Return the interval of a mean difference over repeated cross-validation, whose training sets overlap.

    mean +- t(k - 1) sqrt((1 / k + n_test / n_train) s^2), where s^2 is the variance of the k differences. The second
    term stands for the correlation between splits; without it the interval shrinks to nothing as splits are added.

    Args:
        differences: (k,) difference of two arms in each split.
        n_train: items in a training part.
        n_test: items in a test part.
        confidence: coverage wanted, between 0 and 1.

    Raises:
        TransferError: fewer than two splits, values that are not finite, or sizes below 1.

    Example:
        >>> low, high = corrected_resampled_interval([0.1, 0.2, 0.3], n_train=40, n_test=20)
        >>> (round(low, 4), round(high, 4))
        (-0.1928, 0.5928)

    Reference:
        Nadeau and Bengio, "Inference for the generalization error", Machine Learning 2003.
    """
    values = np.asarray(differences, dtype=np.float64)
    if values.ndim != 1 or len(values) < 2 or not np.isfinite(values).all():
        raise TransferError(
            f"differences must be (k,) finite numbers with k of at least 2, found shape {values.shape}."
        )
    if n_train < 1 or n_test < 1:
        raise TransferError(f"n_train is {n_train} and n_test {n_test}: both count items, so both are at least 1.")
    splits = len(values)
    error = np.sqrt((1 / splits + n_test / n_train) * values.var(ddof=1))
    reach = float(special.stdtrit(splits - 1, (1 + confidence) / 2) * error)
    return float(values.mean()) - reach, float(values.mean()) + reach


def _checked(matrix: npt.ArrayLike) -> FloatArray:
    table = np.asarray(matrix, dtype=np.float64)
    if table.ndim < 2 or table.size == 0:
        raise TransferError(f"expected a table (draws, units), found shape {table.shape}.")
    if np.isinf(table).any():
        raise TransferError("the table holds infinite values: a score is finite, or NaN where it was not measured.")
    if np.isnan(table).all():
        raise TransferError("every cell of the table is NaN: nothing was measured.")
    return table


def _resampled_means(table: FloatArray, resamples: int, seed: int) -> Iterator[FloatArray]:
    """Yield the means of the resampled tables, block by block; NaN where a resample met no measured cell."""
    measured = ~np.isnan(table)
    filled, weight = np.where(measured, table, 0.0), measured.astype(np.float64)
    block = max(1, _BLOCK_CELLS // int(np.prod(table.shape[1:])))
    generators = [generator(seed, "pigeonhole-bootstrap", index=axis) for axis in range(table.ndim)]
    for start in range(0, resamples, block):
        rows = min(block, resamples - start)
        counts = [_resampling_counts(rng, rows, size) for rng, size in zip(generators, table.shape, strict=True)]
        total = _weighted_sum(weight, counts)
        yield np.divide(_weighted_sum(filled, counts), total, out=np.full(rows, np.nan), where=total > 0)


def _resampling_counts(rng: np.random.Generator, resamples: int, size: int) -> FloatArray:
    """Return how often each of `size` things comes in each resample; (resamples, size), rows sum to `size`."""
    drawn = rng.integers(size, size=(resamples, size)) + size * np.arange(resamples)[:, None]
    return np.bincount(drawn.ravel(), minlength=resamples * size).reshape(resamples, size).astype(np.float64)


def _weighted_sum(table: FloatArray, counts: list[FloatArray]) -> FloatArray:
    """Return sum_ij r_bi c_bj x_ij for every resample b, one axis after the other; (B,)."""
    resamples = len(counts[0])
    summed = (counts[0] @ table.reshape(len(table), -1)).reshape(resamples, *table.shape[1:])
    for count in counts[1:]:
        shape = (resamples, count.shape[1]) + (1,) * (summed.ndim - 2)
        summed = (summed * count.reshape(shape)).sum(axis=1)
    return summed


def _small_sample_stretch(table: FloatArray, tail: float) -> float:
    """Return the factor, at least 1, by which the bootstrap's interval is too short for a few draws or units.

    Each axis gives its variance of the mean v = s^2 / n with n - 1 degrees of freedom, of which the bootstrap sees only
    (n - 1) / n. The factor is sqrt(sum v / sum v (n - 1) / n) times Student's quantile over the normal one.
    """
    variances, freedoms = [], []
    for axis, size in enumerate(table.shape):
        slices = np.moveaxis(table, axis, 0).reshape(size, -1)
        slices = slices[~np.isnan(slices).all(axis=1)]
        if len(slices) > 1:
            variances.append(np.nanmean(slices, axis=1).var(ddof=1) / len(slices))
            freedoms.append(len(slices) - 1)
    variance, freedom = np.array(variances), np.array(freedoms, dtype=np.float64)
    total = variance.sum()
    if total == 0:
        return 1.0
    effective = total**2 / (variance**2 / freedom).sum()
    missed = np.sqrt(total / (variance * freedom / (freedom + 1)).sum())
    return float(missed * special.stdtrit(effective, tail) / special.ndtri(tail))
