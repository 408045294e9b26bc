"""Errors of ours in a loader worker travel as values, and are raised where the batches are taken.

Raised in the worker they would reach the user as torch spells them: with a traceback of that process as their message.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Generic, TypeVar

from auxtasks.errors import AuxtasksError

__all__ = ["CollateWhole", "Failed", "failure_as_item", "raising", "value_or_failure"]

T = TypeVar("T")
Item = TypeVar("Item")
Batch = TypeVar("Batch")


@dataclasses.dataclass(frozen=True)
class Failed:
    """What stands in the place of something that could not be made.

    Attributes:
        error: why.
    """

    error: AuxtasksError


def value_or_failure(make: Callable[[], T]) -> T | Failed:
    """Return what a function makes, or the error of ours that it raises.

    Example:
        >>> from auxtasks.errors import DataError
        >>> def fail():
        ...     raise DataError("row 3 is empty")
        >>> value_or_failure(list), value_or_failure(fail)
        ([], Failed(error=DataError('row 3 is empty')))
    """
    try:
        return make()
    except AuxtasksError as error:
        return Failed(error)


def failure_as_item(items: Iterable[T]) -> Iterator[T | Failed]:
    """Yield items; an error of ours that their iterator raises is the last one.

    Example:
        >>> from auxtasks.errors import DataError
        >>> def fail():
        ...     yield 1
        ...     raise DataError("row 3 is empty")
        >>> list(failure_as_item(fail()))
        [1, Failed(error=DataError('row 3 is empty'))]
    """
    try:
        yield from items
    except AuxtasksError as error:
        yield Failed(error)


def raising(items: Iterable[T | Failed]) -> Iterator[T]:
    """Yield items, and raise the error of the first that failed.

    Raises:
        AuxtasksError: that one.

    Example:
        >>> from auxtasks.errors import DataError
        >>> list(raising([1, 2])), next(raising([3, Failed(DataError("row 3 is empty"))]))
        ([1, 2], 3)
        >>> list(raising([Failed(DataError("row 3 is empty"))]))
        Traceback (most recent call last):
            ...
        auxtasks.errors.DataError: row 3 is empty
    """
    for item in items:
        if isinstance(item, Failed):
            try:
                raise item.error
            finally:
                # Else error, traceback and this frame hold each other, and the loader until a garbage collection: which
                # takes its queues first, so that it waits five seconds for workers that it could tell nothing.
                del item
        yield item


@dataclasses.dataclass(frozen=True)
class CollateWhole(Generic[Item, Batch]):
    """Makes a batch of items, unless one of them failed, or it does so itself; picklable as far as `collate` is.

    Attributes:
        collate: items to batch.

    Example:
        >>> from auxtasks.errors import DataError
        >>> collate = CollateWhole(sum)
        >>> collate([1, 2]), collate([1, Failed(DataError("row 3 is empty"))])
        (3, Failed(error=DataError('row 3 is empty')))
    """

    collate: Callable[[Sequence[Item]], Batch]

    def __call__(self, items: Sequence[Item | Failed]) -> Batch | Failed:
        """Return the batch, or the first failure."""
        return value_or_failure(lambda: self.collate(list(raising(items))))
