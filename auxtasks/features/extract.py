"""Outputs of several layers for all items of a table, in one pass over the data."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from auxtasks.backbones.base import Backbone
from auxtasks.backbones.pooling import Pool, pool_layer
from auxtasks.backbones.text import TokenBatch
from auxtasks.data.images import ImageTable
from auxtasks.data.pair_table import PairTable
from auxtasks.data.rankings import ItemTable
from auxtasks.data.texts import TextTable
from auxtasks.errors import DataError, InputMismatchError
from auxtasks.features.batches import Inputs, PairBatch, Table, check_table, example_batch, item_noun, model_batch
from auxtasks.features.computation import Computation, evaluating

__all__ = ["extract", "feature_computation", "feature_widths", "layer_shapes", "order_of", "pooled_layers"]

Features = NDArray[np.float32]


def extract(
    backbone: Backbone,
    table: Table,
    layers: Mapping[str, Pool] | Sequence[str],
    *,
    mirror: bool = False,
    batch_size: int = 256,
) -> dict[str, Features]:
    """Compute layers for all items of a table, in eval mode and one pass that stops at the deepest layer.

    Args:
        backbone: on the device where it shall compute; its training mode is restored afterwards.
        table: N pictures, texts or vectors. Texts of like length share a batch, so that little is padded; the result
            for a text does not depend on its neighbours, but for the last digits. Or N pairs of such items, whose
            features are those of the left item minus those of the right one; an item in many pairs is computed once.
        layers: layers, each with its pooling (see `pool_layer`), or names alone for ``"auto"``.
        mirror: average each layer's output with that of the mirror image, itself mirrored back, so that a face turned
            to the left and one turned to the right become more alike. For pictures only.
        batch_size: items a pass.

    Returns:
        Each layer with its features (N, D), float32, in rows of the table.

    Raises:
        InputMismatchError: items that the backbone does not take, see `check_table`, or others than pictures to mirror.
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
    computation = feature_computation(backbone, table, pools, mirror=mirror, batch_size=batch_size)
    features = computation.in_memory(len(table))
    return {name: features[name] for name in pools}


