"""From a plan to batches: our own loader from end to end, the same batches for any number of workers or processes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from auxtasks.data.plan import BatchPlan, Pick
from auxtasks.data.worker_errors import CollateWhole, Failed, raising, value_or_failure
from auxtasks.data.worker_sockets import check_worker_sockets
from auxtasks.errors import TrainingError
from auxtasks.seeding import generator
from auxtasks.signals import begin_loader_worker, loader_start_method

__all__ = ["BatchSource", "Feed", "Fingerprinted", "FollowsSteps", "KnowsRows", "Records", "Shard", "read"]

Item = TypeVar("Item")
Batch = TypeVar("Batch")


class Records(Protocol):
    """Anything with numbered records, such as an `ImageTable`.

    Example:
        >>> class Squares:
        ...     fingerprint = "the first five squares"
        ...     def __len__(self):
        ...         return 5
        ...     def record(self, index):
        ...         return {"square": index * index}
        >>> records: Records = Squares()
        >>> read(records, 3, step=7), isinstance(records, Fingerprinted)
        ({'square': 9, 'row': 3, 'step': 7}, True)
    """

    def __len__(self) -> int: ...

    def record(self, index: int) -> Mapping[str, Any]:
        """Return one record by its number."""
        ...


def read(records: Records, row: int, step: int = 0) -> dict[str, Any]:
    """Return one record with its ``row``, which tells two unlabelled items apart, and its ``step``, for curricula."""
    return {**records.record(row), "row": row, "step": step}


@runtime_checkable
class Fingerprinted(Protocol):
    """Records that know a hash of their content, such as an `ImageTable` or a `SentenceTable`."""

    @property
    def fingerprint(self) -> str:
        """Changes with anything that training could see."""
        ...


@dataclasses.dataclass(frozen=True)
class Shard:
    """Which part of every global batch a process computes, and in how many micro-batches.

    Attributes:
        rank: of this process, beginning with 0.
        processes: how many there are.
        accumulation: micro-batches of an optimizer step.
    """

    rank: int = 0
    processes: int = 1
    accumulation: int = 1

    def micro_batches(self, picks: Sequence[Pick]) -> list[list[Pick]]:
        """Split a global batch: micro-batch by micro-batch, and each of them over the processes in order of rank.

        Raises:
            TrainingError: the batch cannot be split evenly; says by how much it is off.

        Example:
            >>> picks = [Pick(row, 0, row) for row in range(8)]
            >>> [[p.row for p in part] for part in Shard(rank=1, processes=2, accumulation=2).micro_batches(picks)]
            [[2, 3], [6, 7]]
        """
        return [list(picks[own]) for own in self.slices(len(picks))]

    def slices(self, items: int) -> list[slice]:
        """Return which of a global batch's items are this process's, micro-batch by micro-batch; see `micro_batches`.

        Example:
            >>> Shard(rank=1, processes=2, accumulation=2).slices(8)
            [slice(2, 4, None), slice(6, 8, None)]
        """
        size = self.micro_batch_size(items)
        starts = [(micro * self.processes + self.rank) * size for micro in range(self.accumulation)]
        return [slice(start, start + size) for start in starts]

    def micro_batch_size(self, items: int) -> int:
        """Return how many of a global batch's items are in a micro-batch of one process.

        Raises:
            TrainingError: the batch cannot be split evenly; says by how much it is off.
        """
        parts = self.processes * self.accumulation
        if items % parts:
            raise TrainingError(
                f"a global batch of {items} items cannot be split evenly over {self.processes} processes x "
                f"{self.accumulation} micro-batches: make the batch size a multiple of {parts}."
            )
        return items // parts


class BatchSource(Protocol):
    """What the training loop asks of its data: a `Feed`, or a `StreamFeed` of what does not fit a disk."""

    @property
    def batch_size(self) -> int:
        """Items of a global batch; of the smallest one where batches are counted in tokens."""
        ...

    def check(self, shard: Shard) -> None:
        """Refuse a shard that its batches cannot be split for, before anything is done."""
        ...

    def batches(self, start: int, stop: int, shard: Shard) -> Iterator[Any]:
        """Yield the micro-batches of steps `start` to `stop` - 1 for one process, in order."""
        ...

    def position(self) -> dict[str, Any] | None:
        """Return where this process stands behind the last batch that was taken, as JSON; None: the step says it."""
        ...

    def go_to(self, position: Mapping[str, Any]) -> None:
        """Go on from what `position` returned."""
        ...


@runtime_checkable
class KnowsRows(Protocol):
    """A source that can tell which rows of the data a step was made of, for messages.

    Example:
        >>> from auxtasks.data.plan import EpochPlan
        >>> feed = Feed(["a", "b"], EpochPlan(2, 2, seed=0, shuffle=False), transform=None, collate=None, seed=0)
        >>> isinstance(feed, KnowsRows), feed.rows(3, Shard()), feed.spell_row(1)
        (True, [[0, 1]], '1')
    """

    def rows(self, step: int, shard: Shard) -> list[list[int]]:
        """Return the rows of a process's micro-batches; none where nobody remembers them."""
        ...

    def spell_row(self, row: int) -> str:
        """Return a row in words that its owner understands."""
        ...


