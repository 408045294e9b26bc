"""Batches of texts of like length: padding then costs little, and the order stays random."""

from __future__ import annotations

import bisect
import functools
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from auxtasks.data.plan import Pick
from auxtasks.errors import DataError
from auxtasks.seeding import generator

__all__ = ["PADDED_TO", "LengthPlan", "cut_by_length"]

PADDED_TO: Final = 8  # batches are padded to a multiple of it, see `pad_tokens`


class LengthPlan:
    """Every item at most once an epoch, in batches of like length whose order is random: a `BatchPlan`.

    An epoch permutes the items, cuts them into windows of `window` batches, sorts each window by length, cuts it into
    batches, and permutes the batches of the whole epoch. What is too much for whole batches, less than `batch_size`
    items at random, waits for the next epoch.

    Any step can be asked for at any time. Only where batches are counted in tokens do epochs differ in their number of
    batches: the first question then counts those of all epochs before, a sort of all lengths each.

    Args:
        lengths: (N,) tokens of each item.
        batch_size: items of the global batch; with `batch_tokens`, of the smallest one.
        seed: the run's seed.
        window: batches that are sorted together; more waste less on padding, fewer mix better.
        batch_tokens: make batches of at most so many tokens, instead of so many items: short texts come many at a time.
            What is computed counts, padding included: each of an item's rows as its batch's longest item, rounded up to
            a multiple of 8. Their number of items is a multiple of `batch_size`.
        rows_per_item: rows of like length that an item becomes in its batch, such as a text and a variant of it. One
            that is longer than the text may take a batch over `batch_tokens`.

    Raises:
        DataError: too few items for a batch, an empty one, a setting below 1, or too few tokens for the longest.

    Example:
        >>> plan = LengthPlan([3, 9, 4, 8], batch_size=2, seed=0, window=2)
        >>> sorted(sorted(pick.row for pick in plan.batch(step)) for step in range(2))
        [[0, 2], [1, 3]]
    """

    def __init__(
        self,
        lengths: Sequence[int] | NDArray[np.int64],
        batch_size: int,
        seed: int,
        *,
        window: int = 64,
        batch_tokens: int | None = None,
        rows_per_item: int = 1,
    ) -> None:
        self._lengths = np.asarray(lengths, dtype=np.int64)
        if min(batch_size, window, rows_per_item, 1 if batch_tokens is None else batch_tokens) < 1:
            raise DataError(
                f"batch_size, window, batch_tokens and rows_per_item are at least 1, found {batch_size}, {window}, "
                f"{batch_tokens}, {rows_per_item}."
            )
        if len(self._lengths) < batch_size:
            raise DataError(
                f"there are {len(self._lengths)} texts, fewer than a batch of {batch_size}: make the batches smaller."
            )
        shortest, longest = int(self._lengths.min()), int(self._lengths.max())
        if shortest < 1:
            raise DataError(f"item {int(self._lengths.argmin())} has {shortest} tokens: every text has at least one.")
        if batch_tokens is not None and batch_tokens < batch_size * _computed(longest, rows_per_item):
            raise _too_few(batch_tokens, batch_size, longest, rows_per_item)
        self._batch_size = batch_size
        self._seed = seed
        self._window = window * batch_size
        self._batch_tokens = batch_tokens
        self._rows_per_item = rows_per_item
        self._first_steps = [0]  # of epoch 0, 1, ...: epochs differ in length where batches are counted in tokens
        self._epoch = functools.lru_cache(maxsize=2)(self._make_epoch)

    @property
    def batch_size(self) -> int:
        """Items of a global batch; of the smallest one where batches are counted in tokens."""
        return self._batch_size

    def batch(self, step: int) -> list[Pick]:
        """Return the items of a step, in order of length."""
        if self._batch_tokens is None:
            epoch, place = divmod(step, len(self._lengths) // self._batch_size)
            return self._picks(epoch, place)
        while self._first_steps[-1] <= step:
            epoch = len(self._first_steps) - 1
            self._first_steps.append(self._first_steps[-1] + len(self._epoch(epoch)))
        epoch = bisect.bisect_right(self._first_steps, step) - 1
        return self._picks(epoch, step - self._first_steps[epoch])

    def _picks(self, epoch: int, place: int) -> list[Pick]:
        return [Pick(row, epoch, row) for row in self._epoch(epoch)[place].tolist()]

    def _make_epoch(self, epoch: int) -> list[NDArray[np.int64]]:
        rng = generator(self._seed, "length plan", epoch)
        # What is left over is dropped before anything is sorted: else it would be the longest or shortest, every time.
        order = rng.permutation(len(self._lengths))[: len(self._lengths) // self._batch_size * self._batch_size]
        windows = [order[start : start + self._window] for start in range(0, len(order), self._window)]
        batches = [batch for rows in windows for batch in self._batches(rows)]
        return [batches[place] for place in rng.permutation(len(batches))]

    def _batches(self, rows: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        return cut_by_length(
            rows, self._lengths[rows], self._batch_size, self._batch_tokens, rows_per_item=self._rows_per_item
        )


def cut_by_length(
    rows: NDArray[np.int64],
    lengths: NDArray[np.int64],
    batch_size: int,
    batch_tokens: int | None = None,
    *,
    rows_per_item: int = 1,
) -> list[NDArray[np.int64]]:
    """Sort rows by their lengths, (N,) each, and cut them into batches; less than one batch of them is left over.

    Args:
        rows, lengths: of the items.
        batch_size, batch_tokens, rows_per_item: see `LengthPlan`.

    Raises:
        DataError: `batch_tokens` is too few for `batch_size` items.

    Example:
        >>> [batch.tolist() for batch in cut_by_length(np.array([5, 6, 7, 8]), np.array([3, 9, 4, 8]), 2)]
        [[5, 7], [8, 6]]
    """
    order = np.argsort(lengths, kind="stable")
    ordered, lengths = rows[order], lengths[order]
    if batch_tokens is None:
        full = len(ordered) // batch_size
        return list(ordered[: full * batch_size].reshape(full, batch_size))
    batches, stop = [], len(ordered)
    while stop >= batch_size:  # from the longest down: the longest of a batch sets its width
        longest = int(lengths[stop - 1])
        items = min(batch_tokens // _computed(longest, rows_per_item), stop) // batch_size * batch_size
        if not items:
            raise _too_few(batch_tokens, batch_size, longest, rows_per_item)
        batches.append(ordered[stop - items : stop])
        stop -= items
    return batches


def _computed(length: int, rows_per_item: int) -> int:
    """Return the tokens that an item costs in a batch whose longest has `length`, padding included."""
    return -(-length // PADDED_TO) * PADDED_TO * rows_per_item


def _too_few(batch_tokens: int, batch_size: int, longest: int, rows_per_item: int) -> DataError:
    needed = batch_size * _computed(longest, rows_per_item)
    return DataError(
        f"batch_tokens={batch_tokens} is too few for {batch_size} texts of {longest} tokens, each computed as "
        f"{rows_per_item} x {_computed(longest, 1)} with padding: make it at least {needed}, or batch_size smaller."
    )
