"""Metrics as one number an item: exact means, and intervals that a true bootstrap of the items gives too."""

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, matthews_corrcoef

from auxtasks.errors import TransferError
from transfer.scores import METRICS, check_metric, item_scores
from transfer.statistics import paired_difference


def noisy(labels, share_wrong, seed):
    rng = np.random.default_rng(seed)
    return np.where(rng.random(len(labels)) < share_wrong, 1 - labels, labels)


LABELS = (np.random.default_rng(0).random(400) < 0.7).astype(np.int64)


@pytest.mark.parametrize("share_wrong", [0.0, 0.1, 0.45, 0.9])
def test_means_are_scikit_learns(share_wrong):
    predicted = noisy(LABELS, share_wrong, seed=1)
    assert item_scores("accuracy", predicted, LABELS).mean() == pytest.approx(accuracy_score(LABELS, predicted))
    found = item_scores("matthews", predicted, LABELS)
    assert found.shape == (400,)
    assert found.mean() == pytest.approx(matthews_corrcoef(LABELS, predicted), abs=1e-12)


def test_the_part_of_an_item_is_the_derivative_by_its_weight():
    predicted = noisy(LABELS, 0.3, seed=2)
    found = item_scores("matthews", predicted, LABELS)
    plain, step = matthews_corrcoef(LABELS, predicted), 1e-5
    for item in [0, 5, 17, 200]:
        weights = np.ones(400)
        weights[item] += step
        moved = matthews_corrcoef(LABELS, predicted, sample_weight=weights)
        assert 400 * (moved - plain) / step == pytest.approx(found[item] - plain, abs=1e-2)


def resampled(statistic, items=400, times=3000):
    rng = np.random.default_rng(5)
    return np.array([statistic(rng.integers(items, size=items)) for _ in range(times)])


def test_resampling_the_parts_is_resampling_the_items():
    predicted = noisy(LABELS, 0.25, seed=3)
    scores = item_scores("matthews", predicted, LABELS)
    true = resampled(lambda rows: matthews_corrcoef(LABELS[rows], predicted[rows]), times=1000)
    linear = resampled(lambda rows: scores[rows].mean(), times=1000)
    assert linear.std() == pytest.approx(true.std(), rel=0.05)
    np.testing.assert_allclose(np.quantile(linear, [0.025, 0.975]), np.quantile(true, [0.025, 0.975]), atol=0.015)
    assert np.corrcoef(true, linear)[0, 1] > 0.99


def test_the_paired_difference_is_that_of_a_true_bootstrap():
    one, other = noisy(LABELS, 0.2, seed=4), noisy(LABELS, 0.3, seed=5)
    difference = item_scores("matthews", one, LABELS) - item_scores("matthews", other, LABELS)
    rows_of = np.random.default_rng(6).integers(400, size=(1000, 400))
    true = [matthews_corrcoef(LABELS[r], one[r]) - matthews_corrcoef(LABELS[r], other[r]) for r in rows_of]
    assert difference.mean() == pytest.approx(
        matthews_corrcoef(LABELS, one) - matthews_corrcoef(LABELS, other), abs=1e-12
    )
    linear = [difference[r].mean() for r in rows_of]
    np.testing.assert_allclose(np.quantile(linear, [0.025, 0.975]), np.quantile(true, [0.025, 0.975]), atol=0.02)
    # Through the report's statistics: one draw, so that the items alone are resampled.
    tables = [item_scores("matthews", arm, LABELS)[None] for arm in (one, other)]
    found = paired_difference(*tables, resamples=2000)
    np.testing.assert_allclose(found.ci95, np.quantile(true, [0.025, 0.975]), atol=0.025)


@pytest.mark.parametrize(("predicted", "labels"), [([1, 1, 1], [0, 1, 1]), ([0, 1, 1], [1, 1, 1])])
def test_one_class_alone_is_a_correlation_of_zero_without_spread(predicted, labels):
    assert item_scores("matthews", np.array(predicted), np.array(labels)).tolist() == [0, 0, 0]
    assert matthews_corrcoef(labels, predicted) == 0


def test_what_cannot_be_measured_is_refused():
    assert set(METRICS) == {"accuracy", "matthews"}
    with pytest.raises(TransferError, match=r'unknown metric "mathews"\. Did you mean "matthews"\?'):
        item_scores("mathews", LABELS, LABELS)
    with pytest.raises(TransferError, match=r"classes 0 and 1, found \[2\]"):
        item_scores("matthews", np.array([0, 2]), np.array([0, 1]))
    with pytest.raises(TransferError, match=r"2 predictions for 1 labels"):
        item_scores("accuracy", np.array([0, 1]), np.array([0]))
    with pytest.raises(TransferError, match=r"for two classes, the target has 3"):
        check_metric("matthews", 3, fixed_test=True)
    with pytest.raises(TransferError, match=r"matthews needs a fixed test set"):
        check_metric("matthews", 2, fixed_test=False)
    with pytest.raises(TransferError, match=r'unknown metric "acc"'):
        check_metric("acc", 2, fixed_test=False)
    check_metric("accuracy", 5, fixed_test=False)
    check_metric("matthews", 2, fixed_test=True)
