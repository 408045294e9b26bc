"""Targets of texts end to end: all arms, both kinds of test, both metrics."""

import dataclasses

import numpy as np
import pytest
from sklearn.metrics import matthews_corrcoef

from auxtasks.errors import InputMismatchError, TransferError
from auxtasks.features.extract import extract
from transfer.fewshot import FewShot, evaluate_target
from transfer.finetune import Stage, Tuning
from transfer.heads import build_head
from transfer.items import gather_items
from transfer.protocol import Protocol, plan_draws
from transfer.report import build_report, write_report

ARMS = ("scratch", "untrained", "raw", "frozen", "finetuned")


def settings(shots=(1, 8), draws=2, steps=2, **changes):
    return FewShot(
        **{
            "protocol": Protocol(shots=shots, draws=draws),
            "arms": ARMS,
            "heads": (("prototype", {}), ("logistic", {"C": 10.0, "scaling": "rms"})),
            "tuning": Tuning(stages=(Stage(1, top_layers=1), Stage(steps - 1)), batch_size=16, learning_rate=5e-3),
            "scratch": Tuning(stages=(Stage(steps),), batch_size=16, learning_rate=5e-3),
            **changes,
        }
    )


def evaluate(encoder, table, asked, **options):
    return evaluate_target(encoder, table, asked, **{"seed": 0, "show_progress": False, **options})


def means(outcome, shot):
    return {arm: float(np.mean(by_shot[shot])) for arm, by_shot in outcome.results.arms.items()}


def test_words_that_tell_are_learned_by_every_arm_and_shuffled_labels_by_none(encoder, opinions, opinions_test):
    asked = settings(shots=(16,), steps=40)
    found = means(evaluate(encoder, opinions, asked, test=opinions_test), 16)
    assert list(found) == list(ARMS)
    assert min(found.values()) > 0.7, found
    controls = []
    for seed in range(3):
        shuffled = dataclasses.replace(opinions, labels=np.random.default_rng(seed).permutation(opinions.labels))
        controls.append(list(means(evaluate(encoder, shuffled, asked, test=opinions_test), 16).values()))
    assert np.mean(controls) == pytest.approx(0.5, abs=0.12)


@pytest.fixture(scope="module")
def fixed(make_encoder, opinions, opinions_test):
    """One evaluation with all arms, a fixed test set, and Matthews correlation."""
    encoder = make_encoder()
    opened = []
    outcome = evaluate(
        encoder, opinions, settings(), test=opinions_test, metric="matthews", name="opinions", open_test=opened.append
    )
    return encoder, outcome, opened


def test_a_fixed_test_gives_a_column_an_item(fixed, opinions, opinions_test):
    _, outcome, opened = fixed
    results = outcome.results
    assert (results.metric, results.unit) == ("matthews", "item")
    assert list(results.arms) == list(ARMS)
    assert list(results.depth[1]) == ["embeddings", "block1", "block2"]
    for by_shot in results.arms.values():
        assert {shot: np.shape(table) for shot, table in by_shot.items()} == {1: (2, 31), 8: (2, 31)}
    protocol = results.protocol
    assert (protocol["train_pool"], protocol["test_items"], protocol["classes"]) == (40, 31, 2)
    assert protocol["resampling"].startswith("label draws and test items, both with replacement (pigeonhole bootstrap")
    assert "infinitesimal jackknife" in protocol["resampling"]
    assert protocol["choices"].startswith("at 1 a class: default fixed in advance; from 2 on: cross-validation")
    assert "by accuracy: the support is balanced" in protocol["choices"]
    assert outcome.spaces.target["block1"].shape == (40, 16)  # of what labels are drawn from alone
    assert len(opened) == 1
    assert any("fits" in note and "training texts at 8 a class" in note for note in outcome.notes)


def test_correlations_by_hand(fixed, opinions, opinions_test):
    encoder, outcome, _ = fixed
    items = gather_items(opinions, opinions_test)
    features = extract(encoder, items.table, ["block2"])["block2"]
    for draw in plan_draws(opinions.labels, Protocol(shots=(1, 8), draws=2), test=items.test):
        support = draw.support[1]
        head = build_head("prototype").fit(features[support], opinions.labels[support], 2)
        names = [opinions.class_names[label] for label in head.predict(features[items.test])]
        true = [opinions_test.class_names[label] for label in opinions_test.labels]
        # With one shot and nothing known, the highest layer with the first head.
        row = outcome.results.arms["frozen"][1][draw.number]
        assert row.mean() == pytest.approx(matthews_corrcoef(true, names), abs=1e-12)


