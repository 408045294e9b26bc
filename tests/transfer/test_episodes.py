"""Episodes: what is drawn, the scores against one episode at a time, intervals against simulations."""

import numpy as np
import pytest
from scipy import stats

from auxtasks.errors import TransferError
from transfer.episodes import EpisodeScores, draw_episodes, score_episodes
from transfer.heads import build_head

LABELS = np.repeat(np.arange(8), [30, 12, 12, 12, 12, 12, 9, 3])
SIZES = {"way": 3, "shot": 2, "queries": 4, "episodes": 40}


def features_of(labels, spread=1.0, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(labels.max() + 1, 16))[labels] + spread * rng.normal(size=(len(labels), 16))


def test_an_episode_holds_what_was_asked_for():
    shuffled = np.random.default_rng(1).permutation(LABELS)
    drawn = draw_episodes(shuffled, **SIZES, seed=3)
    assert (len(drawn), drawn.way, drawn.shot, drawn.queries) == (40, 3, 2, 4)
    for classes, support, query in zip(drawn.classes, drawn.support, drawn.query, strict=True):
        assert len(set(classes)) == 3
        assert len({*support, *query}) == 3 * 6  # no item twice
        np.testing.assert_array_equal(shuffled[support], classes[drawn.support_labels])
        np.testing.assert_array_equal(shuffled[query], classes[drawn.query_labels])
    assert set(drawn.classes.ravel()) == set(range(7))  # class 7 has too few items


def test_an_episode_depends_on_its_number_and_the_seed_alone():
    some, more = (draw_episodes(LABELS, **{**SIZES, "episodes": count}, seed=0) for count in (5, 25))
    np.testing.assert_array_equal(some.support, more.support[:5])
    other = draw_episodes(LABELS, **SIZES, seed=1)
    assert (other.query[:5] != some.query).any()


def test_more_shots_have_the_same_queries_and_hold_the_fewer():
    labels = np.repeat(np.arange(6), 20)
    one, five = (draw_episodes(labels, way=4, shot=shot, queries=3, episodes=6, seed=0) for shot in (1, 5))
    np.testing.assert_array_equal(one.query, five.query)
    for few, many in zip(one.support, five.support, strict=True):
        assert set(few) <= set(many)


def test_every_class_and_every_item_come_equally_often():
    drawn = draw_episodes(np.repeat(np.arange(5), 6), way=2, shot=1, queries=2, episodes=3000, seed=0)
    assert stats.chisquare(np.bincount(drawn.classes.ravel())).pvalue > 0.001
    assert stats.chisquare(np.bincount(drawn.support.ravel())).pvalue > 0.001


def test_unlabelled_items_are_left_out():
    labels = np.where(np.arange(60) % 3 == 0, -1, np.arange(60) % 2)
    drawn = draw_episodes(labels, way=2, shot=2, queries=2, episodes=20, seed=0)
    assert (labels[drawn.support] >= 0).all()
    assert (labels[drawn.query] >= 0).all()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"way": 1}, "way must be at least 2, found 1"),
        ({"shot": 0}, "shot must be at least 1, found 0"),
        ({"episodes": 0}, "episodes must be at least 1, found 0"),
        (
            {"shot": 20},
            r"3-way episodes with 20 labelled and 4 asked items a class need 3 classes of 24 items: 1 of 8 classes "
            r"have so many, the largest has 30",
        ),
    ],
)
def test_what_cannot_be_drawn_is_refused(changed, message):
    with pytest.raises(TransferError, match=message):
        draw_episodes(LABELS, **{**SIZES, **changed}, seed=0)


def test_labels_that_are_none_are_refused():
    with pytest.raises(TransferError, match=r"labels must be \(N,\) whole numbers, found float64 of shape \(2,\)"):
        draw_episodes([0.5, 1.0], **SIZES, seed=0)


@pytest.mark.parametrize(
    "head",
    [
        build_head("prototype"),
        build_head("prototype", center=True),
        build_head("ridge"),
        build_head("logistic", C=10.0),
    ],
    ids=str,
)
def test_accuracies_are_those_of_one_episode_at_a_time(head):
    features = features_of(LABELS)
    drawn = draw_episodes(LABELS, **SIZES, seed=0)
    found = score_episodes(head, features, drawn)
    for place in range(len(drawn)):
        fitted = head.fit(features[drawn.support[place]], drawn.support_labels, 3)
        right = sum(
            fitted.predict(features[[row]])[0] == label
            for row, label in zip(drawn.query[place], drawn.query_labels, strict=True)
        )
        assert found.accuracies[place] == right / 12
    assert found.mean == pytest.approx(sum(found.accuracies) / 40)
    low, high = stats.t.interval(0.95, 39, loc=found.mean, scale=stats.sem(found.accuracies))
    assert found.ci95 == pytest.approx((low, min(high, 1.0)))


def test_noise_is_at_chance_and_half_of_its_episodes_fail():
    features = np.random.default_rng(0).normal(size=(len(LABELS), 16))
    found = score_episodes(build_head("prototype"), features, draw_episodes(LABELS, **SIZES, seed=0))
    assert found.ci95[0] < found.chance < found.ci95[1]
    assert 0.3 < found.failed < 0.9


def test_one_episode_has_no_interval_and_failures_are_counted():
    found = score_episodes(
        build_head("prototype"), features_of(LABELS), draw_episodes(LABELS, **{**SIZES, "episodes": 1}, seed=0)
    )
    assert found.ci95 is None
    assert EpisodeScores(np.array([0.5, 0.25, 1.0, 0.1]), 0.4625, None, way=2).failed == 0.75
