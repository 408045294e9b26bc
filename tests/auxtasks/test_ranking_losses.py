"""Ranking losses against their formulas; pairs by loops; NDCG weights by really swapping two items."""

import math

import numpy as np
import pytest
import torch

from auxtasks.errors import DataError
from auxtasks.ranking_losses import ndcg_weights, ordered_pairs, pair_loss
from auxtasks.ranking_metrics import ndcg

BY_FORMULA = {
    "hinge": lambda x: max(0.0, x),
    "squared_hinge": lambda x: max(0.0, x) ** 2,
    "logistic": lambda x: math.log1p(math.exp(x)),
}


def batch(seed=0, sizes=(5, 1, 8, 3, 12), decimals=1, dtype=torch.float64):
    """Scores with ties, grades, queries and all pairs; the fourth query has nothing relevant."""
    rng = np.random.default_rng(seed)
    scores = torch.tensor(np.round(rng.normal(size=sum(sizes)), decimals), dtype=dtype)
    grades = torch.tensor(rng.integers(4, size=sum(sizes)), dtype=torch.float32)
    query = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    if len(sizes) > 3:
        grades[query == 3] = 0
    # All pairs in both orders, of equal grades too: the weights do not ask which is better.
    pairs = [(i, j) for i in range(len(query)) for j in range(len(query)) if query[i] == query[j] and i != j]
    better, worse = torch.tensor(pairs).T
    return scores, grades, query, better, worse


def dcg_by_loop(ranked, top, gain):
    return sum(gain(grade) / math.log2(rank + 1) for rank, grade in enumerate(ranked, start=1) if rank <= top)


def weights_by_swapping(scores, grades, query, better, worse, top, gain):
    """Put each query in its order, swap the two items of a pair, and compare both NDCGs."""
    found = []
    for i, j in zip(better.tolist(), worse.tolist(), strict=True):
        here = [place for place in range(len(query)) if query[place] == query[i]]
        ranked = sorted(here, key=lambda place: (-scores[place].item(), place))
        swapped = [{i: j, j: i}.get(place, place) for place in ranked]
        before, after, ideal = (
            dcg_by_loop([grades[place].item() for place in order], top, gain)
            for order in (ranked, swapped, sorted(here, key=lambda place: -grades[place].item()))
        )
        found.append(abs(after - before) / ideal if ideal else 0.0)
    return torch.tensor(found, dtype=torch.float64)


@pytest.mark.parametrize("kind", list(BY_FORMULA))
@pytest.mark.parametrize("margin", [0.0, 1.0, "each"])
def test_pair_loss_by_its_formula(kind, margin):
    difference = torch.linspace(-3, 3, 13, dtype=torch.float64)
    margins = torch.linspace(0, 2, 13, dtype=torch.float64) if margin == "each" else torch.full((13,), margin).double()
    found = pair_loss(difference, margins if margin == "each" else margin, kind)
    expected = [BY_FORMULA[kind](m - d) for m, d in zip(margins.tolist(), difference.tolist(), strict=True)]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


def test_a_scalar_tensor_is_one_margin_for_all():
    difference = torch.tensor([0.0, 3.0])
    torch.testing.assert_close(pair_loss(difference, torch.tensor(1.0), "hinge"), pair_loss(difference, 1.0, "hinge"))


