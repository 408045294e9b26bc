"""A source opened as one table: files, the Hub, the built-ins, and what is in memory already."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import sys
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, TypeAlias, get_args

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from auxtasks.data.array_datasets import table_dataset
from auxtasks.data.arrow import Cell, arrow_column
from auxtasks.data.builtin import load_builtin
from auxtasks.data.folders import open_folder
from auxtasks.data.image_column import STORED_IMAGE, stored_image
from auxtasks.data.svmlight import read_svmlight
from auxtasks.data.text_files import broken_line, check_header, check_text
from auxtasks.errors import DataError, did_you_mean

__all__ = ["Kind", "Source", "files_by_split", "open_source", "quiet_unless_terminal"]

Kind: TypeAlias = Literal["auto", "folder", "parquet", "csv", "json", "text", "svmlight", "hub", "builtin", "memory"]
Source: TypeAlias = str | os.PathLike[str] | datasets.Dataset | Mapping[str, Sequence[object]]

_KIND_OF_SUFFIX: Mapping[str, Kind] = {
    ".parquet": "parquet",
    ".csv": "csv",
    ".tsv": "csv",
    ".json": "json",
    ".jsonl": "json",
    ".ndjson": "json",
    ".txt": "text",
    ".svm": "svmlight",
    ".svmlight": "svmlight",
    ".libsvm": "svmlight",
    ".letor": "svmlight",
}
_SPLIT_NAME = re.compile(r"(train|test|validation|valid|val|dev)(?![a-z])")
# What an empty cell of a column of numbers looks like.
_MISSING_CELLS = ("", "NA", "N/A", "n/a", "#N/A", "NaN", "nan", "NULL", "null", "None")
# Why a path cannot even be looked for: a name too long, links that lead in a circle, a folder that is closed to us.
_NO_PATH = (errno.ENAMETOOLONG, errno.ELOOP, errno.EACCES)
# What `datasets` makes of a table without rows.
_NO_ROWS = re.compile(r"corresponds to no data|BatchSize must be greater than 0, got 0|No columns to parse from file")
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def open_source(
    path: Source,
    kind: Kind,
    columns: Mapping[str, str],
    split: str | None,
    config: str | None,
    options: Mapping[str, Cell] | None,
    cache_dir: str | os.PathLike[str] | None,
) -> tuple[datasets.Dataset, str, Path | None]:
    """Open a source; return it with a name for messages and the folder that its relative paths start from.

    Example:
        >>> found, name, base = open_source("builtin:features", "auto", {}, None, None, None, None)
        >>> len(found), name, base
        (150, 'builtin:features', None)
    """
    if not isinstance(path, str | os.PathLike):
        _refuse(kind not in ("auto", "memory"), f"kind={kind!r} needs a path, not a {type(path).__name__}.")
        _refuse(options is not None, "options belong to a built-in source; this one is in memory.")
        return _open_memory(path, columns, split), "the data set in memory", None
    name = os.fspath(path)
    _check_name(name, kind)
    found = _guess_kind(name) if kind == "auto" else kind
    _refuse(found == "memory", f"kind='memory' takes a datasets.Dataset or a mapping of lists, not the path {name!r}.")
    _refuse(
        options is not None and found not in ("builtin", "svmlight"),
        f"options belong to a built-in source, or to a file in svmlight format; {name!r} is none.",
    )
    _refuse(config is not None and found != "hub", f"config belongs to a Hub data set; {name!r} is none.")
    if found == "builtin":
        _refuse(split is not None, f"{name} has no splits (split={split!r}); choose rows by its options instead.")
        return load_builtin(name.removeprefix("builtin:"), options or {}), name, None
    if found == "hub":
        return _open_hub(name, split, config, cache_dir), f"the Hub data set {name!r}", None
    place = Path(name)
    if not place.exists():
        raise DataError(f"{name!r} is not there: no such file or folder (looked in {place.absolute().parent}).")
    _refuse(
        not place.is_dir() and not place.is_file(),
        f"{name!r} is a pipe, a socket or a device, which may never end: expected a file or a folder.",
    )
    if found == "folder":
        return open_folder(place, split), str(place), None
    if found == "svmlight" and place.is_file():
        # As the other files of one table, which `datasets` calls "train".
        loaded = datasets.DatasetDict({"train": read_svmlight(place, options or {})})
        return _choose_split(loaded, split, str(place)), str(place), place.parent
    return _open_table(place, found, columns, split, cache_dir), str(place), place if place.is_dir() else place.parent


def _check_name(name: object, kind: str) -> None:
    """Refuse a kind that does not exist, and a path that no disk can hold."""
    if kind not in get_args(Kind):
        raise DataError(
            f"kind is one of {', '.join(get_args(Kind))}; found {kind!r}.{did_you_mean(kind, get_args(Kind))}"
        )
    _refuse(not isinstance(name, str), f"a path is text; found {name!r}.")
    _refuse(not name, "the path is empty: expected a file, a folder, a Hub name or builtin:NAME.")
    try:
        os.stat(str(name))  # noqa: PTH116 - a Path would not tell why
    except OSError as error:
        _refuse(error.errno in _NO_PATH, f"{name!r} is no path that can be read: {error.strerror}.")
    except ValueError:
        pass  # a NUL byte: no such file, as is told below


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
        return "parquet" if _holds_parquet(path) else "folder"
    suffixes = [suffix.lower() for suffix in path.suffixes]
    suffix = suffixes[-2] if len(suffixes) > 1 and suffixes[-1] in (".gz", ".bz2") else (suffixes or [""])[-1]
    if suffix in _KIND_OF_SUFFIX:
        return _KIND_OF_SUFFIX[suffix]
    if not path.exists():
        if _HUB_NAME.fullmatch(name) and not name.startswith("."):
            return "hub"
        raise DataError(f"{name!r} is not there: no such file or folder (looked in {path.absolute().parent}).")
    known = ", ".join(sorted(_KIND_OF_SUFFIX))
    found = f"ends in {suffix}" if suffix else "has no suffix"
    raise DataError(f"{name!r} {found}; expected a folder or one of {known}. If it is one of these, state its kind.")


def _holds_parquet(folder: Path) -> bool:
    """Whether parquet files are in a folder, or in one in it that is named as a split."""
    splits = (inner for inner in folder.iterdir() if _SPLIT_NAME.match(inner.name) and inner.is_dir())
    return any(any(place.glob("[!.]*.parquet")) for place in (folder, *splits))


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
    for name, values in source.items():
        if isinstance(values, str | bytes) or not hasattr(values, "__len__"):
            raise DataError(f"the column {name!r} in memory is {type(values).__name__}; expected a list of its values.")
    lengths = {name: len(values) for name, values in source.items()}
    _refuse(len(set(lengths.values())) > 1, f"the columns in memory differ in length: {lengths}.")
    encoded: dict[str, object] = dict(source)
    features: dict[str, object] = {}
    image = columns.get("image")
    if image in encoded:
        # As stored pictures from the start: nested lists of numbers would take a hundred times the memory.
        encoded[image] = [stored_image(item, row) for row, item in enumerate(source[image])]
        features[image] = datasets.Image(decode=False)
    try:
        others = {name: values for name, values in encoded.items() if name not in features}
        pictures = {name: pa.array(encoded[name], STORED_IMAGE) for name in features}
        if not others:
            return table_dataset(pictures, datasets.Features(features))
        dataset = datasets.Dataset.from_dict(others)
        for name, feature in features.items():
            dataset = dataset.add_column(name, pictures[name], feature=feature)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise DataError(f"the columns in memory cannot be made a table: {error}.") from error
    return dataset


def _open_hub(
    name: str, split: str | None, config: str | None, cache_dir: str | os.PathLike[str] | None
) -> datasets.Dataset:
    """Load a data set of the Hugging Face Hub, with its many ways to fail told as one."""
    try:
        with quiet_unless_terminal():
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
        if kind != "parquet":
            check_text(place)
        with quiet_unless_terminal():
            files = files_by_split(place.rglob("*.parquet"), place) if place.is_dir() else str(place)
            arguments = _csv_arguments(place, columns) if kind == "csv" else {}
            if kind == "text":
                arguments = {"encoding": "utf-8-sig"}  # the mark that some editors start a file with is no text
            loaded = datasets.load_dataset(kind, data_files=files, cache_dir=_text(cache_dir), **arguments)
    except DataError:
        raise
    except Exception as error:  # pandas, Arrow and datasets raise their own types for a damaged file
        raise DataError(_why_unread(place, kind, error)) from error
    dataset = _choose_split(loaded, split, str(place))
    return _without_blank_rows(dataset) if kind == "text" else dataset


def _why_unread(place: Path, kind: Kind, error: Exception) -> str:
    """Say why a file cannot be read: by its line where that can be found, else as the libraries say it."""
    causes = [str(cause) for cause in (error.__cause__, error) if cause is not None and str(cause)]
    if any(_NO_ROWS.search(cause) for cause in causes):
        return f"{place} has no rows."
    line = ""
    with contextlib.suppress(OSError, EOFError, zlib.error, UnicodeDecodeError):  # packed, and damaged as such
        line = broken_line(place) if kind == "json" and place.is_file() else ""
    # What `datasets` says last is that it failed, which is known by now.
    return f"{place} cannot be read as {kind}: {line or (causes[0] if causes else type(error).__name__)}"


def _without_blank_rows(dataset: datasets.Dataset) -> datasets.Dataset:
    """Leave out the blank lines of a text file: they part its paragraphs, and are no text."""
    blank = pc.equal(pc.utf8_length(pc.utf8_trim_whitespace(arrow_column(dataset, "text"))), 0)
    filled = np.flatnonzero(~np.asarray(blank.to_numpy(zero_copy_only=False), dtype=bool))
    return dataset if len(filled) == len(dataset) else dataset.select(filled)


def _csv_arguments(place: Path, columns: Mapping[str, str]) -> dict[str, object]:
    """Return how to read a CSV file: image, label and text columns as the strings they are.

    Inferred types would turn the label 001 into 1, and a person called "NA" into nobody.
    """
    separator = "\t" if ".tsv" in [suffix.lower() for suffix in place.suffixes] else ","
    strings = {columns[role] for role in ("image", "label", "text") if role in columns}
    header = check_header(place, separator)
    return {
        "sep": separator,
        "converters": {name: str for name in header if name in strings},
        "keep_default_na": False,
        "na_values": {name: [] if name in strings else list(_MISSING_CELLS) for name in header},
    }


def files_by_split(paths: Iterable[Path], place: Path) -> dict[str, list[str]]:
    """List files below a folder by split: the file's or a folder's name says which, else it is "train".

    Example:
        >>> files = [Path("data/train/a.txt"), Path("data/test/b.txt")]
        >>> files_by_split(files, Path("data"))
        {'test': ['data/test/b.txt'], 'train': ['data/train/a.txt']}
    """
    found: dict[str, list[str]] = {}
    for path in sorted(paths):
        inside = path.relative_to(place)
        if any(part.startswith(".") for part in inside.parts):
            continue
        names = [match[1] for part in reversed(inside.parts) if (match := _SPLIT_NAME.match(part))]
        found.setdefault(names[0] if names else "train", []).append(str(path))
    return found


_SLICE = re.compile(r"(?P<name>[^\[\]]+)\[(?P<first>-?\d*):(?P<last>-?\d*)\]")


def _choose_split(loaded: datasets.Dataset | datasets.DatasetDict, split: str | None, place: str) -> datasets.Dataset:
    """Return the split that was asked for, or rows of it such as ``train[:100]``, or the only split."""
    if not isinstance(loaded, datasets.DatasetDict):
        return loaded
    names = list(loaded)
    if split is None and len(names) == 1:
        return loaded[names[0]]
    if split is None:
        raise DataError(f"{place} has the splits {', '.join(names)}; say which one (split=...).")
    sliced = _SLICE.fullmatch(split)
    name = sliced["name"] if sliced else split
    if name not in loaded:
        raise DataError(f"{place} has no split {name!r}; it has {', '.join(names)}.{did_you_mean(name, names)}")
    if sliced is None:
        return loaded[name]
    first, last = (int(sliced[end]) if sliced[end] else None for end in ("first", "last"))
    rows = range(len(loaded[name]))[first:last]
    if not rows:
        raise DataError(f"{place}: {split!r} holds no rows; {name} has {len(loaded[name])}.")
    return loaded[name].select(rows)


@contextlib.contextmanager
def quiet_unless_terminal() -> Iterator[None]:
    """Keep the progress bars of `datasets` out of logs.

    Example:
        >>> with quiet_unless_terminal():
        ...     print(len(datasets.Dataset.from_dict({"a": [1, 2]}).map(lambda row: row)))
        2
    """
    if sys.stderr.isatty() or datasets.are_progress_bars_disabled():
        yield
        return
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        datasets.enable_progress_bars()


def _text(path: str | os.PathLike[str] | None) -> str | None:
    return None if path is None else os.fspath(path)


def _refuse(wrong: bool, message: str) -> None:
    if wrong:
        raise DataError(message)
