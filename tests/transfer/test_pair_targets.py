"""Targets of pairs end to end: the better of two texts or vectors, no side preferred, nothing computed twice."""

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import transfer
from auxtasks.backbones import mlp
from auxtasks.backbones.text import TokenBatch
from auxtasks.data import load_source
from auxtasks.data.augment import Augment
from auxtasks.data.feature_table import FeatureTable
from auxtasks.data.pair_table import pair_table
from auxtasks.data.rankings import RankingTable
from auxtasks.data.texts import encode_texts
from auxtasks.errors import InputMismatchError, TransferError
from auxtasks.features.batches import PairBatch
from auxtasks.features.extract import extract
from transfer.both_orders import scoring_weight
from transfer.fewshot import FewShot, evaluate_target
from transfer.finetune import Classifier, Stage, Tuning, fine_tune
from transfer.items import gather_items
from transfer.leaks import comparable_items, find_leaks
from transfer.model import table_of_items
from transfer.pair_arms import longer_arm
from transfer.protocol import Protocol
from transfer.report import build_report, write_report
from transfer.spaces import Pretrained

ARMS = ("scratch", "untrained", "raw", "frozen", "finetuned")
HEADS = (("prototype", {}), ("logistic", {"C": 10.0, "scaling": "rms"}))
GOOD, BAD = ("fine", "lovely", "great"), ("awful", "dull", "poor")
FILLER = ("the", "film", "was", "and", "its", "story", "actors", "seemed", "to", "me", "very", "long", "music", "of")


def settings(shots=(2, 12), draws=2, steps=40, **changes):
    return FewShot(
        **{
            "protocol": Protocol(shots=shots, draws=draws),
            "arms": ARMS,
            "heads": HEADS,
            "tuning": Tuning(stages=(Stage(1, top_layers=1), Stage(steps - 1)), batch_size=16, learning_rate=5e-3),
            "scratch": Tuning(stages=(Stage(steps),), batch_size=16, learning_rate=5e-3),
            **changes,
        }
    )


def evaluate(backbone, table, asked, **options):
    return evaluate_target(backbone, table, asked, **{"seed": 0, "show_progress": False, **options})


def means(outcome, shot):
    return {arm: float(np.nanmean(by_shot[shot])) for arm, by_shot in outcome.results.arms.items()}


def queries_of(items, grades, size):
    """Rank items in queries of a size, in their order."""
    count = len(items) // size
    return RankingTable(
        items,
        np.arange(count * size),
        np.asarray(grades, dtype=np.float32)[: count * size],
        np.arange(count + 1) * size,
        np.full(count, np.nan, np.float32),
        tuple(map(str, range(count))),
        {},
        f"{items.fingerprint}, queries of {size}",
    )


def swapped(pairs):
    return dataclasses.replace(
        pairs, left=pairs.right, right=pairs.left, labels=1 - pairs.labels, fingerprint=f"{pairs.fingerprint} swapped"
    )


def shuffled(pairs, seed):
    return dataclasses.replace(pairs, labels=np.random.default_rng(seed).permutation(pairs.labels))


# --- vectors ----------------------------------------------------------------------------------------------------------

WEIGHT = np.array([1.0, -2.0, 0.5, 0, 0, 0, 0, 0], dtype=np.float32)


def ranked_vectors(count, seed):
    """Items whose grade is a linear function of their features, in queries of four."""
    values = np.random.default_rng(seed).normal(size=(count, 8)).astype(np.float32)
    items = FeatureTable(values, np.full(count, -1), (), np.arange(count), (), f"{count} vectors of seed {seed}")
    return pair_table(queries_of(items, values @ WEIGHT, 4), seed)


@pytest.fixture(scope="module")
def vectors():
    return ranked_vectors(200, 0), ranked_vectors(120, 1)


