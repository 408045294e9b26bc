"""The classical baseline: a RankSVM's weights, how its strength is chosen, and what words it knows."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from datasets import Dataset
from scipy.sparse import csr_matrix
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.metrics import ndcg_score
from sklearn.svm import LinearSVC

from auxtasks.backbones import mlp
from auxtasks.data.rankings import RankingTable
from auxtasks.errors import TransferError
from auxtasks.tasks import LabelledQueries, MaxMarginRanking
from transfer import rank_svm
from transfer.rank_svm import STRENGTHS, choose_rank_svm, pair_rows, rank_svm_weights
from transfer.words import word_weights


def table_of(qids, grades, values) -> RankingTable:
    rows = {"qid": list(qids), "grade": list(grades), "features": np.asarray(values, dtype=np.float32).tolist()}
    return LabelledQueries().prepare(Dataset.from_dict(rows), mlp(width=len(rows["features"][0])), None)


def lists(queries, seed, noise=0.5, width=4, items=6, scale=None):
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(queries * items, width))
    truth = np.random.default_rng(99).normal(size=width)
    grades = np.digitize(values @ truth + noise * rng.normal(size=len(values)), [-1, 0, 1])
    return table_of(np.repeat(np.arange(queries), items), grades, values * (np.ones(width) if scale is None else scale))


def texts_of(queries, encoder) -> RankingTable:
    """Make lists of (grade, text)."""
    rows = [(query, *row) for query, of in enumerate(queries) for row in of]
    columns = dict(zip(("qid", "grade", "text"), map(list, zip(*rows, strict=True)), strict=True))
    return LabelledQueries().prepare(Dataset.from_dict(columns), encoder, None)


def objective(weights, differences, strength):
    return weights @ weights / 2 + strength * np.maximum(0, 1 - differences @ weights).sum()


# Weights


def test_one_direction_has_its_closed_form():
    # Two pairs that differ in one feature, by 1 and by 2: w^2 / 2 + C (max(0, 1 - w) + max(0, 1 - 2 w)), w is
    # 3 C below 1/2, then 1/2 until C is 1/2, then C, then 1.
    for strength, expected in ((0.1, 0.3), (0.3, 0.5), (0.7, 0.7), (5.0, 1.0)):
        found = rank_svm_weights(np.array([[1.0, 0.0], [2.0, 0.0]]), strength)
        np.testing.assert_allclose(found, [expected, 0], atol=1e-3)


@pytest.mark.parametrize("strength", [1.0, 0.01])
def test_weights_are_those_of_a_linear_svm_on_all_differences_both_ways(strength):
    table = lists(10, seed=0)
    better, worse = pair_rows(table)
    differences = (table.items.values[better] - table.items.values[worse]).astype(float)
    # Both orders of each pair, each with half of the weight, are the same problem without any alternating.
    both, signs = np.concatenate([differences, -differences]), np.repeat([1.0, -1.0], len(differences))
    svm = LinearSVC(C=strength / 2, loss="hinge", dual=True, fit_intercept=False, tol=1e-6, max_iter=500_000)
    expected = svm.fit(both, signs).coef_[0]
    found = rank_svm_weights(differences, strength)
    assert objective(found, differences, strength) == pytest.approx(objective(expected, differences, strength), 1e-3)
    np.testing.assert_allclose(found, expected, atol=0.02 * np.abs(expected).max())
    np.testing.assert_allclose(rank_svm_weights(csr_matrix(differences), strength), found, atol=1e-3)


def test_fewer_than_two_pairs_are_an_error():
    with pytest.raises(TransferError, match="at least two pairs of a better and a worse item, found 1"):
        rank_svm_weights(np.ones((1, 3)), 1.0)


# Pairs


def test_pairs_are_those_of_nested_loops():
    rng = np.random.default_rng(0)
    table = lists(6, seed=1).subset([4, 0, 0, 3])
    expected = [
        (places[i], places[j])
        for places, grades in ((table.record(query)["places"], table.record(query)["grades"]) for query in range(4))
        for i, j in itertools.permutations(range(len(grades)), 2)
        if grades[i] > grades[j]
    ]
    assert sorted(zip(*pair_rows(table), strict=True)) == sorted(expected)
    assert len(expected) > 20
    some = list(zip(*pair_rows(table, most=12, seed=3), strict=True))
    assert len(some) == 12
    assert set(some) < set(expected)
    assert some == list(zip(*pair_rows(table, most=12, seed=3), strict=True))
    assert some != list(zip(*pair_rows(table, most=12, seed=4), strict=True))
    assert len(pair_rows(table, most=len(expected))[0]) == len(expected)
    # Evenly: each pair is drawn about as often as any other.
    table = table_of([1] * 5, [4, 3, 2, 1, 0], rng.normal(size=(5, 2)))
    drawn = np.zeros((5, 5))
    for seed in range(400):
        np.add.at(drawn, pair_rows(table, most=3, seed=seed), 1)
    assert 80 < drawn[drawn > 0].min() <= drawn.max() < 160  # 120 of each are expected


def test_at_most_so_many_pairs_are_fitted_on(monkeypatch):
    seen = []
    fit = rank_svm.rank_svm_weights
    monkeypatch.setattr(rank_svm, "MOST_PAIRS", 25)
    monkeypatch.setattr(rank_svm, "rank_svm_weights", lambda d, c, s: seen.append(d.shape) or fit(d, c, s))
    choose_rank_svm(lists(10, seed=0), None)
    assert seen == [(25, 4)]


def test_no_pair_is_an_error():
    with pytest.raises(TransferError, match="no query has two items of different grades"):
        choose_rank_svm(table_of([1, 1, 2], [3, 3, 0], np.eye(3)), None)


# The choice


def by_hand(trained, strength):
    """Return scores of any values by a RankSVM on standardised ones."""
    values = trained.items.values.astype(float)
    used = values[np.unique(trained.places)]
    mean, deviation = used.mean(axis=0), used.std(axis=0)
    better, worse = pair_rows(trained)
    weights = rank_svm_weights((values[better] - values[worse]) / deviation, strength)
    return lambda other: (other - mean) / deviation @ weights


def quality_by_hand(score, held_out):
    """Mean NDCG@10 by scikit-learn over the queries with anything relevant."""
    found = []
    for query in range(len(held_out)):
        record = held_out.record(query)
        if record["grades"].max() > 0:
            scores = score(held_out.items.values[record["places"]])
            found.append(ndcg_score([2.0 ** record["grades"] - 1], [scores], k=10))
    return np.mean(found)


@pytest.mark.parametrize("seed", range(4))
def test_the_strength_is_the_one_with_the_best_ndcg_on_held_out_queries(seed):
    # Lists of 14, of which ten count; few and noisy ones to train on, so that strengths differ.
    trained, held_out = (lists(count, seed=seed + 10 * part, noise=2.0, width=12, items=14)
                         for part, count in ((0, 3), (1, 12)))  # fmt: skip
    qualities = [quality_by_hand(by_hand(trained, strength), held_out) for strength in STRENGTHS]
    chosen = choose_rank_svm(trained, held_out)
    assert chosen.strength == STRENGTHS[int(np.argmax(qualities))]
    np.testing.assert_allclose(chosen.score(held_out.items), by_hand(trained, chosen.strength)(held_out.items.values),
                               atol=1e-2)  # fmt: skip
    assert len(set(np.round(qualities, 6))) > 1


def test_the_choice_is_not_always_the_first():
    chosen = {
        choose_rank_svm(lists(3, seed=seed, noise=2.0, width=12), lists(12, seed=seed + 50, width=12)).strength
        for seed in range(6)
    }
    assert len(chosen) > 1


def test_without_held_out_queries_nothing_is_chosen():
    assert choose_rank_svm(lists(5, seed=0), None).strength == STRENGTHS[0] == 0.1


def test_among_equals_the_first_wins():
    # Easy enough that all strengths rank it without a fault.
    easy = table_of(np.repeat([1, 2, 3], 3), [0, 1, 2] * 3, [[grade, 0.0] for grade in (0, 1, 2)] * 3)
    assert choose_rank_svm(easy, easy).strength == STRENGTHS[0]


def test_pairs_are_chosen_by_their_accuracy(monkeypatch):
    rng = np.random.default_rng(0)
    values = rng.normal(size=(40, 6))
    pairs = {
        "chosen": (values + np.array([0.5, 0, 0, 0, 0, 0])).tolist(),
        "rejected": rng.normal(size=(40, 6)).tolist(),
    }
    table = LabelledQueries().prepare(Dataset.from_dict(pairs), mlp(width=6), None)
    trained, held_out = table.subset(range(20)), table.subset(range(20, 40))
    asked = []
    summarise = rank_svm.summarise

    def only_accuracy(by_query):
        asked.append(summarise(by_query)["pair_accuracy"])
        return {"pair_accuracy": asked[-1]}

    monkeypatch.setattr(rank_svm, "summarise", only_accuracy)
    assert choose_rank_svm(trained, held_out).strength == STRENGTHS[int(np.argmax(asked))]
    assert len(asked) == len(STRENGTHS)


def test_it_learns_what_can_be_learnt_whatever_the_scale():
    held_out = lists(40, seed=1, noise=0.2)
    found = choose_rank_svm(lists(20, seed=0, noise=0.2), held_out)
    assert quality_by_hand(lambda values: found.transform(values) @ found.weights, held_out) > 0.95
    scale = np.array([1e-3, 1.0, 1e3, 10.0])
    scaled = choose_rank_svm(lists(20, seed=0, noise=0.2, scale=scale), lists(40, seed=1, noise=0.2, scale=scale))
    np.testing.assert_allclose(scaled.weights, found.weights, atol=0.02)


# Items


def test_the_scale_comes_from_the_items_of_the_training_queries():
    values = np.random.default_rng(0).normal(size=(12, 3))
    values[6:] = values[6:] * 100 + 1000  # of another query, over the same table
    table = table_of(np.repeat([1, 2], 6), [0, 1, 2, 1, 0, 2] * 2, values)
    found = choose_rank_svm(table.subset([0]), None)
    alone = choose_rank_svm(table_of([1] * 6, [0, 1, 2, 1, 0, 2], values[:6]), None)
    np.testing.assert_allclose(found.weights, alone.weights, rtol=1e-6)
    np.testing.assert_allclose(found.transform(values[:6]).mean(axis=0), 0, atol=1e-6)


def test_words_come_from_the_training_items_alone(encoder):
    table = texts_of(
        [[(2, "fine film"), (0, "dull film")], [(1, "fine story"), (0, "dull story")], [(1, "great"), (0, "awful")]],
        encoder,
    )
    found = choose_rank_svm(table.subset([0, 1]), table.subset([2]))
    assert len(found.weights) == len({"fine", "film", "dull", "story", "fine film", "dull film", "fine story",
                                      "dull story"})  # fmt: skip
    scores = found.score(table.items)
    assert scores[0] > scores[1]
    assert scores[2] > scores[3]
    assert scores[4] == scores[5] == 0  # of words that were never seen
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True).fit(table.items.texts[:4])  # no short words here
    np.testing.assert_allclose(
        found.transform(table.items.texts).toarray(), words.transform(table.items.texts).toarray()
    )


def test_texts_of_short_words_and_signs_are_words_too():
    weights = word_weights().fit(["I a", "!", "?!"])
    assert set(weights.get_feature_names_out()) == {"i", "a", "i a", "!", "?", "? !"}
    assert (weights.transform(["I a", "!", "?!"]).sum(axis=1) > 0).all()


def test_items_are_scored_some_at_a_time(monkeypatch, encoder):
    found, table = choose_rank_svm(lists(8, seed=0), None), lists(8, seed=0)
    words = texts_of([[(2, "fine film"), (0, "dull film"), (1, "film")]], encoder)
    of_words = choose_rank_svm(words, None)
    before = found.score(table.items), of_words.score(words.items)
    monkeypatch.setattr(rank_svm, "SCORED_AT_A_TIME", 2)
    np.testing.assert_allclose(found.score(table.items), before[0])
    np.testing.assert_allclose(of_words.score(words.items), before[1])
    assert before[0].shape == (48,)


def test_pictures_are_refused(tiny_convnet, faces):
    rows = faces.select(range(4)).remove_columns("label")
    data = rows.add_column("qid", [1, 1, 2, 2]).add_column("grade", [0, 1, 1, 0])
    table = MaxMarginRanking(tiny_convnet()).prepare(data)
    with pytest.raises(TransferError, match="a RankSVM reads vectors or texts, found pictures"):
        choose_rank_svm(table, None)
