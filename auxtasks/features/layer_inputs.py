"""What each layer of a backbone takes, for all items at once: computed from the layer below, once, and kept."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from auxtasks.backbones.base import Backbone
from auxtasks.backbones.linear_map import input_shape
from auxtasks.data.images import ImageTable
from auxtasks.errors import DataError, InputMismatchError
from auxtasks.features.batches import check_table, picture_batch
from auxtasks.features.cache import FeatureCache, described
from auxtasks.features.computation import Computation, evaluating
from auxtasks.features.key import key_of, prefix_parts

__all__ = ["InputSummary", "Inputs", "LayerInputs", "read_rows", "summarize"]

Inputs: TypeAlias = NDArray[np.float32] | NDArray[np.uint8]  # (N, ...)
Rows: TypeAlias = NDArray[np.int64]

_BLOCK = 1024


def read_rows(inputs: Inputs, rows: Rows) -> Tensor:
    """Return rows of an array that may be memory-mapped as a tensor of its own, (B, ...)."""
    return torch.from_numpy(np.take(inputs, rows, axis=0))


@dataclasses.dataclass(frozen=True)
class InputSummary:
    """What a layer's inputs are like, on the scale on which the layer takes them.

    Attributes:
        items: N.
        lowest, highest: of all values.
        mean, std: of each feature, in the shape of an item, float32.
    """

    items: int
    lowest: float
    highest: float
    mean: Tensor
    std: Tensor

    @property
    def constant(self) -> NDArray[np.int64]:
        """Numbers of the features that are the same in all items, of an item flattened."""
        return np.flatnonzero(self.std.flatten().numpy() == 0)


class LayerInputs:
    """The inputs of a backbone's layers.

    Args:
        backbone: its weights may go on learning: inputs are computed from the weights that a layer's lower neighbours
            have when they are asked for.
        source: N pictures, or an array (N, ...) float32 of what the backbone takes.
        cache: keeps inputs of higher layers, memory-mapped; by default they stay in memory, one layer at a time.
        batch_size: items a pass.

    Raises:
        InputMismatchError: a source that does not fit the backbone.
        DataError: no items.

    Example:
        >>> from auxtasks.backbones import mlp
        >>> inputs = LayerInputs(mlp(width=3, hidden=[5, 2]), np.ones((4, 3), np.float32))
        >>> inputs.of("hidden1").shape, inputs.of("hidden2").shape
        ((4, 3), (4, 5))
    """

    def __init__(
        self,
        backbone: Backbone,
        source: ImageTable | NDArray[np.float32],
        cache: FeatureCache | None = None,
        *,
        batch_size: int = _BLOCK,
    ) -> None:
        self._backbone = backbone
        self._cache = cache or FeatureCache()
        self._batch_size = batch_size
        self._lowest, self.fingerprint = _lowest(backbone, source)
        self._newest: tuple[str, Inputs] | None = None

    def __len__(self) -> int:
        return len(self._lowest)

    def of(self, layer: str) -> Inputs:
        """Return what a layer takes: (N, ...), bytes for the lowest layer of pictures, else float32.

        Raises:
            LayerError: no such layer.
            DataError: they would not fit the cache's limit or the disk.
        """
        position = self._backbone.position(layer)
        if position == 0:
            return self._lowest
        below = self._backbone.layer_names[position - 1]
        key = self._key(below)
        if self._newest is not None and self._newest[0] == key:
            return self._newest[1]

        shape = (len(self), *input_shape(self._backbone, layer))
        about = {"holds": f"inputs of {layer}", "backbone": described(self._backbone), "items": f"{len(self):,} items"}
        kept = self._cache.arrays(key, {"inputs": shape}, self._computation(layer, below), about=about)
        inputs = kept["inputs"].whole()
        self._newest = (key, inputs)
        return inputs

    def _key(self, below: str) -> str:
        return key_of({**prefix_parts(self._backbone, below), "layer output": below, "items": self.fingerprint})

    def _computation(self, layer: str, below: str) -> Computation:
        """Return how a layer's inputs are computed, from those of the layer below it: one layer, not all below."""
        backbone, size = self._backbone, self._batch_size
        stage = backbone.stages[backbone.position(below)]
        is_lowest = backbone.position(below) == 0

        def rows(block: int) -> Rows:
            return np.arange(block * size, min((block + 1) * size, len(self)))

        def values(block: int) -> dict[str, NDArray[np.float32]]:
            inputs = self.of(below)
            with evaluating(backbone):
                batch = read_rows(inputs, rows(block)).to(backbone.device)
                batch = backbone.input.normalize(batch) if is_lowest else batch
                return {"inputs": stage.apply(backbone.module, batch).float().cpu().numpy()}

        return Computation(-(-len(self) // size), rows, values, f"the inputs of {layer}")


def summarize(backbone: Backbone, layer: str, inputs: Inputs) -> InputSummary:
    """Describe a layer's inputs in one pass, as the layer takes them.

    Raises:
        DataError: values that are not finite; names the rows.

    Example:
        >>> from auxtasks.backbones import mlp
        >>> values = np.array([[0.0, 1.0], [0.0, 3.0]], np.float32)
        >>> found: InputSummary = summarize(mlp(width=2, hidden=[3]), "hidden1", values)
        >>> found.lowest, found.highest, found.mean.tolist(), found.constant.tolist()
        (0.0, 3.0, [0.0, 2.0], [0])
        >>> read_rows(values, np.array([1])).tolist()
        [[0.0, 3.0]]
    """
    is_lowest = backbone.position(layer) == 0
    shape = inputs.shape[1:]
    total, squares = np.zeros(shape), np.zeros(shape)
    lowest, highest = np.full(shape, np.inf), np.full(shape, -np.inf)
    origin = None
    for start in range(0, len(inputs), _BLOCK):
        batch = read_rows(inputs, np.arange(start, min(start + _BLOCK, len(inputs))))
        values = (backbone.input.normalize(batch) if is_lowest else batch).double().numpy()
        bad = np.flatnonzero(~np.isfinite(values).reshape(len(values), -1).all(axis=1))
        if len(bad):
            raise DataError(
                f"row {start + bad[0]} of the inputs of {layer} holds a value that is NaN or infinite, as do "
                f"{len(bad) - 1} more of rows {start} to {start + len(values) - 1}. Clean or leave out such rows."
            )
        origin = values[0] if origin is None else origin  # squares of differences lose no digits
        total += (values - origin).sum(axis=0)
        squares += np.square(values - origin).sum(axis=0)
        lowest, highest = np.minimum(lowest, values.min(axis=0)), np.maximum(highest, values.max(axis=0))
    mean = total / len(inputs)
    # Exactly 0 for a feature that is constant, and for no other.
    std = np.where(lowest == highest, 0.0, np.sqrt(np.maximum(squares / len(inputs) - mean**2, 1e-24)))
    assert origin is not None  # `LayerInputs` refuses a source without items
    return InputSummary(
        items=len(inputs),
        lowest=float(lowest.min()),
        highest=float(highest.max()),
        mean=torch.from_numpy(mean + origin).float(),
        std=torch.from_numpy(std).float(),
    )


def _lowest(backbone: Backbone, source: ImageTable | NDArray[np.float32]) -> tuple[Inputs, str]:
    """Return what the lowest layer takes, before normalisation, and its fingerprint."""
    if not len(source):
        raise DataError("the source holds no items: there is nothing to learn from.")
    if isinstance(source, ImageTable):
        check_table(backbone, source)
        height, width = backbone.input.shape[1:]
        blocks = [
            picture_batch(source, np.arange(start, min(start + _BLOCK, len(source))), (height, width)).numpy()
            for start in range(0, len(source), _BLOCK)
        ]
        return np.concatenate(blocks), source.fingerprint
    if source.shape[1:] != backbone.input.shape or source.dtype != np.float32:
        raise InputMismatchError(
            f"the backbone takes float32 items of shape {backbone.input.shape}, the array holds {source.dtype} items "
            f"of shape {source.shape[1:]}."
        )
    contiguous = np.ascontiguousarray(source)
    return contiguous, hashlib.sha256(contiguous.data).hexdigest()
