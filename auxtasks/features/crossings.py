"""What crosses the cut above a layer, of all items, kept: the layers above train on it as often as wanted.

Pooled features are for a head alone; what crosses a cut is all that the rest of the network reads.

Legend for shapes: N items, B batch, V views, T tokens of a text, D features.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from auxtasks.backbones.base import Backbone
from auxtasks.backbones.text import TextState, TokenBatch
from auxtasks.data.augment import Augment, stack_pictures
from auxtasks.data.images import ImageTable
from auxtasks.data.pair_table import PairTable
from auxtasks.data.rankings import ItemTable
from auxtasks.data.texts import TextTable
from auxtasks.errors import DataError, InputMismatchError
from auxtasks.features.batches import Table, check_table, example_batch, item_noun, model_batch
from auxtasks.features.cache import FeatureCache, described
from auxtasks.features.computation import Computation, evaluating
from auxtasks.features.dtypes import Dtype, Stored, check_dtype, item_bytes
from auxtasks.features.extract import order_of
from auxtasks.features.key import key_of, kind_of, prefix_parts
from auxtasks.seeding import generator

__all__ = ["Crossings", "crossing_bytes", "crossings"]

Rows = NDArray[np.int64]

_BATCH = 256
_MULTIPLE = 8  # to which lengths of texts are rounded up, as `pad_tokens` does


class Crossings:
    """What crosses the cut above a layer, of N items.

    Args:
        kept: (V * N, ...), view by view; of texts (all tokens, D), text by text.
        items: N.
        views: V.
        offsets: (N + 1,) of texts: the tokens of text i are those from offsets[i] to offsets[i + 1].

    Example:
        >>> from auxtasks.backbones import mlp
        >>> from auxtasks.data.feature_columns import feature_table_of
        >>> table = feature_table_of(np.ones((5, 3), np.float32), np.zeros(5, np.int64), ("all",), np.arange(5))
        >>> network = mlp(width=3, hidden=[4, 2])
        >>> kept: Crossings = crossings(network, table, "hidden1", cache=FeatureCache())
        >>> kept.bytes == crossing_bytes(network, table, "hidden1"), tuple(kept.batch(np.array([0, 2])).shape)
        (True, (2, 4))
    """

    def __init__(self, kept: Stored, items: int, *, views: int = 1, offsets: Rows | None = None) -> None:
        self._kept = kept
        self._items = items
        self._offsets = offsets
        self.views = views

    def __len__(self) -> int:
        return self._items

    @property
    def bytes(self) -> int:
        """What is kept takes, on the disk or in memory."""
        return self._kept.nbytes

    def batch(self, rows: Rows, view: int | Rows = 0) -> Tensor | TextState:
        """Return items as ``backbone.upper(layer)`` takes them, float32 on the CPU.

        Args:
            rows: (B,) of the table.
            view: of all of them, or (B,) of each.

        Returns:
            (B, ...), or a `TextState` (B, T, D), padded at the right to the longest text as `pad_tokens` does; the
            padding holds zeros, which no layer reads.

        Raises:
            DataError: there is no such row or view.
        """
        chosen = np.asarray(rows, dtype=np.int64).reshape(-1)
        _check_range("row", chosen, self._items, "items")
        views = np.asarray(view, dtype=np.int64)
        _check_range("view", views, self.views, "views")
        if self._offsets is None:
            return torch.from_numpy(self._kept.rows(views * self._items + chosen))
        starts, lengths = self._offsets[chosen], self._offsets[chosen + 1] - self._offsets[chosen]
        width = -(-int(lengths.max(initial=1)) // _MULTIPLE) * _MULTIPLE
        mask = np.arange(width) < lengths[:, None]
        hidden = torch.zeros(*mask.shape, self._kept.shape[1])
        real = torch.from_numpy(mask)
        hidden[real] = torch.from_numpy(self._kept.rows(_tokens(starts, lengths)))
        return TextState(hidden, real)


def crossings(
    backbone: Backbone,
    table: Table,
    layer: str,
    *,
    cache: FeatureCache,
    dtype: Dtype = "float32",
    views: int = 1,
    augment: Augment | None = None,
    seed: int = 0,
) -> Crossings:
    """Keep what crosses the cut above a layer, of all items; computed in eval mode, in one pass that stops there.

    Args:
        backbone: on the device where it shall compute.
        table: N pictures, texts or vectors.
        layer: the highest one below the cut: what is kept is what ``backbone.lower(layer)`` gives.
        cache: where it is kept.
        dtype: in what numbers it is kept.
        views: of each picture, each augmented in another way; 1 without `augment`.
        augment: changes pictures; view k of item i is a pure function of (seed, k, i), however many views there are.
        seed: of the augmentation.

    Raises:
        LayerError: there is no such layer, or the backbone cannot be cut.
        InputMismatchError: items that the backbone does not take, pairs, or others than pictures to augment.
        DataError: the table is empty, views that are all the same, or there is no room.

    Example:
        >>> from auxtasks.backbones import convnet
        >>> from auxtasks.data import decode_images, load_source
        >>> faces = load_source("builtin:drawn_faces", columns={"image": "image"}, options={"people": 2, "photos": 2})
        >>> table = decode_images(faces, size=(32, 32), channels=1)
        >>> backbone = convnet(size=32).eval()
        >>> kept = crossings(backbone, table, "stage2", cache=FeatureCache())
        >>> kept.batch(np.array([3, 0])).shape, backbone.upper("stage2")(kept.batch(np.array([3, 0]))).shape
        (torch.Size([2, 64, 8, 8]), torch.Size([2, 128]))
    """
    items = _checked(backbone, table, views, augment)
    check_dtype(dtype)
    shape = _kept_shape(backbone, items, layer, views)
    parts = {
        **prefix_parts(backbone, layer),
        "crossing": layer,
        "items": [*kind_of(items), items.fingerprint],
        "dtype": dtype,
        "views": None if augment is None else [views, dataclasses.asdict(augment), seed],
    }
    about = {
        "holds": "what crosses a cut",
        "backbone": described(backbone),
        "layers": {layer: "above"},
        "items": f"{len(items):,} {item_noun(items)}" + (f", {views} augmented views" if augment else ""),
    }
    passes = _Passes(backbone, items, layer, views, augment, seed)
    kept = cache.arrays(key_of(parts), {"crossing": shape}, passes.computation(), about=about, dtype=dtype)
    offsets = items.tokens.offsets if isinstance(items, TextTable) else None
    return Crossings(kept["crossing"], len(items), views=views, offsets=offsets)


def crossing_bytes(backbone: Backbone, table: Table, layer: str, dtype: Dtype = "float32", views: int = 1) -> int:
    """Return what `crossings` will take, in bytes, without computing it."""
    shape = _kept_shape(backbone, _single(table), layer, views)
    return int(np.prod(shape)) * item_bytes(dtype)


class _Passes:
    """How crossings are computed, a batch at a time."""

    def __init__(
        self, backbone: Backbone, table: ItemTable, layer: str, views: int, augment: Augment | None, seed: int
    ) -> None:
        self._backbone = backbone
        self._table = table
        self._layer = layer
        self._augment = augment
        self._seed = seed
        self._order = order_of(table)
        self._views = views
        self._per_view = -(-len(table) // _BATCH)

    def computation(self) -> Computation:
        what = f"what crosses the cut above {self._layer}"
        return Computation(self._views * self._per_view, self.rows, self.values, what)

    def _part(self, block: int) -> tuple[int, Rows]:
        """Return the view and the items of a block."""
        view, place = divmod(block, self._per_view)
        return view, self._order[place * _BATCH : (place + 1) * _BATCH]

    def rows(self, block: int) -> Rows:
        view, rows = self._part(block)
        if isinstance(self._table, TextTable):
            tokens = self._table.tokens
            return _tokens(tokens.offsets[rows], tokens.lengths_of(rows))
        return view * len(self._table) + rows

    def values(self, block: int) -> dict[str, NDArray[np.float32]]:
        view, rows = self._part(block)
        with evaluating(self._backbone):
            found = self._backbone.lower(self._layer)(self._input(view, rows))
            if isinstance(found, TextState):
                found = found.hidden[found.mask]  # (tokens, D), text by text
            return {"crossing": found.float().cpu().numpy()}

    def _input(self, view: int, rows: Rows) -> Tensor | TokenBatch:
        if self._augment is None or not isinstance(self._table, ImageTable):
            return model_batch(self._backbone, self._table, rows)
        pictures = [
            self._augment(self._table.record(int(row))["image"], generator(self._seed, "views", view, int(row)))
            for row in rows
        ]
        return self._backbone.input.normalize(stack_pictures(pictures).to(self._backbone.device))


def _checked(backbone: Backbone, table: Table, views: int, augment: Augment | None) -> ItemTable:
    items = _single(table)
    check_table(backbone, items)
    if len(items) == 0:
        raise DataError(f"the table holds no {item_noun(items)}: there is nothing to keep.")
    if views < 1 or (views > 1 and augment is None):
        raise DataError(
            f"views={views} without augment: all views would be the same. Pass augment=, or leave views at 1."
            if views > 1
            else f"views={views}: at least one view of each picture is kept."
        )
    if augment is not None and not isinstance(items, ImageTable):
        raise InputMismatchError(f"augment changes pictures, the table holds {item_noun(items)}: leave it out.")
    return items


def _single(table: Table) -> ItemTable:
    if isinstance(table, PairTable):
        raise InputMismatchError(
            "what crosses a cut is kept for each item, the table holds pairs: pass its items (table.items), and pair "
            "what the layers above make of them."
        )
    return table


def _kept_shape(backbone: Backbone, table: ItemTable, layer: str, views: int) -> tuple[int, ...]:
    with evaluating(backbone):
        found = backbone.lower(layer)(example_batch(backbone))
    if isinstance(table, TextTable):
        return (int(table.tokens.offsets[-1]), found.hidden.shape[2])
    return (views * len(table), *found.shape[1:])


def _tokens(starts: Rows, lengths: Rows) -> Rows:
    """Return the places of the tokens of several texts, one text after the other."""
    ends = np.cumsum(lengths)
    places: Rows = np.arange(int(ends[-1]) if len(ends) else 0) + np.repeat(starts - (ends - lengths), lengths)
    return places


def _check_range(what: str, found: Rows, count: int, of: str) -> None:
    if found.size and not (found.min() >= 0 and found.max() < count):
        raise DataError(f"{what}s run from {found.min()} to {found.max()}, but {count} {of} are kept.")
