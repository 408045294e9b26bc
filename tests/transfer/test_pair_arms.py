"""Baselines on pairs: a ranking SVM that is scikit-learn's, fitted on the support alone, and the longer text."""

import dataclasses

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.svm import LinearSVC

from auxtasks.data import load_source
from auxtasks.data.feature_table import FeatureTable
from auxtasks.data.pair_table import PairTable
from auxtasks.data.texts import encode_texts
from transfer import words
from transfer.choices import Validation
from transfer.pair_arms import PAIR_STRENGTHS, LongerArm, RankSvmArm, VectorDifferences, WordDifferences
from transfer.raw_arms import raw_arm
from transfer.selection import stratified_folds

SUPPORT, TEST = np.arange(24), np.arange(24, 60)


@pytest.fixture(scope="module")
def vectors():
    rng = np.random.default_rng(0)
    values = (rng.normal(size=(40, 6)) * [1, 100, 0.01, 1, 1, 0]).astype(np.float32)
    left, right = np.stack([rng.permutation(40)[:2] for _ in range(60)]).T
    scores = values @ np.array([1, 0.01, 50, 0, 0, 0])
    labels = (scores[left] + rng.normal(scale=0.5, size=60) > scores[right]).astype(np.int64)
    items = FeatureTable(values, np.full(40, -1), (), np.arange(40), (), "vectors")
    return PairTable(items, left, right, labels, np.arange(60), (), "pairs")


@pytest.fixture(scope="module")
def texts(opinions):
    """Pairs of a good and a bad opinion."""
    rng = np.random.default_rng(0)
    good, bad = (np.flatnonzero(opinions.labels == label) for label in (1, 0))
    labels = rng.permutation(np.arange(60) % 2)
    better, worse = rng.choice(good, size=60), rng.choice(bad, size=60)
    sides = np.where(labels == 1, better, worse), np.where(labels == 1, worse, better)
    return PairTable(opinions, *sides, labels, np.arange(60), (), "pairs of opinions")


def svm(strength, values, labels):
    oracle = LinearSVC(C=strength, loss="hinge", fit_intercept=False, dual=True, random_state=0, max_iter=10_000)
    return oracle.fit(values, labels)


def scaled(pairs, support, rows):
    """The slow way: differences over the root mean square of the support's."""
    values = pairs.items.values.astype(np.float64)
    scale = [np.sqrt(np.mean([(values[pairs.left[s], d] - values[pairs.right[s], d]) ** 2 for s in support]))
             for d in range(values.shape[1])]  # fmt: skip
    return np.array([
        [(values[pairs.left[r], d] - values[pairs.right[r], d]) / (scale[d] or 1) for d in range(values.shape[1])]
        for r in rows
    ])  # fmt: skip


def weighed(pairs, support, rows):
    """The slow way: TF-IDF of the support's texts, left minus right."""
    texts = pairs.items.texts
    kept = sorted({int(side[s]) for s in support for side in (pairs.left, pairs.right)})
    tfidf = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"\w+|[^\w\s]")
    tfidf.fit([texts[item] for item in kept])
    left, right = (tfidf.transform([texts[side[row]] for row in rows]).toarray() for side in (pairs.left, pairs.right))
    return left - right


def chosen_by_hand(pairs, differences):
    labels = pairs.labels[SUPPORT]
    fold_of = stratified_folds(labels, 5, 0)
    right = []
    for strength in PAIR_STRENGTHS:
        hits = 0
        for fold in range(fold_of.max() + 1):
            inside, outside = SUPPORT[fold_of != fold], SUPPORT[fold_of == fold]
            model = svm(strength, differences(pairs, inside, inside), pairs.labels[inside])
            hits += np.sum(model.predict(differences(pairs, inside, outside)) == pairs.labels[outside])
        right.append(hits)
    return PAIR_STRENGTHS[int(np.argmax(right))]


@pytest.mark.parametrize(("fixture", "differences"), [("vectors", scaled), ("texts", weighed)])
def test_it_is_a_linear_svm_on_differences_with_a_strength_chosen_inside(request, fixture, differences):
    pairs = request.getfixturevalue(fixture)
    arm = raw_arm(pairs, 2, seed=0)
    assert isinstance(arm, RankSvmArm)
    labels = pairs.labels[SUPPORT]
    assert len(set(labels)) == 2
    for shot, strength in ((1, PAIR_STRENGTHS[0]), (12, chosen_by_hand(pairs, differences))):
        oracle = svm(strength, differences(pairs, SUPPORT, SUPPORT), labels)
        found = arm.predict(SUPPORT, labels, TEST, shot=shot, draw=0)
        np.testing.assert_array_equal(found.classes, oracle.predict(differences(pairs, SUPPORT, TEST)))
    assert np.mean(found.classes == pairs.labels[TEST]) > 0.7


