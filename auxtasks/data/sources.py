"""Anything to a `datasets.Dataset` with declared, checked columns.

A source is a folder of images, a parquet, CSV, JSON lines or text file, a Hub name, a built-in, or something already in
memory. Whatever it was, the result has one column for each declared role, under the role's name, and keeps the others:

==========  =====================================================================================================
role        what the result holds
==========  =====================================================================================================
``image``   `datasets.Image(decode=False)`: ``{"bytes", "path"}``, not decoded (see `auxtasks.data.images`)
``label``   `datasets.ClassLabel`, its names in natural order (``s2`` before ``s10``)
``text``    strings
any other   the column as it is, renamed
==========  =====================================================================================================

Class names are collected before `where` selects rows, so two selections of one file agree on what label 3 is. A column
that is not a role but carries a role's name is kept as ``source_<name>``.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, TypeAlias, cast

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from PIL import Image, ImageOps

from auxtasks.data.builtin import load_builtin
from auxtasks.errors import ColumnError, DataError, did_you_mean

__all__ = ["IMAGE_SUFFIXES", "Kind", "index_folder", "load_source", "natural_key"]

Kind: TypeAlias = Literal["auto", "folder", "parquet", "csv", "json", "text", "hub", "builtin", "memory"]
Cell: TypeAlias = str | int | float | bool
Source: TypeAlias = str | os.PathLike[str] | datasets.Dataset | Mapping[str, Sequence[object]]

IMAGE_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"})
_KIND_OF_SUFFIX: Mapping[str, Kind] = {
    ".parquet": "parquet",
    ".csv": "csv",
    ".tsv": "csv",
    ".json": "json",
    ".jsonl": "json",
    ".ndjson": "json",
    ".txt": "text",
}
_SPLIT_FOLDERS = frozenset({"train", "training", "test", "testing", "val", "valid", "validation", "dev"})
_SPLIT_NAME = re.compile(r"(train|test|validation|valid|val|dev)(?![a-z])")
# What an empty cell of a column of numbers looks like.
_MISSING_CELLS = ("", "NA", "N/A", "n/a", "#N/A", "NaN", "nan", "NULL", "null", "None")
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_DIGITS = re.compile(r"([0-9]{1,18})")
_STORED_IMAGE = pa.struct({"bytes": pa.binary(), "path": pa.string()})


def load_source(
    path: Source,
    *,
    kind: Kind = "auto",
    columns: Mapping[str, str],
    split: str | None = None,
    config: str | None = None,
    where: Mapping[str, Cell] | None = None,
    required: Collection[str] | None = None,
    allow_unlabelled: bool = False,
    options: Mapping[str, Cell] | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
) -> datasets.Dataset:
    """Load a source and check its columns.

    Args:
        path: where the rows are.

            - a folder of images: one sub-folder a class (its columns are ``image``, ``label`` and ``file``), or flat
              (``image`` and ``file``); with `split` the sub-folder of that name is read;
            - a parquet, CSV, TSV, JSON lines or text file, or a folder of parquet files. Image paths in it are
              relative to its folder. In CSV, the label and image columns are read as strings, so ``001`` stays ``001``;
            - a Hub name, ``"owner/name"``;
            - ``"builtin:drawn_faces"``, ``"builtin:digits"`` or ``"builtin:features"``;
            - a `datasets.Dataset`, or a mapping from column names to lists.
        kind: what `path` is; ``"auto"`` looks.
        columns: role to column name in the source, such as ``{"image": "image", "label": "name"}``.
        split: which split, where a source has several.
        config: which configuration of a Hub data set.
        where: keep the rows whose column (of the source, or a role) equals a value; several are joined by "and".
        required: the roles that must be there; all by default. Another role whose column is missing is left out.
        allow_unlabelled: let rows have no label (null); otherwise the first such row is an error.
        options: arguments of a built-in.
        cache_dir: where `datasets` keeps its Arrow files; its own default if not given.

    Returns:
        A data set with the roles first, then the source's other columns.

    Raises:
        ColumnError: a column is missing, or holds what its role cannot use.
        DataError: the source is not there, cannot be read, has no such split, or no row is left.

    Example:
        >>> data = load_source({"text": ["yes", "no", "no"], "answer": ["b10", "b2", "b2"]},
        ...                    columns={"text": "text", "label": "answer"})
        >>> data.features["label"].names, data[0]
        (['b2', 'b10'], {'text': 'yes', 'label': 1})
    """
    dataset, place, base = _open(path, kind, columns, split, config, options, cache_dir)
    columns = _present_columns(dataset, columns, required, place)
    if where:
        # Which rows stay is decided on the source's columns, and applied last: labels must not depend on it.
        kept = _matching_rows(dataset, {columns.get(name, name): value for name, value in where.items()}, place)
    else:
        kept = np.arange(len(dataset))
    if not len(kept):
        raise DataError(f"{place} has no rows." if not where else f"{place}: no row has {_spell(where)}. Ask for less.")
    with _quiet_unless_terminal():
        dataset = _apply_roles(dataset, columns, kept, base, place, allow_unlabelled)
    return dataset if len(kept) == len(dataset) else dataset.select(kept)


# --- opening ---------------------------------------------------------------------------------------------------------


def _open(
    path: Source,
    kind: Kind,
    columns: Mapping[str, str],
    split: str | None,
    config: str | None,
    options: Mapping[str, Cell] | None,
    cache_dir: str | os.PathLike[str] | None,
) -> tuple[datasets.Dataset, str, Path | None]:
    """Open a source; return it with a name for messages and the folder that its relative paths start from."""
    if not isinstance(path, str | os.PathLike):
        _refuse(kind not in ("auto", "memory"), f"kind={kind!r} needs a path, not a {type(path).__name__}.")
        _refuse(options is not None, "options belong to a built-in source; this one is in memory.")
        return _open_memory(path, columns, split), "the data set in memory", None
    name = os.fspath(path)
    found = _guess_kind(name) if kind == "auto" else kind
    _refuse(found == "memory", f"kind='memory' takes a datasets.Dataset or a mapping of lists, not the path {name!r}.")
    _refuse(options is not None and found != "builtin", f"options belong to a built-in source; {name!r} is none.")
    _refuse(config is not None and found != "hub", f"config belongs to a Hub data set; {name!r} is none.")
    if found == "builtin":
        _refuse(split is not None, f"{name} has no splits (split={split!r}); choose rows by its options instead.")
        return load_builtin(name.removeprefix("builtin:"), options or {}), name, None
    if found == "hub":
        return _open_hub(name, split, config, cache_dir), f"the Hub data set {name!r}", None
    place = Path(name)
    if not place.exists():
        raise DataError(f"{name!r} is not there: no such file or folder (looked in {place.absolute().parent}).")
    if found == "folder":
        return _open_folder(place, split), str(place), None
    return _open_table(place, found, columns, split, cache_dir), str(place), place if place.is_dir() else place.parent


def _guess_kind(name: str) -> Kind:
    """Tell what a path is from its form and from what is on the disk.

    Example:
        >>> _guess_kind("builtin:digits"), _guess_kind("faces.tsv"), _guess_kind("owner/name")
        ('builtin', 'csv', 'hub')
    """
    if name.startswith("builtin:"):
        return "builtin"
    path = Path(name)
    if path.is_dir():
        return "parquet" if any(path.glob("[!.]*.parquet")) else "folder"
    suffixes = [suffix.lower() for suffix in path.suffixes]
    suffix = suffixes[-2] if len(suffixes) > 1 and suffixes[-1] == ".gz" else (suffixes or [""])[-1]
    if suffix in _KIND_OF_SUFFIX:
        return _KIND_OF_SUFFIX[suffix]
    if not path.exists():
        if _HUB_NAME.fullmatch(name) and not name.startswith("."):
            return "hub"
        raise DataError(f"{name!r} is not there: no such file or folder (looked in {path.absolute().parent}).")
    known = ", ".join(sorted(_KIND_OF_SUFFIX))
    found = f"ends in {suffix}" if suffix else "has no suffix"
    raise DataError(f"{name!r} {found}; expected a folder or one of {known}. If it is one of these, state its kind.")


def _open_memory(
    source: datasets.Dataset | Mapping[str, Sequence[object]], columns: Mapping[str, str], split: str | None
) -> datasets.Dataset:
    """Take a data set as it is, one split of a dictionary of them, or make one of a mapping of lists."""
    if isinstance(source, datasets.DatasetDict):
        return _choose_split(source, split, "the data set in memory")
    _refuse(split is not None, f"a data set in memory has no splits (split={split!r}).")
    if isinstance(source, datasets.Dataset):
        return source.with_format(None)
    if not isinstance(source, Mapping):
        raise DataError(f"expected a path, a datasets.Dataset or a mapping of lists, found {type(source).__name__}.")
    lengths = {name: len(values) for name, values in source.items()}
    _refuse(len(set(lengths.values())) > 1, f"the columns in memory differ in length: {lengths}.")
    encoded: dict[str, object] = dict(source)
    features: dict[str, object] = {}
    image = columns.get("image")
    if image in encoded:
        # As stored pictures from the start: nested lists of numbers would take a hundred times the memory.
        encoded[image] = [_stored_image(item, row) for row, item in enumerate(source[image])]
        features[image] = datasets.Image(decode=False)
    try:
        others = {name: values for name, values in encoded.items() if name not in features}
        # An empty data set has no length to add a column to.
        dataset = datasets.Dataset.from_dict(others or encoded, None if others else datasets.Features(features))
        for name, feature in features.items() if others else ():
            dataset = dataset.add_column(name, pa.array(encoded[name], _STORED_IMAGE), feature=feature)
    except (pa.ArrowException, TypeError) as error:
        raise DataError(f"the columns in memory cannot be made a table: {error}.") from error
    return dataset


def _open_hub(
    name: str, split: str | None, config: str | None, cache_dir: str | os.PathLike[str] | None
) -> datasets.Dataset:
    """Load a data set of the Hugging Face Hub, with its many ways to fail told as one."""
    try:
        with _quiet_unless_terminal():
            loaded = datasets.load_dataset(name, config, split=split, cache_dir=_text(cache_dir))
    except (ConnectionError, datasets.exceptions.DatasetNotFoundError) as error:
        raise DataError(
            f"{name!r} is no local file or folder, and the Hugging Face Hub did not give a data set of that name: "
            f"{error}. Check the spelling; without a network, download it elsewhere and pass the path of its files; "
            "a private one needs `hf auth login`."
        ) from error
    except Exception as error:  # the Hub's libraries raise too many types to name, and all mean: not loaded
        raise DataError(f"the Hub data set {name!r} could not be loaded: {error}") from error
    return _choose_split(loaded, split, f"the Hub data set {name!r}")


def _open_table(
    place: Path, kind: Kind, columns: Mapping[str, str], split: str | None, cache_dir: str | os.PathLike[str] | None
) -> datasets.Dataset:
    """Load a parquet, CSV, JSON or text file, or a folder of parquet files."""
    if place.is_dir() and kind != "parquet":
        raise DataError(f"{place} is a folder; only parquet files are read from one. Name the {kind} file.")
    try:
        with _quiet_unless_terminal():
            files = _parquet_files(place) if place.is_dir() else str(place)
            arguments = _csv_arguments(place, columns) if kind == "csv" else {}
            loaded = datasets.load_dataset(kind, data_files=files, cache_dir=_text(cache_dir), **arguments)
    except Exception as error:  # pandas, Arrow and datasets raise their own types for a damaged file
        causes = [str(cause) for cause in (error.__cause__, error) if cause is not None and str(cause)]
        raise DataError(f"{place} cannot be read as {kind}: {'; '.join(causes) or type(error).__name__}") from error
    return _choose_split(loaded, split, str(place))


def _csv_arguments(place: Path, columns: Mapping[str, str]) -> dict[str, object]:
    """Return how to read a CSV file: image, label and text columns as the strings they are.

    Inferred types would turn the label 001 into 1, and a person called "NA" into nobody.
    """
    separator = "\t" if ".tsv" in [suffix.lower() for suffix in place.suffixes] else ","
    strings = {columns[role] for role in ("image", "label", "text") if role in columns}
    header = list(pd.read_csv(place, sep=separator, nrows=0).columns)
    return {
        "sep": separator,
        "converters": {name: str for name in header if name in strings},
        "keep_default_na": False,
        "na_values": {name: [] if name in strings else list(_MISSING_CELLS) for name in header},
    }


def _parquet_files(place: Path) -> dict[str, list[str]]:
    """List the parquet files below a folder by split: the file's or a folder's name says which, else it is "train"."""
    found: dict[str, list[str]] = {}
    for path in sorted(place.rglob("*.parquet")):
        inside = path.relative_to(place)
        if any(part.startswith(".") for part in inside.parts):
            continue
        names = [match[1] for part in reversed(inside.parts) if (match := _SPLIT_NAME.match(part))]
        found.setdefault(names[0] if names else "train", []).append(str(path))
    return found


def _choose_split(loaded: datasets.Dataset | datasets.DatasetDict, split: str | None, place: str) -> datasets.Dataset:
    """Return the split that was asked for, or the only one."""
    if not isinstance(loaded, datasets.DatasetDict):
        return loaded
    names = list(loaded)
    if split is None and len(names) == 1:
        return loaded[names[0]]
    if split is None:
        raise DataError(f"{place} has the splits {', '.join(names)}; say which one (split=...).")
    if split not in loaded:
        raise DataError(f"{place} has no split {split!r}; it has {', '.join(names)}.{did_you_mean(split, names)}")
    return loaded[split]


@contextlib.contextmanager
def _quiet_unless_terminal() -> Iterator[None]:
    """Keep the progress bars of `datasets` out of logs."""
    if sys.stderr.isatty() or datasets.are_progress_bars_disabled():
        yield
        return
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        datasets.enable_progress_bars()


# --- folders of images -----------------------------------------------------------------------------------------------


def natural_key(text: str) -> tuple[list[str | int], str]:
    """Return a sort key that reads numbers as numbers.

    Example:
        >>> sorted(["s10", "s2", "S1", "s1"], key=natural_key)
        ['S1', 's1', 's2', 's10']
    """
    parts = _DIGITS.split(text.casefold())
    # re.split alternates text and digits, so keys never compare a string with a number. The text itself breaks ties.
    return [int(part) if place % 2 else part for place, part in enumerate(parts)], text


def index_folder(root: Path) -> tuple[list[str], list[str | None]]:
    """List the images below a folder, without opening any.

    Hidden entries are ignored, and so are files whose suffix is not an image's. The label is the name of the first
    folder below `root`; images that lie in `root` itself have none.

    Args:
        root: the folder.

    Returns:
        Paths relative to `root` with forward slashes, folder by folder in natural order, and their labels.

    Raises:
        DataError: a link leads out of the folder, to another folder inside it, or nowhere; names it.
    """
    files: list[str] = []
    labels: list[str | None] = []
    real_root = root.resolve()
    waiting = [""]
    while waiting:
        inside = waiting.pop()
        folders, names = _scan(root, inside, real_root)
        files.extend(f"{inside}{name}" for name in names)
        labels.extend([inside.split("/", 1)[0] or None] * len(names))
        # Reversed, because the list is popped from its end.
        waiting.extend(f"{inside}{name}/" for name in reversed(folders))
    return files, labels


def _scan(root: Path, inside: str, real_root: Path) -> tuple[list[str], list[str]]:
    """Return the sorted names of a folder's sub-folders and image files."""
    folders: list[str] = []
    names: list[str] = []
    with os.scandir(root / inside) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_symlink():
                _check_link(Path(entry.path), real_root)
            if entry.is_dir():
                folders.append(entry.name)
            elif os.path.splitext(entry.name)[1].lower() in IMAGE_SUFFIXES:  # noqa: PTH122 - a Path costs 3 us a file
                names.append(entry.name)
    return sorted(folders, key=natural_key), sorted(names, key=natural_key)


