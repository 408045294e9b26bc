"""From rows of a table to what a backbone computes with, without any augmentation: pictures, texts, vectors, pairs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from auxtasks.backbones.base import Backbone
from auxtasks.backbones.text import TokenBatch, pad_tokens
from auxtasks.data.augment import center, stack_pictures
from auxtasks.data.feature_table import FeatureTable
from auxtasks.data.images import ImageTable
from auxtasks.data.pair_table import PairTable
from auxtasks.data.texts import TextTable
from auxtasks.errors import InputMismatchError

__all__ = [
    "Inputs",
    "PairBatch",
    "Rows",
    "Table",
    "check_table",
    "example_batch",
    "item_noun",
    "model_batch",
    "model_input",
    "picture_batch",
]

Table: TypeAlias = ImageTable | TextTable | FeatureTable | PairTable
Rows: TypeAlias = Sequence[int] | NDArray[np.int64]


class PairBatch(NamedTuple):
    """B pairs of M distinct items, so that an item in several pairs is computed once.

    Attributes:
        items: the M items as a backbone takes them.
        left, right: (B,) int64, places among the items.

    Example:
        >>> batch = PairBatch(torch.eye(3), left=torch.tensor([0, 1]), right=torch.tensor([1, 2]))
        >>> len(batch.items), len(batch.left)
        (3, 2)
    """

    items: Tensor | TokenBatch
    left: Tensor
    right: Tensor


Inputs: TypeAlias = Tensor | TokenBatch | PairBatch


def item_noun(table: Table) -> str:
    """Return what a table holds, in the plural, for messages.

    Example:
        >>> from auxtasks.data.feature_columns import feature_table_of
        >>> table = feature_table_of(np.ones((2, 3), np.float32), np.array([0, 1]), ("low", "high"), np.arange(2))
        >>> item_noun(table)
        'vectors'
    """
    match table:
        case TextTable():
            return "texts"
        case FeatureTable():
            return "vectors"
        case PairTable():
            return "pairs"
        case _:
            return "pictures"


def check_table(backbone: Backbone, table: Table) -> None:
    """Refuse a table of another kind than the backbone takes, another width, a text too long, an unknown token.

    Raises:
        InputMismatchError: shows both.

    Example:
        >>> from auxtasks.backbones import mlp
        >>> from auxtasks.data.feature_columns import feature_table_of
        >>> table = feature_table_of(np.ones((2, 3), np.float32), np.array([0, 1]), ("low", "high"), np.arange(2))
        >>> check_table(mlp(width=3, hidden=[4]), table)
        >>> check_table(mlp(width=5, hidden=[4]), table)  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        auxtasks.errors.InputMismatchError: ...shape (5,)...3 features.
    """
    spec = backbone.input
    if isinstance(table, PairTable):
        check_table(backbone, table.items)
    elif isinstance(table, TextTable):
        if spec.kind != "text":
            raise InputMismatchError(
                f"the backbone takes {spec.kind} items of shape {spec.shape}, the table holds texts."
            )
        if len(table.tokens.values):
            spec.check(pad_tokens(_extreme_texts(table), pad_id=table.pad_id))
    elif spec.kind == "text":
        raise InputMismatchError(
            f"the backbone takes texts of at most {spec.length} tokens, the table holds {item_noun(table)}."
        )
    elif isinstance(table, FeatureTable):
        if spec.kind != "features" or table.width != spec.width:
            raise InputMismatchError(
                f"the backbone takes {spec.kind} items of shape {spec.shape}, the table holds vectors of "
                f"{table.width} features."
            )
    elif spec.kind != "image" or table.pixels.shape[3] != spec.channels:
        raise InputMismatchError(
            f"the backbone takes {spec.kind} items of shape {spec.shape}, the table holds pictures with "
            f"{table.pixels.shape[3]} channels. Decode them with channels={spec.channels}."
        )


def _extreme_texts(table: TextTable) -> list[NDArray[np.int32]]:
    """Return the longest text and the one with the highest token: when these two fit, all do."""
    highest = int(np.argmax(table.tokens.values))
    row = int(np.searchsorted(table.tokens.offsets, highest, side="right")) - 1
    return [table.tokens[int(np.argmax(table.tokens.lengths))], table.tokens[row]]


def picture_batch(table: ImageTable, rows: Rows, size: tuple[int, int]) -> Tensor:
    """Return pictures of a table at a size, without any augmentation: uint8 (B, C, H, W).

    Example:
        >>> from auxtasks.data import decode_images, load_source
        >>> source = load_source("builtin:drawn_faces", columns={"image": "image"}, options={"people": 2, "photos": 2})
        >>> table = decode_images(source, size=(32, 32), channels=1)
        >>> batch = picture_batch(table, np.array([0, 3]), size=(16, 16))
        >>> tuple(batch.shape), batch.dtype
        ((2, 1, 16, 16), torch.uint8)
    """
    return stack_pictures([center(table.record(int(row))["image"], size) for row in rows])


def model_batch(backbone: Backbone, table: ImageTable | TextTable | FeatureTable, rows: Rows) -> Tensor | TokenBatch:
    """Return rows of a table as the backbone takes them, on its device; see `check_table`, which comes first.

    Returns:
        Normalised pictures (B, C, H, W) or vectors (B, D), or padded tokens (B, T).

    Example:
        >>> from auxtasks.backbones import convnet
        >>> from auxtasks.data import decode_images, load_source
        >>> faces = load_source("builtin:drawn_faces", columns={"image": "image"}, options={"people": 2, "photos": 2})
        >>> model_batch(convnet(size=32), decode_images(faces, size=(40, 40), channels=1), [3, 0]).shape
        torch.Size([2, 1, 32, 32])
    """
    device = backbone.device
    if isinstance(table, TextTable):
        return _on(device, pad_tokens([table.tokens[int(row)] for row in rows], pad_id=table.pad_id))
    if isinstance(table, FeatureTable):
        raw = torch.from_numpy(table.values[np.asarray(rows, dtype=np.int64)])
    else:
        height, width = backbone.input.shape[1:]
        raw = picture_batch(table, rows, (height, width))
    return backbone.input.normalize(raw.to(device))


def model_input(backbone: Backbone, inputs: Inputs) -> Inputs:
    """Normalise pictures and vectors; tokens are what a backbone takes already."""
    if isinstance(inputs, TokenBatch):
        return inputs
    if isinstance(inputs, PairBatch):
        items = inputs.items
        return inputs if isinstance(items, TokenBatch) else inputs._replace(items=backbone.input.normalize(items))
    return backbone.input.normalize(inputs)


def _on(device: torch.device, batch: TokenBatch) -> TokenBatch:
    return TokenBatch(batch.ids.to(device), batch.mask.to(device))


def example_batch(backbone: Backbone) -> Tensor | TokenBatch:
    """Return an empty batch of one item, on the backbone's device: what shapes are measured with.

    Example:
        >>> from auxtasks.backbones import convnet
        >>> network = convnet(size=16, widths=[8], blocks=[1], embedding=4)
        >>> batch = example_batch(network)
        >>> tuple(batch.shape), tuple(network(model_input(network, batch)).shape)
        ((1, 1, 16, 16), (1, 4))
    """
    device = backbone.device
    example = backbone.input.example()
    return _on(device, example) if isinstance(example, TokenBatch) else example.to(device)
