"""Outputs of several layers for all pictures, in one pass over the data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from auxtasks.backbones.base import Backbone
from auxtasks.backbones.pooling import Pool, pool_layer
from auxtasks.data.augment import center, stack_pictures
from auxtasks.data.images import ImageTable
from auxtasks.errors import DataError, InputMismatchError

__all__ = ["check_channels", "extract", "feature_widths", "layer_shapes", "picture_batch"]

Features = NDArray[np.float32]


def picture_batch(table: ImageTable, rows: Sequence[int] | NDArray[np.int64], size: tuple[int, int]) -> Tensor:
    """Return pictures of a table at a size, without any augmentation: uint8 (B, C, H, W)."""
    return stack_pictures([center(table.record(int(row))["image"], size) for row in rows])


def extract(
    backbone: Backbone,
    table: ImageTable,
    layers: Mapping[str, Pool] | Sequence[str],
    *,
    mirror: bool = False,
    batch_size: int = 256,
) -> dict[str, Features]:
    """Compute layers for all pictures of a table, in eval mode and one pass that stops at the deepest layer.

    Args:
        backbone: on the device where it shall compute; its training mode is restored afterwards.
        table: N pictures.
        layers: layers, each with its pooling (see `pool_layer`), or names alone for ``"auto"``.
        mirror: average each layer's output with that of the mirror image, itself mirrored back, so that a face turned
            to the left and one turned to the right become more alike.
        batch_size: pictures a pass.

    Returns:
        Each layer with its features (N, D), float32, in rows of the table.

    Raises:
        InputMismatchError: the pictures have other channels than the backbone takes.
        DataError: the table is empty.

    Example:
        >>> from auxtasks.backbones import convnet
        >>> from auxtasks.data import decode_images, load_source
        >>> faces = load_source("builtin:drawn_faces", columns={"image": "image"}, options={"people": 2, "photos": 2})
        >>> table = decode_images(faces, size=(32, 32), channels=1)
        >>> extract(convnet(size=32), table, {"stage1": "grid", "embedding": "auto"})["stage1"].shape
        (4, 288)
    """
    pools: dict[str, Pool] = dict(layers) if isinstance(layers, Mapping) else dict.fromkeys(layers, "auto")
    check_channels(backbone, table)
    if len(table) == 0:
        raise DataError("the table holds no pictures: there is nothing to compute features of.")
    was_training = backbone.training
    backbone.eval()
    try:
        batches = list(_batches(backbone, table, pools, mirror, batch_size))
    finally:
        backbone.train(was_training)
    return {name: np.concatenate([batch[name] for batch in batches]) for name in pools}


def _batches(
    backbone: Backbone, table: ImageTable, pools: Mapping[str, Pool], mirror: bool, batch_size: int
) -> Iterator[dict[str, Features]]:
    device = next(backbone.parameters()).device
    size = backbone.input.shape[1:]
    for start in range(0, len(table), batch_size):
        rows = range(start, min(start + batch_size, len(table)))
        pictures = picture_batch(table, rows, (size[0], size[1])).to(device)
        with torch.inference_mode():
            yield {name: output.cpu().numpy() for name, output in _layers(backbone, pictures, pools, mirror).items()}


def _layers(backbone: Backbone, pictures: Tensor, pools: Mapping[str, Pool], mirror: bool) -> dict[str, Tensor]:
    x = backbone.input.normalize(pictures)
    outputs = backbone.forward_layers(x, pools)
    if mirror:
        mirrored = backbone.forward_layers(x.flip(3), pools)
        outputs = {
            # Only image layers have a left and a right to turn back.
            name: (output + (mirrored[name].flip(3) if output.ndim == 4 else mirrored[name])) / 2
            for name, output in outputs.items()
        }
    return {name: pool_layer(output, pools[name], backbone.prefix_tokens).float() for name, output in outputs.items()}


def layer_shapes(backbone: Backbone) -> dict[str, tuple[int, ...]]:
    """Return the shape of each layer's output for one item, without the batch, from one empty item.

    Example:
        >>> from auxtasks.backbones import convnet
        >>> layer_shapes(convnet(size=32))["stage4"]
        (256, 2, 2)
    """
    return {name: tuple(output.shape[1:]) for name, output in _probe(backbone, backbone.layer_names).items()}


def feature_widths(backbone: Backbone, layers: Mapping[str, Pool]) -> dict[str, int]:
    """Return how many numbers each pooled layer has: what a cache of features will cost."""
    outputs = _probe(backbone, layers)
    return {name: pool_layer(outputs[name], pool, backbone.prefix_tokens)[0].numel() for name, pool in layers.items()}


def _probe(backbone: Backbone, layers: Iterable[str]) -> dict[str, Tensor]:
    device = next(backbone.parameters()).device
    was_training = backbone.training
    backbone.eval()
    try:
        with torch.inference_mode():
            return backbone.forward_layers(torch.zeros(1, *backbone.input.shape, device=device), layers)
    finally:
        backbone.train(was_training)


def check_channels(backbone: Backbone, table: ImageTable) -> None:
    """Refuse pictures whose number of channels is not the backbone's.

    Raises:
        InputMismatchError: shows both.
    """
    if backbone.input.kind != "image" or table.pixels.shape[3] != backbone.input.channels:
        raise InputMismatchError(
            f"the backbone takes {backbone.input.kind} items of shape {backbone.input.shape}, the table holds pictures "
            f"with {table.pixels.shape[3]} channels. Decode them with channels={backbone.input.channels}."
        )
