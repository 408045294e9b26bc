"""Roles given their columns: which are there, which rows are kept, and whether each holds what its role can use."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import cast

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from auxtasks.data.arrow import Cell, arrow_column, some_values, spell_feature
from auxtasks.data.folders import natural_key
from auxtasks.data.image_column import as_image_column
from auxtasks.errors import ColumnError, DataError, did_you_mean

__all__ = ["apply_roles", "matching_rows", "present_columns"]


def present_columns(
    dataset: datasets.Dataset, columns: Mapping[str, str], required: Collection[str] | None, place: str
) -> dict[str, str]:
    """Return the roles whose columns are there; a required one that is missing is an error.

    Example:
        >>> rows = datasets.Dataset.from_dict({"photo": [1], "who": [2]})
        >>> present_columns(rows, {"image": "photo", "label": "person"}, required={"image"}, place="here")
        {'image': 'photo'}
        >>> rows = datasets.Dataset.from_dict({"split": ["train", "test", "train"]})
        >>> matching_rows(rows, {"split": "train"}, "here").tolist()
        [0, 2]
    """
    if not columns:
        raise DataError(f"{place}: no columns were declared; say which column plays which role.")
    unknown = [role for role in required or () if role not in columns]
    if unknown:
        raise DataError(f"{place}: required roles {unknown} have no column declared; declared are {list(columns)}.")
    found = dataset.column_names
    for role, name in columns.items():
        if name not in found and (required is None or role in required):
            listed = ", ".join(f"{column!r} ({spell_feature(dataset.features[column])})" for column in found[:30])
            extra = " A flat folder of images has no labels: put each class into a sub-folder." * (
                role == "label" and set(found) == {"image", "file"}
            )
            raise ColumnError(
                f"{place} has no column {name!r}, declared for the role {role!r}; it has {listed or 'none'}."
                f"{did_you_mean(name, found)}{extra}"
            )
    return {role: name for role, name in columns.items() if name in found}


def matching_rows(dataset: datasets.Dataset, where: Mapping[str, Cell], place: str) -> NDArray[np.int64]:
    """Return the rows whose columns equal the given values, in order."""
    mask = np.ones(len(dataset), dtype=bool)
    for name, value in where.items():
        if not isinstance(value, Cell):
            raise DataError(
                f"{place}: where compares {name!r} with a text, a number or a truth value; found {value!r}."
            )
        if name not in dataset.column_names:
            hint = did_you_mean(name, dataset.column_names)
            listed = ", ".join(dataset.column_names)
            raise ColumnError(f"{place}: where names the column {name!r}, but there are only {listed}.{hint}")
        column = arrow_column(dataset, name)
        feature = dataset.features[name]
        sought = _scalar(_comparable(value, feature, column.type), column.type)
        found = np.zeros(len(dataset), dtype=bool)
        if sought is not None:
            equal = pc.fill_null(pc.equal(column, sought), pa.scalar(False))
            found = np.asarray(equal.to_numpy(zero_copy_only=False), dtype=bool)
        if not found.any():
            raise DataError(
                f"{place}: no row has {name} = {value!r} ({type(value).__name__}); "
                f"the column is {spell_feature(feature)} and holds {some_values(column, feature)}."
            )
        mask &= found
    return np.flatnonzero(mask)


def _scalar(value: Cell | None, kind: pa.DataType) -> pa.Scalar | None:
    """Return a value as the column stores it, or nothing when it is beyond what the column can hold."""
    try:
        return None if value is None else pa.scalar(value, kind)
    except (pa.ArrowException, OverflowError, UnicodeEncodeError):
        return None


def _comparable(value: Cell, feature: object, stored: pa.DataType) -> Cell | None:
    """Return the value as the column stores it, or nothing when the column cannot hold it."""
    if isinstance(feature, datasets.ClassLabel) and isinstance(value, str):
        return cast(int, feature.str2int(value)) if value in feature.names else None
    # bool is an int to Python; a column of numbers holds no truth values, and the other way round.
    if isinstance(value, bool) or pa.types.is_boolean(stored):
        return value if isinstance(value, bool) and pa.types.is_boolean(stored) else None
    if pa.types.is_string(stored) or pa.types.is_large_string(stored):
        return str(value)
    if pa.types.is_integer(stored):
        return int(value) if not isinstance(value, str) and float(value).is_integer() else None
    if pa.types.is_floating(stored):
        return None if isinstance(value, str) else float(value)
    return None


def apply_roles(
    dataset: datasets.Dataset,
    columns: Mapping[str, str],
    kept: NDArray[np.int64],
    base: Path | None,
    place: str,
    allow_unlabelled: bool,
) -> datasets.Dataset:
    """Give each role its column, converted, and put the roles first.

    Example:
        >>> rows = datasets.Dataset.from_dict({"words": ["a b", "c", "d"], "kind": ["x", "y", "x"]})
        >>> roles = {"text": "words", "label": "kind"}
        >>> found = apply_roles(rows, roles, np.arange(3), None, "here", allow_unlabelled=False)
        >>> found.column_names, found["text"][:]
        (['text', 'label'], ['a b', 'c', 'd'])
    """
    source = dataset
    taken = set(columns.values())
    for name in taken:
        _check_characters(arrow_column(source, name), place, name)
    for name in [name for name in dataset.column_names if name in columns and name not in taken]:
        dataset = dataset.rename_column(name, _free_name(f"source_{name}", dataset.column_names))
    others = [name for name in dataset.column_names if name not in taken]
    # Under names of its own first: a role may carry the name of another role's column.
    dataset = dataset.select_columns(others) if others else None
    parts: dict[str, datasets.Dataset] = {}
    for role, name in columns.items():
        part = source.select_columns([name])
        if name != role:
            part = part.rename_column(name, role)
        match role:
            case "image":
                parts[role] = as_image_column(part, base, place, name)
            case "label":
                parts[role] = _as_label_column(part, kept, place, name, allow_unlabelled)
            case "text":
                parts[role] = _as_text_column(part, kept, place, name)
            case _:
                parts[role] = part
    joined = [*parts.values(), *([dataset] if dataset is not None else [])]
    return joined[0] if len(joined) == 1 else datasets.concatenate_datasets(joined, axis=1)


def _check_characters(column: pa.ChunkedArray, place: str, name: str) -> None:
    """Refuse strings that are not UTF-8, which a damaged file can hold: Arrow reads them without a look."""
    try:
        column.validate(full=True)
    except pa.ArrowInvalid as error:
        raise DataError(f"{place}: the column {name!r} is damaged: {error}. Write the file anew.") from error


def _as_label_column(
    part: datasets.Dataset, kept: NDArray[np.int64], place: str, name: str, allow_unlabelled: bool
) -> datasets.Dataset:
    """Turn strings, whole numbers or class labels into class labels whose names are in natural order."""
    codes, names = _class_codes(arrow_column(part, "label"), part.features["label"], place, name)
    missing = kept[codes[kept] < 0]
    if len(missing) and not allow_unlabelled:
        raise DataError(
            f"{place}: row {missing[0]} has no label in the column {name!r} ({len(missing)} of {len(kept)} rows have "
            "none). Fill them in, select others (where=...), or allow unlabelled rows."
        )
    order = sorted(range(len(names)), key=lambda code: natural_key(names[code]))
    new_code = np.full(len(names) + 1, -1, dtype=np.int64)  # the last one is where -1 looks
    new_code[order] = np.arange(len(names))
    codes = new_code[codes]
    features = datasets.Features({"label": datasets.ClassLabel(names=[names[code] for code in order])})
    table = pa.table({"label": pa.array(codes, pa.int64(), mask=codes < 0)})
    return datasets.Dataset(table, info=datasets.DatasetInfo(features=features))


def _class_codes(
    column: pa.ChunkedArray, feature: object, place: str, name: str
) -> tuple[NDArray[np.int64], list[str]]:
    """Return a code for each row, -1 where there is none, and the name of each code."""
    if isinstance(feature, datasets.ClassLabel):
        codes = pc.fill_null(column, pa.scalar(-1, column.type)).to_numpy().astype(np.int64)
        # All declared names stay, used or not: the splits of one data set then agree.
        return np.where(codes < len(feature.names), codes, -1), list(feature.names)
    if pa.types.is_floating(column.type):
        column = _whole_numbers(column, place, name)
    kind = column.type
    text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    if not (text or pa.types.is_integer(kind) or pa.types.is_boolean(kind) or pa.types.is_null(kind)):
        raise ColumnError(
            f"{place}: the column {name!r}, declared as label, holds {spell_feature(feature)}; expected strings, "
            "whole numbers or class labels."
        )
    encoded = pc.dictionary_encode(column.cast(pa.string()) if pa.types.is_null(kind) else column).combine_chunks()
    encoded = encoded if isinstance(encoded, pa.DictionaryArray) else encoded.chunk(0)
    codes = pc.fill_null(encoded.indices, pa.scalar(-1, encoded.indices.type)).to_numpy().astype(np.int64)
    names = [str(value) for value in encoded.dictionary.to_pylist()]
    if "" in names:  # an empty cell of a CSV file
        empty = names.index("")
        codes = np.where(codes == empty, -1, codes - (codes > empty))
        del names[empty]
    return codes, names


def _whole_numbers(column: pa.ChunkedArray, place: str, name: str) -> pa.ChunkedArray:
    """Take floats as the whole numbers they are when a missing value made pandas store them so."""
    column = pc.if_else(pc.is_nan(column), pa.scalar(None, column.type), column)
    try:
        return column.cast(pa.int64())
    except pa.ArrowInvalid as error:
        finite = column.filter(pc.is_finite(column))
        wrong = (
            "beyond 64 bits" if pc.all(pc.equal(finite, pc.floor(finite))).as_py() is not False else "with a fraction"
        )
        raise ColumnError(
            f"{place}: the column {name!r}, declared as label, holds numbers {wrong}, such as "
            f"{some_values(column, None, limit=3)}; expected classes."
        ) from error


def _as_text_column(part: datasets.Dataset, kept: NDArray[np.int64], place: str, name: str) -> datasets.Dataset:
    """Check that a column holds strings, and one in each row that is kept."""
    column = arrow_column(part, "text")
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        found = spell_feature(part.features["text"])
        raise ColumnError(f"{place}: the column {name!r}, declared as text, holds {found}; expected strings.")
    if column.null_count:
        empty = np.asarray(column.is_null().to_numpy())
        missing = kept[empty[kept]]
        if len(missing):
            raise DataError(f"{place}: row {missing[0]} has no text in the column {name!r}; leave such rows out.")
    return part


def _free_name(name: str, taken: Collection[str]) -> str:
    while name in taken:
        name = f"source_{name}"
    return name
