"""Training on what is kept: every item once an epoch, in a fresh random order, another view of it in each epoch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from auxtasks.backbones.text import TextState
from auxtasks.errors import DataError
from auxtasks.features.crossings import Crossings
from auxtasks.seeding import generator

__all__ = ["KeptBatch", "epoch_batches"]


class KeptBatch(NamedTuple):
    """Rows (B,) of the table, and what is kept of them: (B, ...), or a `TextState`.

    Example:
        >>> batch = KeptBatch(np.array([2, 0]), torch.ones(2, 5))
        >>> batch.rows.tolist(), tuple(batch.inputs.shape)
        ([2, 0], (2, 5))
    """

    rows: NDArray[np.int64]
    inputs: Tensor | TextState


def epoch_batches(
    kept: Crossings | NDArray[np.float32], batch_size: int, *, seed: int, epoch: int
) -> Iterator[KeptBatch]:
    """Yield the batches of one epoch; the last may be smaller. The order is that of `EpochPlan` for the same seed.

    Of several views an item shows one an epoch, in turn, beginning with a random one: after as many epochs as there
    are views each has been seen once.

    Args:
        kept: what crosses a cut, or features (N, D), in memory or memory-mapped.
        batch_size: B.
        seed: of the order and of the views.
        epoch: beginning with 0; the batches are a pure function of (seed, epoch).

    Raises:
        DataError: no items, or no batch.

    Example:
        >>> features = np.arange(5, dtype=np.float32)[:, None]
        >>> [batch.inputs.shape[0] for batch in epoch_batches(features, 2, seed=0, epoch=0)]
        [2, 2, 1]
        >>> sorted(int(row) for batch in epoch_batches(features, 2, seed=0, epoch=1) for row in batch.rows)
        [0, 1, 2, 3, 4]
    """
    if len(kept) < 1 or batch_size < 1:
        raise DataError(f"an epoch needs items and a batch size of at least 1, found {len(kept)} and {batch_size}.")
    order = generator(seed, "order", epoch).permutation(len(kept))
    return _batches(kept, order, batch_size, seed, epoch)


def _batches(
    kept: Crossings | NDArray[np.float32], order: NDArray[np.int64], batch_size: int, seed: int, epoch: int
) -> Iterator[KeptBatch]:
    views = np.zeros(len(kept), np.int64)
    if isinstance(kept, Crossings) and kept.views > 1:
        views = (generator(seed, "first view").integers(kept.views, size=len(kept)) + epoch) % kept.views
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        if isinstance(kept, Crossings):
            yield KeptBatch(rows, kept.batch(rows, views[rows]))
        else:
            yield KeptBatch(rows, torch.from_numpy(np.take(np.asarray(kept), rows, axis=0)))