def feature_computation(
    backbone: Backbone, table: Table, layers: Mapping[str, Pool], *, mirror: bool = False, batch_size: int = 256
) -> Computation:
    """Return how the features of a table are computed, a batch a block; see `extract`.

    Raises:
        InputMismatchError: items that the backbone does not take, see `check_table`, or others than pictures to mirror.
        DataError: the table is empty.

    Example:
        >>> from auxtasks.backbones import mlp
        >>> from auxtasks.data.feature_columns import feature_table_of
        >>> table = feature_table_of(np.ones((5, 3), np.float32), np.zeros(5, np.int64), ("all",), np.arange(5))
        >>> network = mlp(width=3, hidden=[4, 2])
        >>> work: Computation = feature_computation(network, table, {"hidden2": "mean"}, batch_size=2)
        >>> work.blocks, work.in_memory(5)["hidden2"].shape, order_of(table).tolist()
        (3, (5, 2), [0, 1, 2, 3, 4])
    """
    check_table(backbone, table)
    if len(table) == 0:
        raise DataError(f"the table holds no {item_noun(table)}: there is nothing to compute features of.")
    blocks = -(-len(table) // batch_size)
    what = f"the features of {', '.join(layers)}"
    if isinstance(table, PairTable):
        of_pairs = _Differences(backbone, table.compact(), layers, mirror=mirror, batch_size=batch_size)
        return Computation(blocks, of_pairs.rows, of_pairs.values, what)
    if mirror and not isinstance(table, ImageTable):
        raise InputMismatchError(
            f"mirror=True averages a picture with its mirror image; the table holds {item_noun(table)}."
        )
    order = order_of(table)

    def rows(block: int) -> NDArray[np.int64]:
        return order[block * batch_size : (block + 1) * batch_size]

    def values(block: int) -> dict[str, Features]:
        with evaluating(backbone):
            found = _layers(backbone, model_batch(backbone, table, rows(block)), layers, mirror)
            return {name: output.float().cpu().numpy() for name, output in found.items()}

    return Computation(blocks, rows, values, what)


class _Differences:
    """Features of pairs: each item of the pairs is computed once, when the first block is asked for."""

    def __init__(
        self, backbone: Backbone, pairs: PairTable, layers: Mapping[str, Pool], *, mirror: bool, batch_size: int
    ) -> None:
        self._pairs = pairs
        self._batch_size = batch_size
        self._of_items = feature_computation(backbone, pairs.items, layers, mirror=mirror, batch_size=batch_size)

    @functools.cached_property
    def _features(self) -> dict[str, Features]:
        return self._of_items.in_memory(len(self._pairs.items))

    def rows(self, block: int) -> NDArray[np.int64]:
        return np.arange(block * self._batch_size, min((block + 1) * self._batch_size, len(self._pairs)))

    def values(self, block: int) -> dict[str, Features]:
        rows = self.rows(block)
        left, right = self._pairs.left[rows], self._pairs.right[rows]
        return {name: values[left] - values[right] for name, values in self._features.items()}


def order_of(table: ItemTable) -> NDArray[np.int64]:
    """Return the order in which rows are computed: texts by length, others as they come."""
    if isinstance(table, TextTable):
        return np.argsort(table.tokens.lengths, kind="stable")
    return np.arange(len(table))


def _layers(backbone: Backbone, x: Tensor | TokenBatch, pools: Mapping[str, Pool], mirror: bool) -> dict[str, Tensor]:
    if not mirror or isinstance(x, TokenBatch):
        return pooled_layers(backbone, x, pools)
    outputs, mirrored = backbone.forward_layers(x, pools), backbone.forward_layers(x.flip(3), pools)
    averages = {
        # Only image layers have a left and a right to turn back.
        name: (output + (mirrored[name].flip(3) if output.ndim == 4 else mirrored[name])) / 2
        for name, output in outputs.items()
    }
    return {name: pool_layer(output, pools[name], backbone.prefix_tokens) for name, output in averages.items()}


def pooled_layers(backbone: Backbone, x: Inputs, pools: Mapping[str, Pool]) -> dict[str, Tensor]:
    """Return layers' outputs, each pooled in its own way, of a batch as `model_input` makes it.

    Of pairs these are the left item's minus the right item's.

    Example:
        >>> import torch
        >>> from auxtasks.backbones import convnet
        >>> network = convnet(size=16, widths=[8], blocks=[1], embedding=4)
        >>> found = pooled_layers(network, torch.zeros(2, 1, 16, 16), {"stage1": "mean", "embedding": "mean"})
        >>> {name: tuple(values.shape) for name, values in found.items()}
        {'stage1': (2, 8), 'embedding': (2, 4)}
        >>> feature_widths(network, {"stage1": "mean", "embedding": "mean"})
        {'stage1': 8, 'embedding': 4}
    """
    if isinstance(x, PairBatch):
        of_items = pooled_layers(backbone, x.items, pools)
        return {name: output[x.left] - output[x.right] for name, output in of_items.items()}
    outputs = backbone.forward_layers(x, pools)
    return {name: pool_layer(output, pools[name], backbone.prefix_tokens) for name, output in outputs.items()}


def layer_shapes(backbone: Backbone) -> dict[str, tuple[int, ...]]:
    """Return the shape of each layer's output for one item, without the batch, from one empty item.

    Example:
        >>> from auxtasks.backbones import convnet
        >>> layer_shapes(convnet(size=32))["stage4"]
        (256, 2, 2)
    """
    found = _probe(backbone, dict.fromkeys(backbone.layer_names, "none"))
    return {name: tuple(output.shape[1:]) for name, output in found.items()}


def feature_widths(backbone: Backbone, layers: Mapping[str, Pool]) -> dict[str, int]:
    """Return how many numbers each pooled layer has: what a cache of features will cost."""
    return {name: output[0].numel() for name, output in _probe(backbone, layers).items()}


def _probe(backbone: Backbone, layers: Mapping[str, Pool]) -> dict[str, Tensor]:
    with evaluating(backbone):
        return pooled_layers(backbone, example_batch(backbone), layers)