@pytest.mark.parametrize("kind", list(BY_FORMULA))
def test_pair_loss_has_the_right_gradient(kind):
    difference = torch.tensor([-2.0, 0.3, 0.9, 4.0], dtype=torch.float64, requires_grad=True)
    margin = torch.tensor([1.0, 0.5, 1.0, 1.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda d, m: pair_loss(d, m, kind), (difference, margin))
    (gradient,) = torch.autograd.grad(pair_loss(difference, margin, kind).sum(), difference)
    assert (gradient[:3] < 0).all()  # a larger lead costs less
    assert (gradient[3] == 0) == (kind != "logistic")  # beyond the margin only the smooth one pulls


def test_pair_loss_without_a_margin_is_ranknets():
    difference = torch.randn(20, generator=torch.Generator().manual_seed(0))
    ranknet = torch.nn.functional.binary_cross_entropy_with_logits(difference, torch.ones(20), reduction="none")
    torch.testing.assert_close(pair_loss(difference, 0.0, "logistic"), ranknet)


def test_large_differences_stay_finite():
    assert pair_loss(torch.tensor([-1e4, 1e4]), 1.0, "logistic").tolist() == [10001.0, 0.0]


def test_bad_pair_losses_are_refused():
    with pytest.raises(DataError, match=r'hinge, squared_hinge, logistic, found "hing".*Did you mean "hinge"'):
        pair_loss(torch.zeros(3), 1.0, "hing")
    with pytest.raises(DataError, match=r"one a pair, found shape \(3, 1\) for differences of shape \(3,\)"):
        pair_loss(torch.zeros(3), torch.ones(3, 1), "hinge")


@pytest.mark.parametrize("levels", [1, 2, 4, 1000])
@pytest.mark.parametrize("size", [0, 1, 2, 17])
def test_ordered_pairs_by_loops(levels, size):
    grades = np.random.default_rng(levels).integers(levels, size=size).astype(np.float32) / 3 - 1
    better, worse = ordered_pairs(grades)
    assert (better.dtype, worse.dtype) == (np.int64, np.int64)
    expected = {(i, j) for i in range(size) for j in range(size) if grades[i] > grades[j]}
    assert len(better) == len(worse) == len(expected)  # none twice
    assert set(zip(better.tolist(), worse.tolist(), strict=True)) == expected


def test_ordered_pairs_are_sorted_as_promised():
    grades = np.random.default_rng(0).integers(4, size=20)
    better, worse = ordered_pairs(grades)
    keys = list(zip(better.tolist(), grades[worse].tolist(), worse.tolist(), strict=True))
    assert keys == sorted(keys)


def test_ordered_pairs_of_a_large_query_take_memory_for_those_only():
    grades = np.zeros(200_000, dtype=np.float32)  # all with all would be 40 GB
    grades[7] = 1
    better, worse = ordered_pairs(grades)
    assert (better == 7).all()
    np.testing.assert_array_equal(worse, np.delete(np.arange(200_000), 7))


@pytest.mark.parametrize("grades", [[0.0, math.nan], [math.inf, 0.0], [[0.0, 1.0]]])
def test_bad_grades_have_no_pairs(grades):
    with pytest.raises(DataError, match=r"grades must be \(n,\) finite numbers of one query, found array"):
        ordered_pairs(np.array(grades))


@pytest.mark.parametrize("top", [None, 1, 3, 10, 100])
@pytest.mark.parametrize("gains", ["exponential", "linear"])
@pytest.mark.parametrize("decimals", [0, 1, 8])
def test_ndcg_weights_are_what_a_swap_changes(top, gains, decimals):
    given = batch(decimals=decimals)
    gain = (lambda grade: 2.0**grade - 1) if gains == "exponential" else (lambda grade: grade)
    expected = weights_by_swapping(*given, top or 10**9, gain)
    found = ndcg_weights(*given, top=top, gains=gains)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    of_query = given[2][given[3]]
    assert (expected[of_query != 3] > 0).any()
    assert (found[of_query == 3] == 0).all()  # nothing relevant


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_ndcg_weights_of_less_precise_scores_are_in_float32(dtype):
    given = batch(dtype=dtype)
    found = ndcg_weights(*given)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), weights_by_swapping(*given, 10**9, lambda g: 2.0**g - 1))


def test_ndcg_weights_of_a_batch_are_those_of_its_queries():
    scores, grades, query, better, worse = batch(seed=3)
    together = ndcg_weights(scores, grades, query, better, worse, top=4)
    checked = 0
    for number in range(int(query[-1]) + 1):
        here, pairs = query == number, query[better] == number
        start = int(here.int().argmax())
        if pairs.any():
            alone = ndcg_weights(
                scores[here], grades[here], query[here] * 0, better[pairs] - start, worse[pairs] - start, top=4
            )
            torch.testing.assert_close(together[pairs], alone, rtol=0, atol=1e-12)
            checked += 1
    assert checked == 4