def test_a_linear_order_of_vectors_is_found_and_a_shuffled_one_is_not(vectors):
    pool, test = vectors
    asked = settings(shots=(5, 60), draws=1, steps=30)
    outcome = evaluate(mlp(width=8, hidden=[]), pool, asked, test=test)
    found = means(outcome, 60)
    assert list(found) == list(ARMS)
    assert min(found["frozen"], found["raw"], found["finetuned"]) > 0.9, found
    assert means(outcome, 5)["frozen"] > 0.55
    assert (outcome.results.unit, outcome.results.protocol["test_items"]) == ("item", 180)
    assert outcome.results.protocol["classes"] == 2
    assert any("training pairs at 60 a class" in note for note in outcome.notes)
    assert any("pairs are resampled one by one" in note for note in outcome.notes)
    controls = []
    for seed in range(25):  # many: a direction drawn by chance among eight is often not far from the right one
        quick = settings(arms=("raw", "frozen"), shots=(60,), heads=HEADS[:1])
        shuffle = shuffled(pool, seed)
        controls += means(evaluate(mlp(width=8, hidden=[]), shuffle, quick, test=test), 60).values()
    assert np.mean(controls) == pytest.approx(0.5, abs=0.07)


def test_random_layers_lose_what_vectors_as_they_are_have(vectors):
    pool, test = vectors
    asked = settings(arms=("frozen",), shots=(60,))
    plain = means(evaluate(mlp(width=8, hidden=[]), pool, asked, test=test), 60)["frozen"]
    narrow = means(evaluate(mlp(width=8, hidden=[2]), pool, asked, test=test), 60)["frozen"]
    assert plain > narrow + 0.1


def test_what_it_takes_to_make_a_scorer_is_in_the_outcome(vectors):
    pool, test = vectors
    outcome = evaluate(mlp(width=8, hidden=[]), pool, settings(arms=("frozen",), shots=(20,)), test=test)
    best = outcome.ranked[20][-1]
    assert (best.head, best.layer, outcome.pools[best.layer]) == ("logistic", "input", "auto")
    fitted = best.build().fit(outcome.spaces.target[best.layer], pool.labels, 2)
    weight = scoring_weight(fitted)
    assert np.dot(weight, WEIGHT) / np.linalg.norm(weight) / np.linalg.norm(WEIGHT) > 0.98
    scores = test.items.values @ weight
    answers = fitted.predict(extract(mlp(width=8, hidden=[]), test, ["input"])["input"])
    np.testing.assert_array_equal(answers, scores[test.left] > scores[test.right])


@pytest.mark.parametrize("hidden", [[], [6]])
def test_swapping_left_and_right_flips_every_arms_answer(vectors, hidden):
    pool = vectors[0].subset(range(60))
    items = gather_items(pool, swapped(pool))
    asked = settings(steps=5, shots=(1,))
    builder = transfer.fewshot._ArmBuilder(
        mlp(width=8, hidden=hidden), items, asked, 0, transfer.fewshot.FeatureCache(), None, {}
    )
    support = np.concatenate([np.flatnonzero(pool.labels[:40] == side)[:12] for side in (0, 1)])
    for name, arm in builder.arms(builder.heads_on(builder.backbone)).items():
        rows = np.arange(60)
        found = arm.predict(support, pool.labels[support], rows, shot=1, draw=0).classes
        turned = arm.predict(support, pool.labels[support], rows + 60, shot=1, draw=0).classes
        np.testing.assert_array_equal(found, 1 - turned, err_msg=name)
        # Nor does it matter which order of a labelled pair is shown.
        other = arm.predict(support + 60, 1 - pool.labels[support], rows, shot=1, draw=0).classes
        assert np.mean(other == found) > 0.95, name


# --- texts ------------------------------------------------------------------------------------------------------------


def ranked_texts(count, seed, tokenizer):
    """Texts with none to three good words among bad ones, in queries of four; which are better are as long."""
    rng = np.random.default_rng(seed)
    texts, grades = [], []
    for number in range(count):
        good = number % 4
        words = list(rng.choice(FILLER, size=rng.integers(3, 13)))
        for word in [*rng.choice(GOOD, size=good), *rng.choice(BAD, size=3 - good)]:
            words.insert(int(rng.integers(len(words) + 1)), word)
        texts.append(" ".join(words))
        grades.append(good)
    items = encode_texts(load_source({"text": texts}, columns={"text": "text"}), tokenizer, length=24)
    return pair_table(queries_of(items, grades, 4), seed)


@pytest.fixture(scope="module")
def opinions(tokenizer):
    return ranked_texts(60, 0, tokenizer), ranked_texts(40, 1, tokenizer)


