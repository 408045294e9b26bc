"""Files in svmlight format with queries, as LETOR and other sets for learning to rank have them.

A line is ``2 qid:10 1:0.3 5:1.2 # doc7``: grade, query, and the features that are not zero by their index.
"""

from __future__ import annotations

import bz2
import gzip
import io
import itertools
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, Final, cast

import datasets
import numpy as np
import pyarrow as pa

from auxtasks.data.array_datasets import table_dataset
from auxtasks.data.arrow import Cell
from auxtasks.errors import DataError, did_you_mean

__all__ = ["SVMLIGHT_OPTIONS", "read_svmlight"]

SVMLIGHT_OPTIONS: Final[Mapping[str, type]] = {"width": int, "zero_based": bool}

_UNPACKING: Final = (OSError, EOFError, zlib.error)  # of a packed file that is cut off or damaged
_LINES_AT_A_TIME: Final = 1000
# Bytes of a dense table that are always taken, and how many times larger than its numbers a larger one may be.
_ALWAYS_FITS: Final = 1 << 26
_MOST_FOLD: Final = 200
_SHOWN: Final = 60  # characters of a damaged line


def read_svmlight(place: Path, options: Mapping[str, Cell]) -> datasets.Dataset:
    """Read a file in svmlight format: columns ``qid`` (int64), ``label`` (float32) and ``features`` (float32, dense).

    The format does not tell two things, and guessing them of each file alone would give the parts of one set different
    columns. So the first index is 1, as svmlight and LETOR define it, unless `options` say otherwise; a file with the
    index 0 is then an error. And the width is the largest index that occurs: state it where another part has more.

    Args:
        place: the file; one that ends in ``.gz`` or ``.bz2`` is unpacked.
        options: ``width``, the number of features; ``zero_based``, whether the first index is 0.

    Raises:
        DataError: a line is damaged or has no query (names the line), an index is beyond the width, the file is
            empty, or an option is wrong.

    Reference: Joachims, SVMlight, 1999; Qin et al., "LETOR", Information Retrieval 2010.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "train.txt"
        ...     _ = path.write_text("2 qid:1 1:0.5 3:1.0")
        ...     found = read_svmlight(path, {"width": 4})
        ...     print(found[0])
        {'qid': 1, 'label': 2.0, 'features': [0.5, 0.0, 1.0, 0.0]}
    """
    width, zero_based = _checked(options)
    if not place.stat().st_size:
        raise DataError(f"{place} is empty.")
    try:
        matrix, grades, queries = _load(place, zero_based)
    except (ValueError, OverflowError) as error:
        raise DataError(_damage(place, zero_based, str(error))) from error
    except _UNPACKING as error:
        raise DataError(f"{place} cannot be read as svmlight: {error}") from error
    if len(queries) != len(grades):
        raise DataError(_damage(place, zero_based, "a line has no query"))
    if not matrix.nnz:
        raise DataError(f"{place} has no features; expected lines such as 2 qid:10 1:0.3 5:1.2.")
    found = matrix.shape[1]
    if width is not None and found > width:
        raise DataError(f"{place} has {found} features, more than the options' width={width}.")
    _check_size(place, matrix.shape[0], width or found, matrix.nnz)
    matrix.resize(matrix.shape[0], width or found)
    values = matrix.toarray()
    columns = datasets.Features(
        {
            "qid": datasets.Value("int64"),
            "label": datasets.Value("float32"),
            "features": datasets.List(datasets.Value("float32"), length=values.shape[1]),
        }
    )
    arrays = {
        "qid": pa.array(queries, pa.int64()),
        "label": pa.array(grades.astype(np.float32)),
        "features": pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1]),
    }
    return table_dataset(arrays, columns)


def _check_size(place: Path, rows: int, width: int, numbers: int) -> None:
    """Refuse what would not fit into memory because of a single index that is too large."""
    needed = 4 * rows * width
    if needed > max(_ALWAYS_FITS, _MOST_FOLD * 8 * numbers):
        raise DataError(
            f"{place}: {rows:,} rows of {width:,} features would take {needed / 1e9:,.0f} GB, for the {numbers:,} "
            "numbers that the file holds. Is an index, or the option width, wrong? Features are kept dense."
        )


def _checked(options: Mapping[str, Cell]) -> tuple[int | None, bool]:
    for option, value in options.items():
        expected = SVMLIGHT_OPTIONS.get(option)
        if expected is None:
            hint = did_you_mean(option, SVMLIGHT_OPTIONS)
            raise DataError(f"svmlight has no option {option!r}; allowed are {', '.join(SVMLIGHT_OPTIONS)}.{hint}")
        if type(value) is not expected:
            raise DataError(f"svmlight: {option} must be {expected.__name__}, found {value!r}.")
    width = cast(int | None, options.get("width"))
    if width is not None and width < 1:
        raise DataError(f"svmlight: width must be at least 1, found {width}.")
    return width, bool(options.get("zero_based", False))


def _load(source: Path | IO[bytes], zero_based: bool) -> tuple[Any, Any, Any]:
    """Return a sparse matrix (N, D), grades (N,) and queries, which are fewer where a line has none."""
    from sklearn.datasets import load_svmlight_file

    matrix, grades, queries = load_svmlight_file(source, dtype=np.float32, zero_based=zero_based, query_id=True)
    return matrix, grades, queries


def _damage(place: Path, zero_based: bool, cause: str) -> str:
    """Say which line of a file cannot be read, and why."""
    try:
        return _damaged_line(place, zero_based, cause)
    except _UNPACKING as error:
        return f"{place} cannot be read as svmlight: {error}"


def _damaged_line(place: Path, zero_based: bool, cause: str) -> str:
    expected = "Expected lines such as 2 qid:10 1:0.3 5:1.2, their indices rising."
    with _opened(place) as file:
        first = 1
        while lines := list(itertools.islice(file, _LINES_AT_A_TIME)):
            if _complaint(lines, zero_based):
                break
            first += len(lines)
    for number, line in enumerate(lines, first):
        complaint = _complaint([line], zero_based)
        if complaint:
            if not zero_based and not _complaint([line], zero_based=True):
                expected = 'It has the index 0: if it counts from 0, pass options={"zero_based": True}.'
            shown = line.decode(errors="replace").strip()
            shown = shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}..."
            return f"{place} cannot be read as svmlight: line {number} ({shown!r}): {complaint}. {expected}"
    return f"{place} cannot be read as svmlight: {cause}. {expected}"


def _complaint(lines: list[bytes], zero_based: bool) -> str:
    """Return what is wrong with some lines, or nothing."""
    try:
        _, grades, queries = _load(io.BytesIO(b"".join(lines)), zero_based)
    except (ValueError, OverflowError) as error:
        return str(error).rstrip(".") or type(error).__name__
    return "" if len(queries) == len(grades) else "it has no query (qid:...)"


def _opened(place: Path) -> IO[bytes]:
    # By the suffix, as scikit-learn does it.
    match place.suffix.lower():
        case ".gz":
            return cast(IO[bytes], gzip.open(place))
        case ".bz2":
            return cast(IO[bytes], bz2.open(place))
    return place.open("rb")
