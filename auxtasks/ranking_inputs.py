"""What ranking metrics and losses take: scores and grades of queries, checked, and the gain of a grade."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from auxtasks.errors import DataError, did_you_mean

__all__ = [
    "LARGEST_EXPONENT",
    "Gains",
    "check_grades",
    "check_tops",
    "checked_offsets",
    "finite_values",
    "gain_of",
    "one_query",
]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

Gains = Literal["exponential", "linear"]

# Of a grade with exponential gains: sums of 2^100 still fit float32. A scale with more levels wants linear gains.
LARGEST_EXPONENT = 100


def check_grades(grades: npt.ArrayLike, offsets: npt.ArrayLike) -> None:
    """Refuse grades that `per_query` would refuse, before there are any scores.

    Raises:
        DataError: see there.

    Example:
        >>> check_grades([1, 0, 100, 0], [0, 2, 4])
    """
    bounds = checked_offsets(offsets)
    gain_of(finite_values(grades, "grades", bounds), "exponential", bounds)


def gain_of(grades: FloatArray, gains: Gains, bounds: IntArray) -> FloatArray:
    """Return 2^grade - 1 or the grade; `bounds` are the offsets of the queries, to say where a grade has no gain.

    Raises:
        DataError: an unknown kind of gain, or a grade that has none; says where it stands.

    Example:
        >>> gain_of(np.array([0.0, 1.0, 3.0]), "exponential", np.array([0, 3])).tolist()
        [0.0, 1.0, 7.0]
    """
    if gains not in get_args(Gains):
        raise DataError(
            f'gains must be one of {", ".join(get_args(Gains))}, found "{gains}".{did_you_mean(gains, get_args(Gains))}'
        )
    largest = LARGEST_EXPONENT if gains == "exponential" else math.inf
    outside = (grades < 0) | (grades > largest)
    if outside.any():
        place = int(np.argmax(outside))
        raise DataError(
            f"grades must be from 0 to {largest} to have {gains} gains, found {grades[place]}{_where(place, bounds)}. "
            f"Shift them so that the lowest is 0, or take linear gains if they are large."
        )
    return np.exp2(grades) - 1 if gains == "exponential" else grades


def check_tops(tops: Sequence[int]) -> None:
    """Refuse numbers of ranks below 1.

    Raises:
        DataError: shows them.

    Example:
        >>> check_tops([1, 10])
    """
    if any(top < 1 for top in tops):
        raise DataError(f"top counts the ranks that matter, so it is at least 1, found {list(tops)}.")


def one_query(scores: npt.ArrayLike, grades: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Return the scores and grades of one query, (n,) each in float64.

    Raises:
        DataError: none, not one grade a score, or values that are not finite.

    Example:
        >>> [values.tolist() for values in one_query([0.5, 2], [0, 1])]
        [[0.5, 2.0], [0.0, 1.0]]
    """
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 1 or len(values) == 0:
        raise DataError(f"scores must be (n,) with n of at least 1, found shape {values.shape}.")
    bounds = np.array([0, len(values)])
    return finite_values(values, "scores", bounds), finite_values(grades, "grades", bounds)


def checked_offsets(offsets: npt.ArrayLike) -> IntArray:
    """Return the offsets of Q queries, (Q + 1,), in int64.

    Raises:
        DataError: not rising integers from 0 on; names the query.

    Example:
        >>> checked_offsets([0, 2, 5]).dtype
        dtype('int64')
    """
    bounds = np.asarray(offsets)
    if bounds.ndim != 1 or len(bounds) < 2 or not np.issubdtype(bounds.dtype, np.integer) or bounds[0] != 0:
        raise DataError(f"offsets must be (Q + 1,) integers from 0 on, with Q of at least 1, found {bounds!r}.")
    falls = np.diff(bounds) < 1
    if falls.any():
        query = int(np.argmax(falls))
        raise DataError(
            f"offsets must rise, each query having an item: query {query} runs from {bounds[query]} to "
            f"{bounds[query + 1]}."
        )
    return bounds.astype(np.int64)


def finite_values(values: npt.ArrayLike, name: str, bounds: IntArray) -> FloatArray:
    """Return values (M,) in float64, one a place, all finite.

    Raises:
        DataError: another number of values, or one that is not finite; says where it stands.

    Example:
        >>> finite_values([1, 2], "grades", np.array([0, 2])).tolist()
        [1.0, 2.0]
    """
    array = np.asarray(values, dtype=np.float64)
    if array.shape != (bounds[-1],):
        raise DataError(f"{name} must have one entry a place, ({bounds[-1]},), found shape {array.shape}.")
    if not np.isfinite(array).all():
        place = int(np.argmin(np.isfinite(array)))
        raise DataError(f"{name} must be finite, found {array[place]}{_where(place, bounds)}.")
    return array


def _where(place: int, bounds: IntArray) -> str:
    query = int(np.searchsorted(bounds, place, side="right")) - 1
    return f" at place {place}" + (f" (item {place - bounds[query]} of query {query})" if len(bounds) > 2 else "")
