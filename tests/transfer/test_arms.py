"""The arms one by one: what each of them sees, chooses and predicts."""

import dataclasses

import numpy as np
import pytest
from sklearn.decomposition import PCA

from auxtasks.features.extract import extract
from transfer import arms, raw_arms
from transfer.arms import FeatureArm, StartHead, TunedArm
from transfer.choices import Candidate
from transfer.discriminants import fit_discriminants
from transfer.finetune import Stage, Tuning
from transfer.heads import build_head
from transfer.protocol import Protocol, plan_draws
from transfer.raw_arms import PictureRawArm, raw_features

PROTOTYPE = Candidate("planted", "prototype")
BRIEF = Tuning(stages=(Stage(2, top_layers=1), Stage(2)), learning_rate=1e-3, batch_size=8)


def predict(arm, labels, draw, shot):
    support = draw.support[shot]
    return arm.predict(support, labels[support], draw.test, shot=shot, draw=draw.number)


def accuracy(arm, labels, shots=(1, 3), draws=3):
    return np.mean([
        np.mean(predict(arm, labels, draw, shot).classes == labels[draw.test])
        for draw in plan_draws(labels, Protocol(shots=shots, draws=draws))
        for shot in shots
    ])  # fmt: skip


def feature_arm(features, labels, shots=(1, 3), candidates=(PROTOTYPE,)):
    return FeatureArm({"planted": features}, dict.fromkeys(shots, candidates), int(labels.max()) + 1, seed=0)


def tuned_arm(backbone, table, *, rates=(1e-3,), head=None, tuning=BRIEF):
    return TunedArm(
        backbone, "stage2", "grid", table, 4, rates, tuning, head, mirror=False, augment=None, loop=None, seed=0
    )


# --- features ---------------------------------------------------------------------------------------------------------


def test_a_planted_feature_that_is_the_label_gives_accuracy_one():
    labels = np.repeat(np.arange(5), 6)
    assert accuracy(feature_arm(np.eye(5, dtype=np.float32)[labels], labels), labels) == 1.0


def test_negative_control_shuffled_labels_are_at_chance():
    labels = np.repeat(np.arange(5), 40)
    features = np.eye(5, dtype=np.float32)[labels]
    features += np.random.default_rng(0).normal(scale=0.1, size=features.shape).astype(np.float32)
    shuffled = np.random.default_rng(1).permutation(labels)
    arm = feature_arm(features, labels)
    assert accuracy(arm, labels) > 0.95
    assert accuracy(arm, shuffled, draws=20) == pytest.approx(1 / 5, abs=0.03)


def test_one_shot_takes_the_first_ranked_and_more_shots_choose():
    labels = np.repeat(np.arange(4), 8)
    rng = np.random.default_rng(0)
    features = {
        "noise": rng.normal(size=(32, 6)).astype(np.float32),
        "good": np.eye(4, dtype=np.float32)[labels] + rng.normal(scale=0.05, size=(32, 4)).astype(np.float32),
    }
    ranked = [Candidate("noise", "prototype"), Candidate("good", "prototype")]
    arm = FeatureArm(features, {1: ranked, 4: ranked}, 4, seed=0)
    (draw,) = plan_draws(labels, Protocol(shots=(1, 4), draws=1))
    assert predict(arm, labels, draw, 1).layer == "noise"
    assert predict(arm, labels, draw, 4).layer == "good"


def test_a_single_candidate_is_not_cross_validated(monkeypatch):
    monkeypatch.setattr(arms, "cross_validated", lambda *_: pytest.fail("there was nothing to choose"))
    labels = np.repeat(np.arange(3), 6)
    assert accuracy(feature_arm(np.eye(3, dtype=np.float32)[labels], labels), labels) == 1.0


def test_the_choice_sees_the_support_alone(monkeypatch):
    labels = np.repeat(np.arange(4), 8)
    features = np.random.default_rng(0).normal(size=(32, 6)).astype(np.float32)
    seen = []

    def recording(inside, given, candidates, seed):
        seen.append((inside["planted"], given))
        return candidates[0]

    monkeypatch.setattr(arms, "cross_validated", recording)
    (draw,) = plan_draws(labels, Protocol(shots=(3,), draws=1))
    predict(feature_arm(features, labels, (3,), (PROTOTYPE, Candidate("planted", "ridge"))), labels, draw, 3)
    ((inside, given),) = seen
    np.testing.assert_array_equal(inside, features[draw.support[3]])
    np.testing.assert_array_equal(given, labels[draw.support[3]])


# --- raw pixels -------------------------------------------------------------------------------------------------------


def test_raw_features_by_loops(portraits):
    found = raw_features(portraits, side=20)
    assert found.shape == (24, 400)
    for picture, row in zip(portraits.pixels, found, strict=True):
        values = [float(value) for value in picture.flat]
        mean = sum(values) / 400
        spread = (sum((value - mean) ** 2 for value in values) / 400) ** 0.5
        np.testing.assert_allclose(row, [(value - mean) / (spread + 1e-3) for value in values], atol=1e-4)


def test_a_flat_picture_stays_finite(portraits):
    black = dataclasses.replace(portraits, pixels=np.zeros_like(portraits.pixels))
    assert np.isfinite(raw_features(black)).all()


