"""The items of a step are a function of its number, and each item gets its turn."""

from collections import Counter

import numpy as np
import pytest

from auxtasks.data.plan import EpochPlan, IdentityPlan
from auxtasks.errors import DataError

# 6 people with 2 to 7 photos, 4 with a single one, 3 rows without a label; rows shuffled.
LABELS = np.random.default_rng(0).permutation(
    [*np.repeat(range(6), [2, 3, 4, 5, 6, 7]), 6, 7, 8, 9, -1, -1, -1]
)  # fmt: skip


def plans():
    return {
        "epochs": EpochPlan(items=10, batch_size=4, seed=3),
        "unshuffled": EpochPlan(items=10, batch_size=4, seed=3, shuffle=False),
        "larger_than_the_data": EpochPlan(items=3, batch_size=8, seed=3),
        "identities": IdentityPlan(LABELS, identities=4, photos=3, seed=3),
        "with_singles": IdentityPlan(LABELS, identities=4, photos=3, seed=3, single_share=0.5),
    }


every_plan = pytest.mark.parametrize("name", plans())


@every_plan
def test_a_step_is_the_same_in_any_order_of_asking(name):
    in_order = [plans()[name].batch(step) for step in range(25)]
    plan = plans()[name]
    for step in np.random.default_rng(1).permutation(25).tolist() * 2:
        assert plan.batch(step) == in_order[step]
    assert plans()[name].batch(20) == in_order[20]  # a resumed run asks for this one first


@every_plan
def test_every_batch_has_the_stated_size_and_a_late_step_costs_no_replay(name):
    plan = plans()[name]
    assert {len(plan.batch(step)) for step in (0, 1, 7, 10**9)} == {plan.batch_size}


@every_plan
def test_an_item_s_random_numbers_are_its_own(name):
    plan = plans()[name]
    picks = [pick for step in range(40) for pick in plan.batch(step)]
    assert len({(pick.epoch, pick.number) for pick in picks}) == len(picks)


