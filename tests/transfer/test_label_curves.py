"""Label curves against one draw at a time, their intervals, and what cannot be drawn."""

import numpy as np
import pytest

from auxtasks.errors import TransferError
from transfer import statistics
from transfer.heads import build_head
from transfer.label_curves import label_curves
from transfer.protocol import Protocol, class_accuracies, plan_draws

HEADS = [("prototype", {}), ("ridge", {"alpha": 2.0}), ("logistic", {"C": 10.0})]


def items(classes=12, each=9, width=10, spread=1.5, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(classes), each))
    return rng.normal(size=(classes, width))[labels] + spread * rng.normal(size=(len(labels), width)), labels


def one_at_a_time(head, features, labels, draws, shot, score):
    return np.array(
        [
            score(head.fit(features[draw.support[shot]], labels[draw.support[shot]], labels.max() + 1), draw)
            for draw in draws
        ]
    )


def test_curves_are_those_of_one_draw_at_a_time():
    features, labels = items()
    protocol = Protocol(shots=(1, 3), draws=6, seed=4)
    curves = label_curves({"top": features, "low": features[:, :3]}, labels, protocol, HEADS, resamples=200)
    assert [(curve.features, curve.head) for curve in curves] == [
        (of, head) for of in ("top", "low") for head, _ in HEADS
    ]
    draws = plan_draws(labels, protocol)
    for curve in curves:
        values = features if curve.features == "top" else features[:, :3]
        for point in curve.points:
            expected = one_at_a_time(
                build_head(curve.head, **curve.options), values, labels, draws, point.shot,
                lambda head, draw, of=values: class_accuracies(head.predict(of[draw.test]), labels[draw.test], 12),
            )  # fmt: skip
            estimate = statistics.interval(expected, resamples=200, seed=4, limits=(0, 1))
            assert (point.mean, point.values) == (pytest.approx(estimate.mean), pytest.approx(estimate.values))
            assert point.ci95 == pytest.approx(estimate.ci95)
            assert point.failed == np.mean(expected.mean(axis=1) <= 1 / 12 + 1e-9)
        assert curve.values == {point.shot: point.values for point in curve.points}


def test_more_labels_are_better_and_shuffled_ones_stay_at_chance():
    features, labels = items(classes=4, each=40)
    protocol = Protocol(shots=(1, 5, 20), draws=100)
    (curve,) = label_curves({"top": features}, labels, protocol, resamples=100)
    means = [point.mean for point in curve.points]
    assert means == sorted(means)
    assert means[2] > 0.6
    assert curve.points[0].failed >= curve.points[2].failed == 0
    rng = np.random.default_rng(1)
    (noise,) = label_curves({"top": features}, rng.permutation(labels), protocol, resamples=100)
    assert all(abs(point.mean - 0.25) < 0.05 for point in noise.points)
    assert noise.points[0].failed > 0.2


def test_a_fixed_test_set_is_tested_in_every_draw_and_never_a_label():
    features, labels = items(classes=3, each=20)
    test = np.random.default_rng(0).permutation(60)[:15]
    protocol = Protocol(shots=(2,), draws=5)
    (curve,) = label_curves({"top": features}, labels, protocol, test=test, resamples=100)
    pool = np.setdiff1d(np.arange(60), test)
    for draw, value in zip(plan_draws(labels[pool], protocol, test=test), curve.points[0].values, strict=True):
        rows = pool[draw.support[2]]
        head = build_head("prototype").fit(features[rows], labels[rows], 3)
        assert value == pytest.approx(np.mean(head.predict(features[test]) == labels[test]))


def test_seeds_are_one_more_sample():
    features, labels = items(classes=12)
    others = [features, items(seed=0, spread=1.5)[0] + 0.5 * np.random.default_rng(3).normal(size=features.shape)]
    protocol = Protocol(shots=(2,), draws=4)
    (both,) = label_curves({"top": others}, labels, protocol, resamples=100)
    each = [label_curves({"top": values}, labels, protocol, resamples=100)[0] for values in others]
    assert both.points[0].values == pytest.approx(each[0].points[0].values + each[1].points[0].values)
    # Where curves cross, draws are the sample: those of a second seed are the same labels again.
    assert both.values[2] == pytest.approx(np.mean([one.points[0].values for one in each], axis=0))
    assert each[0].values[2] == pytest.approx(each[0].points[0].values)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"features": {"top": np.ones((5, 2))}},
            r"features 'top' must be \(N, D\) of the 108 items .* found shape \(5, 2\)",
        ),
        ({"labels": np.ones(108)}, r"labels must be \(N,\) whole numbers, found float64 of shape \(108,\)"),
        ({"protocol": Protocol(shots=(9,))}, r"12 of 12 classes have too few items for 9 shots and a test"),
        ({"test": np.array([3, 3])}, r"different rows from 0 to 107, found 2 from 3 to 3, 1 of them different"),
        ({"test": np.array([500])}, r"different rows from 0 to 107, found 1 from 500 to 500"),
        ({"test": np.array([0])}, r"class \d+ has no test item"),
        ({"class_names": [f"c{place}" for place in range(13)]}, r"1 of 13 classes have too few .* class 'c12' has 0"),
        ({"heads": [("neighbors", {})]}, r"KNeighbors is not fitted in batches"),
    ],
)
def test_what_does_not_fit_is_refused(given, message):
    features, labels = items()
    whole = {"features": {"top": features}, "labels": labels, "protocol": Protocol(shots=(1,), draws=2), **given}
    with pytest.raises(TransferError, match=message):
        label_curves(whole.pop("features"), whole.pop("labels"), whole.pop("protocol"), **whole, resamples=100)
