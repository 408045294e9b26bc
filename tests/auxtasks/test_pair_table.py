"""Pairs from graded queries: all of them, each once, on sides that say nothing."""

import dataclasses

import numpy as np
import pytest

from auxtasks.data.feature_table import FeatureTable
from auxtasks.data.pair_table import PairTable, distinct_items, pair_table
from auxtasks.data.rankings import RankingTable
from auxtasks.errors import DataError

GRADES = ([2, 0, 1, 1], [5], [0, 0, 0], [1, 3], [3, 2, 1, 0, 0])


def vectors(count, seed=0):
    values = np.random.default_rng(seed).normal(size=(count, 3)).astype(np.float32)
    return FeatureTable(values, np.full(count, -1), (), np.arange(count), (), f"{count} vectors of seed {seed}")


def queries(grades=GRADES, count=9, seed=0):
    """Queries over nine items, which several of them share."""
    rng = np.random.default_rng(seed)
    places = [rng.permutation(count)[: len(of)] for of in grades]
    offsets = np.concatenate([[0], np.cumsum([len(of) for of in grades])])
    return RankingTable(
        vectors(count),
        np.concatenate(places),
        np.concatenate(grades).astype(np.float32),
        offsets,
        np.full(len(grades), np.nan, np.float32),
        tuple(f"q{number}" for number in range(len(grades))),
        {},
        f"queries of seed {seed}",
    )


def pairs_by_hand(table):
    found = []
    for query in range(len(table)):
        record = table.record(query)
        for high, better in zip(record["places"], record["grades"], strict=True):
            for low, worse in zip(record["places"], record["grades"], strict=True):
                if better > worse:
                    found.append((query, int(high), int(low)))
    return found


def as_better_and_worse(pairs):
    return [
        (int(row), int(left if label else right), int(right if label else left))
        for row, left, right, label in zip(pairs.rows, pairs.left, pairs.right, pairs.labels, strict=True)
    ]


@pytest.mark.parametrize("seed", range(5))
def test_every_pair_of_every_query_is_there_once(seed):
    table = queries(seed=seed)
    pairs = pair_table(table, seed)
    assert as_better_and_worse(pairs) == pairs_by_hand(table)
    assert len(pairs) == 5 + 0 + 0 + 1 + 9
    assert pairs.items is table.items
    assert (pairs.class_names, pairs.skipped) == (("right", "left"), ())


def test_sides_are_balanced_drawn_from_the_seed_and_say_nothing():
    table = queries(grades=[list(range(9))] * 3)
    drawn = [pair_table(table, seed).labels for seed in range(200)]
    assert {int(labels.sum()) for labels in drawn} == {54}  # of 108
    assert {int(pair_table(queries(), seed).labels.sum()) for seed in range(9)} == {7}  # of 15
    # Each pair is turned about in half of the drawings.
    np.testing.assert_allclose(np.mean(drawn, axis=0), 0.5, atol=0.15)
    np.testing.assert_array_equal(pair_table(table, 3).labels, drawn[3])


def test_the_fingerprint_changes_with_queries_and_seed():
    prints = [pair_table(queries(seed=first), second).fingerprint for first, second in ((0, 0), (0, 1), (1, 0), (0, 0))]
    assert len(set(prints)) == 3
    assert prints[0] == prints[3]


def test_a_record_has_both_items():
    pairs = pair_table(queries(), 0)
    for index in (0, 7):
        record = pairs.record(index)
        np.testing.assert_array_equal(record["left"]["features"], pairs.items.values[pairs.left[index]])
        np.testing.assert_array_equal(record["right"]["features"], pairs.items.values[pairs.right[index]])
        assert record["label"] == pairs.labels[index]


def test_a_subset_shares_the_items():
    pairs = pair_table(queries(), 0)
    few = pairs.subset([8, 2, 2])
    assert few.items is pairs.items
    assert as_better_and_worse(few) == [as_better_and_worse(pairs)[index] for index in (8, 2, 2)]
    assert few.fingerprint not in (pairs.fingerprint, pairs.subset([2, 8, 2]).fingerprint)
    assert len(pairs.subset([])) == 0
    with pytest.raises(DataError, match="indices run from 0 to 15, but there are 15 pairs"):
        pairs.subset([0, 15])


def test_compact_keeps_only_the_items_that_are_needed():
    pairs = pair_table(queries(), 0).subset([0, 1])
    small = pairs.compact()
    assert len(small.items) == len({*pairs.left.tolist(), *pairs.right.tolist()}) < len(pairs.items)
    for side in ("left", "right"):
        np.testing.assert_array_equal(
            small.items.values[getattr(small, side)], pairs.items.values[getattr(pairs, side)]
        )


def test_distinct_items_can_be_put_together_again():
    rng = np.random.default_rng(0)
    left, right = rng.integers(0, 6, size=(2, 20))
    needed, first, second = distinct_items(left, right)
    assert needed.tolist() == sorted({*left.tolist(), *right.tolist()})
    np.testing.assert_array_equal(needed[first], left)
    np.testing.assert_array_equal(needed[second], right)


def test_what_makes_no_pairs_is_refused():
    with pytest.raises(DataError, match="none of the 2 queries has items of two grades"):
        pair_table(queries(grades=[[1, 1], [0]]), 0)
    pairs = pair_table(queries(), 0)
    with pytest.raises(DataError, match="found 14 left items, 15 right ones and 15 labels"):
        dataclasses.replace(pairs, left=pairs.left[1:])
    with pytest.raises(DataError, match=r"are \('right', 'left'\), in this order, found \('left', 'right'\)"):
        dataclasses.replace(pairs, class_names=("left", "right"))
    assert isinstance(pairs, PairTable)
