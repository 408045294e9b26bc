"""Choices of layer and head: against a loop, and on planted layers."""

import numpy as np
import pytest

from auxtasks.errors import TransferError
from transfer import choices
from transfer.choices import Candidate, Proxy, cross_validated, rank_on_episodes, ranked_in_advance
from transfer.selection import stratified_folds

CANDIDATES = [
    Candidate("noise", "prototype"),
    Candidate("weak", "ridge", {"alpha": 1.0}),
    Candidate("good", "prototype"),
    Candidate("weak", "prototype", {"center": True}),
    Candidate("good", "logistic", {"C": 10.0}),
]


def layered(classes=6, items=12, seed=0):
    """Three layers: one that knows the classes, one that knows them a little, and one that does not."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(classes), items))
    centres = rng.normal(size=(classes, 8))
    layers = {
        "noise": rng.normal(size=(len(labels), 8)),
        "weak": centres[labels] + 2.5 * rng.normal(size=(len(labels), 8)),
        "good": centres[labels] + 0.2 * rng.normal(size=(len(labels), 8)),
    }
    return {name: values.astype(np.float32) for name, values in layers.items()}, labels


def held_out_accuracy(features, labels, candidate, seed):
    """The slow way: fold by fold, item by item."""
    fold_of = stratified_folds(labels, 5, seed)
    right = 0
    for item in range(len(labels)):
        kept = [other for other in range(len(labels)) if fold_of[other] != fold_of[item]]
        head = candidate.build().fit(features[candidate.layer][kept], labels[kept], int(labels.max()) + 1)
        right += int(head.predict(features[candidate.layer][[item]])[0] == labels[item])
    return right / len(labels)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_cross_validation_by_loops(seed):
    features, labels = layered(classes=3, items=6, seed=seed)
    features["good"] = features["weak"] + np.float32(0.5)  # so that the race is close
    scores = [held_out_accuracy(features, labels, candidate, seed) for candidate in CANDIDATES]
    assert 0 < min(scores) < max(scores)
    assert cross_validated(features, labels, CANDIDATES, seed) == CANDIDATES[int(np.argmax(scores))]


def test_cross_validation_finds_the_planted_layer():
    features, labels = layered()
    assert cross_validated(features, labels, CANDIDATES, seed=0).layer == "good"


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 0, 1], [1, 2, 0]])
def test_among_equals_the_first_ranked_wins(order):
    features, labels = layered()
    same = dict.fromkeys(("low", "middle", "high"), features["good"])
    ranked = [[Candidate(name, "prototype") for name in same][place] for place in order]
    assert cross_validated(same, labels, ranked, seed=0) == ranked[0]


def test_the_first_ranked_wins_although_its_layer_comes_up_again():
    features, labels = layered()
    same = {"low": features["good"], "high": features["good"]}
    ranked = [Candidate("high", "prototype"), Candidate("low", "prototype"), Candidate("high", "prototype")]
    assert cross_validated(same, labels, ranked, seed=0) is ranked[0]


def test_episodes_prefer_the_planted_layer():
    features, labels = layered()
    for shots in (1, 3):
        ranked = rank_on_episodes(Proxy(features, labels), CANDIDATES, shots=shots, way=5, seed=0)
        layers = [candidate.layer for candidate, _ in ranked]
        assert set(layers[:2]) == {"good"}
        assert layers[-1] == "noise"
        accuracies = [accuracy for _, accuracy in ranked]
        assert accuracies == sorted(accuracies, reverse=True)
        assert accuracies[0] > 0.9
        assert accuracies[-1] < 0.4  # chance is 1 of 5


def test_episodes_by_loops():
    features, labels = layered()
    candidate = Candidate("weak", "prototype")
    found = rank_on_episodes(Proxy(features, labels), [candidate], shots=2, way=4, seed=7, episodes=6)
    accuracies = []
    for number in range(6):
        support, support_labels, query, query_labels = choices._episode(labels, 2, 4, 7, number)
        assert len(support) == 8
        assert not set(support) & set(query)
        for rows, given in [(support, support_labels), (query, query_labels)]:
            people = {label: set(labels[rows[given == label]]) for label in range(4)}
            assert all(len(found) == 1 for found in people.values())  # each class of the episode is one person
            assert len(set.union(*people.values())) == 4
        head = candidate.build().fit(features["weak"][support], support_labels, 4)
        right = [head.predict(features["weak"][[q]])[0] == y for q, y in zip(query, query_labels, strict=True)]
        accuracies.append(np.mean(right))
    assert found == [(candidate, pytest.approx(np.mean(accuracies)))]
    assert len(set(accuracies)) > 1  # the episodes differ


def test_equals_stay_in_the_order_given():
    features, labels = layered()
    same = dict.fromkeys("cab", features["good"])
    candidates = [Candidate(name, "prototype") for name in same]
    ranked = rank_on_episodes(Proxy(same, labels), candidates, shots=1, way=3, seed=0)
    assert [candidate for candidate, _ in ranked] == candidates


def test_ranking_is_a_pure_function_of_the_seed():
    features, labels = layered()
    proxy = Proxy(features, labels)

    def scores(seed):
        return [accuracy for _, accuracy in rank_on_episodes(proxy, CANDIDATES, shots=1, way=5, seed=seed)]

    first = scores(0)
    np.random.random()  # noqa: NPY002  # the global generator is what must not matter
    assert scores(0) == first
    assert scores(1) != first


def test_without_a_proxy_the_order_given_stays():
    ranked, how = ranked_in_advance(None, CANDIDATES, shots=1, classes=5, seed=0)
    assert ranked == CANDIDATES
    assert how == "default fixed in advance"


def test_with_a_proxy_the_planted_layer_comes_first_and_it_is_said():
    features, labels = layered()
    ranked, how = ranked_in_advance(Proxy(features, labels), CANDIDATES, shots=2, classes=20, seed=0)
    assert ranked[0].layer == "good"
    assert sorted(map(str, ranked)) == sorted(map(str, CANDIDATES))
    assert how == "6-way 2-shot episodes of held-out pretraining identities"  # 20 were wanted, 6 are there


def test_a_proxy_that_is_too_small_leaves_the_order_given():
    features, labels = layered(classes=4, items=3)
    proxy = Proxy(features, labels)
    assert proxy.way(shots=2, wanted=10) == 4
    assert proxy.way(shots=2, wanted=3) == 3
    assert proxy.way(shots=3, wanted=10) == 0
    assert ranked_in_advance(proxy, CANDIDATES, shots=3, classes=4, seed=0) == (CANDIDATES, "default fixed in advance")
    with pytest.raises(TransferError, match=r"3-way 3-shot episodes need more classes: the proxy has 0"):
        rank_on_episodes(proxy, CANDIDATES, shots=3, way=3, seed=0)


def test_unlabelled_items_of_the_proxy_are_no_class():
    features, labels = layered(classes=3)
    labels = labels.copy()
    labels[labels == 2] = -1
    proxy = Proxy(features, labels)
    assert proxy.way(shots=1, wanted=3) == 2
    ranked, _ = ranked_in_advance(proxy, CANDIDATES, shots=1, classes=3, seed=0)
    assert ranked[0].layer == "good"
