"""In what numbers outputs are kept: float32, or in half the bytes float16 (more digits) or bfloat16 (more range)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from auxtasks.errors import DataError, did_you_mean

__all__ = ["Dtype", "Stored", "check_dtype", "decode", "empty", "encode", "item_bytes", "numpy_dtype"]

Dtype = Literal["float32", "float16", "bfloat16"]
Raw: TypeAlias = NDArray[Any]  # float32, float16, or the bits of bfloat16 as uint16: NumPy has no bfloat16

_NUMPY: Mapping[Dtype, Any] = {"float32": np.float32, "float16": np.float16, "bfloat16": np.uint16}


def check_dtype(dtype: str) -> None:
    """Refuse a type in which nothing is kept.

    Raises:
        DataError: lists the types.

    Example:
        >>> check_dtype("float16")
        >>> check_dtype("float64")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        auxtasks.errors.DataError: outputs are kept as float32, float16, bfloat16; found dtype="float64"...
    """
    if dtype not in get_args(Dtype):
        hint = did_you_mean(dtype, get_args(Dtype))
        raise DataError(f'outputs are kept as {", ".join(get_args(Dtype))}; found dtype="{dtype}".{hint}')


def numpy_dtype(dtype: Dtype) -> np.dtype[Any]:
    """Return NumPy's type of what is kept.

    Example:
        >>> [(numpy_dtype(dtype).name, item_bytes(dtype)) for dtype in ("float32", "float16")]
        [('float32', 4), ('float16', 2)]
    """
    found: np.dtype[Any] = np.dtype(_NUMPY[dtype])
    return found


def item_bytes(dtype: Dtype) -> int:
    """Return how many bytes a number takes."""
    return numpy_dtype(dtype).itemsize


def encode(values: NDArray[np.float32], dtype: Dtype) -> Raw:
    """Round numbers to the nearest that a type has.

    Raises:
        DataError: a number is beyond the type's range, and would come back as infinity.

    Example:
        >>> decode(encode(np.array([1 / 3, -2.0], np.float32), "bfloat16"), "bfloat16").tolist()
        [0.333984375, -2.0]
    """
    if dtype == "float32":
        return values
    whole = torch.from_numpy(np.ascontiguousarray(values))
    if dtype == "bfloat16":  # the range of float32
        return whole.to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16)
    raw: Raw = whole.to(torch.float16).numpy()
    lost = np.isinf(raw) & np.isfinite(values)
    if lost.any():
        raise DataError(
            f"a value of {np.abs(values[lost]).max():.6g} does not fit float16, which ends at 65504. Keep them as "
            'dtype="bfloat16", which has the range of float32, or as "float32".'
        )
    return raw


def decode(raw: Raw, dtype: Dtype) -> NDArray[np.float32]:
    """Return what was encoded as float32; of float32 the same array."""
    if dtype == "bfloat16":
        # A bfloat16 is the upper half of a float32.
        return (raw.astype(np.uint32) << 16).view(np.float32)
    found: NDArray[np.float32] = raw.astype(np.float32, copy=False)
    return found


def empty(shape: tuple[int, ...], dtype: Dtype) -> Raw:
    """Return a new array in memory.

    Example:
        >>> empty((2, 3), "float16").shape
        (2, 3)
    """
    return np.empty(shape, numpy_dtype(dtype))


@dataclasses.dataclass(frozen=True, eq=False)
class Stored:
    """An array as it is kept, in memory or memory-mapped, read as float32.

    Attributes:
        raw: (N, ...) as kept.
        dtype: in what numbers.

    Example:
        >>> kept = Stored(encode(np.eye(3, dtype=np.float32), "float16"), "float16")
        >>> kept.rows(np.array([2, 0])).tolist(), kept.nbytes
        ([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]], 18)
    """

    raw: Raw
    dtype: Dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, ...)."""
        return self.raw.shape

    @property
    def nbytes(self) -> int:
        """Bytes that it takes where it is kept."""
        return int(self.raw.nbytes)

    def rows(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return some rows as an array of their own, which may be written to."""
        return decode(np.take(np.asarray(self.raw), rows, axis=0), self.dtype)

    def whole(self) -> NDArray[np.float32]:
        """Return all rows: of float32 as they are kept, else a copy in memory."""
        return decode(self.raw, self.dtype)
