"""One column of a data set, in Arrow, and the words in which messages tell what it holds."""

from __future__ import annotations

from typing import TypeAlias

import datasets
import pyarrow as pa
import pyarrow.compute as pc

from auxtasks.data.folders import natural_key

__all__ = ["Cell", "arrow_column", "some_values", "spell_feature"]

Cell: TypeAlias = str | int | float | bool


def arrow_column(dataset: datasets.Dataset, name: str) -> pa.ChunkedArray:
    """Return one column in Arrow, in the data set's own order of rows.

    Example:
        >>> rows = datasets.Dataset.from_dict({"size": [3, 1, 2]}).select([2, 0])
        >>> arrow_column(rows, "size").to_pylist(), some_values(arrow_column(rows, "size"), rows.features["size"])
        ([2, 3], '2, 3')
    """
    return dataset.select_columns([name]).with_format("arrow")[:].column(name)


def spell_feature(feature: object) -> str:
    """Name a feature in a word or two.

    Example:
        >>> spell_feature(datasets.Value("string")), spell_feature(datasets.ClassLabel(names=["a", "b"]))
        ('string', '2 classes')
    """
    match feature:
        case datasets.Value():
            return str(feature.dtype)
        case datasets.ClassLabel():
            return f"{feature.num_classes} classes"
        case dict():
            return f"struct of {', '.join(feature)}"
    if type(feature).__name__ == "Json":  # what `datasets` makes of JSON lines that differ in type
        return "values of several types"
    return type(feature).__name__


def some_values(column: pa.ChunkedArray, feature: object, limit: int = 10) -> str:
    """List a column's values, at most `limit` of them, in natural order."""
    try:
        values = [value for value in pc.unique(column).to_pylist() if value is not None]
    except pa.ArrowException:  # lists and structs have no order, nor a test for equality
        return "values that cannot be compared"
    if isinstance(feature, datasets.ClassLabel):
        values = [feature.names[code] for code in values if 0 <= code < len(feature.names)]
    values.sort(key=lambda value: natural_key(str(value)))
    shown = ", ".join(repr(value) for value in values[:limit])
    return f"{shown} and {len(values) - limit} more" if len(values) > limit else shown or "nulls only"
