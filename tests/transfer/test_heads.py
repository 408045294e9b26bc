"""Heads against scikit-learn and loops, and the choice among them."""

import json
import math

import numpy as np
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer, StandardScaler

from auxtasks.checkpoint import read_json, read_tensors, write_json, write_tensors
from auxtasks.errors import CheckpointError, TransferError
from transfer import linear_heads, selection
from transfer.heads import HEADS, build_head, head_from_state
from transfer.selection import select_by_cross_validation


def blobs(items_per_class=6, classes=3, width=40, seed=0, spread=1.0, test=50):
    """Classes with random centres, as a support and a test set."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(classes, width)) + 3  # an offset: heads must cope with features that are not centred
    labels = np.tile(np.arange(classes), items_per_class)
    test_labels = rng.integers(classes, size=test)
    support = centres[labels] + spread * rng.normal(size=(len(labels), width))
    return support, labels, centres[test_labels] + spread * rng.normal(size=(test, width)), test_labels


EVERY_HEAD = [
    build_head("prototype"),
    build_head("prototype", center=True),
    build_head("prototype", metric="euclidean"),
    build_head("logistic"),
    build_head("logistic", scaling="l2", C=100.0),
    build_head("ridge"),
    build_head("ridge", scaling="none", alpha=10.0),
    build_head("neighbors", k=3),
]


@pytest.mark.parametrize("head", EVERY_HEAD, ids=str)
class TestEveryHead:
    def test_learns(self, head):
        support, labels, test, test_labels = blobs()
        assert np.mean(head.fit(support, labels, 3).predict(test) == test_labels) > 0.9

    def test_learns_nothing_from_shuffled_labels(self, head):
        accuracies = []
        for seed in range(20):
            support, labels, test, test_labels = blobs(seed=seed, items_per_class=10)
            labels = np.random.default_rng(seed).permutation(labels)
            accuracies.append(np.mean(head.fit(support, labels, 3).predict(test) == test_labels))
        assert abs(np.mean(accuracies) - 1 / 3) < 0.12

    def test_one_shot_and_two_classes_work(self, head):
        support, labels, test, test_labels = blobs(items_per_class=1, classes=2)
        assert np.mean(head.fit(support, labels, 2).predict(test) == test_labels) > 0.7

    def test_probabilities_sum_to_one_and_agree_with_predictions(self, head):
        support, labels, test, _ = blobs()
        fitted = head.fit(support.astype(np.float32), labels, 3)
        probabilities = fitted.predict_proba(test.astype(np.float32))
        assert probabilities.shape == fitted.scores(test).shape == (50, 3)
        np.testing.assert_allclose(probabilities.sum(axis=1), 1)
        assert (probabilities.argmax(axis=1) == fitted.predict(test)).all()

    def test_a_saved_head_predicts_the_same_to_the_bit(self, head, tmp_path):
        support, labels, test, _ = blobs()
        fitted = head.fit(support, labels, 3)
        tensors, config = fitted.to_state()
        write_tensors(tmp_path / "head.safetensors", tensors)
        write_json(tmp_path / "head.json", config)
        again = head_from_state(read_tensors(tmp_path / "head.safetensors"), read_json(tmp_path / "head.json"))
        assert type(again) is type(fitted)
        assert (again.n_classes, again.n_features) == (3, 40)
        np.testing.assert_array_equal(again.predict_proba(test), fitted.predict_proba(test))

    def test_features_that_are_constant_do_no_harm(self, head):
        support, labels, test, test_labels = blobs()
        support[:, :5] = 0.0
        test[:, :5] = 0.0
        fitted = head.fit(support, labels, 3)
        assert np.isfinite(fitted.scores(test)).all()
        assert np.mean(fitted.predict(test) == test_labels) > 0.9

    def test_another_width_is_refused(self, head):
        support, labels, test, _ = blobs()
        with pytest.raises(TransferError, match=r"fitted on 40 features, found 39"):
            head.fit(support, labels, 3).predict(test[:, :39])


def test_every_named_head_was_tested():
    assert {type(head) for head in EVERY_HEAD} == set(HEADS.values())


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("center", [False, True])
def test_prototype_by_loops(metric, center):
    support, labels, test, _ = blobs(test=10)
    mean = support.mean(axis=0) if center else 0
    unit = [(x - mean) / np.linalg.norm(x - mean) for x in support]
    scores = np.empty((10, 3))
    for item, x in enumerate(test):
        z = (x - mean) / np.linalg.norm(x - mean)
        for label in range(3):
            prototype = np.mean([u for u, y in zip(unit, labels, strict=True) if y == label], axis=0)
            cosine = z @ prototype / np.linalg.norm(prototype)
            scores[item, label] = cosine if metric == "cosine" else -np.sum((z - prototype) ** 2)
    fitted = build_head("prototype", metric=metric, center=center, temperature=0.5).fit(support, labels, 3)
    np.testing.assert_allclose(fitted.scores(test), scores / 0.5)


@pytest.mark.parametrize(("items_per_class", "width"), [(5, 200), (40, 8)])
@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize(("scaling", "scaler"), [("standardize", StandardScaler()), ("l2", Normalizer())])
def test_logistic_is_scikit_learns(items_per_class, width, classes, scaling, scaler):
    support, labels, test, _ = blobs(items_per_class, classes, width, spread=3.0)
    oracle = make_pipeline(scaler, LogisticRegression(C=0.5, tol=1e-10, max_iter=10_000)).fit(support, labels)
    fitted = build_head("logistic", C=0.5, scaling=scaling).fit(support, labels, classes)
    np.testing.assert_allclose(fitted.predict_proba(test), oracle.predict_proba(test), atol=1e-4)


@pytest.mark.parametrize("strength", [0.01, 1.0, 100.0])
def test_reduction_to_the_span_keeps_the_solution(strength, monkeypatch):
    support, labels, test, _ = blobs(items_per_class=5, classes=4, width=300, spread=3.0)
    reduced = build_head("logistic", C=strength, tol=1e-10).fit(support, labels, 4)
    monkeypatch.setattr(linear_heads, "_span", lambda values: (np.eye(values.shape[1]), values))
    whole = build_head("logistic", C=strength, tol=1e-10).fit(support, labels, 4)
    np.testing.assert_allclose(reduced.weight, whole.weight, atol=1e-5 * np.abs(whole.weight).max())
    np.testing.assert_allclose(reduced.predict_proba(test), whole.predict_proba(test), atol=1e-5)


@pytest.mark.parametrize("classes", [2, 4])
def test_uneven_features_are_fitted_to_the_minimum_in_few_iterations(classes):
    support, labels, test, _ = blobs(items_per_class=60, classes=classes, width=40, spread=6.0)
    uneven = np.arange(1, 41) ** -2.0  # as the layers of a network are: few directions carry the variance
    head = build_head("logistic", C=10.0, max_iter=150).fit(support * uneven, labels, classes)  # or it would warn
    scaler = np.sqrt(np.mean((support * uneven - (support * uneven).mean(axis=0)) ** 2))
    oracle = LogisticRegression(C=10.0, tol=1e-8, max_iter=100_000, solver="newton-cg")
    oracle.fit(support * uneven / scaler, labels)
    np.testing.assert_allclose(
        head.predict_proba(test * uneven), oracle.predict_proba(test * uneven / scaler), atol=1e-5
    )


def test_too_few_iterations_are_said():
    support, labels, _, _ = blobs(spread=6.0)
    with pytest.warns(ConvergenceWarning, match="did not converge in 3 iterations: raise max_iter"):
        build_head("logistic", C=100.0, max_iter=3).fit(support, labels, 3)


def test_reduction_copes_with_a_support_of_lower_rank():
    support, labels, test, _ = blobs(items_per_class=2, width=50)
    twice = build_head("logistic").fit(np.tile(support, (2, 1)), np.tile(labels, 2), 3)
    once = build_head("logistic", C=2.0).fit(support, labels, 3)
    np.testing.assert_allclose(twice.predict_proba(test), once.predict_proba(test), atol=1e-4)


def test_wide_features_are_reduced_to_as_many_numbers_as_there_are_items(monkeypatch):
    support, labels, _, _ = blobs(items_per_class=5, classes=10, width=4000, spread=3.0)
    widths = []

    def recorded(values, *args, **kwargs):
        widths.append(values.shape[1])
        return fit_logistic(values, *args, **kwargs)

    fit_logistic = linear_heads.fit_logistic
    monkeypatch.setattr(linear_heads, "fit_logistic", recorded)
    build_head("logistic").fit(support, labels, 10)
    assert widths == [50]


def test_one_label_a_class_is_no_reason_to_warn():
    support, labels, test, _ = blobs(items_per_class=1, classes=30, width=40)
    head = build_head("logistic").fit(support, labels, 30)  # a warning would be an error here
    assert (head.predict(support) == labels).all()
    assert head.predict_proba(test).shape[1] == 30


@pytest.mark.parametrize(("items_per_class", "width"), [(5, 200), (40, 8)])
def test_ridge_is_scikit_learns_in_the_dual_and_in_the_primal(items_per_class, width):
    support, labels, test, _ = blobs(items_per_class, 3, width)
    targets = 2.0 * np.eye(3)[labels] - 1
    oracle = make_pipeline(StandardScaler(), Ridge(alpha=2.0)).fit(support, targets)
    fitted = build_head("ridge", alpha=2.0, temperature=0.5, scaling="standardize").fit(support, labels, 3)
    np.testing.assert_allclose(fitted.scores(test), oracle.predict(test) / 0.5, atol=1e-8)


def test_neighbors_are_scikit_learns():
    support, labels, test, _ = blobs(spread=3.0)
    oracle = KNeighborsClassifier(4, metric="cosine", weights=lambda distance: np.exp((1 - distance) / 0.2))
    fitted = build_head("neighbors", k=4, temperature=0.2).fit(support, labels, 3)
    np.testing.assert_allclose(fitted.predict_proba(test), oracle.fit(support, labels).predict_proba(test))


def test_neighbors_take_the_whole_support_where_it_is_smaller_than_k():
    support, labels, test, _ = blobs(items_per_class=1)
    few, all_three = (build_head("neighbors", k=k).fit(support, labels, 3) for k in (50, 3))
    np.testing.assert_array_equal(few.scores(test), all_three.scores(test))


@pytest.mark.parametrize("scaling", ["standardize", "rms", "none"])
@pytest.mark.parametrize(("name", "classes"), [("logistic", 2), ("logistic", 3), ("ridge", 3)])
def test_as_linear_stands_for_the_head_on_the_original_features(name, classes, scaling):
    support, labels, test, _ = blobs(classes=classes)
    fitted = build_head(name, scaling=scaling).fit(support, labels, classes)
    weight, bias = fitted.as_linear()
    assert weight.shape == (classes, 40)
    assert bias.shape == (classes,)
    logits = torch.nn.functional.linear(torch.tensor(test, dtype=torch.float32), weight, bias)
    np.testing.assert_allclose(logits.softmax(dim=1).numpy(), fitted.predict_proba(test), atol=1e-5)


def test_as_linear_of_items_scaled_to_length_one_is_refused():
    support, labels, _, _ = blobs()
    with pytest.raises(TransferError, match=r"not linear in the original features"):
        build_head("ridge", scaling="l2").fit(support, labels, 3).as_linear()


def test_a_nearly_dead_feature_does_not_decide():
    support, labels, test, test_labels = blobs()
    support[:, 0] = 1e-9 * np.random.default_rng(0).normal(size=len(labels))
    test[:, 0] = 1.0  # alive on new items only: without the floor it would be divided by 1e-9
    fitted = build_head("logistic", scaling="standardize").fit(support, labels, 3)
    assert np.mean(fitted.predict(test) == test_labels) > 0.9


def test_unknown_names_and_options_are_refused():
    with pytest.raises(TransferError, match=r'unknown head "logistc". Did you mean "logistic"'):
        build_head("logistc")
    with pytest.raises(TransferError, match=r'head ridge has no option alhpa. Did you mean "alpha"'):
        build_head("ridge", alhpa=1.0)
    with pytest.raises(TransferError, match=r'scaling is "standardise". Did you mean "standardize"'):
        build_head("logistic", scaling="standardise")
    with pytest.raises(TransferError, match=r"C is 0: it must be a number above 0"):
        build_head("logistic", C=0)
    with pytest.raises(TransferError, match=r"alpha is '1': it must be a number"):
        build_head("ridge", alpha="1")
    with pytest.raises(TransferError, match=r"k is 2.5: it counts"):
        build_head("neighbors", k=2.5)
    with pytest.raises(TransferError, match=r"center is 'yes'"):
        build_head("prototype", center="yes")


def test_bad_supports_are_refused():
    support, labels, _, _ = blobs()
    head = build_head("ridge")
    with pytest.raises(TransferError, match=r"no item of class 1, 3 \(2 of 4 classes\)"):
        head.fit(support[labels != 1], labels[labels != 1], 4)
    with pytest.raises(TransferError, match=r"labels run from 0 to 2, outside 0 to 1"):
        head.fit(support, labels, 2)
    with pytest.raises(TransferError, match=r"n_classes is 1"):
        head.fit(support, np.zeros_like(labels), 1)
    with pytest.raises(TransferError, match=r"18 items, labels of shape \(17,\)"):
        head.fit(support, labels[1:], 3)
    with pytest.raises(TransferError, match=r"must be integers.*found float64"):
        head.fit(support, labels / 1, 3)
    support[4, 7] = math.nan
    with pytest.raises(TransferError, match=r"1 items hold NaN or infinite values, the first is item 4"):
        head.fit(support, labels, 3)


def test_a_damaged_state_is_refused():
    support, labels, _, _ = blobs()
    tensors, config = build_head("ridge").fit(support, labels, 3).to_state()
    json.dumps(config)
    with pytest.raises(CheckpointError, match=r"missing \['bias'\], unexpected \['biass'\]"):
        head_from_state({"weight": tensors["weight"], "biass": tensors["bias"]}, config)
    with pytest.raises(CheckpointError, match=r'unknown kind of head "forest"'):
        head_from_state(tensors, {"kind": "forest"})


CANDIDATES = [("prototype", {}), ("logistic", {"C": 1.0}), ("ridge", {"alpha": 10.0})]


def test_selection_finds_the_layer_that_tells_the_classes_apart():
    support, labels, _, _ = blobs(items_per_class=5)
    noise = np.random.default_rng(0).normal(size=(15, 20))
    choice = select_by_cross_validation({"noise": noise, "good": support}, labels, CANDIDATES, folds=5, seed=0)
    assert choice.layer == "good"
    assert choice.score > 0.9
    assert len(choice.table) == 6
    assert choice.build() == build_head(choice.head, **choice.options)
    assert choice == select_by_cross_validation({"noise": noise, "good": support}, labels, CANDIDATES, folds=5, seed=0)


def test_selection_breaks_ties_by_the_order_given():
    support, labels, _, _ = blobs(items_per_class=4, spread=0.1)
    for order in (["a", "b"], ["b", "a"]):
        choice = select_by_cross_validation(dict.fromkeys(order, support), labels, CANDIDATES[::-1])
        assert (choice.layer, choice.head, choice.score) == (order[0], "ridge", 1.0)


def test_selection_score_by_loops():
    support, labels, _, _ = blobs(items_per_class=4, spread=4.0)
    choice = select_by_cross_validation({"a": support}, labels, [("ridge", {"alpha": 1.0})], folds=3, seed=5)
    fold_of = selection.stratified_folds(labels, 3, seed=5)
    right = []
    for fold in range(3):
        fitted = build_head("ridge", alpha=1.0).fit(support[fold_of != fold], labels[fold_of != fold], 3)
        right += list(fitted.predict(support[fold_of == fold]) == labels[fold_of == fold])
    assert 0.3 < choice.score < 1
    assert choice.score == np.mean(right)


def test_folds_are_stratified_and_no_more_than_the_rarest_class_has_items():
    labels = np.repeat([0, 1, 2], [7, 3, 5])
    fold_of = selection.stratified_folds(labels, folds=10, seed=0)
    counts = np.array([np.bincount(fold_of[labels == label], minlength=3) for label in range(3)])
    assert counts.shape == (3, 3)
    assert (counts.max(axis=1) - counts.min(axis=1) <= 1).all()
    assert np.ptp(counts.sum(axis=0)) <= 1
    assert (fold_of != selection.stratified_folds(labels, folds=10, seed=1)).any()


def test_selection_refuses_one_label_a_class():
    support, labels, _, _ = blobs(items_per_class=1)
    with pytest.raises(TransferError, match=r"class 0 has one item.*Pass a default layer and head"):
        select_by_cross_validation({"a": support}, labels, CANDIDATES)
    with pytest.raises(TransferError, match=r"nothing to choose from"):
        select_by_cross_validation({}, labels, CANDIDATES)
    with pytest.raises(TransferError, match=r"folds is 1"):
        select_by_cross_validation({"a": support}, labels, CANDIDATES, folds=1)
    with pytest.raises(TransferError, match=r'unknown head "svm"'):
        select_by_cross_validation({"a": support}, labels, [("svm", {})])
