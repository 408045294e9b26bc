"""Rows of different length in one flat array: what a corpus is in memory, or memory-mapped."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

__all__ = ["Ragged"]


@dataclasses.dataclass(frozen=True, eq=False)
class Ragged:
    """N rows of integers.

    Attributes:
        values: all rows, one after the other.
        offsets: (N + 1,) int64; row i is ``values[offsets[i] : offsets[i + 1]]``.

    Example:
        >>> rows = Ragged.of([[5, 6], [], [7]])
        >>> len(rows), rows[0].tolist(), rows.lengths.tolist(), rows.take([2, 0]).values.tolist()
        (3, [5, 6], [2, 0, 1], [7, 5, 6])
    """

    values: NDArray[np.int32]
    offsets: NDArray[np.int64]

    @classmethod
    def of(cls, rows: Iterable[Sequence[int] | NDArray[Any]]) -> Self:
        """Lay rows one after the other."""
        kept = [np.asarray(row, dtype=np.int32) for row in rows]
        offsets = np.concatenate([[0], np.cumsum([len(row) for row in kept], dtype=np.int64)]).astype(np.int64)
        return cls(np.concatenate(kept) if kept else np.zeros(0, dtype=np.int32), offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> NDArray[np.int32]:
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        found: NDArray[np.int32] = self.values[self.offsets[row] : self.offsets[row + 1]]
        return found

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Length of each row, (N,)."""
        return np.diff(self.offsets)

    def lengths_of(self, rows: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
        """Return the lengths of some rows alone: `lengths` of a large corpus is no small array."""
        found: NDArray[np.int64] = self.offsets[rows + 1] - self.offsets[rows]
        return found

    def take(self, rows: Sequence[int] | NDArray[np.integer[Any]]) -> Ragged:
        """Return some rows, in the order given.

        Raises:
            IndexError: there is no such row.
        """
        chosen = np.asarray(rows, dtype=np.int64).reshape(-1)
        if len(chosen) and not (chosen.min() >= 0 and chosen.max() < len(self)):
            raise IndexError(f"rows run from {chosen.min()} to {chosen.max()}, but there are {len(self)}")
        return self._gather(self.offsets[chosen], self.offsets[chosen + 1] - self.offsets[chosen])

    def head(self, counts: NDArray[np.int64]) -> Ragged:
        """Return all rows, cut to at most so many values each, (N,)."""
        return self._gather(self.offsets[:-1], np.minimum(self.lengths, counts))

    def _gather(self, starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> Ragged:
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        # Where each value comes from: the start of its row, and how far into the row it is.
        places = np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], lengths)
        return Ragged(self.values[places], offsets)
