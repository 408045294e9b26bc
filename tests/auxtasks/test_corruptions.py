"""Corruptions: never the sentence itself, nothing but what their kind says, and as often as the mixture says."""

from __future__ import annotations

import collections
import pickle

import numpy as np
import pytest

from auxtasks.data.corruptions import KINDS, ORDER_ONLY, Corrupted, Mixture, corrupt, out_of_place
from auxtasks.errors import DataError

CORPUS = np.arange(100, 140, dtype=np.int32)
SEEDS = range(30)


def sentences() -> list[np.ndarray]:
    """Sentences of 2 to 12 words, with words that come twice, as ids and as strings."""
    rng = np.random.default_rng(0)
    ids = [rng.integers(4, size=size).astype(np.int32) for size in range(2, 13) for _ in range(3)]
    ids = [words for words in ids if len(set(words.tolist())) > 1]
    ids.append(np.arange(9, dtype=np.int32))
    return ids + [np.array([f"w{word}" for word in words]) for words in ids]


def draw_words(words: np.ndarray):
    """Draw from words that are in no sentence; the strings are longer than those of the sentences."""
    corpus = CORPUS if words.dtype.kind == "i" else np.array([f"drawn{word}" for word in CORPUS])
    return lambda rng, count: corpus[rng.integers(len(corpus), size=count)]


def made(kind: str) -> list[tuple[np.ndarray, Corrupted]]:
    found = []
    for words in sentences():
        for seed in SEEDS:
            before = words.copy()
            corrupted = KINDS[kind](words, np.random.default_rng(seed), draw_words(words))
            np.testing.assert_array_equal(words, before)  # not in place
            if corrupted is not None:
                found.append((words, corrupted))
    assert len(found) > 0.9 * len(sentences()) * len(SEEDS)  # a kind may give up, but does so rarely
    return found


every_kind = pytest.mark.parametrize("kind", KINDS)


@every_kind
def test_no_corruption_is_the_sentence_itself_and_each_word_has_its_origin(kind):
    for words, found in made(kind):
        assert found.words.tolist() != words.tolist()
        assert len(found.words) == len(found.origin) == len(found.replaced)
        assert found.words.dtype.kind == words.dtype.kind
        kept = ~found.replaced
        assert found.words[kept].tolist() == words[found.origin[kept]].tolist()


@every_kind
def test_the_same_random_numbers_make_the_same_corruption(kind):
    words = np.arange(9)
    one, two = (KINDS[kind](words, np.random.default_rng(5), draw_words(words)) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))


@pytest.mark.parametrize("kind", ORDER_ONLY)
def test_order_only_kinds_keep_every_word(kind):
    for words, found in made(kind):
        assert sorted(found.words.tolist()) == sorted(words.tolist())
        assert sorted(found.origin.tolist()) == list(range(len(words)))
        assert not found.replaced.any()


def test_a_swap_moves_two_neighbours():
    for words, found in made("swap"):
        moved = np.flatnonzero(found.origin != np.arange(len(words)))
        assert moved.tolist() == [moved[0], moved[0] + 1]
        assert found.origin[moved].tolist() == moved[::-1].tolist()


def test_a_window_moves_no_word_further_than_two_places():
    moves = {int(move) for words, found in made("window") for move in found.origin - np.arange(len(words))}
    assert moves == {-2, -1, 0, 1, 2}


def test_blocks_of_at_most_four_neighbours_change_places():
    sizes = set()
    for _, found in made("blocks"):
        order = found.origin.tolist()
        moved = [place for place, origin in enumerate(order) if place != origin]
        start, end = moved[0], moved[-1] + 1
        first = order.index(start) - start  # words of the second block, which now stands in front
        second = end - start - first
        assert order[start:end] == [*range(end - first, end), *range(start, start + second)]
        sizes.add((second, first))
    assert sizes == {(a, b) for a in range(1, 5) for b in range(1, 5)}


def test_blocks_of_two_words_are_a_swap():
    found = KINDS["blocks"](np.array([7, 8]), np.random.default_rng(0), draw_words(CORPUS))
    assert found.words.tolist() == [8, 7]


