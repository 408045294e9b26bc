"""The plan of labels: nested, disjoint from the test, and a pure function of the seed."""

import numpy as np
import pytest

from auxtasks.errors import TransferError
from transfer.protocol import Protocol, class_accuracies, plan_draws

LABELS = np.random.default_rng(0).permutation(np.repeat(np.arange(5), [6, 7, 8, 9, 12]))


def planned(labels=LABELS, **settings):
    return plan_draws(labels, Protocol(**{"shots": (1, 3, 5), "draws": 4, **settings}))


def test_every_support_has_the_asked_number_of_each_class():
    for draw in planned():
        for shot, rows in draw.support.items():
            assert np.bincount(LABELS[rows]).tolist() == [shot] * 5


def test_smaller_supports_are_the_first_of_the_larger_class_by_class():
    for draw in planned():
        for label in range(5):
            one, three, five = ([row for row in draw.support[shot] if LABELS[row] == label] for shot in (1, 3, 5))
            assert one == three[:1] == five[:1]
            assert three == five[:3]


def test_support_and_test_share_nothing_and_together_are_everything():
    for draw in planned():
        assert sorted([*draw.support[5], *draw.test]) == list(range(len(LABELS)))
        assert not set(draw.support[1]) & set(draw.test)
        assert not set(draw.support[3]) & set(draw.test)


def test_a_limit_keeps_the_first_test_items_of_each_class():
    for whole, limited in zip(planned(), planned(test_per_class=2), strict=True):
        assert np.bincount(LABELS[limited.test]).tolist() == [1, 2, 2, 2, 2]
        assert set(limited.test) < set(whole.test)
        assert all((whole.support[shot] == limited.support[shot]).all() for shot in (1, 3, 5))


def rows_of(draws):
    return [(draw.number, {shot: rows.tolist() for shot, rows in draw.support.items()}, draw.test.tolist())
            for draw in draws]  # fmt: skip


def test_the_plan_is_a_pure_function_of_the_seed():
    np.random.seed(1)  # noqa: NPY002  # the global generator is what must not matter
    first = rows_of(planned(seed=3))
    np.random.seed(2)  # noqa: NPY002
    assert rows_of(planned(seed=3)) == first
    assert rows_of(planned(seed=4)) != first


def test_more_draws_leave_the_first_ones_as_they_are():
    assert rows_of(planned(draws=6))[:4] == rows_of(planned(draws=4))


def test_draws_differ():
    supports = {tuple(draw.support[5]) for draw in planned(draws=10)}
    assert len(supports) == 10


def test_another_class_does_not_shift_the_draws_of_the_first():
    without = planned(LABELS[LABELS < 4])
    kept = np.flatnonzero(LABELS < 4)
    for draw, smaller in zip(planned(), without, strict=True):
        assert [row for row in draw.support[5] if LABELS[row] < 4] == kept[smaller.support[5]].tolist()


def test_a_class_with_too_few_items_is_named_with_its_counts():
    labels = [0] * 6 + [1] * 5 + [2] * 9
    with pytest.raises(TransferError, match=r"1 of 3 classes .*for 5 shots.*class 'Bob' has 5, needed are 6"):
        plan_draws(labels, Protocol(shots=(5,)), ["Ann", "Bob", "Cem"])
    with pytest.raises(TransferError, match=r"class 1 has 5, needed are 6"):
        plan_draws(labels, Protocol(shots=(1, 5)))
    assert len(plan_draws(labels, Protocol(shots=(4,)))) == 10  # one fewer works


def test_a_named_class_without_any_item_is_refused():
    with pytest.raises(TransferError, match=r"1 of 3 classes .*class 'Cem' has 0, needed are 2"):
        plan_draws([0, 0, 0, 1, 1, 1], Protocol(shots=(1,)), ["Ann", "Bob", "Cem"])


def test_a_single_class_is_no_task():
    with pytest.raises(TransferError, match=r"1 of 2 classes have too few items"):
        plan_draws([0] * 9, Protocol(shots=(1,)), ["Ann"])


def test_items_without_a_label_are_refused():
    with pytest.raises(TransferError, match=r"2 of 8 items have no label"):
        plan_draws([0, 0, 0, -1, 1, 1, 1, -1], Protocol(shots=(1,)))


@pytest.mark.parametrize("shots", [(), (0, 1), (5, 1), (1, 1, 5)])
def test_shots_that_make_no_sequence_are_refused(shots):
    with pytest.raises(TransferError, match="in rising order, found"):
        Protocol(shots=shots)


def test_no_draw_is_refused():
    with pytest.raises(TransferError, match="draws must be at least 1, found 0"):
        Protocol(draws=0)


@pytest.mark.parametrize("unit", ["auto", "class", "item"])
def test_an_unknown_unit_is_refused(unit):
    assert Protocol(unit=unit).unit == unit
    with pytest.raises(TransferError, match=f'unit is one of auto, class, item, found "{unit}s"'):
        Protocol(unit=f"{unit}s")


def test_no_test_item_is_refused():
    with pytest.raises(TransferError, match="test_per_class must be at least 1 or None, found 0"):
        Protocol(test_per_class=0)


def test_class_accuracies_by_loops():
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.repeat(np.arange(4), [3, 1, 7, 5]))
    predicted = rng.integers(4, size=len(labels))
    expected = []
    for label in range(4):
        items = [row for row in range(len(labels)) if labels[row] == label]
        expected.append(sum(predicted[row] == label for row in items) / len(items))
    assert class_accuracies(predicted, labels, 4).tolist() == pytest.approx(expected)
    assert 0 < min(expected) + max(expected) < 2  # neither all wrong nor all right


# --- a fixed test set -------------------------------------------------------------------------------------------------

FIXED = np.arange(len(LABELS), len(LABELS) + 9)


def test_a_fixed_test_is_every_draws_and_leaves_the_supports_as_they_are():
    fixed = plan_draws(LABELS, Protocol(shots=(1, 3, 5), draws=4), test=FIXED)
    for draw, without in zip(fixed, planned(), strict=True):
        assert draw.test.tolist() == FIXED.tolist()
        for shot, rows in draw.support.items():
            np.testing.assert_array_equal(rows, without.support[shot])


def test_with_a_fixed_test_every_item_of_a_class_may_be_a_label():
    labels = [0] * 5 + [1] * 6
    (draw,) = plan_draws(labels, Protocol(shots=(5,), draws=1), test=np.array([11]))
    assert sorted(draw.support[5])[:5] == [0, 1, 2, 3, 4]
    with pytest.raises(
        TransferError, match=r"1 of 2 classes have too few items for 6 shots: class 0 has 5, needed are 6"
    ):
        plan_draws(labels, Protocol(shots=(6,)), test=np.array([11]))


def test_a_fixed_test_is_not_thinned_out():
    with pytest.raises(TransferError, match=r"test_per_class is 4, but a fixed test set is used whole: leave one out"):
        plan_draws(LABELS, Protocol(test_per_class=4), test=FIXED)