def test_numbers_of_queries_may_have_gaps():
    scores, grades, query, better, worse = batch()
    torch.testing.assert_close(
        ndcg_weights(scores, grades, 3 * query + 2, better, worse), ndcg_weights(scores, grades, query, better, worse)
    )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_ndcg_weights_on_a_gpu_are_the_cpus_and_the_same_bits_each_time():
    given = batch(sizes=(300, 2, 150), dtype=torch.float32)
    moved = [tensor.to("cuda") for tensor in given]
    first = ndcg_weights(*moved)
    torch.testing.assert_close(first.cpu(), ndcg_weights(*given))
    assert all(torch.equal(ndcg_weights(*moved), first) for _ in range(20))


def test_no_gradient_flows_through_ndcg_weights():
    scores, *rest = batch()
    scores.requires_grad_()
    rest[0].requires_grad_()
    weights = ndcg_weights(scores, *rest)
    assert not weights.requires_grad
    better, worse = rest[2], rest[3]
    (weights * pair_loss(scores[better] - scores[worse], 1.0, "logistic")).sum().backward()
    assert scores.grad.abs().sum() > 0


def test_no_pairs_have_no_weights():
    none = torch.zeros(0, dtype=torch.long)
    assert ndcg_weights(torch.zeros(2), torch.zeros(2), torch.zeros(2).long(), none, none).shape == (0,)
    assert ndcg_weights(torch.zeros(0), torch.zeros(0), none, none, none).shape == (0,)


def test_descending_on_weighted_pairs_raises_ndcg():
    _, grades, query, _, _ = batch(sizes=(12,), seed=2)
    better, worse = (torch.from_numpy(places) for places in ordered_pairs(grades.numpy()))
    scores = torch.linspace(0, 1, 12)[grades.argsort(descending=True).argsort()].requires_grad_()  # worst order
    before = ndcg(scores.detach().numpy(), grades.numpy())
    for _ in range(200):
        loss = ndcg_weights(scores, grades, query, better, worse) * pair_loss(
            scores[better] - scores[worse], 0.0, "logistic"
        )
        (gradient,) = torch.autograd.grad(loss.sum(), scores)
        scores = (scores - gradient).detach().requires_grad_()
    assert before < 0.7
    assert ndcg(scores.detach().numpy(), grades.numpy()) > 0.99


def test_places_that_do_not_fit_are_refused():
    scores, grades, query, better, worse = batch()
    with pytest.raises(DataError, match=r"found shapes \(28,\), \(29,\), \(29,\)"):
        ndcg_weights(scores[1:], grades, query, better, worse)
    with pytest.raises(DataError, match=r"found shapes .*, \(214,\) and \(213,\)"):
        ndcg_weights(scores, grades, query, better, worse[1:])
    with pytest.raises(DataError, match="must be contiguous"):
        ndcg_weights(scores, grades, query.flip(0), better, worse)
    with pytest.raises(DataError, match="pair 1 joins places 0 and 28 of the queries 0 and 4"):
        ndcg_weights(scores, grades, query, torch.tensor([1, 0]), torch.tensor([0, 28]))


def test_bad_settings_are_refused():
    scores, grades, query, better, worse = batch()
    with pytest.raises(DataError, match="top counts the ranks that matter, at least 1, or None for all; found 0"):
        ndcg_weights(scores, grades, query, better, worse, top=0)
    with pytest.raises(DataError, match=r'exponential, linear, found "lineer".*Did you mean "linear"'):
        ndcg_weights(scores, grades, query, better, worse, gains="lineer")
    with pytest.raises(DataError, match=r"linear gains must be from 0 to inf, found -1\.0 to 2\.0\. Shift them"):
        ndcg_weights(scores, grades - 1, query, better, worse, gains="linear")
    with pytest.raises(DataError, match=r"exponential gains must be from 0 to 100, found 98\.0 to 101\.0"):
        ndcg_weights(scores, grades + 98, query, better, worse)
    with pytest.raises(DataError, match="found nan to nan"):
        ndcg_weights(scores, grades * math.nan, query, better, worse)
