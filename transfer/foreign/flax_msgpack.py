"""Flax's msgpack files: a tree of names with arrays as its leaves, read without Flax, JAX or msgpack.

Flax writes an array as extension 1 (a scalar as extension 3): an inner message of shape, dtype and bytes. Arrays above
1 GiB are split into chunks.

Reference: the MessagePack specification; flax.serialization (Heek et al., "Flax").
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from auxtasks.errors import CheckpointError
from transfer.foreign.shapes import is_shape

__all__ = ["read_flax_msgpack"]

DEEPEST = 100  # levels of a tree; a damaged file must not exhaust Python's stack
ARRAY, COMPLEX, SCALAR = 1, 2, 3  # Flax's extensions
CHUNKED = "__msgpack_chunked_array__"

NUMBERS = {  # first byte: how the number that follows is packed
    0xCA: ">f", 0xCB: ">d", 0xCC: ">B", 0xCD: ">H", 0xCE: ">I", 0xCF: ">Q", 0xD0: ">b", 0xD1: ">h", 0xD2: ">i",
    0xD3: ">q",
}  # fmt: skip
SIZED = {  # first byte: (what follows, how its length is packed)
    0xC4: ("bytes", ">B"), 0xC5: ("bytes", ">H"), 0xC6: ("bytes", ">I"),
    0xC7: ("extension", ">B"), 0xC8: ("extension", ">H"), 0xC9: ("extension", ">I"),
    0xD9: ("text", ">B"), 0xDA: ("text", ">H"), 0xDB: ("text", ">I"),
    0xDC: ("list", ">H"), 0xDD: ("list", ">I"), 0xDE: ("tree", ">H"), 0xDF: ("tree", ">I"),
}  # fmt: skip
CONSTANTS = {0xC0: None, 0xC2: False, 0xC3: True}
DTYPES = frozenset(
    ["bool", "bfloat16", "complex64", "complex128"]
    + [f"float{bits}" for bits in (16, 32, 64)]
    + [f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)]
)


def read_flax_msgpack(path: Path) -> dict[str, NDArray[Any] | Tensor]:
    """Read all arrays of a msgpack file that Flax wrote; a leaf's name is its way through the tree, joined by slashes.

    Numbers (step counters) become arrays without axes, bfloat16 a tensor; texts and nothings are no weights and are
    left out.

    Raises:
        CheckpointError: the file is missing, damaged or cut short, holds no tree, or an array of unknown type.

    Example:
        >>> read_flax_msgpack(Path("no_such.msgpack"))  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        auxtasks.errors.CheckpointError: ...no_such.msgpack...
    """
    try:
        data = memoryview(path.read_bytes())
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error}.") from error
    try:
        tree, end = _value(data, 0, 0)
        if end != len(data):
            raise _DamagedError(f"{len(data) - end} bytes follow the tree")
        if not isinstance(tree, dict):
            raise _DamagedError(f"it holds no tree of names, but {type(tree).__name__}")
        return {"/".join(names): leaf for names, leaf in _leaves(tree, ())}
    except _DamagedError as error:
        raise CheckpointError(f"{path} is damaged or cut short, or not written by Flax: {error}.") from error


class _DamagedError(Exception):
    """Where and how the bytes do not read as msgpack; becomes a CheckpointError that names the file."""


def _value(data: memoryview, at: int, level: int) -> tuple[Any, int]:
    """Read the value at a position; return it and the position behind it."""
    if level > DEEPEST:
        raise _DamagedError(f"a tree of more than {DEEPEST} levels at byte {at}")
    (first,), at = _packed(data, at, ">B")
    if first in CONSTANTS:
        return CONSTANTS[first], at
    if first < 0x80:
        return first, at
    if first >= 0xE0:
        return first - 0x100, at
    if first in NUMBERS:
        (number,), at = _packed(data, at, NUMBERS[first])
        return number, at
    kind, size, at = _size(data, at, first)
    if kind == "tree":
        return _tree(data, at, size, level)
    if kind == "list":
        items = []
        for _ in range(size):
            item, at = _value(data, at, level + 1)
            items.append(item)
        return items, at
    extension = None
    if kind == "extension":
        (extension,), at = _packed(data, at, ">b")
    content, at = _take(data, at, size)
    if kind == "extension":
        return _extension(extension, content, level), at
    return (_text(content, at) if kind == "text" else content), at


def _size(data: memoryview, at: int, first: int) -> tuple[str, int, int]:
    """Return what a value is, how many bytes or items it has, and the position behind that number."""
    if first < 0x90:
        return "tree", first & 0x0F, at
    if first < 0xA0:
        return "list", first & 0x0F, at
    if first < 0xC0:
        return "text", first & 0x1F, at
    if 0xD4 <= first <= 0xD8:
        return "extension", 1 << (first - 0xD4), at
    if first not in SIZED:
        raise _DamagedError(f"no value of msgpack begins with byte {first:#x}, at byte {at - 1}")
    kind, packed = SIZED[first]
    (size,), at = _packed(data, at, packed)
    return kind, size, at


def _tree(data: memoryview, at: int, size: int, level: int) -> tuple[dict[str, Any], int]:
    tree = {}
    for _ in range(size):
        start = at
        key, at = _value(data, at, level + 1)
        if not isinstance(key, str):
            raise _DamagedError(f"at byte {start} a name is expected, found {type(key).__name__}")
        tree[key], at = _value(data, at, level + 1)
    return tree, at


def _extension(extension: int | None, content: memoryview, level: int) -> Any:
    """Return what Flax packed into an extension."""
    if extension not in (ARRAY, COMPLEX, SCALAR):
        raise _DamagedError(f"an extension of type {extension}, which Flax does not write")
    inner, end = _value(content, 0, level + 1)
    if end != len(content) or not isinstance(inner, list):
        raise _DamagedError("the inside of an array does not read as its shape, dtype and bytes")
    if extension == COMPLEX:
        if len(inner) != 2 or not all(isinstance(part, int | float) for part in inner):
            raise _DamagedError("a complex number that is not of two numbers")
        return np.asarray(complex(*inner))
    if len(inner) != 3 or not isinstance(inner[0], list) or not isinstance(inner[2], memoryview):
        raise _DamagedError("the inside of an array does not read as its shape, dtype and bytes")
    return _array(*inner)


def _array(shape: list[int], dtype: object, content: memoryview) -> NDArray[Any] | Tensor:
    name = _text(dtype, 0) if isinstance(dtype, memoryview) else str(dtype)
    if name not in DTYPES:
        raise _DamagedError(f"an array of unknown type {name!r}")
    known = np.dtype("<i2" if name == "bfloat16" else name)
    if not is_shape(shape) or len(content) != math.prod(shape) * known.itemsize:
        raise _DamagedError(f"an array {tuple(shape)} of {name} in {len(content)} bytes")
    array = np.frombuffer(content, dtype=known).reshape(shape)
    return torch.from_numpy(array.copy()).view(torch.bfloat16) if name == "bfloat16" else array


def _leaves(tree: Mapping[str, Any], above: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], NDArray[Any] | Tensor]]:
    """Yield the arrays of a tree, each with the names on the way to it."""
    for name, value in tree.items():
        way = (*above, name)
        if isinstance(value, list):
            yield from _leaves({str(place): item for place, item in enumerate(value)}, way)
        elif isinstance(value, dict) and CHUNKED in value:
            yield way, _joined(value, way)
        elif isinstance(value, dict):
            yield from _leaves(value, way)
        elif isinstance(value, bool | int | float):
            yield way, np.asarray(value)
        elif isinstance(value, np.ndarray | Tensor):
            yield way, value


def _joined(chunked: Mapping[str, Any], way: tuple[str, ...]) -> NDArray[Any] | Tensor:
    """Join the chunks of an array that was too large for one."""
    try:
        shape = [chunked["shape"][str(place)] for place in range(len(chunked["shape"]))]
        chunks = [chunked["chunks"][str(place)] for place in range(len(chunked["chunks"]))]
        if all(isinstance(chunk, Tensor) for chunk in chunks):
            return torch.cat(chunks).reshape(shape)
        return np.concatenate(chunks).reshape(shape)
    except (KeyError, TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise _DamagedError(f"the chunks of {'/'.join(way)} do not make an array: {error}") from error


def _packed(data: memoryview, at: int, form: str) -> tuple[tuple[Any, ...], int]:
    content, end = _take(data, at, struct.calcsize(form))
    return struct.unpack(form, content), end


def _take(data: memoryview, at: int, size: int) -> tuple[memoryview, int]:
    if at + size > len(data):
        raise _DamagedError(f"{size} bytes are expected at byte {at}, {len(data) - at} are there")
    return data[at : at + size], at + size


def _text(content: memoryview, at: int) -> str:
    try:
        return bytes(content).decode("utf-8")
    except UnicodeDecodeError as error:
        raise _DamagedError(f"a text before byte {at} is no text: {error}") from error
