"""Heads of pairs: no side is preferred, wherever they are fitted."""

import dataclasses

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge

from auxtasks.errors import TransferError
from transfer.arms import FeatureArm, StartHead
from transfer.both_orders import BothOrders, scoring_weight
from transfer.choices import Candidate, cross_validated
from transfer.heads import build_head, head_from_state
from transfer.selection import select_by_cross_validation, stratified_folds

HEADS = (
    ("prototype", {}),
    ("prototype", {"center": True}),
    ("prototype", {"metric": "euclidean"}),
    ("ridge", {"alpha": 1.0, "scaling": "l2"}),
    ("logistic", {"C": 10.0, "scaling": "rms"}),
    ("logistic", {"C": 1.0, "scaling": "standardize"}),
    ("neighbors", {}),
)


@pytest.fixture(scope="module")
def differences():
    """40 differences in a space where the first two features tell; all of one class lie beside the origin."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(40, 4)) + np.array([0.3, 0.0, 2.0, 0.0])
    return values.astype(np.float32), (values[:, 0] - 2 * values[:, 1] + rng.normal(size=40) > 0).astype(np.int64)


@pytest.mark.parametrize(("name", "options"), HEADS)
def test_a_swapped_pair_has_the_swapped_scores(differences, name, options):
    values, labels = differences
    fitted = BothOrders(build_head(name, **options)).fit(values, labels, 2)
    new = np.random.default_rng(1).normal(size=(200, 4))
    np.testing.assert_allclose(fitted.scores(new), fitted.scores(-new)[:, ::-1], atol=1e-12)
    np.testing.assert_array_equal(fitted.predict(new), 1 - fitted.predict(-new))
    assert 0 < fitted.predict(new).mean() < 1
    plain = build_head(name, **options).fit(values, labels, 2)
    assert not np.allclose(plain.scores(new), plain.scores(-new)[:, ::-1])  # or there would be nothing to do
    again = head_from_state(*fitted.to_state())
    np.testing.assert_array_equal(again.scores(new), fitted.scores(new))


def test_weights_are_those_of_a_model_without_an_intercept_on_both_orders(differences):
    values, labels = differences
    doubled, both = np.concatenate([values, -values]), np.concatenate([labels, 1 - labels])
    oracle = LogisticRegression(C=3.0, fit_intercept=False, tol=1e-10, max_iter=10_000).fit(doubled, both)
    fitted = BothOrders(build_head("logistic", C=3.0, scaling="none", tol=1e-9)).fit(values, labels, 2)
    np.testing.assert_allclose(scoring_weight(fitted), oracle.coef_[0], rtol=1e-4)
    least = Ridge(alpha=2.0, fit_intercept=False).fit(doubled, 2.0 * both - 1)
    fitted = BothOrders(build_head("ridge", alpha=2.0, scaling="none", temperature=1.0)).fit(values, labels, 2)
    np.testing.assert_allclose(fitted.weight[1], least.coef_, rtol=1e-4)


@pytest.mark.parametrize(("name", "options"), HEADS[:-1])
def test_the_weight_of_an_item_orders_as_the_head_does(differences, name, options):
    values, labels = differences
    fitted = BothOrders(build_head(name, **options)).fit(values, labels, 2)
    items = np.random.default_rng(2).normal(size=(30, 4))
    scores = items @ scoring_weight(fitted)
    for first in range(30):
        for second in range(first):
            answer = fitted.predict(items[None, first] - items[None, second])[0]
            assert answer == int(scores[first] > scores[second])


def test_heads_that_score_no_item_are_refused(differences):
    values, labels = differences
    with pytest.raises(TransferError, match="a neighbors head compares with what it was shown"):
        scoring_weight(BothOrders(build_head("neighbors")).fit(values, labels, 2))
    with pytest.raises(TransferError, match="without an intercept: fit it with BothOrders"):
        scoring_weight(build_head("logistic").fit(values, labels, 2))
    with pytest.raises(TransferError, match="two classes; found n_classes=3"):
        BothOrders(build_head("logistic")).fit(values, np.arange(40) % 3, 3)


def test_folds_keep_both_orders_of_a_pair_together(differences):
    values, labels = differences
    fold_of = stratified_folds(labels, 5, seed=0)
    right = 0
    for fold in range(5):
        kept = fold_of != fold
        doubled = np.concatenate([values[kept], -values[kept]])
        head = build_head("logistic").fit(doubled, np.concatenate([labels[kept], 1 - labels[kept]]), 2)
        right += np.sum(head.predict(values[~kept]) == labels[~kept])
    choice = select_by_cross_validation({"a": values}, labels, [("logistic", {})], both_orders=True)
    assert choice.score == right / 40


def test_candidates_of_pairs_are_fitted_so_in_every_place(differences):
    values, labels = differences
    candidates = [Candidate("a", "prototype", {}, True), Candidate("a", "logistic", {}, True)]
    rows = np.arange(30)
    chosen = cross_validated({"a": values[rows]}, labels[rows], candidates, seed=0)
    assert chosen.both_orders
    arm = FeatureArm({"a": values}, {15: candidates}, 2, seed=0)
    turned = dataclasses.replace(arm, features={"a": np.where(np.arange(40)[:, None] < 30, values, -values)})
    first, second = (one.predict(rows, labels[rows], np.arange(30, 40), shot=15, draw=0) for one in (arm, turned))
    np.testing.assert_array_equal(first.classes, 1 - second.classes)
    weight, bias = StartHead(values, both_orders=True).fit(rows, labels[rows], 2)
    assert not bias.any()
    np.testing.assert_array_equal(weight[0].numpy(), -weight[1].numpy())
