"""Where the queries of a ranking task come from: graded lists and preference pairs, as they are labelled.

Self-supervised queries, an item above corruptions of it, are in `auxtasks.tasks.ranking_corruptions`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
from datasets import Dataset, IterableDataset
from numpy.typing import NDArray

from auxtasks.backbones.base import Backbone
from auxtasks.data.feature_columns import encode_features
from auxtasks.data.feature_table import FeatureTable
from auxtasks.data.images import ImageTable, decode_images
from auxtasks.data.loaders import Records
from auxtasks.data.plan import BatchPlan, EpochPlan, Pick
from auxtasks.data.ranking_sources import read_item_pairs, read_lists, read_text_pairs
from auxtasks.data.rankings import ItemTable, RankingTable
from auxtasks.data.streams import StreamFeed
from auxtasks.data.texts import encode_texts
from auxtasks.errors import ColumnError, DataError
from auxtasks.features.batches import check_table
from auxtasks.tasks.ranking_batches import NO_KIND, RankingItem

__all__ = ["LabelledQueries", "Queries", "SomeRows", "item_inputs"]


class Queries(Protocol):
    """What a ranking task asks of its data; each part as in `AuxTask`."""

    @property
    def kinds(self) -> tuple[str, ...]:
        """Names of the corruptions that its items may be, by their number."""
        ...

    @property
    def description(self) -> str:
        """What the queries are, in a few words."""
        ...

    @property
    def settings(self) -> Mapping[str, object]:
        """JSON values that make the queries what they are."""
        ...

    def prepare(self, dataset: Dataset, backbone: Backbone, cache: Path | None) -> Records:
        """Turn a data set into records, once."""
        ...

    def plan(self, records: Records, batch_size: int, seed: int) -> BatchPlan:
        """Return which queries make each step."""
        ...

    def stream(self, dataset: IterableDataset, batch_size: int, seed: int, workers: int) -> StreamFeed:
        """Return where the batches of a stream come from, if it can be streamed."""
        ...

    def transform(self, record: Mapping[str, Any], rng: np.random.Generator) -> RankingItem:
        """Turn a record into a query to train on."""
        ...

    def view(self, record: Mapping[str, Any]) -> RankingItem:
        """Turn a record into a query to evaluate on, without chance."""
        ...


@dataclasses.dataclass(frozen=True)
class LabelledQueries:
    """Lists with grades (columns ``qid``, ``grade`` and the items'), or pairs (``chosen``, ``rejected``).

    A process computes whole queries: none is ever split, so that all pairs of a query are seen together whatever the
    number of processes. `batch_size` counts queries.

    Attributes:
        list_size: most items of a query that a training step sees, drawn anew each time, two of different grades among
            them; None takes all. Evaluation always takes all.

    Raises:
        DataError: a list of fewer than two.

    Example:
        >>> from auxtasks.backbones import mlp
        >>> features = [[0.75], [0.25], [0.5], [0.0], [1.0]]
        >>> rows = {"qid": [1, 1, 1, 2, 2], "grade": [2.0, 0.0, 1.0, 0.0, 3.0], "features": features}
        >>> queries: Queries = LabelledQueries(list_size=2)
        >>> table = queries.prepare(Dataset.from_dict(rows), mlp(width=1), None)
        >>> len(table), len(queries.view(table.record(0)).grades)
        (2, 3)
        >>> drawn = queries.transform(table.record(0), np.random.default_rng(0))
        >>> len(drawn.grades), len(set(drawn.grades.tolist()))
        (2, 2)
        >>> [values.tolist() for values in item_inputs(table.items, np.array([1]))]
        [[0.25]]
    """

    list_size: int | None = None
    kinds: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        if self.list_size is not None and self.list_size < 2:
            raise DataError(f"list_size is {self.list_size}: a list to rank has at least two items.")

    @property
    def description(self) -> str:
        """What the queries are."""
        return "labelled queries"

    @property
    def settings(self) -> Mapping[str, object]:
        """JSON values that make the queries what they are."""
        return {"queries": "labelled", "list_size": self.list_size}

    def prepare(self, dataset: Dataset, backbone: Backbone, cache: Path | None) -> RankingTable:
        """Read lists or pairs, whichever the columns say, with items that the backbone takes.

        Queries that say nothing, of one item or of one grade, stay: training passes them by, and evaluation counts
        them.

        Raises:
            ColumnError: the columns are neither those of lists nor those of pairs.
            DataError: see `read_lists`, `read_text_pairs` and `read_item_pairs`; no pair says anything.
            InputMismatchError: items that the backbone does not take.
        """
        table = _read(dataset, backbone, cache)
        check_table(backbone, table.items)
        return table

    def plan(self, records: Records, batch_size: int, seed: int) -> SomeRows:
        """Return every query that says something once an epoch, in random order.

        Raises:
            DataError: records that are no `RankingTable`, or no query that says anything.
        """
        speaking = _table(records).speaking
        if not len(speaking):
            raise DataError(
                f"none of {len(records)} queries has two items of different grades: there is nothing to learn from."
            )
        return SomeRows(EpochPlan(len(speaking), batch_size, seed), speaking)

    def stream(self, dataset: IterableDataset, batch_size: int, seed: int, workers: int) -> StreamFeed:
        """Refuse: queries are read as a whole.

        Raises:
            DataError: always.
        """
        del dataset, batch_size, seed, workers
        raise DataError("labelled queries do not stream: they are read as a whole. Pass a datasets.Dataset.")

    def transform(self, record: Mapping[str, Any], rng: np.random.Generator) -> RankingItem:
        """Return a query, or some of its items."""
        grades = record["grades"]
        if self.list_size is None or len(grades) <= self.list_size:
            return _query(record, np.arange(len(grades)))
        return _query(record, _some_places(grades, self.list_size, rng))

    def view(self, record: Mapping[str, Any]) -> RankingItem:
        """Return a whole query."""
        return _query(record, np.arange(len(record["grades"])))


@dataclasses.dataclass(frozen=True)
class SomeRows:
    """A plan over some rows of a table, whose numbers it names instead of places among the some.

    Example:
        >>> from auxtasks.data.plan import EpochPlan
        >>> plan = SomeRows(EpochPlan(2, 2, seed=0), np.array([4, 9]))
        >>> sorted(pick.row for pick in plan.batch(0)), plan.batch_size
        ([4, 9], 2)
    """

    plan: BatchPlan
    rows: NDArray[np.int64]

    @property
    def batch_size(self) -> int:
        """Items in every global batch."""
        return self.plan.batch_size

    def batch(self, step: int) -> list[Pick]:
        """Return the items of a step, in order."""
        picks = self.plan.batch(step)
        return [Pick(row, pick.epoch, row) for pick in picks for row in (int(self.rows[pick.row]),)]


def _read(dataset: Dataset, backbone: Backbone, cache: Path | None) -> RankingTable:
    names = set(dataset.column_names)
    if {"chosen", "rejected"} <= names:
        if backbone.input.kind == "text":
            tokenizer, length = backbone.text_settings
            return read_text_pairs(dataset, tokenizer, length=length)
        return read_item_pairs(dataset)
    if "qid" in names and names & {"grade", "label"}:
        return read_lists(dataset, items=lambda rows: _items(rows, backbone, cache), keep_silent=True)
    raise ColumnError(
        "labelled queries have the columns chosen and rejected (pairs), or qid, grade and what is ranked (lists); "
        f"there are {', '.join(dataset.column_names)}."
    )


def _items(dataset: Dataset, backbone: Backbone, cache: Path | None) -> ItemTable:
    if backbone.input.kind == "features":
        return encode_features(dataset)
    if backbone.input.kind == "text":
        tokenizer, length = backbone.text_settings
        return encode_texts(dataset, tokenizer, length=length)
    channels, height, width = backbone.input.shape
    return decode_images(dataset, size=(height, width), channels=channels, cache=cache)


def item_inputs(items: ItemTable, rows: NDArray[np.int64]) -> tuple[NDArray[np.generic], ...]:
    """Return what a backbone takes of some rows of a table, without any augmentation."""
    if isinstance(items, FeatureTable):
        return tuple(items.values[rows])
    if isinstance(items, ImageTable):
        return tuple(np.array(items.pixels[row]) for row in rows)
    return tuple(items.tokens[int(row)] for row in rows)


def _query(record: Mapping[str, Any], chosen: NDArray[np.int64]) -> RankingItem:
    items, rows = record["items"], record["places"][chosen]
    return RankingItem(
        inputs=item_inputs(items, rows),
        keys=rows,
        grades=record["grades"][chosen],
        margin=record["margin"],
        kinds=np.full(len(chosen), NO_KIND),
        pad_id=getattr(items, "pad_id", 0),
    )


def _some_places(grades: NDArray[np.float32], count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw places of a query, two of different grades among them, in the query's order."""
    order = rng.permutation(len(grades))
    other = order[grades[order] != grades[order[0]]][:1]  # a table holds no query whose grades are all equal
    rest = order[1:][order[1:] != other]
    return np.sort(np.concatenate([order[:1], other, rest])[:count])


def _table(records: Records) -> RankingTable:
    if not isinstance(records, RankingTable):
        raise DataError(
            f"labelled queries are a RankingTable, found {type(records).__name__}: make one by task.prepare()."
        )
    return records
