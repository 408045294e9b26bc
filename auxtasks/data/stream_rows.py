"""The rows of a stream as the library gives them: its shards read, described, and refused where it shuffles itself."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

from datasets import IterableDataset

from auxtasks.errors import DataError

__all__ = ["Row", "describe_stream", "first_row", "is_shuffled", "rows_of"]

Row: TypeAlias = Mapping[str, Any]


def first_row(dataset: IterableDataset) -> dict[str, Any]:
    """Return the first row of a stream.

    Raises:
        DataError: there is none, or it cannot be read.

    Example:
        >>> from datasets import Dataset
        >>> first_row(Dataset.from_dict({"text": ["a b", "c"]}).to_iterable_dataset())
        {'text': 'a b'}
    """
    for number in range(dataset.num_shards):
        source = dataset.shard(num_shards=dataset.num_shards, index=number)
        for rows in rows_of(source, 1, number):
            return dict(rows[0])
    raise DataError("the stream holds no rows.")


def describe_stream(dataset: IterableDataset) -> str:
    """Return what tells one stream from another without reading it: shards, columns and the first row's digest.

    Example:
        >>> from datasets import Dataset
        >>> describe_stream(Dataset.from_dict({"text": ["a b", "c"]}).to_iterable_dataset(num_shards=2))
        'a stream of 2 shards, columns text, that begins with 1d7c7d5a40f6'
    """
    row = first_row(dataset)
    digest = hashlib.sha256(json.dumps(row, sort_keys=True, default=repr).encode("utf-8", "surrogatepass")).hexdigest()
    return f"a stream of {dataset.num_shards} shards, columns {', '.join(row)}, that begins with {digest[:12]}"


def rows_of(source: IterableDataset, count: int, shard: int) -> Iterator[list[Row]]:
    """Yield the rows of one shard, so many at a time.

    Args:
        source: the shard.
        count: of rows; the last ones may be fewer.
        shard: its number, for messages.

    Raises:
        DataError: it cannot be read.

    Example:
        >>> from datasets import Dataset
        >>> shard = Dataset.from_dict({"text": ["a", "b", "c"]}).to_iterable_dataset()
        >>> [len(rows) for rows in rows_of(shard, 2, 0)]
        [2, 1]
    """
    chunks = source.iter(batch_size=count)
    while True:
        try:
            columns = next(chunks, None)
        except Exception as error:  # Arrow, the file systems and the data set's own code raise what they like
            raise DataError(f"shard {shard} of the stream cannot be read: {type(error).__name__}: {error}") from error
        if columns is None:
            return
        names = list(columns)
        yield [dict(zip(names, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def is_shuffled(dataset: IterableDataset) -> bool:
    """Whether the library shuffles by a buffer anywhere below; nothing public tells.

    Example:
        >>> from datasets import Dataset
        >>> stream = Dataset.from_dict({"text": ["a", "b"]}).to_iterable_dataset()
        >>> is_shuffled(stream), is_shuffled(stream.shuffle(seed=0))
        (False, True)
    """
    waiting = [getattr(dataset, "_ex_iterable", None)]
    while waiting:
        part = waiting.pop()
        if type(part).__name__ == "BufferShuffledExamplesIterable":
            return True
        waiting += [inner for inner in [getattr(part, "ex_iterable", None)] if inner is not None]
        waiting += list(getattr(part, "ex_iterables", None) or [])
    return False
