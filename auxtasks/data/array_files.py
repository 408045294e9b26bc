"""Arrays in .npy files as NumPy writes them for us: mapped after a check of the header, which NumPy would evaluate.

A header is a Python literal. Of a damaged one NumPy's reader raises whatever a parser and an allocation raise, warns,
or takes another type, order or shape for what was written; here a header says exactly what it must, or it is damaged.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np

from auxtasks.errors import CheckpointError

__all__ = ["Mapped", "map_array"]

Mapped: TypeAlias = "np.memmap[Any, np.dtype[Any]]"

_MAGIC = b"\x93NUMPY\x01\x00"
# Numbers in this machine's order, rows first; no objects, whose reader would run what is written in them.
_HEADER = re.compile(
    rb"\{'descr': '(?P<dtype>[<|][biuf]\d)', 'fortran_order': False, "
    rb"'shape': \((?P<shape>|\d{1,18},|\d{1,18}(, \d{1,18})+)\), \} *\n"
)


def map_array(file: Path, mode: Literal["r", "r+"] = "r") -> Mapped:
    """Map a file that holds one array and nothing else.

    Raises:
        CheckpointError: it is damaged or of another kind; says what is wrong.
        OSError: it cannot be opened.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder) / "rows.npy"
        ...     np.save(file, np.arange(6, dtype=np.int32).reshape(2, 3))
        ...     print(map_array(file).tolist())
        ...     _ = file.write_bytes(file.read_bytes()[:-4])
        ...     try:
        ...         map_array(file)
        ...     except CheckpointError as error:
        ...         print(error)
        [[0, 1, 2], [3, 4, 5]]
        rows.npy has 148 bytes; int32 of shape (2, 3) takes 152
    """
    dtype, shape, offset = _layout(file)
    expected, found = offset + dtype.itemsize * math.prod(shape), file.stat().st_size
    if found != expected:
        raise CheckpointError(f"{file.name} has {found} bytes; {dtype} of shape {shape} takes {expected}")
    array: Mapped = np.memmap(file, dtype=dtype, mode=mode, offset=offset, shape=shape)
    return array


def _layout(file: Path) -> tuple[np.dtype[Any], tuple[int, ...], int]:
    """Return type, shape and place of the array in a file."""
    with file.open("rb") as handle:
        start = handle.read(len(_MAGIC) + 2)
        length = int.from_bytes(start[len(_MAGIC) :], "little")
        header = handle.read(length)
    if len(start) < len(_MAGIC) + 2 or len(header) < length:
        raise CheckpointError(f"{file.name} is cut short: EOF in its header")
    match = _HEADER.fullmatch(header)
    if not start.startswith(_MAGIC) or match is None:
        raise CheckpointError(f"{file.name} has a damaged header")
    try:
        dtype = np.dtype(match["dtype"].decode())
    except TypeError as error:
        raise CheckpointError(f"{file.name} has a damaged header: {error}") from error
    return dtype, tuple(int(size) for size in match["shape"].split(b",") if size), len(start) + length
