"""A named validation set: every choice of every arm is made on it, and nothing is fitted to it."""

import dataclasses

import numpy as np
import pytest

from auxtasks.errors import InputMismatchError, TransferError
from auxtasks.features.extract import extract
from transfer import arms, fewshot, raw_arms, tested
from transfer.arms import FeatureArm, TunedArm
from transfer.choices import Candidate, Validation, cross_validated
from transfer.fewshot import FewShot, evaluate_target
from transfer.finetune import Stage, Tuning
from transfer.heads import build_head
from transfer.items import gather_items
from transfer.protocol import Protocol
from transfer.raw_arms import PictureRawArm, TextRawArm

HEADS = (("prototype", {}), ("logistic", {"C": 10.0, "scaling": "rms"}))
NETWORKS = ("scratch", "untrained", "raw", "frozen", "finetuned")


def settings(shots=(1, 2), draws=2, **changes):
    return FewShot(
        **{
            "protocol": Protocol(shots=shots, draws=draws),
            "heads": HEADS,
            "tuning": Tuning(stages=(Stage(1, top_layers=1), Stage(1)), batch_size=8),
            "scratch": Tuning(stages=(Stage(2),), batch_size=8),
            **changes,
        }
    )


def evaluate(backbone, table, asked=None, **options):
    return evaluate_target(backbone, table, asked or settings(), **{"seed": 0, "show_progress": False, **options})


def thirds(table):
    """Split a table with eight items a class into pool, test and validation set of all classes."""
    place = np.arange(len(table)) % 8
    return [table.subset(np.flatnonzero(rows)) for rows in (place < 4, (place == 4) | (place == 5), place > 5)]


# --- the best of several ----------------------------------------------------------------------------------------------


def test_the_most_right_items_win_and_among_equals_the_first():
    named = Validation(np.arange(4), np.array([0, 1, 1, 1]))
    answers = {"low": [0, 0, 0, 0], "high": [0, 1, 1, 0], "as high": [1, 1, 1, 0], "later": [0, 1, 1, 0]}
    asked = []

    def predict(name, rows):
        asked.append((name, tuple(rows)))
        return np.array(answers[name])

    assert named.best(list(answers), lambda name: name, predict) == "high"
    assert asked == [(name, (0, 1, 2, 3)) for name in answers]


def test_a_single_setting_is_not_scored():
    named = Validation(np.arange(4), np.zeros(4, dtype=np.int64))
    assert named.best([3], lambda number: number, lambda *_: pytest.fail("there was nothing to choose")) == 3


# --- arms -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def contradiction():
    """Rows 0 to 31 can be told apart by ``near`` alone, rows 32 to 63, which are to validate on, by ``far`` alone."""
    rng = np.random.default_rng(0)
    labels = np.tile(np.repeat(np.arange(4), 8), 2)
    truth = np.eye(4, dtype=np.float32)[labels]
    noise = rng.normal(size=(64, 4)).astype(np.float32)
    halves = np.arange(64)[:, None] < 32
    # The support's first labels are enough for ``far`` to know the classes; the others of the support deny it.
    seen = np.isin(np.arange(64) % 8, (0, 1))[:, None] & halves
    features = {"near": np.where(halves, truth, noise), "far": np.where(halves & ~seen, noise, 3 * truth)}
    return features, labels, [Candidate("near", "prototype"), Candidate("far", "prototype")]


def test_a_validation_set_that_contradicts_the_support_flips_the_choice(contradiction):
    features, labels, ranked = contradiction
    support, rows = np.arange(32), np.arange(32, 64)
    named = Validation(rows, labels[rows])
    inside = {layer: values[support] for layer, values in features.items()}
    assert cross_validated(inside, labels[support], ranked, seed=0).layer == "near"
    for validation, layer in ((None, "near"), (named, "far")):
        arm = FeatureArm(features, {8: ranked}, 4, seed=0, validation=validation)
        found = arm.predict(support, labels[support], rows, shot=8, draw=0)
        assert found.layer == layer
        head = build_head("prototype").fit(features[layer][support], labels[support], 4)
        np.testing.assert_array_equal(found.classes, head.predict(features[layer][rows]))


