"""The label column of a data set as numbers and names."""

from __future__ import annotations

import datasets
import numpy as np
from numpy.typing import NDArray

from auxtasks.errors import ColumnError

__all__ = ["labels_of"]


def labels_of(dataset: datasets.Dataset) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Return (N,) labels, -1 where there is none, and the class names.

    Raises:
        ColumnError: the labels are not class labels.

    Example:
        >>> rows = datasets.Dataset.from_dict({"label": [1, 0, None]})
        >>> rows = rows.cast_column("label", datasets.ClassLabel(names=["cat", "dog"]))
        >>> values, names = labels_of(rows)
        >>> values.tolist(), names
        ([1, 0, -1], ('cat', 'dog'))
    """
    if "label" not in dataset.column_names:
        return np.full(len(dataset), -1, dtype=np.int64), ()
    feature = dataset.features["label"]
    if not isinstance(feature, datasets.ClassLabel):
        raise ColumnError(f"the column 'label' is {feature}, not class labels. Read the source with load_source.")
    column = dataset.select_columns(["label"]).with_format("arrow")[:].column("label")
    return column.fill_null(-1).to_numpy().astype(np.int64), tuple(feature.names)
