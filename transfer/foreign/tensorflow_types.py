"""TensorFlow's types of numbers, and shapes, as NumPy has them.

Reference: TensorFlow, `types.proto` (numbers of types), `tensor_shape.proto`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from auxtasks.errors import CheckpointError
from transfer.foreign.protobuf import Message
from transfer.foreign.shapes import is_shape

__all__ = ["BFLOAT16", "DTYPES", "as_array", "shape_of", "size_of"]

BFLOAT16 = 14  # NumPy has none: read as float32, whose upper half it is

DTYPES: dict[int, np.dtype[Any]] = {
    number: np.dtype(name)
    for number, name in {
        1: "<f4", 2: "<f8", 3: "<i4", 4: "u1", 5: "<i2", 6: "i1", 8: "<c8", 9: "<i8", 10: "?", 17: "<u2", 18: "<c16",
        19: "<f2", 22: "<u4", 23: "<u8",
    }.items()
}  # fmt: skip


def size_of(number: int, where: str) -> np.dtype[Any]:
    """Return NumPy's type for a number of TensorFlow's table, as the array has it once it is read.

    Raises:
        CheckpointError: a type without plain numbers (strings, quantised, resources).

    Example:
        >>> size_of(1, "weights"), size_of(BFLOAT16, "weights")
        (dtype('float32'), dtype('float32'))
    """
    if number == BFLOAT16:
        return np.dtype("<f4")
    if number not in DTYPES:
        raise CheckpointError(f"{where} is of TensorFlow's type {number}, of which no array is made here.")
    return DTYPES[number]


def as_array(content: NDArray[np.uint8], number: int, shape: tuple[int, ...], where: str) -> NDArray[Any]:
    """Return an array of a type and a shape on top of its bytes.

    Raises:
        CheckpointError: an unknown type, or not as many bytes as the shape needs.

    Example:
        >>> as_array(np.asarray([0x80, 0x3F], np.uint8), BFLOAT16, (1,), "one, in bfloat16")
        array([1.], dtype=float32)
    """
    dtype = size_of(number, where)
    stored = np.dtype("<u2") if number == BFLOAT16 else dtype
    if len(content) != math.prod(shape) * stored.itemsize:
        raise CheckpointError(
            f"{where} is damaged: {len(content)} bytes for the shape {shape} of {dtype.name}, which needs "
            f"{math.prod(shape) * stored.itemsize}."
        )
    numbers = content.view(np.ndarray).view(stored).reshape(shape)
    return (numbers.astype("<u4") << 16).view("<f4") if number == BFLOAT16 else numbers


def shape_of(message: Message) -> tuple[int, ...]:
    """Return the sizes in a TensorShapeProto.

    Raises:
        CheckpointError: a size that is not settled.

    Example:
        >>> two_sizes = bytes([0x12, 2, 8, 5, 0x12, 2, 8, 3])  # field 2 twice, each a message whose field 1 is the size
        >>> shape_of(Message(two_sizes, "toy"))
        (5, 3)
    """
    shape = tuple(dim.integer(1) for dim in message.messages(2, "dimension"))
    if message.integer(3) or not is_shape(shape):
        raise CheckpointError(f"{message.where}: a shape that is not settled, {shape}.")
    return shape
