"""The columns of a ranking as numbers: which query a row belongs to, its grade, and the margin of a pair."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Final, TypeAlias

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from auxtasks.data.arrow import arrow_column, spell_feature
from auxtasks.errors import ColumnError, DataError

__all__ = ["check_choice", "grades_of", "margins_of", "queries_of"]

Rows: TypeAlias = NDArray[np.int64]

# Beyond it float32 does not tell all whole numbers apart.
_MOST_OF_A_WHOLE_GRADE: Final = 1 << 24


def queries_of(dataset: datasets.Dataset) -> tuple[Rows, tuple[str, ...]]:
    """Return which query each row belongs to, (N,), and the name of each query, in the order of the rows.

    Raises:
        ColumnError: there is no column ``qid``, or it holds neither whole numbers nor strings.
        DataError: a row has no query, or a query comes back after another one (names both rows).

    Example:
        >>> queries_of(datasets.Dataset.from_dict({"qid": ["b", "b", "a"]}))
        (array([0, 0, 1]), ('b', 'a'))
    """
    if "qid" not in dataset.column_names:
        raise ColumnError(f"there is no column 'qid'; there are {', '.join(dataset.column_names)}.")
    if not len(dataset):
        raise DataError("there are no rows, so no queries.")
    feature, column = dataset.features["qid"], arrow_column(dataset, "qid")
    if pa.types.is_floating(column.type):
        # What pandas makes of whole numbers when one is missing.
        column = pc.if_else(pc.is_nan(column), pa.scalar(None, column.type), column)
        with contextlib.suppress(pa.ArrowInvalid):  # a fraction, or beyond 64 bits: refused below
            column = column.cast(pa.int64())
    kind = column.type
    if not (pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        found = spell_feature(feature)
        raise ColumnError(f"the column 'qid' holds {found}; expected whole numbers or strings.")
    if column.null_count:
        row = int(np.flatnonzero(column.is_null().to_numpy())[0])
        raise DataError(f"row {row} has no query in the column 'qid' ({column.null_count} of {len(column)} have none).")
    encoded = pc.dictionary_encode(column).combine_chunks()
    encoded = encoded if isinstance(encoded, pa.DictionaryArray) else encoded.chunk(0)
    codes = encoded.indices.to_numpy().astype(np.int64)
    values = encoded.dictionary.to_pylist()
    spelled = [feature.names[value] if isinstance(feature, datasets.ClassLabel) else str(value) for value in values]
    starts = np.flatnonzero(np.concatenate([[True], codes[1:] != codes[:-1]]))
    found_first = np.unique(codes[starts], return_index=True)[1]
    again = np.setdiff1d(np.arange(len(starts)), found_first)
    if len(again):
        code = codes[starts[again[0]]]
        raise DataError(
            f"the query {spelled[code]} begins in row {starts[found_first[code]]}, and comes back in row "
            f"{starts[again[0]]} after other queries. If it is one query, sort the rows by qid; if several parts were "
            "put together, give the queries of each part names of their own."
        )
    return np.repeat(np.arange(len(starts)), np.diff([*starts, len(codes)])), tuple(
        spelled[code] for code in codes[starts]
    )


def grades_of(dataset: datasets.Dataset, on_error: str) -> NDArray[np.float64]:
    """Return the grade of each row, (N,), NaN where it has none that is finite.

    Args:
        dataset: has a column ``grade``, or else ``label``.
        on_error: ``"raise"`` at a row without a finite grade, or ``"skip"``.

    Raises:
        ColumnError: there is no such column, or it holds no numbers.
        DataError: a row has no finite grade, or grades are too large for float32.

    Example:
        >>> grades_of(datasets.Dataset.from_dict({"label": [2, None, 0]}), "skip").tolist()
        [2.0, nan, 0.0]
    """
    check_choice("on_error", on_error)
    name = "grade" if "grade" in dataset.column_names else "label"
    if name not in dataset.column_names:
        raise ColumnError(f"there is no column 'grade' or 'label'; there are {', '.join(dataset.column_names)}.")
    feature, column = dataset.features[name], arrow_column(dataset, name)
    if isinstance(feature, datasets.ClassLabel):
        codes = pc.fill_null(column, pa.scalar(-1, column.type)).to_numpy().astype(np.int64)
        codes = np.where((codes >= 0) & (codes < len(feature.names)), codes, -1)
        grades = np.array([*_numbers(feature.names, name), np.nan])[codes]  # the last one is where -1 looks
    else:
        grades = _as_floats(column, feature, name, "numbers, the higher the better")
    finite = np.isfinite(grades)
    if on_error == "raise" and not finite.all():
        row = int(np.flatnonzero(~finite)[0])
        raise DataError(
            f"row {row} holds {grades[row]} in the column {name!r}; expected a finite grade ({np.sum(~finite)} of "
            f'{len(grades)} rows have none). Leave such rows out, or pass on_error="skip".'
        )
    grades = np.where(finite, grades, np.nan)
    most = np.max(np.abs(grades[finite]), initial=0)
    if (pa.types.is_integer(column.type) and most > _MOST_OF_A_WHOLE_GRADE) or most > np.finfo(np.float32).max:
        shown = f"{most:,.0f}" if most < 1e15 else f"{most:.6g}"
        raise DataError(
            f"the column {name!r} holds grades up to {shown} in size; float32 does not tell all of these apart. "
            "Put smaller ones in their place, such as the rank within the query."
        )
    # Equal as they will be kept.
    return grades.astype(np.float32).astype(np.float64)


def _numbers(names: Sequence[str], column: str) -> list[float]:
    try:
        return [float(name) for name in names]
    except ValueError as error:
        raise ColumnError(
            f"the column {column!r} holds classes that are no numbers ({error}); expected grades, the higher the "
            "better."
        ) from error


def _as_floats(column: pa.ChunkedArray, feature: object, name: str, expected: str) -> NDArray[np.float64]:
    """Return numbers, NaN where there is none."""
    kind = column.type
    if pa.types.is_boolean(kind):
        column = column.cast(pa.uint8())
    elif not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_null(kind)):
        raise ColumnError(f"the column {name!r} holds {spell_feature(feature)}; expected {expected}.")
    return np.asarray(column.cast(pa.float64(), safe=False).to_numpy(), dtype=np.float64)


def margins_of(dataset: datasets.Dataset) -> NDArray[np.float32]:
    """Return the margin that each row asks for, (N,), NaN where it asks for none.

    Raises:
        ColumnError: the column ``margin`` holds no numbers.
        DataError: a margin is negative or not finite.

    Example:
        >>> margins_of(datasets.Dataset.from_dict({"margin": [0.5, None]})).tolist()
        [0.5, nan]
    """
    if "margin" not in dataset.column_names:
        return np.full(len(dataset), np.nan, dtype=np.float32)
    column = arrow_column(dataset, "margin")
    margins = _as_floats(column, dataset.features["margin"], "margin", "numbers that are not negative")
    told = ~np.asarray(column.is_null().to_numpy(), dtype=bool)
    wrong = np.flatnonzero(told & ~((margins >= 0) & (margins <= np.finfo(np.float32).max)))
    if len(wrong):
        raise DataError(
            f"row {wrong[0]} has the margin {margins[wrong[0]]}; expected a finite number that is not negative, or "
            f"null for none ({len(wrong)} of {len(margins)} rows have another). A pair whose margin is negative is the "
            "other way round."
        )
    return margins.astype(np.float32)


def check_choice(name: str, value: str) -> None:
    """Refuse what is neither ``"raise"`` nor ``"skip"``.

    Example:
        >>> check_choice("on_error", "skip")
        >>> check_choice("on_error", "ignore")
        Traceback (most recent call last):
            ...
        auxtasks.errors.DataError: on_error is 'raise' or 'skip'; found 'ignore'.
    """
    if value not in ("raise", "skip"):
        raise DataError(f"{name} is 'raise' or 'skip'; found {value!r}.")
