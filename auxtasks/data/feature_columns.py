"""A column of feature vectors as one array of numbers."""

from __future__ import annotations

import hashlib
import json

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from auxtasks.data.arrow import arrow_column, spell_feature
from auxtasks.data.feature_table import FeatureTable
from auxtasks.data.labels import labels_of
from auxtasks.errors import ColumnError, DataError

__all__ = ["encode_features", "feature_table_of", "feature_values"]


def encode_features(dataset: datasets.Dataset, *, width: int | None = None) -> FeatureTable:
    """Read all feature vectors of a data set, as they are: nothing is scaled.

    Args:
        dataset: has a column ``features``, a list of D numbers in each row, and perhaps ``label``. Labels that are no
            class labels, such as grades, are not read: the rows are then unlabelled.
        width: the D that is expected, such as that of the table a model was trained on; any if not given.

    Raises:
        ColumnError: there is no such column, or it holds no lists of numbers.
        DataError: there are no rows, they differ in width, or a number is missing, NaN or infinite (names the row).

    Example:
        >>> from auxtasks.data.sources import load_source
        >>> source = load_source("builtin:features", columns={"features": "features", "label": "label"})
        >>> table = encode_features(source)
        >>> table.values.shape, table.values.dtype, table.class_names
        ((150, 4), dtype('float32'), ('setosa', 'versicolor', 'virginica'))
    """
    values = feature_values(dataset, "features")
    if width is not None and values.shape[1] != width:
        raise DataError(
            f"the column 'features' holds {values.shape[1]} numbers a row; expected {width}. A file in svmlight format "
            f"tells its width by its largest index alone: if this is one, load it with options={{'width': {width}}}."
        )
    if isinstance(dataset.features.get("label"), datasets.ClassLabel):
        labels, class_names = labels_of(dataset)
    else:
        labels, class_names = np.full(len(dataset), -1, dtype=np.int64), ()
    return feature_table_of(values, labels, class_names, np.arange(len(dataset)))


def feature_table_of(
    values: NDArray[np.float32], labels: NDArray[np.int64], class_names: tuple[str, ...], rows: NDArray[np.int64]
) -> FeatureTable:
    """Make a table of (N, D) finite numbers, and its fingerprint.

    Example:
        >>> table = feature_table_of(np.ones((2, 3), np.float32), np.array([0, -1]), ("a",), np.arange(2))
        >>> table.width, len(table.fingerprint)
        (3, 64)
    """
    digest = hashlib.sha256(f"{values.shape}|{json.dumps(class_names)}|".encode())
    for array in (values, labels, rows):
        digest.update(np.ascontiguousarray(array).data)  # not copied
    return FeatureTable(values, labels, class_names, rows, (), digest.hexdigest())


def feature_values(dataset: datasets.Dataset, name: str) -> NDArray[np.float32]:
    """Return a column of lists of numbers as (N, D) float32, contiguous and finite.

    Raises:
        ColumnError: there is no such column, or it holds no lists of numbers.
        DataError: see `encode_features`.

    Example:
        >>> feature_values(datasets.Dataset.from_dict({"chosen": [[1, 2], [3, 4]]}), "chosen").tolist()
        [[1.0, 2.0], [3.0, 4.0]]
    """
    if name not in dataset.column_names:
        raise ColumnError(f"there is no column {name!r}; there are {', '.join(dataset.column_names)}.")
    if not len(dataset):
        raise DataError(f"there are no rows, so no features in the column {name!r}.")
    column = arrow_column(dataset, name)
    if not _holds_numbers(column.type):
        found = spell_feature(dataset.features[name])
        raise ColumnError(f"the column {name!r} holds {found} ({column.type}); expected a list of numbers in each row.")
    values = np.empty((len(column), _common_width(column, name)), dtype=np.float32)
    filled = 0
    # A chunk at a time: the numbers are in memory once as they came, and once as they are kept.
    for chunk in column.chunks:
        numbers = chunk.flatten().to_numpy(zero_copy_only=False)
        with np.errstate(over="ignore"):  # told below, with the row
            values[filled : filled + len(chunk)] = numbers.reshape(len(chunk), -1)
        filled += len(chunk)
    _check_finite(values, name)
    return values


def _holds_numbers(kind: pa.DataType) -> bool:
    lists = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    if not any(is_list(kind) for is_list in lists):
        return False
    return bool(pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type))


def _common_width(column: pa.ChunkedArray, name: str) -> int:
    """Return how many numbers each row has; rows that differ are an error."""
    lengths = pc.fill_null(pc.list_value_length(column), -1).to_numpy()
    missing = np.flatnonzero(lengths < 1)
    if len(missing):
        raise DataError(
            f"row {missing[0]} has no features in the column {name!r} ({len(missing)} of {len(lengths)} rows have "
            "none). Leave such rows out."
        )
    width = int(lengths[0])
    others = np.flatnonzero(lengths != width)
    if len(others):
        raise DataError(
            f"row {others[0]} has {lengths[others[0]]} features in the column {name!r}, row 0 has {width} "
            f"({len(others)} of {len(lengths)} rows have not {width}); expected as many in each row."
        )
    return width


def _check_finite(values: NDArray[np.float32], name: str) -> None:
    bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if not len(bad):
        return
    row = int(bad[0])
    place = int(np.flatnonzero(~np.isfinite(values[row]))[0])
    raise DataError(
        f"row {row} holds {values[row, place]} as feature {place} (from 0) of the column {name!r}; {len(bad)} of "
        f"{len(values)} rows hold a number that is missing, NaN, infinite or beyond float32. Fill such numbers in, or "
        "leave the rows out."
    )
