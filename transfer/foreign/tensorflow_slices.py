"""Pieces of a variable that TensorFlow wrote in parts: where each lies, its key in the index, and the whole of them.

Reference: TensorFlow, `tensor_slice.proto`, `saved_tensor_slice_util.cc` (the key), `ordered_code.cc` (how it is
written so that keys sort as numbers do).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from auxtasks.errors import CheckpointError
from transfer.foreign.protobuf import Message

__all__ = ["Slice", "named_key", "put_together"]

WHOLE = -1  # as the length of an axis: all of it


@dataclasses.dataclass(frozen=True)
class Slice:
    """A box within an array.

    Attributes:
        starts: on each axis.
        lengths: on each axis, as they are written: -1 is the whole axis.
        shape: on each axis, in elements.
    """

    starts: tuple[int, ...]
    lengths: tuple[int, ...]
    shape: tuple[int, ...]

    @classmethod
    def of(cls, message: Message, whole: Sequence[int]) -> Slice:
        """Read a TensorSliceProto of an array of a shape.

        Raises:
            CheckpointError: the box does not lie within the array.
        """
        extents = message.messages(1, "extent")
        if not extents:  # nothing said: all of it
            return cls((0,) * len(whole), (WHOLE,) * len(whole), tuple(whole))
        starts = tuple(extent.integer(1) for extent in extents)
        lengths = tuple(extent.integer(2, WHOLE) for extent in extents)
        sizes = zip(lengths, whole, strict=False)
        shape = tuple(size if length == WHOLE else length for length, size in sizes)
        fits = len(extents) == len(whole) and all(
            min(start, length) >= 0 and start + length <= size
            for start, length, size in zip(starts, shape, whole, strict=False)
        )
        if not fits:
            raise CheckpointError(f"{message.where} is damaged: {starts} + {lengths} is no part of {tuple(whole)}.")
        return cls(starts, lengths, shape)

    @property
    def box(self) -> tuple[slice, ...]:
        """Where it lies, as an index into the array."""
        return tuple(slice(start, start + size) for start, size in zip(self.starts, self.shape, strict=True))

    def words(self) -> str:
        """Return it as TensorFlow prints it: start,length of each axis."""
        return ":".join(
            "-" if length == WHOLE else f"{start},{length}"
            for start, length in zip(self.starts, self.lengths, strict=True)
        )


def put_together(
    pieces: Sequence[tuple[Slice, NDArray[Any]]], shape: tuple[int, ...], dtype: np.dtype[Any], where: str
) -> NDArray[Any]:
    """Return the array that pieces make.

    Raises:
        CheckpointError: they do not cover it, or overlap.

    Example:
        >>> halves = [Slice((0,), (1,), (1,)), Slice((1,), (1,), (1,))]
        >>> put_together([(half, np.full(1, place)) for place, half in enumerate(halves)], (2,), np.dtype(int), "toy")
        array([0, 1])
    """
    # Counted first: a damaged shape may ask for more than fits into memory.
    is_whole = sum(math.prod(piece.shape) for piece, _ in pieces) == math.prod(shape)
    whole = np.zeros(shape if is_whole else 0, dtype=dtype)
    seen = np.zeros(whole.shape, dtype=bool)
    for piece, values in pieces if is_whole else ():
        whole[piece.box] = values
        seen[piece.box] = True
    if not is_whole or not seen.all():
        raise CheckpointError(
            f"{where} is damaged or incomplete: its {len(pieces)} pieces do not make up the shape {shape} exactly: "
            + "; ".join(piece.words() for piece, _ in pieces)
        )
    return whole


def named_key(name: bytes, piece: Slice) -> bytes:
    r"""Return the key under which the index has a piece.

    Example:
        >>> named_key(b"w", Slice((0, 0), (2, -1), (2, 3)))
        b'\x00w\x00\x01\x01\x02\x80\x82\x80\x7f'
    """
    escaped = name.replace(b"\x00", b"\x00\xff")  # 0xff, the other byte with a meaning, is in no UTF-8 text
    ends = b"".join(_signed(start) + _signed(length) for start, length in zip(piece.starts, piece.lengths, strict=True))
    return _unsigned(0) + escaped + b"\x00\x01" + _unsigned(len(piece.starts)) + ends


def _unsigned(value: int) -> bytes:
    """Write the number of bytes, then the bytes, highest first."""
    size = (value.bit_length() + 7) // 8
    return bytes([size]) + value.to_bytes(size, "big")


def _signed(value: int) -> bytes:
    """Write a number in as few bytes as it needs; the leading ones of the first two say how many they are."""
    size = (value if value >= 0 else ~value).bit_length() // 7 + 1
    written = bytearray(value.to_bytes(size, "big", signed=True))
    ones = ((1 << size) - 1) << (16 - size)
    written[0] ^= ones >> 8
    if size > 1:
        written[1] ^= ones & 0xFF
    return bytes(written)
