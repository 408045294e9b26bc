"""TensorFlow's checkpoints of version 1, one file or several, such as TF-slim's ``resnet_v1_50.ckpt`` of 2016.

A file is a sorted table: its first value names the tensors, each other value is a piece of one, as a protocol buffer.

Reference: TensorFlow, `saved_tensor_slice.proto`, `tensor.proto`, `tensor_slice_reader.cc`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from auxtasks.errors import CheckpointError
from transfer.foreign.protobuf import Message
from transfer.foreign.sstable import MAGIC, read_sstable
from transfer.foreign.tensorflow_slices import Slice, put_together
from transfer.foreign.tensorflow_types import BFLOAT16, as_array, shape_of, size_of

__all__ = ["is_tensorflow_v1", "read_tensorflow_v1"]

META_KEY = b""
STRING = 7
FLOATS, DOUBLES, INTEGERS, HALVES, LONGS, BOOLS = 5, 6, 7, 13, 10, 11  # where a TensorProto keeps its numbers
COMPLEX = {8: (9, "<f4"), 18: (12, "<f8")}  # (field, type of its halves) of each
UNSIGNED_LONG, UNSIGNED_INT = 17, 16
FIELDS = {2: DOUBLES, 9: LONGS, 10: BOOLS, 19: HALVES, BFLOAT16: HALVES, 22: UNSIGNED_INT, 23: UNSIGNED_LONG}

Array = NDArray[Any]
Pieces = dict[str, list[tuple[Slice, Array]]]


def read_tensorflow_v1(path: Path) -> dict[str, Array]:
    """Read all arrays of a checkpoint of version 1, by their variables' names; checksums of all blocks are compared.

    Args:
        path: the file, or one of several ``NAME-00000-of-00002``: all of them are read.

    Raises:
        CheckpointError: no such checkpoint, or a file that is missing, cut short or damaged; names the file.

    Example:
        >>> read_tensorflow_v1(Path("no_such.ckpt"))  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        auxtasks.errors.CheckpointError: ...no_such.ckpt...
    """
    shapes: dict[str, tuple[tuple[int, ...], int]] = {}
    pieces: Pieces = {}
    for file in _files(path):
        table = read_sstable(file)
        try:
            meta = Message(table.pop(META_KEY), str(file)).message(1, "meta")
        except (KeyError, CheckpointError) as error:  # an index of version 2 has a number there
            raise CheckpointError(
                f"{file} is no checkpoint of TensorFlow's version 1: it does not name its tensors."
            ) from error
        for tensor in meta.messages(1, "tensor"):
            if tensor.integer(3) != STRING:
                shapes[tensor.text(1)] = (shape_of(tensor.message(2)), tensor.integer(3))
        for key, value in table.items():
            _add(pieces, Message(value, f"{file}, {key!r}").message(2, "data"), shapes)
    return dict(_whole(shapes, pieces, path))


def is_tensorflow_v1(path: Path) -> bool:
    """Return whether a file is a sorted table with tensors in it; that of version 2 has an index's suffix.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "notes.ckpt"
        ...     _ = path.write_bytes(b"no table at all")
        ...     print(is_tensorflow_v1(path))
        False
    """
    if not path.is_file() or path.suffix == ".index" or path.stat().st_size < len(MAGIC):
        return False
    with path.open("rb") as file:
        file.seek(-len(MAGIC), 2)
        return file.read() == MAGIC


def _files(path: Path) -> list[Path]:
    """Return all files of a checkpoint that one of them belongs to."""
    found = re.fullmatch(r"(.*)-\d{5}-of-(\d{5})", path.name)
    if found is None:
        return [path]
    files = [path.with_name(f"{found[1]}-{place:05d}-of-{found[2]}") for place in range(int(found[2]))]
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise CheckpointError(f"{path.parent} lacks {', '.join(missing)} of a checkpoint of {len(files)} files.")
    return files


def _add(pieces: Pieces, saved: Message, shapes: dict[str, tuple[tuple[int, ...], int]]) -> None:
    """Read one piece, unless it is of a tensor without numbers."""
    name = saved.text(1)
    if name not in shapes:
        return
    shape, number = shapes[name]
    piece = Slice.of(saved.message(2, "slice"), shape)
    pieces.setdefault(name, []).append((piece, _numbers(saved.message(3, "tensor"), number, piece, saved.where)))


def _numbers(tensor: Message, number: int, piece: Slice, where: str) -> Array:
    """Return the array of a TensorProto of a type, whose numbers are bytes, or packed in a field of that type."""
    dtype = size_of(number, where)
    content = tensor.blob(4)
    if len(content):
        return as_array(np.frombuffer(content, np.uint8), number, piece.shape, where)
    values = _packed(tensor, number)
    if len(values) != int(np.prod(piece.shape)):
        raise CheckpointError(f"{where} is damaged: {len(values)} numbers for the shape {piece.shape}.")
    if number == BFLOAT16:
        return as_array(values.astype("<u2").view(np.uint8), number, piece.shape, where)
    stored = values.astype("<u2").view(dtype) if number == 19 else values.astype(dtype)
    return stored.reshape(piece.shape)


def _packed(tensor: Message, number: int) -> Array:
    if number == 1:
        return tensor.floats(FLOATS)
    if number == 2:
        return tensor.doubles(DOUBLES)
    if number in COMPLEX:
        field, half = COMPLEX[number]
        pairs: Array = tensor.floats(field) if half == "<f4" else tensor.doubles(field)
        return pairs[0::2] + 1j * pairs[1::2]
    return np.asarray(tensor.integers(FIELDS.get(number, INTEGERS)), dtype=np.int64)


def _whole(shapes: dict[str, tuple[tuple[int, ...], int]], pieces: Pieces, path: Path) -> Iterator[tuple[str, Array]]:
    for name, (shape, number) in shapes.items():
        where = f"{path}, {name}"
        found = pieces.get(name, [])
        if len(found) == 1 and found[0][0].shape == shape:
            yield name, found[0][1]  # the usual case, without a copy
        else:
            yield name, put_together(found, shape, size_of(number, where), where)