@pytest.mark.parametrize(("fixture", "differences"), [("vectors", scaled), ("texts", weighed)])
def test_a_validation_set_chooses_the_strength(request, fixture, differences):
    pairs = request.getfixturevalue(fixture)
    named = Validation(np.arange(48, 60), pairs.labels[48:])
    fitted = [svm(c, differences(pairs, SUPPORT, SUPPORT), pairs.labels[SUPPORT]) for c in PAIR_STRENGTHS]
    right = [np.sum(model.predict(differences(pairs, SUPPORT, named.rows)) == named.labels) for model in fitted]
    found = raw_arm(pairs, 2, 0, named).predict(SUPPORT, pairs.labels[SUPPORT], TEST[:24], shot=12, draw=0)
    expected = fitted[int(np.argmax(right))].predict(differences(pairs, SUPPORT, TEST[:24]))
    np.testing.assert_array_equal(found.classes, expected)


def test_the_vocabulary_is_that_of_the_supports_texts_each_once(texts, monkeypatch):
    fitted = []

    class Recording(TfidfVectorizer):
        def fit(self, documents, labels=None):
            fitted.append(list(documents))
            return super().fit(documents, labels)

    monkeypatch.setattr(words, "TfidfVectorizer", Recording)
    raw_arm(texts, 2, 0).predict(SUPPORT, texts.labels[SUPPORT], TEST, shot=12, draw=0)
    inside = [texts.items.texts[item] for item in {*texts.left[SUPPORT].tolist(), *texts.right[SUPPORT].tolist()}]
    assert len(fitted) == 5 + 1
    assert sorted(fitted[-1]) == sorted(inside)
    assert all(set(fold) < set(inside) for fold in fitted[:-1])


def test_other_test_items_change_no_answer(vectors):
    first = raw_arm(vectors, 2, 0).predict(SUPPORT, vectors.labels[SUPPORT], TEST[:5], shot=12, draw=0).classes
    unseen = np.setdiff1d(
        np.arange(40), [*vectors.left[:29].tolist(), *vectors.right[:29].tolist()]
    )  # in neither support nor the five
    values = vectors.items.values.copy()
    values[unseen] = 1e6
    other = dataclasses.replace(vectors, items=dataclasses.replace(vectors.items, values=values))
    again = raw_arm(other, 2, 0).predict(SUPPORT, vectors.labels[SUPPORT], TEST[:5], shot=12, draw=0).classes
    np.testing.assert_array_equal(first, again)


@pytest.mark.parametrize("fixture", ["vectors", "texts"])
def test_swapped_sides_swap_the_answers_and_a_tie_is_the_right_one(request, fixture):
    pairs = request.getfixturevalue(fixture)
    both = [
        np.concatenate([pairs.left, pairs.right, pairs.left]),
        np.concatenate([pairs.right, pairs.left, pairs.left]),
    ]
    known = (
        WordDifferences(pairs.items.texts, *both)
        if fixture == "texts"
        else VectorDifferences(pairs.items.values, *both)
    )
    arm = RankSvmArm(known, seed=0)
    first, swapped, same = (
        arm.predict(SUPPORT, pairs.labels[SUPPORT], TEST + shift, shot=12, draw=0).classes for shift in (0, 60, 120)
    )
    np.testing.assert_array_equal(first, 1 - swapped)
    assert not same.any()


def test_the_longer_text_wins_whatever_the_labels(tokenizer):
    source = load_source({"text": ["fine", "the film", "poor", "was"]}, columns={"text": "text"})
    items = encode_texts(source, tokenizer, length=24)
    arm = LongerArm(np.array([len(text) for text in items.texts]), np.array([0, 1, 0, 3]), np.array([1, 0, 2, 0]))
    found = arm.predict(np.arange(2), np.array([0, 1]), np.arange(4), shot=1, draw=0).classes
    assert found.tolist() == [0, 1, 0, 0]  # "fine" and "poor" are as long: the right one