def test_the_report_shows_a_correlation_as_one(fixed, tmp_path):
    _, outcome, _ = fixed
    report = build_report("texts", 0, {"opinions": outcome.results}, resamples=200)
    write_report(report, tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "### Scores: Matthews correlation, by labels a class" in text
    assert "Matthews correlation: frozen" in text
    target = report.targets["opinions"]
    assert target.metric == "matthews"
    for by_shot in target.arms.values():
        for entry in by_shot.values():
            assert -1 <= entry.ci95[0] <= entry.mean <= entry.ci95[1] <= 1
    mean = target.arms["frozen"][8].mean
    assert f"{mean:.3f} [" in text
    assert f"{100 * mean:.1f} %" not in text


def test_a_fixed_test_of_accuracies_is_the_share_of_right_items(encoder, opinions, opinions_test):
    outcome = evaluate(encoder, opinions, settings(arms=("frozen", "raw")), test=opinions_test)
    for by_shot in outcome.results.arms.values():
        for table in by_shot.values():
            assert set(np.unique(table)) <= {0.0, 1.0}
    assert "jackknife" not in outcome.results.protocol["resampling"]


def test_without_a_fixed_test_few_classes_are_scored_item_by_item(encoder, opinions):
    outcome = evaluate(encoder, opinions, settings(arms=("frozen", "raw"), shots=(2,)))
    assert outcome.results.unit == "item"
    for by_shot in outcome.results.arms.values():
        # What a draw learned from is no test of it, and counts for nothing.
        assert np.isnan(by_shot[2]).sum(axis=1).tolist() == [4, 4]
    assert outcome.results.protocol["test_items"] == 40 - 4
    by_class = settings(arms=("frozen", "raw"), protocol=Protocol(shots=(2,), draws=2, unit="class"))
    found = evaluate(encoder, opinions, by_class).results
    assert found.unit == "class"
    for arm, by_shot in found.arms.items():
        assert np.shape(by_shot[2]) == (2, 2)
        # As many of each class are left over, so the mean is the same either way.
        np.testing.assert_allclose(by_shot[2].mean(axis=1), np.nanmean(outcome.results.arms[arm][2], axis=1))


def test_the_test_set_does_not_depend_on_the_draws_nor_the_draws_on_it(encoder, opinions, opinions_test):
    asked = settings(arms=("frozen",), shots=(8,))
    whole = evaluate(encoder, opinions, asked, test=opinions_test).results.arms["frozen"][8]
    rows = np.arange(0, 31, 2)
    half = evaluate(encoder, opinions, asked, test=opinions_test.subset(rows)).results.arms["frozen"][8]
    np.testing.assert_array_equal(whole[:, rows], half)


def test_a_fixed_test_of_pictures_is_the_same_as_by_hand(backbone, quadrants):
    pool, test = quadrants.subset(np.arange(0, 32, 2)), quadrants.subset(np.arange(1, 32, 2))
    asked = settings(arms=("frozen", "raw"), shots=(4,), layers={"stage1": "grid"})
    outcome = evaluate(backbone, pool, asked, test=test)  # all 4 items a class are labels: none need be left over
    assert means(outcome, 4) == {"frozen": 1.0, "raw": 1.0}
    assert outcome.results.arms["raw"][4].shape == (2, 16)


# --- what is refused --------------------------------------------------------------------------------------------------


def test_settings_that_do_not_fit_texts_are_refused(encoder, opinions, opinions_test, quadrants):
    with pytest.raises(TransferError, match="matthews needs a fixed test set"):
        evaluate(encoder, opinions, settings(), metric="matthews")
    limited = settings(protocol=Protocol(shots=(1,), test_per_class=3))
    with pytest.raises(TransferError, match=r"test_per_class is 3, but a fixed test set is used whole"):
        evaluate(encoder, opinions, limited, test=opinions_test)
    with pytest.raises(InputMismatchError, match="mirror image; the table holds texts"):
        evaluate(encoder, opinions, settings(mirror=True))
    with pytest.raises(TransferError, match=r"21 shots: class 'bad' has 20, needed are 21\."):
        evaluate(encoder, opinions, settings(shots=(21,)), test=opinions_test)
    with pytest.raises(InputMismatchError, match="takes texts of at most 24 tokens, the table holds pictures"):
        evaluate(encoder, quadrants, settings(shots=(1, 2)))


def test_test_sets_that_do_not_fit_are_refused(opinions, opinions_test, quadrants):
    other = dataclasses.replace(opinions_test, class_names=("good", "neutral"))
    with pytest.raises(TransferError, match=r"drawn from the classes bad, good; the test set has good, neutral"):
        gather_items(opinions, other)
    hidden = dataclasses.replace(opinions_test, labels=np.full(31, -1))
    with pytest.raises(TransferError, match="31 of the 31 test texts have no label"):
        gather_items(opinions, hidden)
    with pytest.raises(TransferError, match="0 of the 0 test texts"):
        gather_items(opinions, opinions_test.subset([]))
    named = dataclasses.replace(opinions, class_names=quadrants.class_names)
    with pytest.raises(InputMismatchError, match="drawn from texts, and the test set holds pictures"):
        gather_items(named, quadrants)
    larger = dataclasses.replace(quadrants, pixels=np.zeros((32, 24, 24, 1), np.uint8), fingerprint="larger")
    with pytest.raises(InputMismatchError, match=r"of the pool are \(20, 20, 1\), those of the test set \(24, 24, 1\)"):
        gather_items(quadrants, larger)


def test_a_pool_that_is_its_own_test_set_is_refused(opinions):
    with pytest.raises(TransferError, match="the test set is the pool itself, the same 40 texts that labels are drawn"):
        gather_items(opinions, dataclasses.replace(opinions))
    assert len(gather_items(opinions, None).table) == 40


def test_a_pool_and_its_test_lie_behind_each_other(opinions, opinions_test):
    items = gather_items(opinions, opinions_test)
    assert (len(items.table), items.pool) == (71, 40)
    assert items.test.tolist() == list(range(40, 71))
    for row in (0, 13, 30):
        joined = items.table.record(40 + row)
        assert joined["tokens"].tolist() == opinions_test.record(row)["tokens"].tolist()
        assert opinions.class_names[joined["label"]] == opinions_test.class_names[opinions_test.labels[row]]
        assert items.table.texts[40 + row] == opinions_test.texts[row]
        assert items.table.record(row)["tokens"].tolist() == opinions.record(row)["tokens"].tolist()
    other = gather_items(opinions, opinions_test.subset(range(30)))
    assert len({items.table.fingerprint, other.table.fingerprint, opinions.fingerprint}) == 3
