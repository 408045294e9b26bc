"""Metrics against scikit-learn, SciPy, and loops."""

import math

import numpy as np
import pytest
import torch
from scipy.interpolate import interp1d
from scipy.optimize import brentq
from sklearn.metrics import accuracy_score, roc_auc_score, roc_curve

from auxtasks import metrics
from auxtasks.errors import DataError


def pairs(seed=0, size=200, decimals=1):
    """Scores that overlap and, rounded, are often equal."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(2, size=size)
    return np.round(rng.normal(size=size) + labels, decimals), labels


def test_accuracy_is_scikit_learns():
    rng = np.random.default_rng(0)
    predicted, labels = rng.integers(4, size=50), rng.integers(4, size=50)
    assert metrics.accuracy(predicted, labels) == pytest.approx(accuracy_score(labels, predicted))
    assert metrics.accuracy(torch.tensor(predicted), torch.tensor(labels)) == metrics.accuracy(predicted, labels)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("decimals", [0, 1, 8])
def test_roc_auc_is_scikit_learns(seed, decimals):
    scores, labels = pairs(seed, decimals=decimals)
    assert metrics.roc_auc(scores, labels) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)


def test_roc_auc_counts_pairs():
    scores, labels = pairs(size=40)
    wins = [(p > n) + (p == n) / 2 for p in scores[labels == 1] for n in scores[labels == 0]]
    assert len(set(wins)) == 3  # ties occur, so their rule is tested
    assert metrics.roc_auc(scores, labels) == pytest.approx(sum(wins) / len(wins))


def test_bfloat16_tensors_are_taken():
    scores, labels = pairs()
    tensor = torch.tensor(scores).bfloat16().requires_grad_()
    assert metrics.roc_auc(tensor, torch.tensor(labels)) == pytest.approx(
        roc_auc_score(labels, tensor.detach().double().numpy())
    )


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("decimals", [1, 8])
def test_equal_error_rate_is_where_the_interpolated_curve_crosses(seed, decimals):
    scores, labels = pairs(seed, decimals=decimals)
    far, tar, _ = roc_curve(labels, scores)
    expected = brentq(lambda x: 1 - x - interp1d(far, tar)(x), 0, 1)
    assert metrics.equal_error_rate(scores, labels) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("scores", "expected"), [([0, 1], 0.0), ([1, 0], 1.0), ([0, 0], 0.5)])
def test_equal_error_rate_at_the_ends(scores, expected):
    assert metrics.equal_error_rate(scores, [0, 1]) == expected


@pytest.mark.parametrize("far", [0.0, 0.01, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("decimals", [1, 8])
def test_tar_at_far_tries_every_threshold(far, decimals):
    scores, labels = pairs(3, decimals=decimals)
    best = 0.0
    for threshold in [*scores, np.inf]:
        accepted = scores >= threshold
        if accepted[labels == 0].mean() <= far:
            best = max(best, accepted[labels == 1].mean())
    assert metrics.tar_at_far(scores, labels, far) == pytest.approx(best)


@pytest.mark.parametrize("seed", range(10))
def test_best_threshold_is_as_accurate_as_any(seed):
    scores, labels = pairs(seed, size=30)
    everywhere = np.concatenate([[-10], np.sort(scores), np.sort(scores) + 0.05, [10]])
    best = max(np.mean((scores >= threshold) == labels) for threshold in everywhere)
    threshold = metrics.best_threshold(scores, labels)
    assert np.mean((scores >= threshold) == labels) == pytest.approx(best)


def test_best_threshold_takes_the_widest_gap_then_the_lowest():
    # 0.5 and 4.0 are equally accurate (three of four), 4.0 has the wider gap.
    assert metrics.best_threshold([0.0, 1.0, 2.0, 6.0], [0, 1, 0, 1]) == 4.0
    assert metrics.best_threshold([0.0, 1.0, 2.0, 3.0], [0, 1, 0, 1]) == 0.5


def test_best_threshold_can_accept_all_or_none():
    below = metrics.best_threshold([1.0, 2.0, 3.0], [1, 1, 0])
    assert below <= 1.0
    above = metrics.best_threshold([1.0, 2.0, 3.0], [0, 1, 0])
    assert above > 3.0 or above == 1.5  # none accepted, or one right and one wrong: both two of three


def test_best_threshold_between_neighbouring_floats_still_separates_them():
    low, high = 1.0, math.nextafter(1.0, 2.0)
    threshold = metrics.best_threshold([low, high], [0, 1])
    assert low < threshold <= high


def test_verification_folds_by_loops():
    scores, labels = pairs(size=60)
    folds = np.arange(60) % 5
    expected = []
    for fold in range(5):
        train = [(s, y) for s, y, f in zip(scores, labels, folds, strict=True) if f != fold]
        threshold = metrics.best_threshold([s for s, _ in train], [y for _, y in train])
        test = [(s >= threshold) == y for s, y, f in zip(scores, labels, folds, strict=True) if f == fold]
        expected.append(sum(test) / len(test))
    np.testing.assert_allclose(metrics.verification_accuracy_folds(scores, labels, folds), expected)


def test_verification_does_not_pick_the_threshold_on_the_tested_fold():
    # Fold 0's scores are shifted: its own threshold would give 1.0, the other fold's gives 0.5.
    scores, labels = [10.0, 11.0, 0.0, 1.0], [0, 1, 0, 1]
    np.testing.assert_allclose(metrics.verification_accuracy_folds(scores, labels, [0, 0, 1, 1]), [0.5, 0.5])


def test_effective_rank_from_the_definition():
    embeddings = np.random.default_rng(0).normal(size=(30, 6)) * [5, 3, 1, 1, 0.1, 0]
    singular = np.linalg.svd(embeddings, compute_uv=False)
    share = [s / singular.sum() for s in singular if s > 0]
    assert metrics.effective_rank(embeddings) == pytest.approx(math.exp(-sum(p * math.log(p) for p in share)))


def test_effective_rank_of_a_collapse():
    assert metrics.effective_rank(np.ones((20, 8))) == pytest.approx(1.0)
    assert metrics.effective_rank(np.zeros((20, 8))) == 0.0


@pytest.mark.parametrize("dim", [2, 16, 256])
def test_spread_is_one_on_the_uniform_sphere_and_ignores_length(dim):
    embeddings = np.random.default_rng(0).normal(size=(4000, dim))
    assert metrics.embedding_spread(embeddings) == pytest.approx(1.0, abs=0.02)
    lengths = np.random.default_rng(1).uniform(0.1, 10, size=(4000, 1))
    assert metrics.embedding_spread(embeddings * lengths) == pytest.approx(metrics.embedding_spread(embeddings))


def test_spread_by_loops():
    embeddings = torch.randn(12, 5, generator=torch.Generator().manual_seed(0)) + 1
    unit = torch.nn.functional.normalize(embeddings.double(), dim=1)
    stds = [math.sqrt(sum((x - unit[:, d].mean()) ** 2 for x in unit[:, d]) / 12) for d in range(5)]
    assert metrics.embedding_spread(embeddings) == pytest.approx(math.sqrt(5) * sum(stds) / 5)


def test_spread_of_a_collapse_is_zero():
    assert metrics.embedding_spread(np.tile(np.arange(1.0, 5.0), (50, 1))) == pytest.approx(0.0, abs=1e-12)
    assert metrics.embedding_spread(np.zeros((50, 4))) == 0.0


@pytest.mark.parametrize(
    "metric",
    [
        metrics.roc_auc,
        metrics.equal_error_rate,
        metrics.best_threshold,
        lambda scores, labels: metrics.tar_at_far(scores, labels, 0.1),
        lambda scores, labels: metrics.verification_accuracy_folds(scores, labels, np.arange(len(scores)) % 2),
    ],
)
def test_bad_pairs_are_refused(metric):
    with pytest.raises(DataError, match="all 4 labels are 1: both classes are needed"):
        metric([0.1, 0.2, 0.3, 0.4], [1, 1, 1, 1])
    with pytest.raises(DataError, match=r"scores holds 1 values that are NaN or infinite, the first at \(2,\)"):
        metric([0.1, 0.2, math.nan, 0.4], [0, 1, 0, 1])
    with pytest.raises(DataError, match="scores 4, labels 3"):
        metric([0.1, 0.2, 0.3, 0.4], [0, 1, 0])
    with pytest.raises(DataError, match=r"labels must be 0 and 1, found \[-1.0, 1.0\]"):
        metric([0.1, 0.2, 0.3, 0.4], [-1, 1, -1, 1])


def test_other_bad_input_is_refused():
    with pytest.raises(DataError, match="far is 2"):
        metrics.tar_at_far([0, 1], [0, 1], far=2)
    with pytest.raises(DataError, match="all pairs are in one fold"):
        metrics.verification_accuracy_folds([0, 1], [0, 1], [3, 3])
    with pytest.raises(DataError, match="all 2 labels are 1"):  # outside fold 0
        metrics.verification_accuracy_folds([0, 1, 2, 3], [0, 1, 1, 1], [0, 0, 1, 1])
    with pytest.raises(DataError, match=r"predicted must be \(N,\).*found shape \(0,\)"):
        metrics.accuracy([], [])
    with pytest.raises(DataError, match=r"embeddings must be \(N, D\).*found shape \(3,\)"):
        metrics.effective_rank([1.0, 2.0, 3.0])
    with pytest.raises(DataError, match=r"embeddings holds 1 values.*\(0, 1\)"):
        metrics.embedding_spread([[1.0, math.inf]])