def test_better_texts_are_found_by_every_arm_but_the_longer_and_with_shuffled_labels_by_none(
    encoder, opinions, tmp_path
):
    pool, test = opinions
    asked = settings(arms=(*ARMS, "longer"), shots=(24,), draws=1, steps=60)
    outcome = evaluate(encoder, pool, asked, test=test)
    found = means(outcome, 24)
    assert list(found) == [*ARMS, "longer"]
    assert min(found["raw"], found["frozen"], found["finetuned"]) > 0.75, found
    assert found["longer"] == pytest.approx(0.5, abs=0.15)
    report = build_report("pairs", 0, {"opinions": outcome.results}, notes=outcome.notes, resamples=200)
    paired = report.targets["opinions"].paired
    assert paired["frozen-longer"][24].mean == pytest.approx(found["frozen"] - found["longer"])
    assert "longer-raw" not in paired
    write_report(report, tmp_path)
    assert "longer" in (tmp_path / "report.md").read_text().split("### Paired differences")[1]
    controls = []
    for seed in range(15):
        quick = settings(arms=("raw", "frozen"), shots=(24,), layers={"block2": "mean"}, heads=HEADS[:1])
        controls += means(evaluate(encoder, shuffled(pool, seed), quick, test=test), 24).values()
    assert np.mean(controls) == pytest.approx(0.5, abs=0.1)


def test_without_a_fixed_test_the_report_says_that_items_are_shared(encoder, opinions):
    outcome = evaluate(encoder, opinions[0], settings(arms=("frozen",), shots=(4,)))
    assert any("items of a test pair may be in labelled pairs too" in note for note in outcome.notes)
    assert outcome.results.protocol["test_items"] == 90 - 8


def test_choices_on_a_validation_set_are_made_for_pairs_too(encoder, opinions, tokenizer):
    pool, test = opinions
    named = ranked_texts(20, 5, tokenizer)
    asked = settings(arms=("raw", "frozen"), shots=(12,))
    outcome = evaluate(encoder, pool, asked, test=test, validation=named)
    assert outcome.results.protocol["validation_labels"] == 30
    assert min(means(outcome, 12).values()) > 0.6


# --- joined -----------------------------------------------------------------------------------------------------------


def test_a_pool_and_its_test_lie_behind_each_other(opinions, vectors):
    for pool, test in (opinions, vectors):
        table = gather_items(pool, test).table
        assert len(table.items) == len(pool.items) + len(test.items)
        for row in (0, 17):
            for joined, alone in (
                (table.record(row), pool.record(row)),
                (table.record(len(pool) + row), test.record(row)),
            ):
                key = "tokens" if "tokens" in alone["left"] else "features"
                assert joined["label"] == alone["label"]
                for side in ("left", "right"):
                    np.testing.assert_array_equal(joined[side][key], alone[side][key])
    with pytest.raises(InputMismatchError, match="drawn from texts, and the test set holds vectors"):
        gather_items(opinions[0], vectors[1])
    with pytest.raises(InputMismatchError, match="drawn from pairs, and the test set holds vectors"):
        gather_items(
            vectors[0], dataclasses.replace(vectors[1].items, class_names=("right", "left"), labels=np.zeros(120, int))
        )


def test_items_that_both_share_are_not_copied(vectors):
    pool, test = vectors[0].subset(range(100)), vectors[0].subset(range(100, 200))
    items = gather_items(pool, test, vectors[0].subset(range(200, 300)))
    assert items.table.items is pool.items
    np.testing.assert_array_equal(items.table.left, vectors[0].left)


# --- fine-tuning ------------------------------------------------------------------------------------------------------


def test_the_loss_of_pairs_by_hand(encoder, opinions):
    pairs = opinions[0]
    model = Classifier(encoder.eval(), "block1", "mean", 2, bias=False, seed=3).eval()
    rows = np.array([4, 0, 1, 1, 30])
    batch = transfer.finetune._reader(encoder, pairs)(rows)
    assert isinstance(batch.inputs, PairBatch)
    needed = {int(side[row]) for row in rows for side in (pairs.left, pairs.right)}
    assert len(batch.inputs.items.ids) == len(needed) < 10

    def pooled(item):
        ids = torch.from_numpy(pairs.items.tokens[int(item)].astype(np.int64))[None]
        state = encoder.forward_layers(TokenBatch(ids, torch.ones_like(ids, dtype=torch.bool)), ["block1"])["block1"]
        return state.hidden.mean(dim=1)

    losses, turned = [], []
    for row in rows:
        scores = model.linear(pooled(pairs.left[row]) - pooled(pairs.right[row]))
        losses.append(F.cross_entropy(scores, torch.tensor([pairs.labels[row]])).item())
        turned.append(F.cross_entropy(-scores, torch.tensor([1 - pairs.labels[row]])).item())
    assert model(batch).loss_sum.item() == pytest.approx(sum(losses), rel=1e-5)
    assert losses == pytest.approx(turned)  # both orders of a pair have one loss, so one of them is enough