def test_it_holds_for_one_label_a_class_and_never_cross_validates(contradiction, monkeypatch):
    monkeypatch.setattr(arms, "cross_validated", lambda *_: pytest.fail("inside the support"))
    features, labels, ranked = contradiction
    support, rows = np.arange(0, 32, 8), np.arange(32, 64)
    arm = FeatureArm(features, {1: ranked}, 4, seed=0, validation=Validation(rows, labels[rows]))
    assert arm.predict(support, labels[support], rows, shot=1, draw=0).layer == "far"
    assert FeatureArm(features, {1: ranked}, 4, seed=0).predict(
        support, labels[support], rows, shot=1, draw=0
    ).layer == "near"  # fmt: skip


def test_among_equals_the_first_ranked_is_taken(contradiction):
    features, labels, ranked = contradiction
    rows = np.arange(32, 64)
    blank = {layer: np.where(np.arange(64)[:, None] < 32, values, 0).astype(np.float32)
             for layer, values in features.items()}  # fmt: skip
    shuffled = np.random.default_rng(0).permutation(labels[rows])
    for order in (ranked, ranked[::-1]):
        arm = FeatureArm(blank, {8: order}, 4, seed=0, validation=Validation(rows, shuffled))
        assert arm.predict(np.arange(32), labels[:32], rows, shot=8, draw=0).layer == order[0].layer


def test_a_single_candidate_never_reads_the_validation_set(contradiction):
    features, labels, ranked = contradiction
    arm = FeatureArm(features, {8: ranked[:1]}, 4, seed=0, validation=Validation(np.array([10**6]), np.array([0])))
    assert arm.predict(np.arange(32), labels[:32], np.arange(32, 64), shot=8, draw=0).layer == "near"


@pytest.mark.parametrize("shot", [1, 3])
def test_raw_pictures_by_hand(quadrants, shot):
    # Pixels of noise: which head is best is chance, and every one of them is best for some validation labels.
    pixels = np.random.default_rng(1).normal(size=(32, 30)).astype(np.float32)
    labels, rows = quadrants.labels, np.flatnonzero(np.arange(32) % 8 > 3)
    support = np.flatnonzero(np.arange(32) % 8 < shot)
    kept = raw_arms.PCA(min(50, len(support) - 1), svd_solver="full").fit(pixels[support]).transform(pixels)
    kept = kept.astype(np.float32)
    answers = []
    for candidate in raw_arms.RAW_HEADS:
        head = candidate.build().fit(kept[support], labels[support], 4)
        answers.append(head.predict(kept))
    chosen = set()
    for wanted in range(len(raw_arms.RAW_HEADS)):
        right = [int(np.sum(answer[rows] == answers[wanted][rows])) for answer in answers]
        best = right.index(max(right))
        chosen.add(best)
        arm = PictureRawArm(pixels, 4, seed=0, validation=Validation(rows, answers[wanted][rows]))
        found = arm.predict(support, labels[support], np.arange(32), shot=shot, draw=0)
        np.testing.assert_array_equal(found.classes, answers[best])
    assert len(chosen) > 1


@pytest.mark.parametrize("shot", [1, 6])
def test_strengths_of_raw_texts_by_hand(opinions, shot, monkeypatch):
    asked = []
    regression = raw_arms._regression
    monkeypatch.setattr(raw_arms, "_regression", lambda *args: asked.append(args[0]) or regression(*args))
    monkeypatch.setattr(TextRawArm, "_choose", lambda *_: pytest.fail("inside the support"))
    support = np.arange(2 * shot)
    rows = np.arange(20, 40)
    words, inside = TextRawArm(opinions.texts, 2, seed=0)._weigh(support)
    outside = words.transform([opinions.texts[row] for row in range(40)])
    answers = [regression(strength, inside, opinions.labels[support]).predict(outside)
               for strength in raw_arms.TEXT_STRENGTHS]  # fmt: skip
    for answer in answers:
        right = [int(np.sum(other[rows] == answer[rows])) for other in answers]
        arm = TextRawArm(opinions.texts, 2, seed=0, validation=Validation(rows, answer[rows]))
        found = arm.predict(support, opinions.labels[support], np.arange(40), shot=shot, draw=0)
        np.testing.assert_array_equal(found.classes, answers[right.index(max(right))])
    assert asked == 3 * list(raw_arms.TEXT_STRENGTHS)  # each once, on the whole support