@pytest.mark.parametrize(("kind", "change"), [("drop", -1), ("duplicate", 1)])
def test_dropping_and_duplicating_change_the_length_by_one(kind, change):
    places = collections.Counter()
    for words, found in made(kind):
        assert len(found.words) == len(words) + change
        assert not found.replaced.any()
        if kind == "drop":
            (place,) = set(range(len(words))) - set(found.origin.tolist())
        else:
            ((place, _),) = collections.Counter(found.origin.tolist()).most_common(1)
            assert found.words[place] == found.words[place + 1] == words[place]
        assert np.all(np.diff(found.origin) >= 0)
        places[place / (len(words) - 1)] += 1
    assert {0.0, 1.0} <= places.keys()  # the first and the last word have their turn


def test_a_replaced_word_is_drawn_from_the_corpus_whole():
    for words, found in made("replace"):
        assert found.replaced.sum() == 1
        assert found.origin.tolist() == list(range(len(words)))
        (new,) = found.words[found.replaced].tolist()
        assert new in (CORPUS.tolist() if words.dtype.kind == "i" else [f"drawn{word}" for word in CORPUS])


def test_a_replaced_word_is_another_one():
    words = np.array([1, 1, 2])

    def draw(rng, count):
        return rng.choice([1, 2], size=count, p=[0.9, 0.1])

    for seed in SEEDS:
        found = KINDS["replace"](words, np.random.default_rng(seed), draw)
        if found is not None:
            assert found.words[found.replaced] != words[found.replaced]


@pytest.mark.parametrize("kind", ORDER_ONLY)
@pytest.mark.parametrize("words", [[], ["one"], ["no", "no", "no"]])
def test_there_is_no_other_order_of_no_no_no(kind, words):
    words = np.array(words, dtype="<U3")
    assert KINDS[kind](words, np.random.default_rng(0), draw_words(words)) is None


def test_other_kinds_say_when_they_cannot():
    rng = np.random.default_rng(0)
    nothing, one = np.zeros(0, dtype=np.int32), np.array([3], dtype=np.int32)
    assert KINDS["drop"](one, rng, draw_words(one)) is None
    assert KINDS["drop"](nothing, rng, draw_words(one)) is None
    assert KINDS["duplicate"](nothing, rng, draw_words(one)) is None
    assert KINDS["replace"](nothing, rng, draw_words(one)) is None
    assert KINDS["replace"](one, rng, lambda rng, count: one[:0]) is None  # an empty corpus
    assert KINDS["replace"](one, rng, lambda rng, count: np.repeat(one, count)) is None  # of one word
    assert KINDS["duplicate"](one, rng, draw_words(one)).words.tolist() == [3, 3]


def slow_out_of_place(corrupted: Corrupted) -> list[bool]:
    found = []
    for place, origin in enumerate(corrupted.origin.tolist()):
        stood_behind = origin - 1
        stands_behind = -1 if place == 0 else int(corrupted.origin[place - 1])
        found.append(stood_behind != stands_behind)
    return found


@every_kind
def test_out_of_place_is_every_word_that_stands_behind_another_place(kind):
    for _, found in made(kind):
        assert out_of_place(found).tolist() == slow_out_of_place(found)


def test_how_many_joints_each_kind_breaks():
    words = np.arange(9)
    found = {
        kind: {
            int(out_of_place(KINDS[kind](words, np.random.default_rng(seed), draw_words(words))).sum())
            for seed in SEEDS
        }
        for kind in KINDS
    }
    assert found["swap"] == found["blocks"] == {2, 3}  # 2 at the end of a sentence
    assert found["duplicate"] == {1}
    assert found["replace"] == {0}
    assert found["drop"] == {0, 1}  # no joint shows that the last word is missing
    assert max(found["shuffle"]) > 6


# Mixtures


