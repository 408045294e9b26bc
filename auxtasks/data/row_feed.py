"""Batches of whole rows: where an item is a row of an array, a batch is one read, not one for each item."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from auxtasks.data.loaders import FollowsSteps, Shard
from auxtasks.data.plan import EpochPlan

__all__ = ["FollowsPlan", "RowFeed"]

Batch = TypeVar("Batch")


class FollowsPlan(FollowsSteps):
    """A source whose steps are those of a plan of rows, each of as many as any other.

    Example:
        >>> issubclass(RowFeed, FollowsPlan)
        True
    """

    plan: EpochPlan

    @property
    def batch_size(self) -> int:
        """Items of a global batch."""
        return self.plan.batch_size

    def check(self, shard: Shard) -> None:
        """Refuse a shard that the batches cannot be split for.

        Raises:
            TrainingError: says by how much it is off.
        """
        shard.micro_batch_size(self.plan.batch_size)

    def rows(self, step: int, shard: Shard) -> list[list[int]]:
        """Return the rows of a step's micro-batches of one process."""
        rows = self.plan.rows(step)
        return [rows[own].tolist() for own in shard.slices(self.plan.batch_size)]

    def spell_row(self, row: int) -> str:
        """Return a row's number."""
        return str(row)


@dataclasses.dataclass(frozen=True)
class RowFeed(FollowsPlan, Generic[Batch]):
    """Where the training loop gets batches from when nothing about a single item is random.

    A `Feed` reads, transforms and collates item by item, which costs more than a small network computes. Noise that a
    task adds to such batches is drawn inside its ``forward``, where the loop has seeded it.

    Attributes:
        read: rows (B,) to a batch.
        plan: which rows make a step.

    Example:
        >>> values = np.arange(8)
        >>> feed = RowFeed(lambda rows: values[rows], EpochPlan(8, batch_size=4, seed=0, shuffle=False))
        >>> [batch.tolist() for batch in feed.batches(0, 2, Shard(rank=1, processes=2))]
        [[2, 3], [6, 7]]
    """

    read: Callable[[NDArray[np.int64]], Batch]
    plan: EpochPlan

    def batches(self, start: int, stop: int, shard: Shard) -> Iterator[Batch]:
        """Yield the micro-batches of steps `start` to `stop` - 1 for one process, in order."""
        for step in range(start, stop):
            rows = self.plan.rows(step)
            for own in shard.slices(self.plan.batch_size):
                yield self.read(rows[own])