def test_a_tuned_network_has_no_bias_and_swaps_its_answers(encoder, opinions):
    pool, test = opinions
    tuned = fine_tune(
        encoder, "block2", "mean", pool, pool.labels, n_classes=2,
        tuning=Tuning(stages=(Stage(40),), learning_rate=5e-3, batch_size=16),
        start=(torch.zeros(2, 16), torch.tensor([5.0, -5.0])),
    )  # fmt: skip
    assert not tuned.head.bias.any()
    answers = [
        tuned.head.predict(extract(tuned.backbone, table, {"block2": "mean"})["block2"])
        for table in (test, swapped(test))
    ]
    np.testing.assert_array_equal(answers[0], 1 - answers[1])
    assert np.mean(answers[0] == test.labels) > 0.75


def test_a_classifier_without_a_bias_can_be_saved_and_restored(vectors, tmp_path):
    model = Classifier(mlp(width=8, hidden=[3]), "hidden1", "auto", 2, bias=False)
    model.save(tmp_path, {})
    other = Classifier(mlp(width=8, hidden=[3], seed=9), "hidden1", "auto", 2, bias=False, seed=9)
    other.restore(tmp_path)
    batch = transfer.finetune._reader(model.backbone, vectors[0])(np.arange(5))
    assert torch.equal(other(batch).loss_sum, model(batch).loss_sum)
    assert set(model.rate_scale(0.5)) == {"linear.weight", "backbone.module.0.0.weight", "backbone.module.0.0.bias"}


# --- what is refused, leaks -------------------------------------------------------------------------------------------


def test_settings_that_do_not_fit_pairs_are_refused(encoder, opinions, vectors):
    pool, test = opinions
    with pytest.raises(TransferError, match="sides are drawn by chance: matthews would depend on the drawing"):
        evaluate(encoder, pool, settings(), test=test, metric="matthews")
    with pytest.raises(TransferError, match=r"identities of the pretraining data do not say .* Pass pretrained=None"):
        evaluate(encoder, pool, settings(), pretrained=Pretrained(pool.items, pool.items))
    with pytest.raises(TransferError, match="pairs, which are trained on as they are: leave augment out"):
        evaluate(encoder, pool, settings(augment=Augment(size=(4, 4))))
    with pytest.raises(TransferError, match="augment changes pictures, the table holds pairs"):
        fine_tune(encoder, "block1", "mean", pool, pool.labels, n_classes=2, augment=Augment(size=(4, 4)))
    with pytest.raises(InputMismatchError, match="mirror image; the table holds texts"):
        evaluate(encoder, pool, settings(mirror=True))
    with pytest.raises(
        TransferError, match='"longer" compares the lengths of texts, the target holds pairs of vectors'
    ):
        longer_arm(vectors[0])
    with pytest.raises(TransferError, match='"longer" compares the lengths of texts, the target holds texts: leave it'):
        longer_arm(pool.items)
    with pytest.raises(InputMismatchError, match=r"items are read one by one; pass pairs\.items"):
        table_of_items(encoder, pool, None)


def test_texts_in_pairs_are_looked_for(opinions):
    pool, test = opinions
    planted = [test.items.texts[test.left[3]].upper()]
    leaks = find_leaks(planted, comparable_items(test), support=comparable_items(pool))
    assert (leaks.noun, leaks.pretraining.count) == ("texts", 1)
    few = test.subset([3])
    assert len(list(comparable_items(few))) == 2  # of items that are in no pair nothing is compared
    assert not find_leaks(planted, comparable_items(pool))


def test_pairs_of_pictures_are_a_target_too(backbone, quadrants):
    grades = [float(label % 2) for label in quadrants.labels]  # the right half is better
    order = np.random.default_rng(0).permutation(32)
    pairs = pair_table(queries_of(quadrants.subset(order), np.array(grades)[order], 8), 0)
    asked = settings(shots=(15,), steps=3, layers={"stage1": "grid"}, mirror=False)
    found = means(evaluate(backbone, pairs, asked), 15)
    assert min(found["raw"], found["frozen"]) > 0.95, found