@pytest.mark.parametrize("shot", [1, 4])
@pytest.mark.parametrize("rates", [(10.0, 1e-4), (1e-4, 10.0)])
def test_a_network_is_trained_once_a_rate_and_the_best_one_predicts(backbone, quadrants, monkeypatch, shot, rates):
    calls = []
    fine_tune = arms.fine_tune

    def recording(*args, tuning, **kwargs):
        tuned = fine_tune(*args, tuning=tuning, **kwargs)
        calls.append((tuning.learning_rate, sorted(args[3].rows), tuned))
        return tuned

    monkeypatch.setattr(arms, "fine_tune", recording)
    support = np.flatnonzero(np.arange(32) % 8 < shot)
    rows = np.flatnonzero(np.arange(32) % 8 >= 4)
    head = arms.StartHead(extract(backbone, quadrants, {"stage2": "grid"})["stage2"])
    tuning = Tuning(stages=(Stage(2, top_layers=1), Stage(2)), batch_size=8)
    arm = TunedArm(
        backbone, "stage2", "grid", quadrants, 4, rates, tuning, head, mirror=False, augment=None, loop=None, seed=0,
        validation=Validation(rows, quadrants.labels[rows]),
    )  # fmt: skip
    found = arm.predict(support, quadrants.labels[support], np.arange(32), shot=shot, draw=0)
    assert [(rate, trained) for rate, trained, _ in calls] == [(rate, sorted(support)) for rate in rates]
    answers = {}
    for rate, _, tuned in calls:
        features = extract(tuned.backbone, quadrants, {"stage2": "grid"})["stage2"]
        answers[rate] = tuned.head.predict(features)
    right = {rate: np.mean(answer[rows] == quadrants.labels[rows]) for rate, answer in answers.items()}
    assert right[1e-4] > right[10.0]  # so the choice is one
    np.testing.assert_array_equal(found.classes, answers[1e-4])


# --- a whole evaluation -----------------------------------------------------------------------------------------------


@pytest.fixture
def predicted(monkeypatch):
    """Keep what every arm predicted."""
    found = []
    for kind in (arms.FeatureArm, raw_arms.PictureRawArm, arms.TunedArm):

        def predict(self, *args, asked=kind.predict, **kwargs):
            prediction = asked(self, *args, **kwargs)
            found.append((type(self).__name__, prediction.layer, tuple(prediction.classes)))
            return prediction

        monkeypatch.setattr(kind, "predict", predict)
    return found


def test_the_protocol_says_which_it_is(backbone, quadrants):
    pool, test, validation = thirds(quadrants)
    protocol = evaluate(backbone, pool, test=test, validation=validation).results.protocol
    assert (protocol["train_pool"], protocol["test_items"], protocol["validation_labels"]) == (16, 8, 8)
    assert "on a named validation set of 8 labelled items; ties by default fixed in advance" in protocol["choices"]
    assert "cross-validation" not in protocol["choices"]


def test_without_a_fixed_test_each_draw_is_tested_on_what_the_pool_leaves_over(backbone, quadrants):
    pool, _, validation = thirds(quadrants)
    asked = settings(arms=("frozen",), layers={"stage1": "grid"}, heads=HEADS[:1])
    with_set = evaluate(backbone, pool, asked, validation=validation).results
    without = evaluate(backbone, pool, asked).results
    assert (with_set.protocol["train_pool"], with_set.protocol["test_items"]) == (8, 8)
    assert with_set.protocol["validation_labels"] == 8
    for shot in (1, 2):  # one layer and one head: there is nothing to choose, on whatever set
        np.testing.assert_array_equal(with_set.arms["frozen"][shot], without.arms["frozen"][shot])
        assert with_set.arms["frozen"][shot].shape == (2, 16)


def test_validation_labels_decide_and_test_labels_do_not(backbone, quadrants, predicted):
    pool, test, validation = thirds(quadrants)
    asked = settings(draws=4, tuning_rates=(1e-2, 1e-4), scratch_rates=(1e-2, 1e-4))

    def run(test, validation):
        predicted.clear()
        evaluate(backbone, pool, asked, test=test, validation=validation)
        return list(predicted)

    first = run(test, validation)
    assert len(first) >= (len(NETWORKS) + 4) * 2 * 4
    relabelled = dataclasses.replace(test, labels=(test.labels + 1) % 4, fingerprint="relabelled")
    assert run(relabelled, validation) == first
    wrong = dataclasses.replace(validation, labels=(validation.labels + 1) % 4, fingerprint="wrong")
    assert run(test, wrong) != first


