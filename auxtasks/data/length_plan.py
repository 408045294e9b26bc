"""Batches of texts of like length: padding then costs little, and the order stays random."""

from __future__ import annotations

import bisect
import functools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from auxtasks.data.plan import Pick
from auxtasks.errors import DataError
from auxtasks.seeding import generator

__all__ = ["LengthPlan"]


class LengthPlan:
    """Every item at most once an epoch, in batches of like length whose order is random.

    An epoch permutes the items, cuts them into windows of `window` batches, sorts each window by length, cuts it into
    batches, and permutes the batches of the whole epoch. What does not fill a batch of its window waits for the next
    epoch: less than a batch a window.

    Args:
        lengths: (N,) tokens of each item.
        batch_size: items of the global batch; with `batch_tokens`, of the smallest one.
        seed: the run's seed.
        window: batches that are sorted together; more waste less on padding, fewer mix better.
        batch_tokens: make batches of about so many tokens, padding included, instead of so many items: short texts come
            many at a time. Their number of items is a multiple of `batch_size`.

    Raises:
        DataError: no items, too few for a batch, or a setting below 1.

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
    ) -> None:
        self._lengths = np.asarray(lengths, dtype=np.int64)
        if min(batch_size, window, 1 if batch_tokens is None else batch_tokens) < 1:
            raise DataError(
                f"batch_size, window and batch_tokens are at least 1, found {batch_size}, {window}, {batch_tokens}."
            )
        if len(self._lengths) < batch_size:
            raise DataError(
                f"there are {len(self._lengths)} texts, fewer than a batch of {batch_size}: make the batches smaller."
            )
        longest = int(self._lengths.max())
        if batch_tokens is not None and batch_tokens < batch_size * longest:
            raise DataError(
                f"batch_tokens={batch_tokens} is too few for {batch_size} texts of {longest} tokens: make it at least "
                f"{batch_size * longest}, or batch_size smaller."
            )
        self._batch_size = batch_size
        self._seed = seed
        self._window = window * batch_size
        self._batch_tokens = batch_tokens
        self._first_steps = [0]  # of epoch 0, 1, ...: epochs differ in length where batches are counted in tokens
        self._epoch = functools.lru_cache(maxsize=2)(self._make_epoch)

    @property
    def batch_size(self) -> int:
        """Items of a global batch; of the smallest one where batches are counted in tokens."""
        return self._batch_size

    def batch(self, step: int) -> list[Pick]:
        """Return the items of a step, in order of length."""
        while self._first_steps[-1] <= step:
            epoch = len(self._first_steps) - 1
            self._first_steps.append(self._first_steps[-1] + len(self._epoch(epoch)))
        epoch = bisect.bisect_right(self._first_steps, step) - 1
        rows = self._epoch(epoch)[step - self._first_steps[epoch]]
        return [Pick(row, epoch, row) for row in rows.tolist()]

    def _make_epoch(self, epoch: int) -> list[NDArray[np.int64]]:
        rng = generator(self._seed, "length plan", epoch)
        order = rng.permutation(len(self._lengths))
        windows = [order[start : start + self._window] for start in range(0, len(order), self._window)]
        batches = [batch for rows in windows for batch in self._batches(rows)]
        return [batches[place] for place in rng.permutation(len(batches))]

    def _batches(self, rows: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """Sort a window by length and cut it into batches."""
        ordered = rows[np.argsort(self._lengths[rows], kind="stable")]
        if self._batch_tokens is None:
            full = len(ordered) // self._batch_size
            return list(ordered[: full * self._batch_size].reshape(full, self._batch_size))
        batches, stop = [], len(ordered)
        while stop >= self._batch_size:  # from the longest down: the longest of a batch sets its width
            fit = self._batch_tokens // int(self._lengths[ordered[stop - 1]])
            items = min(fit, stop) // self._batch_size * self._batch_size
            batches.append(ordered[stop - items : stop])
            stop -= items
        return batches