class FollowsSteps:
    """A source without a position of its own: the step alone says which batch comes next."""

    def position(self) -> None:
        """Return None: the step says it."""

    def go_to(self, position: Mapping[str, Any]) -> None:
        """Do nothing: the step says it."""


@dataclasses.dataclass(frozen=True)
class Feed(FollowsSteps, Generic[Item, Batch]):
    """Where the training loop gets its batches from.

    Attributes:
        records: the data, read by row.
        plan: which rows make a step.
        transform: (record, rng) to item; runs in the workers with the item's own random numbers.
        collate: items to batch; picklable.
        seed: the run's seed.
        workers: processes that read and transform; 0 does it in this process.

    Example:
        >>> from auxtasks.data.plan import EpochPlan
        >>> class Squares:
        ...     def __len__(self):
        ...         return 5
        ...     def record(self, index):
        ...         return {"square": index * index}
        >>> plan = EpochPlan(5, 5, seed=0)
        >>> feed: BatchSource = Feed(Squares(), plan, lambda record, rng: record["square"], sorted, seed=0)
        >>> next(feed.batches(0, 1, Shard()))
        [0, 1, 4, 9, 16]
        >>> isinstance(feed, FollowsSteps), feed.position()
        (True, None)
    """

    records: Records
    plan: BatchPlan
    transform: Callable[[Mapping[str, Any], np.random.Generator], Item]
    collate: Callable[[Sequence[Item]], Batch]
    seed: int
    workers: int = 0

    @property
    def batch_size(self) -> int:
        """Items of a global batch; of the smallest one where batches are counted in tokens."""
        return self.plan.batch_size

    def check(self, shard: Shard) -> None:
        """Refuse a shard that the batches cannot be split for.

        Raises:
            TrainingError: says by how much it is off; or workers that could send nothing.
        """
        if self.workers:
            check_worker_sockets()
        shard.micro_batch_size(self.plan.batch_size)  # later batches may be smaller than the first: multiples of it
        shard.micro_batch_size(len(self.plan.batch(0)))

    def rows(self, step: int, shard: Shard) -> list[list[int]]:
        """Return the records of a step's micro-batches of one process."""
        return [[pick.row for pick in picks] for picks in shard.micro_batches(self.plan.batch(step))]

    def spell_row(self, row: int) -> str:
        """Return a record's number, and that of its row in the data set where some rows became no record."""
        source = getattr(self.records, "rows", None)
        if source is None or int(source[row]) == row:
            return str(row)
        return f"{row} (row {int(source[row])} of the data set)"

    def batches(self, start: int, stop: int, shard: Shard) -> Iterator[Batch]:
        """Yield the micro-batches of steps `start` to `stop` - 1 for one process, in order.

        Raises:
            AuxtasksError: that of a record, the transform or the collation, the same for any number of workers.
        """
        sampler = _StepSampler(self.plan, start, stop, shard)
        items = _PlannedItems(self.records, self.transform, self.seed)
        loader: DataLoader[Any] = DataLoader(
            items,
            batch_sampler=sampler,
            collate_fn=CollateWhole(self.collate),
            num_workers=self.workers,
            multiprocessing_context=loader_start_method(self.workers),
            # Its own generator: without one the loader draws a seed from torch's global generator.
            generator=torch.Generator(),
            worker_init_fn=begin_loader_worker,
        )
        return raising(iter(loader))  # its workers begin now, not with the first batch


class _PlannedItems(Dataset[Item | Failed]):
    """Reads and transforms picks; each item gets the generator of its (epoch, number)."""

    def __init__(
        self,
        records: Records,
        transform: Callable[[Mapping[str, Any], np.random.Generator], Item],
        seed: int,
    ) -> None:
        self._records = records
        self._transform = transform
        self._seed = seed

    def __getitem__(self, planned: tuple[int, Pick]) -> Item | Failed:
        step, pick = planned
        rng = generator(self._seed, "transform", pick.epoch, pick.number)
        return value_or_failure(lambda: self._transform(read(self._records, pick.row, step), rng))


class _StepSampler(Sampler[list[tuple[int, Pick]]]):
    """Yields one list of (step, pick) for each micro-batch of all remaining steps: one iterator a run."""

    def __init__(self, plan: BatchPlan, start: int, stop: int, shard: Shard) -> None:
        self._plan = plan
        self._steps = range(start, stop)
        self._shard = shard

    def __iter__(self) -> Iterator[list[tuple[int, Pick]]]:
        for step in self._steps:
            for picks in self._shard.micro_batches(self._plan.batch(step)):
                yield [(step, pick) for pick in picks]

    def __len__(self) -> int:
        return len(self._steps) * self._shard.accumulation
