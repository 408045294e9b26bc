"""All items of a target in one table: the pool that labels are drawn from and, behind it, a fixed test set.

In one table every arm reads features, pixels or texts by row, and need not know which kind of test there is.
"""

from __future__ import annotations

import dataclasses
import hashlib
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from auxtasks.data.images import ImageTable
from auxtasks.data.ragged import Ragged
from auxtasks.data.texts import TextTable
from auxtasks.errors import InputMismatchError, TransferError
from auxtasks.features.batches import Table, item_noun

__all__ = ["Items", "gather_items"]


@dataclasses.dataclass(frozen=True, eq=False)
class Items:
    """What a target is evaluated on.

    Attributes:
        table: the pool and, behind it, the fixed test set if there is one.
        pool: how many items labels are drawn from: the first of the table.
        test: (M,) rows of the fixed test set, or None: then each draw is tested on what it leaves over.
    """

    table: Table
    pool: int
    test: NDArray[np.int64] | None

    @property
    def pool_labels(self) -> NDArray[np.int64]:
        """Labels of the pool, (N,)."""
        return self.table.labels[: self.pool]


def gather_items(table: Table, test: Table | None) -> Items:
    """Put a pool and its test set into one table, with the pool's numbering of the classes.

    Raises:
        InputMismatchError: one holds pictures and the other texts, or pictures of another shape.
        TransferError: the test set is the pool; other class names, a test set without items, or one with unlabelled
            ones.
    """
    if test is None:
        return Items(table, len(table), None)
    if test.fingerprint == table.fingerprint:
        raise TransferError(
            f"the test set is the pool itself, the same {len(test)} {item_noun(test)} that labels are drawn from: pass "
            "others, or no test set; then each draw is tested on what it leaves over."
        )
    if set(table.class_names) != set(test.class_names):
        raise TransferError(
            f"labels are drawn from the classes {', '.join(table.class_names)}; the test set has "
            f"{', '.join(test.class_names)}. Both need the same names."
        )
    if not len(test) or test.labels.min() < 0:
        raise TransferError(
            f"{np.sum(test.labels < 0)} of the {len(test)} test {item_noun(test)} have no label: a test set needs "
            "items, each with a label."
        )
    places = np.array([table.class_names.index(name) for name in test.class_names], dtype=np.int64)
    renumbered = dataclasses.replace(test, labels=places[test.labels], class_names=table.class_names)
    return Items(_joined(table, renumbered), len(table), len(table) + np.arange(len(test)))


def _joined(first: Table, second: Table) -> Table:
    if isinstance(first, TextTable) and isinstance(second, TextTable):
        values = np.concatenate([first.tokens.values, second.tokens.values])
        offsets = np.concatenate([first.tokens.offsets, second.tokens.offsets[1:] + first.tokens.offsets[-1]])
        return dataclasses.replace(
            _with_rows_of_both(first, second),
            tokens=Ragged(values, offsets),
            texts=first.texts + second.texts,
            truncated=first.truncated + second.truncated,
        )
    if isinstance(first, ImageTable) and isinstance(second, ImageTable):
        if first.pixels.shape[1:] != second.pixels.shape[1:]:
            raise InputMismatchError(
                f"pictures of the pool are {first.pixels.shape[1:]}, those of the test set {second.pixels.shape[1:]}: "
                "decode both to one size."
            )
        return dataclasses.replace(
            _with_rows_of_both(first, second), pixels=np.concatenate([first.pixels, second.pixels])
        )
    raise InputMismatchError(
        f"labels are drawn from {item_noun(first)}, and the test set holds {item_noun(second)}: both must be of a kind."
    )


SomeTable = TypeVar("SomeTable", ImageTable, TextTable)


def _with_rows_of_both(first: SomeTable, second: SomeTable) -> SomeTable:
    """Return the first table with what both kinds of table have in common joined."""
    digest = hashlib.sha256(f"joined|{first.fingerprint}|{second.fingerprint}".encode())
    return dataclasses.replace(
        first,
        labels=np.concatenate([first.labels, second.labels]),
        rows=np.concatenate([first.rows, second.rows]),
        skipped=first.skipped + second.skipped,
        fingerprint=digest.hexdigest(),
    )
