"""Batches of like length: little padding, every item its turn, and any step can be asked for first."""

import numpy as np
import pytest

from auxtasks.backbones.text import pad_tokens
from auxtasks.data.length_plan import PADDED_TO, LengthPlan
from auxtasks.errors import DataError

LENGTHS = np.random.default_rng(0).integers(3, 60, size=1003)


def plans():
    return {
        "items": LengthPlan(LENGTHS, 8, seed=3, window=16),
        "one_window": LengthPlan(LENGTHS, 8, seed=3, window=1000),
        "tokens": LengthPlan(LENGTHS, 4, seed=3, window=90, batch_tokens=700),
    }


every_plan = pytest.mark.parametrize("name", plans())


def epochs(plan: LengthPlan, count: int) -> list[list[list[int]]]:
    """Return the rows of each batch of whole epochs."""
    found: list[list[list[int]]] = []
    step = 0
    while True:
        picks = plan.batch(step)
        (epoch,) = {pick.epoch for pick in picks}
        if epoch == count:
            return found
        if epoch == len(found):
            found.append([])
        assert epoch == len(found) - 1
        found[-1].append([pick.row for pick in picks])
        step += 1


@every_plan
def test_every_item_comes_at_most_once_an_epoch_and_few_are_left_over(name):
    plan = plans()[name]
    missing = []
    for batches in epochs(plan, 6):
        rows = [row for batch in batches for row in batch]
        assert len(set(rows)) == len(rows)
        missing.append(set(range(len(LENGTHS))) - set(rows))
        assert len(missing[-1]) == len(LENGTHS) % plan.batch_size
    # Not the same ones every time, nor the longest or shortest.
    assert len(set.union(*missing)) > 2 * len(missing[0])
    left = LENGTHS[list(set.union(*missing))]
    assert 15 < left.mean() < 45


@every_plan
def test_a_step_is_the_same_in_any_order_of_asking(name):
    in_order = [plans()[name].batch(step) for step in range(300)]
    plan = plans()[name]
    for step in np.random.default_rng(1).permutation(300).tolist():
        assert plan.batch(step) == in_order[step]
    assert plans()[name].batch(290) == in_order[290]  # a resumed run asks for this one first
    assert LengthPlan(LENGTHS, 8, seed=4, window=16).batch(0) != in_order[0]


def test_a_late_step_costs_no_replay():
    plan = plans()["items"]
    assert len(plan.batch(10**9)) == 8
    assert plan._epoch.cache_info().misses == 1


def test_an_item_s_random_numbers_are_its_own():
    plan = plans()["items"]
    picks = [pick for step in range(400) for pick in plan.batch(step)]
    assert len({(pick.epoch, pick.number) for pick in picks}) == len(picks)
    assert {pick.epoch for pick in picks} == {0, 1, 2, 3}


def waste(batches: list[list[int]]) -> float:
    """Return the share of padding."""
    padded = sum(len(batch) * LENGTHS[batch].max() for batch in batches)
    return 1 - sum(LENGTHS[batch].sum() for batch in batches) / padded


@every_plan
def test_padding_is_far_less_than_that_of_random_batches(name):
    plan = plans()[name]
    (batches,) = epochs(plan, 1)
    rows = np.random.default_rng(0).permutation(len(LENGTHS))[:1000].reshape(-1, 8)
    assert waste(rows.tolist()) > 0.35
    assert waste(batches) < 0.09
    # Short and long ones alternate all the same.
    means = np.array([LENGTHS[batch].mean() for batch in batches])
    assert abs(np.corrcoef(means[1:], means[:-1])[0, 1]) < 0.3


def test_batches_are_in_order_of_length():
    plan = plans()["items"]
    for step in range(20):
        lengths = LENGTHS[[pick.row for pick in plan.batch(step)]]
        assert (np.diff(lengths) >= 0).all()


def test_a_budget_of_tokens_is_held_and_used():
    (batches,) = epochs(plans()["tokens"], 1)
    sizes = {len(batch) for batch in batches}
    costs = [computed(batch) for batch in batches]
    assert all(size % 4 == 0 for size in sizes)
    assert len(sizes) > 5
    assert max(costs) <= 700
    assert np.mean(costs) > 500
    assert plans()["tokens"].batch_size == 4


def computed(batch: list[int]) -> int:
    """Return the tokens of a batch as the backbone gets it."""
    return pad_tokens([np.zeros(length, np.int32) for length in LENGTHS[batch]], pad_id=0).ids.numel()


def test_a_budget_counts_padding_and_every_row_of_an_item():
    assert pad_tokens([np.zeros(1, np.int32)], pad_id=0).ids.shape[1] == PADDED_TO
    single, double = (
        LengthPlan(LENGTHS, 4, seed=3, window=90, batch_tokens=700 * rows, rows_per_item=rows) for rows in (1, 2)
    )
    assert [single.batch(step) for step in range(99)] == [double.batch(step) for step in range(99)]
    halved = LengthPlan(LENGTHS, 4, seed=3, window=90, batch_tokens=700, rows_per_item=2)
    (batches,) = epochs(halved, 1)
    assert 500 < max(2 * computed(batch) for batch in batches) <= 700


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lengths": []}, "there are 0 texts, fewer than a batch of 2"),
        ({"lengths": [4]}, "there are 1 texts, fewer than a batch of 2: make the batches smaller"),
        ({"lengths": [4, 0, 3]}, "item 1 has 0 tokens"),
        ({"batch_size": 0}, "at least 1, found 0, 64, None, 1"),
        ({"window": 0}, "at least 1, found 2, 0, None, 1"),
        ({"batch_tokens": 0}, "at least 1, found 2, 64, 0, 1"),
        ({"rows_per_item": 0}, "at least 1, found 2, 64, None, 0"),
        (
            {"batch_tokens": 31},
            "batch_tokens=31 is too few for 2 texts of 9 tokens, each computed as 1 x 16 with padding: make it at "
            "least 32",
        ),
        ({"batch_tokens": 63, "rows_per_item": 2}, "each computed as 2 x 16 with padding: make it at least 64"),
    ],
)
def test_what_makes_no_plan_is_refused(arguments, message):
    with pytest.raises(DataError, match=message):
        LengthPlan(**{"lengths": [5, 9, 3], "batch_size": 2, "seed": 0, **arguments})