def test_the_test_is_opened_after_all_choices(backbone, quadrants, monkeypatch):
    pool, test, validation = thirds(quadrants)
    events = []
    best, scored = Validation.best, tested.item_scores
    monkeypatch.setattr(Validation, "best", lambda *args: events.append("chosen") or best(*args))
    monkeypatch.setattr(tested, "item_scores", lambda *args: events.append("scored") or scored(*args))
    evaluate(backbone, pool, test=test, validation=validation, open_test=lambda _: events.append("opened"))
    place = events.index("opened")
    assert events.count("opened") == 1
    assert set(events[:place]) == {"chosen"}
    assert set(events[place + 1 :]) == {"scored"}
    assert place == len(NETWORKS) * 2 * 2  # every arm, at two numbers of shots, in two draws


def test_layer_and_head_by_hand(backbone, quadrants):
    pool, test, validation = thirds(quadrants)
    layers = {"stem": "grid", "embedding": "auto"}
    outcome = evaluate(backbone, pool, settings(arms=("frozen",), layers=layers), test=test, validation=validation)
    items = gather_items(pool, test, validation)
    features = extract(backbone, items.table, layers)
    for draw in fewshot.plan_draws(pool.labels, Protocol(shots=(1, 2), draws=2), test=items.test):
        for shot, support in draw.support.items():
            tried = []
            for candidate in outcome.ranked[shot]:
                values = features[candidate.layer]
                head = candidate.build().fit(values[support], items.table.labels[support], 4)
                right = int(np.sum(head.predict(values[items.validation]) == items.table.labels[items.validation]))
                tried.append((right, head.predict(values[items.test]) == items.table.labels[items.test]))
            expected = max(tried, key=lambda pair: pair[0])[1]
            np.testing.assert_array_equal(outcome.results.arms["frozen"][shot][draw.number], expected)


def test_texts_are_validated_on_texts(encoder, opinions, opinions_test):
    pool, validation = opinions.subset(range(24)), opinions.subset(range(24, 40))
    asked = settings(shots=(1, 4), arms=("raw", "frozen", "finetuned"))
    results = evaluate(encoder, pool, asked, test=opinions_test, validation=validation, metric="matthews").results
    assert (results.protocol["validation_labels"], results.protocol["train_pool"]) == (16, 24)
    assert results.arms["raw"][4].shape == (2, 31)


# --- one table of all items -------------------------------------------------------------------------------------------


def test_pool_test_and_validation_set_lie_behind_each_other(quadrants):
    pool, test, validation = thirds(quadrants)
    turned = dataclasses.replace(validation, labels=3 - validation.labels, class_names=validation.class_names[::-1])
    items = gather_items(pool, test, turned)
    assert (items.pool, items.test.tolist(), items.validation.tolist()) == (16, [*range(16, 24)], [*range(24, 32)])
    for part, rows in ((pool, np.arange(16)), (test, items.test), (validation, items.validation)):
        np.testing.assert_array_equal(items.table.pixels[rows], part.pixels)
        np.testing.assert_array_equal(items.table.labels[rows], part.labels)
    without = gather_items(pool, None, validation)
    assert (without.test, without.validation.tolist()) == (None, [*range(16, 24)])


def test_validation_sets_that_do_not_fit_are_refused(quadrants, opinions):
    pool, test, validation = thirds(quadrants)
    with pytest.raises(TransferError, match=r"the validation set is the pool itself, the same 16 pictures .* choices"):
        gather_items(pool, test, dataclasses.replace(pool))
    with pytest.raises(TransferError, match=r"the validation set is the test set itself, the same 8 pictures"):
        gather_items(pool, test, dataclasses.replace(test))
    other = dataclasses.replace(validation, class_names=("a", "b", "c", "d"))
    with pytest.raises(TransferError, match=r"drawn from the classes class0, .*; the validation set has a, b, c, d"):
        gather_items(pool, test, other)
    with pytest.raises(TransferError, match=r"8 of the 8 validation pictures have no label: a validation set needs"):
        gather_items(pool, test, dataclasses.replace(validation, labels=np.full(8, -1)))
    with pytest.raises(TransferError, match=r"0 of the 0 validation pictures"):
        gather_items(pool, None, validation.subset([]))
    named = dataclasses.replace(opinions, class_names=pool.class_names)
    with pytest.raises(InputMismatchError, match=r"drawn from pictures, and the validation set holds texts"):
        gather_items(pool, None, named)
