"""Heads fitted together against the same heads fitted one at a time, and the solver against SciPy's."""

import numpy as np
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from auxtasks.errors import TransferError
from transfer import batched_heads
from transfer.batched_heads import Problems, batched_predictions, batched_scores
from transfer.batched_logistic import fit_logistics, minimize_all
from transfer.heads import build_head

# classes, items of a support, width: fewer items than features, more, one label a class, two classes.
SIZES = [(5, 25, 60), (3, 60, 20), (4, 4, 30), (2, 6, 30), (2, 40, 10)]
HEADS = [
    ("prototype", {}),
    ("prototype", {"center": True}),
    ("prototype", {"metric": "euclidean"}),
    ("prototype", {"metric": "euclidean", "center": True, "temperature": 0.5}),
    ("ridge", {}),
    ("ridge", {"alpha": 10.0, "scaling": "l2"}),
    ("ridge", {"scaling": "standardize"}),
    ("ridge", {"scaling": "none", "temperature": 1.0}),
    ("logistic", {"C": 10.0, "tol": 1e-9}),
    ("logistic", {"C": 1.0, "scaling": "l2", "tol": 1e-9}),
    ("logistic", {"C": 0.1, "scaling": "standardize", "tol": 1e-9}),
]


def drawn(classes, items, width, problems=7, queries=9, seed=0):
    """Features that are not centred, a zero among them, and random problems on them."""
    rng = np.random.default_rng(seed)
    member = np.arange(120) % classes
    features = rng.normal(size=(classes, width))[member] + rng.normal(size=(120, width)) + 2
    features[7] = 0.0
    labels = np.stack([rng.permutation(np.arange(items) % classes) for _ in range(problems)])
    support = rng.integers(120 // classes, size=labels.shape) * classes + labels
    return features, Problems(support, labels, rng.integers(120, size=(problems, queries)), classes)


def one_at_a_time(head, features, problems):
    queries = np.broadcast_to(problems.query, (len(problems), problems.query.shape[-1]))
    return np.stack(
        [
            head.fit(features[support], labels, problems.n_classes).scores(features[query])
            for support, labels, query in zip(problems.support, problems.labels, queries, strict=True)
        ]
    )


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize(("name", "options"), HEADS, ids=str)
def test_scores_are_those_of_each_head_on_its_own(name, options, size):
    head = build_head(name, **options)
    features, problems = drawn(*size)
    expected = one_at_a_time(head, features, problems)
    exact = name != "logistic"  # which stops near the minimum
    tolerance = 1e-10 if exact else 1e-5
    found = batched_scores(head, features, problems)
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance * np.abs(expected).max())
    np.testing.assert_array_equal(batched_predictions(head, features, problems), found.argmax(axis=2))


@pytest.mark.parametrize(("name", "options"), HEADS[:5] + HEADS[8:9], ids=str)
def test_queries_may_be_shared_and_labels_too(name, options):
    head = build_head(name, **options)
    features, problems = drawn(3, 9, 20)
    labels = np.sort(problems.labels[0])
    support = np.stack([row[np.argsort(own)] for row, own in zip(problems.support, problems.labels, strict=True)])
    shared = Problems(support, labels, np.arange(50), 3)
    expected = one_at_a_time(head, features, shared)
    np.testing.assert_allclose(batched_scores(head, features, shared), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["prototype", "ridge", "logistic"])
def test_blocks_change_nothing(name, monkeypatch):
    head = build_head(name)
    features, problems = drawn(5, 25, 60)
    whole = batched_scores(head, features, problems)
    monkeypatch.setattr(batched_heads, "_BLOCK_BYTES", 1)
    monkeypatch.setattr(batched_heads, "_LOGISTIC_BLOCK_BYTES", 1)
    np.testing.assert_allclose(batched_scores(head, features, problems), whole, rtol=1e-5, atol=1e-5)


def test_float32_is_near():
    features, problems = drawn(5, 25, 60)
    for name in ("prototype", "ridge"):
        head = build_head(name)
        near = batched_scores(head, features, problems, precision="float32")
        np.testing.assert_allclose(near, batched_scores(head, features, problems), atol=1e-3)


def test_features_that_cannot_be_written_are_not_needed():
    features, problems = drawn(3, 9, 20)
    features.flags.writeable = False
    assert batched_scores(build_head("ridge"), features, problems).shape == (7, 9, 3)


