"""Queries of a batch as one list of distinct items, and which of them must score above which.

Legend for shapes: N distinct items, M places (an item in two queries has two), P pairs of places, Q queries.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from auxtasks.backbones.text import TokenBatch, pad_tokens
from auxtasks.data.augment import stack_pictures
from auxtasks.ranking_losses import ordered_pairs

__all__ = ["NO_KIND", "RankingBatch", "RankingItem", "collate_ranking", "stack_inputs"]

NO_KIND = -1  # of an item that is no corruption


class RankingItem(NamedTuple):
    """One query.

    Attributes:
        inputs: its n items: (T,) int32 tokens, (D,) float32 features or (H, W, C) uint8 pictures.
        keys: which item each is, so that one that is in several queries of a batch is computed once; None where the
            items are of this query alone.
        grades: (n,) float32.
        margin: that this query asks for; NaN asks for none of its own.
        kinds: (n,) number of the corruption that made each item, `NO_KIND` for those that none did.
        pad_id: token id of padding, for texts.
    """

    inputs: tuple[NDArray[np.generic], ...]
    keys: NDArray[np.int64] | None
    grades: NDArray[np.float32]
    margin: float
    kinds: NDArray[np.int64]
    pad_id: int = 0


class RankingBatch(NamedTuple):
    """Queries of a batch.

    Attributes:
        inputs: the N distinct items: pictures (N, C, H, W), vectors (N, D), or tokens (N, T).
        item: (M,) which item stands at each place; query by query.
        query: (M,) of which query each place is, from 0.
        grades: (M,) float32.
        kinds: (M,) see `RankingItem`.
        better, worse: (P,) places of every pair of a better and a worse item of one query.
        margins: (Q,) that each query asks for, NaN for none of its own.

    Example:
        >>> def pair(first: int, second: int) -> RankingItem:
        ...     inputs = tuple(np.full(2, float(key), np.float32) for key in (first, second))
        ...     return RankingItem(inputs, np.array([first, second]), np.float32([1, 0]), np.nan, np.full(2, NO_KIND))
        >>> batch: RankingBatch = collate_ranking([pair(7, 8), pair(8, 9)])
        >>> batch.query.tolist(), batch.grades.tolist(), batch.margins.isnan().tolist()
        ([0, 0, 1, 1], [1.0, 0.0, 1.0, 0.0], [True, True])
    """

    inputs: Tensor | TokenBatch
    item: Tensor
    query: Tensor
    grades: Tensor
    kinds: Tensor
    better: Tensor
    worse: Tensor
    margins: Tensor


def collate_ranking(items: Sequence[RankingItem]) -> RankingBatch:
    """Lay queries one after the other, each distinct item once.

    Example:
        >>> def pair(first: int, second: int) -> RankingItem:
        ...     inputs = tuple(np.full(2, float(key), np.float32) for key in (first, second))
        ...     keys = np.array([first, second])
        ...     return RankingItem(inputs, keys, np.float32([1, 0]), np.nan, np.full(2, NO_KIND))
        >>> batch = collate_ranking([pair(7, 8), pair(8, 9)])  # item 8 is in both
        >>> batch.inputs.shape, batch.item.tolist(), batch.better.tolist(), batch.worse.tolist()
        (torch.Size([3, 2]), [0, 1, 1, 2], [0, 2], [1, 3])
    """
    distinct: list[NDArray[np.generic]] = []
    known: dict[int, int] = {}
    item: list[int] = []
    better, worse = [], []
    start = 0
    for found in items:
        for place, values in enumerate(found.inputs):
            key = None if found.keys is None else int(found.keys[place])
            number = len(distinct) if key is None else known.setdefault(key, len(distinct))
            if number == len(distinct):
                distinct.append(values)
            item.append(number)
        above, below = ordered_pairs(found.grades)
        better.append(above + start)
        worse.append(below + start)
        start += len(found.inputs)
    lengths = torch.tensor([len(found.inputs) for found in items])
    return RankingBatch(
        inputs=stack_inputs(distinct, items[0].pad_id),
        item=torch.tensor(item),
        query=torch.repeat_interleave(torch.arange(len(items)), lengths),
        grades=torch.from_numpy(np.concatenate([found.grades for found in items])),
        kinds=torch.from_numpy(np.concatenate([found.kinds for found in items])),
        better=torch.from_numpy(np.concatenate(better)),
        worse=torch.from_numpy(np.concatenate(worse)),
        margins=torch.tensor([found.margin for found in items], dtype=torch.float32),
    )


def stack_inputs(inputs: Sequence[NDArray[np.generic]], pad_id: int) -> Tensor | TokenBatch:
    """Stack items by what they are: pictures to (N, C, H, W), vectors to (N, D), tokens padded to (N, T).

    Example:
        >>> vectors = [np.array([1.0, 2.0], np.float32), np.array([3.0, 4.0], np.float32)]
        >>> tokens = [np.array([2, 7, 3], np.int32), np.array([2, 3], np.int32)]
        >>> tuple(stack_inputs(vectors, pad_id=0).shape), stack_inputs(tokens, pad_id=0).mask.sum(dim=1).tolist()
        ((2, 2), [3, 2])
    """
    first = inputs[0]
    if first.ndim == 3:
        return stack_pictures([np.asarray(picture, dtype=np.uint8) for picture in inputs])
    if np.issubdtype(first.dtype, np.integer):
        return pad_tokens([np.asarray(tokens, dtype=np.int32) for tokens in inputs], pad_id=pad_id)
    return torch.from_numpy(np.stack([np.asarray(values, dtype=np.float32) for values in inputs]))
