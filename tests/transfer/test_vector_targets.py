"""Targets of vectors: all arms end to end, the baseline, fine-tuning, models to take away, leaks."""

import dataclasses

import numpy as np
import pytest
import torch
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import transfer
from auxtasks.backbones import mlp
from auxtasks.data.augment import Augment
from auxtasks.data.feature_table import FeatureTable
from auxtasks.errors import DataError, InputMismatchError, TransferError
from auxtasks.features.extract import extract
from transfer.fewshot import FewShot, evaluate_target
from transfer.finetune import Classifier, Stage, Tuning, fine_tune
from transfer.frozen_features import FrozenFeatures
from transfer.heads import build_head
from transfer.items import gather_items
from transfer.leaks import comparable_items, find_leaks
from transfer.model import TargetModel
from transfer.protocol import Protocol
from transfer.raw_arms import VectorRawArm
from transfer.report import build_report

ARMS = ("scratch", "untrained", "raw", "frozen", "finetuned")
HEADS = (("prototype", {}), ("logistic", {"C": 10.0, "scaling": "rms"}))


@pytest.fixture(scope="module")
def iris():
    found = load_iris()
    values = found.data.astype(np.float32)
    names = tuple(map(str, found.target_names))
    return FeatureTable(values, found.target.astype(np.int64), names, np.arange(150), (), "iris")


@pytest.fixture
def backbone(iris):
    """Standardises flowers as a pretrained one would, with random layers."""
    scale = {"mean": iris.values.mean(axis=0).tolist(), "std": iris.values.std(axis=0).tolist()}
    return mlp(width=4, hidden=[32, 16], **scale)


def settings(shots=(1, 10), draws=2, steps=60, **changes):
    return FewShot(
        **{
            "protocol": Protocol(shots=shots, draws=draws),
            "heads": HEADS,
            "tuning": Tuning(stages=(Stage(10, top_layers=1), Stage(steps - 10)), batch_size=16, learning_rate=1e-2),
            "scratch": Tuning(stages=(Stage(steps),), batch_size=16, learning_rate=1e-2),
            **changes,
        }
    )


def evaluate(backbone, table, asked, **options):
    return evaluate_target(backbone, table, asked, **{"seed": 0, "show_progress": False, **options})


def means(outcome, shot):
    return {arm: float(np.nanmean(by_shot[shot])) for arm, by_shot in outcome.results.arms.items()}


def test_flowers_are_learned_by_every_arm_and_shuffled_labels_by_none(backbone, iris):
    outcome = evaluate(backbone, iris, settings(draws=1))
    found = means(outcome, 10)
    assert list(found) == list(ARMS)
    assert min(found.values()) > 0.75, found
    assert list(outcome.results.depth[10]) == ["hidden1", "hidden2"]
    assert outcome.pools == {"hidden1": "auto", "hidden2": "auto"}
    assert any("training vectors at 10 a class" in note for note in outcome.notes)
    report = build_report("iris", 0, {"iris": outcome.results}, resamples=100)
    assert "frozen-raw" in report.targets["iris"].paired
    controls = []
    for seed, arms in enumerate([("scratch", "frozen"), *[("raw", "frozen")] * 6]):
        labels = np.random.default_rng(seed).permutation(iris.labels)
        shuffled = dataclasses.replace(iris, labels=labels)
        asked = settings(shots=(10,), draws=1, steps=20, arms=arms, heads=HEADS[:1])
        controls += means(evaluate(backbone, shuffled, asked), 10).values()
    assert np.mean(controls) == pytest.approx(1 / 3, abs=0.06)


def test_a_linear_model_is_a_target_of_vectors_as_they_are(iris):
    pool, test = iris.subset(np.arange(0, 150, 2)), iris.subset(np.arange(1, 150, 2))
    outcome = evaluate(mlp(width=4, hidden=[]), pool, settings(shots=(20,), draws=1, steps=30), test=test)
    found = means(outcome, 20)
    assert found["frozen"] == found["untrained"]  # there is no weight that could differ
    assert min(found["frozen"], found["raw"]) > 0.85
    assert outcome.results.depth[20].keys() == {"input"}


def test_the_baseline_is_scikit_learns_on_vectors_standardised_by_the_support(iris):
    support, test = np.arange(0, 150, 10), np.arange(1, 150, 10)
    arm = VectorRawArm(iris.values * np.float32([1, 100, 1, 1]), 3, seed=0)
    found = arm.predict(support[::5], iris.labels[support[::5]], test, shot=1, draw=0)
    oracle = make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=1000))
    oracle.fit(iris.values[support[::5]], iris.labels[support[::5]])
    np.testing.assert_array_equal(found.classes, oracle.predict(iris.values[test]))
    assert found.layer == "vectors"
    # A feature that is constant in the support is no division by zero, and other vectors change nothing.
    values = np.column_stack([iris.values, np.full(150, 3, np.float32)])
    values[np.setdiff1d(np.arange(150), [*support, *test])] = 1e6
    alone, with_constant = (
        VectorRawArm(of, 3, seed=0).predict(support, iris.labels[support], test, shot=5, draw=0).classes
        for of in (iris.values, values)
    )
    np.testing.assert_array_equal(with_constant, alone)