@pytest.mark.parametrize(("items", "batch_size"), [(10, 4), (7, 7), (3, 8), (5, 1)])
def test_every_item_comes_once_an_epoch_and_batches_run_across_its_end(items, batch_size):
    plan = EpochPlan(items, batch_size, seed=0)
    steps = 6 * items  # whole epochs for any batch size
    picks = [pick for step in range(steps) for pick in plan.batch(step)]
    for epoch in range(len(picks) // items):
        here = picks[epoch * items : (epoch + 1) * items]
        assert sorted(pick.row for pick in here) == list(range(items))
        assert {pick.epoch for pick in here} == {epoch}


def test_the_order_changes_with_epoch_and_seed():
    def rows(seed, epoch):
        return [pick.row for pick in EpochPlan(50, 50, seed).batch(epoch)]

    orders = [rows(seed, epoch) for seed in (0, 1) for epoch in (0, 1)]
    assert len({tuple(order) for order in orders}) == 4
    assert [pick.row for pick in EpochPlan(4, 3, 0, shuffle=False).batch(1)] == [3, 0, 1]


def test_a_plan_without_items_is_refused():
    with pytest.raises(DataError, match="at least 1, found 0 and 4"):
        EpochPlan(0, 4, seed=0)
    with pytest.raises(DataError, match="at least 1, found 4 and 0"):
        EpochPlan(4, 0, seed=0)


# People


def people_of(picks, photos):
    """Split a batch into its people's turns."""
    assert len(picks) % photos == 0
    return [picks[start : start + photos] for start in range(0, len(picks), photos)]


def owner(row: int) -> int:
    """Whose a row is: unlabelled rows are their own."""
    return int(LABELS[row]) if LABELS[row] >= 0 else -1 - row


@pytest.mark.parametrize("photos", [2, 3, 4])
@pytest.mark.parametrize("single_share", [0.0, 0.5])
def test_a_batch_is_people_with_k_photos_each(photos, single_share):
    plan = IdentityPlan(LABELS, identities=4, photos=photos, seed=1, single_share=single_share)
    assert plan.batch_size == 4 * photos
    drawn = 0
    for step in range(12):
        for turn in people_of(plan.batch(step), photos):
            people = {owner(pick.row) for pick in turn}
            assert len(people) == 1
            mine = sum(owner(row) == people.copy().pop() for row in range(len(LABELS)))
            times = Counter(pick.row for pick in turn)
            # Every photo as often as any other, up to one, within a person's turn.
            assert len(times) == min(photos, mine)
            assert max(times.values()) - min(times.values()) <= 1
            drawn += 1
    assert drawn == 48


def test_every_person_comes_once_an_epoch():
    plan = IdentityPlan(LABELS, identities=4, photos=3, seed=1)
    turns = [turn for step in range(9) for turn in people_of(plan.batch(step), 3)]
    for epoch in range(6):
        here = turns[epoch * 6 : (epoch + 1) * 6]
        assert sorted(owner(turn[0].row) for turn in here) == list(range(6))
        assert {pick.epoch for turn in here for pick in turn} == {epoch}


def test_other_photos_are_drawn_in_another_epoch():
    plan = IdentityPlan(np.repeat([0, 1], 20), identities=2, photos=3, seed=0)
    draws = {frozenset(pick.row for pick in plan.batch(step)) for step in range(10)}
    assert len(draws) == 10
    assert len({row for draw in draws for row in draw}) > 30


def test_single_photos_get_their_share_of_places_and_take_turns():
    plan = IdentityPlan(LABELS, identities=4, photos=3, seed=1, single_share=0.25)
    singles = [row for row in range(len(LABELS)) if owner(row) < 0 or owner(row) > 5]
    turns = []
    for step in range(14):
        here = [turn for turn in people_of(plan.batch(step), 3) if turn[0].row in singles]
        assert len(here) == 1
        turns += here
    assert all(len({pick.row for pick in turn}) == 1 for turn in turns)  # K augmentations of one photo
    assert all(len({pick.number for pick in turn}) == 3 for turn in turns)  # that differ
    assert Counter(turn[0].row for turn in turns) == dict.fromkeys(singles, 2)


def test_without_a_share_single_photos_are_left_out():
    plan = IdentityPlan(LABELS, identities=4, photos=3, seed=1)
    assert {owner(pick.row) for step in range(30) for pick in plan.batch(step)} == set(range(6))


def test_unlabelled_rows_alone_are_people_of_their_own():
    plan = IdentityPlan([-1] * 6, identities=3, photos=2, seed=0)
    turns = [turn for step in range(2) for turn in people_of(plan.batch(step), 2)]
    assert sorted(turn[0].row for turn in turns) == list(range(6))
    assert all(a.row == b.row and a.number != b.number for a, b in turns)


def test_a_pool_does_not_shift_the_other():
    # Adding unlabelled rows at the end leaves the turns of the labelled people as they were.
    alone = IdentityPlan(np.repeat(range(5), 4), identities=2, photos=2, seed=0)
    joined = IdentityPlan([*np.repeat(range(5), 4), -1, -1], identities=4, photos=2, seed=0, single_share=0.5)
    for step in range(10):
        assert joined.batch(step)[:4] == alone.batch(step)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"labels": [0, 0, 0]}, "found 1 person in 3 photos: without a second person there is no pair"),
        ({"labels": []}, "found 0 person in 0 photos"),
        ({"labels": [-1]}, "found 1 person in 1 photos"),
        ({"identities": 1}, "at least 2 people with 2 photos a batch, found 1 x 2"),
        ({"photos": 1}, "at least 2 people with 2 photos a batch, found 2 x 1"),
        ({"identities": 500_000}, "a batch of 1,000,000 .* 250,000 times: there are 2 people with 4 photos.* most 400"),
        ({"single_share": 1.5}, r"single_share is a share between 0 and 1, found 1\.5"),
        ({"labels": [0, 0, 1, 2]}, r"would hold 1 person only: 1 people have several photos, 2 have one, .* 0 of 2"),
        ({"labels": [0, 0, 1, 1, 2], "single_share": 1.0}, r"would hold 1 person only: 2 people .* 2 of 2 places"),
    ],
)
def test_what_makes_no_pairs_is_refused(arguments, message):
    with pytest.raises(DataError, match=message):
        IdentityPlan(**{"labels": [0, 0, 1, 1], "identities": 2, "photos": 2, "seed": 0, **arguments})
