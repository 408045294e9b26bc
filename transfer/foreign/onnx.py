"""ONNX: the initializers of a model's graph, read without onnx; the graph itself is not run.

Field numbers are those of ``onnx.proto3``. An initializer's numbers stand in the file (`raw_data`, or a list by type)
or, of large models, in files beside it.

Exporters keep PyTorch's names, except where they compute with a weight before writing it: a BatchNorm that is folded
into the convolution before it is no longer there, and matrices that were transposed are called such as
``onnx::MatMul_42``. `torch.onnx.export` with ``dynamo=True, optimize=False`` keeps all of them.

Reference: onnx.ai, "Open Neural Network Exchange Intermediate Representation", IR version 10.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from auxtasks.errors import CheckpointError
from transfer.foreign.protobuf import Message
from transfer.foreign.shapes import is_shape

__all__ = ["read_onnx"]

MODEL_GRAPH = 7
GRAPH_INITIALIZER, GRAPH_SPARSE = 5, 15
DIMS, DATA_TYPE, NAME, RAW_DATA = 1, 2, 8, 9  # of a TensorProto
FLOATS, INTS32, INTS64, DOUBLES, UINTS64 = 4, 5, 7, 10, 11
EXTERNAL_DATA, DATA_LOCATION = 13, 14
KEY, VALUE = 1, 2
EXTERNAL = 1  # of a data_location
BFLOAT16, STRING = 16, 8

DTYPES: dict[int, str] = {  # data types of numbers, as they lie in raw_data
    1: "<f4", 2: "u1", 3: "i1", 4: "<u2", 5: "<i2", 6: "<i4", 7: "<i8", 9: "?", 10: "<f2", 11: "<f8", 12: "<u4",
    13: "<u8", 14: "<c8", 15: "<c16", BFLOAT16: "<i2",
}  # fmt: skip
HALVES = (10, BFLOAT16)  # written into the list of int32 bit by bit


def read_onnx(path: Path) -> dict[str, NDArray[Any] | Tensor]:
    """Read the initializers of an ONNX model by their names.

    Raises:
        CheckpointError: the file is missing, damaged or cut short, has no graph or no initializers, one of a type that
            is no plain number, or whose numbers lie outside the model's folder; names it.

    Example:
        >>> read_onnx(Path("no_such.onnx"))  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        auxtasks.errors.CheckpointError: ...no_such.onnx...
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error}.") from error
    model = Message(data, str(path))
    if not model.has(MODEL_GRAPH):
        raise CheckpointError(f"{path} holds no graph: it is no ONNX model, or cut short.")
    graph = model.message(MODEL_GRAPH, "graph")
    initializers = graph.messages(GRAPH_INITIALIZER, "initializer")
    if not initializers:
        sparse = " (it has sparse ones, which are not read)" if graph.has(GRAPH_SPARSE) else ""
        raise CheckpointError(f"{path} is an ONNX model without initializers{sparse}: it holds no weights.")
    tensors: dict[str, NDArray[Any] | Tensor] = {}
    for initializer in initializers:
        name = initializer.text(NAME)
        if name in tensors:
            raise CheckpointError(f"{path} is damaged: two initializers are called {name!r}.")
        tensors[name] = _tensor(initializer, name, path)
    return tensors


def _tensor(initializer: Message, name: str, path: Path) -> NDArray[Any] | Tensor:
    """Return an initializer's numbers in its shape."""
    kind = initializer.integer(DATA_TYPE)
    if kind not in DTYPES:
        what = "texts" if kind == STRING else f"numbers of ONNX's type {kind}"
        raise CheckpointError(f"{path}: the initializer {name!r} holds {what}, which are not read here.")
    dtype, shape = np.dtype(DTYPES[kind]), tuple(initializer.integers(DIMS))
    size = math.prod(shape)
    if not is_shape(shape):
        raise CheckpointError(f"{path} is damaged: {name!r} has the shape {shape}, which no array has.")
    if initializer.integer(DATA_LOCATION) == EXTERNAL:
        values = np.frombuffer(_external(initializer, name, path, size * dtype.itemsize), dtype=dtype)
    elif initializer.has(RAW_DATA):
        raw = initializer.blob(RAW_DATA)
        if len(raw) != size * dtype.itemsize:
            raise _of_another_size(path, name, shape, dtype, f"{len(raw)} bytes")
        values = np.frombuffer(raw, dtype=dtype)
    else:
        values = _listed(initializer, kind, dtype)
    if len(values) != size:
        raise _of_another_size(path, name, shape, dtype, f"{len(values)} numbers")
    array = values.reshape(shape)
    return torch.from_numpy(array.copy()).view(torch.bfloat16) if kind == BFLOAT16 else array


def _listed(initializer: Message, kind: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return numbers that stand in the list of their type; complex ones as real and imaginary part in turn."""
    if dtype.kind == "c":
        parts: NDArray[Any] = initializer.floats(FLOATS) if dtype.itemsize == 8 else initializer.doubles(DOUBLES)
        return parts[: len(parts) // 2 * 2].view(dtype)
    if kind == 1:
        return initializer.floats(FLOATS)
    if kind == 11:
        return initializer.doubles(DOUBLES)
    if kind in (12, 13):  # uint64 beyond 2^63 comes as negative numbers: the same bits
        return np.asarray(initializer.integers(UINTS64), dtype=np.int64).astype(dtype)
    if kind == 7:
        return np.asarray(initializer.integers(INTS64), dtype=np.int64)
    numbers = np.asarray(initializer.integers(INTS32), dtype=np.int64)
    return numbers.astype(np.uint16).view(dtype) if kind in HALVES else numbers.astype(dtype)


def _external(initializer: Message, name: str, path: Path, size: int) -> bytes:
    """Return an initializer's bytes from the file beside the model that it names."""
    settings = {entry.text(KEY): entry.text(VALUE) for entry in initializer.messages(EXTERNAL_DATA, "external data")}
    folder = path.parent.resolve()
    location = settings.get("location", "")
    file = folder if "\0" in location else (folder / location).resolve()
    if not location or not file.is_relative_to(folder) or file == folder:
        raise CheckpointError(
            f"{path}: the numbers of {name!r} are said to be in {location!r}, which is no file in the model's own "
            "folder. Files elsewhere are never read."
        )
    try:
        offset, length = int(settings.get("offset", 0)), int(settings.get("length", size))
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged: where {name!r} lies in {location}: {error}.") from error
    if length != size or offset < 0:
        raise CheckpointError(f"{path}: {name!r} takes {size} bytes; {location} is said to hold {length} at {offset}.")
    if os.path.exists(file) and not file.is_file():  # noqa: PTH110 - unlike a Path, it takes a name that is too long
        raise CheckpointError(f"{path}: the numbers of {name!r} are said to be in {location!r}, which is no file.")
    try:
        there = max(0, file.stat().st_size - offset)  # a damaged shape may ask for more than fits into memory
        with file.open("rb") as stream:
            stream.seek(offset if there else 0)
            content = stream.read(min(length, there))
    except OSError as error:
        raise CheckpointError(f"{path}: the file with the numbers of {name!r} cannot be read: {error}.") from error
    if len(content) != size:
        raise CheckpointError(
            f"{file} is cut short: {name!r} has {size} bytes at byte {offset}, {len(content)} are there."
        )
    return content


def _of_another_size(
    path: Path, name: str, shape: tuple[int, ...], dtype: np.dtype[Any], found: str
) -> CheckpointError:
    return CheckpointError(f"{path} is damaged: {name!r} has the shape {shape} of {dtype.name}, but {found}.")