def _check_link(link: Path, real_root: Path) -> None:
    """Refuse a link that leads out of the folder, or that would list a folder twice or for ever."""
    try:
        target = link.resolve(strict=True)
    except (OSError, RuntimeError) as error:
        raise DataError(f"{link} is a link that leads nowhere. Remove it, or restore what it names.") from error
    if not target.is_relative_to(real_root):
        raise DataError(f"{link} is a link that leads out of {real_root}, to {target}. Copy the file in its place.")
    if target.is_dir():
        raise DataError(f"{link} is a link to the folder {target}: its images would count twice. Remove the link.")


def _open_folder(root: Path, split: str | None) -> datasets.Dataset:
    """Index a folder of images as a table of paths."""
    if not root.is_dir():
        raise DataError(f"{root} is not a folder; kind='folder' expects a folder of images.")
    if split is not None:
        names = sorted(entry.name for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
        if split not in names:
            found = ", ".join(names[:10]) or "none"
            raise DataError(f"{root} has no sub-folder {split!r}; found {found}.{did_you_mean(split, names)}")
        root = root / split
    files, labels = index_folder(root)
    if not files:
        raise DataError(f"{root} holds no image; looked for files ending in {', '.join(sorted(IMAGE_SUFFIXES))}.")
    names = sorted({label for label in labels if label is not None}, key=natural_key)
    if names and _SPLIT_FOLDERS.issuperset(name.lower() for name in names):
        raise DataError(f"{root} holds the folders {', '.join(names)}, which look like splits; say which (split=...).")
    start = f"{root.absolute()}{os.sep}"
    paths = pa.array([start + file for file in files], pa.string())
    features = {"image": datasets.Image(decode=False), "file": datasets.Value("string")}
    arrays = [
        pa.StructArray.from_arrays([pa.nulls(len(files), pa.binary()), paths], ["bytes", "path"]),
        pa.array(files),
    ]
    if names:
        features["label"] = datasets.ClassLabel(names=names)
        codes = {name: code for code, name in enumerate(names)}
        arrays.append(pa.array([None if label is None else codes[label] for label in labels], pa.int64()))
    table = pa.table(arrays, names=list(features))
    return datasets.Dataset(table, info=datasets.DatasetInfo(features=datasets.Features(features)))


# --- columns and rows ------------------------------------------------------------------------------------------------


def _present_columns(
    dataset: datasets.Dataset, columns: Mapping[str, str], required: Collection[str] | None, place: str
) -> dict[str, str]:
    """Return the roles whose columns are there; a required one that is missing is an error."""
    _refuse(not columns, f"{place}: no columns were declared; say which column plays which role.")
    unknown = [role for role in required or () if role not in columns]
    _refuse(bool(unknown), f"{place}: required roles {unknown} have no column declared; declared are {list(columns)}.")
    found = dataset.column_names
    for role, name in columns.items():
        if name not in found and (required is None or role in required):
            listed = ", ".join(f"{column!r} ({_spell_feature(dataset.features[column])})" for column in found[:30])
            extra = " A flat folder of images has no labels: put each class into a sub-folder." * (
                role == "label" and set(found) == {"image", "file"}
            )
            raise ColumnError(
                f"{place} has no column {name!r}, declared for the role {role!r}; it has {listed or 'none'}."
                f"{did_you_mean(name, found)}{extra}"
            )
    return {role: name for role, name in columns.items() if name in found}


def _matching_rows(dataset: datasets.Dataset, where: Mapping[str, Cell], place: str) -> NDArray[np.int64]:
    """Return the rows whose columns equal the given values, in order."""
    mask = np.ones(len(dataset), dtype=bool)
    for name, value in where.items():
        if name not in dataset.column_names:
            hint = did_you_mean(name, dataset.column_names)
            listed = ", ".join(dataset.column_names)
            raise ColumnError(f"{place}: where names the column {name!r}, but there are only {listed}.{hint}")
        column = _column(dataset, name)
        feature = dataset.features[name]
        sought = _comparable(value, feature, column.type)
        found = np.zeros(len(dataset), dtype=bool)
        if sought is not None:
            equal = pc.fill_null(pc.equal(column, pa.scalar(sought, column.type)), pa.scalar(False))
            found = np.asarray(equal.to_numpy(zero_copy_only=False), dtype=bool)
        if not found.any():
            raise DataError(
                f"{place}: no row has {name} = {value!r} ({type(value).__name__}); "
                f"the column is {_spell_feature(feature)} and holds {_some_values(column, feature)}."
            )
        mask &= found
    return np.flatnonzero(mask)


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


def _some_values(column: pa.ChunkedArray, feature: object, limit: int = 10) -> str:
    """List a column's values, at most `limit` of them, in natural order."""
    try:
        values = [value for value in pc.unique(column).to_pylist() if value is not None]
    except (pa.ArrowException, NotImplementedError):
        return "values that cannot be compared"
    if isinstance(feature, datasets.ClassLabel):
        values = [feature.names[code] for code in values if 0 <= code < len(feature.names)]
    values.sort(key=lambda value: natural_key(str(value)))
    shown = ", ".join(repr(value) for value in values[:limit])
    return f"{shown} and {len(values) - limit} more" if len(values) > limit else shown or "nulls only"


def _apply_roles(
    dataset: datasets.Dataset,
    columns: Mapping[str, str],
    kept: NDArray[np.int64],
    base: Path | None,
    place: str,
    allow_unlabelled: bool,
) -> datasets.Dataset:
    """Give each role its column, converted, and put the roles first."""
    source = dataset
    taken = set(columns.values())
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
                parts[role] = _as_image_column(part, base, place, name)
            case "label":
                parts[role] = _as_label_column(part, kept, place, name, allow_unlabelled)
            case "text":
                parts[role] = _as_text_column(part, kept, place, name)
            case _:
                parts[role] = part
    joined = [*parts.values(), *([dataset] if dataset is not None else [])]
    return joined[0] if len(joined) == 1 else datasets.concatenate_datasets(joined, axis=1)


def _as_image_column(part: datasets.Dataset, base: Path | None, place: str, name: str) -> datasets.Dataset:
    """Turn whatever holds pictures into stored pictures, `datasets.Image(decode=False)`."""
    feature = part.features["image"]
    stored = datasets.Image(decode=False)
    if isinstance(feature, datasets.Image):
        return part.cast_column("image", stored)
    column = _column(part, "image")
    kind = column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return _image_dataset(pa.nulls(len(column), pa.binary()), _rooted(column.to_pylist(), base))
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return _image_dataset(column.cast(pa.binary()).combine_chunks(), pa.nulls(len(column), pa.string()))
    if pa.types.is_struct(kind) and {"bytes", "path"} & {field.name for field in kind}:
        return _from_struct(column, base)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or isinstance(feature, _ARRAY_FEATURES):
        return _from_arrays(part)
    raise ColumnError(
        f"{place}: the column {name!r}, declared as image, holds {_spell_feature(feature)}; expected pictures, encoded "
        "bytes, a struct of bytes and path, paths as strings, or uint8 arrays."
    )


_ARRAY_FEATURES = (datasets.Array2D, datasets.Array3D)


def _from_struct(column: pa.ChunkedArray, base: Path | None) -> datasets.Dataset:
    """Read a struct of bytes and path, as pandas writes it: fields in any order, one of them perhaps missing."""
    whole = column.combine_chunks()
    whole = whole if isinstance(whole, pa.StructArray) else pa.concat_arrays(column.chunks)
    fields = {field.name for field in whole.type}
    rows = len(whole)
    contents = pc.struct_field(whole, "bytes").cast(pa.binary()) if "bytes" in fields else pa.nulls(rows, pa.binary())
    paths = pc.struct_field(whole, "path").cast(pa.string()) if "path" in fields else pa.nulls(rows, pa.string())
    if contents.null_count:
        # Only where there are no bytes is the path a place to read from; elsewhere it is a name to keep.
        listed = zip(paths.to_pylist(), contents.is_null().to_pylist(), strict=True)
        paths = pa.array([_rooted([path], base)[0].as_py() if absent else path for path, absent in listed], pa.string())
    return _image_dataset(contents, paths)


def _rooted(paths: Sequence[str | None], base: Path | None) -> pa.Array:
    """Make relative paths start from `base`; an absolute one stays, since joining keeps it."""
    if base is None:
        return pa.array(paths, pa.string())
    start = str(base.absolute())
    return pa.array([None if not path else os.path.join(start, path) for path in paths], pa.string())  # noqa: PTH118


def _image_dataset(contents: pa.Array, paths: pa.Array) -> datasets.Dataset:
    """Make a data set of one column of stored pictures."""
    column = pa.StructArray.from_arrays([contents, paths], ["bytes", "path"])
    features = datasets.Features({"image": datasets.Image(decode=False)})
    return datasets.Dataset(pa.table({"image": column}), info=datasets.DatasetInfo(features=features))


def _from_arrays(part: datasets.Dataset) -> datasets.Dataset:
    """Encode nested lists of numbers as PNG, which has no loss."""
    stored = [_stored_image(np.asarray(row), index) for index, row in enumerate(part.with_format(None)["image"])]
    column = pa.array(stored, _STORED_IMAGE)
    return _image_dataset(column.field("bytes"), column.field("path"))


def _stored_image(item: object, row: int) -> dict[str, object]:
    """Return one picture in memory as ``{"bytes", "path"}``."""
    match item:
        case str() | os.PathLike():
            return {"bytes": None, "path": os.fspath(item)}
        case bytes() | bytearray():
            return {"bytes": bytes(item), "path": None}
        case Mapping() if {"bytes", "path"} & set(item):
            return {"bytes": item.get("bytes"), "path": item.get("path")}
        case Image.Image():
            # Turned upright first: PNG would lose the camera's orientation.
            return {"bytes": _encode(ImageOps.exif_transpose(item)), "path": None}
        case np.ndarray():
            return {"bytes": _encode(_array_to_picture(item, row)), "path": None}
        case None:
            return {"bytes": None, "path": None}
    raise ColumnError(f"row {row}: expected a picture, a path, bytes or a uint8 array, found {type(item).__name__}.")


def _array_to_picture(array: NDArray[np.generic], row: int) -> Image.Image:
    """Check that an array is a picture: (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), whole numbers from 0 to 255."""
    squeezed = array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array
    shaped = squeezed.ndim == 2 or (squeezed.ndim == 3 and squeezed.shape[2] in (3, 4))
    whole = array.dtype.kind in "iu" and array.size > 0 and int(array.min()) >= 0 and int(array.max()) <= 255
    if not shaped or not whole:
        raise ColumnError(
            f"row {row}: expected a picture as whole numbers from 0 to 255 of shape (H, W), (H, W, 1), (H, W, 3) or "
            f"(H, W, 4), found {array.dtype} of shape {array.shape}. Scale floats by 255 and convert to uint8."
        )
    return Image.fromarray(np.ascontiguousarray(squeezed.astype(np.uint8)))


def _encode(picture: Image.Image) -> bytes:
    """Encode without loss: as PNG where it knows the mode, else as TIFF."""
    buffer = io.BytesIO()
    png = picture.mode in {"1", "L", "LA", "P", "RGB", "RGBA", "I;16"}
    picture.save(buffer, format="PNG", compress_level=1) if png else picture.save(buffer, format="TIFF")
    return buffer.getvalue()


def _as_label_column(
    part: datasets.Dataset, kept: NDArray[np.int64], place: str, name: str, allow_unlabelled: bool
) -> datasets.Dataset:
    """Turn strings, whole numbers or class labels into class labels whose names are in natural order."""
    codes, names = _class_codes(_column(part, "label"), part.features["label"], place, name)
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
            f"{place}: the column {name!r}, declared as label, holds {_spell_feature(feature)}; expected strings, "
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
        raise ColumnError(
            f"{place}: the column {name!r}, declared as label, holds numbers with a fraction, such as "
            f"{_some_values(column, None, limit=3)}; expected classes."
        ) from error


def _as_text_column(part: datasets.Dataset, kept: NDArray[np.int64], place: str, name: str) -> datasets.Dataset:
    """Check that a column holds strings, and one in each row that is kept."""
    column = _column(part, "text")
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        found = _spell_feature(part.features["text"])
        raise ColumnError(f"{place}: the column {name!r}, declared as text, holds {found}; expected strings.")
    if column.null_count:
        empty = np.asarray(column.is_null().to_numpy())
        missing = kept[empty[kept]]
        _refuse(
            len(missing) > 0, f"{place}: row {missing[:1]} has no text in the column {name!r}; leave such rows out."
        )
    return part


# --- small helpers ---------------------------------------------------------------------------------------------------


def _column(dataset: datasets.Dataset, name: str) -> pa.ChunkedArray:
    """Return one column in Arrow, in the data set's own order of rows."""
    return dataset.select_columns([name]).with_format("arrow")[:].column(name)


def _spell(where: Mapping[str, Cell]) -> str:
    return " and ".join(f"{name} = {value!r}" for name, value in where.items())


def _spell_feature(feature: object) -> str:
    """Name a feature in a word or two.

    Example:
        >>> _spell_feature(datasets.Value("string")), _spell_feature(datasets.ClassLabel(names=["a", "b"]))
        ('string', '2 classes')
    """
    match feature:
        case datasets.Value():
            return str(feature.dtype)
        case datasets.ClassLabel():
            return f"{feature.num_classes} classes"
        case dict():
            return f"struct of {', '.join(feature)}"
    return type(feature).__name__


def _free_name(name: str, taken: Collection[str]) -> str:
    while name in taken:
        name = f"source_{name}"
    return name


def _text(path: str | os.PathLike[str] | None) -> str | None:
    return None if path is None else os.fspath(path)


def _refuse(wrong: bool, message: str) -> None:
    if wrong:
        raise DataError(message)
