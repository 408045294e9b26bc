"""Caffe's ``.caffemodel``: the blobs of each layer, read without Caffe; the network itself is not run.

A layer's blobs have no names, only places: 0 the weight, 1 the bias. Here they are called ``conv1_1/0``, ``conv1_1/1``.
Convolutions are (out, in, H, W) and dense layers (out, in), as PyTorch has them; pictures are B, G, R.

Reference: Jia et al., "Caffe: Convolutional Architecture for Fast Feature Embedding", ACM MM 2014; ``caffe.proto`` of
BVLC/caffe.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from auxtasks.errors import CheckpointError
from transfer.foreign.protobuf import Message
from transfer.foreign.shapes import is_shape

__all__ = ["read_caffe"]

NET_LAYERS, NET_LAYER = 2, 100  # of a NetParameter: of the first format, and of today's
NAME, TYPE, BLOBS = 1, 2, 7  # of a LayerParameter
V1_NAME, V1_TYPE, V1_BLOBS = 4, 5, 6  # of a V1LayerParameter
V1_WORDS = {4: "Convolution", 14: "InnerProduct", 39: "Deconvolution"}  # those whose weight has several axes
OLD_SHAPE = (1, 2, 3, 4)  # of a BlobProto: num, channels, height, width
DATA, SHAPE, DOUBLE_DATA = 5, 7, 8
DIM = 1


def read_caffe(path: Path) -> dict[str, NDArray[Any]]:
    """Read the blobs of a ``.caffemodel``, of both formats (V1 of 2014 and today's), as ``layer/place``.

    Old files give every blob four axes; here a dense layer's weight has two and a bias one. Caffe's BatchNorm keeps
    sums and the factor that divides them, as a third blob: mean and variance are divided here, as Caffe does when it
    computes, and the factor is left out.

    Raises:
        CheckpointError: the file is missing, damaged or cut short, or has no layers with blobs; names the blob.

    Example:
        >>> read_caffe(Path("no_such.caffemodel"))  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        auxtasks.errors.CheckpointError: ...no_such.caffemodel...
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error}.") from error
    net = Message(data, str(path))
    blobs: dict[str, NDArray[Any]] = {}
    for layer in net.messages(NET_LAYERS, "layers"):
        name, kind = layer.text(V1_NAME), V1_WORDS.get(layer.integer(V1_TYPE), "")
        _add(blobs, name, kind, layer.messages(V1_BLOBS, f"blob of {name}"), path)
    for layer in net.messages(NET_LAYER, "layer"):
        name, kind = layer.text(NAME), layer.text(TYPE)
        _add(blobs, name, kind, layer.messages(BLOBS, f"blob of {name}"), path)
    if not blobs:
        raise CheckpointError(f"{path} has no layer with blobs: it is no .caffemodel, or a network without weights.")
    return blobs


def _add(blobs: dict[str, NDArray[Any]], name: str, kind: str, found: list[Message], path: Path) -> None:
    """Enter a layer's blobs under its name."""
    arrays = [_blob(blob, kind, place, f"{name}/{place}", path) for place, blob in enumerate(found)]
    if kind == "BatchNorm" and len(arrays) == 3 and arrays[2].size == 1:
        factor = float(arrays[2].reshape(()))
        with np.errstate(over="ignore", invalid="ignore"):  # infinite numbers are refused where they are copied
            arrays = [array * np.float32(0 if factor == 0 else 1 / factor) for array in arrays[:2]]
    for place, array in enumerate(arrays):
        if f"{name}/{place}" in blobs:
            raise CheckpointError(f"{path}: two layers with blobs are called {name!r}.")
        blobs[f"{name}/{place}"] = array


def _blob(blob: Message, kind: str, place: int, name: str, path: Path) -> NDArray[Any]:
    values: NDArray[Any] = blob.doubles(DOUBLE_DATA) if blob.has(DOUBLE_DATA) else blob.floats(DATA)
    if blob.has(SHAPE):
        shape = tuple(blob.message(SHAPE, "shape").integers(DIM))
    elif any(blob.has(number) for number in OLD_SHAPE):
        shape = _without_padding(tuple(blob.integer(number) for number in OLD_SHAPE), kind, place)
    else:
        shape = (len(values),)
    if not is_shape(shape) or math.prod(shape) != len(values):
        raise CheckpointError(
            f"{path} is damaged or cut short: {name!r} has the shape {shape}, but {len(values)} numbers."
        )
    return values.reshape(shape)


def _without_padding(shape: tuple[int, ...], kind: str, place: int) -> tuple[int, ...]:
    """Return the shape that a blob of four axes stands for: old files fill up with ones from the left."""
    if place == 0 and kind in ("Convolution", "Deconvolution"):
        return shape
    if place == 0 and kind == "InnerProduct":
        return shape[2:]
    while len(shape) > 1 and shape[0] == 1:
        shape = shape[1:]
    return shape
