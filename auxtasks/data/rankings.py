"""Items in queries, each with a grade: which are better than which, whatever the items are.

A query with n items says that each item is better than those of a lower grade. A pair of a better and a worse item is
a query of two. An item that is in many pairs is kept once, so that it is scored once a batch.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from typing import TypeAlias, TypedDict

import numpy as np
from numpy.typing import NDArray

from auxtasks.data.feature_table import FeatureTable
from auxtasks.data.images import ImageTable
from auxtasks.data.texts import TextTable
from auxtasks.errors import DataError

__all__ = ["ItemTable", "RankingRecord", "RankingTable"]

ItemTable: TypeAlias = FeatureTable | ImageTable | TextTable


class RankingRecord(TypedDict):
    """One query: rows (n,) of its items in the table `items`, their grades (n,), and the margin that it asks for.

    ``margin`` is NaN where the query asks for none of its own.

    Example:
        >>> from auxtasks.data.feature_columns import feature_table_of
        >>> items = feature_table_of(np.eye(2, dtype=np.float32), np.full(2, -1), (), np.arange(2))
        >>> grades = np.float32([1, 0])
        >>> query: RankingRecord = {"items": items, "places": np.arange(2), "grades": grades, "margin": np.nan}
        >>> len(query["places"])
        2
    """

    items: ItemTable
    places: NDArray[np.int64]
    grades: NDArray[np.float32]
    margin: float


@dataclasses.dataclass(frozen=True, eq=False)
class RankingTable:
    """Q queries over N items.

    Attributes:
        items: what is ranked; its own labels are not used.
        places: (M,) int64, the items of all queries as rows of `items`, query by query; an item may be in several.
        grades: (M,) float32, finite; of two items of a query the one with the higher grade is the better.
        offsets: (Q + 1,) int64; query q has the places ``offsets[q]`` to ``offsets[q + 1] - 1``, at least one.
        margins: (Q,) float32, what each query asks for, NaN where it asks for nothing of its own.
        names: what each query is called in its source.
        left_out: why to how many queries of the source are not in the table: see the readers.
        fingerprint: changes with any item, grade, margin or query.

    Example:
        >>> values = np.eye(3, dtype=np.float32)
        >>> items = FeatureTable(values, np.full(3, -1), (), np.arange(3), (), "three rows")
        >>> queries = dict(places=np.arange(3), grades=np.float32([2, 0, 1]), offsets=np.array([0, 3]))
        >>> table = RankingTable(items, **queries, margins=np.float32([np.nan]), names=("q",), left_out={},
        ...                      fingerprint="one query")
        >>> len(table), table.record(0)["grades"].tolist(), table.lengths.tolist(), table.speaking.tolist()
        (1, [2.0, 0.0, 1.0], [3], [0])
    """

    items: ItemTable
    places: NDArray[np.int64]
    grades: NDArray[np.float32]
    offsets: NDArray[np.int64]
    margins: NDArray[np.float32]
    names: tuple[str, ...]
    left_out: Mapping[str, int]
    fingerprint: str

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """How many items each query has, (Q,)."""
        return np.diff(self.offsets)

    @property
    def speaking(self) -> NDArray[np.int64]:
        """The queries that say which item is better than which: those with two different grades."""
        if not len(self):
            return np.zeros(0, dtype=np.int64)
        starts = self.offsets[:-1]  # no query is empty
        return np.flatnonzero(np.maximum.reduceat(self.grades, starts) > np.minimum.reduceat(self.grades, starts))

    def record(self, index: int) -> RankingRecord:
        """Return one query."""
        where = slice(self.offsets[index], self.offsets[index + 1])
        return {
            "items": self.items,
            "places": self.places[where],
            "grades": self.grades[where],
            "margin": float(self.margins[index]),
        }

    def subset(self, indices: Sequence[int] | NDArray[np.int64]) -> RankingTable:
        """Return the queries at `indices`, in that order, over the same items.

        Raises:
            DataError: an index is out of range.
        """
        chosen = np.asarray(indices, dtype=np.int64).reshape(-1)
        if len(chosen) and not (chosen.min() >= 0 and chosen.max() < len(self)):
            raise DataError(f"indices run from {chosen.min()} to {chosen.max()}, but there are {len(self)} queries.")
        lengths = self.lengths[chosen]
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        kept = np.arange(offsets[-1]) + np.repeat(self.offsets[chosen] - offsets[:-1], lengths)
        return dataclasses.replace(
            self,
            places=self.places[kept],
            grades=self.grades[kept],
            offsets=offsets,
            margins=self.margins[chosen],
            names=tuple(self.names[query] for query in chosen),
            fingerprint=hashlib.sha256(self.fingerprint.encode() + chosen.tobytes()).hexdigest(),
        )