def test_a_pool_and_its_test_lie_behind_each_other(iris):
    first, second = iris.subset(range(0, 150, 2)), iris.subset(range(1, 150, 2))
    turned = dataclasses.replace(second, class_names=iris.class_names[::-1], labels=2 - second.labels)
    items = gather_items(first, turned)
    np.testing.assert_array_equal(items.table.values, np.concatenate([first.values, second.values]))
    np.testing.assert_array_equal(items.table.labels, np.concatenate([first.labels, second.labels]))
    with pytest.raises(InputMismatchError, match="of the pool have 4 features, those of the test set 3: both need"):
        gather_items(first, dataclasses.replace(second, values=second.values[:, :3]))


def test_the_loss_of_vectors_by_hand(backbone, iris):
    model = Classifier(backbone, "hidden1", "auto", 3, seed=1).eval()
    batch = transfer.finetune._reader(backbone, iris)(np.array([3, 80, 120]))
    x = torch.from_numpy((iris.values[[3, 80, 120]] - iris.values.mean(axis=0)) / iris.values.std(axis=0))
    scores = model.linear(backbone.forward_layers(x, ["hidden1"])["hidden1"])
    expected = -scores.log_softmax(dim=1)[range(3), [0, 1, 2]].sum()
    assert model(batch).loss_sum.item() == pytest.approx(expected.item(), rel=1e-5)


def test_settings_for_pictures_are_refused(backbone, iris, quadrants):
    with pytest.raises(TransferError, match="augment changes pictures, the table holds vectors"):
        fine_tune(backbone, "hidden1", "auto", iris, iris.labels, n_classes=3, augment=Augment(size=(4, 4)))
    with pytest.raises(InputMismatchError, match="mirror image; the table holds vectors"):
        evaluate(backbone, iris, settings(mirror=True))
    with pytest.raises(TransferError, match='"longer" compares the lengths of texts, the target holds vectors: leave'):
        evaluate(backbone, iris, settings(arms=("frozen", "longer")))
    with pytest.raises(InputMismatchError, match="drawn from vectors, and the test set holds pictures"):
        gather_items(dataclasses.replace(iris, class_names=quadrants.class_names), quadrants)


# --- models -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def model(backbone, iris):
    features = extract(backbone, iris, ["hidden1"])["hidden1"]
    head = build_head("logistic", C=10.0).fit(features, iris.labels, 3)
    return TargetModel(backbone, "hidden1", "auto", False, head, iris.class_names)


def test_a_model_of_vectors_predicts_the_same_after_a_reload(model, iris, tmp_path):
    again = transfer.load(model.save(tmp_path / "model"))
    np.testing.assert_array_equal(again.predict_proba(iris.values), model.predict_proba(iris.values))
    names = np.array(model.predict(iris.values.astype(np.float64)))
    assert np.mean(names == np.array(iris.class_names)[iris.labels]) > 0.9
    assert model.predict([[5.1, 3.5, 1.4, 0.2]]) == ["setosa"]
    assert model.predict_proba(iris.values[:0]).shape == (0, 3)
    assert "model.predict(vectors)" in (tmp_path / "model" / "README.md").read_text()


def test_what_is_no_vector_is_refused_in_words(model):
    with pytest.raises(InputMismatchError, match=r"takes vectors of 4 features, .*\(N, 4\); found the shape \(2, 3\)"):
        model.predict(np.zeros((2, 3)))
    with pytest.raises(InputMismatchError, match=r"found the shape \(4,\)"):
        model.predict(np.zeros(4))
    with pytest.raises(InputMismatchError, match=r"an array \(N, 4\) of numbers: could not convert"):
        model.predict(["fine"])
    with pytest.raises(DataError, match="row 1 holds NaN or infinite values, as do 0 more of 3 rows"):
        model.predict([[0, 0, 0, 0], [0, np.nan, 0, 0], [0, 0, 0, 0]])


def test_frozen_features_of_vectors_are_a_transformer(backbone, iris):
    found = FrozenFeatures(backbone, "hidden1").fit_transform(iris.values)
    np.testing.assert_array_equal(found, extract(backbone, iris, ["hidden1"])["hidden1"])
    assert FrozenFeatures(backbone).transform(iris.values[:0]).shape == (0, 16)
    pipeline = make_pipeline(FrozenFeatures(backbone), LogisticRegression(max_iter=1000))
    assert pipeline.fit(iris.values, iris.labels).score(iris.values, iris.labels) > 0.9


# --- leaks ------------------------------------------------------------------------------------------------------------


def test_planted_vectors_are_found():
    rng = np.random.default_rng(0)
    seen, test = rng.normal(size=(50, 6)), rng.normal(size=(9, 6))
    test[[2, 7]] = seen[[40, 3]]
    leaks = find_leaks(seen.astype(np.float32), test, support=list(test[:1]))
    assert leaks.pretraining.examples == ((40, 2), (3, 7))
    assert leaks.support.test_rows == (0,)
    assert "vectors in pretraining and test: 2 of 9 test vectors (pretraining row 40 = test row 2" in leaks.describe()
    assert not find_leaks(seen, np.nextafter(seen.astype(np.float32), np.float32(9)))
    assert find_leaks(np.zeros((1, 2)), -np.zeros((1, 2))).pretraining.count == 1


def test_vectors_are_compared_with_vectors_alone(iris, quadrants):
    with pytest.raises(TransferError, match="texts and vectors cannot be compared"):
        find_leaks(["a"], comparable_items(iris))
    with pytest.raises(TransferError, match="pictures and vectors cannot be compared"):
        find_leaks(comparable_items(quadrants), comparable_items(iris))