def test_components_are_fitted_on_the_support_alone(portraits, monkeypatch):
    fitted = []

    class Recording(PCA):
        def fit(self, values, labels=None):
            fitted.append(values)
            return super().fit(values, labels)

    monkeypatch.setattr(raw_arms, "PCA", Recording)
    pixels = raw_features(portraits)
    (draw,) = plan_draws(portraits.labels, Protocol(shots=(2,), draws=1))
    predict(PictureRawArm(pixels, 4, seed=0), portraits.labels, draw, 2)
    (values,) = fitted
    np.testing.assert_array_equal(values, pixels[draw.support[2]])


def test_raw_pixels_tell_quarters_apart_and_shuffled_labels_do_not(quadrants):
    arm = PictureRawArm(raw_features(quadrants), 4, seed=0)
    assert accuracy(arm, quadrants.labels) > 0.95
    shuffled = [np.random.default_rng(seed).permutation(quadrants.labels) for seed in range(8)]
    assert np.mean([accuracy(arm, labels) for labels in shuffled]) == pytest.approx(1 / 4, abs=0.08)


# --- trained networks -------------------------------------------------------------------------------------------------


def test_the_network_never_sees_a_test_label(backbone, portraits):
    blind = dataclasses.replace(portraits, labels=np.full(len(portraits), -1))
    (draw,) = plan_draws(portraits.labels, Protocol(shots=(2,), draws=1))
    with_labels = predict(tuned_arm(backbone, portraits), portraits.labels, draw, 2)
    without = predict(tuned_arm(backbone, blind), portraits.labels, draw, 2)
    np.testing.assert_array_equal(without.classes, with_labels.classes)
    assert without.training_accuracy == with_labels.training_accuracy
    assert len(set(without.classes)) > 1


def test_a_start_head_is_where_training_begins(backbone, quadrants, monkeypatch):
    starts = []

    def recording(*args, start, **kwargs):
        starts.append(start)
        return fine_tune(*args, start=start, **kwargs)

    fine_tune = arms.fine_tune
    monkeypatch.setattr(arms, "fine_tune", recording)
    features = extract(backbone, quadrants, {"stage2": "grid"})["stage2"]
    (draw,) = plan_draws(quadrants.labels, Protocol(shots=(2,), draws=1))
    predict(tuned_arm(backbone, quadrants, head=StartHead(features)), quadrants.labels, draw, 2)
    predict(tuned_arm(backbone, quadrants), quadrants.labels, draw, 2)
    support = draw.support[2]
    head = build_head("logistic", C=1.0, scaling="rms").fit(features[support], quadrants.labels[support], 4)
    assert starts[1] is None
    np.testing.assert_array_equal(starts[0][0].numpy(), head.as_linear()[0].numpy())
    np.testing.assert_array_equal(starts[0][1].numpy(), head.as_linear()[1].numpy())


def test_a_start_head_on_discriminants_reads_the_layer_itself(backbone, quadrants):
    features = extract(backbone, quadrants, {"stage2": "grid"})["stage2"]
    found = fit_discriminants(features, quadrants.labels, components=3)
    support = np.arange(0, 32, 2)
    weight, bias = StartHead(found(features), found).fit(support, quadrants.labels[support], 4)
    head = build_head("logistic", C=1.0, scaling="rms").fit(found(features)[support], quadrants.labels[support], 4)
    assert weight.shape == (4, 144)
    scores = features @ weight.numpy().T + bias.numpy()
    np.testing.assert_allclose(scores, head.scores(found(features)), rtol=1e-3, atol=1e-3)


def test_rates_are_chosen_inside_the_support(backbone, quadrants, monkeypatch):
    calls = []

    def recording(backbone, layer, pool, table, labels, *, tuning, **kwargs):
        calls.append((tuning.learning_rate, sorted(table.rows)))
        return fine_tune(backbone, layer, pool, table, labels, tuning=tuning, **kwargs)

    fine_tune = arms.fine_tune
    monkeypatch.setattr(arms, "fine_tune", recording)
    start = extract(backbone, quadrants, {"stage2": "grid"})["stage2"]
    arm = tuned_arm(backbone, quadrants, rates=(10.0, 1e-4), head=StartHead(start))
    (draw,) = plan_draws(quadrants.labels, Protocol(shots=(1, 4), draws=1))
    predict(arm, quadrants.labels, draw, 4)
    assert [rate for rate, _ in calls] == [10.0, 1e-4, 10.0, 1e-4, 1e-4]  # 2 folds x 2 rates, then the better one
    support = sorted(draw.support[4])
    assert calls[-1][1] == support
    assert sorted([*calls[0][1], *calls[2][1]]) == support  # the two folds train on complementary halves
    calls.clear()
    predict(arm, quadrants.labels, draw, 1)
    assert [rate for rate, _ in calls] == [10.0]  # with one label a class the default, settled in advance


def test_training_differs_from_draw_to_draw_and_not_between_calls(backbone, portraits):
    arm = tuned_arm(backbone, portraits)
    support = np.arange(0, 24, 3)
    labels = portraits.labels[support]
    first = arm.train(support, labels, rate=1e-2, draw=0).head.weight
    np.testing.assert_array_equal(arm.train(support, labels, rate=1e-2, draw=0).head.weight, first)
    assert not np.array_equal(arm.train(support, labels, rate=1e-2, draw=1).head.weight, first)