def counts(mixture: Mixture, words: np.ndarray, step: int = 0, draws: int = 4000) -> collections.Counter[str]:
    rng = np.random.default_rng(1)
    return collections.Counter(corrupt(words, rng, mixture, draw_words(words), step=step)[0] for _ in range(draws))


def assert_distributed(found: collections.Counter[str], expected: dict[str, float]) -> None:
    """Hold counts against probabilities by chi-square, at about 1 in 10,000."""
    total = sum(found.values())
    assert found.keys() == expected.keys()
    chi = sum((found[kind] - total * p) ** 2 / (total * p) for kind, p in expected.items())
    assert chi < 2 * len(expected) + 16


def test_kinds_come_as_often_as_their_weights_say():
    mixture = Mixture()
    assert set(mixture.weights) == set(KINDS)
    total = sum(mixture.weights.values())
    assert_distributed(counts(mixture, np.arange(9)), {kind: w / total for kind, w in mixture.weights.items()})


def test_a_weight_of_zero_never_comes():
    mixture = Mixture({"swap": 1, "shuffle": 3, "drop": 0})
    assert mixture.kinds == ("shuffle", "swap")
    assert_distributed(counts(mixture, np.arange(9)), {"shuffle": 0.75, "swap": 0.25})


def test_a_curriculum_leads_from_easy_to_hard_in_a_straight_line():
    mixture = Mixture({"swap": 2.0, "blocks": 2.0}, easy={"shuffle": 5.0, "swap": 5.0}, curriculum_steps=100)
    assert mixture.kinds == ("shuffle", "blocks", "swap")
    for step, expected in (
        (0, {"shuffle": 0.5, "swap": 0.5}),
        (40, {"shuffle": 0.3, "swap": 0.5, "blocks": 0.2}),
        (100, {"swap": 0.5, "blocks": 0.5}),
        (10**9, {"swap": 0.5, "blocks": 0.5}),
    ):
        assert mixture.probabilities(step) == pytest.approx(expected)
    assert_distributed(counts(mixture, np.arange(9), step=40), {"shuffle": 0.3, "swap": 0.5, "blocks": 0.2})


def test_another_kind_stands_in_for_one_that_cannot():
    same = np.array([4, 4, 4])
    assert set(counts(Mixture({"swap": 100.0, "shuffle": 100.0, "drop": 1.0}), same, draws=50)) == {"drop"}
    stand_ins = counts(Mixture({"swap": 1000.0, "drop": 3.0, "duplicate": 1.0}), same)
    assert_distributed(stand_ins, {"drop": 0.75, "duplicate": 0.25})
    assert corrupt(same, np.random.default_rng(0), Mixture({"swap": 1, "shuffle": 1}), draw_words(same)) is None


def test_a_mixture_survives_pickling():
    mixture = Mixture({"swap": 1.0}, easy={"shuffle": 1.0}, curriculum_steps=3)
    assert pickle.loads(pickle.dumps(mixture)) == mixture


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weights": {"swapp": 1}}, r"no corruption 'swapp'; there are shuffle, .*Did you mean \"swap\"\?"),
        ({"weights": {"swap": 1}, "easy": {"x": 1}, "curriculum_steps": 3}, "there is no corruption 'x'"),
        ({"weights": {"swap": 2, "drop": -1}}, r"weights are not negative, .*found {'swap': 2, 'drop': -1}"),
        ({"weights": {"swap": float("nan")}}, "weights are not negative"),
        ({"weights": {"swap": float("inf")}}, "weights are not negative"),
        ({"weights": {"swap": 0.0}}, "and one is above zero"),
        ({"weights": {}}, r"and one is above zero; found {}"),
        ({"easy": {"swap": 1}}, r"found easy={'swap': 1} and curriculum_steps=0"),
        ({"curriculum_steps": 5}, "found easy=None and curriculum_steps=5"),
        ({"easy": {"swap": 1}, "curriculum_steps": -5}, "curriculum_steps=-5"),
    ],
)
def test_what_makes_no_mixture_is_refused(arguments, message):
    with pytest.raises(DataError, match=message):
        Mixture(**arguments)
