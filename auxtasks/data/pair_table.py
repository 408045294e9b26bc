"""Pairs of two items of which one is the better: preferences as a target with two classes."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from auxtasks.data.rankings import ItemTable, RankingTable
from auxtasks.errors import DataError
from auxtasks.seeding import generator

__all__ = ["LEFT", "RIGHT", "PairRecord", "PairTable", "distinct_items", "pair_table"]

RIGHT, LEFT = 0, 1  # classes: which side is the better one
CLASS_NAMES = ("right", "left")

Rows = NDArray[np.int64]


class PairRecord(TypedDict):
    """One pair: the records of its two items, ``label`` is 1 where the left one is the better."""

    left: Mapping[str, Any]
    right: Mapping[str, Any]
    label: int


@dataclasses.dataclass(frozen=True, eq=False)
class PairTable:
    """N pairs of two items, of which the left or the right one is the better.

    Attributes:
        items: what is compared; its own labels are not used.
        left, right: (N,) int64, rows of `items`. An item may be in many pairs.
        labels: (N,) int64, 1 where the left one is the better, 0 where the right one is, -1 where it is not known.
        rows: (N,) int64, the query that each pair comes from.
        skipped: one message for each pair that was left out.
        fingerprint: changes with any item or pair.
        class_names: always ``("right", "left")``.

    Raises:
        DataError: sides and labels of other lengths, or other class names.

    Example:
        >>> from auxtasks.data.feature_columns import feature_table_of
        >>> items = feature_table_of(np.eye(3, dtype=np.float32), np.full(3, -1), (), np.arange(3))
        >>> left, right, labels = np.array([0, 2]), np.array([1, 1]), np.array([1, 0])
        >>> pairs = PairTable(items, left, right, labels, np.arange(2), (), "two pairs")
        >>> record: PairRecord = pairs.record(1)
        >>> record["left"]["features"].tolist(), record["label"]
        ([0.0, 0.0, 1.0], 0)
    """

    items: ItemTable
    left: Rows
    right: Rows
    labels: Rows
    rows: Rows
    skipped: tuple[str, ...]
    fingerprint: str
    class_names: tuple[str, ...] = CLASS_NAMES

    def __post_init__(self) -> None:
        if not len(self.left) == len(self.right) == len(self.labels):
            raise DataError(
                f"a pair has a left item, a right one and a label, found {len(self.left)} left items, "
                f"{len(self.right)} right ones and {len(self.labels)} labels."
            )
        if self.class_names != CLASS_NAMES:
            raise DataError(f"the classes of pairs are {CLASS_NAMES}, in this order, found {self.class_names}.")

    def __len__(self) -> int:
        return len(self.labels)

    def record(self, index: int) -> PairRecord:
        """Return both items of a pair, and which is the better."""
        left, right = self.items.record(int(self.left[index])), self.items.record(int(self.right[index]))
        return {"left": left, "right": right, "label": int(self.labels[index])}

    def subset(self, indices: Sequence[int] | Rows) -> PairTable:
        """Return the pairs at `indices`, in that order; the items are shared, not copied.

        Raises:
            DataError: an index is out of range.
        """
        chosen = np.asarray(indices, dtype=np.int64).reshape(-1)
        if len(chosen) and not (chosen.min() >= 0 and chosen.max() < len(self)):
            raise DataError(f"indices run from {chosen.min()} to {chosen.max()}, but there are {len(self)} pairs.")
        return dataclasses.replace(
            self,
            left=self.left[chosen],
            right=self.right[chosen],
            labels=self.labels[chosen],
            rows=self.rows[chosen],
            fingerprint=hashlib.sha256(self.fingerprint.encode() + chosen.tobytes()).hexdigest(),
        )

    def compact(self) -> PairTable:
        """Return the same pairs over the items alone that are in one of them: each has to be computed once."""
        needed, left, right = distinct_items(self.left, self.right)
        return dataclasses.replace(self, items=self.items.subset(needed), left=left, right=right)


def distinct_items(left: Rows, right: Rows) -> tuple[Rows, Rows, Rows]:
    """Return the distinct rows on both sides, rising, and both sides as places among them.

    Example:
        >>> [side.tolist() for side in distinct_items(np.array([7, 7, 2]), np.array([2, 9, 9]))]
        [[2, 7, 9], [1, 1, 0], [0, 2, 2]]
    """
    needed, places = np.unique(np.concatenate([left, right]), return_inverse=True)
    return needed, places[: len(left)], places[len(left) :]


def pair_table(queries: RankingTable, seed: int) -> PairTable:
    """Make every pair of a better and a worse item of every query, each once.

    Which of the two is on the left is drawn, with as many better ones on the left as on the right (or one more on the
    right), so that guessing is right half of the time.

    Args:
        queries: graded items; two of the same grade make no pair.
        seed: of the sides.

    Raises:
        DataError: no query has items of two grades.

    Example:
        >>> from auxtasks.data.feature_table import FeatureTable
        >>> items = FeatureTable(np.eye(3, dtype=np.float32), np.full(3, -1), (), np.arange(3), (), "three rows")
        >>> queries = RankingTable(items, places=np.arange(3), grades=np.float32([2, 0, 1]), offsets=np.array([0, 3]),
        ...                        margins=np.float32([np.nan]), names=("q",), left_out={}, fingerprint="one query")
        >>> pairs = pair_table(queries, seed=0)
        >>> better = np.where(pairs.labels == 1, pairs.left, pairs.right)
        >>> better.tolist(), sorted(pairs.labels.tolist())
        ([0, 0, 2], [0, 0, 1])
    """
    better, worse, of = [], [], []
    for query in range(len(queries)):
        where = slice(queries.offsets[query], queries.offsets[query + 1])
        places, grades = queries.places[where], queries.grades[where]
        high, low = np.nonzero(grades[:, None] > grades[None, :])
        better.append(places[high])
        worse.append(places[low])
        of.append(np.full(len(high), query, dtype=np.int64))
    if not sum(map(len, of)):
        raise DataError(
            f"none of the {len(queries)} queries has items of two grades: no item is better than another, and there "
            "is no pair to make."
        )
    up, down, rows = (np.concatenate(parts).astype(np.int64) for parts in (better, worse, of))
    labels = generator(seed, "sides of pairs").permutation(np.arange(len(rows), dtype=np.int64) % 2)
    left, right = np.where(labels == LEFT, up, down), np.where(labels == LEFT, down, up)
    digest = hashlib.sha256(f"pairs|{queries.fingerprint}|".encode())
    for array in (left, right, labels, rows):
        digest.update(array.tobytes())
    return PairTable(queries.items, left, right, labels, rows, (), digest.hexdigest())
