"""Shapes as files state them, before an array is made of one."""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = ["is_shape"]

_MOST = 1 << 48  # numbers; of an array without any, its other axes, which NumPy multiplies too
_MOST_AXES = 64


def is_shape(shape: Sequence[object]) -> bool:
    """Whether an array may have a shape: not too many whole numbers, none negative, their product within reason.

    Example:
        >>> is_shape((2, 3)), is_shape((-1, -6)), is_shape((0, 1 << 62)), is_shape(("2",))
        (True, False, False, False)
    """
    sizes = [size for size in shape if type(size) is int and size >= 0]
    return len(sizes) == len(shape) <= _MOST_AXES and math.prod(size or 1 for size in sizes) <= _MOST