def test_no_problems_give_no_scores():
    empty = Problems(np.zeros((0, 4), int), np.array([0, 0, 1, 1]), np.arange(3), 2)
    assert batched_scores(build_head("ridge"), np.ones((5, 2)), empty).shape == (0, 3, 2)
    assert batched_predictions(build_head("ridge"), np.ones((5, 2)), empty).shape == (0, 3)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"labels": np.array([[0, 1], [0, 0]])}, r"the support of problem 1 has no item of class 1 \(1 of 2 supports"),
        ({"labels": np.array([0, 3])}, r"labels run from 0 to 3, outside 0 to 1"),
        ({"labels": np.array([0, 1, 1])}, r"found \(2, 2\) and \(3,\)"),
        ({"labels": np.array([0.0, 1.0])}, r"labels must be whole numbers, found float64"),
        ({"query": np.zeros((3, 1), int)}, r"one row for all 2 problems: found \(3, 1\)"),
        ({"n_classes": 1}, r"n_classes is 1: a classifier needs at least 2"),
    ],
)
def test_problems_that_do_not_hold_together_are_refused(changed, message):
    given = {"support": np.array([[0, 1], [2, 3]]), "labels": np.array([0, 1]), "query": np.array([4]), "n_classes": 2}
    with pytest.raises(TransferError, match=message):
        Problems(**{**given, **changed})


def test_what_a_batch_cannot_hold_is_refused():
    features, problems = drawn(3, 9, 20)
    with pytest.raises(TransferError, match=r"KNeighbors is not fitted in batches, these are: NearestPrototype"):
        batched_scores(build_head("neighbors"), features, problems)
    with pytest.raises(TransferError, match=r"support names rows \d+ to \d+, but the features have rows 0 to 2"):
        batched_scores(build_head("ridge"), features[:3], problems)
    with pytest.raises(TransferError, match=r"features must be \(N, D\), found shape \(120,\)"):
        batched_scores(build_head("ridge"), features[:, 0], problems)
    with pytest.raises(TransferError, match=r'precision is "half". Allowed: float64, float32'):
        batched_scores(build_head("ridge"), features, problems, precision="half")
    features[[5, 8], 1] = np.nan
    with pytest.raises(TransferError, match=r"features of 2 items hold NaN or infinite values, the first is item 5"):
        batched_scores(build_head("ridge"), features, problems)


def test_a_singular_ridge_system_names_its_problem():
    features = np.zeros((4, 3))
    features[3] = [2.0, 0.0, 0.0]  # centred, the two items are 1 and -1: their products have no inverse
    problems = Problems(np.array([[0, 1], [2, 3]]), np.array([0, 1]), np.array([0]), 2)
    with pytest.raises(TransferError, match=r"alpha 1e-30 is too small: the ridge system of problem 1 is singular"):
        batched_scores(build_head("ridge", alpha=1e-30, scaling="none"), features, problems)


def test_logistic_regression_is_that_of_scikit_learn():
    features, problems = drawn(4, 40, 12)
    head = build_head("logistic", C=2.0, scaling="none", tol=1e-9)
    found = batched_scores(head, features, problems)
    for place in range(len(problems)):
        support, labels = features[problems.support[place]], problems.labels[place]
        oracle = LogisticRegression(C=2.0, tol=1e-9, max_iter=5000).fit(support, labels)
        expected = oracle.decision_function(features[problems.query[place]])
        centred = found[place] - found[place].mean(axis=1, keepdims=True)
        np.testing.assert_allclose(centred, expected - expected.mean(axis=1, keepdims=True), atol=1e-4)


def test_too_few_iterations_are_told_with_the_number_of_problems():
    values = torch.randn(3, 20, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(20).remainder(3).expand(3, 20)
    with pytest.warns(ConvergenceWarning, match=r"3 of 3 logistic regressions did not converge in 2 iterations"):
        fit_logistics(values, labels, 3, strength=100.0, max_iter=2, tol=1e-9)


def test_the_solver_finds_each_minimum_however_long_each_takes():
    """Bowls from round to a thousand times as long as wide, with a minimum known in closed form."""
    generator = torch.Generator().manual_seed(0)
    curvature = torch.stack([torch.logspace(0, -power, 6, dtype=torch.float64) for power in (0, 1, 2, 3)])
    centres = torch.randn(4, 6, dtype=torch.float64, generator=generator)
    asked = []

    def bowls(places, at):
        asked.append(len(places))
        away = at - centres[places]
        return (curvature[places] * away.square()).sum(dim=1) / 2, curvature[places] * away

    found, unfinished = minimize_all(bowls, torch.zeros(4, 6, dtype=torch.float64), max_iter=200, tol=1e-10)
    assert unfinished == 0
    torch.testing.assert_close(found, centres, rtol=0, atol=1e-6)
    assert asked[0] == 4
    assert asked[-1] < 4  # the round one was left out of the work


def test_the_solver_shortens_steps_that_go_too_far():
    def steep(places, at):
        del places
        return (50 * at.square()).sum(dim=1), 100 * at

    found, unfinished = minimize_all(steep, torch.full((2, 3), 4.0, dtype=torch.float64), max_iter=50, tol=1e-9)
    assert unfinished == 0
    assert found.abs().max() < 1e-9
