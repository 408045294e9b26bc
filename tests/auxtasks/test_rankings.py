"""Tables of rankings: a query's items and grades, and some of the queries alone."""

from __future__ import annotations

import datasets
import numpy as np
import pytest

from auxtasks.data.feature_columns import encode_features
from auxtasks.data.ranking_sources import read_lists
from auxtasks.data.rankings import RankingTable
from auxtasks.errors import DataError

QUERIES = {"a": [2, 0, 1], "b": [0, 1], "c": [3, 3, 0, 1]}


@pytest.fixture
def table() -> RankingTable:
    rows = [(name, grade) for name, grades in QUERIES.items() for grade in grades]
    columns = {"qid": [row[0] for row in rows], "grade": [row[1] for row in rows]}
    columns["features"] = [[float(place)] for place in range(len(rows))]
    return read_lists(datasets.Dataset.from_dict(columns), items=encode_features)


def test_records(table: RankingTable) -> None:
    assert (len(table), table.names, table.lengths.tolist()) == (3, ("a", "b", "c"), [3, 2, 4])
    start = 0
    for query, (name, grades) in enumerate(QUERIES.items()):
        record = table.record(query)
        assert table.names[query] == name
        assert record["grades"].tolist() == grades
        assert record["places"].tolist() == list(range(start, start + len(grades)))
        assert record["items"] is table.items
        assert np.isnan(record["margin"])
        start += len(grades)


@pytest.mark.parametrize("chosen", [[2, 0], [1], [1, 1, 0], []])
def test_subset_is_the_records_of_the_chosen(table: RankingTable, chosen: list[int]) -> None:
    part = table.subset(chosen)
    assert len(part) == len(chosen)
    for place, query in enumerate(chosen):
        for key in ("places", "grades"):
            np.testing.assert_array_equal(part.record(place)[key], table.record(query)[key])
        assert part.names[place] == table.names[query]
    assert part.items is table.items
    assert part.offsets.dtype == np.int64


def test_subset_has_a_fingerprint_of_its_own(table: RankingTable) -> None:
    prints = {part.fingerprint for part in (table, table.subset([0, 1]), table.subset([1, 0]), table.subset([0]))}
    assert len(prints) == 4
    assert table.subset([0, 1]).fingerprint == table.subset([0, 1]).fingerprint


@pytest.mark.parametrize("wrong", [3, -1])
def test_subset_out_of_range(table: RankingTable, wrong: int) -> None:
    with pytest.raises(DataError, match=rf"indices run from {wrong} to {wrong}, but there are 3 queries"):
        table.subset([wrong])
