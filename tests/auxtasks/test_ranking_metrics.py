"""Ranking metrics against scikit-learn, SciPy, loops, and the mean over all orders of tied items."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kendalltau
from sklearn.metrics import average_precision_score, ndcg_score, roc_auc_score

from auxtasks import ranking_metrics
from auxtasks.errors import DataError
from auxtasks.ranking_metrics import (
    average_precision,
    kendall_tau,
    ndcg,
    pair_accuracy,
    per_query,
    reciprocal_rank,
    summarise,
)

METRICS = [ndcg, average_precision, reciprocal_rank, kendall_tau, pair_accuracy]

# Few distinct values, so that ties are common.
items = st.lists(st.tuples(st.integers(-3, 3), st.integers(0, 3)), min_size=1, max_size=8)


def query(seed=0, size=30, decimals=1):
    """Scores that go with the grades and, rounded, are often equal."""
    rng = np.random.default_rng(seed)
    grades = rng.integers(4, size=size)
    return np.round(rng.normal(size=size) + 0.5 * grades, decimals), grades


def queries(seed=0):
    """Five queries: two usual ones, one with nothing relevant, one item alone, one with all scores equal."""
    parts = [query(seed), ([1.0, 2.0], [0, 0]), ([0.5], [2]), query(seed + 1, size=7), ([1.0, 1.0, 1.0], [0, 1, 2])]
    offsets = np.cumsum([0, *(len(scores) for scores, _ in parts)])
    return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts]), offsets


def over_all_orders(scores, grades, metric):
    """Mean of `metric` of the grades from the best to the worst, over all orders that sort the scores."""
    found = [
        metric([grades[i] for i in order])
        for order in itertools.permutations(range(len(scores)))
        if all(scores[a] >= scores[b] for a, b in itertools.pairwise(order))
    ]
    return sum(found) / len(found)


def dcg_by_loop(grades, top):
    return sum((2.0**grade - 1) / math.log2(rank + 1) for rank, grade in enumerate(grades, start=1) if rank <= top)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("top", [None, 1, 3, 10, 100])
@pytest.mark.parametrize("decimals", [0, 1, 8])
def test_ndcg_is_scikit_learns(seed, top, decimals):
    scores, grades = query(seed, decimals=decimals)
    expected = ndcg_score([2.0**grades - 1], [scores], k=top)
    assert 0 < expected < 1 or top == 1
    assert ndcg(scores, grades, top=top) == pytest.approx(expected, abs=1e-12)
    expected = ndcg_score([grades], [scores], k=top)
    assert ndcg(scores, grades, top=top, gains="linear") == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("top", [1, 2, 4])
def test_ndcg_is_the_mean_over_the_orders_of_tied_items(top):
    scores, grades = [1, 2, 2, 0, 2, 1], [0, 3, 0, 1, 1, 2]
    best = dcg_by_loop(sorted(grades, reverse=True), top)
    expected = over_all_orders(scores, grades, lambda ranked: dcg_by_loop(ranked, top)) / best
    assert ndcg(scores, grades, top=top) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("decimals", [0, 1, 8])
@pytest.mark.parametrize("relevant_from", [1.0, 3.0])
def test_average_precision_is_scikit_learns(seed, decimals, relevant_from):
    scores, grades = query(seed, decimals=decimals)
    expected = average_precision_score(grades >= relevant_from, scores)
    assert average_precision(scores, grades, relevant_from) == pytest.approx(expected, abs=1e-12)


@given(items, st.integers(1, 3))
@settings(max_examples=60, deadline=None)
def test_reciprocal_rank_is_the_mean_over_all_orders(found, relevant_from):
    found = found[:6]  # at most 720 orders
    scores, grades = zip(*found, strict=True)

    def first(ranked):
        return next((1 / rank for rank, grade in enumerate(ranked, start=1) if grade >= relevant_from), math.nan)

    expected = over_all_orders(scores, grades, first)
    assert reciprocal_rank(scores, grades, relevant_from) == pytest.approx(expected, abs=1e-12, nan_ok=True)


def test_reciprocal_rank_of_a_large_tie():
    # All tied, one relevant: every rank is equally likely, so it is the harmonic number over n.
    size = 5000
    grades = np.zeros(size)
    grades[17] = 1
    expected = sum(1 / rank for rank in range(1, size + 1)) / size
    assert reciprocal_rank(np.ones(size), grades) == pytest.approx(expected, rel=1e-12)
    assert reciprocal_rank(np.ones(size), 1 - grades) == pytest.approx(1 - 1 / size + 1 / size / 2, rel=1e-12)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("decimals", [0, 1, 8])
def test_kendall_tau_is_scipys_to_the_bit(seed, decimals):
    scores, grades = query(seed, decimals=decimals)
    assert kendall_tau(scores, grades) == kendalltau(scores, grades).statistic
    assert kendall_tau(scores, -scores) == kendalltau(scores, -scores).statistic  # distinct grades, perfectly wrong


@given(items)
@settings(max_examples=100, deadline=None)
def test_pair_accuracy_by_loops(found):
    wins = [(a > b) + (a == b) / 2 for a, higher in found for b, lower in found if higher > lower]
    expected = sum(wins) / len(wins) if wins else math.nan
    assert pair_accuracy(*zip(*found, strict=True)) == pytest.approx(expected, nan_ok=True)


def test_pair_accuracy_of_two_grades_is_the_area_under_the_roc_curve():
    scores, grades = query(size=200)
    assert pair_accuracy(scores, grades > 1) == pytest.approx(roc_auc_score(grades > 1, scores), abs=1e-12)


def test_blocks_of_pairs_change_nothing(monkeypatch):
    scores, grades = query(size=101)
    whole = pair_accuracy(scores, grades), kendall_tau(scores, grades)
    monkeypatch.setattr(ranking_metrics, "_BLOCK_CELLS", 700)  # 6 rows a block, the last one shorter
    assert (pair_accuracy(scores, grades), kendall_tau(scores, grades)) == whole
    monkeypatch.setattr(ranking_metrics, "_BLOCK_CELLS", 1)
    assert (pair_accuracy(scores, grades), kendall_tau(scores, grades)) == whole


@pytest.mark.parametrize("metric", METRICS)
@given(found=items, data=st.data())
@settings(max_examples=50, deadline=None)
def test_the_order_in_which_items_are_given_changes_nothing(metric, found, data):
    shuffled = data.draw(st.permutations(found))
    expected = metric(*zip(*found, strict=True))
    assert metric(*zip(*shuffled, strict=True)) == pytest.approx(expected, abs=1e-12, nan_ok=True)


@pytest.mark.parametrize("metric", METRICS)
@given(found=items, values=st.lists(st.floats(-1e6, 1e6), min_size=7, max_size=7, unique=True))
@settings(max_examples=50, deadline=None)
def test_a_rising_transform_of_the_scores_changes_nothing(metric, found, values):
    scores, grades = zip(*found, strict=True)
    transformed = [sorted(values)[score + 3] for score in scores]
    np.testing.assert_equal(metric(transformed, grades), metric(scores, grades))  # to the bit; NaN equals NaN


def test_a_perfect_ranking_and_its_reverse():
    grades = np.array([3, 2, 1, 0, 0])
    assert [metric(-np.arange(5.0), grades) for metric in METRICS[:3]] == [1.0, 1.0, 1.0]
    assert pair_accuracy(-np.arange(5.0), grades) == 1.0
    assert pair_accuracy(np.arange(5.0), grades) == 0.0
    assert kendall_tau(np.arange(5.0), np.arange(5)) == pytest.approx(1.0, abs=1e-15)  # SciPy's last bit is off too
    assert kendall_tau(-np.arange(5.0), np.arange(5)) == pytest.approx(-1.0, abs=1e-15)


@pytest.mark.parametrize("metric", METRICS)
def test_a_query_that_says_nothing_is_nan(metric):
    assert math.isnan(metric([1.0, 2.0, 3.0], [0, 0, 0]))


def test_what_a_single_item_and_a_constant_score_say():
    assert [metric([0.5], [1]) for metric in METRICS[:3]] == [1.0, 1.0, 1.0]
    assert math.isnan(kendall_tau([0.5], [1]))
    assert math.isnan(pair_accuracy([0.5], [1]))
    assert math.isnan(kendall_tau([2.0, 2.0], [0, 1]))
    assert pair_accuracy([2.0, 2.0], [0, 1]) == 0.5


def test_float32_scores_are_taken():
    scores, grades = query()
    scores = scores.astype(np.float32)
    assert ndcg(scores, grades) == pytest.approx(ndcg_score([2.0**grades - 1], [scores]), abs=1e-12)


@pytest.mark.parametrize("gains", ["exponential", "linear"])
def test_per_query_is_the_metric_of_each(gains):
    scores, grades, offsets = queries()
    found = per_query(scores, grades, offsets, tops=(1, 5), gains=gains, relevant_from=2)
    assert list(found) == ["ndcg@1", "ndcg@5", "ndcg", "map", "mrr", "kendall_tau", "pair_accuracy", "pairs"]
    for number, (start, end) in enumerate(itertools.pairwise(offsets)):
        one = scores[start:end], grades[start:end]
        expected = {
            "ndcg@1": ndcg(*one, top=1, gains=gains),
            "ndcg@5": ndcg(*one, top=5, gains=gains),
            "ndcg": ndcg(*one, gains=gains),
            "map": average_precision(*one, 2),
            "mrr": reciprocal_rank(*one, 2),
            "kendall_tau": kendall_tau(*one),
            "pair_accuracy": pair_accuracy(*one),
            "pairs": sum(a > b for a in one[1] for b in one[1]),
        }
        np.testing.assert_equal({name: values[number] for name, values in found.items()}, expected)


def test_the_summary_leaves_out_what_says_nothing_and_counts_it():
    scores, grades, offsets = queries()
    found = per_query(scores, grades, offsets)
    summary = summarise(found)
    for name in ["ndcg@10", "ndcg", "map", "mrr", "kendall_tau", "pair_accuracy"]:
        known = [value for value in found[name] if not math.isnan(value)]
        assert 0 < len(known) < 5
        assert summary[name] == pytest.approx(sum(known) / len(known))
    assert (summary["queries"], summary["queries_without_relevant"], summary["queries_without_pairs"]) == (5, 1, 2)
    assert all(type(value) is float for value in summary.values())
    assert "pairs" not in summary


def test_pooled_pair_accuracy_weighs_every_pair_the_same():
    scores, grades, offsets = queries()
    wins = [
        (scores[i] > scores[j]) + (scores[i] == scores[j]) / 2
        for start, end in itertools.pairwise(offsets)
        for i in range(start, end)
        for j in range(start, end)
        if grades[i] > grades[j]
    ]
    summary = summarise(per_query(scores, grades, offsets))
    assert summary["pair_accuracy_pooled"] == pytest.approx(sum(wins) / len(wins))
    assert summary["pair_accuracy_pooled"] != pytest.approx(summary["pair_accuracy"])


def test_the_summary_of_queries_that_all_say_nothing_is_nan_without_a_warning():
    summary = summarise(per_query([1.0, 2.0, 3.0], [0, 0, 0], [0, 2, 3]))
    counts = {"queries": 2, "queries_without_relevant": 2, "queries_without_pairs": 2}
    assert {name: value for name, value in summary.items() if not math.isnan(value)} == counts


@pytest.mark.parametrize("metric", METRICS)
def test_bad_queries_are_refused(metric):
    with pytest.raises(DataError, match=r"scores must be \(n,\) with n of at least 1, found shape \(0,\)"):
        metric([], [])
    with pytest.raises(DataError, match=r"grades must have one entry a place, \(3,\), found shape \(2,\)"):
        metric([1.0, 2.0, 3.0], [0, 1])
    with pytest.raises(DataError, match="scores must be finite, found nan at place 1"):
        metric([1.0, math.nan], [0, 1])
    with pytest.raises(DataError, match="grades must be finite, found inf at place 0"):
        metric([1.0, 2.0], [math.inf, 1])


def test_bad_batches_say_place_and_query():
    offsets = [0, 2, 5]
    with pytest.raises(DataError, match=r"scores must be finite, found nan at place 3 \(item 1 of query 1\)"):
        per_query([1.0, 2.0, 1.0, math.nan, 3.0], np.ones(5), offsets)
    with pytest.raises(DataError, match=r"scores must be finite, found -inf at place 1 \(item 1 of query 0\)"):
        per_query([1.0, -math.inf, 1.0, 2.0, 3.0], np.ones(5), offsets)
    with pytest.raises(DataError, match=r"to have linear gains, found -1.0 at place 2 \(item 0 of query 1\)\. Shift"):
        per_query(np.ones(5), [0, 1, -1, 1, 1], offsets, gains="linear")
    with pytest.raises(DataError, match=r"from 0 to 100 to have exponential gains, found 101.0 at place 4 .*linear"):
        per_query(np.ones(5), [0, 1, 1, 1, 101], offsets)
    with pytest.raises(DataError, match=r"scores must have one entry a place, \(5,\), found shape \(4,\)"):
        per_query(np.ones(4), np.ones(5), offsets)


@pytest.mark.parametrize("offsets", [[0], [1, 5], [0.0, 5.0], [[0, 5]]])
def test_offsets_that_are_none_are_refused(offsets):
    with pytest.raises(DataError, match=r"offsets must be \(Q \+ 1,\) integers from 0 on"):
        per_query(np.ones(5), np.ones(5), offsets)


def test_offsets_rise():
    with pytest.raises(DataError, match=r"offsets must rise.*query 1 runs from 2 to 2"):
        per_query(np.ones(5), np.ones(5), [0, 2, 2, 5])
    with pytest.raises(DataError, match=r"offsets must rise.*query 1 runs from 7 to 5"):
        per_query(np.ones(5), np.ones(5), [0, 7, 5])


def test_bad_settings_are_refused():
    with pytest.raises(DataError, match=r"top counts the ranks that matter, so it is at least 1, found \[0\]"):
        ndcg([1.0], [1], top=0)
    with pytest.raises(DataError, match=r"at least 1, found \[10, -1\]"):
        per_query([1.0], [1], [0, 1], tops=(10, -1))
    with pytest.raises(DataError, match=r'found "lineer".*Did you mean "linear"'):
        ndcg([1.0], [1], gains="lineer")


def test_large_grades_have_linear_gains():
    assert ndcg([1.0, 2.0], [1000, 2000], gains="linear") == 1.0
